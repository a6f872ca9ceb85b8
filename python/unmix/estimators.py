# SPDX-License-Identifier: GPL-3.0-or-later
"""What is estimated from a mixture before it is separated: levels, and the start and phase of OFDM interference."""

from dataclasses import dataclass
from typing import Callable, Optional, Sequence

import numpy as np
import scipy.fft
import scipy.optimize

from . import presence
from .captures.formats import ABSURD_MAGNITUDE
from .priors import Prior, PriorError
from .priors.cp_ofdm import active_carriers
from .priors.gaussian import expected_spectrum
from .resume import array, need, number


@dataclass(frozen=True)
class Levels:
    """Amplitudes in a capture's units: samples = sum_k gains[k] x_k + noise, sources x_k of unit power.

    gains: float64 [K], SOI first; all zero but the SOI's where there is no interference. noise_variance: of complex
    white noise.
    """

    gains: np.ndarray
    noise_variance: float

    @property
    def sir_db(self) -> float:
        """Signal-to-interference ratio: the SOI's power over that of all interference, dB; inf without interference."""
        if not np.any(self.gains[1:]):
            return float("inf")
        return float(-10 * np.log10(np.sum(self.gains[1:] ** 2) / self.gains[0] ** 2))


def estimate_levels(spectrum: np.ndarray, power: float, priors: Sequence[Prior], sir_db: Optional[float] = None,
                    psd: Optional[Callable[[int], Sequence[np.ndarray]]] = None) -> Levels:
    """Fit a mixture's spectrum by a non-negative combination of the priors' spectra and white noise.

    spectrum: of the mixture, as priors.gaussian.spectrum gives it, FFT order [bins]. power: mean |sample|^2.
    sir_db: the SIR (dB, SOI over all interference) where it is known; several interferers' shares are still fitted.
    Where it is known and a prior has no spectrum, all power is taken for signals and none for noise.
    psd: the priors' spectra by the number of bins, in order, where better ones than Prior.psd are known: see
    trackers.spectra.
    Raises ValueError with one sentence when the mixture's spectrum shows nothing of one of the signals, PriorError
    when the SIR is unknown and a prior has no spectrum.
    """
    try:
        fine = 4 * len(spectrum)
        densities = [p.psd(fine) for p in priors] if psd is None else psd(fine)
        shapes = np.array([expected_spectrum(d, len(spectrum)) for d in densities] + [np.ones(len(spectrum))])
    except PriorError:
        if sir_db is None:
            raise
        others = np.full(len(priors) - 1, 10 ** (-sir_db / 10) / (len(priors) - 1))
        share = np.concatenate([[1.0], others])
        return Levels(np.sqrt(share * power / share.sum()), 0.0)
    measured = spectrum / spectrum.mean()
    if sir_db is None:
        # Relative errors of a Welch estimate are even: weight by the spectrum, from a second pass on by the fit.
        weight = 1 / (measured + 1e-3)
        for _ in range(4):
            share, _ = scipy.optimize.nnls((shapes * weight).T, measured * weight)
            weight = 1 / (share @ shapes + 1e-6 * share.max())
        if np.any(share[:-1] <= 0):
            names = ", ".join(p.name for p, s in zip(priors, share, strict=False) if s <= 0)
            raise ValueError(f"the spectrum of the capture shows no {names}; there may be none in it, otherwise "
                             "give the SIR or another prior")
    else:
        ratio = 10 ** (sir_db / 10)
        if len(priors) > 2:
            others, _ = scipy.optimize.nnls(shapes[1:-1].T, measured)
            others = np.maximum(others, 1e-6) / np.maximum(others, 1e-6).sum()
        else:
            others = np.ones(1)
        signal = ratio * shapes[0] + others @ shapes[1:-1]
        weight = 1 / (measured + 1e-3)
        for _ in range(4):
            fit, _ = scipy.optimize.nnls((np.array([signal, shapes[-1]]) * weight).T, measured * weight)
            weight = 1 / (fit[0] * signal + fit[1] + 1e-6 * fit.max())
        share = np.concatenate([[fit[0] * ratio], fit[0] * others, [fit[1]]])
    return Levels(np.sqrt(share[:-1] * power), float(share[-1] * power))


