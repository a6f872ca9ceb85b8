# SPDX-License-Identifier: GPL-3.0-or-later
"""apps/figures.py: the toy landscapes' minima, small runs of the figures that use the benchmark, bad input."""

import contextlib
import io
import json
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "apps"))
import figures
import toy_landscapes as toy


class Figures(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def run_main(self, *argv):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = figures.main([*map(str, argv), "--out", str(self.folder)])
        return code, err.getvalue()

    def made(self, name, *argv):
        """JSON of a figure whose picture is there."""
        code, err = self.run_main(name, *argv)
        self.assertEqual(code, 0, err)
        self.assertTrue((self.folder / f"figure_{name}.png").read_bytes().startswith(b"\x89PNG"))
        return json.loads((self.folder / f"figure_{name}.json").read_text())

    def test_figure_1_has_the_wrong_mode_with_omega_1_alone(self):
        values = self.made("1")
        np.testing.assert_allclose(values["minima, omega = 1"], [-1, 1], atol=0.05)
        np.testing.assert_allclose(values["minima, omega = 251.222"], [1], atol=0.05)

    def test_minima_of_figures_4_and_5_lie_near_the_modes(self):
        np.testing.assert_allclose(self.made("4")["minima of the loss"], [-1, 1], atol=0.02)
        values = self.made("5")
        np.testing.assert_allclose(values["minima of the loss"], values["modes"], atol=0.15)

    def test_quadrature_agrees_with_random_draws(self):
        rng = np.random.default_rng(0)
        theta = np.array([-0.8, 0.3])
        losses = toy.smoothed_loss(toy.GMM, theta)
        for level in (0, 20, 48):
            a = toy.ALPHA_BAR[level]
            draws = -toy.GMM.log_density(np.sqrt(a) * theta[:, None] + np.sqrt(1 - a) * rng.standard_normal(200_000), a)
            error = np.abs(draws.mean(1) - losses[level])
            np.testing.assert_array_less(error, 4.5 * draws.std(1) / np.sqrt(draws.shape[1]) + 1e-9)

    def test_figure_17_is_drawn_from_the_benchmarks_rows(self):
        rows = self.made("17", "--windows", 2, "--steps", 20, "--sir-db", -12, -6)
        self.assertEqual(len(rows), 2 * len(figures.FACTORS))
        self.assertEqual(sorted({r["omega"] for r in rows}), sorted(figures.FACTORS))

    def test_rows_of_other_runs_are_not_drawn(self):
        common = ("--windows", 2, "--steps", 5, "--sir-db", -12, "--methods", "alpha-rgs,matched-filter")
        with mock.patch.object(figures, "draw_omega", wraps=figures.draw_omega) as draw:
            for seed in (1, 2):  # the matched filter takes no omega
                self.assertEqual(len(self.made("17", *common, "--seed", seed)), seed * (len(figures.FACTORS) + 1))
                drawn, = draw.call_args.args
                self.assertEqual({r["seed"] for r in drawn}, {seed})
                self.assertEqual([r["omega"] for r in drawn], list(figures.FACTORS))
        with mock.patch.object(figures, "places", wraps=figures.places) as places:
            for method in ("matched-filter", "lmmse"):
                self.made("time", "--windows", 2, "--methods", method)
                drawn, = places.call_args.args
                self.assertEqual([r["method"] for r in drawn], [method])

    def test_curves_and_run_times_of_the_methods_that_are_there(self):
        methods = "matched-filter,pnp-dr,crystal-ball"
        code, err = self.run_main("14", "--windows", 2, "--sir-db", -6, "--methods", methods)
        self.assertEqual(code, 0, err)
        self.assertIn("no crystal-ball; left out", err)
        self.assertEqual(len(list(self.folder.glob("figure_14_ofdm-*/*.png"))), 2)
        rows = self.made("time", "--windows", 2, "--methods", methods)
        self.assertEqual([r["method"] for r in rows], ["matched-filter", "pnp-dr"])

    def test_figure_18_draws_the_cases_that_have_a_network(self):
        code, err = self.run_main("18", "--windows", 2, "--steps", 20, "--sir-db", -15)
        self.assertEqual(code, 0, err)
        self.assertEqual([f.name for f in self.folder.glob("*.json")], ["figure_18_ofdm-qpsk.json"])
        rows = json.loads((self.folder / "figure_18_ofdm-qpsk.json").read_text())
        self.assertEqual({r["method"] for r in rows}, {"unet", "alpha-rgs", "pnp-dr"})
        code, err = self.run_main("18", "--windows", 2, "--sir-db", -15, "--methods", "unet,matched-filter")
        self.assertEqual(code, 0, err)
        self.assertIn("the method unet refuses", err)
        rows = json.loads((self.folder / "figure_18_ofdm-bpsk.json").read_text())
        self.assertEqual([r["method"] for r in rows], ["matched-filter"])
        with mock.patch.object(figures, "NETWORKS", self.folder):
            code, err = self.run_main("18")
        self.assertEqual((code, err.count("\n")), (2, 1), err)

    def test_methods_of_figures_may_have_options(self):
        self.assertTrue({"basis-hard", "basis-hard:temperature=0.5"} <= set(figures.MAIN) & set(figures.BASIS))
        code, err = self.run_main("13", "--windows", 2, "--steps", 10, "--sir-db", -15, "--methods",
                                  "basis-hard:temperature=0.5,basis-hard,crystal-ball:colour=blue")
        self.assertEqual(code, 0, err)
        self.assertIn("no crystal-ball:colour=blue; left out", err)
        rows = json.loads((self.folder / "figure_13.json").read_text())
        self.assertEqual([r["method"] for r in rows], ["basis-hard:temperature=0.5", "basis-hard"])
        self.assertEqual(self.run_main("13", "--methods", "crystal-ball")[0], 2)

    def test_run_times_say_on_which_processor(self):
        rows = [{"device": "cpu", "processor": "Abacus, 2 cores"}, {"device": "cpu"},
                {"device": "cpu", "processor": "Abacus, 2 cores"}]
        self.assertEqual(figures.places(rows), "cpu, Abacus, 2 cores and cpu")

    def test_bad_input_gets_one_sentence_and_exit_code_2(self):
        for words, argv in (("needs --recordings", ["15"]),
                            ("at least 1", ["14", "--windows", -1, "--methods", "pnp-dr"]),
                            ("at least 1, not 0", ["14", "--windows", 0, "--methods", "pnp-dr"]),
                            ("at least 1, not 0", ["time", "--windows", 0]),
                            ("with commas between them, not ''", ["14", "--methods", ""]),
                            ("with commas between them, not 'lmmse,'", ["14", "--methods", "lmmse,"]),
                            ("must not be empty", ["17", "--steps", ""]),
                            ("takes no --windows", ["1", "--windows", 2]),
                            ("takes no --seed", ["5", "--seed", 1]),
                            ("takes no --snr-db; allowed with 3, 14, 15, 18", ["13", "--snr-db", 20]),
                            ("takes no --recordings", ["14", "--recordings", "x"]),
                            ("2^63 - 1", ["14", "--seed", -1]),
                            ("must be at least 1", ["17", "--steps", "many"])):
            code, err = self.run_main(*argv)
            self.assertEqual(code, 2, err)
            self.assertIn(words, err)
            self.assertEqual(err.count("\n"), 1, err)


if __name__ == "__main__":
    unittest.main()
