# SPDX-License-Identifier: GPL-3.0-or-later
"""One batch of a stream's windows: its separation, what is said of each window, and where the SOI pauses."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Optional

import numpy as np

from . import presence
from .captures.formats import ABSURD_MAGNITUDE
from .estimators import Levels
from .priors import Prior
from .separators import AGREEMENT, CancelFlag, LevelsRefused, Outcome, Problem, Progress, Separation, separate
from .trackers import Tracker
from .unmix_python import agreement_threshold
from .windows import Window

#: Outcomes of windows that were not separated: their samples pass through unchanged as the SOI, the rest is zero.
PASSED = ("untouched", "diverged", "broken_samples", "no_levels", "not_found", "silent", "refused")

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


@dataclass(frozen=True)
class Setup:
    """How the windows of a batch are separated, see StreamSeparator and separators.Problem.

    block: samples of an SOI symbol. levels_change: whether other batches may have other levels.
    """

    priors: Sequence[Prior]
    method: str
    steps: Optional[int]
    seed: int
    device: str
    batch: int
    margin: int
    block: int
    levels_change: bool
    cancel: Optional[CancelFlag]

    @property
    def cancelled(self) -> bool:
        """Whether the separation is to stop."""
        return self.cancel is not None and self.cancel.is_set()


class Batch:
    """W windows of N samples that are separated together, and what came of them.

    mixture: complex64 [W, N] in the stream's units. levels: None where none are known; then every window passes
    through. sides: side information of each prior, float32 [W, P] or None; None where no prior has a tracker.

    separate() fills sources, complex64 [K, W, N] in the stream's units, and reports [W]; the first `done` windows are
    finished, all W unless it was cancelled. refusal: what the method said where it refused the levels, else "".
    chosen: some of the windows, by their places i = 0 .. W - 1 in the batch. row: a place among those.
    """

    def __init__(self, setup: Setup, windows: list[Window], mixture: np.ndarray, levels: Optional[Levels],
                 sides: Optional[list[Optional[np.ndarray]]]):
        self.setup, self.windows, self.mixture, self.levels, self.sides = setup, windows, mixture, levels, sides
        self.done, self.refusal = len(windows), ""
        self._kept = [slice(w.keep_from - w.start, w.keep_to - w.start) for w in windows]
        self.reports: list[WindowReport] = []
        # What is not separated stays the mixture rather than something broken.
        self.sources = np.zeros((len(setup.priors), *mixture.shape), dtype=np.complex64)
        self.sources[0] = mixture

    def separate(self, trackers: Sequence[Optional[Tracker]], progress: Optional[Progress]) -> None:
        """Separate the windows, show the trackers what came of it, and separate again where they then know better.

        trackers: of the priors, those that gave the side information. Windows whose levels the method refuses pass
        through where levels change; elsewhere that is an error.
        """
        ready = self._sort_out(trackers)
        if len(ready) and not self.levels.gains[1:].any():
            self._pass_soi(ready)
            ready = ready[:0]
        separated = None
        if len(ready):
            try:
                separated = self._solve(ready, self.mixture[ready], progress)
            except LevelsRefused as error:
                if not self.setup.levels_change:
                    raise
                self._refuse(ready, str(error))
                ready = ready[:0]
        if separated is not None:
            if self.setup.cancelled:
                halted = np.isin(separated.outcomes, (int(Outcome.CANCELLED), int(Outcome.UNTOUCHED)))
                if halted.any():
                    self.done = int(ready[np.argmax(halted)])  # keep what is whole and gapless
                if not self.done:
                    return
            self._store(ready, separated)
            if self.done == len(self.windows):
                self._mind_pauses(ready)
        again = self._learn(trackers, ready)
        if len(again) and self.done == len(self.windows):
            separated = self._solve(again, self.mixture[again],
                                    None if progress is None else lambda fraction, count: progress(1.0, count))
            if not self.setup.cancelled:  # else the first results do
                self._store(again, separated)
                self._mind_pauses(again)
                self._learn(trackers, again)

    def _refuse(self, chosen: np.ndarray, why: str) -> None:
        """Let the chosen windows pass through."""
        self.refusal = why
        for i in chosen:
            self.reports[i] = replace(self.reports[i], outcome="refused")

    def stretch(self, seconds: float) -> Stretch:
        """What is finished. seconds: of computing, for each window."""
        amplitude = 0.0 if self.levels is None else float(self.levels.gains[0])
        pieces = [self.sources[:, i, kept] for i, kept in enumerate(self._kept[:self.done])]
        return Stretch(self.windows[0].keep_from, np.concatenate(pieces, axis=1),
                       [replace(r, seconds=seconds, soi_amplitude=amplitude) for r in self.reports[:self.done]])

    def _sort_out(self, trackers: Sequence[Optional[Tracker]]) -> np.ndarray:
        """Report every window as one that passes through; returns the places of those that can be separated."""
        whole = (np.abs(self.mixture) < ABSURD_MAGNITUDE).all(1)  # false for NaN
        found = np.ones(len(self.windows), dtype=bool)
        for tracker, side in zip(trackers, self.sides or [], strict=False):
            found &= tracker is None or np.isfinite(side).all(1)
        silent = np.zeros(len(self.windows), dtype=bool)
        sir_db, why = float("nan"), "no_levels"
        if self.levels is not None:
            sir_db, why = self.levels.sir_db, "not_found"
            power = np.mean(np.square(np.abs(np.where(whole[:, None], self.mixture, 0))), 1)
            silent = whole & (power < SILENT * self.levels.gains[0] ** 2)
        self.reports = [WindowReport(w.number, w.keep_from, w.keep_to - w.keep_from, sir_db, 0.0, float("nan"), 0,
                                     "broken_samples" if not sound else "silent" if quiet else why, 0.0)
                        for w, sound, quiet in zip(self.windows, whole, silent, strict=True)]
        return np.flatnonzero(whole & found & ~silent) if self.levels is not None else np.zeros(0, int)

    def _pass_soi(self, chosen: np.ndarray) -> None:
        """Report windows without interference, whose samples are the SOI: agreement is that with its prior."""
        prior, block, gain = self.setup.priors[0], self.setup.block, self.levels.gains[0]
        mixture, noise = self.mixture[chosen] / np.float32(gain), self.levels.noise_variance / gain**2
        side = prior.side_information(mixture, self.setup.priors[1:]) if self.sides is None or self.sides[0] is None \
            else self.sides[0][chosen]
        level = 1 / (1 + max(presence.VARIANCE, 0.5 * noise))
        estimate = prior.engine(self.setup.device).denoise(
            (mixture * np.float32(level**0.5)).astype(np.complex64), np.full(len(chosen), level, np.float32), side)
        count = mixture.shape[1] // block
        error = np.square(np.abs(mixture - estimate))[:, :count * block].reshape(len(chosen), count, -1).mean(2)
        alone = np.eye(1, len(self.setup.priors), dtype=np.float32)
        nothing = Separation(self.sources[:, chosen], np.tile(alone, (len(chosen), 1)), error,
                             np.ones(len(chosen), np.int32), np.full(len(chosen), int(Outcome.AGREED)))
        for row, i in enumerate(chosen):
            self.reports[i] = replace(self._report(i, nothing, row), outcome="no_interference")

    def _solve(self, chosen: np.ndarray, mixture: np.ndarray, progress: Optional[Progress] = None) -> Separation:
        """Separate the chosen windows, of which a mixture complex64 [rows, N] in the stream's units is given."""
        gain, setup = self.levels.gains[0], self.setup
        problem = Problem(
            mixture / np.float32(gain), setup.priors, self.levels.gains / gain, self.levels.noise_variance / gain**2,
            side=None if self.sides is None else [None if s is None else s[chosen] for s in self.sides],
            index=np.array([self.windows[i].number for i in chosen], dtype=np.uint64), margin=setup.margin,
            seed=setup.seed, device=setup.device, batch=setup.batch, progress=progress, cancel=setup.cancel)
        return separate(problem, setup.method, setup.steps)

    def _store(self, chosen: np.ndarray, separated: Separation, off: Optional[np.ndarray] = None) -> None:
        """Take over what came of the chosen windows. off: samples, bool [rows, N], that do not count for reports."""
        for row, i in enumerate(chosen):
            if separated.outcomes[row] in (int(Outcome.DIVERGED), int(Outcome.UNTOUCHED)):
                outcome = Outcome(int(separated.outcomes[row])).name.lower()
                self.reports[i] = replace(self.reports[i], calls=int(separated.calls[row]), outcome=outcome)
                continue
            scale = (separated.gains[row] * self.levels.gains[0]).astype(np.float32)
            self.sources[:, i] = separated.sources[:, row] * scale[:, None]
            self.reports[i] = self._report(i, separated, row, None if off is None else off[row])

    def _mind_pauses(self, chosen: np.ndarray) -> None:
        """Look where the SOI pauses in chosen windows that do not agree, and set their sources and reports right.

        A window in which it pauses for a part is separated again, with the first separation's SOI added there: then it
        is what the priors expect, and the rest agrees.
        """
        setup, sources = self.setup, self.sources
        doubted = np.array([i for i in chosen if self.reports[i].separated and self.reports[i].agreement < TRUST], int)
        if setup.method == "matched-filter" or not len(doubted):
            return
        mixture = self.mixture[doubted]
        sides = [None if s is None else s[doubted] for s in self.sides or [None] * len(setup.priors)]
        for k, prior in enumerate(setup.priors):
            if sides[k] is None and prior.tracker is None:
                sides[k] = prior.side_information(mixture, [o for o in setup.priors if o is not prior])
        off = presence.pauses(mixture, sources[0, doubted], setup.priors, sides, self.levels.gains,
                              self.levels.noise_variance, setup.device)
        kept = [off[row, self._kept[i]] for row, i in enumerate(doubted)]  # views: dropping shreds changes off
        presence.drop_shreds({int(i): own for i, own in zip(doubted, kept, strict=True)}, len(self.windows),
                             presence.smoothing(setup.priors[0]) // 2)
        whole = np.array([own.all() for own in kept])
        partly = np.flatnonzero(off.any(1) & ~whole)
        if len(partly):
            again = doubted[partly]
            separated = self._solve(again, mixture[partly] + np.where(off[partly], sources[0, again], 0))
            if not setup.cancelled:
                self._store(again, separated, off[partly])
        for row, i in enumerate(doubted):
            sources[0, i, off[row]] = 0
            sources[1, i, off[row]] = (self.mixture[i] - sources[2:, i].sum(0))[off[row]]
            absent = tuple((self.windows[i].keep_from + a, n) for a, n in presence.runs(kept[row]))
            self.reports[i] = replace(self.reports[i], absent=absent)
            if whole[row]:
                self.reports[i] = replace(self.reports[i], outcome="no_soi", agreement=1.0, sir_db=float("nan"),
                                          disagreement=float("nan"))

    def _learn(self, trackers: Sequence[Optional[Tracker]], chosen: np.ndarray) -> np.ndarray:
        """Show the trackers what came of their side information, and take over better one that they answer.

        Returns the places of those of the chosen windows that should be separated again with it.
        """
        again = np.zeros(0, int)
        for i, tracker in enumerate(trackers):
            answer = tracker.learn(self.windows[:self.done], self.sources[:, :self.done], self.reports[:self.done]) \
                if hasattr(tracker, "learn") else None
            if answer is None:
                continue
            given = np.flatnonzero(np.isfinite(answer).all(1))
            self.sides[i] = self.sides[i].copy()  # the tracker may hold the other
            self.sides[i][given] = answer[given]
            again = np.union1d(again, np.intersect1d(chosen, given))
        return again

    def _report(self, i: int, separated: Separation, row: int, off: Optional[np.ndarray] = None) -> WindowReport:
        """On window i of the batch, which is the `row`-th of those separated; off: bool [N], see _store."""
        window, kept, block = self.windows[i], self._kept[i], self.setup.block
        first, last = kept.start // block, max(kept.start // block + 1, kept.stop // block)
        blocks = separated.disagreement[row, first:last]
        if off is not None:
            counted = [not off[b * block:(b + 1) * block].any() for b in range(first, first + len(blocks))]
            blocks = blocks[counted] if any(counted) else blocks
        noise = self.levels.noise_variance / self.levels.gains[0] ** 2
        threshold = agreement_threshold(AGREEMENT, float(np.median(blocks)), noise)
        return WindowReport(
            window.number, window.keep_from, window.keep_to - window.keep_from,
            Levels(separated.gains[row], 0.0).sir_db, float(np.mean(blocks < threshold)), float(np.mean(blocks)),
            int(separated.calls[row]), Outcome(int(separated.outcomes[row])).name.lower(), 0.0)
