# SPDX-License-Identifier: GPL-3.0-or-later
"""Propositions 2 to 5 of arXiv 2306.14411, as the package has them, against integrals, enumerations, finite
differences and random draws.

More is in qa_priors.py (Proposition 2 with other circulant covariances, Proposition 3 in waveforms), and alpha-RGS's
steps and Figure 1 are in qa_separators.py. Noise counts per real channel, unless a test says that it follows the
paper's complex variance.
"""

import sys
import unittest
from pathlib import Path

import numpy as np
import scipy.integrate
import torch
from gnuradio.unmix import priors
from gnuradio.unmix.priors import constellation as cons
from gnuradio.unmix.priors.gaussian import Gaussian
from gnuradio.unmix.separators import Problem, alpha_rgs
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "apps"))
import toy_landscapes as toy

torch.set_num_threads(1)
LEVELS = (0.999, 0.9, 0.5, 0.28)  # abar
FIVE = toy.Mixture((0.1, 0.3, 0.25, 0.15, 0.2), (-3.0, -1.2, 0.1, 0.9, 2.5), (0.2, 0.05, 0.3, 0.02, 0.6))
TWO = toy.Mixture((0.3, 0.7), (-1.0, 1.5), (0.1, 0.4))


def slope(function, x, step=1e-5):
    """Central finite differences."""
    return (function(x + step) - function(x - step)) / (2 * step)


def assert_orthogonal(case, error, tests, bound=4.5):
    """error [n] of a posterior mean must not correlate with any function of what it saw: z-scores below the bound.

    4.5: one test in 150,000 fails by chance.
    """
    for name, values in tests.items():
        product = error * values
        for part in (product.real, product.imag):
            spread = part.std() / np.sqrt(len(part))
            case.assertLessEqual(abs(part.mean()), bound * spread + 1e-12, name)


def wrap(module):
    return priors.from_module(module, {"format": 1, "name": "test", "kind": "test"})


class ScalarMixture(torch.nn.Module):
    """Posterior means of a Gaussian mixture, of real parts; imaginary parts are zero."""

    def __init__(self, source):
        super().__init__()
        for name in ("weights", "means", "variances"):
            self.register_buffer(name, torch.tensor(getattr(source, name), dtype=torch.float32))

    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        level = alpha_bar[:, None, None]
        gain = level.sqrt()
        spread = level * self.variances + 1 - level
        distance = x[:, 0, :, None] - gain * self.means
        share = torch.softmax(self.weights.log() - 0.5 * (distance**2 / spread + spread.log()), -1)
        real = (share * (self.means + gain * self.variances / spread * distance)).sum(-1)
        return torch.stack([real, torch.zeros_like(real)], 1)


class Proposition2(unittest.TestCase):
    """Gaussian sources: the score, and the minimiser of the smoothed loss."""

    def test_score_is_the_gradient_of_the_integrated_density(self):
        # Two samples with a real circulant covariance: real and imaginary parts are independent, each of half the
        # covariance. Equation (20) by the package: the prior's posterior mean and Tweedie's formula.
        prior = Gaussian(np.array([1.6, 0.4]))
        covariance = np.array([[1.0, 0.6], [0.6, 1.0]]) / 2
        grid = np.linspace(-5, 5, 501)
        s = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
        white = s @ np.linalg.inv(np.linalg.cholesky(covariance)).T
        source = np.exp(-0.5 * np.sum(white**2, 1))

        for level in (0.97, 0.6, 0.28):  # the noise is wider than two steps of the grid
            def log_density(x, level=level):
                away = np.sum((x - np.sqrt(level) * s) ** 2, 1) / (2 * (1 - level))
                return np.log(np.sum(source * np.exp(-away)))

            x = np.array([[[0.0, 0.0], [1.5, -2.0]], [[-1.0, 1.0], [0.4, 0.7]]])  # [windows, parts, samples]
            mean = prior(torch.from_numpy(x).float(), torch.full((2,), level), torch.zeros(2, 0)).double().numpy()
            score = (np.sqrt(level) * mean - x) / (1 - level)
            wanted = [[[(log_density(part + 1e-4 * e) - log_density(part - 1e-4 * e)) / 2e-4 for e in np.eye(2)]
                       for part in window] for window in x]
            np.testing.assert_allclose(score, wanted, atol=2e-5 / (1 - level))

    def test_minimiser_of_the_smoothed_loss_is_the_mean(self):
        # The paper's (22) leaves out a factor gamma_t, which changes the weights of the levels and not the minimiser.
        theta = np.linspace(-3, 3, 1201)
        for mean, variance in ((0.7, 0.8), (-1.1, 0.05)):
            losses = toy.smoothed_loss(toy.Mixture((1.0,), (mean,), (variance,)), theta)
            for loss in (*losses, losses.mean(0)):
                np.testing.assert_allclose(toy.minima(theta, loss), [mean], atol=1e-6)

    def test_alpha_rgs_of_two_gaussian_sources_ends_at_the_minimum_of_the_weighted_loss(self):
        # Both terms of (15) are quadratic: theta* = (A_s + w A_b)^-1 w A_b y with w = omega / kappa^2 and A the mean of
        # abar times the inverse covariance of the smoothed source. Circulant covariances: one DFT bin at a time.
        windows, n, kappa = 300, 8, 2.0
        rng = np.random.default_rng(2)
        densities = np.array([3.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.2, 1.0]), np.array([0.1, 0.5, 1, 2, 2, 1, 1, 0.4])
        curvature = [np.mean([a / (a * d / d.mean() + 2 * (1 - a)) for a in toy.ALPHA_BAR], axis=0) for d in densities]
        y = rng.standard_normal(n) + 1j * rng.standard_normal(n)
        used = [wrap(Gaussian(d)) for d in densities]
        for factor in (0.2, 1.0, 5.0):
            share = factor * curvature[1] / (curvature[0] + factor * curvature[1])
            wanted = np.fft.ifft(share * np.fft.fft(y))
            problem = Problem(np.tile(y, (windows, 1)), used, [1.0, kappa], seed=3, batch=windows, threads=1)
            found = alpha_rgs(problem, steps=4000, omega=[1.0, factor * kappa**2]).sources[0].astype(complex)
            error = np.abs(found.mean(0) - wanted)
            allowed = 4.5 * np.abs(found - found.mean(0)).std(0) / np.sqrt(windows) + 0.01
            np.testing.assert_array_less(error, allowed, err_msg=f"omega = {factor} kappa^2")
            self.assertGreater(np.abs(wanted - 0.5 * y).max(), 0.1)


