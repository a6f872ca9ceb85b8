# SPDX-License-Identifier: GPL-3.0-or-later
"""apps/separate_file.py refuses what it cannot use: exit code 2, one sentence, nothing written.

So it does where something breaks on the way, but for what the sentence says is kept.
"""

import contextlib
import io
import itertools
import json
import os
import shutil
import sys
import threading
import unittest
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from gnuradio.unmix import captures, priors, quality, recording, resume
from separate_file_common import SOI, Broken, Case, Shrink, app


class Refusals(Case):
    def test_captures(self):
        Path("empty.cf32").touch()
        self.refused("empty.cf32", words=["empty"])
        self.refused("missing.cf32", words=["no file missing.cf32"])
        Path("odd.cf32").write_bytes(self.mixture.tobytes()[:-3])
        self.refused("odd.cf32", words=["bytes", "cut"])
        Path("x.unknown").write_bytes(b"1234")
        self.refused("x.unknown", words=[".unknown"])
        np.zeros(9000, np.complex64).tofile("zero.cf32")
        self.refused("zero.cf32", words=["same value"])
        np.ones(5, np.complex64).cumsum().astype(np.complex64).tofile("five.cf32")
        self.refused("five.cf32", words=["too short"])
        self.refused("mix.cf32", "--format", "f32", words=["real-valued"])
        self.refused("mix.cf32", "--format", "wav", words=["not a WAV"])
        self.refused("mix.cf32", "--samp-rate", "fast", words=["fast"])

    def test_broken_samples(self):
        for value in (np.nan, np.inf):
            for place in (0, len(self.mixture) - 1):
                broken = self.mixture.copy()
                broken[place] = value
                broken.tofile("broken.cf32")
                self.refused("broken.cf32", words=[f"Sample {place} "])

    def test_sigmf(self):
        with captures.SigMFWriter("rec", 1e6, None, "A test.", {}) as writer:
            writer.write(self.mixture)
        data, meta = Path("rec.sigmf-data"), Path("rec.sigmf-meta")
        whole, text = data.read_bytes(), meta.read_text()
        data.write_bytes(whole[:-5])
        self.refused("rec", words=["rec.sigmf-data"])
        data.write_bytes(whole)
        document = json.loads(text)
        document["global"]["core:datatype"] = "rf32_le"
        meta.write_text(json.dumps(document))
        self.refused("rec.sigmf-meta", words=["rf32_le"])
        document = json.loads(text)
        document["captures"] = [{"core:sample_start": 10**9}]
        meta.write_text(json.dumps(document))
        self.refused("rec.sigmf-data", words=["shorter than its metadata"])
        meta.unlink()
        self.refused("rec.sigmf-data", words=["no metadata"])

    def test_priors(self):
        self.refused("mix.cf32", "--soi", "morse", words=["unknown prior 'morse'", "rrc:"])
        self.refused("mix.cf32", "--interference", "nowhere.pt", words=["nowhere.pt", "does not exist"])
        self.refused("mix.cf32", "--soi", "rrc:qpsk,sps=x", words=["sps=x"])
        Path("text.pt").write_text("no network")
        self.refused("mix.cf32", "--interference", "text.pt", words=["text.pt"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.save(torch.jit.script(Shrink()), "bare.pt")
        self.refused("mix.cf32", "--interference", "bare.pt", words=["bare.pt", "prior.json"])
        info = {"format": 1, "name": "tiny", "kind": "test", "window": 512}
        Path("tiny.pt").write_bytes(priors.to_bytes(Shrink(), info))
        self.refused("mix.cf32", "--interference", "tiny.pt", "--window", 1024, words=["512", "1024"])
        self.refused("mix.cf32", "--interference", "tiny.pt", words=["--sir-db"])
        Path("nan.pt").write_bytes(priors.to_bytes(Broken(), info | {"name": "nan"}))
        self.refused("mix.cf32", "--interference", "nan.pt", "--sir-db", "-12", words=["prior nan"])

    def test_numbers(self):
        for options, words in ((["--steps", "-3"], ["-3", "at least 1"]), (["--batch", "0"], ["0", "at least 1"]),
                               (["--window", "0"], ["at least 1"]), (["--steps", "many"], ["--steps", "many"]),
                               (["--steps", "3000000000"], ["--steps 3000000000", "at most 1000000000"]),
                               (["--method", "alpha-rgs", "--steps", "9" * 23], ["at most 1000000000"]),
                               (["--batch", "1" + "0" * 20], ["--batch", "at most 1000000"]),
                               (["--window", str(10**16)], ["--window", "at most 100000000"]),
                               (["--seed", str(1 << 63)], ["--seed", "2^63 - 1"]),
                               (["--method", "matched-filter", "--steps", "5"], ["--steps 5", "matched-filter"]),
                               (["--window", "1"], ["longer than a symbol", "16 samples"]),
                               (["--window", "16"], ["longer than a symbol", "16 samples"]),
                               (["--overlap", "33"], ["multiple", "overlaps are 32 and 48"]),
                               (["--overlap", "2550"], ["multiple", "overlap is 2544"]),
                               (["--overlap", "2560"], ["2560", "2559"]), (["--overlap", "7"], ["multiple"]),
                               (["--overlap", "-16"], ["-16"]), (["--seed", "-1"], ["-1"]),
                               (["--sir-db", "nan"], ["nan"]), (["--sir-db", "loud"], ["loud", "auto"]),
                               (["--method", "lmmse-magic"], ["lmmse-magic", "alpha-rgs", "pnp-dr"]),
                               (["--device", "tpu"], ["tpu", "cuda"]), (["--nonsense"], ["--nonsense"])):
            with self.subTest(options):
                self.refused("mix.cf32", *options, words=words)
        self.refused(words=["CAPTURE"])
        if not torch.cuda.is_available():
            self.refused("mix.cf32", "--device", "cuda", words=["cuda"])

    def test_outputs(self):
        Path("file").write_text("in the way")
        for folder in ("file", "file/below"):
            self.refused("mix.cf32", "--output", folder, words=[f"output folder {folder} cannot be written"])
        self.refused("mix.cf32", "--json", "nowhere/report.json", words=["nowhere/report.json"])
        self.refused("mix.cf32", "--json", "mix.cf32", words=["overwrite an input"])
        with captures.SigMFWriter("mix_soi", None, None, "The truth.", {}) as writer:
            writer.write(self.soi)
        self.refused("mix.cf32", "--reference", "mix_soi", "--output", ".", words=["overwrite an input"])
        if os.geteuid():  # root may write anywhere
            Path("locked").mkdir(mode=0o500)
            self.refused("mix.cf32", "--output", "locked/out", words=["locked/out"])

    def test_inputs_are_never_overwritten(self):
        info = {"format": 1, "name": "tiny", "kind": "test", "window": 512}
        Path("tiny.pt").write_bytes(priors.to_bytes(Shrink(), info))
        Path("in").mkdir()
        self.mixture.tofile("in/x.cf32")
        with captures.SigMFWriter("in/x_interference", None, None, "The other signal.", {}) as writer:
            writer.write(self.mixture - self.soi)
        Path("in/x_report.json").write_bytes(Path("tiny.pt").read_bytes())  # a prior file may have any name
        Path("in/x_spectrum.png").symlink_to("../tiny.pt")
        Path("link").symlink_to("in")
        before = {path: path.read_bytes() for path in self.folder.rglob("*.*") if path.is_file()}
        gaussian = "gaussian:in/x_interference"
        learned = ["--sir-db", "-12", "--method", "matched-filter"]
        for options in (["--interference", gaussian, "--output", "in"],
                        ["--interference", f"{gaussian}.sigmf-meta", "--output", "link"],
                        ["--interference", f"{gaussian}.sigmf-data", "--json", "in/x_interference.sigmf-meta"],
                        ["--interference", f"{gaussian}.sigmf-meta", "--json", "link/x_interference.sigmf-data"],
                        ["--interference", "tiny.pt", *learned, "--json", "tiny.pt"],
                        ["--interference", "tiny.pt", *learned, "--json", "in/x_spectrum.png"],
                        ["--interference", "tiny.pt", *learned, "--plots", "--output", "in"],
                        ["--interference", "in/x_report.json", *learned, "--output", "in"],
                        ["--json", "link/x.cf32"]):
            with self.subTest(options):
                self.refused("in/x.cf32", *options, words=["overwrite an input"])
        for name in ("x_soi.sigmf-data", "x_soi.sigmf-meta", "x_interference.sigmf-data", "x_bits.u8"):
            with self.subTest(name):
                self.refused("in/x.cf32", "--output", "in", "--json", f"link/{name}", words=["another output"])
        self.refused("in/x.cf32", "--output", "in", "--plots", "--json", "in/x_agreement.png", words=["another output"])
        self.assertEqual(before, {path: path.read_bytes() for path in before})

    def test_spectrum_without_the_signals(self):
        np.tile(np.array([1, -1], np.complex64), 10000).tofile("tone.cf32")  # where neither signal has power
        self.refused("tone.cf32", "--sir-db", "-12", words=["tone.cf32", "rrc:qpsk", "cp-ofdm:qpsk"])

    def test_references(self):
        self.refused("mix.cf32", "--reference", "none.u8", words=["none.u8"])
        self.refused("mix.cf32", "--reference", "./mix.cf32", words=["is the capture itself"])
        np.packbits(self.bits).tofile("packed.u8")
        self.refused("mix.cf32", "--reference", "packed.u8", words=["one byte per bit"])
        self.soi[:-1].tofile("soi.cf32")
        self.refused("mix.cf32", "--reference", "soi.cf32", words=["same length"])
        self.bits.tofile("truth.u8")
        self.refused("mix.cf32", "--soi", f"{SOI},sync=unknown", "--reference", "truth.u8", words=["timing"])


FULL = OSError(28, "No space left")
QUICK = ("mix.cf32", "--method", "matched-filter", "--batch", "1")


class Failures(Case):
    """What breaks on the way, before the first checkpoint where nothing else is said."""

    def fail(self, where, name, error, after=0):
        """Have the method of that name raise the error, once it was called so often."""
        calls, before = [], getattr(where, name)

        def method(*args, **options):
            calls.append(name)
            if len(calls) > after:
                raise error
            return before(*args, **options)
        return mock.patch.object(where, name, method)

    def test_want_of_memory(self):
        class OutOfMemoryError(RuntimeError):
            """As torch.cuda has it."""
        for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
                      RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9"),
                      OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), OSError(12, "No memory")):
            with self.subTest(error):
                for name in ("_estimate", "_store"):
                    with self.fail(recording.Recording, name, error):
                        self.refused(*QUICK, words=["memory ran out; a smaller --batch or --window needs less\n"])
        with self.fail(recording.Recording, "_estimate", RuntimeError("odd")):
            self.assertEqual(self.run_app(*QUICK)[0], 1)

    def test_what_cannot_be_read_or_written_is_named(self):
        self.bits.tofile("truth.u8")
        error, pump = OSError(5, "Input/output error"), recording.Recording._pump

        def unreadable(*args):
            with self.fail(captures.Capture, "read", error):
                pump(*args)
        for patch, what in ((mock.patch.object(recording.Recording, "_pump", unreadable),
                             "the capture mix.cf32 cannot be read: "),
                            (self.fail(quality.Quality, "push", error), "the reference truth.u8 cannot be read: "),
                            (self.fail(recording.Outputs, "write", error),
                             "the output folder mix_unmix cannot be written: ")):
            with self.subTest(what), patch:
                self.refused(*QUICK, "--reference", "truth.u8", words=[f": {what}Input/output error\n"])

    def test_a_disk_that_is_full_at_the_end(self):
        earlier = self.done(*QUICK)
        before = {path: path.read_bytes() for path in Path("mix_unmix").iterdir()}
        for after in range(6):  # two sources, their metadata, bits, report
            for folder in ("mix_unmix", "new"):
                with self.subTest(after), self.fail(os, "fsync", FULL, after):
                    self.refused(*QUICK, "--seed", "1", "--output", folder, words=["No space left\n"])
        self.assertEqual({path: path.read_bytes() for path in Path("mix_unmix").iterdir()}, before)
        self.assertTrue(earlier["complete"])

    def test_names_that_cannot_be_given(self):
        for name in ("name_data", "name_metadata"):
            with self.subTest(name):
                with self.fail(captures.SigMFWriter, name, FULL, after=1):
                    self.refused(*QUICK, "--output", "new", words=["No space left\n"])
                self.done(*QUICK)
                before = {path: path.read_bytes() for path in Path("mix_unmix").iterdir()}
                with self.fail(captures.SigMFWriter, name, FULL, after=1):
                    code, _, err = self.run_app(*QUICK, "--seed", "1", "--quiet")
                self.assertEqual((code, err.count("\n")), (2, 1), err)
                left = {path: path.read_bytes() for path in Path("mix_unmix").iterdir()}
                self.assertLess(left.items(), before.items())  # nothing of this run's stands beside the earlier one's

    @mock.patch.object(recording, "CHECKPOINT_SECONDS", 0.0)
    def test_no_checkpoint_of_nothing(self):
        with self.fail(recording.Recording, "_store", FULL):
            self.refused(*QUICK, words=["No space left\n"])

    def test_pictures_that_cannot_be_drawn(self):
        for error, code, words in (
                (FULL, 2, "No space left; "), (MemoryError(), 2, "memory ran out; "),
                (captures.CaptureError("Gone."), 2, "Gone; "), (KeyboardInterrupt(), 3, "cancelled; "),
                (RuntimeError("odd"), 1, "shows where); ")):
            with self.subTest(error), self.fail(recording.Recording, "_draw", error):
                found, _, err = self.run_app(*QUICK, "--quiet", "--plots")
                self.assertEqual((found, err.count("\n")), (code, 1), err)
                self.assertIn(f"{words}the separated signals and their report are whole, pictures may be missing\n",
                              err)
                self.assertTrue(json.loads(Path("mix_unmix/mix_report.json").read_text())["complete"])
                self.assertEqual(len(self.read("mix_unmix/mix_soi")), len(self.mixture))

    def test_a_copy_of_the_report_that_cannot_be_written(self):
        with self.fail(app, "write_text", FULL), mock.patch.object(sys, "stdout", None):  # as behind >&-
            err = io.StringIO()
            with contextlib.redirect_stderr(err):
                self.assertEqual(app.main([*QUICK, "--json", "copy.json", "--quiet"]), 2)
            self.assertIn("copy.json cannot be written: No space left; all files in mix_unmix", err.getvalue())
        with self.fail(app, "write_text", FULL):
            code, out, err = self.run_app(*QUICK, "--json", "copy.json")
        self.assertEqual(code, 2)
        self.assertIn("separate_file.py: the report's copy copy.json cannot be written: No space left; all files in "
                      "mix_unmix are complete\n", err)
        self.assertIn("written to mix_unmix", out)
        self.assertEqual(len(self.read("mix_unmix/mix_interference")), len(self.mixture))

    def test_a_copy_of_the_report_into_a_pipe(self):
        os.mkfifo("pipe")
        found = []
        reader = threading.Thread(target=lambda: found.append(Path("pipe").read_text()), daemon=True)
        reader.start()
        code, _, err = self.run_app(*QUICK, "--quiet", "--json", "pipe")
        self.assertEqual((code, err), (0, ""))
        reader.join(10)
        self.assertTrue(json.loads(found[0])["complete"])
        self.assertTrue(Path("pipe").is_fifo())

    def test_a_copy_of_the_report_behind_a_link(self):
        Path("link.json").symlink_to("target.json")
        self.assertEqual(self.run_app(*QUICK, "--quiet", "--json", "link.json")[0], 0)
        self.assertTrue(json.loads(Path("target.json").read_text())["complete"])
        self.assertTrue(Path("link.json").is_symlink())


