# SPDX-License-Identifier: GPL-3.0-or-later
"""Raw and WAV captures: what other programs write is read exactly, what is broken is refused."""

import math
import os
import struct
import unittest
import warnings
from pathlib import Path

import numpy as np
from captures_common import CaptureTest, noise
from gnuradio.unmix import captures
from gnuradio.unmix.captures import CaptureError
from scipy.io import wavfile

try:
    from gnuradio import blocks, gr
except ImportError:  # the package works without GNU Radio; only the comparisons with its blocks need it
    blocks = None


class RawFormats(CaptureTest):
    def test_suffixes_of_floats(self):
        x = noise(100)
        for suffix in ("cf32", "fc32", "cfile", "iq", "CF32"):
            np.testing.assert_array_equal(self.whole(self.store(f"x.{suffix}", x)), x)
        np.testing.assert_array_equal(self.whole(self.store("x.cf64", x.astype(np.complex128))), x)

    def test_integers_reach_full_scale(self):
        edge16 = np.array([-32768, 32767, 0, 16384], np.int16)
        for suffix in ("cs16", "sc16", "c16", "ci16"):
            got = self.whole(self.store(f"x.{suffix}", edge16))
            np.testing.assert_array_equal(got, np.array([-1 + 32767j / 32768, 0.5j], np.complex64))
        for suffix in ("cs8", "sc8", "ci8"):
            got = self.whole(self.store(f"x.{suffix}", np.array([-128, 127, 0, 64], np.int8)))
            np.testing.assert_array_equal(got, np.array([-1 + 127j / 128, 0.5j], np.complex64))
        for suffix in ("cu8", "uc8"):
            got = self.whole(self.store(f"x.{suffix}", np.array([0, 255, 128, 127], np.uint8)))
            np.testing.assert_array_equal(got, np.array([-1 + 1j, 0.5 / 127.5 - 0.5j / 127.5], np.complex64))

    def test_wide_integers(self):
        got = self.whole(self.store("x.ci32", np.array([-(2**31), 2**30, 2**31 - 1, 0], np.int32)))
        np.testing.assert_array_equal(got, np.array([-1 + 0.5j, 1], np.complex64))
        got = self.whole(self.store("x.cu32", np.array([2**31, 2**32 - 1], np.uint32)))
        np.testing.assert_array_equal(got, np.array([0.5 / (2**31 - 0.5) + 1j], np.complex64))
        got = self.whole(self.store("x.cu16", np.array([0, 65535], np.uint16)))
        np.testing.assert_array_equal(got, np.array([-1 + 1j], np.complex64))

    def test_named_format_beats_suffix_and_is_announced(self):
        x = np.array([1, 2, 3, 4], ">i2")
        path = self.store("x.cf32", x)
        for name in ("ci16_be", "SC16_BE"):
            capture = captures.open_capture(path, format=name)
            self.assertEqual(capture.datatype, "ci16_be")
            np.testing.assert_array_equal(capture.read(0, 9) * 32768, [1 + 2j, 3 + 4j])
        self.assertIn("named", capture.format_reason)
        self.assertIn("suffix .cf32", captures.open_capture(path).format_reason)

    def test_random_access(self):
        x = noise(1000)
        capture = captures.open_capture(self.store("x.cf32", x))
        self.assertEqual(len(capture), 1000)
        np.testing.assert_array_equal(capture.read(123, 45), x[123:168])
        np.testing.assert_array_equal(capture.read(990, 45), x[990:])
        self.assertEqual(capture.read(1000, 5).shape, (0,))
        self.assertEqual(capture.read(5000, 5).shape, (0,))
        for start, count in ((-1, 5), (0, -5)):
            with self.assertRaises(CaptureError):
                capture.read(start, count)

    def test_what_is_read_is_a_copy(self):
        x = noise(10)
        path = self.store("x.cf32", x)
        captures.open_capture(path).read(0, 10)[:] = 0
        np.testing.assert_array_equal(np.fromfile(path, np.complex64), x)

    def test_unknown_format(self):
        path = self.store("x.dat", noise(4))
        self.refused(".dat", "cf32", "ci16", "ci8", "cu8", "wav", path=path)
        self.refused("no suffix", "cf32", path=self.store("plain", noise(4)))
        self.refused("'cf33'", "cf32", path=path, format="cf33")
        self.refused("real-valued", path=path, format="rf32_le")
        self.assertEqual(captures.open_capture(path, format="cf32").length, 4)

    def test_no_file(self):
        self.refused("no file", path=self.folder / "gone.cf32")
        self.refused("folder", path=self.folder)
        self.refused("empty", path=self.store("x.cf32", []))
        self.refused("not a regular file", path="/dev/null", format="cf32")

    def test_half_a_sample(self):
        self.refused("13 bytes", "8-byte", "5 more", path=self.store("x.cf32", np.zeros(13, np.uint8)))
        self.refused("3 bytes", path=self.store("x.cu8", np.zeros(3, np.uint8)))

    def test_shortened_while_open(self):
        path = self.store("x.cf32", noise(10000))
        capture = captures.open_capture(path)
        os.truncate(path, 800)
        with self.assertRaises(CaptureError) as caught:
            capture.read(9000, 10)
        self.check_sentence(caught.exception, "no longer")
        path.unlink()
        with self.assertRaises(CaptureError):
            capture.read(0, 10)


