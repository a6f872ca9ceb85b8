# SPDX-License-Identifier: GPL-3.0-or-later
"""Training signals from recordings: random windows, each turned by a random phase.

Reads SigMF (any complex data type, also the 2021 RF Challenge's <type>_<split>_%04d.sigmf-{meta,data}), the RF
Challenge's HDF5 (`dataset`, complex64 frames x samples, and `sig_type`) and .npy (complex64 frames x samples, as the
test sets of ICASSP 2024, whose <stem>_metadata.npy is used where it is there). Needs no Sionna.
"""

import glob
import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

#: The shipped prior `wifi` was fitted to the first 60 % of each file and is scored on the rest: a network that is
#: compared with it must not be trained on that rest.
TRAIN_SHARE = 0.6
CLIPPED_WARN, CLIPPED_REFUSE = 1e-4, 0.05  # shares of the samples
SPIKE = 1e4  # largest magnitude allowed beside the rest's RMS
SILENT = 1e-4  # power below which a window is silent, where the file's is 1
#: RF Challenge: frames and samples that train, the other frames are the test set (arXiv 2306.14411, C.2 and its code).
COMMSIGNAL2 = {"shape": (150, 43560), "frames": (0, 100), "samples": (5000, 40000)}
ENDINGS = (".sigmf-meta", ".sigmf-data", ".sigmf", ".h5", ".hdf5", ".npy")


@dataclass
class Content:
    """What one file holds: frames of complex64 samples, the first sample of each gapless stretch within a frame."""

    frames: list[np.ndarray]
    breaks: tuple[int, ...] = ()  # of a single frame: samples at which a stretch begins, the first one's 0 left out
    rate: float | None = None  # samples per second
    kind: str = ""  # the RF Challenge's sig_type
    levels: np.ndarray | None = None  # of each frame: frames of one level are split among themselves


