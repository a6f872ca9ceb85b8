# SPDX-License-Identifier: GPL-3.0-or-later
"""BASIS: annealed Langevin dynamics on the posterior of the sources (arXiv 2002.07942), and its two variants of
arXiv 2306.14411, Appendix F, that hold the sum of the sources to the mixture.

All three walk through the noise levels of the diffusion schedule, largest first. At a level the prior of source k is
one of two smoothed densities; its score per real channel follows from the posterior mean D = E[x_k | ...]:
  "ve", 2002.07942: of x_k + sqrt(v) z with v = (1 - abar) / abar; score (D(sqrt(abar) x) - x) / v.
  "vp", as 2306.14411 prints it: of sqrt(abar) x_k + sqrt(v) z with v = 1 - abar; score (sqrt(abar) D(x) - x) / v.
In both z has variance 1 per real channel. "vp" pulls every source towards sqrt(abar) of itself, although the mixture
holds them unscaled, until the levels are small; all the same it has fewer bit errors at SIRs of -15 to -6 dB.

Published step sizes, as eta / v: 0.2 in 2002.07942, section 3.4 (delta = 2e-5, sigma_L = 0.01); 2e-4 (Algorithm 2) and
0.02 (Algorithms 3 and 4) in 2306.14411, Appendix F (2e-8 and 2e-6 times sigma_t^2 / sigma_1^2, sigma_1^2 = 1e-4). Where
gains are so far apart that such a step would overshoot, the window's is reduced to the largest that does not.
"""

from typing import Optional, Sequence

import numpy as np

from .common import SCHEDULE, MethodError, Problem, Separation, first_estimates, in_batches

__all__ = ["basis", "basis_alpha", "basis_hard"]

#: Levels x steps per level of arXiv 2306.14411, Appendix F; four times as many gave it "no significant gains".
STEPS = 50 * 100

#: What single precision bears of step sizes and temperatures.
LEAST_STEP_SIZE, MOST = 1e-30, 1e9


def basis(problem: Problem, steps: Optional[int] = None, step_size: float = 2e-4, temperature: float = 1.0,
          levels: Optional[Sequence[int]] = None, smoothing: str = "ve") -> Separation:
    """Sample the posterior of K sources with a Gaussian likelihood (arXiv 2002.07942, Algorithm 1).

    x_k <- x_k + eta score_k(x_k) + eta g_k (y - sum_j g_j x_j) / gamma^2 + sqrt(2 eta temperature) N(0, 1) per real
    channel, from first_estimates() (2002.07942 begins with uniform random numbers, 2306.14411 does not say). The sign
    of the likelihood's term is that of 2002.07942; 2306.14411 prints the other one. gamma^2 = g_1^2 v plus the noise's
    variance per real channel: the papers' gamma = sigma where the mixture has no noise and the SOI's gain is 1.

    steps: calls of each source's prior, >= 1, shared evenly between the levels (default 5,000; the cost is in
    proportion). step_size: eta / v, LEAST_STEP_SIZE .. MOST; the default is 2306.14411's, with which the SOI's bits
    hardly leave the first estimate's; 0.2 is 2002.07942's, for gains of about 1. temperature: 0 .. MOST; 1 samples the
    posterior p, T samples p^(1/T) up to the step's discretisation. levels: entries of SCHEDULE, 0 .. 49, in the order
    of use (default 49 .. 0). smoothing: "ve" or "vp". Raises MethodError for values out of range.
    """
    chain = _Chain(steps, step_size, temperature, levels, smoothing)

    def method(part, go_on):
        x, y, gains = first_estimates(part), part.mixture, part.gains[:, :, None]
        noise = part.noise_variance[:, None] / 2
        for i in range(chain.steps):
            if not go_on(i / chain.steps):
                return x, i
            alpha_bar, v = chain.level(i)
            gamma2 = gains[:, 0] ** 2 * v + noise
            rate = chain.rate(1 + np.sum(gains**2, axis=1) * (v / gamma2))
            rest = y.copy()
            for k in range(len(x)):
                rest -= gains[:, k] * x[k]
            rest *= rate * (v / gamma2)
            for k in range(len(x)):
                step = chain.pull(part, k, x[k], alpha_bar)
                step *= rate
                step += gains[:, k] * rest
                step += chain.noise(part, i, k, rate, v)
                x[k] += step
        return x, chain.steps

    return in_batches(problem, method)


def basis_hard(problem: Problem, steps: Optional[int] = None, step_size: float = 0.02, temperature: float = 1.0,
               levels: Optional[Sequence[int]] = None, smoothing: str = "vp") -> Separation:
    """BASIS with the last source eliminated by the mixture (arXiv 2306.14411, Algorithm 3, for K sources).

    x_k <- x_k + eta (score_k(x_k) - (g_k / g_K) score_K(x_K)) + sqrt(2 eta temperature) N(0, 1) per real channel for
    k < K, with x_K = (y - sum_{k<K} g_k x_k) / g_K throughout: noise in the mixture counts as part of source K.

    temperature: 1 is the printed algorithm, which samples the posterior p on the constraint. The curve "BASIS" in the
    paper's figures was made with noise sqrt(eta), that is temperature 0.5, which samples p^2. steps, step_size,
    levels, smoothing and errors: as in basis(); the defaults are the paper's.
    """
    return _constrained(problem, _Chain(steps, step_size, temperature, levels, smoothing), np.ones_like)


