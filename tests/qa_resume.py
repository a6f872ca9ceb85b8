# SPDX-License-Identifier: GPL-3.0-or-later
"""apps/separate_file.py --resume: what was cut short and continued equals what was not; all else is refused."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
import unittest.mock
from pathlib import Path

import numpy as np
from gnuradio.unmix import captures, outputs, recording, resume
from gnuradio.unmix.soi_sync import Sync
from separate_file_common import APP, SOI, Case, app, simulate

EXCERPT = APP.parent / "samples" / "wifi_excerpt.sigmf-meta"
AUTO = f"{SOI},sync=auto"
KILLED = """
import importlib.util, os, signal, sys
from gnuradio.unmix import recording
spec = importlib.util.spec_from_file_location("app", sys.argv[1])
app = importlib.util.module_from_spec(spec); spec.loader.exec_module(app)
recording.CHECKPOINT_SECONDS = 0.0
class Killed(recording.Recording):
    def __init__(self, *args):
        super().__init__(*args)
        before = self._progress
        def progress(done, total):
            before(done, total)
            if done >= float(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)
        self._progress = progress
app.Recording = Killed
app.main(sys.argv[3:])
"""


def impatient(windows):
    """A Recording that is cancelled when so many windows are done; half a batch too."""
    class Impatient(recording.Recording):
        def __init__(self, *args):
            super().__init__(*args)
            before = self._progress

            def progress(done, total):
                before(done, total)
                if done >= windows:
                    self._cancel.set()
            self._progress = progress
    return Impatient


class ResumeCase(Case):
    options = ("--batch", "4")
    spec = ("mix.cf32",)

    @classmethod
    def setUpClass(cls):
        cls.mixture, cls.soi, cls.bits = simulate(symbols=3600)  # 26 windows

    def setUp(self):
        super().setUp()
        self.bits.tofile("truth.u8")

    def whole(self, *options):
        self.done(*self.spec, *self.options, *options, "--output", "whole")

    def cancelled(self, windows, *options, code=3):
        with unittest.mock.patch.object(app, "Recording", impatient(windows)):
            found, _, err = self.run_app(*self.spec, *self.options, *options, "--output", "out")
        self.assertEqual(found, code, err)
        return err

    def killed(self, windows, *options):
        process = subprocess.run(
            [sys.executable, "-c", KILLED, str(APP), str(windows), *self.spec, *self.options, *options, "--output",
             "out", "--quiet"], capture_output=True, text=True, timeout=100)
        self.assertEqual(process.returncode, -9, process.stderr)

    def resumed(self, *options):
        return self.done(*self.spec, *self.options, *options, "--output", "out", "--resume")

    def check(self, times=1):
        """Compare the folders whole and out."""
        names = sorted(p.name for p in Path("whole").iterdir())
        self.assertEqual(sorted(p.name for p in Path("out").iterdir()), names)
        for name in names:
            if not name.endswith("_report.json"):
                self.assertEqual(Path("out", name).read_bytes(), Path("whole", name).read_bytes(), name)
        one, other = (json.loads(Path(folder, "mix_report.json").read_text()) for folder in ("whole", "out"))
        self.assertEqual(one["resumed_at"], [])
        self.assertEqual(len(other["resumed_at"]), times)
        self.assertIn("continued from an earlier run at sample ", other["summary"][0])
        for report in (one, other):
            for key in ("output", "summary", "resumed_at"):
                report.pop(key)
            report["result"].pop("seconds")
            report["result"].pop("ms_per_window")
            for window in report["windows"]:
                window.pop("seconds")
        self.assertEqual(one, other)

    def refuse(self, *words, options=()):
        self.refused(*self.spec, *self.options, *options, "--output", "out", "--resume", words=words)


class Seamless(ResumeCase):
    def test_cancelled(self):
        self.whole("--reference", "truth.u8")
        for windows in (4, 8.3, 13.9, 24):  # after a batch, within one, before the last
            with self.subTest(windows):
                err = self.cancelled(windows, "--reference", "truth.u8")
                self.assertIn("--resume continues it", err)
                self.assertIs(captures.open_capture("out/mix_soi").metadata["unmix:complete"], False)
                self.assertFalse(list(Path("out").glob(".*")))
                self.resumed("--reference", "truth.u8")
                self.check()

    def test_cancelled_in_the_last_batch(self):
        self.options = ("--batch", "7")  # four windows are left for it
        self.whole()
        before = recording.Recording._meter

        def meter(self, tally, until):
            if tally.count == 21:
                self._cancel.set()
            return before(self, tally, until)
        with unittest.mock.patch.object(recording.Recording, "_meter", meter):
            self.cancelled(100)
        self.assertEqual(self.resumed()["resumed_at"], [21 * 2304 + 128])
        self.check()

    def test_cancelled_before_the_first_batch(self):
        self.assertIn("nothing was written", self.cancelled(0))
        self.assertFalse(Path("out").exists())
        self.refuse("nothing to continue")

    def test_cancelled_again_and_again(self):
        self.whole()
        self.cancelled(6)
        for windows in (4, 10, 11):
            self.cancelled(windows, "--resume")
        report = self.resumed()
        self.assertEqual(report["resumed_at"], sorted(report["resumed_at"]))
        self.check(times=4)

    def test_killed(self):
        self.whole()
        self.killed(13)
        self.assertTrue(list(Path("out").glob(".mix_soi.*.part")))
        self.assertFalse(Path("out/mix_soi.sigmf-data").exists())
        stray = Path("out/mix_resume.json").read_bytes()
        self.resumed()
        self.check()
        Path("out/mix_resume.json").write_bytes(stray)  # killed after its last file, before the state was removed
        self.resumed()
        self.check()

    def test_killed_and_begun_anew(self):
        self.whole()
        self.killed(13)
        self.done(*self.spec, *self.options, "--output", "out")
        self.assertEqual(sorted(p.name for p in Path("out").iterdir()), sorted(p.name for p in Path("whole").iterdir()))
        self.refuse("nothing to continue")

    def test_matched_filter(self):
        self.whole("--method", "matched-filter")
        self.cancelled(9, "--method", "matched-filter")
        self.resumed("--method", "matched-filter")
        self.check()

    def test_random_method_and_truth(self):
        self.soi.tofile("soi.cf32")
        options = ("--method", "alpha-rgs", "--steps", "3", "--seed", "5", "--reference", "soi.cf32")
        self.whole(*options)
        self.cancelled(9.4, *options)
        self.resumed(*options)
        self.check()

    def test_an_error_on_the_way_keeps_what_was_there(self):
        self.cancelled(9)
        with unittest.mock.patch.object(recording.Outputs, "write", side_effect=OSError(28, "No space left")):
            code, _, err = self.run_app(*self.spec, *self.options, "--output", "out", "--resume", "--quiet")
        self.assertEqual((code, err.count("\n")), (2, 1), err)
        self.whole()
        self.resumed()
        self.check()

    @unittest.mock.patch.object(recording, "CHECKPOINT_SECONDS", 0.0)
    def test_an_error_after_a_checkpoint_keeps_what_it_covers(self):
        self.whole()
        write = recording.Outputs.write
        for error, code, words in (
                (OSError(28, "No space left"), 2, "cannot be written: No space left; "),
                (captures.CaptureError("The capture ends early"), 2, "The capture ends early; "),
                (captures.CaptureError("The capture ends early."), 2, "The capture ends early; "),
                (MemoryError(), 2, "memory ran out; "),
                (KeyboardInterrupt(), 3, "separate_file.py: cancelled; "),
                (RuntimeError("odd"), 1, "a defect of this program: RuntimeError: odd (UNMIX_DEBUG=1 shows where); ")):
            with self.subTest(error):
                def fail(outputs, sources, bits, error=error):
                    if outputs.length >= 8 * 2304:  # two batches
                        raise error
                    write(outputs, sources, bits)
                with unittest.mock.patch.object(recording.Outputs, "write", fail):
                    found, _, err = self.run_app(*self.spec, *self.options, "--output", "out", "--quiet")
                self.assertEqual((found, err.count("\n")), (code, 1), err)
                self.assertIn(f"{words}what was separated before sample 18560 of 57600 is kept, and --resume", err)
                self.assertNotIn("--batch", err)  # with another, --resume would refuse to go on
                self.assertEqual(isinstance(error, MemoryError), "with the same settings when more memory" in err)
                self.assertFalse(Path("out/mix_soi.sigmf-data").exists())
                self.resumed()
                self.check()
                shutil.rmtree("out")

    @unittest.mock.patch.object(recording, "CHECKPOINT_SECONDS", 0.0)
    def test_a_disk_that_is_full_at_the_end_keeps_everything(self):
        self.whole()
        options = []
        for step in ("_drop_half_written", "name_data", "name_metadata"):
            calls, before = [], getattr(captures.SigMFWriter, step)

            def fail(writer, calls=calls, before=before):
                calls.append(writer)
                if len(calls) == 2:  # of two sources the second
                    raise OSError(28, "No space left")
                before(writer)
            with self.subTest(step), unittest.mock.patch.object(captures.SigMFWriter, step, fail):
                code, _, err = self.run_app(*self.spec, *self.options, "--output", "out", "--quiet", *options)
                self.assertEqual((code, err.count("\n")), (2, 1), err)
                self.assertIn("No space left; what was separated before sample", err)
                self.assertFalse(list(Path("out").glob("*.sigmf-meta")))
                self.assertFalse(Path("out/mix_report.json").exists())
            options = ["--resume"]
        self.resumed()
        self.check(times=3)

    def test_want_of_memory_before_it_goes_on(self):
        self.cancelled(9)
        for where, name in ((recording.Recording, "_estimate"), (recording, "Outputs")):
            with unittest.mock.patch.object(where, name, side_effect=MemoryError):
                self.refuse("memory ran out; --resume continues it with the same settings when more memory is free\n")
        with unittest.mock.patch.object(recording.Recording, "_store", side_effect=RuntimeError("CUDA out of memory")):
            code, _, err = self.run_app(*self.spec, *self.options, "--output", "out", "--resume", "--quiet")
        self.assertEqual((code, "memory ran out" in err), (2, True), err)
        self.resumed()

    def test_a_second_run_waits_for_the_first(self):
        self.cancelled(9)
        with open("out/mix_soi.sigmf-data", "rb") as file:
            self.assertTrue(resume.lock(file))
            self.refuse("another run is still writing")

    def test_pictures_and_a_copy(self):
        self.cancelled(9)
        report = self.resumed("--plots")
        self.assertIn("mix_spectrum.png", report["files"])


class Trackers(ResumeCase):
    def test_sync_auto(self):
        self.spec = ("mix.cf32", "--soi", AUTO)
        self.whole("--reference", "truth.u8")
        self.assertTrue(json.loads(Path("whole/mix_report.json").read_text())["synchronisation"]["found"])
        for windows in (8.5, 17):
            self.cancelled(windows, "--reference", "truth.u8")
            self.resumed("--reference", "truth.u8")
            self.check()
        self.killed(13, "--reference", "truth.u8")
        self.resumed("--reference", "truth.u8")
        self.check()

    def test_wifi(self):
        capture = captures.open_capture(str(EXCERPT))
        other = capture.read(0, capture.length)
        other = np.tile(other / np.sqrt(np.mean(np.abs(other) ** 2)), 9)
        soi = self.soi[:len(other)] / np.sqrt(np.mean(np.abs(self.soi) ** 2))
        (soi + 10 ** (9 / 20) * other[:len(soi)]).astype(np.complex64).tofile("mix.cf32")
        for spec, windows in ((SOI, (5.5, 8)), (AUTO, (9.5,))):
            self.spec = ("mix.cf32", "--soi", spec, "--interference", "wifi:", "--sir-db", "-9")
            self.whole()
            for count in windows:
                self.cancelled(count)
                self.resumed()
                self.check()


class FollowedLevels(ResumeCase):
    """As in long captures, by a memory of two windows."""

    def setUp(self):
        super().setUp()
        self.enterContext(unittest.mock.patch.object(recording, "MEMORY", 2 * 2304))
        fade = np.linspace(1, 0.7, len(self.mixture), dtype=np.float32)
        fade[20000:30000] = 0  # a pause
        (self.mixture - (1 - fade) * self.soi).tofile("mix.cf32")

    def test_they_go_on(self):
        for spec in (SOI, AUTO):
            self.spec = ("mix.cf32", "--soi", spec)
            self.whole("--reference", "truth.u8")
            levels = json.loads(Path("whole/mix_report.json").read_text())["levels"]
            self.assertTrue(levels["tracked"])
            self.assertGreater(levels["soi_amplitude_range"][1], 1.1 * levels["soi_amplitude_range"][0])
            for windows in (8, 13.4):
                self.cancelled(windows, "--reference", "truth.u8")
                self.resumed("--reference", "truth.u8")
                self.check()

    def test_under_wifi(self):
        capture = captures.open_capture(str(EXCERPT))
        other = np.tile(capture.read(0, capture.length), 9)
        soi = self.soi[:len(other)]
        scale = np.sqrt(8 * np.mean(np.abs(soi) ** 2) / np.mean(np.abs(other) ** 2))
        (soi + scale * other[:len(soi)]).astype(np.complex64).tofile("mix.cf32")
        self.spec = ("mix.cf32", "--soi", SOI, "--interference", "wifi:")
        self.whole()
        self.assertTrue(json.loads(Path("whole/mix_report.json").read_text())["levels"]["tracked"])
        self.cancelled(9.4)
        self.resumed()
        self.check()

    def test_hostile_states(self):
        self.cancelled(9)
        path = Path("out/mix_resume.json")
        before = json.loads(path.read_text().partition("\n")[0])
        array = resume.pack
        for keys, value in (
                (("levels",), None), (("levels",), []), (("surveyed",), -1), (("surveyed",), 1 << 40),
                (("levels", "rest"), array(np.zeros(256, np.complex64))),
                (("levels", "rest_left"), array(np.zeros(256))), (("levels", "gains"), array(np.array([1.0, -1.0]))),
                (("levels", "gains"), array(np.ones(3))), (("levels", "noise_variance"), -1),
                (("levels", "frames"), {}), (("levels", "frames", "classes"), array(np.zeros(2, np.int64))),
                (("levels", "frames", "weights"), array(np.zeros(1))),
                (("levels", "frames", "sums"), array(-np.ones((1, 256))))):
            with self.subTest(keys):
                content = json.loads(json.dumps(before))
                place = content["state"]["stream"]
                for key in keys[:-1]:
                    place = place[key]
                place[keys[-1]] = value
                text = json.dumps(content)
                path.write_text(f"{text}\n{hashlib.sha256(text.encode()).hexdigest()}\n")
                self.refuse("--resume cannot continue")


class Refusals(ResumeCase):
    def setUp(self):
        super().setUp()
        self.cancelled(9)

    def test_other_settings(self):
        for options, word in (
                (("--steps", "7"), "--steps was not given and is now 7"), (("--batch", "5"), "--batch was 4"),
                (("--seed", "1"), "--seed"), (("--method", "alpha-rgs"), "--method was pnp-dr and is now alpha-rgs"),
                (("--sir-db", "-12"), "--sir-db was auto"), (("--overlap", "512"), "--overlap"),
                (("--soi", AUTO), "--soi was "), (("--samp-rate", "1M"), "--samp-rate"),
                (("--reference", "truth.u8"), "--reference was not given"),
                (("--interference", "cp-ofdm:qpsk,fft=64,cp=16,active=52"), "--interference"),
                (("--interference", "wifi:"), "--interference was ")):
            with self.subTest(options):
                self.refuse(word, "leave out --resume", options=options)
        self.resumed()

    def test_another_capture(self):
        changed = self.mixture.copy()
        changed[-1] *= 0.99
        changed.tofile("mix.cf32")
        self.refuse("mix.cf32 has changed since")
        self.mixture[:-1].tofile("mix.cf32")
        self.refuse("mix.cf32 has changed since")

    def test_other_outputs(self):
        with open("out/mix_interference.sigmf-data", "r+b") as file:
            file.seek(100)
            file.write(b"x")
        self.refuse("mix_interference.sigmf-data is gone or not what the earlier run wrote")
        Path("out/mix_soi.sigmf-data").unlink()
        Path("out/mix_soi.sigmf-data").symlink_to(self.folder / "truth.u8")
        self.refuse("mix_soi.sigmf-data is gone")

    def test_another_version(self):
        with unittest.mock.patch.object(app, "__version__", "9.9"):
            self.refuse("another version of unmix")

    def test_nothing_to_resume(self):
        Path("out/mix_resume.json").unlink()
        self.refuse("nothing to continue", "mix_resume.json is missing")

    def test_a_state_is_no_input_and_no_copy(self):
        code, _, err = self.run_app(*self.spec, "--output", "out", "--json", "out/mix_resume.json", "--quiet")
        self.assertEqual((code, "would overwrite another output" in err), (2, True), err)

    def tampered(self, change):
        """Write the state with a change, and the right checksum."""
        path = Path("out/mix_resume.json")
        text = self.state.partition("\n")[0]
        content = json.loads(text)
        found = change(content)
        content = content if found is None else found
        text = json.dumps(content)
        path.write_text(f"{text}\n{hashlib.sha256(text.encode()).hexdigest()}\n")

    def test_hostile_trackers(self):
        self.spec = ("mix.cf32", "--soi", AUTO)
        self.cancelled(9)
        self.state = Path("out/mix_resume.json").read_text()
        sync = resume.pack(Sync(1.5, 16.0, 0.1, 1e-3, 30.0))

        def put(key, value):
            self.tampered(lambda content: content["state"]["stream"]["trackers"][0].update({key: value}))
        for name, value in (
                ("step", 0.0), ("step", 15.0), ("timing", 1e300), ("timing", "x"), ("frequency", 0.6), ("phase", None)):
            wrong = {"!": "Sync", "fields": sync["fields"] | {name: value}}
            for key in ("sync", "used", "_earliest"):
                with self.subTest(key=key, name=name):
                    put(key, wrong)
                    self.refuse("--resume cannot continue")
        for key, value in (("_past", [1.0]), ("_past", resume.pack(np.zeros((2, 2), np.complex64))), ("_learnt", 1),
                           ("_tried", -1), ("_past_start", 1 << 50), ("windows", 0.5)):
            with self.subTest(key):
                put(key, value)
                self.refuse("--resume cannot continue")

    def test_hostile_states(self):
        path = Path("out/mix_resume.json")
        self.state = path.read_text()
        for raw in (b"", b"{}", b"\xff\xfe", b"[" * 100000, self.state[:-200].encode(), self.state.encode()[:500],
                    self.state.replace('"next": ', '"next": 1').encode()):
            with self.subTest(raw[:20]):
                path.write_bytes(raw)
                self.refuse("--resume cannot continue", "leave out --resume")
        deep = '{"format": "gr-unmix resume 1", "state": ' + "[" * 100000 + "]" * 100000 + "}"
        path.write_text(f"{deep}\n{hashlib.sha256(deep.encode()).hexdigest()}\n")
        self.refuse("it is damaged")

        def huge(state):
            state["quality"]["symbols"]["_buffer"] = {"!": "array", "type": "complex64", "shape": [3, 1 << 50],
                                                      "data": ""}

        def short(state):
            state["quality"]["symbols"]["_buffer"] = {"!": "array", "type": "complex64", "shape": [3, 1],
                                                      "data": base64.b64encode(bytes(24)).decode()}

        def put(*keys):
            *path, last, value = keys

            def change(state):
                for key in path:
                    state = state[key]
                state[last] = value
            return change
        changes = [huge, short, put("stream", 5), put("tally", {}), put("quality", None), put("facts", []),
                   put("stream", "next", -1), put("stream", "next", 1 << 60), put("stream", "next", 9),
                   put("stream", "buffer_start", 0.5), put("stream", "received", 10 ** 12),
                   put("stream", "received", 1),
                   put("stream", "trackers", [None]), put("tally", "count", True), put("tally", "every", 0),
                   put("tally", "windows", [{"number": "x"}]), put("tally", "outcomes", {"agreed": -1}),
                   put("tally", "outcomes", []), put("quality", "symbols", "_begin", 7), put("quality", "bits", 1),
                   put("quality", "errors", [[5, 4], [0, 0], [0, 0]]),
                   put("quality", "square", {"!": "eval", "fields": {}}),
                   put("quality", "energy", {"!": "array", "type": "object", "shape": [3], "data": ""}),
                   put("outputs", "token", "../../x"), put("outputs", "files", []), put("outputs", "files", 0, {}),
                   put("outputs", "files", 1, {}), put("outputs", "files", 1, []), put("outputs", []),
                   put("outputs", "files", 0, "sha512", "0"), put("resumed_at", [[]]), put("resumed_at", [-1])]
        for i, change in enumerate(changes):
            with self.subTest(i):
                self.tampered(lambda content, change=change: change(content["state"]))
                self.refuse("--resume cannot continue", "leave out --resume")
        for content in ([], {"format": "gr-unmix resume 1"}, {"format": "gr-unmix resume 2", "state": {}},
                        {"format": "gr-unmix resume 1", "state": 3}):
            self.tampered(lambda _, content=content: content)
            self.refuse("--resume cannot continue")
        path.unlink()
        path.mkdir()
        self.refuse("not a file")
        path.rmdir()
        path.write_text(self.state)
        self.resumed()  # nothing of all this has done any harm

    def test_states_hold_only_what_they_should(self):
        sync = Sync(1.5, 16.0, 0.1, 1e-3, 30.0)
        value = {"a": [1, 2.5, None, True, "x", 1j], "b": np.arange(6, dtype=np.float32).reshape(2, 3), "c": sync}
        back = resume.unpack(json.loads(json.dumps(resume.pack(value))), (Sync,))
        np.testing.assert_array_equal(back.pop("b"), value.pop("b"))
        self.assertEqual(back, value)
        with self.assertRaises(resume.StateError):
            resume.unpack(resume.pack(sync))  # not among the kinds
        for wrong in ("x", None, float("nan"), float("inf"), True):
            packed = resume.pack(sync)
            packed["fields"]["step"] = wrong
            with self.subTest(wrong), self.assertRaises(resume.StateError):
                resume.unpack(packed, (Sync,))
        self.assertFalse(Sync(1e18, 16.0, 0.1, 0.0, 1.0).fits(16.0, 1000))
        with self.assertRaises(TypeError):
            resume.pack(object())


class Strays(unittest.TestCase):
    def test_only_what_a_state_names_is_removed(self):
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        path = outputs.state_path(folder, "x")
        names = [".x_soi.{}.sigmf-data.part"]
        for token in ("0123abcd", "deadbeef"):
            (folder / names[0].format(token)).write_bytes(b"1")
        resume.remove_parts(folder, names, path, "ffffffff")
        resume.write(path, {"outputs": {"token": "../../../etc"}})
        resume.remove_parts(folder, names, path, "ffffffff")
        self.assertEqual(len(list(folder.glob(".x*"))), 2)
        resume.write(path, {"outputs": {"token": "0123abcd"}, "other": Sync(1.5, 16.0, 0.1, 1e-3, 30.0)})
        with open(folder / names[0].format("0123abcd"), "rb") as file:
            self.assertTrue(resume.lock(file))
            resume.remove_parts(folder, names, path, "ffffffff")
            self.assertEqual(len(list(folder.glob(".x*"))), 2)
        resume.remove_parts(folder, names, path, "ffffffff")
        self.assertEqual([p.name for p in folder.glob(".x*")], [".x_soi.deadbeef.sigmf-data.part"])
        self.assertTrue(os.path.exists(path))


if __name__ == "__main__":
    unittest.main()
