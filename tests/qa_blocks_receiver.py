# SPDX-License-Identifier: GPL-3.0-or-later
"""The QPSK receiver, the unique word and the bit error rate meter, against bits and error rates known beforehand."""

import sys
import time

try:
    import pmt
    from gnuradio import blocks, gr, gr_unittest
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

import numpy as np
import scipy.special
import scipy.stats
from gnuradio import unmix
from gnuradio.unmix import signals
from gnuradio.unmix.priors import constellation as cons

WORD = unmix.random_bits(64, seed=9)
LABEL_BY_QUADRANT = np.array([0, 2, 3, 1])  # counter-clockwise from 45 degrees: 1+1j, -1+1j, -1-1j, 1-1j


def q_function(eb_n0_db):
    """Bit error rate of coherent QPSK: Q(sqrt(2 Eb / N0))."""
    return 0.5 * scipy.special.erfc(np.sqrt(10 ** (eb_n0_db / 10)))


def delayed(wave, samples):
    """The wave moved by a fraction of samples, circularly, by its spectrum."""
    turn = np.exp(-2j * np.pi * np.fft.fftfreq(len(wave)) * samples)
    return np.fft.ifft(np.fft.fft(wave) * turn)


def channel(wave, sps, delay=0.37, phase=1.1, offset=1e-4, amplitude=1.0):
    """delay in samples, phase in radians, offset as a fraction of the symbol rate."""
    turn = np.exp(1j * (phase + 2 * np.pi * offset / sps * np.arange(len(wave))))
    return (amplitude * delayed(wave, delay) * turn).astype(np.complex64)