class Proposition3(unittest.TestCase):
    """Symbols of a finite constellation, uniformly drawn."""

    def test_score_in_the_papers_complex_variance_is_the_gradient_of_the_enumerated_density(self):
        # Twice the Wirtinger derivative is the gradient over real and imaginary parts: with complex variance sigma^2,
        # (33) is the derivative by the conjugate. Its printed sum lacks gamma_t: s' = gamma_t s, equation (35), is what
        # Tweedie's formula averages; equation (38) is only phi_t(a, x). The package's posterior mean is the sum of
        # phi_t(a, x) a, with the variance counted per real channel.
        rng = np.random.default_rng(4)
        for name in cons.NAMES:
            points = cons.points(name).astype(complex)
            table = torch.from_numpy(np.stack([points.real, points.imag], -1))
            for level in LEVELS:
                gain, variance = np.sqrt(level), 1 - level

                def log_density(x, gain=gain, variance=variance, points=points):
                    return np.logaddexp.reduce(-np.abs(x[:, None] - gain * points) ** 2 / variance, 1)

                x = gain * rng.choice(points, 50) + np.sqrt(variance / 2) * (
                    rng.standard_normal(50) + 1j * rng.standard_normal(50))
                seen = gain * x / (variance / 2)
                mean = cons.posterior_mean(torch.from_numpy(np.stack([seen.real, seen.imag], -1)),
                                           torch.full((50,), 2 * level / variance, dtype=torch.float64), table, name)
                mean = mean.numpy() @ [1, 1j]
                score = (gain * mean - x) / variance
                step = 1e-5 * np.sqrt(variance)
                wanted = (slope(log_density, x, step) + 1j * (log_density(x + 1j * step) - log_density(x - 1j * step))
                          / (2 * step)) / 2
                np.testing.assert_allclose(score, wanted, atol=1e-6 / variance, err_msg=f"{name} {level}")
                if level < 0.6:
                    printed = (mean - x) / variance
                    self.assertGreater(np.abs(printed - wanted).max(), 0.1)

    def test_posterior_means_leave_errors_that_correlate_with_nothing_seen(self):
        rng = np.random.default_rng(5)
        count = 200_000
        for name in cons.NAMES:
            points = cons.points(name)
            table = torch.from_numpy(np.stack([points.real, points.imag], -1)).float()
            for level in LEVELS[1:]:
                a = rng.choice(points, count)
                x = np.sqrt(level) * a + np.sqrt(1 - level) * (
                    rng.standard_normal(count) + 1j * rng.standard_normal(count))
                seen = np.sqrt(level) * x / (1 - level)
                mean = cons.posterior_mean(torch.from_numpy(np.stack([seen.real, seen.imag], -1)).float(),
                                           torch.full((count,), level / (1 - level)), table, name).numpy()
                mean = mean[:, 0] + 1j * mean[:, 1]
                assert_orthogonal(self, a - mean, {"1": 1.0, "conj x": x.conj(), "x": x, "x |x|": x * np.abs(x),
                                                   "mean": mean.conj(), "x^3": x**3 / (1 + np.abs(x)) ** 2})
                # It can fail: the posterior mean of half the noise does correlate.
                wrong = np.sqrt(level) * x
                with self.assertRaises(AssertionError):
                    assert_orthogonal(self, a - wrong, {"conj x": x.conj(), "x |x|": x.conj() * np.abs(x)})


