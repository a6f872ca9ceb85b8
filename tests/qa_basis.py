# SPDX-License-Identifier: GPL-3.0-or-later
"""BASIS and its variants against plain transcriptions of their equations and the laws that they should sample.

With Gaussian priors every bin of the (unitary) DFT is a small linear system of its own: a source's coefficient has
variance S / 2 per real channel, the real and imaginary parts are independent, and Langevin dynamics on a density of
precision P and mean mu, x <- x - eta P (x - mu) + sqrt(2 eta T) N(0, 1), has the stationary covariance
T P^-1 (1 - eta P / 2)^-1, exactly: the fixed point of C = A C A + 2 eta T with A = 1 - eta P.
"""

import unittest

import numpy as np
from gnuradio.unmix import priors, signals, unmix_python
from gnuradio.unmix.priors.gaussian import Gaussian
from gnuradio.unmix.separators import CancelFlag, Outcome, Problem, Separation, alpha_rgs, first_estimates
from gnuradio.unmix.separators.basis import basis, basis_alpha, basis_hard
from gnuradio.unmix.separators.best_of import best_of, median_disagreement
from gnuradio.unmix.separators.common import SCHEDULE
from qa_separators import (
    ALPHA_BAR,
    complex_noise,
    covariance,
    gaussian_noise_estimate,
    qpsk_under_ofdm,
    raised_cosine,
    window_noise,
    wrap,
)

METHODS = (basis, basis_hard, basis_alpha)
#: Of the smoothed priors, per real channel, and by how much the source is scaled in them.
VARIANCE = {"ve": (1 - ALPHA_BAR) / ALPHA_BAR, "vp": 1 - ALPHA_BAR}
SCALE2 = {"ve": np.ones(50), "vp": ALPHA_BAR}


class RandomNumbers(unittest.TestCase):
    def test_the_bindings_noise_is_philox_and_box_muller_in_numpy(self):
        for seed, index, step, source, samples in (
                (0, [0], 0, 0, 8), ((7 << 40) + 3, [5, (1 << 50) + 9, 2], 12345, 2, 31),
                (2**64 - 1, [2**64 - 1, 1], 2**32 - 1, 15, 2561)):
            noise = unmix_python.window_noise(seed, np.array(index, np.uint64), step, source, samples)
            self.assertEqual(noise.dtype, np.complex64)
            wanted = [window_noise(seed, i, step, source, samples) for i in index]
            np.testing.assert_allclose(noise, wanted, atol=2e-5)

    def test_a_problem_passes_its_own_seed_and_window_numbers(self):
        problem = Problem(np.ones((2, 9)), [wrap(Gaussian(np.ones(9)))] * 2, [1, 1], seed=9, index=np.uint64([4, 70]))
        for part, index in ((problem, (4, 70)), (problem.part(1, 2), (70,))):
            np.testing.assert_allclose(part.noise(3, 1), [window_noise(9, i, 3, 1, 9) for i in index], atol=2e-5)


# --------------------------------------------------------------------------------------- plain transcriptions in numpy

def score(density, x, level, smoothing):
    """Of stationary Gaussian b plus noise, per real channel, by the network's noise estimate as the paper: -z / sigma.

    "vp": of sqrt(abar) b + sigma z. "ve": of b + z sigma / sqrt(abar), by the chain rule.
    """
    a, sigma = ALPHA_BAR[level], np.sqrt(1 - ALPHA_BAR[level])
    if smoothing == "vp":
        return -gaussian_noise_estimate(covariance(density, len(x)), x, a) / sigma
    return -np.sqrt(a) * gaussian_noise_estimate(covariance(density, len(x)), np.sqrt(a) * x, a) / sigma