class Recording:
    """Random windows of recordings of one signal, each with a random phase, float32 [B, 2, window].

    files: a path or pattern (*, ?), or a list of them. window: samples. part: "train", the first 60 % of each file's
    frames (of a single frame: of its samples), or "validation", the rest. normalise: "recording", each file has unit
    power as a whole, or "window", each window has. sample_rate: samples per second that every file must have, or None:
    all the same. frames, samples: [first, end) of the frames of each file and of the samples of each frame to use, or
    None: all, but of CommSignal2 (150 frames of 43,560 samples) frames 0-99 and samples 5000-40000, as the paper does.
    The part is held in memory. Silent windows, 40 dB or more below their file, are not drawn; a warning says how many.

    Raises ValueError, in one sentence, for files that cannot be read, are truncated, silent, clipped (more than 5 % of
    the samples at the extreme values; a warning from 0.01 %), not finite, with absurd peaks or too short, or whose
    type, shape or sample rate is another.
    """

    def __init__(self, files: str | list, window: int = 2560, part: str = "train", normalise: str = "recording",
                 sample_rate: float | None = None, frames: list | None = None, samples: list | None = None,
                 device: str = "cpu"):
        if window < 1:
            raise ValueError(f"a window of {window} samples is impossible; it must be at least 1")
        for key, value, allowed in (("part", part, ("train", "validation")),
                                    ("normalise", normalise, ("recording", "window"))):
            if value not in allowed:
                raise ValueError(f"{key} is '{value}'; allowed are {' and '.join(allowed)}")
        for key, span in (("frames", frames), ("samples", samples)):
            if span is not None and not (isinstance(span, (list, tuple)) and len(span) == 2 and all(
                    type(n) is int for n in span) and 0 <= span[0] < span[1]):
                raise ValueError(f"{key} is {span}; it must be [first, end) with 0 <= first < end")
        self.window, self.part, self.normalise, self.device = window, part, normalise, device
        self.paths = find_files(files)
        pieces, loud, rates = [], [], {}
        for path in self.paths:
            content = read_file(path)
            rates[content.rate] = path
            if sample_rate is not None and content.rate is None:
                raise ValueError(f"{path} does not say its sample rate, and {sample_rate:g} S/s are asked for")
            if sample_rate is not None and not math.isclose(content.rate, sample_rate, rel_tol=1e-9):
                raise ValueError(f"{path} has {content.rate:g} S/s, and {sample_rate:g} S/s are asked for")
            found = self._pieces(path, content, frames, samples)
            runs = [_loud_runs(piece, window) for piece in found]
            if not sum(map(len, runs)):
                raise ValueError(f"{path} is silent in its {part} part: every window of {window} samples is 40 dB or "
                                 "more below the file")
            pieces, loud = pieces + found, loud + runs
        if len(rates) > 1:
            (a, first), (b, second) = list(rates.items())[:2]
            raise ValueError(f"{first} and {second} have different sample rates: {_rate(a)} and {_rate(b)}")
        self.rate = next(iter(rates))
        joined = np.concatenate(pieces)
        self.samples = torch.from_numpy(np.stack([joined.real, joined.imag])).to(device)  # [2, n]
        length = np.array([len(piece) for piece in pieces])
        first = np.cumsum(length) - length
        run = torch.from_numpy(np.concatenate([at + runs for at, runs in zip(first, loud, strict=True)]))
        self.begin = run[:, 0].to(device)  # in samples, of each run of places where a window may begin
        self.choices = (run[:, 1] - run[:, 0]).cumsum(0).to(device)  # windows up to and with each run
        self.windows = int(self.choices[-1])
        everything = int((length - window + 1).sum())
        if self.windows < everything:
            others = len(self.paths) - 1
            warnings.warn(f"{100 * (1 - self.windows / everything):.2g} % of the windows of {self.paths[0]}"
                          f"{f' and {others} more' if others else ''} are silent, 40 dB or more below their file, and "
                          "are not drawn", stacklevel=2)

    def _pieces(self, path: Path, content: Content, frames, samples) -> list[np.ndarray]:
        """The gapless stretches of this part of a file, of unit power as a whole, each at least a window long."""
        used, levels = content.frames, content.levels
        if content.kind == "CommSignal2" and (len(used), len(used[0])) == COMMSIGNAL2["shape"]:
            frames, samples = frames or COMMSIGNAL2["frames"], samples or COMMSIGNAL2["samples"]
        if frames is not None:
            if frames[1] > len(used):
                raise ValueError(f"{path} has {len(used)} frames; frames {frames[0]} to {frames[1]} are asked for")
            used = used[frames[0]:frames[1]]
            levels = None if levels is None else levels[frames[0]:frames[1]]
        first = 0
        if samples is not None:
            first, end = samples
            if end > min(len(frame) for frame in used):
                raise ValueError(f"{path} has frames of {min(len(frame) for frame in used)} samples; samples {first} "
                                 f"to {end} are asked for")
            used = [frame[first:end] for frame in used]
        scale = 1 / _rms(path, used)
        if len(used) > 1:
            chosen = [used[i] for i in self._frames_of_part(len(used), levels)]
        else:
            whole = len(used[0])
            cut = int(TRAIN_SHARE * whole)
            low, high = (0, cut) if self.part == "train" else (cut, whole)
            edges = [low, *(b - first for b in content.breaks if low < b - first < high), high]
            chosen = [used[0][a:b] for a, b in zip(edges[:-1], edges[1:], strict=True)]
        longest = max(len(piece) for piece in chosen)
        if longest < self.window:
            raise ValueError(f"{path} is too short: its {self.part} part has {longest} samples in one piece, a window "
                             f"needs {self.window}")
        return [np.multiply(piece, scale, dtype=np.complex128).astype(np.complex64) for piece in chosen
                if len(piece) >= self.window]

    def _frames_of_part(self, count: int, levels: np.ndarray | None) -> np.ndarray:
        """Numbers of the frames of this part, at least one in either part."""
        groups = [np.arange(count)] if levels is None else [np.flatnonzero(levels == v) for v in np.unique(levels)]
        if min(len(group) for group in groups) < 2:
            groups = [np.arange(count)]
        cuts = [min(max(1, int(TRAIN_SHARE * len(group))), len(group) - 1) for group in groups]
        parts = [group[:cut] if self.part == "train" else group[cut:] for group, cut in zip(groups, cuts, strict=True)]
        return np.sort(np.concatenate(parts))

    def __call__(self, batch: int, generator: torch.Generator) -> Tensor:
        """A batch of windows, float32 [batch, 2, window]; every place is equally likely."""
        return self.draw(batch, generator)[0]

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Windows float32 [batch, 2, window], where they begin in self.samples, int64 [batch], and phases [batch]."""
        place = torch.randint(self.windows, (batch,), generator=generator, device=self.device)
        angle = 2 * math.pi * torch.rand(batch, generator=generator, device=self.device)
        piece = torch.searchsorted(self.choices, place, right=True)
        before = torch.where(piece > 0, self.choices[piece - 1], 0)
        start = self.begin[piece] + place - before
        real, imag = self.samples[:, start[:, None] + torch.arange(self.window, device=self.device)]
        if self.normalise == "window":
            level = (real.square() + imag.square()).mean(1, keepdim=True).sqrt()  # no window is silent
            real, imag = real / level, imag / level
        c, s = angle.cos()[:, None], angle.sin()[:, None]
        return torch.stack([c * real - s * imag, s * real + c * imag], 1), start, angle

    def card(self) -> dict:
        """The entries of prior.json that the data determine."""
        names = ", ".join(path.name for path in self.paths[:12]) + (", ..." if len(self.paths) > 12 else "")
        return {"window": self.window, "band": None, "samples_per_symbol": None, "constellation": None,
                "modulation": None, "synchronised": False, "invariances": ["shift", "phase"], "simulation": None,
                "training": f"{self.samples.shape[1]} recorded samples ({_rate(self.rate)}) of {len(self.paths)} "
                            f"{'file' if len(self.paths) == 1 else 'files'}: {names}; unit power per {self.normalise}"}


def _rate(rate: float | None) -> str:
    return "sample rate not known" if rate is None else f"{rate:g} S/s"


def _loud_runs(piece: np.ndarray, window: int) -> np.ndarray:
    """Runs [first, end) of places where a window that is not silent begins, int64 [R, 2]."""
    total = np.concatenate([[0.0], np.cumsum(np.square(np.abs(piece), dtype=np.float64))])
    loud = np.concatenate([[False], total[window:] - total[:-window] >= SILENT * window, [False]])
    return np.flatnonzero(loud[1:] != loud[:-1]).reshape(-1, 2)


def _rms(path: Path, frames: list[np.ndarray]) -> float:
    """Root mean square of a file's samples. Raises ValueError for silence, clipping, spikes or what is not finite."""
    if not all(np.isfinite(frame).all() for frame in frames):
        raise ValueError(f"{path} holds samples that are not finite numbers")
    magnitude = np.concatenate([np.hypot(f.real, f.imag, dtype=np.float64) for f in frames])  # squares may pass 1e38
    peak = magnitude.max()
    if peak == 0:
        raise ValueError(f"{path} is silent: all its samples are 0")
    rest = np.sort(magnitude[magnitude > 0])
    rest = rest[:math.ceil(0.99 * len(rest))]  # several spikes must not hide each other
    usual = math.sqrt(np.mean(np.square(rest)))
    if peak > SPIKE * usual:
        raise ValueError(f"{path} has a sample of magnitude {peak:.3g}, {peak / usual:.1g} times the RMS of the rest; "
                         f"at most {SPIKE:g} times is allowed")
    share = _clipped(frames, magnitude)
    if share > CLIPPED_REFUSE:
        raise ValueError(f"{path} is clipped: {100 * share:.1f} % of its samples are at the extreme values; at most "
                         f"{100 * CLIPPED_REFUSE:g} % are allowed")
    if share > CLIPPED_WARN:
        warnings.warn(f"{path} may be clipped: {100 * share:.2g} % of its samples are at the extreme values",
                      stacklevel=2)
    return math.sqrt(np.mean(np.square(magnitude)))


