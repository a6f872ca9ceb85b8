# SPDX-License-Identifier: GPL-3.0-or-later
"""The levels of a whole capture, before it is separated: of what is on the air while all of it is."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np

from .captures import Capture
from .demodulation import SyncedSymbols
from .estimators import Levels, estimate_levels
from .presence import SortedFrames, discerning, least_left, left_over, unexplained
from .priors import Prior
from .priors import constellation as cons
from .priors.gaussian import expected_spectrum
from .stream import StreamSeparator
from .survey import STRETCH, stretches, survey

#: Samples within which a tracker must have measured its signal's spectrum, else the levels do without.
LISTENED = 1 << 20
#: Stretches of the capture that are searched for pauses of the SOI.
SEARCHED = 32
#: Share of the power in which a spectrum may differ from that of SOI and white noise alone, if that explains a capture;
#: a carrier offset of 5 % of the symbol rate makes up 0.1.
MOST_MISFIT = 0.2
#: Power of all interference below which there is none: relative to the SOI; or to the SOI and to the noise, both.
NOTHING, NEXT_TO_NOTHING, BELOW_NOISE = 1e-3, 1e-2, 0.1
BINS = 256
#: Groups of symbols by whose scatter evidence is judged, and symbols below which there is none.
LEAST_GROUPS, GROUP, FEWEST_SYMBOLS = 8, 160, 100


@dataclass(frozen=True)
class Told:
    """Where the SOI's symbols are told to lie, samples; see demodulation.Grid."""

    timing: float
    step: float
    phase: float = 0.0
    frequency: float = 0.0


@dataclass(frozen=True)
class Evidence:
    """Of an SOI whose timing and phase are told, without any separation.

    symbols: looked at. concentration: mean cosine of how far their phases, times the constellation's symmetry, lie
    from where they belong, 1 without noise and (but for 16QAM, 0.36) interference, 0 on average where there is no SOI
    there. errors: of it above zero, in standard errors.
    """

    symbols: int
    concentration: float
    errors: float


class LevelsError(ValueError):
    """The capture's spectrum does not show what it is said to hold; the message is one sentence."""


def capture_levels(capture: Capture, priors: Sequence[Prior], sir_db: Optional[float],
                   separator: Callable[[Levels], StreamSeparator]) -> Levels:
    """Levels of a capture. separator: makes the stream separator for given levels, whose windows are used.

    priors: K >= 2, the SOI first. sir_db: None estimates it. Where the SOI comes in bursts, its level is that of the
    bursts. Gains of the interference are all zero where the SIR is to be estimated and none shows: where SOI and white
    noise explain the capture's spectrum, or leave 30 dB less than the SOI. Raises LevelsError where the SOI or one of
    several interferers does not show, CaptureError, PriorError.
    """
    density, power = survey(capture)
    try:
        rough = estimate_levels(density, power, priors, sir_db)
    except ValueError as error:
        alone = None if sir_db is not None else _soi_alone(density, power, priors)
        if alone is None:
            raise LevelsError(str(error)) from error
        return alone
    if not (np.all(np.isfinite(rough.gains)) and np.all(rough.gains > 0)):
        missing = ", ".join(p.name for p, g in zip(priors, rough.gains, strict=True) if not g > 0)
        at = "" if sir_db is None else f" at an SIR of {sir_db:g} dB"
        raise LevelsError(f"the spectrum of {capture.path} shows nothing of {missing or 'the signals'}{at}; give other "
                          "priors (--soi, --interference) or another SIR (--sir-db)")
    if sir_db is None and _negligible(rough):
        return _without(rough)
    stream = separator(rough)
    psd = None
    if any(hasattr(t, "psd") for t in stream.trackers):
        psd = stream.listen(capture.read(0, min(capture.length, LISTENED)), rough)
    levels = rough if psd is None else _fitted(density, power, priors, sir_db, psd) or rough
    while_on = _density_of_bursts(capture, stream, levels)
    if while_on is None:
        return levels
    return _fitted(while_on, float(while_on.mean()), priors, sir_db, psd) or levels


def _negligible(levels: Levels) -> bool:
    """Whether what the spectrum's fit gives the interference is an error of the fit, or as good as one."""
    soi, rest = float(levels.gains[0] ** 2), float(np.sum(levels.gains[1:] ** 2))
    return rest < NOTHING * soi or (rest < NEXT_TO_NOTHING * soi and rest < BELOW_NOISE * levels.noise_variance)


