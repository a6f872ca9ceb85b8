#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Export a U-Net trained by train_unet.py as a separator file: TorchScript with its card, `separator.json`, inside.

    python training/export_unet.py runs/unet-ofdm-qpsk/checkpoint.npz --output unet-ofdm-qpsk.pt

The weights that TensorFlow trained are loaded into the same Keras network computed by torch, which is traced. A file is
written only where its answers are those that TensorFlow gave (within TOLERANCE, for an SOI of unit power). Exit status:
0 done, 2 bad input, one sentence on stderr and nothing written.
"""

import argparse
import io
import json
import os
import sys
import warnings
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"

import numpy as np
import torch
from export import _without_debug_records, _write
from torch import Tensor, nn
from unet import load_checkpoint, unet_from

FORMAT = 1  # of separator.json
TOLERANCE = 1e-4


class Separator(nn.Module):
    """The Keras network with real and imaginary part as the second axis, as everywhere else in gr-unmix."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, mixture: Tensor) -> Tensor:
        """mixture: float32 [B, 2, N] in the SOI's unit. Returns the SOI, [B, 2, N]."""
        return self.network(mixture.transpose(1, 2), training=False).transpose(1, 2)


def network_from(state: dict, window: int) -> nn.Module:
    """The averaged network of a checkpoint, computed by torch. Raises ValueError where its weights do not fit it."""
    network = unet_from(json.loads(str(state["run"]))["config"]["network"], window)
    weights = [state.get(f"average/{k}") for k in range(len(network.weights))]
    if any(found is None or found.shape != tuple(wanted.shape)
           for found, wanted in zip(weights, network.weights, strict=True)):
        raise ValueError("the checkpoint's weights are not those of its network")
    if not all(np.isfinite(array).all() for array in weights):
        raise ValueError("the checkpoint has weights that are not finite")
    network.set_weights(weights)
    return network


def card_of(state: dict, config_name: str = "", version: str = "1") -> dict:
    """The contents of separator.json. config_name: the configuration's file, for the line about the training."""
    run, data = json.loads(str(state["run"])), json.loads(str(state["card"]))
    config, (low, high) = run["config"], data["sir_db"]
    noise = "no noise" if data["snr_db"] is None else "SNR {:g} to {:g} dB".format(*data["snr_db"])
    text = (f"train_unet.py{config_name and ' '}{config_name}: {run['step']} steps of {config['training']['batch']} "
            f"windows, {run['seconds'] / 60:.1f} minutes on a {run['device'].upper()}; {' and '.join(data['soi'])} "
            f"under {' and '.join(data['interference'])}, SIR {low:g} to {high:g} dB, {noise}")
    return {"format": FORMAT, "kind": "unet", "name": config["name"], **data, "network": config["network"],
            "training": text, "licence": config["licence"], "version": version}


def export(state: dict, card: dict, path: str | os.PathLike) -> float:
    """Write a separator file; returns the largest difference to TensorFlow's answers.

    Raises ValueError where the network does not fit or its answers differ by more than TOLERANCE, OSError where the
    file cannot be written.
    """
    module = Separator(network_from(state, card["window"])).cpu().eval().requires_grad_(False)
    probe = torch.from_numpy(state["probe"]).transpose(1, 2).contiguous()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # TorchScript announces its successor, and Keras branches on shapes
        traced = torch.jit.trace(module, probe, check_trace=False)
        _without_moves(traced)
        # in one pass and one by one: nothing of the probe's batch may stay behind in the trace
        answers = [traced(probe), torch.cat([traced(window[None]) for window in probe])]
        buffer = io.BytesIO()
        torch.jit.save(traced, buffer, _extra_files={"separator.json": json.dumps(card, allow_nan=False)})
    expected = torch.from_numpy(state["answer"]).transpose(1, 2)
    difference = max(float((answer - expected).abs().max()) for answer in answers)
    if not difference <= TOLERANCE:
        raise ValueError(f"the TorchScript differs from TensorFlow by {difference:.2g}; allowed is {TOLERANCE:g}")
    _write(path, _without_debug_records(buffer.getvalue()))
    return difference


def _without_moves(traced: torch.jit.ScriptModule) -> None:
    """Take out Keras' moves of every tensor to this machine's device, all float32, so that any other serves too."""
    for module in traced.modules():
        try:
            graph = module.graph
        except RuntimeError:  # a container without forward()
            continue
        for node in graph.findAllNodes("aten::to"):
            node.output().replaceAllUsesWith(next(node.inputs()))
            node.destroy()


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="checkpoint.npz of train_unet.py")
    parser.add_argument("--output", type=Path, required=True, help="separator file to write")
    parser.add_argument("--config-name", default="", help="the configuration's file, for the card")
    parser.add_argument("--separator-version", dest="version", default="1", help="of the weights (default 1)")
    args = parser.parse_args(argv)
    try:
        state = load_checkpoint(args.checkpoint)
        card = card_of(state, args.config_name, args.version)
        difference = export(state, card, args.output)
    except (ValueError, KeyError, TypeError, OSError) as error:
        print(f"export_unet.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    weights = sum(array.size for name, array in state.items() if name.startswith("average/"))
    print(f"{args.output}: {card['name']}, {weights / 1e6:.2f} M weights, {difference:.1g} off TensorFlow's answers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
