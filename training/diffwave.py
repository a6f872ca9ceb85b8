# SPDX-License-Identifier: GPL-3.0-or-later
"""DiffWave for complex baseband signals: the noise predictor behind the learned priors.

Architecture: Kong et al., "DiffWave: A Versatile Diffusion Model for Audio Synthesis" (arXiv 2009.09761,
Figure 2), without a conditioner, with the changes of Jayashankar et al. (arXiv 2306.14411, Appendix D): a
complex signal is two real channels, and the loss is the MSE of the noise. Layers are named as in the
published implementations, so that their checkpoints load.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Table 1 of arXiv 2306.14411: residual channels C per signal. R = 30 blocks and dilation cycle m = 10.
TABLE_1 = {"qpsk": 64, "ofdm-bpsk": 128, "ofdm-qpsk": 256, "commsignal2": 128}


def alpha_bars(steps: int = 50, beta_min: float = 1e-4, beta_max: float = 0.05) -> Tensor:
    """Signal power left after each step, float64 [steps]: cumprod(1 - beta) of linearly spaced beta.

    The defaults are the paper's schedule. Raises ValueError unless steps >= 2 and 0 < beta_min <= beta_max <
    1.
    """
    if steps < 2:
        raise ValueError(f"steps is {steps}, it must be at least 2")
    if not 0.0 < beta_min <= beta_max < 1.0:
        raise ValueError(f"beta_min {beta_min}, beta_max {beta_max}: must be 0 < beta_min <= beta_max < 1")
    return torch.cumprod(1.0 - torch.linspace(beta_min, beta_max, steps, dtype=torch.float64), 0)


class Conv1d(nn.Conv1d):
    """Conv1d, He-normal weights, no weight norm; computes in the input's precision, however it is stored."""

    bias: Tensor  # TorchScript would take it for optional

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1):
        super().__init__(inputs, outputs, kernel, padding=dilation * (kernel // 2), dilation=dilation)
        nn.init.kaiming_normal_(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """[B, inputs, N] -> [B, outputs, N]; the ends are padded with zeros."""
        weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)  # no-ops unless stored in fp16
        return F.conv1d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)


class Linear(nn.Linear):
    """Linear layer that computes in the input's precision, however it is stored."""

    bias: Tensor

    def forward(self, input: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        return F.linear(input, self.weight.to(input.dtype), self.bias.to(input.dtype))


class StepEmbedding(nn.Module):
    """Diffusion step -> 512 features: 64 sin and 64 cos of the step, then two linear layers with SiLU.

    Row t of the table holds sin, then cos, of t * 10^(4 d / 63), d = 0 .. 63. Real-valued steps are
    interpolated linearly between rows (arXiv 2009.09761, diffusion-step embedding and fast sampling). steps:
    rows, >= 1.
    """

    def __init__(self, steps: int):
        super().__init__()
        # Float32 on purpose: angles reach 5e5, where float32 is 0.03 rad coarse, and published checkpoints
        # were trained with exactly these roundings.
        angle = torch.arange(steps).unsqueeze(1) * 10.0 ** (torch.arange(64).unsqueeze(0) * 4.0 / 63.0)
        self.register_buffer("table", torch.cat([angle.sin(), angle.cos()], dim=1), persistent=False)
        self.projection1 = Linear(128, 512)
        self.projection2 = Linear(512, 512)

    def rows(self, step: Tensor) -> Tensor:
        """Table rows [B, 128] at integer or real-valued steps [B], clamped to 0 .. steps - 1."""
        last = self.table.size(0) - 1
        position = step.to(self.table.dtype).clamp(0.0, float(last))
        low = position.floor().long()
        high = (low + 1).clamp(max=last)
        fraction = (position - low.to(position.dtype)).unsqueeze(1)
        return self.table[low] + (self.table[high] - self.table[low]) * fraction

    def forward(self, step: Tensor) -> Tensor:
        """Steps [B] -> features [B, 512]."""
        features = F.silu(self.projection1(self.rows(step)))
        return F.silu(self.projection2(features))


class ResidualBlock(nn.Module):
    """Dilated convolution (kernel 3) with a gate; gives the next block's input and its share of the output.

    channels: C, residual channels. dilation: samples between the three taps.
    """

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.dilated_conv = Conv1d(channels, 2 * channels, 3, dilation)
        self.diffusion_projection = Linear(512, channels)
        self.output_projection = Conv1d(channels, 2 * channels, 1)

    def forward(self, x: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, C, N], step features [B, 512] -> (next x, skip), both [B, C, N]."""
        y = self.dilated_conv(x + self.diffusion_projection(features).unsqueeze(-1))
        gate, filtered = y.chunk(2, dim=1)
        residual, skip = self.output_projection(torch.sigmoid(gate) * torch.tanh(filtered)).chunk(2, dim=1)
        return (x + residual) * math.sqrt(0.5), skip


class DiffWave(nn.Module):
    """Estimate of the noise z in x_t = sqrt(abar_t) s + sqrt(1 - abar_t) z, z ~ N(0, 1) per real channel.

    channels: C, residual channels (64: 2.3 M parameters, 128: 6.3 M, 256: 20.1 M at 30 blocks). blocks: R,
    residual blocks. cycle: m, block i has dilation 2^(i mod m). steps: length of the noise schedule it is
    trained on. Raises ValueError where one of them is not a positive number. The last convolution starts at
    zero, as in the original: an untrained network answers with a constant.
    """

    def __init__(self, channels: int = 64, blocks: int = 30, cycle: int = 10, steps: int = 50):
        super().__init__()
        for name, value in (("channels", channels), ("blocks", blocks), ("cycle", cycle), ("steps", steps)):
            if value < 1:
                raise ValueError(f"{name} is {value}, it must be at least 1")
        self.steps = steps
        self.skip_scale = 1.0 / math.sqrt(blocks)
        self.input_projection = Conv1d(2, channels, 1)
        self.diffusion_embedding = StepEmbedding(steps)
        self.residual_layers = nn.ModuleList(ResidualBlock(channels, 2 ** (i % cycle)) for i in range(blocks))
        self.skip_projection = Conv1d(channels, channels, 1)
        self.output_projection = Conv1d(channels, 2, 1)
        nn.init.zeros_(self.output_projection.weight)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        """x [B, 2, N], any N (real, imaginary); step [B] in 0 .. steps - 1, also real -> z_hat [B, 2, N]."""
        x = F.relu(self.input_projection(x))
        features = self.diffusion_embedding(step)
        skips = torch.zeros_like(x)
        for block in self.residual_layers:
            x, skip = block(x, features)
            skips = skips + skip
        return self.output_projection(F.relu(self.skip_projection(skips * self.skip_scale)))
