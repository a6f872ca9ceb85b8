# SPDX-License-Identifier: GPL-3.0-or-later
"""Training signals against plain numpy receivers, the closed-form priors and GNU Radio's own blocks.

The signals are made in the training environment, by make_training_waves.py, and examined here.
"""

import json
import tempfile
import unittest
from pathlib import Path

import numpy as np
import scipy.signal
import scipy.stats
from gnuradio import unmix
from gnuradio.unmix.priors import constellation as cons
from training_common import ROOT, main, run_training

try:
    from gnuradio import blocks, digital, fft, filter, gr
except ImportError:
    gr = None

OFDM = {"fft": 64, "cp": 16, "active": 56, "constellation": "qpsk"}
LINEAR = {"sps": 16, "rolloff": 0.5, "span": 8, "constellation": "qpsk", "ends": "stream"}


class Case:
    """Windows of one source: wave [W, N], symbols, side [W, 2], its parameters and its card."""

    def __init__(self, waves, name, defaults):
        self.wave, self.symbols, self.side = (waves[f"{name}/{key}"] for key in ("wave", "symbols", "side"))
        self.config = defaults | json.loads(str(waves[f"{name}/config"]))
        self.card = json.loads(str(waves[f"{name}/card"]))

    def __getattr__(self, name):
        return self.config[name]


def setUpModule():
    global waves
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "waves.npz"
        made = run_training(ROOT / "tests" / "make_training_waves.py", path)
        if made.returncode:
            raise RuntimeError(f"make_training_waves.py failed:\n{made.stderr}")
        with np.load(path) as file:
            waves = dict(file)


def linear(name):
    return Case(waves, name, LINEAR)


def ofdm(name):
    return Case(waves, name, OFDM)


def rrc(t, beta):
    """Root-raised-cosine pulse at times t (symbols) away from its singular points, where it is taken nearby."""
    t = np.where(np.abs(t) < 1e-7, 1e-7, t)
    t = np.where(np.abs(np.abs(4 * beta * t) - 1) < 1e-7, t * (1 + 1e-6), t)
    return (np.sin(np.pi * t * (1 - beta)) + 4 * beta * t * np.cos(np.pi * t * (1 + beta))) / (
        np.pi * t * (1 - (4 * beta * t) ** 2))


def taps(case):
    half = case.span * case.sps // 2
    pulse = rrc(np.arange(-half, half + 1) / case.sps, case.rolloff)
    return pulse * np.sqrt(case.sps / np.sum(pulse**2))


def inside(case):
    """The symbols whose centres lie in the window: [W, N / sps]."""
    count = case.wave.shape[1] // case.sps
    before = (case.symbols.shape[1] - count) // 2
    return case.symbols[:, before:before + count]


