# SPDX-License-Identifier: GPL-3.0-or-later
"""A tiny network for linear modulation: it learns pulse and alphabet, and decides softly in between."""

import math

import torch
from torch import Tensor, nn

#: Points that the decision starts from, unit power with both axes, and how many axes it takes at once.
ALPHABETS = {
    "bpsk": (1, [[1.0], [-1.0]]),
    "qpsk": (1, [[math.sqrt(0.5)], [-math.sqrt(0.5)]]),
    "8psk": (2, [[math.cos(math.pi * k / 4), math.sin(math.pi * k / 4)] for k in range(8)]),
    "16qam": (1, [[level / math.sqrt(10)] for level in (-3, -1, 1, 3)]),
}


class PatchNet(nn.Module):
    """Posterior mean of x from r = x + sqrt(v) z: patches of one symbol as tokens, wide convolutions in and out.

    The posterior mean of linear modulation is a linear map, a soft decision whose steepness follows the noise, and a
    linear map back. The network has this shape, with complex weights and no biases: there is nothing in it that does
    not saturate, and the steepness has two weights, so that it is right where training cannot see it. In
    Douglas-Rachford the input is far from signal plus white noise, and what saturates tolerates it. It must start with
    the pulse, see start(): from random weights it goes linear and stays there.

    alphabet: a key of ALPHABETS, where the decision's points start; those of BPSK and QPSK stay. patch: samples of a
    token, the samples per symbol; symbols lie at sample patch // 2. reach: tokens that the maps cover, odd, at least
    the pulse's span. v_min, v_max: range of the noise variance per real channel that training covers. Raises ValueError
    for values outside these ranges.
    """

    def __init__(self, alphabet: str = "qpsk", patch: int = 16, reach: int = 9, v_min: float = 1e-3,
                 v_max: float = 5.0):
        super().__init__()
        if alphabet not in ALPHABETS:
            raise ValueError(f"alphabet '{alphabet}' is unknown; allowed are {', '.join(ALPHABETS)}")
        if patch < 1 or reach < 1 or reach % 2 == 0 or not 0 < v_min < v_max:
            raise ValueError(f"a PatchNet of patch {patch}, reach {reach}, v from {v_min} to {v_max} is impossible; "
                             "patch and reach must be above zero, reach odd, and v_min above zero and below v_max")
        self.patch, self.reach = patch, reach
        self.low, self.high = math.log(v_min), math.log(v_max)
        self.real: bool = alphabet == "bpsk"
        self.binary: bool = alphabet in ("bpsk", "qpsk")
        self.axes: int = ALPHABETS[alphabet][0]
        self.points = nn.Parameter(torch.tensor(ALPHABETS[alphabet][1]), requires_grad=not self.binary)  # [M, axes]
        # The matched filter gathers a patch's samples: its noise is v / patch, and what the model leaves over.
        self.noise = nn.Parameter(torch.tensor([math.log(1 / patch), math.log(1e-4)]))
        scale = 1 / math.sqrt(patch * reach)
        self.analysis = nn.Parameter(scale * torch.randn(1, 2 * patch, reach))  # complex: real parts, imaginary parts
        self.synthesis = nn.Parameter(scale * torch.randn(2 * patch, 1, reach))

    def start(self, waves: Tensor) -> None:
        """Set both maps to the zero-phase pulse that the spectrum of waves [B, 2, N] of unit power shows.

        Raises ValueError for waves shorter than reach tokens.
        """
        span = self.reach * self.patch
        size = min(4 * span, waves.size(2))
        if size < span:
            raise ValueError(f"windows of {size} samples are too short; {self.reach} symbols have {span}")
        frames = torch.complex(waves[:, 0], waves[:, 1]).unfold(1, size, span)
        taper = torch.hann_window(size, device=waves.device)
        density = torch.fft.fft(frames * taper).abs().square().mean((0, 1))
        pulse = torch.fft.ifft(density.clamp(min=1e-3 * density.max()).sqrt())
        pulse = pulse * math.sqrt(self.patch) / pulse.abs().square().sum().sqrt()
        place = torch.arange(self.reach, device=waves.device) - self.reach // 2
        sample = torch.arange(self.patch, device=waves.device)[:, None] - self.patch // 2
        seen = pulse[sample + self.patch * place]  # [patch, reach]: what a symbol leaves in the tokens around it
        sent = pulse[sample - self.patch * place]
        with torch.no_grad():
            self.analysis[0] = torch.cat([seen.real, seen.imag]) / self.patch
            self.synthesis[:, 0] = torch.cat([sent.real, sent.imag])

    def decide(self, u: Tensor, sharpness: Tensor) -> Tensor:
        """Soft decisions on symbols u [B, 2, n] in noise of variance 1 / sharpness [B] per axis."""
        if self.binary:
            level = self.points[0, 0]
            mean = level * torch.tanh(level * u * sharpness[:, None, None])
            if self.real:
                mean = torch.cat([mean[:, :1], torch.zeros_like(mean[:, :1])], 1)
            return mean
        groups = u.view(u.size(0), -1, self.axes, u.size(2)).transpose(2, 3)  # [B, 2 / axes, n, axes]
        score = torch.matmul(groups, self.points.t()) - 0.5 * self.points.square().sum(1)
        weight = torch.softmax(score * sharpness[:, None, None, None], -1)
        return torch.matmul(weight, self.points).transpose(2, 3).reshape(u.shape)

    def sharpness(self, v: Tensor) -> Tensor:
        """Inverse of the noise variance that decisions reckon with, [B], at noise variances v [B] of samples."""
        gain, floor = torch.exp(self.noise[0]), torch.exp(self.noise[1])
        return 1 / (gain * v.clamp(math.exp(self.low), math.exp(self.high)) + floor)

    def forward(self, r: Tensor, v: Tensor) -> Tensor:
        """r: [B, 2, N], N a multiple of patch. v: [B], clamped to the trained range. Returns [B, 2, N]."""
        batch, samples = r.size(0), r.size(2)
        tokens = r.reshape(batch, 2, -1, self.patch).transpose(2, 3).reshape(batch, 2 * self.patch, -1)
        turned = torch.cat([-self.analysis[:, self.patch:], self.analysis[:, :self.patch]], 1)
        weight = torch.cat([self.analysis, turned])
        # Symbols outside the window reach into it: they have tokens too.
        u = nn.functional.conv1d(tokens, weight, padding=2 * (self.reach // 2))
        turned = torch.cat([-self.synthesis[self.patch:], self.synthesis[:self.patch]])
        tokens = nn.functional.conv1d(self.decide(u, self.sharpness(v)), torch.cat([self.synthesis, turned], 1))
        return tokens.reshape(batch, 2, self.patch, -1).transpose(2, 3).reshape(batch, 2, samples)
