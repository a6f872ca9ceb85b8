# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules of guided diffusion: how one reverse step takes the mixture into account.

A rule's move(step, mean, noise, gradient) gives the next states [K, W, 2, N]. mean: the priors' own step without its
noise. noise: N(0, 1). gradient: of the reconstruction's loss in the states. All of the same shape.

Equations are those of Shi et al., "Unsupervised Single-Channel Audio Separation with Diffusion Source Priors" (AAAI
2026), unless another source is named. N there, the number of dimensions, is here that of all sources of a window
together, 2 N K: so the gradient keeps its direction, which it would not if it were scaled for each source by itself.
"""

import math
from dataclasses import dataclass
from typing import Sequence

import numpy as np
import torch
from torch import Tensor

from .common import MethodError

#: The smallest first and the largest last level: with the others' levels in proportion to these, float32 holds abar,
#: 1 - abar and (1 - abar) / abar.
LEAST_LEVEL, MOST_LEVEL = 1e-12, 0.9999999


@dataclass(frozen=True)
class Step:
    """One step of the reverse chain of K sources: each from its level abar down to its next one, nearer to 1 (or 1).

    level, next_level: float64 [K, 1, 1, 1], and so is what follows from them, as float32.
    """

    level: Tensor
    next_level: Tensor

    @property
    def alpha(self) -> Tensor:
        """1 - beta, the step's own share: abar / next abar."""
        return (self.level / self.next_level).float()

    @property
    def sigma(self) -> Tensor:
        """Standard deviation of the step's noise, sqrt(beta (1 - next abar) / (1 - abar)), below equation (11)."""
        beta = 1 - self.level / self.next_level
        return (beta * (1 - self.next_level) / (1 - self.level)).sqrt().float()

    @property
    def score_weight(self) -> Tensor:
        """What multiplies a score in this step: beta / sqrt(alpha), from line 8 by Tweedie's formula (5)."""
        alpha = self.level / self.next_level
        return ((1 - alpha) / alpha.sqrt()).float()

    @property
    def noise(self) -> Tensor:
        """Variance of the noise per real channel in x / sqrt(abar), (1 - abar) / abar."""
        return ((1 - self.level) / self.level).float()

    def mean(self, x: Tensor, estimate: Tensor) -> Tensor:
        """Algorithm 1, line 8 without noise, with sqrt(alpha) for x as in DDPM; the sqrt(abar) there is a misprint."""
        alpha = self.level / self.next_level
        share = alpha.sqrt() * (1 - self.next_level) / (1 - self.level)
        return share.float() * x + (self.next_level.sqrt() * (1 - alpha) / (1 - self.level)).float() * estimate


def levels(steps: int, start: float, last: float) -> np.ndarray:
    """Levels abar of one source, [steps + 1]: from start to last evenly in log abar / (1 - abar), and then 1.

    The priors take any level, so the grid is as fine as there are steps. LEAST_LEVEL <= start <= last <=
    MOST_LEVEL, steps 1 to 10^6. Raises MethodError otherwise.
    """
    if not 1 <= steps <= 10**6:
        raise MethodError(f"guided diffusion needs 1 to 1000000 steps, not {steps}")
    if not LEAST_LEVEL <= start <= last <= MOST_LEVEL:
        raise MethodError(f"start={start}, last={last} is impossible; allowed are {LEAST_LEVEL:g} <= start <= last <= "
                          f"{MOST_LEVEL}")
    return np.append(shifted(np.geomspace(start / (1 - start), last / (1 - last), steps), 1.0), 1.0)


def shifted(snr: np.ndarray | float, ratio: float) -> np.ndarray:
    """The level whose signal-to-noise ratio abar / (1 - abar) is snr times ratio."""
    return snr * ratio / (1 + snr * ratio)


def chain(grids: Sequence[np.ndarray], device: str = "cpu") -> list[Step]:
    """Steps along the sources' levels, K of [steps + 1]."""
    table = torch.tensor(np.array(grids), device=device)[:, :, None, None, None]
    return [Step(table[:, i], table[:, i + 1]) for i in range(table.size(1) - 1)]


def unit(x: Tensor) -> Tensor:
    """x [K, W, 2, N] with each window's norm over all its sources made 1; 0 where x is 0. No square underflows."""
    largest = x.abs().amax((0, 2, 3), keepdim=True)
    scaled = x / torch.where(largest > 0, largest, 1)
    length = scaled.square().sum((0, 2, 3), keepdim=True).sqrt()
    return scaled / torch.where(length > 0, length, 1)


