#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Train the supervised peer, a U-Net on paired mixtures, in TensorFlow as a YAML file says, for a limited time.

    python training/train_unet.py training/configs/unet/ofdm-qpsk.yaml --minutes 40 --output unet.pt

Keeps a checkpoint and the curves (PNG, TensorBoard) in runs/<name>; --resume goes on from there, on this machine or
another. The learning rate is annealed over the minutes, or over `steps` where the configuration or --steps gives them:
then a run that was interrupted repeats the uninterrupted one. Ctrl-C saves and stops. At the end export_unet.py writes
the TorchScript, in a process of its own, because Keras computes by one library at a time. Exit status: 0 done, 2 bad
input, 3 stopped before the end (nothing is exported).
"""

import argparse
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else its start fills a page, above all where there is no GPU

import keras
import mixtures
import numpy as np
import tensorflow as tf
import torch
import yaml
from tqdm import tqdm
from train import NUMBERS, check_output, tensorboard
from unet import load_checkpoint, unet_from

SAVE_EVERY = 30  # seconds
VALIDATE_EVERY = 0.02  # of the run
HELD_OUT_WINDOWS = 8  # at each SIR
#: What a configuration's `training` may say, with defaults. None: not used.
TRAINING = {"minutes": None, "steps": None, "batch": 32, "rate": 1e-3, "warmup": 100, "schedule": "cosine",
            "ema": 0.999, "seed": 1, "log_every": 50}
PARTS = ("name", "licence", "data", "network", "training")


def checked(config: dict) -> dict:
    """The configuration with all defaults. Raises ValueError for entries that are missing, unknown or out of range."""
    if not isinstance(config, dict) or set(config) != set(PARTS):
        raise ValueError(f"a configuration has the entries {', '.join(PARTS)}, and no others")
    if not all(isinstance(config[key], dict) for key in PARTS[2:]):
        raise ValueError("data, network and training must be mappings of parameters")
    if not isinstance(config["name"], str) or not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", config["name"]):
        raise ValueError(f"the name is {config['name']!r}; it must be a text of letters, digits, '.', '_' and '-'")
    if not isinstance(config["licence"], str):
        raise ValueError(f"the licence is {config['licence']!r}; it must be a text")
    unknown = sorted(set(config["training"]) - set(TRAINING))
    if unknown:
        raise ValueError(f"training takes no '{unknown[0]}'; allowed are {', '.join(TRAINING)}")
    training = TRAINING | config["training"]
    for key in (name for name in TRAINING if name in NUMBERS):
        kind, inside, words = NUMBERS[key]
        value = training[key]
        if value is None and key in ("minutes", "steps"):
            continue
        if isinstance(value, bool) or not isinstance(value, kind) or not inside(value):
            raise ValueError(f"training has {key} {value}; it must be {words}")
    if training["schedule"] not in ("cosine", "constant"):
        raise ValueError(f"training has schedule '{training['schedule']}'; allowed are cosine and constant")
    if training["minutes"] is None and training["steps"] is None:
        raise ValueError("training needs minutes or steps")
    return config | {"training": training}


class Run:
    """All that training changes, in one place to save and to restore. Raises ValueError for a bad configuration."""

    def __init__(self, config: dict):
        self.config = checked(config)
        train = self.config["training"]
        try:
            self.mixtures = mixtures.Mixtures(**self.config["data"])
        except TypeError as error:
            raise ValueError(f"the data cannot be made: {error}") from None
        self.mixtures.card()  # raises for what no problem could be compared with, before the work and not after it
        keras.utils.set_random_seed(train["seed"])
        self.model, self.average = (unet_from(self.config["network"], self.mixtures.window) for _ in range(2))
        self.average.set_weights(self.model.get_weights())
        self.optimizer = keras.optimizers.Adam(train["rate"])
        self.optimizer.build(self.model.trainable_variables)
        self.step, self.seconds, self.recent, self.losses, self.validation = 0, 0.0, [], [], []
        low, high = self.mixtures.sir_db
        self.sirs = sorted({low, high, *np.arange(math.ceil(low / 3) * 3, high, 3).tolist()})
        self.held_out = [self.mixtures.draw(HELD_OUT_WINDOWS, (mixtures.HELD_OUT, k), sir)
                         for k, sir in enumerate(self.sirs)]
        self._descend = tf.function(self._one_step)

    @property
    def progress(self) -> float:
        """Fraction of the run that is done, by steps where the configuration has them, else by time."""
        train = self.config["training"]
        return self.step / train["steps"] if train["steps"] else self.seconds / (60 * train["minutes"])

    def _variables(self) -> dict[str, list]:
        return {"model": self.model.variables, "average": self.average.weights, "optimizer": self.optimizer.variables}

    def state(self) -> dict:
        """The run as arrays, with what is not an array as JSON in `run`."""
        run = {key: getattr(self, key) for key in ("config", "step", "seconds", "losses", "validation")}
        run["device"] = "gpu" if tf.config.get_visible_devices("GPU") else "cpu"
        run["recent"] = [float(loss) for loss in self.recent]
        arrays = {f"{part}/{k}": np.asarray(keras.ops.convert_to_numpy(variable))
                  for part, variables in self._variables().items() for k, variable in enumerate(variables)}
        mixture = self.held_out[0][0][:2]
        texts = {"run": run, "card": self.mixtures.card()}
        return (arrays | {key: np.array(json.dumps(value)) for key, value in texts.items()}
                | {"probe": mixture, "answer": self.estimate(mixture)})

    def restore(self, state: dict) -> None:
        """Go on from a state. Raises ValueError where it belongs to another network or other data."""
        run = json.loads(str(state["run"]))
        for part in ("network", "data"):
            if run["config"][part] != json.loads(json.dumps(self.config[part])):
                raise ValueError(f"it was made with another {part} than this configuration")
        for part, variables in self._variables().items():
            for k, variable in enumerate(variables):
                variable.assign(state[f"{part}/{k}"])
        self.step, self.seconds, self.recent = run["step"], run["seconds"], run["recent"]
        self.losses, self.validation = run["losses"], run["validation"]

    def _one_step(self, mixture: tf.Tensor, soi: tf.Tensor, keep: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self.model(mixture, training=True) - soi))
        gradients = tape.gradient(loss, [v.value for v in self.model.trainable_variables])
        gradients, _ = tf.clip_by_global_norm(gradients, 1.0)
        self.optimizer.apply(gradients, self.model.trainable_variables)
        for mean, now in zip(self.average.weights, self.model.weights, strict=True):
            mean.assign(keep * mean + (1 - keep) * now if now.trainable else now)
        return loss

    def advance(self) -> None:
        """One step of the optimiser, on mixtures that the seed and the step's number decide."""
        train = self.config["training"]
        anneal = max(0.01, 0.5 * (1 + math.cos(math.pi * min(1.0, self.progress))))
        rate = train["rate"] * min(1.0, (self.step + 1) / train["warmup"])
        self.optimizer.learning_rate.assign(rate * (anneal if train["schedule"] == "cosine" else 1.0))
        # a young average forgets faster
        keep = min(train["ema"], (1 + self.step) / (10 + self.step))
        mixture, soi = self.mixtures.draw(train["batch"], (mixtures.TRAINING, train["seed"], self.step))
        self.recent.append(self._descend(tf.constant(mixture), tf.constant(soi), tf.constant(keep, tf.float32)))
        self.step += 1

    def estimate(self, mixture: np.ndarray) -> np.ndarray:
        """The averaged network's SOIs float32 [B, N, 2] in mixtures float32 [B, N, 2]."""
        return self.average(tf.constant(mixture), training=False).numpy()

    def validate(self) -> list[float]:
        """Mean |error|^2 of the averaged network, relative to the SOI's power, at each of self.sirs."""
        return [float(np.square(self.estimate(y) - s).sum(2).mean()) for y, s in self.held_out]


