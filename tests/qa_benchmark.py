# SPDX-License-Identifier: GPL-3.0-or-later
"""apps/benchmark.py: the JSON contract, known error rates, resumption, mixtures made elsewhere, bad input."""

import contextlib
import importlib.util
import io
import json
import tempfile
import unittest
from pathlib import Path

import numpy as np
import scipy.special
import scipy.stats

SPEC = importlib.util.spec_from_file_location("benchmark", Path(__file__).parents[1] / "apps" / "benchmark.py")
benchmark = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(benchmark)

KEYS = {"method", "soi", "interference", "protocol", "sir_db", "snr_db", "windows", "bits", "bit_errors", "ber",
        "ber_ci95", "mse_db", "seconds_per_window", "steps", "device", "seed"}


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

    def test_clustered_errors_widen_the_interval(self):
        even, clustered = np.full(100, 2), np.zeros(100, int)
        clustered[:5] = 40
        width = [np.ptp(benchmark.interval(e, 320)) for e in (even, clustered)]
        self.assertGreater(width[1], 3 * width[0])
        low, high = benchmark.interval(np.r_[2, np.zeros(99, int)], 320)
        self.assertLess(low, 2 / 32000)
        self.assertGreater(high, 2 / 32000)

    def test_mixtures_made_elsewhere_give_the_same_row(self):
        made = benchmark.generate(benchmark.priors.parse("rrc:qpsk"), benchmark.priors.parse("cp-ofdm:qpsk"), 6, 2560,
                                  -9, 20, 1)
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
                            ("finite", ["--sir-db", "nan"])):
            code, out, err = self.run_main(*argv)
            self.assertEqual((code, out), (2, ""), err)
            self.assertIn(words, err)
            self.assertEqual(err.count("\n"), 1, err)


if __name__ == "__main__":
    unittest.main()
