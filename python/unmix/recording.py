# SPDX-License-Identifier: GPL-3.0-or-later
"""Separating one recording from file to files: open, check, estimate levels, stream through, write, report.

recording_setup: what is asked for. recording_state: continuing an earlier run. report: what is said in the end.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Optional

import numpy as np

from . import priors, recording_setup, report
from .calibration import LevelsError, capture_levels, soi_evidence
from .captures import CaptureError, check_not_constant, open_capture
from .estimators import Levels, LevelTracker
from .front_end import CorrectedCapture, estimate_front_end
from .memory import out_of_memory
from .outputs import Outputs, files_behind, files_of_prior, state_path, stem_of, write_text
from .priors import PriorError
from .quality import Quality, Reference
from .recording_setup import DEFAULT_INTERFERENCE, DEFAULT_SOI, Cancelled, Opened, RecordingError, Settings
from .recording_state import RecordingState
from .resume import StateError
from .separators import CancelFlag, MethodError
from .settings import check_settings, choose_device
from .soi_sync import FALSE_ALARM
from .soi_tracker import SoiTracker
from .stream import StreamSeparator, Stretch
from .survey import scan

__all__ = ["DEFAULT_INTERFERENCE", "DEFAULT_SOI", "Cancelled", "Recording", "RecordingError", "Settings",
           "separate_recording"]

#: Samples of memory of levels that are followed, memories from which on a capture has them followed, and windows after
#: which they are estimated again: fades of 4 dB either way within 22 memories are followed so that all windows agree.
MEMORY, LONG, FRESH = 32 * 2304, 8, 16
#: Seconds after which the state is saved again, at the end of a batch, lest a crash cost more.
CHECKPOINT_SECONDS = 10.0

#: What helps where memory ran out: to begin anew, or to go on, which other settings would not.
_LESS = "a smaller --batch or --window needs less"
_MORE = "--resume continues it with the same settings when more memory is free"


class Recording:
    """One separation. Construction checks everything that can be checked before a file is written.

    announce: called with a line about what was found or decided. progress: called with the windows done (a fraction
    too) and all windows. cancel: set from a signal handler or another thread; what is finished by then is kept.
    Raises RecordingError, and Cancelled.
    """

    def __init__(self, settings: Settings, version: str, announce: Callable[[str], None] = lambda line: None,
                 progress: Callable[[float, int], None] = lambda done, total: None,
                 cancel: Optional[CancelFlag] = None):
        self.settings, self.version = settings, version
        self._announce, self._progress = announce, progress
        self._cancel = cancel or CancelFlag()
        try:
            check_settings(settings.method, settings.steps, settings.window, settings.batch, settings.seed,
                           settings.sir_db, settings.device, settings.overlap,
                           option=lambda name: f"--{name.replace('_', '-')}", automatic="auto")
            if not settings.interference:
                raise ValueError("a separation needs at least one --interference")
            self._open()
            self._check()
            self._estimate()
            self._prepare()
        except (ValueError, OSError, MemoryError, RuntimeError) as error:  # CaptureError and PriorError are ValueErrors
            if out_of_memory(error):
                raise RecordingError(f"memory ran out; {_LESS if not settings.resume else _MORE}") from error
            if isinstance(error, (RuntimeError, MemoryError)):
                raise
            raise RecordingError(str(error)) from error

    def _open(self) -> None:
        """Open the capture and the priors; refuse at once what does not go together."""
        s = self.settings
        self.device = choose_device(s.device)
        self.capture = open_capture(s.capture, s.format, s.sample_rate)
        capture = self.capture
        rate = f"{capture.sample_rate:.12g} samples/s" if capture.sample_rate else "sample rate unknown"
        self._announce(f"capture {capture.path}: {capture.length} samples, {rate}; {capture.format_reason}")
        self.priors = [priors.parse(text) for text in (s.soi, *s.interference)]
        for name, prior in zip(("SOI", *["interference"] * len(s.interference)), self.priors, strict=True):
            self._announce(f"{name}: {priors.describe(prior)}")
        if any(p.info["kind"] == "wifi" for p in self.priors):
            if capture.sample_rate is None:
                self._announce("sample rate unknown: taken for 20 MS/s, which wifi: needs")
            elif abs(capture.sample_rate / 20e6 - 1) > 1e-3:
                raise RecordingError(f"wifi: needs 20000000 samples/s and {capture.path} has "
                                     f"{capture.sample_rate:.12g}; resample it, or correct the rate with --samp-rate")
        # What does not fit is refused before a long file is read.
        rough = Levels(np.ones(len(self.priors)), 0.0)
        recording_setup.check_window(s, self.priors[0])
        recording_setup.check_overlap(s, self.priors[0], self._separator(rough, None).plan.window)
        self._separator(rough, s.overlap)

    def _separator(self, levels: Levels, overlap: Optional[int]) -> StreamSeparator:
        s = self.settings
        return StreamSeparator(self.priors, levels, s.method, s.steps, s.window, overlap, s.seed, self.device,
                               s.batch, cancel=self._cancel)

    def _check(self) -> None:
        """Refuse files that do not go together, an earlier run that cannot be continued, and broken samples."""
        s, capture = self.settings, self.capture
        self.stem = stem_of(s.capture)
        self.folder = Path(f"{self.stem}_unmix" if s.output is None else s.output)
        own = {f.resolve() for f in (capture.path, *files_behind(s.capture))}
        if s.reference is not None and not own.isdisjoint(f.resolve() for f in files_behind(s.reference)):
            raise RecordingError(f"--reference {s.reference} is the capture itself; it must be the SOI alone, or its "
                                 "true bits")
        if s.plots:
            from .plots import require
            require()
        self._state = RecordingState(state_path(self.folder, self.stem), s, self.device, capture.path)
        check_not_constant(capture)
        scan(capture, lambda: not self._cancel.is_set())
        if self._cancel.is_set():
            raise Cancelled
        self.reference = None if s.reference is None else Reference(s.reference, capture.length)

    def _estimate(self) -> None:
        """Find in the capture what the separation needs to know: front end, levels, the SOI's timing."""
        self._correct_front_end()
        self.levels = self._estimate_levels()
        self._stream = self._separator(self.levels, self.settings.overlap)
        self._follow_levels()
        recording_setup.try_priors(self.priors, self.device, self._only_length())
        self._checks = self._stream.method != "matched-filter"  # whether it measures agreement
        self._evidence = soi_evidence(self.capture, self._stream, self.levels) if self._checks else None
        tracker = self._stream.trackers[0]
        self._tracker = tracker if isinstance(tracker, SoiTracker) else None
        if self._tracker is not None and not self.settings.resume:
            self._find()

    def _correct_front_end(self) -> None:
        """Take back the receiver's DC offset and IQ imbalance where the capture shows them."""
        bpsk = any((p.modulation or {}).get("constellation") == "bpsk" for p in self.priors)
        self.front_end = front_end = estimate_front_end(self.capture, circular=not bpsk)
        if front_end.dc:
            self._announce(f"front end: DC offset {abs(front_end.dc):.3g} removed from the capture")
        if front_end.image:
            gain, angle = front_end.imbalance
            self._announce(f"front end: IQ imbalance {gain:.2f} dB, {angle:.1f} degrees corrected (image "
                           f"{20 * math.log10(abs(front_end.image)):.0f} dB)")
        if front_end:
            self.capture = CorrectedCapture(self.capture, front_end)

    def _estimate_levels(self) -> Levels:
        sir_db = self.settings.sir_db
        try:
            levels = capture_levels(self.capture, self.priors, sir_db,
                                    lambda levels: self._separator(levels, self.settings.overlap))
        except LevelsError as error:
            raise RecordingError(str(error)) from None
        how = "estimated from the spectrum" if sir_db is None else "as given"
        noise = 10 * math.log10(max(levels.noise_variance / levels.gains[0] ** 2, 1e-30))
        floor = f"noise {noise:.1f} dB relative to the SOI" if noise > -100 else \
            "noise not visible in the spectrum"
        if not levels.gains[1:].any():
            self._announce(f"levels: no interference in the spectrum, the SOI will pass through untouched; amplitude "
                           f"{levels.gains[0]:.4g}; {floor}")
            return levels
        amplitudes = ", ".join(f"{g:.4g}" for g in levels.gains)
        self._announce(f"levels: SIR {levels.sir_db:.1f} dB, {how}; amplitudes {amplitudes}; {floor}")
        return levels

    def _follow_levels(self) -> None:
        """Have the levels of a long capture followed, where they are to be estimated; of a short one, all says more."""
        s, long = self.settings, self.capture.length > MEMORY * LONG
        self._tracked = long and s.sir_db is None and bool(self.levels.gains[1:].any())
        if not self._tracked:
            return
        self._announce("levels: estimated again along the capture")
        self._stream.levels = LevelTracker(self.priors, None, MEMORY, self.levels)
        if self.device == "cpu" and not any(self._stream.trackers[1:]):  # for these, larger batches are better
            self._stream.batch = min(s.batch, FRESH)

    def _find(self) -> None:
        """Look for the SOI's timing, phase and frequency in the capture's first stretch."""
        self._stream.survey(self.capture.read(0, min(self.capture.length, self._tracker.most)), self.levels)
        if self._tracker.sync is None and self.capture.length <= self._tracker.most:
            raise RecordingError(
                f"no SOI found in {self.capture.path}: no timing and carrier of {self.priors[0].name} stand out of it "
                f"(without an SOI one is found in {100 * FALSE_ALARM:g} % of captures at most); is there one, and do "
                f"--soi and --interference describe what is there? Carrier offsets up to "
                f"{100 * self._tracker.most_offset:.3g} % of the symbol rate are sought, and longer captures show more")
        if self._tracker.sync is None:
            self._announce("SOI: its timing and frequency do not show yet; windows pass through until they do")
        else:
            self._announce(f"SOI: {self._tracker.describe(self.capture.sample_rate)}")

    def _only_length(self) -> int:
        """Samples of a window; where the capture is shorter and the priors take any length, the capture's."""
        window = self._stream.plan.window
        return window if self._stream.fixed_window else min(window, self.capture.length)

    def _prepare(self) -> None:
        """Set up what counts and measures along the recording, and go on where an earlier run ended."""
        s, capture, plan = self.settings, self.capture, self._stream.plan
        known = self.priors[0].info["synchronised"] or self._tracker is not None
        modulation = self.priors[0].modulation if known else None
        self._quality = Quality(modulation, float(self.levels.gains[0]), self.reference, self._tracker is not None)
        self._has_bits = modulation is not None
        self._total = plan.count_before_end(capture.length) + 1
        length = self._only_length()
        windows = f"{self._total} windows of {plan.window} samples, overlapping by {plan.overlap}"
        if self._total == 1:
            padded = f" ({capture.length} and zeros)" if length > capture.length else ""
            windows = f"1 window of {length} samples{padded}"
        self._announce(f"{self._stream.method} on {self.device}: {windows}, seed {s.seed}")
        self._tally = report.Tally(self._checks)
        self._opened = Opened(settings=s, version=self.version, device=self.device, folder=self.folder, capture=capture,
                              front_end=self.front_end, levels=self.levels, tracked=self._tracked, stream=self._stream,
                              tracker=self._tracker, evidence=self._evidence)
        self._position = self._state.begin(self._opened, self._tally, self._quality, self._has_bits)
        if s.resume:
            self._announce(f"continuing at sample {self._state.resumed_at[-1]} of {capture.length}")

    def run(self) -> dict:
        """Separate the recording and write the files; returns the report.

        `cancelled` in it is None, or says how far it came; where no window was finished, nothing is written.
        Raises RecordingError for samples that prove broken on the way, files that cannot be read or written, or want
        of memory, and Cancelled for KeyboardInterrupt. What the last checkpoint covered is then kept for `resume`,
        which the message, or a note of any other exception, says; before the first, nothing is left.
        """
        outputs = None
        try:
            try:
                outputs = self._make_outputs()
                return self._run(outputs)
            finally:
                if outputs is not None:
                    outputs.abort()  # does nothing after close
        except KeyboardInterrupt:
            if outputs is not None:
                outputs.abort()  # where it was interrupted
            raise Cancelled(f"cancelled{self._kept(outputs) or '; nothing was written'}") from None
        except Exception as error:
            found = self._explained(error, outputs)
            if found is not error:
                raise found from error
            error.add_note(self._kept(outputs).removeprefix("; "))
            raise

    def _run(self, outputs: Outputs) -> dict:
        tally = self._tally
        try:
            self._pump(outputs, tally)
        except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError,
                ValueError) as error:
            if not self._state.untried or isinstance(error, (CaptureError, MethodError, PriorError)) or (
                    isinstance(error, RuntimeError) and not out_of_memory(error)):
                raise
            raise self._state.refusal(error) from error  # what could not be checked beforehand
        if tally.count and tally.outcomes["refused"] == tally.count:
            outputs.discard()
            raise MethodError(self._stream.refusal)
        done, whole = outputs.length, outputs.length == self.capture.length
        outcome = report.compose(self._opened, tally, self._quality, done, self._state.resumed_at)
        if done:
            outcome["files"] = [*outputs.files, outputs.report_path.name]
            outputs.close(whole, tally.annotations(), report.to_json(outcome) + "\n")
            if self.settings.plots and whole:
                self._draw(outputs, outcome)
                write_text(outputs.report_path, report.to_json(outcome) + "\n")  # names the pictures too
        else:
            outputs.abort()
        return outcome

    def _explained(self, error: Exception, outputs: Optional[Outputs]) -> Exception:
        """What is raised for an error on the way: a sentence for people, or the error itself where it is a defect."""
        if isinstance(error, RecordingError):  # says already that the earlier run cannot be continued
            return error
        if isinstance(error, StateError):
            return self._state.refusal(error)
        kept = self._kept(outputs)
        if out_of_memory(error):
            advice = _LESS if self._state.outputs is None else _MORE  # --resume refuses other settings
            return RecordingError(f"memory ran out{self._kept(outputs, _MORE) or f'; {advice}'}")
        if isinstance(error, (CaptureError, MethodError, PriorError)):
            return RecordingError(f"{str(error).removesuffix('.')}{kept}" if kept else str(error))
        if isinstance(error, OSError):
            why = error.strerror or error
            return RecordingError(f"the output folder {self.folder} cannot be written: {why}{kept}")
        return error

    def _kept(self, outputs: Optional[Outputs], how: str = "--resume continues it") -> str:
        """What is said behind an error on the way."""
        if outputs is None:
            return ""
        if outputs.complete:
            missing = [what for what, asked in (("pictures", self.settings.plots),
                                                ("the report's copy", self.settings.report_copy)) if asked]
            return "; the separated signals and their report are whole" + (
                f", {' and '.join(missing)} may be missing" if missing else "")
        count = outputs.kept or (outputs.length if outputs.named else 0)
        if not count:
            return f"; {how}, from its beginning" if self._state.outputs is not None else ""
        goes_on = f", and {how}" if outputs.kept else ""
        return f"; what was separated before sample {count} of {self.capture.length} is kept{goes_on}"

    def _make_outputs(self) -> Outputs:
        s, plan = self.settings, self._stream.plan
        extra = {"core:recorder": f"gr-unmix {self.version}", "unmix:method": self._stream.method,
                 "unmix:priors": [p.name for p in self.priors], "unmix:seed": s.seed, "unmix:version": self.version,
                 "unmix:sir_db": self.levels.sir_db if math.isfinite(self.levels.sir_db) else None,
                 "unmix:steps": s.steps, "unmix:window": plan.window, "unmix:overlap": plan.overlap,
                 "unmix:capture": self.capture.path.name}
        extra = {key: value for key, value in extra.items() if value is not None}
        names = ["signal of interest"] + ["interference"] * (len(self.priors) - 1)
        sources = [{"description": f"The {name}, {prior.name}, separated from {self.capture.path.name}.",
                    "extra": extra | {"unmix:signal": name, "unmix:prior": prior.name}}
                   for name, prior in zip(names, self.priors, strict=True)]
        keep = [self.capture.path, *files_behind(s.capture)]
        keep += [path for spec in (s.soi, *s.interference) for path in files_of_prior(spec)]
        if self.reference is not None:
            keep += files_behind(s.reference)
        pictures = ()
        if s.plots:
            from .plots import NAMES as pictures
        return Outputs(self.folder, self.stem, sources, self.capture.sample_rate, self.capture.center_frequency,
                       self._has_bits, keep, pictures, None if s.report_copy is None else Path(s.report_copy),
                       self._state.outputs)

    def _pump(self, outputs: Outputs, tally: report.Tally) -> None:
        """Everything from capture to files, a batch of windows at a time."""
        capture, stream, plan = self.capture, self._stream, self._stream.plan
        position, saved = self._position, time.monotonic()
        self._progress(float(tally.count), self._total)  # what is done already says nothing about the time left
        # The first samples complete the first batch.
        count = stream.batch * plan.hop + (0 if position else plan.overlap + 1)
        while position < capture.length and not self._cancel.is_set():
            if outputs.length and time.monotonic() - saved >= CHECKPOINT_SECONDS:
                self._state.save(outputs)
                saved = time.monotonic()
            samples = self._read(position, count)
            position += len(samples)
            count = stream.batch * plan.hop
            ready = max(0, (position - plan.window - 1) // plan.hop + 1)
            self._work(lambda meter: stream.push(samples, meter), ready, outputs, tally)  # noqa: B023 (called at once)
        if not self._cancel.is_set():
            self._work(stream.finish, self._total, outputs, tally)
        cancelled = outputs.length < capture.length
        if cancelled:
            self._state.freeze(outputs)  # before finish(), behind which nothing can be continued
        if outputs.length:
            outputs.write(np.zeros((len(self.priors), 0), np.complex64), self._quality.finish())
            if cancelled:
                self._state.save(outputs)

    def _read(self, start: int, count: int) -> np.ndarray:
        """Samples of the capture. Raises CaptureError where they are broken or cannot be read."""
        with _reading(f"capture {self.capture.path}"):
            return self.capture.read(start, count)

    def _work(self, separate: Callable, until: int, outputs: Outputs, tally: report.Tally) -> None:
        """Separate windows tally.count .. until, or fewer where this is cancelled, and store what comes of it.

        A cancelled batch may be stored in part, and trackers may have seen more of it: it will be done anew.
        """
        before = self._stream.state() if self._stream.resumable else None
        stretch = separate(self._meter(tally, until))
        if self._cancel.is_set():
            self._state.freeze(outputs, before)
        self._store(stretch, outputs, tally)

    def _meter(self, tally: report.Tally, until: int) -> Callable[[float, int], bool]:
        """The separator's progress over windows tally.count .. until as progress over the whole recording."""
        first = tally.count

        def meter(fraction: float, _: int) -> bool:
            self._progress(first + fraction * (until - first), self._total)
            return not self._cancel.is_set()
        return meter

    def _store(self, stretch: Optional[Stretch], outputs: Outputs, tally: report.Tally) -> None:
        if stretch is None:
            return
        mixture = self._read(stretch.start, stretch.sources.shape[1])
        sync = None if self._tracker is None else self._tracker.used
        paused = any(r.absent for r in stretch.reports)
        gain = stretch.reports[0].soi_amplitude if self._tracked else None
        with _reading(f"reference {self.settings.reference}"):
            bits = self._quality.push(stretch.start, mixture, stretch.sources, sync, paused, gain)
        outputs.write(stretch.sources, bits)
        tally.add(stretch.reports)
        self._progress(float(tally.count), self._total)

    def _draw(self, outputs: Outputs, outcome: dict) -> None:
        from .plots import draw
        separated = [open_capture(f"{stem}.sigmf-data") for stem in outputs.stems]
        symbols = None if self._tracker is None else self._quality.shown
        modulation = self.priors[0].modulation if self._has_bits else None
        if symbols is not None and not symbols.shape[1]:
            modulation = None  # none were found
        outcome["files"] += draw(outputs.folder, outputs.stem, self.capture, separated, modulation, outcome, symbols)


@contextlib.contextmanager
def _reading(what: str) -> Iterator[None]:
    """Whatever goes wrong with files inside is a CaptureError that names what was read, not the output folder."""
    try:
        yield
    except OSError as error:
        raise CaptureError(f"the {what} cannot be read: {error.strerror or error}") from error


def separate_recording(settings: Settings, version: str, **callbacks) -> dict:
    """Separate a recording in one go; see Recording for arguments and exceptions. Returns the report."""
    return Recording(settings, version, **callbacks).run()
