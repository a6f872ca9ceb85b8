# SPDX-License-Identifier: GPL-3.0-or-later
"""SigMF recordings: read as the sigmf package reads them, written so that it accepts them."""

import hashlib
import math
import os
import unittest
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import sigmf
from captures_common import RATE, CaptureTest, noise
from gnuradio.unmix import captures
from gnuradio.unmix.captures import CaptureError


class SigMF(CaptureTest):
    def test_what_the_sigmf_package_writes(self):
        x = noise(400)
        stem = self.folder / "rec_2.4M"
        x.tofile(f"{stem}.sigmf-data")
        meta = sigmf.SigMFFile(data_file=f"{stem}.sigmf-data", global_info={
            "core:datatype": "cf32_le", "core:sample_rate": RATE, "core:author": "A. Author"})
        meta.add_capture(0, metadata={"core:frequency": 433.92e6})
        meta.add_annotation(10, 390)
        meta.tofile(f"{stem}.sigmf-meta")
        for path in (stem, f"{stem}.sigmf-meta", f"{stem}.sigmf-data"):
            capture = captures.open_capture(path)
            np.testing.assert_array_equal(capture.read(0, 400), x)
            self.assertEqual((capture.sample_rate, capture.center_frequency), (RATE, 433.92e6))
            self.assertEqual(capture.metadata["core:author"], "A. Author")
            self.assertIn("SigMF", capture.format_reason)

    def test_integer_types_as_the_sigmf_package_reads_them(self):
        rng = np.random.default_rng(5)
        for datatype, dtype in (("ci16_le", "<i2"), ("ci16_be", ">i2"), ("ci8", "i1"), ("ci32_be", ">i4"),
                                ("cf32_be", ">f4"), ("cf64_le", "<f8")):
            stored = rng.uniform(-100, 100, 60).astype(dtype)
            stem = self.sigmf(stored, datatype=datatype)
            wanted = sigmf.fromfile(f"{stem}.sigmf-meta").read_samples()
            np.testing.assert_array_equal(self.whole(stem), wanted.astype(np.complex64))
            self.assertEqual(captures.open_capture(stem).datatype, datatype)

    def test_aliases_and_types(self):
        x = noise(5)
        for alias in ("cf32", "fc32", "FC32_LE"):
            np.testing.assert_array_equal(self.whole(self.sigmf(x, datatype=alias)), x)
        stem = self.sigmf(np.array([0, 65535], np.uint16), datatype="cu16_le")
        np.testing.assert_array_equal(self.whole(stem), [-1 + 1j])
        self.refused("real-valued", path=self.sigmf(x, datatype="rf32_le"))
        self.refused("core:datatype", "cx32", path=self.sigmf(x, datatype="cx32"))

    def test_named_format_must_agree(self):
        stem = self.sigmf(np.array([1, 2], ">i2"), datatype="ci16_be")
        for agreeing in ("ci16", "sc16", "ci16_be"):
            self.assertEqual(self.whole(stem, format=agreeing)[0], (1 + 2j) / 32768)
        for other in ("cf32", "ci16_le"):
            self.refused("contradicts", "ci16_be", path=stem, format=other)
        self.refused("no WAV", path=stem, format="wav")

    def test_segments_and_bytes_that_are_no_samples(self):
        x = noise(30)
        stored = b"head" + x[:10].tobytes() + b"again!!" + x[10:].tobytes() + b"tail."
        segments = [{"core:sample_start": 100, "core:header_bytes": 4, "core:frequency": 1e6},
                    {"core:sample_start": 110, "core:header_bytes": 7, "core:frequency": 2e6}]
        self.store("rec.bin", np.frombuffer(stored, np.uint8))
        annotations = [{"core:sample_start": 125, "core:sample_count": 5}, {"core:sample_start": 100}]
        self.sigmf([], segments=segments, annotations=annotations, offset=100, trailing_bytes=5,
                   dataset="rec.bin")
        (self.folder / "rec.sigmf-data").unlink()
        capture = captures.open_capture(self.folder / "rec")
        self.assertEqual((capture.length, capture.center_frequency), (30, 1e6))
        np.testing.assert_array_equal(capture.read(0, 30), x)
        np.testing.assert_array_equal(capture.read(7, 6), x[7:13])
        np.testing.assert_array_equal(capture.read(10, 5), x[10:15])
        self.assertIn("frequency changes", capture.format_reason)

    def test_half_a_recording(self):
        stem = self.sigmf(noise(5))
        Path(f"{stem}.sigmf-data").rename(self.folder / "aside")
        self.refused("no data", "rec.sigmf-data", path=stem)
        self.refused("no data", path=f"{stem}.sigmf-meta")
        (self.folder / "aside").rename(f"{stem}.sigmf-data")
        Path(f"{stem}.sigmf-meta").unlink()
        self.refused("no metadata", "rec.sigmf-meta", path=stem)
        self.refused("no metadata", path=f"{stem}.sigmf-data")
        self.assertEqual(self.whole(f"{stem}.sigmf-data", format="cf32").size, 5)
        self.refused("no file", path=f"{self.folder}/none.sigmf-meta")
        self.refused("empty", path=self.sigmf([]))
        self.refused("archive", path=self.store("x.sigmf", noise(3)))

    def test_data_that_does_not_fit(self):
        x = noise(10)
        self.refused("whole number", path=self.sigmf(x.view(np.uint8)[:-3]))
        self.refused("sample 11", "0 to 9", path=self.sigmf(x, segments=[{"core:sample_start": 0},
                                                                         {"core:sample_start": 11}]))
        self.refused("4 to 11", "0 to 9", path=self.sigmf(x, annotations=[{"core:sample_start": 4,
                                                                           "core:sample_count": 7}]))
        self.refused("whole number", "3 trailing", path=self.sigmf(x, trailing_bytes=3))
        self.refused("nothing is left", path=self.sigmf(x, trailing_bytes=80))
        header = [{"core:sample_start": 0, "core:header_bytes": 90}]
        self.refused("80 bytes", path=self.sigmf(x, segments=header))

    def test_hash(self):
        x = noise(10)
        right = hashlib.sha512(x.tobytes()).hexdigest()
        self.assertEqual(self.whole(self.sigmf(x, sha512=right.upper())).size, 10)
        wrong = ("1" if right[0] == "0" else "0") + right[1:]
        self.refused("core:sha512", path=self.sigmf(x, sha512=wrong))

    def test_hash_of_a_large_file_is_not_computed(self):
        stem = self.sigmf([], datatype="ci8", sha512="0" * 128)
        os.truncate(f"{stem}.sigmf-data", 65 << 20)
        self.assertEqual(captures.open_capture(stem).length, 65 << 19)

    def test_metadata_that_is_no_sigmf(self):
        stem = self.sigmf(noise(5))
        meta = Path(f"{stem}.sigmf-meta")
        for text in (b"", b"{", b"\xff\xfe\x00", b"[" * 100000):
            meta.write_bytes(text)
            self.refused("not JSON", path=stem)
        for text in ("[]", "3", '{"captures": []}', '{"global": 3}'):
            meta.write_text(text)
            self.refused("'global'", path=stem)
        meta.write_text('{"global": {"core:version": "1.2.0"}, "captures": [], "annotations": []}')
        self.refused("core:datatype", path=stem)
        self.refused("schema", "captures", path=self.sigmf(noise(5), segments=[{"core:frequency": 1e6}]))
        self.refused("schema", path=self.sigmf(noise(5), segments=[3]))
        self.refused("ordering", path=self.sigmf(noise(5), segments=[{"core:sample_start": 3},
                                                                     {"core:sample_start": 1}]))

    def test_metadata_that_asks_too_much(self):
        x = noise(10)
        self.refused("core:num_channels", "2", path=self.sigmf(x, num_channels=2))
        self.refused("core:metadata_only", path=self.sigmf(x, metadata_only=True))
        self.refused("missing", path=self.sigmf(x, dataset="other.bin"))
        self.refused("same folder", path=self.sigmf(x, dataset="../other.bin"))
        needed = [{"name": "secret", "version": "1.0", "optional": False}]
        self.refused("'secret'", path=self.sigmf(x, extensions=needed))
        self.assertEqual(self.whole(self.sigmf(x, extensions=[dict(needed[0], optional=True)])).size, 10)

    def test_rates(self):
        x = noise(10)
        for rate in (0, -5, math.nan, "fast"):
            stem = self.sigmf(x, sample_rate=rate)
            self.refused("core:sample_rate", "positive", path=stem)
            self.assertEqual(captures.open_capture(stem, sample_rate=RATE).sample_rate, RATE)
        self.assertIsNone(captures.open_capture(self.sigmf(x)).sample_rate)
        capture = captures.open_capture(self.sigmf(x, sample_rate=RATE), sample_rate=1e6)
        self.assertEqual(capture.sample_rate, 1e6)
        self.assertIn("250000", capture.format_reason)


