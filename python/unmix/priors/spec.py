# SPDX-License-Identifier: GPL-3.0-or-later
"""Prior specifications: text such as "rrc:qpsk,sps=16,rolloff=0.5" or a file's name to a Prior."""

import copy
import functools
import math
import re
from pathlib import Path
from typing import Any, Callable

import numpy as np

from ..wording import one_line
from . import constellation as cons
from .cp_ofdm import CpOfdm, active_carriers
from .gaussian import Gaussian, spectrum
from .prior import FORMAT, LONGEST_NAME, Prior, PriorError, from_module, load
from .rrc import Rrc, taps
from .rrc_sync import SIDE, RrcSync
from .wifi import Wifi, columns

VERSION = "1"
HELP = """rrc:CONSTELLATION[,sps=16,rolloff=0.5,span=8,first=sps/2,ends=stream|isolated,sync=known|unknown]
rrc:CONSTELLATION,sync=auto[,sps=16,rolloff=0.5,span=8] (timing, phase and frequency are found; sps: any from 2 on)
cp-ofdm:CONSTELLATION[,fft=64,cp=16,active=56,sync=estimated|unknown]
cp-ofdm:auto,recording=FILE[,constellation=,fft=,cp=,active=,sync=] (found in any capture in which the OFDM dominates)
wifi:[fs=20e6,window=2560] (packets of 802.11a/g/n, 20 MHz wide, found and measured in the mixture itself)
gaussian:RECORDING (any capture that separate_file.py reads)
the name of a prior that comes with the package, or the path of a prior file (.pt)"""
#: Learned priors that come with the package, each with its card beside it.
SHIPPED = Path(__file__).parent / "shipped"
_PSD_BINS = 1024


def parse(text: str) -> Prior:
    """The prior that a specification describes; see HELP for the grammar. Equal texts share one prior.

    Raises PriorError with one sentence for a specification that is unknown, malformed or out of range.
    """
    text = text.strip()
    if re.match(r"^cp-ofdm:\s*auto\s*(,|$)", text):
        return _found_cp_ofdm(text)
    if re.match(r"^(rrc|cp-ofdm):", text):
        text = " ".join(text.split())  # no line break reaches a report
        if len(text) > LONGEST_NAME:
            raise PriorError(f"a specification of {len(text)} characters is too long; allowed are {LONGEST_NAME}")
        return _closed_form(text)
    if text.startswith("wifi:"):
        return _wifi(text)
    if text.startswith("gaussian:"):
        return _gaussian(text.removeprefix("gaussian:"))
    if text in shipped():
        return load(str(SHIPPED / f"{text}.pt"))
    if _is_file(text):
        return load(text)
    if text.endswith(".pt") or "/" in text:
        raise PriorError(f"the prior file '{text}' does not exist")
    raise PriorError(f"unknown prior '{text}'; allowed are rrc:..., cp-ofdm:..., wifi:, gaussian:RECORDING, "
                     f"{', '.join(shipped())}, or a prior file")


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError as error:  # a name too long, a folder that may not be entered
        raise PriorError(f"the prior file '{text}' cannot be read: {error.strerror}") from None


def shipped() -> list[str]:
    """Names of the learned priors that come with the package."""
    return sorted(file.stem for file in SHIPPED.glob("*.pt"))


@functools.lru_cache(maxsize=64)
def _closed_form(text: str) -> Prior:
    kind, _, rest = text.partition(":")
    name, *pairs = [part.strip() for part in rest.split(",")]
    if name not in cons.NAMES:
        raise PriorError(f"unknown constellation '{name}' in '{text}'; known are {', '.join(cons.NAMES)}")
    values = _values(pairs, text)
    try:
        return (_rrc if kind == "rrc" else _cp_ofdm)(text, name, values)
    except PriorError:
        raise
    except ValueError as error:
        raise PriorError(f"'{text}': {error}") from None


