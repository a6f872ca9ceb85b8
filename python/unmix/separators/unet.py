# SPDX-License-Identifier: GPL-3.0-or-later
"""The supervised peer of arXiv 2306.14411 (Appendix G): a U-Net that was trained on paired mixtures of known signals.

What the priors learn apart it has learned together: it serves the signals, levels and windows that it was trained on,
and no others. training/train_unet.py makes the files; here torch runs them, without TensorFlow.
"""

import functools
import io
import json
import math
import os
import re
import threading
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch

from ..memory import out_of_memory
from ..priors import Prior, PriorError, parse
from ..priors.archive import MOST_METADATA, read_archive
from ..wording import one_line
from .common import LevelsRefused, MethodError, Problem, Separation, in_batches

__all__ = ["unet"]

#: Networks that come with the package, each with its card beside it.
SHIPPED = Path(__file__).parent / "shipped"
FORMAT = 1  # of separator.json
#: How far outside the trained SIR a window may lie, dB: estimated levels are not exact.
SLACK_DB = 1.0
#: A card may name signals that need no file.
_SPEC = re.compile(r"(rrc|cp-ofdm):(?!\s*auto\b)[^/\\]*")


def unet(problem: Problem, model: Optional[str] = None) -> Separation:
    """Let a U-Net estimate the SOI of two sources; the interference is (mixture - SOI) / gain.

    The network sees the mixture in units of the SOI, y / g_1, as in its training. The priors are not asked; by them the
    network is chosen and the agreement measured (common.explained). The noise's variance is not used either.

    model: path of a network's file; None for the one among those that come with the package that was trained on the
    problem's signals. Raises MethodError, in a sentence, for a file that is no such network, and where the network was
    not trained on the problem's signals or window; LevelsRefused for another SIR (20 log10(g_1 / g_2), within 1 dB).
    """
    if len(problem.priors) != 2:
        raise MethodError("unet separates two sources only: it was trained on mixtures of two")
    network = _chosen(problem) if model is None else _load(os.fspath(model))
    _check_fit(network, problem)
    module = network.on(problem.device)

    def method(part, go_on):
        gains = part.gains[:, :, None]
        soi = _run(module, part.mixture / gains[:, 0], network.origin, problem)
        return np.stack([soi, (part.mixture - gains[:, 0] * soi) / gains[:, 1]]), 0

    return in_batches(problem, method)


@dataclass
class _Network:
    """A file's contents, what its card says, and the signals that the card names."""

    data: bytes
    origin: str
    info: dict
    signals: list[set]
    _modules: dict[str, torch.jit.ScriptModule] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def on(self, device: str) -> torch.jit.ScriptModule:
        """The module on a device, loaded once. Raises MethodError where it does not load there."""
        with self._lock:
            if device not in self._modules:
                self._modules[device] = _scripted(self.data, self.origin, device, {})
            return self._modules[device]

    @property
    def serves(self) -> str:
        return f"{' or '.join(self.info['soi'])} under {' or '.join(self.info['interference'])}"


def _chosen(problem: Problem) -> _Network:
    """The shipped network for the problem's signals. Raises MethodError where there is none."""
    wanted = [_signal(prior) for prior in problem.priors]
    found = [_load(str(file)) for file in sorted(SHIPPED.glob("*.pt"))]
    for network in found:
        if all(signal in known for signal, known in zip(wanted, network.signals, strict=True)):
            return network
    raise MethodError(one_line(
        f"no U-Net that comes with the package was trained on {problem.priors[0].name} under {problem.priors[1].name}; "
        f"{'there is one for ' if found else 'it has none'}{', and one for '.join(n.serves for n in found)}"))


def _check_fit(network: _Network, problem: Problem) -> None:
    """Raise MethodError where the network was not trained on such a problem."""
    for prior, known, name in zip(problem.priors, network.signals, ("soi", "interference"), strict=True):
        if _signal(prior) not in known:
            raise MethodError(one_line(f"the U-Net {network.info['name']} was not trained on {prior.name}; its {name} "
                                      f"is {' or '.join(network.info[name])}"))
    samples, trained = problem.mixture.shape[1], network.info["window"]
    if samples != trained:
        raise MethodError(f"the U-Net {network.info['name']} was trained on windows of {trained} samples, not "
                          f"{samples}")
    sir = 20 * np.log10(problem.gains[:, 0] / problem.gains[:, 1])
    low, high = network.info["sir_db"]
    outside = sir[(sir < low - SLACK_DB) | (sir > high + SLACK_DB)]
    if len(outside):
        raise LevelsRefused(f"the U-Net {network.info['name']} was trained on an SIR of {low:g} to {high:g} dB; a "
                            f"window has {outside[0]:.1f} dB")


