#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""DC offset and IQ imbalance are found in mixtures and taken back, and nothing is found where there is nothing."""

import unittest

import numpy as np
from gnuradio.unmix import signals
from gnuradio.unmix.front_end import CorrectedCapture, FrontEnd, estimate_front_end


class Samples:
    """An array in the place of a capture."""

    def __init__(self, samples):
        self.samples, self.length, self.sample_rate = samples, len(samples), 20e6

    def read(self, start, count):
        return self.samples[start:start + count]


def mixture(seed, constellation="qpsk", symbols=20000):
    rng = np.random.default_rng(seed)
    soi, _ = signals.linear_modulation(rng, 1, symbols, constellation)
    other, _ = signals.cp_ofdm(rng, 1, soi.shape[1])
    return (soi + signals.kappa(-9) * other)[0]


def front_end(y, gain_db, degrees, dc):
    """I and Q through unequal gains and a skewed axis, as a mixer does it; dc relative to the rms."""
    gain, angle = 10 ** (gain_db / 40), np.radians(degrees) / 2
    i = gain * (y.real * np.cos(angle) + y.imag * np.sin(angle))
    q = (y.imag * np.cos(angle) + y.real * np.sin(angle)) / gain
    return (i + 1j * q + dc * np.sqrt(np.mean(np.abs(y) ** 2))).astype(np.complex64)


def under_packets(seed, random_phases, length=160000):
    """QPSK 9 dB below bursts of 802.11-like BPSK OFDM (a training symbol, pilots, 30 to 200 symbols) by a channel."""
    rng = np.random.default_rng(seed)
    taps = (rng.standard_normal(4) + 1j * rng.standard_normal(4)) * np.exp(-np.arange(4) / 2)
    training, carriers = rng.choice([-1, 1], 52), np.r_[1:27, 38:64]
    pieces, count = [], 0
    while count < length:
        symbols = np.zeros((rng.integers(30, 200), 64))
        symbols[:, carriers] = rng.choice([-1, 1], (len(symbols), 52))
        symbols[:2, carriers] = training
        symbols[2:, [7, 21, 43, 57]] = rng.choice([-1, 1], (len(symbols) - 2, 1)) * np.array([1, -1, 1, 1])
        waves = np.fft.ifft(symbols) * 64 / 52**0.5
        burst = np.concatenate([waves[:, -16:], waves], 1).ravel()
        burst = burst * np.exp(2j * np.pi * rng.random()) if random_phases else burst
        pieces += [burst, np.zeros(rng.integers(50, 400))]
        count += len(burst) + len(pieces[-1])
    other = np.convolve(np.concatenate(pieces)[:length], taps / np.linalg.norm(taps))[:length]
    soi, _ = signals.linear_modulation(rng, 1, length // 16)
    return (soi[0] + signals.kappa(-9) * other).astype(np.complex64)


class Estimates(unittest.TestCase):
    def test_nothing_is_found_in_clean_captures(self):
        for seed in range(8):
            self.assertFalse(estimate_front_end(Samples(mixture(seed)), circular=True), f"seed {seed}")

    def test_faults_are_found_and_taken_back(self):
        faults = ((1.0, 5.0, 0.1), (0.0, 0.0, 0.03j), (1.0, 5.0, 0.0), (-2.0, 1.0, 0.3))
        for seed, (gain, angle, dc) in enumerate(faults):
            y = mixture(seed)
            z = front_end(y, gain, angle, dc)
            found = estimate_front_end(Samples(z), circular=True)
            self.assertAlmostEqual(found.imbalance[0], gain, delta=0.15)
            self.assertAlmostEqual(abs(found.imbalance[1]), angle, delta=0.7)
            back = CorrectedCapture(Samples(z), found).read(0, len(z))
            scale = np.vdot(y, back) / np.vdot(y, y)
            left = np.mean(np.abs(back - scale * y) ** 2) / np.mean(np.abs(scale * y) ** 2)
            self.assertLess(10 * np.log10(left), -40)

    def test_bpsk_is_not_taken_for_an_imbalance(self):
        rng = np.random.default_rng(1)
        wave = signals.linear_modulation(rng, 1, 20000, "bpsk")[0]
        alone = (wave + signals.noise(rng, wave.shape, 0.01))[0].astype(np.complex64)
        self.assertTrue(estimate_front_end(Samples(alone), circular=True).image)  # its square does not vanish
        for y in (alone, mixture(1, "bpsk")):
            self.assertFalse(estimate_front_end(Samples(y), circular=False))
        self.assertFalse(estimate_front_end(Samples(mixture(1, "bpsk")), circular=True))  # at some frequencies only

    def test_packets_of_bpsk_are_not_taken_for_an_imbalance(self):
        """Their squares' mean is up to 0.06 of the power, the same in all of them where their phases are."""
        for random_phases in (True, False):
            for seed in range(4):
                y = under_packets(seed, random_phases)
                self.assertFalse(estimate_front_end(Samples(y), circular=True), f"seed {seed}")
        self.assertGreater(np.abs(np.mean(y**2)) / np.mean(np.abs(y) ** 2), 0.01)

    def test_an_imbalance_is_found_under_packets_of_bpsk(self):
        y = under_packets(0, True)
        for gain, angle in ((1.0, 5.0), (-0.5, 3.0)):
            z = front_end(y, gain, angle, 0.1)
            found = estimate_front_end(Samples(z), circular=True)
            back = CorrectedCapture(Samples(z), found).read(0, len(z))
            scale = np.vdot(y, back) / np.vdot(y, y)
            left = np.mean(np.abs(back - scale * y) ** 2) / np.mean(np.abs(scale * y) ** 2)
            self.assertLess(10 * np.log10(left), -38)

    def test_short_captures_and_silence_show_nothing(self):
        self.assertFalse(estimate_front_end(Samples(mixture(0, symbols=1000) + 5), circular=True))
        self.assertFalse(estimate_front_end(Samples(np.zeros(200000, np.complex64)), circular=True))

    def test_nothing_found_leaves_samples_as_they_are(self):
        y = mixture(0, symbols=100)
        self.assertIs(FrontEnd().correct(y), y)
        self.assertEqual(CorrectedCapture(Samples(y), FrontEnd()).sample_rate, 20e6)


if __name__ == "__main__":
    unittest.main()
