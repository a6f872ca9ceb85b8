# SPDX-License-Identifier: GPL-3.0-or-later
"""What train.py and train_unet.py have in common: the configuration's checks, the loop with its clock, progress bar,
curves and checkpoints, and the command line. Nothing here but tensorboard() depends on the library that computes the
network.
"""

import argparse
import math
import os
import re
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import yaml
from tqdm import tqdm

SAVE_EVERY = 30  # seconds
VALIDATE_EVERY = 0.02  # of the run
#: Numbers in a configuration's `training`: type, range, and both in words. Seeds from 2**31 on are held-out windows'.
NUMBERS = {
    **dict.fromkeys(("minutes", "rate"), ((int, float), lambda x: 0 < x < math.inf, "a number above zero")),
    **dict.fromkeys(("steps", "batch", "warmup", "log_every"), (int, lambda x: x > 0, "a whole number above zero")),
    "seed": (int, lambda x: 0 <= x < 2**31, "a whole number from 0 to 2147483647"),
    "ema": ((int, float), lambda x: 0 <= x < 1, "a number from 0 on, below 1"),
    "weight_decay": ((int, float), lambda x: 0 <= x < math.inf, "a number from 0 on")}


def is_number(value, kind: type | tuple = (int, float)) -> bool:
    """Whether a value of a configuration is a number of that kind; yes and no are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def checked(config: dict, defaults: dict, choices: dict[str, tuple]) -> dict:
    """The configuration with all defaults. Raises ValueError for entries that are missing, unknown or out of range.

    defaults: what its `training` may say. choices: the values allowed for the entries of `training` that are words.
    """
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
    unknown = sorted(set(config["training"]) - set(defaults))
    if unknown:
        raise ValueError(f"training takes no '{unknown[0]}'; allowed are {', '.join(defaults)}")
    training = defaults | config["training"]
    for key, allowed in choices.items():
        if training[key] not in allowed:
            raise ValueError(f"training has {key} '{training[key]}'; allowed are {' and '.join(allowed)}")
    for key, (kind, inside, words) in NUMBERS.items():
        value = training.get(key)
        if key not in defaults or value is None and key in ("minutes", "steps"):
            continue
        if not is_number(value, kind) or not inside(value):
            raise ValueError(f"training has {key} {value}; it must be {words}")
    if training["minutes"] is None and training["steps"] is None:
        raise ValueError("training needs minutes or steps")
    return config | {"training": training}


class Run(ABC):
    """All that training changes, in one place to save and to restore. The network, its loss and data are a subclass's.

    config: as checked() returns it. step: how many are done. seconds: what they took. recent: losses since the last
    mean, as the library has them. losses: (step, mean loss) of each `log_every` steps. validation: (step, held-out
    errors). labels: of each held-out error, its name in TensorBoard and in the picture's legend.
    """

    PROGRAM = ""  # the script, as its messages name it
    CHECKPOINT = ""  # file name
    LOSS, ERROR, LEGEND = "", "", None  # the curves' axes, and the title of the legend
    labels: list[tuple[str, str]]

    def __init__(self, config: dict):
        self.config = config
        self.step, self.seconds, self.recent = 0, 0.0, []
        self.losses, self.validation = [], []

    @property
    def progress(self) -> float:
        """Fraction of the run that is done, by steps where the configuration has them, else by time."""
        train = self.config["training"]
        return self.step / train["steps"] if train["steps"] else self.seconds / (60 * train["minutes"])

    @property
    def rate(self) -> float:
        """Learning rate of the next step."""
        train = self.config["training"]
        anneal = max(0.01, 0.5 * (1 + math.cos(math.pi * min(1.0, self.progress))))
        rate = train["rate"] * min(1.0, (self.step + 1) / train["warmup"])
        return rate * (anneal if train["schedule"] == "cosine" else 1.0)

    @abstractmethod
    def advance(self) -> None:
        """One step of the optimiser; its loss goes to self.recent."""

    @abstractmethod
    def mean_loss(self) -> float:
        """Of self.recent; waits for a device that computes on its own."""

    @abstractmethod
    def validate(self) -> list[float]:
        """Held-out errors, one for each of self.labels."""

    def report(self) -> None:  # noqa: B027 (a run need not say anything)
        """Called after each validation where there is no progress bar."""

    @abstractmethod
    def write_state(self, path: Path) -> None:
        """Write all of the run to a file."""

    @abstractmethod
    def read_state(self, path: Path) -> dict:
        """The state in a file. Raises FileNotFoundError, or ValueError that names the file and its fault."""

    @abstractmethod
    def restore(self, state: dict) -> None:
        """Go on from a state. Raises ValueError where it belongs to another network or other data."""


def save(run: Run, path: Path) -> None:
    """Write a checkpoint whole or not at all; the one before stays as a reserve."""
    part = path.with_suffix(".part")
    run.write_state(part)
    if path.exists():
        os.replace(path, path.with_suffix(".previous"))
    os.replace(part, path)


def resume(run: Run, path: Path) -> None:
    """Restore the newest checkpoint that is whole. Raises ValueError when there is none, or of another network."""
    for candidate in (path, path.with_suffix(".previous")):
        try:
            state = run.read_state(candidate)
        except FileNotFoundError:
            continue
        except ValueError as error:
            print(f"{error}; trying the one before", file=sys.stderr)
            continue
        try:
            run.restore(state)
        except (KeyError, RuntimeError, TypeError):
            raise ValueError(f"the checkpoint {candidate} is from another version of {run.PROGRAM}") from None
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
    left.set(xlabel="step", ylabel=run.LOSS)
    for number, (_, label) in enumerate(run.labels):
        right.semilogy([s for s, _ in run.validation], [e[number] for _, e in run.validation], label=label)
    right.set(xlabel="step", ylabel=run.ERROR)
    right.legend(fontsize="small", title=run.LEGEND)
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
    checkpoint, writer, stop = folder / run.CHECKPOINT, tensorboard(folder), []
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
            logged = len(run.recent) >= train["log_every"]  # above, where a resumed run logs more often than before
            if logged:
                _log(run, writer)
            run.seconds = before + time.monotonic() - began
            if logged:
                bar.n = min(total, run.step if train["steps"] else round(run.seconds))
                bar.set_postfix(loss=f"{run.losses[-1][1]:.5f}")
            if run.progress >= VALIDATE_EVERY * (len(run.validation) + 1):
                run.validation.append((run.step, run.validate()))
                for (name, _), error in zip(run.labels, run.validation[-1][1], strict=True):
                    if writer:
                        writer.add_scalar(f"held-out error/{name}", error, run.step)
                if bar.disable:
                    run.report()
            if time.monotonic() - saved > SAVE_EVERY:
                save(run, checkpoint)
                saved = time.monotonic()
    return run.progress >= 1


def _log(run: Run, writer) -> None:
    mean = run.mean_loss()
    run.recent.clear()
    if not math.isfinite(mean):
        raise ValueError(f"the loss is {mean} at step {run.step}; lower the rate")
    run.losses.append((run.step, mean))
    if writer:
        writer.add_scalar("loss", mean, run.step)


def check_output(path: Path) -> None:
    """Raises ValueError where no file can be written at path; better said before training than after it."""
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder")
    if not path.parent.is_dir():
        raise ValueError(f"cannot write {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ValueError(f"cannot write {path}: the folder {path.parent} is not writable")


def parser(description: str) -> argparse.ArgumentParser:
    """The options that both scripts take; each adds its own --device, --threads and --output."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("config", type=Path)
    options.add_argument("--minutes", type=float, help="in all, resumed time included (default: the file's)")
    options.add_argument("--steps", type=int, help="in all, resumed ones included (default: the file's)")
    options.add_argument("--resume", action="store_true", help="go on from the checkpoint in --runs")
    options.add_argument("--runs", type=Path, default=Path("runs"), help="folder of checkpoints (default: runs)")
    return options


