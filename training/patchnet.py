# SPDX-License-Identifier: GPL-3.0-or-later
"""A small network for signals with a symbol clock: one token per symbol, cheap enough for a laptop."""

import math

import torch
from torch import Tensor, nn


class GatedBlock(nn.Module):
    """Residual block over tokens [B, W, n], gated as in DiffWave, told the noise level by e [B, 32]."""

    def __init__(self, width: int):
        super().__init__()
        self.convolution = nn.Conv1d(width, 2 * width, 3, padding=1)
        self.level = nn.Linear(32, 2 * width)
        self.output = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        gate, value = (self.convolution(x) + self.level(e)[..., None]).chunk(2, 1)
        return x + self.output(torch.sigmoid(gate) * torch.tanh(value))


class PatchNet(nn.Module):
    """Posterior mean of x from r = x + sqrt(v) z: patches of one symbol as tokens, wide convolutions in and out.

    tanh behind the first convolution: in Douglas-Rachford the input is far from signal plus white noise, and what
    saturates tolerates it. width: channels. blocks: gated blocks. patch: samples of a token, the samples per symbol.
    reach: tokens that the outer convolutions cover, odd, at least the pulse's span. v_min, v_max: range of the noise
    variance per real channel that training covers.
    """

    def __init__(self, width: int = 32, blocks: int = 2, patch: int = 16, reach: int = 9, v_min: float = 1e-3,
                 v_max: float = 5.0):
        super().__init__()
        self.patch = patch
        self.low, self.high = math.log(v_min), math.log(v_max)
        self.embedding = nn.Linear(1, 32)
        self.level = nn.Linear(32, width)
        self.analysis = nn.Conv1d(2 * patch, width, reach, padding=reach // 2)
        self.blocks = nn.ModuleList([GatedBlock(width) for _ in range(blocks)])
        self.synthesis = nn.Conv1d(width, 2 * patch, reach, padding=reach // 2)

    def forward(self, r: Tensor, v: Tensor) -> Tensor:
        """r: [B, 2, N], N a multiple of patch. v: [B], clamped to the trained range. Returns [B, 2, N]."""
        batch, samples = r.size(0), r.size(2)
        level = torch.log(v).clamp(self.low, self.high)
        e = nn.functional.silu(self.embedding(0.5 * level[:, None]))
        # Keeps the input's scale near one at high noise.
        scale = torch.rsqrt(1 + v)[:, None, None]
        tokens = (r * scale).reshape(batch, 2, -1, self.patch).transpose(2, 3).reshape(batch, 2 * self.patch, -1)
        h = torch.tanh(self.analysis(tokens) + self.level(e)[..., None])
        for block in self.blocks:
            h = block(h, e)
        tokens = self.synthesis(h).reshape(batch, 2, self.patch, -1)
        return tokens.transpose(2, 3).reshape(batch, 2, samples)


class PatchPrior(nn.Module):
    """A PatchNet behind the engine's interface: x = sqrt(abar) s + sqrt(1 - abar) z, answers E[s | x]."""

    def __init__(self, network: PatchNet):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        """x: [B, 2, N]. alpha_bar: [B] in (0, 1). side: not used, width 0. Returns [B, 2, N]."""
        return self.network(x / alpha_bar.sqrt()[:, None, None], (1 - alpha_bar) / alpha_bar)