def basis_alpha(problem: Problem, steps: Optional[int] = None, step_size: float = 0.02, temperature: float = 1.0,
                levels: Optional[Sequence[int]] = None, smoothing: str = "vp",
                omega: Optional[Sequence[float]] = None) -> Separation:
    """Modified BASIS: basis_hard() on the alpha-posterior prod_k p_k(x_k)^omega_k (arXiv 2306.14411, Algorithm 4).

    omega: weight of each source's score, K values > 0, finite (default (g_k / g_1)^2: 1 for the SOI and the paper's
    kappa^2 for the interference). The rest: as in basis_hard(). Raises MethodError for values out of range.
    """
    if omega is not None:
        omega = np.asarray(omega, dtype=np.float32)
        if omega.shape != (len(problem.priors),):
            raise MethodError("omega needs one value per source")
        if not np.all(np.isfinite(omega)) or not np.all(omega > 0):
            raise MethodError("omega must be finite and above zero")
    return _constrained(problem, _Chain(steps, step_size, temperature, levels, smoothing),
                        lambda gains: (gains / gains[:, :1]) ** 2 if omega is None else
                        np.broadcast_to(omega, gains.shape))


def _constrained(problem, chain, weights):
    """Langevin dynamics of the first K - 1 sources on prod_k p_k^omega_k; weights: gains [W, K] to omega [W, K]."""
    def method(part, go_on):
        x, y, gains = first_estimates(part), part.mixture, part.gains[:, :, None]
        omega = weights(part.gains)[:, :, None]
        last = len(x) - 1
        ratio, inverse = gains / gains[:, last:], 1 / gains[:, last]
        curvature = omega[:, :last].max(axis=1) + omega[:, last] * np.sum(ratio[:, :last] ** 2, axis=1)
        rate = chain.rate(curvature)
        own, other = rate[:, None] * omega, rate[:, None] * omega[:, last:] * ratio

        def eliminate():
            x[last] = y
            for k in range(last):
                x[last] -= gains[:, k] * x[k]
            x[last] *= inverse

        for i in range(chain.steps):
            eliminate()
            if not go_on(i / chain.steps):
                return x, i
            alpha_bar, v = chain.level(i)
            away = chain.pull(part, last, x[last], alpha_bar)
            for k in range(last):
                step = chain.pull(part, k, x[k], alpha_bar)
                step *= own[:, k]
                step -= other[:, k] * away
                step += chain.noise(part, i, k, rate, v)
                x[k] += step
        eliminate()
        return x, chain.steps

    return in_batches(problem, method)


class _Chain:
    """The annealed chain that the three share. Raises MethodError for values out of range."""

    def __init__(self, steps, step_size, temperature, levels, smoothing):
        self.steps = STEPS if steps is None else steps
        if not 1 <= self.steps < 2**32:  # a step's number is part of a 32-bit counter
            raise MethodError(f"BASIS needs at least 1 step (and fewer than 2^32), not {self.steps}")
        if not LEAST_STEP_SIZE <= step_size <= MOST:
            raise MethodError(f"step_size={step_size} is impossible; allowed is {LEAST_STEP_SIZE:g} to {MOST:g}")
        if not 0 <= temperature <= MOST:
            raise MethodError(f"temperature={temperature} is impossible; allowed is 0 to {MOST:g}")
        self.levels = range(SCHEDULE.steps - 1, -1, -1) if levels is None else list(levels)
        if not self.levels or not all(0 <= level < SCHEDULE.steps for level in self.levels):
            raise MethodError(f"noise levels must be 0 to {SCHEDULE.steps - 1}, at least one of them")
        if smoothing not in ("ve", "vp"):
            raise MethodError(f"unknown smoothing '{smoothing}'; allowed are ve, vp")
        self.scaled = smoothing == "ve"
        self.step_size, self.temperature = np.float32(step_size), np.float32(temperature)

    def level(self, step):
        """abar and the smoothed priors' noise v per real channel, float32. The last step has the last level."""
        alpha_bar = SCHEDULE.alpha_bar(self.levels[-(-(step + 1) * len(self.levels) // self.steps) - 1])
        return alpha_bar, np.float32((1 - alpha_bar) / (alpha_bar if self.scaled else 1))

    def rate(self, curvature):
        """eta / v for each window, [W, 1]: a step of a density whose precision is at most curvature / v, [W, 1]."""
        return np.minimum(self.step_size, 1 / curvature)

    def noise(self, problem, step, k, rate, v):
        """The noise of a step, sqrt(2 eta temperature) N(0, 1) per real channel, complex64 [W, N]."""
        z = problem.noise(step, k)
        z *= np.sqrt(2 * self.temperature * v * rate)
        return z

    def pull(self, problem, k, x, alpha_bar):
        """v times source k's score at x, complex64 [W, N]."""
        root = np.float32(alpha_bar**0.5)
        mean = problem.denoise(k, root * x if self.scaled else x, alpha_bar)
        if not self.scaled:
            mean *= root
        mean -= x
        return mean
