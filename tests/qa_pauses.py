# SPDX-License-Identifier: GPL-3.0-or-later
"""What is not on the air is not found there: an SOI that pauses, interference alone, an SOI alone."""

import json
import unittest
import unittest.mock
from pathlib import Path

import numpy as np
import torch
from gnuradio.unmix import captures, presence, priors, recording, signals, simulation
from gnuradio.unmix.calibration import capture_levels, soi_evidence
from gnuradio.unmix.estimators import Levels
from gnuradio.unmix.stream import StreamSeparator
from separate_file_common import APP, Case

torch.set_num_threads(1)

EXCERPT = str(APP.parent / "samples" / "wifi_excerpt.sigmf-meta")
AUTO = "rrc:qpsk,sps=16,sync=auto"
OFDM = "cp-ofdm:qpsk,fft=64,cp=16,active=56"


class PausesCase(Case):
    def simulate(self, **parameters):
        """Write mix.cf32 and soi.cf32, the SOI alone; returns the simulation."""
        capture = simulation.SimulatedCapture(simulation.Parameters(**({"snr_db": 20.0} | parameters)))
        capture.measure()
        mixture, soi = capture.read(0, capture.length)
        mixture.tofile("mix.cf32")
        soi.tofile("soi.cf32")
        return capture

    def separated(self, interference, soi=AUTO):
        return self.done("mix.cf32", "--samp-rate", "20e6", "--soi", soi, "--interference", interference,
                         "--reference", "soi.cf32", "--output", "out")