class BadSamples(CaptureTest):
    def first_bad(self, value, dtype, *words, suffix="cf32"):
        x = np.ones(1000, dtype)
        x[[777, 800]] = value
        capture = captures.open_capture(self.store(f"x.{suffix}", x))
        self.assertEqual(capture.read(0, 777).size, 777)
        with self.assertRaises(CaptureError) as caught:
            capture.read(700, 300)
        self.check_sentence(caught.exception, "Sample 777", *words)

    def test_nan_and_inf(self):
        self.first_bad(complex(1, math.nan), np.complex64, "not a number")
        self.first_bad(complex(-math.inf, 0), np.complex64, "infinite")
        self.first_bad(complex(math.nan, 0), np.complex128, "not a number", suffix="cf64")

    def test_absurd_values_hint_at_the_format(self):
        self.first_bad(2e18, np.complex64, "format")
        self.first_bad(1e300j, np.complex128, "format", suffix="cf64")  # would overflow to inf in complex64
        swapped = captures.open_capture(self.store("x.cf32", noise(1000).astype(">c8")))
        with self.assertRaises(CaptureError):
            swapped.read(0, 1000)

    def test_constant(self):
        for x in (np.zeros(300000, np.complex64), np.full(7, 1 - 2j, np.complex64)):
            with self.assertRaises(CaptureError) as caught:
                captures.check_not_constant(captures.open_capture(self.store("x.cf32", x)))
            self.check_sentence(caught.exception, "same value", f"{x.size} samples")
        with self.assertRaises(CaptureError):
            silence = np.full(20, 128, np.uint8)
            captures.check_not_constant(captures.open_capture(self.store("x.cu8", silence)))

    def test_a_short_burst_is_not_constant(self):
        x = np.zeros(3000000, np.int8)
        x[2020001] = 1  # between two of the stretches that are looked at first
        captures.check_not_constant(captures.open_capture(self.store("x.ci8", x)))
        captures.check_not_constant(captures.open_capture(self.store("y.cf32", noise(2))))


