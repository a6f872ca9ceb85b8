# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of a receiver's front end, found in a capture and taken back: DC offset and IQ imbalance."""

import math
from dataclasses import dataclass

import numpy as np

from .captures import Capture
from .survey import stretches

#: A fault is corrected where it is this many standard errors away from nothing.
SURE = 6.0
#: Samples of the parts that are compared, and how many parts there should be.
MOST_PART, LEAST_PART, PARTS = 4096, 512, 64
#: A capture shows nothing below so many parts.
FEWEST_PARTS = 32
#: Bands of the same power whose imbalances are compared, and fewer show nothing.
BANDS, FEWEST_BANDS = 16, 6


@dataclass(frozen=True)
class FrontEnd:
    """What a front end makes of a signal x: direct * x + image * conj(x) + dc.

    dc: complex, in the capture's units. image: complex, of the mirrored spectrum relative to the direct path, which
    has gain 1. Zero means none.
    """

    dc: complex = 0j
    image: complex = 0j

    def correct(self, samples: np.ndarray) -> np.ndarray:
        """Samples complex64 [n] as they were before the front end, complex64."""
        if not self:
            return samples
        x = samples - np.complex64(self.dc)
        if self.image:
            x = (x - np.complex64(self.image) * x.conj()) / np.float32(1 - abs(self.image) ** 2)
        return x.astype(np.complex64, copy=False)

    def __bool__(self) -> bool:
        return bool(self.dc or self.image)

    @property
    def imbalance(self) -> tuple[float, float]:
        """The IQ imbalance as gain of I over Q (dB) and error of their right angle (degrees)."""
        # y = x + image conj(x): I has gain |1 + image|, Q |1 - image|, their axes turn by the arguments.
        i, q = 1 + self.image, 1 - self.image
        return 20 * math.log10(abs(i) / abs(q)), math.degrees(np.angle(i * np.conj(q)))


class CorrectedCapture:
    """A capture whose samples are read through FrontEnd.correct; everything else is the capture's own."""

    def __init__(self, capture: Capture, front_end: FrontEnd):
        self._capture, self._front_end = capture, front_end

    def __getattr__(self, name: str):
        return getattr(self._capture, name)

    def read(self, start: int, count: int) -> np.ndarray:
        """Samples start .. start + count as before the front end, see Capture.read."""
        return self._front_end.correct(self._capture.read(start, count))


def estimate_front_end(capture: Capture, circular: bool) -> FrontEnd:
    """Find DC offset and IQ imbalance from up to 64 stretches across a capture.

    circular: whether all signals in it are, which QPSK, 8PSK, 16QAM and OFDM of them are and BPSK is not: the mean of
    y^2 is then 2 image E|y|^2 and shows the imbalance. Otherwise no imbalance is sought. Only what stands out from the
    scatter between parts of the capture is reported, and an imbalance only where parts of any length and all
    frequencies show the same: packets of BPSK are not circular one by one, but each has its own phase, and what their
    pilots and preambles leave differs from frequency to frequency. A short capture (less than 16,384 samples) shows
    nothing.
    """
    size = min(MOST_PART, max(LEAST_PART, capture.length // PARTS))
    parts = []  # per part: mean of y, of y^2, of |y|^2
    for start, count in stretches(capture.length):
        for part in _parts(capture, start, count, size):
            parts.append([part.mean(dtype=np.complex128), np.mean(part * part, dtype=np.complex128),
                          np.mean(np.abs(part) ** 2, dtype=np.float64)])
    table = np.array(parts)
    if len(table) < FEWEST_PARTS:
        return FrontEnd()
    dc = _sure(table[:, 0])
    squares = table[:, 1] - 2 * dc * table[:, 0] + dc**2
    power = table[:, 2].real - 2 * (np.conj(dc) * table[:, 0]).real + abs(dc) ** 2
    if not circular or not power.sum() > 0:
        return FrontEnd(dc)
    ratio = complex(squares.sum() / power.sum())  # 2 image / (1 + |image|^2)
    if not SURE * _error_over_time(squares, power) < abs(ratio) < 1:
        return FrontEnd(dc)
    if not SURE * _error_over_frequencies(capture, dc, size) < abs(ratio):
        return FrontEnd(dc)
    size = (1 - math.sqrt(1 - abs(ratio) ** 2)) / abs(ratio)
    return FrontEnd(dc, size * ratio / abs(ratio))


def _parts(capture: Capture, start: int, count: int, size: int) -> list[np.ndarray]:
    """Parts of about `size` samples of a stretch."""
    return np.array_split(capture.read(start, count), max(1, count // size))


def _sure(values: np.ndarray) -> complex:
    """The mean of complex values, or 0 where their scatter explains it."""
    mean = complex(values.mean())
    error = math.sqrt(float(np.mean(np.abs(values - mean) ** 2)) / len(values))
    return mean if abs(mean) > SURE * error else 0j


def _error(above: np.ndarray, below: np.ndarray) -> float:
    """Standard error of sum(above) / sum(below) by the scatter of the summands, complex [n] and float [n]."""
    ratio = above.sum() / below.sum()
    return math.sqrt(float(np.sum(np.abs(above - ratio * below) ** 2))) / float(below.sum())


def _error_over_time(squares: np.ndarray, power: np.ndarray) -> float:
    """The largest standard error of their ratio over groups of neighbouring parts: what lasts longer than a part
    scatters between groups that are longer still."""
    errors = []
    for groups in (2**k for k in range(4, 20)):
        if 2 * groups > len(squares):
            break
        errors.append(_error(*(np.array([g.sum() for g in np.array_split(v, groups)]) for v in (squares, power))))
    return max([_error(squares, power), *errors])


def _error_over_frequencies(capture: Capture, dc: complex, size: int) -> float:
    """Standard error of E[Y(f) Y(-f)] / E|Y(f)|^2 over bands of the same power; infinite where too few differ."""
    taper = np.hanning(LEAST_PART + 1)[:LEAST_PART].astype(np.float32)
    above, below = 0, 0
    for start, count in stretches(capture.length):
        for part in _parts(capture, start, count, size):
            frames = np.lib.stride_tricks.sliding_window_view(part - np.complex64(dc), LEAST_PART)[::LEAST_PART // 2]
            spectra = np.fft.fft(frames * taper)
            up, down = spectra[:, 1:LEAST_PART // 2], spectra[:, :LEAST_PART // 2:-1]
            above = above + np.sum(up * down, 0)
            below = below + 0.5 * np.sum(np.abs(up) ** 2 + np.abs(down) ** 2, 0)
    share = np.cumsum(below) / below.sum()
    bands = [b for b in np.split(np.arange(len(below)), np.searchsorted(share, np.arange(1, BANDS) / BANDS)) if len(b)]
    if len(bands) < FEWEST_BANDS:
        return math.inf
    return _error(*(np.array([v[b].sum() for b in bands]) for v in (above, below)))
