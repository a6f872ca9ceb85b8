# SPDX-License-Identifier: GPL-3.0-or-later
"""Rates as people type them, and the rate and frequency that receivers write into file names."""

import itertools
import math
import re
from pathlib import Path

from .error import CaptureError
from .formats import SUFFIXES

SCALES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}

NUMBER = r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"

#: Characters of the longest rate that is looked at.
LONGEST_RATE = 100


def parse_rate(text):
    """Read a sample rate in engineering notation.

    Args:
        text: '25e6', '25M', '1.25M', '250k', '2.4 Msps', '48000', or a number.

    Returns:
        The rate in samples per second, a positive finite float.

    Raises:
        CaptureError: (a ValueError) for anything else; milli (25m) is refused, because it is a typing error
            for 25M.
    """
    typed = str(text).strip()
    match = None
    if len(typed) <= LONGEST_RATE:
        match = re.fullmatch(rf"({NUMBER}|\.\d+)\s*([kKMG]?)\s*(?:Hz|sps|Sps|S/s)?", typed)
    rate = float(match[1]) * SCALES[match[2]] if match else math.nan
    if not (math.isfinite(rate) and rate > 0):
        raise CaptureError(f"The sample rate {str(text)!r} is not a positive number of samples per second "
                           "such as 25e6, 25M, 1.25M or 250k.")
    return rate


def parse_file_name(path):
    """Read what the file name says about the capture.

    Understood are the names that gqrx (``gqrx_20230101_120000_433920000_1800000_fc.raw``), osmocom_fft
    (``name-f4.339200e+08-s1.800000e+06-t20230101.cfile``), rtl_433 and others (``g001_433.92M_250k.cu8``,
    ``x_433.92M_2.4M.cs8``: frequency first, then rate) and SDR#, HDSDR, SDR++ (``..._433920kHz_...``) give.

    Returns:
        ``(program, sample_rate, center_frequency)``: 'gqrx' or None, samples per second or None, hertz or
        None.
    """
    path = Path(path)
    known = path.suffix[1:].lower() in (*SUFFIXES, "wav", "raw")
    name = path.stem if known else path.name  # '.4M' of a name without suffix is no suffix
    match = re.fullmatch(r"gqrx_\d{8}_\d{6}_(\d+)_(\d+)_fc", name)
    if match:
        return "gqrx", _told(match[2]) or None, _told(match[1])
    match = re.search(rf"-f({NUMBER})-s({NUMBER})(?=-|$)", name)
    if match:
        return None, _told(match[2]) or None, _told(match[1])

    rate = frequency = None
    bare = []  # numbers with a k, M or G and no unit, with their place in the name
    for place, token in enumerate(re.split(r"[_\s-]", name)):
        match = re.fullmatch(rf"({NUMBER})([kKMG]?)(Hz|sps|Sps|)", token)
        if not match:
            continue
        value = _told(match[1], SCALES[match[2]])
        if value is None:
            continue
        if match[3] == "Hz":
            frequency = frequency or value or None  # SDR# writes 0Hz where it does not know
        elif match[3]:
            rate = rate or value or None
        elif match[2]:
            bare.append((place, value))
    for (place, first), (next_place, second) in itertools.pairwise(bare):
        # one number alone might be either; two in a row are frequency and rate
        if next_place == place + 1 and first > 0 and second > 0 and rate is None and frequency is None:
            frequency, rate = first, second
    return None, rate, frequency


def _told(number, scale=1.0):
    """The number that a file name tells, or None for one that is beyond all bounds, such as 1e999."""
    value = float(number) * scale
    return value if math.isfinite(value) else None
