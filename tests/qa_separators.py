# SPDX-License-Identifier: GPL-3.0-or-later
"""The separators against plain NumPy transcriptions of their equations, and what they promise about every run.

alpha-RGS: Algorithm 1 of arXiv 2306.14411 with the sign of its equation (10), written with noise estimates as there
(the engine works with posterior means). Its random numbers are made again by a NumPy Philox4x32-10.
"""

import sys
import threading
import time
import unittest
from pathlib import Path

import numpy as np
import torch
from gnuradio.unmix import priors, signals
from gnuradio.unmix import unmix_python as engine
from gnuradio.unmix.demodulation import decide, matched_filter
from gnuradio.unmix.priors.gaussian import Gaussian
from gnuradio.unmix.separators import CancelFlag, MethodError, Outcome, Problem, alpha_rgs, pnp_dr, separate
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "apps"))
import toy_landscapes as toy

torch.set_num_threads(1)


# ------------------------------------------------------------------------------------------------- random numbers

def philox(counter, seed):
    """Philox4x32-10 of counters (four arrays of integers) with a 64-bit key: four uint64 arrays of 32-bit words."""
    mask = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    c = [np.asarray(word, dtype=np.uint64) & mask for word in np.broadcast_arrays(*counter)]
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(b >> shift) ^ c[1] ^ np.uint64(key[0]), b & mask, (a >> shift) ^ c[3] ^ np.uint64(key[1]), a & mask]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def window_words(seed, window, step, source, place):
    """Four words for each place of a window's step, as documented in lib/random.h."""
    return philox((np.asarray(place, dtype=np.uint64) ^ np.uint64(source << 28), step, window & 0xFFFFFFFF,
                   window >> 32), seed)


def box_muller(a, b):
    """Two normals from two 32-bit words: 24 bits make the radius, 26 the angle, which begins at -45 degrees."""
    radius = np.sqrt(-2 * np.log(((a >> np.uint64(8)).astype(float) + 1) / 2**24))
    angle = 2 * np.pi * (b >> np.uint64(6)).astype(float) / 2**26 - np.pi / 4
    return radius * np.cos(angle), radius * np.sin(angle)