class Propositions4And5(unittest.TestCase):
    """Gaussian mixtures of two and of more components: what apps/toy_landscapes.py draws."""

    def integrals(self, source, x, level):
        """p(x) and E[s | x] by numerical integration over s."""
        def joint(s, power):
            prior = sum(w * np.exp(-0.5 * (s - m) ** 2 / v) / np.sqrt(2 * np.pi * v) for w, m, v in
                        zip(source.weights, source.means, source.variances, strict=True))
            noise = np.exp(-0.5 * (x - np.sqrt(level) * s) ** 2 / (1 - level)) / np.sqrt(2 * np.pi * (1 - level))
            return s**power * prior * noise

        narrow = np.sqrt((1 - level) / level)
        places = np.unique(np.clip([*source.means, x / np.sqrt(level), x / np.sqrt(level) + 3 * narrow,
                                    x / np.sqrt(level) - 3 * narrow], -11, 11))
        density, first = (scipy.integrate.quad(joint, -12, 12, args=(power,), points=places, limit=400,
                                               epsabs=1e-13, epsrel=1e-10)[0] for power in (0, 1))
        return density, first / density

    def test_density_score_and_posterior_mean_agree_with_integrals(self):
        for source in (TWO, FIVE, toy.GMM):
            for level in LEVELS[1:]:
                for x in (-2.0, -0.4, 0.3, 1.7):
                    density, mean = self.integrals(source, x, level)
                    at = np.array([x])
                    np.testing.assert_allclose(source.log_density(at, level)[0], np.log(density), atol=1e-6)
                    np.testing.assert_allclose(source.posterior_mean(at, level)[0], mean, atol=1e-6)
                    numeric = slope(lambda v, s=source, a=level: np.log(self.integrals(s, v, a)[0]), x, 1e-4)
                    np.testing.assert_allclose(source.score(at, level)[0], numeric, atol=1e-4)

    def test_two_components_are_proposition_4_as_printed(self):
        x = np.linspace(-3, 3, 41)
        (share, _), (mu1, mu2), (var1, var2) = TWO.weights, TWO.means, TWO.variances
        for level in LEVELS:
            gain, noise = np.sqrt(level), 1 - level
            total1, total2 = level * var1 + noise, level * var2 + noise
            c1, c2 = (np.exp(-0.5 * (x - gain * mu) ** 2 / total) / np.sqrt(2 * np.pi * total)
                      for mu, total in ((mu1, total1), (mu2, total2)))
            evidence = share * c1 + (1 - share) * c2
            score = (share * c1 * (gain * mu1 - x) / total1 + (1 - share) * c2 * (gain * mu2 - x) / total2) / evidence
            np.testing.assert_allclose(TWO.score(x, level), score, rtol=1e-10)
            scaled = (share * c1 * (level * var1 * x + gain * noise * mu1) / total1
                      + (1 - share) * c2 * (level * var2 * x + gain * noise * mu2) / total2) / evidence  # (53)
            np.testing.assert_allclose(gain * TWO.posterior_mean(x, level), scaled, rtol=1e-9, atol=1e-12)

    def test_score_is_the_slope_of_the_log_density_without_variances_too(self):
        x = np.linspace(-3, 3, 61)
        for source in (toy.BPSK, toy.FIGURE_1_INTERFERENCE, FIVE):
            for level in LEVELS:
                numeric = slope(lambda v, s=source, a=level: s.log_density(v, a), x, 1e-6)
                np.testing.assert_allclose(source.score(x, level), numeric, atol=1e-5 / (1 - level))

    def test_posterior_means_leave_errors_that_correlate_with_nothing_seen(self):
        rng = np.random.default_rng(6)
        count = 300_000
        for source in (TWO, FIVE):
            which = rng.choice(len(source.weights), count, p=source.weights)
            s = np.array(source.means)[which] + np.sqrt(np.array(source.variances)[which]) * rng.standard_normal(count)
            for level in LEVELS:
                x = np.sqrt(level) * s + np.sqrt(1 - level) * rng.standard_normal(count)
                error = s - source.posterior_mean(x, level)
                assert_orthogonal(self, error, {"1": 1.0, "x": x, "x^2": x**2, "sin 3x": np.sin(3 * x),
                                                "sign": np.sign(x)})

    def test_descent_by_random_noise_levels_ends_at_minima_of_the_smoothed_loss(self):
        # Figure 5, with the engine: the second source's weight is next to nothing, so (16) alone is descended.
        grid = np.linspace(-4, 6, 2001)
        lowest = toy.minima(grid, toy.smoothed_loss(toy.GMM, grid).mean(0))
        self.assertEqual(len(lowest), 4)
        starts = np.linspace(-3, 5, 400)[:, None]

        class Half(torch.nn.Module):
            def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
                return 0.5 * x

        used = [wrap(ScalarMixture(toy.GMM)), wrap(Half())]
        problem = Problem(2 * starts, used, [1.0, 1.0], seed=4, batch=400, threads=1)  # they begin at half: starts
        ends = alpha_rgs(problem, steps=4000, omega=[1.0, 1e-9]).sources[0, :, 0].real
        away = np.abs(ends[:, None] - lowest).min(1)
        self.assertLess(np.quantile(away, 0.97), 0.1)
        self.assertEqual(len(np.unique(np.abs(ends[:, None] - lowest).argmin(1))), 4)


if __name__ == "__main__":
    unittest.main()
