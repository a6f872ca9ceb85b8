#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""The block separator_cc in flowgraphs: alignment, tags, ends of streams, changes while running, broken input, stop."""

import base64
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

try:
    from gnuradio import blocks, gr, gr_unittest
except ImportError:
    print("skipped: no GNU Radio")
    sys.exit(77)

import numpy as np
import pmt
import torch
from gnuradio import unmix
from gnuradio.unmix import priors, signals
from gnuradio.unmix.demodulation import matched_filter
from gnuradio.unmix.priors import constellation as cons

SOI = "rrc:qpsk,sps=16,rolloff=0.5,span=8"
OFDM = "cp-ofdm:qpsk,fft=64,cp=16,active=56"
MODULATION = priors.parse(SOI).modulation
APPS = Path(__file__).resolve().parent.parent / "apps"


def mixture(symbols: int, sir_db: float = -12.0, seed: int = 0, interferers: int = 1):
    """Mixture, SOI, interference (complex64 [16 * symbols]) and the SOI's bits."""
    rng = np.random.default_rng(seed)
    soi, bits = signals.linear_modulation(rng, 1, symbols)
    other, _ = signals.cp_ofdm(rng, 1, 16 * symbols)
    other = np.float32(signals.kappa(sir_db)) * other[0]
    return soi[0] + other, soi[0], other, bits[0]


def errors(soi: np.ndarray, bits: np.ndarray, amplitude: float = 1.0) -> int:
    symbols = matched_filter(soi / amplitude, MODULATION)
    return int(np.count_nonzero(cons.demodulate(symbols, "qpsk") != bits[:2 * len(symbols)]))


class Trickle(gr.sync_block):
    """Passes complex samples on in pieces of random sizes, as a radio might."""

    def __init__(self, seed: int):
        gr.sync_block.__init__(self, "trickle", [np.complex64], [np.complex64])
        self.rng = np.random.default_rng(seed)

    def work(self, input_items, output_items):
        count = min(len(output_items[0]), int(self.rng.integers(1, 3000)))
        output_items[0][:count] = input_items[0][:count]
        return count


class Flow:
    """A flowgraph: samples -> separator -> sinks, and its reports."""

    def __init__(self, samples, separator, tags=(), seed=None, throttle=None):
        self.tb = gr.top_block()
        self.separator = separator
        self.source = blocks.vector_source_c(np.asarray(samples).tolist(), False, 1, list(tags))
        chain = [self.source]
        if seed is not None:
            chain.append(Trickle(seed))
        if throttle is not None:
            chain.append(blocks.throttle(gr.sizeof_gr_complex, throttle))
        self.keep = chain
        self.tb.connect(*chain, separator)
        self.sinks = [blocks.vector_sink_c() for _ in range(separator.output_signature().min_streams())]
        self.messages = blocks.message_debug()
        for i, sink in enumerate(self.sinks):
            self.tb.connect((separator, i), sink)
        self.tb.msg_connect(separator, "report", self.messages, "store")

    def run(self):
        self.tb.run()
        return [np.array(sink.data(), dtype=np.complex64) for sink in self.sinks]

    def reports(self):
        return [pmt.to_python(self.messages.get_message(i)) for i in range(self.messages.num_messages())]


