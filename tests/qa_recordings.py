# SPDX-License-Identifier: GPL-3.0-or-later
"""Recordings as training data: small files in the layouts of SigMF and of the RF Challenge, good ones and bad ones.

Runs at run time, without HDF5, and then, where there is one, in the training environment.
"""

import importlib.util
import json
import math
import sys
import tempfile
import unittest
import warnings
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "training"))

from recordings import Recording, find_files
from training_common import SKIPPED, TRAINING_PYTHON, run_training

torch.set_num_threads(1)

IN_TRAINING = importlib.util.find_spec("sionna") is not None
RATE = 25e6


def noise(*shape, seed=1, power=1.0):
    """Complex white Gaussian noise, complex64."""
    rng = np.random.default_rng(seed)
    return (np.sqrt(power / 2) * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))).astype(np.complex64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class RecordingTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def sigmf(self, samples, name="rec", datatype="cf32_le", rate=RATE, captures=(0,), annotations=(), **fields):
        """Write a SigMF recording by hand, so that it can be wrong; returns the metadata's path."""
        fields = {f"core:{key}": value for key, value in fields.items()}
        if rate is not None:
            fields["core:sample_rate"] = rate
        np.asarray(samples).tofile(self.folder / f"{name}.sigmf-data")
        path = self.folder / f"{name}.sigmf-meta"
        path.write_text(json.dumps({
            "global": {"core:datatype": datatype, "core:version": "1.0.0", **fields},
            "captures": [{"core:sample_start": start} for start in captures], "annotations": list(annotations)}))
        return path

    def npy(self, frames, name="frames", metadata=None):
        path = self.folder / f"{name}.npy"
        np.save(path, frames)
        if metadata is not None:
            np.save(self.folder / f"{name}_metadata.npy", metadata)
        return path

    def refused(self, words, files, **options):
        """Recording must raise one sentence that matches the words and names the file."""
        with self.assertRaisesRegex(ValueError, words) as caught:
            Recording(files, **options)
        self.assertNotIn("\n", str(caught.exception))

    def frames_used(self, source, length):
        """Of frames of which every sample has the frame's number plus 1 as its magnitude, those that a source holds."""
        level = source.samples.square().sum(0).sqrt().reshape(-1, length)
        ratio = (level / source.samples.square().sum(0).sqrt().max()).numpy()
        self.assertTrue(np.allclose(ratio, ratio[:, :1], atol=1e-5))
        return ratio[:, 0]


class Windows(RecordingTest):
    def test_windows_are_cut_from_the_recording_and_turned(self):
        samples = noise(20000, power=7.0)
        source = Recording(str(self.sigmf(samples)), window=500)
        wave, start, angle = source.draw(200, generator())
        self.assertEqual((wave.shape, wave.dtype), ((200, 2, 500), torch.float32))
        wave, unit = torch.complex(wave[:, 0], wave[:, 1]).numpy(), samples / np.sqrt(np.mean(np.abs(samples) ** 2))
        for row in range(200):
            cut = unit[int(start[row]):int(start[row]) + 500] * np.exp(1j * float(angle[row]))
            self.assertLess(np.abs(wave[row] - cut).max(), 1e-5)
        self.assertTrue(torch.equal(source(200, generator()), source.draw(200, generator())[0]))

    def test_starts_and_phases_are_uniform_and_reach_both_ends(self):
        source = Recording(self.sigmf(noise(1000)), window=581)  # 600 to train on: 20 places
        _, start, angle = source.draw(20000, generator())
        count = np.bincount(start.numpy(), minlength=20)
        self.assertEqual(len(count), 20)
        self.assertLess(np.sum((count - 1000) ** 2 / 1000), 50)  # chi-square, 19 degrees of freedom
        count = np.histogram(angle.numpy(), 16, (0, 2 * np.pi))[0]
        self.assertLess(np.sum((count - 1250) ** 2 / 1250), 45)

    def test_no_window_crosses_files_or_captures(self):
        for name, level in (("a", 1), ("b", 2)):
            self.sigmf(level * np.repeat([1, 1j, -1], [1000, 500, 2500]).astype(np.complex64) * (1 + 0.1 * noise(4000)),
                       name, captures=(0, 1000, 1500))
        source = Recording(str(self.folder / "*"), window=400, normalise="recording")
        self.assertEqual(len(source.paths), 2)
        pieces = source.begin.tolist() + [source.samples.shape[1]]
        self.assertEqual(np.diff(pieces).tolist(), [1000, 500, 900] * 2)
        _, start, _ = source.draw(5000, generator())
        piece = np.searchsorted(pieces, start.numpy(), side="right") - 1
        self.assertTrue((start.numpy() + 400 <= np.array(pieces)[piece + 1]).all())
        self.assertEqual(set(piece), set(range(6)))

    def test_every_file_has_unit_power_as_a_whole(self):
        self.sigmf(noise(5000, power=100.0), "loud")
        self.sigmf(noise(5000, seed=2, power=1e-6), "faint")
        source = Recording(str(self.folder / "*.sigmf-meta"), window=100)
        power = source.samples.square().sum(0).reshape(2, 3000).mean(1)
        self.assertTrue(np.allclose(power, 1, atol=0.05))

    def test_power_per_recording_or_per_window(self):
        samples = noise(20000)
        samples[:10000] *= 0.1
        path = self.sigmf(samples)
        power = Recording(path, window=100)(500, generator()).square().sum(1).mean(1)
        self.assertLess(float(power.min()), 0.05)
        power = Recording(path, window=100, normalise="window")(500, generator()).square().sum(1).mean(1)
        self.assertLess(float((power - 1).abs().max()), 1e-5)

    def test_silent_windows_are_not_drawn(self):
        samples = noise(10000)
        samples[500:4500] = samples[6000:] = 0
        with self.assertWarnsRegex(UserWarning, r"6\d % of the windows of .*rec.sigmf-meta are silent") as caught:
            source = Recording(self.sigmf(samples), window=100)
        self.assertEqual(len(caught.warnings), 1)
        _, start, _ = source.draw(5000, generator())
        self.assertGreater(float(source(5000, generator()).square().sum(1).mean(1).min()), 1e-4)
        begins = [(0, 499), (4401, 5900)]  # windows that hold any noise
        self.assertTrue(all(any(a <= s <= b for a, b in begins) for s in start.tolist()))
        self.assertGreater(len(set(start.tolist())), 1700)  # of 1998
        self.refused("is silent in its validation part: every window of 100", self.sigmf(samples), window=100,
                     part="validation")

    def test_train_and_validation_are_the_first_three_fifths_and_the_rest(self):
        samples = noise(10000)
        path = self.sigmf(samples)
        parts = [Recording(path, window=100, part=part).samples for part in ("train", "validation")]
        both = torch.cat(parts, 1).numpy()
        self.assertEqual([part.shape[1] for part in parts], [6000, 4000])
        scaled = samples / np.sqrt(np.mean(np.abs(samples) ** 2))
        self.assertLess(np.abs(both[0] + 1j * both[1] - scaled).max(), 1e-5)

    def test_card(self):
        self.sigmf(noise(5000), "b")
        self.sigmf(noise(5000), "a")
        card = Recording(str(self.folder / "*"), window=100).card()
        self.assertEqual((card["window"], card["simulation"], card["invariances"]), (100, None, ["shift", "phase"]))
        self.assertEqual(card["training"], "6000 recorded samples (2.5e+07 S/s) of 2 files: a.sigmf-meta, "
                                           "b.sigmf-meta; unit power per recording")
        json.dumps(card, allow_nan=False)

    def test_bad_parameters_are_refused(self):
        path = self.sigmf(noise(5000))
        for words, options in (("window of 0", {"window": 0}), ("part is 'test'", {"part": "test"}),
                               ("normalise is 'no'", {"normalise": "no"}), ("frames is .1, 0.", {"frames": [1, 0]}),
                               ("has 1 frames; frames 0 to 2", {"frames": [0, 2]}), ("samples is 5", {"samples": 5}),
                               ("frames of 5000 samples; samples 0 to 6000", {"samples": [0, 6000]})):
            self.refused(words, path, **{"window": 100} | options)


class Sigmf(RecordingTest):
    def test_integer_types(self):
        samples = noise(4000, power=0.01)
        parts = np.stack([samples.real, samples.imag], -1)
        reference = Recording(self.sigmf(samples), window=100)(20, generator())
        for datatype, dtype, scale, offset in (("ci16_le", "<i2", 32768, 0), ("ci8", "i1", 128, 0),
                                               ("cu8", "u1", 128, 128), ("ci32_le", "<i4", 2**31, 0),
                                               ("ci16_be", ">i2", 32768, 0), ("cf64_le", "<f8", 1, 0)):
            stored = parts * scale + offset
            stored = (stored if scale == 1 else np.round(stored)).astype(dtype)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # 8 bits reach their largest value more than once
                wave = Recording(self.sigmf(stored, datatype=datatype), window=100)(20, generator())
            error = float((wave - reference).square().sum(1).mean())
            self.assertLess(error, 2e-3 if scale == 128 else 1e-6, datatype)

    def test_starter_layout_of_the_rf_challenge(self):
        for number in range(3):
            self.sigmf(noise(4000, seed=number), f"CommSignal2_train_{number:04d}", rate=1)
        self.sigmf(noise(3000, seed=9), "CommSignal2_val_0000", rate=1)
        source = Recording(str(self.folder / "CommSignal2_train_*"), window=2000)
        self.assertEqual([path.name for path in source.paths],
                         [f"CommSignal2_train_{number:04d}.sigmf-meta" for number in range(3)])
        self.assertEqual(len(source.begin), 3)

    def test_sample_rate(self):
        path = self.sigmf(noise(5000))
        self.assertEqual(Recording(path, window=100, sample_rate=25000000).rate, RATE)
        self.refused("has 2.5e.07 S/s, and 2e.07 S/s are asked for", path, window=100, sample_rate=2e7)
        self.sigmf(noise(5000), "other", rate=2e7)
        self.refused("different sample rates: ", str(self.folder / "*"), window=100)
        path = self.sigmf(noise(5000), "none", rate=None)
        self.refused("does not say its sample rate", path, window=100, sample_rate=2e7)
        for wrong in ("abc", 0, -1.0, math.nan, True, [1]):
            path = self.sigmf(noise(5000), "wrong", rate=wrong)
            self.refused("wrong.sigmf-meta (has the sample rate .*; it must be a number above 0|cannot be read)", path,
                         window=100)

    def test_unusable_samples_are_refused(self):
        samples = noise(5000)
        self.refused("is silent", self.sigmf(0 * samples), window=100)
        for bad in (np.nan, np.inf, 1j * -np.inf):
            broken = samples.copy()
            broken[4321] = bad
            self.refused("not finite", self.sigmf(broken), window=100)
        self.refused("validation part has 2000 samples in one piece, a window needs 2001", self.sigmf(samples),
                     window=2001, part="validation")
        Recording(self.sigmf(samples), window=2000, part="validation")
        self.refused("train part has 3000 samples in one piece, a window needs 3001", self.sigmf(samples), window=3001)
        self.refused("holds no samples|cannot be read", self.sigmf(samples[:0]), window=100)

    def test_clipping(self):
        def clipped(limit, ripple=0.0):
            samples = noise(100000)
            samples = np.clip(samples.real, -limit, limit) + 1j * np.clip(samples.imag, -limit, limit)
            return self.sigmf((samples + ripple * noise(100000, seed=2)).astype(np.complex64))

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Recording(clipped(9.0), window=100)  # beyond all samples
            Recording(self.sigmf(noise(5000)), window=100)  # its four extremes are 0.08 % of it
        with self.assertWarnsRegex(UserWarning, r"may be clipped: 0\.\d+ % of its samples"):
            Recording(clipped(2.2), window=100)
        with self.assertWarnsRegex(UserWarning, r"may be clipped: 0\.\d+ % of its samples"):
            Recording(clipped(2.2, ripple=1e-6), window=100)
        for ripple in (0.0, 1e-6):
            self.refused("is clipped: .* % of its samples are at the extreme values; at most 5 %", clipped(1.0, ripple),
                         window=100)

    def test_levels_that_the_signal_itself_dwells_at_are_no_clipping(self):
        rng = np.random.default_rng(4)
        pulse = np.ones(8)
        qpsk, fm = (np.exp(1j * np.repeat(turns, 8)) for turns in (
            np.pi / 4 + np.pi / 2 * rng.integers(4, size=2500), np.cumsum(rng.standard_normal(2500))))
        levels = np.arange(-7, 8, 2)
        qam = np.kron(rng.choice(levels, 2500) + 1j * rng.choice(levels, 2500), pulse)
        bursts = np.exp(1j * np.cumsum(rng.standard_normal(20000))) * np.repeat([0.3, 0, 1, 0.7], 5000)
        tone = np.exp(2j * np.pi * np.arange(20000) / 64)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for wave in (qpsk, fm, qam, bursts, tone, qpsk * (1 + 1e-4 * noise(20000)), noise(20000).real + 0j):
                Recording(self.sigmf(wave.astype(np.complex64)), window=6000)

    def test_an_absurd_peak_is_refused(self):
        for count, peak in ((1, 1e30), (3, 1e30), (1, 3e38), (1, 2e4)):
            samples = noise(5000)
            samples[100:100 + count] = peak
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                self.refused("has a sample of magnitude .* times the RMS of the rest; at most 10000 times is allowed",
                             self.sigmf(samples), window=100)
        samples[100] = 30
        Recording(self.sigmf(samples), window=100)
        source = Recording(self.sigmf(samples * np.float32(1e30)), window=100)  # its squares pass float32
        self.assertAlmostEqual(float(source.samples.square().sum(0).mean()), 1, delta=0.2)

    def test_wrong_types_are_refused(self):
        samples = noise(5000)
        self.refused("real samples .rf32_le.", self.sigmf(samples, datatype="rf32_le"), window=100)
        self.refused("2 channels; 1 is needed", self.sigmf(samples, num_channels=2), window=100)
        self.refused("cannot be read as SigMF", self.sigmf(samples, datatype="cx99"), window=100)

    def test_truncated_or_missing_files_are_refused(self):
        samples = noise(5000)
        path = self.sigmf(samples)
        data = path.with_suffix(".sigmf-data")
        data.write_bytes(data.read_bytes()[:-3])
        self.refused("truncated|cannot be read as SigMF", path, window=100)
        path = self.sigmf(samples, annotations=[{"core:sample_start": 4000, "core:sample_count": 2000}])
        self.refused("truncated: its metadata speak of 6000 samples, it has 5000", path, window=100)
        path = self.sigmf(samples, sha512="0" * 128)
        self.refused("cannot be read as SigMF: .*hash", path, window=100)
        path = self.sigmf(samples, "lone")
        path.with_suffix(".sigmf-data").unlink()
        self.refused("has no data beside it", path, window=100)
        path.write_text("{")
        self.refused("cannot be read as SigMF", path, window=100)

    def test_files_are_found_once_and_named_when_missing(self):
        path = self.sigmf(noise(5000))
        data = path.with_suffix(".sigmf-data")
        self.assertEqual(find_files([str(path), str(data), str(self.folder / "*")]), [path])
        self.refused("no recording is found at .*absent", str(self.folder / "absent*"), window=100)
        self.refused("no recording is found at", [str(path), str(self.folder / "absent.npy")], window=100)
        self.refused("must be a path or pattern", [], window=100)
        (self.folder / "notes.txt").write_text("x")
        self.refused("notes.txt has an unknown ending; allowed are .sigmf-meta", str(self.folder / "notes.txt"),
                     window=100)


def numbered(frames, length):
    """Frames [frames, length] of constant envelope, of magnitude 1, 2, 3 ... and random phase."""
    phase = np.random.default_rng(3).uniform(0, 2 * np.pi, (frames, length))
    return ((1 + np.arange(frames))[:, None] * np.exp(1j * phase)).astype(np.complex64)


class Npy(RecordingTest):
    def test_frames_are_split_within_each_sinr(self):
        metadata = np.array([[1.0, sinr, sinr + 0.1, "QPSK", "CommSignal2"] for sinr in (-30, -27, -24)
                             for _ in range(10)])  # gain, SINR asked for, SINR found, SOI, interference: all as text
        path = self.npy(numbered(30, 200), metadata=metadata)
        both = [self.frames_used(Recording(path, window=200, part=part), 200) for part in ("train", "validation")]
        self.assertEqual(np.round(both[0] * 26).tolist(), [1 + i for i in range(30) if i % 10 < 6])
        self.assertEqual(np.round(both[1] * 30).tolist(), [1 + i for i in range(30) if i % 10 >= 6])

    def test_frames_without_metadata(self):
        path = self.npy(numbered(10, 200))
        both = [self.frames_used(Recording(str(path), window=150, part=part), 200) for part in ("train", "validation")]
        self.assertEqual([len(part) for part in both], [6, 4])
        chosen = self.frames_used(Recording(path, window=10, frames=[2, 7], samples=[50, 150]), 100)
        self.assertEqual(np.round(chosen * 5).tolist(), [3, 4, 5])
        self.assertEqual(Recording(self.npy(noise(2, 200)), window=10, part="validation").samples.shape[1], 200)

    def test_wrong_files_are_refused(self):
        for frames, words in ((noise(200), "complex64 200; complex64 frames x samples are needed"),
                              (noise(3, 200).astype(np.complex128), "complex128 3 x 200"),
                              (noise(3, 200).real, "float32 3 x 200"), (noise(3, 0), "complex64 3 x 0")):
            self.refused(words, self.npy(frames), window=100)
        path = self.npy(noise(10, 200), metadata=np.zeros((9, 5)))
        self.refused("metadata.npy has shape .9, 5.; it must have 10 rows", path, window=100)
        for wrong in (np.full((10, 5), np.nan), np.full((10, 5), "QPSK"), np.zeros((10, 5), complex)):
            path = self.npy(noise(10, 200), metadata=wrong)
            self.refused("metadata.npy must hold the SINR of each frame second, as finite numbers", path, window=100)
        path = self.npy(noise(10, 300), "short")
        path.write_bytes(path.read_bytes()[:-100])
        self.refused("no .npy file of numbers or is truncated", path, window=100)
        path.write_bytes(b"")
        self.refused("no .npy file of numbers or is truncated", path, window=100)
        self.refused("does not say its sample rate", self.npy(noise(10, 200), "rate"), window=100, sample_rate=25e6)


@unittest.skipUnless(IN_TRAINING, "runs in the training environment")
class Hdf5(RecordingTest):
    def hdf5(self, name="EMISignal1_raw_data.h5", **keys):
        import h5py
        path = self.folder / name
        with h5py.File(path, "w") as file:
            for key, value in keys.items():
                file[key] = value
        return path

    def test_rf_challenge(self):
        path = self.hdf5(dataset=numbered(20, 300), sig_type=b"EMISignal1")
        both = [self.frames_used(Recording(path, window=300, part=part), 300) for part in ("train", "validation")]
        self.assertEqual(np.round(both[0] * 12).tolist(), list(range(1, 13)))
        self.assertEqual(np.round(both[1] * 20).tolist(), list(range(13, 21)))
        self.assertEqual(Recording(path, window=300)(4, generator()).shape, (4, 2, 300))

    def test_commsignal2_trains_on_its_first_100_frames(self):
        frames = numbered(150, 43560)
        frames[:, :5000] = frames[:, 40000:] = 1000
        path = self.hdf5("CommSignal2_raw_data.h5", dataset=frames, sig_type=b"CommSignal2")
        used = self.frames_used(Recording(path), 35000)
        self.assertEqual(np.round(used * 60).tolist(), list(range(1, 61)))
        used = self.frames_used(Recording(path, part="validation"), 35000)
        self.assertEqual(np.round(used * 100).tolist(), list(range(61, 101)))
        used = self.frames_used(Recording(path, part="validation", frames=[100, 150]), 35000)
        self.assertEqual(np.round(used * 150).tolist(), list(range(131, 151)))

    def test_wrong_files_are_refused(self):
        frames = noise(10, 300)
        self.refused("has no 'dataset'; it holds data, sig_type", self.hdf5(data=frames, sig_type=b"x"), window=100)
        self.refused("has no 'sig_type'; it holds dataset", self.hdf5(dataset=frames), window=100)
        self.refused("has no 'dataset'; it holds nothing", self.hdf5(), window=100)
        self.refused("complex128 10 x 300", self.hdf5(dataset=frames.astype(complex), sig_type=b"x"), window=100)
        self.refused("complex64 3000; ", self.hdf5(dataset=frames.ravel(), sig_type=b"x"), window=100)
        path = self.hdf5(dataset=frames, sig_type=b"EMISignal1")
        path.write_bytes(path.read_bytes()[:-5000])
        self.refused("no HDF5 file or is truncated", path, window=100)
        path.write_bytes(b"not HDF5")
        self.refused("no HDF5 file or is truncated", path, window=100)
        self.refused("does not say its sample rate", self.hdf5(dataset=frames, sig_type=b"x"), sample_rate=25e6)


@unittest.skipIf(importlib.util.find_spec("h5py"), "with h5py")
class WithoutHdf5(RecordingTest):
    def test_hdf5_is_refused_with_a_way_out(self):
        path = self.folder / "x.h5"
        path.write_bytes(b"")
        self.refused("needs h5py, which the training environment has", path)


if __name__ == "__main__":
    passed = unittest.main(exit=False).result.wasSuccessful()
    if passed and not IN_TRAINING:
        if not TRAINING_PYTHON.is_file():
            print("skipped: HDF5, as there is no training environment (make training-env)")
            sys.exit(SKIPPED)
        training = run_training(__file__, *sys.argv[1:])
        print(f"in the training environment:\n{training.stdout}{training.stderr}", file=sys.stderr)
        passed = training.returncode == 0
    sys.exit(not passed)
