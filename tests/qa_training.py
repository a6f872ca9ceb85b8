# SPDX-License-Identifier: GPL-3.0-or-later
"""train.py: short runs on the CPU, interrupted and resumed, from broken checkpoints and bad configurations.

The command line and the prior that it writes are tested here, with the engine; the rest in the training environment.
"""

import contextlib
import copy
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from training_common import ROOT, TRAINING_PYTHON, run_training, skip_without_training

IN_TRAINING = importlib.util.find_spec("sionna") is not None
if IN_TRAINING:
    sys.path.insert(0, str(ROOT / "training"))
    import loop
    import train
    import yaml
else:
    from gnuradio import unmix

torch.set_num_threads(1)

CONFIG = {
    "name": "tiny", "licence": "GPL-3.0-or-later",
    "data": {"constellation": "qpsk", "sps": 4, "window": 320},
    "network": {"kind": "patchnet", "patch": 4, "reach": 9, "v_min": 0.01, "v_max": 2.0},
    "training": {"steps": 60, "batch": 8, "rate": 0.005, "warmup": 10, "ema": 0.95, "seed": 1, "log_every": 5},
}
OFDM = {"kind": "cp-ofdm", "constellation": "bpsk", "fft": 16, "cp": 4, "active": 12, "window": 320}
DIFFWAVE = {"kind": "diffwave", "channels": 4, "blocks": 2, "cycle": 2}


def changed(**parts):
    """CONFIG with entries of its parts replaced; None takes an entry away."""
    config = copy.deepcopy(CONFIG)
    for name, values in parts.items():
        config[name] |= values
        config[name] = {key: value for key, value in config[name].items() if value is not None}
    return config


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def store(self, config):
        path = self.folder / "config.yaml"
        path.write_text(config if isinstance(config, str) else json.dumps(config))  # JSON is YAML
        return path


@unittest.skipIf(IN_TRAINING, "runs with the engine")
class CommandLine(Folder):
    def test_trains_and_writes_a_prior_that_the_engine_reads(self):
        prior = self.folder / "prior.pt"
        config = self.store(changed(training={"steps": 400, "batch": 16}))
        done = run_training(ROOT / "training" / "train.py", config, "--device", "cpu", "--threads", 1, "--runs",
                            self.folder / "runs", "--output", prior)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("400 steps", done.stderr)
        left = {path.name for path in (self.folder / "runs" / "tiny").iterdir()}
        self.assertLessEqual({"checkpoint.pt", "curves.png"}, left)
        self.assertTrue(any(name.startswith("events.out.tfevents") for name in left))

        loaded = unmix.priors.load(str(prior))
        info = loaded.info
        self.assertEqual((info["name"], info["window"], info["samples_per_symbol"], info["invariances"]),
                         ("tiny", 320, 4, []))
        self.assertEqual(info["modulation"], {"constellation": "qpsk", "samples_per_symbol": 4, "rolloff": 0.5,
                                              "span": 8, "first": 2})
        self.assertEqual(info["simulation"], "rrc:qpsk,sps=4,rolloff=0.5,span=8")
        self.assertRegex(info["training"], "^train.py config.yaml: 400 steps of 16 windows")
        self.assertTrue(np.allclose(info["alpha_bar"], [1 / 3, 1 / 1.01]))
        self.assertNotIn(str(self.folder), json.dumps(info))

        rng = np.random.default_rng(5)
        clean = np.concatenate([unmix.signals.linear_modulation(rng, 1, 100, sps=4)[0][:, 40:360] for _ in range(200)])
        v = 0.3
        noisy = clean + unmix.signals.noise(rng, clean.shape, 2 * v)
        alpha_bar = np.full(len(clean), 1 / (1 + v), np.float32)
        error = np.mean(np.abs(loaded.denoise(noisy * np.float32(np.sqrt(1 / (1 + v))), alpha_bar) - clean) ** 2)
        self.assertLess(error, 0.06)  # the best linear estimate: 0.13; found: 0.02

    def test_ctrl_c_saves_and_writes_no_prior(self):
        prior = self.folder / "prior.pt"
        config = self.store(changed(training={"steps": None, "minutes": 5}))
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        process = subprocess.Popen(
            [TRAINING_PYTHON, ROOT / "training" / "train.py", config, "--device", "cpu", "--threads", "1", "--runs",
             self.folder / "runs", "--output", prior], env=environment, text=True, stderr=subprocess.PIPE)
        try:
            patience = time.monotonic() + 60
            while process.poll() is None and not list(self.folder.glob("runs/tiny/events*")) and (
                    time.monotonic() < patience):
                time.sleep(0.1)
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        self.assertEqual(process.returncode, 3, errors)
        self.assertIn("--resume", errors)
        self.assertNotIn("Traceback", errors)
        self.assertFalse(prior.exists())
        self.assertTrue((self.folder / "runs" / "tiny" / "checkpoint.pt").is_file())

    def test_bad_input_is_one_sentence(self):
        done = run_training(ROOT / "training" / "train.py", self.folder / "absent.yaml")
        self.assertEqual(done.returncode, 2)
        self.assertRegex(done.stderr, r"^train\.py: .*absent\.yaml.*\n$")


