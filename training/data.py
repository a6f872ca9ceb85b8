# SPDX-License-Identifier: GPL-3.0-or-later
"""Training signals, generated on the device as training goes on: no window is seen twice.

Constellations and pulses are Sionna's. All signals have unit power; windows are float32 [B, 2, N], real and imaginary.
"""

import math

import torch
from sionna.phy.mapping import Constellation
from sionna.phy.signal import RootRaisedCosineFilter
from torch import Tensor

BITS = {"bpsk": 1, "qpsk": 2, "16qam": 4}


class LinearModulation:
    """RRC-shaped linear modulation as in arXiv 2306.14411, Appendix C.2: symbol k is centred at sample first + k sps.

    constellation: bpsk, qpsk or 16qam. sps: samples per symbol. rolloff: 0 .. 1. span: symbols. window: samples, a
    multiple of sps. ends: "isolated", no symbols outside the window, or "stream", the window is cut from a longer
    signal. Raises ValueError for values outside these ranges.
    """

    def __init__(self, constellation: str = "qpsk", sps: int = 16, rolloff: float = 0.5, span: int = 8,
                 window: int = 2560, ends: str = "stream", device: str = "cpu"):
        if constellation not in BITS:
            raise ValueError(f"constellation '{constellation}' is unknown; allowed are {', '.join(BITS)}")
        if window % sps or ends not in ("stream", "isolated"):
            raise ValueError("the window must be a multiple of sps, and ends stream or isolated")
        kind = "pam" if constellation == "bpsk" else "qam"
        self.points = Constellation(kind, BITS[constellation])().to(device)
        taps = RootRaisedCosineFilter(span, sps, rolloff).coefficients.to(device).real.float()
        taps = taps * math.sqrt(sps / float(taps.square().sum()))
        self.tails = span // 2 if ends == "stream" else 0
        count = window // sps + 2 * self.tails
        centre = sps // 2 + (torch.arange(count, device=device) - self.tails) * sps
        place = torch.arange(window, device=device) - centre[:, None] + len(taps) // 2
        inside = (place >= 0) & (place < len(taps))
        self.pulses = taps[place.clamp(0, len(taps) - 1)] * inside  # [symbols, window]

    def __call__(self, batch: int, generator: torch.Generator) -> Tensor:
        """A fresh batch of windows, float32 [batch, 2, window]."""
        label = torch.randint(len(self.points), (batch, len(self.pulses)), generator=generator,
                              device=self.pulses.device)
        symbols = self.points[label]
        return torch.stack([symbols.real @ self.pulses, symbols.imag @ self.pulses], 1)


def coloured_residue(batch: int, window: int, generator: torch.Generator, power: tuple[float, float],
                     device: str = "cpu") -> Tensor:
    """What Douglas-Rachford leaves of the interference: wide-band, gated, of random power, [batch, 2, window].

    White noise through a random band of 20 to 95 % of the spectrum, switched on and off in stretches of 80 samples.
    power: lowest and highest, per complex sample; log-uniform. Three windows in ten have none.
    """
    def uniform(*size):
        return torch.rand(*size, generator=generator, device=device)

    noise = torch.randn(batch, 2, window, generator=generator, device=device)
    spectrum = torch.fft.fft(torch.complex(noise[:, 0], noise[:, 1]))
    frequency = torch.fft.fftfreq(window, device=device)
    width = 0.1 + 0.375 * uniform(batch, 1)
    spectrum = spectrum * ((frequency - 0.1 * (uniform(batch, 1) - 0.5)).abs() < width)
    wave = torch.fft.ifft(spectrum)
    wave = wave / wave.abs().square().mean(1, keepdim=True).sqrt()
    gate = (uniform(batch, -(-window // 80)) < uniform(batch, 1)).repeat_interleave(80, 1)[:, :window]
    level = (math.log(power[0]) + math.log(power[1] / power[0]) * uniform(batch, 1)).exp().sqrt()
    wave = wave * gate * level * (uniform(batch, 1) < 0.7)
    return torch.stack([wave.real, wave.imag], 1)
