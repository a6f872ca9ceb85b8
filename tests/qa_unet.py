# SPDX-License-Identifier: GPL-3.0-or-later
"""The supervised U-Net: what the shipped network does and which files and problems are refused, by torch alone; how it
is trained, resumed and exported, in the training environment.
"""

import contextlib
import copy
import importlib.util
import io
import json
import signal
import subprocess
import sys
import tempfile
import unittest
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from training_common import ROOT, TRAINING_PYTHON, run_training

IN_TRAINING = importlib.util.find_spec("sionna") is not None
if IN_TRAINING:
    sys.path.insert(0, str(ROOT / "training"))
    import loop
    import train_unet
    import unet as network
    import yaml
    from mixtures import HELD_OUT, TRAINING, Mixtures
else:
    from gnuradio.unmix import demodulation, priors, recording, signals
    from gnuradio.unmix.estimators import Levels, LevelTracker
    from gnuradio.unmix.separators import CancelFlag, Outcome, Problem, matched_filter
    from gnuradio.unmix.separators.unet import SHIPPED, unet
    from gnuradio.unmix.stream import StreamSeparator

torch.set_num_threads(1)


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)


# ------------------------------------------------------------------------------------------------------- run time

SOI, OFDM = "rrc:qpsk,sps=16,rolloff=0.5,span=8", "cp-ofdm:qpsk,fft=64,cp=16,active=56"
CARD = {"format": 1, "kind": "unet", "name": "made for a test", "window": 320, "soi": ["rrc:qpsk,sps=4"],
        "interference": ["cp-ofdm:bpsk,fft=16,cp=4,active=12"], "sir_db": [-9, -3], "snr_db": None,
        "training": "none", "licence": "GPL-3.0-or-later", "version": "1"}


class Half(nn.Module):
    def forward(self, mixture: Tensor) -> Tensor:
        return 0.5 * mixture


class Short(nn.Module):
    def forward(self, mixture: Tensor) -> Tensor:
        return mixture[:, :, 1:]


class Nan(nn.Module):
    def forward(self, mixture: Tensor) -> Tensor:
        return mixture * torch.where(mixture[:, :1, :1] > 0, float("nan"), 1.0)


class Raises(nn.Module):
    def forward(self, mixture: Tensor) -> Tensor:
        if mixture.size(2) > 3:
            raise RuntimeError("never")
        return mixture


class TwoInputs(nn.Module):
    def forward(self, mixture: Tensor, more: Tensor) -> Tensor:
        return mixture + more


