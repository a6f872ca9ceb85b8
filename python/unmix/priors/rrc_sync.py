# SPDX-License-Identifier: GPL-3.0-or-later
"""Closed-form prior of a linear modulation whose timing, phase, frequency and symbol rate come with each window."""

import math
from typing import Tuple

import numpy as np
import torch
from torch import Tensor, nn

from . import constellation as cons
from .rrc import pulse_at

#: Columns of the side information: timing (samples) of a symbol's centre near the window's first sample, phase (rad) at
#: that sample, frequency (cycles/sample), and the relative deviation of the samples per symbol.
SIDE = ("timing", "phase", "frequency", "stretch")


class RrcSync(nn.Module):
    """E[s | x] for x = sqrt(abar) s + sqrt(1 - abar) z; s(n) = e^(j (phase + 2 pi frequency n)) sum_k a_k h(n - t_k).

    The symbols' centres lie at t_k = timing + k sps (1 + stretch), k any integer: also outside the window, so far as
    their pulses reach in. a_k are equiprobable points, h the RRC pulse, s of unit power. The symbols are decided one
    by one, as in Rrc, which this equals where both apply.

    constellation: a name from constellation.NAMES. sps: samples per symbol, any number from 2 to 1024. rolloff: 0 .. 1.
    span: length of the pulse in symbols, 2 .. 64. ring: the symbols have unit modulus and any phase, whatever the
    constellation: for a signal whose phase is still to be found. Raises ValueError for values outside these ranges.

    Side information [B, 4], see SIDE: |timing| < 2 sps, |frequency| < 0.5, |stretch| < 1e-3.
    """

    def __init__(self, constellation: str = "qpsk", sps: float = 16.0, rolloff: float = 0.5, span: int = 8,
                 ring: bool = False):
        super().__init__()
        if not 2 <= sps <= 1024 or not 0 <= rolloff <= 1 or not 2 <= span <= 64:
            raise ValueError(f"sps={sps:g}, rolloff={rolloff:g}, span={span} is impossible; allowed are sps from 2 to "
                             "1024, rolloff from 0 to 1, span from 2 to 64")
        table = cons.points(constellation)
        self.constellation, self.ring = constellation, ring
        self.sps, self.rolloff, self.span = float(sps), float(rolloff), span
        self.chunk = max(32, round(4 * sps))  # samples that share a matrix of pulses
        self.columns = math.ceil(self.chunk / sps + span) + 2  # symbols that reach into a chunk, and to spare
        self.register_buffer("table", torch.from_numpy(np.stack([table.real, table.imag], -1)))
        # Pulses at `phases` fractional delays: 1/2048 symbol off at most, -65 dB. Zeros on both sides hold a chunk.
        self.phases = max(4, math.ceil(1024 / sps))
        self.half = math.ceil(0.5 * span * sps) + 1
        self.reach = self.half + self.chunk + math.ceil(4 * sps)
        sample = torch.arange(-self.reach, self.reach + 1, dtype=torch.float64)
        delay = torch.arange(self.phases + 1, dtype=torch.float64)[:, None] / self.phases
        pulses = pulse_at((sample - delay) / sps, self.rolloff, span)
        self.register_buffer("pulses", (pulses * math.sqrt(sps / float(pulses[0].square().sum()))).float())

    def grid(self, timing: Tensor, stretch: Tensor, samples: int) -> Tuple[Tensor, Tensor]:
        """Where the symbols lie: the pulses [B, chunks, columns, chunk], and each column's symbol [B, chunks, columns].

        Symbol `span` is the one at `timing`.
        """
        step = self.sps * (1 + stretch)[:, None]  # [B, 1]
        count = (samples + self.chunk - 1) // self.chunk
        begin = torch.arange(count, device=timing.device) * self.chunk
        first = torch.ceil((begin - self.half - timing[:, None]) / step)  # symbol whose pulse has just begun
        symbol = first[:, :, None] + torch.arange(self.columns, device=timing.device)
        centre = timing[:, None, None] - begin[:, None] + symbol * step[:, :, None]  # from the chunk's first sample on
        whole = torch.floor(centre)
        delay = torch.round((centre - whole) * self.phases).long()
        place = (self.reach - whole.long()).clamp(0, 2 * self.reach + 1 - self.chunk)
        return self.pulses.unfold(1, self.chunk, 1)[delay, place], symbol.long() + self.span

    def correlate(self, x: Tensor, pulses: Tensor, symbol: Tensor, symbols: int) -> Tensor:
        """Inner products of chunks [B, chunks, chunk, c] with the symbols' pulses: [B, symbols, c]."""
        parts = torch.matmul(pulses, x)
        result = torch.zeros(x.size(0), symbols, x.size(3), dtype=x.dtype, device=x.device)
        place = symbol.clamp(0, symbols - 1).flatten(1)[:, :, None].expand(-1, -1, x.size(3))
        return result.scatter_add(1, place, parts.flatten(1, 2))

    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        """x: [B, 2, N] float32. alpha_bar: [B] in (0, 1). side: [B, 4]. Returns E[s | x], [B, 2, N]."""
        samples, chunk = x.size(2), self.chunk
        symbols = int((samples + chunk) / self.sps) + 2 * self.span + 8
        pulses, symbol = self.grid(side[:, 0], side[:, 3], samples)
        count = pulses.size(1)
        begin = torch.arange(count, device=x.device) * chunk
        inside = torch.arange(chunk, device=x.device)
        turn = side[:, 2:3].double() * (2 * math.pi)  # float32 would lose the phase of a long window
        coarse, fine = turn * begin + side[:, 1:2], turn * inside
        chunks = nn.functional.pad(x, (0, count * chunk - samples)).view(x.size(0), 2, count, chunk).permute(0, 2, 3, 1)
        wave = torch.view_as_complex(chunks.contiguous())
        turned = torch.complex(coarse.cos(), coarse.sin()).to(torch.complex64)[:, :, None] * \
            torch.complex(fine.cos(), fine.sin()).to(torch.complex64)[:, None, :]
        still = torch.view_as_real(wave * turned.conj())
        u = self.correlate(still, pulses, symbol, symbols) * (alpha_bar.sqrt() / (1 - alpha_bar))[:, None, None]
        energy = u[:, :, 0]  # not used by constellations of constant modulus
        if self.constellation == "16qam":
            ones = nn.functional.pad(torch.ones(samples, device=x.device), (0, count * chunk - samples))
            ones = ones.view(1, count, chunk, 1).expand(x.size(0), -1, -1, -1)
            energy = self.correlate(ones, pulses.square(), symbol, symbols)[:, :, 0] * (
                alpha_bar / (1 - alpha_bar))[:, None]
        if self.ring:
            size = u.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-12)
            mean = u / size * (torch.special.i1e(size) / torch.special.i0e(size))
        else:
            mean = cons.posterior_mean(u, energy, self.table, self.constellation)
        place = symbol.clamp(0, symbols - 1).flatten(1)[:, :, None].expand(-1, -1, 2)
        near = mean.gather(1, place).view(x.size(0), count, self.columns, 2)
        shaped = torch.view_as_complex(torch.matmul(pulses.transpose(2, 3), near).contiguous()) * turned
        return torch.view_as_real(shaped).flatten(1, 2).transpose(1, 2)[:, :, :samples].contiguous()
