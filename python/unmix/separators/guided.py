# SPDX-License-Identifier: GPL-3.0-or-later
"""Guided reverse diffusion: every source's prior is sampled from noise to signal, and the mixture guides the samples.

Algorithm 1 of Shi et al., "Unsupervised Single-Channel Audio Separation with Diffusion Source Priors" (AAAI 2026), for
sources with gains. Where it differs:

- The mixture and its sum of estimates are divided by sqrt(sum_k gains[k]^2), which gives the mixture unit power as in
  the paper: no option depends on the level of the mixture or on the SIR.
- Each source has noise levels of its own, see `aligned` in guided_dps(); the paper has the same for all.
- The chain starts at the level of its start value, as Chung, Sim and Ye (CVPR 2022) do; the paper's listing noises the
  mixture to t* and then starts at T.
- The result are the last step's estimates, posterior means, not that step's state: what guidance adds to it there
  is no signal of the prior any more.
- The paper's noise levels (T = 200) end at 1 - abar = 0.87 and 1e-4. Here they are evenly spaced in log SNR from
  `start` to `last`, see guidance.levels, and do not go beyond what learned priors were trained for.

Each step costs one call of every prior, and but for `guided-analytical` one derivative. Random numbers are those of the
windows, so results do not depend on the batch.
"""

from typing import Callable, Optional, Union

import numpy as np
import torch
from torch import Tensor

from ..memory import out_of_memory
from ..priors import Prior, PriorError
from ..wording import one_line
from .common import GoOn, MethodError, Problem, Separation, first_estimates, in_batches
from .guidance import (
    LEAST_LEVEL,
    MOST_LEVEL,
    Analytical,
    Dps,
    Dsg,
    Hybrid,
    Likelihood,
    Step,
    analytical_gradient,
    chain,
    levels,
    shifted,
)
from .reconstruction import Reconstruction

# Tuned on RRC-QPSK under CP-OFDM-QPSK, closed-form priors, isolated windows: 8 to 16 of them a point at SIRs of -21,
# -15, -12, -9 and -6 dB, seeds 1001 and 1002. What mattered, in this order: aligned levels; strength (DPS 0.3 to 20,
# DSG 0.1 to 0.8, hybrid 0.1 to 3; half the defaults do as well); a first level of nearly noise, no steps above abar
# = 0.4 (start .001 to .28, last .3 to .998); one norm for the gradients of all sources; more steps. What did not: the
# spacing of the levels, begin_with, the other losses, the floor. DPS with the shipped rrc-qpsk and ofdm-qpsk: strength
# 1 to 10, 8 windows each at -15 and -6 dB, seed 1003. DPS under `wifi:`: strength 3 and 10, docs/results.md.

#: Prior calls per source.
STEPS = 200

#: Default strengths of guided-dps by kind of prior: closed forms bear longer steps than networks. Under `wifi:` with 10
#: up to 23 of 200 windows of a point diverge, with 3 none.
DPS_STRENGTHS = {"learned": 1.0, "wifi": 3.0, "other": 10.0}

#: Noise levels abar of the SOI in the first and the last step.
START, LAST = 0.001, 0.3

#: Largest strength and floor, smallest and largest sharpness: chains diverge far below such a strength, a floor of 1 is
#: above every sigma, and float32 holds these and their products.
MOST_STRENGTH, MOST_FLOOR, SHARPNESSES = 1e9, 1e6, (1e-6, 1e9)


#: From the sources' shares of the mixture, [K, W, 1, 1], and its noise per real channel, [W, 1, 1], to a rule.
MakeRule = Callable[[Tensor, Tensor], Union[Dps, Likelihood, Dsg, Hybrid, Analytical]]


def guided_dps(problem: Problem, steps: Optional[int] = None, strength: Optional[float] = None,
               weight: str = "constant", loss: Optional[Reconstruction] = None, start: float = START,
               last: float = LAST, begin_with: str = "mixture", aligned: bool = True) -> Separation:
    """Diffusion posterior sampling: the state follows the loss's gradient times a constant.

    steps: prior calls per source (default STEPS). strength: 0 .. MOST_STRENGTH (default: with the weight constant
    that of the most sensitive prior, see DPS_STRENGTHS, else 1). weight: "constant", the paper's; "likelihood", Bayes'
    rule for white Gaussian sources times strength, see guidance.Likelihood (takes the default loss only). loss: of the
    reconstruction, default L_time alone. start, last: levels abar of the SOI, see guidance.levels. begin_with:
    "mixture" noised to the first level, with the same noise for all sources; "estimates", common.first_estimates noised
    likewise, each with its own. aligned: the sources' symbols, not their samples, have the same signal-to-noise ratio
    in every step; False: the same level for all, as in the paper. Raises MethodError for values out of range,
    PriorError for a prior that fails or gives no gradient.

    Why aligned: a symbol of a narrow signal has the energy of many samples, and is decided at levels where those of a
    wide one are not. With equal levels an SOI of 16 samples a symbol decides all its symbols before anything is known
    of the OFDM below them, and posterior means of decided symbols no longer follow a gradient: wrong ones stay. The
    levels' SNRs are in proportion to the priors' bandwidths, which without a band is the whole sample rate.
    """
    if strength is None:
        strength = 1.0 if weight == "likelihood" else min(map(_dps_strength, problem.priors))
    _check("strength", strength, 0, MOST_STRENGTH)
    if weight not in ("constant", "likelihood"):
        raise MethodError(f"unknown weight '{weight}'; allowed are constant and likelihood")
    if weight == "likelihood" and loss not in (None, Reconstruction()):
        raise MethodError("the weight likelihood belongs to the loss in the time domain alone")

    def make_rule(shares: Tensor, noise: Tensor) -> Union[Dps, Likelihood]:
        return Dps(strength) if weight == "constant" else Likelihood(shares, noise, strength)

    return _reverse(problem, make_rule, loss or Reconstruction(), steps, start, last, begin_with, aligned)


