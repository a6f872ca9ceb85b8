# SPDX-License-Identifier: GPL-3.0-or-later
"""Separating a stream: samples in, separated samples out, in windows that overlap. Shared by command line and block."""

import time
from dataclasses import dataclass
from typing import Optional, Sequence

import numpy as np

from .estimators import Levels
from .priors import Prior, PriorError
from .separators import AGREEMENT, CancelFlag, Outcome, Problem, Progress, resolve_method, separate
from .unmix_python import agreement_threshold
from .windows import Plan, Window, default_overlap


@dataclass(frozen=True)
class WindowReport:
    """What is known about one separated window, without any truth.

    start: its first kept sample; length: kept samples. sir_db: as re-estimated in the window. agreement: the share
    (0 .. 1) of kept symbols on which the sources' estimates explain the mixture. disagreement: what they leave
    unexplained, relative to the SOI's power. calls: of each prior. outcome: "agreed", "steps_used", ... seconds: of
    computing.
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


@dataclass(frozen=True)
class Stretch:
    """Separated samples start .. start + n: sources complex64 [K, n] in the input's units, and their windows."""

    start: int
    sources: np.ndarray
    reports: list[WindowReport]


class StreamSeparator:
    """Takes a stream apart window by window.

    priors: K >= 2, the SOI first. levels: amplitudes in the stream's units. method, steps, seed, device, batch: see
    separators. window, overlap: samples (default: 2560, or what the priors were trained on; a tenth of it).
    cancel: stops a running separation within one step.

    push() takes samples and returns what is finished; finish() returns the rest. Every sample comes out exactly once,
    at its own place. Raises ValueError (PriorError) at construction for impossible arguments.
    """

    def __init__(self, priors: Sequence[Prior], levels: Levels, method: str = "auto", steps: Optional[int] = None,
                 window: Optional[int] = None, overlap: Optional[int] = None, seed: int = 0, device: str = "cpu",
                 batch: int = 64, cancel: Optional[CancelFlag] = None):
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
        self._next = 0  # number of the next window

    @property
    def latency(self) -> int:
        """Samples that are held back before a window can be separated."""
        return self.plan.window

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
        gain = self.levels.gains[0]
        mixture = np.stack([self._cut(w, length) for w in windows]) / np.float32(gain)
        began = time.monotonic()
        problem = Problem(
            mixture, self.priors, self.levels.gains / gain, self.levels.noise_variance / gain**2,
            index=np.array([w.number for w in windows], dtype=np.uint64),
            margin=self.plan.margin if self._received > self.plan.window else 0,
            seed=self.seed, device=self.device, batch=self.batch, progress=progress, cancel=self.cancel)
        result = separate(problem, self.method, self.steps)
        seconds = (time.monotonic() - began) / len(windows)

        unseparated = np.isin(result.outcomes, (int(Outcome.DIVERGED), int(Outcome.UNTOUCHED)))
        done = len(windows)
        if self.cancel is not None and self.cancel.is_set():
            halted = np.isin(result.outcomes, (int(Outcome.CANCELLED), int(Outcome.UNTOUCHED)))
            done = int(np.argmax(halted)) if halted.any() else done  # keep what is whole and gapless
            if not done:
                return None
        pieces, reports = [], []
        noise = self.levels.noise_variance / gain**2
        for i, window in enumerate(windows[:done]):
            begin, end = window.keep_from - window.start, window.keep_to - window.start
            if unseparated[i]:  # pass the mixture through rather than something broken
                kept = np.zeros((len(self.priors), end - begin), dtype=np.complex64)
                kept[0] = mixture[i, begin:end] * np.float32(gain)
            else:
                scale = (result.gains[i] * gain).astype(np.float32)
                kept = result.sources[:, i, begin:end] * scale[:, None]
            pieces.append(kept)
            blocks = result.disagreement[i, begin // self.block:max(begin // self.block + 1, end // self.block)]
            threshold = agreement_threshold(AGREEMENT, float(np.median(blocks)), noise)
            ratio = float(np.sum(result.gains[i, 1:] ** 2) / result.gains[i, 0] ** 2)
            reports.append(WindowReport(
                window.number, window.keep_from, end - begin, -10 * float(np.log10(ratio)),
                float(np.mean(blocks < threshold)), float(np.mean(blocks)), int(result.calls[i]),
                Outcome(int(result.outcomes[i])).name.lower(), seconds))
        self._next += done
        keep_start = self.plan.regular(self._next).start
        # The last window reaches back by up to a whole window: hold that much.
        keep_start = max(self._buffer_start, min(keep_start, self._received - self.plan.window - self.plan.align))
        self._buffer = self._buffer[keep_start - self._buffer_start:]
        self._buffer_start = keep_start
        return Stretch(windows[0].keep_from, np.concatenate(pieces, axis=1), reports)
