# SPDX-License-Identifier: GPL-3.0-or-later
"""Mean and covariance of a source in a window, and the subspace it lies in: what linear separators know of a prior."""

import math
import re
from dataclasses import dataclass
from typing import Any, Callable, Hashable, Optional

import numpy as np
import scipy.linalg

from ..priors import Prior, PriorError, cp_ofdm, gaussian, parse, rrc
from ..priors.wifi import DOUBTFUL, FIELDS, PIECES, TAPS
from .common import Problem


@dataclass
class Moments:
    """First and second moments of a source b of N samples; beyond D samples nothing is correlated.

    covariance: complex128 [D + 1, N], row d and column n hold Cov(b(n + d), b(n)), 0 where n + d >= N. pseudo: the same
    of E[(b(n + d) - m)(b(n) - m)], which is not zero for BPSK of known phase; None where it is. mean: complex128 [N].
    """

    covariance: np.ndarray
    pseudo: Optional[np.ndarray] = None
    mean: Optional[np.ndarray] = None


class LinearModel:
    """What linear algebra needs of source k of a problem: moments(window), blocks(window).

    cyclic: use start, phase or timing where they are known (side information, or a prior that is synchronised);
    otherwise, and where they are not, the source is taken as stationary: averaged over all of them. A learned prior is
    what its entry `simulation` says, else its modulation, else a stationary process of its spectrum. Raises PriorError
    for a prior that has none of these.
    """

    def __init__(self, problem: Problem, k: int, cyclic: bool):
        prior, side = problem.priors[k], problem.side[k]
        if prior.learned:
            prior, side = _closed_form(problem, k)
        self.prior, self.samples = prior, problem.mixture.shape[1]
        self.side = None if side is None or np.shape(side)[1] == 0 else np.asarray(side, dtype=np.float64)
        if not cyclic:
            self.side = None
        self.kind = prior.info["kind"]
        self._last: dict[str, tuple[Hashable, Any]] = {}  # one window's at a time: of a long window they are large
        if self.kind == "rrc" and self.side is None and (not cyclic or not prior.info["synchronised"]) or (
                self.kind in ("cp-ofdm", "wifi") and self.side is None) or self.kind == "gaussian" or prior.learned:
            self.kind = "stationary"
        if self.kind == "stationary":
            self._lags = _autocorrelation(prior, self.samples)

    def key(self, window: int) -> Hashable:
        """Windows of equal keys have equal moments."""
        if self.kind == "stationary" or self.side is None:
            return None
        row = self.side[window]
        if self.kind == "cp-ofdm" and not self._bpsk:
            return self._offset(window)  # the phase of a circular signal changes nothing
        return row.tobytes()

    @property
    def _bpsk(self) -> bool:
        return self.prior.module.constellation == "bpsk"

    def _offset(self, window: int) -> int:
        """Place of the window's first sample in its CP-OFDM symbol, see CpOfdm.offset."""
        length = self.prior.module.length
        return (length - round(float(self.side[window, 0]))) % length

    def moments(self, window: int) -> Moments:
        """Moments of the source in one window."""
        return self._kept("moments", window, self._moments)

    def _kept(self, name: str, window: int, make: Callable[[int], Any]) -> Any:
        """make(window), or what it gave for the last window where that had the same key."""
        key = self.key(window)
        if name not in self._last or self._last[name][0] != key:
            self._last[name] = (key, make(window))
        return self._last[name][1]

    def _moments(self, window: int) -> Moments:
        if self.kind == "stationary":
            return Moments(_inside(np.repeat(self._lags[:, None], self.samples, 1)))
        if self.kind == "cp-ofdm":
            return self._ofdm_moments(window)
        mean, white, circular, real = self._kept("parts", window, self._parts)
        covariance, pseudo = _band(circular, real, white)
        return Moments(covariance, pseudo, mean)

    def blocks(self, window: int) -> list[tuple[int, np.ndarray, bool]]:
        """The source as sums of products B c: first sample, B complex128 [n, m], and whether c is real. No two blocks
        overlap, unless there is one alone. Raises PriorError for a source that lies in no subspace.
        """
        if self.kind == "cp-ofdm":
            m, turn = self.prior.module, np.exp(1j * self.side[window, 1])
            symbol = cp_ofdm.modulation_matrix(m.fft, m.cp, m.active) * (turn if self._bpsk else 1)
            first = -self._offset(window)
            places = range(first, self.samples, m.length)
            return [(max(0, p), symbol[max(0, -p):self.samples - p], self._bpsk) for p in places]
        if self.kind == "rrc":
            _, _, circular, real = self._kept("parts", window, self._parts)
            return [(0, circular if real is None else real, real is not None)]
        raise PriorError(f"the prior {self.prior.name} does not say in which subspace its signal lies, which "
                         "zero-forcing needs; allowed are rrc:... and cp-ofdm:... of known or estimated timing")

    def _ofdm_moments(self, window: int) -> Moments:
        m = self.prior.module
        symbol = cp_ofdm.modulation_matrix(m.fft, m.cp, m.active)
        place = (self._offset(window) + np.arange(self.samples)) % m.length

        def cyclic(inside: np.ndarray) -> np.ndarray:
            lower = np.zeros((m.length, m.length), dtype=complex)  # of each place in a symbol
            for d in range(m.length):
                lower[d, :m.length - d] = np.diagonal(inside, -d)
            return _inside(lower[:, place])

        covariance = cyclic(symbol @ symbol.conj().T)
        if not self._bpsk:
            return Moments(covariance)
        return Moments(covariance, cyclic(symbol @ symbol.T) * np.exp(2j * self.side[window, 1]))

    def _parts(self, window: int) -> tuple:
        """mean [N] or None, white [N] or None, circular [N, m] or None, real [N, m] or None: b = mean + circular c +
        real r + w, with c circular and r real of variance 1, and w circular and white of variance `white`.
        """
        if self.kind == "wifi":
            return _wifi_parts(self.side[window], self.samples, self.prior.module.window)
        m, row = self.prior.module, None if self.side is None else self.side[window]
        if self.prior.info.get("sync") == "auto":
            step = m.sps * (1 + row[3])
            half = 0.5 * m.span * m.sps
            last = math.floor((self.samples - 1 + half - row[0]) / step)
            centres = row[0] + np.arange(math.ceil((-half - row[0]) / step), last + 1) * step
            turn = np.exp(1j * (row[1] + 2 * np.pi * row[2] * np.arange(self.samples)))[:, None]
        else:
            timing, phase = (m.first, 0.0) if row is None else row[:2]
            centres = timing + np.arange(-m.tails, -(-self.samples // m.sps) + m.tails) * m.sps
            turn = np.exp(1j * phase)
        wave = rrc.modulation_matrix(self.samples, centres, m.sps, m.rolloff, m.span) * turn
        return (None, None, None, wave) if self._bpsk else (None, None, wave, None)


def _closed_form(problem: Problem, k: int) -> tuple[Prior, Optional[np.ndarray]]:
    """The closed form of what a learned prior was trained on, with its side information; itself where it has none."""
    prior = problem.priors[k]
    spec, shape = prior.info.get("simulation"), prior.modulation
    if spec is None and shape is not None:
        known = "known" if prior.info["synchronised"] else "unknown"
        spec = (f"rrc:{shape['constellation']},sps={int(shape['samples_per_symbol'])},rolloff={shape['rolloff']:g},"
                f"span={int(shape['span'])},first={shape['first']:g},sync={known}")
    if not isinstance(spec, str) or not re.match("(rrc|cp-ofdm):", spec):
        return prior, None
    closed = parse(spec)
    if closed.info["kind"] == "rrc" and not {"timing", "phase"}.isdisjoint(prior.info.get("invariances") or ()):
        closed = parse(re.sub(",sync=[a-z]+", "", spec) + ",sync=unknown")
    return closed, closed.side_information(problem.mixture, [p for i, p in enumerate(problem.priors) if i != k])


def _autocorrelation(prior: Prior, samples: int) -> np.ndarray:
    """E[b(n + d) b*(n)], complex128 [D + 1], D < samples, at an unknown time."""
    m, kind = prior.module, prior.info["kind"]
    if kind == "rrc" and prior.info.get("sync") != "auto":
        return rrc.autocorrelation(m.sps, m.rolloff, m.span)[:samples].astype(complex)
    if kind == "cp-ofdm":
        return cp_ofdm.autocorrelation(m.fft, m.cp, m.active)[:samples]
    if prior.info.get("psd") is None:
        raise PriorError(f"the prior {prior.name} has no known covariance, which a linear separator needs: its "
                         "metadata has neither a simulation nor a spectrum")
    return gaussian.autocorrelation(prior.info["psd"], samples)


def _inside(lower: np.ndarray) -> np.ndarray:
    """Zero what belongs to samples beyond the window's end, in place."""
    samples = lower.shape[1]
    for d in range(1, min(len(lower), samples)):
        lower[d, samples - d:] = 0
    return lower[:samples]


def _band(circular: Optional[np.ndarray], real: Optional[np.ndarray], white: Optional[np.ndarray]
          ) -> tuple[np.ndarray, Optional[np.ndarray]]:
    """Covariance and pseudo-covariance, see Moments, of factors [N, m]; arguments as LinearModel._parts."""
    bands = [_lower(f, f.conj()) for f in (circular, real) if f is not None] or [np.zeros((1, len(white)), complex)]
    covariance = max(bands, key=len)
    for band in bands:
        if band is not covariance:
            covariance[:len(band)] += band
    if white is not None:
        covariance[0] += white
    return covariance, None if real is None else _lower(real, real)


def _lower(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The lower band of a b^T, both [N, m] and of the same non-zero places: columns reach over few samples each."""
    samples = len(a)
    there = a != 0
    used = there.any(0)
    a, b, there = a[:, used], b[:, used], there[:, used]
    first, end = there.argmax(0), samples - there[::-1].argmax(0)
    lower = np.zeros((int((end - first).max()) if used.any() else 1, samples), dtype=complex)
    for j, (low, high) in enumerate(zip(first, end, strict=True)):
        length = high - low
        shifted = np.lib.stride_tricks.sliding_window_view(np.pad(a[low:high, j], (0, length - 1)), length)
        lower[:length, low:high] += shifted * b[low:high, j]
    return lower


def _wifi_parts(row: np.ndarray, samples: int, window: int) -> tuple:
    """priors.wifi.Wifi with Gaussian carriers of the same variance; see there for the side information."""
    known = row[:samples] + 1j * row[window:window + samples]
    white = 2 * row[2 * window:2 * window + samples]
    turn = np.exp(1j * row[3 * window:3 * window + samples])
    width = len(FIELDS) + DOUBTFUL + 16 + 2 * TAPS
    columns = {False: [], True: []}
    sample = np.arange(81)  # a symbol and the sample that it shares with the next one
    for piece in row[4 * window:].reshape(PIECES, width):
        begin, count, alphabet = (round(float(v)) for v in piece[:3])
        carrier = np.round(piece[len(FIELDS):len(FIELDS) + round(float(piece[8]))])
        signed = (carrier + 32) % 64 - 32
        taps = piece[len(FIELDS) + DOUBTFUL + 16:]
        taps = taps[:TAPS] + 1j * taps[TAPS:]
        sent = np.exp(2j * np.pi * np.outer(sample - 16, carrier) / 64) / math.sqrt(52)
        sent[0] *= 0.5
        sent[80] = 0.5 * sent[16]
        for number in range(count):
            first = begin + 80 * number - 8
            if first + 81 + TAPS <= 0 or first >= samples or not len(carrier):
                continue
            factor = (piece[6] + 1j * piece[7]) * np.exp(-2j * np.pi / 64 * (piece[4] + piece[5] * number) * signed)
            heard = np.apply_along_axis(np.convolve, 0, sent, taps) * factor
            wave = np.zeros((samples, len(carrier)), dtype=complex)
            low, high = max(0, first), min(samples, first + len(heard))
            if high > low:
                wave[low:high] = heard[low - first:high - first]
                columns[alphabet == 0].append(wave * turn[:, None])
    circular, real = (np.concatenate(c, 1) if c else None for c in (columns[False], columns[True]))
    return known, white, circular, real


def orthonormal(block: np.ndarray, tolerance: float = 1e-6) -> np.ndarray:
    """Orthonormal basis [n, r] of a block's columns [n, m]; directions that shrink below `tolerance` are left out."""
    vectors, values, _ = scipy.linalg.svd(block, full_matrices=False)
    return vectors[:, values > tolerance * values[0]]
