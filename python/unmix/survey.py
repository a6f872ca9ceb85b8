# SPDX-License-Identifier: GPL-3.0-or-later
"""A quick look over a whole capture, in time and memory that do not grow with it: spectrum, power, broken samples."""

from collections import Counter
from collections.abc import Callable
from typing import Optional

import numpy as np

from .captures import Capture, CaptureError

STRETCH = 1 << 16
STRETCHES = 64
SCAN_LIMIT_BYTES = 1 << 30  # larger files are checked while they are separated
FEWEST_SAMPLES = 16
QUIET_DB = 25.0


def stretches(length: int, size: int = STRETCH, most: int = STRETCHES) -> list[tuple[int, int]]:
    """(start, samples) of up to `most` stretches spread over `length` samples; all of it where it is short enough."""
    if length <= size * most:
        return [(start, min(size, length - start)) for start in range(0, length, size)]
    return [(int(start), size) for start in np.linspace(0, length - size, most)]


def survey(capture: Capture, bins: int = 256) -> tuple[np.ndarray, float]:
    """Average Welch spectrum and power of a capture, from up to 64 stretches of 65536 samples across it.

    Frames QUIET_DB below the loud ones (the tenth of most power) are left out: levels are those of the signals, not
    their mean with the silence before and after them. Returns the density in FFT order, float64 [bins], whose mean is
    the mean |sample|^2, and that mean. Captures of less than two frames get fewer bins. Raises CaptureError for broken
    samples, fewer than 16 samples, or no power.
    """
    if capture.length < FEWEST_SAMPLES:
        raise CaptureError(f"{capture.path} holds {capture.length} samples, which is too short to tell signals apart: "
                           f"at least {FEWEST_SAMPLES} are needed.")
    while bins > 8 and 2 * bins > capture.length:
        bins //= 2
    window = np.hanning(bins + 1)[:bins]
    energy, samples = 0.0, 0
    sums: dict[int, np.ndarray] = {}  # by a frame's power in dB: the sum of such frames' spectra
    counts: Counter = Counter()
    for start, count in stretches(capture.length):
        piece = capture.read(start, count)
        energy += float(np.sum(piece.real.astype(np.float64) ** 2) + np.sum(piece.imag.astype(np.float64) ** 2))
        samples += len(piece)
        if len(piece) >= bins:
            view = np.lib.stride_tricks.sliding_window_view(piece, bins)[::bins // 2]
            spectra = np.square(np.abs(np.fft.fft(view * window))) / np.sum(window**2)
            classes = np.round(10 * np.log10(np.maximum(spectra.mean(1), 1e-300))).astype(int)
            for decibel in np.unique(classes).tolist():
                of_class = classes == decibel
                sums[decibel] = sums.get(decibel, 0) + spectra[of_class].sum(0)
                counts[decibel] += int(of_class.sum())
    power = energy / samples
    if not power > 0:
        raise CaptureError(f"{capture.path} is silent wherever it was looked at: a capture must contain a signal.")
    rest = 0.1 * counts.total()
    for decibel in sorted(counts, reverse=True):
        rest -= counts[decibel]
        if rest <= 0:
            break
    loud = [c for c in counts if c > decibel - QUIET_DB]
    density = sum(sums[c] for c in loud) / sum(counts[c] for c in loud)
    return density, power if len(loud) == len(counts) else float(density.mean())


def scan(capture: Capture, keep_on: Optional[Callable[[], bool]] = None) -> bool:
    """Read a capture once from end to end, so that a broken sample is found before anything is written.

    Integer samples cannot be broken, and files of more than 1 GB are left to be checked on the way. Returns whether
    nothing can be broken any more. keep_on: called now and then; the scan ends early where it returns False.
    Raises CaptureError for the first sample that is NaN, infinite or absurdly large.
    """
    if "f" not in capture.datatype[:2]:
        return True
    if capture.path.stat().st_size > SCAN_LIMIT_BYTES:
        return False
    for start in range(0, capture.length, 1 << 18):
        if keep_on is not None and not keep_on():
            return False
        capture.read(start, 1 << 18)
    return True
