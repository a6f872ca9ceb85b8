# SPDX-License-Identifier: GPL-3.0-or-later
"""Separating a stream: samples in, separated samples out, in windows that overlap. Shared by command line and block."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Optional, Sequence, Union

import numpy as np

from . import presence, trackers
from .estimators import Levels, LevelTracker
from .priors import Prior, PriorError
from .resume import need, whole
from .separators import CancelFlag, Progress, resolve_method
from .stream_batch import PASSED, SILENT, TRUST, Batch, Setup, Stretch, WindowReport
from .windows import Plan, Window, default_overlap

__all__ = ["PASSED", "SILENT", "TRUST", "Plan", "StreamSeparator", "Stretch", "WindowReport", "default_overlap"]


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
    interference is all zero say that there is none. Where a tracker finds levels that the method refuses, windows pass
    through too, and `refusal` says why it did so the last time ("" where it never did). Raises ValueError (PriorError)
    at construction for impossible arguments.
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
        self.refusal = ""
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
        self._buffer = np.concatenate([self._buffer, np.asarray(samples, dtype=np.complex64)])
        self._received += len(samples)
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

    def _separate(self, windows: list[Window], progress: Optional[Progress]) -> Optional[Stretch]:
        # Priors of any length take a stream shorter than a window as it is, the others padded with zeros.
        length = self.plan.window if self.fixed_window else min(self.plan.window, self._received)
        windows = [replace(w, length=length) for w in windows]
        start, end = self._buffer_start, windows[-1].start + length
        held = self._held(end)
        mixture = np.stack([held[w.start - start:w.start - start + length] for w in windows])
        began = time.monotonic()
        levels = self._current_levels(end)
        sides = trackers.sides(self.priors, self.trackers, held, start, windows, mixture, levels)
        margin = self.plan.margin if self._received > self.plan.window else 0
        setup = Setup(self.priors, self.method, self.steps, self.seed, self.device, self.batch, margin, self.block,
                      not isinstance(self.levels, Levels), self.cancel)
        batch = Batch(setup, windows, mixture, levels, sides)
        batch.separate(self.trackers, progress)
        self.refusal = batch.refusal or self.refusal
        if not batch.done:
            return None
        seconds = (time.monotonic() - began) / len(windows)
        self._go_on(batch.done)
        return batch.stretch(seconds)

    def _go_on(self, done: int) -> None:
        """Let go of what so many finished windows alone needed."""
        self._next += done
        keep_start = self.plan.regular(self._next).start
        # The last window reaches back by up to a whole window: hold that much.
        keep_start = max(self._buffer_start, min(keep_start, self._received - self.plan.window - self.plan.align))
        self._buffer = self._buffer[keep_start - self._buffer_start:]
        self._buffer_start = keep_start

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