def guided_dsg(problem: Problem, steps: Optional[int] = None, strength: float = 0.5,
               loss: Optional[Reconstruction] = None, start: float = START, last: float = LAST,
               begin_with: str = "mixture", aligned: bool = True) -> Separation:
    """Guidance with the spherical Gaussian constraint, see guidance.Dsg. strength: 0 .. 1; the rest as guided_dps()."""
    _check("strength", strength, 0, 1)
    return _reverse(problem, lambda *_: Dsg(strength), loss or Reconstruction(), steps, start, last, begin_with,
                    aligned)


def guided_hybrid(problem: Problem, steps: Optional[int] = None, strength: float = 1.0, floor: float = 0.002,
                  sharpness: float = 1000.0, loss: Optional[Reconstruction] = None, start: float = START,
                  last: float = LAST, begin_with: str = "mixture", aligned: bool = True) -> Separation:
    """The hybrid schedule, see guidance.Hybrid. The rest as guided_dps().

    strength: 0 .. MOST_STRENGTH. floor: 0 .. MOST_FLOOR. sharpness: within SHARPNESSES.
    floor and sharpness are the paper's s_floor and c with its values. With the default levels sigma stays above the
    floor, which then does nothing: this is table 1's DSG.
    """
    _check("strength", strength, 0, MOST_STRENGTH)
    _check("floor", floor, 0, MOST_FLOOR)
    _check("sharpness", sharpness, *SHARPNESSES)
    return _reverse(problem, lambda *_: Hybrid(strength, floor, sharpness), loss or Reconstruction(), steps, start,
                    last, begin_with, aligned)


def guided_analytical(problem: Problem, steps: Optional[int] = None, strength: float = 30.0, start: float = 0.28,
                      last: float = 0.6, begin_with: str = "mixture", aligned: bool = False) -> Separation:
    """The analytical sampling rule, a baseline without gradients through priors: guidance.analytical_gradient().

    strength: 0 .. MOST_STRENGTH, 1 is Bayes' rule for flat priors; the rest as guided_dps(). Tuned likewise (strength
    1, 5, 30; start .1 and .28; last .6 and .99), and yet worse than the matched filter: its pull is the same for
    signals and for noise.
    """
    _check("strength", strength, 0, MOST_STRENGTH)
    return _reverse(problem, lambda *_: Analytical(strength), None, steps, start, last, begin_with, aligned)


def _dps_strength(prior: Prior) -> float:
    return DPS_STRENGTHS["learned" if prior.learned else "wifi" if prior.info["kind"] == "wifi" else "other"]