def _signal(prior: Prior) -> Optional[tuple]:
    """What tells the signal of a prior from others: modulation or carriers; None where a network cannot know it.

    What follows beyond a window's ends is not compared. An SOI must be at its timing and phase, as in training.
    """
    if prior.module is None:  # learned or fitted: it says which closed form it stands for
        text = prior.info.get("simulation")
        if not isinstance(text, str) or not _SPEC.fullmatch(text):
            return None
        closed = parse(text)
    else:
        closed = prior
    kind = closed.info["kind"]
    if kind == "cp-ofdm":
        module = closed.module
        return kind, module.constellation, module.fft, module.cp, module.active
    if kind != "rrc" or not (closed.info["synchronised"] and prior.info["synchronised"]):
        return None
    shape = closed.modulation
    return kind, *(shape[key] for key in ("constellation", "samples_per_symbol", "rolloff", "span", "first"))


def _run(module: torch.jit.ScriptModule, windows: np.ndarray, origin: str, problem: Problem) -> np.ndarray:
    """The network's SOIs complex64 [W, N] in windows complex64 [W, N]."""
    planes = torch.from_numpy(np.stack([windows.real, windows.imag], 1).astype(np.float32)).to(problem.device)
    threads = torch.get_num_threads()
    if problem.threads:
        torch.set_num_threads(problem.threads)
    try:
        with torch.inference_mode():
            answer = module(planes)
        usable = isinstance(answer, torch.Tensor) and answer.shape == planes.shape and answer.is_floating_point()
        answer = answer.float().cpu().numpy() if usable else None
    except Exception as error:  # noqa: BLE001 (TorchScript raises what the file's code raises, behind its stack trace)
        if out_of_memory(error):
            raise
        raise MethodError(one_line(f"the network of {origin} fails: {_reason(error)}")) from None
    finally:
        torch.set_num_threads(threads)
    if answer is None:
        raise MethodError(f"the network of {origin} must answer windows with windows of the same shape")
    return answer[:, 0] + 1j * answer[:, 1]


def _load(path: str) -> _Network:
    """A network's file, read once as long as it stays the same. Raises MethodError that says what is wrong with it."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise MethodError(one_line(f"the U-Net's file '{path}' cannot be read: {error.strerror}")) from None
    return _loaded(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=8)
def _loaded(path: str, changed: int, size: int) -> _Network:
    try:
        data = read_archive(path)
    except OSError as error:
        raise MethodError(one_line(f"the U-Net's file '{path}' cannot be read: {error.strerror}")) from None
    except ValueError as error:
        raise MethodError(one_line(f"'{path}' {error}")) from None
    origin, extra = one_line(f"'{path}'"), {"separator.json": ""}
    module = _scripted(data, origin, "cpu", extra)
    info = _checked_info(extra["separator.json"], origin)
    schema = getattr(getattr(module, "forward", None), "schema", None)
    kinds = [str(a.type) for a in (*schema.arguments[1:], *schema.returns)] if schema else []
    if kinds != ["Tensor", "Tensor"]:
        raise MethodError(f"{origin} has a forward method of another kind; it must take one tensor and return one")
    try:
        signals = [{_signal(parse(spec)) for spec in info[name]} - {None} for name in ("soi", "interference")]
    except PriorError as error:
        raise MethodError(one_line(f"the separator.json of {origin} names signals that are none: {error}")) from None
    return _Network(data, origin, info, signals, {"cpu": module})


def _scripted(data: bytes, origin: str, device: str, extra: dict) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit announces its successor
        try:
            return torch.jit.load(io.BytesIO(data), map_location=device, _extra_files=extra).eval()
        except Exception as error:  # noqa: BLE001 (torch raises many kinds for what is no TorchScript)
            raise MethodError(one_line(f"{origin} cannot be used: {_reason(error)}")) from None


def _reason(error: Exception) -> str:
    """The line of an error that says why: the first that names an "Error:", or else the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in lines if re.search(r"Error: *\S", line)), lines[0])


def _checked_info(text: Any, origin: str) -> dict:
    if not text:
        raise MethodError(f"{origin} is no U-Net of gr-unmix: it has no separator.json inside")
    try:
        info = json.loads(text) if len(text) <= MOST_METADATA else None
    except (ValueError, RecursionError):
        raise MethodError(f"{origin} has a separator.json that is no JSON") from None
    if not isinstance(info, dict) or info.get("format") != FORMAT or info.get("kind") != "unet":
        raise MethodError(f"{origin} has a separator.json of another kind; this version reads unet of format {FORMAT}")
    name = info.get("name")
    if not isinstance(name, str) or not name or one_line(name) != name:
        raise MethodError(f"the separator.json of {origin} must name the network in one line")
    if type(info.get("window")) is not int or info["window"] < 1:
        raise MethodError(f"the window of {origin} must be a whole number of samples above zero")
    for field_name in ("soi", "interference"):
        specs = info.get(field_name)
        if not (isinstance(specs, list) and specs and all(isinstance(s, str) and _SPEC.fullmatch(s) for s in specs)):
            raise MethodError(f"the {field_name} of {origin} must be a list of rrc:... or cp-ofdm:... specifications")
    limits = info.get("sir_db")
    if not (isinstance(limits, list) and len(limits) == 2 and all(
            isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) for x in limits)
            and limits[0] <= limits[1]):
        raise MethodError(f"the sir_db of {origin} must be two numbers, the lower one first")
    return info
