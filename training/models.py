# SPDX-License-Identifier: GPL-3.0-or-later
"""The networks that train.py knows, behind one interface: what they estimate, at which noise levels, how they export.

A model answers E[x | x + sqrt(v) z] for signals x of unit power and z ~ N(0, 1) per real channel. v is the noise
variance per channel: abar = 1 / (1 + v) in diffusion terms.
"""

import copy
import math

import torch
from diffwave import DiffWave, alpha_bars
from export import SCHEDULE, PriorModule
from patchnet import PatchNet
from syncnet import SyncNet
from torch import Tensor, nn


class SignalPrior(nn.Module):
    """A network that estimates the signal, behind the engine's interface: x = sqrt(abar) s + sqrt(1 - abar) z."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        """x: [B, 2, N]. alpha_bar: [B] in (0, 1). side: not used, width 0. Returns E[s | x], [B, 2, N]."""
        return self.network(x / alpha_bar.sqrt()[:, None, None], (1 - alpha_bar) / alpha_bar)


class SignalModel(nn.Module):
    """A PatchNet or SyncNet: trained on noise variances log-uniform over the network's range.

    patch: the samples per symbol that the network needs; None: any, or none.
    """

    def __init__(self, network: nn.Module, v_min: float, v_max: float):
        super().__init__()
        self.network, self.v_min, self.v_max = network, v_min, v_max
        self.patch = network.sps if isinstance(network, SyncNet) else network.patch

    def start(self, waves: Tensor) -> None:
        """Bring the weights to where training starts from, by waves [B, 2, N] of the data."""
        self.network.start(waves)

    def levels(self, batch: int, generator: torch.Generator) -> Tensor:
        """Noise variances to train on, [batch]."""
        share = torch.rand(batch, generator=generator, device=generator.device)
        return self.v_min * (self.v_max / self.v_min) ** share

    def estimate(self, r: Tensor, v: Tensor) -> Tensor:
        """r: x + sqrt(v) z, [B, 2, N]. v: [B]. Returns the estimate of x."""
        return self.network(r, v)

    def module(self, half: bool) -> nn.Module:
        """A copy behind the engine's interface. half is refused: these networks are small.

        Raises ValueError for half.
        """
        if half:
            raise ValueError("half storage is for DiffWave; this network is small")
        return SignalPrior(copy.deepcopy(self.network).cpu().eval()).requires_grad_(False)

    def card(self) -> dict:
        """Entries of prior.json that the network decides."""
        return {"predicts": "signal", "alpha_bar": [1 / (1 + self.v_max), 1 / (1 + self.v_min)]}


class DiffWaveModel(nn.Module):
    """DiffWave: estimates the noise, trained on the steps of its schedule, drawn uniformly and real-valued."""

    patch = None  # see SignalModel

    def __init__(self, channels: int = 64, blocks: int = 30, cycle: int = 10, schedule: dict | None = None):
        super().__init__()
        self.schedule = SCHEDULE | (schedule or {})
        abar = alpha_bars(**self.schedule)
        self.v_min, self.v_max = float(1 / abar[0] - 1), float(1 / abar[-1] - 1)
        self.prior = PriorModule(DiffWave(channels, blocks, cycle, self.schedule["steps"]), abar)

    def start(self, waves: Tensor) -> None:
        """Nothing: DiffWave starts from its random weights."""

    def levels(self, batch: int, generator: torch.Generator) -> Tensor:
        """Noise variances to train on, [batch]."""
        last = self.schedule["steps"] - 1
        step = last * torch.rand(batch, generator=generator, device=generator.device)
        low = step.long().clamp(max=last - 1)
        table = self.prior.log_ratio
        return torch.exp(table[low] + (step - low) * (table[low + 1] - table[low]))

    def estimate(self, r: Tensor, v: Tensor) -> Tensor:
        """r: x + sqrt(v) z, [B, 2, N]. v: [B]. Returns the estimate of x."""
        noise = self.prior(r / (1 + v).sqrt()[:, None, None], 1 / (1 + v), r.new_zeros(r.size(0), 0))
        return r - v.sqrt()[:, None, None] * noise.float()

    def module(self, half: bool) -> nn.Module:
        """A copy behind the engine's interface, with fp16 weights where half is asked for; it computes in fp32."""
        prior = copy.deepcopy(self.prior).cpu().eval().requires_grad_(False)
        if half:
            for parameter in prior.parameters():
                parameter.data = parameter.data.half()
        return prior

    def card(self) -> dict:
        """Entries of prior.json that the network decides."""
        return {"predicts": "noise", "alpha_bar": [1 / (1 + self.v_max), 1 / (1 + self.v_min)],
                "schedule": self.schedule, "mean": [0.0, 0.0], "scale": 1.0}


def _ranged(network: type, options: dict) -> SignalModel:
    built = network(**options)
    return SignalModel(built, math.exp(built.low), math.exp(built.high))


def make_model(config: dict) -> nn.Module:
    """The model that a configuration's `network` names: `kind` patchnet, syncnet or diffwave, and its parameters.

    Raises ValueError for an unknown kind, unknown parameters or values out of range.
    """
    options = dict(config)
    kind = options.pop("kind", "patchnet")
    builders = {"patchnet": lambda: _ranged(PatchNet, options), "syncnet": lambda: _ranged(SyncNet, options),
                "diffwave": lambda: DiffWaveModel(**options)}
    if kind not in builders:
        raise ValueError(f"network kind '{kind}' is unknown; allowed are {', '.join(builders)}")
    try:
        return builders[kind]()
    except TypeError as error:
        raise ValueError(f"the network {kind} cannot be built: {error}") from None
