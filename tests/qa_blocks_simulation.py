# SPDX-License-Identifier: GPL-3.0-or-later
"""The blocks that simulate and play signals, against the package's own generators and readers and against numpy."""

import sys
import time
from pathlib import Path

try:
    from gnuradio import blocks, digital, gr, gr_unittest
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

import numpy as np
import torch
from captures_common import CaptureTest, noise
from gnuradio import unmix
from gnuradio.unmix import captures, priors, signals
from gnuradio.unmix.blocks.qpsk_source import LABEL_OF_QUADRANT, QUADRANT_OF_LABEL
from gnuradio.unmix.captures.formats import make_format, parse_format
from gnuradio.unmix.estimators import ofdm_start_and_phase
from gnuradio.unmix.priors import constellation as cons
from gnuradio.unmix.priors.gaussian import spectrum
from gnuradio.unmix.priors.rrc import taps
from scipy.io import wavfile

torch.set_num_threads(1)
SAMPLES = Path(__file__).resolve().parent.parent / "apps" / "samples"


def collect(source, count=None):
    """What a complex source sends: its first `count` samples, or all of them, complex64."""
    tb = gr.top_block()
    sink = blocks.vector_sink_c()
    chain = [source, sink] if count is None else [source, blocks.head(gr.sizeof_gr_complex, count), sink]
    tb.connect(*chain)
    tb.run()
    return np.array(sink.data(), np.complex64)


def random_bits(count, seed=1):
    return np.random.default_rng(seed).integers(0, 2, count, dtype=np.uint8)


def denoised(module, wave, side=None):
    """The prior's E[s | x] at a very low noise level, for a window [N] and side information [2]."""
    x = torch.from_numpy(np.stack([wave.real, wave.imag])[None])
    abar = torch.tensor([0.9999])
    side = torch.zeros(1, 0) if side is None else torch.tensor([side], dtype=torch.float32)
    out = module(x * abar.sqrt(), abar, side)[0].numpy()
    return out[0] + 1j * out[1]


class BlocksTest(gr_unittest.TestCase):
    def refused(self, block, *cases, **usual):
        """Each case (words, option, value) must raise one ValueError with these words."""
        for words, option, value in cases:
            with self.assertRaisesRegex(ValueError, words) as caught:
                block(**{**usual, option: value})
            self.assertNotIn("\n", str(caught.exception))


# -------------------------------------------------------------------------------------------------- rrc_qpsk_source