class Bursts(PausesCase):
    def check(self, capture, report, most_errors):
        """The stretches found against those simulated; the SOI's level; bits of the bursts; zero between them."""
        sent, found = (np.zeros(capture.length, bool) for _ in range(2))
        for start, count in capture.soi.bursts.stretches():
            sent[start:start + count] = True
        for stretch in report["result"]["no_soi"]:
            found[stretch["start"]:stretch["start"] + stretch["samples"]] = True
            self.assertAlmostEqual(stretch["start_s"], stretch["start"] / 20e6)
        self.assertEqual(report["result"]["no_soi_samples"], found.sum())
        self.assertGreater((~sent).mean(), 0.15)
        self.assertGreater(found[~sent].mean(), 0.95)
        self.assertLess(found[sent].mean(), 0.02)
        self.assertAlmostEqual(report["levels"]["soi_amplitude"], 1, delta=0.06)  # of the bursts
        truth = report["quality"]["reference"]["ber_after"]
        self.assertLess(truth["rate"], most_errors)
        self.assertGreater(truth["bits"], 0.9 * sent.sum() / 8)
        every = report["quality"]["reference"]["ber_of_all"]
        self.assertGreaterEqual(every["bits"], truth["bits"])
        self.assertLess(every["bits"], 1.02 * sent.sum() / 8)
        self.assertGreaterEqual(every["errors"], truth["errors"])
        self.assertEqual(any(" of all bits (" in line for line in report["summary"]), every["bits"] > truth["bits"])
        soi, other = self.read("out/mix_soi.sigmf-meta"), self.read("out/mix_interference.sigmf-meta")
        self.assertEqual(np.abs(soi[found]).max(), 0)
        np.testing.assert_allclose(other[found], self.read_mixture()[found], atol=1e-5)
        self.assertTrue(any(line.startswith("no SOI in ") and " s to " in line for line in report["summary"]))
        self.assertLess(report["result"]["distrusted_samples"], 0.1 * capture.length)
        notes = json.loads(Path("out/mix_soi.sigmf-meta").read_text())["annotations"]
        self.assertEqual([(n["core:sample_start"], n["core:sample_count"]) for n in notes
                          if n["core:label"] == "no SOI"],
                         [(s["start"], s["samples"]) for s in report["result"]["no_soi"]])

    def read_mixture(self):
        return np.fromfile("mix.cf32", np.complex64)

    def test_under_ofdm(self):
        capture = self.simulate(sir_db=-9.0, soi_bursts=(1e-3, 1e-3), carrier_offset=0.03, samples=192000, seed=3)
        self.check(capture, self.separated(OFDM), 1e-3)

    def test_under_recorded_wifi(self):
        capture = self.simulate(interference=(EXCERPT,), sir_db=-9.0, soi_bursts=(4e-4, 3e-4), carrier_offset=0.02,
                                seed=5)
        self.check(capture, self.separated("wifi:"), 5e-3)

    def test_priors_that_explain_anything_claim_nothing(self):
        """A Gaussian interferer's prior: pauses are not seen, and none is invented."""
        rng = np.random.default_rng(1)
        other = 2.8 * signals.cp_ofdm(rng, 1, 20000)[0]
        other[0].astype(np.complex64).tofile("other.cf32")
        wave, _ = signals.linear_modulation(rng, 1, 1250)
        pair = [priors.parse("rrc:qpsk"), priors.parse("gaussian:other.cf32")]
        mixture = (wave + other).astype(np.complex64)[:, :2560]
        off = presence.pauses(mixture, wave[:, :2560], pair, [None, None], np.array([1.0, 2.8]), 0.0)
        self.assertFalse(off.any())

    def test_an_soi_that_never_pauses_is_not_erased(self):
        """As wide as WiFi, whose prior explains much of it."""
        for seed in range(2):
            self.simulate(interference=(EXCERPT,), sps=5.0, sir_db=-9.0, snr_db=np.inf, timing=1.85, phase=77.0,
                          carrier_offset=0.04, symbol_rate_ppm=60.0, seed=seed)
            report = self.separated("wifi:", "rrc:qpsk,sps=5,sync=auto")
            self.assertEqual(report["result"]["no_soi_samples"], 0)

    def test_shreds_are_no_pauses(self):
        """Of four windows, the last of which is not looked at: runs of 1, of 9 and of 10 of 20 samples."""
        flags = {i: np.zeros(20, bool) for i in range(3)}
        for i, place in ((0, 0), (0, 5), (0, 19), (1, 0), (1, 19), (2, slice(2, 12)), (2, slice(13, 20))):
            flags[i][place] = True
        presence.drop_shreds(flags, 4, 10)
        self.assertEqual([presence.runs(f) for f in flags.values()], [[(0, 1), (19, 1)], [(0, 1)], [(2, 10)]])

    def test_a_window_with_the_soi_is_not_taken_for_one_without(self):
        """At SIR -15 to 3 dB, in windows whose SOI is present, absent, and present in the first half."""
        rng = np.random.default_rng(2)
        ofdm = priors.parse(OFDM)
        pair = [priors.parse("rrc:qpsk"), ofdm]
        for sir in (-15, -9, -3, 3):
            gain = signals.kappa(sir)
            wave, _ = signals.linear_modulation(rng, 12, 160)
            other, _ = signals.cp_ofdm(rng, 12, 2560)
            there = np.ones((12, 2560))
            there[4:8] = 0
            there[8:, 1280:] = 0
            mixture = (wave * there + gain * other + signals.noise(rng, wave.shape, 0.01)).astype(np.complex64)
            sides = [None, ofdm.side_information(mixture, [pair[0]])]
            off = presence.pauses(mixture, np.roll(wave, 1, 0), pair, sides, np.array([1.0, gain]), 0.01)
            self.assertFalse(off[:4].any(), f"{sir} dB")
            self.assertTrue(off[4:8, 128:-128].all(), f"{sir} dB")
            self.assertLess(np.abs(off[8:].argmax(1) - 1280).max(), 80, f"{sir} dB")  # five symbols