def save(run: Run, path: Path) -> None:
    """Write a checkpoint whole or not at all; the one before stays as a reserve."""
    part = path.with_suffix(".part")
    with open(part, "wb") as file:
        np.savez(file, **run.state())
    if path.exists():
        os.replace(path, path.with_suffix(".previous"))
    os.replace(part, path)


def resume(run: Run, path: Path) -> None:
    """Restore the newest checkpoint that is whole. Raises ValueError when there is none, or of another network."""
    for candidate in (path, path.with_suffix(".previous")):
        try:
            state = load_checkpoint(candidate)
        except FileNotFoundError:
            continue
        except ValueError as error:
            print(f"{error}; trying the one before", file=sys.stderr)
            continue
        try:
            run.restore(state)
        except (KeyError, TypeError):
            raise ValueError(f"the checkpoint {candidate} is from another version of train_unet.py") from None
        except ValueError as error:
            raise ValueError(f"the checkpoint {candidate} does not fit: {error}") from None
        print(f"going on from {candidate}: step {run.step}, {run.seconds / 60:.1f} minutes", file=sys.stderr)
        return
    raise ValueError(f"nothing to resume: no usable checkpoint at {path}")


def curves(run: Run, path: Path) -> None:
    """Loss and held-out errors against the step, as a PNG."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.semilogy(*zip(*run.losses, strict=True))
    left.set(xlabel="step", ylabel="loss (mean squared error per real channel)")
    for number, sir in enumerate(run.sirs):
        right.semilogy([s for s, _ in run.validation], [e[number] for _, e in run.validation], label=f"{sir:g} dB")
    right.set(xlabel="step", ylabel="held-out error, mean |ŝ - s|²")
    right.legend(fontsize="small", title="SIR")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.savefig(path)
    plt.close(figure)


def train(run: Run, folder: Path) -> bool:
    """Train to the end of the run; True when it got there, False when Ctrl-C stopped it. Both leave a checkpoint.

    Raises ValueError, before it saves, where the loss is not finite.
    """
    checkpoint, writer, stop = folder / "checkpoint.npz", tensorboard(folder), []
    before = signal.signal(signal.SIGINT, lambda *_: stop.append(True))  # between steps: half a step cannot be resumed
    try:
        done = _train(run, checkpoint, writer, stop)
        save(run, checkpoint)
    finally:
        signal.signal(signal.SIGINT, before)
        if writer:
            writer.close()
    if run.losses:
        curves(run, folder / "curves.png")
    return done


def _train(run: Run, checkpoint: Path, writer, stop: list) -> bool:
    train = run.config["training"]
    total = train["steps"] or round(60 * train["minutes"])
    before, began, saved = run.seconds, time.monotonic(), time.monotonic()
    with tqdm(total=total, unit="step" if train["steps"] else "s", disable=not sys.stderr.isatty()) as bar:
        while run.progress < 1 and not stop:
            run.advance()
            if len(run.recent) >= train["log_every"]:
                mean = float(np.mean([float(loss) for loss in run.recent]))
                run.recent.clear()
                if not math.isfinite(mean):
                    raise ValueError(f"the loss is {mean} at step {run.step}; lower the rate")
                run.losses.append((run.step, mean))
                if writer:
                    writer.add_scalar("loss", mean, run.step)
                bar.n = min(total, run.step if train["steps"] else round(run.seconds))
                bar.set_postfix(loss=f"{mean:.5f}")
            run.seconds = before + time.monotonic() - began
            if run.progress >= VALIDATE_EVERY * (len(run.validation) + 1):
                run.validation.append((run.step, run.validate()))
                for sir, error in zip(run.sirs, run.validation[-1][1], strict=True):
                    if writer:
                        writer.add_scalar(f"held-out error/SIR {sir:g} dB", error, run.step)
                if bar.disable:
                    _report(run)
            if time.monotonic() - saved > SAVE_EVERY:
                save(run, checkpoint)
                saved = time.monotonic()
    return run.progress >= 1


def _report(run: Run) -> None:
    """A line for logs, where there is no progress bar."""
    left = run.seconds / 60 * (1 / max(run.progress, 1e-9) - 1)
    errors = ", ".join(f"{sir:g} dB {error:.3g}" for sir, error in zip(run.sirs, run.validation[-1][1], strict=True))
    print(f"step {run.step}, {run.seconds / 60:.1f} minutes, {max(0, left):.1f} left; held-out error at {errors}",
          file=sys.stderr, flush=True)


def prepare(device: str, threads: int | None) -> None:
    """Choose the device ("auto", "cpu" or "gpu") and the CPU threads. Raises ValueError for a GPU that is not there."""
    found = tf.config.list_physical_devices("GPU")
    if device == "gpu" and not found:
        raise ValueError("TensorFlow sees no GPU; it needs pip install 'tensorflow[and-cuda]==" + tf.__version__ + "'")
    if device == "cpu":
        tf.config.set_visible_devices([], "GPU")
    elif found:
        tf.config.experimental.set_memory_growth(found[0], True)
    if threads is not None:
        torch.set_num_threads(threads)
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--minutes", type=float, help="in all, resumed time included (default: the file's)")
    parser.add_argument("--steps", type=int, help="in all, resumed ones included (default: the file's)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --runs")
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads (default: as many as there are cores)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of checkpoints (default: runs)")
    parser.add_argument("--output", type=Path, help="export the network to this file at the end")
    args = parser.parse_args(argv)
    try:
        if args.output:
            check_output(args.output)
        if args.threads is not None and args.threads < 1:
            raise ValueError(f"--threads is {args.threads}; it must be at least 1")
        prepare(args.device, args.threads)
        config = yaml.safe_load(args.config.read_text())
        if isinstance(config, dict) and isinstance(config.get("training"), dict):
            if args.minutes is not None:  # what is asked for here decides, whatever the file says
                config["training"] |= {"minutes": args.minutes, "steps": None}
            if args.steps is not None:
                config["training"]["steps"] = args.steps
        run = Run(config)
        folder = args.runs / config["name"]
        folder.mkdir(parents=True, exist_ok=True)
        if args.resume:
            resume(run, folder / "checkpoint.npz")
        done = train(run, folder)
        loss = run.losses[-1][1] if run.losses else math.nan
        print(f"{run.step} steps, {run.seconds / 60:.1f} minutes, loss {loss:.5f}", file=sys.stderr)
        if not done:
            print(f"stopped; go on with --resume ({folder})", file=sys.stderr)
            return 3
        if args.output:
            export = [sys.executable, Path(__file__).with_name("export_unet.py"), folder / "checkpoint.npz",
                      "--config-name", args.config.name, "--output", args.output]
            return subprocess.run(list(map(str, export)), check=False).returncode
    except (ValueError, KeyError, TypeError, OSError, RuntimeError, yaml.YAMLError) as error:
        print(f"train_unet.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
