# SPDX-License-Identifier: GPL-3.0-or-later
"""Matched filter, decisions, EVM and BER for a linear modulation of known timing and phase.

GNU Radio's blocks do the same in a flowgraph; this is for the command line, where GNU Radio may be absent.
"""

from dataclasses import dataclass

import numpy as np
import scipy.signal
import scipy.stats

from .priors import constellation as cons
from .priors.rrc import taps


def _pulse(modulation: dict) -> np.ndarray:
    return taps(int(modulation["samples_per_symbol"]), modulation["rolloff"], int(modulation["span"]))


def matched_filter(wave: np.ndarray, modulation: dict) -> np.ndarray:
    """Symbols complex64 [..., n] of waves complex [..., N], one per samples_per_symbol from sample `first` on.

    modulation: a prior's `modulation`. Only symbols whose centre lies inside the wave; zeros beyond its ends.
    """
    sps, first = int(modulation["samples_per_symbol"]), round(modulation["first"])
    pulse = _pulse(modulation).astype(np.float32)
    half = len(pulse) // 2
    count = max(0, -(-(wave.shape[-1] - first) // sps))
    padded = np.pad(wave, [(0, 0)] * (wave.ndim - 1) + [(half, half + sps)])
    begin, shift = divmod(first + 2 * half, sps)  # the filter delays by half a pulse, the padding by another half
    filtered = scipy.signal.upfirdn(pulse, padded[..., shift:], down=sps, axis=-1)
    return (filtered[..., begin:begin + count] / sps).astype(np.complex64)


def remodulate(symbols: np.ndarray, modulation: dict, samples: int) -> np.ndarray:
    """Hard decisions on symbols [..., n], shaped again: complex64 [..., samples]."""
    name, sps = modulation["constellation"], int(modulation["samples_per_symbol"])
    decided = cons.modulate(cons.demodulate(symbols, name), name)
    pulse = _pulse(modulation)
    begin = len(pulse) // 2 - round(modulation["first"])
    wave = scipy.signal.upfirdn(pulse, decided, up=sps, axis=-1)
    if begin < 0:
        wave, begin = np.pad(wave, [(0, 0)] * (wave.ndim - 1) + [(-begin, 0)]), 0
    short = max(0, begin + samples - wave.shape[-1])
    wave = np.pad(wave, [(0, 0)] * (wave.ndim - 1) + [(0, short)])
    return wave[..., begin:begin + samples].astype(np.complex64)


def decide(symbols: np.ndarray, modulation: dict) -> np.ndarray:
    """Hard bit decisions uint8 [..., n * bits per symbol] for symbols [..., n]."""
    return cons.demodulate(symbols, modulation["constellation"])


def evm(symbols: np.ndarray, modulation: dict) -> float:
    """Root-mean-square error vector magnitude (ratio) against the nearest points of the constellation."""
    name = modulation["constellation"]
    nearest = cons.modulate(cons.demodulate(symbols, name), name)
    return float(np.sqrt(np.mean(np.abs(symbols - nearest) ** 2)))


@dataclass(frozen=True)
class BitErrors:
    """Bit errors counted against known bits, with the 95 % Clopper-Pearson interval of their rate."""

    errors: int
    bits: int

    @property
    def rate(self) -> float:
        """Bit error rate; NaN without bits."""
        return self.errors / self.bits if self.bits else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the rate, for independent errors."""
        if not self.bits:
            return 0.0, 1.0
        low = scipy.stats.beta.ppf(0.025, self.errors, self.bits - self.errors + 1) if self.errors else 0.0
        rest = self.bits - self.errors
        high = scipy.stats.beta.ppf(0.975, self.errors + 1, rest) if rest else 1.0
        return float(low), float(high)


def count_errors(bits: np.ndarray, truth: np.ndarray) -> BitErrors:
    """Compare decided with true bits over their common length."""
    common = min(bits.shape[-1], truth.shape[-1])
    return BitErrors(int(np.count_nonzero(bits[..., :common] != truth[..., :common])),
                     int(np.prod(np.broadcast_shapes(bits[..., :common].shape, truth[..., :common].shape))))
