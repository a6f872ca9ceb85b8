# SPDX-License-Identifier: GPL-3.0-or-later
"""Real-valued toy sources and their smoothed losses in closed form: arXiv 2306.14411, section 4 and appendix B.

A source is a Gaussian mixture; variances of zero make it discrete. Smoothed to x = gamma s + sigma z, z ~ N(0, 1), with
gamma^2 = abar and sigma^2 = 1 - abar, it is a Gaussian mixture again (Proposition 5; Proposition 4 has two components,
Proposition 3 no variances). Expectations over z are taken by quadrature, so that curves have no noise.
"""

from dataclasses import dataclass

import numpy as np

#: abar_1 .. abar_49 of the paper's noise schedule; the smallest level is left out, as there.
ALPHA_BAR = np.cumprod(1 - np.linspace(1e-4, 0.05, 50))[1:]


@dataclass(frozen=True)
class Mixture:
    """Sum of weights[i] N(means[i], variances[i])."""

    weights: tuple[float, ...]
    means: tuple[float, ...]
    variances: tuple[float, ...]

    def _terms(self, x, alpha_bar):
        """log(weight c_i(x)), [..., components], and the distances gamma mu_i - x and variances of each."""
        spread = alpha_bar * np.array(self.variances) + 1 - alpha_bar
        distance = np.sqrt(alpha_bar) * np.array(self.means) - np.asarray(x)[..., None]
        return np.log(self.weights) - 0.5 * (distance**2 / spread + np.log(2 * np.pi * spread)), distance, spread

    def log_density(self, x, alpha_bar: float) -> np.ndarray:
        """log p of the smoothed source at x [...]."""
        return np.logaddexp.reduce(self._terms(x, alpha_bar)[0], -1)

    def score(self, x, alpha_bar: float) -> np.ndarray:
        """Its derivative, Proposition 5, equation (55)."""
        logs, distance, spread = self._terms(x, alpha_bar)
        share = np.exp(logs - np.logaddexp.reduce(logs, -1)[..., None])
        return (share * distance / spread).sum(-1)

    def posterior_mean(self, x, alpha_bar: float) -> np.ndarray:
        """E[s | x] by Tweedie's formula, equation (25)."""
        return (np.asarray(x) + (1 - alpha_bar) * self.score(x, alpha_bar)) / np.sqrt(alpha_bar)


def discrete(*points: float) -> Mixture:
    """A source of equiprobable points."""
    return Mixture((1 / len(points),) * len(points), points, (0.0,) * len(points))


BPSK = discrete(-1.0, 1.0)
#: Figure 5: two equal large modes at -1 and -2, two smaller ones at 2 and 4. Its weights and variances are our choice.
GMM = Mixture((0.35, 0.35, 0.15, 0.15), (-2.0, -1.0, 2.0, 4.0), (0.04, 0.04, 0.04, 0.04))

#: Figure 1: s in {-1, 1}, b in {+-6, +-2} / sqrt 20; the truth is s = 1, b = -2 / sqrt 20.
FIGURE_1_SOI = BPSK
FIGURE_1_INTERFERENCE = discrete(*(np.array([-6.0, -2.0, 2.0, 6.0]) / np.sqrt(20)))
FIGURE_1_KAPPA = 15.85
FIGURE_1_MIXTURE = 1 - FIGURE_1_KAPPA * 2 / np.sqrt(20)


def smoothed_loss(source: Mixture, theta: np.ndarray, nodes: int = 80) -> np.ndarray:
    """-E_z log p(gamma theta + sigma z) for each noise level, [49, len(theta)]: equation (16) with T = 1.

    Its mean over the levels is equation (16) itself.
    """
    z, weights = np.polynomial.hermite_e.hermegauss(nodes)
    weights = weights / weights.sum()
    return np.array([-source.log_density(np.sqrt(a) * theta[:, None] + np.sqrt(1 - a) * z, a) @ weights
                     for a in ALPHA_BAR])


def separation_loss(theta: np.ndarray, omega: float) -> np.ndarray:
    """Equation (15) for Figure 1 with t = u, for each noise level, [49, len(theta)]."""
    rest = (FIGURE_1_MIXTURE - theta) / FIGURE_1_KAPPA
    return smoothed_loss(FIGURE_1_SOI, theta) + omega * smoothed_loss(FIGURE_1_INTERFERENCE, rest)


def minima(theta: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Places of the local minima of a curve inside its grid."""
    return theta[1:-1][(loss[1:-1] < loss[:-2]) & (loss[1:-1] < loss[2:])]
