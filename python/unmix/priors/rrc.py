# SPDX-License-Identifier: GPL-3.0-or-later
"""Closed-form prior of a linear modulation with root-raised-cosine pulses, timing and phase known or marginalised."""

import math
from typing import Tuple

import numpy as np
import torch
from torch import Tensor, nn

from . import constellation as cons
from .marginal import accumulate, power_phase


def pulse_at(t: Tensor, rolloff: float, span: int) -> Tensor:
    """Root-raised-cosine pulse at times t (symbols), zero beyond +- span / 2; not normalised. Scriptable."""
    kind = t.dtype
    t = t.double()  # near its removable poles float32 is wrong by up to 2e-4
    inside = t.abs() <= 0.5 * span + 1e-6
    if rolloff < 1e-6:
        return (torch.sinc(t) * inside).to(kind)
    x = 4 * rolloff * t
    centre = t.abs() < 1e-6
    corner = (x.abs() - 1).abs() < 1e-6
    safe = torch.where(centre | corner, torch.full_like(t, 0.3 / max(rolloff, 0.3)), t)  # any regular point
    y = 4 * rolloff * safe
    value = (torch.sin(math.pi * safe * (1 - rolloff)) + y * torch.cos(math.pi * safe * (1 + rolloff))) / (
        math.pi * safe * (1 - y * y))
    value = torch.where(centre, torch.full_like(t, 1 - rolloff + 4 * rolloff / math.pi), value)
    at_corner = rolloff / math.sqrt(2) * ((1 + 2 / math.pi) * math.sin(math.pi / (4 * rolloff))
                                          + (1 - 2 / math.pi) * math.cos(math.pi / (4 * rolloff)))
    return (torch.where(corner, torch.full_like(t, at_corner), value) * inside).to(kind)


def taps(sps: int, rolloff: float, span: int) -> np.ndarray:
    """The pulse on the sample grid, float64 [2 * (span * sps // 2) + 1], energy sps: unit power for unit symbols."""
    half = span * sps // 2
    grid = torch.arange(-half, half + 1, dtype=torch.float64) / sps
    pulse = pulse_at(grid, rolloff, span).numpy()
    return pulse * math.sqrt(sps / np.sum(pulse**2))


def modulation_matrix(samples: int, centres: np.ndarray, sps: float, rolloff: float, span: int) -> np.ndarray:
    """Pulses of symbols at `centres` (samples, [S], any place), float64 [samples, S].

    A wave of unit power is its product with symbols of unit power. Other arguments as Rrc's, sps any number.
    """
    grid = torch.arange(-math.ceil(span * sps), math.ceil(span * sps) + 1, dtype=torch.float64) / sps
    level = math.sqrt(sps / float(pulse_at(grid, rolloff, span).square().sum()))
    time = (torch.arange(samples, dtype=torch.float64)[:, None] - torch.as_tensor(centres, dtype=torch.float64)) / sps
    return pulse_at(time, rolloff, span).numpy() * level


def autocorrelation(sps: int, rolloff: float, span: int) -> np.ndarray:
    """E[s(n + d) s*(n)] for d = 0 .. span * sps of independent symbols at an unknown time, float64 [span * sps + 1]."""
    pulse = taps(sps, rolloff, span)
    return np.correlate(pulse, pulse, "full")[len(pulse) - 1:] / sps