class QpskSource(BlocksTest):
    def test_once_it_is_the_generators_wave_sample_for_sample(self):
        for sps, rolloff, span in ((16, 0.5, 8), (4, 0.25, 6), (2, 1.0, 2), (5, 0.35, 3), (7, 0.22, 10), (3, 0.0, 8)):
            for count in (1, 3, 200):
                bits = random_bits(2 * count)
                wave = collect(unmix.rrc_qpsk_source(bits, sps, rolloff, span, repeat=False))
                expected = signals.rrc_wave(cons.modulate(bits[None], "qpsk"), sps, rolloff, span)[0]
                self.assertEqual(len(wave), count * sps)
                np.testing.assert_allclose(wave, expected, atol=1e-5, err_msg=str((sps, rolloff, span, count)))

    def test_repeated_it_is_the_wave_of_the_repeated_bits(self):
        bits = random_bits(2 * 37)
        wave = collect(unmix.rrc_qpsk_source(bits), 37 * 16 * 5 + 3)
        expected = signals.rrc_wave(cons.modulate(np.tile(bits, 7)[None], "qpsk"))[0]
        np.testing.assert_allclose(wave, expected[:len(wave)], atol=1e-5)

    def test_unit_power(self):
        wave = collect(unmix.rrc_qpsk_source(random_bits(40000)), 320000)
        self.assertAlmostEqual(np.mean(np.abs(wave) ** 2), 1, delta=0.01)

    def test_one_symbol_is_the_priors_pulse_centred_on_sample_8(self):
        # 00 and then 11: the difference of two streams that differ in one symbol is that symbol's pulse, twice.
        bits = np.zeros(60, np.uint8)
        other = bits.copy()
        other[30:32] = 1
        pulse = collect(unmix.rrc_qpsk_source(bits, repeat=False)) - collect(unmix.rrc_qpsk_source(other, repeat=False))
        expected = np.zeros(480)
        expected[8 + 15 * 16 - 64:8 + 15 * 16 + 65] = taps(16, 0.5, 8)
        np.testing.assert_allclose(pulse / (2 * (1 + 1j) / np.sqrt(2)), expected, atol=1e-5)

    def test_a_window_of_the_stream_is_a_fixed_point_of_the_prior(self):
        for text, options in (("rrc:qpsk,sps=16,rolloff=0.5,span=8", {}),
                              ("rrc:qpsk,sps=4,rolloff=0.25,span=12", {"sps": 4, "rolloff": 0.25, "span": 12})):
            module = priors.parse(text).module
            wave = collect(unmix.rrc_qpsk_source(random_bits(2000), **options), 100 * module.sps + 2560)[-2560:]
            # Symbols outside the window, half a pulse from its ends, cannot be told from what is inside.
            inner = slice(module.span // 2 * module.sps, -(module.span // 2) * module.sps)
            np.testing.assert_allclose(denoised(module, wave)[inner], wave[inner], atol=1e-5, err_msg=text)

    def test_differential_bits_survive_any_quarter_turn_and_the_seam_of_the_repetition(self):
        bits = random_bits(2 * 41)
        wave = collect(unmix.rrc_qpsk_source(bits, 4, differential=True), 41 * 4 * 4 + 16)
        pulse = taps(4, 0.5, 8)
        for turn in range(4):
            symbols = np.convolve(wave * 1j**turn, pulse)[len(pulse) // 2 + 2::4][:41 * 4] / 4
            quadrants = np.floor(np.angle(symbols) / (np.pi / 2)).astype(int) % 4
            tb = gr.top_block()
            sink = blocks.vector_sink_b()
            tb.connect(blocks.vector_source_b(quadrants.tolist()), digital.diff_decoder_bb(4),
                       digital.map_bb(LABEL_OF_QUADRANT), blocks.unpack_k_bits_bb(2), sink)
            tb.run()
            received = np.array(sink.data(), np.uint8)
            first = 0 if turn == 0 else 2  # the first symbol's reference is 45 degrees
            np.testing.assert_array_equal(received[first:], np.tile(bits, 4)[first:], f"{turn} quarter turns")

    def test_quadrants_count_rotations_by_90_degrees_and_neighbours_differ_in_one_bit(self):
        self.assertEqual([LABEL_OF_QUADRANT[q] for q in QUADRANT_OF_LABEL], [0, 1, 2, 3])
        points = cons.points("qpsk")[LABEL_OF_QUADRANT]
        np.testing.assert_allclose(points, points[0] * 1j ** np.arange(4), atol=1e-6)
        for a, b in zip(LABEL_OF_QUADRANT, np.roll(LABEL_OF_QUADRANT, -1), strict=True):
            self.assertEqual(int(a ^ b).bit_count(), 1)

    def test_bits_are_readable_whatever_sequence_they_came_as(self):
        for bits in ([1, 0, 0, 1], (1.0, 0.0, 0.0, 1.0), np.array([True, False, False, True])):
            source = unmix.rrc_qpsk_source(bits)
            self.assertEqual(source.bits.dtype, np.uint8)
            self.assertEqual(source.bits.tolist(), [1, 0, 0, 1])

    def test_impossible_arguments_are_refused_with_a_sentence(self):
        self.refused(unmix.rrc_qpsk_source,
                     (r"bits of shape \(3,\) are impossible", "bits", [0, 1, 1]),
                     (r"bits of shape \(0,\)", "bits", []),
                     (r"bits of shape \(2, 2\)", "bits", np.zeros((2, 2), int)),
                     ("the value 2 are impossible; each must be 0 or 1", "bits", [0, 2]),
                     ("sps=1 is impossible; it must be an integer, at least 2", "sps", 1),
                     ("sps=2.5", "sps", 2.5), ("sps=nan", "sps", float("nan")),
                     ("rolloff=1.1 is impossible; it must lie between 0 and 1", "rolloff", 1.1),
                     ("rolloff=-0.1", "rolloff", -0.1),
                     ("span=1 is impossible; it must be an integer, at least 2", "span", 1), bits=[0, 1])


# --------------------------------------------------------------------------------------------------- cp_ofdm_source

class OfdmSource(BlocksTest):
    def bodies(self, source, symbols, fft=64, cp=16):
        """Complete symbols of the source from its start on: [symbols, fft + cp]."""
        wave = collect(source, source.start + symbols * (fft + cp))
        return wave[source.start:].reshape(symbols, fft + cp)

    def test_points_of_the_constellation_on_all_active_carriers_and_nothing_elsewhere(self):
        for name, fft, cp, active in (("bpsk", 64, 16, 56), ("qpsk", 64, 16, 56), ("8psk", 32, 0, 13),
                                      ("16qam", 100, 100, 99), ("qpsk", 2, 1, 1)):
            source = unmix.cp_ofdm_source(name, fft, cp, active, seed=3)
            frames = self.bodies(source, 200, fft, cp)
            np.testing.assert_allclose(frames[:, :cp], frames[:, fft:], atol=1e-6)
            carriers = np.fft.fft(frames[:, cp:]) / fft * np.sqrt(active) * np.exp(-1j * source.phase)
            half = active // 2
            used = [k % fft for k in range(-half, active - half + 1) if k != 0]
            self.assertEqual(len(used), active)
            error = np.abs(carriers[:, used, None] - cons.points(name)).min(-1)
            self.assertLess(error.max(), 1e-4, f"{name}, fft={fft}")
            self.assertLess(np.abs(np.delete(carriers, used, 1)).max(), 1e-4)
            labels = np.abs(carriers[:, used, None] - cons.points(name)).argmin(-1)
            chance = 1 / len(cons.points(name))  # each point within five deviations of its share
            share = np.bincount(labels.ravel(), minlength=len(cons.points(name))) / labels.size
            self.assertLess(np.abs(share - chance).max(), 5 * np.sqrt(chance / labels.size))

    def test_successive_symbols_and_carriers_are_independent(self):
        source = unmix.cp_ofdm_source(seed=4)
        carriers = np.fft.fft(self.bodies(source, 2000)[:, 16:])[:, list(range(1, 29)) + list(range(36, 64))]
        carriers /= np.sqrt(np.mean(np.abs(carriers) ** 2))
        later = [np.abs(np.mean(carriers[lag:] * carriers[:len(carriers) - lag].conj())) for lag in range(1, 50)]
        self.assertLess(max(later), 5 / np.sqrt(2000 * 56))
        across = np.abs(carriers.T @ carriers.conj() / 2000 - np.eye(56))
        self.assertLess(across.max(), 6 / np.sqrt(2000))

    def test_unit_power(self):
        wave = collect(unmix.cp_ofdm_source("bpsk", seed=1), 800000)
        # 10,000 symbols; bodies have power 1, a prefix (a fifth of the symbol) deviates by 0.3: 5 deviations = 0.003.
        self.assertAlmostEqual(np.mean(np.abs(wave) ** 2), 1, delta=0.003)

    def test_spectrum_is_that_of_the_generator_that_the_priors_are_trained_with(self):
        rng = np.random.default_rng(0)
        expected = spectrum(signals.cp_ofdm(rng, 1, 800000)[0][0])
        measured = spectrum(collect(unmix.cp_ofdm_source(seed=2), 800000))
        np.testing.assert_allclose(measured, expected, atol=0.1)  # 1.8 % for 3,000 windows, 2.6 % for the difference

    def test_start_and_phase_are_what_the_estimator_finds_and_the_prior_expects(self):
        module = priors.parse("cp-ofdm:qpsk").module
        for seed in range(8):
            source = unmix.cp_ofdm_source(seed=seed)
            wave = collect(source, 2560)
            found = ofdm_start_and_phase(wave[None], module)[0]
            self.assertEqual(found[0], source.start)
            turn = np.angle(np.exp(4j * (found[1] - source.phase))) / 4
            self.assertLess(abs(turn), 0.01)
            error = np.abs(denoised(module, wave, (source.start, source.phase)) - wave)
            self.assertLess(error.max(), 5e-3)  # the symbols that the window cuts are estimated, not decided
            self.assertLess(error[80:-80].max(), 1e-5)

    def test_start_and_phase_can_be_given(self):
        for start, phase in ((0, 0.0), (1, 1.0), (79, -2.0)):
            source = unmix.cp_ofdm_source(start=start, phase=phase, seed=5)
            self.assertEqual((source.start, source.phase), (start, phase))
            carriers = np.fft.fft(self.bodies(source, 10)[:, 16:])[:, 1:29] / 64 * np.sqrt(56) * np.exp(-1j * phase)
            np.testing.assert_allclose(np.abs(carriers[..., None] - cons.points("qpsk")).min(-1), 0, atol=1e-4)
        same = collect(unmix.cp_ofdm_source(start=0, phase=0, seed=5), 4000)[79:]
        np.testing.assert_allclose(collect(unmix.cp_ofdm_source(start=1, phase=0, seed=5), 3921), same, atol=1e-6)

    def test_the_seed_decides_everything(self):
        first = collect(unmix.cp_ofdm_source(seed=0), 20000)
        np.testing.assert_array_equal(collect(unmix.cp_ofdm_source(seed=0), 20000), first)
        other = collect(unmix.cp_ofdm_source(seed=1), 20000)
        coherence = np.abs(np.vdot(first, other)) / 20000
        self.assertLess(coherence, 0.05)
        starts = {unmix.cp_ofdm_source(seed=seed).start for seed in range(200)}
        self.assertGreater(len(starts), 65)  # of 80; 73 are expected
        self.assertEqual((min(starts) < 5, max(starts) > 74, max(starts) < 80), (True, True, True))

    def test_impossible_arguments_are_refused_with_a_sentence(self):
        self.refused(unmix.cp_ofdm_source,
                     ("unknown constellation 'qam'; known are bpsk", "constellation", "qam"),
                     ("fft=1 is impossible; it must be an integer, at least 2", "fft", 1), ("fft=64.5", "fft", 64.5),
                     ("cp=65 is impossible; it must be an integer, 0 to 64", "cp", 65),
                     ("active=64 is impossible; it must be an integer, 1 to 63", "active", 64),
                     ("start=80 is impossible; it must be an integer, 0 to 79", "start", 80), ("start=-1", "start", -1),
                     ("phase=nan is impossible; it must be a finite angle", "phase", float("nan")),
                     ("seed=-1 is impossible; it must be an integer, at least 0", "seed", -1))


# -------------------------------------------------------------------------------------------------------- sir_mixer

class Mixer(BlocksTest):
    def mixed(self, waves, **options):
        tb = gr.top_block()
        mixer = unmix.sir_mixer(interferers=len(waves) - 1, **options)
        sink = blocks.vector_sink_c()
        for port, wave in enumerate(waves):
            tb.connect(blocks.vector_source_c(wave.tolist()), (mixer, port))
        tb.connect(mixer, sink)
        tb.run()
        return np.array(sink.data(), np.complex64)

    def waves(self, count, samples=100000):
        rng = np.random.default_rng(8)
        return [signals.noise(rng, (samples,), 1.0) for _ in range(count)]

    def test_without_noise_it_is_the_formula(self):
        for sir in (-100.0, -18.0, 0.0, 7.5, 100.0):
            for count in (1, 2, 3, 4):
                soi, *others = self.waves(1 + count, 1000)
                expected = soi + 10 ** (-sir / 20) * sum(others) / np.sqrt(count)
                np.testing.assert_allclose(self.mixed([soi, *others], sir_db=sir), expected, rtol=1e-5, atol=1e-5)

    def test_measured_sir_and_snr_are_the_ones_asked_for(self):
        for count in (1, 2):
            soi, *others = self.waves(1 + count)
            out = self.mixed([soi, *others], sir_db=-12.0, snr_db=6.0, seed=1)
            # Least squares tells each part's amplitude; what is left is the noise.
            parts = np.stack([soi, *others], 1)
            gains, *_ = np.linalg.lstsq(parts, out, rcond=None)
            rest = out - parts @ gains
            self.assertAlmostEqual(gains[0], 1, delta=0.01)
            sir = -10 * np.log10(np.sum(np.abs(gains[1:]) ** 2))
            snr = -10 * np.log10(np.mean(np.abs(rest) ** 2))
            self.assertAlmostEqual(sir, -12, delta=0.02)
            self.assertAlmostEqual(snr, 6, delta=0.07)  # 100,000 samples: 5 deviations
            self.assertAlmostEqual(np.mean(rest.real**2) / np.mean(rest.imag**2), 1, delta=0.03)
            self.assertLess(np.abs(np.mean(rest[1:] * rest[:-1].conj())) / np.mean(np.abs(rest) ** 2), 0.016)

    def test_the_seed_decides_the_noise(self):
        nothing = [np.zeros(1000, np.complex64)] * 2
        first = self.mixed(nothing, snr_db=0.0, seed=0)
        np.testing.assert_array_equal(self.mixed(nothing, snr_db=0.0, seed=0), first)
        self.assertGreater(np.abs(self.mixed(nothing, snr_db=0.0, seed=1) - first).max(), 0.1)

    def test_the_shortest_input_ends_the_stream(self):
        first, second, third = self.waves(3, 5000)
        for length in (1, 7, 8, 3001):
            self.assertEqual(len(self.mixed([first, second[:length]], snr_db=10.0)), length)
            self.assertEqual(len(self.mixed([first[:length], second], sir_db=3.0)), length)
            self.assertEqual(len(self.mixed([first, second, third[:length]])), length)

    def test_ratios_change_while_it_runs(self):
        tb = gr.top_block()
        mixer = unmix.sir_mixer(sir_db=0.0)
        probe = blocks.probe_signal_c()
        power = blocks.probe_signal_f()
        average = blocks.moving_average_ff(4096, 1 / 4096)
        tb.connect(blocks.null_source(gr.sizeof_gr_complex), (mixer, 0))
        tb.connect(blocks.vector_source_c([1.0], True), (mixer, 1))
        tb.connect(mixer, probe)
        tb.connect(mixer, blocks.complex_to_mag_squared(), average, power)
        tb.start()
        try:
            self.wait_for(lambda: abs(probe.level() - 1) < 1e-6)
            mixer.set_sir_db(20.0)
            self.wait_for(lambda: abs(probe.level() - 0.1) < 1e-6)
            mixer.set_snr_db(-20.0)
            self.wait_for(lambda: abs(power.level() - 100) < 10)
            mixer.set_snr_db(None)
            self.wait_for(lambda: abs(probe.level() - 0.1) < 1e-6)
        finally:
            tb.stop()
            tb.wait()
        for change, words in ((lambda: mixer.set_sir_db(101), "sir_db=101 is impossible"),
                              (lambda: mixer.set_snr_db(-101), "snr_db=-101 is impossible")):
            with self.assertRaisesRegex(ValueError, words):
                change()

    def wait_for(self, condition):
        deadline = time.monotonic() + 10
        while not condition():
            self.assertLess(time.monotonic(), deadline, "the change did not take effect")
            time.sleep(0.01)

    def test_impossible_arguments_are_refused_with_a_sentence(self):
        self.refused(unmix.sir_mixer,
                     ("sir_db=-100.5 is impossible; it must lie between -100 and 100 dB", "sir_db", -100.5),
                     ("sir_db=nan", "sir_db", float("nan")),
                     ("snr_db=inf is impossible; it must lie between -100 and 100 dB", "snr_db", float("inf")),
                     ("interferers=5 is impossible; it must be an integer, 1 to 4", "interferers", 5),
                     ("interferers=0", "interferers", 0),
                     ("seed=-1 is impossible; it must be an integer, at least 0", "seed", -1))


# --------------------------------------------------------------------------------------------------- capture_source

class CaptureSource(CaptureTest):
    def check(self, path, **options):
        """The block's samples must be those of the package's reader, bit for bit."""
        capture = captures.open_capture(path, **options)
        source = unmix.capture_source(str(path), **options)
        self.assertEqual((source.length, source.sample_rate, source.center_frequency),
                         (capture.length, capture.sample_rate, capture.center_frequency))
        expected = capture.read(0, capture.length)
        np.testing.assert_array_equal(collect(source), expected)
        self.assertGreater(np.abs(expected).max(), 0)
        return source

    def stored(self, datatype, count=3001):
        """Random components of a SigMF datatype, extreme values among them."""
        kind, order = parse_format(datatype)
        dtype = make_format(kind, order or "<").component
        if dtype.kind == "f":
            return noise(count).view(np.float32).astype(dtype)
        limits = np.iinfo(dtype)
        values = np.random.default_rng(0).integers(limits.min, limits.max, 2 * count, dtype.newbyteorder("="), True)
        values[:4] = limits.min, limits.max, limits.max // 2, limits.max // 2 + 1
        return values.astype(dtype)

    def test_sigmf_of_every_format_that_can_be_played(self):
        for datatype in ("cf32_le", "cf32_be", "ci16_le", "ci16_be", "ci32_le", "ci32_be", "ci8", "cu8"):
            stem = self.sigmf(self.stored(datatype), datatype, datatype, sample_rate=2.4e6,
                              segments=[{"core:sample_start": 0, "core:frequency": 433.92e6}])
            for suffix in ("", ".sigmf-meta", ".sigmf-data"):
                source = self.check(Path(f"{stem}{suffix}"))
                self.assertEqual((source.length, source.sample_rate, source.center_frequency), (3001, 2.4e6, 433.92e6))

    def test_every_byte_value(self):
        every = np.repeat(np.arange(256, dtype=np.uint8), 2)
        self.check(self.store("x.cu8", every))
        self.check(self.store("x.cs8", every.view(np.int8)))

    def test_the_repositorys_samples(self):
        for name in ("qpsk_under_ofdm", "wifi_excerpt"):
            self.check(SAMPLES / name)

    def test_raw_files_by_suffix_name_and_format(self):
        x = noise(1001)
        source = self.check(self.store("gqrx_20230101_120000_433920000_1800000_fc.raw", x))
        self.assertEqual((source.sample_rate, source.center_frequency), (1.8e6, 433.92e6))
        for name in ("x.cf32", "x.fc32", "x.cfile", "x.iq"):
            self.check(self.store(name, x))
        self.assertIsNone(unmix.capture_source(str(self.folder / "x.cf32")).sample_rate)
        self.check(self.store("x.c16", self.stored("ci16_le")))
        self.check(self.store("x.bin", self.stored("ci16_be")), format="ci16_be")
        self.assertEqual(self.check(self.store("y.cf32", x), sample_rate=1e6).sample_rate, 1e6)

    def test_headers_and_trailers_of_any_length_are_left_out(self):
        x = noise(500)
        for header, trailer in ((16, 8), (7, 3), (4, 0), (2, 1)):
            stored = np.concatenate([np.full(header, 1, np.uint8), x.view(np.uint8), np.full(trailer, 1, np.uint8)])
            stem = self.sigmf(stored, trailing_bytes=trailer, dataset="rec.bin",
                              segments=[{"core:sample_start": 0, "core:header_bytes": header}])
            self.store("rec.bin", stored)
            self.check(stem)
            played = collect(unmix.capture_source(str(stem), repeat=True), 1200)
            np.testing.assert_array_equal(played, np.tile(x, 3)[:1200])

    def test_segments_that_follow_each_other_are_played_and_others_refused(self):
        x = noise(500)
        self.check(self.sigmf(x, segments=[{"core:sample_start": 0}, {"core:sample_start": 200}]))
        stem = self.sigmf(np.concatenate([x[:200], x[:1], x[200:]]), "gap", dataset="gap.bin", segments=[
            {"core:sample_start": 0}, {"core:sample_start": 200, "core:header_bytes": 8}])
        self.store("gap.bin", np.concatenate([x[:200], x[:1], x[200:]]))
        np.testing.assert_array_equal(self.whole(stem), x)
        self.refused_by_block("headers between its capture segments", path=stem)

    def test_wav(self):
        for dtype in (np.uint8, np.int16, np.int32, np.float32):
            stored = noise(700).view(np.float32).reshape(-1, 2)
            if dtype != np.float32:
                stored = self.stored(f"c{np.dtype(dtype).kind}{8 * np.dtype(dtype).itemsize}").reshape(-1, 2)
            path = self.folder / f"SDRSharp_20230101_120000Z_433920000Hz_IQ_{np.dtype(dtype).name}.wav"
            wavfile.write(path, 48000, stored)
            self.assertEqual(self.check(path).sample_rate, 48000)

    def test_repeat(self):
        for name, array in (("x.cf32", noise(333)), ("x.cu8", self.stored("cu8", 333)),
                            ("x.cs16", self.stored("ci16_le", 333))):
            path = self.store(name, array)
            once = self.whole(path)
            np.testing.assert_array_equal(collect(unmix.capture_source(str(path), repeat=True), 20000),
                                          np.resize(once, 20000))

    def refused_by_block(self, *words, path, **options):
        with self.assertRaises(ValueError) as caught:
            unmix.capture_source(str(path), **options)
        self.check_sentence(caught.exception, *words)

    def test_what_the_reader_refuses_is_refused_in_its_words(self):
        x = noise(100)
        wrong = self.store("x.xyz", x)
        cut = self.store("cut.cf32", x.view(np.uint8)[:-3])
        empty = self.store("empty.cf32", x[:0])
        good = self.store("x.cf32", x)
        damaged = self.sigmf(x.view(np.uint8)[:-1], "damaged")
        for path, options in ((self.folder / "missing.cf32", {}), (self.folder / "missing", {}), (wrong, {}), (cut, {}),
                              (empty, {}), (damaged, {}), (self.folder, {}), (good, {"format": "ci17"}),
                              (good, {"format": "wav"}), (good, {"sample_rate": -1}), (good, {"sample_rate": "x"})):
            with self.assertRaises(captures.CaptureError) as caught:
                captures.open_capture(path, **options)
            self.refused_by_block(str(caught.exception), path=path, **options)
        self.refused_by_block("There is no file", path=self.folder / "missing.cf32")
        self.refused_by_block("cut off", path=cut)

    def test_formats_that_no_block_converts_exactly_are_refused(self):
        for datatype in ("cf64_le", "cu16_le", "cu32_be"):
            self.refused_by_block(f"holds {datatype} samples, which GNU Radio's blocks cannot convert exactly",
                                  path=self.sigmf(np.ones(80, np.uint64), datatype, datatype))


if __name__ == "__main__":
    gr_unittest.run(QpskSource)  # and all other classes of this file