def with_words(rng, symbols, every=250):
    """Random bits, two a symbol, with WORD at every 250th symbol."""
    bits = rng.integers(0, 2, (symbols // every, 2 * every), dtype=np.uint8)
    bits[:, :len(WORD)] = WORD
    return bits.ravel()


def wave_of(bits, sps=16, rolloff=0.5):
    return signals.rrc_wave(cons.modulate(bits, "qpsk")[None], sps, rolloff)[0]


def best_lag(got, sent, per_symbol):
    """Lag of `got` behind `sent` (items) at which most of a late stretch agrees, whole symbols up to 50."""
    end = min(len(got), len(sent)) - 60 * per_symbol
    begin = end - 200 * per_symbol
    lags = per_symbol * np.arange(-50, 51)
    return int(max(lags, key=lambda lag: np.mean(got[begin + lag:end + lag] == sent[begin:end])))


def overlap(got, sent, lag):
    """Both cut to where they lie over each other, and the place in `sent` where that begins."""
    got, sent, first = got[max(lag, 0):], sent[max(-lag, 0):], max(-lag, 0)
    common = min(len(got), len(sent))
    return got[:common], sent[:common], first


def settled(got, sent, lag):
    """Number of the first symbol after which all bits are right."""
    got, sent, first = overlap(got, sent, lag)
    wrong = np.flatnonzero(got != sent)
    return (first + (int(wrong[-1]) + 1 if len(wrong) else 0) + 1) // 2


class Receiver(gr_unittest.TestCase):
    def receive(self, wave, **options):
        """Symbols and bits that come out."""
        flow = gr.top_block()
        source = blocks.vector_source_c(wave.astype(np.complex64))
        self.receiver = unmix.qpsk_receiver(**options)
        symbols, bits = blocks.vector_sink_c(), blocks.vector_sink_b()
        flow.connect(source, self.receiver, symbols)
        flow.connect((self.receiver, 1), bits)
        flow.run()
        return np.array(symbols.data(), np.complex64), np.array(bits.data(), np.uint8)

    def test_a_clean_wave_of_any_amplitude_has_no_error_after_200_symbols(self):
        for seed, (sps, rolloff) in enumerate(((16, 0.5), (16, 0.25), (8, 1.0), (5, 0.5), (3, 0.35), (2, 0.5))):
            rng = np.random.default_rng(seed)
            bits = with_words(rng, 1500)
            wave = wave_of(bits, sps, rolloff)
            for amplitude in (1e-3, 1.0, 30.0):
                for delay in (0.37, 0.37 + sps / 2):
                    what = f"sps {sps}, rolloff {rolloff}, amplitude {amplitude}, delay {delay}"
                    received = channel(wave, sps, delay, amplitude=amplitude)
                    symbols, got = self.receive(received, sps=sps, rolloff=rolloff, unique_word=WORD)
                    self.assertEqual(len(got), 2 * len(symbols))
                    self.assertGreater(len(symbols), 1480, what)
                    # The phase is known from the first word on that begins after the loops have settled.
                    self.assertLessEqual(settled(got, bits, best_lag(got, bits, 2)), 250, what)
                    self.assertAlmostEqual(np.mean(np.abs(symbols[300:]) ** 2), 1, delta=0.05, msg=what)
                    np.testing.assert_array_equal(cons.demodulate(symbols, "qpsk")[64:], got[64:])
                    _, got = self.receive(received, sps=sps, rolloff=rolloff, phase_resolution="none")
                    best = min(settled(turned, bits, best_lag(turned, bits, 2)) for turned in self.all_turned(got))
                    self.assertLessEqual(best, 200, what)

    def all_turned(self, bits):
        symbols = cons.modulate(bits, "qpsk")
        return [cons.demodulate(symbols * 1j**k, "qpsk") for k in range(4)]

    def test_the_loops_leave_an_error_vector_of_no_more_than_one_percent(self):
        bits = np.random.default_rng(0).integers(0, 2, 6000, dtype=np.uint8)
        symbols, _ = self.receive(channel(wave_of(bits), 16), phase_resolution="none")
        symbols = symbols[300:]
        error = symbols - cons.modulate(cons.demodulate(symbols, "qpsk"), "qpsk")
        self.assertLess(10 * np.log10(np.mean(np.abs(error) ** 2)), -37)  # measured: -39; timing and carrier alone: -47

    def test_in_noise_the_error_rate_is_the_textbooks_within_half_a_decibel(self):
        rng = np.random.default_rng(1)
        sps = 4
        bits = rng.integers(0, 2, 300000, dtype=np.uint8)
        bits.reshape(-1, 2000)[:, :64] = WORD
        wave = channel(wave_of(bits, sps), sps)
        wave = wave + signals.noise(rng, wave.shape, sps / 2 / 10**0.6)  # Es / N0 = 2 Eb / N0 = sps / variance
        _, got = self.receive(wave, sps=sps, unique_word=WORD)
        got, sent, _ = overlap(got, bits, best_lag(got, bits, 2))
        got, sent = got[4000:], sent[4000:]
        interval = scipy.stats.binomtest(int(np.count_nonzero(got != sent)), len(sent)).proportion_ci(0.99, "exact")
        self.assertGreater(interval.high, q_function(6.0))
        self.assertLess(interval.low, q_function(5.9))  # measured loss: 0.08 dB
        self.assertLess(interval.high, q_function(5.5))

    def test_the_unique_word_resolves_every_rotation(self):
        bits = with_words(np.random.default_rng(2), 2000)
        wave = wave_of(bits)
        turns = set()
        for k in range(4):
            _, got = self.receive(channel(wave, 16, phase=0.2 + k * np.pi / 2), unique_word=WORD)
            self.assertLessEqual(settled(got, bits, best_lag(got, bits, 2)), 250)
            self.assertGreaterEqual(self.receiver.sync_word.found, 7)
            turns.add(self.receiver.sync_word.turns)
        self.assertEqual(len(turns), 4)

    def test_differential_bits_are_right_in_every_rotation_and_each_error_counts_twice(self):
        rng = np.random.default_rng(3)
        sps = 4
        sent = rng.integers(0, 2, 80000, dtype=np.uint8)
        rotation = np.argsort(LABEL_BY_QUADRANT)[2 * sent[::2] + sent[1::2]]
        on_air = LABEL_BY_QUADRANT[np.cumsum(rotation) % 4]
        on_air = np.stack([on_air >> 1, on_air & 1], 1).ravel().astype(np.uint8)
        wave = wave_of(on_air, sps)
        noise = signals.noise(rng, wave.shape, sps / 2 / 10**0.6)
        for k in range(4):
            clean = channel(wave[:sps * 1500], sps, phase=0.2 + k * np.pi / 2)
            _, got = self.receive(clean, sps=sps, phase_resolution="differential")
            self.assertLessEqual(settled(got, sent, best_lag(got, sent, 2)), 200)
        symbols, got = self.receive(channel(wave, sps) + noise, sps=sps, phase_resolution="differential")
        lag = best_lag(got, sent, 2)

        def errors(mine, true):
            mine, true, _ = overlap(mine, true, lag)
            return np.count_nonzero(mine[1000:] != true[1000:])

        coherent = min(errors(turned, on_air) for turned in self.all_turned(cons.demodulate(symbols, "qpsk")))
        self.assertGreater(coherent, 100)
        self.assertLessEqual(errors(got, sent), 2 * coherent)
        self.assertGreater(errors(got, sent), 1.95 * coherent)

    def test_it_receives_what_the_modules_own_source_sends(self):
        bits = WORD + unmix.random_bits(936, seed=4)
        for resolution in ("unique-word", "differential"):
            flow = gr.top_block()
            source = unmix.rrc_qpsk_source(bits, differential=resolution == "differential")
            turn = blocks.multiply_const_cc(0.05 * np.exp(2j))
            receiver = unmix.qpsk_receiver(phase_resolution=resolution, unique_word=WORD)
            meter, sink = unmix.ber_meter(bits, skip=1000), blocks.null_sink(4)
            # Only the bits are connected: the symbols' output may stay open.
            flow.connect(source, blocks.head(gr.sizeof_gr_complex, 16 * 5000), turn, receiver)
            flow.connect((receiver, 1), meter, sink)
            flow.run()
            self.assertTrue(meter.locked())
            self.assertEqual((meter.errors(), meter.relocks()), (0, 0))
            self.assertGreater(meter.compared(), 8400)

    def test_the_bits_may_stay_unconnected(self):
        flow = gr.top_block()
        receiver, sink = unmix.qpsk_receiver(phase_resolution="none"), blocks.vector_sink_c()
        flow.connect(blocks.vector_source_c(wave_of(np.zeros(2000, np.uint8))), receiver, sink)
        flow.run()
        self.assertGreater(len(sink.data()), 900)

    def test_silence_at_first_does_no_harm(self):
        bits = with_words(np.random.default_rng(5), 1500)
        wave = np.concatenate([np.zeros(16 * 500), channel(wave_of(bits), 16)])
        symbols, got = self.receive(wave, unique_word=WORD)
        self.assertTrue(np.all(np.isfinite(symbols)))
        got = got[1000:]
        self.assertLessEqual(settled(got, bits, best_lag(got, bits, 2)), 500)

    def test_bandwidths_can_be_set_while_it_runs(self):
        receiver = unmix.qpsk_receiver(phase_resolution="none")
        receiver.set_timing_bandwidth(0.03)
        receiver.set_carrier_bandwidth(0.05)
        self.assertAlmostEqual(receiver.timing_bandwidth(), 0.03, places=6)
        self.assertAlmostEqual(receiver.carrier_bandwidth(), 0.05, places=6)
        with self.assertRaisesRegex(ValueError, "timing_bandwidth=0 is impossible"):
            receiver.set_timing_bandwidth(0)
        with self.assertRaisesRegex(ValueError, "carrier_bandwidth=1 is impossible"):
            receiver.set_carrier_bandwidth(1)

    def test_impossible_arguments_are_refused_with_a_sentence(self):
        for words, options in (
                ("sps=1 is impossible", {"sps": 1}), ("sps=2.5 is impossible", {"sps": 2.5}),
                ("rolloff=0 is impossible", {"rolloff": 0}), ("rolloff=1.5 is impossible", {"rolloff": 1.5}),
                ("span=1 is impossible", {"span": 1}),
                ("timing_bandwidth=0 is impossible", {"timing_bandwidth": 0}),
                ("carrier_bandwidth=0.3 is impossible", {"carrier_bandwidth": 0.3}),
                ("unknown phase_resolution 'pilot'; known are unique-word", {"phase_resolution": "pilot"}),
                ("at least 16", {}), ("threshold=2 is impossible", {"unique_word": WORD, "threshold": 2})):
            with self.assertRaisesRegex(ValueError, words):
                unmix.qpsk_receiver(**options)


class UniqueWord(gr_unittest.TestCase):
    def resolve(self, symbols, word=WORD, most=100000, tags=(), **options):
        """Output, the tags' (offset, key, value), and the block."""
        flow = gr.top_block()
        source = blocks.vector_source_c(np.asarray(symbols, np.complex64), False, 1, tags)
        block, sink = unmix.unique_word_sync_cc(word, **options), blocks.vector_sink_c()
        flow.connect(source, block, sink)
        flow.run(most)
        found = sorted((tag.offset, pmt.to_python(tag.key), pmt.to_python(tag.value)) for tag in sink.tags())
        return np.array(sink.data(), np.complex64), found, block

    def turned_stream(self):
        """Symbols sent, and the same with a rotation that changes at symbols 400 and 1000 (words at 500 k)."""
        sent = cons.modulate(with_words(np.random.default_rng(0), 2000, 500), "qpsk")
        turns = np.repeat([1, 3, 2], [400, 600, 1000])
        return sent, (sent * 1j**turns).astype(np.complex64)

    def test_each_word_sets_the_rotation_from_its_first_symbol_on(self):
        sent, turned = self.turned_stream()
        out, tags, block = self.resolve(0.01 * turned)
        delay = len(WORD) // 2 - 1
        self.assertEqual(len(out), len(sent))
        np.testing.assert_array_equal(out[:delay], 0)
        expected = np.concatenate([sent[:400], sent[400:500] * (-1), sent[500:]])  # turned by 3, taken back by 1
        np.testing.assert_allclose(out[delay:], 0.01 * expected[:len(sent) - delay], atol=1e-7)
        places = ((0, 1), (500, 3), (1000, 2), (1500, 2))
        self.assertEqual(tags, [(delay + k, "unique_word", turn) for k, turn in places])
        self.assertEqual(block.found, 4)

    def test_symbols_before_the_first_word_pass_as_they_came(self):
        _, turned = self.turned_stream()
        out, tags, _ = self.resolve(turned[100:600])
        np.testing.assert_array_equal(out[31:431], turned[100:500])
        self.assertEqual(tags[0], (431, "unique_word", 3))

    def test_words_that_straddle_calls_are_found_all_the_same(self):
        _, turned = self.turned_stream()
        out, tags, _ = self.resolve(turned)
        for most in (1, 7, 31, 32, 33, 100):
            again, same_tags, block = self.resolve(turned, most=most)
            np.testing.assert_array_equal(again, out)
            self.assertEqual(same_tags, tags)
            self.assertEqual(block.found, 4)

    def test_tags_stay_with_their_symbols(self):
        _, turned = self.turned_stream()
        marks = [gr.tag_utils.python_to_tag((place, pmt.intern("mark"), pmt.from_long(place), pmt.PMT_F))
                 for place in (0, 17, 500, 1900)]
        for most in (100000, 11):
            out, tags, _ = self.resolve(turned, most=most, tags=marks)
            self.assertEqual([(offset, value) for offset, key, value in tags if key == "mark"],
                             [(place + 31, place) for place in (0, 17, 500, 1900)])

    def test_words_in_noise_are_found_and_random_symbols_and_noise_are_not_taken_for_words(self):
        rng = np.random.default_rng(1)
        sent = cons.modulate(with_words(rng, 100000, 500), "qpsk")
        noisy = sent + signals.noise(rng, sent.shape, 0.5 / 10**0.4)  # Eb / N0 = 4 dB
        _, tags, block = self.resolve(noisy)
        self.assertEqual([tag[0] for tag in tags], list(range(31, 100000, 500)))
        random = cons.modulate(rng.integers(0, 2, 400000), "qpsk")
        for stream in (random, random + signals.noise(rng, random.shape, 0.1), signals.noise(rng, (200000,), 1e-6),
                       np.zeros(10000)):
            self.assertEqual(self.resolve(stream)[2].found, 0)
        # 16 random symbols in line with 16 known ones up to 3 of 16: once in 2e6.
        self.assertLessEqual(self.resolve(random, word=WORD[:32])[2].found, 2)

    def test_impossible_arguments_are_refused_with_a_sentence(self):
        for words, word, options in (
                ("at least 16", WORD[:14], {}), ("at least 16", WORD[:33], {}), ("one sequence", [WORD, WORD], {}),
                ("2 in the unique word is no bit", [2] + WORD[1:], {}), ("resembles itself shifted by 1", [0] * 64, {}),
                ("threshold=0.4 is impossible", WORD, {"threshold": 0.4}),
                ("threshold=1 is impossible", WORD, {"threshold": 1})):
            with self.assertRaisesRegex(ValueError, words):
                unmix.unique_word_sync_cc(word, **options)


class BerMeter(gr_unittest.TestCase):
    known = np.array(unmix.random_bits(3000, seed=1), np.uint8)

    def measure(self, bits, most=100000, known=None, debug=None, **options):
        """The float stream and the meter."""
        flow = gr.top_block()
        meter = unmix.ber_meter((self.known if known is None else known).tolist(), **options)
        sink = blocks.vector_sink_f()
        flow.connect(blocks.vector_source_b(bits.tolist()), meter, sink)
        if debug is not None:
            flow.msg_connect(meter, "ber", debug, "store")
        flow.run(most)
        return np.array(sink.data()), meter

    def state(self, meter):
        return meter.errors(), meter.compared(), meter.relocks(), meter.locked()

    def test_known_errors_are_counted_exactly_at_any_alignment(self):
        rng = np.random.default_rng(0)
        for offset in (0, 1, 2999, 1234):
            bits = np.resize(np.roll(self.known, -offset), 20000)
            places = 512 + rng.choice(19488, 300, replace=False)
            bits[places] ^= 1
            for most in (100000, 1, 77):
                if most == 1 and offset != 1234:
                    continue
                out, meter = self.measure(bits, most, window=1000)
                self.assertEqual(self.state(meter), (300, 20000 - 512, 0, True))
                self.assertEqual(meter.total_ber(), 300 / 19488)
                wrong = np.zeros(20000)
                wrong[places] = 1
                total = np.cumsum(wrong)
                at = np.arange(512, 20000)
                expected = (total[at] - np.where(at >= 1000 + 512, total[at - 1000], 0)) / np.minimum(at - 511, 1000)
                np.testing.assert_allclose(out[512:], expected, rtol=1e-6)
                np.testing.assert_array_equal(out[:512], 0.5)
                self.assertAlmostEqual(meter.ber(), out[-1], places=6)

    def test_errors_up_to_fifteen_percent_do_not_keep_it_from_locking(self):
        rng = np.random.default_rng(1)
        bits = np.resize(self.known, 60000)
        wrong = rng.random(60000) < 0.15
        _, meter = self.measure(bits ^ wrong)
        self.assertEqual(self.state(meter), (np.count_nonzero(wrong[512:]), 60000 - 512, 0, True))

    def test_short_and_long_known_sequences_work(self):
        for length in (1, 5, 127, 511, 513, 100003):
            known = np.array(unmix.random_bits(length, seed=length), np.uint8)
            bits = np.roll(np.resize(known, 4 * length), -length // 3) if length < 512 else np.roll(known, -length // 3)
            bits = np.resize(bits, max(2000, length))
            if length == 513:
                bits = np.resize(np.roll(known, -7), 2000)
            _, meter = self.measure(bits, known=known)
            self.assertEqual((meter.errors(), meter.locked()), (0, True), length)

    def test_a_slipped_symbol_is_noticed_and_the_alignment_found_again(self):
        bits = np.resize(self.known, 30000)
        inserted = np.insert(bits, 8001, [0, 1])
        deleted = np.delete(bits, [8001, 8002])
        for stream in (inserted, deleted, np.delete(inserted, [20000, 20001])):
            slips = 2 if len(stream) == 30000 else 1
            out, meter = self.measure(stream, window=500)
            self.assertEqual((meter.locked(), meter.relocks()), (True, slips))
            # 77 errors of 256 are too many: found after some 154 bits of guesses; then 512 to find the place again.
            self.assertLessEqual(meter.errors(), 77 * slips)
            self.assertGreater(meter.errors(), 60 * slips)
            self.assertLess(len(stream) - meter.compared(), 512 * (1 + slips) + 1)
            self.assertEqual(out[-1], 0)
            unlocked = np.flatnonzero(out[512:20000] == 0.5) + 512
            self.assertEqual(len(unlocked), 512)
            self.assertTrue(8001 + 100 < unlocked[0] < 8001 + 256)

    def test_garbage_never_locks(self):
        bits = np.random.default_rng(2).integers(0, 2, 300000, dtype=np.uint8)
        out, meter = self.measure(bits)
        self.assertEqual(self.state(meter), (0, 0, 0, False))
        self.assertEqual((meter.ber(), meter.total_ber()), (0.5, 0.5))
        np.testing.assert_array_equal(out, 0.5)

    def test_skipped_bits_are_not_looked_at(self):
        bits = np.resize(self.known, 10000)
        bits[:900] = np.random.default_rng(3).integers(0, 2, 900)
        _, meter = self.measure(bits, 7, skip=900)
        self.assertEqual(self.state(meter), (0, 10000 - 900 - 512, 0, True))
        _, meter = self.measure(bits)  # the transient costs two stretches, and no false lock
        self.assertEqual(self.state(meter), (0, 10000 - 3 * 512, 0, True))

    def test_reset_starts_the_counts_again_and_keeps_the_alignment(self):
        meter = unmix.ber_meter(self.known.tolist(), window=100)
        out = np.zeros(3000, np.float32)
        bits = self.known.copy()
        bits[1000:1050] ^= 1
        meter.work([bits], [out])
        self.assertEqual(self.state(meter), (50, 3000 - 512, 0, True))
        meter.reset()
        self.assertEqual(self.state(meter), (0, 0, 0, True))
        self.assertEqual((meter.ber(), meter.total_ber()), (0.5, 0.5))
        bits = self.known.copy()
        bits[:3] ^= 1
        meter.work([bits], [out])
        self.assertEqual(self.state(meter), (3, 3000, 0, True))
        np.testing.assert_allclose(out[[0, 2, 5, 99, 100, 102]], [1, 1, 0.5, 0.03, 0.02, 0], rtol=1e-6)

    def test_a_displays_thread_may_ask_and_reset_while_it_runs(self):
        flow = gr.top_block()
        meter = unmix.ber_meter(self.known.tolist())
        flow.connect(blocks.vector_source_b(self.known.tolist(), True), meter, blocks.null_sink(gr.sizeof_float))
        flow.start()
        deadline = time.monotonic() + 5
        while meter.compared() < 100000 and time.monotonic() < deadline:
            self.assertIn(meter.ber(), (0.0, 0.5))
        meter.reset()
        while meter.compared() < 1000 and time.monotonic() < deadline:
            self.assertIn(meter.total_ber(), (0.0, 0.5))
        flow.stop()
        flow.wait()
        self.assertEqual((meter.errors(), meter.relocks(), meter.locked()), (0, 0, True))
        self.assertGreaterEqual(meter.compared(), 1000)

    def test_messages_tell_each_windows_rate(self):
        bits = np.resize(self.known, 512 + 3500)
        bits[512 + 1000:512 + 1010] ^= 1
        debug = blocks.message_debug()
        self.measure(bits, window=1000, debug=debug)
        self.assertEqual(debug.num_messages(), 3)
        reports = [pmt.to_python(debug.get_message(k)) for k in range(3)]
        self.assertEqual([(r["ber"], r["errors"], r["compared"], r["relocks"]) for r in reports],
                         [(0.0, 0, 1000, 0), (0.01, 10, 2000, 0), (0.0, 10, 3000, 0)])

    def test_impossible_arguments_are_refused_with_a_sentence(self):
        for words, bits, options in (
                ("not empty", [], {}), ("one sequence", [[0, 1]], {}), ("2 is no bit", [0, 1, 2], {}),
                ("window=0 is impossible", [0, 1], {"window": 0}), ("window=1.5", [0, 1], {"window": 1.5}),
                ("skip=-1 is impossible", [0, 1], {"skip": -1})):
            with self.assertRaisesRegex(ValueError, words):
                unmix.ber_meter(bits, **options)


if __name__ == "__main__":
    gr_unittest.run(Receiver)  # and all other classes of this file
