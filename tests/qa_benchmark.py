# SPDX-License-Identifier: GPL-3.0-or-later
"""apps/benchmark.py: the JSON contract, known error rates, resumption, mixtures made elsewhere."""

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import scipy.special
import scipy.stats
import torch
from gnuradio.unmix import captures, priors, signals

sys.path.insert(0, str(Path(__file__).parents[1] / "apps"))
import benchmark
import benchmark_jobs
import benchmark_plots
import benchmark_rows
import benchmark_tables

WIFI = Path(__file__).parents[1] / "apps" / "samples" / "wifi_excerpt.sigmf-meta"
OFDM = "cp-ofdm:qpsk,fft=64,cp=16,active=56"
KEYS = {"method", "soi", "interference", "protocol", "sir_db", "snr_db", "windows", "bits", "bit_errors", "ber",
        "ber_ci95", "mse_db", "seconds_per_window", "steps", "device", "seed", "soi_signal", "interference_signal",
        "soi_timing", "omega", "steps_limit", "mse_db_ci95", "diverged"}
RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results.py"


def documented():
    """docs/results.py."""
    results = importlib.util.module_from_spec(spec := importlib.util.spec_from_file_location("results", RESULTS))
    spec.loader.exec_module(results)
    return results


class Runs:
    """Runs of the benchmark in a folder of their own; qa_benchmark_input.py has more of them."""

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