class InterferenceAlone(PausesCase):
    def test_no_soi_is_found_in_it(self):
        rng = np.random.default_rng(3)
        alone = signals.cp_ofdm(rng, 1, 60000)[0][0] + signals.noise(rng, (60000,), 1e-3)
        alone.astype(np.complex64).tofile("mix.cf32")
        for capture, other in (("mix.cf32", OFDM), (EXCERPT, "wifi:")):
            self.refused(capture, "--soi", AUTO, "--interference", other, words=["no SOI found in "])

    def test_where_timing_is_told_a_warning_says_so(self):
        """OFDM and recorded WiFi without an SOI, in noise 30 dB below and as strong as the interference."""
        rng = np.random.default_rng(5)
        wifi = captures.open_capture(EXCERPT).read(0, 49920)
        ofdm = signals.cp_ofdm(rng, 1, 40000)[0][0]
        for wave, other in ((ofdm, OFDM), (wifi / np.sqrt(np.mean(np.abs(wifi) ** 2)), "wifi:")):
            for noise in (1e-3, 1.0):
                (wave + signals.noise(rng, wave.shape, noise)).astype(np.complex64).tofile("mix.cf32")
                report = self.done("mix.cf32", "--samp-rate", "20e6", "--soi", "rrc:qpsk", "--interference", other,
                                   "--sir-db", "-15", "--output", "out")
                self.assertLess(report["soi_evidence"]["errors"], 4)
                self.assertTrue(any("no SOI shows in the capture" in w for w in report["warnings"]))
                self.assertTrue(any("warning: no SOI shows" in line for line in report["summary"]))

    def test_an_soi_whose_timing_is_told_is_not_warned_of(self):
        for sir, snr, modulation in ((-24.0, 20.0, "qpsk"), (-24.0, 3.0, "bpsk"), (-9.0, 0.0, "qpsk"),
                                     (-9.0, 20.0, "8psk"), (-15.0, 15.0, "16qam")):
            with self.subTest(sir=sir, snr=snr, modulation=modulation):
                self.simulate(sir_db=sir, snr_db=snr, modulation=modulation, samples=32000, seed=8)
                report = self.separated(OFDM, f"rrc:{modulation}")
                self.assertFalse(any("no SOI shows" in w for w in report["warnings"]), report["soi_evidence"])

    def test_evidence_is_sought_at_the_told_timing(self):
        """Of symbols between samples, in stretches that begin anywhere between symbols; and half a symbol off."""
        capture = self.simulate(sir_db=-12.0, timing=5.3, samples=1200000, seed=9)
        errors = []
        for told in (5.3, 13.3):
            pair = [priors.parse(f"rrc:qpsk,first={told}"), priors.parse(OFDM)]
            levels = Levels(np.array([1.0, capture.kappa]), capture.noise_variance)
            errors.append(soi_evidence(captures.open_capture("mix.cf32"), StreamSeparator(pair, levels), levels).errors)
        self.assertGreater(errors[0], 15)
        self.assertLess(errors[1], 0.5 * errors[0])

    def test_false_alarms_are_rarer_than_one_in_a_hundred(self):
        """60 acquisitions under OFDM alone that is taken to hold an SOI at -9 or -19 dB."""
        rng, found = np.random.default_rng(4), 0
        pair = [priors.parse(AUTO), priors.parse(OFDM)]
        for gain in (1.0, 0.3) * 30:
            y = 2.8 * signals.cp_ofdm(rng, 1, 24000)[0][0] + signals.noise(rng, (24000,), 0.01)
            tracker = self.acquired(pair, y.astype(np.complex64), np.array([gain, 2.8]))
            found += tracker.sync is not None
        self.assertEqual(found, 0)  # at 1 % more than none has a chance of 45 %, at the 0.1 % measured 6 %

    def acquired(self, pair, y, gains):
        levels = Levels(gains, 0.01)
        separator = StreamSeparator(pair, levels)
        separator.survey(y, levels)
        return separator.trackers[0]


class Offsets(PausesCase):
    def test_offsets_up_to_a_tenth_of_the_symbol_rate_are_told_from_their_aliases(self):
        """OFDM symbols of five of the SOI's put lines every 5 % of the symbol rate beside the SOI's."""
        for seed, offset in enumerate((0.07, -0.095)):
            self.simulate(sir_db=-9.0, carrier_offset=offset, symbol_rate_ppm=50.0, samples=64000, seed=seed)
            report = self.separated(OFDM)
            self.assertAlmostEqual(report["synchronisation"]["frequency"] * 16, offset, delta=1e-4)
            self.assertLess(report["quality"]["reference"]["ber_after"]["rate"], 1e-3)

    def test_a_symbol_rate_that_cannot_be_known_is_not_told(self):
        rates = {}
        for samples in (6000, 64000):
            self.simulate(sir_db=-3.0, symbol_rate_ppm=50.0, samples=samples, seed=6)
            found = self.separated(OFDM)["synchronisation"]
            rates[samples] = found["symbol_rate_ppm"]
        self.assertIsNone(rates[6000])
        self.assertLess(abs(rates[64000] - 50), found["symbol_rate_ppm_uncertainty"])
        self.assertLess(found["symbol_rate_ppm_uncertainty"], 20)