def _values(pairs: list[str], text: str) -> dict[str, str]:
    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key or not value:
            raise PriorError(f"'{pair}' in '{text}' is not of the form key=value")
        if key in values:
            raise PriorError(f"'{key}' appears twice in '{text}'")
        values[key] = value
    return values


def _take(values: dict[str, str], key: str, default: Any, convert: Callable[[str], Any], text: str) -> Any:
    if key not in values:
        return default
    value = values.pop(key)
    try:
        result = convert(value)
    except ValueError:
        kind = "a whole number" if convert is int else "a number"
        raise PriorError(f"{key}={value} in '{text}' is not {kind}") from None
    if isinstance(result, float) and not math.isfinite(result):
        raise PriorError(f"{key}={value} in '{text}' is not a finite number")
    if isinstance(result, int) and not -(10**6) < result < 10**6:
        raise PriorError(f"{key}={value} in '{text}' is absurdly large")
    return result


def _choice(values: dict[str, str], key: str, allowed: tuple[str, ...], text: str) -> str:
    """One of the allowed values; the first is the default."""
    value = values.pop(key, allowed[0])
    if value not in allowed:
        *others, last = sorted(allowed) if len(allowed) > 2 else allowed
        raise PriorError(f"{key}={value} in '{text}' is unknown; allowed are {', '.join(others)} and {last}")
    return value


def _refuse_rest(values: dict[str, str], text: str, allowed: str) -> None:
    if values:
        raise PriorError(f"unknown parameter '{next(iter(values))}' in '{text}'; allowed are {allowed}")


