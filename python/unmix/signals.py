# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulated signals of unit power with known bits: linear modulation with RRC pulses, CP-OFDM, noise.

Written with numpy and scipy alone, apart from the priors, so that each checks the other.
"""

import math

import numpy as np
import scipy.signal

from .priors import constellation as cons
from .priors.rrc import taps


def rrc_wave(symbols: np.ndarray, sps: int = 16, rolloff: float = 0.5, span: int = 8) -> np.ndarray:
    """Shape symbols complex [W, n] into windows complex64 [W, n * sps]; the first one's centre is at sample sps // 2.

    Unit power for symbols of unit power. No symbols lie outside: the paper's isolated windows (arXiv 2306.14411, C.2).
    """
    pulse = taps(sps, rolloff, span)
    wave = scipy.signal.upfirdn(pulse, symbols, up=sps, axis=-1)
    begin = len(pulse) // 2 - sps // 2
    wave = np.pad(wave, [(0, 0)] * (wave.ndim - 1) + [(0, sps)])
    return wave[..., begin:begin + symbols.shape[-1] * sps].astype(np.complex64)


def linear_modulation(rng: np.random.Generator, windows: int, symbols: int, constellation: str = "qpsk", sps: int = 16,
                      rolloff: float = 0.5, span: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Random linear modulation: waves complex64 [windows, symbols * sps] and bits uint8 [windows, n]."""
    bits = rng.integers(0, 2, (windows, symbols * cons.bits_per_symbol(constellation)), dtype=np.uint8)
    return rrc_wave(cons.modulate(bits, constellation), sps, rolloff, span), bits


def cp_ofdm(rng: np.random.Generator, windows: int, samples: int, constellation: str = "qpsk", fft: int = 64,
            cp: int = 16, active: int = 56) -> tuple[np.ndarray, np.ndarray]:
    """Random CP-OFDM with a random start and phase per window, as arXiv 2306.14411, C.2.

    Returns waves complex64 [windows, samples] and float64 [windows, 2]: the first symbol boundary (samples) and the
    phase (radians).
    """
    length = fft + cp
    count = samples // length + 2
    half = active // 2
    carriers = np.concatenate([np.arange(-half, 0), np.arange(1, active - half + 1)])
    bits = rng.integers(0, 2, (windows, count, active * cons.bits_per_symbol(constellation)), dtype=np.uint8)
    spectrum = np.zeros((windows, count, fft), dtype=np.complex128)
    spectrum[..., carriers] = cons.modulate(bits, constellation)
    body = np.fft.ifft(spectrum) * (fft / math.sqrt(active))
    wave = np.concatenate([body[..., fft - cp:], body], -1).reshape(windows, -1)
    start = rng.integers(0, length, windows)
    phase = rng.uniform(0, 2 * np.pi, windows)
    place = (length - start)[:, None] % length + np.arange(samples)
    wave = np.take_along_axis(wave, place, 1) * np.exp(1j * phase)[:, None]
    return wave.astype(np.complex64), np.stack([start, phase], 1)


def noise(rng: np.random.Generator, shape: tuple[int, ...], variance: float) -> np.ndarray:
    """Complex white Gaussian noise of the given variance, complex64."""
    scale = math.sqrt(variance / 2)
    return (scale * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))).astype(np.complex64)


def kappa(sir_db: float) -> float:
    """Amplitude of unit-power interference beside a unit-power SOI at a signal-to-interference ratio in dB."""
    return 10 ** (-sir_db / 20)
