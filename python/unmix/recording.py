# SPDX-License-Identifier: GPL-3.0-or-later
"""Separating one recording from file to files: open, check, estimate levels, stream through, write, report."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np

from . import priors, report, resume
from .calibration import LevelsError, capture_levels, soi_evidence
from .captures import Capture, CaptureError, check_not_constant, open_capture
from .estimators import Levels, LevelTracker
from .front_end import CorrectedCapture, estimate_front_end
from .outputs import Outputs, files_behind, files_of_prior, state_path, stem_of, write_text
from .priors import PriorError
from .quality import Quality, Reference
from .resume import StateError
from .separators import CancelFlag, MethodError
from .settings import check_settings, choose_device
from .soi_sync import FALSE_ALARM, Sync
from .soi_tracker import SoiTracker
from .stream import StreamSeparator, Stretch
from .survey import scan
from .wifi.packets import Packet
from .wifi.standard import Format

DEFAULT_SOI = "rrc:qpsk,sps=16,rolloff=0.5,span=8"
DEFAULT_INTERFERENCE = "cp-ofdm:qpsk,fft=64,cp=16,active=56"
#: Samples of memory of levels that are followed, memories from which on a capture has them followed, and windows after
#: which they are estimated again: fades of 4 dB either way within 22 memories are followed so that all windows agree.
MEMORY, LONG, FRESH = 32 * 2304, 8, 16
#: Seconds after which the state is saved again, at the end of a batch, lest a crash cost more.
CHECKPOINT_SECONDS = 10.0


class RecordingError(ValueError):
    """Something about the input that cannot be used; the message is one sentence, and nothing was written."""


class Cancelled(Exception):
    """Cancelled before anything was written."""


@dataclass(frozen=True)
class Settings:
    """How to separate a recording.

    capture, format, sample_rate: see captures.open_capture. soi, interference: prior specifications, see priors.HELP.
    method, steps, window (samples), overlap (samples), batch (windows), seed: see StreamSeparator, None for its
    defaults. sir_db: None estimates it. device: auto, cpu or cuda. output: folder (default: <stem>_unmix in the current
    folder). reference: the truth, see quality.Reference. plots: draw pictures as well. report_copy: where the caller
    will write the report once more; refused where that would replace an input or another output. resume: continue a
    separation with the same settings that was cut short; its files then equal those of one that was not.
    """

    capture: str
    soi: str = DEFAULT_SOI
    interference: Sequence[str] = (DEFAULT_INTERFERENCE,)
    method: str = "auto"
    sir_db: Optional[float] = None
    format: str = "auto"
    sample_rate: Optional[float] = None
    window: Optional[int] = None
    overlap: Optional[int] = None
    steps: Optional[int] = None
    seed: int = 0
    device: str = "auto"
    batch: int = 64
    output: Optional[str] = None
    plots: bool = False
    reference: Optional[str] = None
    report_copy: Optional[str] = None
    resume: bool = False


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
        self._earlier: Optional[dict] = None  # the state of the run to be continued
        self._resumed_at: list[int] = []
        self._position = 0  # samples pushed so far
        self._cut: Optional[dict] = None  # the state before a batch that was cancelled
        try:
            check_settings(settings.method, settings.steps, settings.window, settings.batch, settings.seed,
                           settings.sir_db, settings.device, settings.overlap,
                           option=lambda name: f"--{name.replace('_', '-')}", automatic="auto")
            if not settings.interference:
                raise ValueError("a separation needs at least one --interference")
            self._open()
        except (ValueError, OSError) as error:  # CaptureError and PriorError are ValueErrors
            raise RecordingError(str(error)) from error

    def _open(self) -> None:
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
        # A first one with any levels: what does not fit is refused before a long file is read.
        self._check_windows()
        self._separator(Levels(np.ones(len(self.priors)), 0.0), s.overlap)
        self.stem = stem_of(s.capture)
        self.folder = Path(f"{self.stem}_unmix" if s.output is None else s.output)
        if s.reference is not None and capture.path.resolve() in (f.resolve() for f in files_behind(s.reference)):
            raise RecordingError(f"--reference {s.reference} is the capture itself; it must be the SOI alone, or its "
                                 "true bits")
        if s.plots:
            from .plots import require
            require()
        if s.resume:
            self._load_state()
            self._compare(self._asked())
        check_not_constant(capture)
        scan(capture, lambda: not self._cancel.is_set())
        if self._cancel.is_set():
            raise Cancelled
        self.reference = None if s.reference is None else Reference(s.reference, capture.length)
        self._correct_front_end()
        self.levels = self._estimate_levels()
        self._stream = self._separator(self.levels, s.overlap)
        self._follow_levels()
        self._try_priors()
        checks = self._stream.method != "matched-filter"
        self._evidence = soi_evidence(self.capture, self._stream, self.levels) if checks else None
        tracker = self._stream.trackers[0]
        self._tracker = tracker if isinstance(tracker, SoiTracker) else None
        if self._tracker is not None and self._earlier is None:
            self._find()
        known = self.priors[0].info["synchronised"] or self._tracker is not None
        modulation = self.priors[0].modulation if known else None
        self._quality = Quality(modulation, float(self.levels.gains[0]), self.reference, self._tracker is not None)
        self._has_bits = modulation is not None
        plan = self._stream.plan
        self._total = plan.count_before_end(capture.length) + 1
        length = self._only_length()
        windows = f"{self._total} windows of {plan.window} samples, overlapping by {plan.overlap}"
        if self._total == 1:
            padded = f" ({capture.length} and zeros)" if length > capture.length else ""
            windows = f"1 window of {length} samples{padded}"
        self._announce(f"{self._stream.method} on {self.device}: {windows}, seed {s.seed}")
        self._tally = report.Tally(checks)
        self._facts = self._fingerprint()
        if self._earlier is not None:
            self._restore()

    def _asked(self) -> dict:
        """What decides the result and is known before the capture is looked at, by what people call it."""
        s = self.settings
        return resume.pack({"--soi": s.soi, "--interference": list(s.interference),
                            "--sir-db": "auto" if s.sir_db is None else s.sir_db, "--steps": s.steps, "--seed": s.seed,
                            "--device": self.device, "--batch": s.batch})

    def _compare(self, facts: dict) -> None:
        """Refuse to go on where the earlier run had others."""
        before = self._earlier.get("facts") if isinstance(self._earlier, dict) else None
        for name, now in facts.items():
            if not isinstance(before, dict) or name not in before:
                raise self._state_refused(StateError("it contradicts itself"))
            if before[name] != now:
                raise self._state_refused(StateError(self._difference(name, before[name], now)))

    def _fingerprint(self) -> dict:
        """Everything that decides the result, by what people call it."""
        s, capture, plan = self.settings, self.capture, self._stream.plan
        inputs = [path for path in dict.fromkeys([capture.path, *files_behind(s.capture)]) if path.is_file()]
        files = [path for spec in (s.soi, *s.interference) for path in files_of_prior(spec)]
        if self.reference is not None:
            files += files_behind(s.reference)
        facts = {
            "--method": self._stream.method, "--format": capture.datatype, "--samp-rate": capture.sample_rate,
            "--window": plan.window, "--overlap": plan.overlap,
            "--reference": None if s.reference is None else Path(s.reference).name,
            "capture": [capture.path.name, capture.length, capture.center_frequency,
                        *[resume.identity(path) for path in inputs]],
            "files": {path.name: resume.identity(path) for path in dict.fromkeys(files) if path.is_file()},
            "versions": report.versions(self.version),
            "levels": [*self.levels.gains.tolist(), float(self.levels.noise_variance), self.front_end.dc.real,
                       self.front_end.dc.imag, self.front_end.image.real, self.front_end.image.imag]}
        return self._asked() | resume.pack(facts)

    def _load_state(self) -> None:
        """Read the state of the run to be continued."""
        path = state_path(self.folder, self.stem)
        try:
            self._earlier = resume.read(path, (Sync, Packet, Format))
        except FileNotFoundError:
            raise RecordingError(f"--resume finds nothing to continue: {path} is missing, so no separation of this "
                                 "capture was cut short there; leave out --resume to begin anew") from None
        except StateError as error:
            raise self._state_refused(error) from None

    def _state_refused(self, why: Exception) -> RecordingError:
        path = state_path(self.folder, self.stem)
        text = str(why) if isinstance(why, StateError) else "it contradicts itself"
        return RecordingError(f"--resume cannot continue what {path} speaks of: {text}; leave out --resume to begin "
                              "anew")

    def _restore(self) -> None:
        """Go on where the earlier run ended, if it is this one's."""
        try:
            state = self._earlier
            resume.need(set(state["facts"]) == set(self._facts))
            self._compare(self._facts)
            self._position, done = self._stream.restore(state["stream"], self.capture.read, self.capture.length)
            self._tally.restore(state["tally"])
            self._quality.restore(state["quality"], done)
            files = state["outputs"]["files"]
            resume.need(self._tally.count == state["stream"]["next"] and files[0]["bytes"] == 8 * done)
            resume.need(not self._has_bits or files[-1]["bytes"] == self._quality.bits)
            self._resumed_at = [resume.whole(at, 0, done) for at in state["resumed_at"]] + [done]
            resume.need(len(self._resumed_at) <= 1000)
        except RecordingError:  # says already what differs
            raise
        except StateError as error:
            raise self._state_refused(error) from None
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise self._state_refused(error) from error
        self._announce(f"continuing at sample {done} of {self.capture.length}")

    def _difference(self, name: str, before: object, now: object) -> str:
        if name == "capture":
            return f"the capture {self.capture.path} has changed since"
        if name == "files":
            return "a prior's or the reference's file has changed since"
        if name == "levels":
            return "this computer finds other levels in the capture"
        if name == "versions":
            changed = sorted(key for key in now if not isinstance(before, dict) or before.get(key) != now[key])
            return f"it stems from another version of {', '.join(changed)}"
        was, here = (" ".join(map(str, value)) if isinstance(value, list) else
                     "not given" if value is None else str(value) for value in (before, now))
        return f"{name} was {was[:200]} and is now {here}, and all settings must be the same"

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

    def _check_windows(self) -> None:
        """Refuse windows and overlaps that do not go with the SOI's symbols."""
        s, modulation = self.settings, self.priors[0].modulation
        symbol = int(modulation["samples_per_symbol"]) if modulation else 0
        if s.window is not None and s.window <= symbol:
            raise RecordingError(f"--window {s.window} is impossible; a window must be longer than a symbol of the SOI "
                                 f"({symbol} samples)")
        window = self._separator(Levels(np.ones(len(self.priors)), 0.0), None).plan.window
        symbol = 0 if self.priors[0].tracker is not None else symbol  # it says where the symbols lie
        if not symbol or s.overlap is None or not 0 <= s.overlap < window or (window - s.overlap) % symbol == 0:
            return  # Plan refuses what lies outside
        below = s.overlap - (s.overlap - window) % symbol
        near = " and ".join(str(overlap) for overlap in (below, below + symbol) if 0 <= overlap < window)
        raise RecordingError(f"--overlap {s.overlap} is impossible; window - overlap must be a multiple of the SOI's "
                             f"{symbol} samples per symbol, and for windows of {window} samples the nearest allowed "
                             f"{'overlaps are' if ' ' in near else 'overlap is'} {near}")

    def _separator(self, levels: Levels, overlap: Optional[int]) -> StreamSeparator:
        s = self.settings
        return StreamSeparator(self.priors, levels, s.method, s.steps, s.window, overlap, s.seed, self.device,
                               s.batch, cancel=self._cancel)

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

    def _try_priors(self) -> None:
        """Call priors that came from files once: one whose network fails is refused before anything is written."""
        length = self._only_length()
        for prior in self.priors:
            if prior.module is not None:
                continue
            try:
                answer = prior.engine(self.device).denoise(np.zeros((1, length), np.complex64),
                                                           np.full(1, 0.5, np.float32), None)
            except (ValueError, RuntimeError) as error:
                why = str(error).strip().splitlines()[0]
                raise RecordingError(f"the prior {prior.name} fails on a window of {length} samples: {why}") from error
            if not np.isfinite(answer).all():
                raise RecordingError(f"the prior {prior.name} answers zeros with values that are not finite")

    def run(self) -> dict:
        """Separate the recording and write the files; returns the report.

        `cancelled` in it is None, or says how far it came; where no window was finished, nothing is written.
        Raises RecordingError for samples that prove broken on the way or files that cannot be written; nothing is left
        then. After KeyboardInterrupt nothing is left either.
        """
        outputs, tally = None, self._tally
        try:
            outputs = self._make_outputs()
            try:
                self._pump(outputs, tally)
            except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError) as error:
                if self._earlier is None or tally.count > self._earlier["stream"]["next"] or \
                        isinstance(error, (CaptureError, MethodError, PriorError)):
                    raise
                raise self._state_refused(error) from error  # what could not be checked beforehand
            done, whole = outputs.length, outputs.length == self.capture.length
            outcome = self._report(tally, done)
            if done:
                outcome["files"] = outputs.files
                outputs.close(whole, tally.annotations())
                outcome["files"].append(outputs.report_path.name)
                write_text(outputs.report_path, report.to_json(outcome) + "\n")
                if self.settings.plots and whole:
                    self._draw(outputs, outcome)
                    write_text(outputs.report_path, report.to_json(outcome) + "\n")  # names the pictures too
            else:
                outputs.abort()
            return outcome
        except StateError as error:
            raise self._state_refused(error) from error
        except (CaptureError, MethodError, PriorError) as error:
            raise RecordingError(str(error)) from error
        except OSError as error:
            why = error.strerror or error
            raise RecordingError(f"the output folder {self.folder} cannot be written: {why}") from error
        finally:
            if outputs is not None:
                outputs.abort()  # does nothing after close

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
                       None if self._earlier is None else self._earlier["outputs"])

    def _pump(self, outputs: Outputs, tally: report.Tally) -> None:
        """Everything from capture to files, a batch of windows at a time."""
        capture, stream, plan = self.capture, self._stream, self._stream.plan
        position, saved = self._position, time.monotonic()
        self._progress(float(tally.count), self._total)  # what is done already says nothing about the time left
        # The first samples complete the first batch.
        count = stream.batch * plan.hop + (0 if position else plan.overlap + 1)
        while position < capture.length and not self._cancel.is_set():
            if stream.resumable and time.monotonic() - saved >= CHECKPOINT_SECONDS:
                outputs.save(self._state(outputs, stream.state()))
                saved = time.monotonic()
            samples = capture.read(position, count)
            position += len(samples)
            count = stream.batch * plan.hop
            ready = max(0, (position - plan.window - 1) // plan.hop + 1)
            self._work(lambda meter: stream.push(samples, meter), ready, outputs, tally)  # noqa: B023 (called at once)
        if not self._cancel.is_set():
            self._work(stream.finish, self._total, outputs, tally)
        if stream.resumable and self._cut is None and outputs.length < capture.length:  # cancelled between batches
            self._cut = resume.pack(self._state(outputs, stream.state()))
        if outputs.length:
            outputs.write(np.zeros((len(self.priors), 0), np.complex64), self._quality.finish())
            if self._cut is not None and outputs.length < capture.length:
                outputs.save(self._cut)

    def _work(self, separate: Callable, until: int, outputs: Outputs, tally: report.Tally) -> None:
        """Separate windows tally.count .. until, or fewer where this is cancelled, and store what comes of it.

        A cancelled batch may be stored in part, and trackers may have seen more of it: it will be done anew.
        """
        before = self._stream.state() if self._stream.resumable else None
        stretch = separate(self._meter(tally, until))
        if self._cancel.is_set() and before is not None:
            self._cut = resume.pack(self._state(outputs, before))
        self._store(stretch, outputs, tally)

    def _state(self, outputs: Outputs, stream: dict) -> dict:
        """From where the separation can be continued. stream: its state at the end of the last whole batch."""
        return {"facts": self._facts, "stream": stream, "tally": self._tally.state(), "quality": self._quality.state(),
                "outputs": outputs.state(), "resumed_at": self._resumed_at}

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
        mixture = self.capture.read(stretch.start, stretch.sources.shape[1])
        sync = None if self._tracker is None else self._tracker.used
        paused = any(r.absent for r in stretch.reports)
        gain = stretch.reports[0].soi_amplitude if self._tracked else None
        bits = self._quality.push(stretch.start, mixture, stretch.sources, sync, paused, gain)
        outputs.write(stretch.sources, bits)
        tally.add(stretch.reports)
        self._progress(float(tally.count), self._total)

    def _report(self, tally: report.Tally, done: int) -> dict:
        s, capture, plan, levels = self.settings, self.capture, self._stream.plan, self.levels
        noise = levels.noise_variance / float(levels.gains[0]) ** 2
        cancelled = None if done == capture.length else {"at_sample": done, "of_samples": capture.length}
        outcome = {
            "format": report.FORMAT,
            "complete": cancelled is None,
            "cancelled": cancelled,
            "resumed_at": self._resumed_at,
            "capture": {"file": str(capture.path), "format": capture.datatype, "format_reason": capture.format_reason,
                        "length": capture.length, "sample_rate": capture.sample_rate,
                        "center_frequency": capture.center_frequency,
                        "duration_s": capture.length / capture.sample_rate if capture.sample_rate else None},
            "settings": {"soi": s.soi, "interference": list(s.interference), "method": self._stream.method,
                         "sir_db": "auto" if s.sir_db is None else s.sir_db, "window": plan.window,
                         "overlap": plan.overlap, "steps": s.steps, "seed": s.seed, "device": self.device,
                         "batch": s.batch},
            "priors": [{k: v for k, v in p.info.items() if k not in ("psd", "side")} | {"learned": p.learned}
                       for p in self.priors],
            "levels": {"sir_db": levels.sir_db, "sir_estimated": s.sir_db is None,
                       "tracked": self._tracked, "soi_amplitude": float(levels.gains[0]),
                       "soi_amplitude_range": tally.amplitudes,
                       "interference_amplitudes": [float(g) for g in levels.gains[1:]],
                       "noise_power": levels.noise_variance,
                       "noise_relative_to_soi_db": 10 * math.log10(noise) if noise > 0 else None},
            "front_end": {"dc": [self.front_end.dc.real, self.front_end.dc.imag],
                          "image": [self.front_end.image.real, self.front_end.image.imag]},
            "versions": report.versions(self.version),
            "output": str(self.folder),
            "files": [],
            "result": tally.result(capture.sample_rate),
            "soi_evidence": None if self._evidence is None else dataclasses.asdict(self._evidence),
            "quality": self._quality.result(),
            "windows_every": tally.every,
            "windows": tally.windows,
        }
        if not tally.checks:  # the interference is what its decisions leave: no errors by construction
            outcome["quality"]["evm_after"] = None
        outcome["warnings"] = report.warnings(outcome) + self._quality.warnings()
        outcome["summary"] = report.summary(outcome)
        for tracker in self._stream.trackers[1:]:
            if hasattr(tracker, "summary"):
                outcome["summary"] += tracker.summary()
                outcome.setdefault("interference_found", []).append(tracker.result())
        if self._tracker is not None:
            outcome["synchronisation"] = self._tracker.result()
            outcome["summary"] += self._tracker.summary(capture.sample_rate)
            heard = tally.count - tally.outcomes["silent"]
            if tally.checks and self._tracker.sync is not None and 10 * tally.agreed < heard:
                outcome["summary"].append(
                    "warning: the separation does not confirm the SOI that was found: there may be none, its carrier "
                    f"may be more than {100 * self._tracker.most_offset:.3g} % of the symbol rate off, or --soi or "
                    "--interference may not describe what is there")
            truth = outcome["quality"]["reference"]
            if truth and truth.get("delay_symbols") is not None:
                degrees, delay = truth["rotation_deg"] % 360, truth["delay_symbols"]
                outcome["summary"].append(f"compared with the true bits turned by {degrees:.0f} degrees, from the "
                                          f"reference's symbol {delay} on")
        return outcome

    def _draw(self, outputs: Outputs, outcome: dict) -> None:
        from .plots import draw
        separated = [self._reopen(stem) for stem in outputs.stems]
        symbols = None if self._tracker is None else self._quality.shown
        modulation = self.priors[0].modulation if self._has_bits else None
        if symbols is not None and not symbols.shape[1]:
            modulation = None  # none were found
        outcome["files"] += draw(outputs.folder, outputs.stem, self.capture, separated, modulation, outcome, symbols)

    @staticmethod
    def _reopen(stem: Path) -> Capture:
        return open_capture(f"{stem}.sigmf-data")


def separate_recording(settings: Settings, version: str, **callbacks) -> dict:
    """Separate a recording in one go; see Recording for arguments and exceptions. Returns the report."""
    return Recording(settings, version, **callbacks).run()