class Benchmark(Runs, unittest.TestCase):
    def test_rows_have_the_agreed_fields(self):
        rows = self.rows("--windows", 5, "--sir-db", -3, "--methods", "pnp-dr,matched-filter", "--snr-db", 20)
        self.assertEqual([r["method"] for r in rows], ["pnp-dr", "matched-filter"])
        for row in rows:
            self.assertLessEqual(KEYS, row.keys())
            self.assertEqual((row["windows"], row["bits"], row["sir_db"], row["snr_db"]), (5, 5 * 320, -3, 20))
            self.assertLessEqual(row["ber_ci95"][0], row["ber"])
            self.assertLessEqual(row["ber"], row["ber_ci95"][1])
            self.assertLessEqual(row["mse_db_ci95"][0], row["mse_db"])
            self.assertLessEqual(row["mse_db"], row["mse_db_ci95"][1])

    def test_methods_get_their_own_steps_and_the_same_mixtures(self):
        with mock.patch.object(benchmark, "generate", wraps=benchmark.generate) as generate:
            rows = self.rows("--methods", "pnp-dr,alpha-rgs,matched-filter", "--steps", "4,alpha-rgs=9", "--windows", 2,
                             "--sir-db", -12, -6)
        self.assertEqual(generate.call_count, 2)
        for row in rows:
            self.assertEqual(row["steps_limit"], {"pnp-dr": 4, "alpha-rgs": 9, "matched-filter": None}[row["method"]])
            self.assertLessEqual(row["steps"], row["steps_limit"] or 0)
        self.assertEqual(len(self.rows("--methods", "alpha-rgs", "--steps", 9, "--windows", 2, "--sir-db", -6)), 6)
        self.assertEqual(len(self.rows("--methods", "alpha-rgs", "--steps", 8, "--windows", 2, "--sir-db", -6)), 7)

    def test_omega_is_a_multiple_of_kappa_squared_and_part_of_the_row(self):
        common = ("--methods", "alpha-rgs,pnp-dr", "--steps", 20, "--windows", 3, "--sir-db", -12)
        self.rows(*common)
        rows = self.rows(*common, "--omega", 1, 0.1)
        self.assertEqual([(r["method"], r["omega"]) for r in rows],
                         [("alpha-rgs", None), ("pnp-dr", None), ("alpha-rgs", 1), ("alpha-rgs", 0.1)])
        plain, _, same, other = rows
        self.assertEqual(same["bit_errors"], plain["bit_errors"])
        self.assertAlmostEqual(same["mse_db"], plain["mse_db"], places=4)  # kappa^2 in single or double precision
        self.assertGreater(abs(other["mse_db"] - plain["mse_db"]), 0.01)

    def test_omega_and_steps_of_methods_with_options(self):
        common = ("--windows", 2, "--sir-db", -12, "--methods")
        rows = self.rows(*common, "basis-alpha:restarts=2:temperature=.5,basis-hard:temperature=0.50", "--steps",
                         "6,basis-hard:temperature=5e-1=4", "--omega", 1, 50)
        self.assertEqual([(r["method"], r["omega"], r["steps"]) for r in rows],
                         [("basis-alpha:restarts=2:temperature=0.5", 1, 12),
                          ("basis-alpha:restarts=2:temperature=0.5", 50, 12), ("basis-hard:temperature=0.5", None, 4)])
        self.assertNotEqual(rows[0]["mse_db"], rows[1]["mse_db"])
        plain = self.rows(*common, "basis-alpha:restarts=2:temperature=0.5", "--steps", 6)[-1]
        self.assertAlmostEqual(plain["mse_db"], rows[0]["mse_db"], places=4)
        code, _, err = self.run_main("--methods", "basis-hard:temperature=0.5", "--omega", 2)
        self.assertEqual(code, 2)
        self.assertIn("none of the methods basis-hard:temperature=0.5 takes --omega", err)

    def test_a_method_that_refuses_is_left_out_and_the_others_go_on(self):
        sentence = "the method unet refuses: the U-Net unet-ofdm-qpsk was trained on an SIR of -24 to -3 dB"
        common = ("--windows", 2, "--sir-db", -30, -12, "--snr-db", "inf", 30, "--json", self.json)
        code, out, err = self.run_main(*common, "--methods", "unet,matched-filter", "--plots", self.folder / "plots")
        self.assertEqual(code, 0, err)
        self.assertEqual([(r["method"], r["sir_db"]) for r in json.loads(self.json.read_text())],
                         2 * [("matched-filter", -30), ("unet", -12), ("matched-filter", -12)])
        self.assertEqual(err.count(sentence), 1)
        self.assertIn(f"- SIR -30 dB: {sentence}", out)
        self.assertEqual(len(list((self.folder / "plots").iterdir())), 2)
        table = self.folder / "table.md"
        code, out, err = self.run_main(*common, "--methods", "unet", "--table", table)
        self.assertEqual((code, err.count(sentence)), (2, 1))
        self.assertIn(f"- SIR -30 dB: {sentence}", table.read_text())
        for methods in ("unet", "unet,unet:model=none.pt"):  # nothing can be measured
            code, out, err = self.run_main("--windows", 2, "--sir-db", -30, "--methods", methods)
            self.assertEqual((code, out), (2, ""))
            self.assertEqual(err.count("refuses"), methods.count("unet"))

    def test_other_errors_of_a_method_are_defects(self):
        def broken(problem):
            raise ValueError("a defect")

        with (mock.patch.dict(benchmark.separators.METHODS, {"lmmse": broken}),
              self.assertRaisesRegex(ValueError, "a defect")):
            self.run_main("--windows", 2, "--sir-db", -6, "--methods", "lmmse,matched-filter")

    def test_a_method_that_lacks_memory_is_left_out(self):
        def large(problem):
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

        with mock.patch.dict(benchmark.separators.METHODS, {"lmmse": large}):
            code, out, err = self.run_main("--windows", 2, "--sir-db", -6, "--methods", "lmmse,matched-filter")
        self.assertEqual(code, 0)
        self.assertIn("the method lmmse refuses: memory ran out; a smaller --batch needs less", err)
        self.assertIn("| matched-filter |", out)

    def test_every_method_is_warmed_up_once_outside_its_time(self):
        with mock.patch.object(benchmark.separators, "separate", wraps=benchmark.separators.separate) as separate:
            self.rows("--methods", "pnp-dr,alpha-rgs,matched-filter", "--steps", 9, "--windows", 5, "--sir-db", -9, -6)
        calls = [(len(c.args[0].mixture), *c.args[1:]) for c in separate.call_args_list]
        self.assertEqual(calls[:3], [(2, "pnp-dr", 3), (2, "alpha-rgs", 3), (2, "matched-filter", None)])
        self.assertEqual([count for count, *_ in calls[3:]], [5] * 6)

    def test_rows_of_a_network_are_known_by_its_contents(self):
        file = self.folder / "network.pt"
        shipped = sorted(benchmark_rows.SHIPPED_NETWORKS.glob("*.pt"))
        self.assertTrue(shipped)

        def files(*methods):
            args, _ = benchmark.prepare(["--methods", ",".join(methods)])
            return [args.fingerprints[method] for method in args.methods]

        with_none, plain = files(f"unet:model={file}", "pnp-dr")
        self.assertEqual((with_none, plain), (None, None))
        file.write_bytes(shipped[0].read_bytes())
        first, own, plain = files(f"unet:model={file}", "unet", "pnp-dr")
        self.assertIsNone(plain)
        self.assertTrue(first and own)
        file.write_bytes(b"another")
        other, same = files(f"unet:model={file}", "unet")
        self.assertNotEqual(other, first)
        self.assertEqual(same, own)
        with mock.patch.object(benchmark_rows, "SHIPPED_NETWORKS", self.folder):
            self.assertEqual(files("unet"), [other])

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

    def test_windows_are_divided_among_streams(self):
        common = ("--sir-db", -24, "--windows", 12, "--protocol", "stream")
        row = self.rows(*common, "--streams", 3)[-1]
        self.assertAlmostEqual(row["windows"], 12, delta=3)
        self.assertEqual(row["bits"] % 3, 0)
        self.assertLess(row["ber"], 0.01)
        self.assertEqual(len(self.rows(*common)), 2)

    def test_rows_that_are_there_are_kept(self):
        first = self.rows("--windows", 4, "--sir-db", -6)
        second = self.rows("--windows", 4, "--sir-db", -6, -3)
        self.assertEqual(second[0], first[0])
        self.assertEqual(len(second), 2)
        self.assertEqual(len(self.rows("--windows", 4, "--sir-db", -6, "--seed", 2)), 3)

    def test_a_stream_s_batch_is_part_of_its_row(self):
        common = ("--sir-db", -24, "--windows", 8, "--protocol", "stream")
        self.assertEqual([r["batch"] for r in self.rows(*common)], [8])  # as many as there are
        self.assertEqual(len(self.rows(*common, "--batch", 9)), 1)
        rows = self.rows(*common, "--batch", 2)
        self.assertEqual([r["batch"] for r in rows], [8, 2])
        for row in rows:  # of the time when every batch was the default
            del row["batch"]
        self.json.write_text(json.dumps(rows[:1]))
        self.assertEqual(len(self.rows(*common, "--batch", 64)), 1)
        self.assertEqual(len(self.rows(*common, "--batch", 3)), 2)
        isolated = [self.rows("--sir-db", -24, "--windows", 8, "--batch", batch) for batch in (64, 2)]
        self.assertEqual([len(rows) for rows in isolated], [3, 3])  # windows on their own do not know their batch

    def test_a_point_that_is_named_twice_is_measured_once(self):
        rows = self.rows("--windows", 2, "--sir-db", -15, -15.0, "--snr-db", "inf", "inf", 30, "30.0", "--methods",
                         "alpha-rgs", "--steps", 5, "--omega", 1, 1)
        self.assertEqual([(r["sir_db"], r["snr_db"], r["omega"]) for r in rows], [(-15, "inf", 1), (-15, 30, 1)])

    def test_recordings_are_known_by_their_contents_however_they_are_named(self):
        own = self.folder / "rec"
        meta, data = (own.with_suffix(suffix) for suffix in (".sigmf-meta", ".sigmf-data"))
        samples = WIFI.with_suffix(".sigmf-data").read_bytes()
        document = json.loads(WIFI.read_text())

        def known():
            return [benchmark.prepare(map(str, argv))[0].fingerprints["pnp-dr"]
                    for name in (own, meta, data) for argv in (["--interference-signal", name],
                                                               ["--interference", f"gaussian:{name}",
                                                                "--interference-signal", OFDM])]

        found = []
        for contents, elsewhere in ((samples, False), (samples[:-400], False), (samples, True), (samples[:-400], True)):
            meta.unlink(missing_ok=True)
            data.unlink(missing_ok=True)
            document["global"].pop("core:sha512", None)
            if elsewhere:
                document["global"]["core:dataset"] = "elsewhere.iq"
            (self.folder / "elsewhere.iq" if elsewhere else data).write_bytes(contents)
            meta.write_text(json.dumps(document))
            (print_,) = set(known())  # by any of its names, for whatever it serves
            found.append(print_)
        self.assertEqual(len({None, *found}), 5)

    def test_rows_that_were_measured_before_are_still_known(self):
        def known(*files):
            return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]

        stem, shipped = WIFI.with_suffix(""), benchmark_rows.SHIPPED
        recording = known(WIFI.with_suffix(".sigmf-data"), WIFI)
        for argv, files in (([], None), (["--interference", "ofdm-qpsk"], known(shipped / "ofdm-qpsk.pt")),
                            (["--soi", "rrc-qpsk"], known(shipped / "rrc-qpsk.pt")),
                            (["--interference-signal", str(WIFI)], recording),
                            (["--interference-signal", str(stem)], recording)):
            self.assertEqual(benchmark.prepare(argv)[0].fingerprints, {"pnp-dr": files}, argv)
        auto = benchmark_rows.prior_files(f"cp-ofdm:auto,recording={stem},fft=64")
        self.assertEqual(benchmark_rows.fingerprint(auto), recording)
        networks = sorted(benchmark_rows.SHIPPED_NETWORKS.glob("*.pt"))
        self.assertEqual(benchmark.prepare(["--methods", "unet"])[0].fingerprints, {"unet": known(*networks)})

    def test_ends_that_soi_says_are_kept(self):
        for said, protocol, tails in (("", "isolated", 0), ("", "stream", 4), (",ends=stream", "isolated", 4),
                                      (",ends=isolated", "stream", 0)):
            prior = benchmark.prepare(["--soi", f"rrc:qpsk{said}", "--protocol", protocol])[0].priors[0]
            self.assertEqual(prior.name.rpartition("=")[2], "stream" if tails else "isolated")

    def test_rows_from_before_signals_were_apart_are_kept(self):
        row, = self.rows("--windows", 4, "--sir-db", -6)
        for key in ("soi_signal", "interference_signal", "soi_timing", "streams", "omega", "files", "mixtures"):
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
        given = self.rows("--snr-db", 20, "--mixtures", file)[-1]
        for key in ("bits", "bit_errors", "steps"):
            self.assertEqual(own[key], given[key], key)
        self.assertAlmostEqual(own["mse_db"], given["mse_db"], delta=0.1)

    def test_mixtures_made_elsewhere_are_known_by_their_contents(self):
        made = benchmark.generate(benchmark.SoiSignal("rrc:qpsk"), benchmark.OfdmSignal(OFDM), 4, 2560, -9, np.inf, 1)
        file = self.folder / "mixtures.npz"
        for changed, rows in ((1, 1), (1, 1), (2, 2)):
            np.savez(file, mixture=made[0] * changed, sir_db=np.full(4, -9.0))
            self.assertEqual(len(self.rows("--mixtures", file)), rows)
        row = self.rows("--mixtures", file)[0]
        self.assertEqual((row["ber"], row["mse_db"], row["bits"], row["windows"]), (None, None, 0, 4))

    def test_an_interrupt_keeps_what_is_finished(self):
        argv = ["--methods", "pnp-dr,alpha-rgs", "--windows", "2", "--sir-db", "-3", "--json", str(self.json)]
        run = subprocess.Popen([sys.executable, benchmark.__file__, *argv, "--steps", "alpha-rgs=100000000"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "PYTHONUNBUFFERED": "1"})
        self.addCleanup(run.kill)
        for line in run.stderr:
            if line.startswith("[1/2] pnp-dr"):
                break
        self.assertIn("at least", line)  # how long alpha-RGS takes is not known yet
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=60)
        self.assertEqual(run.returncode, 3, err)
        self.assertIn("stopped after 1 of 2 rows", err)
        self.assertIn("| pnp-dr |", out)
        kept, = json.loads(self.json.read_text())
        self.assertEqual(self.rows("--windows", 2, "--sir-db", -3, "--methods", "pnp-dr,alpha-rgs", "--steps",
                                   "alpha-rgs=5")[0], kept)

    def test_time_left_counts_all_rows(self):
        jobs = [benchmark_jobs.Job(method, None, None, sir, np.inf) for sir in (-6.0, -3.0) for method in ("a", "b")]
        row = {"ber": None, "steps": 0, "steps_limit": None}
        progress = benchmark_jobs.Progress(jobs, [{**row, "method": "a", "seconds_per_window": 2.0}], 10)
        self.assertEqual(progress.left(0.5), "at least 30 s left")
        with contextlib.redirect_stderr(io.StringIO()):
            for method, seconds in (("a", 2.0), ("b", 60.0)):
                progress.finished({**row, "method": method, "seconds_per_window": seconds})
        self.assertEqual(progress.left(), "about 10 min left")

    def test_pictures_and_tables_have_the_papers_curves_where_the_case_is_its_own(self):
        table = self.folder / "table.md"
        rows = self.rows("--windows", 3, "--sir-db", -6, -3, "--snr-db", "inf", 20, "--table", table,
                         "--plots", self.folder / "plots", "--methods", "pnp-dr,matched-filter")
        names = sorted(f.name for f in (self.folder / "plots").iterdir())
        self.assertEqual(names, [f"cp-ofdm_qpsk_fft=64_cp=16_active=56_snr={s}.png" for s in (20.0, "inf")])
        for name in names:
            self.assertTrue((self.folder / "plots" / name).read_bytes().startswith(b"\x89PNG"))
        clean, noisy = table.read_text().split("### ")[1:]
        curves = benchmark_plots.paper_case(rows[:1])["curves"]
        self.assertEqual({c["label"]: c["method"] for c in curves}["BASIS"], "basis-hard:temperature=0.5")
        self.assertIn("| α-RGS, paper | 6.3e-4 | 1.9e-4 |", clean)
        self.assertNotIn("paper", noisy)
        for part in (clean, noisy):
            self.assertEqual(part.count("| `pnp-dr` |"), 4)  # rates, their intervals, errors and times
            self.assertIn("Bit error rate, 960 bits a point:", part)
        row = rows[0]
        self.assertEqual(benchmark_plots.paper_case([row])["title"], "OFDM (QPSK)")
        for change in ({"snr_db": 20.0}, {"protocol": "stream"}, {"interference_signal": "cp-ofdm:qpsk,fft=128"},
                       {"soi_signal": "rrc:bpsk"}, {"mixtures": "x"}):
            self.assertIsNone(benchmark_plots.paper_case([{**row, **change}]), change)
        case = benchmark_plots.paper_case([{**row, "interference_signal": "cp-ofdm:bpsk"}])
        self.assertEqual(case["title"], "OFDM (BPSK)")

    def test_tables_of_the_documentation_are_those_of_its_rows(self):
        results = documented()
        text = RESULTS.with_suffix(".md").read_text(encoding="utf-8")
        self.assertEqual(results.filled(text), text, "run docs/results.py")
        self.assertGreater(text.count("<!-- end -->"), 10)
        self.assertIn("<!-- standing -->\n| |", text)

    def test_standing_counts_points_ahead_level_and_behind(self):
        results = documented()

        def row(method, sir_db, low, ber, high, steps=None):
            return {"method": method, "sir_db": sir_db, "ber": ber, "ber_ci95": [low, high], "steps_limit": steps}
        others = [row("guided-dps", sir, .2, .3, .4) for sir in (-9, -6, -3, 0)]
        others += [row("lmmse", sir, .4, .5, .6) for sir in (-9, -6, -3, 0)]
        own = [row("alpha-rgs", -9, .1, .15, .19, 7), row("alpha-rgs", -6, .1, .29, .5, 7),
               row("alpha-rgs", -3, .2, .3, .4, 7), row("alpha-rgs", 0, .41, .5, .6, 7),
               row("alpha-rgs", 0, 0, 0, .01, 9)]  # of another number of steps
        found = [*own, *others, row("lmmse-cyclic", -9, 0, 0, .1)]  # which is nobody's baseline
        self.assertEqual(results.told_standing(own, found, 7),
                         "7 steps: 2 ahead (1 clearly), 1 level, 1 behind (1 clearly)")

    def test_series_are_named_by_what_tells_them_apart(self):
        row = {"method": "pnp-dr", "sir_db": -3, "steps_limit": 5, "soi": "rrc:qpsk"}
        self.assertEqual(list(benchmark_tables.series([row, {**row, "sir_db": -6}])), ["pnp-dr"])
        self.assertEqual(list(benchmark_tables.series([row, {**row, "method": "alpha-rgs", "steps_limit": 9}])),
                         ["pnp-dr", "alpha-rgs"])
        self.assertEqual(list(benchmark_tables.series([row, {**row, "steps_limit": 9}, {**row, "soi": "rrc-qpsk"}])),
                         ["pnp-dr, 5 steps, rrc:qpsk", "pnp-dr, 9 steps, rrc:qpsk", "pnp-dr, 5 steps, rrc-qpsk"])

    def test_intervals_of_the_mean_squared_error_cover_it(self):
        rng = np.random.default_rng(3)
        covered = 0
        for _ in range(200):  # errors of very different windows
            scale = rng.exponential(size=60)[:, None]
            error = np.sqrt(scale) * rng.standard_normal((60, 50)) * 0.1
            _, (low, high) = benchmark_rows.mean_squared_error(1 + error, np.ones((60, 50)), 50)
            covered += low <= -20 <= high
        self.assertGreater(covered, 174)  # 190 are expected of 200; the bootstrap's are a little short


if __name__ == "__main__":
    unittest.main()
