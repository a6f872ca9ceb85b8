# SPDX-License-Identifier: GPL-3.0-or-later
"""gr-unmix: give back each of two (or more) signals that overlap in one recording.

priors: what is known about each signal. separators: how that is used to take windows apart. stream: whole captures.
blocks: the GNU Radio blocks, which are also names of this module (unmix.separator_cc, ...).
"""

from . import blocks, captures, demodulation, estimators, priors, separators, signals, stream, windows

__version__ = "0.1.0"

__all__ = ["blocks", "captures", "demodulation", "estimators", "priors", "separators", "signals", "stream",
           "windows"]


def __getattr__(name: str):
    if name in blocks.NAMES:
        return getattr(blocks, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
