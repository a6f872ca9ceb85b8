# SPDX-License-Identifier: GPL-3.0-or-later
"""Continuing a separation that was cut short: what its state holds, whether it is this one's, and going on from it."""

from pathlib import Path
from typing import Optional

from . import resume
from .captures import Capture
from .memory import out_of_memory
from .outputs import Outputs, files_behind, files_of_prior
from .quality import Quality
from .recording_setup import Opened, RecordingError, Settings
from .report import Tally, versions
from .resume import StateError
from .soi_sync import Sync
from .wifi.packets import Packet
from .wifi.standard import Format


class RecordingState:
    """The state of a run, for a later one to continue it, and that of the earlier run which it continues, if any.

    path: of the state's file. capture: the recording's file. With settings.resume the earlier state is read at once.
    Raises RecordingError, here and in begin(), where that run cannot be continued.
    """

    def __init__(self, path: Path, settings: Settings, device: str, capture: Path):
        self._path, self._capture = path, capture
        #: Samples at which this run and those before it went on.
        self.resumed_at: list[int] = []
        self._earlier: Optional[dict] = None  # the state of the run to be continued
        self._cut: Optional[dict] = None  # the state before a batch that was cancelled
        if not settings.resume:
            return
        try:
            self._earlier = resume.read(path, (Sync, Packet, Format))
        except FileNotFoundError:
            raise RecordingError(f"--resume finds nothing to continue: {path} is missing, so no separation of this "
                                 "capture was cut short there; leave out --resume to begin anew") from None
        except StateError as error:
            raise self.refusal(error) from None
        self._compare(_asked(settings, device))

    def begin(self, opened: Opened, tally: Tally, quality: Quality, has_bits: bool) -> int:
        """Take note of what the state is made of, and go on where the earlier run ended, if there is one.

        has_bits: whether the last output holds the SOI's bits. Returns the samples pushed so far.
        """
        self._facts, self._stream, self._tally, self._quality = _facts(opened), opened.stream, tally, quality
        return 0 if self._earlier is None else self._restore(opened.capture, has_bits)

    @property
    def outputs(self) -> Optional[dict]:
        """What the earlier run wrote, for Outputs; None where none is continued."""
        return None if self._earlier is None else self._earlier["outputs"]

    @property
    def untried(self) -> bool:
        """Whether an earlier run is continued and no window was separated since: its state may yet prove wrong."""
        return self._earlier is not None and self._tally.count <= self._earlier["stream"]["next"]

    def refusal(self, why: Exception) -> RecordingError:
        """Why the earlier run cannot be continued, in one sentence."""
        text = "it contradicts itself"
        if isinstance(why, StateError):
            text = str(why)
        elif out_of_memory(why):
            text = "memory ran out; there is too little, or it contradicts itself"
        return RecordingError(f"--resume cannot continue what {self._path} speaks of: {text}; leave out --resume to "
                              "begin anew")

    def freeze(self, outputs: Outputs, stream: Optional[dict] = None) -> None:
        """The run was cancelled: keep the state as it is now for save(), if none is kept yet.

        stream: its state before a batch that may be stored in part (default: as it is now).
        """
        if self._cut is None and self._stream.resumable:
            self._cut = resume.pack(self._now(outputs, stream or self._stream.state()))

    def save(self, outputs: Outputs) -> None:
        """Write the state that is kept, else the present one, where the stream can be continued. Raises OSError."""
        if self._stream.resumable:
            outputs.save(self._cut or self._now(outputs, self._stream.state()))

    def _now(self, outputs: Outputs, stream: dict) -> dict:
        """From where the separation can be continued. stream: its state at the end of the last whole batch."""
        return {"facts": self._facts, "stream": stream, "tally": self._tally.state(), "quality": self._quality.state(),
                "outputs": outputs.state(), "resumed_at": self.resumed_at}

    def _restore(self, capture: Capture, has_bits: bool) -> int:
        """Go on where the earlier run ended, if it is this one's."""
        try:
            state = self._earlier
            resume.need(set(state["facts"]) == set(self._facts))
            self._compare(self._facts)
            position, done = self._stream.restore(state["stream"], capture.read, capture.length)
            self._tally.restore(state["tally"])
            self._quality.restore(state["quality"], done)
            files = state["outputs"]["files"]
            resume.need(self._tally.count == state["stream"]["next"] and files[0]["bytes"] == 8 * done)
            resume.need(not has_bits or files[-1]["bytes"] == self._quality.bits)
            self.resumed_at = [resume.whole(at, 0, done) for at in state["resumed_at"]] + [done]
            resume.need(len(self.resumed_at) <= 1000)
        except RecordingError:  # says already what differs
            raise
        except StateError as error:
            raise self.refusal(error) from None
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise self.refusal(error) from error
        return position

    def _compare(self, facts: dict) -> None:
        """Refuse to go on where the earlier run had others."""
        before = self._earlier.get("facts") if isinstance(self._earlier, dict) else None
        for name, now in facts.items():
            if not isinstance(before, dict) or name not in before:
                raise self.refusal(StateError("it contradicts itself"))
            if before[name] != now:
                raise self.refusal(StateError(self._difference(name, before[name], now)))

    def _difference(self, name: str, before: object, now: object) -> str:
        if name == "capture":
            return f"the capture {self._capture} has changed since"
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


def _asked(s: Settings, device: str) -> dict:
    """What decides the result and is known before the capture is looked at, by what people call it."""
    return resume.pack({"--soi": s.soi, "--interference": list(s.interference),
                        "--sir-db": "auto" if s.sir_db is None else s.sir_db, "--steps": s.steps, "--seed": s.seed,
                        "--device": device, "--batch": s.batch})


def _facts(opened: Opened) -> dict:
    """Everything that decides the result, by what people call it."""
    s, capture, plan = opened.settings, opened.capture, opened.stream.plan
    levels, dc, image = opened.levels, opened.front_end.dc, opened.front_end.image
    inputs = [path for path in dict.fromkeys([capture.path, *files_behind(s.capture)]) if path.is_file()]
    files = [path for spec in (s.soi, *s.interference) for path in files_of_prior(spec)]
    if s.reference is not None:
        files += files_behind(s.reference)
    facts = {
        "--method": opened.stream.method, "--format": capture.datatype, "--samp-rate": capture.sample_rate,
        "--window": plan.window, "--overlap": plan.overlap,
        "--reference": None if s.reference is None else Path(s.reference).name,
        "capture": [capture.path.name, capture.length, capture.center_frequency,
                    *[resume.identity(path) for path in inputs]],
        "files": {path.name: resume.identity(path) for path in dict.fromkeys(files) if path.is_file()},
        "versions": versions(opened.version),
        "levels": [*levels.gains.tolist(), float(levels.noise_variance), dc.real, dc.imag, image.real, image.imag]}
    return _asked(s, opened.device) | resume.pack(facts)
