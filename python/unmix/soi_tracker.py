# SPDX-License-Identifier: GPL-3.0-or-later
"""The SOI's timing, phase, frequency and symbol rate, acquired in a mixture and followed along a stream."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Optional

import numpy as np

from .captures.formats import ABSURD_MAGNITUDE
from .estimators import Levels
from .presence import discerning, power_in_band, rest
from .priors import Prior, from_module
from .priors.rrc_sync import SIDE, RrcSync
from .resume import array, need, whole
from .separators import Problem, separate
from .soi_sync import MOST_SAMPLES, MOST_SYMBOLS, Sync, Synchroniser
from .stream import TRUST, WindowReport
from .windows import Window

#: A batch is separated again where the timing (symbols) or the phase (rad) that it was separated with were so far off.
MOST_TIMING_ERROR, MOST_PHASE_ERROR = 0.015, 0.04
#: Windows that agree are separated again where decisions show that their phase (rad) was so far off: 0.7 degrees.
#: Decisions see 70 to 90 % of an error, as the prior pulls what it explains its way.
MOST_DECIDED_ERROR = 0.012
#: Scatter of the phases (rad) that decisions show in windows of 150 symbols; measured 0.0003 to 0.003.
DECIDED_SCATTER = 0.002
#: Agreement of a window below which it is no reason to keep to what was found before.
GOOD = 0.5
#: How many times longer a stretch must have become since an estimate failed before it is tried again.
LONGER = 1.25
#: Power that the interference's priors leave, relative to the SOI's, below which the SOI pauses; see presence.LEAST.
PAUSE = 0.15
#: Uncertainty of the symbol rate, ppm, beyond which it is not told.
WORST_PPM = 100.0


class SoiTracker:
    """Follows Sync along a stream: a trackers.Tracker for RrcSync.

    It is acquired from the mixture less what the interference's priors make of it, over as much of the stream as that
    needs, up to MOST_SYMBOLS. Where this shows the timing and not yet the phase (8PSK beside interference as strong in
    its band), the batch is separated with a prior that knows the timing alone, which shows the phase. From then on Sync
    is carried from batch to batch by the mixture less the interference that was separated, in which the SOI is far
    clearer: timing by its line, phase and frequency by decisions where windows agree, else by the M-th power.
    """

    FOLLOWED = 4096  # symbols of cleaned signal that the next batch's Sync comes from
    LINE = 3  # windows whose phases show a frequency
    TIMED = 25.0  # strength of a timing's line that is good to 2 % of a symbol

    def __init__(self, prior: Prior):
        """prior: of a RrcSync."""
        self._own = prior
        self._modulation = modulation = prior.modulation
        self.sps = float(modulation["samples_per_symbol"])
        self._synchroniser = Synchroniser(modulation["constellation"], self.sps, modulation["rolloff"])
        self._others: list[Prior] = []
        self._ring: Optional[Prior] = None  # knows the timing alone
        #: For the next batch; None until it was found.
        self.sync: Optional[Sync] = None
        #: Of the batch before: what its windows were separated with, or with what is no further off than
        #: MOST_DECIDED_ERROR where they agreed.
        self.used: Optional[Sync] = None
        #: Windows asked for, and those of them with a Sync.
        self.windows = self.found = 0
        self.most_offset = self._synchroniser.most_offset
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
        self._phases = np.zeros((0, 3))  # as decisions show them: sample of the stream, phase (rad), weight
        self._repeated: Optional[set[int]] = None  # numbers of windows that are separated again; None if not (yet)

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
            *self._COUNTS, "sync", "used", "_earliest", "_learnt", "_past", "_doubted", "_phases")}

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
        phases = array(state["_phases"], "float64", None, 3)
        need(np.isfinite(phases).all() and (np.diff(phases[:, 0]) > 0).all() and (phases[:, 0] >= 0).all() and
             (phases[:, 0] <= position + MOST_SAMPLES).all() and (np.abs(phases[:, 1]) <= 7).all() and
             (phases[:, 2] > 0).all())
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
        self._samples, self._start, self._levels, self._repeated = samples, start, levels, None
        if not self._learnt and not self.settled:
            self._collect(self._cleared(samples, start, windows, levels), windows[0].keep_from)
            if len(self._past) >= min(self.most, LONGER * self._tried):
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
        self._sides = [None if s is None else s[:len(windows)] for s in self._sides]  # fewer where it was cancelled
        if not self._learnt:  # what was collected so far was not separated
            self._learnt, self._past, self._tried = True, np.zeros(0, np.complex64), 0
        joint = windows[0].keep_from
        length = self._collect_clean(windows, sources, reports)
        keep = max(math.ceil(self.FOLLOWED * self.sps), length)
        self._past, self._past_start = self._past[-keep:], self._past_start + max(0, len(self._past) - keep)
        found = self._synchroniser.estimate(self._past, self._past_start, self.sync, joint)
        if found is None or not found.certain:
            found = self.used
        good, decided = sum(r.separated and r.agreement > GOOD for r in reports), None
        if 2 * good < len(windows):  # what was separated may confirm itself: ask the mixture
            found = self._doubt(windows, found)
        else:
            self._doubted = self._doubted[:0]
            decided = self._decided(found, windows)
            found = decided or found
        self.sync = found
        self._earliest = self._earliest or found
        return self._again(windows, reports, decided is not None)

    def _collect_clean(self, windows: Sequence[Window], sources: np.ndarray, reports: Sequence[WindowReport]) -> int:
        """Append to `_past` what the windows keep less the interference, and to `_phases` what they decided.

        Returns the samples that they keep.
        """
        begin, pieces, phases = windows[0].keep_from, [], []
        before = {row[0]: row for row in self._phases if row[0] >= begin}
        for i, (window, report) in enumerate(zip(windows, reports, strict=True)):
            first = window.keep_from - self._start
            kept = _sound(self._samples[first:first + report.length])
            middle = window.keep_from + 0.5 * len(kept)
            if report.separated:
                inside = slice(window.keep_from - window.start, window.keep_from - window.start + len(kept))
                kept = kept - sources[1:, i, inside].sum(0)
                match = np.vdot(sources[0, i, inside], kept)
                if self._repeated is not None and window.number not in self._repeated:  # not separated with `used`
                    phases += [before[middle]] if middle in before else []
                elif report.agreement > TRUST and report.outcome != "no_interference" and 0 < abs(match) < math.inf:
                    phase = math.remainder(self.used.phase_at(middle) + float(np.angle(match)), 2 * math.pi)
                    phases.append((middle, phase, abs(match)))
            pieces.append(kept)
        self._collect(np.concatenate(pieces), begin)
        self._phases = np.concatenate([self._phases[self._phases[:, 0] < begin], np.reshape(phases, (-1, 3))])
        return sum(map(len, pieces))

    def _decided(self, found: Sync, windows: Sequence[Window]) -> Optional[Sync]:
        """`found` with the phase and the frequency that decisions show; None where they do not show them well enough.

        They do so from windows that agree, by the angle between the signal's estimate, which the prior's decisions
        made, and the mixture less the interference. They lack the noise of the M-th power, 16QAM's most of all.
        """
        near = self.used
        self._phases = self._phases[self._phases[:, 0] >= self._past_start]
        place, phase, weight = self._phases.T
        count = len(place)
        if not count or count < min(self.LINE, len(windows)):
            return None
        away = np.array([math.remainder(p - near.phase_at(t), 2 * math.pi) for t, p in zip(place, phase, strict=True)])
        middle = np.average(place, weights=weight)
        x = place - middle
        slope = 2 * math.pi * (found.frequency - near.frequency)
        if count >= self.LINE:
            slope = np.sum(weight * x * away) / np.sum(weight * x**2)
        offset = np.average(away - slope * x, weights=weight)
        if count >= self.LINE:
            scatter = math.hypot(np.sqrt(np.average((away - slope * x - offset) ** 2, weights=weight)
                                         * count / (count - 2)), DECIDED_SCATTER)
            reach = max(middle - windows[0].keep_from, windows[-1].keep_to - middle)
            if scatter * math.sqrt(1 / count + reach**2 / np.sum(x**2)) > MOST_DECIDED_ERROR:
                return None
        return replace(found, frequency=float(near.frequency + slope / (2 * math.pi)), phase=math.remainder(
            near.phase_at(found.timing) + offset + slope * (found.timing - middle), 2 * math.pi))

    def _again(self, windows: Sequence[Window], reports: Sequence[WindowReport], decided: bool) -> Optional[np.ndarray]:
        """Side information of windows that should be separated again with `sync`, NaN for others; None for none.

        decided: whether its phase is what decisions show, which is fine enough to doubt windows that agree.
        """
        good = all(r.separated and r.agreement > GOOD for r in reports)
        if self._repeated is not None or (good and not decided):
            return None
        side = np.full((len(windows), 4), np.nan, np.float32)
        for i, (window, report) in enumerate(zip(windows, reports, strict=True)):
            middle = window.start + 0.5 * window.length
            phase = self.used.error(self.sync, middle, self._synchroniser.symmetry)[1]
            wrong = not good and report.agreement < TRUST and self._conflict(self.used, self.sync, middle)
            fine = decided and report.outcome not in ("no_soi", "no_interference") and abs(phase) > MOST_DECIDED_ERROR
            if wrong or fine:
                side[i] = self.sync.side(window.start, self.sps)
        if not np.isfinite(side).any():
            return None
        self.used = self.sync
        self._repeated = {w.number for w, row in zip(windows, side, strict=True) if np.isfinite(row).all()}
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
        if len(self._doubted) < LONGER * self._asked:
            return current
        self._asked = len(self._doubted)
        found = self._synchroniser.estimate(self._doubted, self._doubted_start)
        if found is None or not found.certain or not self._conflict(
                found, current, self._doubted_start + 0.5 * len(self._doubted)):
            return current
        self._past, self._past_start = self._doubted, self._doubted_start
        self._doubted, self._phases = self._doubted[:0], self._phases[:0]
        return found

    def _from_timing(self, samples: np.ndarray, start: int, windows: Sequence[Window], levels: Optional[Levels]
                     ) -> Optional[Sync]:
        """Sync from a separation of the windows with a prior that knows the timing alone; None where that is in vain.

        What was collected of the windows is replaced by the mixture less the interference that was separated.
        """
        m = self._modulation
        if levels is None or m["constellation"] == "16qam" or not np.all(levels.gains > 0):  # 16QAM's modulus varies
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
                if not gain > 0:
                    continue
                level = 1 / (1 + 0.5 * (noise + rest) / gain**2)
                ready = np.ones(len(whole), bool) if side is None else np.isfinite(side).all(1)
                if ready.any():
                    noisy = (whole[ready] * np.float32(math.sqrt(level) / gain)).astype(np.complex64)
                    estimates[ready] += gain * other.denoise(noisy, np.full(len(noisy), level, np.float32),
                                                             None if side is None else side[ready])
            estimates = np.where(self._pauses(whole, levels), whole, estimates)
        return self._less(samples, start, windows, estimates)

    def _pauses(self, mixture: np.ndarray, levels: Levels) -> np.ndarray:
        """Where the signal pauses in windows complex64 [W, N], bool [W, N]: what is there would hide its lines."""
        pauses = np.zeros(mixture.shape, bool)
        if not discerning(self._others) or not np.all(levels.gains > 0):
            return pauses
        ready = np.all([np.ones(len(mixture), bool) if side is None else np.isfinite(side).all(1)
                        for side in self._sides], 0)
        if ready.any():
            sides = [None if side is None else side[ready] for side in self._sides]
            left = rest(mixture[ready], self._others, sides, levels.gains[1:], levels.noise_variance)
            pauses[ready] = power_in_band(left, self._own) < PAUSE * levels.gains[0] ** 2
        return pauses

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
        ppm, doubt = 1e6 * (self.sps / sync.step - 1), 1e6 * sync.step_error
        rate = f"symbol rate off by {ppm:+.1f} ppm" + (f" (+-{doubt:.2g})" if doubt else "")
        if doubt > WORST_PPM:
            rate = f"symbol rate not known to {WORST_PPM:g} ppm in so short a stretch"
        degrees = 360 // self._synchroniser.symmetry
        return (f"first symbol at sample {first:.2f}, carrier offset {offset} "
                f"({100 * sync.frequency * sync.step:+.2f} % of the symbol rate), {rate}; "
                f"phase known up to multiples of {degrees} degrees")

    def result(self) -> dict:
        """For the report: found (bool), windows, windows_found, and where it was found the last of everything."""
        found = {"found": self.sync is not None, "windows": self.windows, "windows_found": self.found,
                 "phase_ambiguity_deg": 360 // self._synchroniser.symmetry}
        if self.sync is not None:
            found |= {"symbol_at_sample": self.sync.timing, "samples_per_symbol": self.sync.step,
                      "symbol_rate_ppm": 1e6 * (self.sps / self.sync.step - 1)
                      if 1e6 * self.sync.step_error <= WORST_PPM else None,
                      "symbol_rate_ppm_uncertainty": 1e6 * self.sync.step_error or None,
                      "frequency": self.sync.frequency, "phase_rad": self.sync.phase, "strength": self.sync.strength}
        return found

    def summary(self, sample_rate: Optional[float]) -> list[str]:
        """What was found, for people, when all is done."""
        if self.sync is None:
            return ["SOI: its timing and frequency were not found; check the modulation, the samples per symbol and "
                    f"the interference's specification; carrier offsets up to {100 * self.most_offset:.3g} % of the "
                    "symbol rate are sought, and longer captures show more"]
        return [f"SOI: {self.describe(sample_rate)}; found in {self.found} of {self.windows} windows"]


def _sound(samples: np.ndarray) -> np.ndarray:
    """The samples with broken ones replaced by zero."""
    return np.where(np.abs(samples) < ABSURD_MAGNITUDE, samples, 0).astype(np.complex64)
