# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the signal of interest (SOI) pauses: what the interference's priors alone explain of the mixture says so."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional

import numpy as np
import scipy.ndimage

from . import trackers
from .captures.formats import ABSURD_MAGNITUDE
from .priors import Prior, PriorError
from .resume import array, need
from .separators import Problem, separate
from .windows import Plan, Window

if TYPE_CHECKING:
    from .estimators import Levels

#: Denoising variance of the interference: its symbols are decided, and an SOI of any use remains.
VARIANCE = 0.03
#: Symbols of the SOI over which power is averaged: three OFDM symbols of 802.11 at 16 samples per symbol.
SMOOTH = 16
#: Power that the interference's priors leave of a frame, relative to where it is large, with the SOI and without.
WITH, WITHOUT = 0.3, 0.15
#: Share of the frames in which the SOI must pause before its level is taken from the rest alone.
LEAST_PAUSE = 0.02
#: Frames with an SOI that are needed for its level.
FEWEST = 16
MOST_DECIBEL = 4000  # any power that a float64 holds
#: Share of what an SOI would leave below which there is none. Where it pauses 0.001 to 0.1 of its power remain, where
#: it does not 0.55 to 0.95 (simulated OFDM and recordings of 802.11 up to 64QAM, SIR -15 to -3 dB).
LEAST = 0.25
#: Share of an SOI's power that the interference's priors must leave of it, lest its absence says nothing.
SHOWS = 0.35


def rest(mixture: np.ndarray, priors: Sequence[Prior], sides: Sequence[Optional[np.ndarray]], gains: np.ndarray,
         noise_variance: float, device: str = "cpu") -> np.ndarray:
    """What the interference alone leaves of the mixture, complex64 [W, N].

    mixture: complex64 [W, N]. priors, sides, gains: of the interferers (K - 1 >= 1), side information float32 [W, P] or
    None, amplitudes in the mixture's units. noise_variance: of complex noise.
    """
    if len(priors) == 1:
        variance = max(VARIANCE, 0.5 * noise_variance / float(gains[0]) ** 2)
        level = 1 / (1 + variance)
        noisy = (mixture * np.float32(level**0.5 / gains[0])).astype(np.complex64)
        side = sides[0]
        if side is None:
            side = priors[0].side_information(mixture, [])
        estimate = priors[0].engine(device).denoise(noisy, np.full(len(noisy), level, np.float32), side)
        return mixture - np.float32(gains[0]) * estimate
    scale = float(gains[0])
    problem = Problem(mixture / np.float32(scale), priors, np.asarray(gains) / scale, noise_variance / scale**2,
                      side=list(sides), device=device)
    found = separate(problem, "pnp-dr", 20)
    return mixture - np.float32(scale) * np.sum(found.sources * found.gains.T[:, :, None], 0)


def power_in_band(waves: np.ndarray, prior: Prior) -> np.ndarray:
    """Power of waves complex64 [W, N] in a prior's band, averaged over SMOOTH symbols, float [W, N]."""
    count = waves.shape[1]
    try:
        density = prior.psd(1024)
    except PriorError:  # nothing is known of its band
        density = np.ones(1024)
    inside = np.interp(np.arange(count) * (1024 / count), np.arange(1025), np.append(density, density[0]))
    inside = inside > 0.01 * density.max()
    wave = np.fft.ifft(np.fft.fft(waves, axis=1) * inside, axis=1)
    return scipy.ndimage.uniform_filter1d(np.square(np.abs(wave)), smoothing(prior), axis=1, mode="nearest")


def smoothing(prior: Prior) -> int:
    """Samples over which power_in_band averages."""
    modulation = prior.modulation
    return max(1, round(SMOOTH * float(modulation["samples_per_symbol"] if modulation else 16)))