class Transcriptions(unittest.TestCase):
    """One window at a time, in complex128, noise from NumPy; the update equations as they are printed."""

    SAMPLES = 13
    INDEX = (3, (1 << 35) + 1)
    SEED = 77

    def setUp(self):
        rng = np.random.default_rng(6)
        self.densities = [raised_cosine(self.SAMPLES, 2.0, 0.1), raised_cosine(self.SAMPLES, 0.2, 1.0),
                          rng.uniform(0.2, 1, self.SAMPLES)]
        self.used = [wrap(Gaussian(d)) for d in self.densities]
        self.y = 2 * complex_noise(rng, len(self.INDEX), self.SAMPLES)

    def problem(self, gains, **options):
        return Problem(self.y, self.used[:len(gains)], gains, seed=self.SEED, index=np.uint64(self.INDEX), **options)

    def noise(self, window, step, source):
        return window_noise(self.SEED, self.INDEX[window], step, source, self.SAMPLES)

    def check(self, result, wanted, gains, steps):
        np.testing.assert_allclose(result.sources, np.stack(wanted, 1), atol=2e-4)
        np.testing.assert_array_equal(result.calls, steps)
        np.testing.assert_array_equal(result.outcomes, int(Outcome.STEPS_USED))

    def test_basis_follows_algorithm_1_of_2002_07942(self):
        levels = [40, 40, 20, 20, 3, 3]
        for gains, w in (([1.0, 1.5], 0.0), ([1.0, 1.5], 0.3), ([0.7, 1.2, 2.0], 0.1)):
            problem = self.problem(gains, noise_variance=w)
            for temperature, smoothing in ((1.0, "ve"), (0.5, "ve"), (1.0, "vp")):
                wanted = []
                for i in range(len(self.INDEX)):
                    x = first_estimates(problem)[:, i].astype(complex)
                    for n, level in enumerate(levels):
                        v = VARIANCE[smoothing][level]
                        eta, gamma2 = 0.05 * v, gains[0] ** 2 * v + w / 2
                        u = [x[k] + eta * score(self.densities[k], x[k], level, smoothing)
                             + np.sqrt(2 * eta * temperature) * self.noise(i, n, k) for k in range(len(gains))]
                        x = np.array([u[k] - eta / gamma2 * gains[k] * (np.dot(gains, x) - self.y[i])
                                      for k in range(len(gains))])
                    wanted.append(x)
                result = basis(problem, 6, step_size=0.05, temperature=temperature, levels=[40, 20, 3],
                               smoothing=smoothing)
                self.check(result, wanted, gains, 6)

    def constrained(self, gains, levels, ratio, omega, temperature, smoothing):
        wanted = []
        for i in range(len(self.INDEX)):
            x = first_estimates(self.problem(gains))[:, i].astype(complex)
            for n, level in enumerate(levels):
                eta = ratio * VARIANCE[smoothing][level]
                x[-1] = (self.y[i] - np.dot(gains[:-1], x[:-1])) / gains[-1]
                scores = [score(self.densities[k], x[k], level, smoothing) for k in range(len(gains))]
                for k in range(len(gains) - 1):
                    x[k] += eta * (omega[k] * scores[k] - gains[k] / gains[-1] * omega[-1] * scores[-1])
                    x[k] += np.sqrt(2 * eta * temperature) * self.noise(i, n, k)
            x[-1] = (self.y[i] - np.dot(gains[:-1], x[:-1])) / gains[-1]
            wanted.append(x)
        return wanted

    def test_basis_hard_and_alpha_follow_algorithms_3_and_4(self):
        levels = [45, 45, 45, 7, 7, 7]
        for gains in ([1.0, 1.5], [0.8, 1.5, 1.2]):
            for temperature, smoothing in ((1.0, "vp"), (0.5, "vp"), (1.0, "ve")):
                options = {"step_size": 0.04, "temperature": temperature, "levels": [45, 7], "smoothing": smoothing}
                kappa2, omega = (np.array(gains) / gains[0]) ** 2, [1.5, 0.5, 2.0][:len(gains)]
                for result, weights in (
                        (basis_hard(self.problem(gains), 6, **options), np.ones(3)),
                        (basis_alpha(self.problem(gains), 6, **options), kappa2),
                        (basis_alpha(self.problem(gains), 6, omega=omega, **options), omega)):
                    self.check(result, self.constrained(gains, levels, 0.04, weights, temperature, smoothing), gains, 6)

    def test_steps_are_shared_evenly_and_the_last_has_the_last_level(self):
        problem = self.problem([1.0, 1.5])
        for steps, own in ((1, [0]), (3, [33, 16, 0]), (50, range(49, -1, -1)), (75, None)):
            result = basis_hard(problem, steps)
            self.assertEqual(result.calls[0], steps)
            if own is not None:
                same = basis_hard(problem, steps, levels=own)
                np.testing.assert_array_equal(result.sources, same.sources)
        np.testing.assert_array_equal(basis_hard(problem, 4, levels=[8, 8, 2, 2]).sources,
                                      basis_hard(problem, 4, levels=[8, 2]).sources)

    def test_what_is_scaled_by_a_constant_gives_the_same_sources(self):
        for method in METHODS:
            one = method(self.problem([1.0, 1.5], noise_variance=0.1), 20)
            scaled = Problem(1e-3 * self.y, self.used[:2], [1e-3, 1.5e-3], 1e-7, seed=self.SEED,
                             index=np.uint64(self.INDEX))
            np.testing.assert_allclose(method(scaled, 20).sources, one.sources, atol=1e-4)


