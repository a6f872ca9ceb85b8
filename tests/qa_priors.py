# SPDX-License-Identifier: GPL-3.0-or-later
"""Closed-form priors against enumerated densities in double precision, GNU Radio's blocks and scipy's spectra.

Everything here counts noise per real channel: x = sqrt(abar) s + sqrt(1 - abar) z with z ~ N(0, 1) in each.
"""

import io
import itertools
import json
import math
import tempfile
import unittest
import warnings
from pathlib import Path

import numpy as np
import scipy.signal
import torch
from gnuradio.unmix import priors, signals
from gnuradio.unmix.captures import CaptureError  # noqa: F401 (spec.py imports it late)
from gnuradio.unmix.priors import PriorError
from gnuradio.unmix.priors import constellation as cons
from gnuradio.unmix.priors.cp_ofdm import CpOfdm
from gnuradio.unmix.priors.gaussian import Gaussian, spectrum
from gnuradio.unmix.priors.prior import Prior, _reason, from_module, load, to_bytes
from gnuradio.unmix.priors.rrc import Rrc, taps
from torch import Tensor

try:
    from gnuradio import blocks, digital, fft, filter, gr
    from gnuradio.filter import firdes
    GNU_RADIO = True
except ImportError:
    GNU_RADIO = False
needs_gnu_radio = unittest.skipUnless(GNU_RADIO, "GNU Radio is not installed: nothing to compare with")

torch.set_num_threads(1)

SIDE_NONE = torch.zeros(1, 0)


# ----------------------------------------------------------------------------- what the modules are compared with

def alphabet(name):
    """The constellations by their definitions, complex128, unit mean power, any order."""
    if name == "bpsk":
        return np.array([1, -1], complex)
    if name == "qpsk":
        return np.exp(0.25j * np.pi * np.array([1, 3, 5, 7]))
    if name == "8psk":
        return np.exp(0.25j * np.pi * np.arange(8))
    grid = np.array([-3, -1, 1, 3])
    return (grid[:, None] + 1j * grid).ravel() / np.sqrt(10)


def sequences(name, count):
    return np.array(list(itertools.product(alphabet(name), repeat=count)))


def enumerated(x, level, waves):
    """Posterior mean of complex x [N] over equiprobable waves [S, N], and log p(x) up to a constant."""
    exponent = -np.sum(np.abs(x - np.sqrt(level) * waves) ** 2, 1) / (2 * (1 - level))
    top = exponent.max()
    weight = np.exp(exponent - top)
    return weight @ waves / weight.sum(), top + np.log(weight.mean())


def numeric_score(x, log_density, step=1e-5):
    """Central finite differences of log p with respect to real and imaginary parts, as one complex array."""
    score = np.zeros(len(x), complex)
    for i in range(len(x)):
        for unit in (1, 1j):
            shift = np.zeros(len(x), complex)
            shift[i] = step * unit
            score[i] += unit * (log_density(x + shift) - log_density(x - shift)) / (2 * step)
    return score


def planes(x):
    x = np.atleast_2d(x)
    return torch.from_numpy(np.stack([x.real, x.imag], 1)).float()


def answer(module, x, level, side=None):
    """The module's posterior means for complex x [W, N]."""
    x = np.atleast_2d(x)
    side = torch.zeros(len(x), 0) if side is None else torch.as_tensor(np.atleast_2d(side), dtype=torch.float32)
    with torch.no_grad():
        mean = module(planes(x), torch.full((len(x),), level), side.expand(len(x), side.shape[1])).double().numpy()
    return mean[:, 0] + 1j * mean[:, 1]


def noisy(rng, wave, level):
    z = rng.standard_normal(wave.shape) + 1j * rng.standard_normal(wave.shape)
    return np.sqrt(level) * wave + np.sqrt(1 - level) * z


def rrc_pulse(t, rolloff):
    """The root-raised-cosine pulse by its textbook formula; t in symbols, no singular point."""
    return (np.sin(np.pi * t * (1 - rolloff)) + 4 * rolloff * t * np.cos(np.pi * t * (1 + rolloff))) / (
        np.pi * t * (1 - (4 * rolloff * t) ** 2))