def window_noise(seed, window, step, source, samples):
    """The complex noise z of one window and source, N(0, 1) per real channel: real plane first, then imaginary."""
    w = window_words(seed, window, step, source, np.arange(-(-2 * samples // 4)))
    values = np.stack([*box_muller(w[0], w[1]), *box_muller(w[2], w[3])], -1).ravel()[:2 * samples]
    return values[:samples] + 1j * values[samples:]


def window_level(seed, window, step, source, low=1, high=49):
    word = int(window_words(seed, window, step, source // 4, 0x0FFFFFFF)[source % 4])
    return low + (word * (high - low + 1) >> 32)


ALPHA_BAR = np.cumprod(1 - np.linspace(1e-4, 0.05, 50))


# ------------------------------------------------------------------------------------------ priors written for tests

class Scalars(torch.nn.Module):
    """Independent real samples, equiprobable on the given points; imaginary parts are zero."""

    def __init__(self, points):
        super().__init__()
        self.register_buffer("points", torch.tensor(points, dtype=torch.float32))

    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        level = alpha_bar[:, None, None]
        points = self.points
        exponent = (level.sqrt() * x[:, 0, :, None] * points - 0.5 * level * points * points) / (1 - level)
        real = (torch.softmax(exponent, -1) * points).sum(-1)
        return torch.stack([real, torch.zeros_like(real)], 1)


class AsNoise(torch.nn.Module):
    """Another prior, answering with the estimate of the noise."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        level = alpha_bar[:, None, None]
        return (x - level.sqrt() * self.inner(x, alpha_bar, side)) / (1 - level).sqrt()


class NanWhereTold(torch.nn.Module):
    """The input itself; NaN in windows whose side information is not zero, once a call's level is below `limit`."""

    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        broken = (side[:, 0] != 0)[:, None, None]
        return torch.where(broken, torch.full_like(x, float("nan")), x * alpha_bar[:, None, None].sqrt() * 0.5)


class Fails(torch.nn.Module):
    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        if bool((x.abs() > 50).any()):
            raise RuntimeError("fifty is too much")
        return x * 0.5


class Slow(torch.nn.Module):
    """A constant, after about a millisecond of work: two of these never agree on a mixture."""

    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        waste = torch.ones(128, 128, device=x.device) * x.mean()
        for _ in range(10):
            waste = torch.tanh(torch.matmul(waste, waste))
        return torch.full_like(x, 0.01) + 1e-9 * waste[0, 0]


class Echo(torch.nn.Module):
    """The clean signal that side information gives: a perfect prior with a known answer."""

    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        return side.reshape(x.size(0), 2, x.size(2))


def wrap(module, **extra):
    return priors.from_module(module, {"format": 1, "name": type(module).__name__, "kind": "test", **extra})


def complex_noise(rng, *shape):
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)


def raised_cosine(bins, low, high):
    """A density that is far from white: `low` at DC, `high` at half the sample rate."""
    return low + (high - low) * 0.5 * (1 - np.cos(2 * np.pi * np.arange(bins) / bins))


def covariance(psd, samples):
    """The circulant covariance of complex samples whose density on the DFT grid is psd, scaled to mean 1."""
    dft = np.exp(-2j * np.pi * np.outer(np.arange(samples), np.arange(samples)) / samples) / np.sqrt(samples)
    return dft.conj().T @ np.diag(psd / psd.mean()) @ dft


def gaussian_noise_estimate(sigma, noisy, level):
    """Minus sigma_t times the score of Proposition 2, z in units of one real channel."""
    total = level * sigma + 2 * (1 - level) * np.eye(len(sigma))
    return 2 * np.sqrt(1 - level) * np.linalg.solve(total, noisy)


def gaussian_estimator(density):
    sigma = covariance(density, len(density))
    return lambda noisy, level: gaussian_noise_estimate(sigma, noisy, level)


def run(method, mixture, used, gains, initial, side=None, noise=None, index=None, **options):
    """The bare engine: nothing is estimated on the way."""
    mixture = np.asarray(mixture, np.complex64)
    windows = len(mixture)
    options.setdefault("block", min(16, mixture.shape[1]))
    return getattr(engine, method)(
        mixture, [p.engine() for p in used], np.broadcast_to(np.float32(gains), (windows, len(used))).copy(),
        np.asarray(initial, np.complex64), side or [None] * len(used), noise,
        np.arange(windows, dtype=np.uint64) if index is None else np.asarray(index, np.uint64), **options)


def qpsk_under_ofdm(windows, sir_db, seed, symbols=80):
    """Truth (SOI, OFDM), bits, priors, gains and side information of noise-free mixtures."""
    rng = np.random.default_rng(seed)
    s, bits = signals.linear_modulation(rng, windows, symbols)
    b, where = signals.cp_ofdm(rng, windows, symbols * 16)
    used = [priors.parse("rrc:qpsk,ends=isolated"), priors.parse("cp-ofdm:qpsk")]
    return s, b, bits, used, [1.0, signals.kappa(sir_db)], [None, where.astype(np.float32)]


def interior_errors(result, bits, prior, symbols=8):
    """Bit errors [W] without the first and last symbols of each window, which have too little context."""
    decided = decide(matched_filter(result.sources[0], prior.modulation), prior.modulation)
    wrong = (decided != bits).reshape(len(bits), -1, 2)[:, symbols:-symbols]
    return wrong.sum((1, 2))


class RandomNumbers(unittest.TestCase):
    def test_philox_gives_random123s_known_answers(self):
        zero = [int(w) for w in philox((0, 0, 0, 0), 0)]
        self.assertEqual(zero, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8])
        ones = [int(w) for w in philox((0xFFFFFFFF,) * 4, 0xFFFFFFFFFFFFFFFF)]
        self.assertEqual(ones, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD])


# ------------------------------------------------------------------------------------------------------- alpha-RGS

class AlphaRgs(unittest.TestCase):
    def transcription(self, y, kappa, theta, estimate_s, estimate_b, omega, steps, seed, window,
                      rate_max=5e-3, rate_min=1e-6, equal=False):
        """Algorithm 1 for one window, float64. estimate_s/b(noisy, abar) return noise estimates."""
        theta = theta.astype(complex)
        for i in range(steps):
            rate = rate_min + 0.5 * (rate_max - rate_min) * (1 + np.cos(np.pi * i / steps))
            at, au = (ALPHA_BAR[window_level(seed, window, i, k)] for k in ((0, 0) if equal else (0, 1)))
            zs, zb = (window_noise(seed, window, i, k, len(y)) for k in (0, 1))
            noisy_s = np.sqrt(at) * theta + np.sqrt(1 - at) * zs
            noisy_b = np.sqrt(au) * (y - theta) / kappa + np.sqrt(1 - au) * zb
            pull_s = np.sqrt(at / (1 - at)) * (estimate_s(noisy_s, at) - zs)
            pull_b = omega / kappa * np.sqrt(au / (1 - au)) * (estimate_b(noisy_b, au) - zb)
            theta = theta + rate * (pull_b - pull_s)  # the sign of equation (10), not that of the printed line 7
        return theta

    def assert_follows_the_transcription(self, samples, used, estimates, kappa=2.0, omega=None, tolerance=1e-3,
                                         equal=False):
        rng = np.random.default_rng(4)
        index = [7, 3, (1 << 40) + 5]
        y = complex_noise(rng, 3, samples) * 2
        start = complex_noise(rng, 3, samples)
        initial = np.stack([start, (y - start) / kappa])
        for steps in (1, 2, 20):
            given = {"equal_levels": equal} | ({} if omega is None else {"omega": [1.0, omega]})
            seed = (5 << 33) + 1
            result = run("alpha_rgs", y, used, [1, kappa], initial, index=index, seed=seed, steps=steps, **given)
            for w, number in enumerate(index):
                wanted = self.transcription(y[w], kappa, start[w], *estimates, omega or kappa**2, steps, seed, number,
                                            equal=equal)
                error = np.abs(result["sources"][0, w] - wanted).max()
                self.assertLess(error, tolerance, f"{steps} steps, window {w}")
                rest = y[w] - result["sources"][0, w] - kappa * result["sources"][1, w]
                self.assertLess(np.abs(rest).max(), 1e-5)  # line 9: b = (y - s) / kappa
            np.testing.assert_array_equal(result["calls"], steps)
            np.testing.assert_array_equal(result["outcomes"], int(Outcome.STEPS_USED))

    def test_two_gaussian_sources_follow_algorithm_1_and_proposition_2(self):
        # Scores from Proposition 2 with explicit covariance matrices; 31 samples leave no multiple of four.
        densities = [raised_cosine(31, 4.0, 0.05), raised_cosine(31, 0.02, 1.0)]
        used = [wrap(Gaussian(d)) for d in densities]
        estimates = [gaussian_estimator(d) for d in densities]
        self.assert_follows_the_transcription(31, used, estimates)
        self.assert_follows_the_transcription(31, used, estimates, equal=True)

    def test_qpsk_under_gaussian_noise_follows_algorithm_1(self):
        soi = priors.parse("rrc:qpsk,sps=4,span=6,ends=isolated")
        density = raised_cosine(160, 0.02, 1.0)
        other = wrap(Gaussian(density))
        sigma = covariance(density, 160)

        def estimate_s(x, a):  # the prior's own mean: qa_priors.py compares that with enumeration
            mean = soi.denoise(x[None].astype(np.complex64), np.float32([a]))[0]
            return (x - np.sqrt(a) * mean) / np.sqrt(1 - a)

        self.assert_follows_the_transcription(160, [soi, other],
                                              [estimate_s, lambda x, a: gaussian_noise_estimate(sigma, x, a)])

    def test_omega_weighs_the_interferences_term(self):
        densities = [raised_cosine(16, 4.0, 0.05), raised_cosine(16, 0.02, 1.0)]
        used = [wrap(Gaussian(d)) for d in densities]
        estimates = [gaussian_estimator(d) for d in densities]
        self.assert_follows_the_transcription(16, used, estimates, omega=0.7)

    def test_mean_step_of_gaussian_sources_is_proposition_2s_gradient(self):
        # The noise averages out: E step = rate E_t[ abar/(1 - abar) (D_t - 1) ] theta - ..., D_t the Wiener gain, in
        # each DFT bin. 6000 windows of the same mixture; the sum of squared z-scores is chi-squared.
        windows, n, kappa, rate = 6000, 8, 1.5, 5e-3
        rng = np.random.default_rng(8)
        densities = [raised_cosine(n, 3.0, 0.1), raised_cosine(n, 0.1, 3.0)]
        used = [wrap(Gaussian(d)) for d in densities]
        y, theta = complex_noise(rng, n), complex_noise(rng, n)
        initial = np.stack([np.tile(theta, (windows, 1)), np.tile((y - theta) / kappa, (windows, 1))])
        result = run("alpha_rgs", np.tile(y, (windows, 1)), used, [1, kappa], initial, steps=1, rate_max=rate, seed=3,
                     batch=windows)
        steps = result["sources"][0].astype(complex) - theta
        wanted = np.zeros(n, dtype=complex)
        for level in ALPHA_BAR[1:]:
            for density, x, weight in ((densities[0], theta, 1.0), (densities[1], (y - theta) / kappa, -kappa)):
                total = level * covariance(density, n) + 2 * (1 - level) * np.eye(n)
                score = -2 * np.linalg.solve(total, np.sqrt(level) * x)  # (20) with mean 0, per real channel
                wanted += weight * np.sqrt(level) * score * rate / 49
        # Real and imaginary parts of 8 samples: 16 nearly independent z-scores.
        deviation = np.concatenate([(steps.real - wanted.real), (steps.imag - wanted.imag)], 1)
        z = deviation.mean(0) / (deviation.std(0) / np.sqrt(windows))
        self.assertLess(np.abs(z).max(), 5)
        self.assertGreater(np.abs(wanted).max() / (deviation.std(0) / np.sqrt(windows)).max(), 20)  # it can fail

    def test_a_prior_that_predicts_noise_gives_the_same_as_one_that_predicts_the_signal(self):
        rng = np.random.default_rng(2)
        module = Gaussian(raised_cosine(32, 4.0, 0.05))
        soi, twin = wrap(module), wrap(AsNoise(module), predicts="noise")
        other = wrap(Gaussian(raised_cosine(32, 0.05, 4.0)))
        x, level = complex_noise(rng, 5, 32).astype(np.complex64), np.float32([0.9, 0.99, 0.3, 0.5, 0.7])
        np.testing.assert_allclose(twin.denoise(x, level), soi.denoise(x, level), atol=1e-5)
        y = complex_noise(rng, 3, 32)
        initial = np.stack([y, np.zeros_like(y)])
        for method, options in (("alpha_rgs", {"steps": 20}), ("pnp_dr", {"steps": 7, "agreement": 1e-12})):
            results = [run(method, y, [p, other], [1, 2], initial, **options)["sources"] for p in (soi, twin)]
            np.testing.assert_allclose(results[1], results[0], atol=2e-4)

    def test_cosine_annealing_and_the_largest_level_move_over_the_run(self):
        # rate_max = rate_min = 0: nothing moves. level range of one level: every draw gives it.
        rng = np.random.default_rng(2)
        used = [wrap(Gaussian(raised_cosine(8, 4.0, 0.05))), wrap(Gaussian(np.ones(8)))]
        y, start = complex_noise(rng, 1, 8), complex_noise(rng, 1, 8)
        initial = np.stack([start, y - start])
        still = run("alpha_rgs", y, used, [1, 1], initial, steps=5, rate_max=0.0, rate_min=0.0)
        np.testing.assert_allclose(still["sources"][0], start, atol=1e-6)
        # The top level goes 5 -> 1: after half of the run it is 3, in the last step still above 1 (round(1.4) = 1).
        theta = start[0].astype(complex)
        for i in range(10):
            top = round(5 + (1 - 5) * i / 10)
            level = [ALPHA_BAR[window_level(0, 0, i, k, 1, top)] for k in (0, 1)]
            means = []
            for k, x in enumerate((theta, y[0] - theta)):
                noisy = np.sqrt(level[k]) * x + np.sqrt(1 - level[k]) * window_noise(0, 0, i, k, 8)
                sigma = covariance(raised_cosine(8, 4.0, 0.05) if k == 0 else np.ones(8), 8)
                means.append((noisy - np.sqrt(1 - level[k]) * gaussian_noise_estimate(sigma, noisy, level[k]))
                             / np.sqrt(level[k]))
            rate = 0.5 * 1e-2 * (1 + np.cos(np.pi * i / 10))
            pull = [min(a / (1 - a), 0.3 / rate) for a in level]  # capped at three tenths of the way
            theta = theta + rate * (pull[0] * (means[0] - theta) - pull[1] * (means[1] - (y[0] - theta)))
        result = run("alpha_rgs", y, used, [1, 1], initial, steps=10, rate_max=1e-2, rate_min=0.0, level_max=5,
                     level_max_last=1, weight_cap=0.3)
        np.testing.assert_allclose(result["sources"][0, 0], theta, atol=1e-4)


class Figure1(unittest.TestCase):
    """The paper's toy: s in {-1, 1}, b in {+-2, +-6} / sqrt 20, kappa = 15.85; the truth is s = 1, b = -2 / sqrt 20."""

    kappa = 15.85
    points_s = np.array([-1.0, 1.0])
    points_b = np.array([-6.0, -2.0, 2.0, 6.0]) / np.sqrt(20)
    y = 1 - kappa * 2 / np.sqrt(20)

    def loss(self, theta, omega):
        """Equation (15) on a grid of theta, t = u, averaged over the levels, without the engine."""
        return toy.separation_loss(theta, omega).mean(0)

    def separate(self, omega, start, windows=400, steps=2000, rate_max=2e-3):
        y = np.full((windows, 1), self.y)
        initial = np.stack([np.full_like(y, start), (y - start) / self.kappa])
        result = run("alpha_rgs", y, [wrap(Scalars(self.points_s)), wrap(Scalars(self.points_b))], [1, self.kappa],
                     initial, omega=[1.0, omega], steps=steps, rate_max=rate_max, seed=11, block=1, batch=windows)
        self.assertLess(np.abs(result["sources"].imag).max(), 1e-5)
        return result["sources"][0, :, 0].real

    def test_alpha_rgs_stays_at_the_wrong_mode_with_omega_1(self):
        ends = self.separate(1.0, -1.0)
        # All 400 runs: at least 99 % at 95 % confidence (rule of three).
        self.assertLess(np.abs(ends + 1).max(), 0.3)

    def test_alpha_rgs_ends_at_the_right_mode_with_omega_kappa_squared(self):
        for start in (-1.0, 0.0, 1.0):
            ends = self.separate(self.kappa**2, start)
            self.assertLess(np.abs(ends - 1).max(), 0.3, f"from {start}")

    def test_alpha_rgs_settles_at_the_losses_minimum(self):
        theta = np.linspace(0.8, 1.2, 401)
        lowest = theta[np.argmin(self.loss(theta, self.kappa**2))]
        ends = self.separate(self.kappa**2, 1.0)
        # The steps' noise leaves a small offset through the curvature; 0.01 is a third of the minimum's distance to 1.
        self.assertLess(abs(ends.mean() - lowest), 0.01 + 4 * ends.std() / np.sqrt(len(ends)))


# ------------------------------------------------------------------------------------------------ Douglas-Rachford

class DouglasRachford(unittest.TestCase):
    V = (0.08, 0.12)

    def transcription(self, y, gains, x, used, side, calls, block, refine, relaxation=1.0):
        """p = (y - g D_b((y - x)/g)), q = D_s(2 p - x), x += q - p; each block from its best call."""
        given = gains[1]
        gain = given
        best = np.full(-(-len(y) // block), np.inf)
        keep = np.zeros((2, len(y)), dtype=complex)

        def denoise(k, r):
            level = 1 / (1 + self.V[k])
            s = None if side[k] is None else side[k]
            return used[k].denoise((np.sqrt(level) * r)[None].astype(np.complex64), np.float32([level]), s)[0]

        for _ in range(calls):
            b = denoise(1, (y - x) / gain)
            p = y - gain * b
            q = denoise(0, 2 * p - x)
            x = x + relaxation * (q - p)
            if refine:
                gain = np.clip(np.real(np.vdot(b, y - q)) / np.vdot(b, b).real, given / 2, given * 2)
            residual = np.abs(y - q - gain * b) ** 2
            for i in range(len(best)):
                middle = i * block + block // 2
                level = residual[max(0, middle - 4 * block):middle + 4 * block].mean()
                if level < best[i]:
                    best[i] = level
                    keep[:, i * block:(i + 1) * block] = np.stack([q, b])[:, i * block:(i + 1) * block]
        return keep, best, gain

    def assert_follows_the_transcription(self, refine, wrong_gain=1.0, relaxation=1.0):
        s, b, _, used, gains, side = qpsk_under_ofdm(3, -10.0, seed=3, symbols=40)
        y = s + gains[1] * b
        rng = np.random.default_rng(1)
        y = y + signals.noise(rng, y.shape, 0.3)  # more than it takes for agreement
        gain = np.float32(gains[1] * wrong_gain)
        start = 0.7 * s + 0.3 * y
        for calls in (1, 3, 10):
            result = run("pnp_dr", y, used, [1, gain], np.stack([start, start]), side=side, steps=calls, v=list(self.V),
                         agreement=1e-30, refine_gains=refine, relaxation=relaxation, block=16)
            np.testing.assert_array_equal(result["calls"], calls)
            np.testing.assert_array_equal(result["outcomes"], int(Outcome.STEPS_USED))
            for w in range(3):
                keep, best, last = self.transcription(y[w], [1, gain], start[w], used, [None, side[1][w:w + 1]],
                                                      calls, 16, refine, relaxation)
                np.testing.assert_allclose(result["sources"][:, w], keep, atol=1e-2, err_msg=f"{calls} calls")
                np.testing.assert_allclose(result["disagreement"][w], best, rtol=1e-2, atol=1e-5)
                self.assertAlmostEqual(float(result["gains"][w, 1]), float(last), delta=1e-3 * gain)

    def test_follows_its_equations(self):
        self.assert_follows_the_transcription(refine=False)

    def test_follows_its_equations_with_gains_refined(self):
        self.assert_follows_the_transcription(refine=True, wrong_gain=1.1)

    def test_follows_its_equations_with_relaxation(self):
        self.assert_follows_the_transcription(refine=False, relaxation=1.4)

    def test_a_gain_of_the_soi_only_changes_units(self):
        s, b, _, used, gains, side = qpsk_under_ofdm(4, -9.0, seed=5, symbols=40)
        y = s + gains[1] * b
        results = [run("pnp_dr", scale * y, used, np.float32(gains) * scale, np.stack([0.5 * s, y]), side=side, steps=2,
                       agreement=1e-9) for scale in (1.0, 0.01, 300.0)]
        for scale, result in zip((0.01, 300.0), results[1:], strict=True):
            np.testing.assert_allclose(result["sources"], results[0]["sources"], atol=2e-3)
            np.testing.assert_allclose(result["disagreement"], results[0]["disagreement"], rtol=0.01, atol=1e-5)
            np.testing.assert_allclose(result["gains"], results[0]["gains"] * scale, rtol=1e-4)

    def test_solves_noise_free_mixtures_of_qpsk_and_ofdm(self):
        for sir in (-24.0, -12.0, -3.0):
            s, b, bits, used, gains, side = qpsk_under_ofdm(20, sir, seed=int(-sir), symbols=120)
            problem = Problem(s + gains[1] * b, used, gains, side=side, margin=128)
            result = pnp_dr(problem)
            self.assertGreaterEqual(np.mean(result.outcomes == int(Outcome.AGREED)), 0.9, f"{sir} dB")
            self.assertLessEqual(interior_errors(result, bits, used[0]).sum(), 4, f"{sir} dB")  # of 20 x 208 bits

    def test_stops_when_agreed_and_takes_a_window_that_begins_solved_in_one_call(self):
        s, b, _, used, gains, side = qpsk_under_ofdm(4, -12.0, seed=6)
        y = s + gains[1] * b
        result = run("pnp_dr", y, used, gains, np.stack([s, b]), side=side, steps=50, margin=128)
        np.testing.assert_array_equal(result["outcomes"], int(Outcome.AGREED))
        np.testing.assert_array_equal(result["calls"], 1)
        self.assertLess(result["disagreement"][:, 8:-8].max(), 0.01)

    def test_noise_raises_the_threshold_by_its_own_power(self):
        s, b, _, used, gains, side = qpsk_under_ofdm(8, -12.0, seed=6)
        y = s + gains[1] * b + signals.noise(np.random.default_rng(0), s.shape, 0.1)
        initial = np.stack([s, b])
        deaf = run("pnp_dr", y, used, gains, initial, side=side, steps=20, margin=128)
        told = run("pnp_dr", y, used, gains, initial, side=side, steps=20, margin=128,
                   noise=np.full(8, 0.1, np.float32))
        self.assertFalse(np.any(deaf["outcomes"] == int(Outcome.AGREED)))
        np.testing.assert_array_equal(told["outcomes"], int(Outcome.AGREED))

    def test_refined_gains_repair_a_level_that_is_a_tenth_off(self):
        s, b, bits, used, gains, side = qpsk_under_ofdm(20, -12.0, seed=9, symbols=120)
        mixture = s + gains[1] * b
        for wrong in (0.9, 1.1):
            problem = Problem(mixture, used, [1.0, gains[1] * wrong], side=side, margin=128)
            repaired, stubborn = pnp_dr(problem), pnp_dr(problem, refine_gains=False)
            solved = repaired.outcomes == int(Outcome.AGREED)
            self.assertGreaterEqual(solved.mean(), 0.9)
            self.assertEqual(interior_errors(repaired, bits, used[0])[solved].sum(), 0)
            np.testing.assert_allclose(repaired.gains[solved, 1], gains[1], rtol=0.01)
            self.assertFalse(np.any(stubborn.outcomes == int(Outcome.AGREED)))
            self.assertGreater(np.median(stubborn.disagreement), 3 * np.median(repaired.disagreement))


class SeveralSources(unittest.TestCase):
    def test_every_call_of_the_product_form_starts_from_a_projection_on_the_mixture(self):
        # Priors that answer the truth: the first call's residual is zero and nothing moves on.
        rng = np.random.default_rng(3)
        truth = complex_noise(rng, 3, 4, 32)
        gains = np.float32([1, 2, 0.5])
        y = np.tensordot(gains, truth, (0, 0))
        side = [np.concatenate([t.real, t.imag], 1).astype(np.float32) for t in truth]
        result = run("pnp_dr", y, [wrap(Echo())] * 3, gains, np.zeros_like(truth), side=side, steps=9)
        np.testing.assert_allclose(result["sources"], truth, atol=1e-6)
        np.testing.assert_array_equal(result["outcomes"], int(Outcome.AGREED))
        np.testing.assert_array_equal(result["calls"], 1)

    def three(self, windows=8):
        rng = np.random.default_rng(0)
        waves = [signals.linear_modulation(rng, windows, 2560 // sps, "qpsk", sps)[0] for sps in (16, 20)]
        ofdm, where = signals.cp_ofdm(rng, windows, 2560)
        used = [priors.parse(t) for t in ("rrc:qpsk,ends=isolated", "rrc:qpsk,sps=20,ends=isolated", "cp-ofdm:qpsk")]
        return [*waves, ofdm], used, [None, None, where.astype(np.float32)]

    def test_the_product_form_solves_noise_free_mixtures_of_three(self):
        waves, used, side = self.three()
        for gains in ([1, 3, 3], [1, 2, 1]):
            problem = Problem(np.tensordot(gains, waves, (0, 0)), used, gains, side=side, margin=128)
            result = pnp_dr(problem, steps=100)
            self.assertGreaterEqual(np.mean(result.outcomes == int(Outcome.AGREED)), 0.75, str(gains))
            solved = result.outcomes == int(Outcome.AGREED)
            for k in range(3):
                error = np.mean(np.abs(result.sources[k] - waves[k])[solved, 128:-128] ** 2)
                self.assertLess(error, 0.02, f"{gains}: source {k}")

    def test_the_product_form_follows_its_equations(self):
        # p_k = x_k + (y - sum_j g_j x_j) / (K g_k), q_k = D_k(2 p_k - x_k), x_k += q_k - p_k
        waves, used, side = self.three(windows=1)
        gains, v = np.array([1.0, 2.0, 1.0]), np.array([0.05, 0.08, 0.12])
        y = np.tensordot(gains, waves, (0, 0))
        initial = np.stack([0.8 * w + 0.1 * y for w in waves])
        for calls in (1, 2, 4):
            result = run("pnp_dr", y, used, gains, initial, side=side, steps=calls, v=list(v), agreement=1e-30,
                         refine_gains=False, block=2560)
            x, best = initial[:, 0].copy(), np.inf
            for _ in range(calls):
                p = x + (y[0] - gains @ x) / (3 * gains[:, None])
                np.testing.assert_allclose(gains @ p, y[0], atol=1e-9)  # a projection on the mixture
                q = np.stack([used[k].denoise((np.sqrt(1 / (1 + v[k])) * (2 * p[k] - x[k]))[None].astype(np.complex64),
                                              np.float32([1 / (1 + v[k])]), side[k])[0] for k in range(3)])
                x = x + q - p
                level = np.mean(np.abs(y[0] - gains @ q) ** 2)
                if level < best:
                    best, keep = level, q
            np.testing.assert_allclose(result["sources"][:, 0], keep, atol=1e-2, err_msg=f"{calls} calls")
            self.assertAlmostEqual(float(result["disagreement"][0, 0]), best, delta=1e-3 * best + 1e-6)

    def test_a_window_keeps_its_best_when_another_one_ends_before_it(self):
        # Perfect priors: their first answers stay the best. Two windows are explained at once, the others never.
        rng = np.random.default_rng(3)
        for sources in (2, 3):
            truth = complex_noise(rng, sources, 4, 32)
            y = truth.sum(0) + 5 * np.array([0, 1, 0, 1])[:, None]
            side = [np.concatenate([t.real, t.imag], 1).astype(np.float32) for t in truth]
            result = run("pnp_dr", y, [wrap(Echo())] * sources, np.ones(sources), np.zeros_like(truth), side=side,
                         steps=4, refine_gains=False, threads=1, batch=4)
            np.testing.assert_array_equal(result["calls"], [1, 4, 1, 4])
            np.testing.assert_allclose(result["sources"], truth, atol=1e-6)

    def test_alpha_rgs_ties_the_last_of_three_sources_to_the_mixture(self):
        rng = np.random.default_rng(3)
        densities = [raised_cosine(24, 4.0, 0.05), np.ones(24), raised_cosine(24, 0.05, 4.0)]
        used, gains = [wrap(Gaussian(d)) for d in densities], np.array([1, 1.5, 0.5])
        y = complex_noise(rng, 1, 24)
        x = complex_noise(rng, 3, 24)
        result = run("alpha_rgs", y, used, gains, x[:, None], steps=4, seed=9, index=[5])
        x[2] = (y[0] - gains[:2] @ x[:2]) / gains[2]
        for i in range(4):
            rate = 1e-6 + 0.5 * (5e-3 - 1e-6) * (1 + np.cos(np.pi * i / 4))
            pull = []
            for k in range(3):  # omega_k abar/(1 - abar) (x0 - x) as sqrt(abar/(1 - abar)) (z - noise estimate)
                a, z = ALPHA_BAR[window_level(9, 5, i, k)], window_noise(9, 5, i, k, 24)
                noisy = np.sqrt(a) * x[k] + np.sqrt(1 - a) * z
                estimate = gaussian_noise_estimate(covariance(densities[k], 24), noisy, a)
                pull.append(gains[k] ** 2 * np.sqrt(a / (1 - a)) * (z - estimate))
            for k in range(2):
                x[k] = x[k] + rate * (pull[k] - gains[k] / gains[2] * pull[2])
            x[2] = (y[0] - gains[:2] @ x[:2]) / gains[2]
        np.testing.assert_allclose(result["sources"][:, 0], x, atol=1e-4)


# ------------------------------------------------------------------------------------------- promises of every run

class Runs(unittest.TestCase):
    def both(self, **options):
        s, b, _, used, gains, side = qpsk_under_ofdm(9, -20.0, seed=13, symbols=40)
        y = s + gains[1] * b
        for method, own in (("alpha_rgs", {"steps": 10}), ("pnp_dr", {"steps": 12})):
            # From near the truth: elsewhere the priors' hard decisions blow up differences of rounding.
            yield method, own, y, used, gains, side, np.stack([s, b])

    def test_results_do_not_depend_on_batch_threads_or_the_order_of_windows(self):
        numbers = np.arange(100, 109)
        for method, own, y, used, gains, side, initial in self.both():
            base = run(method, y, used, gains, initial, side=side, index=numbers, batch=9, threads=1, **own)["sources"]
            for batch, threads in ((1, 1), (2, 2), (4, 1), (64, 2), (9, 0)):
                other = run(method, y, used, gains, initial, side=side, index=numbers, batch=batch, threads=threads,
                            **own)
                np.testing.assert_allclose(other["sources"], base, atol=1e-4, rtol=1e-3,
                                           err_msg=f"{method} {batch} {threads}")
            order = np.random.default_rng(0).permutation(9)
            turned = run(method, y[order], used, gains, initial[:, order], side=[None, side[1][order]],
                         index=numbers[order], batch=3, **own)
            np.testing.assert_allclose(turned["sources"], base[:, order], atol=1e-4, rtol=1e-3, err_msg=method)

    def test_the_same_seed_gives_the_same_bits_and_another_seed_or_index_other_noise(self):
        _, own, y, used, gains, side, initial = next(self.both())
        first, again, seed, index = (
            run("alpha_rgs", y, used, gains, initial, side=side, **own, **extra)["sources"]
            for extra in ({"seed": 1}, {"seed": 1}, {"seed": 2}, {"seed": 1, "index": np.arange(9) + 1}))
        np.testing.assert_array_equal(first, again)
        self.assertGreater(np.abs(first - seed).max(), 1e-3)
        self.assertGreater(np.abs(first - index).max(), 1e-3)

    def test_nan_from_a_prior_ends_its_own_window_only(self):
        rng = np.random.default_rng(3)
        y = complex_noise(rng, 6, 32)
        initial = np.stack([y, np.zeros_like(y)])
        broken, used = wrap(NanWhereTold()), wrap(Gaussian(raised_cosine(32, 4.0, 0.05)))
        bad = np.float32([0, 0, 1, 0, 1, 0])[:, None]
        for method, own in (("alpha_rgs", {"steps": 7}), ("pnp_dr", {"steps": 7, "agreement": 1e-9})):
            for place in (0, 1):  # of the broken prior
                order = [broken, used] if place == 0 else [used, broken]
                results = []
                for side in (bad, 0 * bad):
                    sides = [side, None] if place == 0 else [None, side]
                    results.append(run(method, y, order, [1, 2], initial, side=sides, batch=4, **own))
                diverged, clean = results
                for key in ("sources", "gains", "disagreement"):
                    self.assertTrue(np.all(np.isfinite(diverged[key])), f"{method}: {key}")
                good = bad[:, 0] == 0
                np.testing.assert_array_equal(diverged["outcomes"],
                                              np.where(good, clean["outcomes"], int(Outcome.DIVERGED)))
                np.testing.assert_array_equal(diverged["sources"][:, ~good], 0)
                np.testing.assert_allclose(diverged["sources"][:, good], clean["sources"][:, good], atol=1e-5)

    def test_nan_from_one_of_three_priors_ends_its_own_window_only(self):
        rng = np.random.default_rng(3)
        y = complex_noise(rng, 4, 32)
        order = [wrap(Gaussian(np.ones(32))), wrap(NanWhereTold()), wrap(Gaussian(raised_cosine(32, 4.0, 0.05)))]
        side = [None, np.float32([[0], [1], [0], [0]]), None]
        for method in ("alpha_rgs", "pnp_dr"):
            result = run(method, y, order, [1, 2, 1], np.zeros((3, 4, 32)), side=side, steps=5)
            self.assertTrue(np.all(np.isfinite(result["sources"])))
            np.testing.assert_array_equal(result["outcomes"] == int(Outcome.DIVERGED), [False, True, False, False])

    def test_a_mixture_with_a_nan_or_infinity_is_refused_with_a_sentence(self):
        for value in (np.nan, np.inf, 1j * np.nan):
            for method, own, y, used, gains, side, initial in self.both():
                y = y.copy()
                y[4, 100] = value
                with self.assertRaisesRegex(ValueError, "NaN or infinite sample in window 4"):
                    run(method, y, used, gains, initial, side=side, **own)

    def test_no_windows_give_an_empty_result(self):
        used = [wrap(Gaussian(np.ones(8)))] * 2
        for method in ("alpha_rgs", "pnp_dr"):
            result = run(method, np.zeros((0, 16)), used, [1, 1], np.zeros((2, 0, 16)), steps=2)
            self.assertEqual(result["sources"].shape, (2, 0, 16))
            self.assertEqual(result["disagreement"].shape, (0, 1))

    def test_progress_rises_to_one_and_counts_the_windows(self):
        used = [wrap(Slow())] * 2
        y = complex_noise(np.random.default_rng(0), 8, 32)
        for method, extra in (("alpha_rgs", {}), ("pnp_dr", {"agreement": 1e-9})):
            for steps in (100, 1000, 10000):  # until it takes a few tenths of a second here
                seen = []
                run(method, y, used, [1, 1], np.zeros((2, 8, 32)), steps=steps, batch=2, **extra,
                    progress=lambda f, n, seen=seen: seen.append((f, n)) or True)
                if len(seen) > 3:
                    break
            self.assertGreater(len(seen), 2, "called while running")
            self.assertEqual(seen, sorted(seen))
            self.assertEqual(seen[-1], (1.0, 8))
            self.assertLess(seen[0][0], 0.9)

    def test_the_cancel_flag_stops_within_a_step(self):
        used = [wrap(Slow())] * 2
        y = complex_noise(np.random.default_rng(0), 8, 32)
        for method, extra in (("alpha_rgs", {}), ("pnp_dr", {"agreement": 1e-9})):
            flag = CancelFlag()
            timer = threading.Timer(0.3, flag.set)
            timer.start()
            began = time.monotonic()
            result = run(method, y, used, [1, 1], np.zeros((2, 8, 32)), steps=100000, batch=2, cancel=flag, **extra)
            self.assertLess(time.monotonic() - began, 3)  # a step takes a millisecond; 100,000 would take minutes
            self.assertEqual(set(result["outcomes"]), {int(Outcome.UNTOUCHED), int(Outcome.CANCELLED)})
            begun = result["outcomes"] == int(Outcome.CANCELLED)
            self.assertTrue(np.all(result["calls"][begun] > 0))
            self.assertTrue(np.all(result["calls"][~begun] == 0))
            self.assertTrue(np.all(np.isfinite(result["sources"])))
            timer.join()

    def test_a_progress_callback_that_returns_false_cancels(self):
        used = [wrap(Slow())] * 2
        y = complex_noise(np.random.default_rng(0), 2, 32)
        result = run("alpha_rgs", y, used, [1, 1], np.zeros((2, 2, 32)), steps=100000, progress=lambda f, n: False)
        np.testing.assert_array_equal(result["outcomes"], int(Outcome.CANCELLED))

    def test_a_flag_that_is_set_before_leaves_every_window_untouched(self):
        flag = CancelFlag()
        flag.set()
        self.assertTrue(flag.is_set())
        for method, own, y, used, gains, side, initial in self.both():
            result = run(method, y, used, gains, initial, side=side, cancel=flag, **own)
            np.testing.assert_array_equal(result["outcomes"], int(Outcome.UNTOUCHED))

    def test_an_exception_in_the_progress_callback_comes_out_and_nothing_hangs(self):
        class Stop(Exception):
            pass

        def progress(fraction, windows):
            raise Stop("enough")

        used = [wrap(Slow())] * 2
        y = complex_noise(np.random.default_rng(0), 4, 32)
        for method, extra in (("alpha_rgs", {}), ("pnp_dr", {"agreement": 1e-9})):
            began = time.monotonic()
            with self.assertRaisesRegex(Stop, "enough"):
                run(method, y, used, [1, 1], np.zeros((2, 4, 32)), steps=100000, progress=progress, **extra)
            self.assertLess(time.monotonic() - began, 3)

    def test_a_prior_that_fails_comes_out_as_an_exception_with_its_own_words(self):
        used = [wrap(Fails()), wrap(Gaussian(np.ones(8)))]
        y = complex_noise(np.random.default_rng(0), 4, 32)
        y[2] *= 1e4
        for method in ("alpha_rgs", "pnp_dr"):
            for threads in (1, 2):
                with self.assertRaisesRegex(RuntimeError, "the prior failed: .*fifty is too much"):
                    run(method, y, used, [1, 1], np.stack([y, y]), steps=30, threads=threads, batch=2)

    def test_other_python_threads_run_meanwhile(self):
        used = [wrap(Slow())] * 2
        y = complex_noise(np.random.default_rng(0), 2, 32)
        ticks, done, flag = [], threading.Event(), CancelFlag()
        timer = threading.Timer(0.5, flag.set)  # needs the interpreter, too

        def tick():
            while not done.wait(0.01):
                ticks.append(time.monotonic())

        thread = threading.Thread(target=tick)
        thread.start()
        began = time.monotonic()
        timer.start()
        run("alpha_rgs", y, used, [1, 1], np.zeros((2, 2, 32)), steps=10**6, cancel=flag)
        ended = time.monotonic()
        done.set()
        thread.join()
        inside = sum(began < t < ended for t in ticks)
        self.assertLess(ended - began, 10)
        self.assertGreater(inside, 5)


class Arguments(unittest.TestCase):
    def setUp(self):
        self.used = [wrap(Gaussian(np.ones(8)))] * 2
        self.y = complex_noise(np.random.default_rng(0), 2, 32)
        self.initial = np.zeros((2, 2, 32))

    def assert_refused(self, method, words, gains=(1, 1), **options):
        with self.assertRaisesRegex(ValueError, words):
            run(method, self.y, self.used, gains, self.initial, **options)

    def test_gains_must_be_finite_and_above_zero(self):
        for method in ("alpha_rgs", "pnp_dr"):
            for gains in ((1, 0), (1, -1), (np.nan, 1), (1, np.inf)):
                self.assert_refused(method, "gain must be finite and above zero", gains=gains)

    def test_blocks_must_fit_the_window(self):
        for method in ("alpha_rgs", "pnp_dr"):
            for block in (0, 33):
                self.assert_refused(method, "1 sample to a whole window", block=block)

    def test_options_of_alpha_rgs(self):
        for options, words in (
                ({"steps": 0}, "needs 1 to"), ({"steps": -3}, "needs 1 to"), ({"steps": 1 << 32}, "needs 1 to"),
                ({"rate_max": 1e-7}, "rate_min <= rate_max"), ({"rate_max": np.nan}, "rate_min <= rate_max"),
                ({"rate_max": np.inf}, "rate_min <= rate_max"), ({"rate_min": -1.0}, "rate_min <= rate_max"),
                ({"weight_cap": -1.0}, "cap of the weights"), ({"weight_cap": np.nan}, "cap of the weights"),
                ({"omega": [1.0]}, "one value per source"), ({"omega": [1.0, 0.0]}, "above zero"),
                ({"omega": [1.0, np.nan]}, "above zero"), ({"level_min": -1}, "level_min <= level_max < 50"),
                ({"level_max": 50}, "level_min <= level_max < 50"),
                ({"level_max_last": 0}, "level_min <= level_max < 50"),
                ({"level_min": 9, "level_max": 8}, "level_min <= level_max < 50")):
            self.assert_refused("alpha_rgs", words, **options)

    def test_options_of_douglas_rachford(self):
        for options, words in (
                ({"steps": 0}, "at least 1 step"), ({"v": [0.1]}, "one value per source"),
                ({"v": [0.1, 0.0]}, "above zero"), ({"v": [np.nan, 0.1]}, "above zero"),
                ({"relaxation": 0.0}, "between 0 and 2"), ({"relaxation": 2.0}, "between 0 and 2"),
                ({"relaxation": np.nan}, "between 0 and 2"), ({"agreement": 0.0}, "above zero"),
                ({"agreement": np.nan}, "above zero"), ({"margin": 16}, "leave nothing")):
            self.assert_refused("pnp_dr", words, **options)

    def test_options_are_refused_by_their_names_before_the_engine(self):
        problem = Problem(np.ones((1, 640)), [priors.parse("rrc:qpsk"), priors.parse("cp-ofdm:bpsk")], [1, 1])
        for method, options, words in (
                (alpha_rgs, {"level_max_last": 0}, "^level_max_last=0 is impossible; allowed is 1 to 49$"),
                (alpha_rgs, {"level_max_last": 50}, "^level_max_last=50 is impossible; allowed is 1 to 49$"),
                (alpha_rgs, {"level_max_last": 2**40}, "^level_max_last=1099511627776 is impossible"),
                (alpha_rgs, {"rate_max": np.inf}, "^rate_max=inf, rate_min=1e-06 is impossible; allowed are 0 <="),
                (alpha_rgs, {"rate_min": 1.0}, "^rate_max=0.005, rate_min=1.0 is impossible"),
                (alpha_rgs, {"weight_cap": np.nan}, "^weight_cap=nan is impossible; allowed is at least 0"),
                (alpha_rgs, {"steps": 2**64}, "needs 1 to 1000000000 steps, not 18446744073709551616"),
                (pnp_dr, {"agreement": np.inf}, "^agreement=inf is impossible; allowed is above 0 and at most 1e.06$"),
                (pnp_dr, {"agreement": 0.0}, "^agreement=0.0 is impossible"),
                (pnp_dr, {"relaxation": 2.0}, "^relaxation=2.0 is impossible; allowed is above 0 and below 2$"),
                (pnp_dr, {"steps": 2**40}, "at least 1 step, and at most 1000000000, not 1099511627776")):
            with self.assertRaisesRegex(MethodError, words):
                method(problem, **options)

    def test_shapes(self):
        arguments = [self.y.astype(np.complex64), [p.engine() for p in self.used], np.ones((2, 2), np.float32),
                     self.initial.astype(np.complex64), [None, None], None, np.arange(2, dtype=np.uint64)]
        for place, value, words in (
                (0, np.zeros(32, np.complex64), "mixture"), (1, arguments[1][:1], "gains"),
                (2, np.ones((2, 3), np.float32), "gains"), (3, np.zeros((2, 2, 31), np.complex64), "initial"),
                (4, [None], "side"), (4, [None, np.zeros((3, 1), np.float32)], "side information"),
                (5, np.zeros(3, np.float32), "noise"), (6, np.arange(3, dtype=np.uint64), "index")):
            changed = list(arguments)
            changed[place] = value
            for method in (engine.alpha_rgs, engine.pnp_dr):
                with self.assertRaisesRegex(ValueError, words):
                    method(*changed)

    def test_problem_and_method(self):
        ok = [priors.parse("rrc:qpsk"), priors.parse("cp-ofdm:bpsk")]
        y = np.zeros((1, 640))
        for words, call in (
                ("two sources", lambda: Problem(y, ok[:1], [1])),
                (r"\[windows, samples\]", lambda: Problem(y[0], ok, [1, 1])),
                ("gain", lambda: Problem(y, ok, [1, 0])),
                ("windows of 64 samples, not 640",
                 lambda: Problem(y, [ok[0], wrap(Gaussian(np.ones(8)), window=64)], [1, 1])),
                ("unknown method 'magic'; allowed are auto, alpha-rgs",
                 lambda: separate(Problem(y, ok, [1, 1]), "magic")),
                ("at least 1 step", lambda: pnp_dr(Problem(y, ok, [1, 1]), steps=0)),
                ("needs 1 to", lambda: alpha_rgs(Problem(y, ok, [1, 1]), steps=0)),
                ("takes no steps", lambda: separate(Problem(y, ok, [1, 1]), "matched-filter", steps=4)),
                ("not below zero", lambda: Problem(y, ok, [1, 1], noise_variance=-1.0)),
                ("not below zero", lambda: Problem(y, ok, [1, 1], noise_variance=np.nan)),
                ("one window", lambda: Problem(y[:0], ok, [1, 1])),
                ("side information", lambda: Problem(y, ok, [1, 1], side=[np.zeros((len(y), 3)), None]))):
            with self.assertRaisesRegex(ValueError, words):
                call()


if __name__ == "__main__":
    unittest.main()