# ----------------------------------------------------------------------------------------------- laws that are sampled

class Laws(unittest.TestCase):
    """Many windows of one mixture, at one noise level, until the start is forgotten."""

    BINS = 8
    WINDOWS = 3000
    LEVEL = 20

    def run_chain(self, method, gains, steps, step_size, noise, smoothing, **options):
        """DFT coefficients of the sources [K, W, bins], of the mixture [bins], and each source's variance [K, bins]."""
        rng = np.random.default_rng(len(gains))
        densities = rng.uniform(0.4, 1.6, (len(gains), self.BINS))
        y = 1.5 * complex_noise(rng, self.BINS)
        problem = Problem(np.tile(y, (self.WINDOWS, 1)), [wrap(Gaussian(d)) for d in densities], gains, noise, seed=21,
                          batch=self.WINDOWS)
        result = method(problem, steps, step_size=step_size, levels=[self.LEVEL], smoothing=smoothing, **options)
        densities = densities / densities.mean(axis=1, keepdims=True)
        return (np.fft.fft(result.sources, norm="ortho"), np.fft.fft(y, norm="ortho"),
                SCALE2[smoothing][self.LEVEL] * densities / 2 + VARIANCE[smoothing][self.LEVEL])

    def compare(self, x, mean, cov):
        """x: complex [K, W]; mean [K]; cov [K, K] per real channel. Returns the estimate of cov."""
        both = np.concatenate([(x - mean[:, None]).real, (x - mean[:, None]).imag], 1)
        windows, samples = x.shape[1], both.shape[1]
        error = np.sqrt(np.diag(cov) / windows)
        deviation = x.mean(axis=1) - mean
        self.assertLess(np.abs(deviation.real / error).max(), 5)
        self.assertLess(np.abs(deviation.imag / error).max(), 5)
        estimate = both @ both.T / samples
        spread = np.sqrt((np.outer(np.diag(cov), np.diag(cov)) + cov**2) / samples)
        self.assertLess(np.abs((estimate - cov) / spread).max(), 5)
        return estimate

    def check(self, x, eta, temperature, law, bias):
        """law(bin) gives precision and mean of the density that is sampled, per real channel.

        bias: what the discretisation adds to any variance at most, relative.
        """
        for f in range(self.BINS):
            precision, mean = law(f)
            k = len(precision)
            exact = temperature * np.linalg.inv(precision)
            cov = np.linalg.solve(np.eye(k) - eta * precision / 2, exact)
            self.assertLess(np.abs(np.diag(cov) / np.diag(exact) - 1).max(), bias)
            estimate = self.compare(x[:k, :, f], mean, cov)
            np.testing.assert_allclose(np.diag(estimate), np.diag(exact), rtol=bias + 5 / np.sqrt(self.WINDOWS))
            # Not the law of another temperature:
            self.assertGreater(np.abs(np.diag(estimate) / np.diag(exact) * temperature - 1.5).min(), 0.2)

    def soft(self, gains, steps, step_size, noise, temperature=1.0, bias=0.05, smoothing="ve"):
        x, y, variance = self.run_chain(basis, gains, steps, step_size, noise, smoothing, temperature=temperature)
        v = VARIANCE[smoothing][self.LEVEL]
        gamma2 = gains[0] ** 2 * v + noise / 2

        def law(f):
            precision = np.diag(1 / variance[:, f]) + np.outer(gains, gains) / gamma2
            return precision, np.linalg.solve(precision, np.array(gains) * y[f] / gamma2)

        self.check(x, step_size * VARIANCE[smoothing][self.LEVEL], temperature, law, bias)

    def test_basis_samples_the_posterior_of_two_sources(self):
        self.soft([1.0, 1.5], 1200, 0.05, noise=0.5)

    def test_basis_samples_the_posterior_of_three_sources(self):
        self.soft([1.0, 1.5, 0.8], 1200, 0.05, noise=0.5)

    def test_basis_at_temperature_one_half_samples_the_squared_posterior(self):
        self.soft([1.0, 1.5], 1200, 0.05, noise=0.5, temperature=0.5)

    def hard(self, method, gains, steps, step_size, omega, temperature=1.0, bias=0.05, smoothing="vp", given=None):
        x, y, variance = self.run_chain(method, gains, steps, step_size, 0.0, smoothing, temperature=temperature,
                                        **(given or {}))
        np.testing.assert_allclose(np.einsum("k,kwf->wf", gains, x), np.tile(y, (self.WINDOWS, 1)), atol=1e-5)
        ratio = np.array(gains[:-1]) / gains[-1]

        def law(f):
            # -log p = sum_{k<K} omega_k |x_k|^2 / (2 s_k) + omega_K |y / g_K - c x|^2 / (2 s_K)
            last = omega[-1] / variance[-1, f]
            precision = np.diag(np.array(omega[:-1]) / variance[:-1, f]) + last * np.outer(ratio, ratio)
            return precision, np.linalg.solve(precision, last * ratio * y[f] / gains[-1])

        self.check(x, step_size * VARIANCE[smoothing][self.LEVEL], temperature, law, bias)

    def test_basis_hard_samples_the_posterior_on_the_constraint(self):
        self.hard(basis_hard, [1.0, 1.5], 1200, 0.1, [1, 1])
        self.hard(basis_hard, [1.0, 1.5, 0.8], 1200, 0.03, [1, 1, 1])

    def test_basis_hard_with_the_noise_of_the_papers_curve_samples_the_squared_posterior(self):
        # sqrt(eta) noise is temperature 1/2: with eta' = eta / 2, x += eta' grad log p^2 + sqrt(2 eta') N(0, 1).
        self.hard(basis_hard, [1.0, 1.5], 1200, 0.1, [1, 1], temperature=0.5)

    def test_basis_alpha_samples_the_alpha_posterior(self):
        self.hard(basis_alpha, [1.0, 1.5], 1200, 0.05, [1, 1.5**2])
        self.hard(basis_alpha, [1.0, 1.5, 1.2], 1200, 0.02, [1, 1.5**2, 1.2**2])
        self.hard(basis_alpha, [1.0, 1.5], 1200, 0.05, [0.7, 1.8], given={"omega": [0.7, 1.8]})

    def test_all_levels_to_the_last_give_the_chains_own_law(self):
        # Annealed as by default, 6 steps a level, some of them cut to what is stable; mean and covariance are
        # carried through step by step.
        steps, gains, windows, w = 300, np.array([1.0, 1.5]), 2000, 0.2
        rng = np.random.default_rng(3)
        densities = rng.uniform(0.4, 1.6, (2, self.BINS))
        densities /= densities.mean(axis=1, keepdims=True)
        y = 1.5 * complex_noise(rng, self.BINS)
        problem = Problem(np.tile(y, (windows, 1)), [wrap(Gaussian(d)) for d in densities], gains, w, batch=windows)
        x = np.fft.fft(basis(problem, steps, step_size=0.5).sources, norm="ortho")
        spectrum = np.fft.fft(y, norm="ortho")
        for f in range(self.BINS):
            mean, cov = gains / np.sum(gains**2) * spectrum[f], np.zeros((2, 2))
            for level in np.repeat(np.arange(49, -1, -1), 6):
                v = VARIANCE["ve"][level]
                gamma2 = v + w / 2
                eta = min(0.5, 1 / (1 + np.sum(gains**2) * v / gamma2)) * v
                precision = np.diag(1 / (densities[:, f] / 2 + v)) + np.outer(gains, gains) / gamma2
                a = np.eye(2) - eta * precision
                mean = a @ mean + eta * gains * spectrum[f] / gamma2
                cov = a @ cov @ a.T + 2 * eta * np.eye(2)
            self.compare(x[:, :, f], mean, cov)


