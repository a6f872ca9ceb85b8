# SPDX-License-Identifier: GPL-3.0-or-later
"""Sample formats: their names, their suffixes, and how stored numbers become complex samples."""

import re
from dataclasses import dataclass

import numpy as np

from .error import CaptureError

#: A float sample larger than this is read with the wrong format or byte order: no receiver writes it.
ABSURD_MAGNITUDE = 1e18

#: What other tools call the formats that SigMF calls cf32, ci16, ...
ALIASES = {
    "fc32": "cf32", "fc64": "cf64",
    "cs8": "ci8", "sc8": "ci8", "cs16": "ci16", "sc16": "ci16", "cs32": "ci32", "sc32": "ci32",
    "uc8": "cu8", "uc16": "cu16", "uc32": "cu32",
}

KINDS = ("cf32", "cf64", "ci8", "ci16", "ci32", "cu8", "cu16", "cu32")

#: File name suffix (lower case, no dot) to format; .c8 and .c16 are the PortaPack's.
SUFFIXES = {
    **{kind: kind for kind in KINDS},
    **ALIASES,
    "cfile": "cf32", "iq": "cf32", "c8": "ci8", "c16": "ci16",
}

#: The formats in the words of an error message.
ALLOWED = ("cf32, cf64, ci32, ci16, ci8, cu32, cu16 or cu8 (integers and floats of more than 8 bits also "
           "with _le or _be; fc32, sc16, cs8, uc8 and the like mean the same), or wav")


@dataclass(frozen=True)
class SampleFormat:
    """How one component (I or Q) of a sample is stored.

    ``kind`` is 'cf32', 'ci16', ...; ``order`` is '<' (little-endian) or '>'. A stored integer ``x`` means
    ``(x - midpoint) / full_scale``, so that every integer format covers -1 to +1.
    """

    kind: str
    order: str = "<"
    midpoint: float = 0.0
    full_scale: float = 1.0

    @property
    def datatype(self):
        """The SigMF name: 'cf32_le', 'ci16_be', 'cu8'; bytes have no order."""
        return self.kind if self.bits == 8 else self.kind + ("_le" if self.order == "<" else "_be")

    @property
    def bits(self):
        """Bits of one component."""
        return int(self.kind[2:])

    @property
    def component(self):
        """The numpy dtype of one component."""
        return np.dtype(f"{self.order}{self.kind[1]}{self.bits // 8}")

    @property
    def sample_bytes(self):
        """Bytes of one complex sample."""
        return self.bits // 4

    def decode(self, stored):
        """Turn stored components into samples.

        Args:
            stored: components in the file's own type, I and Q alternating, shape ``[2n]``.

        Returns:
            ``(samples, bad)``: complex64 ``[n]``, integers scaled to -1 to +1, and the index of the first
            sample that is NaN, infinite or larger than ``ABSURD_MAGNITUDE``, or None.
        """
        if self.kind[1] == "f":
            with np.errstate(invalid="ignore", over="ignore"):
                fine = np.abs(stored) <= ABSURD_MAGNITUDE  # False for NaN as well
                samples = stored.astype(np.float32)
            bad = None if fine.all() else int(np.argmin(fine)) // 2
            return samples.view(np.complex64), bad
        # 32-bit integers do not fit in the 24-bit mantissa of a float32 before they are centred
        values = stored.astype(np.float64 if self.bits == 32 else np.float32)
        values -= self.midpoint
        values /= self.full_scale
        return values.astype(np.float32, copy=False).view(np.complex64), None


def make_format(kind, order="<"):
    """The SampleFormat of a kind from ``KINDS`` in byte order '<' or '>', with its customary scale.

    Signed integers are divided by 2^(bits-1) as by GNU Radio; unsigned ones are centred halfway between the
    two middle codes, (x - 127.5) / 127.5 for bytes, as RTL-SDR tools do.
    """
    bits = int(kind[2:])
    if kind[1] == "i":
        return SampleFormat(kind, order, 0.0, 2.0 ** (bits - 1))
    if kind[1] == "u":
        middle = (2.0**bits - 1) / 2
        return SampleFormat(kind, order, middle, middle)
    return SampleFormat(kind, order)


def parse_format(text):
    """Split the name of a sample format into its kind and byte order.

    Args:
        text: 'cf32', 'ci16_le', 'ci16_be', 'fc32', 'sc16', ... in upper or lower case.

    Returns:
        ``(kind, order)`` with a kind from ``KINDS`` and '<', '>' or None where the name does not say.

    Raises:
        CaptureError: for a real (non-complex) format or an unknown name.
    """
    name = str(text).strip().lower()
    match = re.fullmatch(r"([a-z]+\d+)(?:_(le|be))?", name)
    kind = ALIASES.get(match[1], match[1]) if match else None
    if kind in KINDS:
        return kind, {"le": "<", "be": ">", None: None}[match[2]]
    if kind and re.fullmatch(r"r?[fiu](8|16|32|64)", kind):
        raise CaptureError(f"The sample format {text!r} is real-valued, but two signals are told apart in "
                           f"complex samples only: it must be {ALLOWED}.")
    raise CaptureError(f"The sample format {text!r} is unknown: it must be {ALLOWED}.")
