# SPDX-License-Identifier: GPL-3.0-or-later
"""Turn a trained noise predictor into a prior file: TorchScript that carries its own card, `prior.json`.

    python training/export.py --checkpoint qpsk.pt --config qpsk --training "..." --licence "..." \\
        --output qpsk_prior.pt

Exit status: 0 done; 2 bad input, one sentence on stderr and nothing written.
"""

import argparse
import copy
import io
import json
import math
import os
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from diffwave import TABLE_1, DiffWave, alpha_bars
from torch import Tensor, nn

FORMAT = 1  # of prior.json
PSD_BINS = 256  # the least that a spectrum is made of, samples
PSD_POINTS = 1024  # of a spectrum in a card: enough to show the gaps between 64 carriers
SCHEDULE = {"beta_min": 1e-4, "beta_max": 0.05, "steps": 50}  # of the paper


class PriorModule(nn.Module):
    """A network trained on its own steps and its own scaling, behind the engine's interface for priors.

    The engine asks about x = sqrt(abar) s + sqrt(1 - abar) z, s of unit power, z ~ N(0, 1) per real channel.
    The network was trained on standardised signals s' = (s - m) / d, m complex, d > 0 the same on both
    channels (data of power P, scaled by m_P and d_P, have m = m_P / sqrt(P) and d = d_P / sqrt(P)). Hence

        x - sqrt(abar) m = sqrt(abar) d s' + sqrt(1 - abar) z

    and, with c = sqrt(d^2 abar + 1 - abar), abar' = d^2 abar / c^2 and thus 1 - abar' = (1 - abar) / c^2,

        x' = (x - sqrt(abar) m) / c = sqrt(abar') s' + sqrt(1 - abar') z

    is what the network knows. The map from x to x' is invertible and z is the same z in both, so that
    E[z | x] = E[z | x'] is the network's answer, without a further factor. In scores this is the chain rule,
    grad_x = (1 / c) grad_x': the factor 1 / c turns the network's score -z_hat / sqrt(1 - abar') into the
    engine's -z_hat / sqrt(1 - abar).

    network: module, forward(x' [B, 2, N], step [B]) -> z_hat [B, 2, N]. alpha_bar: its schedule, decreasing,
    inside (0, 1), [steps >= 2]. mean: (real, imaginary) of m. scale: d. Raises ValueError for values outside
    these ranges.
    """

    def __init__(self, network: nn.Module, alpha_bar: Tensor, mean: tuple[float, float] = (0.0, 0.0),
                 scale: float = 1.0):
        super().__init__()
        abar = alpha_bar.double()
        if abar.dim() != 1 or len(abar) < 2 or not bool((abar[1:] < abar[:-1]).all() and (abar > 0).all()
                                                       and (abar < 1).all()):
            raise ValueError("the noise schedule must be two or more decreasing alpha_bar inside (0, 1)")
        if not (math.isfinite(scale) and scale > 0.0):
            raise ValueError(f"scale is {scale}, it must be a positive number")
        if len(mean) != 2 or not all(math.isfinite(v) for v in mean):
            raise ValueError(f"mean is {mean}, it must be two finite numbers, real and imaginary")
        self.network = network
        self.scale = float(scale)
        self.register_buffer("mean", torch.tensor([[float(mean[0])], [float(mean[1])]]))
        self.register_buffer("log_ratio", torch.log((1.0 - abar) / abar).float())  # increasing with the step

    def step(self, alpha_bar: Tensor) -> Tensor:
        """alpha_bar [B] of the engine -> the network's real-valued step [B], clamped to the trained range.

        Linear in log((1 - abar') / abar') between the trained levels. That ratio is the engine's over d^2.
        """
        ratio = torch.log((1.0 - alpha_bar) / alpha_bar) - 2.0 * math.log(self.scale)
        ratio = ratio.clamp(self.log_ratio[0], self.log_ratio[-1])  # -inf and inf, at alpha_bar 1 and 0, too
        high = torch.searchsorted(self.log_ratio, ratio).clamp(1, self.log_ratio.size(0) - 1)
        low = high - 1
        return low + (ratio - self.log_ratio[low]) / (self.log_ratio[high] - self.log_ratio[low])

    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        """x [B, 2, N] float32, alpha_bar [B] in 0 .. 1, side [B, P] (not used) -> z_hat [B, 2, N]."""
        abar = alpha_bar.view(-1, 1, 1)
        power = 1.0 + (self.scale * self.scale - 1.0) * abar
        return self.network((x - abar.sqrt() * self.mean) / power.sqrt(), self.step(alpha_bar))