# ---------------------------------------------------------------------------------------------- promises of every run

class Runs(unittest.TestCase):
    def problem(self, **options):
        s, b, _, used, gains, side = qpsk_under_ofdm(5, -12.0, seed=13, symbols=40)
        return Problem(s + gains[1] * b, used, gains, side=side, **options)

    def test_results_do_not_depend_on_the_batch_or_the_order_of_windows(self):
        for method in METHODS:
            base = method(self.problem(batch=5, seed=4), 25)
            for batch in (1, 2, 64):
                other = method(self.problem(batch=batch, seed=4), 25)
                np.testing.assert_allclose(other.sources, base.sources, atol=2e-3)
                np.testing.assert_allclose(other.disagreement, base.disagreement, rtol=0.05, atol=2e-3)
            whole = self.problem(seed=4)
            last = method(whole.part(3, 5), 25)
            np.testing.assert_allclose(last.sources, base.sources[:, 3:], atol=2e-3)
            again = method(self.problem(batch=5, seed=4), 25)
            np.testing.assert_array_equal(again.sources, base.sources)
            self.assertGreater(np.abs(method(self.problem(seed=5), 25).sources - base.sources).max(), 0.01)

    def test_everything_stays_complex64_and_finite_however_far_apart_the_gains_are(self):
        for sir in (-60.0, -24.0, 30.0):
            s, b, _, used, gains, side = qpsk_under_ofdm(2, sir, seed=1, symbols=40)
            for method in METHODS:
                for step_size in (0.2, 5.0):
                    result = method(Problem(s + gains[1] * b, used, gains, side=side), 60, step_size=step_size)
                    self.assertEqual(result.sources.dtype, np.complex64)
                    np.testing.assert_array_equal(result.outcomes, int(Outcome.STEPS_USED))
                    self.assertLess(np.abs(result.sources[0]).max(), 100 * max(1, gains[1]))

    def test_cancelling_keeps_finished_windows(self):
        for method in METHODS:
            seen = []

            def progress(fraction, windows, seen=seen):
                seen.append((fraction, windows))
                return fraction < 0.5

            result = method(self.problem(batch=2, progress=progress), 10)
            self.assertEqual(result.outcomes.tolist(), [int(Outcome.STEPS_USED)] * 2 + [int(Outcome.CANCELLED)] * 2
                             + [int(Outcome.UNTOUCHED)])
            np.testing.assert_array_equal(result.sources[:, :2], method(self.problem(batch=2), 10).sources[:, :2])
            np.testing.assert_array_equal(result.calls > 0, [True] * 4 + [False])
            np.testing.assert_array_equal(result.sources[:, 4], 0)
            self.assertEqual(seen, sorted(seen))
            flag = CancelFlag()
            flag.set()
            np.testing.assert_array_equal(method(self.problem(cancel=flag), 10).outcomes, int(Outcome.UNTOUCHED))

    def test_refusals(self):
        for method in METHODS:
            for options, words in (
                    ({"steps": 0}, "at least 1 step"), ({"steps": 2**32}, "at least 1 step"),
                    ({"step_size": 0.0}, "step_size=0.0"), ({"step_size": np.nan}, "step_size=nan"),
                    ({"temperature": -1.0}, "temperature"), ({"temperature": np.inf}, "temperature"),
                    ({"levels": []}, "0 to 49"), ({"levels": [50]}, "0 to 49"), ({"levels": [-1]}, "0 to 49")):
                with self.assertRaisesRegex(ValueError, words):
                    method(self.problem(), **options)
            with self.assertRaisesRegex(ValueError, "unknown smoothing 'vpp'; allowed are ve, vp"):
                method(self.problem(), smoothing="vpp")
        for omega, words in (([1.0], "one value per source"), ([1.0, 0.0], "above zero"),
                             ([1.0, np.nan], "above zero")):
            with self.assertRaisesRegex(ValueError, words):
                basis_alpha(self.problem(), 5, omega=omega)

    def test_the_schedule_is_the_papers(self):
        np.testing.assert_allclose([SCHEDULE.alpha_bar(t) for t in range(50)], ALPHA_BAR, rtol=1e-12)


