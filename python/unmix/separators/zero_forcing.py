# SPDX-License-Identifier: GPL-3.0-or-later
"""Zero forcing: what signal subspaces alone give without noise. A reference line, not a method for real captures."""

from typing import Hashable

import numpy as np
import scipy.linalg
import scipy.sparse

from .common import GoOn, Problem, Separation, in_batches
from .moments import LinearModel, orthonormal

#: Directions of the symbols that shrink by more than this beside the interference are left out: float32 loses them.
TOLERANCE = 1e-5


def zero_forcing(problem: Problem) -> Separation:
    """All sources' symbols by least squares, with no prior on their values: mixture = sum_k g_k B_k c_k.

    B_k: modulation matrix of source k with its start, phase and timing; c_k: its symbols, real for BPSK, else complex.
    Without noise this is exact as long as the subspaces do not meet; noise is amplified, as they nearly do (by 36 dB
    beside CP-OFDM of 56 out of 80 dimensions, by 11 dB if that is BPSK). Of symbols that the window does not determine,
    the solution of least norm. Raises PriorError for priors that say nothing of a subspace.

    Source: the decorrelating detector, Lupas and Verdu, "Linear multiuser detectors for synchronous code-division
    multiple-access channels", IEEE Trans. Inf. Theory 35 (1989).
    """
    for k in range(len(problem.priors)):
        LinearModel(problem.part(0, 1), k, True).blocks(0)
    solved: dict[Hashable, Projection] = {}

    def method(part: Problem, go_on: GoOn) -> tuple[np.ndarray, int]:
        models = [LinearModel(part, k, True) for k in range(len(part.priors))]
        sources = np.zeros((len(models), *part.mixture.shape), dtype=np.complex64)
        for w, mixture in enumerate(part.mixture):
            if not go_on(w / len(part.mixture)):
                break
            key = (tuple(m.key(w) for m in models), part.gains[w].tobytes())
            if key not in solved:
                if len(solved) >= 128:  # a projection takes a few MB
                    solved.clear()
                solved[key] = Projection([m.blocks(w) for m in models], part.gains[w].astype(float), len(mixture))
            sources[:, w] = solved[key](mixture)
        return sources, 0

    return in_batches(problem, method)


class Projection:
    """Least squares with one set of subspaces: the largest is projected out, the others' symbols solve what is left.

    blocks: of each source, see LinearModel.blocks. gains: [K]. samples: N.
    """

    def __init__(self, blocks: list[list[tuple[int, np.ndarray, bool]]], gains: np.ndarray, samples: int):
        self.gains, self.samples = gains, samples
        self.real = any(real for source in blocks for _, _, real in source)
        size = [sum(b.shape[1] for _, b, _ in source) for source in blocks]
        self.largest = int(np.argmax(size))
        self.others = [k for k in range(len(blocks)) if k != self.largest]
        # Symbols inside a window share one basis.
        known: dict[bytes, np.ndarray] = {}
        placed = []
        for first, block, real in blocks[self.largest]:
            name = block.tobytes()
            if name not in known:
                known[name] = orthonormal(self._channels(block, real))
            placed.append((first, known[name], len(block)))
        self.basis = self._assembled(placed)
        self.columns = [gains[k] * self._assembled([(f, self._channels(b, r), len(b)) for f, b, r in blocks[k]])
                        for k in self.others]
        matrix = scipy.sparse.hstack(self.columns).tocsr()
        left = matrix - self.basis @ (self.basis.conj().T @ matrix)
        values, vectors = scipy.linalg.eigh((left.conj().T @ left).toarray())
        good = values > TOLERANCE**2 * values[-1]
        vectors = vectors[:, good]
        self.solve = (vectors / values[good]) @ vectors.conj().T
        self.left = left.conj().T.tocsr()

    def _channels(self, block: np.ndarray, real: bool) -> np.ndarray:
        """A block [n, m] on real and imaginary parts [2 n, m or 2 m], where these are apart."""
        if not self.real:
            return block
        upper = np.concatenate([block.real, block.imag])
        return upper if real else np.concatenate([upper, np.concatenate([-block.imag, block.real])], 1)

    def _assembled(self, blocks: list[tuple[int, np.ndarray, int]]) -> scipy.sparse.csr_matrix:
        """One sparse matrix of blocks (first sample, [n or 2 n, m], n) that do not overlap; zeros are left out."""
        rows, columns, values, width = [], [], [], 0
        for first, block, n in blocks:
            place = first + np.arange(n)
            place = np.concatenate([place, place + self.samples]) if self.real else place
            i, j = np.nonzero(block)
            rows.append(place[i])
            columns.append(width + j)
            values.append(block[i, j])
            width += block.shape[1]
        shape = (self.samples * (2 if self.real else 1), width)
        return scipy.sparse.csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape)

    def __call__(self, mixture: np.ndarray) -> np.ndarray:
        """Sources complex64 [K, N] of a mixture complex [N]."""
        y = mixture.astype(complex)
        if self.real:
            y = np.concatenate([y.real, y.imag])
        symbols = self.solve @ (self.left @ y)
        waves, rest, begin = np.zeros((len(self.gains), len(y)), dtype=y.dtype), y.copy(), 0
        for k, columns in zip(self.others, self.columns, strict=True):
            part = columns @ symbols[begin:begin + columns.shape[1]]
            begin += columns.shape[1]
            rest -= part
            waves[k] = part / self.gains[k]
        waves[self.largest] = self.basis @ (self.basis.conj().T @ rest) / self.gains[self.largest]
        if self.real:
            waves = waves[:, :self.samples] + 1j * waves[:, self.samples:]
        return waves
