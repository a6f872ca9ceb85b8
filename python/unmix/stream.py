# SPDX-License-Identifier: GPL-3.0-or-later
"""Separating a stream: samples in, separated samples out, in windows that overlap. Shared by command line and block."""

import time
from dataclasses import dataclass
from typing import Optional, Sequence, Union

import numpy as np

from .captures.formats import ABSURD_MAGNITUDE
from .estimators import Levels, LevelTracker
from .priors import Prior, PriorError
from .separators import AGREEMENT, CancelFlag, Outcome, Problem, Progress, Separation, resolve_method, separate
from .unmix_python import agreement_threshold
from .windows import Plan, Window, default_overlap

#: Outcomes of windows that were not separated: their samples pass through unchanged as the SOI, the rest is zero.
PASSED = ("untouched", "diverged", "broken_samples", "no_levels")


@dataclass(frozen=True)
class WindowReport:
    """What is known about one separated window, without any truth.

    start: its first kept sample; length: kept samples. sir_db: as re-estimated in the window. agreement: the share
    (0 .. 1) of kept symbols on which the sources' estimates explain the mixture. disagreement: what they leave
    unexplained, relative to the SOI's power. calls: of each prior. outcome: "agreed", "steps_used", ..., or one of
    PASSED. seconds: of computing.
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
    at its own place. Windows with samples that are not finite or beyond 1e18, or for which the tracker finds no levels,
    pass through, see PASSED. Raises ValueError (PriorError) at construction for impossible arguments.
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
        self.steps, self.seed, self.device, self.batch = steps, seed, device, batch
        self.cancel = cancel
        trained = {p.window for p in self.priors if p.window}
        if len(trained) > 1:
            raise PriorError(f"the priors were made for windows of different lengths: {sorted(trained)} samples")
        if window is not None and trained and window not in trained:
            name = next(p.name for p in self.priors if p.window)
            raise PriorError(f"the prior {name} was made for windows of {trained.pop()} samples, not {window}")
        self.fixed_window = bool(trained)
        length = window or (trained.pop() if trained else 2560)
        modulation = self.priors[0].modulation
        align = int(modulation["samples_per_symbol"]) if modulation else 1
        self.plan = Plan(length, default_overlap(length, align) if overlap is None else overlap, align)
        self.block = align if modulation else 16
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
        mixture = np.stack([self._cut(w, length) for w in windows])
        began = time.monotonic()
        levels = self._current_levels(windows[-1].start + length)
        whole = (np.abs(mixture) < ABSURD_MAGNITUDE).all(1)  # false for NaN
        sound = np.flatnonzero(whole) if levels is not None else np.zeros(0, int)
        separated = self._solve(mixture[sound], [windows[i] for i in sound], levels, progress) if len(sound) else None
        seconds = (time.monotonic() - began) / len(windows)

        done = len(windows)
        if separated is not None and self.cancel is not None and self.cancel.is_set():
            halted = np.isin(separated.outcomes, (int(Outcome.CANCELLED), int(Outcome.UNTOUCHED)))
            done = int(sound[np.argmax(halted)]) if halted.any() else done  # keep what is whole and gapless
            if not done:
                return None
        row = {int(place): i for i, place in enumerate(sound)}
        pieces, reports = [], []
        for i, window in enumerate(windows[:done]):
            begin, end = window.keep_from - window.start, window.keep_to - window.start
            j = row.get(i)
            if j is not None and separated.outcomes[j] not in (int(Outcome.DIVERGED), int(Outcome.UNTOUCHED)):
                scale = (separated.gains[j] * levels.gains[0]).astype(np.float32)
                pieces.append(separated.sources[:, j, begin:end] * scale[:, None])
                reports.append(self._report(window, separated, j, levels, seconds))
                continue
            kept = np.zeros((len(self.priors), end - begin), dtype=np.complex64)
            kept[0] = mixture[i, begin:end]  # the mixture rather than something broken
            pieces.append(kept)
            outcome = "broken_samples" if not whole[i] else "no_levels" if levels is None else \
                Outcome(int(separated.outcomes[j])).name.lower()
            reports.append(WindowReport(window.number, window.keep_from, end - begin,
                                        float("nan") if levels is None else levels.sir_db, 0.0, float("nan"),
                                        0 if j is None else int(separated.calls[j]), outcome, seconds))
        self._next += done
        keep_start = self.plan.regular(self._next).start
        # The last window reaches back by up to a whole window: hold that much.
        keep_start = max(self._buffer_start, min(keep_start, self._received - self.plan.window - self.plan.align))
        self._buffer = self._buffer[keep_start - self._buffer_start:]
        self._buffer_start = keep_start
        return Stretch(windows[0].keep_from, np.concatenate(pieces, axis=1), reports)

    def _current_levels(self, end: int) -> Optional[Levels]:
        """The levels for windows that end before sample `end`; a tracker is shown the stream up to there."""
        if isinstance(self.levels, Levels):
            return self.levels
        begin = max(self._surveyed, self._buffer_start)
        self._surveyed = max(self._surveyed, min(end, self._received))
        return self.levels.update(self._buffer[begin - self._buffer_start:self._surveyed - self._buffer_start])

    def _solve(self, mixture: np.ndarray, windows: list[Window], levels: Levels, progress: Optional[Progress]
               ) -> Separation:
        """Separate sound windows, complex64 [W, N] in the stream's units."""
        gain = levels.gains[0]
        problem = Problem(
            mixture / np.float32(gain), self.priors, levels.gains / gain, levels.noise_variance / gain**2,
            index=np.array([w.number for w in windows], dtype=np.uint64),
            margin=self.plan.margin if self._received > self.plan.window else 0,
            seed=self.seed, device=self.device, batch=self.batch, progress=progress, cancel=self.cancel)
        return separate(problem, self.method, self.steps)

    def _report(self, window: Window, separated: Separation, row: int, levels: Levels, seconds: float) -> WindowReport:
        begin, end = window.keep_from - window.start, window.keep_to - window.start
        blocks = separated.disagreement[row, begin // self.block:max(begin // self.block + 1, end // self.block)]
        noise = levels.noise_variance / levels.gains[0] ** 2
        threshold = agreement_threshold(AGREEMENT, float(np.median(blocks)), noise)
        gains = separated.gains[row]
        return WindowReport(
            window.number, window.keep_from, end - begin,
            -10 * float(np.log10(float(np.sum(gains[1:] ** 2) / gains[0] ** 2))), float(np.mean(blocks < threshold)),
            float(np.mean(blocks)), int(separated.calls[row]), Outcome(int(separated.outcomes[row])).name.lower(),
            seconds)
