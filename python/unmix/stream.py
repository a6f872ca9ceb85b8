# SPDX-License-Identifier: GPL-3.0-or-later
"""Separating a stream: samples in, separated samples out, in windows that overlap. Shared by command line and block."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Optional, Sequence, Union

import numpy as np

from . import presence, trackers
from .captures.formats import ABSURD_MAGNITUDE
from .estimators import Levels, LevelTracker
from .priors import Prior, PriorError
from .resume import need, whole
from .separators import AGREEMENT, CancelFlag, Outcome, Problem, Progress, Separation, resolve_method, separate
from .unmix_python import agreement_threshold
from .windows import Plan, Window, default_overlap

#: Outcomes of windows that were not separated: their samples pass through unchanged as the SOI, the rest is zero.
PASSED = ("untouched", "diverged", "broken_samples", "no_levels", "not_found", "silent")

#: Windows with less agreement are to be distrusted, and looked at whether the SOI pauses in them.
TRUST = 0.9

#: A window with less power than this share of the SOI's holds neither the SOI nor any interference: "silent".
SILENT = 0.05


@dataclass(frozen=True)
class WindowReport:
    """What is known about one separated window, without any truth.

    start: its first kept sample; length: kept samples. sir_db: as re-estimated in the window. agreement: the share
    (0 .. 1) of kept symbols on which the sources' estimates explain the mixture. disagreement: what they leave
    unexplained, relative to the SOI's power. calls: of each prior. outcome: "agreed", "steps_used", ..., "no_soi" where
    the interference alone explains all that is kept (the SOI is zero, the interference the mixture; neither SIR nor
    disagreement), "no_interference" where the levels have none (the SOI is the mixture), or one of PASSED. seconds: of
    computing. absent: kept stretches without an SOI, (first sample, samples); agreement is that of the others.
    soi_amplitude: that the SOI was taken to have, 0 without levels.
    """

    number: int
    start: int
    length: int
    sir_db: float
    agreement: float
    disagreement: float
    calls: int
    outcome: str
    seconds: float
    absent: tuple[tuple[int, int], ...] = ()
    soi_amplitude: float = 0.0

    @property
    def separated(self) -> bool:
        """Whether the window was separated at all."""
        return self.outcome not in PASSED


@dataclass(frozen=True)
class Stretch:
    """Separated samples start .. start + n: sources complex64 [K, n] in the input's units, and their windows."""

    start: int
    sources: np.ndarray
    reports: list[WindowReport]