class LevelTracker:
    """Levels of a stream, re-estimated as it goes on, from spectra that are forgotten exponentially.

    Where an update's power differs from the average by more than JUMP_DB, all before it is forgotten at once: a signal
    came, went or changed. Frames with a thousand times the power of the update's median frame (clicks) are left out.
    Where the SOI pauses, the levels are those of the frames with it: see update() and presence.SortedFrames. Its coming
    and going is no change of power, and what is known of it is forgotten HOLD times more slowly while it pauses.

    priors: SOI first. sir_db: None to estimate it. memory: samples after which a sample's weight has fallen to 1/e.
    fallback: levels to answer where the spectrum shows nothing of one of the signals.
    """

    BINS = 256
    JUMP_DB = 1.5
    CLICK = 1e3
    HOLD = 8
    UNKNOWN = 1e300  # power, of samples of which it is not known: more than any

    def __init__(self, priors: Sequence[Prior], sir_db: Optional[float] = None, memory: float = 256 * 2304,
                 fallback: Optional[Levels] = None):
        self.priors, self.sir_db, self.memory, self.fallback = list(priors), sir_db, memory, fallback
        #: Why the last update() gave no levels, or None.
        self.reason: Optional[str] = None
        self._rest = np.zeros(0, dtype=np.complex64)  # less than a frame
        self._rest_left = np.zeros(0)
        self._frames = presence.SortedFrames()
        self._levels: Optional[Levels] = None  # those of the last update

    def update(self, samples: np.ndarray, psd: Optional[Callable[[int], Sequence[np.ndarray]]] = None,
               left: Optional[Callable[[Levels], np.ndarray]] = None) -> Optional[Levels]:
        """Take the stream's next samples (complex64 [n]; frames with broken ones are left out) and estimate again.

        psd: see estimate_levels. left: answers, for rough levels, the power that the interference alone leaves of the
        samples, float [n], see presence.unexplained; None where pauses of the SOI cannot be told.
        None, or the fallback, where the spectrum shows nothing of one of the signals, see `reason`.
        """
        self._take(samples, psd, left)
        self._levels, self.reason = self._fit(self._frames.mean_of_bursts(), psd)
        if self._levels is None:
            self._levels, self.reason = self._fit(self._frames.mean(), psd)
        if self._levels is None:
            self._levels = self.fallback
        return self._levels

    def state(self) -> dict:
        """All that was heard, for restore()."""
        levels = self._levels
        return {"rest": self._rest, "rest_left": self._rest_left, "frames": self._frames.state(),
                "gains": None if levels is None else levels.gains,
                "noise_variance": 0.0 if levels is None else float(levels.noise_variance)}

    def restore(self, state: dict) -> None:
        """Go on with what state() said. Raises resume.StateError, KeyError, TypeError for anything else."""
        rest, left = array(state["rest"], "complex64", None), array(state["rest_left"], "float64", None)
        need(len(left) <= len(rest) < self.BINS)
        levels, noise = None, number(state["noise_variance"], 0)
        if state["gains"] is not None:
            levels = Levels(array(state["gains"], "float64", len(self.priors)), noise)
            need((levels.gains > 0).all())
        frames = presence.SortedFrames()
        frames.restore(state["frames"], self.BINS)
        self._rest, self._rest_left, self._frames, self._levels = rest, left, frames, levels

    def _fit(self, density: Optional[np.ndarray], psd: Optional[Callable[[int], Sequence[np.ndarray]]]
             ) -> tuple[Optional[Levels], Optional[str]]:
        """Levels by a mean spectrum, or why there are none."""
        if density is None:
            return None, f"there were no {self.BINS} sound samples yet to estimate levels from"
        if not density.sum() > 0:
            return None, "the stream is silent"
        try:
            levels = estimate_levels(density, float(density.mean()), self.priors, self.sir_db, psd)
        except ValueError as error:
            return None, str(error)
        missing = ", ".join(p.name for p, gain in zip(self.priors, levels.gains, strict=True) if not gain > 0)
        return (None, f"the spectrum shows nothing of {missing}") if missing else (levels, None)

    def _without_soi(self, density: np.ndarray, psd: Optional[Callable[[int], Sequence[np.ndarray]]]
                     ) -> Optional[Levels]:
        """Levels of the interference where the spectrum shows no SOI, whose own is arbitrary; None where none shows."""
        others = None if psd is None else (lambda bins: psd(bins)[1:])
        try:
            levels = estimate_levels(density, float(density.mean()), self.priors[1:], None, others)
        except ValueError:
            return None
        return Levels(np.append(levels.gains.max(), levels.gains), levels.noise_variance)

    def _take(self, samples: np.ndarray, psd: Optional[Callable[[int], Sequence[np.ndarray]]],
              left: Optional[Callable[[Levels], np.ndarray]]) -> None:
        """Add frames of BINS samples that overlap by half, of weights 1, decay, decay^2, ... back from the newest."""
        hop = self.BINS // 2
        held, fresh = np.concatenate([self._rest, samples]), len(samples)
        before = np.concatenate([self._rest_left, np.full(len(self._rest) - len(self._rest_left), self.UNKNOWN)])
        count = max(0, (len(held) - self.BINS) // hop + 1)
        self._rest, self._rest_left = held[count * hop:], np.zeros(0)
        if not count:
            return
        frames = np.lib.stride_tricks.sliding_window_view(held, self.BINS)[::hop][:count]
        kept = (np.abs(frames) < ABSURD_MAGNITUDE).all(1)  # false for NaN
        taper = np.hanning(self.BINS + 1)[:self.BINS]
        power = np.abs(np.fft.fft(frames[kept] * taper)) ** 2 / np.sum(taper**2)
        if not len(power):
            return
        total = power.mean(1)
        usual = total <= self.CLICK * max(np.median(total), 1e-30)
        power, now = power[usual], float(total[usual].mean())
        kept[kept] = usual

        def remains(levels: Optional[Levels]) -> Optional[np.ndarray]:
            """What the interference leaves of each frame that is kept."""
            if left is None or levels is None or not fresh:
                return None
            measured = np.concatenate([before, left(levels)])
            self._rest_left = measured[count * hop:]
            return presence.least_left(measured, self.BINS, hop)[:count][kept]

        known, rest = self._frames.mean(), None
        if known is not None and self._jumped(now, float(known.mean())):
            rest = remains(self._levels)
            own = 0.0 if rest is None else float(rest.mean())
            if rest is None or self._jumped(now - own, float(known.mean()) - self._frames.left()):
                self._frames, self._levels, rest = presence.SortedFrames(), None, None
        if rest is None and left is not None:
            rough = self._levels or self._fit(power.mean(0), psd)[0] or self._without_soi(power.mean(0), psd)
            rest = remains(rough)
        decay = np.exp(-hop / self.memory)
        if rest is None:  # all frames are alike, or all of them is left
            rest = np.ones(len(power)) if left is None else power.mean(1)
        self._frames.forget(decay, rest, self.HOLD)
        self._frames.add(power, rest, decay**np.arange(len(power))[::-1])

    def _jumped(self, now: float, before: float) -> bool:
        return abs(np.log10(max(now, 1e-30) / max(before, 1e-30))) > self.JUMP_DB / 10


def ofdm_start_and_phase(windows: np.ndarray, module, occupied: Sequence[tuple[float, float]] = (),
                         candidates: int = 8) -> np.ndarray:
    """Start (samples) and phase (radians) of CP-OFDM in mixtures: float32 [W, 2], as CpOfdm's side information.

    windows: complex64 [W, N]. module: a priors.cp_ofdm.CpOfdm. occupied: bands (cycles/sample) of other signals, which
    are left out. The start maximises prefix correlation times the M-th power statistic of the carriers; the prefix
    alone is blunt, the M-th power alone confuses starts. The phase is the argument of the M-th power. It is known up to
    the constellation's symmetry, which the prior shares. Raises ValueError for windows of less than two symbols.
    """
    fft, cp, length = module.fft, module.cp, module.length
    carriers = active_carriers(fft, module.active)
    free = np.ones(len(carriers), dtype=bool)
    frequency = np.fft.fftfreq(windows.shape[1])
    notch = np.zeros(windows.shape[1], dtype=bool)
    for low, high in occupied:
        guard = 1.5 / fft
        free &= (carriers / fft < low - guard) | (carriers / fft > high + guard)
        notch |= (frequency > low * 1.15) & (frequency < high * 1.15)
    if free.sum() < 4:  # the other signals cover everything: use all of it
        free[:] = True
        notch[:] = False
    count = (windows.shape[1] - length + 1) // length
    result = np.zeros((len(windows), 2), dtype=np.float32)
    if count < 1:
        raise ValueError(f"start and phase need windows of at least {2 * length - 1} samples, not {windows.shape[1]}")
    for begin in range(0, len(windows), 64):  # bounded memory
        chunk = windows[begin:begin + 64].astype(np.complex64)
        chunk = chunk / np.maximum(np.abs(chunk).max(1, keepdims=True), 1e-30)  # its 8th power must not overflow
        clean = chunk
        if notch.any():
            spectrum = scipy.fft.fft(chunk, axis=1)
            spectrum[:, notch] = 0
            clean = scipy.fft.ifft(spectrum, axis=1)
        prefix = _prefix_correlation(clean, fft, cp, length)  # [w, length]
        starts = np.argsort(-prefix, axis=1)[:, :candidates if cp else length]
        rows = np.arange(len(chunk))
        best = np.full(len(chunk), -np.inf)
        for column in starts.T:
            place = column[:, None, None] + cp + np.arange(count)[:, None] * length + np.arange(fft)
            body = scipy.fft.fft(chunk[rows[:, None, None], place], axis=2)[:, :, carriers[free] % fft]
            power = body * body
            if module.symmetry >= 4:
                power = power * power
            if module.symmetry == 8:
                power = power * power
            total = power.sum((1, 2)) * (-1 if module.symmetry == 4 else 1)
            score = np.abs(total) / (np.abs(power).sum((1, 2)) + 1e-30) * np.maximum(prefix[rows, column], 1e-6)
            better = score > best
            best = np.where(better, score, best)
            result[begin:begin + 64, 0] = np.where(better, column, result[begin:begin + 64, 0])
            result[begin:begin + 64, 1] = np.where(better, np.angle(total) / module.symmetry,
                                                   result[begin:begin + 64, 1])
    return result


def _prefix_correlation(windows: np.ndarray, fft: int, cp: int, length: int) -> np.ndarray:
    """Normalised correlation of prefix and tail for each start 0 .. length - 1, folded over the window: [W, length]."""
    if cp == 0:
        return np.ones((len(windows), length))
    lead, lag = windows[:, :-fft], windows[:, fft:]
    product = (lead * lag.conj()).real
    power = 0.5 * (np.abs(lead) ** 2 + np.abs(lag) ** 2)
    whole = -(-product.shape[1] // length) * length

    def folded(values: np.ndarray) -> np.ndarray:
        padded = np.pad(values, ((0, 0), (0, whole - values.shape[1])))
        cycle = padded.reshape(len(values), -1, length).sum(1)
        run = np.concatenate([cycle, cycle[:, :cp]], 1).cumsum(1)
        return np.concatenate([run[:, cp - 1:cp], run[:, cp:length + cp - 1] - run[:, :length - 1]], 1)

    return folded(product) / (folded(power) + 1e-30)
