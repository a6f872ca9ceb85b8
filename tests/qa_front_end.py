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
        y = mixture(1, "bpsk")
        self.assertTrue(estimate_front_end(Samples(y), circular=True).image)  # its square does not vanish
        self.assertFalse(estimate_front_end(Samples(y), circular=False))

    def test_short_captures_and_silence_show_nothing(self):
        self.assertFalse(estimate_front_end(Samples(mixture(0, symbols=1000) + 5), circular=True))
        self.assertFalse(estimate_front_end(Samples(np.zeros(200000, np.complex64)), circular=True))

    def test_nothing_found_leaves_samples_as_they_are(self):
        y = mixture(0, symbols=100)
        self.assertIs(FrontEnd().correct(y), y)
        self.assertEqual(CorrectedCapture(Samples(y), FrontEnd()).sample_rate, 20e6)


if __name__ == "__main__":
    unittest.main()
