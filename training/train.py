#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Train a prior as a YAML file says, for a limited time; stop and go on whenever you like.

    python training/train.py training/configs/rrc-qpsk.yaml --minutes 6 --output prior.pt

Keeps a checkpoint and the loss curve (PNG, TensorBoard) in runs/<name>; --resume goes on from there, on this machine or
another. Time-limited: the learning rate is annealed over the minutes asked for. Exit status 2: bad input.
"""

import argparse
import contextlib
import math
import os
import sys
import time
from pathlib import Path

import torch
import yaml
from data import LinearModulation, coloured_residue
from export import power_spectrum, write_prior
from patchnet import PatchNet, PatchPrior
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

SAVE_EVERY = 30  # seconds


class Run:
    """All that training changes, in one place to save and to restore."""

    def __init__(self, config: dict, device: str):
        train = config["training"]
        self.config, self.device = config, device
        self.generator = torch.Generator(device).manual_seed(train["seed"])
        torch.manual_seed(train["seed"])
        self.source = LinearModulation(**config["data"], device=device)
        self.network = PatchNet(**config["network"]).to(device)
        self.average = torch.optim.swa_utils.AveragedModel(
            self.network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(train["ema"]))
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=train["rate"], weight_decay=1e-4)
        self.step, self.seconds, self.losses = 0, 0.0, []

    def state(self) -> dict:
        return {"config": self.config, "network": self.network.state_dict(), "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(), "generator": self.generator.get_state(), "step": self.step,
                "seconds": self.seconds, "losses": self.losses}

    def restore(self, state: dict) -> None:
        for name in ("network", "average", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.generator.set_state(state["generator"].cpu())
        self.step, self.seconds, self.losses = state["step"], state["seconds"], state["losses"]

    def advance(self, progress: float) -> float:
        """One step at a fraction 0 .. 1 of the run; returns the loss."""
        train, network = self.config["training"], self.config["network"]
        for group in self.optimizer.param_groups:
            warm = min(1.0, (self.step + 1) / 100)
            group["lr"] = train["rate"] * warm * max(0.01, 0.5 * (1 + math.cos(math.pi * progress)))
        batch, window = train["batch"], self.config["data"]["window"]
        x = self.source(batch, self.generator)
        low, high = math.log(network["v_min"]), math.log(network["v_max"])
        v = (low + (high - low) * torch.rand(batch, generator=self.generator, device=self.device)).exp()
        noise = torch.randn(x.shape, generator=self.generator, device=self.device)
        r = x + v.sqrt()[:, None, None] * noise
        residue, disturbance = train.get("residue"), v
        if residue and progress >= residue["from"]:
            hidden = coloured_residue(batch, window, self.generator, residue["power"], self.device)
            r, disturbance = r + hidden, v + hidden.square().mean((1, 2))
        # A small disturbance leaves a small error: its inverse evens the windows out; above 1 they are even.
        loss = ((self.network(r, v) - x).square().mean((1, 2)) / disturbance.clamp(max=1.0)).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.average.update_parameters(self.network)
        self.step += 1
        return loss.item()


def save(run: Run, path: Path) -> None:
    """Write a checkpoint whole or not at all; the one before stays as a reserve."""
    part = path.with_suffix(".part")
    torch.save(run.state(), part)
    if path.exists():
        os.replace(path, path.with_suffix(".previous"))
    os.replace(part, path)


def resume(run: Run, path: Path) -> None:
    """Restore the newest checkpoint that is whole. Raises ValueError when there is none."""
    for candidate in (path, path.with_suffix(".previous")):
        try:
            run.restore(torch.load(candidate, map_location=run.device, weights_only=True))
            print(f"going on from {candidate}: step {run.step}, {run.seconds / 60:.1f} minutes", file=sys.stderr)
            return
        except Exception as error:  # a corrupt file fails in many ways
            print(f"the checkpoint {candidate} cannot be used: {type(error).__name__}", file=sys.stderr)
    raise ValueError(f"nothing to resume: no usable checkpoint at {path}")


def curve(losses: list, path: Path) -> None:
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    figure, axis = plt.subplots(layout="constrained")
    axis.semilogy([step for step, _ in losses], [loss for _, loss in losses])
    axis.set(xlabel="step", ylabel="loss (weighted mean squared error)")
    axis.grid(alpha=0.3)
    figure.savefig(path)
    plt.close(figure)


def train(run: Run, minutes: float, folder: Path) -> None:
    """Train until `minutes` in all are used; Ctrl-C saves and stops."""
    checkpoint, writer = folder / "checkpoint.pt", SummaryWriter(folder)
    recent, began, before, saved = [], time.monotonic(), run.seconds, time.monotonic()
    bar = tqdm(total=round(minutes * 60), initial=round(run.seconds), unit="s", disable=not sys.stderr.isatty())
    with bar, contextlib.suppress(KeyboardInterrupt):
        while run.seconds < minutes * 60:
            recent.append(run.advance(run.seconds / (minutes * 60)))
            run.seconds = before + time.monotonic() - began
            if len(recent) == 200:
                mean = sum(recent) / len(recent)
                recent.clear()
                if not math.isfinite(mean):
                    raise ValueError(f"the loss is {mean} at step {run.step}: lower the rate")
                run.losses.append((run.step, mean))
                writer.add_scalar("loss", mean, run.step)
                bar.n = round(run.seconds)
                bar.set_postfix(loss=f"{mean:.5f}")
            if time.monotonic() - saved > SAVE_EVERY:
                save(run, checkpoint)
                saved = time.monotonic()
    save(run, checkpoint)
    writer.close()
    if run.losses:
        curve(run.losses, folder / "loss.png")


def write(run: Run, path: Path) -> None:
    """Export the averaged network with its card."""
    data, config = run.config["data"], run.config
    module = PatchPrior(run.average.module.cpu().eval())
    spectrum_source = LinearModulation(**data)
    waves = spectrum_source(512, torch.Generator().manual_seed(0))
    psd = power_spectrum(torch.complex(waves[:, 0], waves[:, 1]).numpy())
    edge = (1 + data["rolloff"]) / (2 * data["sps"])
    write_prior(module, {
        "format": 1, "name": config["name"], "kind": "patchnet", "window": data["window"], "predicts": "signal",
        "side": [], "band": [-edge, edge], "samples_per_symbol": data["sps"],
        "modulation": {"constellation": data["constellation"], "samples_per_symbol": data["sps"],
                       "rolloff": data["rolloff"], "span": data["span"], "first": data["sps"] // 2},
        "alpha_bar": [1 / (1 + config["network"]["v_max"]), 1 / (1 + config["network"]["v_min"])], "psd": psd,
        "training": f"train.py {config['name']}.yaml: {run.step} steps of {config['training']['batch']} windows, "
                    f"{run.seconds / 60:.1f} minutes, data by Sionna",
        "licence": config["licence"], "version": "1"}, path)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--minutes", type=float, help="in all, resumed time included (default: the file's)")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--output", type=Path, help="write the prior here at the end")
    args = parser.parse_args(argv)
    try:
        if args.threads:
            torch.set_num_threads(args.threads)
        config = yaml.safe_load(args.config.read_text())
        run = Run(config, args.device)
        minutes = args.minutes or config["training"]["minutes"]
        folder = args.runs / config["name"]
        folder.mkdir(parents=True, exist_ok=True)
        if args.resume:
            resume(run, folder / "checkpoint.pt")
        train(run, minutes, folder)
        loss = run.losses[-1][1] if run.losses else math.nan
        print(f"{run.step} steps, {run.seconds / 60:.1f} minutes, loss {loss:.5f}", file=sys.stderr)
        if args.output:
            write(run, args.output)
    except (ValueError, KeyError, TypeError, OSError, yaml.YAMLError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