def _without(levels: Levels) -> Levels:
    return Levels(np.append(levels.gains[:1], np.zeros(len(levels.gains) - 1)), levels.noise_variance)


def _soi_alone(density: np.ndarray, power: float, priors: Sequence[Prior]) -> Optional[Levels]:
    """Levels without interference where SOI and white noise explain the spectrum, else None."""
    try:
        levels = estimate_levels(density, power, priors[:1])
    except ValueError:
        return None
    shape = expected_spectrum(priors[0].psd(4 * len(density)), len(density))
    fit = levels.gains[0] ** 2 * shape + levels.noise_variance
    if np.sum(np.abs(density - fit)) > MOST_MISFIT * np.sum(density):
        return None
    return Levels(np.append(levels.gains, np.zeros(len(priors) - 1)), levels.noise_variance)


def _fitted(density: np.ndarray, power: float, priors: Sequence[Prior], sir_db: Optional[float],
            psd: Optional[Callable]) -> Optional[Levels]:
    """Levels by a spectrum, None where it does not show one of the signals."""
    try:
        levels = estimate_levels(density, power, priors, sir_db, psd)
    except ValueError:
        return None
    return levels if np.all(np.isfinite(levels.gains)) and np.all(levels.gains > 0) else None


def _density_of_bursts(capture: Capture, stream: StreamSeparator, levels: Levels) -> Optional[np.ndarray]:
    """Density of those parts of the capture where the SOI is on, as survey() gives it; None where it hardly pauses.

    Priors that explain any mixture, Gaussian and learned ones, do not tell.
    """
    if not discerning(stream.priors[1:]):
        return None
    hop = BINS // 2
    taper = np.hanning(BINS + 1)[:BINS]
    frames = SortedFrames()
    for start, count in stretches(capture.length, STRETCH // 4, SEARCHED):
        samples = capture.read(start, count)
        if len(samples) < stream.plan.window:
            continue
        left = unexplained(samples, stream.plan, stream.priors, levels)
        spectra = np.square(np.abs(np.fft.fft(np.lib.stride_tricks.sliding_window_view(samples, BINS)[::hop] * taper)))
        frames.add(spectra / np.sum(taper**2), least_left(left, BINS, hop))
    return frames.mean_of_bursts()


def soi_evidence(capture: Capture, stream: StreamSeparator, levels: Levels) -> Optional[Evidence]:
    """Whether an SOI of known timing shows in what the interference's priors alone leave of a capture.

    They know nothing of the SOI's symbols, so what they leave without one lies anywhere. None where timing and phase
    are not told, there are fewer than FEWEST_SYMBOLS, or the interference's priors may explain an SOI as well.
    """
    soi = stream.priors[0]
    heard = bool(levels.gains[1:].any())
    if soi.modulation is None or soi.tracker is not None or not soi.info["synchronised"] or (
            heard and not discerning(stream.priors[1:])):
        return None
    name, step = soi.modulation["constellation"], float(soi.modulation["samples_per_symbol"])
    symmetry = cons.SYMMETRY[name]
    reference = float(np.angle(np.mean(cons.points(name).astype(complex) ** symmetry)))
    cosines = []
    for start, count in stretches(capture.length, STRETCH // 4, SEARCHED):
        samples = capture.read(start, count)
        if len(samples) < step:
            continue
        left = left_over(samples, stream.plan, stream.priors, levels, stream.device) if heard else samples
        filtered = SyncedSymbols(soi.modulation, 1)
        grid = Told((float(soi.modulation["first"]) - start) % step, step)
        symbols = np.concatenate([filtered.push(left[None], grid), filtered.finish()], axis=1)[0]
        cosines.append(np.cos(symmetry * np.angle(symbols) - reference)[np.abs(symbols) > 0])
    values = np.concatenate(cosines) if cosines else np.zeros(0)
    if len(values) < FEWEST_SYMBOLS:
        return None
    groups = np.array([g.mean() for g in np.array_split(values, max(LEAST_GROUPS, len(values) // GROUP))])
    # Not less than that of phases that are independent: few groups may agree by chance.
    error = max(float(groups.std(ddof=1)) / math.sqrt(len(groups)), 1 / math.sqrt(2 * len(values)))
    return Evidence(len(values), float(values.mean()), float(values.mean()) / error)