def _rrc(text: str, name: str, values: dict[str, str]) -> Prior:
    if values.get("sync") == "auto":
        return _rrc_sync(text, name, values)
    if re.fullmatch(r"[+]?\d*\.\d+", values.get("sps", "")):
        raise PriorError(f"sps={values['sps']} in '{text}' is not a whole number; any number from 2 on goes with "
                         "sync=auto, which finds the timing as well")
    sps = _take(values, "sps", 16, int, text)
    rolloff = _take(values, "rolloff", 0.5, float, text)
    span = _take(values, "span", 8, int, text)
    first = _take(values, "first", sps // 2, float, text)
    ends = _choice(values, "ends", ("stream", "isolated"), text)
    sync = _choice(values, "sync", ("known", "unknown", "auto"), text)
    _refuse_rest(values, text, "sps, rolloff, span, first, ends, sync")
    if sps > 1024 or span > 256:
        raise PriorError(f"'{text}' is too large; allowed are sps up to 1024 and span up to 256")
    if not 0 <= first < max(sps, 1):
        raise PriorError(f"first={first:g} in '{text}' is impossible; the first symbol lies at 0 to sps - 1 samples")
    module = Rrc(name, sps, rolloff, span, first, span // 2 if ends == "stream" else 0, sync == "known")
    edge = (1 + rolloff) / (2 * sps)
    pulse = taps(sps, rolloff, span)
    density = np.abs(np.fft.fft(pulse, _PSD_BINS * max(64, -(-len(pulse) // _PSD_BINS)))) ** 2
    return from_module(module, {
        "format": FORMAT, "name": text, "kind": "rrc", "window": 0, "predicts": "signal",
        "side": ["timing", "phase"], "synchronised": sync == "known", "band": [-edge, edge],
        "samples_per_symbol": sps, "modulation": {
            "constellation": name, "samples_per_symbol": sps, "rolloff": rolloff, "span": span, "first": first},
        "psd": _averaged(density).tolist(), "training": "closed form", "licence": "GPL-3.0-or-later",
        "version": VERSION})


def _rrc_sync(text: str, name: str, values: dict[str, str]) -> Prior:
    """A modulation of unknown timing, phase, frequency and symbol rate, which are followed along a stream."""
    values.pop("sync")
    sps = _take(values, "sps", 16.0, float, text)
    rolloff = _take(values, "rolloff", 0.5, float, text)
    span = _take(values, "span", 8, int, text)
    _refuse_rest(values, text, "sps, rolloff, span, sync")
    module = RrcSync(name, sps, rolloff, span)
    if rolloff < 0.1:
        raise PriorError(f"rolloff={rolloff:g} in '{text}' leaves no trace of the timing; sync=auto needs at least 0.1")
    edge = (1 + rolloff) / (2 * sps)
    pulse = module.pulses[0].double().numpy()
    density = np.abs(np.fft.fft(pulse, _PSD_BINS * max(64, -(-len(pulse) // _PSD_BINS)))) ** 2
    modulation = {"constellation": name, "samples_per_symbol": sps, "rolloff": rolloff, "span": span, "first": 0}
    prior = from_module(module, {
        "format": FORMAT, "name": text, "kind": "rrc", "window": 0, "predicts": "signal", "side": list(SIDE),
        "synchronised": False, "sync": "auto", "band": [-edge, edge], "samples_per_symbol": sps,
        "modulation": modulation, "psd": _averaged(density).tolist(), "training": "closed form",
        "licence": "GPL-3.0-or-later", "version": VERSION})

    def tracker():
        from ..soi_tracker import SoiTracker
        return SoiTracker(prior)

    prior.tracker = tracker
    return prior


def _cp_ofdm(text: str, name: str, values: dict[str, str]) -> Prior:
    fft = _take(values, "fft", 64, int, text)
    cp = _take(values, "cp", 16, int, text)
    active = _take(values, "active", 56 if fft == 64 else max(1, fft * 7 // 8), int, text)
    sync = _choice(values, "sync", ("estimated", "unknown"), text)
    _refuse_rest(values, text, "fft, cp, active, sync")
    if fft > 2048:  # the transform is a matrix: 117 MB at 2048
        raise PriorError(f"fft={fft} in '{text}' is too large; allowed are 2 to 2048")
    module = CpOfdm(name, fft, cp, active)
    return from_module(module, {
        "format": FORMAT, "name": text, "kind": "cp-ofdm", "window": 0, "predicts": "signal",
        "side": ["start", "phase"], "synchronised": False, "sync": sync, "band": None, "constellation": name,
        "psd": ofdm_density(fft, cp, active, _PSD_BINS).tolist(), "training": "closed form",
        "licence": "GPL-3.0-or-later", "version": VERSION})


def _found_cp_ofdm(text: str) -> Prior:
    """CP-OFDM with the parameters that a recording shows; those that are given are taken over."""
    from ..captures import CaptureError, open_capture
    from ..ofdm_parameters import STRETCH, estimate_ofdm
    # a file's name may hold commas, but no key of its own after one
    pairs = [part.strip() for part in re.split(r",(?=\s*(?:[a-z]+=|$))", text.partition(":")[2])][1:]
    values = _values(pairs, text)
    recording = values.pop("recording", None)
    if recording is None:
        raise PriorError(f"'{text}' needs a recording to find its parameters in, as in "
                         "cp-ofdm:auto,recording=interference.sigmf-meta")
    name = _choice(values, "constellation", cons.NAMES, text) if "constellation" in values else None
    known = {key: _take(values, key, None, int, text) for key in ("fft", "cp", "active")}
    sync = values.pop("sync", None)
    _refuse_rest(values, text, "recording, constellation, fft, cp, active, sync")
    try:
        capture = open_capture(recording)
        found = estimate_ofdm(capture.read(0, min(capture.length, 8 * STRETCH)), constellation=name, **known)
    except (CaptureError, ValueError) as error:
        raise PriorError(f"cp-ofdm:auto,recording={recording}: {error}") from None
    shown = f"fft={found.fft},cp={found.cp},active={found.active}"
    if found.constellation is None:
        raise PriorError(f"cp-ofdm:auto,recording={recording}: OFDM of {shown} is there, but its carriers show none "
                         f"of {', '.join(cons.NAMES)}; give constellation=NAME, or take gaussian:{recording}")
    prior = parse(f"cp-ofdm:{found.constellation},{shown}{f',sync={sync}' if sync else ''}")
    prior = copy.copy(prior)  # the same specification written out has nothing of the recording
    prior.info = prior.info | {
        "training": one_line(f"closed form; found in {Path(recording).name}, "
                             f"{'beyond doubt' if found.confidence > 10 else 'with some doubt'}: OFDM "
                             f"{found.snr_db:.0f} dB above the rest, {found.frequency * found.fft:+.2f} carriers off "
                             "the middle")}
    return prior


@functools.lru_cache(maxsize=8)
def _wifi(text: str) -> Prior:
    """Packets of 802.11a/g/n, which a tracker finds and measures along a stream."""
    rest = text.partition(":")[2].strip()
    values = _values([part.strip() for part in rest.split(",")] if rest else [], text)
    rate = _take(values, "fs", 20e6, float, text)
    window = _take(values, "window", 2560, int, text)
    _refuse_rest(values, text, "fs, window")
    if abs(rate / 20e6 - 1) > 1e-4:
        raise PriorError(f"fs={rate:g} in '{text}' does not fit; packets of 20 MHz are taken at 20e6 samples/s, "
                         "to which the capture must be resampled")
    if not 400 <= window <= 65536:
        raise PriorError(f"window={window} in '{text}' is impossible; allowed are 400 to 65536 samples")
    prior = from_module(Wifi(window), {
        "format": FORMAT, "name": text, "kind": "wifi", "window": window, "predicts": "signal",
        "side": columns(window), "synchronised": False, "band": None,
        "psd": ofdm_density(64, 16, 52, _PSD_BINS).tolist(), "training": "closed form",
        "licence": "GPL-3.0-or-later", "version": VERSION})

    def tracker():
        from ..wifi.tracker import WifiTracker
        return WifiTracker(window)

    prior.tracker = tracker
    return prior


def _gaussian(recording: str) -> Prior:
    from ..captures import CaptureError, open_capture
    if not recording:
        raise PriorError("gaussian: needs a recording, as in gaussian:interference.sigmf-meta")
    try:
        capture = open_capture(recording)
        samples = capture.read(0, min(capture.length, 1 << 22))  # 4 M samples settle a spectrum
        density = spectrum(samples, min(256, 1 << (len(samples).bit_length() - 1)))
    except (CaptureError, ValueError) as error:
        raise PriorError(f"gaussian:{recording}: {error}") from None
    return from_module(Gaussian(density), {
        "format": FORMAT, "name": one_line(f"gaussian:{Path(recording).name}"), "kind": "gaussian", "window": 0,
        "predicts": "signal", "side": [], "band": None, "psd": density.tolist(),
        "training": f"Welch spectrum of {len(samples)} samples", "licence": "GPL-3.0-or-later", "version": VERSION})


def ofdm_density(fft: int, cp: int, active: int, bins: int) -> np.ndarray:
    """Power spectral density of CP-OFDM with rectangular symbols, mean 1, FFT order, float64 [bins].

    The sum over carriers of the squared Dirichlet kernel of a symbol's length (fft + cp samples).
    """
    fine = bins * 64
    kernel = np.abs(np.fft.fft(np.ones(fft + cp), fine)) ** 2
    density = np.zeros(fine)
    for carrier in active_carriers(fft, active):
        density += np.roll(kernel, round(carrier * fine / fft))
    return _averaged(density)


def _averaged(fine: np.ndarray) -> np.ndarray:
    """Density on a fine grid averaged around each of _PSD_BINS bins, mean 1."""
    step = len(fine) // _PSD_BINS
    bins = np.roll(fine, step // 2).reshape(_PSD_BINS, step).mean(1)
    return bins / bins.mean()


def describe(prior: Prior) -> str:
    """One line about a prior, for people."""
    return one_line(f"{prior.name} ({prior.info['kind']}, {prior.info.get('training', 'origin not stated')})")