def mixture(seed, windows, sir_db, samples=2560):
    """SOIs complex64 [W, N] with their bits, and mixtures with OFDM (QPSK)."""
    rng = np.random.default_rng(seed)
    soi, bits = signals.linear_modulation(rng, windows, samples // 16)
    return soi, bits, soi + np.float32(signals.kappa(sir_db)) * signals.cp_ofdm(rng, windows, samples)[0]


def problem(waves, sir_db, soi=SOI, interference=OFDM, scale=1.0, **options):
    gains = np.array([1.0, signals.kappa(sir_db)]) * scale
    return Problem(waves * np.float32(scale), [priors.parse(soi), priors.parse(interference)], gains, **options)


@unittest.skipIf(IN_TRAINING, "runs without TensorFlow")
class ShippedNetwork(unittest.TestCase):
    def test_is_better_than_the_matched_filter(self):
        modulation = priors.parse(SOI).modulation
        for sir_db, most in LIMITS.items():
            soi, bits, waves = mixture(1, 48, sir_db)
            task = problem(waves, sir_db)
            found, filtered = unet(task), matched_filter(task)
            errors = [np.mean(np.abs(result.sources[0] - soi) ** 2) for result in (found, filtered)]
            self.assertLess(errors[0], most * errors[1], sir_db)
            wrong = [demodulation.count_errors(demodulation.decide(demodulation.matched_filter(
                result.sources[0], modulation), modulation), bits).rate for result in (found, filtered)]
            self.assertLess(wrong[0], 0.6 * wrong[1], sir_db)

    def test_the_sources_add_up_to_the_mixture_in_its_amplitude(self):
        _, _, waves = mixture(2, 3, -12)
        for scale in (1.0, 1e-3, 40.0):
            task = problem(waves, -12, scale=scale)
            found = unet(task)
            together = np.einsum("wk,kwn->wn", found.gains, found.sources)
            self.assertLess(np.abs(together - task.mixture).max(), 1e-5 * np.abs(task.mixture).max())
            np.testing.assert_allclose(found.sources, unet(problem(waves, -12)).sources, atol=2e-3)
            self.assertTrue((found.outcomes == int(Outcome.STEPS_USED)).all())
            self.assertTrue((found.disagreement > 0).all())

    def test_the_answer_does_not_depend_on_the_batch_or_the_threads(self):
        _, _, waves = mixture(3, 5, -9)
        one = unet(problem(waves, -9, batch=1)).sources
        threads = torch.get_num_threads()
        np.testing.assert_allclose(unet(problem(waves, -9, batch=4, threads=2)).sources, one, atol=1e-4)
        self.assertEqual(torch.get_num_threads(), threads)

    def test_is_cancelled_between_batches(self):
        _, _, waves = mixture(4, 4, -9)
        flag = CancelFlag()
        found = unet(problem(waves, -9, batch=2, cancel=flag, progress=lambda share, done: done < 2 or flag.set()))
        self.assertEqual(found.outcomes.tolist(), [int(Outcome.STEPS_USED)] * 2 + [int(Outcome.UNTOUCHED)] * 2)

    def test_is_chosen_by_the_signals_whatever_their_priors(self):
        _, _, waves = mixture(5, 2, -12)
        expected = unet(problem(waves, -12)).sources
        for soi, interference in (("rrc:qpsk", "cp-ofdm:qpsk"), ("rrc:qpsk,ends=isolated", OFDM),
                                  ("rrc-qpsk", "ofdm-qpsk"), (SOI, "cp-ofdm:qpsk,sync=estimated")):
            np.testing.assert_array_equal(unet(problem(waves, -12, soi, interference)).sources, expected)

    def test_refuses_what_it_was_not_trained_on(self):
        _, _, waves = mixture(6, 2, -12)
        for soi, interference in (
                ("rrc:bpsk", OFDM), ("rrc:qpsk,rolloff=0.25", OFDM), ("rrc:qpsk,first=7", OFDM),
                ("rrc:qpsk,sync=unknown", OFDM), ("rrc-qpsk-unsynced", OFDM), ("rrc-8psk", OFDM),
                (SOI, "cp-ofdm:16qam"), (SOI, "cp-ofdm:qpsk,fft=32,cp=8"), (SOI, "wifi"), (OFDM, SOI)):
            with self.assertRaisesRegex(ValueError, f"^no U-Net .* under .*; there is one for {SOI}.* under {OFDM}$"):
                unet(problem(waves, -12, soi, interference))
        for sir_db in (-26, 0):
            with self.assertRaisesRegex(ValueError, f"trained on an SIR of -24 to -3 dB; a window has {sir_db:.1f} dB"):
                unet(problem(waves, sir_db))
        unet(problem(waves, -24.5))  # an estimated level
        with self.assertRaisesRegex(ValueError, "trained on windows of 2560 samples, not 1280"):
            unet(problem(waves[:, :1280], -12))
        three = [priors.parse(spec) for spec in (SOI, OFDM, OFDM)]
        with self.assertRaisesRegex(ValueError, "two sources only"):
            unet(Problem(waves, three, [1, 2, 2]))

    def test_in_a_stream_windows_pass_through_while_the_levels_are_others(self):
        y = mixture(8, 8, -12)[2].reshape(-1)
        used = [priors.parse(SOI), priors.parse(OFDM)]
        tracker = LevelTracker(used, sir_db=-30.0)
        separator = StreamSeparator(used, tracker, "unet", batch=2)
        passed = separator.push(y[:8000], flush=True)
        self.assertEqual({r.outcome for r in passed.reports}, {"refused"})
        self.assertFalse(any(r.separated for r in passed.reports))
        self.assertIn("trained on an SIR of -24 to -3 dB; a window has -30.0 dB", separator.refusal)
        np.testing.assert_array_equal(passed.sources[0], y[:passed.sources.shape[1]])
        tracker.sir_db = -12.0
        rest = [separator.push(y[8000:], flush=True), separator.finish()]
        self.assertTrue(all(r.separated for stretch in rest for r in stretch.reports))
        self.assertEqual(rest[1].start + rest[1].sources.shape[1], len(y))
        fixed = StreamSeparator(used, Levels(np.array([1.0, 10**1.5]), 0.0), "unet")  # these never change
        with self.assertRaisesRegex(ValueError, "a window has -30.0 dB"):
            fixed.push(y, flush=True)

    def test_a_long_capture_whose_levels_it_refuses_throughout_is_refused(self):
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(recording, "MEMORY", 2304):
            # Long is what has more than 18,432 samples.
            capture = Path(folder, "mix.cf32")
            mixture(9, 10, 1)[2].astype(np.complex64).tofile(capture)
            said = []
            with self.assertRaisesRegex(recording.RecordingError, "trained on an SIR of -24 to -3 dB; a window has"):
                recording.separate_recording(recording.Settings(
                    str(capture), soi=SOI, interference=(OFDM,), method="unet", output=str(Path(folder, "out"))),
                    "test", announce=said.append)
            self.assertIn("levels: estimated again along the capture", said)
            self.assertEqual([path.name for path in Path(folder).rglob("*")], ["mix.cf32"])

    def test_each_file_has_a_card(self):
        files = sorted(SHIPPED.glob("*.pt"))
        self.assertIn("unet-ofdm-qpsk", [file.stem for file in files])
        for file in files:
            self.assertLess(file.stat().st_size, 30e6)
            text = file.with_suffix(".md").read_text()
            for word in (f"# {file.stem}", "Training", "Command", "Licence", "Measured with", "Falls short"):
                self.assertIn(word, text)

    def test_needs_neither_tensorflow_nor_keras(self):
        self.assertFalse({"tensorflow", "keras"} & set(sys.modules))


@unittest.skipIf(IN_TRAINING, "runs without TensorFlow")
class Files(Folder):
    def store(self, module, file="made.pt", /, **card):
        """A separator file; entries of its card replaced, None takes one away."""
        entries = {key: value for key, value in (CARD | card).items() if value is not None or key == "snr_db"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.script(module), str(self.folder / file),
                           _extra_files={"separator.json": json.dumps(entries)})
        return self.folder / file

    def small(self, windows=2):
        rng = np.random.default_rng(1)
        soi = signals.linear_modulation(rng, windows, 80, sps=4)[0]
        waves = soi + 2 * signals.cp_ofdm(rng, windows, 320, "bpsk", 16, 4, 12)[0]
        return Problem(waves, [priors.parse("rrc:qpsk,sps=4"), priors.parse(CARD["interference"][0])], [1, 2])

    def refused(self, words, path):
        with self.assertRaisesRegex(ValueError, words) as caught:
            unet(self.small(), path)
        self.assertNotIn("\n", str(caught.exception))

    def test_a_file_of_ones_own(self):
        task = self.small()
        found = unet(task, self.store(Half()))
        np.testing.assert_allclose(found.sources[0], 0.5 * task.mixture, atol=1e-6)
        np.testing.assert_allclose(found.sources[1], 0.25 * task.mixture, atol=1e-6)
        self.assertEqual(found.calls.tolist(), [0, 0])

    def test_a_window_with_a_broken_answer_is_marked(self):
        task = self.small(8)
        found = unet(task, str(self.store(Nan())))
        broken = task.mixture[:, 0].real > 0
        self.assertTrue(0 < broken.sum() < 8)
        self.assertEqual((found.outcomes == int(Outcome.DIVERGED)).tolist(), broken.tolist())
        self.assertTrue(np.isfinite(found.sources).all())

    def test_a_file_that_changed_is_read_again(self):
        unet(self.small(), self.store(Half()))
        path = self.store(Half(), sir_db=[-5, -4])
        self.refused("an SIR of -5 to -4 dB; a window has -6.0 dB", path)

    def test_wrong_files(self):
        self.refused("'.*absent.pt' cannot be read: No such file", self.folder / "absent.pt")
        self.refused("cannot be read|no regular file", self.folder)
        self.refused("is not a TorchScript file", Path(__file__))
        self.refused("no separator.json inside", priors.__path__[0] + "/shipped/rrc-qpsk.pt")
        with self.assertRaisesRegex(priors.PriorError, "without prior.json"):
            priors.load(str(self.store(Half())))
        whole = self.store(Half()).read_bytes()
        for name, content in (("short.pt", whole[:-100]), ("damaged.pt", whole.replace(b"Half", b"Hal!"))):
            (self.folder / name).write_bytes(content)
            self.refused("is not a TorchScript file", self.folder / name)

    def test_wrong_networks(self):
        self.refused("must take one tensor and return one", self.store(TwoInputs()))
        self.refused("must answer windows with windows of the same shape", self.store(Short(), "short.pt"))
        self.refused("the network of '.*' fails: .*never", self.store(Raises(), "raises.pt"))

    def test_wrong_cards(self):
        for number, (words, entry) in enumerate((
                ("of another kind", {"kind": "diffwave"}), ("of another kind", {"format": 2}),
                ("must name the network in one line", {"name": "two\nlines"}), ("must name", {"name": None}),
                ("window of .* must be a whole number", {"window": "320"}), ("window of .* must", {"window": True}),
                ("soi of .* must be a list", {"soi": "rrc:qpsk"}), ("soi of .* must be a list", {"soi": []}),
                ("soi of .* must be a list", {"soi": ["/etc/passwd"]}),
                ("interference of .* must be a list", {"interference": ["gaussian:/etc/passwd"]}),
                ("interference of .* must be a list", {"interference": ["cp-ofdm:auto,recording=x"]}),
                ("names signals that are none: unknown constellation", {"soi": ["rrc:qpsk2"]}),
                ("sir_db of .* must be two numbers", {"sir_db": [3, -3]}),
                ("sir_db of .* must be two numbers", {"sir_db": None}),
                ("trained on windows of 640 samples, not 320", {"window": 640}),
                ("not trained on rrc:qpsk,sps=4; its soi is rrc:bpsk", {"soi": ["rrc:bpsk"]}),
                ("not trained on cp-ofdm:bpsk.*; its interference is cp-ofdm:qpsk", {"interference": ["cp-ofdm:qpsk"]}),
        )):
            with self.subTest(entry):
                self.refused(words, self.store(Half(), f"{number}.pt", **entry))
        for number, text in enumerate(("{", "[]", "[" * 100_000)):
            path = self.folder / f"text{number}.pt"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.jit.save(torch.jit.script(Half()), str(path), _extra_files={"separator.json": text})
            self.refused("separator.json that is no JSON|of another kind", path)


# ------------------------------------------------------------------------------------------------------- training

CONFIG = {
    "name": "tiny", "licence": "GPL-3.0-or-later",
    "data": {"soi": [{"kind": "linear", "sps": 4, "window": 320},
                     {"kind": "linear", "sps": 4, "window": 320, "ends": "isolated"}],
             "interference": {"kind": "cp-ofdm", "constellation": "bpsk", "fft": 16, "cp": 4, "active": 12,
                              "window": 320}, "sir_db": [-6, 0], "snr_db": [20, 30]},
    "network": {"kind": "unet", "width": 8, "first_kernel": 21, "dropout": [0.1, 0.1]},
    "training": {"steps": 120, "batch": 8, "rate": 0.005, "warmup": 10, "ema": 0.95, "seed": 3, "log_every": 10},
}


def changed(**parts):
    """CONFIG with entries of its parts replaced; None takes an entry away."""
    config = copy.deepcopy(CONFIG)
    for name, values in parts.items():
        config[name] = {key: value for key, value in (config[name] | values).items() if value is not None}
    return config


@unittest.skipUnless(IN_TRAINING, "runs in the training environment")
class Training(Folder):
    def run_main(self, config, *arguments):
        """train_unet.main() in this process; returns its status and what it said."""
        path, said = self.folder / "config.yaml", io.StringIO()
        path.write_text(json.dumps(config))  # JSON is YAML
        with contextlib.redirect_stderr(said):
            status = train_unet.main([str(path), "--device", "cpu", *map(str, arguments)])
        return status, said.getvalue()

    def refused(self, words, config, *arguments):
        status, said = self.run_main(config, "--runs", self.folder, *arguments)
        self.assertEqual(status, 2, said)
        self.assertEqual(said.count("\n"), 1, said)
        self.assertRegex(said, f"^train_unet.py: .*{words}")

    def test_trains_resumes_and_exports_what_tensorflow_answers(self):
        whole, parts, output = self.folder / "whole", self.folder / "parts", self.folder / "tiny.pt"
        status, said = self.run_main(CONFIG, "--runs", whole, "--output", output)
        self.assertEqual(status, 0, said)
        self.assertRegex(said, r"minutes, 0\.0 left; held-out error at -6 dB")
        self.assertTrue((whole / "tiny" / "curves.png").is_file())
        one = network.load_checkpoint(whole / "tiny" / "checkpoint.npz")
        losses = [loss for _, loss in json.loads(str(one["run"]))["losses"]]
        self.assertLess(losses[-1], 0.9 * losses[0])

        # Ctrl-C, and on: the same run
        advance = train_unet.Run.advance

        def interrupted(run):
            if run.step == 44:
                signal.raise_signal(signal.SIGINT)  # this step is still finished
            advance(run)

        with mock.patch.object(train_unet.Run, "advance", interrupted), mock.patch.object(loop, "SAVE_EVERY", 0):
            status, said = self.run_main(CONFIG, "--runs", parts, "--output", self.folder / "early.pt")
        self.assertEqual(status, 3, said)
        self.assertIn("--resume", said)
        self.assertFalse((self.folder / "early.pt").exists())
        checkpoint = parts / "tiny" / "checkpoint.npz"
        self.assertEqual(json.loads(str(network.load_checkpoint(checkpoint)["run"]))["step"], 45)
        checkpoint.write_bytes(checkpoint.read_bytes()[:-5000])  # the one before is taken
        status, said = self.run_main(CONFIG, "--runs", parts, "--resume")
        self.assertEqual(status, 0, said)
        self.assertRegex(said, "no whole checkpoint.*trying the one before\ngoing on from .*previous: step 4[45]")
        two = network.load_checkpoint(checkpoint)
        self.assertEqual(set(one), set(two))
        for name in sorted(set(one) - {"run"}):
            np.testing.assert_array_equal(one[name], two[name], name)
        self.refused("another network than this", changed(network={"width": 16}), "--runs", parts, "--resume")
        self.refused("nothing to resume", CONFIG, "--runs", self.folder / "none", "--resume")

        # the same answers by torch, in windows of its own too
        extra = {"separator.json": ""}
        module = torch.jit.load(str(output), _extra_files=extra)
        with torch.no_grad():
            answer = module(torch.from_numpy(one["probe"]).transpose(1, 2)).transpose(1, 2).numpy()
        self.assertLess(np.abs(answer - one["answer"]).max(), 1e-4)
        self.assertGreater(np.abs(one["answer"]).max(), 0.1)
        self.assertNotIn("Device", str(module.inlined_graph))  # of the machine that exported it
        self.assertNotIn(str(self.folder).encode(), output.read_bytes())
        card = json.loads(extra["separator.json"])
        self.assertEqual((card["format"], card["kind"], card["name"], card["window"], card["sir_db"], card["snr_db"]),
                         (1, "unet", "tiny", 320, [-6, 0], [20, 30]))
        self.assertEqual(card["soi"], ["rrc:qpsk,sps=4,rolloff=0.5,span=8",
                                       "rrc:qpsk,sps=4,rolloff=0.5,span=8,ends=isolated"])
        self.assertRegex(card["training"], "^train_unet.py config.yaml: 120 steps of 8 windows, .* on a CPU; rrc:qpsk")

        # a file is written only where the two agree
        for change, words in (({"answer": one["answer"] + np.float32(0.001)}, "differs from TensorFlow by 0.001"),
                              ({"average/0": one["average/0"][:-1]}, "not those of its network"),
                              ({"average/2": one["average/2"] * np.float32("nan")}, "not finite")):
            np.savez(self.folder / "changed.npz", **(one | change))
            done = run_here("export_unet.py", self.folder / "changed.npz", "--output", self.folder / "changed.pt")
            self.assertEqual((done.returncode, done.stderr.count("\n")), (2, 1), done.stderr)
            self.assertRegex(done.stderr, f"^export_unet.py: .*{words}")
            self.assertFalse((self.folder / "changed.pt").exists())

    def test_bad_configurations_are_one_sentence(self):
        for words, config in (
                ("needs the entries name", {"name": "tiny"}), ("the name is 'a/b'", CONFIG | {"name": "a/b"}),
                ("takes no 'epochs'", changed(training={"epochs": 3})),
                ("rate -1; it must be a number above zero", changed(training={"rate": -1})),
                ("schedule 'step'", changed(training={"schedule": "step"})),
                ("needs minutes or steps", changed(training={"steps": None})),
                ("kind must be unet", changed(network={"kind": "patchnet"})),
                ("takes no 'depth'", changed(network={"depth": 3})),
                ("width 12; allowed are multiples of 8", changed(network={"width": 12})),
                ("first_kernel 20; allowed are odd", changed(network={"first_kernel": 20})),
                ("dropout .* two shares", changed(network={"dropout": 0.5})),
                ("sir_db .* lower one first", changed(data={"sir_db": [0, -6]})),
                ("the data cannot be made", changed(data={"power": 1})),
                ("soi must be of kind linear", changed(data={"soi": CONFIG["data"]["interference"]})),
                ("they must be equal", changed(data={"soi": {"sps": 4, "window": 640}})),
                ("multiple of 32 samples", changed(data={"soi": {"sps": 4, "window": 300}, "interference": {
                    "kind": "cp-ofdm", "window": 300}})),
                ("no closed form", changed(data={"soi": {"sps": 4, "window": 320, "timing": "random"}}))):
            with self.subTest(words):
                self.refused(words, config)
        self.refused("there is no folder", CONFIG, "--output", self.folder / "absent" / "x.pt")
        self.refused("at least 1", CONFIG, "--threads", 0)
        (self.folder / "not.npz").write_bytes(b"PK\x03\x04")
        with self.assertRaisesRegex(ValueError, "no whole checkpoint"):
            network.load_checkpoint(self.folder / "not.npz")

    def test_the_configurations_here_are_read(self):
        for path in sorted((ROOT / "training" / "configs" / "unet").glob("*.yaml")):
            config = train_unet.checked(yaml.safe_load(path.read_text()))
            self.assertEqual(config["name"], f"unet-{path.stem}")
            self.assertEqual(Mixtures(**config["data"]).window, 2560)
            self.assertEqual(network.unet_from(config["network"], 2560).output_shape, (None, 2560, 2))

    def test_mixtures_are_pairs_at_the_levels_asked_for(self):
        data = CONFIG["data"] | {"snr_db": None}
        source = Mixtures(**data)
        key = (TRAINING, 1, 7)
        y, s = source.draw(64, key, -6.0)
        self.assertEqual((y.shape, y.dtype, s.shape, s.dtype), ((64, 320, 2), np.float32, (64, 320, 2), np.float32))
        self.assertAlmostEqual(np.square(s).sum(2).mean(), 1, delta=0.05)
        self.assertAlmostEqual(np.square(y - s).sum(2).mean(), 10**0.6, delta=0.2)
        power = np.square(np.subtract(*source.draw(400, (TRAINING, 1, 8)))).sum(2).mean(1)
        sir = -10 * np.log10(power)
        self.assertTrue(-7 < sir.min() < -5.5 and -0.5 < sir.max() < 1 and abs(np.mean(sir) + 3) < 0.3)
        noisy = Mixtures(**data | {"snr_db": [20, 20]}).draw(64, key, -6.0)
        np.testing.assert_array_equal(noisy[1], s)
        self.assertAlmostEqual(np.square(noisy[0] - y).sum(2).mean(), 0.01, delta=0.001)
        for other, same in ((key, True), ((TRAINING, 1, 8), False), ((TRAINING, 3, 7), False),
                            ((TRAINING, 1 + 2**32, 7), False), ((HELD_OUT, 1, 7), False)):
            self.assertEqual(np.array_equal(source.draw(64, other, -6.0)[0], y), same, other)
        # half of them isolated: without symbols before the window, whose tails reach into it
        edge = np.square(source.draw(512, (TRAINING, 1, 9))[1][:, 0]).sum(1)
        self.assertGreater(edge[:256].mean(), edge[256:].mean() + 0.1)


def run_here(script, *arguments):
    """A script of training/ in a process of its own, which chooses its own backend of Keras."""
    return subprocess.run([sys.executable, ROOT / "training" / script, *map(str, arguments)], text=True,
                          capture_output=True, check=False)


#: At an SIR: most that the shipped network's mean squared error may be, relative to the matched filter's.
LIMITS = {-24: 0.4, -15: 0.4, -9: 0.5}

if __name__ == "__main__":
    passed = unittest.main(exit=False).result.wasSuccessful()
    if not IN_TRAINING:
        if TRAINING_PYTHON.is_file():
            training = run_training(__file__, *sys.argv[1:])
            print(f"in the training environment:\n{training.stdout}{training.stderr}", file=sys.stderr)
            passed = passed and training.returncode == 0
        else:
            print("its training half is skipped: there is no training environment (make training-env)", file=sys.stderr)
    sys.exit(not passed)
