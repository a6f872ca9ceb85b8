# SPDX-License-Identifier: GPL-3.0-or-later
"""The blind prior of 802.11 packets: the standard's own example, simulated packets under an SOI, a recording.

Figures "I-n" are tables of IEEE 802.11-2020, annex I.1, an example of a 36 Mb/s packet.
"""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np
import torch
from gnuradio.unmix import captures, demodulation, priors, signals, stream
from gnuradio.unmix.estimators import Levels, LevelTracker
from gnuradio.unmix.priors import PriorError
from gnuradio.unmix.wifi import standard
from gnuradio.unmix.wifi.measure import Measurement
from gnuradio.unmix.wifi.packets import Ear, find
from gnuradio.unmix.wifi.standard import Format
from gnuradio.unmix.windows import Window

torch.set_num_threads(1)
APPS = Path(__file__).parents[1] / "apps"
EXCERPT = APPS / "samples" / "wifi_excerpt.sigmf-meta"
SOI = priors.parse("rrc:qpsk,sps=16,rolloff=0.5,span=8")
TAPS = np.array([0.05j, 0.9, 0.3 - 0.2j, 0.1])


def soi(rng, samples):
    """QPSK of unit power cut from a longer signal: wave [samples], bits [n, 2] of the symbols inside."""
    count = samples // 16
    wave, bits = signals.linear_modulation(rng, 1, count + 64)
    return wave[0, 512:512 + 16 * count].astype(complex), bits.reshape(-1, 2)[32:32 + count]


def errors(wave, bits):
    """Bit error rate of an SOI's estimate."""
    decided = demodulation.decide(demodulation.matched_filter(wave, SOI.modulation), SOI.modulation)
    return np.mean(decided.reshape(-1, 2) != bits)


def packet(rng, form, shift=0.0, ring=0.0):
    """A packet of the format with random points, of about unit power: wave [n], points [S, 64] of its data symbols.

    Written out symbol by symbol as clauses 17.3 and 19.3 say. shift, ring: cyclic shifts, samples, of the whole and of
    802.11n's part beside it.
    """
    rate = {(0, False): "1101", (1, False): "0101", (2, False): "1001", (3, False): "0001"}
    spectra, delays = [], []

    def put(carriers, points, pilots, delay):
        spectrum = np.zeros(64, dtype=complex)
        spectrum[list(standard.PILOTS)] = pilots
        spectrum[carriers] = points
        spectra.append(spectrum)
        delays.append(delay)

    def field(rate_bits, length):
        bits = np.array([int(c) for c in rate_bits] + [0] + [(length >> i) & 1 for i in range(12)] + [0] * 7)
        bits[17] = bits.sum() % 2
        return standard.signal_points(bits)[0]

    per_symbol = {0: 24, 1: 48, 2: 96, 3: 192}[form.alphabet]
    length = (form.symbols * per_symbol - 22) // 8
    if form.ht:
        mcs = {0: 0, 1: 1, 2: 3, 3: 5}[form.alphabet]
        per_symbol = {0: 26, 1: 52, 2: 104, 3: 208}[form.alphabet]
        length = (form.symbols * per_symbol - 22) // 8
        put(standard.LEGACY_DATA, field("1101", (form.symbols + 4) * 3 - 3), [1, 1, 1, -1], 0)
        bits = np.zeros(48, dtype=int)
        bits[:7] = [(mcs >> i) & 1 for i in range(7)]
        bits[8:24] = [(length >> i) & 1 for i in range(16)]
        bits[24:27] = 1
        bits[34:42] = standard.ht_crc(bits[:34])
        for points in standard.signal_points(bits):
            put(standard.LEGACY_DATA, 1j * points, [1, 1, 1, -1], 0)  # p_1 = p_2 = 1
        for spectrum in (standard.short_spectrum(), standard.ht_long_spectrum()):
            spectra.append(spectrum)
            delays.append(ring)
    else:
        put(standard.LEGACY_DATA, field(rate[form.alphabet, False], length), [1, 1, 1, -1], 0)
    real, imaginary = standard.levels(form.alphabet)
    count = len(form.carriers)
    for n in range(form.symbols):
        points = rng.choice(real, count) + 1j * rng.choice(imaginary, count)
        put(form.carriers, points * (standard.ht_scale() if form.ht else 1), standard.pilots(form, n + 1)[n],
            ring if form.ht else 0)
    parts = list(standard.training(shift))
    for spectrum, delay in zip(spectra, delays, strict=True):
        parts.append(standard.transmit(standard.shifted(spectrum, delay + shift)))
    return standard.joined(parts), np.array(spectra)[form.first:]