def _check(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise MethodError(f"{name}={value} is impossible; allowed is {least:g} to {most:g}")


def _reverse(problem: Problem, make_rule: MakeRule, loss: Optional[Reconstruction], steps: Optional[int], start: float,
             last: float, begin_with: str, aligned: bool) -> Separation:
    """Algorithm 1. loss: None for the analytical rule."""
    if begin_with not in ("mixture", "estimates"):
        raise MethodError(f"unknown begin_with '{begin_with}'; allowed are mixture and estimates")
    walk = chain(_grids(problem, STEPS if steps is None else steps, start, last, aligned), problem.device)

    def method(part: Problem, go_on: GoOn) -> tuple[np.ndarray, int]:
        scale = np.sqrt(np.sum(part.gains**2, axis=1))
        shares = _tensor((part.gains / scale[:, None]).T, part)[:, :, None, None]
        noise = _tensor(0.5 * part.noise_variance / scale**2, part)[:, None, None]
        mixture = _planes(part.mixture / scale[:, None], part)
        rule = make_rule(shares, noise)
        x, estimate = _first_states(part, mixture, walk[0], begin_with)
        for i, step in enumerate(walk):
            if not go_on(i / len(walk)):
                return _complex(estimate), i
            if loss is None:
                estimate = _estimates(part, x, step)
                gradient = analytical_gradient(step, mixture, x, shares, noise)
            else:
                estimate, gradient = _estimates_and_gradient(part, x, step, mixture, shares, loss)
            if i + 1 < len(walk):
                drawn = torch.stack([_planes(part.noise(i + 1, k), part) for k in range(len(x))])
                x = rule.move(step, step.mean(x, estimate), drawn, gradient)
        return _complex(estimate), len(walk)

    return in_batches(problem, method)


def _grids(problem: Problem, steps: int, start: float, last: float, aligned: bool) -> list[np.ndarray]:
    """Each source's levels, K of [steps + 1], within those that its prior was trained for and float32 can hold."""
    base = levels(steps, start, last)[:-1]
    bands = [(-0.5, 0.5) if prior.band is None or not aligned else prior.band for prior in problem.priors]
    found = []
    for prior, band in zip(problem.priors, bands, strict=True):
        grid = shifted(base / (1 - base), (band[1] - band[0]) / (bands[0][1] - bands[0][0]))
        grid = grid.clip(LEAST_LEVEL, MOST_LEVEL)
        trained = prior.info.get("alpha_bar")
        if trained is not None:
            first, end = np.clip(grid[[0, -1]], *trained)
            grid = levels(steps, first, end)[:-1]
        found.append(np.append(grid, 1.0))
    return found


def _first_states(part: Problem, mixture: Tensor, step: Step, begin_with: str) -> tuple[Tensor, Tensor]:
    """The chain's first states, equation (12), and what they are noised from; both [K, W, 2, N]."""
    sources = len(part.priors)
    if begin_with == "mixture":
        clean = mixture.expand(sources, *mixture.shape)
        drawn = _planes(part.noise(0, 0), part)  # one for all sources, as in the paper
    else:
        clean = torch.stack([_planes(source, part) for source in first_estimates(part)])
        drawn = torch.stack([_planes(part.noise(0, k), part) for k in range(sources)])
    return step.level.sqrt().float() * clean + (1 - step.level).sqrt().float() * drawn, clean


def _estimates(part: Problem, x: Tensor, step: Step) -> Tensor:
    """Posterior means of all sources, [K, W, 2, N], without derivatives."""
    with torch.no_grad():
        return torch.stack([_posterior_mean(part, k, one, step) for k, one in enumerate(x)])


def _estimates_and_gradient(part: Problem, x: Tensor, step: Step, mixture: Tensor, shares: Tensor,
                            loss: Reconstruction) -> tuple[Tensor, Tensor]:
    """Posterior means and the loss's gradient in the states, both [K, W, 2, N].

    One prior at a time: of the loss only its gradient in each estimate is needed, and a prior without one has a name.
    """
    states = [one.detach().requires_grad_(True) for one in x]
    means = [_posterior_mean(part, k, one, step) for k, one in enumerate(states)]
    estimate = torch.stack([mean.detach() for mean in means])
    total = (shares * estimate).sum(0).requires_grad_(True)
    (pull,) = torch.autograd.grad(loss(mixture, total).sum(), total)
    gradient = [_derivative(part, k, mean, state, share * pull)
                for k, (mean, state, share) in enumerate(zip(means, states, shares, strict=True))]
    return estimate, torch.stack(gradient)


def _posterior_mean(part: Problem, k: int, x: Tensor, step: Step) -> Tensor:
    level = step.level[k].float().reshape(1).expand(len(x))
    try:
        return part.posterior_mean(k, x, level)
    except PriorError:
        raise
    except Exception as error:  # noqa: BLE001 (TorchScript raises what the prior's code raises, behind its stack trace)
        if out_of_memory(error):
            raise
        raise PriorError(f"the prior {part.priors[k].name} failed: {_last_line(error)}") from None


def _derivative(part: Problem, k: int, mean: Tensor, state: Tensor, pull: Tensor) -> Tensor:
    """pull^T d mean / d state. Raises PriorError where the prior cannot say."""
    found = None
    if mean.requires_grad:
        try:
            (found,) = torch.autograd.grad(mean, state, pull, allow_unused=True)
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            found = None  # an operation on the way has no derivative
    if found is None:
        raise PriorError(f"the prior {part.priors[k].name} gives no gradient, which guided diffusion needs; allowed "
                         "for it are guided-analytical and the methods that are not guided")
    return found


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return one_line(lines[-1] if lines else type(error).__name__)


def _tensor(values: np.ndarray, part: Problem) -> Tensor:
    return torch.as_tensor(np.asarray(values, np.float32), device=part.device)


def _planes(wave: np.ndarray, part: Problem) -> Tensor:
    """Complex [W, N] as float32 [W, 2, N] on the problem's device."""
    return _tensor(np.stack([wave.real, wave.imag], 1), part)


def _complex(planes: Tensor) -> np.ndarray:
    """[K, W, 2, N] as complex64 [K, W, N]."""
    values = planes.detach().cpu().numpy()
    return (values[:, :, 0] + 1j * values[:, :, 1]).astype(np.complex64)