def power_spectrum(samples: np.ndarray) -> list[float]:
    """Power spectral density of complex samples [..., N >= 256]: 1024 floats in FFT order (DC first), mean 1.

    Averaged periodograms of Hann-windowed segments of up to 1024 samples that overlap by half. Raises ValueError for
    other shapes and for data without power.
    """
    samples = np.atleast_2d(np.asarray(samples))
    if not np.iscomplexobj(samples) or samples.shape[-1] < PSD_BINS:
        raise ValueError(f"the spectrum needs complex data of at least {PSD_BINS} samples")
    rows = samples.reshape(-1, samples.shape[-1])
    size = min(PSD_POINTS, rows.shape[1])
    power = np.zeros(PSD_POINTS)
    for row in rows:  # row by row: training sets are large
        segments = np.lib.stride_tricks.sliding_window_view(row, size)[::size // 2]
        power += (np.abs(np.fft.fft(segments * np.hanning(size + 1)[:-1], PSD_POINTS)) ** 2).mean(0)
    if not (np.isfinite(power).all() and power.sum() > 0.0):
        raise ValueError("the data for the spectrum are all zero or not finite")
    return (power / power.mean()).tolist()


def make_card(info: dict, steps: int | None = None) -> dict:
    """Check `info` and complete it to the content of prior.json.

    Required: `name`, `training` (data and command, text), `licence`. Optional, with defaults: `kind`
    "diffwave", `window` 0 (samples that the network was trained on, 0 = any), `schedule` {beta_min, beta_max,
    steps} of the paper, `mean` [0, 0] (real, imaginary), `scale` 1, `samples_per_symbol` None,
    `constellation` None, `invariances` [], `psd` None (floats in FFT order, brought to mean 1), `version`
    "1". steps: what the network has, if known. Added: `format`, `predicts`, `side` and `alpha_bar`, the
    trained range in the engine's units, where (1 - abar) / abar is d^2 times the network's own ratio.

    Raises ValueError, in a sentence, for a missing or unknown key or a bad value.
    """
    defaults = {"kind": "diffwave", "window": 0, "schedule": SCHEDULE | ({"steps": steps} if steps else {}),
                "mean": [0.0, 0.0], "scale": 1.0, "samples_per_symbol": None, "constellation": None,
                "invariances": [], "psd": None, "version": "1"}
    required = ("name", "training", "licence")
    for key in required:
        if not isinstance(info.get(key), str) or not info[key].strip():
            raise ValueError(f"the card needs {key}, a text that is not empty")
    unknown = sorted(set(info) - set(defaults) - set(required))
    if unknown:
        raise ValueError(f"the card has no entry {unknown[0]}, it takes {', '.join([*required, *defaults])}")
    card = defaults | info

    schedule = card["schedule"]
    if not isinstance(schedule, dict) or set(schedule) != set(SCHEDULE):
        raise ValueError("schedule must have exactly the entries beta_min, beta_max and steps")
    if steps and schedule["steps"] != steps:
        raise ValueError(f"schedule has {schedule['steps']} steps, the network was built for {steps}")
    if not isinstance(card["window"], int) or card["window"] < 0:
        raise ValueError(f"window is {card['window']}, it must be a number of samples, or 0 for any")
    symbol = card["samples_per_symbol"]
    if symbol is not None and not (math.isfinite(symbol) and symbol > 0):
        raise ValueError(f"samples_per_symbol is {symbol}, it must be a positive number")
    if symbol is not None and symbol == int(symbol):
        card["samples_per_symbol"] = int(symbol)
    if not all(isinstance(v, str) for v in card["invariances"]):
        raise ValueError("invariances must be a list of texts")
    if card["psd"] is not None:
        psd = np.asarray(card["psd"], dtype=float)
        if psd.ndim != 1 or len(psd) < 2 or not np.isfinite(psd).all() or psd.min() < 0.0 or psd.sum() <= 0.0:
            raise ValueError("psd must be a list of finite powers, not negative and not all zero")
        card["psd"] = (psd / psd.mean()).tolist()

    abar = alpha_bars(**schedule)
    scale = float(card["scale"])
    ends = 1.0 / (1.0 + scale * scale * (1.0 - abar[[-1, 0]]) / abar[[-1, 0]])
    order = ("name", "kind", "window", "schedule", "mean", "scale", "samples_per_symbol", "constellation",
             "invariances", "training", "psd", "licence", "version")
    return {"format": FORMAT, "predicts": "noise", "side": [], "alpha_bar": ends.tolist(),
            **{key: card[key] for key in order}}


def export_prior(network: nn.Module, info: dict, path: str | os.PathLike | None = None,
                 half: bool = False) -> tuple[torch.jit.ScriptModule, dict]:
    """Wrap `network` in PriorModule, script it, and save it with its card.

    network: forward(x [B, 2, N], step [B]) -> noise [B, 2, N], scriptable; it is copied and stays as it is.
    info: see make_card. path: the file to write; None writes nothing. half: store the weights of a DiffWave
    as fp16 (half the file); it still computes in fp32.

    Returns the scripted module, in evaluation mode on the CPU, and the card. Raises ValueError, in a
    sentence, for a bad card or a network that cannot serve, OSError where the file cannot be written.
    """
    card = make_card(info, getattr(network, "steps", None))
    network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    if half:
        if not isinstance(network, DiffWave):
            raise ValueError("half storage needs a DiffWave, whose layers compute in fp32 from fp16 weights")
        for parameter in network.parameters():
            parameter.data = parameter.data.half()
    if not all(bool(torch.isfinite(p).all()) for p in network.parameters()):
        raise ValueError("the network has weights that are not finite" + (" in fp16" if half else ""))

    prior = PriorModule(network, alpha_bars(**card["schedule"]), tuple(card["mean"]), card["scale"]).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is what the engine reads
        scripted = torch.jit.script(prior)
        with torch.no_grad():
            answer = scripted(torch.zeros(1, 2, 64), torch.full((1,), 0.5), torch.zeros(1, 0))
        if answer.shape != (1, 2, 64) or not bool(torch.isfinite(answer).all()):
            raise ValueError("the network must answer [B, 2, N] with finite numbers of the same shape")
    if path is not None:
        write_prior(scripted, card, path)
    return scripted, card


def write_prior(module: nn.Module, card: dict, path: str | os.PathLike) -> None:
    """Script a module with the engine's interface (PriorModule's forward) and save it with its card as it is.

    Raises OSError where the file cannot be written.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is what the engine reads
        buffer = io.BytesIO()
        torch.jit.save(torch.jit.script(module), buffer,
                       _extra_files={"prior.json": json.dumps(card, allow_nan=False)})
    _write(path, _without_debug_records(buffer.getvalue()))


def _write(path: str | os.PathLike, content: bytes) -> None:
    """Write a file whole or not at all. Raises OSError that says which file and why."""
    part = Path(f"{os.fspath(path)}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(f"cannot write {os.fspath(path)}: {error.strerror}") from error


def _without_debug_records(archive: bytes) -> bytes:
    """A TorchScript archive without the debug records, which name source files by their full path."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(out, "w") as target:
        for entry in source.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                record = zipfile.ZipInfo(entry.filename)  # with a fixed date: equal weights give equal files
                record.compress_type = entry.compress_type
                target.writestr(record, source.read(entry))
    return out.getvalue()


def load_checkpoint(path: str | os.PathLike, channels: int | None = None, blocks: int | None = None,
                    cycle: int | None = None, steps: int | None = None) -> tuple[DiffWave, dict]:
    """Read a DiffWave checkpoint; returns the network and the card entries that travel with it (or {}).

    A checkpoint is a state dict, or a dict with the state dict as `model` and optionally `config` (channels,
    blocks, cycle, steps) and `info` (see make_card). Channels and blocks are read off the weights. Cycle and
    steps leave no trace there: argument, else `config`, else 10 and 50. Raises ValueError, in a sentence, for
    a file that does not hold such a network or contradicts the arguments.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # advice on TorchScript files, which are refused
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # torch.load raises whatever unpickling does
        raise ValueError(f"{path} is not a PyTorch checkpoint of plain tensors") from error
    content = content if isinstance(content, dict) else {}
    nested = isinstance(content.get("model"), dict)
    config, info = (content.get("config") or {}, content.get("info") or {}) if nested else ({}, {})
    state = content["model"] if nested else content
    state = {str(key).removeprefix("module."): value for key, value in state.items()}  # of parallel training
    first = state.get("input_projection.weight")
    if not isinstance(first, Tensor) or first.dim() != 3 or first.shape[1:] != (2, 1):
        raise ValueError(f"{path} holds no DiffWave for complex signals (input_projection from 2 channels)")
    shape = {"channels": first.shape[0],
             "blocks": len({key.split(".")[1] for key in state if key.startswith("residual_layers.")})}
    for name, wanted in (("channels", channels), ("blocks", blocks)):
        if wanted is not None and wanted != shape[name]:
            raise ValueError(f"{path} has {shape[name]} {name}, not {wanted}")
    shape |= {"cycle": cycle or config.get("cycle", 10), "steps": steps or config.get("steps", 50)}
    network = DiffWave(**shape)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} lacks layers of a DiffWave with {shape['blocks']} blocks") from error
    return network, dict(info)


def random_network(seed: int, channels: int = 64, blocks: int = 30, cycle: int = 10,
                   steps: int = 50) -> DiffWave:
    """An untrained DiffWave with random weights, in its last convolution too, so that it does not answer 0.

    It proves that export and engine agree; it separates nothing. The caller's random state is left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DiffWave(channels, blocks, cycle, steps)
        nn.init.kaiming_normal_(network.output_projection.weight)
    return network


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        """One sentence and status 2, without argparse's usage text."""
        self.exit(2, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="export.py", description="Export a trained DiffWave as a prior file of gr-unmix.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", metavar="FILE", help="trained weights, a PyTorch state dict")
    source.add_argument("--random-weights", metavar="SEED", type=int,
                        help="an untrained network, which only proves the path from here to the engine")
    parser.add_argument("--output", metavar="FILE", required=True, help="prior file to write")
    parser.add_argument("--half", action="store_true", help="store the weights in fp16; they compute in fp32")

    network = parser.add_argument_group("network")
    network.add_argument("--config", choices=sorted(TABLE_1), help="channels of the paper's Table 1")
    network.add_argument("--channels", type=int, metavar="C", help="residual channels; wins over --config")
    network.add_argument("--blocks", type=int, metavar="R", help="residual blocks (the checkpoint's, or 30)")
    network.add_argument("--cycle", type=int, metavar="M", help="dilation cycle (the checkpoint's, or 10)")
    network.add_argument("--steps", type=int, metavar="T", help="noise levels (the checkpoint's, or 50)")

    card = parser.add_argument_group("card", "these win over what the checkpoint says about itself")
    card.add_argument("--name", help="default: the output's name without its ending")
    card.add_argument("--window", type=int, metavar="N", help="samples per training window (default 0: any)")
    card.add_argument("--mean", type=float, nargs=2, metavar=("RE", "IM"), help="m of data (s - m)/d")
    card.add_argument("--scale", type=float, metavar="D", help="d of data (s - m)/d (default 1)")
    card.add_argument("--samples-per-symbol", type=float, metavar="S")
    card.add_argument("--constellation", metavar="NAME", help="bpsk, qpsk, ...")
    card.add_argument("--invariances", nargs="+", metavar="WORD", help="what training varied: shift, phase")
    card.add_argument("--training", metavar="TEXT", help="data and command of the training")
    card.add_argument("--psd-data", metavar="FILE.npy", help="training data, complex, for the spectrum")
    card.add_argument("--licence", metavar="SPDX")
    card.add_argument("--prior-version", dest="version", metavar="TEXT", help="of the weights (default 1)")
    return parser


def _samples(path: str) -> np.ndarray:
    """Array of a .npy file. Raises ValueError, in a sentence, for any other file."""
    try:
        return np.load(path, mmap_mode="r")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not a .npy file of complex samples") from error


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status. argv: arguments without the program's name (sys.argv)."""
    parser = _parser()
    args = parser.parse_args(argv)
    shape = {key: getattr(args, key) for key in ("channels", "blocks", "cycle", "steps")
             if getattr(args, key) is not None}
    try:
        for key, value in shape.items():
            if value < 1:
                raise ValueError(f"--{key} is {value}, it must be at least 1")
        if args.config:
            shape.setdefault("channels", TABLE_1[args.config])
        if args.checkpoint is not None:
            network, info = load_checkpoint(args.checkpoint, **shape)
        else:
            network = random_network(args.random_weights, **shape)
            info = {"training": f"none: random weights, seed {args.random_weights}; proves the path only",
                    "licence": "GPL-3.0-or-later"}
        info.setdefault("name", Path(args.output).stem)
        for key in ("name", "window", "mean", "scale", "samples_per_symbol", "constellation", "invariances",
                    "training", "licence", "version"):
            if getattr(args, key) is not None:
                info[key] = getattr(args, key)
        if args.psd_data is not None:
            info["psd"] = power_spectrum(_samples(args.psd_data))
        _, card = export_prior(network, info, args.output, half=args.half)
    except (ValueError, OSError) as error:
        parser.error(" ".join(str(error).split()))
    count = sum(parameter.numel() for parameter in network.parameters())
    print(f"{args.output}: {card['name']}, {count / 1e6:.2f} M parameters, "
          f"alpha_bar {card['alpha_bar'][0]:.4f} to {card['alpha_bar'][1]:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