def radius(x: Tensor) -> float:
    """Norm of N(0, 1) noise in a window of x [K, W, 2, N]: the root of its dimensions."""
    return math.sqrt(x.size(0) * x.size(2) * x.size(3))


def smooth_max(a: Tensor, b: float, sharpness: float) -> Tensor:
    """SmoothMax_c(a, b) = log(exp(c a) + exp(c b)) / c, equation (10).

    No overflow in a and b; sharpness a and sharpness b themselves must be float32.
    """
    return torch.logaddexp(sharpness * a, torch.full_like(a, sharpness * b)) / sharpness


@dataclass(frozen=True)
class Dps:
    """x' - gamma gradient, gamma constant (Chung et al., ICLR 2023; table 1). strength: gamma >= 0."""

    strength: float

    def move(self, step: Step, mean: Tensor, noise: Tensor, gradient: Tensor) -> Tensor:
        return mean + step.sigma * noise - self.strength * gradient


@dataclass(frozen=True)
class Likelihood:
    """DPS with the weight of a Gaussian likelihood, for the loss L_time alone.

    p(y | x_t) is taken as N(y_hat, r), r = noise + sum_k shares[k]^2 v_k per real channel, with the posterior variance
    v = (1 - abar) / (2 - abar) of white Gaussian sources of unit power; exact for those (PiGDM: Song et al., ICLR
    2023), so that many steps sample from their posterior. noise: of the mixture, per real channel, [W, 1, 1].
    shares: [K, W, 1, 1]. strength: 1 is Bayes' rule.
    """

    shares: Tensor
    noise: Tensor
    strength: float = 1.0

    def move(self, step: Step, mean: Tensor, noise: Tensor, gradient: Tensor) -> Tensor:
        posterior = ((1 - step.level) / (2 - step.level)).float()
        variance = self.noise + (self.shares.square() * posterior).sum(0)
        weight = self.strength * step.score_weight / (2 * variance)  # the loss is |e|^2, the exponent |e|^2 / (2 r)
        return mean + step.sigma * noise - weight * gradient


@dataclass(frozen=True)
class Dsg:
    """Guidance with the spherical Gaussian constraint (Yang et al., ICML 2024, Algorithm 1).

    The step from the mean, in units of sigma, has the length sqrt(n) that its noise has for sure in many dimensions;
    its direction is between the noise (strength 0) and steepest descent (strength 1). The form of table 1, which adds
    a step of this length to the noise instead, is Hybrid with floor 0.
    """

    strength: float

    def move(self, step: Step, mean: Tensor, noise: Tensor, gradient: Tensor) -> Tensor:
        descent = -radius(mean) * unit(step.sigma * gradient)
        return mean + step.sigma * radius(mean) * unit(noise + self.strength * (descent - noise))


@dataclass(frozen=True)
class Hybrid:
    """x' - strength s sqrt(n) gradient / |gradient|, s = SmoothMax_c(sigma, floor), equation (11). sharpness: c > 0.

    Where the sources' levels differ, so do their s: steepest descent is then that in states divided by s.
    """

    strength: float
    floor: float
    sharpness: float

    def move(self, step: Step, mean: Tensor, noise: Tensor, gradient: Tensor) -> Tensor:
        size = smooth_max(step.sigma, self.floor, self.sharpness)
        return mean + step.sigma * noise - self.strength * radius(mean) * size * unit(size * gradient)


def analytical_gradient(step: Step, mixture: Tensor, x: Tensor, shares: Tensor, noise: Tensor) -> Tensor:
    """Gradient in the states of -log p(y | sum_k shares[k] x_k) (Iashchenko et al., UnDiff, Interspeech 2023).

    x_k / sqrt(abar) is the source and noise of variance (1 - abar) / abar, so the states' sum differs from the mixture
    by noise alone: N(y; sum_k shares[k] x_k / sqrt(abar), noise + sum_k shares[k]^2 (1 - abar) / abar). What the
    priors know of the sources is left out, which is right only for flat ones. mixture: [W, 2, N]. x: [K, W, 2, N].
    shares: [K, W, 1, 1]. noise: of the mixture, per real channel, [W, 1, 1].
    """
    weight = shares / step.level.sqrt().float()
    rest = mixture - (weight * x).sum(0)
    return -weight * (rest / (noise + (shares.square() * step.noise).sum(0)))


@dataclass(frozen=True)
class Analytical:
    """x' - strength beta / sqrt(alpha) gradient, of analytical_gradient(). strength: 1 is Bayes' rule."""

    strength: float = 1.0

    def move(self, step: Step, mean: Tensor, noise: Tensor, gradient: Tensor) -> Tensor:
        return mean + step.sigma * noise - self.strength * step.score_weight * gradient
