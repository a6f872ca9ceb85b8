# SPDX-License-Identifier: GPL-3.0-or-later
"""Known bits for simulation and for counting errors, as Python lists that GRC variables can hold."""

from pathlib import Path

import numpy as np


def random_bits(count: int, seed: int = 0) -> list[int]:
    """`count` >= 1 equiprobable bits (0 or 1); the same for the same seed. Raises ValueError for other counts."""
    if count < 1:
        raise ValueError(f"{count} bits are impossible; at least 1 is needed")
    return np.random.default_rng(seed).integers(0, 2, count, dtype=np.uint8).tolist()


def read_bits(path: str) -> list[int]:
    """Bits of a file that holds one byte, 0 or 1, for each. Raises ValueError with one sentence for anything else."""
    try:
        bits = np.frombuffer(Path(path).read_bytes(), dtype=np.uint8)
    except OSError as error:
        raise ValueError(f"the bits in {path} cannot be read: {error.strerror or error}") from error
    if not len(bits) or bits.max() > 1:
        raise ValueError(f"{path} does not hold bits: it must have one byte, 0 or 1, for each")
    return bits.tolist()