class Rrc(nn.Module):
    """E[s | x] for x = sqrt(abar) s + sqrt(1 - abar) z, s = sum_k a_k h(n - first - k sps) of unit power.

    a_k are equiprobable points, h the RRC pulse. The posterior mean is H E[a | H^T x] with the symbols decided one
    by one: equations (74)-(77) of arXiv 2306.14411, exact as far as the truncated pulses are orthogonal.

    constellation: a name from constellation.NAMES. sps: samples per symbol, >= 2. rolloff: 0 .. 1. span: length of
    the pulse in symbols, >= 2. first: sample of the first symbol's centre, 0 <= first < sps (default sps // 2).
    tails: symbols beyond each end of the window whose pulses reach into it; 0 for the paper's isolated windows,
    span // 2 for a window cut from a longer signal. synchronised: without side information the timing is `first` and
    the phase 0; otherwise (False) both are marginalised on `grid` points each, around their likeliest values.
    Raises ValueError for values outside these ranges.

    Side information [B, 2]: `timing` (samples, replaces first) and `phase` (radians).
    """

    def __init__(self, constellation: str = "qpsk", sps: int = 16, rolloff: float = 0.5, span: int = 8,
                 first: float = -1.0, tails: int = 0, synchronised: bool = True, grid: int = 9):
        super().__init__()
        if sps < 2 or not 0 <= rolloff <= 1 or span < 2 or tails < 0:
            raise ValueError(f"sps={sps}, rolloff={rolloff}, span={span}, tails={tails} is impossible; allowed are "
                             "sps >= 2, rolloff from 0 to 1, span >= 2, tails >= 0")
        if first >= sps:
            raise ValueError(f"first={first} is impossible; the first symbol lies at 0 to {sps - 1} samples")
        table = cons.points(constellation)
        self.constellation = constellation
        self.symmetry: int = cons.SYMMETRY[constellation]
        self.sps, self.rolloff, self.span, self.tails = sps, float(rolloff), span, tails
        self.first = float(sps // 2 if first < 0 else first)
        self.synchronised, self.grid = synchronised, grid
        self.reach = -(-(span * sps // 2) // sps)  # blocks of sps samples that a pulse reaches to each side
        self.columns = 2 * self.reach + 1
        self.register_buffer("table", torch.from_numpy(np.stack([table.real, table.imag], -1)))
        pulse = taps(sps, rolloff, span)
        points = max(4096, len(pulse))
        frequency = 2 * np.pi * np.fft.fftfreq(points)
        spectrum = np.abs(np.fft.fft(pulse, points)) ** 2
        #: Mean square angular frequency of the pulse, (rad/sample)^2: how well timing can be known.
        self.bandwidth: float = float(np.sum(frequency**2 * spectrum) / np.sum(spectrum))
        self.level: float = math.sqrt(sps / float(np.sum((pulse / pulse.max()) ** 2))) / (
            pulse_at(torch.zeros(1), self.rolloff, span).item())
        self.register_buffer("blocks", self.pulse_blocks(torch.tensor([self.first])))  # [1, sps, columns]

    def pulse_blocks(self, timing: Tensor) -> Tensor:
        """The pulse of a symbol at timing [B] (samples), cut into blocks: [B, sps, columns].

        Column j holds what the pulse of symbol k leaves in block k - reach + j.
        """
        block = (torch.arange(self.columns, device=timing.device) - self.reach) * self.sps
        sample = torch.arange(self.sps, device=timing.device)[:, None] + block
        return pulse_at((sample - timing[:, None, None]) / self.sps, self.rolloff, self.span) * self.level

    def correlate(self, x: Tensor, blocks: Tensor) -> Tensor:
        """H^T x: [B, 2, N] to [B, 2, symbols]; symbols = ceil(N / sps) + 2 tails."""
        count = (x.size(2) + self.sps - 1) // self.sps
        padded = nn.functional.pad(x, (0, count * self.sps - x.size(2)))
        parts = torch.matmul(padded.reshape(x.size(0), 2 * count, self.sps), blocks)
        around = self.reach + self.tails
        parts = nn.functional.pad(parts.view(x.size(0), 2, count, self.columns), (0, 0, around, around))
        row = (count + 2 * around) * self.columns
        return parts.as_strided([x.size(0), 2, count + 2 * self.tails, self.columns],
                                [2 * row, row, self.columns, self.columns + 1]).sum(-1)

    def modulate(self, symbols: Tensor, blocks: Tensor, samples: int) -> Tensor:
        """H a: [B, 2, symbols] to [B, 2, samples]."""
        count = symbols.size(2) - 2 * self.tails
        padded = nn.functional.pad(symbols, (self.reach, self.reach))
        near = padded.narrow(2, self.tails, count + 2 * self.reach).unfold(2, self.columns, 1).flip(3)
        wave = torch.matmul(near.reshape(symbols.size(0), 2 * count, self.columns), blocks.transpose(1, 2))
        return wave.view(symbols.size(0), 2, count * self.sps)[:, :, :samples]

    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        """x: [B, 2, N] float32. alpha_bar: [B] in (0, 1). side: [B, 2] or [B, 0]. Returns E[s | x], [B, 2, N]."""
        if side.size(1) > 0:
            return self.given(x, alpha_bar, self.pulse_blocks(side[:, 0]), side[:, 1])
        if self.synchronised:
            return self.given(x, alpha_bar, self.blocks, torch.zeros(0, device=x.device))
        return self.marginal(x, alpha_bar)

    def energies(self, samples: int, blocks: Tensor) -> Tensor:
        """Energy of each symbol's pulse inside the window: [1 or B, symbols]; sps away from the ends."""
        ones = torch.ones(blocks.size(0), 2, samples, dtype=blocks.dtype, device=blocks.device)
        return self.correlate(ones, blocks.square())[:, 0]

    def observe(self, x: Tensor, alpha_bar: Tensor, blocks: Tensor, phase: Tensor) -> Tensor:
        """Scaled, derotated matched-filter outputs u [B, symbols, 2], see constellation.posterior_mean."""
        u = self.correlate(x, blocks) * (alpha_bar.sqrt() / (1 - alpha_bar))[:, None, None]
        if phase.size(0) > 0:
            u = rotate(u, -phase)
        return u.transpose(1, 2)

    def given(self, x: Tensor, alpha_bar: Tensor, blocks: Tensor, phase: Tensor) -> Tensor:
        """Posterior mean for known pulses [1 or B, sps, columns] and phase [B] (or [0]: none)."""
        u = self.observe(x, alpha_bar, blocks, phase)
        energy = u[:, :, 0]  # not used by constellations of constant modulus
        if self.constellation == "16qam":
            energy = self.energies(x.size(2), blocks) * (alpha_bar / (1 - alpha_bar))[:, None]
        mean = cons.posterior_mean(u, energy, self.table, self.constellation).transpose(1, 2)
        if phase.size(0) > 0:
            mean = rotate(mean, phase)
        return self.modulate(mean, blocks, x.size(2))

    def log_likelihood(self, x: Tensor, alpha_bar: Tensor, blocks: Tensor, phase: Tensor) -> Tensor:
        """log p(x | timing, phase) up to a constant of x, [B]."""
        u = self.observe(x, alpha_bar, blocks, phase)
        energy = self.energies(x.size(2), blocks) * (alpha_bar / (1 - alpha_bar))[:, None]
        return cons.log_evidence(u, energy, self.table).sum(-1)

    def likeliest(self, x: Tensor, alpha_bar: Tensor) -> Tuple[Tensor, Tensor]:
        """Likeliest timing [B] (samples) and phase [B]: a search over whole samples, then ever finer ones."""
        best = torch.full_like(alpha_bar, -float("inf"))
        timing, phase = torch.zeros_like(best), torch.zeros_like(best)
        step = 1.0
        steps = [float(s) for s in range(self.sps)]
        while step > 0.02:
            centre = timing
            for shift in steps:
                blocks = self.pulse_blocks(centre + shift)
                angle = power_phase(self.observe(x, alpha_bar, blocks, phase[:0]), self.symmetry)
                value = self.log_likelihood(x, alpha_bar, blocks, angle)
                better = value > best
                best = torch.where(better, value, best)
                timing = torch.where(better, centre + shift, timing)
                phase = torch.where(better, angle, phase)
            step = step * 0.5
            steps = [-step, step]
        return timing, phase

    def marginal(self, x: Tensor, alpha_bar: Tensor) -> Tensor:
        """Posterior mean with timing and phase marginalised on a grid around their likeliest values.

        The grid's spacing is one standard deviation (Cramer-Rao) where the signal determines them, and covers one
        symbol and one period of the phase where it does not.
        """
        timing, phase = self.likeliest(x, alpha_bar)
        noise = ((1 - alpha_bar) / alpha_bar / x.size(2)).sqrt()
        timing_step = (noise / math.sqrt(self.bandwidth)).clamp(max=self.sps / self.grid)
        phase_step = noise.clamp(max=2 * math.pi / self.symmetry / self.grid)
        mean, weight, top = torch.zeros_like(x), torch.zeros_like(noise), torch.full_like(noise, -float("inf"))
        half = self.grid // 2
        for i in range(self.grid):
            blocks = self.pulse_blocks(torch.remainder(timing + (i - half) * timing_step, self.sps))
            for j in range(self.grid):
                angle = phase + (j - half) * phase_step
                value = self.given(x, alpha_bar, blocks, angle)
                likelihood = self.log_likelihood(x, alpha_bar, blocks, angle)
                mean, weight, top = accumulate(mean, weight, top, value, likelihood)
        return mean


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Rotate x [B, 2, n] by angle [B] (radians)."""
    c, s = angle.cos()[:, None], angle.sin()[:, None]
    return torch.stack([x[:, 0] * c - x[:, 1] * s, x[:, 0] * s + x[:, 1] * c], 1)
