# SPDX-License-Identifier: GPL-3.0-or-later
"""What a separation of a recording is asked for, checks of that, and what is known once the recording is open."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

import numpy as np

from .calibration import Evidence
from .captures import Capture
from .estimators import Levels
from .front_end import CorrectedCapture, FrontEnd
from .priors import Prior
from .soi_tracker import SoiTracker
from .stream import StreamSeparator

DEFAULT_SOI = "rrc:qpsk,sps=16,rolloff=0.5,span=8"
DEFAULT_INTERFERENCE = "cp-ofdm:qpsk,fft=64,cp=16,active=56"


class RecordingError(ValueError):
    """Something that cannot be used, read or written; the message is one sentence, which says what is kept, if any."""


class Cancelled(KeyboardInterrupt):
    """Cancelled before the end; the message says what is kept, if anything. Like Ctrl-C itself it is no Exception."""


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


@dataclass(frozen=True)
class Opened:
    """A recording that is open and ready to be separated.

    version: of gr-unmix. device: cpu or cuda. folder: of the outputs. capture: read through what corrects front_end.
    levels: for the whole capture, in its units. tracked: whether the stream estimates them again along the capture.
    tracker: the stream's for the SOI, None where its timing is told. evidence: None where it was not looked for.
    """

    settings: Settings
    version: str
    device: str
    folder: Path
    capture: Union[Capture, CorrectedCapture]
    front_end: FrontEnd
    levels: Levels
    tracked: bool
    stream: StreamSeparator
    tracker: Optional[SoiTracker]
    evidence: Optional[Evidence]


def check_window(settings: Settings, soi: Prior) -> None:
    """Refuse windows that do not hold a symbol of the SOI."""
    symbol = int(soi.modulation["samples_per_symbol"]) if soi.modulation else 0
    if settings.window is not None and settings.window <= symbol:
        raise RecordingError(f"--window {settings.window} is impossible; a window must be longer than a symbol of the "
                             f"SOI ({symbol} samples)")


def check_overlap(settings: Settings, soi: Prior, window: int) -> None:
    """Refuse overlaps that do not go with the SOI's symbols. window: samples."""
    if soi.tracker is not None or not soi.modulation:  # a tracker says where the symbols lie
        return
    overlap, symbol = settings.overlap, int(soi.modulation["samples_per_symbol"])
    if overlap is None or not 0 <= overlap < window or (window - overlap) % symbol == 0:
        return  # Plan refuses what lies outside
    below = overlap - (overlap - window) % symbol
    near = " and ".join(str(near) for near in (below, below + symbol) if 0 <= near < window)
    raise RecordingError(f"--overlap {overlap} is impossible; window - overlap must be a multiple of the SOI's "
                         f"{symbol} samples per symbol, and for windows of {window} samples the nearest allowed "
                         f"{'overlaps are' if ' ' in near else 'overlap is'} {near}")


def try_priors(priors: Sequence[Prior], device: str, length: int) -> None:
    """Call priors that came from files once, on `length` samples: one whose network fails is refused in time."""
    for prior in priors:
        if prior.module is not None:
            continue
        try:
            answer = prior.engine(device).denoise(np.zeros((1, length), np.complex64),
                                                  np.full(1, 0.5, np.float32), None)
        except (ValueError, RuntimeError) as error:
            why = str(error).strip().splitlines()[0]
            raise RecordingError(f"the prior {prior.name} fails on a window of {length} samples: {why}") from error
        if not np.isfinite(answer).all():
            raise RecordingError(f"the prior {prior.name} answers zeros with values that are not finite")
