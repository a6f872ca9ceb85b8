# SPDX-License-Identifier: GPL-3.0-or-later
"""training/fit.py: recovers what a recording holds, untold; refuses what it cannot use."""

import contextlib
import io
import json
import os
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
from gnuradio.unmix import demodulation, priors, separators, signals
from gnuradio.unmix.captures import open_capture
from gnuradio.unmix.priors import constellation as cons

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "training"))
import bursts  # noqa: E402
import fit  # noqa: E402
import frames  # noqa: E402

EXCERPT = str(Path(__file__).resolve().parent.parent / "apps/samples/wifi_excerpt.sigmf-meta")


def sigmf(name, samples, rate):
    """Write a SigMF recording in the current folder."""
    samples.astype(np.complex64).tofile(f"{name}.sigmf-data")
    Path(f"{name}.sigmf-meta").write_text(json.dumps({
        "global": {"core:datatype": "cf32_le", "core:sample_rate": rate, "core:version": "1.0.0"},
        "captures": [{"core:sample_start": 0}], "annotations": []}))


def recording(alphabet, samples, channel=(1.0,), snr_db=30, offset=0.0, seed=0):
    """One CP-OFDM transmission in white noise, complex64 [samples]."""
    rng = np.random.default_rng(seed)
    wave = np.convolve(signals.cp_ofdm(rng, 1, samples + 64, alphabet)[0][0], channel)[32:32 + samples]
    wave = wave * np.exp(2j * np.pi * offset * np.arange(samples)) / np.sqrt(np.mean(np.abs(wave)**2))
    return (wave + signals.noise(rng, wave.shape, 10**(-snr_db / 10))).astype(np.complex64)


class Fit(unittest.TestCase):
    def test_start_and_phase_differ_between_windows(self):
        for alphabet, offset in (("bpsk", 0.0), ("qpsk", 1.7e-3), ("8psk", 0.0), ("16qam", -1e-3)):
            rng = np.random.default_rng(1)
            waves, side = signals.cp_ofdm(rng, 60, 2560, alphabet)
            waves = waves * np.exp(2j * np.pi * offset * np.arange(2560)) + signals.noise(rng, waves.shape, 1e-3)
            found = frames.fit(waves)
            self.assertEqual((found.lag, found.length, found.count, found.alphabet), (64, 80, 56, alphabet))
            self.assertAlmostEqual(found.frequency, offset, delta=1e-6)
            np.testing.assert_array_equal(found.starts, side[:, 0])
            self.assertLess(abs(10 * np.log10(found.residual / found.noise)), 0.5)

    def test_independent_components_need_no_carriers(self):
        rng = np.random.default_rng(2)
        lag, length, count = 14, 18, 8
        body = np.linalg.qr(rng.standard_normal((lag, lag)) + 1j * rng.standard_normal((lag, lag)))[0][:, :count]
        mixing = np.concatenate([body[-4:], body]) * np.sqrt(lag / count)
        symbols = np.sign(rng.standard_normal((60, 72, count))) + 1j * np.sign(rng.standard_normal((60, 72, count)))
        waves = (symbols / np.sqrt(2) @ mixing.T).reshape(60, -1)[:, :1280]
        found = frames.fit(waves + signals.noise(rng, waves.shape, 1e-3))
        self.assertEqual((found.lag, found.length, found.count, found.carriers), (lag, length, count, 0))
        self.assertLess(found.residual, 3e-3)

    def test_no_frames_in_noise(self):
        with self.assertRaisesRegex(frames.NoFrames, "repeats itself"):
            frames.fit(signals.noise(np.random.default_rng(3), (40, 2560), 1.0))

    def test_silence_between_bursts_is_left_out(self):
        waves = signals.cp_ofdm(np.random.default_rng(4), 60, 2560, "bpsk")[0]
        waves[::3] = 0
        found = frames.fit(waves)
        self.assertEqual((found.alphabet, len(found.windows)), ("bpsk", 40))