def pauses(mixture: np.ndarray, soi: np.ndarray, priors: Sequence[Prior], sides: Sequence[Optional[np.ndarray]],
           gains: np.ndarray, noise_variance: float, device: str = "cpu") -> np.ndarray:
    """Where the SOI pauses in windows of which a separation does not agree, bool [W, N].

    mixture: complex64 [W, N]. soi: the separation's estimate in the same units, which has the SOI's form even where
    there is none. priors, sides, gains: of all sources, the SOI first.

    A window's mixture and what it would be with an SOI (the interference found in it, and `soi`) go through the
    interference's priors alone. Where the first leaves less than LEAST of what the second leaves on average, there is
    no SOI. Priors that explain much leave little of the second as well; where they leave less than SHOWS of the SOI's
    own power, as unknown symbols of WiFi beside an SOI as wide do, nothing is claimed, and with priors that are not
    `discerning` nowhere.
    """
    if not discerning(priors[1:]):
        return np.zeros(mixture.shape, bool)
    others = (priors[1:], sides[1:], np.asarray(gains)[1:], noise_variance, device)
    left = rest(mixture, *others)
    rms = np.sqrt(np.mean(np.square(np.abs(soi)), axis=1, keepdims=True))
    likely = soi * (np.float32(gains[0]) / np.maximum(rms, 1e-30))  # few steps may leave it far from its level
    expected = rest(mixture - left + likely, *others)
    margin = min(mixture.shape[1] // 20, 128)  # the interference's symbols are cut there
    inner = slice(margin, mixture.shape[1] - margin)
    power = power_in_band(expected, priors[0])
    usual = power[:, inner].mean(1, keepdims=True)
    weak = (power_in_band(left, priors[0]) < LEAST * usual) & (power > SHOWS * float(gains[0]) ** 2)
    return pauses_of(weak, smoothing(priors[0]))


def pauses_of(weak: np.ndarray, smooth: int) -> np.ndarray:
    """Pauses bool [W, N] where power averaged over `smooth` samples is less than LEAST of its usual value, bool [W, N].

    Power falls that low once LEAST of the average lies in the pause's surroundings, so pauses are longer by that on
    either side; less two symbols, since bits of a burst cost more than a longer one. Pauses of less than half an
    average are taken for chance.
    """
    long_enough = scipy.ndimage.binary_opening(
        np.pad(weak, ((0, 0), (smooth, smooth)), "edge"), np.ones((1, max(1, smooth // 2)), bool))
    more = max(0, round(smooth * (LEAST - 2 / SMOOTH)))
    return scipy.ndimage.binary_dilation(long_enough, np.ones((1, 2 * more + 1), bool))[:, smooth:-smooth]


def drop_shreds(kept: dict[int, np.ndarray], count: int, shortest: int) -> None:
    """Take back pauses of which windows keep less than `shortest` samples, unless a neighbour goes on with them.

    kept: of windows 0 .. count - 1, bool [n], changed in place; those left out do not pause, and of what lies before
    and after all of them nobody knows.
    """
    ends = {i: (bool(flags[0]), bool(flags[-1])) for i, flags in kept.items()}

    def goes_on(i: int, end: int) -> bool:
        return ends[i][end] if i in ends else not 0 <= i < count

    for i, flags in kept.items():
        for first, length in runs(flags):
            before, after = first == 0 and goes_on(i - 1, 1), first + length == len(flags) and goes_on(i + 1, 0)
            if length < shortest and not before and not after:
                flags[first:first + length] = False


def discerning(priors: Sequence[Prior]) -> bool:
    """Whether the interference's priors leave an SOI that is there; Gaussian and learned ones may explain it too."""
    return not any(p.learned or p.info["kind"] == "gaussian" for p in priors)


def runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """(first, length) of each run of true values in bool [n]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(a), int(b - a)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


class SortedFrames:
    """Spectra of frames, added up by the power that the interference alone leaves in them, in whole dB.

    Those with the SOI stand out of those without it. What is held does not grow with the number of frames.
    """

    def __init__(self):
        self._sums: dict[int, np.ndarray] = {}
        self._weights: dict[int, float] = {}

    def state(self) -> dict:
        """All of it, for restore()."""
        return {"classes": np.array(list(self._weights), np.int64),
                "weights": np.array(list(self._weights.values()), np.float64),
                "sums": np.array(list(self._sums.values()), np.float64)}

    def restore(self, state: dict, bins: int) -> None:
        """Go on with what state() said of frames of so many bins.

        Raises resume.StateError, KeyError, TypeError for anything else.
        """
        classes = array(state["classes"], "int64", None)
        weights = array(state["weights"], "float64", len(classes))
        sums = state["sums"] if len(classes) else np.zeros((0, bins))
        array(sums, "float64", len(classes), bins)
        need(len(set(classes.tolist())) == len(classes) and (np.abs(classes) <= MOST_DECIBEL).all())
        need((weights > 0).all() and (sums >= 0).all())
        self._weights = dict(zip(classes.tolist(), weights.tolist(), strict=True))
        self._sums = dict(zip(classes.tolist(), sums, strict=True))

    @property
    def weight(self) -> float:
        """Of all frames."""
        return sum(self._weights.values())

    def add(self, spectra: np.ndarray, left: np.ndarray, weights: Optional[np.ndarray] = None) -> None:
        """Add frames: spectra float [n, bins], power that is left float [n], weights float [n] (default: 1)."""
        weights = np.ones(len(left)) if weights is None else weights
        classes = np.round(10 * np.log10(np.maximum(left, 1e-30))).astype(int)
        for decibel in np.unique(classes).tolist():
            own = classes == decibel
            self._sums[decibel] = self._sums.get(decibel, 0) + weights[own] @ spectra[own]
            self._weights[decibel] = self._weights.get(decibel, 0.0) + float(weights[own].sum())

    def forget(self, decay: float, left: np.ndarray, hold: float = 1.0) -> None:
        """Multiply all weights by `decay` for each new frame, of which the power `left`, float [n], is left.

        Where the SOI pauses, frames with it are forgotten `hold` times more slowly by new ones without it.
        """
        active = self.active()
        new = len(left)
        later = int(np.sum(left > 10 ** (0.1 * (min(active) - 0.5)))) if active else new
        for decibel in list(self._weights):
            factor = decay ** (later + (new - later) / hold if decibel in active else new)
            self._weights[decibel] *= factor
            self._sums[decibel] = self._sums[decibel] * factor
            if self._weights[decibel] < 1e-6:
                del self._weights[decibel], self._sums[decibel]

    def mean(self) -> Optional[np.ndarray]:
        """Mean spectrum of all frames, None where there are none."""
        return self._mean(list(self._weights))

    def left(self) -> float:
        """Mean power that is left."""
        return sum(w * 10 ** (0.1 * d) for d, w in self._weights.items()) / max(self.weight, 1e-30)

    def active(self) -> list[int]:
        """Classes of the frames with an SOI; none where it hardly pauses, so that there is nothing to tell apart."""
        if not self._weights:
            return []
        classes = np.array(sorted(self._weights))
        share = np.cumsum([self._weights[d] for d in classes.tolist()]) / self.weight
        large = 10 ** (0.1 * classes[min(np.searchsorted(share, 0.97), len(classes) - 1)])
        pausing = sum(w for d, w in self._weights.items() if 10 ** (0.1 * d) < WITHOUT * large)
        active = [d for d in self._weights if 10 ** (0.1 * d) > WITH * large]
        enough = sum(self._weights[d] for d in active) >= FEWEST
        return active if enough and pausing >= LEAST_PAUSE * self.weight else []

    def mean_of_bursts(self) -> Optional[np.ndarray]:
        """Mean spectrum of the frames with an SOI, None where it hardly pauses."""
        return self._mean(self.active())

    def _mean(self, classes: list[int]) -> Optional[np.ndarray]:
        return sum(self._sums[d] for d in classes) / sum(self._weights[d] for d in classes) if classes else None


def least_left(left: np.ndarray, frame: int, hop: int) -> np.ndarray:
    """The least of a power float [n] in each frame."""
    return np.lib.stride_tricks.sliding_window_view(left, frame)[::hop].min(1)


def unexplained(samples: np.ndarray, plan: Plan, priors: Sequence[Prior], levels: "Levels", device: str = "cpu"
                ) -> np.ndarray:
    """Power in the SOI's band of what the interference alone leaves of a stretch of samples complex64 [n], float [n].

    priors: of all sources, the SOI first; the others' trackers are made anew. Broken samples count as zero.
    """
    left, windows = _left_in_windows(samples, plan, priors, levels, device)
    return _kept(power_in_band(left, priors[0]), windows)


def left_over(samples: np.ndarray, plan: Plan, priors: Sequence[Prior], levels: "Levels", device: str = "cpu"
              ) -> np.ndarray:
    """What the interference alone leaves of a stretch of samples complex64 [n], complex64 [n]; see unexplained."""
    return _kept(*_left_in_windows(samples, plan, priors, levels, device))


def _kept(rows: np.ndarray, windows: Sequence[Window]) -> np.ndarray:
    """Rows [W, N] as one stretch."""
    return np.concatenate([row[w.keep_from - w.start:w.keep_to - w.start]
                           for row, w in zip(rows, windows, strict=True)])


def _left_in_windows(samples: np.ndarray, plan: Plan, priors: Sequence[Prior], levels: "Levels", device: str
                     ) -> tuple[np.ndarray, list[Window]]:
    """What the interference alone leaves of each window, complex64 [W, N], and the windows."""
    windows = list(plan.windows(len(samples)))
    held = np.zeros(windows[-1].start + plan.window, np.complex64)
    held[:len(samples)] = np.where(np.abs(samples) < ABSURD_MAGNITUDE, samples, 0)
    mixture = np.stack([held[w.start:w.start + w.length] for w in windows])
    sides = []
    for prior, tracker in zip(priors, trackers.make(priors), strict=True):
        others = [o for o in priors if o is not prior]
        if prior is priors[0]:
            sides.append(None)  # not asked for
        elif tracker is None:
            sides.append(prior.side_information(mixture / np.float32(levels.gains[0]), others))
        else:
            sides.append(np.asarray(tracker.side(held, 0, windows, levels), np.float32))
    return rest(mixture, priors[1:], sides[1:], levels.gains[1:], levels.noise_variance, device), windows
