# SPDX-License-Identifier: GPL-3.0-or-later
"""Guided reverse diffusion against plain NumPy transcriptions, exact Gaussian posteriors and finite differences."""

import math
import unittest
from unittest import mock

import numpy as np
import scipy.signal
import torch
from gnuradio.unmix import priors, signals
from gnuradio.unmix.demodulation import decide, matched_filter
from gnuradio.unmix.priors.gaussian import Gaussian
from gnuradio.unmix.separators import CancelFlag, Outcome, Problem, guidance, guided
from gnuradio.unmix.separators.guided import guided_analytical, guided_dps, guided_dsg, guided_hybrid
from gnuradio.unmix.separators.reconstruction import Reconstruction
from torch import Tensor

torch.set_num_threads(1)

METHODS = (guided_dps, guided_dsg, guided_hybrid, guided_analytical)
WITH_GRADIENT = METHODS[:3]


# ------------------------------------------------------------------------------------------ priors written for tests

class Half(torch.nn.Module):
    """Half the input; NaN in windows whose side information is not zero."""

    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        broken = (side[:, 0] != 0)[:, None, None]
        return torch.where(broken, torch.full_like(x, float("nan")), 0.5 * x)


class Detached(torch.nn.Module):
    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        return 0.5 * x.detach()


class Weighted(torch.nn.Module):
    """Its answer has a gradient, but in its own weight alone."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        return self.weight * x.detach()


class Integer(torch.nn.Module):
    """Goes through whole numbers, where no gradient passes."""

    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        return (4 * x).to(torch.int64).to(torch.float32) / 4


class Fails(torch.nn.Module):
    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        if bool((x.abs() > 0).any()):
            raise RuntimeError("anything is too much")
        return x


def wrap(module, **extra):
    return priors.from_module(module, {"format": 1, "name": type(module).__name__, "kind": "test", **extra})


def white():
    return wrap(Gaussian(np.ones(4)))


def complex_noise(rng, *shape):
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)


def planes(wave):
    return torch.from_numpy(np.stack([wave.real, wave.imag], -2).astype(np.float32))


def step_between(*levels):
    """A step of sources from levels (abar, next abar)."""
    return guidance.chain([np.array(pair) for pair in levels])[0]


def covariance(psd):
    """The circulant covariance of complex samples whose density on the DFT grid is psd, scaled to mean 1."""
    n = len(psd)
    dft = np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n) / np.sqrt(n)
    return dft.conj().T @ np.diag(psd / psd.mean()) @ dft


def raised_cosine(bins, low, high):
    return low + (high - low) * 0.5 * (1 - np.cos(2 * np.pi * np.arange(bins) / bins))


def qpsk_under_ofdm(windows, sir_db, seed, symbols=40, more=(), **options):
    """Bits and problem of noise-free mixtures with known OFDM start and phase. more: (prior, wave, gain) of others."""
    rng = np.random.default_rng(seed)
    s, bits = signals.linear_modulation(rng, windows, symbols)
    b, where = signals.cp_ofdm(rng, windows, symbols * 16)
    used = [priors.parse("rrc:qpsk,ends=isolated"), priors.parse("cp-ofdm:qpsk"), *(m[0] for m in more)]
    gains = [1.0, signals.kappa(sir_db), *(m[2] for m in more)]
    y = s + gains[1] * b + sum(m[2] * m[1] for m in more)
    side = [None, where.astype(np.float32), *(None for _ in more)]
    return bits, Problem(y, used, gains, side=side, seed=seed, **options)


def bit_errors(wave, bits, prior):
    return int(np.sum(decide(matched_filter(wave, prior.modulation), prior.modulation) != bits))


# -------------------------------------------------------------------------------------------------- the four rules

class Rules(unittest.TestCase):
    def setUp(self):
        generator = torch.Generator().manual_seed(1)
        self.step = step_between((0.3, 0.45))  # the same for every source
        self.mean, self.noise, self.gradient = (torch.randn(3, 5, 2, 40, generator=generator) for _ in range(3))

    def test_smooth_max_is_equation_10(self):
        for a, b, c in ((0.1, 0.3, 7.0), (0.02, 0.002, 1000.0), (0.2, 0.2, 50.0), (0.0, 0.5, 1e-3)):
            wanted = math.log(math.exp(c * a) + math.exp(c * b)) / c
            self.assertAlmostEqual(float(guidance.smooth_max(torch.tensor(a, dtype=torch.float64), b, c)), wanted, 12)
        self.assertEqual(float(guidance.smooth_max(torch.tensor(5.0), 1.0, 1e6)), 5.0)  # the plain formula overflows

    def test_sigma_and_mean_are_the_ddpm_posterior_by_bayes_rule(self):
        # q(x_next | x, x0) from N(x_next; sqrt(next) x0, 1 - next) and N(x; sqrt(alpha) x_next, 1 - alpha).
        step, x, x0 = self.step, 0.7, -0.4
        alpha = 0.3 / 0.45
        precision = 1 / (1 - 0.45) + alpha / (1 - alpha)
        mean = (math.sqrt(0.45) * x0 / (1 - 0.45) + math.sqrt(alpha) * x / (1 - alpha)) / precision
        self.assertAlmostEqual(float(step.sigma) ** 2, 1 / precision, 6)
        self.assertAlmostEqual(float(step.mean(torch.tensor(x), torch.tensor(x0))), mean, 6)
        beta = 1 - alpha  # below equation (11)
        self.assertAlmostEqual(float(step.sigma), math.sqrt(beta * (1 - 0.45) / (1 - 0.3)), 6)

    def test_a_score_moves_the_mean_by_the_score_weight(self):
        # Tweedie (5): a score s adds (1 - abar) s / sqrt(abar) to the estimate.
        moved = self.step.mean(torch.zeros(1), torch.tensor([(1 - 0.3) / math.sqrt(0.3)]))
        self.assertAlmostEqual(float(moved), float(self.step.score_weight), 6)

    def test_levels_end_at_one_and_are_even_in_log_snr(self):
        grid = guidance.levels(7, 0.02, 0.9)
        self.assertEqual(len(grid), 8)
        snr = np.log(grid[:-1] / (1 - grid[:-1]))
        np.testing.assert_allclose(np.diff(snr), np.diff(snr)[0])
        np.testing.assert_allclose(grid[[0, -2, -1]], [0.02, 0.9, 1])
        walk = guidance.chain([grid, grid])
        self.assertEqual([float(s.next_level[0]) for s in walk[:-1]], [float(s.level[1]) for s in walk[1:]])
        self.assertEqual(float(walk[-1].sigma.max()), 0.0)

    def test_dps_is_a_plain_gradient_step(self):
        got = guidance.Dps(0.7).move(self.step, self.mean, self.noise, self.gradient)
        torch.testing.assert_close(got, self.mean + self.step.sigma * self.noise - 0.7 * self.gradient)

    def test_dsg_steps_onto_the_sphere(self):
        for step in (self.step, step_between((0.3, 0.45), (0.1, 0.5), (0.8, 0.9))):
            for strength in (0.0, 0.1, 0.5, 0.9, 1.0):
                move = guidance.Dsg(strength).move(step, self.mean, self.noise, self.gradient) - self.mean
                length = (move.double() / step.sigma).square().sum((0, 2, 3)).sqrt()
                torch.testing.assert_close(length, torch.full_like(length, math.sqrt(3 * 2 * 40)), rtol=1e-4, atol=0)
            for w in range(5):  # strength 1: steepest descent in units of sigma
                g = step.sigma[:, 0] * self.gradient[:, w]
                descent = -(move[:, w] / step.sigma[:, 0]) / math.sqrt(3 * 2 * 40)
                torch.testing.assert_close(descent, g / g.norm(), rtol=1e-3, atol=1e-5)

    def test_dsg_mixes_directions_as_algorithm_1_of_yang_et_al(self):
        radius = math.sqrt(3 * 2 * 40) * float(self.step.sigma)
        got = guidance.Dsg(0.3).move(self.step, self.mean, self.noise, self.gradient)
        for w in range(5):
            best = -radius * self.gradient[:, w] / self.gradient[:, w].norm()
            sample = float(self.step.sigma) * self.noise[:, w]
            mixed = sample + 0.3 * (best - sample)
            torch.testing.assert_close(got[:, w], self.mean[:, w] + radius * mixed / mixed.norm(), rtol=1e-4, atol=1e-5)

    def test_hybrid_moves_by_equation_11(self):
        for floor, sharpness in ((0.002, 1000.0), (2.0, 10.0)):
            got = guidance.Hybrid(0.8, floor, sharpness).move(self.step, self.mean, self.noise, self.gradient)
            sigma = float(self.step.sigma)
            smooth = np.log(np.exp(sharpness * (sigma - 1)) + np.exp(sharpness * (floor - 1))) / sharpness + 1
            for w in range(5):
                gamma = smooth * math.sqrt(3 * 2 * 40) / self.gradient[:, w].norm()
                wanted = self.mean[:, w] + sigma * self.noise[:, w] - 0.8 * gamma * self.gradient[:, w]
                torch.testing.assert_close(got[:, w], wanted, rtol=1e-4, atol=1e-5)

    def test_gradients_of_any_size_have_a_direction_and_zero_has_none(self):
        for factor in (1e-30, 1e30):
            torch.testing.assert_close(guidance.unit(self.gradient * factor), guidance.unit(self.gradient), rtol=1e-4,
                                       atol=1e-7)
        zero = torch.zeros_like(self.gradient)
        self.assertTrue(bool((guidance.unit(zero) == 0).all()))
        for rule in (guidance.Dsg(0.5), guidance.Hybrid(1.0, 0.002, 1000.0)):
            self.assertTrue(bool(torch.isfinite(rule.move(self.step, self.mean, self.noise, zero)).all()))

    def test_the_analytical_gradient_is_that_of_the_gaussian_it_names(self):
        share, levels = [0.2, 0.3, 0.5], [0.3, 0.6, 0.9]
        y, variance = self.gradient[0], torch.linspace(0, 0.4, 5)
        x = self.mean.double().requires_grad_(True)
        centre = sum(math.sqrt(s / a) * one for s, a, one in zip(share, levels, x, strict=True))
        total = variance.double()[:, None, None] + sum(s * (1 - a) / a for s, a in zip(share, levels, strict=True))
        torch.distributions.Normal(centre, total.sqrt()).log_prob(y.double()).sum().backward()
        shares = torch.tensor(share).sqrt()[:, None, None, None].expand(3, 5, 1, 1)
        got = guidance.analytical_gradient(step_between(*((a, 0.95) for a in levels)), y, self.mean, shares,
                                           variance[:, None, None])
        torch.testing.assert_close(got.double(), -x.grad, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------------------- losses and gradients

class Losses(unittest.TestCase):
    def setUp(self):
        rng = np.random.default_rng(3)
        self.a, self.b = complex_noise(rng, 4, 200), complex_noise(rng, 4, 200)

    def loss(self, **weights):
        return Reconstruction(**{"time": 0, **weights})(planes(self.a), planes(self.b)).numpy()

    def test_time_and_group(self):
        error = np.abs(self.a - self.b) ** 2
        np.testing.assert_allclose(self.loss(time=2.0), 2 * error.sum(1), rtol=1e-5)
        segments = [error[:, i:i + 48].sum(1) for i in range(0, 200, 48)]  # four whole ones and a shorter one
        np.testing.assert_allclose(self.loss(group=1.0, segment=48), np.mean(segments, 0), rtol=1e-5)

    def test_stft_is_scipys(self):
        window = scipy.signal.get_window("hann", 32)

        def magnitudes(wave):
            spectra = scipy.signal.stft(wave, window=window, nperseg=32, noverlap=24, return_onesided=False,
                                        boundary="zeros", padded=False)[2] * window.sum()
            return np.abs(spectra) * np.sqrt(8 / (32 * np.sum(window**2)))

        loss = Reconstruction(stft=1.0, fft=32, hop=8)
        np.testing.assert_allclose(loss.spectrogram(planes(self.a)).numpy(), magnitudes(self.a), atol=1e-5)
        wanted = np.sum((magnitudes(self.a) - magnitudes(self.b)) ** 2, (1, 2))
        np.testing.assert_allclose(self.loss(stft=1.0, fft=32, hop=8), wanted, rtol=1e-4)

    def test_stft_has_the_scale_of_the_wave_and_does_not_see_its_phase(self):
        wave = np.pad(self.a, ((0, 0), (64, 64)))
        power = Reconstruction(stft=1.0).spectrogram(planes(wave)).square().sum((1, 2))
        np.testing.assert_allclose(power.numpy(), np.sum(np.abs(wave) ** 2, 1), rtol=1e-4)
        turned = Reconstruction(time=0, stft=1.0)(planes(wave), planes(1j * wave))
        self.assertLess(float(turned.max()), 1e-6)

    def test_gradients_are_finite_differences(self):
        y = planes(self.a).double()
        x = planes(self.b).double().requires_grad_(True)
        for loss in (Reconstruction(), Reconstruction(0, 1, 0, segment=48), Reconstruction(0, 0, 1),
                     Reconstruction(1, 0.05, 0.1)):
            self.assertTrue(torch.autograd.gradcheck(lambda e, loss=loss: loss(y, e), (x,), fast_mode=True))

    def test_an_estimate_of_zero_has_a_finite_gradient(self):
        x = torch.zeros(2, 2, 200, requires_grad=True)
        Reconstruction(1, 1, 1)(planes(self.a[:2]), x).sum().backward()
        self.assertTrue(bool(torch.isfinite(x.grad).all()))


class Gradients(unittest.TestCase):
    def assert_finite_differences(self, problem, level, tolerance=5e-3, h=2e-3):
        """Derivatives of the loss along its gradient and along random directions, in each call of the priors anew."""
        generator = torch.Generator().manual_seed(5)
        shape = (len(problem.priors), len(problem.mixture), 2, problem.mixture.shape[1])
        scale = np.sqrt(np.sum(problem.gains**2, 1, keepdims=True))
        mixture = planes(problem.mixture / scale)
        shares = torch.from_numpy((problem.gains / scale).T.copy())[:, :, None, None]
        loss, step = Reconstruction(1, 0.05, 0.1), step_between(*[(level, 0.5 + 0.5 * level)] * len(problem.priors))
        clean = mixture.expand(shape)
        x = math.sqrt(level) * clean + math.sqrt(1 - level) * torch.randn(shape, generator=generator)

        def value(at):
            means = guided._estimates(problem, at, step)
            return loss(mixture, (shares * means).sum(0)).double()

        for _ in range(3):  # the profiling executor would compute something else from the second call on
            _, gradient = guided._estimates_and_gradient(problem, x, step, mixture, shares, loss)
            for k in range(len(problem.priors)):
                own = torch.zeros(shape)
                own[k] = gradient[k]
                for direction in (guidance.unit(gradient), guidance.unit(own)):
                    direction = direction * math.sqrt(shape[-1])
                    wanted = (value(x + h * direction) - value(x - h * direction)) / (2 * h)
                    got = (gradient * direction).sum((0, 2, 3)).double()
                    self.assertLess(float(((got - wanted).abs() / wanted.abs()).max()), tolerance)

    def test_closed_forms(self):
        for level in (0.05, 0.3, 0.6):
            self.assert_finite_differences(qpsk_under_ofdm(3, -9, 1)[1], level, tolerance=0.02)

    def test_learned_priors(self):
        rng = np.random.default_rng(2)
        s, _ = signals.linear_modulation(rng, 2, 160)
        b, _ = signals.cp_ofdm(rng, 2, 2560)
        problem = Problem(s + 2 * b, [priors.parse("rrc-qpsk"), priors.parse("ofdm-qpsk")], [1, 2])
        for level in (0.2, 0.4):
            self.assert_finite_differences(problem, level, tolerance=0.02)

    def test_a_prior_that_predicts_noise(self):
        class AsNoise(torch.nn.Module):
            def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
                level = alpha_bar[:, None, None]
                return (x - level.sqrt() * torch.tanh(x)) / (1 - level).sqrt()

        rng = np.random.default_rng(2)
        problem = Problem(complex_noise(rng, 3, 128), [wrap(AsNoise(), predicts="noise"), white()], [1, 2])
        self.assert_finite_differences(problem, 0.3)

    def test_priors_that_give_none_are_named(self):
        y = complex_noise(np.random.default_rng(0), 3, 64)
        for module in (Detached(), Weighted(), Integer()):
            name = type(module).__name__
            problem = Problem(y, [white(), wrap(module)], [1, 1])
            for method in WITH_GRADIENT:
                with self.assertRaisesRegex(priors.PriorError, f"the prior {name} gives no gradient.*allowed"):
                    method(problem, steps=3)
            self.assertTrue(np.all(np.isfinite(guided_analytical(problem, steps=3).sources)))

    def test_a_prior_that_fails_is_named_with_its_own_words(self):
        problem = Problem(complex_noise(np.random.default_rng(0), 3, 64), [white(), wrap(Fails())], [1, 1])
        for method in METHODS:
            with self.assertRaisesRegex(priors.PriorError, "the prior Fails failed: .*anything is too much"):
                method(problem, steps=3)

    def test_want_of_memory_is_no_fault_of_the_prior(self):
        class Huge(torch.nn.Module):
            def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
                return x + torch.zeros(1 << 46 if bool((x.abs() > 0).any()) else 1).sum()  # 256 TiB

        class HugeBackwards(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x.clone()

            @staticmethod
            def backward(ctx, gradient):
                return gradient + torch.zeros(1 << 46).sum()

        y = complex_noise(np.random.default_rng(0), 3, 64)
        for method in METHODS:
            with self.assertRaisesRegex(RuntimeError, "allocate memory|enough memory"):
                method(Problem(y, [white(), wrap(Huge())], [1, 1]), steps=3)
        problem = Problem(y, [white(), white()], [1, 1])
        for error in (MemoryError(), torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")):
            with mock.patch.object(priors.Prior, "posterior_mean", side_effect=error):
                for method in METHODS:
                    with self.assertRaises(type(error)) as caught:
                        method(problem, steps=3)
                    self.assertIs(caught.exception, error)
        with mock.patch.object(priors.Prior, "posterior_mean", lambda prior, x, *_: HugeBackwards.apply(x)):
            for method in WITH_GRADIENT:
                with self.assertRaisesRegex(RuntimeError, "allocate memory|enough memory"):
                    method(problem, steps=3)


# -------------------------------------------------------------------------------------------------- Gaussian sources

class GaussianSources(unittest.TestCase):
    """With Gaussian priors posterior means are matrices, and every rule is arithmetic."""

    def transcription(self, rule, problem, sigmas, steps, start, last):
        """Algorithm 1 for all windows in complex NumPy, float64. rule(x', gradient, sigma, beta, alpha, abar)."""
        g = problem.gains[0].astype(float) / np.linalg.norm(problem.gains[0].astype(float))
        y = problem.mixture / np.linalg.norm(problem.gains[0].astype(float))
        windows, n = y.shape
        snr = np.linspace(np.log(start / (1 - start)), np.log(last / (1 - last)), steps)
        grid = [*(1 / (1 + np.exp(-snr))), 1.0]
        drawn = problem.noise(0, 0)
        x = [np.sqrt(grid[0]) * y + np.sqrt(1 - grid[0]) * drawn for _ in g]
        for i, (at, an) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
            alpha, beta = at / an, 1 - at / an
            sigma = np.sqrt(beta * (1 - an) / (1 - at))
            wiener = [np.sqrt(at) * s @ np.linalg.inv(at * s + 2 * (1 - at) * np.eye(n)) for s in sigmas]
            x0 = [v @ w.T for v, w in zip(x, wiener, strict=True)]
            rest = y - sum(gk * v for gk, v in zip(g, x0, strict=True))
            gradient = [-2 * gk * rest @ w.conj() for gk, w in zip(g, wiener, strict=True)]  # of |rest|^2: J^H
            flat = y - sum(gk * v for gk, v in zip(g, x, strict=True)) / np.sqrt(at)
            mean = [np.sqrt(alpha) * (1 - an) / (1 - at) * v + np.sqrt(an) * beta / (1 - at) * v0
                    for v, v0 in zip(x, x0, strict=True)]
            noise = [problem.noise(i + 1, k) for k in range(len(g))]
            x = rule(np.array(mean), sigma * np.array(noise), np.array(gradient), sigma, beta, alpha, at, g, flat)
        return np.array(x0)

    def assert_follows(self, method, rule, **options):
        rng = np.random.default_rng(6)
        for densities, gains in (((raised_cosine(15, 4, 0.05), raised_cosine(15, 0.02, 1)), [1, 3]),
                                 ((raised_cosine(15, 4, 0.05), np.ones(15), raised_cosine(15, 0.1, 1)), [1, 2, 0.5])):
            y = complex_noise(rng, 4, 15) * 2
            problem = Problem(y, [wrap(Gaussian(d)) for d in densities], gains, seed=9, index=[5, 1, 1 << 40, 2])
            for steps in (1, 2, 12):
                found = method(problem, steps=steps, start=0.05, last=0.95, **options)
                wanted = self.transcription(rule, problem, [covariance(d) for d in densities], steps, 0.05, 0.95)
                np.testing.assert_allclose(found.sources, wanted, atol=2e-3 * np.abs(wanted).max())
                np.testing.assert_array_equal(found.calls, steps)

    def test_dps_is_algorithm_1(self):
        self.assert_follows(guided_dps, lambda m, e, g, *_: m + e - 0.3 * g, strength=0.3)

    def test_dsg(self):
        def rule(mean, noise, gradient, sigma, *_):
            length = sigma * np.sqrt(2 * mean.shape[0] * mean.shape[2])

            def norm(v):
                return np.maximum(np.sqrt(np.sum(np.abs(v) ** 2, (0, 2), keepdims=True)), 1e-300)

            mixed = noise + 0.4 * (-length * gradient / norm(gradient) - noise)
            return mean + length * mixed / norm(mixed)

        self.assert_follows(guided_dsg, rule, strength=0.4)

    def test_hybrid(self):
        def rule(mean, noise, gradient, sigma, *_):
            smooth = np.logaddexp(20 * sigma, 20 * 0.1) / 20
            norm = np.sqrt(np.sum(np.abs(gradient) ** 2, (0, 2), keepdims=True))
            return mean + noise - 0.5 * smooth * np.sqrt(2 * mean.shape[0] * mean.shape[2]) * gradient / norm

        self.assert_follows(guided_hybrid, rule, strength=0.5, floor=0.1, sharpness=20.0)

    def test_analytical(self):
        def rule(mean, noise, gradient, sigma, beta, alpha, level, gains, flat):
            variance = (1 - level) / level
            pull = gains[:, None, None] * flat / variance / np.sqrt(level)
            return mean + noise + 0.7 * beta / np.sqrt(alpha) * pull

        self.assert_follows(guided_analytical, rule, strength=0.7)

    def assert_law(self, sources, mean, spread, slack):
        """Samples [K, W, N] of one mixture: their mean within 5 standard errors + slack, covariance likewise."""
        windows = sources.shape[1]
        error = np.sqrt(np.diag(spread).real[:, None] / windows / 2)  # per real channel
        deviation = sources.mean(1) - mean
        self.assertLess(np.max(np.abs([deviation.real, deviation.imag]) - 5 * error), slack)
        centred = sources - sources.mean(1, keepdims=True)
        found = np.einsum("iwn,jwn->ij", centred, centred.conj()) / (windows - 1) / sources.shape[2]
        self.assertLess(np.abs(found - spread).max(), slack + 5 / np.sqrt(windows * sources.shape[2]))

    def many(self, gains, noise_variance):
        rng = np.random.default_rng(4)
        y = complex_noise(rng, 8) * np.sqrt(np.sum(np.square(gains)) + noise_variance)
        return y, Problem(np.tile(y, (4000, 1)), [white() for _ in gains], gains, noise_variance=noise_variance, seed=2,
                          batch=4000)

    def test_dps_with_the_likelihoods_weight_samples_from_the_posterior(self):
        for gains, noise in (([1.0, 2.0], 0.5), ([1.0, 2.0, 0.7], 1.0)):
            y, problem = self.many(gains, noise)
            found = guided_dps(problem, steps=300, strength=1.0, weight="likelihood", start=1e-3, last=0.999)
            g = np.array(gains)
            total = g @ g + noise
            self.assert_law(found.sources, np.outer(g, y) / total, np.eye(len(g)) - np.outer(g, g) / total, slack=0.02)

    def test_the_analytical_rule_has_the_law_of_its_recursion_which_is_not_the_posterior(self):
        gains, noise = [1.0, 2.0], 0.5
        y, problem = self.many(gains, noise)
        found = guided_analytical(problem, steps=60, strength=1.0, start=1e-3, last=0.999)
        g = np.array(gains) / np.sqrt(5)
        # Linear in the states: mean (in units of the mixture) and covariance follow a recursion of 2 x 2 matrices.
        grid = guidance.levels(60, 1e-3, 0.999)
        mean, spread = np.full(2, np.sqrt(grid[0])), np.full((2, 2), 2 * (1 - grid[0]))
        for at, an in zip(grid[:-1], grid[1:], strict=True):
            wiener = np.sqrt(at) / (at + 2 * (1 - at))
            estimate, estimate_spread = wiener * mean, wiener**2 * spread
            alpha, beta = at / an, 1 - at / an
            pull = beta / np.sqrt(alpha) / np.sqrt(at) / (0.5 * noise / 5 + (1 - at) / at) * g
            matrix = (np.sqrt(alpha) * (1 - an) / (1 - at) + np.sqrt(an) * beta / (1 - at) * wiener) * np.eye(2)
            matrix -= np.outer(pull, g) / np.sqrt(at)
            mean = matrix @ mean + pull
            spread = matrix @ spread @ matrix.T + 2 * beta * (1 - an) / (1 - at) * np.eye(2)
        unit_y = y / np.sqrt(5)
        self.assert_law(found.sources, np.outer(estimate, unit_y), estimate_spread, slack=0.01)
        posterior = np.array(gains) * np.sqrt(5) / (5 + noise)  # of the mean, in units of the mixture
        self.assertGreater(np.abs(estimate - posterior).max(), 0.05)


# ------------------------------------------------------------------------------------------------ whole separations

class Separations(unittest.TestCase):
    def test_gradients_beat_the_matched_filter(self):
        bits, problem = qpsk_under_ofdm(6, -9, 11)
        floor = bit_errors(problem.mixture, bits, problem.priors[0])
        for method in WITH_GRADIENT:
            result = method(problem, steps=60)
            self.assertLess(bit_errors(result.sources[0], bits, problem.priors[0]), 0.7 * floor, method.__name__)
            np.testing.assert_array_equal(result.outcomes, int(Outcome.STEPS_USED))
            np.testing.assert_array_equal(result.calls, 60)

    def test_three_sources(self):
        rng = np.random.default_rng(1)
        density = np.where(np.abs(np.fft.fftfreq(64)) < 0.1, 1.0, 0.0)
        coloured = np.fft.ifft(np.fft.fft(complex_noise(rng, 4, 640)) * np.sqrt(
            np.where(np.abs(np.fft.fftfreq(640)) < 0.1, 5.0, 0.0)))
        bits, problem = qpsk_under_ofdm(4, 0, 12, more=[(wrap(Gaussian(density)), coloured, 0.3)])
        for method in METHODS:
            result = method(problem, steps=60)
            self.assertEqual(result.sources.shape, (3, 4, 640))
            self.assertTrue(np.all(np.isfinite(result.sources)))
            if method is not guided_analytical:
                self.assertLess(bit_errors(result.sources[0], bits, problem.priors[0]), 0.02 * bits.size)
                rest = problem.mixture - np.einsum("wk,kwn->wn", problem.gains, result.sources)
                self.assertLess(np.mean(np.abs(rest) ** 2), 0.3)

    def test_results_do_not_depend_on_the_batch_nor_on_the_level(self):
        _, problem = qpsk_under_ofdm(5, -6, 13)
        _, twice = qpsk_under_ofdm(5, -6, 13, batch=2)
        louder = Problem(problem.mixture * 8, problem.priors, problem.gains * 8, side=problem.side, seed=13)
        for method in METHODS:
            results = [method(p, steps=15).sources for p in (problem, twice, louder)]
            for other in results[1:]:
                np.testing.assert_allclose(other, results[0], atol=1e-2)  # rounding grows along the chain
            again = method(problem, steps=15).sources
            np.testing.assert_allclose(again, results[0], atol=1e-5)

    def test_the_seed_and_the_index_decide(self):
        _, problem = qpsk_under_ofdm(2, -12, 13)
        part = problem.part(1, 2)
        for method in METHODS:
            whole, alone = method(problem, steps=8).sources, method(part, steps=8).sources
            np.testing.assert_allclose(alone[:, 0], whole[:, 1], atol=1e-2)
            problem.seed += 1
            self.assertGreater(np.abs(method(problem, steps=8).sources - whole).max(), 1e-2)
            problem.seed -= 1

    def test_options_change_what_they_say(self):
        _, problem = qpsk_under_ofdm(2, -9, 14)
        plain = guided_hybrid(problem, steps=10).sources
        for options in ({"strength": 0.3}, {"start": 0.1}, {"last": 0.9}, {"begin_with": "estimates"},
                        {"floor": 0.5}, {"sharpness": 1.0}, {"aligned": False}, {"loss": Reconstruction(1, 0, 0.5)}):
            self.assertGreater(np.abs(guided_hybrid(problem, steps=10, **options).sources - plain).max(), 1e-3)
        scaled = guided_hybrid(problem, steps=10, loss=Reconstruction(5.0)).sources
        np.testing.assert_allclose(scaled, plain, atol=1e-2)  # equation (11) does not see the loss's scale

    def test_the_default_strength_of_dps_depends_on_the_priors_and_the_weight(self):
        y, used = complex_noise(np.random.default_rng(0), 2, 2560), [white(), white()]
        closed = [priors.from_module(Gaussian(np.ones(4)), {"format": 1, "name": "g", "kind": "gaussian"})] * 2
        wifi = [closed[0], priors.parse("wifi:")]
        for chosen, options, strength in ((used, {}, 1.0), (closed, {}, 10.0), (closed, {"weight": "likelihood"}, 1.0),
                                          (wifi, {}, 3.0), ([*wifi, white()], {}, 1.0)):
            problem = Problem(y, chosen, [1, 2, 1][: len(chosen)])
            given, twice = (guided_dps(problem, steps=5, strength=size, **options).sources
                            for size in (strength, 2 * strength))
            np.testing.assert_array_equal(guided_dps(problem, steps=5, **options).sources, given)
            self.assertGreater(np.abs(twice - given).max(), 1e-4)

    def test_aligned_levels_go_by_bandwidth(self):
        used = [wrap(Gaussian(np.ones(4)), band=[-0.05, 0.05]), wrap(Gaussian(np.ones(4)), band=[-0.2, 0.3]), white()]
        problem = Problem(np.ones((1, 32)), used, [1, 1, 1])
        grids = [g[:-1] for g in guided._grids(problem, 5, 0.001, 0.4, True)]
        for grid, ratio in zip(grids, (1, 5, 10), strict=True):
            np.testing.assert_allclose(grid / (1 - grid), ratio * grids[0] / (1 - grids[0]))
        np.testing.assert_allclose(grids[0][[0, -1]], [0.001, 0.4])
        for grid in guided._grids(problem, 5, 0.001, 0.4, False):
            np.testing.assert_allclose(grid[:-1], grids[0])

    def test_levels_stay_where_float32_can_hold_them(self):
        """An interference ten times as wide would be at 1 - 1e-8."""
        used = [wrap(Gaussian(np.ones(4)), band=[-0.05, 0.05]), white()]
        problem = Problem(complex_noise(np.random.default_rng(0), 2, 32), used, [1, 2])
        for grid in guided._grids(problem, 5, 1e-12, 0.9999999, True):
            self.assertGreater(np.float32(grid[0]), 0)
            self.assertLess(np.float32(grid[-2]), 1)
        for method in METHODS:
            for options in ({"last": 0.9999999}, {"start": 1e-12}):
                result = method(problem, steps=5, aligned=True, **options)
                np.testing.assert_array_equal(result.outcomes, int(Outcome.STEPS_USED))

    def test_options_at_their_bounds_need_no_more_than_float32(self):
        problem = Problem(complex_noise(np.random.default_rng(0), 2, 32), [white(), white()], [1, 2])
        for floor in (0.0, guided.MOST_FLOOR):
            for sharpness in guided.SHARPNESSES:
                self.assertTrue(np.isfinite(guided_hybrid(problem, steps=2, floor=floor, sharpness=sharpness).sources)
                                .all())

    def test_levels_stay_where_learned_priors_were_trained(self):
        seen = []

        class Watched(priors.Prior):
            def posterior_mean(self, x, alpha_bar, side):
                seen.append(float(alpha_bar[0]))
                return super().posterior_mean(x, alpha_bar, side)

        prior = wrap(Gaussian(np.ones(4)), alpha_bar=[0.2, 0.6])
        prior.__class__ = Watched
        guided_dps(Problem(complex_noise(np.random.default_rng(0), 2, 32), [prior, white()], [1, 1]), steps=5,
                   last=0.9)
        np.testing.assert_allclose([min(seen), max(seen)], [0.2, 0.6], atol=1e-6)

    def test_a_window_that_breaks_leaves_the_others_alone(self):
        y = complex_noise(np.random.default_rng(0), 4, 32)
        side = np.zeros((4, 1), np.float32)
        prior = wrap(Half(), side=["broken"], synchronised=False)
        clean = Problem(y, [prior, white()], [1, 2], side=[side.copy(), None])
        side[1] = 1
        broken = Problem(y, [prior, white()], [1, 2], side=[side, None])
        for method in METHODS:
            wanted, found = method(clean, steps=6), method(broken, steps=6)
            np.testing.assert_array_equal(found.outcomes == int(Outcome.DIVERGED), [False, True, False, False])
            np.testing.assert_array_equal(found.sources[:, 1], 0)
            np.testing.assert_allclose(found.sources[:, [0, 2, 3]], wanted.sources[:, [0, 2, 3]], atol=1e-5)

    def test_progress_and_cancellation(self):
        y = complex_noise(np.random.default_rng(0), 4, 32)
        used = [white(), white()]
        for method in METHODS:
            seen = []
            method(Problem(y, used, [1, 1], batch=2, progress=lambda f, n, seen=seen: seen.append((f, n)) or True),
                   steps=10)
            self.assertEqual(seen, sorted(seen))
            self.assertEqual(seen[-1], (1.0, 4))
            self.assertGreater(len(seen), 15)
            stopped = method(Problem(y, used, [1, 1], batch=2, progress=lambda f, n: f < 0.2), steps=10)
            np.testing.assert_array_equal(stopped.outcomes, [int(Outcome.CANCELLED)] * 2 + [int(Outcome.UNTOUCHED)] * 2)
            np.testing.assert_array_equal(stopped.calls, [4, 4, 0, 0])
            self.assertTrue(np.all(np.isfinite(stopped.sources)))
            flag = CancelFlag()
            flag.set()
            untouched = method(Problem(y, used, [1, 1], cancel=flag), steps=10)
            np.testing.assert_array_equal(untouched.outcomes, int(Outcome.UNTOUCHED))

    def test_refusals(self):
        problem = Problem(np.ones((1, 32)), [white(), white()], [1, 1])
        for method in METHODS:
            for options, words in (({"steps": 0}, "needs 1 to"), ({"steps": -1}, "needs 1 to"),
                                   ({"start": 0.0}, "start=0.0, last=.* 1e-12 <= start <= last"),
                                   ({"start": 0.9}, "start <= last"),
                                   ({"last": 1.0}, "last=1.0 .* last <= 0.9999999$"), ({"start": np.nan}, "start=nan"),
                                   ({"start": 1e-300}, "start=1e-300"), ({"steps": 10**9}, "needs 1 to 1000000"),
                                   ({"strength": -1.0}, "strength=-1.0 is impossible; allowed is"),
                                   ({"strength": np.nan}, "strength=nan is impossible"),
                                   ({"strength": np.inf}, "strength=inf is impossible"),
                                   ({"begin_with": "luck"}, "'luck'; allowed are mixture and estimates")):
                with self.assertRaisesRegex(ValueError, words):
                    method(problem, **options)
        for call, words in ((lambda: guided_dsg(problem, strength=1.5), "allowed is 0 to 1"),
                            (lambda: guided_hybrid(problem, floor=-1.0), "floor=-1.0 is impossible"),
                            (lambda: guided_hybrid(problem, floor=1e300), "floor=1e.300 is .*; allowed is 0 to 1e.06$"),
                            (lambda: guided_hybrid(problem, sharpness=1e300), "1e.300 is .* is 1e-06 to 1e.09$"),
                            (lambda: guided_hybrid(problem, sharpness=1e-300), "sharpness=1e-300 is impossible"),
                            (lambda: guided_dps(problem, strength=1e300), "strength=1e.300 is .* is 0 to 1e.09$"),
                            (lambda: guided_hybrid(problem, sharpness=0.0), "sharpness=0.0 is impossible"),
                            (lambda: guided_dps(problem, weight="much"), "'much'; allowed are constant and likelihood"),
                            (lambda: guided_dps(problem, weight="likelihood", loss=Reconstruction(1, 1)), "the time"),
                            (lambda: Reconstruction(0, 0, 0), "not all zero"),
                            (lambda: Reconstruction(-1), "not below zero"), (lambda: Reconstruction(np.nan), "finite"),
                            (lambda: Reconstruction(segment=0), "segment=0"),
                            (lambda: Reconstruction(hop=65), "hop=65")):
            with self.assertRaisesRegex(ValueError, words):
                call()


if __name__ == "__main__":
    unittest.main()
