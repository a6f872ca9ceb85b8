# SPDX-License-Identifier: GPL-3.0-or-later
"""OFDM parameters found in recordings: against simulations of known truth, a recording, and what is no OFDM."""

import tempfile
import unittest
from pathlib import Path

import numpy as np
from gnuradio.unmix import priors, signals
from gnuradio.unmix.ofdm_parameters import estimate_ofdm
from gnuradio.unmix.priors import PriorError

SAMPLES = Path(__file__).parents[1] / "apps" / "samples"
RECORDED = SAMPLES / "wifi_excerpt.sigmf-meta"


def ofdm(rng, name, fft, cp, active, symbols, offset=0.0, snr_db=10.0):
    """A signal with noise, carriers off by `offset` carriers; complex64 [n], and its first boundary."""
    count = symbols * (fft + cp)
    wave, side = signals.cp_ofdm(rng, 1, count, name, fft, cp, active)
    wave = wave[0] * np.exp(2j * np.pi * offset / fft * np.arange(count))
    return (wave + signals.noise(rng, (count,), 10**(-snr_db / 10))).astype(np.complex64), int(side[0, 0])


def soi(rng, count, level_db):
    wave = signals.linear_modulation(rng, 1, -(-count // 16), "qpsk", 16)[0][0, :count]
    return 10**(level_db / 20) * wave


class Parameters(unittest.TestCase):
    def check(self, samples, wanted):
        found = estimate_ofdm(samples)
        self.assertEqual((found.constellation, found.fft, found.cp, found.active), wanted)
        return found

    def test_a_grid_at_10_db(self):
        rng = np.random.default_rng(1)
        for wanted in (("qpsk", 32, 1, 16), ("bpsk", 32, 16, 26), ("16qam", 32, 8, 28), ("8psk", 64, 2, 47),
                       ("16qam", 64, 16, 52), ("qpsk", 128, 9, 101), ("8psk", 256, 64, 200), ("16qam", 512, 16, 448),
                       ("bpsk", 512, 256, 300)):
            with self.subTest(wanted):
                offset = rng.uniform(-0.3, 0.3)
                samples, start = ofdm(rng, *wanted, 800 if wanted[2] <= 2 else 300, offset)
                found = self.check(1000 * samples, wanted)
                _, fft, cp, _ = wanted
                apart = (found.start - start + (fft + cp) // 2) % (fft + cp) - (fft + cp) // 2
                self.assertLessEqual(abs(apart), 1 + cp // 8)
                self.assertAlmostEqual(found.frequency * fft, offset, delta=0.03)
                self.assertAlmostEqual(found.snr_db, 10, delta=1.5)
                self.assertTrue(found.dc_null)

    def test_the_longest_transform_with_the_shortest_prefix(self):
        samples, _ = ofdm(np.random.default_rng(2), "qpsk", 2048, 64, 1024, 80)
        self.check(samples, ("qpsk", 2048, 64, 1024))

    def test_under_a_narrowband_signal_9_db_weaker(self):
        rng = np.random.default_rng(3)
        for wanted in (("qpsk", 32, 4, 16), ("16qam", 64, 16, 56), ("8psk", 128, 4, 95), ("bpsk", 512, 64, 416)):
            with self.subTest(wanted):
                samples, _ = ofdm(rng, *wanted, 300, 0.1)
                self.check(samples + soi(rng, len(samples), -9), wanted)

    def test_packets_that_come_and_go(self):
        rng = np.random.default_rng(4)
        pieces = []
        for _ in range(12):
            pieces += [np.zeros(rng.integers(100, 900)), ofdm(rng, "qpsk", 64, 16, 52, 60, snr_db=25)[0]]
        samples = np.concatenate(pieces)
        self.check(samples + signals.noise(rng, samples.shape, 0.003), ("qpsk", 64, 16, 52))

    def test_known_parameters_are_taken_over(self):
        samples, _ = ofdm(np.random.default_rng(5), "qpsk", 64, 16, 52, 200)
        found = estimate_ofdm(samples, fft=64, cp=16, active=48, constellation="8psk")
        self.assertEqual((found.fft, found.cp, found.active, found.constellation), (64, 16, 48, "8psk"))

    def test_carriers_of_an_unknown_alphabet_are_said_to_be(self):
        rng = np.random.default_rng(6)
        spectrum = np.zeros((300, 64), complex)
        spectrum[:, np.r_[1:27, 38:64]] = (2 * rng.integers(0, 8, (300, 52, 2)) - 7).dot([1, 1j])  # 64QAM
        body = np.fft.ifft(spectrum)
        samples = np.concatenate([body[:, 48:], body], 1).ravel() / body.std()
        found = estimate_ofdm(samples + signals.noise(rng, samples.shape, 1e-3))
        self.assertEqual((found.fft, found.cp, found.active, found.constellation), (64, 16, 52, None))

    def test_what_is_no_ofdm_is_refused_with_a_sentence(self):
        rng = np.random.default_rng(7)
        for n in (300, 5000, 60000):
            with self.assertRaisesRegex(ValueError, "^no OFDM shows in .*; give a longer recording"):
                estimate_ofdm(signals.noise(rng, (n,), 1.0))
        for sps in (4, 16, 24, 64):
            wave = signals.linear_modulation(rng, 1, 60000 // sps, "qpsk", sps)[0][0]
            with self.assertRaisesRegex(ValueError, "no OFDM shows", msg=f"{sps}"):
                estimate_ofdm(wave + signals.noise(rng, wave.shape, 0.01))
        tone = np.exp(0.3j * np.arange(30000))
        for samples, words in (
                (tone, "no OFDM shows"), (np.zeros(30000, complex), "silent or constant"),
                (np.full(30000, 1 + 1j), "silent or constant"), (np.ones(50, complex), "too few"),
                (np.full(30000, np.nan + 0j), "finite"), (np.ones(30000), "complex samples"),
                (np.ones((2, 30000), complex), "one channel")):
            with self.assertRaisesRegex(ValueError, words):
                estimate_ofdm(samples)


class Specification(unittest.TestCase):
    def test_a_recording_names_its_parameters(self):
        prior = priors.parse(f"cp-ofdm:auto,recording={RECORDED}")
        self.assertEqual(prior.name, "cp-ofdm:bpsk,fft=64,cp=16,active=52")
        self.assertRegex(priors.describe(prior), r"^cp-ofdm:bpsk,.*found in wifi_excerpt.sigmf-meta")
        self.assertNotIn("found", priors.describe(priors.parse(prior.name)))

    def test_a_mixture_names_the_interference(self):
        prior = priors.parse(f"cp-ofdm:auto,recording={SAMPLES / 'qpsk_under_ofdm.sigmf-meta'}")
        self.assertEqual(prior.name, "cp-ofdm:qpsk,fft=64,cp=16,active=56")

    def test_given_keys_win(self):
        prior = priors.parse(f"cp-ofdm:auto,constellation=qpsk,active=56,sync=unknown,recording={RECORDED}")
        self.assertEqual(prior.name, "cp-ofdm:qpsk,fft=64,cp=16,active=56,sync=unknown")

    def test_a_name_with_commas_and_spaces(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a, b  c.cf32"
            ofdm(np.random.default_rng(8), "qpsk", 64, 16, 52, 200)[0].tofile(path)
            prior = priors.parse(f"cp-ofdm:auto,recording={path},cp=16")
            self.assertEqual(prior.name, "cp-ofdm:qpsk,fft=64,cp=16,active=52")

    def test_what_cannot_be_found_gives_one_sentence(self):
        with tempfile.TemporaryDirectory() as folder:
            signals.noise(np.random.default_rng(9), (9000,), 1.0).tofile(f"{folder}/noise.cf32")
            start = "cp-ofdm:auto,recording="
            for text, words in (
                    (f"{start}{folder}/noise.cf32", "noise.cf32: no OFDM shows.*; give a longer recording"),
                    (f"{start}{folder}/none.cf32", "no file"), ("cp-ofdm:auto", "needs a recording"),
                    ("cp-ofdm:auto,fft=64", "needs a recording"), (start, "key=value"),
                    (f"{start}{RECORDED},colour=red", "unknown parameter 'colour'"),
                    (f"{start}{RECORDED},constellation=qam17", "constellation=qam17.*unknown"),
                    (f"{start}{RECORDED},fft=many", "whole number"), (f"{start}{RECORDED},fft=0", "fft=0"),
                    (f"{start}{RECORDED},fft=9999", "fft=9999"), (f"{start}{RECORDED},cp=0", "cp=0"),
                    (f"{start}{RECORDED},fft=48", "lag of 48"), (f"{start}{RECORDED},active=99", "active=99"),
                    (f"{start}{RECORDED},active=0", "active=0"),
                    (f"{start}{RECORDED},cp=99999", "no OFDM|cp=99999"), (f"{start}{RECORDED},sync=no", "sync=no")):
                with self.assertRaisesRegex(PriorError, words, msg=text) as caught:
                    priors.parse(text)
                self.assertNotIn("\n", str(caught.exception))


if __name__ == "__main__":
    unittest.main()