def wait_until(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def save(module: torch.nn.Module, path: Path) -> str:
    """A small prior file."""
    info = {"format": 1, "name": path.stem, "kind": "test", "window": 0, "predicts": "signal", "side": [],
            "psd": [1.0, 1.0, 1.0, 1.0]}
    torch.jit.save(torch.jit.script(module.eval()), str(path), _extra_files={"prior.json": json.dumps(info)})
    return str(path)


class Shrink(torch.nn.Module):
    """White Gaussian."""

    def forward(self, x: torch.Tensor, alpha_bar: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
        return x * alpha_bar.sqrt()[:, None, None]


class Fails(torch.nn.Module):
    """Raises when it is called."""

    def forward(self, x: torch.Tensor, alpha_bar: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
        assert x.size(0) < 0, "this prior always fails"
        return x


class Streams(gr_unittest.TestCase):
    def test_every_sample_comes_out_at_its_own_place_and_the_bits_are_right(self):
        y, soi, other, bits = mixture(2000)
        flow = Flow(y, unmix.separator_cc(SOI, OFDM))
        found = flow.run()
        self.assertEqual([len(f) for f in found], [len(y), len(y)])
        inside = slice(160, len(y) - 160)  # a closed-form prior takes the stream for part of a longer one
        self.assertLess(errors(found[0], bits), 4)
        self.assertLess(np.mean(np.abs(found[0] - soi)[inside] ** 2), 5e-3)
        self.assertLess(np.mean(np.abs(found[1] - other)[inside] ** 2), 5e-3 * 16)
        self.assertGreater(np.mean(np.abs(np.roll(found[0], 1) - soi)[inside] ** 2), 1e-2)  # one sample off is worse

    def test_the_last_partial_window_comes_out_whole_whatever_the_length(self):
        y, *_ = mixture(700)
        for length in (1, 2, 255, 256, 1000, 2559, 2560, 2561, 4863, 4864, 4865, 4870, 10000):
            flow = Flow(y[:length], unmix.separator_cc(SOI, OFDM, batch=2))
            found = flow.run()
            self.assertEqual([len(f) for f in found], [length, length])
            reports = flow.reports()
            self.assertEqual(sum(r["samples"] for r in reports), length)
            ends = np.cumsum([0] + [r["samples"] for r in reports])
            self.assertEqual([r["start"] for r in reports], ends[:-1].tolist())

    def test_an_empty_stream_ends(self):
        flow = Flow([], unmix.separator_cc(SOI, OFDM))
        self.assertEqual([len(f) for f in flow.run()], [0, 0])

    def test_the_result_does_not_depend_on_how_the_stream_is_cut(self):
        y, *_ = mixture(1500)
        first = Flow(y, unmix.separator_cc(SOI, OFDM, batch=3)).run()
        for seed in (1, 2):
            again = Flow(y, unmix.separator_cc(SOI, OFDM, batch=3), seed=seed).run()
            np.testing.assert_array_equal(again, first)

    def test_tags_keep_their_exact_offsets_on_every_output(self):
        y, *_ = mixture(1000)
        offsets = [0, 1, 2559, 2560, 2561, 7000, 15998, 15999]
        tags = [gr.python_to_tag((o, pmt.intern("mark"), pmt.from_long(i), pmt.intern("test")))
                for i, o in enumerate(offsets)]
        flow = Flow(y, unmix.separator_cc(SOI, OFDM, batch=2), tags, seed=3)
        flow.run()
        for sink in flow.sinks:
            seen = sorted((t.offset, pmt.to_long(t.value)) for t in sink.tags() if str(t.key) == "mark")
            self.assertEqual(seen, [(o, i) for i, o in enumerate(offsets)])

    def test_equal_to_the_command_line_sample_for_sample(self):
        y, _, _, _ = mixture(2345)
        y = (0.01 * y).astype(np.complex64)
        with tempfile.TemporaryDirectory() as folder:
            capture = Path(folder) / "two.cf32"
            y.tofile(capture)
            subprocess.run([sys.executable, str(APPS / "separate_file.py"), str(capture), "--soi", SOI,
                            "--interference", OFDM, "--batch", "8", "--seed", "5", "--quiet", "--output", folder],
                           check=True)
            report = json.loads((Path(folder) / "two_report.json").read_text())["levels"]
            expected = [np.fromfile(Path(folder) / f"two_{name}.sigmf-data", np.complex64)
                        for name in ("soi", "interference")]
        levels = [report["soi_amplitude"], *report["interference_amplitudes"], report["noise_power"]]
        found = Flow(y, unmix.separator_cc(SOI, OFDM, batch=8, seed=5, levels=levels), seed=4).run()
        np.testing.assert_array_equal(found, expected)
        # Other batches mean other matrix products: equal to rounding, or to a step more or less of a converged window.
        found = Flow(y, unmix.separator_cc(SOI, OFDM, batch=3, seed=5, levels=levels), seed=4).run()
        np.testing.assert_allclose(found, expected, atol=0.01 * levels[0])

    def test_seed_and_window_are_used(self):
        y, *_ = mixture(400)
        options = {"method": "alpha-rgs", "steps": 30, "batch": 4, "levels": [1, 3.98, 0]}
        first, again, other = (Flow(y, unmix.separator_cc(SOI, OFDM, seed=seed, **options)).run() for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        self.assertGreater(np.abs(np.array(first) - other).max(), 1e-3)
        flow = Flow(y, unmix.separator_cc(SOI, OFDM, window=640, overlap=160))
        flow.run()
        self.assertEqual({r["samples"] for r in flow.reports()[1:-1]}, {480})

    def test_every_interference_has_its_own_output(self):
        rng = np.random.default_rng(3)
        y, soi, other, _ = mixture(1000, -12.0)
        tone = (2 * np.exp(0.8j * np.arange(len(y)))).astype(np.complex64)
        with tempfile.TemporaryDirectory() as folder:
            (tone + signals.noise(rng, tone.shape, 1e-4)).astype(np.complex64).tofile(Path(folder) / "tone.cf32")
            separator = unmix.separator_cc(SOI, [OFDM, f"gaussian:{folder}/tone.cf32"])
        self.assertEqual(separator.output_signature().min_streams(), 3)
        found = Flow(y + tone, separator).run()
        self.assertEqual([len(f) for f in found], [len(y)] * 3)
        alike = [[abs(np.vdot(f, truth)) / np.linalg.norm(f) / np.linalg.norm(truth) for truth in (soi, other, tone)]
                 for f in found]
        self.assertEqual(np.argmax(alike, 1).tolist(), [0, 1, 2])
        self.assertGreater(min(alike[1][1], alike[2][2]), 0.9)

    def test_reports_name_what_a_user_needs(self):
        y, *_ = mixture(1000, -12.0)
        flow = Flow(y, unmix.separator_cc(SOI, OFDM))
        flow.run()
        reports = flow.reports()
        self.assertEqual([r["window"] for r in reports], list(range(len(reports))))
        for r in reports:
            self.assertAlmostEqual(r["sir_db"], -12.0, delta=1.5)
            self.assertGreater(r["agreement"], 0.97)
            self.assertTrue(r["separated"])
            self.assertEqual((r["method"], r["outcome"], r["unseparated"]), ("pnp-dr", "agreed", 0))
            self.assertTrue(1 <= r["steps"] <= 100 and 0 < r["seconds"] < 10 and 0 <= r["disagreement"] < 0.1)

    def test_the_latency_is_what_is_documented(self):
        y, *_ = mixture(1000)
        separator = unmix.separator_cc(SOI, OFDM, batch=3)
        self.assertEqual(separator.latency, 2560 + 2 * 2304 + 1)
        for length, expected in ((separator.latency - 1, 0), (separator.latency + 1, 1)):
            separator = unmix.separator_cc(SOI, OFDM, batch=3)
            tb, sink = gr.top_block(), blocks.vector_sink_c()
            source = Held(y[:length])
            tb.connect(source, separator, sink)
            tb.connect((separator, 1), blocks.null_sink(gr.sizeof_gr_complex))
            tb.start()
            came = wait_until(lambda sink=sink: len(sink.data()) > 0, 3 if expected else 0.5)
            tb.stop()
            tb.wait()
            self.assertEqual(came, bool(expected))


class Held(gr.sync_block):
    """Gives its samples, more when it is released, and then nothing, without ending."""

    def __init__(self, samples, more=()):
        gr.sync_block.__init__(self, "held", None, [np.complex64])
        self.rest, self.more = np.asarray(samples), np.asarray(more)
        self.released = threading.Event()

    def work(self, input_items, output_items):
        if self.released.is_set() and not len(self.rest):
            self.rest, self.more = self.more, self.more[:0]
        count = min(len(self.rest), len(output_items[0]))
        output_items[0][:count] = self.rest[:count]
        self.rest = self.rest[count:]
        if not count:
            time.sleep(0.01)
        return count


class Enough(gr.sync_block):
    """Has enough some time after the first items."""

    def __init__(self, seconds):
        gr.sync_block.__init__(self, "enough", [np.complex64], None)
        self.seconds = seconds

    def work(self, input_items, output_items):
        time.sleep(self.seconds)
        return -1


class Changes(gr_unittest.TestCase):
    def test_method_steps_and_sir_change_while_running(self):
        y, *_ = mixture(40000)
        separator = unmix.separator_cc(SOI, OFDM, batch=2, steps=7)
        flow = Flow(y, separator, throttle=1.5e6)
        flow.tb.start()

        def last():
            count = flow.messages.num_messages()
            return pmt.to_python(flow.messages.get_message(count - 1)) if count else {}
        self.assertTrue(wait_until(lambda: last().get("method") == "pnp-dr", 10))
        separator.set_method("matched-filter")  # which takes no steps: they are kept
        self.assertTrue(wait_until(lambda: last().get("method") == "matched-filter", 10))
        separator.set_sir_db(-3.0)
        self.assertTrue(wait_until(lambda: abs(last()["sir_db"] + 3.0) < 1e-3, 10))  # this method takes it as it is
        separator.set_averaging(10)
        separator.set_sir_db(None)
        self.assertTrue(wait_until(lambda: abs(last()["sir_db"] + 12.0) < 1.0, 10))
        separator.set_method("pnp-dr")
        separator.set_steps(1)
        self.assertTrue(wait_until(lambda: last().get("steps") == 1, 10))
        flow.tb.stop()
        flow.tb.wait()
        self.assertIsNone(separator.error)

    def test_changes_from_many_threads_leave_the_stream_whole(self):
        y, _, _, bits = mixture(20000)
        separator = unmix.separator_cc(SOI, OFDM, batch=2)
        flow = Flow(y, separator)
        done = threading.Event()

        def change(i):
            rng = np.random.default_rng(i)
            while not done.is_set():
                separator.set_sir_db([None, -12.0, -11.5][rng.integers(3)])
                separator.set_steps([None, 30, 60][rng.integers(3)])
                time.sleep(1e-3)
        threads = [threading.Thread(target=change, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        found = flow.run()
        done.set()
        for thread in threads:
            thread.join()
        self.assertIsNone(separator.error)
        self.assertEqual(len(found[0]), len(y))
        self.assertLess(errors(found[0], bits), 40)  # of 40,000

    def test_control_messages_change_and_malformed_ones_are_dropped_whole(self):
        separator = unmix.separator_cc(SOI, OFDM)
        def post(value):
            separator._control(value)
            return dict(separator._wanted)
        start = dict(separator._wanted)
        pair = pmt.cons(pmt.intern("sir_db"), pmt.from_double(-7.5))
        self.assertEqual(post(pair)["sir_db"], -7.5)
        self.assertIsNone(post(pmt.cons(pmt.intern("sir_db"), pmt.intern("auto")))["sir_db"])
        self.assertEqual(post(pmt.to_pmt({"method": "alpha-rgs", "steps": 50, "averaging": 9})),
                         start | {"method": "alpha-rgs", "steps": 50, "averaging": 9})
        kept = dict(separator._wanted)
        for bad in (pmt.PMT_NIL, pmt.intern("hello"), pmt.from_double(3), pmt.make_dict(),
                    pmt.to_pmt({"colour": 3}), pmt.to_pmt({"sir_db": "loud"}), pmt.to_pmt({"sir_db": 1e9}),
                    pmt.to_pmt({"sir_db": float("nan")}), pmt.to_pmt({"method": "magic"}),
                    pmt.to_pmt({"method": 3}), pmt.to_pmt({"steps": 0}), pmt.to_pmt({"steps": 2.5}),
                    pmt.to_pmt({"steps": True}), pmt.to_pmt({"averaging": -1.0}), pmt.to_pmt({"averaging": "auto"}),
                    pmt.to_pmt({"sir_db": -3.0, "method": "magic"}), pmt.to_pmt({"steps": float("inf")}),
                    pmt.make_u8vector(5, 0), pmt.cons(pmt.from_long(1), pmt.from_long(2)), pmt.to_pmt([1, 2, 3])):
            self.assertEqual(post(bad), kept, str(bad))

    def test_control_messages_arrive_through_the_port_and_bad_ones_do_no_harm(self):
        y, *_ = mixture(20000)
        separator = unmix.separator_cc(SOI, OFDM, batch=2)
        flow = Flow(y, separator, throttle=1e6)
        improper = pmt.deserialize_str(base64.b64decode("CQcCAAVkYgTACAAAAAAAAAY="))  # and its symbol is no UTF-8
        flow.tb.start()
        port = separator.to_basic_block()
        for message in (improper, pmt.PMT_T, pmt.to_pmt({"steps": 0}), pmt.to_pmt({"method": "matched-filter"})):
            port._post(pmt.intern("control"), message)
        self.assertTrue(wait_until(lambda: "matched-filter" in {r["method"] for r in flow.reports()}, 10))
        flow.tb.stop()
        flow.tb.wait()
        self.assertIsNone(separator.error)

    def test_fixed_levels_and_automatic_steps_in_messages(self):
        separator = unmix.separator_cc(SOI, OFDM, levels=[1, 2, 0], steps=5)
        separator._control(pmt.to_pmt({"sir_db": -3.0, "steps": 9}))
        self.assertEqual(separator._wanted["steps"], 5)
        separator._control(pmt.to_pmt({"steps": "auto"}))
        self.assertIsNone(separator._wanted["steps"])

    def test_a_flowgraph_that_is_reconnected_begins_afresh_and_stays_aligned(self):
        # lock() and unlock() reset GNU Radio's counters; what was held back is dropped, so that n still belongs to n.
        y, *_ = mixture(60000)
        separator = unmix.separator_cc(SOI, OFDM, batch=2, method="matched-filter")
        flow = Flow(y, separator, throttle=1e6)
        flow.tb.start()
        more = blocks.vector_sink_c()
        mixtures = blocks.vector_sink_c()
        self.assertTrue(wait_until(lambda: len(flow.sinks[0].data()) > 0, 5))
        flow.tb.lock()
        flow.tb.connect((separator, 0), more)
        flow.tb.connect(flow.keep[-1], mixtures)
        flow.tb.unlock()
        flow.tb.wait()
        self.assertIsNone(separator.error)
        # The sinks that came with the reconnection saw the same stretch: SOI + interference is the mixture.
        rest = np.array(flow.sinks[1].data())[-len(more.data()):]
        whole = np.array(more.data()) + rest
        given = np.array(mixtures.data())
        self.assertGreater(len(whole), 200000)
        np.testing.assert_allclose(whole, given[-len(whole):], atol=1e-3)
        starts = [r["start"] for r in flow.reports()]
        self.assertEqual(starts.count(0), 2)


class Refusals(gr_unittest.TestCase):
    def test_every_bad_argument_is_refused_with_one_sentence(self):
        for words, options in (
                ("rrc", {"soi": "rrc:qqpsk"}), ("nonsense", {"soi": "nonsense"}),
                ("cp=99", {"interference": "cp-ofdm:qpsk,fft=64,cp=99"}), ("0 interferences", {"interference": []}),
                ("9 interferences", {"interference": [OFDM] * 9}), ("sir_db 200", {"sir_db": 200.0}),
                ("sir_db nan", {"sir_db": float("nan")}), ("unknown method 'magic'", {"method": "magic"}),
                ("steps 0", {"steps": 0}), ("takes no steps", {"method": "matched-filter", "steps": 3}),
                ("window 0", {"window": 0}), ("overlap of 2560", {"overlap": 2560}),
                ("multiple of the SOI's 16", {"overlap": 250}), ("batch 0", {"batch": 0}),
                ("unknown device 'tpu'", {"device": "tpu"}), ("seed -1", {"seed": -1}),
                ("2 amplitudes", {"levels": [1.0]}), ("2 amplitudes", {"levels": [1.0, -1.0, 0.0]}),
                ("2 amplitudes", {"levels": [1.0, float("nan"), 0.0]}),
                ("levels fix", {"levels": [1, 1, 0], "sir_db": 3}),
                ("averaging 0", {"averaging": 0}), ("steps 2.5", {"steps": 2.5}), ("window 2560.0", {"window": 2560.0}),
                ("overlap 256.0", {"overlap": 256.0}), ("batch True", {"batch": True}), ("seed 1.5", {"seed": 1.5}),
                ("sir_db auto", {"sir_db": "auto"}), ("None is no prior", {"soi": None}),
                ("3 is no prior", {"interference": [3]}), ("2 amplitudes", {"levels": "auto"}),
                ("averaging often", {"averaging": "often"}), ("method 3", {"method": 3})):
            with self.assertRaisesRegex(ValueError, words) as caught:
                unmix.separator_cc(**options)
            self.assertNotIn("\n", str(caught.exception))

    def test_set_functions_refuse_without_changing_anything(self):
        separator = unmix.separator_cc(SOI, OFDM, sir_db=-5.0)
        for call, value in ((separator.set_sir_db, 1e6), (separator.set_steps, 2.5), (separator.set_steps, 0),
                            (separator.set_method, "magic"),
                            (separator.set_averaging, 0)):
            before = dict(separator._wanted)
            with self.assertRaises(ValueError):
                call(value)
            self.assertEqual(before, separator._wanted)
        fixed = unmix.separator_cc(SOI, OFDM, levels=[1, 2, 0])
        with self.assertRaisesRegex(ValueError, "levels are fixed"):
            fixed.set_sir_db(-3)

    def test_a_prior_file_that_disappears_is_named_before_and_no_matter_after(self):
        with tempfile.TemporaryDirectory() as folder:
            path = save(Shrink(), Path(folder) / "white.pt")
            separator = unmix.separator_cc(SOI, path)
            os.remove(path)
            with self.assertRaisesRegex(ValueError, "white.pt.*does not exist"):
                unmix.separator_cc(SOI, path)
        y, *_ = mixture(400)
        self.assertEqual([len(f) for f in Flow(y, separator).run()], [len(y)] * 2)

    def test_a_prior_that_fails_ends_the_flowgraph_and_the_reason_is_kept(self):
        with tempfile.TemporaryDirectory() as folder:
            separator = unmix.separator_cc(SOI, save(Fails(), Path(folder) / "fails.pt"))
        y, *_ = mixture(400)
        began = time.monotonic()
        Flow(y, separator).run()
        self.assertLess(time.monotonic() - began, 30)
        self.assertRegex(str(separator.error), "always fails")


class BrokenInput(gr_unittest.TestCase):
    def test_a_burst_of_nan_passes_through_is_counted_and_the_stream_goes_on(self):
        y, soi, _, bits = mixture(4000)
        broken = y.copy()
        broken[20000:20050] = np.nan
        broken[45000] = np.inf
        broken[50000] = 1e30
        separator = unmix.separator_cc(SOI, OFDM, sir_db=-12.0, batch=4)
        flow = Flow(broken, separator)
        found = flow.run()
        reports = flow.reports()
        passed = [r for r in reports if not r["separated"]]
        self.assertEqual({r["outcome"] for r in passed}, {"broken_samples"})
        self.assertEqual(len(passed), separator.unseparated)
        self.assertEqual(reports[-1]["unseparated"], len(passed))
        touched = np.zeros(len(y), bool)
        for r in passed:
            span = slice(r["start"], r["start"] + r["samples"])
            touched[span] = True
            np.testing.assert_array_equal(found[0][span], broken[span])
            np.testing.assert_array_equal(found[1][span], 0)
        self.assertTrue(touched[[20000, 20049, 45000, 50000]].all())
        self.assertLess(touched.sum(), 5 * 2560)
        self.assertTrue(np.isfinite(found[0][~touched]).all())
        clean = np.flatnonzero(~touched.reshape(-1, 16).any(1))
        wrong = (cons.demodulate(matched_filter(np.nan_to_num(found[0], nan=0, posinf=0), MODULATION), "qpsk") != bits)
        self.assertLess(wrong.reshape(-1, 2)[clean].sum(), 5)

    def test_silence_passes_through_and_separation_begins_with_the_signals(self):
        y, _, _, bits = mixture(8000)
        silence = np.zeros(2304 * 100, np.complex64)
        flow = Flow(np.concatenate([silence, y]), unmix.separator_cc(SOI, OFDM))
        found = flow.run()
        outcomes = [r["outcome"] for r in flow.reports()]
        self.assertEqual(outcomes[0], "no_levels")
        np.testing.assert_array_equal(found[0][:2304 * 90], 0)
        late = slice(16 * 2 * 2304, None)  # two batches later: bits are right
        wrong = cons.demodulate(matched_filter(found[0][len(silence):][late], MODULATION), "qpsk")
        self.assertLess(np.count_nonzero(wrong != bits[2 * 2 * 2304:]), 10)

    def test_levels_that_jump_are_followed_within_two_batches_and_clicks_are_ignored(self):
        y, _, _, bits = mixture(16000)
        jump, settled = len(y) // 2, len(y) // 2 + 2 * 16 * 2304
        for factor in (10.0, 0.1):
            scaled = y.copy()
            scaled[jump:] *= np.float32(factor)
            found = Flow(scaled, unmix.separator_cc(SOI, OFDM)).run()[0]
            symbols = matched_filter(found[settled:], MODULATION)
            self.assertLess(np.count_nonzero(cons.demodulate(symbols, "qpsk") != bits[settled // 8:]), 10, factor)
        for click in (1e2, 1e4, 1e12):
            clicked = y.copy()
            clicked[jump] = click
            flow = Flow(clicked, unmix.separator_cc(SOI, OFDM))
            wrong = cons.demodulate(matched_filter(flow.run()[0], MODULATION), "qpsk") != bits
            near = np.abs(np.arange(len(wrong)) * 8 - jump) < 2560
            self.assertLess(np.count_nonzero(wrong[~near]), 10, click)
            self.assertAlmostEqual(flow.reports()[-1]["sir_db"], -12.0, delta=1.0)

    def test_a_receiver_behind_it_goes_on_after_broken_samples(self):
        known = unmix.random_bits(2 * 2048)
        for value in (np.nan, np.inf, 1e30):
            tb, mixer = gr.top_block(), unmix.sir_mixer(-12.0, 30.0)
            head = blocks.head(gr.sizeof_gr_complex, 150000)
            pulse = np.zeros(150000, np.complex64)
            pulse[60000] = value
            add = blocks.add_cc()
            separator = unmix.separator_cc(SOI, OFDM, batch=4)
            receiver, meter = unmix.qpsk_receiver(unique_word=known[:64]), unmix.ber_meter(known, window=2000)
            tb.connect(unmix.rrc_qpsk_source(known), (mixer, 0))
            tb.connect(unmix.cp_ofdm_source(seed=2), (mixer, 1))
            tb.connect(mixer, head, (add, 0))
            tb.connect(blocks.vector_source_c(pulse.tolist()), (add, 1))
            tb.connect(add, separator, receiver)
            tb.connect((separator, 1), blocks.null_sink(gr.sizeof_gr_complex))
            tb.connect((receiver, 0), blocks.null_sink(gr.sizeof_gr_complex))
            tb.connect((receiver, 1), meter, blocks.null_sink(gr.sizeof_float))
            tb.run()
            self.assertGreaterEqual(separator.unseparated, 1)
            self.assertTrue(meter.locked())
            self.assertEqual(meter.ber(), 0.0)  # of the last 2000 bits


class Bursts(gr_unittest.TestCase):
    """An SOI that is on for a third of the time under continuous interference."""

    def run_block(self, on, sir_db=-9.0, **options):
        """The reports, and errors (uint8 per symbol) of a separation; on: bool [n], n a multiple of 16."""
        y, soi, other, bits = mixture(len(on) // 16, sir_db)
        noise = signals.noise(np.random.default_rng(7), (1, len(on)), 0.01)[0]
        flow = Flow((soi * on + other + noise).astype(np.complex64), unmix.separator_cc(SOI, OFDM, **options))
        found = flow.run()
        self.assertEqual(len(found[0]), len(y))
        wrong = cons.demodulate(matched_filter(found[0], MODULATION), "qpsk") != bits
        return flow.reports(), wrong.reshape(-1, 2).sum(1)

    def check(self, reports, wrong, on, settled):
        """Errors in bursts and stretches without an SOI, after `settled` samples."""
        burst = on[8::16].copy()
        burst[:settled // 16] = False
        inner = burst.copy()
        for edge in range(1, 5):  # pulses are cut at a burst's ends
            inner &= np.roll(burst, edge) & np.roll(burst, -edge)
        self.assertGreater(2 * inner.sum(), 8000)
        self.assertLess(wrong[inner].sum() / (2 * inner.sum()), 5e-4)
        self.assertLess(wrong[burst].sum() / (2 * burst.sum()), 1e-3)
        late = [r for r in reports if r["start"] >= settled]
        empty = [not on[r["start"]:r["start"] + r["samples"]].any() for r in late]
        self.assertGreater(sum(empty), 20)
        for report, nothing in zip(late, empty, strict=True):
            self.assertTrue(report["separated"])
            if nothing:
                self.assertEqual((report["outcome"], report["absent"]), ("no_soi", report["samples"]))
            off = np.count_nonzero(~on[report["start"]:report["start"] + report["samples"]])
            self.assertAlmostEqual(report["absent"], off, delta=300)
        known = [r["sir_db"] for r in late if r["outcome"] == "agreed"]
        self.assertAlmostEqual(float(np.median(known)), -9.0, delta=0.3)

    def test_levels_are_those_of_the_bursts(self):
        on = np.arange(16 * 24000) // 4000 % 3 == 0
        for options in ({}, {"sir_db": -9.0}, {"batch": 4}):
            self.check(*self.run_block(on, **options), on, 32 * 2304)

    def test_long_pauses_are_said_and_the_soi_is_known_again_when_it_comes_back(self):
        """It first comes on after 40 windows, and pauses longer than the levels are averaged."""
        on = np.arange(16 * 40000) // 2304
        on = ((on >= 40) & (on < 80)) | (on >= 200)
        reports, wrong = self.run_block(on, averaging=40)
        outcomes = [r["outcome"] for r in reports]
        self.assertLess(outcomes[:32].count("agreed"), 4)  # there was no SOI yet, and no levels
        self.assertEqual(set(outcomes[82:198]), {"no_soi"})
        for start, end in ((42, 79), (202, 270)):
            part = slice(start * 144, end * 144)
            self.assertLess(wrong[part].mean() / 2, 1e-3)

    def test_a_strong_soi_s_coming_and_going_is_no_jump_of_the_power(self):
        on = np.arange(16 * 24000) // (2304 * 24) % 2 == 0
        reports, wrong = self.run_block(on, sir_db=0.0)
        outcomes = [r["outcome"] for r in reports]
        self.assertEqual(set(outcomes) & {"no_levels", "not_found"}, set())
        self.assertGreater(outcomes.count("no_soi"), 60)
        self.assertLess(wrong[on[8::16]].mean() / 2, 1e-3)

    def test_interference_that_jumps_between_bursts_is_followed(self):
        rng, on = np.random.default_rng(5), np.arange(16 * 24000) // 4000 % 3 == 0
        _, soi, other, bits = mixture(24000, -6.0)
        other[len(other) // 2:] *= np.float32(1.8)
        y = soi * on + other + signals.noise(rng, (1, len(on)), 0.01)[0]
        found = Flow(y.astype(np.complex64), unmix.separator_cc(SOI, OFDM)).run()[0]
        wrong = (cons.demodulate(matched_filter(found, MODULATION), "qpsk") != bits).reshape(-1, 2).sum(1)
        settled = np.arange(len(wrong)) > len(wrong) // 2 + 32 * 144
        self.assertLess(wrong[on[8::16] & settled].mean() / 2, 2e-3)


class Stops(gr_unittest.TestCase):
    def test_stop_interrupts_a_long_separation(self):
        y, *_ = mixture(4000)
        separator = unmix.separator_cc(SOI, OFDM, method="alpha-rgs", steps=10**8)
        flow = Flow(y, separator)
        flow.tb.start()
        time.sleep(1.0)  # it is in its first batch, which would take hours
        began = time.monotonic()
        flow.tb.stop()
        flow.tb.wait()
        self.assertLess(time.monotonic() - began, 1.0)
        self.assertEqual(len(flow.sinks[0].data()), 0)
        self.assertIsNone(separator.error)

    def test_sinks_that_have_enough_interrupt_a_long_separation(self):
        y, *_ = mixture(1000)
        separator = unmix.separator_cc(SOI, OFDM, batch=1)
        source = Held(y[:separator.latency + 1], y[separator.latency + 1:])
        tb = gr.top_block()
        ends = [Enough(1.0) for _ in range(2)]  # a second after the first window
        tb.connect(source, separator)
        for i, end in enumerate(ends):
            tb.connect((separator, i), end)
        tb.start()
        self.assertTrue(wait_until(lambda: separator.nitems_written(0) > 0, 10))
        separator.set_steps(10**8)
        separator.set_method("alpha-rgs")
        source.released.set()
        began = time.monotonic()
        self.assertTrue(wait_until(lambda: separator.detail().done(), 20))  # the source would go on for ever
        self.assertLess(time.monotonic() - began, 10)
        tb.stop()
        tb.wait()

    def test_another_reader_of_the_input_that_finishes_ends_it_whole(self):
        # GNU Radio ends the blocks before a reader that finishes; what they gave by then comes out.
        y, *_ = mixture(4000)
        for rate in (1e5, 1e6):
            flow = Flow(y, unmix.separator_cc(SOI, OFDM, batch=2), throttle=rate)
            flow.tb.connect(flow.keep[-1], blocks.head(gr.sizeof_gr_complex, 10000), blocks.vector_sink_c())
            flow.tb.start()
            self.assertTrue(wait_until(lambda flow=flow: flow.separator.detail().done(), 10))
            flow.tb.stop()
            flow.tb.wait()
            count = len(flow.sinks[0].data())
            self.assertGreaterEqual(count, 10000)
            self.assertEqual(count, flow.separator.nitems_read(0))

    def test_a_second_run_begins_afresh(self):
        y, *_ = mixture(500)
        separator = unmix.separator_cc(SOI, OFDM)
        flow = Flow(y, separator)
        first = flow.run()
        flow.source.rewind()
        for sink in flow.sinks:
            sink.reset()
        separator.error = RuntimeError("of the run before")
        again = flow.run()
        np.testing.assert_array_equal(again, first)
        self.assertIsNone(separator.error)

    def test_fifty_starts_and_stops_leave_no_threads_and_no_memory_behind(self):
        y, *_ = mixture(3000)
        separator = unmix.separator_cc(SOI, OFDM, batch=4)
        flow = Flow(y, separator)
        threads, memory = [], []
        for cycle in range(50):
            flow.source.rewind()
            flow.tb.start()
            time.sleep(0.005 * (cycle % 5))
            flow.tb.stop()
            flow.tb.wait()
            for sink in flow.sinks:
                sink.reset()
            gc.collect()
            status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            threads.append(int(status["Threads"]))
            memory.append(1024 * int(status["VmRSS"].split()[0]))
        self.assertLessEqual(max(threads[10:]), max(threads[:10]))
        self.assertLess(max(memory[-10:]) - max(memory[5:15]), 8 << 20)
        self.assertIsNone(separator.error)


if __name__ == "__main__":
    unittest.main()
