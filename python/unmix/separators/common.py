# SPDX-License-Identifier: GPL-3.0-or-later
"""What every separator takes and gives back."""

from dataclasses import dataclass, replace
from typing import Callable, Optional, Sequence

import numpy as np
import torch

from ..captures.formats import ABSURD_MAGNITUDE
from ..demodulation import matched_filter, remodulate
from ..priors import Prior, PriorError
from ..unmix_python import CancelFlag, NoiseSchedule, Outcome, window_noise

__all__ = ["SCHEDULE", "CancelFlag", "GoOn", "LevelsRefused", "MethodError", "Outcome", "Problem", "Progress",
           "Separation", "explained", "first_estimates", "in_batches", "run_engine"]

#: Noise levels of arXiv 2306.14411: SCHEDULE.alpha_bar(t) for t = 0 .. 49.
SCHEDULE = NoiseSchedule()

#: Called with the fraction done (0 .. 1) and the number of finished windows; returning False cancels.
Progress = Callable[[float, int], Optional[bool]]


class MethodError(ValueError):
    """A method that refuses a value or a problem; the message is one sentence that says why."""


class LevelsRefused(MethodError):
    """A method that refuses the levels of the windows; at other levels it takes such signals."""


@dataclass
class Problem:
    """Windows to take apart: mixture = sum_k gains[:, k] x_k + noise, sources of unit power, the SOI first.

    mixture: complex64 [W, N]. priors: K >= 2. gains: [K] or [W, K], > 0. noise_variance: complex noise, scalar or [W].
    side: per source float32 [W, P] or None; without an entry it is estimated from the mixture. index: uint64 [W], the
    windows' own numbers, which decide their random numbers. margin: samples at each end that will be thrown away.
    Raises PriorError when a prior was made for another window length, ValueError for other impossible arguments.
    """

    mixture: np.ndarray
    priors: Sequence[Prior]
    gains: np.ndarray
    noise_variance: np.ndarray | float = 0.0
    side: Optional[Sequence[Optional[np.ndarray]]] = None
    index: Optional[np.ndarray] = None
    margin: int = 0
    seed: int = 0
    device: str = "cpu"
    batch: int = 64
    threads: int = 0
    progress: Optional[Progress] = None
    cancel: Optional[CancelFlag] = None

    def __post_init__(self):
        self.mixture = np.ascontiguousarray(self.mixture, dtype=np.complex64)
        if self.mixture.ndim != 2:
            raise ValueError("the mixture must be an array [windows, samples]")
        windows, samples = self.mixture.shape
        if not windows or not samples:
            raise ValueError("a separation needs at least one window of at least one sample")
        if len(self.priors) < 2:
            raise ValueError("a separation needs the priors of at least two sources")
        for prior in self.priors:
            if prior.window not in (0, samples):
                raise PriorError(f"the prior {prior.name} was made for windows of {prior.window} samples, "
                                 f"not {samples}")
        self.gains = np.ascontiguousarray(
            np.broadcast_to(self.gains, (windows, len(self.priors))), dtype=np.float32)
        if not np.all(np.isfinite(self.gains)) or not np.all(self.gains > 0):
            raise ValueError("every gain must be finite and above zero")
        self.noise_variance = np.ascontiguousarray(
            np.broadcast_to(self.noise_variance, (windows,)), dtype=np.float32)
        if not np.all(np.isfinite(self.noise_variance)) or not np.all(self.noise_variance >= 0):
            raise ValueError("the noise's variance must be finite and not below zero")
        if self.index is None:
            self.index = np.arange(windows, dtype=np.uint64)
        if self.side is None:
            self.side = [p.side_information(self.mixture, [o for o in self.priors if o is not p])
                         for p in self.priors]
        for prior, side in zip(self.priors, self.side):  # noqa: B905 (the engine checks their number)
            if side is not None and np.shape(side) not in ((windows, 0), (windows, len(prior.info["side"]))):
                raise ValueError(f"the side information of {prior.name} must be float32 [{windows}, "
                                 f"{len(prior.info['side'])}], not {list(np.shape(side))}")

    @property
    def block(self) -> int:
        """Samples per block of the disagreement: one symbol of the SOI, 16 where it has none."""
        modulation = self.priors[0].modulation
        block = 16 if modulation is None else int(modulation["samples_per_symbol"])
        return min(block, self.mixture.shape[1])

    def part(self, begin: int, end: int) -> "Problem":
        """The problem of windows begin .. end - 1 alone."""
        return replace(self, mixture=self.mixture[begin:end], gains=self.gains[begin:end],
                       noise_variance=self.noise_variance[begin:end], index=self.index[begin:end],
                       side=[None if s is None else s[begin:end] for s in self.side])

    def denoise(self, k: int, x: np.ndarray, alpha_bar: np.ndarray | float) -> np.ndarray:
        """Posterior means of source k, complex64 [W, N], from x = sqrt(abar) x_k + sqrt(1 - abar) z, alpha_bar [W]."""
        levels = np.ascontiguousarray(np.broadcast_to(alpha_bar, len(x)), dtype=np.float32)
        return self.priors[k].engine(self.device).denoise(np.asarray(x, dtype=np.complex64), levels, self.side[k])

    def posterior_mean(self, k: int, x: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
        """The same as denoise(), differentiable in x: tensors [W, 2, N] float32 and [W], on the problem's device."""
        side = self.side[k]
        side = torch.zeros(len(x), 0) if side is None else torch.as_tensor(side, dtype=torch.float32)
        return self.priors[k].posterior_mean(x, alpha_bar, side.to(x.device))

    def noise(self, step: int, source: int) -> np.ndarray:
        """Random numbers of the windows, N(0, 1) per real channel, complex64 [W, N]; step and source number them."""
        return window_noise(self.seed, self.index, step, source, self.mixture.shape[1])

    def engine_arguments(self, initial: np.ndarray) -> tuple[tuple, dict]:
        """Positional and keyword arguments that the engine's separators share. initial: complex64 [K, W, N]."""
        engines = [p.engine(self.device) for p in self.priors]
        return ((self.mixture, engines, self.gains, initial, list(self.side), self.noise_variance, self.index),
                {"seed": self.seed, "batch": self.batch, "threads": self.threads, "block": self.block,
                 "progress": self.progress, "cancel": self.cancel})


@dataclass
class Separation:
    """A separator's result for W windows.

    sources: complex64 [K, W, N], unit-power estimates. gains: float32 [W, K]. disagreement: float32 [W, blocks], mean
    |mixture - sum_k gains[k] x_k|^2 around each block, relative to the SOI's power: small where the estimates explain
    the mixture. calls: int32 [W], calls of each source's prior. outcomes: uint8 [W], see Outcome.
    """

    sources: np.ndarray
    gains: np.ndarray
    disagreement: np.ndarray
    calls: np.ndarray
    outcomes: np.ndarray


def run_engine(separator: Callable[..., dict], problem: Problem, initial: np.ndarray, **options) -> Separation:
    """Run one of the engine's separators from first estimates complex64 [K, W, N]. Raises MethodError, PriorError."""
    positional, common = problem.engine_arguments(initial)
    try:
        result = Separation(**separator(*positional, **common, **options))
    except ValueError as error:
        raise MethodError(str(error)) from None
    exploded = ~(np.abs(result.sources) < ABSURD_MAGNITUDE).all((0, 2))
    result.sources[:, exploded] = 0
    result.outcomes[exploded] = int(Outcome.DIVERGED)
    return result


def first_estimates(problem: Problem) -> np.ndarray:
    """First estimates of the sources, complex64 [K, W, N].

    The SOI: hard decisions behind the matched filter, modulated again (arXiv 2306.14411, section 5), where it is a
    linear modulation of known timing; the others share what is left. Else every source gets the mixture in proportion
    to its gain: the linear estimate for signals of equal spectra.
    """
    sources, gains = len(problem.priors), problem.gains
    initial = np.zeros((sources, *problem.mixture.shape), dtype=np.complex64)
    soi = problem.priors[0]
    if soi.tracker is not None and problem.side[0] is not None:
        # Its own denoiser knows where the symbols lie, as a matched filter and decisions do.
        level = 1 / 1.03
        scaled = (problem.mixture / gains[:, :1]).astype(np.complex64)
        initial[0] = soi.engine(problem.device).denoise(
            scaled * np.float32(level**0.5), np.full(len(scaled), level, np.float32), problem.side[0])
        return _share_rest(problem, initial)
    if soi.modulation is None or not soi.info["synchronised"]:
        share = gains / np.sum(gains**2, axis=1, keepdims=True)
        initial[:] = share.T[:, :, None] * problem.mixture
        return initial
    scaled = problem.mixture / gains[:, :1]
    initial[0] = remodulate(matched_filter(scaled, soi.modulation), soi.modulation, scaled.shape[1])
    return _share_rest(problem, initial)


def _share_rest(problem: Problem, initial: np.ndarray) -> np.ndarray:
    """Give what the SOI's estimate leaves of the mixture to the others, in equal parts of it."""
    sources, gains = len(problem.priors), problem.gains
    rest = problem.mixture - gains[:, :1] * initial[0]
    for k in range(1, sources):
        initial[k] = rest / (gains[:, k:k + 1] * (sources - 1))
    return initial


#: A method's way to say what fraction of its work on a batch is done; the answer False asks it to stop.
GoOn = Callable[[float], bool]


def in_batches(problem: Problem, method: Callable[[Problem, GoOn], tuple[np.ndarray, int]]) -> Separation:
    """Run a method that is written for one batch over all windows, with progress and cancellation.

    method(part, go_on) gives the sources complex64 [K, W, N] of the windows of `part`, and how often it called each
    prior. It calls go_on(fraction) in every step and returns what it has when the answer is False.
    """
    windows, sources = len(problem.mixture), len(problem.priors)
    result = Separation(np.zeros((sources, *problem.mixture.shape), np.complex64), problem.gains.copy(),
                        np.zeros((windows, -(-problem.mixture.shape[1] // problem.block)), np.float32),
                        np.zeros(windows, np.int32), np.full(windows, int(Outcome.UNTOUCHED), np.uint8))
    for begin in range(0, windows, problem.batch):
        end = min(begin + problem.batch, windows)
        stopped = False

        def go_on(fraction: float, begin: int = begin, end: int = end) -> bool:
            nonlocal stopped
            if problem.cancel is not None and problem.cancel.is_set():
                stopped = True
            elif problem.progress is not None:
                share = (begin + fraction * (end - begin)) / windows
                stopped = stopped or problem.progress(share, begin) is False
            return not stopped

        if not go_on(0.0):
            break
        part = problem.part(begin, end)
        found, calls = method(part, go_on)
        sound = (np.abs(found) < ABSURD_MAGNITUDE).all((0, 2))  # false for NaN
        result.sources[:, begin:end] = np.where(sound[None, :, None], found, 0)
        result.calls[begin:end] = calls
        result.outcomes[begin:end] = np.where(
            sound, int(Outcome.CANCELLED if stopped else Outcome.STEPS_USED), int(Outcome.DIVERGED))
        result.disagreement[begin:end] = explained(part, result.sources[:, begin:end])
        if stopped:
            break
        if problem.progress is not None:
            problem.progress(end / windows, end)
    return result


def explained(problem: Problem, sources: np.ndarray) -> np.ndarray:
    """Disagreement float32 [W, blocks] of sources complex64 [K, W, N], see Separation; as in the engine's alpha-RGS.

    Each source is denoised at the lowest noise level first: sources that add up to the mixture by construction say
    nothing.
    """
    level = SCHEDULE.alpha_bar(1)
    rest = problem.mixture.copy()
    for k in range(len(problem.priors)):
        rest -= problem.gains[:, k:k + 1] * problem.denoise(k, np.float32(level**0.5) * sources[k], level)
    power = np.abs(rest) ** 2 / problem.gains[:, :1] ** 2
    samples, block = power.shape[1], problem.block
    total = np.pad(np.cumsum(power, axis=1, dtype=np.float64), ((0, 0), (1, 0)))
    middle = np.arange(0, samples, block) + block // 2
    low, high = np.maximum(middle - 4 * block, 0), np.minimum(middle + 4 * block, samples)
    return ((total[:, high] - total[:, low]) / (high - low)).astype(np.float32)