class Names(CaptureTest):
    def rate_and_frequency(self, name, **options):
        capture = captures.open_capture(self.store(name, np.zeros(16, np.uint8)), **options)
        return capture.sample_rate, capture.center_frequency

    def test_names_of_receivers(self):
        for name in ("gqrx_20230101_120000_433920000_1800000_fc.raw",
                     "name-f4.339200e+08-s1.800000e+06-t20230101120000.cfile",
                     "name-f433920000-s1800000-t20230101120000.cfile",
                     "g001_433.92M_1800k.cu8", "hackrf_433.92M_1.8M_x.cs8", "a_433920000Hz_1.8Msps.cs8"):
            self.assertEqual(self.rate_and_frequency(name), (1.8e6, 433.92e6), name)
        self.assertEqual(self.rate_and_frequency("SDRSharp_20150303_122423Z_403000kHz_IQ.cs8"), (None, 403e6))
        self.assertEqual(self.rate_and_frequency("SDRSharp_20150303_122423Z_0Hz_IQ.cs8"), (None, None))

    def test_gqrx_is_float(self):
        x = noise(8)
        capture = captures.open_capture(self.store("gqrx_20230101_120000_433920000_1800000_fc.raw", x))
        np.testing.assert_array_equal(capture.read(0, 8), x)
        for word in ("cf32_le", "gqrx", "1800000 samples/s", "433920000 Hz"):
            self.assertIn(word, capture.format_reason)

    def test_names_that_say_nothing(self):
        for name in ("capture.cf32", "x_20230101_120000.cf32", "20M_sweep.cf32", "take_2.4M.cf32",
                     "a_8_16.cf32"):
            self.assertEqual(self.rate_and_frequency(name), (None, None), name)

    def test_given_rate_wins(self):
        self.assertEqual(self.rate_and_frequency("g_433.92M_250k.cu8", sample_rate=1e6), (1e6, 433.92e6))
        self.assertEqual(self.rate_and_frequency("x.cu8", sample_rate=2), (2.0, None))

    def test_bad_rates(self):
        path = self.store("x.cu8", np.zeros(16, np.uint8))
        for rate in (0, -1, math.nan, math.inf, "fast"):
            self.refused("sample rate", repr(rate), "positive", path=path, sample_rate=rate)

    def test_parse_rate(self):
        for text, rate in (("25e6", 25e6), ("25M", 25e6), ("1.25M", 1.25e6), ("250k", 250e3), ("250K", 250e3),
                           (" 48000 ", 48000.0), ("2.4 Msps", 2.4e6), ("1G", 1e9), (".5M", 5e5), (1e6, 1e6)):
            self.assertEqual(captures.parse_rate(text), rate)
        for text in ("", "M", "25m", "25Q", "0", "-1", "-5M", "nan", "inf", "1e999", "1_000", "0x10", "25 26",
                     None):
            with self.assertRaises(ValueError) as caught:
                captures.parse_rate(text)
            self.check_sentence(caught.exception, repr(str(text)), "25M")


class Wav(CaptureTest):
    def wav(self, array, rate=48000, name="x.wav"):
        path = self.folder / name
        wavfile.write(path, rate, array)
        return path

    def test_what_scipy_writes(self):
        rng = np.random.default_rng(3)
        for dtype, middle, scale in ((np.int16, 0, 2**15), (np.uint8, 128, 2**7), (np.int32, 0, 2**31)):
            limits = np.iinfo(dtype)
            stored = rng.integers(limits.min, limits.max, (500, 2), dtype, endpoint=True)
            wanted = (stored.astype(np.float64) - middle) / scale
            capture = captures.open_capture(self.wav(stored))
            np.testing.assert_array_equal(capture.read(0, 500).view(np.float32).reshape(-1, 2),
                                          wanted.astype(np.float32))
            self.assertEqual((capture.sample_rate, capture.length), (48000.0, 500))
        stored = rng.uniform(-1, 1, (500, 2)).astype(np.float32)
        np.testing.assert_array_equal(self.whole(self.wav(stored)), stored[:, 0] + 1j * stored[:, 1])

    def test_named_wav_and_frequency_in_the_name(self):
        stored = np.ones((4, 2), np.int16)
        capture = captures.open_capture(self.wav(stored, name="SDRSharp_20150804_204707Z_145900000Hz_IQ.wav"))
        self.assertEqual((capture.center_frequency, capture.datatype), (145.9e6, "ci16_le"))
        self.assertEqual(self.whole(self.wav(stored, name="x.bin"), format="wav").size, 4)
        capture = captures.open_capture(self.wav(stored), sample_rate=2e6)
        self.assertEqual(capture.sample_rate, 2e6)
        self.assertIn("48000", capture.format_reason)

    def test_chunks_of_receivers_are_skipped_quietly(self):
        path = self.wav(np.full((4, 2), 16384, np.int16))
        content = bytearray(path.read_bytes())
        content[36:36] = b"auxi" + struct.pack("<I", 4) + b"abcd"
        content[4:8] = struct.pack("<I", len(content) - 8)
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(self.whole(path), np.full(4, 0.5 + 0.5j))

    def test_refused(self):
        self.refused("1 channel", "two channels", path=self.wav(np.ones(10, np.int16)))
        self.refused("4 channels", path=self.wav(np.ones((10, 4), np.int16)))
        self.refused("not a WAV", path=self.store("x.wav", noise(100)))
        self.refused("not a WAV", path=self.store("x.cf32", noise(100)), format="wav")
        rf64 = np.frombuffer(b"RF64\xff\xff\xff\xffWAVEds64", np.uint8)
        self.refused("RF64", path=self.store("x.wav", rf64))
        path = self.wav(np.ones((10, 2), np.int16))
        self.refused("WAV file", "not raw", path=path, format="ci16")
        content = path.read_bytes()
        path.write_bytes(content[:-4])
        self.refused("cut short", path=path)
        path.write_bytes(content[:20])
        self.refused("WAV file", path=path)
        path.write_bytes(content[:36])
        self.refused("WAV file", path=path)
        self.refused("empty", path=self.wav(np.ones((0, 2), np.int16)))
        header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 48, b"WAVE", b"fmt ", 16, 1, 2, 48000, 288000, 6,
                             24, b"data", 12)
        path.write_bytes(header + bytes(12))
        self.refused("24-bit", "16-bit", path=path)


