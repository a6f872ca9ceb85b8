# SPDX-License-Identifier: GPL-3.0-or-later
"""apps/benchmark.py: what it refuses, and outputs that cannot be written: one sentence each, and exit code 2."""

import json
import unittest
from unittest import mock

import numpy as np
from qa_benchmark import OFDM, WIFI, Runs, benchmark


def mixtures(windows=2, **changed):
    """Arrays of a file for --mixtures, with other ones for some; None leaves one out."""
    made = benchmark.generate(benchmark.SoiSignal("rrc:qpsk"), benchmark.OfdmSignal(OFDM), windows, 2560, -9, 20, 1)
    arrays = {"mixture": made[0], "soi": made[1], "bits": made[2], "sir_db": np.full(windows, -9.0)} | changed
    return {name: array for name, array in arrays.items() if array is not None}


def with_one(array, value):
    """A copy of an array that has one other value."""
    array = array.copy()
    array[1, 5] = value
    return array


class Input(Runs, unittest.TestCase):
    def refused(self, words, *argv):
        code, out, err = self.run_main(*argv)
        self.assertEqual((code, out), (2, ""), err)
        self.assertIn(words, err)
        self.assertEqual(err.count("\n"), 1, err)
        self.assertTrue(err.startswith("benchmark.py: "))

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
                            ("takes no --steps", ["--methods", "pnp-dr,matched-filter", "--steps",
                                                  "matched-filter=3"]),
                            ("must be at least 1", ["--steps", 0]), ("must be at least 1", ["--steps", "many"]),
                            ("not among pnp-dr", ["--steps", "basis=3"]), ("says twice", ["--steps", "3,4"]),
                            ("takes --omega", ["--omega", 2]),
                            ("above 0", ["--omega", 0, "--methods", "alpha-rgs"]),
                            ("isolated", ["--omega", 2, "--methods", "alpha-rgs", "--protocol", "stream"]),
                            ("1 to --windows", ["--streams", 2]),
                            ("1 to --windows", ["--streams", 9, "--windows", 8, "--protocol", "stream"]),
                            ("does not exist", ["--table", self.folder / "none" / "x"]),
                            ("finite", ["--sir-db", "nan"]), ("at most 300 dB", ["--sir-db", 2000]),
                            ("at most 300 dB", ["--snr-db", -2000]), ("one symbol, 16 samples", ["--window", 15]),
                            ("unknown method 'magic'", ["--steps", "magic=3"]),
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
                            ("take --protocol stream", ["--interference", "wifi:", "--interference-signal", WIFI]),
                            ("needs recordings", ["--recording-part", "all"]),
                            ("needs recordings", ["--interference-signal", OFDM, "--recording-part", "all"]),
                            ("timing and phase for known", ["--soi-timing", "random"]),
                            ("needs the timing", ["--soi-timing", "random", "--methods", "matched-filter"]),
                            ("made already", ["--mixtures", misfit, "--interference-signal", WIFI]),
                            ("windows of 2560", ["--soi", "rrc-qpsk", "--window", 1280]),
                            ("at least 159 samples, not 96", ["--interference", "ofdm-qpsk", "--window", 96])):
            self.refused(words, *argv)

    def test_mixtures_that_do_not_fit_are_refused_by_file_and_array(self):
        file = self.folder / "made.npz"
        good = mixtures()
        for words, changed in (
                ("mixture in", {"mixture": good["mixture"].astype(str)}),
                ("mixture in", {"mixture": np.array([[None] * 2560] * 2)}),
                ("mixture in", {"mixture": with_one(good["mixture"], np.nan)}),
                ("mixture in", {"mixture": with_one(good["mixture"].astype(complex), 1e300)}),
                ("at least one window", {"mixture": good["mixture"][:0], "soi": None, "bits": None, "sir_db": []}),
                ("at least one sample", {"mixture": good["mixture"][:, :0], "soi": None, "bits": None}),
                ("sir_db in", {"sir_db": np.full(2, "loud")}), ("sir_db in", {"sir_db": np.full(2, -9 + 3j)}),
                ("sir_db [W]", {"sir_db": None}), ("sir_db in", {"sir_db": np.zeros(3)}),
                ("sir_db of", {"sir_db": np.full(2, np.nan)}),
                ("soi in", {"soi": good["soi"].astype(str)}), ("soi in", {"soi": good["soi"][:, :9]}),
                ("soi in", {"soi": with_one(good["soi"], np.nan)}), ("some power", {"soi": 0 * good["soi"]}),
                ("bits in", {"bits": good["bits"] * 7}), ("bits in", {"bits": good["bits"] + np.nan}),
                ("bits in", {"bits": good["bits"].astype(str)}), ("must be [2, 320]", {"bits": good["bits"][:, :9]}),
                ("one symbol, 16 samples, not 9", {"mixture": good["mixture"][:, :9], "soi": None, "bits": None})):
            np.savez(file, **mixtures(**changed))
            self.refused(words, "--mixtures", file)
            self.assertIn(str(file), self.run_main("--mixtures", file)[2])

    def test_mixtures_in_broken_files_are_refused(self):
        file, whole = self.folder / "made.npz", self.folder / "whole.npz"
        np.savez(whole, **mixtures())
        data = whole.read_bytes()
        np.savez_compressed(whole, **mixtures())
        packed = bytearray(whole.read_bytes())
        packed[2000:2100] = bytes(100)
        for contents in (b"", b"{}", data[:-100], data[:300], bytes(packed), b"\x80\x04K\x01."):
            file.write_bytes(contents)
            self.refused(str(file), "--mixtures", file)
        self.refused("cannot be read: No such file", "--mixtures", self.folder / "none.npz")
        np.save(self.folder / "one.npy", np.zeros(3))
        self.refused("is not an .npz file", "--mixtures", self.folder / "one.npy")

    def test_an_soi_may_pause_in_mixtures(self):
        file, soi = self.folder / "made.npz", mixtures()["soi"]
        np.savez(file, **mixtures(soi=soi * [[1], [0]]))
        row, = self.rows("--mixtures", file)
        self.assertTrue(np.isfinite(row["mse_db"]))

    def test_mixtures_say_themselves_what_other_options_would(self):
        file = self.folder / "made.npz"
        np.savez(file, **mixtures())
        for option, value in (("--sir-db", -3), ("--windows", 2), ("--window", 2560)):
            self.refused(f"leave out {option}", "--mixtures", file, option, value)
        self.refused("leave out --protocol stream", "--mixtures", file, "--protocol", "stream")
        self.refused("one level, not several", "--mixtures", file, "--snr-db", 20, 30)
        self.assertEqual([r["snr_db"] for r in self.rows("--mixtures", file, "--snr-db", 20, "20.0")], [20])

    def test_outputs_of_the_wrong_kind_are_refused_before_anything_is_measured(self):
        file, folder = self.folder / "file", self.folder / "folder"
        file.write_text("[]")
        folder.mkdir()
        with mock.patch.object(benchmark, "measure_all", side_effect=AssertionError):
            self.refused("is a folder", "--table", folder)
            self.refused("is a folder", "--json", folder)
            self.refused("no plain file", "--json", "/dev/null")
            self.refused("no folder", "--plots", file)
            self.refused("would overwrite --json", "--json", file, "--table", file)
            self.refused("would overwrite --mixtures", "--mixtures", file, "--table", file)
            for option in ("--json", "--table", "--plots", "--mixtures", "--recording-part", "--soi-signal"):
                self.refused(f"{option} must not be empty", option, "")

    def test_a_full_disk_costs_no_rows(self):
        common = ("--windows", 2, "--methods", "matched-filter", "--sir-db", -9, -6, -3)
        with mock.patch.object(benchmark, "plot", side_effect=OSError(28, "No space left on device")):
            code, _, err = self.run_main(*common, "--json", self.json, "--table", "/dev/full", "--plots", self.folder)
        self.assertEqual(code, 2)
        for output in ("--table /dev/full", f"--plots {self.folder}"):
            self.assertIn(f"benchmark.py: {output} cannot be written: No space left on device\n", err)
        kept = self.json.read_text()
        self.assertEqual(len(json.loads(kept)), 3)
        save, calls = benchmark.save, []

        def full(rows, path):
            calls.append(rows)
            if len(calls) > 1:
                raise OSError(28, "No space left on device")
            save(rows, path)

        with mock.patch.object(benchmark, "save", full):
            code, out, err = self.run_main(*common, "--seed", 2, "--json", self.json)
        self.assertEqual((code, len(calls)), (2, 2))
        self.assertIn(f"--json {self.json} cannot be written: No space left on device", err)
        self.assertIn("the rows saved before are kept", err)
        self.assertEqual(out.count("| matched-filter |"), 2)
        self.assertEqual(len(json.loads(self.json.read_text())), 4)
        self.assertEqual(len(self.rows(*common, "--seed", 2)), 6)

    def test_a_write_that_fails_leaves_the_old_rows_and_nothing_else(self):
        self.rows("--windows", 2, "--methods", "matched-filter", "--sir-db", -9)
        old = self.json.read_text()
        with (mock.patch("os.replace", side_effect=OSError(28, "No space left on device")),
              self.assertRaises(OSError)):
            benchmark.save([{"method": "x"}], str(self.json))
        self.assertEqual(self.json.read_text(), old)
        self.assertEqual(list(self.folder.iterdir()), [self.json])

    def test_numbers_out_of_range(self):
        for words, *argv in (("--seed -1 is impossible", "--seed", -1), ("between 0 and 2^63 - 1", "--seed", 2**64),
                             ("2^63", "--seed", "9" * 20), ("at most 1000000000", "--steps", "9" * 20),
                             ("at most 1000000000", "--steps", "pnp-dr=1000000001"),
                             ("--batch 0 is impossible", "--batch", 0), ("at most 1000000", "--batch", 10**7),
                             ("--window 0 is impossible", "--window", 0), ("at least 1, not -3", "--windows", -3)):
            self.refused(words, *argv)
        row, = self.rows("--windows", 2, "--seed", 2**63 - 1, "--sir-db", -3)
        self.assertEqual(row["seed"], 2**63 - 1)

    def test_sync_auto_is_refused_in_its_own_words(self):
        for protocol in ("isolated", "stream"):
            self.refused("--soi rrc:qpsk,sync=auto follows", "--soi", "rrc:qpsk,sync=auto", "--protocol", protocol)
        self.refused("leave out sync=auto", "--soi-signal", "rrc:qpsk,sync=auto")
        self.refused("in 'rrc:qpsk,end=stream'", "--soi", "rrc:qpsk,end=stream")  # as it was typed


if __name__ == "__main__":
    unittest.main()
