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
    symbols, brings the window to the timing and phase that a PatchNet was made for, and takes its answer back.
    Training end to end lets the PatchNet learn how far the estimates can be trusted at each noise level. Gradients
    take timing and phase as given.

    constellation: bpsk, qpsk, 8psk or 16qam; its symmetry gives the phase. rolloff: (0, 1], of the matched filter.
    The other parameters: see PatchNet; patch is the samples per symbol. Raises ValueError for values out of range.
    """

    def __init__(self, constellation: str = "qpsk", rolloff: float = 0.5, patch: int = 16, reach: int = 9,
                 v_min: float = 1e-3, v_max: float = 5.0):
        super().__init__()
        if constellation not in SYMMETRY or not 0 < rolloff <= 1:
            raise ValueError(f"a SyncNet for '{constellation}' with roll-off {rolloff} is impossible; allowed are "
                             f"{', '.join(SYMMETRY)} and a roll-off above 0, at most 1")
        self.denoiser = PatchNet(constellation, patch, reach, v_min, v_max)
        self.low, self.high = self.denoiser.low, self.denoiser.high
        self.sps, self.symmetry = patch, SYMMETRY[constellation]
        self.guard = 4 * patch  # of zeros on each side, which the shift may use
        self.register_buffer("pulse", root_raised_cosine(patch, rolloff, reach - 1))

    def start(self, waves: Tensor) -> None:
        """See PatchNet.start; a spectrum knows neither timing nor phase."""
        self.denoiser.start(waves)

    def forward(self, r: Tensor, v: Tensor) -> Tensor:
        """r: [B, 2, N], N a multiple of patch. v: [B], clamped to the trained range. Returns [B, 2, N]."""
        samples = r.size(2)
        wave = nn.functional.pad(torch.complex(r[:, 0], r[:, 1]), (self.guard, self.guard))
        total = wave.size(1)
        place = torch.arange(total, device=r.device)
        frequency = torch.fft.fftfreq(total, device=r.device)
        spectrum = torch.fft.fft(wave)

        pulse = torch.zeros(total, device=r.device)
        pulse[:self.pulse.size(0)] = self.pulse
        matched = spectrum * torch.fft.fft(torch.roll(pulse, -(self.pulse.size(0) // 2)))
        filtered = torch.fft.ifft(matched.detach())
        clock = -2 * math.pi / self.sps * (place - self.guard)
        line = (filtered.abs().square() * torch.complex(clock.cos(), clock.sin())).sum(1)
        # The line's phase gives the symbols' centres; they go to the middle of a patch.
        delay = self.sps // 2 + torch.atan2(line.imag, line.real) * (self.sps / (2 * math.pi))
        delay = torch.remainder(delay + self.sps / 2, self.sps) - self.sps / 2
        angle = -2 * math.pi * frequency * delay[:, None]
        ramp = torch.complex(angle.cos(), angle.sin())

        symbols = torch.fft.ifft(matched.detach() * ramp)[:, self.guard + self.sps // 2:-self.guard:self.sps]
        symbols = symbols / symbols.abs().square().mean(1, keepdim=True).sqrt().clamp(min=1e-20)
        power = symbols * symbols
        if self.symmetry >= 4:
            power = power * power
        if self.symmetry == 8:
            power = power * power
        mean = power.sum(1)
        if self.symmetry == 4:  # QPSK and 16QAM have their mean fourth power on the negative real axis
            mean = -mean
        phase = torch.atan2(mean.imag, mean.real) / self.symmetry
        turn = ramp * torch.complex(phase.cos(), -phase.sin())[:, None]

        aligned = torch.fft.ifft(spectrum * turn)[:, self.guard:total - self.guard]
        clean = self.denoiser(torch.stack([aligned.real, aligned.imag], 1), v)
        padded = nn.functional.pad(torch.complex(clean[:, 0], clean[:, 1]), (self.guard, self.guard))
        result = torch.fft.ifft(torch.fft.fft(padded) * turn.conj())[:, self.guard:self.guard + samples]
        return torch.stack([result.real, result.imag], 1)
