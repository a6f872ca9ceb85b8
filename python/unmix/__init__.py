# SPDX-License-Identifier: GPL-3.0-or-later
"""gr-unmix: give back each of two (or more) signals that overlap in one recording.

priors: what is known about each signal. separators: how that is used to take windows apart. stream: whole captures.
"""

from . import captures, demodulation, estimators, priors, separators, signals, stream, windows

__version__ = "0.1.0"

__all__ = ["captures", "demodulation", "estimators", "priors", "separators", "signals", "stream",
           "windows"]
