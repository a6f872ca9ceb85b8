# SPDX-License-Identifier: GPL-3.0-or-later
"""The matched filter over a stream that comes in pieces."""

import numpy as np

from .demodulation import matched_filter
from .priors.rrc import taps


class SymbolStream:
    """Filters streams piece by piece: what it returns, joined, is what matched_filter says of the whole streams.

    modulation: a prior's `modulation`. rows: number of streams that run side by side.
    """

    def __init__(self, modulation: dict, rows: int):
        self._modulation = modulation
        self._sps, self._first = int(modulation["samples_per_symbol"]), round(modulation["first"])
        self._half = len(taps(self._sps, modulation["rolloff"], int(modulation["span"]))) // 2
        self._guard = -(-self._half // self._sps) + 1  # symbols whose samples the next symbol still needs
        self._buffer = np.zeros((rows, 0), dtype=np.complex64)
        self._begin = 0  # the symbol at which the buffer begins
        self._received = 0
        self._next = 0

    def push(self, waves: np.ndarray) -> np.ndarray:
        """Take samples complex [rows, n]; return the symbols whose pulses are complete, complex64 [rows, m]."""
        self._buffer = np.concatenate([self._buffer, np.asarray(waves, dtype=np.complex64)], axis=1)
        self._received += waves.shape[1]
        return self._symbols((self._received - 1 - self._half - self._first) // self._sps + 1)

    def finish(self) -> np.ndarray:
        """The streams' last symbols, complex64 [rows, m], with zeros beyond the end as matched_filter has them."""
        return self._symbols(-(-(self._received - self._first) // self._sps))

    def _symbols(self, ready: int) -> np.ndarray:
        if ready <= self._next:
            return np.zeros((len(self._buffer), 0), dtype=np.complex64)
        found = matched_filter(self._buffer, self._modulation)[:, self._next - self._begin:ready - self._begin]
        self._next = ready
        begin = max(0, ready - self._guard)
        self._buffer = self._buffer[:, (begin - self._begin) * self._sps:]
        self._begin = begin
        return found