def _clipped(frames: list[np.ndarray], magnitude: np.ndarray) -> float:
    """Share of the samples that pile up at the extremes of I or Q, within 0.1 %, above a spread of lower values."""
    strong = magnitude[magnitude > 0.5 * magnitude.max()]
    if np.mean(np.abs(strong / np.median(strong) - 1) < 0.03) > 0.9:
        return 0.0  # constant modulus, as of FM and PSK: I and Q dwell at their extremes by nature
    piled = np.zeros(len(magnitude), dtype=bool)
    for axis in ("real", "imag"):
        values = np.concatenate([getattr(frame, axis) for frame in frames]).astype(np.float64)
        low, high = values.min(), values.max()
        if low == high:
            continue  # the other axis of a real signal
        depth = np.minimum(values - low, high - values) * (2 / (high - low))  # below the nearer extreme, 0 to 1
        at_extreme = depth < 1e-3
        count = np.count_nonzero(at_extreme)
        two_levels = count > 0.5 * len(values)
        few_levels = 20 * np.count_nonzero((depth >= 1e-3) & (depth < 0.1)) < count - 2  # rectangular QAM
        dense = np.count_nonzero((depth >= 1e-3) & (depth < 1e-2)) > count  # FM bursts of several levels
        if not (two_levels or few_levels or dense):
            piled |= at_extreme
    return max(0, int(piled.sum()) - 4) / len(magnitude)  # each component reaches its two extremes once in any signal


def find_files(files: str | list) -> list[Path]:
    """Files that a path, a pattern or a list of them names, sorted. Raises ValueError where one names none."""
    patterns = [files] if isinstance(files, (str, Path)) else files
    if not isinstance(patterns, list) or not patterns or not all(isinstance(p, (str, Path)) for p in patterns):
        raise ValueError("files must be a path or pattern, or a list of them")
    found = set()
    for pattern in map(str, patterns):
        matches = [Path(name) for name in glob.glob(pattern)] or [Path(pattern)]
        if glob.has_magic(pattern):
            matches = [path for path in matches if path.name.endswith(ENDINGS)
                       and not path.name.endswith("_metadata.npy")]
        if not matches or not all(path.is_file() for path in matches):
            raise ValueError(f"no recording is found at {pattern}")
        for path in matches:
            if not path.name.endswith(ENDINGS):
                raise ValueError(f"{path} has an unknown ending; allowed are {' '.join(ENDINGS)}")
            found.add(path.with_suffix(".sigmf-meta") if path.suffix == ".sigmf-data" else path)
    return sorted(found)


