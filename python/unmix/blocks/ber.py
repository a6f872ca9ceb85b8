# SPDX-License-Identifier: GPL-3.0-or-later
"""Bit error rate of received bits against known ones, with the alignment found by itself."""

import threading

import numpy as np
import pmt
import scipy.fft
from gnuradio import gr

#: Bits that are correlated with the known ones to find the alignment, and the error rate up to which it is believed.
#: Half the stretch before a slip and half after it give a rate of 1/4: too many.
STRETCH, LOCK_UP_TO = 512, 0.2
#: The alignment is given up when more than this share of the last bits is wrong.
RECENT, LOSE_ABOVE = 256, 0.3
#: What stands for the error rate where nothing is known: that of guessing. NaN would stay in a display's average.
GUESSING = 0.5
PORT = pmt.intern("ber")


class ber_meter(gr.sync_block):
    """Compares received bits with known ones that repeat for ever, and shows the bit error rate.

    The alignment is found by correlating 512 received bits with the whole known sequence (FFTs of its length for each
    512 bits until it is found: 20 ms for 1,000,000), and believed when at most 20 % of them are wrong; these 512 bits
    are not counted. When more than 30 % of the last 256 bits are wrong, e.g. after a slipped symbol, it is sought anew.
    The errors up to that point stay counted, 77 for a slip; bits between a loss and the next lock are not counted.

    Input: bytes, one bit in the lowest place of each. Output: float, one item per input bit: the error rate of the last
    `window` compared bits, 0.5 while there is no alignment: for a QT GUI Number Sink.

    Message output "ber", after each `window` compared bits: a dictionary of ber (of the window), errors, compared,
    relocks (all three since the first lock or reset()).

    bits: the known sequence of 0 and 1, at least one; where it has a period of its own, any alignment of it is right.
    window: bits, at least 1. skip: bits to ignore at first, while a receiver's loops settle. Raises ValueError for
    values outside these ranges. All methods may be called from any thread.
    """

    def __init__(self, bits, window: int = 10000, skip: int = 0):
        values = np.asarray(bits)
        if values.ndim != 1 or not len(values):
            raise ValueError(f"bits of shape {values.shape} are impossible; it must be one sequence, not empty")
        strange = [value for value in values.tolist() if value not in (0, 1)]
        if strange:
            raise ValueError(f"{strange[0]!r} is no bit; bits must be 0 or 1")
        for name, value, least in (("window", window, 1), ("skip", skip, 0)):
            if value != int(value) or value < least:
                raise ValueError(f"{name}={value} is impossible; it must be an integer, at least {least}")
        gr.sync_block.__init__(self, "BER meter", [np.uint8], [np.float32])
        self.message_port_register_out(PORT)
        self._known = values.astype(np.uint8)
        self._window = int(window)
        self._skip = int(skip)
        # One period and a stretch beyond it: then the FFT's length is free, and a fast one is taken.
        periodic = 1 - 2 * np.resize(self._known, len(self._known) + STRETCH - 1).astype(np.float32)
        self._size = scipy.fft.next_fast_len(len(periodic), real=True)
        self._spectrum = scipy.fft.rfft(periodic, self._size)
        self._lock = threading.Lock()
        self._place = None  # of the next bit in the known sequence
        self._sought = np.zeros(0, np.uint8)
        self._recent = np.zeros(RECENT, np.uint8)
        self._ring = np.zeros(self._window, np.uint8)  # whether each of the last compared bits was wrong
        self._clear()

    def _clear(self) -> None:
        self._errors = self._compared = self._in_window = 0
        self._ring[:] = 0
        self._locks = int(self._place is not None)

    def reset(self) -> None:
        """Counts start again; an alignment is kept."""
        with self._lock:
            self._clear()

    def ber(self) -> float:
        """Error rate of the last `window` compared bits; 0.5 while there is no alignment or no bit was compared."""
        with self._lock:
            return self._rate()

    def total_ber(self) -> float:
        """Error rate of all bits compared since the first lock or reset(); 0.5 if there are none."""
        with self._lock:
            return self._errors / self._compared if self._compared else GUESSING

    def errors(self) -> int:
        """Wrong bits since the first lock or reset()."""
        with self._lock:
            return self._errors

    def compared(self) -> int:
        """Bits compared since the first lock or reset()."""
        with self._lock:
            return self._compared

    def locked(self) -> bool:
        """Whether the alignment is known."""
        with self._lock:
            return self._place is not None

    def relocks(self) -> int:
        """Times that the alignment was lost and found again, since the first lock or reset(): cycle slips, mostly."""
        with self._lock:
            return max(0, self._locks - 1)

    def work(self, input_items, output_items):
        bits, out = input_items[0] & 1, output_items[0]
        reports = []
        begin = 0
        with self._lock:
            while begin < len(bits):
                rest, shown = bits[begin:], out[begin:]
                if self._skip:
                    used = min(self._skip, len(rest))
                    self._skip -= used
                    shown[:used] = GUESSING
                elif self._place is None:
                    used = self._seek(rest)
                    shown[:used] = GUESSING
                else:
                    used = self._compare(rest[:self._window - self._compared % self._window], shown)
                    if self._compared % self._window == 0:
                        reports.append(self._report())
                begin += used
        for report in reports:
            self.message_port_pub(PORT, report)
        return len(bits)

    def _rate(self) -> float:
        if self._place is None or not self._compared:
            return GUESSING
        return self._in_window / min(self._compared, self._window)

    def _report(self):
        report = pmt.make_dict()
        for name, value in (("ber", pmt.from_double(self._in_window / self._window)),
                            ("errors", pmt.from_long(self._errors)), ("compared", pmt.from_long(self._compared)),
                            ("relocks", pmt.from_long(max(0, self._locks - 1)))):
            report = pmt.dict_add(report, pmt.intern(name), value)
        return report

    def _seek(self, bits: np.ndarray) -> int:
        """Gather a stretch and look for it in the known sequence. Returns how many bits were taken."""
        used = min(STRETCH - len(self._sought), len(bits))
        self._sought = np.concatenate([self._sought, bits[:used]])
        if len(self._sought) == STRETCH:
            spectrum = scipy.fft.rfft(1 - 2 * self._sought.astype(np.float32), self._size)
            match = scipy.fft.irfft(self._spectrum * spectrum.conj(), self._size)[:len(self._known)]
            place = int(match.argmax())
            if (STRETCH - match[place]) / 2 <= LOCK_UP_TO * STRETCH:
                self._place = (place + STRETCH) % len(self._known)
                self._locks += 1
                self._recent[:] = 0
            self._sought = self._sought[:0]
        return used

    def _compare(self, bits: np.ndarray, shown: np.ndarray) -> int:
        """Compare at most `window` bits, up to a loss of the alignment. Returns how many were compared."""
        wrong = (bits != self._known.take(self._place + np.arange(len(bits)), mode="wrap")).astype(np.uint8)
        recent = np.concatenate([self._recent, wrong])
        sums = np.cumsum(recent, dtype=np.int64)
        lost = np.flatnonzero(sums[RECENT:] - sums[:-RECENT] > LOSE_ABOVE * RECENT)
        used = int(lost[0]) + 1 if len(lost) else len(bits)
        wrong = wrong[:used]

        place = (self._compared + np.arange(used)) % self._window
        change = np.cumsum(wrong.astype(np.int64) - self._ring[place])
        self._ring[place] = wrong
        shown[:used] = (self._in_window + change) / np.minimum(self._compared + 1 + np.arange(used), self._window)
        self._in_window += int(change[-1])
        self._errors += int(wrong.sum())
        self._compared += used
        self._recent = recent[used:used + RECENT]
        self._place = None if len(lost) else (self._place + used) % len(self._known)
        return used
