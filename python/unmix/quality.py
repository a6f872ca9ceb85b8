# SPDX-License-Identifier: GPL-3.0-or-later
"""How good a separation is: EVM without any truth; bit error rate and mean squared error where the truth is given."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np

from .captures import Capture, CaptureError, open_capture
from .demodulation import BitErrors, SyncedSymbols, count_errors, decide, evm
from .priors import constellation as cons
from .resume import array, need, number, whole
from .soi_sync import Sync
from .survey import survey
from .symbols import SymbolStream

BIT_SUFFIXES = (".u8", ".bits", ".npy")


class Reference:
    """The truth about the SOI: its bits, or a capture of it alone.

    path: .u8, .bits or .npy (uint8, one byte 0 or 1 per bit), or any capture of `length` samples in the units of the
    mixture. Raises CaptureError for anything else.
    """

    def __init__(self, path: str, length: int):
        self.path = path
        self.bits: Optional[np.ndarray] = None
        self.capture: Optional[Capture] = None
        self.gain = 1.0
        if Path(path).suffix.lower() in BIT_SUFFIXES:
            self.bits = _load_bits(Path(path))
            return
        self.capture = open_capture(path)
        if self.capture.length != length:
            raise CaptureError(f"The reference {path} holds {self.capture.length} samples and the capture {length}: "
                               "both must have the same length.")
        self.gain = float(np.sqrt(survey(self.capture)[1]))


def _load_bits(path: Path) -> np.ndarray:
    """True bits, uint8 [n] of 0 and 1, mapped rather than read."""
    try:
        if path.suffix.lower() == ".npy":
            bits = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            if path.stat().st_size == 0:
                raise CaptureError(f"The reference {path} is empty: it must hold one byte per bit.")
            bits = np.memmap(path, np.uint8, "r")
    except CaptureError:
        raise
    except OSError as error:
        raise CaptureError(f"The reference {path} cannot be read: {error.strerror or error}.") from None
    except ValueError as error:
        raise CaptureError(f"The reference {path} cannot be read: {error}.") from None
    if bits.dtype.kind not in "biu" or not bits.size:
        raise CaptureError(f"The reference {path} holds {bits.size} values of type {bits.dtype}: it must hold bits, "
                           "one integer 0 or 1 each.")
    bits = bits.reshape(-1)
    for start in range(0, len(bits), 1 << 22):
        if np.any(bits[start:start + (1 << 22)] > 1) or np.any(bits[start:start + (1 << 22)] < 0):
            raise CaptureError(f"The reference {path} holds other values than 0 and 1: it must have one byte per bit.")
    return bits


SHOWN = 4000  # symbols kept for a picture, at most
#: Symbols per point of the constellation, and in all, from which a point that stays empty says something: the chance of
#: one by accident is below 1e-6. A point is empty with less than the share EMPTY of what it should have.
OCCUPIED, LEAST_SYMBOLS, EMPTY = 20, 200, 0.1
#: Amplitude of a separated symbol below which none was sent: the estimate is zero where the SOI pauses.
SENT = 0.2


class Alignment:
    """Where true bits lie against symbols that were found blind, and by how much the symbols are turned.

    modulation: a prior's `modulation`. bits: the truth, uint8 [n]. The first ENOUGH symbols are compared with the truth
    around the place where it should be, at all delays; delay and rotation then stay as they are.
    """

    ENOUGH = 1024
    REACH = 8192  # symbols that the truth may lie off

    def __init__(self, modulation: dict, bits: np.ndarray):
        self._name, self._bits = modulation["constellation"], bits
        self._each = cons.bits_per_symbol(self._name)
        self._held = np.zeros((2, 0), np.complex64)
        #: Symbols of the truth before the first one found; None while there are too few to tell.
        self.delay: Optional[int] = None
        #: Angle by which the symbols found are turned, radians: a multiple of a turn over the symmetry.
        self.rotation = 0.0

    def push(self, symbols: np.ndarray, expected: int, last: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Take symbols complex64 [2, m]; return those that can be compared, turned back, and their true bits.

        expected: the first symbol's number in the stream. last: there are no more.
        """
        self._held = np.concatenate([self._held, symbols], axis=1)
        if self.delay is None and self._held.shape[1] and (last or self._held.shape[1] >= self.ENOUGH):
            self._align(expected)
        if self.delay is None:
            return self._held[:, :0], np.zeros(0, np.uint8)
        held, self._held = self._held, self._held[:, :0]
        held = held[:, max(0, -self._next):]  # what lies before the truth begins
        begin = max(0, self._next) * self._each
        truth = self._bits[begin:begin + held.shape[1] * self._each]
        self._next = max(0, self._next) + held.shape[1]
        return held * np.exp(-1j * self.rotation), np.asarray(truth, np.uint8)

    def state(self) -> dict:
        """All of it, for restore()."""
        return {"held": self._held, "delay": self.delay, "rotation": self.rotation,
                "next": None if self.delay is None else self._next}

    def restore(self, state: dict) -> None:
        """Go on with what state() said. Raises resume.StateError, KeyError, TypeError for anything else."""
        self._held = array(state["held"], "complex64", 2, None)
        self.rotation = number(state["rotation"], -7, 7)
        if state["delay"] is not None:
            self.delay, self._next = whole(state["delay"], -(1 << 53)), whole(state["next"], -(1 << 53))

    def _align(self, expected: int) -> None:
        low = max(0, expected - self.REACH)
        count = self._held.shape[1]
        piece = self._bits[low * self._each:(expected + self.REACH + count) * self._each]
        truth = cons.modulate(piece[:len(piece) // self._each * self._each], self._name)
        size = 1 << int(len(truth) + count).bit_length()
        match = np.fft.ifft(np.fft.fft(truth, size).conj() * np.fft.fft(self._held[1], size))
        lag = int(np.argmax(np.abs(match)))  # of the symbols behind the truth
        sector = 2 * np.pi / cons.SYMMETRY[self._name]
        self.rotation = float(sector * np.round(np.angle(match[lag]) / sector))
        self.delay = self._next = low - (lag if lag < size // 2 else lag - size)


class Selection:
    """Symbols for a picture, evenly out of a stream of any length: every n-th, at most SHOWN, at least half as many.

    rows: number of streams side by side.
    """

    def __init__(self, rows: int):
        self._kept = np.zeros((rows, 0), np.complex64)
        self._every, self._seen = 1, 0

    @property
    def symbols(self) -> np.ndarray:
        """Those selected, complex64 [rows, <= SHOWN]."""
        return self._kept

    def push(self, symbols: np.ndarray) -> None:
        """Take symbols complex64 [rows, m]."""
        for begin in range(0, symbols.shape[1], SHOWN):
            piece = symbols[:, begin:begin + SHOWN]
            self._kept = np.concatenate([self._kept, piece[:, -self._seen % self._every::self._every]], axis=1)
            self._seen += piece.shape[1]
            while self._kept.shape[1] > SHOWN:
                self._kept, self._every = self._kept[:, ::2].copy(), 2 * self._every

    def state(self) -> dict:
        """All of it, for restore()."""
        return {"kept": self._kept, "every": self._every, "seen": self._seen}

    def restore(self, state: dict) -> None:
        """Go on with what state() said. Raises resume.StateError, KeyError, TypeError for anything else."""
        kept = array(state["kept"], "complex64", len(self._kept), None)
        every, seen = whole(state["every"], 1), whole(state["seen"])
        need(kept.shape[1] == -(-seen // every) and kept.shape[1] <= SHOWN)
        self._kept, self._every, self._seen = kept, every, seen


def wrong_constellation(name: str, occupancy: Sequence[int]) -> Optional[str]:
    """A sentence where points of constellation `name` stay empty, which the SOI's own would not; else None.

    occupancy: symbols decided for each of constellation.points(name). Decisions of PSK with more points than were sent
    agree, and say nothing else.
    """
    occupancy, points = np.asarray(occupancy), cons.points(name)
    count, size = int(occupancy.sum()), len(points)
    used = occupancy >= EMPTY * count / size
    if count <= max(LEAST_SYMBOLS, OCCUPIED * size) or used.all():
        return None
    smaller = None
    for other, order in (("bpsk", 2), ("qpsk", 4)):
        turned = (points[used] / points[used][0]) ** order  # all the same where they are a turned PSK of that order
        if used.sum() == order and name != "16qam" and np.allclose(turned, turned[0], atol=1e-3):
            smaller = other
    guess = f", as if it were {smaller.upper()} (rrc:{smaller})" if smaller else ""
    return (f"only {int(used.sum())} of the {size} points of {name.upper()} occur among {count} symbols of the SOI"
            f"{guess}: unless its data vary that little, the constellation is wrong and so are the bits, though "
            "windows agree")


class Quality:
    """Takes a separation as it comes and keeps count.

    modulation: the SOI's, or None, which leaves out all that needs symbols. gain: the SOI's amplitude in the capture.
    reference: the truth, or None. blind: the modulation's timing and phase are not known but come with push(); true
    bits are then compared at the delay and rotation that fit best. Raises CaptureError for true bits without a
    modulation.

    EVM is taken behind the matched filter, before on the capture and after on the capture less the interference, where
    the noise is still visible; a separator's own estimate of the SOI lies on the constellation by construction. Bits
    are decided on that estimate. Where the estimate is zero, as the SOI pauses, there are bits of no meaning, so that
    bits keep their places, and which count neither for the EVM nor as errors.
    """

    def __init__(self, modulation: Optional[dict], gain: float, reference: Optional[Reference] = None,
                 blind: bool = False):
        if reference is not None and reference.bits is not None and modulation is None:
            raise CaptureError(f"The bits of {reference.path} need a signal of interest of known modulation, timing "
                               "and phase, such as rrc:qpsk: give a capture of the signal as reference instead.")
        self._modulation, self._gain, self._reference = modulation, gain, reference
        self._truth = None if reference is None else reference.capture
        rows = 3 if self._truth is None else 4
        self._symbols = None if modulation is None else (SyncedSymbols if blind else SymbolStream)(modulation, rows)
        self._blind = blind
        self._shown = Selection(2)
        points = 0 if modulation is None else len(cons.points(modulation["constellation"]))
        self._occupancy = np.zeros(points, np.int64)  # symbols decided for each point
        self._alignment = Alignment(modulation, reference.bits) if blind and reference and self._truth is None else None
        self._skipped = 0.0  # symbols before the first that was found
        self._paused = False
        self._count = 0
        self._square = np.zeros(2)  # of the error vectors before and after
        self._bits = 0
        self._errors = [BitErrors(0, 0), BitErrors(0, 0)]
        self._unsent = BitErrors(0, 0)  # after, where the SOI was not found to have been sent
        self._energy = np.zeros(3)  # of the error before, the error after, the truth

    def push(self, start: int, mixture: np.ndarray, sources: np.ndarray, sync: Optional[Sync] = None,
             paused: bool = False, gain: Optional[float] = None) -> np.ndarray:
        """Take samples from `start` on: mixture complex64 [n], sources complex64 [K, n], SOI first, in its units.

        sync: of these samples where the quality is blind, None where they have none; they give no symbols then.
        paused: whether there are samples among these in which the SOI pauses, its estimate being zero. gain: the
        SOI's amplitude in them where it changes. Returns the SOI's bits that are complete, uint8 [m].
        """
        self._paused = paused
        gain = gain or self._gain
        rows = [mixture / gain, (mixture - sources[1:].sum(0)) / gain, sources[0] / gain]
        if self._truth is not None:
            truth = self._truth.read(start, len(mixture))
            for i, wave in enumerate((mixture - truth, sources[0] - truth, truth)):
                self._energy[i] += np.sum(np.abs(wave).astype(np.float64) ** 2)
            rows.append(truth * (self._gain / (gain * self._reference.gain)))
        if self._symbols is None:
            return np.zeros(0, np.uint8)
        if not self._blind:
            return self._take(self._symbols.push(np.stack(rows)))
        if sync is None and not self._bits:
            self._skipped += len(mixture) / self._modulation["samples_per_symbol"]
        return self._take(self._symbols.push(np.stack(rows), sync))

    @property
    def shown(self) -> np.ndarray:
        """Some of the symbols that were sent, from all over the stream, where timing is found blind.

        complex64 [2 (before, after), <= SHOWN].
        """
        return self._shown.symbols

    def warnings(self) -> list[str]:
        """Reasons to distrust the bits that were decided, a sentence each."""
        text = None if self._modulation is None else \
            wrong_constellation(self._modulation["constellation"], self._occupancy)
        return [] if text is None else [text]

    @property
    def bits(self) -> int:
        """Bits decided so far."""
        return self._bits

    def finish(self) -> np.ndarray:
        """The SOI's last bits, uint8 [m]."""
        return np.zeros(0, np.uint8) if self._symbols is None else self._take(self._symbols.finish(), last=True)

    def _take(self, symbols: np.ndarray, last: bool = False) -> np.ndarray:
        count = symbols.shape[1]
        if self._alignment is not None:
            aligned, truth = self._alignment.push(symbols[[0, 2]], round(self._skipped), last)
            self._tally([decide(row, self._modulation) for row in aligned], truth, self._sent(aligned[1]))
        if not count:
            return np.zeros(0, np.uint8)
        sent = self._sent(symbols[2])
        if self._blind:
            self._shown.push(symbols[:2, sent])
        there = np.ones(count, bool) if self._truth is None else self._sent(symbols[3])
        for i in range(2):
            if sent.any():
                self._square[i] += evm(symbols[i, sent], self._modulation) ** 2 * int(sent.sum())
        self._count += int(sent.sum())
        before, after = decide(symbols[0], self._modulation), decide(symbols[2], self._modulation)
        each = cons.bits_per_symbol(self._modulation["constellation"])
        labels = after.reshape(-1, each)[sent].astype(np.int64) @ (1 << np.arange(each - 1, -1, -1))
        self._occupancy += np.bincount(labels, minlength=len(self._occupancy))
        if self._truth is not None:
            self._tally((before, after), decide(symbols[3], self._modulation), sent & there, there)
        elif self._reference is not None and self._alignment is None:
            self._tally((before, after), self._reference.bits[self._bits:self._bits + len(after)], sent)
        self._bits += len(after)
        return after

    def _sent(self, symbols: np.ndarray) -> np.ndarray:
        """Whether separated symbols complex64 [n] were sent, bool [n]."""
        return np.abs(symbols) > SENT if self._paused else np.ones(symbols.shape, bool)

    def _tally(self, decided: Sequence[np.ndarray], truth: np.ndarray, sent: np.ndarray,
               there: Optional[np.ndarray] = None) -> None:
        """Count the errors of bits before and after, of symbols that were sent, and of the others of those `there`."""
        each = cons.bits_per_symbol(self._modulation["constellation"])
        there = np.repeat(np.ones(len(sent), bool) if there is None else there, each)
        sent = np.repeat(sent, each)
        for i, bits in enumerate(decided):
            common = min(len(bits), len(truth))
            counted = sent[:common]
            fresh, old = count_errors(bits[:common][counted], truth[:common][counted]), self._errors[i]
            self._errors[i] = BitErrors(old.errors + fresh.errors, old.bits + fresh.bits)
        left_out = there[:common] & ~counted
        rest = count_errors(bits[:common][left_out], truth[:common][left_out])  # after
        self._unsent = BitErrors(self._unsent.errors + rest.errors, self._unsent.bits + rest.bits)

    def state(self) -> dict:
        """All of it, for restore()."""
        state = {"skipped": self._skipped, "count": self._count, "square": self._square.copy(), "bits": self._bits,
                 "errors": [[e.errors, e.bits] for e in (*self._errors, self._unsent)],
                 "energy": self._energy.copy(), "symbols": None,
                 "shown": self._shown.state(), "occupancy": self._occupancy.copy(),
                 "alignment": None if self._alignment is None else self._alignment.state()}
        if self._symbols is not None:
            state["symbols"] = {name: getattr(self._symbols, name) for name in self._stream_state()}
        return state

    def restore(self, state: dict, position: int) -> None:
        """Go on with what state() said after `position` samples.

        Raises resume.StateError, KeyError, TypeError for anything else.
        """
        self._skipped, self._count = number(state["skipped"], 0), whole(state["count"])
        self._square, self._energy = array(state["square"], "float64", 2), array(state["energy"], "float64", 3)
        self._bits = whole(state["bits"])
        need(len(state["errors"]) == 3)
        *self._errors, self._unsent = (BitErrors(whole(errors), whole(bits)) for errors, bits in state["errors"])
        need(all(e.errors <= e.bits for e in (*self._errors, self._unsent)))
        self._shown.restore(state["shown"])
        self._occupancy = array(state["occupancy"], "int64", len(self._occupancy))
        need((self._occupancy >= 0).all() and self._occupancy.sum() == self._count)
        need((state["alignment"] is None) == (self._alignment is None))
        need((state["symbols"] is None) == (self._symbols is None))
        if self._alignment is not None:
            self._alignment.restore(state["alignment"])
        if self._symbols is not None:
            self._restore_symbols(state["symbols"], position)

    def _stream_state(self) -> tuple[str, ...]:
        """The attributes that a stream of symbols has and its constructor does not set for good."""
        return ("_buffer", "_begin", "_next") + (("_sync",) if self._blind else ("_received",))

    def _restore_symbols(self, state: dict, position: int) -> None:
        sps = float(self._modulation["samples_per_symbol"])
        buffer = array(state["_buffer"], "complex64", len(self._symbols._buffer), None)
        begin = whole(state["_begin"])
        reach = (self._modulation["span"] + 8) * sps
        if self._blind:
            sync = state["_sync"]
            need(begin + buffer.shape[1] == position)
            number(state["_next"], position - reach if position else 0, position + reach)
            need(sync is None or isinstance(sync, Sync) and sync.fits(sps, position))
        else:
            need(state["_received"] == position and begin * sps + buffer.shape[1] == position)
            whole(state["_next"], begin, begin + math.ceil(reach))
        for name in self._stream_state():
            setattr(self._symbols, name, state[name])

    def result(self) -> dict:
        """For the report: symbols and evm_before, evm_after (ratios; None without symbols), and `reference`."""
        ratio = np.sqrt(self._square / self._count) if self._count else (None, None)
        report = {"symbols": self._count, "bits": self._bits, "evm_before": ratio[0], "evm_after": ratio[1],
                  "reference": None}
        if self._reference is None:
            return report
        truth = {"file": str(self._reference.path), "kind": "bits" if self._truth is None else "capture"}
        if self._symbols is not None:
            for when, count in zip(("before", "after"), self._errors, strict=True):
                truth[f"ber_{when}"] = {"rate": count.rate, "errors": count.errors, "bits": count.bits,
                                        "ci95": list(count.interval)}
            sent, rest = self._errors[1], self._unsent
            every = BitErrors(sent.errors + rest.errors, sent.bits + rest.bits)
            truth["ber_of_all"] = {"rate": every.rate, "errors": every.errors, "bits": every.bits,
                                   "ci95": list(every.interval)}
            if self._truth is None:
                truth["true_bits"] = len(self._reference.bits)
            if self._alignment is not None:
                truth["rotation_deg"] = float(np.degrees(self._alignment.rotation))
                truth["delay_symbols"] = self._alignment.delay
        if self._truth is not None:
            floor = 1e-15 * self._energy[2] + 1e-300
            for i, when in enumerate(("before", "after")):
                truth[f"mse_{when}_db"] = float(10 * np.log10(
                    max(self._energy[i], floor) / max(self._energy[2], 1e-300)))
        report["reference"] = truth
        return report
