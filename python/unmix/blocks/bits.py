# SPDX-License-Identifier: GPL-3.0-or-later
"""Known bits for simulation and for counting errors, as Python lists that GRC variables can hold."""

from pathlib import Path

import numpy as np

from ..wording import one_line

MOST_BITS = 10**8


def random_bits(count: int, seed: int = 0) -> list[int]:
    """`count` >= 1 equiprobable bits (0 or 1); the same for the same seed. Raises ValueError for other counts."""
    if count < 1:
        raise ValueError(f"{count} bits are impossible; at least 1 is needed")
    return np.random.default_rng(seed).integers(0, 2, count, dtype=np.uint8).tolist()


def read_bits(path: str) -> list[int]:
    """Bits of a file that holds one byte, 0 or 1, for each: up to 100 million.

    Raises ValueError with one sentence for anything else.
    """
    name = one_line(path)
    try:
        if not Path(path).is_file():
            raise ValueError(f"the bits in {name} cannot be read: there is no such file")
        if Path(path).stat().st_size > MOST_BITS:
            raise ValueError(f"{name} holds more than {MOST_BITS} bytes, too many to be known bits")
        bits = np.frombuffer(Path(path).read_bytes(), dtype=np.uint8)
    except OSError as error:
        raise ValueError(f"the bits in {name} cannot be read: {error.strerror or error}") from error
    if not len(bits) or bits.max() > 1:
        raise ValueError(f"{name} does not hold bits: it must have one byte, 0 or 1, for each")
    return bits.tolist()