def packets(rng, alphabet, count, symbols=14):
    """802.11a packets through one filter, each with its own fractional timing and phase: samples, data's beginnings."""
    k = bursts.CARRIERS
    gains = np.exp(-(k / 25.0)**2 / 2 - 0.4j * k) / np.sqrt(np.sum(np.exp(-(k / 25.0)**2)))
    preamble = bursts.standard_preamble(gains)
    pieces, begins, total = [], [], 0
    turns = np.exp(2j * np.pi * np.outer(np.arange(80) - 16, k) / 64)
    for _ in range(count):
        points = cons.modulate(rng.integers(0, 2, (symbols, 56 * cons.bits_per_symbol(alphabet))), alphabet)
        points[:, bursts.PILOTS] = rng.choice([-1, 1], (symbols, 4))
        points[:, bursts.OUTER] = 0
        data = ((points * gains) @ turns.T).ravel()
        gap = int(rng.integers(30, 120))
        begins.append(total + gap + 320)
        wave = np.concatenate([np.zeros(gap), preamble, data])
        late = np.fft.ifft(np.fft.fft(wave) * np.exp(-2j * np.pi * np.fft.fftfreq(len(wave)) * rng.uniform(-0.4, 0.4)))
        pieces.append(late * np.exp(2j * np.pi * rng.uniform()))
        total += len(wave)
    samples = np.concatenate(pieces) * np.exp(-2j * np.pi * 1.77e-3 * np.arange(total))
    return samples + signals.noise(rng, samples.shape, 1e-3), np.array(begins)


class Bursts(unittest.TestCase):
    def test_learns_gains_and_finds_the_bursts_in_mixtures(self):
        rng = np.random.default_rng(6)
        found = bursts.learn([packets(rng, alphabet, 16)[0] for alphabet in ("bpsk", "qpsk", "16qam")])
        for alphabet, counted in zip(("bpsk", "qpsk", "16qam"), found.packets, strict=True):
            self.assertEqual(list(counted), [alphabet])
            self.assertIn(counted[alphabet], (15, 16))  # the last one may lie behind the last whole window
        self.assertLess(found.residual, 10**-2)
        prior = found.prior.requires_grad_(False)
        self.assertAlmostEqual(prior.frequency, -1.77e-3, delta=1e-5)
        k = bursts.CARRIERS[~bursts.OUTER]
        size = np.hypot(*prior.mixing[16].numpy().T)[~bursts.OUTER]
        np.testing.assert_allclose(size / size.max(), np.exp(-(k / 25.0)**2 / 2), rtol=0.05)
        wrapped = priors.from_module(prior, bursts.card(prior, "bursts", "test", "CC0-1.0"))
        soi = priors.parse("rrc:qpsk")
        for index, alphabet in enumerate(("bpsk", "qpsk", "16qam")):
            samples, begins = packets(rng, alphabet, 8)
            samples = samples / np.sqrt(np.mean(np.abs(samples)**2))
            starts = begins[:-1] - 300
            windows = np.stack([samples[s:s + 1360] for s in starts]).astype(np.complex64)
            wave, bits = signals.linear_modulation(rng, len(windows), 85)
            mixture = (wave + np.float32(signals.kappa(-9)) * windows).astype(np.complex64)
            side = wrapped.side_information(mixture, [soi])
            self.assertTrue(np.all(np.abs(side[:, 0] - 300) <= 2), alphabet)
            self.assertTrue(np.all(side[:, 6] == index), alphabet)
            self.assertTrue(np.all(np.abs(side[:, 40] + 20) <= 2), alphabet)
            problem = separators.Problem(mixture, [soi, wrapped], np.array([1, signals.kappa(-9)]), side=[None, side])
            source = separators.separate(problem, "pnp-dr").sources[0]
            wrong = demodulation.decide(demodulation.matched_filter(source, soi.modulation), soi.modulation) != bits
            self.assertLess(wrong[:, 16:-16].mean(), 0.01, alphabet)  # the matched filter: 0.13

    def test_odd_windows_are_harmless(self):
        prior = priors.parse("wifi")
        rng = np.random.default_rng(8)
        for windows in (np.zeros((2, 400), np.complex64), signals.noise(rng, (3, 160), 1.0),
                        signals.noise(rng, (2, 2560), 1e-12)):
            side = prior.side_information(windows, [priors.parse("rrc:qpsk")])
            self.assertTrue(np.isfinite(side).all())
            found = prior.denoise(windows, np.full(len(windows), 0.5, np.float32), side)
            self.assertTrue(np.isfinite(found).all())

    def test_needs_bursts(self):
        rng = np.random.default_rng(7)
        noise = signals.noise(rng, (20_000,), 1.0).astype(complex)
        for other in (noise, signals.cp_ofdm(rng, 1, 20_000, "qpsk")[0][0], np.exp(0.1j * np.arange(20_000))):
            with self.assertRaisesRegex(bursts.NoBursts, "no preambles"):
                bursts.learn([other])
        samples, begins = packets(rng, "qpsk", 12)
        for begin in begins:  # nothing behind the preambles
            samples[begin:begin + 1120] = noise[:1120]
        with self.assertRaisesRegex(bursts.NoBursts, "12 preambles of 802.11 were found, but no bursts"):
            bursts.learn([samples])

    def test_idle_time_is_left_out(self):
        samples, begins = packets(np.random.default_rng(9), "qpsk", 6)
        parts = np.split(samples, begins[1:] - 320)
        idle = signals.noise(np.random.default_rng(10), (6, 7000), 1e-3)
        spaced = np.concatenate([piece for pair in zip(parts, idle, strict=True) for piece in pair])
        self.assertLess(abs(len(bursts.active(spaced)) - len(samples) - 6 * 160), 6 * 64)
        self.assertEqual(len(bursts.active(samples)), len(samples))


