# SPDX-License-Identifier: GPL-3.0-or-later
"""Reverse diffusion against DDPM's Algorithm 2 in plain NumPy and the laws that it should sample.

With a Gaussian prior every bin of the (unitary) DFT is a scalar of variance S / 2 per real channel. Given x_T, each
ancestral step has the exact mean of the reverse process, so the result's mean is the exact E[b | x_T] whatever the
steps; its covariance is carried through step by step, and tends to that of the posterior as the steps become small.
"""

import unittest

import numpy as np
from gnuradio.unmix.priors.gaussian import Gaussian
from gnuradio.unmix.separators import CancelFlag, Outcome, Problem
from gnuradio.unmix.separators.reverse_diffusion import reverse_diffusion
from qa_separators import (
    complex_noise,
    covariance,
    gaussian_noise_estimate,
    interior_errors,
    qpsk_under_ofdm,
    raised_cosine,
    window_noise,
    wrap,
)


class Transcription(unittest.TestCase):
    def test_it_follows_ddpms_sampling_with_noise_estimates(self):
        rng = np.random.default_rng(2)
        density, gains, index, seed, n = raised_cosine(15, 2.0, 0.1), (0.7, 2.5), [4, (1 << 36) + 2], 5, 15
        used = [wrap(Gaussian(np.ones(n))), wrap(Gaussian(density))]
        y = complex_noise(rng, 2, n)
        for steps, start, end in ((10, 0.005, 1e-4), (1, 0.005, 1e-4), (7, 0.6, 0.01)):
            options = {} if (steps, start) == (10, 0.005) else {"steps": steps, "start": start, "end": end}
            problem = Problem(y, used, gains, seed=seed, index=np.uint64(index))
            result = reverse_diffusion(problem, **options)
            bars = 1 - np.linspace(start, end, steps)
            for w, number in enumerate(index):
                x = np.sqrt(bars[0]) * y[w] / gains[1]
                for i, bar in enumerate(bars):
                    noise = gaussian_noise_estimate(covariance(density, n), x, bar)
                    before = bars[i + 1] if i + 1 < steps else 1.0
                    alpha = bar / before
                    x = (x - (1 - alpha) / np.sqrt(1 - bar) * noise) / np.sqrt(alpha)
                    x = x + np.sqrt((1 - before) / (1 - bar) * (1 - alpha)) * window_noise(seed, number, i, 1, n)
                np.testing.assert_allclose(result.sources[1, w], x, atol=2e-5)
                np.testing.assert_allclose(gains[0] * result.sources[0, w] + gains[1] * x, y[w], atol=1e-4)
            np.testing.assert_array_equal(result.calls, steps)
            np.testing.assert_array_equal(result.outcomes, int(Outcome.STEPS_USED))


class Laws(unittest.TestCase):
    WINDOWS = 20000
    BINS = 8

    def compare(self, steps, start, end, posterior_within):
        rng = np.random.default_rng(7)
        density = rng.uniform(0.2, 1.8, self.BINS)
        density /= density.mean()
        y, kappa = complex_noise(rng, self.BINS), 2.0
        problem = Problem(np.tile(y, (self.WINDOWS, 1)), [wrap(Gaussian(np.ones(8))), wrap(Gaussian(density))],
                          [1, kappa], seed=8, batch=self.WINDOWS)
        b = np.fft.fft(reverse_diffusion(problem, steps, start, end).sources[1], norm="ortho").astype(complex)
        bars = 1 - np.linspace(start, end, steps)
        # E[b | x_T] and its variance per real channel: b of variance S / 2, noise of variance 1 - abar.
        first = np.sqrt(bars[0]) * np.fft.fft(y, norm="ortho") / kappa
        total = bars[0] * density / 2 + 1 - bars[0]
        mean = np.sqrt(bars[0]) * density / 2 / total * first
        posterior = density / 2 * (1 - bars[0]) / total
        variance = np.zeros(self.BINS)
        for i, bar in enumerate(bars):
            before = bars[i + 1] if i + 1 < steps else 1.0
            alpha = bar / before
            # x_{t-1} = (x_t - (1 - alpha) (x_t's share of noise)) / sqrt(alpha) + N(0, beta~)
            share = 1 / (bar * density / 2 + 1 - bar)
            slope = (1 - (1 - alpha) * share) / np.sqrt(alpha)
            variance = slope**2 * variance + (1 - before) / (1 - bar) * (1 - alpha)
        deviation = b.mean(axis=0) - mean
        error = np.sqrt(variance / self.WINDOWS) + 1e-6
        self.assertLess(np.abs(deviation.real / error).max(), 5)
        self.assertLess(np.abs(deviation.imag / error).max(), 5)
        found = np.concatenate([b.real - mean.real, b.imag - mean.imag]).var(axis=0)
        np.testing.assert_allclose(found, variance, rtol=5 / np.sqrt(self.WINDOWS))
        if posterior_within is not None:
            np.testing.assert_allclose(found, posterior, rtol=posterior_within)

    def test_ten_steps_have_the_posteriors_mean_and_the_chains_own_variance(self):
        self.compare(10, 0.005, 1e-4, None)
        self.compare(10, 0.7, 1e-4, None)

    def test_many_small_steps_sample_the_posterior(self):
        self.compare(400, 0.5, 1e-4, 0.06)