class StreamSeparator:
    """Takes a stream apart window by window.

    priors: K >= 2, the SOI first. levels: amplitudes in the stream's units, or a tracker that estimates them from the
    stream up to the end of each batch. method, steps, seed, device, batch: see separators. window, overlap: samples
    (default: 2560, or what the priors were trained on; a tenth of it). cancel: stops a running separation within one
    step. method, steps, levels and cancel may be set between calls.

    push() takes samples and returns what is finished; finish() returns the rest. Every sample comes out exactly once,
    at its own place. Windows with samples that are not finite or beyond 1e18, for which no levels are found, or in
    which a prior's own tracker does not find its signal, pass through, see PASSED. Where a separation does not agree,
    the SOI may pause, see presence.pauses: there it is zero, and the (first) interference is the rest. Levels whose
    interference is all zero say that there is none. Raises ValueError (PriorError) at construction for impossible
    arguments.
    """

    def __init__(self, priors: Sequence[Prior], levels: Union[Levels, LevelTracker], method: str = "auto",
                 steps: Optional[int] = None, window: Optional[int] = None, overlap: Optional[int] = None,
                 seed: int = 0, device: str = "cpu", batch: int = 64, cancel: Optional[CancelFlag] = None):
        self.priors = list(priors)
        self.levels = levels
        self.method = resolve_method(method)
        if steps is not None and steps < 1:
            raise ValueError(f"{steps} steps are impossible; at least 1 is needed")
        if batch < 1:
            raise ValueError(f"a batch of {batch} windows is impossible; at least 1 is needed")
        if self.priors and self.priors[0].info["kind"] == "wifi":
            raise PriorError(f"{self.priors[0].name} cannot be the SOI; it describes interference, and the SOI is a "
                             "linear modulation such as rrc:qpsk,sync=auto or a prior file")
        if any(p.info["kind"] == "wifi" for p in self.priors[:-1]):
            raise PriorError("wifi: must be the last interference, and there can be only one; give it after the others")
        self.steps, self.seed, self.device, self.batch = steps, seed, device, batch
        self.cancel = cancel
        trained = {p.window for p in self.priors if p.window}
        if len(trained) > 1:
            raise PriorError(f"the priors were made for windows of different lengths: {sorted(trained)} samples")
        if window is not None and trained and window not in trained:
            made = next(p for p in self.priors if p.window)
            way = f"; give wifi:window={window} instead" if made.info["kind"] == "wifi" else ""
            raise PriorError(f"the prior {made.name} was made for windows of {made.window} samples, not {window}{way}")
        self.fixed_window = bool(trained)
        length = window or (trained.pop() if trained else 2560)
        modulation = self.priors[0].modulation
        symbol = int(modulation["samples_per_symbol"]) if modulation else 16
        align = symbol if modulation and self.priors[0].tracker is None else 1  # a tracker says where the symbols lie
        self.plan = Plan(length, default_overlap(length, align) if overlap is None else overlap, align)
        self.block = symbol
        #: What follows each prior's side information along the stream, or None.
        self.trackers = trackers.make(self.priors)
        for prior in self.priors:
            prior.engine(device)  # a prior that does not load on the device is refused here, not half-way
        self._buffer = np.zeros(0, dtype=np.complex64)
        self._buffer_start = 0
        self._received = 0
        self._surveyed = 0  # samples that the tracker has seen
        self._next = 0  # number of the next window

    @property
    def latency(self) -> int:
        """Samples that go in before the first come out: those of a batch of windows, and one."""
        return self.plan.window + (self.batch - 1) * self.plan.hop + 1

    @property
    def missing(self) -> int:
        """Samples that complete the batch which is being collected, >= 0."""
        return max(0, self._next * self.plan.hop + self.latency - self._received)

    def push(self, samples: np.ndarray, progress: Optional[Progress] = None, flush: bool = False
             ) -> Optional[Stretch]:
        """Take samples complex64 [n] and separate the windows that they complete, a batch or more at a time.

        flush: also separate fewer than a batch. Returns None when nothing was finished.
        """
        self._append(samples)
        complete = 0
        while self.plan.regular(self._next + complete).start + self.plan.window < self._received:
            complete += 1  # one sample more than the window: it is not the stream's last
        if complete < (1 if flush else self.batch):
            return None
        return self._separate([self.plan.regular(self._next + i) for i in range(complete)], progress)

    def finish(self, progress: Optional[Progress] = None) -> Optional[Stretch]:
        """Separate what is left at the end of the stream; None when there is nothing."""
        if not self._received:
            return None
        pending = [w for w in self.plan.windows(self._received) if w.number >= self._next]
        return self._separate(pending, progress) if pending else None

    @property
    def resumable(self) -> bool:
        """Whether state() is possible: not with trackers that cannot say what they know."""
        return all(t is None or hasattr(t, "restore") for t in self.trackers)

    def state(self) -> dict:
        """Where the stream is between two batches, for restore(); see `resumable`."""
        return {"next": self._next, "received": self._received, "buffer_start": self._buffer_start,
                "surveyed": self._surveyed,
                "levels": None if isinstance(self.levels, Levels) else self.levels.state(),
                "trackers": [None if t is None else t.state() for t in self.trackers]}

    def restore(self, state: dict, read: Callable[[int, int], np.ndarray], length: int) -> tuple[int, int]:
        """Go on with what state() said. read: gives samples by start and count; length: of the whole stream, samples.

        Returns the samples pushed and those separated so far. Raises resume.StateError, KeyError, TypeError for what
        state() cannot have answered.
        """
        received, number = whole(state["received"], 0, length), whole(state["next"])
        begin = whole(state["buffer_start"], 0, received)
        done = self.plan.regular(number).keep_from
        need(done <= received and begin <= self.plan.regular(number).start)
        need(received - begin <= self.latency + 3 * self.plan.window)
        surveyed = whole(state["surveyed"], 0, received)
        need((state["levels"] is None) == isinstance(self.levels, Levels))
        need(len(state["trackers"]) == len(self.trackers))
        if state["levels"] is not None:
            self.levels.restore(state["levels"])
        for tracker, known in zip(self.trackers, state["trackers"], strict=True):
            need((tracker is None) == (known is None))
            if tracker is not None:
                tracker.restore(known, received)
        self._next, self._received, self._buffer_start, self._surveyed = number, received, begin, surveyed
        self._buffer = np.asarray(read(begin, received - begin), dtype=np.complex64)
        return received, done

    def _append(self, samples: np.ndarray) -> None:
        self._buffer = np.concatenate([self._buffer, np.asarray(samples, dtype=np.complex64)])
        self._received += len(samples)

    def _cut(self, window: Window, length: int) -> np.ndarray:
        begin = window.start - self._buffer_start
        piece = self._buffer[begin:begin + length]
        return np.pad(piece, (0, length - len(piece)))

    def _separate(self, windows: list[Window], progress: Optional[Progress]) -> Optional[Stretch]:
        # Priors of any length take a stream shorter than a window as it is, the others padded with zeros.
        length = self.plan.window
        if self._received < length and not self.fixed_window:
            length = self._received
        exact = [replace(w, length=length) for w in windows]
        mixture = np.stack([self._cut(w, length) for w in windows])
        began = time.monotonic()
        levels = self._current_levels(windows[-1].start + length)
        whole = (np.abs(mixture) < ABSURD_MAGNITUDE).all(1)  # false for NaN
        sides = trackers.sides(self.priors, self.trackers, self._held(windows[-1].start + length), self._buffer_start,
                               exact, mixture, levels)
        found = np.ones(len(windows), dtype=bool)
        for tracker, side in zip(self.trackers, sides or [], strict=False):
            found &= tracker is None or np.isfinite(side).all(1)

        silent = np.zeros(len(windows), dtype=bool)
        if levels is not None:
            silent = whole & (np.mean(np.square(np.abs(np.where(whole[:, None], mixture, 0))), 1)
                              < SILENT * levels.gains[0] ** 2)
            found &= ~silent

        # What is not separated stays the mixture rather than something broken.
        sources = np.zeros((len(self.priors), *mixture.shape), dtype=np.complex64)
        sources[0] = mixture
        sir_db, why = (float("nan"), "no_levels") if levels is None else (levels.sir_db, "not_found")
        reports = [WindowReport(w.number, w.keep_from, w.keep_to - w.keep_from, sir_db, 0.0, float("nan"), 0,
                                "broken_samples" if not sound else "silent" if quiet else why, 0.0)
                   for w, sound, quiet in zip(windows, whole, silent, strict=True)]
        ready = np.flatnonzero(whole & found) if levels is not None else np.zeros(0, int)
        done = len(windows)
        if len(ready) and not levels.gains[1:].any():
            self._pass_soi(ready, windows, sides, levels, sources, reports)
            ready = ready[:0]
        if len(ready):
            separated = self._solve(ready, mixture, windows, sides, levels, progress)
            if self.cancel is not None and self.cancel.is_set():
                halted = np.isin(separated.outcomes, (int(Outcome.CANCELLED), int(Outcome.UNTOUCHED)))
                done = int(ready[np.argmax(halted)]) if halted.any() else done  # keep what is whole and gapless
                if not done:
                    return None
            self._store(ready, separated, windows, levels, sources, reports)
            if done == len(windows):
                self._mind_pauses(ready, mixture, windows, sides, levels, sources, reports)
        better, ready = self._learn(exact[:done], sources[:, :done], reports[:done], sides, ready)
        if len(ready) and done == len(windows):
            separated = self._solve(ready, mixture, windows, better, levels,
                                    None if progress is None else lambda fraction, count: progress(1.0, count))
            if self.cancel is None or not self.cancel.is_set():  # else the first results do
                self._store(ready, separated, windows, levels, sources, reports)
                self._mind_pauses(ready, mixture, windows, better, levels, sources, reports)
                self._learn(exact, sources, reports, better, ready)

        seconds = (time.monotonic() - began) / len(windows)
        self._next += done
        keep_start = self.plan.regular(self._next).start
        # The last window reaches back by up to a whole window: hold that much.
        keep_start = max(self._buffer_start, min(keep_start, self._received - self.plan.window - self.plan.align))
        self._buffer = self._buffer[keep_start - self._buffer_start:]
        self._buffer_start = keep_start
        pieces = [sources[:, i, w.keep_from - w.start:w.keep_to - w.start] for i, w in enumerate(windows[:done])]
        return Stretch(windows[0].keep_from, np.concatenate(pieces, axis=1),
                       [replace(r, seconds=seconds, soi_amplitude=0.0 if levels is None else float(levels.gains[0]))
                        for r in reports[:done]])

    def _current_levels(self, end: int) -> Optional[Levels]:
        """The levels for windows that end before sample `end`; a tracker is shown the stream up to there."""
        if isinstance(self.levels, Levels):
            return self.levels
        begin = max(self._surveyed, self._buffer_start)
        self._surveyed = max(self._surveyed, min(end, self._received))
        fresh = self._buffer[begin - self._buffer_start:self._surveyed - self._buffer_start]
        left = None
        if presence.discerning(self.priors[1:]):
            piece = max(0, min(begin, self._surveyed - self.plan.window) - self._buffer_start)  # a window at least
            held = self._buffer[piece:self._surveyed - self._buffer_start]

            def left(rough: Levels) -> np.ndarray:
                power = presence.unexplained(held, self.plan, self.priors, rough, self.device)
                return power[len(held) - len(fresh):]
        levels = self.levels.update(fresh, trackers.spectra(self.priors, self.trackers), left)
        if levels is not None and any(hasattr(t, "psd") and t.psd(64) is None for t in self.trackers):
            known = self.listen(self._held(end), levels)
            levels = levels if known is None else self.levels.update(fresh[:0], known) or levels
        return levels

    def listen(self, samples: np.ndarray, levels: Levels) -> Optional[Callable[[int], list[np.ndarray]]]:
        """Spectra that trackers measure in samples complex64 [n] of the stream, as far as needed, for estimate_levels.

        levels: rough ones. The stream's own trackers do not take part. None where no tracker measures a spectrum.
        """
        scouts = [t if hasattr(t, "psd") else None for t in trackers.make(self.priors)]
        for held, start, group in trackers.groups(self.plan, samples) if any(scouts) else ():
            for scout in (s for s in scouts if s is not None):
                scout.side(held, start, group, levels)
            if all(s is None or s.psd(64) is not None for s in scouts):
                break
        measured = any(s is not None and s.psd(64) is not None for s in scouts)
        return trackers.spectra(self.priors, scouts) if measured else None

    def survey(self, samples: np.ndarray, levels: Levels) -> None:
        """Let trackers that can look ahead do so, before anything is pushed: samples complex64, the stream's first."""
        if not any(hasattr(t, "adopt") for t in self.trackers) or not len(samples):
            return
        scouts = trackers.make(self.priors)
        for held, start, group in trackers.groups(self.plan, samples):
            mixture = np.stack([held[w.start - start:w.start - start + w.length] for w in group])
            trackers.sides(self.priors, scouts, held, start, group, mixture, levels)
            if all(t.settled for t in scouts if hasattr(t, "adopt")):
                break
        for tracker, scout in zip(self.trackers, scouts, strict=True):
            if hasattr(tracker, "adopt"):
                tracker.adopt(scout)

    def _held(self, end: int) -> np.ndarray:
        """The stream from what is held of it up to sample `end`, with zeros beyond its own end."""
        end -= self._buffer_start
        return np.pad(self._buffer[:end], (0, max(0, end - len(self._buffer))))

    def _learn(self, windows: list[Window], sources: np.ndarray, reports: list[WindowReport],
               sides: Optional[list[Optional[np.ndarray]]], ready: np.ndarray
               ) -> tuple[Optional[list[Optional[np.ndarray]]], np.ndarray]:
        """Show the trackers what came of their side information.

        Returns better side information, and which of the windows in `ready` should be separated again with it.
        """
        better, again = sides, np.zeros(0, int)
        for i, tracker in enumerate(self.trackers):
            answer = tracker.learn(windows, sources, reports) if hasattr(tracker, "learn") else None
            if answer is None:
                continue
            better = list(better)
            given = np.isfinite(answer).all(1)
            better[i] = better[i].copy()
            better[i][:len(given)][given] = answer[given]
            again = np.union1d(again, np.intersect1d(ready, np.flatnonzero(given)))
        return better, again

    def _store(self, ready: np.ndarray, separated: Separation, windows: list[Window], levels: Levels,
               sources: np.ndarray, reports: list[WindowReport], off: Optional[dict[int, np.ndarray]] = None) -> None:
        """Write what came of the windows `ready` to sources [K, W, N], in the stream's units, and reports [W].

        off: by window, the samples bool [N] that do not count for its report.
        """
        for row, i in enumerate(ready):
            if separated.outcomes[row] in (int(Outcome.DIVERGED), int(Outcome.UNTOUCHED)):
                outcome = Outcome(int(separated.outcomes[row])).name.lower()
                reports[i] = replace(reports[i], calls=int(separated.calls[row]), outcome=outcome)
                continue
            scale = (separated.gains[row] * levels.gains[0]).astype(np.float32)
            sources[:, i] = separated.sources[:, row] * scale[:, None]
            reports[i] = self._report(windows[i], separated, row, levels, None if off is None else off[i])

    def _pass_soi(self, ready: np.ndarray, windows: list[Window], sides: Optional[list[Optional[np.ndarray]]],
                  levels: Levels, sources: np.ndarray, reports: list[WindowReport]) -> None:
        """Report windows without interference, whose samples are the SOI: agreement is that with its prior."""
        prior, scale = self.priors[0], np.float32(levels.gains[0])
        mixture, noise = sources[0, ready] / scale, levels.noise_variance / levels.gains[0] ** 2
        side = prior.side_information(mixture, self.priors[1:]) if sides is None or sides[0] is None else \
            sides[0][ready]
        level = 1 / (1 + max(presence.VARIANCE, 0.5 * noise))
        estimate = prior.engine(self.device).denoise(
            (mixture * np.float32(level**0.5)).astype(np.complex64), np.full(len(ready), level, np.float32), side)
        count = mixture.shape[1] // self.block
        error = np.square(np.abs(mixture - estimate))[:, :count * self.block].reshape(len(ready), count, -1).mean(2)
        nothing = Separation(sources[:, ready], np.tile(np.eye(1, len(self.priors), dtype=np.float32), (len(ready), 1)),
                             error, np.ones(len(ready), np.int32), np.full(len(ready), int(Outcome.AGREED)))
        for row, i in enumerate(ready):
            reports[i] = replace(self._report(windows[i], nothing, row, levels), outcome="no_interference")

    def _mind_pauses(self, ready: np.ndarray, mixture: np.ndarray, windows: list[Window],
                     sides: Optional[list[Optional[np.ndarray]]], levels: Levels, sources: np.ndarray,
                     reports: list[WindowReport]) -> None:
        """Look where the SOI pauses in those windows of `ready` that do not agree, and set sources and reports right.

        A window in which it pauses for a part is separated again, with the first separation's SOI added there: then it
        is what the priors expect, and the rest agrees.
        """
        doubted = np.array([i for i in ready if reports[i].separated and reports[i].agreement < TRUST], int)
        if self.method == "matched-filter" or not len(doubted):
            return
        known = [None if s is None else s[doubted] for s in sides or [None] * len(self.priors)]
        for k, prior in enumerate(self.priors):
            if known[k] is None and prior.tracker is None:
                known[k] = prior.side_information(mixture[doubted], [o for o in self.priors if o is not prior])
        off = presence.pauses(mixture[doubted], sources[0, doubted], self.priors, known, levels.gains,
                              levels.noise_variance, self.device)
        kept = [slice(w.keep_from - w.start, w.keep_to - w.start) for w in windows]
        presence.drop_shreds({int(i): off[row, kept[i]] for row, i in enumerate(doubted)}, len(windows),
                             presence.smoothing(self.priors[0]) // 2)
        whole = np.array([off[row, kept[i]].all() for row, i in enumerate(doubted)])
        partly = np.flatnonzero(off.any(1) & ~whole)
        if len(partly):
            again = doubted[partly]
            filled = mixture.copy()
            filled[again] += np.where(off[partly], sources[0, again], 0)
            separated = self._solve(again, filled, windows, sides, levels, None)
            if self.cancel is None or not self.cancel.is_set():
                self._store(again, separated, windows, levels, sources, reports,
                            {i: off[row] for row, i in zip(partly, again, strict=True)})
        for row, i in enumerate(doubted):
            sources[0, i, off[row]] = 0
            sources[1, i, off[row]] = (mixture[i] - sources[2:, i].sum(0))[off[row]]
            absent = tuple((windows[i].keep_from + a, n) for a, n in presence.runs(off[row, kept[i]]))
            reports[i] = replace(reports[i], absent=absent)
            if whole[row]:
                reports[i] = replace(reports[i], outcome="no_soi", agreement=1.0, sir_db=float("nan"),
                                     disagreement=float("nan"))

    def _solve(self, ready: np.ndarray, mixture: np.ndarray, windows: list[Window],
               sides: Optional[list[Optional[np.ndarray]]], levels: Levels, progress: Optional[Progress]
               ) -> Separation:
        """Separate the windows `ready` of the mixture, complex64 [W, N] in the stream's units."""
        gain = levels.gains[0]
        mixture, windows = mixture[ready], [windows[i] for i in ready]
        side = None if sides is None else [None if s is None else s[ready] for s in sides]
        problem = Problem(
            mixture / np.float32(gain), self.priors, levels.gains / gain, levels.noise_variance / gain**2, side=side,
            index=np.array([w.number for w in windows], dtype=np.uint64),
            margin=self.plan.margin if self._received > self.plan.window else 0,
            seed=self.seed, device=self.device, batch=self.batch, progress=progress, cancel=self.cancel)
        return separate(problem, self.method, self.steps)

    def _report(self, window: Window, separated: Separation, row: int, levels: Levels,
                off: Optional[np.ndarray] = None) -> WindowReport:
        begin, end = window.keep_from - window.start, window.keep_to - window.start
        first, last = begin // self.block, max(begin // self.block + 1, end // self.block)
        blocks = separated.disagreement[row, first:last]
        if off is not None:
            counted = [not off[b * self.block:(b + 1) * self.block].any() for b in range(first, first + len(blocks))]
            blocks = blocks[counted] if any(counted) else blocks
        noise = levels.noise_variance / levels.gains[0] ** 2
        threshold = agreement_threshold(AGREEMENT, float(np.median(blocks)), noise)
        gains = separated.gains[row]
        return WindowReport(
            window.number, window.keep_from, end - begin,
            Levels(gains, 0.0).sir_db, float(np.mean(blocks < threshold)),
            float(np.mean(blocks)), int(separated.calls[row]), Outcome(int(separated.outcomes[row])).name.lower(),
            0.0)
