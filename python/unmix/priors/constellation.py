# SPDX-License-Identifier: GPL-3.0-or-later
"""Constellations of unit average power, and their posterior means in Gaussian noise.

Bits map to points as in GNU Radio's and 802.11's Gray labels: a 0 gives the positive level on BPSK and on each axis
of QPSK. Everything with a tensor in its signature is scriptable by TorchScript.
"""

import math

import numpy as np
import torch
from torch import Tensor

NAMES = ("bpsk", "qpsk", "8psk", "16qam")
#: The rotation that leaves each constellation unchanged, as a fraction of a turn: 1 / symmetry.
SYMMETRY = {"bpsk": 2, "qpsk": 4, "8psk": 8, "16qam": 4}

_PAM4 = 1 / math.sqrt(10)
_LEVELS_16QAM = np.array([3, 1, -3, -1]) * _PAM4  # two bits, Gray: 00 -> 3, 01 -> 1, 11 -> -1, 10 -> -3
_GRAY_8PSK = np.array([0, 1, 3, 2, 7, 6, 4, 5])  # position on the circle of the label 0..7 (Gray)


def points(name: str) -> np.ndarray:
    """The constellation's points, complex64 [M], index = bits read as a binary number, first bit most significant.

    Raises ValueError for a name that is not in NAMES.
    """
    if name == "bpsk":
        table = np.array([1, -1])
    elif name == "qpsk":
        table = np.array([1 + 1j, 1 - 1j, -1 + 1j, -1 - 1j]) / math.sqrt(2)
    elif name == "8psk":
        table = np.exp(2j * np.pi * _GRAY_8PSK / 8)
    elif name == "16qam":
        table = (_LEVELS_16QAM[:, None] + 1j * _LEVELS_16QAM[None, :]).ravel()
    else:
        raise ValueError(f"unknown constellation '{name}'; known are {', '.join(NAMES)}")
    return table.astype(np.complex64)


def bits_per_symbol(name: str) -> int:
    """Bits carried by one point (1, 2, 3 or 4)."""
    return len(points(name)).bit_length() - 1


def modulate(bits: np.ndarray, name: str) -> np.ndarray:
    """Map bits (0/1, last axis a multiple of bits_per_symbol) to complex64 points of unit average power."""
    m = bits_per_symbol(name)
    groups = np.asarray(bits).reshape(*bits.shape[:-1], -1, m)
    return points(name)[groups @ (1 << np.arange(m - 1, -1, -1))]


def demodulate(symbols: np.ndarray, name: str) -> np.ndarray:
    """Hard decisions: complex symbols [..., n] of unit average power to uint8 bits [..., n * bits_per_symbol]."""
    if name in ("bpsk", "qpsk"):  # signs: the common cases, on captures of any length
        axes = [symbols.real] if name == "bpsk" else [symbols.real, symbols.imag]
        return np.stack([a < 0 for a in axes], -1).reshape(*symbols.shape[:-1], -1).astype(np.uint8)
    m = bits_per_symbol(name)
    label = np.abs(symbols[..., None] - points(name)).argmin(-1)
    bits = (label[..., None] >> np.arange(m - 1, -1, -1)) & 1
    return bits.reshape(*symbols.shape[:-1], -1).astype(np.uint8)


def posterior_mean(u: Tensor, energy: Tensor, table: Tensor, name: str) -> Tensor:
    """E[a | u] for a equiprobable symbol a, where log p(u | a) = Re(a* u) - energy |a|^2 / 2 + const.

    For an observation r = g a + n with noise variance v per real channel: u = g r / v, energy = g^2 / v.
    This is the softmax of Proposition 3, equations (33)-(34) of arXiv 2306.14411, in the per-channel convention.

    u: [..., 2] real and imaginary part. energy: broadcastable to u[..., 0]. table: [M, 2] the points.
    Returns [..., 2].
    """
    if name == "bpsk":
        real = torch.tanh(u[..., :1])
        return torch.cat([real, torch.zeros_like(real)], -1)
    if name == "qpsk":
        return torch.tanh(u * 0.7071067811865476) * 0.7071067811865476
    if name == "16qam":  # the axes are independent 4-level signals
        levels = table[:4, 1]
        weights = torch.softmax(u[..., None] * levels - 0.5 * energy[..., None, None] * levels * levels, -1)
        return (weights * levels).sum(-1)
    return torch.softmax(torch.matmul(u, table.t()), -1) @ table  # equal energies: |a|^2 drops out


def log_evidence(u: Tensor, energy: Tensor, table: Tensor) -> Tensor:
    """log of the mean over the constellation of exp(Re(a* u) - energy |a|^2 / 2); arguments as posterior_mean."""
    norm = (table * table).sum(-1)
    return torch.logsumexp(torch.matmul(u, table.t()) - 0.5 * energy[..., None] * norm, -1) - math.log(len(table))