@contextlib.contextmanager
def interrupted(number, *functions):
    """Ctrl-C before the line of that number which is run in the functions."""
    codes, lines, before = [function.__code__ for function in functions], itertools.count(1), sys.gettrace()

    def trace(frame, event, argument):
        if frame.f_code not in codes:
            return None
        if event == "line" and next(lines) == number:
            raise KeyboardInterrupt
        return trace
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


class Interrupted(Case):
    """Wherever Ctrl-C comes between the last sample and the last file, what is said of the files is true."""

    def contents(self, folder):
        """The bytes of all files but the report's, which has times in it."""
        return {path.name: path.name.endswith("_report.json") or path.read_bytes() for path in Path(folder).iterdir()}

    def sweep(self, *functions):
        """Interrupt at every line in turn.

        Returns how often nothing was left, how often --resume went on, and how often all was there.
        """
        argv = "mix.cf32", "--method", "matched-filter", "--batch", "3"
        self.done(*argv, "--output", "whole")
        whole, found = self.contents("whole"), [0, 0, 0]
        for number in range(1, 1000):
            shutil.rmtree("out", ignore_errors=True)
            with self.subTest(number):
                with interrupted(number, *functions), warnings.catch_warnings():
                    warnings.simplefilter("ignore", ResourceWarning)  # between open and with
                    code, _, err = self.run_app(*argv, "--output", "out", "--quiet")
                if code == 0:
                    return found
                self.assertEqual((code, err.count("\n")), (3, 1), err)
                if "nothing was written" in err:
                    self.assertEqual(list(Path(".").glob("out/*")), [])
                    self.assertFalse(Path("out").exists())
                    found[0] += 1
                elif "are whole" in err:
                    self.assertEqual(self.contents("out"), whole)
                    found[2] += 1
                else:
                    self.assertIn("is kept, and --resume continues it", err)
                    self.assertFalse(list(Path("out").glob("*.sigmf-meta")))
                    self.done(*argv, "--output", "out", "--resume")
                    self.assertEqual(self.contents("out"), whole)
                    found[1] += 1
        return self.fail("never finished")

    def test_while_a_checkpoint_is_saved(self):
        with mock.patch.object(recording, "CHECKPOINT_SECONDS", 0.0):
            found = self.sweep(recording.Outputs.save, resume.write)
        self.assertTrue(found[0] and found[1], found)

    def test_while_files_get_their_names(self):
        writer = captures.SigMFWriter
        steps = recording.Outputs.close, writer.prepare, writer.name_data, writer.name_metadata, writer.finish
        found = self.sweep(*steps)
        self.assertTrue(found[0] and not found[1] and found[2], found)
        with mock.patch.object(recording, "CHECKPOINT_SECONDS", 0.0):
            found = self.sweep(*steps)
        self.assertTrue(not found[0] and found[1] and found[2], found)


if __name__ == "__main__":
    unittest.main()
