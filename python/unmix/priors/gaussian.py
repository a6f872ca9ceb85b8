# SPDX-License-Identifier: GPL-3.0-or-later
"""Stationary Gaussian prior with a given power spectral density: the floor under every other prior (LMMSE)."""

import numpy as np
import torch
from torch import Tensor, nn


class Gaussian(nn.Module):
    """E[b | x] for x = sqrt(abar) b + sqrt(1 - abar) z, b stationary, circular, Gaussian, of unit power.

    The Wiener filter sqrt(abar) S / (abar S + 2 (1 - abar)) on the window's DFT, with S the density (mean 1, in FFT
    order, linearly interpolated to the window's length); 2 because z has variance 1 per real channel. The gradient of
    Proposition 2 of arXiv 2306.14411 follows from it. Treats the window as periodic.

    psd: [n] >= 0, n >= 1, not all zero; scaled to mean 1. Raises ValueError otherwise.
    """

    def __init__(self, psd: np.ndarray):
        super().__init__()
        psd = np.asarray(psd, dtype=np.float64)
        if psd.ndim != 1 or not len(psd) or not np.all(np.isfinite(psd)) or psd.min() < 0 or psd.max() <= 0:
            raise ValueError("the power spectral density must be a list of finite values >= 0, not all zero")
        self.register_buffer("psd", torch.from_numpy(psd / psd.mean()).float())

    def density(self, samples: int) -> Tensor:
        """The density on the DFT grid of `samples` points, [samples]."""
        place = torch.arange(samples, device=self.psd.device) * (self.psd.size(0) / samples)
        low = place.floor()
        share = place - low
        left = low.long().remainder(self.psd.size(0))
        right = (left + 1).remainder(self.psd.size(0))
        return self.psd[left] * (1 - share) + self.psd[right] * share

    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        """x: [B, 2, N] float32. alpha_bar: [B] in (0, 1). side: ignored, width 0. Returns E[b | x], [B, 2, N]."""
        density = self.density(x.size(2))
        level = alpha_bar[:, None]
        weight = level.sqrt() * density / (level * density + 2 * (1 - level))
        spectrum = torch.fft.fft(torch.complex(x[:, 0], x[:, 1]))
        wave = torch.fft.ifft(spectrum * weight)
        return torch.stack([wave.real, wave.imag], 1)


def autocorrelation(psd: np.ndarray, samples: int) -> np.ndarray:
    """E[b(n + d) b*(n)] for d = 0 .. samples - 1 of a density in FFT order, complex128 [samples]; d = 0 gives 1.

    The density is interpolated linearly, as by Gaussian.density. Unlike there the window is not periodic.
    """
    bins = 4 * samples
    psd = np.asarray(psd, dtype=np.float64)
    place = np.arange(bins) * (len(psd) / bins)
    lags = np.fft.ifft(np.interp(place, np.arange(len(psd) + 1), np.append(psd, psd[0])))[:samples]
    return lags / lags[0].real


def _taper(bins: int) -> np.ndarray:
    return np.hanning(bins + 1)[:bins]


def expected_spectrum(density: np.ndarray, bins: int = 256) -> np.ndarray:
    """What spectrum() gives on average for a signal of this density [n >= 2 * bins, FFT order]: mean 1, [bins].

    The taper smears a spectrum: it multiplies the autocorrelation by its own.
    """
    taper = _taper(bins)
    lags = np.fft.ifft(density)
    shape = np.correlate(taper, taper, "full")[bins - 1:] / np.sum(taper**2)  # lags 0 .. bins - 1
    windowed = np.zeros(2 * bins, dtype=complex)
    windowed[:bins] = lags[:bins] * shape
    windowed[-(bins - 1):] = (lags[-(bins - 1):] * shape[:0:-1])
    smeared = np.maximum(np.fft.fft(windowed).real[::2], 0)
    return smeared / smeared.mean()


def spectrum(samples: np.ndarray, bins: int = 256) -> np.ndarray:
    """Welch estimate of the power spectral density of complex samples [n >= bins], mean 1, FFT order, [bins]."""
    count = 2 * len(samples) // bins - 1
    if count < 1:
        raise ValueError(f"{len(samples)} samples are too few for a spectrum of {bins} bins")
    starts = np.arange(count) * (bins // 2)
    total = np.zeros(bins)
    for chunk in np.array_split(starts, max(1, count // 1024)):  # bounded memory for long recordings
        frames = samples[chunk[:, None] + np.arange(bins)] * _taper(bins)
        total += (np.abs(np.fft.fft(frames)) ** 2).sum(0)
    if not np.isfinite(total).all() or total.sum() <= 0:
        raise ValueError("a spectrum needs finite samples that are not all zero")
    return total / total.mean()
