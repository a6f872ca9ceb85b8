# SPDX-License-Identifier: GPL-3.0-or-later
"""Shared by the priors that marginalise unknown parameters: a running, likelihood-weighted mean over hypotheses."""

from typing import Tuple

import torch
from torch import Tensor


def accumulate(mean: Tensor, weight: Tensor, top: Tensor, value: Tensor, log_likelihood: Tensor
               ) -> Tuple[Tensor, Tensor, Tensor]:
    """Add one hypothesis to a running weighted mean without overflow (streaming softmax).

    mean: [B, 2, N] so far; weight: [B], its total weight relative to exp(top); top: [B], the largest log-likelihood
    so far (-inf before the first). value: [B, 2, N] and log_likelihood: [B] of the new hypothesis.
    Returns the updated (mean, weight, top).
    """
    new_top = torch.maximum(top, log_likelihood)
    old = weight * torch.exp(top - new_top)
    new = torch.exp(log_likelihood - new_top)
    total = old + new
    share = (new / total)[:, None, None]
    return mean + share * (value - mean), total, new_top


def power_phase(u: Tensor, symmetry: int) -> Tensor:
    """Phase of a set of noisy points of a constellation with the given rotational symmetry, by their M-th power.

    u: [B, n, 2]. Returns [B], radians modulo 2 pi / symmetry: the rotation that was applied to the constellation.
    """
    z = torch.view_as_complex(u.contiguous())
    z = z / z.abs().square().mean(-1, keepdim=True).sqrt().clamp(min=1e-20)
    power = z * z
    if symmetry >= 4:
        power = power * power
    if symmetry == 8:
        power = power * power
    total = power.sum(-1)
    if symmetry == 4:  # QPSK and 16QAM have their mean fourth power on the negative real axis
        total = -total
    return torch.atan2(total.imag, total.real) / symmetry
