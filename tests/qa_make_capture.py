# SPDX-License-Identifier: GPL-3.0-or-later
"""apps/make_capture.py: every impairment measured on the files by other means; and apps/impairments.py on top of it."""

import contextlib
import io
import json
import sys
import tempfile
import unittest
from fractions import Fraction
from pathlib import Path
from unittest import mock

import numpy as np
import scipy.ndimage
import scipy.signal
from gnuradio.unmix import captures, demodulation, recording, signals, simulation
from gnuradio.unmix.priors import constellation as cons

sys.path.insert(0, str(Path(__file__).parents[1] / "apps"))
import impairments
import make_capture

OFDM = "cp-ofdm:16qam,fft=32,cp=8,active=20"


def run(main, *argv):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(a) for a in argv])
    return code, out.getvalue(), err.getvalue()


def load(path):
    capture = captures.open_capture(path)
    return capture.read(0, capture.length)


def power(wave):
    return np.mean(np.abs(wave.astype(np.complex128)) ** 2)


def timing_of(wave, sps):
    """Symbol timing in [0, sps) by the line of |x|^2 at the symbol rate (Oerder and Meyr)."""
    line = np.sum(np.abs(wave) ** 2 * np.exp(-2j * np.pi * np.arange(len(wave)) / sps))
    return (-np.angle(line) / (2 * np.pi) * sps) % sps


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.stem = self.folder / "x"

    def make(self, *argv, name="x"):
        """Mixture and SOI as complex64 and the truth."""
        stem = self.folder / name
        code, _, err = run(make_capture.main, "--output", stem, "--quiet", *argv)
        self.assertEqual((code, err), (0, ""))
        meta = json.loads(Path(f"{stem}.sigmf-meta").read_text())
        return load(f"{stem}.sigmf-meta"), load(f"{stem}_true_soi.sigmf-meta"), meta["global"]["unmix:truth"]

    def recording(self, wave, rate=1e6):
        stem = self.folder / "recording"
        licence = {"core:license": "https://spdx.org/licenses/MIT"}
        with captures.SigMFWriter(stem, rate, None, "test", licence) as writer:
            writer.write(wave)
        return f"{stem}.sigmf-meta"


