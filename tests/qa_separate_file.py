# SPDX-License-Identifier: GPL-3.0-or-later
"""apps/separate_file.py: what it writes is right, whatever the format; Ctrl-C keeps what is done; memory is bounded."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import unittest
import unittest.mock
from pathlib import Path

import numpy as np
import scipy.io.wavfile
from gnuradio.unmix import calibration, captures, demodulation, priors, recording, signals
from gnuradio.unmix.symbols import SymbolStream
from separate_file_common import APP, SIR_DB, SOI, Case, Shrink, app


class Formats(Case):
    def check(self, path, *options):
        self.bits.tofile("truth.u8")
        report = self.done(path, "--reference", "truth.u8", "--output", "out", *options)
        truth = report["quality"]["reference"]
        self.assertEqual(truth["ber_after"]["errors"], 0)
        self.assertEqual(truth["ber_after"]["bits"], len(self.bits))
        self.assertGreater(truth["ber_before"]["rate"], 0.05)
        self.assertAlmostEqual(report["levels"]["sir_db"], SIR_DB, delta=1.0)
        stem = Path(path).name.split(".")[0]
        np.testing.assert_array_equal(np.fromfile(f"out/{stem}_bits.u8", np.uint8), self.bits)
        self.assertEqual(len(self.read(f"out/{stem}_soi")), len(self.mixture))
        self.assertEqual(len(self.read(f"out/{stem}_interference")), len(self.mixture))

    def test_sigmf(self):
        with captures.SigMFWriter("rec", 1e6, 433.92e6, "A test.", {}) as writer:
            writer.write(self.mixture)
        self.check("rec.sigmf-meta")
        capture = captures.open_capture("out/rec_soi")
        self.assertEqual((capture.sample_rate, capture.center_frequency), (1e6, 433.92e6))
        facts = capture.metadata
        self.assertEqual(facts["unmix:method"], "pnp-dr")
        self.assertEqual(facts["unmix:priors"], [SOI, "cp-ofdm:qpsk,fft=64,cp=16,active=56"])
        self.assertEqual((facts["unmix:seed"], facts["unmix:complete"]), (0, True))
        self.assertIn("unmix:version", facts)
        self.assertAlmostEqual(facts["unmix:sir_db"], SIR_DB, delta=1.0)

    def test_silence_before_and_after_the_signals_changes_nothing_for_them(self):
        rng = np.random.default_rng(0)
        count = 3 * 2304
        for level in (0.0, 1e-3):
            quiet = [np.complex64(level) * signals.noise(rng, (count,), 1.0) for _ in range(2)]
            np.concatenate([quiet[0], self.mixture, quiet[1]]).tofile("quiet.cf32")
            report = self.done("quiet.cf32", "--output", "out")
            self.assertAlmostEqual(report["levels"]["sir_db"], SIR_DB, delta=1.0)
            self.assertGreaterEqual(report["result"]["outcomes"]["silent"], 4)
            self.assertTrue(any("silent" in line for line in report["summary"]))
            bits = np.fromfile("out/quiet_bits.u8", np.uint8)[2 * count // 16:][:len(self.bits)]
            inside = slice(2 * 80, -2 * 80)  # the windows that the signals begin and end in are not asked for
            self.assertLess(np.count_nonzero(bits[inside] != self.bits[inside]), 5)
            np.testing.assert_array_equal(self.read("out/quiet_soi")[:2304], quiet[0][:2304])

    def test_floats(self):
        self.check("mix.cf32")

    def test_integers(self):
        pairs = self.mixture.view(np.float32)
        np.round(pairs * 32767).astype(np.int16).tofile("a.ci16")
        np.round(pairs * 127).astype(np.int8).tofile("b.cs8")
        np.round(pairs * 127.5 + 127.5).astype(np.uint8).tofile("c.cu8")
        np.round(pairs * 32767).astype(np.int16).tofile("d.bin")
        for path, *options in (["a.ci16"], ["b.cs8"], ["c.cu8"], ["d.bin", "--format", "ci16"]):
            with self.subTest(path):
                self.check(path, *options)

    def test_wav(self):
        pairs = np.round(self.mixture.view(np.float32).reshape(-1, 2) * 32767).astype(np.int16)
        scipy.io.wavfile.write("e.wav", 48000, pairs)
        self.check("e.wav")


class Results(Case):
    def test_outputs_sum_to_the_mixture(self):
        report = self.done("mix.cf32", "--output", "out")
        total = self.read("out/mix_soi") + self.read("out/mix_interference")
        left = np.mean(np.abs(self.mixture - total) ** 2) / np.mean(np.abs(self.soi) ** 2)
        self.assertLess(10 * np.log10(left), -20)
        error = np.mean(np.abs(self.read("out/mix_soi") - self.soi) ** 2) / np.mean(np.abs(self.soi) ** 2)
        self.assertLess(error, 0.01)
        self.assertTrue(report["complete"])
        self.assertEqual(sum(w["length"] for w in report["windows"]), len(self.mixture))
        self.assertEqual(report["result"]["windows"], len(report["windows"]))

    def test_given_sir_and_mean_squared_error(self):
        self.soi.tofile("soi.cf32")
        report = self.done("mix.cf32", "--sir-db", SIR_DB, "--reference", "soi.cf32", "--samp-rate", "25M")
        self.assertEqual(report["capture"]["sample_rate"], 25e6)
        self.assertEqual(report["output"], "mix_unmix")
        self.assertAlmostEqual(report["levels"]["sir_db"], SIR_DB, places=6)
        truth, estimate = report["quality"]["reference"], self.read("mix_unmix/mix_soi")
        error = 10 * np.log10(np.mean(np.abs(estimate - self.soi) ** 2) / np.mean(np.abs(self.soi) ** 2))
        self.assertAlmostEqual(truth["mse_after_db"], error, places=3)
        self.assertAlmostEqual(truth["mse_before_db"], -SIR_DB, delta=0.5)
        self.assertEqual(truth["ber_after"]["errors"], 0)

    def test_errors_equal_an_independent_count(self):
        truth = self.bits.copy()
        truth[::50] ^= 1
        np.save("truth.npy", truth)
        code, out, _ = self.run_app("mix.cf32", "--method", "matched-filter", "--reference", "truth.npy", "--batch", 2)
        self.assertEqual(code, 0)
        self.assertIn("does not check its own result", out)
        report = json.loads(Path("mix_unmix/mix_report.json").read_text())
        modulation = priors.parse(SOI).modulation
        whole = demodulation.decide(demodulation.matched_filter(self.mixture, modulation), modulation)
        counted = report["quality"]["reference"]
        self.assertEqual(counted["ber_before"]["errors"], int(np.sum(whole != truth)))
        written = np.fromfile("mix_unmix/mix_bits.u8", np.uint8)
        self.assertEqual(counted["ber_after"]["errors"], int(np.sum(written != truth)))
        low, high = counted["ber_before"]["ci95"]
        self.assertTrue(low < counted["ber_before"]["rate"] < high)
        self.assertIn("bit error rate 0.", out)
        # bits decided piece by piece are those of the whole stream
        estimate = self.read("mix_unmix/mix_soi") / np.float32(report["levels"]["soi_amplitude"])
        np.testing.assert_array_equal(
            written, demodulation.decide(demodulation.matched_filter(estimate, modulation), modulation))

    def test_symbols_of_pieces_are_those_of_the_whole(self):
        rng = np.random.default_rng(1)
        for spec in (SOI, "rrc:bpsk,sps=5,rolloff=0.25,span=7,first=0", "rrc:8psk,sps=2,rolloff=0.9,span=12,first=1"):
            modulation = priors.parse(spec).modulation
            for length in (1, 7, 1000, 4003):
                wave = (rng.standard_normal((2, length)) + 1j * rng.standard_normal((2, length))).astype(np.complex64)
                stream, pieces, at = SymbolStream(modulation, 2), [], 0
                while at < length:
                    step = int(rng.integers(1, 300))
                    pieces.append(stream.push(wave[:, at:at + step]))
                    at += step
                pieces.append(stream.finish())
                np.testing.assert_array_equal(np.concatenate(pieces, 1), demodulation.matched_filter(wave, modulation))

    def test_shorter_than_a_window(self):
        for length in (1999, 640, 100):
            with self.subTest(length):
                self.mixture[:length].tofile("short.cf32")
                report = self.done("short.cf32", "--sir-db", SIR_DB)
                self.assertEqual(len(self.read("short_unmix/short_soi")), length)
                self.assertEqual(report["result"]["windows"], 1)

    def test_batch_does_not_change_the_result(self):
        self.done("mix.cf32", "--output", "a", "--batch", 1, "--steps", 5)
        self.done("mix.cf32", "--output", "b", "--batch", 7, "--steps", 5)
        np.testing.assert_allclose(self.read("a/mix_soi"), self.read("b/mix_soi"), atol=1e-4)

    def test_three_sources(self):
        report = self.done("mix.cf32", "--interference", "cp-ofdm:qpsk,fft=64,cp=16,active=56", "--interference",
                           "rrc:bpsk,sps=4,rolloff=0.2,span=8,first=0", "--sir-db", -12, "--steps", 3)
        self.assertEqual(len(report["levels"]["interference_amplitudes"]), 2)
        for name in ("soi", "interference1", "interference2"):
            self.assertEqual(len(self.read(f"mix_unmix/mix_{name}")), len(self.mixture))

    def test_prior_file_with_a_window_of_its_own(self):
        info = {"format": 1, "name": "tiny", "kind": "test", "window": 512}
        Path("tiny.pt").write_bytes(priors.to_bytes(Shrink(), info))
        report = self.done("mix.cf32", "--interference", "tiny.pt", "--sir-db", SIR_DB, "--steps", 2)
        self.assertEqual(report["settings"]["window"], 512)

    def test_stretches_to_distrust(self):
        report = self.done("mix.cf32", "--method", "alpha-rgs", "--steps", 1)
        self.assertEqual(report["result"]["distrusted_samples"], len(self.mixture))
        self.assertEqual(report["result"]["agreed"], 0)
        self.assertTrue(any(line.startswith("distrust 100") for line in report["summary"]), report["summary"])
        for name in ("soi", "interference"):
            note, = json.loads(Path(f"mix_unmix/mix_{name}.sigmf-meta").read_text())["annotations"]
            self.assertEqual((note["core:sample_start"], note["core:sample_count"]), (0, len(self.mixture)))
            self.assertLess(note["unmix:agreement"], 0.9)

    def test_priors_that_do_not_fit_are_noticed(self):
        wrong = "rrc:bpsk,sps=16,rolloff=0.2,span=8,first=0"  # where most of the interference can only be noise
        report = self.done("mix.cf32", "--interference", wrong, "--sir-db", SIR_DB, "--steps", 3)
        self.assertTrue(any("do the priors fit" in line for line in report["warnings"]), report["warnings"])
        self.assertTrue(any("do the priors fit" in line for line in report["summary"]), report["summary"])

    def test_weak_evidence_is_named(self):
        report = self.done("mix.cf32")
        self.assertEqual(report["warnings"], [])
        for difference, count in ((2.9, 0), (-2.9, 0), (3.1, 1), (-3.1, 1)):
            report["result"]["sir_db"] = report["levels"]["sir_db"] + difference
            found = recording.report.warnings(report)
            self.assertEqual(len(found), count)
            self.assertTrue(all("differs by 3.1 dB" in text and "the priors may not fit" in text for text in found))
        (self.mixture - self.soi).tofile("other.cf32")
        report = self.done("mix.cf32", "--interference", "gaussian:other.cf32")
        self.assertIn("gaussian:other.cf32 is Gaussian and agrees with everything", report["warnings"][0])
        self.assertIn(f"warning: {report['warnings'][0]}", report["summary"])
        info = {"format": 1, "name": "tiny", "kind": "test", "window": 512}
        Path("tiny.pt").write_bytes(priors.to_bytes(Shrink(), info))
        report = self.done("mix.cf32", "--interference", "tiny.pt", "--sir-db", SIR_DB, "--steps", 2)
        self.assertIn("the prior tiny is learned", report["warnings"][0])
        self.assertEqual([p["learned"] for p in report["priors"]], [False, True])

    def test_what_is_said(self):
        code, out, err = self.run_app("mix.cf32", "--json", "report.json")
        self.assertEqual(code, 0)
        for word in ("assumed from the suffix", "sample rate unknown", "SIR -1", "pnp-dr on", "cp-ofdm"):
            self.assertIn(word, err)
        self.assertIn("windows agreed", out)
        self.assertEqual(json.loads(Path("report.json").read_text())["windows"],
                         json.loads(Path("mix_unmix/mix_report.json").read_text())["windows"])
        self.assertIn("noise not visible in the spectrum", err)
        self.assertIn("5 windows of 2560 samples, overlapping by 256", err)
        self.mixture[:1999].tofile("short.cf32")
        self.assertIn("1 window of 1999 samples, seed", self.run_app("short.cf32")[2])
        self.assertEqual(self.run_app("mix.cf32", "--json", "mix_unmix/mix_report.json", "--quiet")[0], 0)
        self.assertEqual(self.run_app("mix.cf32", "--json", "new/mix_report.json", "--output", "new", "--quiet")[0], 0)
        code, out, err = self.run_app("mix.cf32", "--quiet")
        self.assertEqual((code, out, err), (0, "", ""))
        code, out, err = self.run_app("mix.cf32", "--json", "-")
        self.assertTrue(json.loads(out)["complete"])  # nothing else on standard output

    def test_pictures(self):
        report = self.done("mix.cf32", "--plots", "--samp-rate", "1M", "--method", "matched-filter")
        for name in ("spectrogram", "spectrum", "constellation", "agreement"):
            self.assertIn(f"mix_{name}.png", report["files"])
            self.assertEqual(Path(f"mix_unmix/mix_{name}.png").read_bytes()[:8], b"\x89PNG\r\n\x1a\n")


class LongRuns(Case):
    def test_ctrl_c_keeps_what_is_done(self):
        with subprocess.Popen(
                [sys.executable, str(APP), "mix.cf32", "--method", "alpha-rgs", "--steps", "300", "--batch", "1",
                 "--window", "512", "--output", "out"],
                stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                deadline = time.monotonic() + 60
                while time.monotonic() < deadline and process.poll() is None:
                    if any(p.stat().st_size for p in Path("out").glob(".mix_soi*.part")):
                        break
                    time.sleep(0.02)
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=30)
            finally:
                process.kill()
        self.assertEqual(process.returncode, 3, err)
        self.assertIn("separate_file.py: cancelled at sample ", err)
        self.assertNotIn("Traceback", err)
        capture = captures.open_capture("out/mix_soi")
        self.assertTrue(0 < capture.length < len(self.mixture))
        self.assertIs(capture.metadata["unmix:complete"], False)
        report = json.loads(Path("out/mix_report.json").read_text())
        self.assertEqual(report["cancelled"], {"at_sample": capture.length, "of_samples": len(self.mixture)})
        self.assertFalse(report["complete"])
        self.assertNotIn("cancelled", out)
        self.assertEqual(err.count("cancelled"), 1)
        self.assertEqual(len(self.read("out/mix_interference")), capture.length)
        self.assertFalse(list(Path("out").glob(".*")))

    def test_ctrl_c_before_any_batch_is_finished(self):
        class Impatient(recording.Recording):
            def run(self):
                self._cancel.set()
                return super().run()
        with unittest.mock.patch.object(app, "Recording", Impatient):
            code, out, err = self.run_app("mix.cf32", "--quiet", "--json", "mix_unmix/mix_report.json")
        self.assertEqual((code, out, err.count("\n")), (3, "", 1))
        self.assertIn("kept batch by batch (--batch)", err)
        self.assertFalse(Path("mix_unmix").exists())

    def test_ctrl_c_while_the_report_waits_for_a_reader(self):
        os.mkfifo("pipe")
        with subprocess.Popen(
                [sys.executable, str(APP), "mix.cf32", "--method", "matched-filter", "--quiet", "--json", "pipe"],
                stderr=subprocess.PIPE, text=True) as process:
            try:
                deadline = time.monotonic() + 60
                while time.monotonic() < deadline and not Path("mix_unmix/mix_report.json").exists():
                    time.sleep(0.02)
                time.sleep(0.5)
                process.send_signal(signal.SIGINT)
                err = process.communicate(timeout=30)[1]
            finally:
                process.kill()
        self.assertEqual((process.returncode, err.count("\n")), (3, 1), err)
        self.assertIn("cancelled; all files in mix_unmix are complete", err)
        self.assertEqual(len(self.read("mix_unmix/mix_soi")), len(self.mixture))

    def test_ctrl_c_behind_a_separation_that_was_cancelled(self):
        class Impatient(recording.Recording):
            def _store(self, *args):
                super()._store(*args)
                self._cancel.set()
        with unittest.mock.patch.object(app, "Recording", Impatient), \
                unittest.mock.patch.object(app, "write_text", side_effect=KeyboardInterrupt):
            code, _, err = self.run_app("mix.cf32", "--quiet", "--json", "copy.json", "--batch", 1)
        self.assertEqual((code, err.count("\n")), (3, 1), err)
        self.assertIn("what was finished is kept and marked as incomplete", err)
        self.assertTrue(Path("mix_unmix/mix_report.json").exists())

    def test_ctrl_c_while_starting(self):
        for seconds in (0.1, 0.3, 0.6, 1.0):
            with self.subTest(seconds), subprocess.Popen(
                    [sys.executable, "-X", "importtime", str(APP), "mix.cf32", "--method", "alpha-rgs", "--batch", "1"],
                    stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
                try:
                    for line in process.stderr:
                        if line.rstrip().endswith(" signal"):  # Python itself has started, the handler is next
                            break
                    time.sleep(seconds)
                    process.send_signal(signal.SIGINT)
                    err = [line for line in process.communicate(timeout=60)[1].splitlines()
                           if not line.startswith("import time:")]
                finally:
                    process.kill()
                self.assertEqual(process.returncode, 3, err)
                self.assertEqual(sum("cancelled" in line for line in err), 1, err)
                self.assertFalse(any("Traceback" in line for line in err), err)

    def test_broken_sample_found_on_the_way_leaves_nothing(self):
        broken = self.mixture.copy()
        broken[-1] = np.nan
        broken.tofile("broken.cf32")
        # As in a file too large to be checked beforehand, where the stretches that are looked at miss the sample.
        with unittest.mock.patch.object(recording, "scan"), \
                unittest.mock.patch.object(calibration, "survey", return_value=calibration.survey(
                    captures.open_capture("mix.cf32"))), \
                unittest.mock.patch.object(recording, "check_not_constant"):
            self.refused("broken.cf32", "--batch", 1, "--method", "matched-filter", words=["Sample 10239 "])

    def test_memory_does_not_grow_with_the_file(self):
        np.tile(self.mixture, 20).tofile("short.cf32")
        with open("long.cf32", "wb") as file:
            for _ in range(600):  # 49 MB
                self.mixture.tofile(file)
        script = ("import importlib.util, resource, sys\n"
                  "spec = importlib.util.spec_from_file_location('app', sys.argv[1])\n"
                  "app = importlib.util.module_from_spec(spec); spec.loader.exec_module(app)\n"
                  "for name in ('short', 'long'):\n"
                  "    code = app.main([f'{name}.cf32', '--method', 'matched-filter', '--batch', '16', '--quiet'])\n"
                  "    assert code == 0, code\n"
                  "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n")
        found = subprocess.run([sys.executable, "-c", script, str(APP)], capture_output=True, text=True, check=True)
        short, long = (int(line) * 1024 for line in found.stdout.split())
        self.assertLess(long - short, Path("long.cf32").stat().st_size / 4)
        self.assertEqual(Path("long_unmix/long_soi.sigmf-data").stat().st_size, Path("long.cf32").stat().st_size)

    def test_help_and_version(self):
        for option, word in (("--help", "cp-ofdm:CONSTELLATION"), ("--version", "separate_file.py 0.")):
            out = io.StringIO()
            with contextlib.redirect_stdout(out), self.assertRaises(SystemExit) as caught:
                app.main([option])
            self.assertEqual(caught.exception.code, 0)
            self.assertIn(word, out.getvalue())


class TimeLeft(unittest.TestCase):
    def test_it_counts_what_this_run_has_seen(self):
        now = [100.0]
        meter, err = app.Meter(False), io.StringIO()
        with unittest.mock.patch.object(app.time, "monotonic", lambda: now[0]), contextlib.redirect_stderr(err):
            meter(800.0, 1000)  # 800 windows were done before
            for done in range(801, 1001):
                now[0] += 1.0
                meter(float(done), 1000)
        lines = re.findall(r"(\d+) of 1000 windows, about (\d+) s left", err.getvalue())
        self.assertEqual(lines, [("900", "100")])


if __name__ == "__main__":
    unittest.main()
