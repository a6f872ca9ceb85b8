# SPDX-License-Identifier: GPL-3.0-or-later
"""A signal's prior: a TorchScript module with its metadata, from a specification, a file or bytes."""

import io
import json
import re
import threading
import warnings
from typing import TYPE_CHECKING, Any, Callable, Optional, Sequence

import numpy as np
import torch

from .. import unmix_python
from ..wording import one_line
from . import constellation as cons
from .archive import read_archive

if TYPE_CHECKING:
    from ..trackers import Tracker

FORMAT = 1  # of prior.json
MOST_SAMPLES = 10**8  # of a window or a frame
LONGEST_NAME = 500


class PriorError(ValueError):
    """A prior that cannot be used; the message is one sentence that says why and what is allowed, on one line."""

    def __init__(self, sentence: str):
        super().__init__(one_line(sentence))


class Prior:
    """What is known about one signal, ready for the engine.

    info: the contents of prior.json. name: short name for reports. Use parse(), load() or from_module() to get one.
    """

    def __init__(self, data: bytes, origin: str, module: Optional[torch.nn.Module] = None):
        """data: a TorchScript file's contents with prior.json inside. origin: where from, for messages.

        module: the eager module of a closed-form prior, which can also estimate its side information.
        Raises PriorError for contents that are no prior.
        """
        self._data = data
        self._engines: dict[str, unmix_python.Prior] = {}
        self._scripted: dict[str, torch.jit.ScriptModule] = {}
        self._lock = threading.Lock()
        self.origin = origin
        self.module = module
        #: Makes what follows the side information along a stream, see trackers.Tracker; None where windows stand alone.
        self.tracker: Optional[Callable[[], Tracker]] = None
        try:
            engine = unmix_python.Prior.from_bytes(data, "cpu")
        except ValueError as error:  # without a word where torch quotes bytes that are no text
            reason = str(error) or "the prior is not a TorchScript file"
            raise PriorError(reason.replace("the prior", origin, 1)) from None
        except (RuntimeError, MemoryError) as error:
            raise PriorError(f"{origin} cannot be used: {_reason(error)}") from None
        self._engines["cpu"] = engine
        try:
            metadata = engine.metadata
        except UnicodeDecodeError:
            raise PriorError(f"{origin} has a prior.json that is no JSON") from None
        self.info = _checked_info(metadata, origin)
        if module is None:
            _check_signature(data, origin)
        if engine.predicts != self.info["predicts"]:  # the engine reads no JSON, it looks for the words
            raise PriorError(f"the prior.json of {origin} says predicts: noise in more than one place")
        self.name: str = self.info["name"]

    @property
    def window(self) -> int:
        """Window length in samples that the prior works on; 0 for any."""
        return self.info["window"]

    @property
    def learned(self) -> bool:
        """True for a network that was trained on data, whose errors are not those of a posterior mean."""
        return self.info["kind"] not in ("rrc", "cp-ofdm", "wifi", "gaussian")

    @property
    def modulation(self) -> Optional[dict]:
        """constellation, samples_per_symbol, rolloff, span, first of a linear modulation; None for other signals."""
        return self.info.get("modulation")

    @property
    def band(self) -> Optional[tuple[float, float]]:
        """Lowest and highest frequency occupied, cycles/sample; None where that is not known."""
        band = self.info.get("band")
        return None if band is None else (float(band[0]), float(band[1]))

    def engine(self, device: str = "cpu") -> unmix_python.Prior:
        """The engine's prior on a device ("cpu" or "cuda"), loaded once. Raises PriorError when it is not available."""
        if device not in self._engines:
            try:
                self._engines[device] = unmix_python.Prior.from_bytes(self._data, device)
            except ValueError as error:
                raise PriorError(str(error)) from None
        return self._engines[device]

    def denoise(self, x: np.ndarray, alpha_bar: np.ndarray, side: Optional[np.ndarray] = None) -> np.ndarray:
        """Posterior means for noisy windows: complex64 [W, N], alpha_bar float32 [W], side float32 [W, P] or None."""
        return self.engine().denoise(x, alpha_bar, side)

    def posterior_mean(self, x: torch.Tensor, alpha_bar: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
        """The same as denoise() by torch, differentiable in x: [W, 2, N], [W], [W, P] (or [W, 0]) to [W, 2, N].

        Raises PriorError where the prior does not load on the tensors' device.
        """
        module = self.scripted(str(x.device))
        # The profiling executor derives products of complex numbers wrongly (pytorch issue 154324).
        with torch.jit.optimized_execution(False):
            answer = module(x, alpha_bar, side)
        if self.info["predicts"] == "signal":
            return answer
        level = alpha_bar[:, None, None]
        return (x - (1 - level).sqrt() * answer) / level.sqrt()

    def scripted(self, device: str = "cpu") -> torch.jit.ScriptModule:
        """The prior's TorchScript module on a device, loaded once. Raises PriorError when it does not load there."""
        with self._lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in to_bytes
            if device not in self._scripted:
                try:
                    self._scripted[device] = torch.jit.load(io.BytesIO(self._data), map_location=device).eval()
                except Exception as error:  # noqa: BLE001 (whatever torch raises for what its C++ side could load)
                    raise PriorError(f"{self.origin} cannot be used: {_reason(error)}") from None
            return self._scripted[device]

    def psd(self, bins: int) -> np.ndarray:
        """Power spectral density in FFT order, mean 1, float64 [bins]. Raises PriorError when it is not known."""
        known = self.info.get("psd")
        if known is None:
            raise PriorError(f"the prior {self.name} has no spectrum in its metadata, which an automatic SIR needs; "
                             "give the SIR (--sir-db)")
        known = np.asarray(known, dtype=float)
        known = known / known.max()  # no power of these overflows or vanishes
        place = np.arange(bins) * (len(known) / bins)
        wrapped = np.append(known, known[0])
        result = np.maximum(np.interp(place, np.arange(len(wrapped)), wrapped), 0)
        if not result.any():
            raise PriorError(f"the spectrum of the prior {self.name} is nothing but lines between {bins} frequencies")
        return result / result.mean()

    def side_information(self, windows: np.ndarray, others: Sequence["Prior"]) -> Optional[np.ndarray]:
        """Side information float32 [W, P] estimated from mixtures complex64 [W, N]; None where the prior takes none.

        others: the priors of the other sources, whose bands are left out of the estimate.
        """
        if not self.info["side"] or self.info["synchronised"]:
            return None
        if self.info.get("sync") == "auto":
            raise PriorError(f"the prior {self.name} follows a signal along a stream and cannot synchronise to windows "
                             "that stand alone; give their side information")
        if self.module is not None and self.info["kind"] == "cp-ofdm" and self.info["sync"] == "estimated" and (
                windows.shape[1] >= 2 * self.module.length - 1):  # else no complete symbol is certain to be there
            from ..estimators import ofdm_start_and_phase
            return ofdm_start_and_phase(windows, self.module, [o.band for o in others if o.band is not None])
        if self.info["synchronise"]:
            return self._synchronise(windows, [o.band for o in others if o.band is not None])
        return None  # the prior marginalises in every call

    def _synchronise(self, windows: np.ndarray, bands: Sequence[tuple[float, float]]) -> np.ndarray:
        """Side information from the module's own method synchronise(y [B, 2, N], occupied [J, 2]) -> [B, P]."""
        least = 2 * self.info["frame"] - 1
        if windows.shape[1] < least:
            raise PriorError(f"the prior {self.name} needs windows of at least {least} samples, not {windows.shape[1]}")
        module = self.scripted()
        if not hasattr(module, "synchronise"):
            raise PriorError(f"{self.origin} says that it synchronises itself, but has no method synchronise")
        occupied = torch.tensor(bands, dtype=torch.float32).reshape(-1, 2)
        expected = len(self.info["side"])
        found = []
        with torch.inference_mode():
            for begin in range(0, len(windows), 64):  # bounded memory
                chunk = windows[begin:begin + 64].astype(np.complex64)
                planes = torch.from_numpy(np.stack([chunk.real, chunk.imag], 1))
                try:
                    side = module.synchronise(planes, occupied)
                except Exception as error:  # TorchScript raises what the file's code raises, behind its stack trace
                    raise PriorError(f"the prior {self.name} failed to synchronise: {_reason(error)}") from None
                side = _real_values(side)
                if side is None or side.shape != (len(chunk), expected) or not np.isfinite(side).all():
                    raise PriorError(f"the prior {self.name} must answer finite, real side information of {expected} "
                                     "values for each window")
                found.append(side)
        return np.concatenate(found)


def from_module(module: torch.nn.Module, info: dict) -> Prior:
    """Script an eager module [B, 2, N], [B], [B, P] -> [B, 2, N] and wrap it. info: prior.json."""
    return Prior(to_bytes(module, info), info["name"], module)


def to_bytes(module: torch.nn.Module, info: dict) -> bytes:
    """Contents of a prior file: the scripted module with info as its extra file prior.json."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit announces its successor, which C++ cannot load everywhere yet
        scripted = torch.jit.script(module.eval())
        buffer = io.BytesIO()
        torch.jit.save(scripted, buffer, _extra_files={"prior.json": json.dumps(info)})
    return buffer.getvalue()


def load(path: str) -> Prior:
    """Load a prior from a file. Raises PriorError when it is missing, no TorchScript, or without usable metadata."""
    try:
        data = read_archive(path)
    except OSError as error:
        raise PriorError(f"the prior file '{path}' cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise PriorError(f"'{path}' {error}") from None
    return Prior(data, f"'{path}'")


def _check_signature(data: bytes, origin: str) -> None:
    """Raise PriorError unless the file's forward takes (x, alpha_bar, side) and answers with one tensor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in to_bytes
        try:
            schema = torch.jit.load(io.BytesIO(data), map_location="cpu").forward.schema
        except Exception as error:  # noqa: BLE001 (whatever torch raises for what its C++ side could load)
            raise PriorError(f"{origin} cannot be used: {_reason(error)}") from None
    given, more = schema.arguments[1:4], schema.arguments[4:]  # the first is the module
    kinds = [str(argument.type) for argument in (*given, *schema.returns)]
    if kinds != ["Tensor"] * 4 or not all(argument.has_default_value() for argument in more):
        raise PriorError(f"{origin} has a forward method of another kind; it must take the tensors x, alpha_bar and "
                         "side and return one tensor")


def _real_values(answer: Any) -> Optional[np.ndarray]:
    """An answer of a file's code as float32, None where it is no plain tensor of real numbers in memory."""
    if not isinstance(answer, torch.Tensor) or answer.device.type != "cpu" or answer.layout != torch.strided or (
            answer.is_complex() or answer.is_quantized):
        return None
    return answer.detach().float().resolve_neg().numpy()


def _reason(error: Exception) -> str:
    """The line of an error that says why: the first that names an "Error:", or else the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in lines if re.search(r"Error: *\S", line)), lines[0])


def _checked_info(text: str, origin: str) -> dict:
    try:
        info = json.loads(text)
    except (ValueError, RecursionError):
        raise PriorError(f"{origin} has a prior.json that is no JSON") from None
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise PriorError(f"{origin} has a prior.json of another format; this version reads format {FORMAT}")
    if not isinstance(info.get("name"), str) or not isinstance(info.get("kind"), str):
        raise PriorError(f"the prior.json of {origin} must name the prior and its kind")
    for field in ("name", "kind"):
        if one_line(info[field]) != info[field] or len(info[field]) > LONGEST_NAME:
            raise PriorError(f"the {field} in the prior.json of {origin} must be one line of at most {LONGEST_NAME} "
                             "printable characters")
    info.setdefault("window", 0)
    info.setdefault("side", [])
    info.setdefault("synchronised", True)
    info.setdefault("predicts", "signal")
    if type(info["window"]) is not int or not 0 <= info["window"] <= MOST_SAMPLES:
        raise PriorError(f"the window of {origin} must be a whole number of samples up to {MOST_SAMPLES}, 0 for any")
    if info["predicts"] not in ("signal", "noise"):
        raise PriorError(f"{origin} predicts '{info['predicts']}'; allowed are signal and noise")
    if not _is_names(info["side"]):
        raise PriorError(f"the side information of {origin} must be a list of names")
    if info.get("invariances") is not None and not _is_names(info["invariances"]):
        raise PriorError(f"the invariances of {origin} must be a list of names")
    info.setdefault("synchronise", False)
    for field in ("synchronised", "synchronise"):
        if type(info[field]) is not bool:
            raise PriorError(f"{field} of {origin} must be true or false")
    if info["synchronise"] and (not info["side"] or type(info.get("frame")) is not int or (
            not 2 <= info["frame"] <= MOST_SAMPLES)):
        raise PriorError(f"{origin} synchronises itself, so it must name its side information and its frame's samples")
    for field, usable, allowed in (
            ("band", lambda v: len(v) == 2 and -1 <= v[0] < v[1] <= 1, "low < high, both -1 to 1 cycle/sample"),
            ("psd", lambda v: len(v) > 0 and min(v) >= 0 < max(v), "a list of numbers, none negative and not all 0"),
            ("alpha_bar", lambda v: len(v) == 2 and all(0 < n < 1 for n in v), "two numbers above 0 and below 1")):
        value = info.get(field)
        if value is not None and not (isinstance(value, list) and all(map(_is_number, value)) and usable(value)):
            raise PriorError(f"the {field} of {origin} must be {allowed}")
    _check_modulation(info.get("modulation"), origin, info.get("sync") == "auto")
    return info


def _check_modulation(modulation: Any, origin: str, fractional: bool) -> None:
    """fractional: whether the samples per symbol need not be a whole number."""
    if modulation is None:
        return
    if not isinstance(modulation, dict):
        raise PriorError(f"the modulation of {origin} must be an object")
    if modulation.get("constellation") not in cons.NAMES:
        raise PriorError(f"{origin} names an unknown constellation; known are {', '.join(cons.NAMES)}")
    limits = {"samples_per_symbol": (2, 1024), "rolloff": (0, 1), "span": (2, 256), "first": (0, 1024)}
    for field, (low, high) in limits.items():
        value = modulation.get(field)
        whole = field == "span" or (field == "samples_per_symbol" and not fractional)
        if not _is_number(value) or not low <= value <= high or (whole and value % 1):
            raise PriorError(f"the modulation of {origin} has {field} {value}; allowed are {low} to {high}")


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _is_number(value: Any) -> bool:
    """True for finite numbers; whole ones of JSON may also be too large for a float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e100
