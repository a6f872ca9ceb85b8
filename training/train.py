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
import os
import re
import signal
import sys
import time
import zipfile
from pathlib import Path

import torch
import yaml
from export import PSD_BINS, power_spectrum, write_prior
from models import make_model
from torch import Tensor, nn
from tqdm import tqdm

SAVE_EVERY = 30  # seconds
VALIDATE_EVERY = 0.02  # of the run
VALIDATION_LEVELS = (0.01, 0.03, 0.1, 0.3, 1.0, 2.5)  # v
#: What a configuration's `training` may say, with defaults; see training/README.md. None: not used.
TRAINING = {"minutes": None, "steps": None, "batch": 32, "rate": 2e-3, "warmup": 100, "optimizer": "adamw",
            "weight_decay": 1e-4, "schedule": "cosine", "ema": 0.999, "precision": "fp32", "weighting": "clamped",
            "seed": 1, "residue": None, "log_every": 50}
CHOICES = {"optimizer": ("adam", "adamw"), "schedule": ("cosine", "constant"), "precision": ("fp32", "bf16"),
           "weighting": ("clamped", "noise")}
#: The numbers among them: type, range, and both in words. Held-out windows have the seeds from 2**31 on.
NUMBERS = {
    **dict.fromkeys(("minutes", "rate"), ((int, float), lambda x: 0 < x < math.inf, "a number above zero")),
    **dict.fromkeys(("steps", "batch", "warmup", "log_every"), (int, lambda x: x > 0, "a whole number above zero")),
    "seed": (int, lambda x: 0 <= x < 2**31, "a whole number from 0 to 2147483647"),
    "ema": ((int, float), lambda x: 0 <= x < 1, "a number from 0 on, below 1"),
    "weight_decay": ((int, float), lambda x: 0 <= x < math.inf, "a number from 0 on")}


def _number(value, kind: type | tuple = (int, float)) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def checked(config: dict) -> dict:
    """The configuration with all defaults. Raises ValueError for entries that are missing, unknown or out of range."""
    if not isinstance(config, dict) or not {"name", "licence", "data", "network", "training"} <= set(config):
        raise ValueError("a configuration needs the entries name, licence, data, network and training")
    unknown = sorted(set(config) - {"name", "licence", "data", "network", "training"})
    if unknown:
        raise ValueError(f"a configuration takes no '{unknown[0]}'")
    if not all(isinstance(config[key], dict) for key in ("data", "network", "training")):
        raise ValueError("data, network and training must be mappings of parameters")
    name = config["name"]  # of a folder too
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9._-]+", name) or name in (".", ".."):
        raise ValueError(f"the name is {name!r}; it must be a text of letters, digits, '.', '_' and '-', and no path")
    if not isinstance(config["licence"], str):
        raise ValueError(f"the licence is {config['licence']!r}; it must be a text")
    unknown = sorted(set(config["training"]) - set(TRAINING))
    if unknown:
        raise ValueError(f"training takes no '{unknown[0]}'; allowed are {', '.join(TRAINING)}")
    training = TRAINING | config["training"]
    for key, allowed in CHOICES.items():
        if training[key] not in allowed:
            raise ValueError(f"training has {key} '{training[key]}'; allowed are {' and '.join(allowed)}")
    for key, (kind, inside, words) in NUMBERS.items():
        value = training[key]
        if value is None and key in ("minutes", "steps"):
            continue
        if not _number(value, kind) or not inside(value):
            raise ValueError(f"training has {key} {value}; it must be {words}")
    if training["residue"] is not None and not _is_residue(training["residue"]):
        raise ValueError(f"training has residue {training['residue']}; it must have from, a number from 0 to 1, and "
                         "power, two numbers above zero, the second above the first")
    if training["minutes"] is None and training["steps"] is None:
        raise ValueError("training needs minutes or steps")
    return config | {"training": training}


def _is_residue(value) -> bool:
    if not isinstance(value, dict) or set(value) != {"from", "power"}:
        return False
    start, power = value["from"], value["power"]
    return (_number(start) and 0 <= start <= 1 and isinstance(power, (list, tuple)) and len(power) == 2
            and all(map(_number, power)) and 0 < power[0] < power[1] < math.inf)


def check_device(device: str) -> None:
    """Raises ValueError for a device that is not on this machine."""
    try:
        torch.Generator(device)
        torch.zeros(1, device=device)
    except Exception:  # each kind of device fails in its own way, and at length
        found = ["cpu"] + ["cuda"] * torch.cuda.is_available()
        raise ValueError(f"device '{device}' is not on this machine; it has {' and '.join(found)}") from None


class Run:
    """All that training changes, in one place to save and to restore. Raises ValueError for a bad configuration."""

    def __init__(self, config: dict, device: str):
        self.config, self.device = checked(config), device
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
        self.step, self.seconds, self.recent = 0, 0.0, []
        self.losses, self.validation = [], []
        self.held_out = validation_set(self.config["data"], 8 * len(VALIDATION_LEVELS), seed=0).to(device)

    @property
    def best(self) -> nn.Module:
        """The averaged model, or the model itself where no average is kept."""
        return self.average.module if self.average else self.model

    @property
    def progress(self) -> float:
        """Fraction of the run that is done, by steps where the configuration has them, else by time."""
        train = self.config["training"]
        return self.step / train["steps"] if train["steps"] else self.seconds / (60 * train["minutes"])

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
        train = self.config["training"]
        anneal = max(0.01, 0.5 * (1 + math.cos(math.pi * min(1.0, self.progress))))
        rate = train["rate"] * min(1.0, (self.step + 1) / train["warmup"])
        for group in self.optimizer.param_groups:
            group["lr"] = rate * (anneal if train["schedule"] == "cosine" else 1.0)
        loss = self.loss()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        if self.average:
            self.average.update_parameters(self.model)
        self.step += 1
        self.recent.append(loss.detach())

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