class CommandLine(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.before = os.getcwd()
        os.chdir(self.folder.name)

    def tearDown(self):
        os.chdir(self.before)
        self.folder.cleanup()

    def run_fit(self, *arguments):
        """Exit status, stdout, stderr."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = fit.main(list(arguments))
            except SystemExit as leave:
                status = leave.code
        return status, out.getvalue(), err.getvalue()

    def refused(self, *arguments, words):
        files = set(os.listdir())
        status, _, err = self.run_fit(*arguments)
        self.assertEqual(status, 2, err)
        self.assertEqual(len(err.strip().splitlines()), 1, err)
        self.assertIn(words, err)
        self.assertEqual(set(os.listdir()), files)

    def test_ofdm_through_a_channel(self):
        recording("qpsk", 200_000, (1, 0.3j, -0.2), 25).tofile("ofdm.cf32")
        status, out, err = self.run_fit("ofdm.cf32", "--samp-rate", "1M", "--json", "found.json", "--licence",
                                        "CC0-1.0")
        self.assertEqual(status, 0, err)
        self.assertIn("alphabet qpsk", out)
        found = json.loads(Path("found.json").read_text())
        self.assertEqual((found["kind"], found["frames"]["cycle"]), ("frames", 80))
        self.assertLess(found["error"][1], 0.3 * found["error_gaussian"][1])
        self.assertTrue(all(row["pnp-dr"] < 1e-3 for row in found["serving"] if row["sir_db"] >= -18))
        self.assertLessEqual(found["serves_from_db"], -18)
        self.assertIn("bursts: none. no preambles", out)
        prior = priors.load("ofdm_prior.pt")
        self.assertEqual((prior.name, prior.info["licence"], prior.info["frame"]), ("ofdm_prior", "CC0-1.0", 80))
        self.assertEqual(len(prior.info["psd"]), 1024)

    def test_wifi_packets(self):
        samples = open_capture(EXCERPT).read(0, 40_000)
        for name, part in (("a", samples[:20_000]), ("b", samples[20_000:])):
            sigmf(name, part, 20e6)
        with mock.patch.multiple(fit, SIRS=(-12,), PIECES_EACH=5, PIECES=10, LEVELS=fit.LEVELS[:4]):
            status, out, err = self.run_fit("a.sigmf-meta", "b.sigmf-meta", "--json", "found.json", "--output",
                                            "packets.pt")
        self.assertEqual((status, err), (0, ""))
        self.assertRegex(out, r"frames: none\.")
        self.assertRegex(out, r"bursts: 802.11 .* packets \(\d+ bpsk\), \d+ preambles, carrier offset -35\d\d\d")
        self.assertIn("kept: bursts", out)
        found = json.loads(Path("found.json").read_text())
        self.assertEqual((found["kind"], len(found["bursts"]["packets_each"])), ("bursts", 2))
        self.assertLess(found["bursts"]["residual"], 10**-2)
        self.assertLess(found["serving"][0]["pnp-dr"], 0.1 * found["serving"][0]["matched-filter"])
        self.assertEqual([recording["serves_from_db"] for recording in found["recordings"]], [-12, -12])
        self.assertEqual(priors.load("packets.pt").info["kind"], "ofdm-bursts")

    def test_wifi_at_another_rate(self):
        samples = open_capture(EXCERPT).read(0, 24_000)
        np.repeat(samples, 2).tofile("fast.cf32")
        self.refused("fast.cf32", "--kind", "bursts", "--samp-rate", "40M", words="recorded were 4e+07 samples/s")
        samples[:6500].tofile("brief.cf32")
        self.refused("brief.cf32", "--kind", "bursts", words="too short for bursts")

    def test_gaussian_recording(self):
        rng = np.random.default_rng(5)
        np.convolve(signals.noise(rng, 60_000, 1.0), np.hanning(9)).astype(np.complex64).tofile("noise.cf32")
        status, out, err = self.run_fit("noise.cf32", "--output", "noise.pt")
        self.assertEqual(status, 0, err)
        self.assertIn("frames: none", out)
        self.assertIn("bursts: none", out)
        self.assertEqual(priors.load("noise.pt").info["kind"], "gaussian")
        self.refused("noise.cf32", "--kind", "frames", words="no frames were found")

    def test_refusals(self):
        samples = recording("qpsk", 4000)
        samples.tofile("good.cf32")
        samples[:1999].tofile("short.cf32")
        np.zeros(4000, np.complex64).tofile("silent.cf32")
        broken = samples.copy()
        broken[1234] = np.nan
        broken.tofile("nan.cf32")
        sigmf("rate", samples, 2e6)
        sigmf("other", samples, 4e6)
        ends = samples.copy()
        ends[3000:] = 0
        ends.tofile("ends.cf32")
        self.refused("short.cf32", words="too short")
        self.refused("silent.cf32", words="same value")
        self.refused("nan.cf32", words="Sample 1234")
        self.refused("missing.cf32", words="no file")
        self.refused("rate.sigmf-meta", "--samp-rate", "1M", words="2e+06 samples/s")
        self.refused("rate.sigmf-meta", "other.sigmf-meta", words="different sample rates, 2e+06 and 4e+06 samples/s")
        self.refused("rate.sigmf-meta", "good.cf32", words="good.cf32 does not say its sample rate")
        self.refused("good.cf32", "short.cf32", words="short.cf32 is too short")
        self.refused("ends.cf32", words="the last 25 % of ends.cf32 are silent")
        self.refused("good.cf32", "--kind", "bursts", words="too short for bursts")
        self.refused("good.cf32", "--held-out", "1", words="--held-out must be")
        self.refused("good.cf32", "--minutes", "3", words="--kind diffwave")
        self.refused("good.cf32", "--kind", "diffwave", "--json", "x.json", words="--json")
        self.refused("good.cf32", "--output", "nowhere/x.pt", words="does not exist")
        self.refused("good.cf32", "--seed", "-1", words="--seed")
        self.refused("good.cf32", "--kind", "diffwave", "--minutes", "0", words="above 0")
        with mock.patch.dict(sys.modules, {"data": None}):  # as where Sionna is not installed
            self.refused("good.cf32", "--kind", "diffwave", words="needs the training environment")

    def test_cancelled(self):
        recording("qpsk", 4000).tofile("good.cf32")
        with mock.patch.object(fit, "choose", side_effect=KeyboardInterrupt):
            status, _, err = self.run_fit("good.cf32")
        self.assertEqual((status, os.listdir()), (3, ["good.cf32"]))
        self.assertIn("nothing was written", err)

    def test_clipping_is_said(self):
        samples = recording("qpsk", 30_000)
        for name, limit in (("clipped", 1.0), ("touched", 1.9), ("clean", 100.0)):
            clipped = np.clip(samples.real, -limit, limit) + 1j * np.clip(samples.imag, -limit, limit)
            clipped.astype(np.complex64).tofile(f"{name}.cf32")
        self.refused("clipped.cf32", words="clipped.cf32 is clipped: 29")
        with mock.patch.multiple(fit, SIRS=(-12,), PIECES=10):
            for name, words in (("touched", "touched.cf32 may be clipped"), ("clean", "")):
                status, _, err = self.run_fit(f"{name}.cf32", "--kind", "gaussian")
                self.assertEqual((status, err.count("warning")), (0, 1 if words else 0))
                self.assertIn(words, err)

    def test_real_recording_is_not_clipped(self):
        recording("qpsk", 30_000).real.astype(np.complex64).tofile("real.cf32")
        with mock.patch.multiple(fit, SIRS=(-12,), PIECES=10):
            self.assertEqual(self.run_fit("real.cf32", "--kind", "gaussian")[::2], (0, ""))


if __name__ == "__main__":
    unittest.main()