class Writing(CaptureTest):
    def writer(self, name="out", **changes):
        extra = {"core:author": "A. Author", "unmix:method": "pnp-dr", "unmix:seed": np.int64(7)}
        options = {"sample_rate": RATE, "center_frequency": 433.92e6, "global_extra": extra,
                   "description": "The signal of interest."}
        return captures.SigMFWriter(self.folder / name, **{**options, **changes})

    def files(self):
        return sorted(path.name for path in self.folder.iterdir())

    def test_the_sigmf_package_accepts_it(self):
        x = noise(5000)
        annotations = [{"core:sample_start": 4000, "core:sample_count": 5000, "core:label": "late"},
                       {"core:sample_start": 10, "core:sample_count": 20, "unmix:sir_db": -12.5},
                       {"core:sample_start": 6000, "core:label": "gone"}]
        with self.writer(annotations=annotations) as writer:
            for part in np.array_split(x, 7):
                writer.write(part)
            self.assertEqual(writer.length, 5000)
            self.assertNotIn("out.sigmf-data", self.files())
        self.assertEqual(self.files(), ["out.sigmf-data", "out.sigmf-meta"])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            recording = sigmf.fromfile(self.folder / "out.sigmf-meta")  # compares core:sha512 as well
            recording.validate()
        np.testing.assert_array_equal(recording.read_samples(), x)
        fields = recording.get_global_info()
        self.assertEqual((fields["core:datatype"], fields["core:sample_rate"]), ("cf32_le", RATE))
        self.assertEqual(fields["core:sha512"], hashlib.sha512(x.tobytes()).hexdigest())
        self.assertEqual((fields["unmix:seed"], fields["unmix:complete"]), (7, True))
        self.assertIn({"name": "unmix", "version": "1.0.0", "optional": True}, fields["core:extensions"])
        self.assertEqual(recording.get_captures()[0]["core:frequency"], 433.92e6)
        spans = [(a["core:sample_start"], a["core:sample_count"]) for a in recording.get_annotations()]
        self.assertEqual(spans, [(10, 20), (4000, 1000)])

    def test_read_back(self):
        with self.writer("out.sigmf-meta", sample_rate=None, center_frequency=None) as writer:
            writer.write(noise(10).astype(np.complex128))
            writer.write(noise(20)[::2])
            writer.write(np.empty(0, np.complex64))
        capture = captures.open_capture(self.folder / "out")
        np.testing.assert_array_equal(capture.read(0, 99), np.concatenate([noise(10), noise(20)[::2]]))
        self.assertEqual((capture.sample_rate, capture.center_frequency), (None, None))

    def test_cancelled_is_kept_and_says_so(self):
        with self.assertRaises(KeyboardInterrupt), self.writer() as writer:
            writer.write(noise(10))
            raise KeyboardInterrupt
        capture = captures.open_capture(self.folder / "out")
        self.assertEqual(capture.length, 10)
        self.assertIs(capture.metadata["unmix:complete"], False)
        self.assertIn("cancelled", capture.metadata["core:description"])
        writer = self.writer("nothing")
        writer.close(complete=False)
        self.assertEqual(self.files(), ["out.sigmf-data", "out.sigmf-meta"])

    def test_cancelled_in_the_middle_of_a_write(self):
        class Interrupted:
            def update(self, data):
                raise KeyboardInterrupt

        with self.assertRaises(KeyboardInterrupt), self.writer() as writer:
            writer.write(noise(10))
            writer._hash = Interrupted()
            writer.write(noise(20))
        np.testing.assert_array_equal(self.whole(self.folder / "out"), noise(10))  # checks core:sha512 too

    def test_failure_leaves_what_was_there(self):
        with self.writer() as writer:
            writer.write(noise(10))
        with self.assertRaises(RuntimeError), self.writer() as writer:
            writer.write(noise(20, seed=2))
            raise RuntimeError
        np.testing.assert_array_equal(self.whole(self.folder / "out"), noise(10))
        self.assertEqual(self.files(), ["out.sigmf-data", "out.sigmf-meta"])
        with self.writer() as writer:
            writer.write(noise(20, seed=2))
        np.testing.assert_array_equal(self.whole(self.folder / "out"), noise(20, seed=2))

    def test_a_crash_between_the_renames_is_no_whole_recording(self):
        with self.writer() as writer:
            writer.write(noise(10))
        writer = self.writer()
        writer.write(noise(20))
        rename = os.replace

        def only_data(old, new):
            if str(new).endswith("meta"):
                raise OSError("power cut")
            rename(old, new)

        with mock.patch("os.replace", only_data), self.assertRaises(OSError):
            writer.close()
        self.assertEqual(self.files(), ["out.sigmf-data"])
        with self.assertRaises(CaptureError):
            captures.open_capture(self.folder / "out")

    def test_a_full_disk_leaves_what_was_there(self):
        with self.writer() as writer:
            writer.write(noise(10))
        for fails in (1, 2):  # samples, metadata
            calls = []

            def sync(number, fails=fails, calls=calls):
                calls.append(number)
                if len(calls) == fails:
                    raise OSError(28, "No space left")
            writer = self.writer()
            writer.write(noise(20))
            with mock.patch("os.fsync", sync), self.assertRaises(OSError):
                writer.close()
            self.assertEqual(self.files(), ["out.sigmf-data", "out.sigmf-meta"])
            np.testing.assert_array_equal(self.whole(self.folder / "out"), noise(10))

    def test_recordings_that_get_their_names_together(self):
        for give_up, left in ((captures.SigMFWriter.abort, ["one.sigmf-data"]),
                              (lambda writer: writer.abort(named=True), []),
                              (captures.SigMFWriter.leave, ["one.sigmf-data"])):
            writers = [self.writer("one"), self.writer("two")]
            for writer in writers:
                writer.write(noise(10))
                writer.prepare()
            self.assertFalse([name for name in self.files() if name[0] != "."])
            writers[0].name_data()
            writers[0].name_metadata()
            writers[1].abort()
            give_up(writers[0])  # where the second cannot be named, the first must not look whole
            self.assertEqual(self.files(), left)
            give_up(writers[0])
            self.assertEqual(self.files(), left)
            for name in left:
                (self.folder / name).unlink()

    def test_nothing_unusable_is_written(self):
        with self.writer() as writer:
            writer.write(noise(3))
            for bad in (np.array([1, math.nan], np.complex64), np.array([1e300 + 0j]),
                        np.ones(4, np.float32), np.ones((2, 2), np.complex64)):
                with self.assertRaises(ValueError):
                    writer.write(bad)
        np.testing.assert_array_equal(self.whole(self.folder / "out"), noise(3))
        with self.assertRaises(ValueError):
            writer.write(noise(3))
        with self.assertRaises(CaptureError) as caught, self.writer("empty"):
            pass
        self.check_sentence(caught.exception, "No sample")
        self.assertEqual(self.files(), ["out.sigmf-data", "out.sigmf-meta"])

    def test_bad_metadata_is_refused_before_the_work(self):
        for changes in ({"sample_rate": 0}, {"sample_rate": math.nan}, {"center_frequency": "high"},
                        {"global_extra": {"core:datatype": "ci8"}}, {"global_extra": {"unmix:x": object()}},
                        {"global_extra": {"core:author": 3}}, {"global_extra": {"core:extensions": "unmix"}},
                        {"global_extra": {"other:key": 1}}, {"annotations": [{"core:label": "x"}]},
                        {"annotations": [{"core:sample_start": -1}]}, {"name": "no/such/folder/out"}):
            with self.assertRaises(CaptureError) as caught:
                self.writer(**changes)
            self.check_sentence(caught.exception)
        self.assertEqual(self.files(), [])


if __name__ == "__main__":
    unittest.main()