def read_file(path: Path) -> Content:
    """Read a recording, by its ending. Raises ValueError, in one sentence, for a file that is not what that says."""
    if path.suffix in (".h5", ".hdf5"):
        return _read_hdf5(path)
    return _read_npy(path) if path.suffix == ".npy" else _read_sigmf(path)


def _checked_frames(path: Path, array) -> list[np.ndarray]:
    """The rows of an array. Raises ValueError unless it is complex64 frames x samples and holds any."""
    if array.dtype != np.complex64 or array.ndim != 2 or not array.size:
        shape = " x ".join(map(str, array.shape)) or "scalar"
        raise ValueError(f"{path} holds {array.dtype} {shape}; complex64 frames x samples are needed")
    return list(array)


def _read_hdf5(path: Path) -> Content:
    try:
        import h5py
    except ImportError:
        raise ValueError(f"{path} needs h5py, which the training environment has (make training-env)") from None
    try:
        with h5py.File(path, "r") as file:
            for key in ("dataset", "sig_type"):
                if not isinstance(file.get(key), h5py.Dataset):
                    raise ValueError(f"{path} has no '{key}'; it holds {', '.join(file) or 'nothing'}")
            kind = file["sig_type"][()]
            kind = kind.decode(errors="replace") if isinstance(kind, bytes) else str(kind)
            return Content(_checked_frames(path, file["dataset"]), kind=kind)
    except OSError as error:
        raise ValueError(f"{path} is no HDF5 file or is truncated: {_one_line(error)}") from None


def _read_npy(path: Path) -> Content:
    try:
        frames = _checked_frames(path, _load_npy(path))
        about = path.with_name(f"{path.stem}_metadata.npy")
        levels = None
        if about.is_file():
            table = _load_npy(about)
            if table.ndim != 2 or table.shape[0] != len(frames) or table.shape[1] < 2:
                raise ValueError(f"{about} has shape {table.shape}; it must have {len(frames)} rows, one per frame, "
                                 "with the SINR second")
            try:  # the RF Challenge stores its numbers as text
                levels = table[:, 1].astype(np.float64) if table.dtype.kind in "fiuUS" else None
            except ValueError:
                levels = None
            if levels is None or not np.isfinite(levels).all():
                raise ValueError(f"{about} must hold the SINR of each frame second, as finite numbers")
        return Content(frames, levels=levels)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or _one_line(error)}") from None


def _load_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is no .npy file of numbers or is truncated: {_one_line(error)}") from None


def _read_sigmf(path: Path) -> Content:
    import sigmf
    from sigmf.error import SigMFError
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on versions of the format
            signal = sigmf.fromfile(str(path))
            if signal.get_num_channels() != 1:
                raise ValueError(f"{path} has {signal.get_num_channels()} channels; 1 is needed")
            datatype = str(signal.get_global_field("core:datatype"))
            if not datatype.startswith("c"):
                raise ValueError(f"{path} holds real samples ({datatype}); complex ones are needed")
            if path.suffix != ".sigmf":  # an archive holds its data inside
                if not signal.data_file:
                    raise ValueError(f"{path} has no data beside it")
                if Path(signal.data_file).stat().st_size % signal.get_sample_size():
                    raise ValueError(f"{path} is truncated: its data end within a sample")
            samples = signal.read_samples() if signal.sample_count else np.zeros(0, np.complex64)
        captures = signal.get_captures()
        starts = [int(capture.get("core:sample_start", 0)) for capture in captures]
        ends = [int(a["core:sample_start"]) + int(a.get("core:sample_count", 0)) for a in signal.get_annotations()]
    except (SigMFError, OSError, KeyError, TypeError, AttributeError, OverflowError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as SigMF: {_one_line(error)}") from None
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path} cannot be read as SigMF: {_one_line(error)}") from None
    samples = np.asarray(samples, dtype=np.complex64)
    if max(ends + starts, default=0) > len(samples):
        raise ValueError(f"{path} is truncated: its metadata speak of {max(ends + starts)} samples, it has "
                         f"{len(samples)}")
    if not len(samples):
        raise ValueError(f"{path} holds no samples")
    rate = signal.get_global_field("core:sample_rate")
    if rate is not None and (type(rate) not in (int, float) or not 0 < rate < 1e15):
        raise ValueError(f"{path} has the sample rate {rate!r}; it must be a number above 0")
    return Content([samples], tuple(s for s in sorted(set(starts)) if s > 0), None if rate is None else float(rate))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
