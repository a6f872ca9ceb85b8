# SPDX-License-Identifier: GPL-3.0-or-later
"""How far a sum of sources is from the mixture: the losses of guided diffusion, for complex baseband."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .common import MethodError


@dataclass(frozen=True)
class Reconstruction:
    """Loss = time * L_time + group * L_group + stft * L_stft (Shi et al., AAAI 2026, after equation (6)).

    For e = mixture - estimate, complex, all sums over real and imaginary parts: L_time = |e|^2. L_group = the mean
    over segments of `segment` samples (the last may be shorter) of their |e|^2; as printed this is L_time divided by
    the number of segments, so its weight only scales the other. L_stft = | |STFT mixture| - |STFT estimate| |^2.

    Complex baseband has no symmetric spectrum: the STFT is two-sided, Hann window of `fft` samples every `hop`,
    the window padded with zeros by fft / 2 at both ends, and scaled so that sum |STFT e|^2 is about |e|^2 (exactly
    for hop | fft / 4, away from the ends). It does not see the phase, which alone carries the bits of a PSK: not for
    use without L_time.

    time, group, stft: weights >= 0, not all zero. segment >= 1, fft >= 2, 1 <= hop <= fft. Raises MethodError
    otherwise.
    """

    time: float = 1.0
    group: float = 0.0
    stft: float = 0.0
    segment: int = 16
    fft: int = 64
    hop: int = 16

    def __post_init__(self):
        weights = (self.time, self.group, self.stft)
        if not all(math.isfinite(w) and w >= 0 for w in weights) or not any(weights):
            raise MethodError("the weights of the reconstruction's losses must be finite, not below zero and not all "
                             "zero")
        if self.segment < 1 or self.fft < 2 or not 1 <= self.hop <= self.fft:
            raise MethodError(f"segment={self.segment}, fft={self.fft}, hop={self.hop} is impossible; allowed are "
                             "segment >= 1, fft >= 2, hop from 1 to fft")

    def __call__(self, mixture: Tensor, estimate: Tensor) -> Tensor:
        """Loss of each window, [W], of mixture and estimate [W, 2, N]; differentiable in the estimate."""
        error = (mixture - estimate).square().sum(1)
        loss = (self.time + self.group / -(-error.size(1) // self.segment)) * error.sum(1)
        if self.stft > 0:
            difference = self.spectrogram(mixture) - self.spectrogram(estimate)
            loss = loss + self.stft * difference.square().sum((1, 2))
        return loss

    def spectrogram(self, wave: Tensor) -> Tensor:
        """Magnitudes |STFT| of waves [W, 2, N], [W, fft, frames]: differentiable, with gradient 0 where they are 0."""
        window = torch.hann_window(self.fft, dtype=wave.dtype, device=wave.device)
        transform = torch.stft(torch.complex(wave[:, 0], wave[:, 1]), self.fft, self.hop, window=window, center=True,
                               pad_mode="constant", onesided=False, return_complex=True)
        return transform.abs() * math.sqrt(self.hop / (self.fft * float(window.square().sum())))
