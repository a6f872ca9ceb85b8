# SPDX-License-Identifier: GPL-3.0-or-later
"""A PatchNet for signals whose symbol timing and carrier phase are unknown: synchronise, denoise, undo."""

import math

import torch
from patchnet import PatchNet
from torch import Tensor, nn

SYMMETRY = {"bpsk": 2, "qpsk": 4, "8psk": 8, "16qam": 4}


def root_raised_cosine(sps: int, rolloff: float, span: int) -> Tensor:
    """Taps of a root-raised-cosine pulse of unit energy, float32 [span * sps + 1], rolloff in (0, 1]."""
    t = torch.arange(-span * sps // 2, span * sps // 2 + 1, dtype=torch.float64) / sps + 1e-9  # off the two poles
    top = torch.sin(math.pi * t * (1 - rolloff)) + 4 * rolloff * t * torch.cos(math.pi * t * (1 + rolloff))
    taps = top / (math.pi * t * (1 - (4 * rolloff * t) ** 2))
    return (taps / taps.square().sum().sqrt()).float()


class SyncNet(nn.Module):
    """Posterior mean of x from r = x + sqrt(v) z, timing and phase unknown.

    What makes such a signal learnable is synchronisation, not size. Each call estimates the timing from the square of
    the matched filter's output (Oerder and Meyr, IEEE Trans. Commun. 36, 1988) and the phase from its M-th power at the
    symbols, and moves a PatchNet's pulse and decisions there. Training end to end lets it learn how far the estimates
    can be trusted at each noise level. Gradients take timing and phase as given.

    constellation: bpsk, qpsk, 8psk or 16qam; its symmetry gives the phase. rolloff: (0, 1], of the filter that the
    estimates use. reach: odd, at least the pulse's span and 3. The other parameters: see PatchNet; patch is the samples
    per symbol. Raises ValueError for values out of range.
    """

    def __init__(self, constellation: str = "qpsk", rolloff: float = 0.5, patch: int = 16, reach: int = 11,
                 v_min: float = 1e-3, v_max: float = 5.0):
        super().__init__()
        if constellation not in SYMMETRY or not 0 < rolloff <= 1:
            raise ValueError(f"a SyncNet for '{constellation}' with roll-off {rolloff} is impossible; allowed are "
                             f"{', '.join(SYMMETRY)} and a roll-off above 0, at most 1")
        self.denoiser = PatchNet(constellation, patch, reach, v_min, v_max)
        self.low, self.high = self.denoiser.low, self.denoiser.high
        self.sps, self.reach, self.symmetry = patch, reach, SYMMETRY[constellation]
        self.register_buffer("pulse", root_raised_cosine(patch, rolloff, reach - 3))

    def start(self, waves: Tensor) -> None:
        """See PatchNet.start; a spectrum knows neither timing nor phase."""
        self.denoiser.start(waves)

    def synchronise(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Symbols' place beside the middle of a patch (samples, -sps / 2 .. sps / 2) and phase (radians), [B] each."""
        guard = 4 * self.sps  # of zeros, for the filter's ends
        wave = nn.functional.pad(torch.complex(r[:, 0], r[:, 1]), (guard, guard))
        total = wave.size(1)
        pulse = torch.zeros(total, device=r.device)
        pulse[:self.pulse.size(0)] = self.pulse
        matched = torch.fft.fft(wave) * torch.fft.fft(torch.roll(pulse, -(self.pulse.size(0) // 2)))
        clock = -2 * math.pi / self.sps * (torch.arange(total, device=r.device) - guard)
        line = (torch.fft.ifft(matched).abs().square() * torch.complex(clock.cos(), clock.sin())).sum(1)
        place = -torch.atan2(line.imag, line.real) * (self.sps / (2 * math.pi)) - self.sps // 2
        place = torch.remainder(place + self.sps / 2, self.sps) - self.sps / 2

        angle = 2 * math.pi * torch.fft.fftfreq(total, device=r.device) * place[:, None]
        symbols = torch.fft.ifft(matched * torch.complex(angle.cos(), angle.sin()))
        symbols = symbols[:, guard + self.sps // 2:-guard:self.sps]
        symbols = symbols / symbols.abs().square().mean(1, keepdim=True).sqrt().clamp(min=1e-20)
        power = symbols * symbols
        if self.symmetry >= 4:
            power = power * power
        if self.symmetry == 8:
            power = power * power
        mean = power.sum(1)
        if self.symmetry == 4:  # QPSK and 16QAM have their mean fourth power on the negative real axis
            mean = -mean
        return place, torch.atan2(mean.imag, mean.real) / self.symmetry

    def delayed(self, pulse: Tensor, place: Tensor) -> Tensor:
        """Pulse [2 sps, reach], real parts over imaginary parts, delayed by place [B] (samples): [B, 2 sps, reach]."""
        wave = torch.complex(pulse[:self.sps], pulse[self.sps:]).t().reshape(-1)  # in the order of time
        angle = -2 * math.pi * torch.fft.fftfreq(wave.size(0), device=pulse.device) * place[:, None]
        moved = torch.fft.ifft(torch.fft.fft(wave) * torch.complex(angle.cos(), angle.sin()))
        moved = moved.view(place.size(0), self.reach, self.sps).transpose(1, 2)
        return torch.cat([moved.real, moved.imag], 1)

    def forward(self, r: Tensor, v: Tensor) -> Tensor:
        """r: [B, 2, N], N a multiple of patch. v: [B], clamped to the trained range. Returns [B, 2, N]."""
        batch, samples, reach = r.size(0), r.size(2), self.reach
        place, phase = self.synchronise(r.detach())
        turn = torch.complex(phase.cos(), phase.sin())[:, None]
        seen = self.delayed(self.denoiser.analysis[0], place)
        sent = self.delayed(self.denoiser.synthesis[:, 0].flip(1), place).flip(2)

        tokens = r.reshape(batch, 2, -1, self.sps).transpose(2, 3).reshape(batch, 2 * self.sps, -1)
        tokens = nn.functional.pad(tokens, (reach - 1, reach - 1)).unfold(2, reach, 1)  # [B, 2 sps, symbols, reach]
        tokens = tokens.transpose(1, 2).reshape(batch, -1, 2 * self.sps * reach)
        swapped = torch.cat([-seen[:, self.sps:], seen[:, :self.sps]], 1)
        pair = torch.matmul(tokens, torch.stack([seen.flatten(1), swapped.flatten(1)], 2))  # [B, symbols, 2]
        symbols = torch.complex(pair[..., 0], pair[..., 1]) * turn.conj()
        decided = self.denoiser.decide(torch.stack([symbols.real, symbols.imag], 1), self.denoiser.sharpness(v))
        symbols = torch.complex(decided[:, 0], decided[:, 1]) * turn

        near = torch.stack([symbols.real, symbols.imag], 1).unfold(2, reach, 1)  # [B, 2, tokens, reach]
        near = near.transpose(1, 2).reshape(batch, -1, 2 * reach)
        swapped = torch.cat([-sent[:, self.sps:], sent[:, :self.sps]], 1)
        tokens = torch.matmul(near, torch.cat([sent, swapped], 2).transpose(1, 2))  # [B, tokens, 2 sps]
        return tokens.reshape(batch, -1, 2, self.sps).transpose(1, 2).reshape(batch, 2, samples)