class Large(CaptureTest):
    def test_three_gigabytes_cost_no_memory(self):
        path = self.folder / "x.ci8"
        with open(path, "wb") as file:
            file.seek(3 << 30)
            file.write(np.array([64, -128], np.int8).tobytes())
        before = self.resident()
        capture = captures.open_capture(path)
        self.assertEqual(capture.length, (3 << 29) + 1)
        self.assertEqual(capture.read(3 << 29, 10).tolist(), [0.5 - 1j])
        for start in range(0, capture.length, capture.length // 40):
            capture.read(start, 1 << 20)  # 80 MB of the file altogether
        self.assertLess(self.resident() - before, 40 << 20)

    @staticmethod
    def resident():
        """Resident bytes of this process."""
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
        except OSError as error:
            raise unittest.SkipTest("needs /proc") from error
        return pages * os.sysconf("SC_PAGE_SIZE")


@unittest.skipIf(blocks is None, "needs GNU Radio")
class AgainstGnuRadio(CaptureTest):
    def run_graph(self, source, *chain):
        graph = gr.top_block()
        graph.connect(source, *chain)
        graph.run()

    def test_file_sink(self):
        x = noise(3000)
        path = self.folder / "x.cfile"
        sink = blocks.file_sink(gr.sizeof_gr_complex, str(path))
        sink.set_unbuffered(True)
        self.run_graph(blocks.vector_source_c(x.tolist()), sink)
        np.testing.assert_array_equal(self.whole(path), x)

    def test_interleaved_integers(self):
        rng = np.random.default_rng(9)
        shorts = blocks.interleaved_short_to_complex(False, False, 32768.0)
        chars = blocks.interleaved_char_to_complex(False, 128.0)
        for suffix, dtype, size, block in (("cs16", np.int16, gr.sizeof_short, shorts),
                                           ("cs8", np.int8, gr.sizeof_char, chars)):
            limits = np.iinfo(dtype)
            path = self.store(f"x.{suffix}", rng.integers(limits.min, limits.max, 4000, dtype, endpoint=True))
            sink = blocks.vector_sink_c()
            self.run_graph(blocks.file_source(size, str(path), False), block, sink)
            np.testing.assert_array_equal(self.whole(path), np.array(sink.data(), np.complex64))

    def test_wav_files(self):
        x = noise(2000)
        for subformat in (blocks.FORMAT_PCM_16, blocks.FORMAT_PCM_U8, blocks.FORMAT_FLOAT):
            path = self.folder / "x.wav"
            writer = blocks.wavfile_sink(str(path), 2, 48000, blocks.FORMAT_WAV, subformat)
            graph = gr.top_block()
            for port, part in enumerate((x.real, x.imag)):
                graph.connect(blocks.vector_source_f(part.tolist()), (writer, port))
            graph.run()
            writer.close()
            reader = blocks.wavfile_source(str(path), False)
            sinks = [blocks.vector_sink_f() for _ in range(2)]
            graph = gr.top_block()
            for port, sink in enumerate(sinks):
                graph.connect((reader, port), sink)
            graph.run()
            wanted = np.array(sinks[0].data()) + 1j * np.array(sinks[1].data())
            got = self.whole(path)
            self.assertEqual(got.size, 2000)
            np.testing.assert_array_equal(got, wanted.astype(np.complex64))


if __name__ == "__main__":
    unittest.main()
