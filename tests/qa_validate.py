# SPDX-License-Identifier: GPL-3.0-or-later
"""training/validate.py and training/probe.py: bound and floor against formulas, samples against what they should be."""

import contextlib
import importlib.util
import io
import json
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np
import scipy.integrate
import scipy.signal
import scipy.stats
import torch
from gnuradio.unmix import priors, signals
from gnuradio.unmix.priors.rrc import taps

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "training"))
WIFI = ROOT / "apps" / "samples" / "wifi_excerpt.sigmf-meta"


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "training" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


validate, probe = tool("validate"), tool("probe")


def qpsk_mmse(variance):
    """Least mean squared error of a QPSK point of unit power in noise of this variance per real channel."""
    amplitude = np.sqrt(0.5)

    def weighted(n):
        return scipy.stats.norm.pdf(n) * np.tanh(amplitude * (amplitude + np.sqrt(variance) * n) / variance)
    return 1 - scipy.integrate.quad(weighted, -12, 12)[0]


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def run_main(self, module, *argv):
        out, err, code = io.StringIO(), io.StringIO(), None
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = module.main([str(a) for a in argv])
            except SystemExit as stop:  # argparse's own refusals
                code = stop.code
        return code, out.getvalue(), err.getvalue()

    def check_refusals(self, module, cases):
        for words, argv in cases:
            code, out, err = self.run_main(module, *argv)
            self.assertEqual((code, out), (2, ""), err)
            self.assertIn(words, err)
            self.assertEqual(err.count("\n"), 1, err)

    def untold(self, **info):
        """File of a prior that does not say how its signal is made."""
        class Zero(torch.nn.Module):
            def forward(self, x: torch.Tensor, alpha_bar: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
                return torch.zeros_like(x)

        file = self.folder / "untold.pt"
        file.write_bytes(priors.to_bytes(Zero(), {"format": 1, "kind": "test", "name": "untold", **info}))
        return file


class Validate(Case):
    def test_bound_of_a_linear_modulation_is_the_formula(self):
        # The pulses are orthogonal: the window's error is that of one point in noise of variance v / sps.
        of = validate.subject("rrc:qpsk,sps=16,rolloff=0.5,span=8")
        for row in validate.denoising(of, (0.7, 1.0, 2.57), 60):
            self.assertEqual(row["prior"], row["bound"])
            self.assertAlmostEqual(row["bound_inside"] / qpsk_mmse(row["v"] / 16), 1, delta=0.06)

    def test_floor_is_the_wiener_filters_error(self):
        pulse = taps(16, 0.5, 8)
        _, response = scipy.signal.freqz(pulse, worN=8192, whole=True)
        linear = np.abs(response) ** 2 / 16
        length, carriers = 80, np.r_[-28:0, 1:29]
        grid = np.arange(8192) / 8192
        ofdm = np.mean([np.abs(scipy.signal.freqz(np.ones(length), worN=2 * np.pi * (grid - k / 64))[1]) ** 2 / length
                        for k in carriers], axis=0)
        for spec, density in (("rrc:qpsk", linear), ("cp-ofdm:qpsk", ofdm)):
            of = validate.subject(spec)
            self.assertAlmostEqual(density.mean(), 1, delta=1e-6)
            waves, z = of.draw(np.random.default_rng(2), 40), signals.noise(np.random.default_rng(3), (40, 2560), 2.0)
            for v in (0.01, 0.2, 2.57):
                expected = np.mean(density * 2 * v / (density + 2 * v))
                x = np.sqrt(1 / (1 + v)) * waves + np.sqrt(v / (1 + v)) * z
                estimate = of.floor.denoise(x.astype(np.complex64), np.full(40, 1 / (1 + v), np.float32))
                error = np.mean(np.abs(estimate - waves)[:, 128:-128] ** 2)
                self.assertAlmostEqual(error / expected, 1, delta=0.04, msg=f"{spec}, v = {v}")

    def test_a_prior_that_answers_zero_has_the_signals_power_as_error(self):
        of = validate.subject(str(self.untold(simulation="cp-ofdm:qpsk")))
        row, = validate.denoising(of, (0.05,), 4)
        self.assertAlmostEqual(row["prior"], 1, delta=0.05)
        self.assertLess(row["bound_inside"], 0.01)
        self.assertLess(row["floor"], 0.1)
        self.assertEqual(of.bound.info["sync"], "unknown")
        self.assertEqual(of.peer.info["sync"], "estimated")
        self.assertFalse(of.is_soi)

    def test_free_timing_is_validated_with_random_timing(self):
        shape = {"constellation": "qpsk", "samples_per_symbol": 16, "rolloff": 0.5, "span": 8, "first": 8}
        of = validate.subject(str(self.untold(modulation=shape, invariances=["timing", "phase"])))
        self.assertTrue(of.signal.random)
        self.assertFalse(of.bound.info["synchronised"])
        row, = validate.denoising(of, (0.1,), 2)
        self.assertLess(row["bound_inside"], 1e-3)

    def test_loop_compares_on_the_same_mixtures(self):
        own, peer = validate.loop(validate.subject("rrc:qpsk"), -18, 20, 8)
        self.assertEqual((own["who"], peer["who"], own["bits"]), ("prior", "peer", 8 * 2 * (160 - 16)))
        for key in ("bit_errors", "calls", "unsettled", "mse_db"):
            self.assertEqual(own[key], peer[key])
        self.assertLess(own["ber"], 0.01)
        zero, peer = validate.loop(validate.subject(str(self.untold(simulation="cp-ofdm:qpsk"))), -18, 20, 8)
        self.assertGreater(zero["ber"], 0.1)
        self.assertLess(peer["ber"], 0.01)
        self.assertEqual(zero["soi_signal"], "rrc:qpsk,sps=16,rolloff=0.5,span=8")

    def test_report_of_a_shipped_prior(self):
        file = self.folder / "report.json"
        code, out, err = self.run_main(validate, "rrc-qpsk", "--windows", 6, "--error-windows", 3, "--sir-db", -24, -3,
                                       "--snr-db", "inf", "20", "--json", file, "--plots", self.folder / "plots")
        self.assertEqual(code, 0, err)
        report, = json.loads(file.read_text())
        self.assertEqual([row["v"] for row in report["denoising"]], list(validate.LEVELS))
        self.assertEqual((len(report["paper_levels"]), len(report["loop"])), (49, 8))
        self.assertAlmostEqual(report["paper_levels"][0]["alpha_bar"], 1 - 1.218e-3, delta=1e-6)
        self.assertEqual(report["cost"]["parameters"], 2 * 2 * 16 * 9 + 2 + 2)  # maps, noise, alphabet
        self.assertAlmostEqual(report["cost"]["mflop"], 0.4, delta=0.1)
        self.assertGreater(report["cost"]["ratio"], 0)
        self.assertIn("| 2.57 |", out)
        self.assertIn("| 20 dB | -24 |", out)
        self.assertIn(f"{report['cost']['parameters']:,} parameters", out)
        picture = self.folder / "plots" / "priors_rrc-qpsk_error.png"
        self.assertTrue(picture.read_bytes().startswith(b"\x89PNG"))

    def test_recordings_have_the_gaussian_floor_alone(self):
        of = validate.subject(f"gaussian:{WIFI}", [WIFI], "last:0.2")
        self.assertIsNone(of.bound)
        row, = validate.denoising(of, (0.1,), 4)
        self.assertNotIn("bound", row)
        self.assertAlmostEqual(row["prior"], row["floor"], delta=1e-6)
        self.assertEqual(validate.title(of.signal), "wifi_excerpt.sigmf-meta last:0.2")
        other = validate.subject(str(self.untold()), [WIFI], "all")  # no spectrum of its own: the recording's
        self.assertEqual(len(other.floor.info["psd"]), 256)
        own, peer = validate.loop(of, -3, np.inf, 2)
        self.assertEqual(own["bit_errors"], peer["bit_errors"])

    def test_refusals(self):
        untold = self.untold()
        self.check_refusals(validate, [
            ("does not exist", ["none.pt"]),
            ("does not say how its signal is simulated", [untold]),
            ("none.cf32", [untold, "--recording", self.folder / "none.cf32"]),
            ("fewer than", [untold, "--recording", WIFI, "--recording-part", "last:0.001"]),
            ("last:FRACTION", [untold, "--recording", WIFI, "--recording-part", "end"]),
            ("leave out --recording", ["rrc:qpsk", "--recording", WIFI]),
            ("needs --recording", ["rrc:qpsk", "--recording-part", "all"]),
            ("at least 1", ["rrc:qpsk", "--windows", 0]),
            ("finite", ["rrc:qpsk", "--sir-db", "nan"]),
            ("does not exist", ["rrc:qpsk", "--json", self.folder / "none" / "x.json"]),
            ("invalid", ["rrc:qpsk", "--windows", "many"])])


class Probe(Case):
    def test_levels_stay_within_the_range_of_training(self):
        closed = probe.levels(priors.parse("rrc:qpsk"))
        self.assertTrue(np.all(np.diff(closed) > 0))
        np.testing.assert_allclose(closed[-50:][::-1], np.cumprod(1 - np.linspace(1e-4, 0.05, 50)))
        self.assertAlmostEqual(closed[0], 1e-3)
        learned = priors.parse("rrc-qpsk")
        low, high = learned.info["alpha_bar"]
        schedule = probe.levels(learned)
        self.assertAlmostEqual(schedule[0], low)
        self.assertLessEqual(schedule[-1], high)
        ratio = schedule[:-1] / schedule[1:]
        self.assertGreaterEqual(ratio.min(), 0.9499)
        self.assertEqual(len(probe.levels(learned, 12)), 12)

    def test_samples_of_a_gaussian_prior_have_its_spectrum(self):
        density = 0.1 + np.exp(-(np.fft.fftfreq(256) / 0.1) ** 2)
        prior = validate.gaussian(density)
        waves = probe.sample(prior, 12, seed=3, steps=300)
        _, measured = scipy.signal.welch(waves, nperseg=64, window="hann", return_onesided=False, detrend=False)
        measured, expected = measured.mean(0), density[::4] / density.mean()
        self.assertAlmostEqual(measured.mean(), 1, delta=0.08)
        error = 10 * np.log10(measured / expected)
        self.assertLess(np.sqrt(np.mean(error**2)), 0.8)
        self.assertLess(probe.spectral_error(waves, prior), 0.6)
        self.assertGreater(probe.spectral_error(signals.noise(np.random.default_rng(0), waves.shape, 1), prior), 3)

    def test_samples_of_closed_forms_carry_the_constellation(self):
        for spec, steps, limit in (("rrc:qpsk", None, 0.01), ("rrc:8psk,sps=8", 60, 0.01),
                                   ("rrc:qpsk,sync=unknown", 25, 0.03), ("cp-ofdm:qpsk", 25, 0.03)):
            prior = priors.parse(spec)
            waves = probe.sample(prior, 2, seed=4, steps=steps)
            found = probe.probe(prior, spec, waves)
            self.assertLess(found["evm"], limit, spec)
            self.assertGreater(found["points"].size, 200, spec)
            self.assertGreater(found["share"][0], 0.07 if "8psk" in spec else 0.18, spec)
            noise = probe.probe(prior, spec, signals.noise(np.random.default_rng(1), waves.shape, 1))
            self.assertGreater(noise["evm"], 0.1, spec)
            self.assertAlmostEqual(np.mean(np.abs(waves) ** 2), 1, delta=0.12, msg=spec)

    def test_oracle_demodulation_of_simulated_signals(self):
        rng = np.random.default_rng(7)
        waves = validate.benchmark.SoiSignal("rrc:qpsk", random=True).draw(rng, 4, 2560, 8)[0]
        points = probe.linear_symbols(waves, "rrc:qpsk", True)
        self.assertLess(np.abs(points**4 + 1).max(), 0.3)
        self.assertGreater(np.abs(probe.linear_symbols(waves, "rrc:qpsk", False) ** 4 + 1).max(), 0.5)
        wave, _ = signals.cp_ofdm(rng, 4, 2560, "bpsk")
        points = probe.ofdm_symbols(wave, "cp-ofdm:bpsk")
        self.assertLess(np.abs(np.abs(points.real) - 1).max() + np.abs(points.imag).max(), 1e-3)

    def test_command_line(self):
        for spec, words in (("rrc-qpsk", "EVM"), (f"gaussian:{WIFI}", "dB from the prior's")):
            picture = self.folder / "picture.png"
            code, out, err = self.run_main(probe, spec, "--count", 2, "--steps", 20, "--output", picture)
            self.assertEqual(code, 0, err)
            self.assertIn(words, out)
            self.assertTrue(picture.read_bytes().startswith(b"\x89PNG"))

    def test_refusals(self):
        good = self.folder / "x.png"
        self.check_refusals(probe, [
            ("does not exist", ["none.pt", "--output", good]),
            ("neither what its signal is", [self.untold(), "--output", good]),
            ("--count", ["rrc:qpsk", "--count", 0, "--output", good]),
            ("--steps", ["rrc:qpsk", "--steps", 1, "--output", good]),
            ("--seed", ["rrc:qpsk", "--seed", -1, "--output", good]),
            (".png", ["rrc:qpsk", "--output", self.folder / "x.txt"]),
            ("folder that exists", ["rrc:qpsk", "--output", self.folder / "none" / "x.png"])])
        self.assertFalse(good.exists())


if __name__ == "__main__":
    unittest.main()