class Runs(unittest.TestCase):
    def problem(self, windows=5, sir_db=-24.0, **options):
        s, b, bits, used, gains, side = qpsk_under_ofdm(windows, sir_db, seed=13, symbols=40)
        return Problem(s + gains[1] * b, used, gains, side=side, **options), bits

    def test_it_separates_at_low_sir(self):
        problem, bits = self.problem()
        self.assertEqual(interior_errors(reverse_diffusion(problem), bits, problem.priors[0]).sum(), 0)

    def test_results_do_not_depend_on_the_batch_or_the_order_of_windows(self):
        base = reverse_diffusion(self.problem(batch=5, seed=4)[0], 20)
        for batch in (1, 2, 64):
            other = reverse_diffusion(self.problem(batch=batch, seed=4)[0], 20)
            np.testing.assert_allclose(other.sources, base.sources, atol=2e-3)
        last = reverse_diffusion(self.problem(seed=4)[0].part(3, 5), 20)
        np.testing.assert_allclose(last.sources, base.sources[:, 3:], atol=2e-3)
        np.testing.assert_array_equal(reverse_diffusion(self.problem(seed=4)[0], 20).sources, base.sources)
        self.assertEqual(base.sources.dtype, np.complex64)
        other = reverse_diffusion(self.problem(seed=5)[0], 20)
        self.assertGreater(np.abs(other.sources - base.sources).max(), 1e-3)

    def test_cancelling_keeps_finished_windows(self):
        result = reverse_diffusion(self.problem(batch=2, progress=lambda fraction, windows: fraction < 0.5)[0])
        self.assertEqual(result.outcomes.tolist(), [int(Outcome.STEPS_USED)] * 2 + [int(Outcome.CANCELLED)] * 2
                         + [int(Outcome.UNTOUCHED)])
        whole = reverse_diffusion(self.problem(batch=2)[0])
        np.testing.assert_array_equal(result.sources[:, :2], whole.sources[:, :2])
        np.testing.assert_array_equal(result.calls > 0, [True] * 4 + [False])
        np.testing.assert_array_equal(result.sources[:, 4], 0)
        flag = CancelFlag()
        flag.set()
        untouched = reverse_diffusion(self.problem(cancel=flag)[0])
        np.testing.assert_array_equal(untouched.outcomes, int(Outcome.UNTOUCHED))

    def test_refusals(self):
        problem, _ = self.problem()
        for options, words in (({"steps": 0}, "steps, not 0"), ({"steps": 2**32}, "1 to 1000000 steps"),
                               ({"start": 1.0}, "start=1.0, "), ({"end": 0.0}, "end=0.0 is"), ({"end": 0.1}, "end=0.1"),
                               ({"start": np.nan}, "start=nan")):
            with self.assertRaisesRegex(ValueError, words):
                reverse_diffusion(problem, **options)
        three = Problem(problem.mixture, [wrap(Gaussian(np.ones(8)))] * 3, [1, 1, 1])
        with self.assertRaisesRegex(ValueError, "two sources only"):
            reverse_diffusion(three)


if __name__ == "__main__":
    unittest.main()
