# SPDX-License-Identifier: GPL-3.0-or-later
"""How good a separation is: EVM without any truth; bit error rate and mean squared error where the truth is given."""

from pathlib import Path
from typing import Optional

import numpy as np

from .captures import Capture, CaptureError, open_capture
from .demodulation import BitErrors, count_errors, decide, evm
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


class Quality:
    """Takes a separation as it comes and keeps count.

    modulation: the SOI's, of known timing and phase, or None, which leaves out all that needs symbols. gain: the SOI's
    amplitude in the capture. reference: the truth, or None. Raises CaptureError for true bits without a modulation.

    EVM is taken behind the matched filter, before on the capture and after on the capture less the interference, where
    the noise is still visible; a separator's own estimate of the SOI lies on the constellation by construction. Bits
    are decided on that estimate.
    """

    def __init__(self, modulation: Optional[dict], gain: float, reference: Optional[Reference] = None):
        if reference is not None and reference.bits is not None and modulation is None:
            raise CaptureError(f"The bits of {reference.path} need a signal of interest of known modulation, timing "
                               "and phase, such as rrc:qpsk: give a capture of the signal as reference instead.")
        self._modulation, self._gain, self._reference = modulation, gain, reference
        self._truth = None if reference is None else reference.capture
        self._symbols = None if modulation is None else SymbolStream(modulation, 3 if self._truth is None else 4)
        self._count = 0
        self._square = np.zeros(2)  # of the error vectors before and after
        self._bits = 0
        self._errors = [BitErrors(0, 0), BitErrors(0, 0)]
        self._energy = np.zeros(3)  # of the error before, the error after, the truth

    def push(self, start: int, mixture: np.ndarray, sources: np.ndarray) -> np.ndarray:
        """Take samples from `start` on: mixture complex64 [n], sources complex64 [K, n], SOI first, in its units.

        Returns the SOI's bits that are complete, uint8 [m].
        """
        rows = [mixture / self._gain, (mixture - sources[1:].sum(0)) / self._gain, sources[0] / self._gain]
        if self._truth is not None:
            truth = self._truth.read(start, len(mixture))
            for i, wave in enumerate((mixture - truth, sources[0] - truth, truth)):
                self._energy[i] += np.sum(np.abs(wave).astype(np.float64) ** 2)
            rows.append(truth / self._reference.gain)
        if self._symbols is None:
            return np.zeros(0, np.uint8)
        return self._take(self._symbols.push(np.stack(rows)))

    def finish(self) -> np.ndarray:
        """The SOI's last bits, uint8 [m]."""
        return np.zeros(0, np.uint8) if self._symbols is None else self._take(self._symbols.finish())

    def _take(self, symbols: np.ndarray) -> np.ndarray:
        count = symbols.shape[1]
        if not count:
            return np.zeros(0, np.uint8)
        for i in range(2):
            self._square[i] += evm(symbols[i], self._modulation) ** 2 * count
        self._count += count
        before, after = decide(symbols[0], self._modulation), decide(symbols[2], self._modulation)
        if self._reference is not None:
            truth = (decide(symbols[3], self._modulation) if self._truth is not None
                     else self._reference.bits[self._bits:self._bits + len(after)])
            for i, bits in enumerate((before, after)):
                fresh, old = count_errors(bits, truth), self._errors[i]
                self._errors[i] = BitErrors(old.errors + fresh.errors, old.bits + fresh.bits)
        self._bits += len(after)
        return after

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
            if self._truth is None:
                truth["true_bits"] = len(self._reference.bits)
        if self._truth is not None:
            floor = 1e-15 * self._energy[2] + 1e-300
            for i, when in enumerate(("before", "after")):
                truth[f"mse_{when}_db"] = float(10 * np.log10(
                    max(self._energy[i], floor) / max(self._energy[2], 1e-300)))
        report["reference"] = truth
        return report
