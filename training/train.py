#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Train a prior as a YAML file says, for a limited time; stop and go on whenever you like.

    python training/train.py training/configs/rrc-qpsk.yaml --minutes 6 --output prior.pt

Keeps a checkpoint and the curves (PNG, TensorBoard) in runs/<name>; --resume goes on from there, on this machine or
another. The learning rate is annealed over the minutes, or over `steps` where the configuration or --steps gives them:
then a run that was interrupted repeats the uninterrupted one exactly. Ctrl-C saves and stops. Exit status: 0 done,
2 bad input, 3 stopped before the end (no prior is written).
"""

import argparse
import math
import sys
import zipfile
from pathlib import Path

import loop
import torch
from export import PSD_BINS, power_spectrum, write_prior
from models import make_model
from torch import Tensor, nn

VALIDATION_LEVELS = (0.01, 0.03, 0.1, 0.3, 1.0, 2.5)  # v
#: What a configuration's `training` may say, with defaults; see training/README.md. None: not used.
TRAINING = {"minutes": None, "steps": None, "batch": 32, "rate": 2e-3, "warmup": 100, "optimizer": "adamw",
            "weight_decay": 1e-4, "schedule": "cosine", "ema": 0.999, "precision": "fp32", "weighting": "clamped",
            "seed": 1, "residue": None, "log_every": 50}
CHOICES = {"optimizer": ("adam", "adamw"), "schedule": ("cosine", "constant"), "precision": ("fp32", "bf16"),
           "weighting": ("clamped", "noise")}


def checked(config: dict) -> dict:
    """The configuration with all defaults. Raises ValueError for entries that are missing, unknown or out of range."""
    config = loop.checked(config, TRAINING, CHOICES)
    residue = config["training"]["residue"]
    if residue is not None and not _is_residue(residue):
        raise ValueError(f"training has residue {residue}; it must have from, a number from 0 to 1, and "
                         "power, two numbers above zero, the second above the first")
    return config


def _is_residue(value) -> bool:
    if not isinstance(value, dict) or set(value) != {"from", "power"}:
        return False
    start, power = value["from"], value["power"]
    return (loop.is_number(start) and 0 <= start <= 1 and isinstance(power, (list, tuple)) and len(power) == 2
            and all(map(loop.is_number, power)) and 0 < power[0] < power[1] < math.inf)


def check_device(device: str) -> None:
    """Raises ValueError for a device that is not on this machine."""
    try:
        torch.Generator(device)
        torch.zeros(1, device=device)
    except Exception:  # each kind of device fails in its own way, and at length
        found = ["cpu"] + ["cuda"] * torch.cuda.is_available()
        raise ValueError(f"device '{device}' is not on this machine; it has {' and '.join(found)}") from None


class Run(loop.Run):
    """A prior's training. Raises ValueError for a bad configuration or a device that is not there."""

    PROGRAM, CHECKPOINT = "train.py", "checkpoint.pt"
    LOSS, ERROR = "loss (weighted mean squared error)", "held-out error, mean |x̂ - x|²"
    labels = [(f"v {level}", f"v = {level}") for level in VALIDATION_LEVELS]

    def __init__(self, config: dict, device: str):
        super().__init__(checked(config))
        self.device = device
        check_device(device)
        from data import coloured_residue, make_source, validation_set  # Sionna, which takes seconds to import
        train = self.config["training"]
        self.residue = coloured_residue
        self.generator = torch.Generator(device).manual_seed(train["seed"])
        torch.manual_seed(train["seed"])
        self.source = make_source(self.config["data"], device)
        if self.source.window < PSD_BINS:
            raise ValueError(f"the window has {self.source.window} samples; the card's spectrum needs {PSD_BINS}")
        self.model = make_model(self.config["network"]).to(device)
        symbol = self.source.card()["samples_per_symbol"]  # None: there is no such clock, or it is not known
        if None not in (symbol, self.model.patch) and symbol != self.model.patch:
            raise ValueError(f"the network has patch {self.model.patch}, the data have {symbol} samples per symbol; "
                             "they must be equal")
        self.model.start(self.source(256, torch.Generator(device).manual_seed(train["seed"])))
        self.average = torch.optim.swa_utils.AveragedModel(
            self.model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(train["ema"])) if train["ema"] else None
        kind = torch.optim.AdamW if train["optimizer"] == "adamw" else torch.optim.Adam
        decay = {"weight_decay": train["weight_decay"]} if train["optimizer"] == "adamw" else {}
        self.optimizer = kind(self.model.parameters(), lr=train["rate"], **decay)
        self.held_out = validation_set(self.config["data"], 8 * len(VALIDATION_LEVELS), seed=0).to(device)

    @property
    def best(self) -> nn.Module:
        """The averaged model, or the model itself where no average is kept."""
        return self.average.module if self.average else self.model

    def autocast(self) -> torch.autocast:
        """Computes in the precision that the configuration asks for."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16,
                              enabled=self.config["training"]["precision"] == "bf16")

    def state(self) -> dict:
        return {"config": self.config, "model": self.model.state_dict(),
                "average": self.average.state_dict() if self.average else None,
                "optimizer": self.optimizer.state_dict(), "generator": self.generator.get_state(), "step": self.step,
                "seconds": self.seconds, "losses": self.losses, "validation": self.validation,
                "recent": [loss.item() for loss in self.recent], "device": torch.device(self.device).type}

    def write_state(self, path: Path) -> None:
        torch.save(self.state(), path)

    def read_state(self, path: Path) -> dict:
        try:
            with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums
                damaged = archive.testzip()
            state = None if damaged else torch.load(path, map_location=self.device, weights_only=True)
        except FileNotFoundError:
            raise
        except Exception as error:  # a corrupt file fails in many ways
            raise ValueError(f"the checkpoint {path} is broken ({type(error).__name__})") from None
        if damaged:
            raise ValueError(f"the checkpoint {path} is broken (the checksum of {damaged} is wrong)")
        if not isinstance(state, dict) or not set(self.state()) <= set(state):
            raise ValueError(f"the checkpoint {path} is broken (it holds no run of this train.py)")
        return state

    def restore(self, state: dict) -> None:
        """Go on from a state, as this configuration's `training` says; what it changes is said on stderr.

        Raises ValueError where the state belongs to another network or other data.
        """
        for part in ("network", "data"):
            if state["config"][part] != self.config[part]:
                raise ValueError(f"it was made with another {part} than this configuration")
        self.model.load_state_dict(state["model"])
        if self.average:
            self.average.load_state_dict(state["average"] or {"n_averaged": torch.tensor(0),
                                                              **{f"module.{k}": p for k, p in state["model"].items()}})
        options = [{key: value for key, value in group.items() if key != "params"}
                   for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, option in zip(self.optimizer.param_groups, options, strict=True):
            group |= option  # the state has brought its own weight decay
        self.step, self.seconds = state["step"], state["seconds"]
        self.losses, self.validation = state["losses"], state["validation"]
        self.recent = [torch.tensor(loss, device=self.device) for loss in state["recent"]]
        train, was = self.config["training"], TRAINING | state["config"]["training"]
        changes = [f"{key} {train[key]} (was {was[key]})" for key in TRAINING
                   if key not in ("minutes", "steps") and train[key] != was[key]]
        if changes:
            print(f"training is not the checkpoint's; from here on it has {', '.join(changes)}", file=sys.stderr)
        same_device = state["device"] == torch.device(self.device).type
        if same_device and train["seed"] == was["seed"]:
            self.generator.set_state(state["generator"].cpu())
        else:
            self.generator.manual_seed(train["seed"] + self.step)
        if not same_device:  # the two kinds of generator share no state
            print(f"the checkpoint is from {state['device']}: fresh random numbers from here on", file=sys.stderr)

    def loss(self) -> Tensor:
        """Weighted mean squared error of one fresh batch."""
        train, batch = self.config["training"], self.config["training"]["batch"]
        x = self.source(batch, self.generator)
        v = self.model.levels(batch, self.generator)
        noise = torch.randn(x.shape, generator=self.generator, device=self.device)
        r = x + v.sqrt()[:, None, None] * noise
        residue, disturbance = train["residue"], v
        if residue and self.progress >= residue["from"]:
            hidden = self.residue(batch, x.size(2), self.generator, residue["power"], self.device)
            r, disturbance = r + hidden, v + hidden.square().mean((1, 2))
        # A small disturbance leaves a small error: its inverse evens the windows out. That weight at every level is the
        # loss of the noise, as in the paper; "clamped" gives the levels above v = 1 the same weight.
        weight = 1 / (disturbance.clamp(max=1.0) if train["weighting"] == "clamped" else disturbance)
        with self.autocast():
            estimate = self.model.estimate(r, v)
        return ((estimate.float() - x).square().mean((1, 2)) * weight).mean()

    def advance(self) -> None:
        """One step of the optimiser."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        loss = self.loss()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        if self.average:
            self.average.update_parameters(self.model)
        self.step += 1
        self.recent.append(loss.detach())

    def mean_loss(self) -> float:
        return float(torch.stack(self.recent).mean())

    @torch.no_grad()
    def validate(self) -> list[float]:
        """Mean |error|^2 of the averaged model at VALIDATION_LEVELS, each on its own share of the held-out windows."""
        generator = torch.Generator(self.device).manual_seed(1)
        noise = torch.randn(self.held_out.shape, generator=generator, device=self.device)
        v = torch.tensor(VALIDATION_LEVELS, device=self.device).repeat(len(self.held_out) // len(VALIDATION_LEVELS))
        with self.autocast():
            estimate = self.best.estimate(self.held_out + v.sqrt()[:, None, None] * noise, v)
        error = (estimate.float() - self.held_out).square().sum(1).mean(1)
        return error.reshape(-1, len(VALIDATION_LEVELS)).mean(0).tolist()


def write(run: Run, path: Path, half: bool = False, file: str = "") -> dict:
    """Export the averaged network with its card, which is returned.

    half: fp16 weights, for a DiffWave. file: name of the configuration's file, where there is one, for the card.
    """
    config, train, source = run.config, run.config["training"], run.source.card()
    device = torch.device(run.device).type
    waves = run.held_out.cpu()
    card = {"format": 1, "name": config["name"], "kind": config["network"].get("kind", "patchnet"), "side": [],
            "psd": power_spectrum(torch.complex(waves[:, 0], waves[:, 1]).numpy()), **source, **run.best.card(),
            "training": f"train.py{file and ' '}{file}: {run.step} steps of {train['batch']} windows, "
                        f"{run.seconds / 60:.1f} minutes on a {device.upper()}, {train['precision']}; "
                        f"{source['training']}",
            "licence": config["licence"], "version": "1"}
    write_prior(run.best.module(half), card, path)
    return card


def start(args: argparse.Namespace) -> Run:
    """The run that the command line asks for."""
    if args.threads:
        torch.set_num_threads(args.threads)
    run = Run(loop.read_config(args), args.device)
    if args.half:
        run.best.module(half=True)  # a network that refuses it does so before training
    return run


def finish(run: Run, args: argparse.Namespace, folder: Path) -> int:
    """Write the prior; returns the exit status."""
    write(run, args.output, args.half, args.config.name)
    return 0


def main(argv=None) -> int:
    parser = loop.parser(__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--output", type=Path, help="write the prior here at the end")
    parser.add_argument("--half", action="store_true", help="store a DiffWave's weights as fp16")
    return loop.main(Run, parser.parse_args(argv), start, finish)


if __name__ == "__main__":
    sys.exit(main())
