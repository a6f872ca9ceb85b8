# SPDX-License-Identifier: GPL-3.0-or-later
"""Matched filter, decisions, EVM and BER for a linear modulation of known timing and phase.

GNU Radio's blocks do the same in a flowgraph; this is for the command line, where GNU Radio may be absent.
"""

import math
from dataclasses import dataclass
from typing import Optional, Protocol

import numpy as np
import scipy.signal
import scipy.stats
import torch

from .priors import constellation as cons
from .priors.rrc import pulse_at, taps


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


class Grid(Protocol):
    """Where symbols lie: see soi_sync.Sync."""

    timing: float
    step: float
    phase: float
    frequency: float


class SyncedSymbols:
    """The matched filter over streams that come in pieces, at symbols whose places and phase come with each piece.

    modulation: a prior's `modulation`; samples_per_symbol need not be whole. rows: number of streams side by side.
    """

    def __init__(self, modulation: dict, rows: int):
        sps, span = float(modulation["samples_per_symbol"]), int(modulation["span"])
        self._half = math.ceil(0.5 * span * sps) + 1
        self._delays = max(4, math.ceil(1024 / sps))  # the pulse at so many delays within a sample: 1/2048 symbol off
        sample = torch.arange(-self._half, self._half + 1, dtype=torch.float64)
        delay = torch.arange(self._delays + 1, dtype=torch.float64)[:, None] / self._delays
        pulses = pulse_at((sample - delay) / sps, modulation["rolloff"], span).numpy()
        self._pulses = (pulses / math.sqrt(sps * np.sum(pulses[0] ** 2))).astype(np.float32)
        self._buffer = np.zeros((rows, 0), dtype=np.complex64)
        self._begin = 0  # sample of the stream at which the buffer begins
        self._next = 0.0  # no symbol before it
        self._sync: Optional[Grid] = None

    def push(self, waves: np.ndarray, sync: Optional[Grid]) -> np.ndarray:
        """Take the streams' next samples complex [rows, n]; return the symbols that are complete, complex64 [rows, m].

        sync: of these samples; None where it is not known, and there are no symbols then.
        """
        self._buffer = np.concatenate([self._buffer, np.asarray(waves, dtype=np.complex64)], axis=1)
        end = self._begin + self._buffer.shape[1]
        self._sync = sync
        if sync is not None:
            return self._symbols(end - self._half)
        self._drop(end - self._half)
        self._next = float(end)
        return np.zeros((len(waves), 0), dtype=np.complex64)

    def finish(self) -> np.ndarray:
        """The streams' last symbols, complex64 [rows, m], with zeros beyond the end."""
        end = self._begin + self._buffer.shape[1]
        if self._sync is None:
            return np.zeros((len(self._buffer), 0), dtype=np.complex64)
        self._buffer = np.pad(self._buffer, ((0, 0), (0, self._half + 1)))
        return self._symbols(end)

    def _symbols(self, end: int) -> np.ndarray:
        """Symbols whose centres lie before sample `end` and were not returned yet."""
        sync, found = self._sync, []
        first = math.ceil((self._next - sync.timing) / sync.step)
        last = math.ceil((end - sync.timing) / sync.step)
        for number in range(first, last, 4096):  # bounded memory
            centre = sync.timing + np.arange(number, min(number + 4096, last)) * sync.step
            low, high = math.floor(centre[0]) - self._half, math.floor(centre[-1]) + self._half + 1
            wave = self._buffer[:, max(0, low - self._begin):high - self._begin]
            wave = np.pad(wave, ((0, 0), (max(0, self._begin - low), 0)))
            turn = (np.arange(high - low) + (low - sync.timing)) * sync.frequency + sync.phase / (2 * math.pi)
            wave = wave * np.exp(-2j * math.pi * (turn - np.round(turn))).astype(np.complex64)
            whole = np.floor(centre).astype(np.int64)
            pulses = self._pulses[np.round((centre - whole) * self._delays).astype(np.int64)]
            near = np.lib.stride_tricks.sliding_window_view(wave, pulses.shape[1], axis=1)[:, whole - self._half - low]
            found.append(np.einsum("rkn,kn->rk", near, pulses))
        if last > first:
            self._next = sync.timing + (last - 0.5) * sync.step  # the next grid may lie a little off this one
        self._drop(end - 2 * self._half - math.ceil(sync.step))
        return np.concatenate(found, axis=1) if found else np.zeros((len(self._buffer), 0), dtype=np.complex64)

    def _drop(self, before: int) -> None:
        """Forget samples before `before`."""
        gone = max(0, min(before - self._begin, self._buffer.shape[1]))
        self._buffer = self._buffer[:, gone:]
        self._begin += gone


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
