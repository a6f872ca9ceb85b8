# SPDX-License-Identifier: GPL-3.0-or-later
"""Timing, phase, frequency and symbol rate of a linear modulation under stronger interference, and their tracking.

Two lines stand out of a long stretch, however strong the interference, which rarely has these cycles: |z|^2 of the
filtered signal z has one at the symbol rate (Oerder and Meyr 1988), and |z|^2 e^(j M arg z) at the symbols' centres
has one at M times the frequency offset (Viterbi and Viterbi 1983), M the constellation's rotational symmetry.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Optional

import numpy as np
import scipy.fft

from .captures.formats import ABSURD_MAGNITUDE
from .estimators import Levels
from .priors import Prior, from_module
from .priors import constellation as cons
from .priors.rrc_sync import SIDE, RrcSync
from .resume import array, need, whole
from .separators import Problem, separate
from .stream import WindowReport
from .windows import Window

#: Largest frequency offset that is looked for, as a share of the symbol rate; a twelfth more is tolerated.
MOST_OFFSET = 0.05
#: Largest deviation of the symbol rate that is looked for, ppm.
MOST_PPM = 100.0
#: Chance of taking noise for a signal's line.
FALSE_ALARM = 0.01
#: A line this strong gives timing to 1 % of a symbol and QPSK's phase to 1 degree: longer stretches are not needed.
AMPLE = 120.0
#: A batch is separated again where the timing (symbols) or the phase (rad) that it was separated with were so far off.
MOST_TIMING_ERROR, MOST_PHASE_ERROR = 0.015, 0.04
#: Symbols, and samples, that an acquisition looks at at most.
MOST_SYMBOLS, MOST_SAMPLES = 1 << 17, 1 << 21


@dataclass(frozen=True)
class Sync:
    """Where the symbols of a stream lie and how they are turned.

    timing: a symbol's centre, samples from the stream's beginning. step: samples per symbol. phase: rad at `timing`,
    modulo the constellation's symmetry. frequency: cycles/sample. strength: the weaker of the two lines, power relative
    to the noise around it. least: the strength that noise alone has with a chance of FALSE_ALARM. timed: the strength
    of the timing's line.
    """

    timing: float
    step: float
    phase: float
    frequency: float
    strength: float
    least: float = 0.0
    timed: float = 0.0

    @property
    def certain(self) -> bool:
        """Whether this is more than noise."""
        return self.strength > self.least

    @property
    def ample(self) -> bool:
        """Whether a longer stretch would be of no use."""
        return self.strength > AMPLE

    def fits(self, sps: float, position: float) -> bool:
        """Whether this may have been found up to sample `position` of a stream of nominally sps samples per symbol."""
        return abs(self.step / sps - 1) < 1e-3 and abs(self.frequency) < 0.5 and abs(self.phase) < 1e6 and \
            abs(self.timing) < position + MOST_SAMPLES

    def error(self, truth: "Sync", sample: float, symmetry: int) -> tuple[float, float]:
        """How far timing (symbols) and phase (rad) are off at a sample of the stream, modulo what cannot be known."""
        sector = 2 * math.pi / symmetry
        timing = (self.timing - sample) / self.step - (truth.timing - sample) / truth.step
        return timing - round(timing), math.remainder(self.phase_at(sample) - truth.phase_at(sample), sector)

    def side(self, start: int, sps: float) -> tuple[float, float, float, float]:
        """Side information of RrcSync, nominally of sps samples per symbol, for a window from sample `start` on."""
        ahead = math.ceil((start - self.timing) / self.step) * self.step + self.timing - start
        return ahead, self.phase_at(start), self.frequency, self.step / sps - 1

    def phase_at(self, sample: float) -> float:
        """Phase at a sample of the stream, rad, -pi .. pi."""
        turns = (sample - self.timing) * self.frequency + self.phase / (2 * math.pi)
        return 2 * math.pi * (turns - round(turns))


class Synchroniser:
    """Estimates Sync from stretches of a signal.

    constellation: a name from constellation.NAMES. sps: nominal samples per symbol, >= 2. rolloff: 0 .. 1; below 0.1
    the timing has next to no line.
    """

    OVERSAMPLING = 8  # of the symbol rate: enough for cubic interpolation

    def __init__(self, constellation: str, sps: float, rolloff: float):
        self.sps, self.rolloff = sps, rolloff
        self.symmetry = cons.SYMMETRY[constellation]
        points = cons.points(constellation).astype(complex)
        #: Argument of the constellation's M-th moment: 0, or pi where it lies on the negative axis.
        self.turn = 0.0 if np.mean(points**self.symmetry).real > 0 else math.pi

    def estimate(self, samples: np.ndarray, start: int, near: Optional[Sync] = None, joint: int = 0
                 ) -> Optional[Sync]:
        """Synchronisation of samples complex64 [n], the stream from sample `start` on; None for too few of them.

        near: what was found before. Then the search is for frequencies close by, and the branch of the phase is the one
        that continues it at the stream's sample `joint`. Look at `certain` before the result is used.
        """
        if len(samples) < 64 * self.sps:
            return None
        offset, slack, found, least = 0.0, MOST_OFFSET / 0.92, None, 0.0
        if near is not None:
            offset, slack = near.frequency, 0.01
        for last in (False, True) if near is None else (True,):  # first find where the filter belongs
            wave, rate, centre = self._filter(samples, offset)
            timing, step, timing_line = self._timing(wave, rate)
            symbols, middle = _interpolate(wave, timing, step)
            if len(symbols) < 32:
                return None
            least = max(least, math.log((2 * self.symmetry * slack * len(symbols) + 1) / FALSE_ALARM))
            deviation, phase, phase_line = self._carrier(symbols, middle, slack)
            offset, slack = centre + deviation * rate / step, 0.01
            if last:
                # The filter turned the samples by its centre, counted from the stretch's first sample.
                place = (timing + middle * step) / rate
                phase = math.remainder(phase + 2 * math.pi * centre * place, 2 * math.pi)
                found = Sync(start + place, step / rate, phase, offset, min(timing_line, phase_line), least,
                             timing_line)
        return found if near is None else self._same_branch(found, near, joint)

    def timing(self, samples: np.ndarray, start: int) -> Sync:
        """Timing, and the frequency to a hundredth of the symbol rate, of samples complex64 as in estimate().

        The timing's line is strongest behind the filter that lies where the signal is. The phase is left at 0.
        """
        offsets = np.linspace(-1.2, 1.2, 13) * MOST_OFFSET / self.sps
        lines = np.array([self._timing(*self._filter(samples, offset)[:2])[2] for offset in offsets])
        offset = float(np.interp(_vertex(lines), np.arange(len(offsets)), offsets))
        wave, rate, _ = self._filter(samples, offset)
        timing, step, line = self._timing(wave, rate)
        return Sync(start + timing / rate, step / rate, 0.0, offset, 0.0, 1.0, line)

    def _same_branch(self, found: Sync, near: Sync, joint: int) -> Sync:
        """The same with the branch of the phase that continues `near` at sample `joint`."""
        sector = 2 * math.pi / self.symmetry
        turns = round((near.phase_at(joint) - found.phase_at(joint)) / sector)
        return replace(found, phase=found.phase + sector * turns)

    def _filter(self, samples: np.ndarray, offset: float) -> tuple[np.ndarray, float, float]:
        """Matched filter around `offset` (cycles/sample), at about 8 samples per symbol.

        Returns the signal around 0 Hz, complex64; its samples per sample of the input; the filter's centre.
        """
        count = scipy.fft.next_fast_len(len(samples))
        spectrum = scipy.fft.fft(samples - np.complex64(samples.mean()), count)  # a receiver's DC would be a line too
        shift = round(offset * count)
        half = min(math.ceil(0.5 * (1 + self.rolloff) / self.sps * count), (count - 1) // 2)
        bins = np.arange(-half, half + 1)
        away = np.clip((np.abs(bins) * (self.sps / count) - 0.5 * (1 - self.rolloff)) / max(self.rolloff, 1e-9), 0, 1)
        length = scipy.fft.next_fast_len(max(2 * half + 1, math.ceil(count / self.sps * self.OVERSAMPLING)))
        band = np.zeros(length, np.complex64)
        band[bins] = spectrum[(bins + shift) % count] * np.cos(0.5 * math.pi * away)
        rate = length / count
        wave = scipy.fft.ifft(band)[:math.floor(len(samples) * rate)] * np.float32(rate)
        # Where the interference is strong, the signal is worth less: the noise of both lines' summands, of the size
        # |z|^2, grows with the power. Not the other way round: where there is little power the SOI may pause.
        size = 32 * self.OVERSAMPLING
        power = np.square(np.abs(wave[:len(wave) // size * size])).reshape(-1, size).mean(1)
        level = np.interp(np.arange(len(wave)), (np.arange(len(power)) + 0.5) * size, power / (power.mean() + 1e-30))
        return wave / np.maximum(level, 0.5).astype(np.float32), rate, shift / count

    def _timing(self, wave: np.ndarray, rate: float) -> tuple[float, float, float]:
        """Centre of a symbol and samples per symbol, both in samples of `wave`, and the strength of the line."""
        power = np.square(np.abs(wave))
        power -= power.mean()
        size = scipy.fft.next_fast_len(4 * len(power), real=True)
        spectrum = scipy.fft.rfft(power, size)
        nominal = size / (self.sps * rate)
        slack = nominal * 1.5e-6 * MOST_PPM + 2
        low, high = math.floor(nominal - slack), math.ceil(nominal + slack)
        line = np.abs(spectrum[low:high + 1])
        around = np.abs(spectrum[math.floor(0.8 * nominal):math.ceil(1.2 * nominal)]) ** 2
        peak = low + _vertex(line)
        strength = line.max() ** 2 / (np.median(around) / math.log(2) + 1e-30)
        frequency = peak / size
        total = np.vdot(np.exp(2j * math.pi * frequency * np.arange(len(power))), power)
        return -np.angle(total) / (2 * math.pi * frequency) % (1 / frequency), 1 / frequency, float(strength)

    def _carrier(self, symbols: np.ndarray, middle: int, slack: float) -> tuple[float, float, float]:
        """Frequency (cycles/symbol, -slack .. slack), phase at symbol `middle`, strength of the line."""
        # Of size |z|^2 rather than |z|^M, where a few large values drown 8PSK's line.
        magnitude = np.abs(symbols) + 1e-30
        power = (symbols / magnitude) ** self.symmetry * magnitude**2
        size = scipy.fft.next_fast_len(4 * len(power))
        spectrum = scipy.fft.fft(power, size)
        reach = min(math.ceil(self.symmetry * slack * size), size // 2 - 1)
        bins = np.arange(-reach, reach + 1)
        line = np.abs(spectrum[bins])
        strength = line.max() ** 2 / (np.median(line**2) / math.log(2) + 1e-30)
        frequency = (_vertex(line) - reach) / size
        total = np.vdot(np.exp(2j * math.pi * frequency * (np.arange(len(power)) - middle)), power)
        return frequency / self.symmetry, (np.angle(total) - self.turn) / self.symmetry, float(strength)


def _vertex(line: np.ndarray) -> float:
    """Place of the highest value of a line, by the parabola through it and its neighbours."""
    i = int(np.argmax(line))
    if not 0 < i < len(line) - 1:
        return float(i)
    left, top, right = (float(v) for v in line[i - 1:i + 2])
    return i + 0.5 * (left - right) / min(left - 2 * top + right, -1e-30)


def _interpolate(wave: np.ndarray, first: float, step: float) -> tuple[np.ndarray, int]:
    """Values of `wave` at first, first + step, ..., by cubic interpolation; and the number of the middle one."""
    place = first + step * np.arange(max(0, math.floor((len(wave) - 2 - first) / step)))
    place = place[place >= 1]
    whole = place.astype(np.int64)
    u = place - whole
    value = (-u * (u - 1) * (u - 2) / 6 * wave[whole - 1] + (u + 1) * (u - 1) * (u - 2) / 2 * wave[whole]
             - (u + 1) * u * (u - 2) / 2 * wave[whole + 1] + (u + 1) * u * (u - 1) / 6 * wave[whole + 2])
    return value, len(value) // 2


class SoiTracker:
    """Follows Sync along a stream: a trackers.Tracker for RrcSync.

    It is acquired from the mixture less what the interference's priors make of it, over as much of the stream as that
    needs, up to MOST_SYMBOLS. Where this shows the timing and not yet the phase (8PSK beside interference as strong in
    its band), the batch is separated with a prior that knows the timing alone, which shows the phase. From then on Sync
    is carried from batch to batch by the mixture less the interference that was separated, in which the SOI is far
    clearer.
    """

    FOLLOWED = 4096  # symbols of cleaned signal that the next batch's Sync comes from
    TIMED = 25.0  # strength of a timing's line that is good to 2 % of a symbol

    def __init__(self, prior: Prior):
        """prior: of a RrcSync."""
        self._modulation = modulation = prior.modulation
        self.sps = float(modulation["samples_per_symbol"])
        self._synchroniser = Synchroniser(modulation["constellation"], self.sps, modulation["rolloff"])
        self._others: list[Prior] = []
        self._ring: Optional[Prior] = None  # knows the timing alone
        #: For the next batch; None until it was found.
        self.sync: Optional[Sync] = None
        #: Of the batch before: what its windows were separated with.
        self.used: Optional[Sync] = None
        #: Windows asked for, and those of them with a Sync.
        self.windows = self.found = 0
        self.most = min(MOST_SAMPLES, math.ceil(MOST_SYMBOLS * self.sps))  # samples that an acquisition looks at
        self._earliest: Optional[Sync] = None  # the first that was learnt
        self._learnt = False  # whether `sync` and `_past` stem from separated windows
        self._past = np.zeros(0, np.complex64)
        self._past_start = 0
        self._tried = 0  # samples of it that were not enough
        self._sides: list[Optional[np.ndarray]] = []
        self._samples, self._start = self._past, 0  # of the batch in work
        self._levels: Optional[Levels] = None
        self._doubted, self._doubted_start = self._past, 0  # cleared mixture of batches that did not agree
        self._asked = 0  # samples of it that said nothing else

    @property
    def settled(self) -> bool:
        """Whether looking at more of the stream is of no use."""
        return self._tried >= self.most or (self.sync is not None and self.sync.ample)

    def adopt(self, scout: "SoiTracker") -> None:
        """Begin with what a scout found."""
        self.sync = scout.sync

    _COUNTS = ("windows", "found", "_past_start", "_tried", "_doubted_start", "_asked")

    def state(self) -> dict:
        """See trackers.Tracker."""
        return {name: getattr(self, name) for name in (
            *self._COUNTS, "sync", "used", "_earliest", "_learnt", "_past", "_doubted")}

    def restore(self, state: dict, position: int) -> None:
        """See trackers.Tracker."""
        for name in self._COUNTS:
            whole(state[name], 0, position + MOST_SAMPLES)
        for name in ("sync", "used", "_earliest"):
            need(state[name] is None or isinstance(state[name], Sync) and state[name].fits(self.sps, position))
        for name in ("_past", "_doubted"):
            array(state[name], "complex64", None)
            need(state[f"{name}_start"] + len(state[name]) <= position + MOST_SAMPLES)
        need(isinstance(state["_learnt"], bool))
        for name in self.state():
            setattr(self, name, state[name])

    def meet(self, others: Sequence[Prior]) -> None:
        """See trackers.Tracker."""
        self._others = list(others)

    def hear(self, sides: Sequence[Optional[np.ndarray]]) -> None:
        """See trackers.Tracker."""
        self._sides = list(sides)

    def side(self, samples: np.ndarray, start: int, windows: Sequence[Window], levels: Optional[Levels]) -> np.ndarray:
        """See trackers.Tracker.side: the columns of priors.rrc_sync.SIDE, NaN before the signal was found."""
        self._samples, self._start, self._levels = samples, start, levels
        if not self._learnt and not self.settled:
            self._collect(self._cleared(samples, start, windows, levels), windows[0].keep_from)
            if len(self._past) >= min(self.most, 1.25 * self._tried):
                self._tried = len(self._past)
                found = self._synchroniser.estimate(self._past, self._past_start)
                if found is not None and not found.certain and found.timed > self.TIMED:
                    found = self._from_timing(samples, start, windows, levels)
                if found is not None and found.certain:
                    self.sync = found
        self.used = self.sync
        self.windows += len(windows)
        if self.sync is None:
            return np.full((len(windows), 4), np.nan, np.float32)
        self.found += len(windows)
        return np.array([self.sync.side(w.start, self.sps) for w in windows], dtype=np.float32)

    def learn(self, windows: Sequence[Window], sources: np.ndarray, reports: Sequence[WindowReport]
              ) -> Optional[np.ndarray]:
        """See trackers.Tracker: re-estimate from the mixture less the separated interference."""
        if self.used is None:
            return None
        if not self._learnt:  # what was collected so far was not separated
            self._learnt, self._past, self._tried = True, np.zeros(0, np.complex64), 0
        good, pieces = 0, []
        for i, (window, report) in enumerate(zip(windows, reports, strict=True)):
            begin = window.keep_from - self._start
            kept = _sound(self._samples[begin:begin + report.length])
            if report.separated:
                inside = window.keep_from - window.start
                kept = kept - sources[1:, i, inside:inside + len(kept)].sum(0)
                good += report.agreement > 0.5
            pieces.append(kept)
        joint = windows[0].keep_from
        self._collect(np.concatenate(pieces), joint)
        keep = max(math.ceil(self.FOLLOWED * self.sps), sum(map(len, pieces)))
        self._past, self._past_start = self._past[-keep:], self._past_start + max(0, len(self._past) - keep)
        found = self._synchroniser.estimate(self._past, self._past_start, self.sync, joint)
        if found is None or not found.certain:
            found = self.used
        if 2 * good < len(windows):  # what was separated may confirm itself: ask the mixture
            found = self._doubt(windows, found)
        else:
            self._doubted = self._doubted[:0]
        self.sync = found
        self._earliest = self._earliest or found
        if good == len(windows):
            return None
        side = np.full((len(windows), 4), np.nan, np.float32)
        for i, (window, report) in enumerate(zip(windows, reports, strict=True)):
            if report.agreement < 0.9 and self._conflict(self.used, found, window.start + 0.5 * window.length):
                side[i] = found.side(window.start, self.sps)
        if not np.isfinite(side).any():
            return None
        self.used = found
        return side

    def _conflict(self, one: Sync, other: Sync, sample: float) -> bool:
        """Whether two Syncs differ by more than a separation bears, at a sample of the stream."""
        timing, phase = one.error(other, sample, self._synchroniser.symmetry)
        return abs(timing) > MOST_TIMING_ERROR or abs(phase) > MOST_PHASE_ERROR

    def _doubt(self, windows: Sequence[Window], current: Sync) -> Sync:
        """`current`, or what the mixture of the batches that did not agree says, if that is certain and different."""
        begin, end = windows[0].keep_from, self._doubted_start + len(self._doubted)
        if len(self._doubted) and end > begin:
            return current  # these windows were asked about before
        if end != begin or len(self._doubted) >= self.most:
            self._doubted, self._doubted_start, self._asked = self._doubted[:0], begin, 0
        cleared = self._cleared(self._samples, self._start, windows, self._levels)
        self._doubted = np.concatenate([self._doubted, cleared])
        if len(self._doubted) < 1.25 * self._asked:
            return current
        self._asked = len(self._doubted)
        found = self._synchroniser.estimate(self._doubted, self._doubted_start)
        if found is None or not found.certain or not self._conflict(
                found, current, self._doubted_start + 0.5 * len(self._doubted)):
            return current
        self._past, self._past_start = self._doubted, self._doubted_start
        self._doubted = self._doubted[:0]
        return found

    def _from_timing(self, samples: np.ndarray, start: int, windows: Sequence[Window], levels: Optional[Levels]
                     ) -> Optional[Sync]:
        """Sync from a separation of the windows with a prior that knows the timing alone; None where that is in vain.

        What was collected of the windows is replaced by the mixture less the interference that was separated.
        """
        m = self._modulation
        if levels is None or m["constellation"] == "16qam":  # whose modulus is not constant
            return None
        timing = self._synchroniser.timing(self._past, self._past_start)
        if self._ring is None:
            self._ring = from_module(RrcSync(m["constellation"], self.sps, m["rolloff"], int(m["span"]), ring=True), {
                "format": 1, "name": "ring", "kind": "rrc", "side": list(SIDE), "synchronised": False, "modulation": m,
                "sync": "auto"})
        whole = self._stack(samples, start, windows)
        sides = [np.array([timing.side(w.start, self.sps) for w in windows], np.float32), *self._sides]
        ready = np.all([np.ones(len(whole), bool) if side is None else np.isfinite(side).all(1) for side in sides], 0)
        if not ready.any():
            return None
        gain = levels.gains[0]
        problem = Problem(
            whole[ready] / np.float32(gain), [self._ring, *self._others], levels.gains / gain,
            levels.noise_variance / gain**2, [None if side is None else side[ready] for side in sides],
            index=np.array([w.number for w in windows], np.uint64)[ready], margin=windows[0].length // 20)
        result = separate(problem, "pnp-dr", 40)
        estimates = np.zeros_like(whole)
        estimates[ready] = gain * np.sum(result.sources[1:] * result.gains.T[1:, :, None], 0)
        self._collect(self._less(samples, start, windows, estimates), windows[0].keep_from)
        return self._synchroniser.estimate(self._past, self._past_start)

    def _cleared(self, samples: np.ndarray, start: int, windows: Sequence[Window], levels: Optional[Levels]
                 ) -> np.ndarray:
        """What the windows keep, complex64, less what the priors of the interference make of it.

        To them the SOI is noise; that it has the density which the SOI has in its band is right where it matters.
        """
        whole = self._stack(samples, start, windows)
        estimates = np.zeros_like(whole)
        if levels is not None:
            noise = float(levels.noise_variance) + self.sps * float(levels.gains[0]) ** 2
            for k, (other, side) in enumerate(zip(self._others, self._sides, strict=False)):
                rest = float(np.sum(np.delete(levels.gains[1:], k) ** 2))  # the other interferers are noise as well
                gain = float(levels.gains[1 + k])
                level = 1 / (1 + 0.5 * (noise + rest) / gain**2)
                ready = np.ones(len(whole), bool) if side is None else np.isfinite(side).all(1)
                if ready.any():
                    noisy = (whole[ready] * np.float32(math.sqrt(level) / gain)).astype(np.complex64)
                    estimates[ready] += gain * other.denoise(noisy, np.full(len(noisy), level, np.float32),
                                                             None if side is None else side[ready])
        return self._less(samples, start, windows, estimates)

    @staticmethod
    def _stack(samples: np.ndarray, start: int, windows: Sequence[Window]) -> np.ndarray:
        """The windows, complex64 [W, N]."""
        return np.stack([_sound(samples[w.start - start:w.start - start + w.length]) for w in windows])

    @staticmethod
    def _less(samples: np.ndarray, start: int, windows: Sequence[Window], estimates: np.ndarray) -> np.ndarray:
        """What the windows keep of the samples, joined, less the estimates complex64 [W, N]."""
        clear = _sound(samples[windows[0].keep_from - start:windows[-1].keep_to - start])
        for window, estimate in zip(windows, estimates, strict=True):
            first, last = window.keep_from - windows[0].keep_from, window.keep_to - windows[0].keep_from
            inside = window.keep_from - window.start
            clear[first:last] -= estimate[inside:inside + len(clear[first:last])]
        return clear

    def _collect(self, samples: np.ndarray, start: int) -> None:
        """Append what is new of samples from `start` on; begin again where there is a gap."""
        end = self._past_start + len(self._past)
        if not len(self._past) or start > end:
            self._past, self._past_start = samples, start
        else:
            joined = np.concatenate([self._past[:start - self._past_start], samples])
            self._past_start += max(0, len(joined) - self.most)
            self._past = joined[-self.most:]

    def describe(self, sample_rate: Optional[float]) -> str:
        """What was found, for people; only where `sync` is not None. sample_rate: samples/s or None."""
        sync, first = self.sync, self._earliest or self.sync
        first = first.timing - math.floor(first.timing / first.step) * first.step
        offset = f"{sync.frequency * sample_rate:+.1f} Hz" if sample_rate else \
            f"{sync.frequency:+.3e} of the sample rate"
        ppm = 1e6 * (self.sps / sync.step - 1)
        degrees = 360 // self._synchroniser.symmetry
        return (f"first symbol at sample {first:.2f}, carrier offset {offset} "
                f"({100 * sync.frequency * sync.step:+.2f} % of the symbol rate), symbol rate off by {ppm:+.1f} ppm; "
                f"phase known up to multiples of {degrees} degrees")

    def result(self) -> dict:
        """For the report: found (bool), windows, windows_found, and where it was found the last of everything."""
        found = {"found": self.sync is not None, "windows": self.windows, "windows_found": self.found,
                 "phase_ambiguity_deg": 360 // self._synchroniser.symmetry}
        if self.sync is not None:
            found |= {"symbol_at_sample": self.sync.timing, "samples_per_symbol": self.sync.step,
                      "symbol_rate_ppm": 1e6 * (self.sps / self.sync.step - 1),
                      "frequency": self.sync.frequency, "phase_rad": self.sync.phase, "strength": self.sync.strength}
        return found

    def summary(self, sample_rate: Optional[float]) -> list[str]:
        """What was found, for people, when all is done."""
        if self.sync is None:
            return ["SOI: its timing and frequency were not found; check the modulation, the samples per symbol and "
                    "the interference's specification; carrier offsets up to 5 % of the symbol rate are sought, and "
                    "longer captures show more"]
        return [f"SOI: {self.describe(sample_rate)}; found in {self.found} of {self.windows} windows"]


def _sound(samples: np.ndarray) -> np.ndarray:
    """The samples with broken ones replaced by zero."""
    return np.where(np.abs(samples) < ABSURD_MAGNITUDE, samples, 0).astype(np.complex64)