class Linear(unittest.TestCase):
    def test_constellations_are_sionnas_and_the_engines(self):
        for name in cons.NAMES:
            points = waves[f"points/{name}"]
            self.assertAlmostEqual(float(np.mean(np.abs(points) ** 2)), 1, places=6)
            for known in [cons.points(name)] + ([waves[f"sionna/{name}"]] if f"sionna/{name}" in waves else []):
                self.assertEqual(len(points), len(known))
                self.assertLess(np.abs(points[:, None] - known).min(1).max(), 1e-6)
                self.assertLess(np.abs(points[:, None] - known).min(0).max(), 1e-6)

    def test_every_point_is_drawn_equally_often(self):
        for name in cons.NAMES:
            symbols = linear(f"linear-{name}").symbols.ravel()
            label = np.abs(symbols[:, None] - waves[f"points/{name}"]).argmin(1)
            self.assertGreater(scipy.stats.chisquare(np.bincount(label)).pvalue, 1e-4)

    def test_equal_to_upfirdn_of_the_symbols(self):
        for name in ("linear-bpsk", "linear-qpsk", "linear-8psk", "linear-16qam", "linear-isolated", "linear-short"):
            case = linear(name)
            pulse, window = taps(case), case.wave.shape[1]
            before = (case.symbols.shape[1] - window // case.sps) // 2
            wave = np.pad(scipy.signal.upfirdn(pulse, case.symbols, up=case.sps), [(0, 0), (0, window)])
            begin = len(pulse) // 2 + before * case.sps - case.sps // 2
            self.assertLess(np.abs(wave[:, begin:begin + window] - case.wave).max(), 5e-6, name)

    def test_matched_filter_finds_every_symbol(self):
        for name in ("linear-bpsk", "linear-qpsk", "linear-8psk", "linear-16qam", "linear-isolated"):
            case = linear(name)
            output = scipy.signal.fftconvolve(case.wave, taps(case)[None], mode="same", axes=1) / case.sps
            found = output[:, case.sps // 2::case.sps]
            if case.ends == "stream":  # pulses that the window cuts
                found, sent = found[:, 4:-4], inside(case)[:, 4:-4]
            else:
                found, sent = found[:, 1:-1], inside(case)[:, 1:-1]
            points = waves[f"points/{case.constellation}"]
            decided = points[np.abs(found[..., None] - points).argmin(-1)]
            self.assertEqual(np.count_nonzero(np.abs(decided - sent) > 1e-3), 0, name)
            self.assertLess(np.mean(np.abs(found - sent) ** 2), 2e-3, name)

    def test_fractional_timing_is_the_pulse_at_these_times(self):
        for name in ("linear-random", "linear-random-isolated", "linear-random-16qam", "linear-random-short"):
            case = linear(name)
            window, half = case.wave.shape[1], case.span * case.sps // 2
            before = (case.symbols.shape[1] - window // case.sps) // 2
            level = taps(case).max() / rrc(np.zeros(1), case.rolloff)[0]
            for row in range(0, 96, 16):
                first, phase = case.side[row].astype(float)
                centre = first + (np.arange(case.symbols.shape[1]) - before) * case.sps
                offset = np.arange(window) - centre[:, None]
                pulse = level * rrc(offset / case.sps, case.rolloff) * (np.abs(offset) <= half)
                wave = np.exp(1j * phase) * (case.symbols[row] @ pulse)
                self.assertLess(np.abs(wave - case.wave[row]).max(), 2e-5, name)

    def test_timing_and_phase_are_what_estimators_find(self):
        case = linear("linear-random")
        output = scipy.signal.fftconvolve(case.wave, taps(case)[None], mode="same", axes=1) / case.sps
        n = np.arange(case.wave.shape[1])
        line = (np.abs(output) ** 2 @ np.exp(-2j * np.pi * n / case.sps))  # Oerder and Meyr, 1988
        timing = -np.angle(line) * case.sps / (2 * np.pi)
        error = (timing - case.side[:, 0] + case.sps / 2) % case.sps - case.sps / 2
        self.assertLess(np.sqrt(np.mean(error**2)), 0.3)
        self.assertLess(np.abs(np.mean(error)), 4 * np.std(error) / np.sqrt(len(error)) + 1e-3)
        for row in range(len(error)):
            place = np.arange(4 * case.sps, 156 * case.sps, case.sps) + case.side[row, 0]
            points = np.interp(place, n, output[row].real) + 1j * np.interp(place, n, output[row].imag)
            phase = np.angle(-np.sum(points**4)) / 4
            turn = (phase - case.side[row, 1] + np.pi / 4) % (np.pi / 2) - np.pi / 4
            self.assertLess(abs(turn), 0.03)

    def test_timing_and_phase_are_uniform(self):
        timing, phase = waves["many/timings"].T
        self.assertGreater(scipy.stats.kstest(timing / 16, "uniform").pvalue, 1e-4)
        self.assertGreater(scipy.stats.kstest(phase / (2 * np.pi), "uniform").pvalue, 1e-4)
        self.assertTrue((timing >= 0).all() and (timing <= 16).all())

    def test_unit_power(self):
        for name in ("linear-bpsk", "linear-qpsk", "linear-8psk", "linear-16qam", "linear-random", "ofdm-bpsk",
                     "ofdm-qpsk", "ofdm-16qam", "ofdm-full", "ofdm-odd"):
            power = np.mean(np.abs(waves[f"{name}/wave"]) ** 2, 1)
            self.assertLess(abs(power.mean() - 1), 4 * power.std() / np.sqrt(len(power)) + 1e-4, name)

    def test_closed_form_prior_leaves_the_waves_alone(self):
        for name in ("linear-bpsk", "linear-qpsk", "linear-8psk", "linear-16qam", "linear-short", "linear-random",
                     "linear-random-16qam", "linear-isolated", "linear-random-isolated"):
            case = linear(name)
            self.assertEqual(("isolated" in name), case.card["simulation"].endswith(",ends=isolated"))
            answer = denoised(case, v=1e-4 if case.constellation == "16qam" else 1e-3)
            guard = 0 if case.ends == "isolated" else case.span * case.sps
            kept = slice(guard, case.wave.shape[1] - guard)
            error = np.abs(answer[:, kept] - case.wave[:, kept])
            self.assertLess(np.sqrt(np.mean(error**2, 1)).max(), 1e-4, name)
            self.assertLess(error.max(), 1e-4, name)

    @unittest.skipIf(gr is None, "without GNU Radio")
    def test_equal_to_gnu_radios_pulse_shaping(self):
        case = linear("linear-qpsk")
        pulse = filter.firdes.root_raised_cosine(1.0, case.sps, 1.0, case.rolloff, case.span * case.sps + 1)
        pulse = np.array(pulse) * np.sqrt(case.sps / np.sum(np.square(pulse)))
        for row in range(4):
            source = blocks.vector_source_c(np.pad(case.symbols[row], (0, case.span)).tolist())
            wave = run_flowgraph(source, filter.interp_fir_filter_ccf(case.sps, pulse.tolist()))
            begin = len(pulse) // 2 + case.span // 2 * case.sps - case.sps // 2
            self.assertLess(np.abs(wave[begin:begin + case.wave.shape[1]] - case.wave[row]).max(), 2e-5)

    def test_bad_parameters_are_refused_in_a_sentence(self):
        sentences = [str(s) for s in waves["refused"]]
        for sentence, words in zip(sentences, (
                "mapping", "'chirp' is unknown; allowed are linear, cp-ofdm, recording", "'sps'.*16.5.*int",
                "2561.*multiple of sps=16", "timing is 'late'; allowed are known and random", "'32qam' is unknown",
                "unknown parameter 'rollof' of data kind linear; allowed are constellation, sps", "rolloff=1.5",
                "active=64", "cp=65", "unknown parameter 'sps' of data kind cp-ofdm", "needs the parameter 'files'",
                "no recording is found at no/such.sigmf-meta"), strict=True):
            self.assertRegex(sentence, words)
            self.assertNotIn("\n", sentence)


class Ofdm(unittest.TestCase):
    NAMES = ("ofdm-bpsk", "ofdm-qpsk", "ofdm-16qam", "ofdm-full", "ofdm-odd")

    def symbols(self, case):
        """Whole OFDM symbols of each window from its start on: [W, S, fft + cp], and the first one's number."""
        length = case.fft + case.cp
        count = (case.wave.shape[1] - length + 1) // length
        place = case.side[:, :1].astype(int) + np.arange(count * length)
        first = (case.side[:, 0] > 0).astype(int)
        return np.take_along_axis(case.wave, place, 1).reshape(len(case.wave), count, length), first

    def carriers(self, case):
        half = case.active // 2
        if case.fft % 2 == 0 and case.active == case.fft - 1:
            return np.r_[-case.fft // 2:0, 1:case.fft // 2]
        return np.r_[-half:0, 1:case.active - half + 1]

    def test_prefix_is_the_tail(self):
        for name in self.NAMES:
            case = ofdm(name)
            frames, _ = self.symbols(case)
            self.assertLess(np.abs(frames[..., :case.cp] - frames[..., case.fft:]).max(initial=0), 1e-6, name)

    def test_carriers_are_exact_points(self):
        for name in self.NAMES:
            case = ofdm(name)
            frames, first = self.symbols(case)
            spectrum = np.fft.fft(frames[..., case.cp:]) * np.sqrt(case.active) / case.fft
            spectrum = spectrum * np.exp(-1j * case.side[:, 1])[:, None, None]
            carriers = self.carriers(case)
            found = spectrum[..., carriers]
            sent = np.take_along_axis(case.symbols, (first[:, None] + np.arange(found.shape[1]))[..., None], 1)
            self.assertLess(np.abs(found - sent).max(), 2e-5, name)
            empty = np.delete(spectrum, carriers % case.fft, axis=2)
            self.assertLess(np.abs(empty).max(), 2e-5, name)
            points = waves[f"points/{case.constellation}"]
            self.assertLess(np.abs(found[..., None] - points).min(-1).max(), 2e-5, name)

    def test_start_is_where_the_prefix_correlates(self):
        for name in ("ofdm-bpsk", "ofdm-qpsk", "ofdm-16qam"):
            case = ofdm(name)
            # A prefix has zero distance to its tail; one sample beside it, the distance is a sample's.
            apart = np.abs(case.wave[:, :-case.fft] - case.wave[:, case.fft:]) ** 2
            each = np.stack([apart[:, n:n + 2320:80].sum(1) for n in range(80 + case.cp)], 1)
            folded = np.stack([each[:, s:s + case.cp].sum(1) for s in range(80)], 1)
            self.assertTrue((folded.argmin(1) == case.side[:, 0]).all(), name)

    def test_starts_and_phases_are_uniform(self):
        start, phase = waves["many/starts"].T
        count = np.bincount(start.astype(int), minlength=80)
        self.assertEqual(len(count), 80)
        self.assertGreater(scipy.stats.chisquare(count).pvalue, 1e-4)
        self.assertGreater(scipy.stats.kstest(phase / (2 * np.pi), "uniform").pvalue, 1e-4)

    def test_closed_form_prior_leaves_the_waves_alone(self):
        for name in self.NAMES:
            case = ofdm(name)
            length = case.fft + case.cp
            answer = denoised(case, v=1e-4 if case.constellation == "16qam" else 1e-3)
            kept = slice(length, case.wave.shape[1] - length)
            self.assertLess(np.abs(answer[:, kept] - case.wave[:, kept]).max(), 1e-4, name)

    @unittest.skipIf(gr is None, "without GNU Radio")
    def test_equal_to_gnu_radios_blocks(self):
        for name in ("ofdm-bpsk", "ofdm-qpsk", "ofdm-16qam"):
            case = ofdm(name)
            length, carriers = case.fft + case.cp, self.carriers(case).tolist()
            for row in range(3):
                tag = gr.tag_t()
                tag.key, tag.value = gr.pmt.intern("len"), gr.pmt.from_long(case.symbols[row].size)
                source = blocks.vector_source_c(case.symbols[row].ravel().tolist(), False, 1, [tag])
                wave = run_flowgraph(
                    source, digital.ofdm_carrier_allocator_cvc(case.fft, [carriers], ((),), ((),), (), "len"),
                    fft.fft_vcc(case.fft, False, [], True, 1), digital.ofdm_cyclic_prefixer(case.fft, length, 0, "len"))
                start, phase = case.side[row]
                begin = -int(start) % length
                wave = wave[begin:begin + case.wave.shape[1]] * np.exp(1j * phase) / np.sqrt(case.active)
                self.assertLess(np.abs(wave - case.wave[row]).max(), 2e-5, name)


def denoised(case, v):
    """What the closed-form prior that the card names makes of the noise-free waves at level v, told the truth."""
    prior = unmix.priors.parse(case.card["simulation"])
    alpha_bar = np.full(len(case.wave), 1 / (1 + v), np.float32)
    return prior.denoise(np.sqrt(alpha_bar)[:, None] * case.wave, alpha_bar, case.side)


def run_flowgraph(*chain):
    graph, sink = gr.top_block(), blocks.vector_sink_c()
    graph.connect(*chain, sink)
    graph.run()
    return np.array(sink.data())


if __name__ == "__main__":
    main()
