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
import subprocess
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else its start fills a page, above all where there is no GPU

import keras
import loop
import mixtures
import numpy as np
import tensorflow as tf
import torch
from unet import load_checkpoint, unet_from

HELD_OUT_WINDOWS = 8  # at each SIR
#: What a configuration's `training` may say, with defaults. None: not used.
TRAINING = {"minutes": None, "steps": None, "batch": 32, "rate": 1e-3, "warmup": 100, "schedule": "cosine",
            "ema": 0.999, "seed": 1, "log_every": 50}
CHOICES = {"schedule": ("cosine", "constant")}


def checked(config: dict) -> dict:
    """The configuration with all defaults. Raises ValueError for entries that are missing, unknown or out of range."""
    return loop.checked(config, TRAINING, CHOICES)


class Run(loop.Run):
    """The U-Net's training. Raises ValueError for a bad configuration."""

    PROGRAM, CHECKPOINT = "train_unet.py", "checkpoint.npz"
    LOSS, ERROR = "loss (mean squared error per real channel)", "held-out error, mean |ŝ - s|²"
    LEGEND = "SIR"

    def __init__(self, config: dict):
        super().__init__(checked(config))
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
        low, high = self.mixtures.sir_db
        self.sirs = sorted({low, high, *np.arange(math.ceil(low / 3) * 3, high, 3).tolist()})
        self.labels = [(f"SIR {sir:g} dB", f"{sir:g} dB") for sir in self.sirs]
        self.held_out = [self.mixtures.draw(HELD_OUT_WINDOWS, (mixtures.HELD_OUT, k), sir)
                         for k, sir in enumerate(self.sirs)]
        self._descend = tf.function(self._one_step)

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

    def write_state(self, path: Path) -> None:
        with open(path, "wb") as file:  # else NumPy adds a suffix to the name
            np.savez(file, **self.state())

    def read_state(self, path: Path) -> dict:
        return load_checkpoint(path)

    def restore(self, state: dict) -> None:
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
        self.optimizer.learning_rate.assign(self.rate)
        # a young average forgets faster
        keep = min(train["ema"], (1 + self.step) / (10 + self.step))
        mixture, soi = self.mixtures.draw(train["batch"], (mixtures.TRAINING, train["seed"], self.step))
        self.recent.append(self._descend(tf.constant(mixture), tf.constant(soi), tf.constant(keep, tf.float32)))
        self.step += 1

    def mean_loss(self) -> float:
        return float(np.mean([float(loss) for loss in self.recent]))

    def estimate(self, mixture: np.ndarray) -> np.ndarray:
        """The averaged network's SOIs float32 [B, N, 2] in mixtures float32 [B, N, 2]."""
        return self.average(tf.constant(mixture), training=False).numpy()

    def validate(self) -> list[float]:
        """Mean |error|^2 of the averaged network, relative to the SOI's power, at each of self.sirs."""
        return [float(np.square(self.estimate(y) - s).sum(2).mean()) for y, s in self.held_out]

    def report(self) -> None:
        """A line for logs."""
        left = self.seconds / 60 * (1 / max(self.progress, 1e-9) - 1)
        errors = ", ".join(f"{label} {error:.3g}" for (_, label), error in zip(self.labels, self.validation[-1][1],
                                                                             strict=True))
        print(f"step {self.step}, {self.seconds / 60:.1f} minutes, {max(0, left):.1f} left; held-out error at {errors}",
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


def start(args: argparse.Namespace) -> Run:
    """The run that the command line asks for."""
    if args.threads is not None and args.threads < 1:
        raise ValueError(f"--threads is {args.threads}; it must be at least 1")
    prepare(args.device, args.threads)
    return Run(loop.read_config(args))


def finish(run: Run, args: argparse.Namespace, folder: Path) -> int:
    """Export the network in a process of its own; returns that one's exit status."""
    export = [sys.executable, Path(__file__).with_name("export_unet.py"), folder / run.CHECKPOINT,
              "--config-name", args.config.name, "--output", args.output]
    return subprocess.run(list(map(str, export)), check=False).returncode


def main(argv=None) -> int:
    parser = loop.parser(__doc__)
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads (default: as many as there are cores)")
    parser.add_argument("--output", type=Path, help="export the network to this file at the end")
    return loop.main(Run, parser.parse_args(argv), start, finish)


if __name__ == "__main__":
    sys.exit(main())
