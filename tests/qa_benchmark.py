# SPDX-License-Identifier: GPL-3.0-or-later
"""apps/benchmark.py: the JSON contract, known error rates, resumption, mixtures made elsewhere, bad input."""

import contextlib
import io
import json
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np
import scipy.special
import scipy.stats
import torch
from gnuradio.unmix import captures, priors, signals

sys.path.insert(0, str(Path(__file__).parents[1] / "apps"))
import benchmark

WIFI = Path(__file__).parents[1] / "apps" / "samples" / "wifi_excerpt.sigmf-meta"
OFDM = "cp-ofdm:qpsk,fft=64,cp=16,active=56"
KEYS = {"method", "soi", "interference", "protocol", "sir_db", "snr_db", "windows", "bits", "bit_errors", "ber",
        "ber_ci95", "mse_db", "seconds_per_window", "steps", "device", "seed", "soi_signal", "interference_signal",
        "soi_timing"}


class Benchmark(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.json = self.folder / "rows.json"

    def run_main(self, *argv):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = benchmark.main([str(a) for a in argv])
        return code, out.getvalue(), err.getvalue()

    def rows(self, *argv):
        code, _, err = self.run_main(*argv, "--json", self.json)
        self.assertEqual(code, 0, err)
        return json.loads(self.json.read_text())

    def test_rows_have_the_agreed_fields(self):
        rows = self.rows("--windows", 5, "--sir-db", -3, "--methods", "pnp-dr,matched-filter", "--snr-db", 20)
        self.assertEqual([r["method"] for r in rows], ["pnp-dr", "matched-filter"])
        for row in rows:
            self.assertLessEqual(KEYS, row.keys())
            self.assertEqual((row["windows"], row["bits"], row["sir_db"], row["snr_db"]), (5, 5 * 320, -3, 20))
            self.assertLessEqual(row["ber_ci95"][0], row["ber"])
            self.assertLessEqual(row["ber"], row["ber_ci95"][1])

    def test_matched_filter_in_white_noise_alone_has_the_textbook_error_rate(self):
        # Interference 60 dB down, noise 9 dB up: BPSK errs with Q(sqrt(2 Es / N0)), Es / N0 = 16 samples of -9 dB.
        row, = self.rows("--soi", "rrc:bpsk", "--sir-db", 60, "--snr-db", -9, "--windows", 300,
                         "--methods", "matched-filter")
        expected = 0.5 * scipy.special.erfc(np.sqrt(16 * 10 ** -0.9))
        low, high = scipy.stats.binom.interval(0.9999, row["bits"], expected)
        self.assertGreaterEqual(row["bit_errors"], low)
        self.assertLessEqual(row["bit_errors"], high * 1.02)  # pulses cut by the windows' ends cost a little energy

    def test_the_stream_protocol_has_no_edge_errors_where_isolated_windows_have_them(self):
        isolated, stream = (self.rows("--sir-db", -18, "--windows", 60, "--protocol", protocol)[-1]
                            for protocol in ("isolated", "stream"))
        self.assertGreater(isolated["bit_errors"], 3)
        self.assertLessEqual(stream["bit_errors"], 2)
        self.assertAlmostEqual(stream["windows"], 60, delta=1)

    def test_rows_that_are_there_are_kept(self):
        first = self.rows("--windows", 4, "--sir-db", -6)
        second = self.rows("--windows", 4, "--sir-db", -6, -3)
        self.assertEqual(second[0], first[0])
        self.assertEqual(len(second), 2)
        self.assertEqual(len(self.rows("--windows", 4, "--sir-db", -6, "--seed", 2)), 3)

    def test_rows_from_before_signals_were_apart_are_kept(self):
        row, = self.rows("--windows", 4, "--sir-db", -6)
        for key in ("soi_signal", "interference_signal", "soi_timing"):
            del row[key]
        self.json.write_text(json.dumps([row]))
        self.assertEqual(len(self.rows("--windows", 4, "--sir-db", -6)), 1)
        other = self.rows("--windows", 4, "--sir-db", -6, "--interference-signal", "cp-ofdm:bpsk")
        self.assertEqual([r["interference_signal"] for r in other], [OFDM, "cp-ofdm:bpsk"])

    def test_a_learned_prior_meets_the_signal_that_it_describes(self):
        row, = self.rows("--soi", "rrc-qpsk", "--sir-db", -24, "--windows", 8, "--protocol", "stream")
        self.assertEqual((row["soi"], row["soi_signal"]), ("rrc-qpsk", "rrc:qpsk,sps=16,rolloff=0.5,span=8"))
        self.assertLess(row["ber"], 0.01)
        self.assertLess(row["mse_db"], -15)

    def test_closed_form_of_a_prior_comes_from_its_metadata(self):
        class Identity(torch.nn.Module):
            def forward(self, x: torch.Tensor, alpha_bar: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
                return x

        def learned(**info):
            card = {"format": 1, "kind": "test", "name": "test", **info}
            file = self.folder / "prior.pt"
            file.write_bytes(priors.to_bytes(Identity(), card))
            return priors.load(str(file))

        shape = {"constellation": "bpsk", "samples_per_symbol": 8, "rolloff": 0.25, "span": 6, "first": 3}
        self.assertEqual(benchmark.closed_form(learned(simulation="cp-ofdm:bpsk", modulation=shape), "x"),
                         "cp-ofdm:bpsk")
        self.assertEqual(benchmark.closed_form(learned(modulation=shape), "x"),
                         "rrc:bpsk,sps=8,rolloff=0.25,span=6,first=3")
        self.assertIsNone(benchmark.closed_form(learned(), "x"))
        for invariances, free in ((["timing", "phase"], True), (["phase"], False), (None, False)):
            self.assertEqual(benchmark.timing_is_free(learned(invariances=invariances)), free)
        with self.assertRaisesRegex(ValueError, "must be a closed form"):
            benchmark.closed_form(learned(simulation="noise"), "x")

    def test_a_recording_as_interference(self):
        arguments = ("--interference-signal", WIFI, "--recording-part", "last:0.4", "--windows", 4, "--sir-db", 20)
        row, = self.rows(*arguments)
        self.assertEqual(row["interference_signal"], f"{WIFI} last:0.4")
        self.assertEqual(row["interference"], OFDM)
        self.assertLess(row["ber"], 0.05)  # hardly any interference, whatever the prior believes
        signal = benchmark.RecordedSignal([WIFI], "last:0.4")
        waves, again = (signal.draw(np.random.default_rng(3), 20, 2560) for _ in range(2))
        np.testing.assert_array_equal(waves, again)
        np.testing.assert_allclose(np.mean(np.abs(waves) ** 2, axis=1), 1, rtol=1e-5)
        whole = captures.open_capture(WIFI)
        whole = whole.read(0, whole.length)
        part = whole[-int(0.4 * len(whole)):]
        for wave in waves:  # each is a piece of the held-out part, turned and scaled
            match = np.abs(np.correlate(part, wave, "valid"))
            place = match.argmax()
            piece = part[place:place + len(wave)]
            self.assertGreater(match[place], 0.9999 * np.linalg.norm(wave) * np.linalg.norm(piece))
        self.assertGreater(np.ptp(np.angle(waves[:, 0])), 1)

    def test_random_timing_and_phase(self):
        signal = benchmark.SoiSignal("rrc:qpsk", random=True)
        for tails in (0, 4):
            waves, bits, truth = signal.draw(np.random.default_rng(5), 40, 1600, tails)
            self.assertGreater(np.ptp(truth[:, 0]), 12)
            self.assertEqual(bits.shape, (40, 200))
            np.testing.assert_array_equal(signal.bits(waves, truth), bits)
            self.assertGreater(np.mean(signal.bits(waves, np.roll(truth, 1, 0)) != bits), 0.3)
        self.assertAlmostEqual(np.mean(np.abs(waves) ** 2), 1, delta=0.02)
        row, = self.rows("--soi", "rrc:qpsk,sync=unknown", "--soi-timing", "random", "--windows", 2, "--sir-db", -24)
        self.assertEqual(row["soi_timing"], "random")
        self.assertLess(row["ber"], 0.02)

    def test_known_timing_is_the_simulators(self):
        for spec, tails in (("rrc:qpsk", 0), ("rrc:qpsk", 4), ("rrc:bpsk,sps=8,rolloff=0.25,span=6,first=1.5", 0)):
            signal = benchmark.SoiSignal(spec)
            waves, bits, truth = signal.draw(np.random.default_rng(6), 3, 800, tails)
            self.assertTrue(np.all(truth == [signal.modulation["first"], 0]))
            if spec == "rrc:qpsk":
                own, _ = signals.linear_modulation(np.random.default_rng(6), 3, 50 + 2 * tails)
                np.testing.assert_array_equal(waves, own[:, 16 * tails:][:, :800])
            np.testing.assert_array_equal(signal.bits(waves, truth), bits)

    def test_clustered_errors_widen_the_interval(self):
        even, clustered = np.full(100, 2), np.zeros(100, int)
        clustered[:5] = 40
        width = [np.ptp(benchmark.interval(e, 320)) for e in (even, clustered)]
        self.assertGreater(width[1], 3 * width[0])
        low, high = benchmark.interval(np.r_[2, np.zeros(99, int)], 320)
        self.assertLess(low, 2 / 32000)
        self.assertGreater(high, 2 / 32000)

    def test_mixtures_made_elsewhere_give_the_same_row(self):
        made = benchmark.generate(benchmark.SoiSignal("rrc:qpsk"), benchmark.OfdmSignal(OFDM), 6, 2560, -9, 20, 1)
        file = self.folder / "mixtures.npz"
        np.savez(file, mixture=made[0], soi=made[1], bits=made[2], sir_db=np.full(6, -9.0))
        own, = self.rows("--windows", 6, "--sir-db", -9, "--snr-db", 20)
        given = self.rows("--windows", 6, "--snr-db", 20, "--mixtures", file)[-1]
        for key in ("bits", "bit_errors", "steps"):
            self.assertEqual(own[key], given[key], key)
        self.assertAlmostEqual(own["mse_db"], given["mse_db"], delta=0.1)

    def test_pictures_are_drawn(self):
        self.rows("--windows", 3, "--sir-db", -6, -3, "--plots", self.folder / "plots")
        picture = self.folder / "plots" / "ber_cp-ofdm_qpsk_fft=64_cp=16_active=56.png"
        self.assertTrue(picture.read_bytes().startswith(b"\x89PNG"))

    def test_bad_input_gets_one_sentence_and_exit_code_2(self):
        broken = self.folder / "broken.npz"
        np.savez(broken, mixture=np.zeros((2, 5)))
        misfit, other = self.folder / "misfit.npz", self.folder / "other.json"
        np.savez(misfit, mixture=np.ones((2, 2560)), sir_db=np.zeros(2), bits=np.zeros((2, 7)))
        other.write_text("{}")
        for words, argv in (("unknown method 'magic'", ["--methods", "magic"]), ("at least 1", ["--windows", 0]),
                            ("unknown prior", ["--soi", "morse"]), ("linear modulation", ["--soi", "cp-ofdm:qpsk"]),
                            ("can be simulated", ["--interference", "rrc:qpsk"]),
                            ("sir_db [W]", ["--mixtures", broken]), ("must be [2, 320]", ["--mixtures", misfit]),
                            ("plain arrays", ["--mixtures", other]), ("holds no rows", ["--json", other]),
                            ("does not exist", ["--json", self.folder / "none" / "x"]),
                            ("numbers of dB", ["--snr-db", "loud"]),
                            ("takes no --steps", ["--methods", "matched-filter", "--steps", 3]),
                            ("finite", ["--sir-db", "nan"]),
                            ("linear modulation", ["--soi-signal", "cp-ofdm:qpsk"]),
                            ("linear modulation", ["--soi", f"gaussian:{WIFI}"]),
                            ("cannot be simulated", ["--interference-signal", "rrc:qpsk"]),
                            ("cannot be simulated", ["--interference-signal", "cp-ofdm:qpsk", "cp-ofdm:bpsk"]),
                            ("can be simulated", ["--interference", f"gaussian:{WIFI}"]),
                            ("none.cf32", ["--interference-signal", self.folder / "none.cf32"]),
                            ("all or last:FRACTION", ["--interference-signal", WIFI, "--recording-part", "first:0.1"]),
                            ("all or last:FRACTION", ["--interference-signal", WIFI, "--recording-part", "last:1.1"]),
                            ("fewer than the 2560", ["--interference-signal", WIFI, "--recording-part", "last:0.01"]),
                            ("fewer than", ["--interference-signal", WIFI, "--protocol", "stream"]),
                            ("needs recordings", ["--recording-part", "all"]),
                            ("needs recordings", ["--interference-signal", OFDM, "--recording-part", "all"]),
                            ("timing and phase for known", ["--soi-timing", "random"]),
                            ("needs the timing", ["--soi-timing", "random", "--methods", "matched-filter"]),
                            ("made already", ["--mixtures", misfit, "--interference-signal", WIFI]),
                            ("windows of 2560", ["--soi", "rrc-qpsk", "--window", 1280]),
                            ("at least 159 samples, not 96", ["--interference", "ofdm-qpsk", "--window", 96])):
            code, out, err = self.run_main(*argv)
            self.assertEqual((code, out), (2, ""), err)
            self.assertIn(words, err)
            self.assertEqual(err.count("\n"), 1, err)


if __name__ == "__main__":
    unittest.main()