@unittest.skipUnless(IN_TRAINING, "runs in the training environment")
class Training(Folder):
    def run_main(self, config, *arguments, runs="runs"):
        """main() in this process; returns its status and what it said. Of two --device the last counts."""
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            status = train.main([str(self.store(config)), "--device", "cpu", "--runs", str(self.folder / runs),
                                 *map(str, arguments)])
        return status, said.getvalue()

    def checkpoint(self, runs="runs", name="checkpoint.pt"):
        return torch.load(self.folder / runs / "tiny" / name, weights_only=True)

    def interrupted(self, config, step, runs="runs"):
        """Start a run that Ctrl-C ends after some steps, and that saves at every step."""
        advance = train.Run.advance

        def stop(run):
            if run.step == step - 1:
                signal.raise_signal(signal.SIGINT)  # this step is still finished
            advance(run)

        with mock.patch.object(train.Run, "advance", stop), mock.patch.object(loop, "SAVE_EVERY", 0):
            status, said = self.run_main(config, "--output", self.folder / "early.pt", runs=runs)
        self.assertEqual(status, 3, said)
        self.assertEqual(self.checkpoint(runs)["step"], step)
        self.assertFalse((self.folder / "early.pt").exists())

    def same(self, first, second):
        """Two checkpoints hold the same loss curve and the same weights."""
        self.assertEqual(first["losses"], second["losses"])
        self.assertEqual(first["validation"], second["validation"])
        for part in ("model", "average"):
            for key, value in first[part].items():
                self.assertTrue(torch.equal(value, second[part][key]), key)

    def refused(self, words, config, *arguments):
        status, said = self.run_main(config, *arguments)
        self.assertEqual(status, 2, said)
        self.assertEqual(said.count("\n"), 1, said)
        self.assertRegex(said, words)

    def test_interrupted_and_resumed_equals_uninterrupted(self):
        for number, config in enumerate((CONFIG, changed(data=OFDM | {"sps": None}, network={
                **dict.fromkeys(CONFIG["network"]), **DIFFWAVE}))):
            runs = [f"whole{number}", f"parts{number}"]
            status, said = self.run_main(config, runs=runs[0])
            self.assertEqual(status, 0, said)
            self.interrupted(config, 23, runs[1])
            status, said = self.run_main(config, "--resume", runs=runs[1])
            self.assertEqual(status, 0, said)
            self.assertRegex(said, r"going on from .*checkpoint\.pt: step 23")
            self.same(self.checkpoint(runs[0]), self.checkpoint(runs[1]))
            self.assertEqual(self.checkpoint(runs[1])["step"], 60)
            self.assertEqual(len(self.checkpoint(runs[1])["losses"]), 12)

    def test_a_broken_checkpoint_is_refused_and_the_one_before_used(self):
        status, _ = self.run_main(CONFIG, runs="whole")
        self.assertEqual(status, 0)
        newest, before = (self.folder / "runs" / "tiny" / f"checkpoint.{end}" for end in ("pt", "previous"))
        other = io.BytesIO()
        torch.save({"a": 1}, other)
        for damage in (lambda whole: whole[:len(whole) // 2], lambda whole: b"", lambda whole: b"no checkpoint",
                       lambda whole: other.getvalue()):
            self.interrupted(CONFIG, 30)
            newest.write_bytes(damage(newest.read_bytes()))
            status, said = self.run_main(CONFIG, "--resume")
            self.assertEqual(status, 0, said)
            self.assertRegex(said, r"the checkpoint .*checkpoint\.pt is broken")
            self.assertRegex(said, r"going on from .*checkpoint\.previous: step (29|30)")
            self.same(self.checkpoint("whole"), self.checkpoint())
        newest.write_bytes(b"")
        before.write_bytes(b"")
        status, said = self.run_main(CONFIG, "--resume")
        self.assertEqual(status, 2)
        self.assertIn("nothing to resume", said)

    def test_a_flipped_bit_is_found(self):
        self.interrupted(CONFIG, 3)
        newest = self.folder / "runs" / "tiny" / "checkpoint.pt"
        whole = newest.read_bytes()
        weights = self.checkpoint()["model"]["network.synthesis"].numpy().tobytes()
        place = whole.index(weights)
        newest.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:])
        self.checkpoint()  # torch does not mind
        status, said = self.run_main(CONFIG, "--resume")
        self.assertEqual(status, 0, said)
        self.assertRegex(said, r"checkpoint\.pt is broken \(the checksum of .*data/\d+ is wrong\); trying the one")
        self.assertRegex(said, r"going on from .*checkpoint\.previous: step [23]")

    def test_resume_says_which_settings_are_new_and_uses_them(self):
        self.interrupted(CONFIG, 4)
        status, said = self.run_main(CONFIG, "--resume", "--steps", 5)
        self.assertEqual(status, 0, said)
        self.assertNotIn("was", said)
        new = {"batch": 6, "rate": 0.001, "optimizer": "adam", "seed": 2, "log_every": 2}
        config, runs = changed(training=new | {"steps": 12}), []
        with mock.patch.object(loop, "train", lambda run, folder, train=loop.train: runs.append(run) or train(
                run, folder)):
            status, said = self.run_main(config, "--resume")
        self.assertEqual(status, 0, said)
        self.assertRegex(said, r"from here on it has batch 6 \(was 8\), rate 0.001 \(was 0.005\), optimizer adam \(was "
                               r"adamw\), seed 2 \(was 1\), log_every 2 \(was 5\)\n")
        fresh = train.Run(config, "cpu").optimizer.param_groups[0]
        used = runs[0].optimizer.param_groups[0]
        self.assertEqual({key: used[key] for key in used if key not in ("params", "lr")},
                         {key: fresh[key] for key in fresh if key not in ("params", "lr")})
        self.assertGreater(len(self.checkpoint()["losses"]), 2)

    def test_resume_with_another_seed_draws_other_windows(self):
        self.interrupted(CONFIG, 4)
        drawn = []
        for seed in (1, 2):
            with contextlib.redirect_stderr(io.StringIO()):
                run = train.Run(changed(training={"seed": seed}), "cpu")
                loop.resume(run, self.folder / "runs" / "tiny" / "checkpoint.pt")
            drawn.append(run.generator.get_state())
        self.assertTrue(torch.equal(drawn[0], self.checkpoint()["generator"]))
        self.assertFalse(torch.equal(*drawn))

    def test_what_cannot_be_written_is_refused_before_training(self):
        locked = self.folder / "file"
        locked.touch()
        with mock.patch.object(loop, "train", side_effect=AssertionError):
            for words, *arguments in (
                    ("there is no folder .*absent", "--output", self.folder / "absent" / "prior.pt"),
                    ("there is no folder .*file", "--output", locked / "prior.pt"),
                    ("it is a folder", "--output", self.folder),
                    ("half storage is for DiffWave", "--output", self.folder / "prior.pt", "--half")):
                self.refused(words, CONFIG, *arguments)
        self.assertEqual(list(self.folder.glob("runs*")), [])

    def test_a_device_that_is_not_here_is_refused_in_a_short_sentence(self):
        with mock.patch.object(torch.cuda, "is_available", lambda: False):
            for device in ("foo", "meta", "cuda:foo") + (() if torch.cuda.device_count() else ("cuda",)):
                self.refused(f"^train.py: device '{device}' is not on this machine; it has cpu\n$", CONFIG, "--device",
                             device)

    def test_the_card_names_no_file_where_there_is_none(self):
        run = train.Run(CONFIG, "cpu")
        card = train.write(run, self.folder / "prior.pt")
        self.assertRegex(card["training"], "^train.py: 0 steps of 8 windows")

    def test_resume_refuses_another_network_other_data_or_nothing(self):
        self.refused("nothing to resume: no usable checkpoint at", CONFIG, "--resume")
        self.interrupted(CONFIG, 2)
        for config in (changed(network={"reach": 11}), changed(data={"constellation": "bpsk"})):
            self.refused("checkpoint .* does not fit|is from another", config, "--resume")

    def test_minutes_count_resumed_time(self):
        config = changed(training={"steps": None, "minutes": 0.02})
        status, said = self.run_main(config)
        self.assertEqual(status, 0, said)
        first = self.checkpoint()
        self.assertTrue(1.2 <= first["seconds"] < 10)
        status, said = self.run_main(config, "--resume", "--minutes", 0.04)
        self.assertEqual(status, 0, said)
        second = self.checkpoint()
        self.assertTrue(2.4 <= second["seconds"] < 20)
        self.assertGreater(second["step"], first["step"])

    def test_bad_configurations_are_refused_in_a_sentence(self):
        for words, config in (
                ("train.py: ", "name: [unclosed"), ("a configuration needs", "just text"), ("needs", {"name": "tiny"}),
                ("'stepz'; allowed are .*steps", changed(training={"stepz": 5})),
                ("'depth'", changed(network={"depth": 5})),
                ("unknown parameter 'sp' of data kind linear; allowed are", changed(data={"sp": 4})),
                ("data kind 'chirp' is unknown", changed(data={"kind": "chirp"})),
                ("network kind 'unet' is unknown", changed(network={"kind": "unet"})),
                ("minutes or steps", changed(training={"steps": None})),
                ("batch 0", changed(training={"batch": 0})), ("rate -1", changed(training={"rate": -1})),
                ("rate fast", changed(training={"rate": "fast"})),
                ("optimizer 'sgd'; allowed are adam and adamw", changed(training={"optimizer": "sgd"})),
                *((f"the name is '?{name}'?; it must be a text of letters", CONFIG | {"name": name})
                  for name in ("a/b", "..", "", "two words", 5)),
                ("the licence is 5; it must be a text", CONFIG | {"licence": 5}),
                *((f"{key} 2.5; it must be a whole number", changed(training={key: 2.5}))
                  for key in ("batch", "steps", "warmup", "log_every", "seed")),
                *((f"{key} {value}; it must be a", changed(training={key: value})) for key, value in (
                    ("seed", -1), ("seed", 2**31), ("ema", 1), ("ema", -0.1), ("ema", "much"), ("weight_decay", -1),
                    ("weight_decay", "none"), ("batch", True), ("minutes", "long"))),
                ("minutes inf; it must be", json.dumps(changed(training={"minutes": 1})).replace(
                    '"minutes": 1', '"minutes": .inf')),
                *(("residue .*; it must have from", changed(training={"residue": residue})) for residue in (
                    {}, 0.5, {"from": 0.5}, {"from": 2, "power": [0.1, 1]}, {"from": 0, "power": [1, 0.1]},
                    {"from": 0, "power": [0, 1]}, {"from": 0, "power": 1}, {"from": 0, "power": [0.1, 1], "to": 1})),
                *(("the network has patch 5, the data have 4 samples", changed(network=network | {"patch": 5}))
                  for network in ({}, {"kind": "syncnet", "alphabet": None}))):
            self.refused(words, config)
        self.assertEqual(list(self.folder.glob("runs/*/checkpoint*")), [])

    def test_a_loss_that_is_not_finite_ends_the_run(self):
        self.interrupted(CONFIG, 12)
        with mock.patch.object(train.Run, "loss", lambda run: sum(p.sum() for p in run.model.parameters()) * np.nan):
            status, said = self.run_main(CONFIG, "--resume", "--output", self.folder / "prior.pt")
        self.assertEqual(status, 2)
        self.assertRegex(said, "the loss is nan at step")
        self.assertFalse((self.folder / "prior.pt").exists())
        self.assertEqual(self.checkpoint()["step"], 12)
        self.assertTrue(all(bool(value.isfinite().all()) for value in self.checkpoint()["model"].values()))

    def test_every_kind_of_data_and_network_makes_a_prior(self):
        random = {"timing": "random", "phase": "random"}
        syncnet = {"kind": "syncnet", "constellation": "qpsk", "rolloff": 0.5}
        recording = {"kind": "recording", "files": str(ROOT / "apps" / "samples" / "wifi_excerpt.sigmf-meta"),
                     "sps": None, "constellation": None}
        diffwave = {**dict.fromkeys(CONFIG["network"]), **DIFFWAVE}
        for name, extra, parts in (
                ("sync", (), {"data": random, "network": syncnet}),
                ("ofdm", ("--half",), {"data": OFDM | {"sps": None}, "network": diffwave}),
                ("wifi", (), {"data": recording, "network": diffwave, "training": {"precision": "bf16"}})):
            prior = self.folder / f"{name}.pt"
            status, said = self.run_main(changed(**parts), "--steps", 6, "--output", prior, *extra)
            self.assertEqual(status, 0, said)
            files = {"prior.json": ""}
            module = torch.jit.load(str(prior), _extra_files=files)
            card = json.loads(files["prior.json"])
            self.assertEqual(card["window"], 320)
            self.assertEqual(card["invariances"], ["timing", "phase"] if name == "sync" else ["shift", "phase"])
            self.assertNotIn(str(ROOT), files["prior.json"].decode())
            answer = module(torch.zeros(2, 2, 320), torch.full((2,), 0.5), torch.zeros(2, 0))
            self.assertEqual(answer.shape, (2, 2, 320))

    def test_the_configurations_here_are_read(self):
        for path in sorted((ROOT / "training" / "configs").glob("*.yaml")):
            config = train.checked(yaml.safe_load(path.read_text()))
            self.assertEqual(config["name"], path.stem)
            if config["data"].get("kind") != "recording":  # the recordings are not here
                import data
                self.assertEqual(data.make_source(config["data"]).window, 2560)
            if config["network"].get("channels", 64) <= 64:
                train.make_model(config["network"])


if __name__ == "__main__":
    if not IN_TRAINING:
        skip_without_training()
    passed = unittest.main(exit=False).result.wasSuccessful()
    if not IN_TRAINING:
        training = run_training(__file__, *sys.argv[1:])
        print(f"in the training environment:\n{training.stdout}{training.stderr}", file=sys.stderr)
        passed = passed and training.returncode == 0
    sys.exit(not passed)