def pulse_matrix(samples, count, sps, rolloff, span, timing, tails=0):
    """H: column k is the pulse of the symbol at timing + (k - tails) sps, unit power for unit symbols."""
    centre = timing + (np.arange(count + 2 * tails) - tails) * sps
    t = (np.arange(samples)[:, None] - centre) / sps
    t = np.where(np.abs(t) < 1e-9, 1e-9, t)
    t = np.where(np.abs(np.abs(4 * rolloff * t) - 1) < 1e-9, t * (1 + 1e-7), t)
    grid = np.arange(-(span * sps // 2), span * sps // 2 + 1) / sps + 1e-9
    grid = np.where(np.abs(np.abs(4 * rolloff * grid) - 1) < 1e-6, grid * (1 + 1e-7), grid)
    energy = np.sum(rrc_pulse(grid, rolloff) ** 2)
    return rrc_pulse(t, rolloff) * (np.abs(t) <= span / 2 + 1e-6) * np.sqrt(sps / energy)


def ofdm_codebook(name, fft_length, cp, active):
    """All symbols with prefix, [S, fft + cp]: a direct DFT sum over the active carriers."""
    half = active // 2
    carriers = [k for k in range(-half, active - half + 1) if k]
    time = (np.arange(fft_length + cp) - cp) % fft_length
    waves = np.exp(2j * np.pi * np.outer(carriers, time) / fft_length) / np.sqrt(active)
    return sequences(name, active) @ waves


def ofdm_posterior(x, level, codebook, start, turn=1.0):
    """Exact posterior mean of x [N] and log p(x), symbol by symbol, cut symbols by the samples that are seen."""
    length = codebook.shape[1]
    mean, total = np.zeros(len(x), complex), 0.0
    begin = start % length - length
    while begin < len(x):
        low, high = max(begin, 0), min(begin + length, len(x))
        if low < high:
            mean[low:high], part = enumerated(x[low:high], level, turn * codebook[:, low - begin:high - begin])
            total += part
        begin += length
    return mean, total


# --------------------------------------------------------------------------------------------------- constellations

class Constellations(unittest.TestCase):
    def test_points_are_the_alphabets_with_unit_power_and_gray_labels(self):
        for name in cons.NAMES:
            points = cons.points(name)
            wanted = alphabet(name)
            distance = np.abs(points[:, None] - wanted)
            np.testing.assert_allclose(distance.min(1), 0, atol=1e-6)
            self.assertEqual(sorted(distance.argmin(1)), list(range(len(wanted))))
            self.assertAlmostEqual(float(np.mean(np.abs(points) ** 2)), 1, places=6)
            nearest = np.abs(points[:, None] - points) + 10 * np.eye(len(points))
            for a, b in zip(*np.nonzero(nearest < nearest.min() * 1.01), strict=True):
                self.assertEqual(bin(a ^ b).count("1"), 1, f"{name}: neighbours {a} and {b} differ in one bit")

    def test_bits_survive_modulation_and_demodulation(self):
        rng = np.random.default_rng(0)
        for name in cons.NAMES:
            bits = rng.integers(0, 2, (3, 24 * cons.bits_per_symbol(name)), dtype=np.uint8)
            symbols = cons.modulate(bits, name)
            self.assertEqual(symbols.shape, (3, 24))
            np.testing.assert_array_equal(cons.demodulate(symbols + 0.1j - 0.1, name), bits)

    def test_posterior_means_are_the_softmax_of_proposition_3(self):
        rng = np.random.default_rng(1)
        for name in cons.NAMES:
            points = alphabet(name)
            table = cons.points(name)
            table = torch.from_numpy(np.stack([table.real, table.imag], -1))
            for variance, gain in ((3.0, 0.5), (0.3, 0.8), (0.02, 1.2)):
                a = rng.choice(points, 200)
                r = gain * a + np.sqrt(variance) * (rng.standard_normal(200) + 1j * rng.standard_normal(200))
                exponent = -np.abs(r[:, None] - gain * points) ** 2 / (2 * variance)
                weight = np.exp(exponent - exponent.max(1, keepdims=True))
                wanted = weight @ points / weight.sum(1)
                u = planes(gain * r / variance)[0].T
                got = cons.posterior_mean(u, torch.full((200,), gain**2 / variance), table, name).numpy()
                np.testing.assert_allclose(got[:, 0] + 1j * got[:, 1], wanted, atol=3e-5, err_msg=f"{name} {variance}")
                # log p(r) - log p(r | nothing): the evidence, whose constants the docstring names
                evidence = np.log(np.mean(np.exp(exponent + np.abs(r[:, None]) ** 2 / (2 * variance)), 1))
                got = cons.log_evidence(u, torch.full((200,), gain**2 / variance), table).numpy()
                np.testing.assert_allclose(got, evidence, rtol=1e-4, atol=1e-4)


# -------------------------------------------------------------------------------------------------------------- RRC

class LinearModulation(unittest.TestCase):
    def disjoint(self, name):
        """The module with rectangular pulses of one symbol, which are exactly orthogonal."""
        module = Rrc(name, 4, 0.5, 4)
        module.blocks.zero_()
        module.blocks[0, :, module.reach] = 1
        return module

    def test_score_is_the_gradient_of_the_enumerated_density_for_orthogonal_pulses(self):
        rng = np.random.default_rng(3)
        for name, count in (("bpsk", 4), ("qpsk", 3), ("8psk", 2), ("16qam", 2)):
            waves = np.repeat(sequences(name, count), 4, axis=1)
            for level in (0.2, 0.7, 0.95):
                x = noisy(rng, waves[rng.integers(len(waves))], level)
                mean = answer(self.disjoint(name), x, level)[0]
                score = (np.sqrt(level) * mean - x) / (1 - level)
                wanted = numeric_score(x, lambda v, w=waves, a=level: enumerated(v, a, w)[1])
                np.testing.assert_allclose(score, wanted, atol=2e-4 / (1 - level), err_msg=f"{name} {level}")

    def test_pulses_are_those_of_the_textbook(self):
        for rolloff, span, timing in ((0.5, 8, 8.0), (0.25, 6, 3.3), (0.22, 10, 0.0), (1.0, 4, 15.9)):
            module = Rrc("bpsk", 16, rolloff, span, tails=span // 2)
            count = 12
            symbols = np.random.default_rng(0).choice([-1.0, 1.0], count + span)
            wave = module.modulate(torch.tensor(np.stack([symbols, 0 * symbols])[None]).float(),
                                   module.pulse_blocks(torch.tensor([timing])), 16 * count - 5)[0, 0].numpy()
            matrix = pulse_matrix(16 * count - 5, count, 16, rolloff, span, timing, span // 2)
            np.testing.assert_allclose(wave, matrix @ symbols, atol=2e-5)
            x = np.random.default_rng(1).standard_normal((1, 2, 16 * count - 5))
            matched = module.correlate(torch.tensor(x).float(), module.pulse_blocks(torch.tensor([timing])))[0].numpy()
            np.testing.assert_allclose(matched, x[0] @ matrix, atol=1e-3)

    def test_posterior_mean_approaches_the_enumerated_one_as_far_as_pulses_are_orthogonal(self):
        # Whole sequences are enumerated, interference between symbols and cut pulses included. The middle symbol's
        # pulse is whole: what is left there is the leakage of a span of 8 (-33 dB) and its neighbours' uncertainty.
        rng = np.random.default_rng(5)
        for name, count, tolerance in (("bpsk", 11, 0.02), ("qpsk", 5, 0.12), ("16qam", 3, 0.35)):
            module = Rrc(name, 4, 0.5, 8 if name == "bpsk" else 4 if name == "qpsk" else 2)
            matrix = pulse_matrix(4 * count, count, 4, 0.5, module.span, 2)
            waves = sequences(name, count) @ matrix.T
            middle = slice(4 * (count // 2), 4 * (count // 2) + 4)
            for level in (0.3, 0.7, 0.9):
                error, size = 0.0, 0.0
                for _ in range(12):
                    x = noisy(rng, waves[rng.integers(len(waves))], level)
                    exact, _ = enumerated(x, level, waves)
                    error += np.sum(np.abs(answer(module, x, level)[0] - exact)[middle] ** 2)
                    size += np.sum(np.abs(exact[middle]) ** 2)
                self.assertLess(np.sqrt(error / size), tolerance, f"{name} {level}")

    def test_symbols_beyond_the_window_are_part_of_a_stream(self):
        # A window cut from a long signal: with tails the prior explains its ends, without it cannot.
        rng = np.random.default_rng(6)
        with_tails, without = (Rrc("qpsk", 8, 0.5, 8, tails=t) for t in (4, 0))
        wave = signals.linear_modulation(rng, 20, 60, "qpsk", 8)[0][:, 160:320]
        x = noisy(rng, wave, 0.9)
        errors = [np.mean(np.abs(answer(m, x, 0.9) - wave)[:, :16] ** 2) for m in (with_tails, without)]
        self.assertLess(errors[0], 0.25 * errors[1])

    def test_side_information_replaces_timing_and_phase(self):
        rng = np.random.default_rng(7)
        module = Rrc("qpsk", 8, 0.5, 8, tails=4)
        symbols = rng.choice(alphabet("qpsk"), 28)
        for timing, phase in ((0.0, 0.3), (3.25, -2.0), (7.9, 1.0)):
            wave = np.exp(1j * phase) * (pulse_matrix(160, 20, 8, 0.5, 8, timing, 4) @ symbols)
            mean = answer(module, noisy(rng, wave, 0.95), 0.95, [[timing, phase]])[0]
            self.assertLess(np.mean(np.abs(mean - wave)[32:-32] ** 2), 0.01)

    def test_unknown_timing_and_phase_are_marginalised(self):
        # Brute force: 8 symbols, every sequence of them, 32 timings, 24 phases of half a turn.
        rng = np.random.default_rng(8)
        sps, count, span = 4, 8, 4
        module = Rrc("bpsk", sps, 0.5, span, synchronised=False)
        timings = (np.arange(32) + 0.5) * sps / 32
        matrices = [pulse_matrix(sps * count, count, sps, 0.5, span, t) for t in timings]
        turns = np.exp(1j * np.pi * np.arange(24) / 24)
        for level, excess in ((0.35, 0.15), (0.6, 0.15), (0.9, 0.10)):
            ours, exact, prior_power = 0.0, 0.0, 0.0
            for _ in range(12):
                symbols = rng.choice([-1.0, 1.0], count)
                truth = pulse_matrix(sps * count, count, sps, 0.5, span, rng.uniform(0, sps)) @ symbols * np.exp(
                    1j * rng.uniform(0, 2 * np.pi))
                x = noisy(rng, truth, level)
                means, logs = [], []
                for matrix in matrices:
                    waves = sequences("bpsk", count).real @ matrix.T
                    for turn in turns:
                        mean, log = enumerated(x * np.conj(turn), level, waves)
                        means.append(turn * mean)
                        logs.append(log)
                weight = np.exp(np.array(logs) - max(logs))
                mean = weight @ np.array(means) / weight.sum()
                ours += np.sum(np.abs(answer(module, x, level)[0] - truth) ** 2)
                exact += np.sum(np.abs(mean - truth) ** 2)
                prior_power += np.sum(np.abs(truth) ** 2)
            self.assertLess((ours - exact) / prior_power, excess, f"level {level}: {ours / exact:.2f} times the best")

    def test_without_noise_the_marginal_answer_is_the_synchronised_one(self):
        rng = np.random.default_rng(9)
        known, unknown = Rrc("qpsk", 8, 0.5, 8, tails=4), Rrc("qpsk", 8, 0.5, 8, tails=4, synchronised=False)
        symbols = rng.choice(alphabet("qpsk"), 48)
        for timing, phase in ((2.0, 0.4), (5.6, 1.4)):
            wave = np.exp(1j * phase) * (pulse_matrix(320, 40, 8, 0.5, 8, timing, 4) @ symbols)
            x = noisy(rng, wave, 0.99)
            difference = answer(unknown, x, 0.99)[0] - answer(known, x, 0.99, [[timing, phase]])[0]
            self.assertLess(np.mean(np.abs(difference) ** 2), 2e-3)


# ------------------------------------------------------------------------------------------------------------- OFDM

class CpOfdmPrior(unittest.TestCase):
    def test_without_a_prefix_the_score_is_the_gradient_of_the_enumerated_density(self):
        rng = np.random.default_rng(11)
        for name, fft_length, active in (("bpsk", 8, 6), ("qpsk", 4, 3), ("8psk", 4, 2), ("16qam", 4, 2)):
            codebook = ofdm_codebook(name, fft_length, 0, active)
            module = CpOfdm(name, fft_length, 0, active)
            for level in (0.2, 0.7, 0.95):
                wave = codebook[rng.integers(len(codebook), size=4)].ravel() * np.exp(0.7j)
                x = noisy(rng, wave, level)
                mean = answer(module, x, level, [[0, 0.7]])[0]
                inner = slice(fft_length, 3 * fft_length)
                exact, _ = ofdm_posterior(x, level, codebook, 0, np.exp(0.7j))
                np.testing.assert_allclose(mean[inner], exact[inner], atol=1e-4, err_msg=f"{name} {level}")
                score = (np.sqrt(level) * mean - x) / (1 - level)
                wanted = numeric_score(
                    x, lambda v, a=level, c=codebook: ofdm_posterior(v, a, c, 0, np.exp(0.7j))[1])
                np.testing.assert_allclose(score[inner], wanted[inner], atol=2e-4 / (1 - level))

    def errors(self, name, level, pick, windows=150, **how):
        """Mean squared errors against the truth of the prior, the exact posterior mean and a naive treatment of ends.

        pick(start) -> slice of the window that is judged. Naive: the symbol cut by the end, with zeros for what is
        not seen, taken for a complete one. Window: 45 samples, that is 3 or 4 whole symbols and parts of others.
        """
        rng = np.random.default_rng(12)
        codebook = ofdm_codebook(name, 8, 2, 6)
        module = CpOfdm(name, 8, 2, 6, **how)
        sums, count = np.zeros(3), 0
        for _ in range(windows):
            start = int(rng.integers(10))
            x_truth = np.concatenate(list(codebook[rng.integers(len(codebook), size=6)]))[10 - start:][:45]
            x = noisy(rng, x_truth, level)
            mean = answer(module, x, level, [[start, 0.0]])[0]
            exact, _ = ofdm_posterior(x, level, codebook, start)
            padded = np.concatenate([np.zeros(10 - start), x, np.zeros(20)])
            padded = np.concatenate([np.zeros(10), padded, np.zeros(10)])[:80]
            naive = answer(module, padded, level, [[0, 0.0]])[0][20 - start:][:45]
            where = pick(start)
            for i, estimate in enumerate((mean, exact, naive)):
                sums[i] += np.sum(np.abs(estimate - x_truth)[where] ** 2)
            count += len(range(45)[where])
        return sums / max(count, 1)

    def test_complete_symbols_lose_little_by_taking_the_noise_as_even(self):
        for name, windows in (("bpsk", 150), ("qpsk", 40)):
            for level in (0.3, 0.6, 0.9):
                ours, exact, _ = self.errors(name, level, lambda start: slice(start, start + 30), windows)
                # Measured: 0.022 of the signal's power at abar = 0.3, 0.018 at 0.6, nothing at 0.9.
                self.assertLess(ours - exact, 0.03, f"{name} {level}: {ours:.4f} for {exact:.4f}")
                self.assertGreaterEqual(ours, exact - 0.01)  # nothing beats the posterior mean

    def test_the_last_symbol_is_known_to_be_cut_for_every_start(self):
        # 45 samples: for some starts the frames reach beyond the symbol that the window's end cuts. At low noise
        # half of a cut BPSK symbol determines it; zeros for the rest leave an error of 0.2.
        rng = np.random.default_rng(21)
        codebook = ofdm_codebook("bpsk", 8, 2, 6)
        module = CpOfdm("bpsk", 8, 2, 6)
        for start in range(10):
            error = count = 0.0
            for _ in range(30):
                truth = np.concatenate(list(codebook[rng.integers(64, size=6)]))[10 - start:][:45]
                mean = answer(module, noisy(rng, truth, 0.99), 0.99, [[start, 0.0]])[0]
                tail = (45 - start) % 10
                if tail >= 3:
                    error += np.mean(np.abs(mean - truth)[45 - tail:] ** 2)
                    count += 1
            if count:
                self.assertLess(error / count, 0.06, f"start {start}")

    def test_cut_symbols_come_near_the_enumerated_posterior_mean_and_beat_zero_filling(self):
        for name, windows in (("bpsk", 150), ("qpsk", 40)):
            gained = []
            for level in (0.3, 0.6, 0.9, 0.97):
                left = self.errors(name, level, lambda start: slice(0, start), windows)
                right = self.errors(name, level, lambda start: slice(start + 30, 45), windows)
                ours, exact, naive = left + right
                # Both ends together, of the signal's power. Measured: BPSK 0.004 to 0.022, 0.0046 at abar = 0.97; QPSK
                # 0.035 to 0.06, 0.015 at 0.97.
                allowed = {"bpsk": (0.03, 0.007), "qpsk": (0.08, 0.03)}[name][level > 0.95]
                self.assertLess(ours - exact, allowed, f"{name} {level}: {ours:.3f} for {exact:.3f}")
                gained.append((ours, naive))
                self.assertLess(ours, naive + 0.01, f"{name} {level}")
            # Where there is something to gain, at low noise, it is gained.
            self.assertLess(gained[-1][0], 0.2 * gained[-1][1], name)

    def test_short_windows_of_bpsk_come_near_the_enumerated_posterior_mean_too(self):
        # Less than two symbols, where both ends may cut the same one, and a little more.
        rng = np.random.default_rng(22)
        codebook = ofdm_codebook("bpsk", 8, 2, 6)
        module = CpOfdm("bpsk", 8, 2, 6)
        for samples in (6, 10, 19, 20, 23):
            ours = best = 0.0
            for _ in range(60):
                start = int(rng.integers(10))
                truth = np.concatenate(list(codebook[rng.integers(64, size=4)]))[10 - start:][:samples]
                x = noisy(rng, truth, 0.9)
                exact, _ = ofdm_posterior(x, 0.9, codebook, start)
                ours += np.mean(np.abs(answer(module, x, 0.9, [[start, 0.0]])[0] - truth) ** 2) / 60
                best += np.mean(np.abs(exact - truth) ** 2) / 60
            self.assertLess(ours - best, 0.08, f"{samples} samples: {ours:.3f} for {best:.3f}")

    def test_gradient_of_cut_bpsk_symbols_is_that_of_differences(self):
        module = CpOfdm("bpsk", 8, 2, 6)
        generator = torch.Generator().manual_seed(3)
        x, way, pull = (torch.randn(1, 2, 45, generator=generator) for _ in range(3))
        level, side = torch.tensor([0.6]), torch.tensor([[4.0, 0.7]])
        x.requires_grad_(True)
        (gradient,) = torch.autograd.grad(module(x, level, side), x, pull)
        with torch.no_grad():
            ahead, behind = (module(x + sign * 1e-2 * way, level, side) for sign in (1, -1))
        self.assertAlmostEqual(float((gradient * way).sum()), float(((ahead - behind) * pull).sum() / 2e-2), delta=0.03)

    def test_large_symbols_of_bpsk_have_no_tables(self):
        self.assertIsNotNone(CpOfdm("bpsk", 128, 32, 104).cut_bpsk)
        self.assertIsNone(CpOfdm("bpsk", 256, 64, 200).cut_bpsk)
        self.assertIsNone(CpOfdm("qpsk", 64, 16, 56).cut_bpsk)

    def test_unknown_start_and_phase_are_marginalised(self):
        # Brute force: 10 starts, 24 phases of half a turn, all 64 symbols. At abar = 0.3 several starts have weight.
        rng = np.random.default_rng(13)
        codebook = ofdm_codebook("bpsk", 8, 2, 6)
        module = CpOfdm("bpsk", 8, 2, 6)
        turns = np.exp(1j * np.pi * np.arange(24) / 24)
        for level, several in ((0.3, True), (0.6, False), (0.9, False)):
            ours = exact = power = 0.0
            spread = []
            for _ in range(25):
                start = int(rng.integers(10))
                truth = np.concatenate(list(codebook[rng.integers(64, size=6)]))[10 - start:][:45] * np.exp(
                    1j * rng.uniform(0, 2 * np.pi))
                x = noisy(rng, truth, level)
                found = [ofdm_posterior(x, level, codebook, s, t) for s in range(10) for t in turns]
                logs = np.array([f[1] for f in found])
                weight = np.exp(logs - logs.max())
                mean = weight @ np.array([f[0] for f in found]) / weight.sum()
                spread.append((weight.reshape(10, -1).sum(1) / weight.sum()).max())
                ours += np.sum(np.abs(answer(module, x, level)[0] - truth) ** 2)
                exact += np.sum(np.abs(mean - truth) ** 2)
                power += np.sum(np.abs(truth) ** 2)
            self.assertLess((ours - exact) / power, 0.1, f"level {level}: {ours / power:.3f} for {exact / power:.3f}")
            if several:
                self.assertLess(np.median(spread), 0.8)  # the likeliest start alone is not the answer

    def test_without_noise_the_marginal_answer_is_the_synchronised_one(self):
        rng = np.random.default_rng(14)
        for name in ("bpsk", "qpsk"):
            module = CpOfdm(name)
            wave, side = signals.cp_ofdm(rng, 2, 640, name)
            x = noisy(rng, wave, 0.99)
            difference = answer(module, x, 0.99) - answer(module, x, 0.99, side)
            self.assertLess(np.mean(np.abs(difference) ** 2), 1e-3, name)


# ------------------------------------------------------------------------------------------- Gaussian and gradients

class GaussianPrior(unittest.TestCase):
    def test_score_is_proposition_2_with_a_circulant_covariance(self):
        rng = np.random.default_rng(15)
        n = 24
        psd = rng.uniform(0, 1, n) ** 3
        dft = np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n) / np.sqrt(n)
        sigma = dft.conj().T @ np.diag(psd / psd.mean()) @ dft
        np.testing.assert_allclose(np.diag(sigma), 1, atol=1e-12)
        for level in (0.1, 0.6, 0.99):
            x = rng.standard_normal(n) + 1j * rng.standard_normal(n)
            mean = answer(Gaussian(psd), x, level)[0]
            # E[s s*] = sigma is over both channels: a channel's score is twice the complex one's.
            wanted = -2 * np.linalg.solve(level * sigma + 2 * (1 - level) * np.eye(n), x)
            np.testing.assert_allclose((np.sqrt(level) * mean - x) / (1 - level), wanted, atol=2e-5 / (1 - level))

    def test_a_density_is_interpolated_to_any_length(self):
        module = Gaussian(np.array([1.0, 2.0, 4.0, 1.0]))
        np.testing.assert_allclose(module.density(8).numpy(), np.array([1, 1.5, 2, 3, 4, 2.5, 1, 1]) / 2, rtol=1e-6)
        np.testing.assert_allclose(module.density(4).numpy(), np.array([1, 2, 4, 1]) / 2, rtol=1e-6)

    def test_impossible_densities_are_refused(self):
        for psd in ([], [0, 0], [-1, 2], [np.nan, 1], [np.inf, 1], [[1, 1]]):
            with self.assertRaisesRegex(ValueError, "power spectral density"):
                Gaussian(np.array(psd))

    def test_spectrum_agrees_with_scipys_welch(self):
        x = np.random.default_rng(0).standard_normal((8192, 2)).view(complex)[:, 0]
        x = scipy.signal.lfilter([1, 0.7], [1, -0.3j], x)
        _, wanted = scipy.signal.welch(x, nperseg=256, noverlap=128, return_onesided=False, detrend=False)
        np.testing.assert_allclose(spectrum(x), wanted / wanted.mean(), rtol=1e-6)


class Gradients(unittest.TestCase):
    def test_autograd_through_every_prior_equals_finite_differences(self):
        # Guided methods differentiate the posterior mean. Directional derivatives of a fixed projection, in float64.
        rng = np.random.default_rng(16)
        cases = [(Gaussian(rng.uniform(0.1, 1, 9)), 18, None)]
        for name in cons.NAMES:
            cases += [(Rrc(name, 4, 0.5, 4), 24, None), (Rrc(name, 4, 0.5, 4), 24, [[1.3, 0.4]]),
                      (CpOfdm(name, 8, 2, 6), 27, [[3.0, 0.4]])]
        for module, samples, side in cases:
            module = module.double()
            side = torch.zeros(1, 0, dtype=torch.float64) if side is None else torch.tensor(side, dtype=torch.float64)
            x = torch.tensor(rng.standard_normal((1, 2, samples)), requires_grad=True)
            weight, direction = (torch.tensor(rng.standard_normal((1, 2, samples))) for _ in range(2))
            level = torch.tensor([0.6], dtype=torch.float64)
            value = (module(x, level, side) * weight).sum()
            gradient = torch.autograd.grad(value, x)[0]
            self.assertTrue(torch.isfinite(gradient).all())
            with torch.no_grad():
                wanted = sum(sign * (module(x + sign * 1e-5 * direction, level, side) * weight).sum()
                             for sign in (1, -1)) / 2e-5
            np.testing.assert_allclose(float((gradient * direction).sum()), float(wanted), rtol=1e-4, atol=1e-5,
                                       err_msg=f"{type(module).__name__} {getattr(module, 'constellation', '')}")

    def test_gradients_of_marginalised_priors_are_finite(self):
        for module in (Rrc("qpsk", 4, 0.5, 4, synchronised=False), CpOfdm("qpsk", 8, 2, 6)):
            x = torch.randn(1, 2, 30, generator=torch.Generator().manual_seed(0), requires_grad=True)
            module(x, torch.tensor([0.6]), SIDE_NONE).square().sum().backward()
            self.assertTrue(torch.isfinite(x.grad).all())
            self.assertGreater(float(x.grad.abs().max()), 1e-3)

    def test_scripted_and_eager_modules_agree(self):
        rng = np.random.default_rng(17)
        for text, side in (("rrc:16qam,sps=4", None), ("rrc:qpsk,sps=4,sync=unknown", None),
                           ("cp-ofdm:qpsk,fft=16,cp=4", [[3.0, 0.4]] * 3), ("cp-ofdm:bpsk,fft=8,cp=2,active=6", None)):
            prior = priors.parse(text)
            x = (rng.standard_normal((3, 64)) + 1j * rng.standard_normal((3, 64))).astype(np.complex64)
            got = prior.denoise(x, np.full(3, 0.7, np.float32), None if side is None else np.float32(side))
            np.testing.assert_allclose(got, answer(prior.module, x, 0.7, side), atol=1e-4, err_msg=text)


# ---------------------------------------------------------------------------------- waveforms, GNU Radio and spectra

class Waveforms(unittest.TestCase):
    @needs_gnu_radio
    def test_taps_are_gnu_radios_root_raised_cosine(self):
        for sps, rolloff, span in ((16, 0.5, 8), (4, 0.35, 11), (10, 0.22, 20), (8, 1.0, 6)):
            ours = taps(sps, rolloff, span)
            theirs = np.array(firdes.root_raised_cosine(1.0, sps, 1.0, rolloff, len(ours)))
            self.assertEqual(len(theirs), len(ours))
            np.testing.assert_allclose(ours / ours.max(), theirs / theirs.max(), atol=2e-6)
            self.assertAlmostEqual(np.sum(ours**2), sps, places=9)

    @needs_gnu_radio
    def test_rrc_wave_is_gnu_radios_interpolating_filter(self):
        symbols = np.random.default_rng(0).choice(alphabet("qpsk"), 40).astype(np.complex64)
        pulse = firdes.root_raised_cosine(1.0, 16, 1.0, 0.5, 129)
        pulse = (np.array(pulse) * np.sqrt(16 / np.sum(np.square(pulse)))).tolist()
        top, sink = gr.top_block(), blocks.vector_sink_c()
        source = blocks.vector_source_c(np.concatenate([symbols, np.zeros(16)]).astype(np.complex64).tolist())
        top.connect(source, filter.interp_fir_filter_ccf(16, pulse), sink)
        top.run()
        wanted = np.array(sink.data())[64 - 8:][:640]  # the filter's delay, less half a symbol
        np.testing.assert_allclose(signals.rrc_wave(symbols[None])[0], wanted, atol=1e-4)

    @needs_gnu_radio
    def test_ofdm_is_gnu_radios_fft_and_cyclic_prefixer(self):
        wave, side = signals.cp_ofdm(np.random.default_rng(1), 1, 64 * 20, "qpsk")
        start, phase = int(side[0, 0]), side[0, 1]
        whole = wave[0, start:][:80 * 14].reshape(14, 80) * np.exp(-1j * phase)
        spectra = np.fft.fft(whole[:, 16:])  # carriers in FFT order
        top, sink = gr.top_block(), blocks.vector_sink_c()
        vectors = np.fft.fftshift(spectra, axes=1).ravel().astype(np.complex64).tolist()
        top.connect(blocks.vector_source_c(vectors, False, 64),
                    fft.fft_vcc(64, False, (), True), digital.ofdm_cyclic_prefixer(64, 80), sink)
        top.run()
        theirs = np.array(sink.data()).reshape(14, 80) / 64  # an unnormalised inverse FFT
        np.testing.assert_allclose(whole, theirs, atol=1e-4)

    def test_ofdm_has_unit_power_a_prefix_and_empty_null_carriers(self):
        for name in ("bpsk", "qpsk", "16qam"):
            wave, side = signals.cp_ofdm(np.random.default_rng(2), 8, 80 * 60, name)
            self.assertAlmostEqual(float(np.mean(np.abs(wave) ** 2)), 1, delta=0.02)
            for w in range(8):
                whole = wave[w, int(side[w, 0]):][:80 * 50].reshape(50, 80)
                np.testing.assert_allclose(whole[:, :16], whole[:, 64:], atol=1e-6)
                spectra = np.fft.fft(whole[:, 16:]) * np.sqrt(56) / 64 * np.exp(-1j * side[w, 1])
                empty = [0, *range(29, 36)]
                np.testing.assert_allclose(spectra[:, empty], 0, atol=1e-5)
                points = np.delete(spectra, empty, axis=1)
                self.assertLess(np.abs(points[..., None] - alphabet(name)).min(-1).max(), 1e-4)

    def test_linear_modulation_has_unit_power_and_its_bits(self):
        wave, bits = signals.linear_modulation(np.random.default_rng(3), 4, 2000)
        self.assertAlmostEqual(float(np.mean(np.abs(wave) ** 2)), 1, delta=0.02)
        matrix = pulse_matrix(64 * 16, 64, 16, 0.5, 8, 8)
        symbols = np.sqrt(0.5) * ((1 - 2.0 * bits[:, ::2]) + 1j * (1 - 2.0 * bits[:, 1::2]))  # 0: the positive level
        np.testing.assert_allclose(wave[:, :59 * 16], (symbols[:, :64] @ matrix.T)[:, :59 * 16], atol=1e-4)


class Spectra(unittest.TestCase):
    def test_psd_matches_a_welch_estimate_of_simulated_samples(self):
        rng = np.random.default_rng(20)
        n = 1 << 19
        for text, wave in (
                ("rrc:qpsk", signals.linear_modulation(rng, 1, n // 16)[0][0]),
                ("rrc:16qam,sps=4,rolloff=0.25,span=12",
                 signals.linear_modulation(rng, 1, n // 4, "16qam", 4, 0.25, 12)[0][0]),
                ("cp-ofdm:qpsk", signals.cp_ofdm(rng, 1, n)[0][0]),
                ("cp-ofdm:bpsk,fft=32,cp=4,active=20", signals.cp_ofdm(rng, 1, n, "bpsk", 32, 4, 20)[0][0])):
            _, measured = scipy.signal.welch(wave, window="boxcar", nperseg=4096, return_onesided=False, detrend=False)
            measured = measured / measured.mean()
            # 256 bins of 16 points around each centre: 128 segments x 16 points = 2,048 nearly independent values.
            bins = np.roll(measured, 8).reshape(256, 16).mean(1)
            psd = priors.parse(text).psd(256)
            self.assertAlmostEqual(psd.mean(), 1)
            # 5 standard deviations (BPSK counts half), and the rectangle's leakage beside steep edges.
            self.assertLess(np.max(np.abs(bins - psd) - 5 / np.sqrt(1024) * psd), 0.04, text)

    def test_psd_of_pulses_longer_than_the_grid_is_that_of_the_pulse(self):
        # 128 symbols of 256 samples: the whole pulse counts, not its first part.
        psd = priors.parse("rrc:qpsk,sps=256,span=128").psd(256)
        self.assertGreater(psd[0], 250)
        reference = Rrc("qpsk", 16, 0.5, 64).bandwidth * 16**2
        self.assertAlmostEqual(Rrc("qpsk", 256, 0.5, 64).bandwidth * 256**2 / reference, 1, delta=0.01)

    def test_other_numbers_of_bins_are_interpolated(self):
        prior = priors.parse("cp-ofdm:qpsk")
        np.testing.assert_allclose(prior.psd(512)[::2] / prior.psd(512)[::2].mean(), prior.psd(256), rtol=1e-3)
        self.assertAlmostEqual(prior.psd(100).mean(), 1)


# ------------------------------------------------------------------------------------------ specifications and files

class Specifications(unittest.TestCase):
    def test_equal_texts_share_one_prior(self):
        self.assertIs(priors.parse("rrc:qpsk,sps=8"), priors.parse(" rrc:qpsk,sps=8 "))
        self.assertIsNot(priors.parse("rrc:qpsk,sps=8"), priors.parse("rrc:qpsk,sps=4"))

    def test_defaults_and_parameters_reach_the_prior(self):
        prior = priors.parse("rrc:16qam, sps=10, rolloff=0.25, span=6, first=2.5, ends=isolated")
        self.assertEqual(prior.modulation, {"constellation": "16qam", "samples_per_symbol": 10, "rolloff": 0.25,
                                            "span": 6, "first": 2.5})
        self.assertEqual((prior.module.tails, prior.module.synchronised), (0, True))
        self.assertEqual(prior.band, (-0.0625, 0.0625))
        prior = priors.parse("rrc:bpsk,sync=unknown")
        self.assertEqual((prior.module.tails, prior.module.synchronised, prior.module.sps, prior.module.first),
                         (4, False, 16, 8.0))
        prior = priors.parse("cp-ofdm:8psk,fft=128,cp=9")
        self.assertEqual((prior.module.fft, prior.module.cp, prior.module.active), (128, 9, 112))

    def test_a_bad_specification_gives_one_sentence_that_names_what_is_wrong(self):
        for text, words in (
                ("rrc:qam17", "unknown constellation 'qam17'.*bpsk, qpsk"), ("rrc:", "unknown constellation ''"),
                ("cp-ofdm:QPSK", "unknown constellation 'QPSK'"), ("rrc:qpsk,colour=red", "unknown parameter 'colour'"),
                ("cp-ofdm:qpsk,sps=4", "unknown parameter 'sps'"), ("rrc:qpsk,sps=8,sps=8", "'sps' appears twice"),
                ("rrc:qpsk,sps", "'sps'.*key=value"), ("rrc:qpsk,=4", "'=4'.*key=value"), ("rrc:qpsk,", "key=value"),
                ("rrc:qpsk,sps=many", "sps=many.*whole number"), ("rrc:qpsk,sps=1e3", "sps=1e3.*whole number"),
                ("rrc:qpsk,rolloff=steep", "rolloff=steep.*not a number"),
                ("rrc:qpsk,rolloff=nan", "rolloff=nan.*not a finite number"),
                ("rrc:qpsk,rolloff=inf", "rolloff=inf.*not a finite number"), ("rrc:qpsk,rolloff=1.5", "rolloff=1.5"),
                ("rrc:qpsk,sps=1", "sps=1"), ("rrc:qpsk,sps=-4", "-4"), ("rrc:qpsk,span=1", "span=1"),
                ("rrc:qpsk,sps=2000", "too large"), ("rrc:qpsk,span=300", "too large"),
                ("rrc:qpsk,sps=99999999999999999999", "sps=9+.*absurdly large"), ("rrc:qpsk,first=16", "first=16"),
                ("rrc:qpsk,first=-1", "first=-1"), ("rrc:qpsk,ends=open", "ends=open.*stream and isolated"),
                ("rrc:qpsk,sync=maybe", "sync=maybe.*known and unknown"), ("cp-ofdm:qpsk,fft=1", "fft=1"),
                ("cp-ofdm:qpsk,fft=5000", "fft=5000.*too large"), ("cp-ofdm:qpsk,cp=65", "cp=65"),
                ("cp-ofdm:qpsk,cp=-1", "cp=-1"), ("cp-ofdm:qpsk,active=64", "active=64"),
                ("cp-ofdm:qpsk,active=0", "active=0"), ("gaussian:", "needs a recording"),
                ("gaussian:/nonexistent", "/nonexistent"), ("missing.pt", "'missing.pt' does not exist"),
                ("some/where", "'some/where' does not exist"), ("morse:code", "unknown prior 'morse:code'.*allowed"),
                ("", "unknown prior ''")):
            with self.assertRaisesRegex(PriorError, words, msg=text) as caught:
                priors.parse(text)
            self.assertNotIn("\n", str(caught.exception))

    def test_a_gaussian_prior_is_made_from_a_recording(self):
        x = np.random.default_rng(0).standard_normal((6000, 2)).view(complex)[:, 0]
        x = scipy.signal.lfilter([1, 0.7], 1, x).astype(np.complex64)
        with tempfile.TemporaryDirectory() as folder:
            meta = {"global": {"core:datatype": "cf32_le", "core:version": "1.0.0", "core:sample_rate": 1e6},
                    "captures": [{"core:sample_start": 0}], "annotations": []}
            (Path(folder) / "r.sigmf-meta").write_text(json.dumps(meta))
            x.tofile(Path(folder) / "r.sigmf-data")
            prior = priors.parse(f"gaussian:{folder}/r.sigmf-meta")
            _, wanted = scipy.signal.welch(x, nperseg=256, noverlap=128, return_onesided=False, detrend=False)
            np.testing.assert_allclose(prior.psd(256), wanted / wanted.mean(), rtol=1e-4)
            np.zeros(6000, np.complex64).tofile(Path(folder) / "r.sigmf-data")
            with self.assertRaisesRegex(PriorError, "not all zero"):
                priors.parse(f"gaussian:{folder}/r.sigmf-meta")
            x[:100].tofile(Path(folder) / "r.sigmf-data")
            self.assertEqual(len(priors.parse(f"gaussian:{folder}/r.sigmf-meta").info["psd"]), 64)
            (Path(folder) / "r.sigmf-data").write_bytes(b"")
            with self.assertRaisesRegex(PriorError, "empty|no samples|too few"):
                priors.parse(f"gaussian:{folder}/r.sigmf-meta")


class Raises(torch.nn.Module):
    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        if x.size(0) > 0:
            raise RuntimeError("not my kind of window")
        return x


class WrongShape(torch.nn.Module):
    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        return x[:, :1]


class WrongType(torch.nn.Module):
    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        return x.double()


class Synchronises(torch.nn.Module):
    """Answers side information of the width and the sort asked for, or raises for none."""

    def __init__(self, width: int, value: float, sort: str = "plain"):
        super().__init__()
        self.width, self.value, self.sort = width, value, sort
        self.weight = torch.nn.Parameter(torch.full([1, width], value))

    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        return x * side[:, :1, None]

    @torch.jit.export
    def synchronise(self, y: Tensor, occupied: Tensor) -> Tensor:
        if self.width == 0:
            raise ValueError("cannot synchronise this")
        side = torch.full([y.size(0), self.width], self.value)
        if self.sort == "meta":
            return side.to("meta")
        if self.sort == "complex":
            return torch.complex(side, side)
        if self.sort == "sparse":
            return side.to_sparse()
        if self.sort == "parameter":
            return self.weight.expand(y.size(0), -1)
        return side


class Files(unittest.TestCase):
    info = {"format": 1, "name": "t", "kind": "test"}

    def archive(self, metadata):
        """Contents of a TorchScript file with metadata (str, bytes or None) as prior.json."""
        buffer = io.BytesIO()
        torch.jit.save(torch.jit.script(WrongShape()), buffer, **(
            {} if metadata is None else {"_extra_files": {"prior.json": metadata}}))
        return buffer.getvalue()

    def test_a_prior_survives_its_file(self):
        x = np.ones((2, 32), np.complex64)
        level = np.full(2, 0.5, np.float32)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "p.pt"
            module = Gaussian(np.array([3.0, 1.0, 0.5, 0.1]))
            path.write_bytes(to_bytes(module, {**self.info, "window": 32, "extra": 7}))
            for prior in (load(str(path)), priors.parse(str(path))):
                self.assertEqual((prior.name, prior.window, prior.info["extra"]), ("t", 32, 7))
                np.testing.assert_allclose(prior.denoise(x, level), answer(module, x, 0.5), atol=1e-6)
                with self.assertRaisesRegex(PriorError, "no spectrum"):
                    prior.psd(16)

    def test_files_that_are_no_prior_are_refused_with_a_sentence(self):
        rng = np.random.default_rng(0)
        whole = self.archive(json.dumps(self.info))
        contents = [
            (b"", "not a TorchScript file"), (b"garbage", "not a TorchScript file"),
            (rng.bytes(5000), "not a TorchScript"),
            (b"PK\x03\x04" + rng.bytes(500), "not a TorchScript"), (whole[:-200], "not a TorchScript"),
            (self.archive(None), "without prior.json"), (self.archive(""), "without prior.json"),
            (self.archive("{"), "no JSON"), (self.archive(b"\xff\xfe\x00"), "no JSON"),
            (self.archive("[]"), "another format"), (self.archive("null"), "another format"),
            (self.archive("{}"), "another format")]
        for change, words in (
                ({"format": 2}, "another format"), ({"name": 5}, "must name"), ({"kind": None}, "must name"),
                ({"predicts": "weather"}, "predicts 'weather'; allowed are signal and noise"),
                ({"window": -1}, "window"), ({"window": 2.5}, "window"), ({"window": "64"}, "window"),
                ({"window": True}, "window"), ({"side": 3}, "side"), ({"band": [1]}, "band"),
                ({"band": "wide"}, "band"),
                ({"side": ["start", 1]}, "list of names"), ({"synchronised": "no"}, "synchronised .* true or false"),
                ({"invariances": "phase"}, "invariances"), ({"invariances": [1]}, "invariances"),
                ({"band": [0.1, 0.1]}, "low < high"), ({"band": [-1.5, 0]}, "-1 to 1"), ({"band": [0, True]}, "band"),
                ({"psd": "flat"}, "psd"), ({"psd": []}, "psd"), ({"psd": [0, 0.0]}, "not all 0"),
                ({"psd": [1, -0.1]}, "none negative"), ({"psd": [1, math.nan]}, "psd"), ({"psd": [10**400]}, "psd"),
                ({"alpha_bar": [0, 0.5]}, "alpha_bar .* above 0 and below 1"), ({"alpha_bar": [0.5]}, "alpha_bar"),
                ({"alpha_bar": 0.5}, "alpha_bar"), ({"modulation": "qpsk"}, "modulation"),
                ({"modulation": {"constellation": "qam17"}}, "unknown constellation"),
                ({"modulation": {"constellation": "qpsk"}}, "samples_per_symbol"),
                ({"modulation": {"constellation": "qpsk", "samples_per_symbol": 0, "rolloff": 0.5, "span": 8,
                                 "first": 0}}, "samples_per_symbol 0")):
            contents.append((self.archive(json.dumps({**self.info, **change})), words))
        with tempfile.TemporaryDirectory() as folder:
            for i, (data, words) in enumerate(contents):
                path = Path(folder) / f"{i}.pt"
                path.write_bytes(data)
                with self.assertRaisesRegex(PriorError, words, msg=f"case {i}") as caught:
                    priors.parse(str(path))
                self.assertIn(path.name, str(caught.exception))
            with self.assertRaisesRegex(PriorError, "cannot be read: No such file"):
                load(str(Path(folder) / "none.pt"))
            with self.assertRaisesRegex(PriorError, "cannot be read"):
                load(folder)

    def test_a_module_that_raises_or_answers_nonsense_gives_a_clear_error(self):
        x, level = np.ones((2, 8), np.complex64), np.full(2, 0.5, np.float32)
        for module, words in ((Raises(), "the prior failed: .*not my kind of window"),
                              (WrongShape(), r"returned \[2, 1, 8\].*input of \[2, 2, 8\]"),
                              (WrongType(), r"returned \[2, 2, 8\] Double")):
            with self.assertRaisesRegex(RuntimeError, words):
                from_module(module, dict(self.info)).denoise(x, level)

    def test_side_information_of_the_wrong_shape_is_an_error_and_no_crash(self):
        x, level = np.ones((2, 80), np.complex64), np.full(2, 0.5, np.float32)
        prior = priors.parse("cp-ofdm:qpsk,fft=16,cp=4")
        with self.assertRaises(RuntimeError):
            prior.denoise(x, level, np.zeros((2, 1), np.float32))
        for bad in (np.zeros((3, 2), np.float32), np.zeros(2, np.float32)):
            with self.assertRaisesRegex(ValueError, "side"):
                prior.denoise(x, level, bad)
        with self.assertRaisesRegex(ValueError, "alpha_bar"):
            prior.denoise(x, np.ones(3, np.float32) / 2)

    def test_a_prior_that_synchronises_itself_is_asked_once_and_checked(self):
        info = self.info | {"side": ["start"], "synchronised": False, "synchronise": True, "frame": 4}
        windows = np.ones((70, 8), np.complex64)
        side = from_module(Synchronises(1, 0.5), info).side_information(windows, [])
        np.testing.assert_array_equal(side, np.full((70, 1), 0.5, np.float32))
        for module, words in ((Synchronises(2, 0.5), "side information of 1 values"), (WrongShape(), "no method"),
                              (Synchronises(1, math.nan), "finite"),
                              (Synchronises(0, 0.0), "synchronise: [^\\n]*ValueError: cannot synchronise this$"),
                              (Synchronises(1, 0.5, "meta"), "finite, real"),
                              (Synchronises(1, 0.5, "complex"), "finite, real"),
                              (Synchronises(1, 0.5, "sparse"), "finite, real")):
            with self.assertRaisesRegex(PriorError, words), warnings.catch_warnings():
                warnings.simplefilter("error")
                from_module(module, info).side_information(windows, [])
        learned = from_module(Synchronises(1, 0.5, "parameter"), info).side_information(windows, [])
        np.testing.assert_array_equal(learned, side)
        with self.assertRaisesRegex(PriorError, "at least 7 samples, not 6"):
            from_module(Synchronises(1, 0.5), info).side_information(windows[:, :6], [])
        for wrong in ({"synchronise": 1}, {"frame": None}, {"frame": 1}, {"side": []}):
            with self.assertRaisesRegex(PriorError, "synchronise"):
                from_module(Synchronises(1, 0.5), info | wrong)

    def test_a_file_that_calls_itself_cp_ofdm_is_taken_for_a_file(self):
        info = self.info | {"kind": "cp-ofdm", "side": ["start"], "synchronised": False}
        windows = np.ones((2, 8), np.complex64)
        for sync in ({}, {"sync": "estimated"}):
            self.assertIsNone(Prior(to_bytes(Synchronises(1, 0.5), info | sync), "test").side_information(windows, []))
        info |= {"synchronise": True, "frame": 4}
        side = Prior(to_bytes(Synchronises(1, 0.5), info), "test").side_information(windows, [])
        np.testing.assert_array_equal(side, np.full((2, 1), 0.5, np.float32))

    def test_the_reason_of_a_failure_is_its_first_line_that_names_an_error(self):
        for text, reason in (("trace\nRuntimeError: bad shape\nfurther advice", "RuntimeError: bad shape"),
                             ("missing value\nat frame 0", "missing value"), ("", "ValueError")):
            self.assertEqual(_reason(ValueError(text)), reason)

    def test_an_unknown_device_is_refused(self):
        with self.assertRaisesRegex(PriorError, "device 'abacus' is unknown; allowed are cpu and cuda"):
            priors.parse("rrc:qpsk").engine("abacus")

    def test_metadata_that_predict_noise_are_seen_whatever_the_spaces(self):
        module = Gaussian(np.ones(4))
        x, level = np.ones((1, 8), np.complex64), np.full(1, 0.64, np.float32)
        buffer = io.BytesIO()
        torch.jit.save(torch.jit.script(module), buffer,
                       _extra_files={"prior.json": json.dumps({**self.info, "predicts": "noise"}, indent=4)})
        estimate = answer(module, x, 0.64)
        got = Prior(buffer.getvalue(), "test").denoise(x, level)
        np.testing.assert_allclose(got, (x - 0.6 * estimate) / 0.8, atol=1e-5)


if __name__ == "__main__":
    unittest.main()