class BestOf(unittest.TestCase):
    """Against a method whose results say which run they come from."""

    def setUp(self):
        self.seeds = []

    def problem(self, windows=4, **options):
        return Problem(np.ones((windows, 32)), [priors.parse("rrc:qpsk,sps=4,span=4"), wrap(Gaussian(np.ones(32)))],
                       [1, 1], **options)

    def method(self, disagreement, outcomes=None):
        """Run i gives sources i + 1 and disagreement[i] [W]."""
        def run(problem, steps=None):
            i = len(self.seeds)
            self.seeds.append(problem.seed)
            windows, samples = problem.mixture.shape
            if problem.progress is not None:
                problem.progress(1.0, windows)
            blocks = np.repeat(np.float32(disagreement[i])[:, None], samples // problem.block, axis=1)
            return Separation(np.full((2, windows, samples), i + 1, np.complex64),
                              np.full((windows, 2), i + 1, np.float32), blocks, np.full(windows, steps, np.int32),
                              np.uint8([int(Outcome.STEPS_USED)] * windows if outcomes is None else outcomes[i]))
        return run

    def test_each_window_keeps_its_least_disagreement(self):
        table = [[3, 1, 2, 5], [2, 2, 2, 4], [1, 3, 1, 4]]
        seen = []
        problem = self.problem(seed=2**64 - 1, progress=lambda f, n: seen.append((f, n)))
        result = best_of(problem, self.method(table), 3, steps=7)
        np.testing.assert_array_equal(result.sources[0, :, 0], [3, 1, 3, 2])
        np.testing.assert_array_equal(result.gains[:, 1], [3, 1, 3, 2])
        np.testing.assert_array_equal(result.disagreement[:, 0], [1, 1, 1, 4])
        np.testing.assert_array_equal(result.calls, 21)
        np.testing.assert_array_equal(result.outcomes, int(Outcome.STEPS_USED))
        self.assertEqual(self.seeds[0], 2**64 - 1)
        self.assertEqual(len(set(self.seeds)), 3)
        self.assertEqual([n for _, n in seen], [0, 0, 4])
        np.testing.assert_allclose([f for f, _ in seen], [1 / 3, 2 / 3, 1])

    def test_a_given_score_decides_and_margins_do_not_count(self):
        table = [[3, 1, 2, 5], [2, 2, 2, 4]]
        result = best_of(self.problem(), self.method(table), 2, steps=1, score=lambda p, r: -median_disagreement(p, r))
        np.testing.assert_array_equal(result.sources[0, :, 0], [1, 2, 1, 1])
        blocks = np.float32([[9, 1, 2, 3, 4, 5, 6, 9]])  # the median of all is 4.5
        one = Separation(None, None, blocks, None, None)
        for margin, wanted in ((0, 4.5), (4, 3.5), (8, 3.5), (12, 3.5), (15, 3.5), (16, 4.5)):
            self.assertAlmostEqual(float(median_disagreement(self.problem(margin=margin), one)[0]), wanted, places=5)

    def test_diverged_and_unfinished_runs_do_not_win(self):
        used, diverged, cancelled = (int(o) for o in (Outcome.STEPS_USED, Outcome.DIVERGED, Outcome.CANCELLED))
        table = [[0, 3, 3, 0], [1, 0, 2, 0], [5, 5, 0, 1]]
        outcomes = [[diverged, used, used, diverged], [used, diverged, used, diverged],
                    [used, used, cancelled, diverged]]
        result = best_of(self.problem(), self.method(table, outcomes), 3, steps=1)
        np.testing.assert_array_equal(result.sources[0, :, 0], [2, 1, 2, 1])
        np.testing.assert_array_equal(result.outcomes, [used, used, cancelled, diverged])

    def test_cancelling_keeps_the_best_so_far_and_one_run_is_the_method_itself(self):
        s, b, _, used, gains, side = qpsk_under_ofdm(4, -12.0, seed=13, symbols=40)
        flag = CancelFlag()

        def progress(fraction, windows):
            if fraction >= 0.6:
                flag.set()

        for method in (basis_alpha, alpha_rgs):
            problem = Problem(s + gains[1] * b, used, gains, side=side, batch=2)
            once = method(problem, steps=8)
            same = best_of(problem, method, 1, steps=8)
            np.testing.assert_array_equal(same.sources, once.sources)
            more = best_of(problem, method, 3, steps=8)
            self.assertTrue(np.all(median_disagreement(problem, more) <= median_disagreement(problem, once)))
            self.assertGreater(np.abs(more.sources - once.sources).max(), 0.01)
            np.testing.assert_array_equal(more.calls, 24)
        problem = Problem(s + gains[1] * b, used, gains, side=side, batch=2, cancel=flag, progress=progress)
        result = best_of(problem, basis_alpha, 2, steps=8)
        once = basis_alpha(Problem(problem.mixture, used, gains, side=side, batch=2), steps=8)
        np.testing.assert_array_equal(result.outcomes, int(Outcome.CANCELLED))
        np.testing.assert_allclose(result.sources, once.sources, atol=1e-6)
        untouched = best_of(problem, basis_alpha, 2, steps=8)
        np.testing.assert_array_equal(untouched.outcomes, int(Outcome.UNTOUCHED))

    def test_refusals(self):
        with self.assertRaisesRegex(ValueError, "restarts=0 is impossible"):
            best_of(self.problem(), basis, 0)
        with self.assertRaisesRegex(ValueError, "at least 1 step"):
            best_of(self.problem(), basis, 2, steps=0)


class Separates(unittest.TestCase):
    def test_basis_alpha_finds_qpsk_under_ofdm(self):
        s, b, _, used, gains, side = qpsk_under_ofdm(6, -24.0, seed=2, symbols=40)
        problem = Problem(s + gains[1] * b, used, gains, side=side)
        start, found = (np.mean(np.abs(x[0] - s) ** 2) for x in (
            first_estimates(problem), basis_alpha(problem, 600).sources))
        self.assertGreater(start, 1.0)
        self.assertLess(found, 0.3)

    def test_noise_in_the_mixture_is_left_out_of_basis_sources(self):
        rng = np.random.default_rng(4)
        densities = [raised_cosine(64, 4.0, 0.01), raised_cosine(64, 0.01, 4.0)]
        used = [wrap(Gaussian(d)) for d in densities]
        x = [np.fft.ifft(np.sqrt(d / d.mean() * 64) * complex_noise(rng, 50, 64)) for d in densities]
        y = x[0] + x[1] + signals.noise(rng, (50, 64), 0.5)
        soft = basis(Problem(y, used, [1, 1], 0.5), 500, step_size=0.3, levels=[5])
        none = basis(Problem(y, used, [1, 1], 0.0), 500, step_size=0.3, levels=[5])
        rest = [np.mean(np.abs(y - r.sources.sum(axis=0)) ** 2) for r in (soft, none)]
        self.assertGreater(rest[0], 3 * rest[1])


if __name__ == "__main__":
    unittest.main()