class Fading(PausesCase):
    def test_levels_are_followed(self):
        """From 4 dB above to 4 dB below the SOI's mean level, in 700,000 samples."""
        capture = self.simulate(sir_db=-12.0, samples=700000, seed=4)
        mixture, soi = (np.fromfile(name, np.complex64) for name in ("mix.cf32", "soi.cf32"))
        gain = (10 ** (0.2 * np.cos(np.pi * np.arange(capture.length) / capture.length))).astype(np.float32)
        (mixture + (gain - 1) * soi).tofile("mix.cf32")
        (gain * soi).tofile("soi.cf32")
        report = self.separated(OFDM, "rrc:qpsk")
        result, truth = report["result"], report["quality"]["reference"]["ber_after"]
        self.assertGreater(result["agreed"], 0.85 * result["windows"])
        self.assertLess(truth["rate"], 1e-3)
        self.assertGreater(truth["bits"], 87000)
        low, high = report["levels"]["soi_amplitude_range"]
        self.assertAlmostEqual(low / gain[-1], 1, delta=0.1)
        self.assertAlmostEqual(high / gain[0], 1, delta=0.1)
        self.assertTrue(any(line.startswith("the SOI's amplitude was found to be ") for line in report["summary"]))
        self.assertTrue(report["levels"]["tracked"])

    def test_bits_of_several_levels(self):
        """16QAM that falls from 4 dB above to 4 dB below its mean level: bits are decided at the level of the time."""
        capture = self.simulate(modulation="16qam", sir_db=-9.0, snr_db=25.0, samples=700000, seed=4)
        capture.soi.bits(0, capture.symbols).tofile("truth.u8")
        mixture, soi = (np.fromfile(name, np.complex64) for name in ("mix.cf32", "soi.cf32"))
        gain = (10 ** (0.2 * np.cos(np.pi * np.arange(capture.length) / capture.length))).astype(np.float32)
        (mixture + (gain - 1) * soi).tofile("mix.cf32")
        (gain * soi).tofile("soi.cf32")
        for truth in ("soi.cf32", "truth.u8"):
            report = self.done("mix.cf32", "--soi", "rrc:16qam", "--interference", OFDM, "--reference", truth,
                               "--output", "out")
            self.assertLess(report["quality"]["reference"]["ber_after"]["rate"], 1e-3)
            self.assertLess(report["quality"]["evm_after"], 0.12)

    def test_short_captures_and_given_levels_have_one_level(self):
        self.simulate(sir_db=-12.0, samples=64000, seed=4)
        low, high = self.separated(OFDM)["levels"]["soi_amplitude_range"]
        self.assertEqual(low, high)
        with unittest.mock.patch.object(recording, "MEMORY", 2304):
            self.assertTrue(self.separated(OFDM)["levels"]["tracked"])
            report = self.done("mix.cf32", "--samp-rate", "20e6", "--soi", AUTO, "--interference", OFDM, "--sir-db",
                               "-12", "--output", "out")
            self.assertFalse(report["levels"]["tracked"])
            self.assertTrue(any(line.startswith("SIR -") and line.endswith(" for the whole capture")
                                for line in report["summary"]))


class SoiAlone(PausesCase):
    def test_it_passes_through_untouched(self):
        self.simulate(interference=(), snr_db=25.0, carrier_offset=0.03, timing=5.3, samples=48000)
        mixture = np.fromfile("mix.cf32", np.complex64)
        for soi, other in ((AUTO, OFDM), (AUTO, "wifi:"), ("rrc:qpsk,first=5.3", OFDM)):
            report = self.separated(other, soi)
            np.testing.assert_array_equal(self.read("out/mix_soi.sigmf-meta"), mixture)
            self.assertEqual(np.abs(self.read("out/mix_interference.sigmf-meta")).max(), 0)
            self.assertTrue(any("no interference was heard" in line for line in report["summary"]))
            self.assertIsNone(report["levels"]["sir_db"])
            if soi == AUTO:  # the other has no carrier offset
                self.assertEqual(report["quality"]["reference"]["ber_after"]["errors"], 0)
                self.assertGreater(report["quality"]["reference"]["ber_after"]["bits"], 5900)
                self.assertLess(report["quality"]["evm_after"], 0.07)
                self.assertEqual(report["result"]["agreed"], report["result"]["windows"])

    def test_interference_of_another_kind_is_not_passed_over(self):
        """A tone in the SOI's band, which the priors do not describe."""
        capture = self.simulate(interference=(), snr_db=25.0, samples=48000)
        tone = 2 * np.exp(2j * np.pi * 0.2 * np.arange(capture.length))
        (np.fromfile("mix.cf32", np.complex64) + tone).astype(np.complex64).tofile("mix.cf32")
        pair = [priors.parse("rrc:qpsk"), priors.parse(OFDM)]
        try:
            levels = capture_levels(captures.open_capture("mix.cf32"), pair, None,
                                    lambda levels: StreamSeparator(pair, levels))
        except ValueError:
            return  # refused: fine as well
        self.assertTrue(levels.gains[1:].any())


if __name__ == "__main__":
    unittest.main()