class Signals(Case):
    def test_true_bits_are_those_of_the_true_soi(self):
        # resampled by scipy to 16 samples per symbol, first centre at 8
        for modulation, sps, up, down in (("bpsk", 2, 8, 1), ("qpsk", 16, 1, 1), ("8psk", 12.5, 32, 25),
                                          ("16qam", 3.7, 160, 37), ("qpsk", 2.5, 32, 5)):
            _, soi, truth = self.make("--modulation", modulation, "--sps", sps, "--timing", 0.5, "--symbols", 600)
            self.assertAlmostEqual(power(soi), 1, delta=0.1)
            wave = scipy.signal.resample_poly(soi, up, down, window=("kaiser", 10.0))
            shape = {"constellation": modulation, "samples_per_symbol": 16, "rolloff": 0.5, "span": 8, "first": 8}
            symbols = demodulation.matched_filter(wave, shape)
            bits = np.fromfile(f"{self.stem}_true_bits.u8", np.uint8)
            self.assertEqual(len(bits), 600 * cons.bits_per_symbol(modulation))
            self.assertEqual(truth["soi"]["bits"], len(bits))
            inner = slice(5, 595)
            decided = demodulation.decide(symbols[inner], shape)
            np.testing.assert_array_equal(decided, bits[5 * len(bits) // 600:595 * len(bits) // 600], modulation)
            error = symbols[inner] - cons.modulate(bits, modulation)[inner]
            self.assertLess(np.sqrt(power(error)), 0.02, (modulation, sps))

    def test_waves_are_those_of_the_paper_s_simulation(self):
        for sps, span, rolloff in ((16, 8, 0.5), (4, 7, 0.25), (6, 6, 0)):
            p = simulation.Parameters(sps=sps, span=span, rolloff=rolloff, samples=200 * sps, interference=())
            soi = simulation.SimulatedCapture(p).soi
            wave = signals.rrc_wave(soi.points(-10, 220), sps, rolloff, span)[10 * sps:][:p.samples]
            np.testing.assert_allclose(soi.read(0, p.samples), wave, atol=1e-4)

    def test_timing_and_phase(self):
        for text, sps, expected in (("0.3", 6.25, 1.875), ("4.8samples", 16, 4.8), (None, 5, 2)):
            options = () if text is None else ("--timing", text)
            _, soi, truth = self.make("--sps", sps, *options, "--phase", 25, "--symbols", 4000)
            self.assertAlmostEqual(truth["soi"]["timing"], expected)
            self.assertAlmostEqual(timing_of(soi, sps), expected, delta=0.03 * sps)
            fourth = np.mean(soi.astype(complex) ** 4)  # of QPSK it points to 180 degrees
            self.assertAlmostEqual((np.degrees(np.angle(-fourth)) / 4 - 25 + 45) % 90, 45, delta=1)

    def test_carrier_offset(self):
        _, soi, truth = self.make("--sps", 10, "--carrier-offset", -0.05, "--symbols", 2000)
        spectrum = np.abs(np.fft.fft(soi.astype(complex) ** 4, 1 << 18))
        peak = np.fft.fftfreq(1 << 18)[spectrum.argmax()] / 4
        self.assertAlmostEqual(peak, -0.005, delta=1e-5)
        self.assertAlmostEqual(truth["soi"]["frequency"], -0.005)

    def test_symbol_rate(self):
        _, soi, truth = self.make("--sps", 4, "--symbol-rate-ppm", 100, "--symbols", 16000)
        first, last = timing_of(soi[:16000], 4), timing_of(soi[-16000:], 4)
        self.assertAlmostEqual((first - last + 2) % 4 - 2, 48000 * 1e-4 - 4, delta=0.1)  # 4.8 samples: a symbol and 0.8
        self.assertEqual(truth["soi"]["symbols"], 16002)  # 1.6 more fit in

    def test_phase_noise(self):
        options = ("--symbols", 20000, "--sps", 4, "--samp-rate", "1M")
        _, still, _ = self.make(*options)
        _, soi, _ = self.make(*options, "--phase-noise", 100, name="y")
        phase = np.unwrap(np.angle(soi.astype(complex) * still.conj()))
        for lag in (1, 50):  # a Wiener process: variance 2 pi linewidth t
            self.assertLess(np.abs(phase[lag:] - phase[:-lag]).max(), 6 * np.sqrt(2 * np.pi * 100 * lag * 1e-6))
            self.assertAlmostEqual(np.var(phase[lag:] - phase[:-lag]) / (2 * np.pi * 100 * lag * 1e-6), 1, delta=0.15)

    def test_levels(self):
        for options, expected in ((("--sir-db", -12), 10 ** 1.2),
                                  (("--sir-db", -12, "--interference", OFDM, "--interference",
                                    simulation.DEFAULT_INTERFERENCE), 10 ** 1.2),
                                  (("--interference", "none", "--snr-db", 7), 10 ** -0.7),
                                  (("--sir-db", 3, "--snr-db", 3), 2 * 10 ** -0.3)):
            mixture, soi, truth = self.make(*options, "--symbols", 8000)
            self.assertAlmostEqual(power(soi), 1, delta=0.03)
            self.assertAlmostEqual(power(mixture - soi) / expected, 1, delta=0.03)
        self.assertAlmostEqual(truth["noise_power"], 10 ** -0.3)
        noise, soi, _ = self.make("--interference", "none", "--snr-db", 0, "--symbols", 4000)
        spectrum = scipy.signal.welch(noise - soi, nperseg=64, return_onesided=False, detrend=False)[1]
        self.assertLess(spectrum.max() / spectrum.min(), 1.4)

    def test_interference_is_ofdm_at_its_offset(self):
        mixture, _, truth = self.make("--interference", OFDM, "--sir-db", -80,
                                      "--interference-offset", -36e3, "--symbols", 2000)
        pairs = (mixture[:-32].conj() * mixture[32:])[:31960].reshape(-1, 40).mean(0)  # prefix and tail of each symbol
        prefix = np.argsort(np.abs(pairs))[-8:]
        self.assertEqual(sorted((prefix - truth["interference"][0]["start"]) % 40), list(range(8)))
        self.assertEqual(truth["interference_frequency"], -36e3 / 20e6)
        self.assertAlmostEqual(np.angle(np.sum(pairs[prefix])) / (2 * np.pi * 32) * 20e6, -36e3, delta=100)

    def test_a_recording_is_repeated_at_unit_power(self):
        rng = np.random.default_rng(2)
        wave = (7 * (rng.standard_normal(700) + 1j * rng.standard_normal(700))).astype(np.complex64)
        mixture, soi, truth = self.make("--interference", self.recording(wave, 2.5e6), "--sir-db", -20,
                                        "--symbols", 100)
        expected = 10 * wave / np.sqrt(power(wave))
        np.testing.assert_allclose(mixture - soi, np.tile(expected, 3)[:1600], atol=2e-5)
        self.assertEqual((truth["sample_rate"], truth["interference"][0]["spec"]), (2.5e6, "recording.sigmf-meta"))
        meta = json.loads(Path(f"{self.stem}.sigmf-meta").read_text())["global"]
        self.assertEqual(meta["core:license"], "https://spdx.org/licenses/MIT")
        mixture, _, _ = self.make("--interference", self.folder / "recording")
        self.assertEqual(len(mixture), 700)

    def test_bursts(self):
        mixture, soi, truth = self.make("--soi-bursts", 1e-4, 1e-4, "--interference-bursts", 2e-4, 1e-4, "--sir-db", -3,
                                        "--symbols", 8000)
        meta = json.loads(Path(f"{self.stem}.sigmf-meta").read_text())
        on = {"soi": np.zeros(len(soi), bool), "interference1": np.zeros(len(soi), bool)}
        for row in meta["annotations"]:
            on[row["core:label"]][row["core:sample_start"]:][:row["core:sample_count"]] = True
        for wave, name, guard in ((soi, "soi", 80), (mixture - soi, "interference1", 0)):
            sent = on[name]
            self.assertGreater(np.count_nonzero(np.diff(sent)), 10)
            outside = ~scipy.ndimage.binary_dilation(sent, iterations=guard) if guard else ~sent
            inside = scipy.ndimage.binary_erosion(sent, iterations=guard) if guard else sent
            self.assertEqual(power(wave[outside]), 0)
            self.assertAlmostEqual(power(wave[inside]), 1 if name == "soi" else 10 ** 0.3, delta=0.1)


class Receiver(Case):
    def test_clipping_and_eight_bits(self):
        options = ("--sir-db", -9, "--snr-db", 20, "--symbols", 8000)
        analogue, _, _ = self.make(*options, name="y")
        for kind, full, clip in (("ci8", 128, 0.001), ("ci16", 32768, 0.001), ("ci8", 128, 0)):
            digital, soi, truth = self.make(*options, "--format", kind, "--clip", clip)
            self.assertIn(captures.open_capture(f"{self.stem}.sigmf-meta").datatype, (kind, f"{kind}_le"))
            codes = digital.view(np.float32) * full
            self.assertEqual(np.abs(codes).max(), full - 1)
            sample = np.abs(analogue.view(np.float32)).reshape(-1, 2).max(1) * truth["scale"]
            strongest = np.sort(sample)[::-1]
            cut = np.count_nonzero(sample > (1 - 1 / full) * (1 + 1e-6))
            self.assertAlmostEqual(cut, clip * len(sample), delta=0.02 * clip * len(sample) + (clip == 0))
            error = analogue.view(np.float32) * truth["scale"] * full - codes
            inside = np.abs(analogue.view(np.float32)) * truth["scale"] < 1 - 1 / full
            self.assertLessEqual(np.abs(error[inside]).max(), 0.5 + 0.01)
            self.assertAlmostEqual(np.std(error[inside]) * np.sqrt(12), 1, delta=0.02)
            self.assertAlmostEqual(power(soi), truth["scale"] ** 2, delta=0.05 * truth["scale"] ** 2)
            self.assertGreater(strongest[0], 0.99)
        clipped, _, _ = self.make(*options, "--clip", 0.01)  # floats keep their units
        ends = np.abs(clipped.view(np.float32)).max()
        np.testing.assert_allclose(clipped.view(np.float32), np.clip(analogue.view(np.float32), -ends, ends))
        cut = np.abs(clipped.view(np.float32)).reshape(-1, 2).max(1) >= ends
        self.assertAlmostEqual(np.mean(cut), 0.01, delta=2e-4)

    def test_fewer_bits(self):
        for options, steps in ((("--bits", 5), 16), (("--bits", 5, "--format", "ci16"), 16), (("--bits", 12), 2048),
                               (("--bits", 6, "--format", "cf32"), 32)):
            mixture, _, _ = self.make(*options, "--symbols", 3000)
            codes = mixture.view(np.float32) * steps
            np.testing.assert_array_equal(codes, np.round(codes))
            self.assertEqual(np.abs(codes).max(), steps - 1)

    def test_image_and_offset_of_a_tone(self):
        tone = np.exp(2j * np.pi * 0.125 * np.arange(4096)).astype(np.complex64)
        mixture, _, truth = self.make("--interference", self.recording(tone), "--sir-db", -100, "--iq-gain-db", 1,
                                      "--iq-phase-deg", 5, "--dc", 0.03)
        bins = np.fft.fft(mixture.astype(complex)) / len(mixture) / 1e5
        gain, cosine = 10 ** (1 / 20), np.cos(np.radians(5))
        rejection = (1 + 2 * gain * cosine + gain**2) / (1 - 2 * gain * cosine + gain**2)
        self.assertAlmostEqual(np.abs(bins[512] / bins[-512]) ** 2 / rejection, 1, delta=1e-3)
        self.assertAlmostEqual(bins[512], 1, delta=1e-3)  # level and phase stay
        self.assertAlmostEqual(np.abs(bins[0]), 0.03, delta=1e-4)
        self.assertAlmostEqual(complex(*truth["dc"]) / 1e5, bins[0], delta=1e-4)
        # Q stronger by 1 dB, and 5 degrees off, but for a common turn
        i, q = (mixture * (1 + gain * np.exp(1j * np.radians(5))) / 2).view(np.float32).reshape(-1, 2).T
        i, q = i - i.mean(), q - q.mean()
        self.assertAlmostEqual(20 * np.log10(q.std() / i.std()), 1, delta=0.01)
        self.assertAlmostEqual(np.degrees(np.arcsin(np.mean(i * q) / i.std() / q.std())), 5, delta=0.05)


class Pieces(Case):
    ALL = simulation.Parameters(
        modulation="16qam", sps=7.3, timing=2.2, phase=33, carrier_offset=0.04, symbol_rate_ppm=77, phase_noise=50,
        interference=(OFDM, simulation.DEFAULT_INTERFERENCE), sir_db=-9, interference_offset=1e3,
        interference_bursts=(1e-3, 1e-3), soi_bursts=(1e-3, 1e-3), snr_db=10, iq_gain_db=1, iq_phase_deg=5, dc=0.1,
        clip=0.001, format="ci8", samples=200_000, seed=2**40)

    def test_pieces_of_any_size_join_without_a_seam(self):
        one, other = simulation.SimulatedCapture(self.ALL), simulation.SimulatedCapture(self.ALL)
        one.measure()
        with mock.patch.object(other, "received", lambda *a: one.received(*a)):
            other.measure()
        whole = one.read(0, one.length)
        edges = np.r_[0, np.sort(np.random.default_rng(1).integers(0, one.length, 9)), 65535, 65536, one.length]
        for mine in (np.sort(edges), np.arange(0, one.length + 1, 4000)):
            pieces = [other.read(int(a), int(b - a)) for a, b in zip(mine[:-1], mine[1:], strict=True)]
            for i in range(2):
                np.testing.assert_array_equal(np.concatenate([piece[i] for piece in pieces]), whole[i])
        bits = other.soi.bits(0, 9000)
        np.testing.assert_array_equal(np.concatenate([other.soi.bits(0, 4095), other.soi.bits(4095, 4905)]), bits)

    def test_a_carrier_is_steady_over_any_length(self):
        frequency, start = Fraction(1, 3) + Fraction(1, 10**6), 120 * 10**6 - 30000
        wave = simulation.rotation(float(frequency), 0.5, start, 100000)
        turns = [float(frequency * n % 1) for n in range(start, start + 100000, 97)]
        np.testing.assert_allclose(wave[::97], np.exp(1j * (2 * np.pi * np.array(turns) + 0.5)), atol=1e-6)

    def test_two_minutes_are_read_at_their_end(self):
        capture = simulation.SimulatedCapture(simulation.Parameters(
            sps=4.4, timing=1.1, symbol_rate_ppm=-50, carrier_offset=0.01, samples=120_000_000, sample_rate=1e6))
        begin, symbols = capture.length - 20000, capture.symbols
        self.assertAlmostEqual(symbols, 120e6 / 4.4 * (1 - 50e-6), delta=2)
        soi = capture.soi.read(begin, 20000)
        spectrum = np.abs(np.fft.fft(soi ** 4, 1 << 18))
        self.assertAlmostEqual(np.fft.fftfreq(1 << 18)[spectrum.argmax()] / 4, 0.01 / 4.4, delta=1e-5)
        expected = (capture.soi.timing + capture.soi.sps * np.arange(symbols - 5, symbols) - begin) % capture.soi.sps
        self.assertAlmostEqual(timing_of(soi, capture.soi.sps), expected[0], delta=0.1)

    def test_the_receiver_that_knows_everything_makes_no_errors(self):
        p = simulation.Parameters(modulation="16qam", sps=5.3, timing=1.1, phase=50, carrier_offset=0.03,
                                  phase_noise=20, symbol_rate_ppm=90, samples=30000)
        soi = simulation.SimulatedCapture(p).soi
        symbols = soi.matched_filter(soi.read, p.samples)
        inner = slice(5, -5)
        np.testing.assert_allclose(symbols[inner], soi.points(0, len(symbols))[inner], atol=0.05)


class Refusals(Case):
    def test_bad_parameters_get_one_sentence_and_nothing_is_written(self):
        slow = self.recording(np.ones(100, np.complex64), 1e6)
        before = sorted(self.folder.iterdir())
        for words, argv in (
                ("sps 1.9", ["--sps", 1.9]), ("sps nan", ["--sps", "nan"]), ("rolloff 1.5", ["--rolloff", 1.5]),
                ("span 1 ", ["--span", 1]), ("invalid choice: 'morse'", ["--modulation", "morse"]),
                ("less than 16 samples", ["--timing", 1]), ("fraction of a symbol", ["--timing", "soon"]),
                ("less than 16 samples", ["--timing=-1samples"]), ("carrier_offset 0.7", ["--carrier-offset", 0.7]),
                ("at most 0.5", ["--sps", 2, "--carrier-offset", 0.4]), ("ppm 5000", ["--symbol-rate-ppm", 5000]),
                ("phase_noise -1", ["--phase-noise", -1]), ("sir_db -300", ["--sir-db", -300]),
                ("sir_db inf", ["--sir-db", "inf"]), ("snr_db nan", ["--snr-db", "nan"]),
                ("half the sample rate", ["--interference-offset", 11e6]), ("clip 0.6", ["--clip", 0.6]),
                ("dc -1", ["--dc", -1]), ("iq_gain_db 30", ["--iq-gain-db", 30]), ("bits 17", ["--bits", 17]),
                ("do not fit into ci8", ["--bits", 9, "--format", "ci8"]), ("iq_phase_deg 60", ["--iq-phase-deg", 60]),
                ("invalid choice: 'cu8'", ["--format", "cu8"]), ("16 to 1e12", ["--symbols", 0]),
                ("16 to 1e12", ["--seconds", "nan"]), ("not allowed with", ["--seconds", 1, "--symbols", 5]),
                ("positive number", ["--samp-rate", 0]), ("seed -1", ["--seed", -1]),
                ("unknown constellation", ["--interference", "cp-ofdm:morse"]),
                ("There is no file", ["--interference", "wifi:auto"]),
                ("goes with no other", ["--interference", "none", "--interference", "cp-ofdm:qpsk"]),
                ("not 2e+06", ["--interference", slow, "--samp-rate", "2M"]),
                ("at least one sample", ["--soi-bursts", 0, 1]), ("allowed are 10000", ["--soi-bursts", 1e-7, 1e-7]),
                ("a folder that exists", ["--output", self.folder / "none" / "x"]),
                ("overwrite the recording", ["--interference", slow, "--output", self.folder / "recording"]),
                ("the following arguments are required: --output", None)):
            argv = [] if argv is None else ["--output", self.stem, *argv]
            code, out, err = run(make_capture.main, *argv)
            self.assertEqual((code, out), (2, ""), (argv, err))
            self.assertTrue(err.startswith("make_capture.py: "), err)
            self.assertIn(words, err)
            self.assertEqual(err.count("\n"), 1, err)
            self.assertEqual(sorted(self.folder.iterdir()), before, argv)

    def test_interruption_and_a_full_disk_leave_nothing(self):
        read, calls = simulation.SimulatedCapture.read, []
        for error, code in ((KeyboardInterrupt, 3), (OSError(28, "No space left on device"), 2)):
            def broken(capture, *place, error=error):
                calls.append(place)
                if len(calls) % 2 == 0:
                    raise error
                return read(capture, *place)
            with mock.patch.object(simulation.SimulatedCapture, "read", broken):
                got, out, err = run(make_capture.main, "--output", self.stem, "--bits", 8)
            self.assertEqual((got, out, err.count("\n")), (code, "", 1), err)
            self.assertEqual(list(self.folder.iterdir()), [])
        self.assertEqual(len(calls), 4)


class Table(Case):
    OPTIONS = ("--soi", "rrc:qpsk,sps=16", "--symbols", 1000, "--sir-db", -9)

    def test_rows_are_measured_and_kept(self):
        file = self.folder / "rows.json"
        code, out, err = run(impairments.main, *self.OPTIONS, "--cases", "known,none,8-bit", "--json", file)
        self.assertEqual((code, err), (0, ""))
        rows = json.loads(file.read_text())
        self.assertEqual([row["case"] for row in rows], ["known", "none", "8-bit"])
        for row in rows:
            self.assertEqual(row["bits"]["bits"], 2000)
            self.assertLess(row["bits"]["ber"], 0.01)
            self.assertLess(row["evm"], 0.1)
            self.assertGreater(row["matched_filter"]["ber"], 0.03)
            self.assertEqual(row["fit"], {"symbols": 0, "turn": 0})
        self.assertEqual(out.count("\n| "), 4)
        with mock.patch.object(impairments, "measure", side_effect=RuntimeError("a defect")):
            code, again, _ = run(impairments.main, *self.OPTIONS, "--cases", "known,none,8-bit,dc", "--json", file)
        self.assertEqual(code, 1)
        self.assertIn("crashed: RuntimeError: a defect", again)
        self.assertIn(out.splitlines()[-2], again)
        self.assertEqual(json.loads(file.read_text()), rows)
        table = impairments.tables([rows[0], rows[1] | {"bits": None}])  # a receiver that wrote none
        self.assertIn(f"| no impairment | – | {rows[1]['wave']['ci95'][0]:.1e}", table)

    def test_an_interrupt_or_a_full_disk_ends_it_and_keeps_the_rows(self):
        file = self.folder / "rows.json"
        arguments = (*self.OPTIONS, "--cases", "known,none", "--json", file)
        write = recording.Outputs.write

        def interrupted(outputs, sources, bits):
            if file.exists():  # in the second row
                raise KeyboardInterrupt
            write(outputs, sources, bits)
        with mock.patch.object(recording.Outputs, "write", interrupted):
            code, _, err = run(impairments.main, *arguments)
        self.assertEqual((code, err.count("\n")), (3, 1), err)
        self.assertIn("cancelled; finished rows are kept", err)
        saved = file.read_text()
        self.assertEqual([row["case"] for row in json.loads(saved)], ["known"])
        with mock.patch.object(impairments, "save", side_effect=OSError(28, "No space left")):
            code, _, err = run(impairments.main, *arguments)
        self.assertEqual((code, err.count("\n")), (2, 1), err)
        self.assertIn("rows.json cannot be written: No space left; rows saved before are kept", err)
        self.assertEqual(file.read_text(), saved)

    def test_bits_are_turned_and_shifted_to_where_they_fit(self):
        rng = np.random.default_rng(4)
        for modulation in cons.NAMES:
            per = cons.bits_per_symbol(modulation)
            truth = rng.integers(0, 2, 500 * per, np.uint8)
            points = cons.modulate(truth, modulation) * np.exp(2j * np.pi / cons.SYMMETRY[modulation])
            received = cons.demodulate(points, modulation)
            received[50] ^= 1
            for shift, bits in ((3, received[3 * per:]), (-2, np.r_[truth[:2 * per], received])):
                wrong, place = impairments.fit(bits, truth, modulation)
                self.assertEqual(place, (shift, cons.SYMMETRY[modulation] - 1))
                self.assertIn(wrong.sum(), (1, 2, 3, 4))  # one bit before the turn may be more after it

    def test_bad_input_gets_one_sentence(self):
        other = self.folder / "other.json"
        other.write_text("{}")
        for words, argv in (("unknown case 'x'", ["--cases", "x"]), ("unknown prior", ["--interference", "morse"]),
                            ("unknown method", ["--method", "magic"]), ("holds no rows", ["--json", other]),
                            ("sir_db 200", ["--sir-db", 200]), ("samples 0", ["--symbols", 0]),
                            ("does not exist", ["--json", self.folder / "none" / "x"])):
            code, out, err = run(impairments.main, *self.OPTIONS, *argv)
            self.assertEqual((code, out, err.count("\n")), (2, "", 1), err)
            self.assertIn(words, err)


if __name__ == "__main__":
    unittest.main()