def read_config(args: argparse.Namespace) -> dict:
    """The configuration's file with the command line's --minutes and --steps, unchecked."""
    config = yaml.safe_load(args.config.read_text())
    if isinstance(config, dict) and isinstance(config.get("training"), dict):
        if args.minutes is not None:  # what is asked for here decides, whatever the file says
            config["training"] |= {"minutes": args.minutes, "steps": None}
        if args.steps is not None:
            config["training"]["steps"] = args.steps
    return config


def main(kind: type[Run], args: argparse.Namespace, start: Callable, finish: Callable) -> int:
    """Train as the command line says; returns the exit status.

    kind: of the run. start(args): makes it. finish(run, args, folder): writes --output from a run that got to its end,
    whose checkpoint is in folder, and returns the exit status. Errors of bad input become one sentence on stderr.
    """
    try:
        if args.output:
            check_output(args.output)
        run = start(args)
        folder = args.runs / run.config["name"]
        folder.mkdir(parents=True, exist_ok=True)
        if args.resume:
            resume(run, folder / run.CHECKPOINT)
        done = train(run, folder)
        loss = run.losses[-1][1] if run.losses else math.nan
        print(f"{run.step} steps, {run.seconds / 60:.1f} minutes, loss {loss:.5f}", file=sys.stderr)
        if not done:
            print(f"stopped; go on with --resume ({folder})", file=sys.stderr)
            return 3
        return finish(run, args, folder) if args.output else 0
    except (ValueError, KeyError, TypeError, OSError, RuntimeError, yaml.YAMLError) as error:
        print(f"{kind.PROGRAM}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
