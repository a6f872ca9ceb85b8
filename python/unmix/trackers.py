# SPDX-License-Identifier: GPL-3.0-or-later
"""What a prior needs to know about each window of a stream, followed from batch to batch: StreamSeparator's hook."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Optional, Protocol

import numpy as np

from .captures.formats import ABSURD_MAGNITUDE

if TYPE_CHECKING:
    from .estimators import Levels
    from .priors import Prior
    from .windows import Plan, Window


class Tracker(Protocol):
    """Side information of one prior along one stream. A prior makes one per stream, see Prior.tracker.

    A tracker may also have these methods, which are called where they exist:
        meet(others: Sequence[Prior]): once, at the beginning, with the priors of the other sources, in order.
        hear(sides): before each side(), with the side information of the others for the same windows, in order, float32
            [W, P]; None where there is none. Trackers that hear are asked after those that do not.
        learn(windows, sources, reports): after each batch's separation, with sources complex64 [K, W, N] (whole
            windows, in the stream's units, the SOI first) and a WindowReport per window. Windows that passed through
            hold the mixture as the SOI; `report.separated` is false for them. It may answer better side information
            float32 [W, P], NaN for windows that are well as they are: the others are separated once more, and learn is
            called again.
        adopt(scout): before the stream begins, with another tracker of the kind that has seen the stream's first
            samples, until its `settled` (bool) was true or there were no more, see StreamSeparator.survey.
        psd(bins): the power spectral density that it has measured so far, FFT order, float64 [bins], mean 1; None
            before it has. Levels are then estimated with it instead of Prior.psd, see spectra().
        result(), summary(): what was found, as a dict for the report and as lines for people.
        state(), restore(state, position): everything that it knows between two batches, as a dict that resume.pack can
            store (what is in it must not change later), and going on with it at sample `position` of the stream, which
            raises resume.StateError, KeyError or TypeError for what state() cannot have answered. Without them a
            separation with it cannot be continued after it was cut short.
    """

    def side(self, samples: np.ndarray, start: int, windows: Sequence["Window"], levels: Optional["Levels"]
             ) -> np.ndarray:
        """Side information float32 [W, P] of a batch of windows; batches come in order, none twice.

        samples: complex64, the stream from sample `start` on: what is still held from before the windows, and the
        windows (with zeros beyond the stream's end); broken ones are not taken out. windows: their `length` is what
        will be separated. levels: None where none are known; the windows will then pass through whatever is answered.
        A row that is not finite says that the prior's signal was not found: the window passes through, "not_found".
        """


def make(priors: Sequence["Prior"]) -> list[Optional[Tracker]]:
    """The trackers of a stream's priors, None for those that have none."""
    trackers = [None if p.tracker is None else p.tracker() for p in priors]
    for own, tracker in zip(priors, trackers, strict=True):
        if hasattr(tracker, "meet"):
            tracker.meet([p for p in priors if p is not own])
    return trackers


def spectra(priors: Sequence["Prior"], trackers: Sequence[Optional[Tracker]]) -> Callable[[int], list[np.ndarray]]:
    """What estimators.estimate_levels takes for the sources' shapes: measured spectra, and the priors' where none is.

    The function that it gives answers psd(bins) of each source; it raises PriorError where there is no spectrum.
    """
    def psd(bins: int) -> list[np.ndarray]:
        measured = [t.psd(bins) if hasattr(t, "psd") else None for t in trackers]
        return [p.psd(bins) if own is None else own for p, own in zip(priors, measured, strict=True)]
    return psd


def sides(priors: Sequence["Prior"], trackers: Sequence[Optional[Tracker]], samples: np.ndarray, start: int,
          windows: Sequence["Window"], mixture: np.ndarray, levels: Optional["Levels"]
          ) -> Optional[list[Optional[np.ndarray]]]:
    """Side information per prior: the trackers', or what the windows show; None where there is no tracker at all.

    samples, start, windows, levels: see Tracker.side. mixture: the windows, complex64 [W, N]. Trackers that want to
    hear of the others come last.
    """
    if not any(trackers):
        return None
    found: list[Optional[np.ndarray]] = [None] * len(trackers)
    for i in sorted(range(len(trackers)), key=lambda i: hasattr(trackers[i], "hear")):
        prior, tracker = priors[i], trackers[i]
        if tracker is None:
            gain = 1.0 if levels is None else levels.gains[0]
            sound = np.where(np.abs(mixture) < ABSURD_MAGNITUDE, mixture, 0) / np.float32(gain)
            found[i] = prior.side_information(sound, [o for o in priors if o is not prior])
            continue
        if levels is not None and not levels.gains[i] > 0:  # not there, so that there is nothing to follow
            found[i] = np.zeros((len(windows), len(prior.info["side"])), np.float32)
            continue
        if hasattr(tracker, "hear"):
            tracker.hear([side for j, side in enumerate(found) if j != i])
        found[i] = np.asarray(tracker.side(samples, start, windows, levels), dtype=np.float32)
    return found


def groups(plan: "Plan", samples: np.ndarray) -> Iterator[tuple[np.ndarray, int, list["Window"]]]:
    """The windows of samples complex64 [n], 64 at a time, as Tracker.side takes them: samples, their start, windows."""
    windows = list(plan.windows(len(samples)))
    for begin in range(0, len(windows), 64):
        group = windows[begin:begin + 64]
        start, end = group[0].start, group[-1].start + plan.window
        yield np.pad(samples[start:end], (0, max(0, end - len(samples)))), start, group