def save(run: Run, path: Path) -> None:
    """Write a checkpoint whole or not at all; the one before stays as a reserve."""
    part = path.with_suffix(".part")
    torch.save(run.state(), part)
    if path.exists():
        os.replace(path, path.with_suffix(".previous"))
    os.replace(part, path)


def _load(path: Path, device: str, needed: set) -> dict:
    """A checkpoint with the keys needed. Raises FileNotFoundError, or ValueError that says how it is broken."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums
            damaged = archive.testzip()
        state = None if damaged else torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # a corrupt file fails in many ways
        raise ValueError(type(error).__name__) from None
    if damaged:
        raise ValueError(f"the checksum of {damaged} is wrong")
    if not isinstance(state, dict) or not needed <= set(state):
        raise ValueError("it holds no run of this train.py")
    return state


def resume(run: Run, path: Path) -> None:
    """Restore the newest checkpoint that is whole. Raises ValueError when there is none, or of another network."""
    for candidate in (path, path.with_suffix(".previous")):
        try:
            state = _load(candidate, run.device, set(run.state()))
        except FileNotFoundError:
            continue
        except ValueError as error:
            print(f"the checkpoint {candidate} is broken ({error}); trying the one before", file=sys.stderr)
            continue
        try:
            run.restore(state)
        except (KeyError, RuntimeError, TypeError):
            raise ValueError(f"the checkpoint {candidate} is from another version of train.py") from None
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
    left.set(xlabel="step", ylabel="loss (weighted mean squared error)")
    for number, level in enumerate(VALIDATION_LEVELS):
        right.semilogy([s for s, _ in run.validation], [e[number] for _, e in run.validation], label=f"v = {level}")
    right.set(xlabel="step", ylabel="held-out error, mean |x̂ - x|²")
    right.legend(fontsize="small")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.savefig(path)
    plt.close(figure)


def tensorboard(folder: Path):
    """A writer of TensorBoard files, or None, said on stderr, where tensorboard is not installed."""
    try:
        import tensorboard.compat
        tensorboard.compat.notf = True  # its own writer: TensorFlow, which the U-Net is trained by, loads for seconds
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("tensorboard is not installed: the curves go to curves.png only", file=sys.stderr)
        return None
    return SummaryWriter(folder)


def train(run: Run, folder: Path) -> bool:
    """Train to the end of the run; True when it got there, False when Ctrl-C stopped it. Both leave a checkpoint.

    Raises ValueError, before it saves, where the loss is not finite.
    """
    checkpoint, writer, stop = folder / "checkpoint.pt", tensorboard(folder), []
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
            run.seconds = before + time.monotonic() - began
            if len(run.recent) >= train["log_every"]:  # above, where a resumed run logs more often than before
                mean = float(torch.stack(run.recent).mean())
                run.recent.clear()
                if not math.isfinite(mean):
                    raise ValueError(f"the loss is {mean} at step {run.step}; lower the rate")
                run.losses.append((run.step, mean))
                if writer:
                    writer.add_scalar("loss", mean, run.step)
                bar.n = min(total, run.step if train["steps"] else round(run.seconds))
                bar.set_postfix(loss=f"{mean:.5f}")
            if run.progress >= VALIDATE_EVERY * (len(run.validation) + 1):
                run.validation.append((run.step, run.validate()))
                for level, error in zip(VALIDATION_LEVELS, run.validation[-1][1], strict=True):
                    if writer:
                        writer.add_scalar(f"held-out error/v {level}", error, run.step)
            if time.monotonic() - saved > SAVE_EVERY:
                save(run, checkpoint)
                saved = time.monotonic()
    return run.progress >= 1


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


def check_output(path: Path) -> None:
    """Raises ValueError where no file can be written at path; better said before training than after it."""
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder")
    if not path.parent.is_dir():
        raise ValueError(f"cannot write {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ValueError(f"cannot write {path}: the folder {path.parent} is not writable")


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--minutes", type=float, help="in all, resumed time included (default: the file's)")
    parser.add_argument("--steps", type=int, help="in all, resumed ones included (default: the file's)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --runs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of checkpoints (default: runs)")
    parser.add_argument("--output", type=Path, help="write the prior here at the end")
    parser.add_argument("--half", action="store_true", help="store a DiffWave's weights as fp16")
    args = parser.parse_args(argv)
    try:
        if args.output:
            check_output(args.output)
        if args.threads:
            torch.set_num_threads(args.threads)
        config = yaml.safe_load(args.config.read_text())
        if isinstance(config, dict) and isinstance(config.get("training"), dict):
            if args.minutes is not None:  # what is asked for here decides, whatever the file says
                config["training"] |= {"minutes": args.minutes, "steps": None}
            if args.steps is not None:
                config["training"]["steps"] = args.steps
        run = Run(config, args.device)
        if args.half:
            run.best.module(half=True)  # a network that refuses it does so before training
        folder = args.runs / config["name"]
        folder.mkdir(parents=True, exist_ok=True)
        if args.resume:
            resume(run, folder / "checkpoint.pt")
        done = train(run, folder)
        loss = run.losses[-1][1] if run.losses else math.nan
        print(f"{run.step} steps, {run.seconds / 60:.1f} minutes, loss {loss:.5f}", file=sys.stderr)
        if not done:
            print(f"stopped; go on with --resume ({folder})", file=sys.stderr)
            return 3
        if args.output:
            write(run, args.output, args.half, args.config.name)
    except (ValueError, KeyError, TypeError, OSError, RuntimeError, yaml.YAMLError) as error:
        print(f"train.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