def received(rng, forms, frequency=-0.0018, gap=200, shift=0.0, ring=0.0):
    """Packets one after the other through TAPS with an offset: wave [n], of unit power inside, starts, points."""
    wave, starts, points = [np.zeros(500, complex)], [], []
    for form in forms:
        one, sent = packet(rng, form, shift, ring)
        starts.append(sum(map(len, wave)))
        points.append(sent)
        wave += [one, np.zeros(gap, complex)]
    wave = np.convolve(np.concatenate([*wave, np.zeros(500)]), TAPS)[1:]  # the strongest tap at delay 0
    wave *= np.exp(2j * np.pi * frequency * np.arange(len(wave))) / np.linalg.norm(TAPS)
    return wave[:len(wave) // 16 * 16], starts, points


class StandardExample(unittest.TestCase):
    def test_training_fields_are_those_of_tables_i_4_and_i_6(self):
        short = [-0.132 + 0.002j, -0.013 - 0.079j, 0.143 - 0.013j, 0.092, 0.143 - 0.013j, -0.013 - 0.079j,
                 -0.132 + 0.002j, 0.046 + 0.046j, 0.002 - 0.132j, -0.079 - 0.013j, -0.013 + 0.143j, 0.092j]
        long = [-0.156, 0.012 - 0.098j, 0.092 - 0.106j, -0.092 - 0.115j, -0.003 - 0.054j, 0.075 + 0.074j,
                -0.127 + 0.021j, -0.122 + 0.017j, -0.035 + 0.151j, -0.056 + 0.022j, -0.060 - 0.081j, 0.070 - 0.014j]
        scale = np.sqrt(52) / 64
        wave = standard.joined(list(standard.training())) * scale
        np.testing.assert_allclose(wave[0], 0.023 + 0.023j, atol=8e-4)  # half of it: the symbol's window
        np.testing.assert_allclose(wave[1:13], short, atol=8e-4)
        np.testing.assert_allclose(wave[160], 0.023 + 0.023j - 0.078, atol=1.1e-3)  # the two fields overlap by one
        np.testing.assert_allclose(wave[161:172], long[1:], atol=8e-4)
        np.testing.assert_allclose(standard.training()[1][160], 0.156 * 1 / scale, atol=0.6e-3 / scale)

    def test_signal_field_is_that_of_tables_i_7_to_i_9(self):
        bits = np.array([int(c) for c in "101100010011000000000000"])
        points = standard.signal_points(bits)[0]
        interleaved = "100101001101000000010100100000110010010010010100"
        self.assertEqual("".join(str(int(p > 0)) for p in points), interleaved)
        form, read = standard.signal_field(points + 0.3 * np.random.default_rng(1).standard_normal(48))
        self.assertEqual(form, Format(2, 6))  # 100 octets at 36 Mb/s
        np.testing.assert_array_equal(read, bits)

    def test_pilots_follow_the_polarity_of_17_3_5_10(self):
        expected = [1, 1, 1, 1, -1, -1, -1, 1, -1, -1, -1, -1, 1, 1, -1, 1, -1, -1, 1, 1, -1, 1, 1, -1, 1, 1, 1, 1, 1]
        np.testing.assert_array_equal(standard.polarity()[:29], expected)

    def test_a_signal_field_is_read_without_the_carriers_around_zero(self):
        bits = np.array([int(c) for c in "101100010011000000000000"])
        soft = standard.signal_points(bits)[0] * (np.abs(standard.LEGACY_DATA) > 4)
        self.assertEqual(standard.signal_field(soft)[0], Format(2, 6))

    def test_wrong_fields_are_refused(self):
        bits = np.array([int(c) for c in "101100010011000001000000"])  # parity
        self.assertIsNone(standard.signal_field(standard.signal_points(bits)[0]))
        bits = np.zeros(48, dtype=int)
        bits[8], bits[34:42] = 1, 1 - standard.ht_crc(bits[:34])
        self.assertIsNone(standard.ht_signal_field(standard.signal_points(bits)))


class Simulated(unittest.TestCase):
    FORMS = [Format(0, 12), Format(1, 10), Format(1, 6, True), Format(2, 20), Format(2, 4, True), Format(3, 8, True)]

    def test_packets_are_found_and_measured_under_an_soi(self):
        """At -9 dB, no noise: starts exact, offset to 1 kHz, gains to -15 dB in the SOI's band, points all right."""
        rng = np.random.default_rng(3)
        wave, starts, points = received(rng, self.FORMS, shift=-4.0, ring=3.0)
        gain = 10 ** (-9 / 20)
        mixture = wave + gain * soi(rng, len(wave))[0]
        ear = Ear(SOI.psd(1024) * gain ** 2 + 1e-7)
        found = find(ear.filtered(mixture, 1.0), 1.0)
        self.assertEqual(len(found), len(starts))
        truth = np.fft.fft(np.concatenate([TAPS[1:], np.zeros(60), TAPS[:1]])) / np.linalg.norm(TAPS)
        for (place, frequency), start, form, sent in zip(found, starts, self.FORMS, points, strict=True):
            one = Measurement(mixture, 0, place, frequency, ear, 1.0).run()
            self.assertEqual((one.start, one.form, one.shift), (start, form, -4.0))
            self.assertLess(abs(one.frequency + 0.0018), 1e3 / 20e6)
            turned = truth * np.exp(-2j * np.pi * 0.0018 * start)
            inner = [-4, -3, -2, -1, 1, 2, 3, 4]
            off = np.sum(np.abs(one.gains - turned)[inner] ** 2) / np.sum(np.abs(turned[inner]) ** 2)
            self.assertLess(10 * np.log10(off), -15)
            ours, sure = one.points[form.first:], one.sure[form.first:]
            self.assertEqual(len(ours), form.symbols)
            self.assertGreater(np.mean(sure[:, form.carriers]), 0.5)
            self.assertLess(np.mean(np.abs(ours - sent)[sure] > 1e-6), 1e-3)

    def test_the_soi_comes_out_of_a_stream_whatever_the_batch(self):
        """-9 dB, 20 dB of noise: at most 2e-3 of the bits wrong, where the matched filter has a tenth."""
        rng = np.random.default_rng(5)
        wave, _, _ = received(rng, [Format(0, 20), Format(1, 20), Format(1, 20, True), Format(0, 5)], gap=30)
        clean, bits = soi(rng, len(wave))
        gain = 10 ** (9 / 20)
        mixture = (clean + gain * wave + signals.noise(rng, wave.shape, 0.01)).astype(np.complex64)
        self.assertGreater(errors(mixture, bits), 0.05)
        for batch in (64, 1):
            self.assertLess(errors(separated(mixture, gain, 0.01, batch)[0], bits), 2e-3)

    def test_its_spectrum_is_that_of_the_packets_through_their_channel(self):
        """Within 1 dB over all carriers but those at the edges, the SOI's band included."""
        rng = np.random.default_rng(12)
        wave, _, _ = received(rng, [Format(0, 30), Format(1, 30)], frequency=0.0)
        gain = 10 ** (9 / 20)
        mixture = (soi(rng, len(wave))[0] + gain * wave).astype(np.complex64)
        tracker = priors.parse("wifi:").tracker()
        tracker.meet([SOI])
        self.assertIsNone(tracker.psd(64))
        tracker.side(mixture, 0, [Window(0, 0, 2560, 0, 2560)], Levels(np.array([1.0, gain]), 0.0))
        truth = np.abs(np.fft.fft(TAPS, 64)) ** 2
        carriers = [k for k in range(-25, 26) if abs(k) > 1]
        ratio = 10 * np.log10(tracker.psd(64)[carriers] / truth[carriers])
        self.assertLess(np.max(np.abs(ratio - np.mean(ratio))), 1)

    def test_what_is_not_a_packet_passes_as_the_soi(self):
        rng = np.random.default_rng(6)
        clean, _ = soi(rng, 6000)
        out = separated(clean.astype(np.complex64), 1.0)
        self.assertLess(np.mean(np.abs(out[1]) ** 2), 1e-4)
        self.assertLess(np.mean(np.abs(out[0] - clean)[128:-128] ** 2), 1e-4)

    def test_the_module_restores_the_carriers_in_doubt(self):
        """Every data carrier in doubt, variance 1e-3: whole symbols come back to -30 dB, blended edges included."""
        rng = np.random.default_rng(7)
        for form in (Format(0, 30), Format(2, 30), Format(1, 26, True)):
            wave, _, _ = received(rng, [form], frequency=0.0011)
            ear = Ear(np.full(64, 1e-7))
            one = Measurement(wave, 0, *find(wave, 1.0)[0], ear, 1.0).run()
            one.sure[form.first:, form.carriers] = False
            prior = priors.parse("wifi:")
            tracker = prior.tracker()
            tracker._take(wave, 0)
            tracker._loud = np.zeros(len(wave))
            tracker.packets = [one]
            begin = one.start + 100
            row = np.zeros((1, len(prior.info["side"])), np.float32)
            tracker._fill(row[0], begin, 2560, 1.0, 0.0)
            level = np.array([1 / (1 + 1e-3)], np.float32)
            piece = wave[begin:begin + 2560]
            noisy = np.sqrt(level) * piece + signals.noise(rng, (2560,), 2.0) * np.sqrt(1 - level)
            back = prior.denoise(noisy[None].astype(np.complex64), level, row)[0]
            self.assertLess(10 * np.log10(np.mean(np.abs(back - piece)[100:-100] ** 2)), -30)


class Recorded(unittest.TestCase):
    def test_the_soi_comes_out_from_under_a_recording(self):
        """Five packets of 6 Mb/s and five short ones, borders included: at most 1e-3 of the bits wrong."""
        wave = captures.open_capture(str(EXCERPT)).read(0, 24000).astype(complex)
        wave /= np.sqrt(np.mean(np.abs(wave) ** 2))
        for sir, filtered in ((-15, 0.2), (-9, 0.1)):
            rng = np.random.default_rng(8)
            clean, bits = soi(rng, len(wave))
            gain = 10 ** (-sir / 20)
            mixture = (clean + gain * wave).astype(np.complex64)
            self.assertGreater(errors(mixture, bits), filtered)
            self.assertLessEqual(errors(separated(mixture, gain)[0], bits), 1e-3)

    def test_levels_of_a_stream_follow_the_spectrum_that_was_measured(self):
        """Told nothing at -15 dB: both levels within 15 % from the first batch on, at most 1e-3 of the bits wrong."""
        wave = captures.open_capture(str(EXCERPT)).read(0, 48000).astype(complex)
        wave /= np.sqrt(np.mean(np.abs(wave) ** 2))
        clean, bits = soi(np.random.default_rng(11), len(wave))
        gain = 10 ** (15 / 20)
        mixture = (clean + gain * wave).astype(np.complex64)
        pair = [SOI, priors.parse("wifi:")]
        levels = LevelTracker(pair)
        flat = LevelTracker(pair).update(mixture)
        self.assertGreater(flat.gains[0], 1.3)  # the priors' own spectra do not tell
        separator = stream.StreamSeparator(pair, levels, batch=8)
        pieces = [separator.push(mixture), separator.finish()]
        found = separator._current_levels(len(mixture))
        np.testing.assert_allclose(found.gains, [1, gain], rtol=0.15)
        self.assertLessEqual(errors(np.concatenate([p.sources[0] for p in pieces if p is not None]), bits), 1e-3)

    def test_a_packet_whose_beginning_is_missing_is_found_by_its_prefixes(self):
        """The stream begins inside a packet: at -9 dB at most 1e-2 of the bits wrong in its rest."""
        wave = captures.open_capture(str(EXCERPT)).read(1111, 12000).astype(complex)
        wave /= np.sqrt(np.mean(np.abs(wave) ** 2))
        clean, bits = soi(np.random.default_rng(10), len(wave))
        gain = 10 ** (9 / 20)
        out = separated((clean + gain * wave).astype(np.complex64), gain)[0][:3072]
        self.assertLess(errors(out, bits[:192]), 1e-2)

    def test_the_recording_begins_with_the_standards_preamble(self):
        """Residual of the first preamble, through the fitted taps: below -25 dB."""
        wave = captures.open_capture(str(EXCERPT)).read(0, 6000).astype(complex)
        wave /= np.sqrt(np.mean(np.abs(wave) ** 2))
        ear = Ear(np.full(64, 1e-7))
        one = Measurement(wave, 0, *find(wave, 1.0)[0], ear, 1.0).run()
        self.assertEqual(one.form, Format(0, 47))
        rest = wave[one.start:one.start + 320] - one.wave()[8:328]
        self.assertLess(10 * np.log10(np.mean(np.abs(rest) ** 2)), -25)


class Command(unittest.TestCase):
    def test_benchmark_recordings_counts_interior_and_borders(self):
        with tempfile.TemporaryDirectory() as folder:
            rows = Path(folder) / "rows.json"
            done = subprocess.run(
                [sys.executable, APPS / "benchmark_recordings.py", EXCERPT, "--sir-db", "-9", "--repeats", "1",
                 "--json", rows], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            row = json.loads(rows.read_text())[0]
        self.assertEqual(row["interior"]["bits"] + row["border"]["bits"], row["all"]["bits"])
        self.assertEqual(row["all"]["bits"], 2 * (49920 // 16))
        self.assertGreater(row["interior"]["bits"], 4000)
        self.assertLessEqual(row["all"]["bit_errors"], 6)
        self.assertGreater(row["all"]["matched_filter_errors"], 500)

    def test_blind_separation_of_a_whole_recording(self):
        """Unknown timing, phase, carrier, symbol rate and levels at -9 dB: at most 1e-3 of the bits wrong."""
        with tempfile.TemporaryDirectory() as folder:
            rows = Path(folder) / "rows.json"
            done = subprocess.run(
                [sys.executable, APPS / "benchmark_recordings.py", EXCERPT, "--sir-db", "-9", "--repeats", "1",
                 "--blind", "--json", rows], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            row = json.loads(rows.read_text())[0]
        self.assertLessEqual(row["all"]["bit_errors"], 6)
        self.assertGreater(row["all"]["matched_filter_errors"], 500)
        self.assertLessEqual(row["missing"], 8)
        np.testing.assert_allclose(row["amplitudes"][0], 1, atol=0.12)

    def test_the_report_says_what_was_heard(self):
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, APPS / "separate_file.py", EXCERPT, "--soi", "rrc:qpsk", "--interference", "wifi:",
                 "--sir-db", "-30", "--steps", "1", "--output", folder], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            report = json.loads(next(Path(folder).glob("*_report.json")).read_text())
        packets = report["interference_found"][0]["packets"]
        self.assertEqual(max(packets, key=packets.get), "802.11a/g BPSK")  # a recording of 6 Mb/s
        self.assertRegex(done.stdout, r"WiFi: \d+ packets: .*802.11a/g BPSK")

    def test_it_can_only_be_the_last_interference(self):
        for soi, others, words in (("wifi:", ["cp-ofdm:qpsk"], "cannot be the SOI"),
                                   ("rrc:qpsk", ["wifi:", "cp-ofdm:qpsk"], "must be the last interference"),
                                   ("rrc:qpsk", ["wifi:", "wifi:"], "there can be only one")):
            with self.assertRaisesRegex(PriorError, words):
                stream.StreamSeparator([priors.parse(text) for text in (soi, *others)], Levels(
                    np.ones(1 + len(others)), 0.0))
        with self.assertRaisesRegex(PriorError, "give wifi:window=1280 instead"):
            stream.StreamSeparator([SOI, priors.parse("wifi:")], Levels(np.ones(2), 0.0), window=1280)

    def test_another_sample_rate_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, APPS / "separate_file.py", EXCERPT, "--samp-rate", "1e6", "--soi", "rrc:qpsk",
                 "--interference", "wifi:", "--output", folder], capture_output=True, text=True)
            self.assertEqual((done.returncode, list(Path(folder).iterdir())), (2, []))
        self.assertRegex(done.stderr, "needs 20000000 samples/s")

    def test_faults_of_the_front_end_need_a_blind_separation(self):
        done = subprocess.run([sys.executable, APPS / "benchmark_recordings.py", EXCERPT, "--front-end"],
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("--blind", done.stderr)

    def test_it_refuses_what_is_no_recording(self):
        done = subprocess.run([sys.executable, APPS / "benchmark_recordings.py", "nowhere.sigmf-meta"],
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertEqual(len(done.stderr.splitlines()), 1)


class Specification(unittest.TestCase):
    def test_equal_texts_share_a_prior_and_wrong_ones_are_refused(self):
        self.assertIs(priors.parse("wifi:"), priors.parse("wifi:"))
        self.assertEqual(priors.parse("wifi:fs=20e6,window=1280").window, 1280)
        for text, reason in (("wifi:fs=10e6", "resampled"), ("wifi:fs=x", "not a number"),
                             ("wifi:window=80", "allowed"), ("wifi:rate=6", "unknown parameter"),
                             ("wifi:20e6", "key=value")):
            with self.assertRaisesRegex(PriorError, reason):
                priors.parse(text)

    def test_without_side_information_it_is_white(self):
        x = signals.noise(np.random.default_rng(9), (2, 2560), 2.0)
        level = np.array([0.5, 0.9], np.float32)
        answer = priors.parse("wifi:").denoise(x, level)
        np.testing.assert_allclose(answer, x / np.sqrt(level)[:, None] * (0.5 / (0.5 + (1 - level) / level))[:, None],
                                   atol=1e-5)


def separated(mixture, gain, noise=0.0, batch=64):
    """The sources [2, n] that a stream's separation gives."""
    separator = stream.StreamSeparator([SOI, priors.parse("wifi:")], Levels(np.array([1.0, gain]), noise), batch=batch)
    pieces = [separator.push(mixture), separator.finish()]
    return np.concatenate([p.sources for p in pieces if p is not None], axis=1)


if __name__ == "__main__":
    unittest.main()
