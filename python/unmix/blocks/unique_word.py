# SPDX-License-Identifier: GPL-3.0-or-later
"""Phase of QPSK symbols resolved by a known word that the transmission repeats."""

import numpy as np
import pmt
from gnuradio import gr

from ..priors import constellation as cons

#: Shortest word in symbols. Random symbols match 8 of them, in any rotation and up to one error, once in 1,000.
SHORTEST = 8
TAG = pmt.intern("unique_word")
_TURN_BACK = np.array([1, -1j, -1, 1j], np.complex64)  # by quarter turns, exactly


class unique_word_sync_cc(gr.sync_block):
    """Finds a known word among QPSK symbols and turns the symbols so that it reads as sent.

    A loop locks to QPSK up to a multiple of 90 degrees. Where the word w of L symbols starts, the normalised
    correlation |sum x[n + k] w*[k]| / sqrt(L sum |x[n + k]|^2) passes the threshold, and its angle, rounded to a
    multiple of 90 degrees, is taken back from there until the next word. Symbols before the first word pass as they
    came.

    Input: complex symbols, one per item, of any amplitude. Output: the same, turned, delayed by L - 1 symbols (zeros
    first; the last L - 1 symbols of a stream that ends do not come out). Tags move with their symbols; the tag
    "unique_word" marks each word's first symbol, its value the quarter turns taken back (0 to 3).

    word: bits 0 and 1, two a symbol, mapped as `priors.constellation` does; at least 8 symbols. threshold: between 0.5
    and 1. A word in noise reaches about sqrt(S / (1 + S)), S = Es / N0: 0.94 at Eb / N0 = 6 dB, 0.87 at 2 dB. Noise
    passes the default 0.85 with probability 0.28^(L - 1): 5e-9 for 16 symbols, and random QPSK symbols hardly more
    often; words of 32 symbols or more are safe.

    Raises ValueError for values outside these ranges, and for a word that resembles itself when shifted.
    """

    def __init__(self, word, threshold: float = 0.85):
        values = np.asarray(word)
        if values.ndim != 1 or len(values) < 2 * SHORTEST or len(values) % 2:
            raise ValueError(f"a unique word of shape {values.shape} is impossible; it must be one sequence of bits, "
                             f"its length even and at least {2 * SHORTEST}")
        strange = [value for value in values.tolist() if value not in (0, 1)]
        if strange:
            raise ValueError(f"{strange[0]!r} in the unique word is no bit; bits must be 0 or 1")
        if not 0.5 < threshold < 1:
            raise ValueError(f"threshold={threshold} is impossible; it must lie between 0.5 and 1")
        self._symbols = cons.modulate(values.astype(np.uint8), "qpsk")
        length = len(self._symbols)
        shifted = np.abs(np.correlate(self._symbols, self._symbols, "full"))[length:] / length
        if shifted.max() > threshold:
            raise ValueError(f"the unique word resembles itself shifted by {1 + int(shifted.argmax())} symbols "
                             f"(correlation {shifted.max():.2f}); it must stay below the threshold {threshold}")
        gr.sync_block.__init__(self, "Unique word sync", [np.complex64], [np.complex64])
        self._least = threshold**2 * length
        self._ones = np.ones(length, np.float32)
        self._turns = 0
        self._found = 0
        self.set_history(length)
        self.declare_sample_delay(length - 1)

    @property
    def found(self) -> int:
        """Words found so far."""
        return self._found

    @property
    def turns(self) -> int:
        """Quarter turns (0 to 3) that are taken back at present."""
        return self._turns

    def work(self, input_items, output_items):
        symbols, out = input_items[0], output_items[0]
        count = len(out)
        match = np.correlate(symbols, self._symbols, "valid")[:count]
        energy = np.convolve(symbols.real**2 + symbols.imag**2, self._ones, "valid")[:count]
        # Strictly greater: where there is nothing, nothing is found.
        starts = np.flatnonzero(match.real**2 + match.imag**2 > self._least * energy)
        turns = np.rint(np.angle(match[starts]) * (2 / np.pi)).astype(int) % 4
        held = np.repeat(np.concatenate([[self._turns], turns]), np.diff(np.concatenate([[0], starts, [count]])))
        out[:] = symbols[:count] * _TURN_BACK[held]
        first = self.nitems_written(0)
        for start, turn in zip(starts.tolist(), turns.tolist(), strict=True):
            self.add_item_tag(0, first + start, TAG, pmt.from_long(turn))
        if len(turns):
            self._turns = int(turns[-1])
            self._found += len(turns)
        return count
