# SPDX-License-Identifier: GPL-3.0-or-later
"""Linear minimum mean squared error estimates: the best that first and second moments allow."""

import numpy as np
import scipy.linalg

from .common import GoOn, MethodError, Problem, Separation, in_batches
from .moments import LinearModel, Moments

#: Noise variance where there is less, relative to the mixture's power: without noise the covariance may be singular,
#: and start, phase and samples are not exact. Where they are, 1e-9 separates noise-free mixtures completely. In
#: captures, whose noise does not show in the spectrum where it is 30 dB below the interference, 1e-4 does better.
REGULARISATION = 1e-6

#: The largest regularisation: it leaves nothing of the sources, and more would overflow.
MOST_REGULARISATION = 1e30


def lmmse(problem: Problem, regularisation: float = REGULARISATION) -> Separation:
    """LMMSE with stationary interference: equation (67) of arXiv 2306.14411, appendix E.2, and its closed form.

    s = g_0 C_0 (sum_k g_k^2 C_k + sigma^2 I)^-1 y with exact covariances C_k: of the SOI with its timing and phase
    where they are known (side information, or a synchronised prior), of the others averaged over start and phase, or a
    spectrum's, see moments.LinearModel. The other sources are estimated alike. The result is linear: no decisions.

    regularisation: 0 .. MOST_REGULARISATION, see REGULARISATION. Raises PriorError for a prior without known
    covariance, MethodError for a regularisation out of range.
    """
    return _lmmse(problem, False, regularisation)


def lmmse_cyclic(problem: Problem, regularisation: float = REGULARISATION) -> Separation:
    """LMMSE with cyclostationary interference: a cyclic Wiener filter that knows the prefix and where it lies.

    As lmmse, but every source whose start, phase or timing is known (side information, which Problem estimates from the
    mixture for CP-OFDM) has the covariance of that start; the others stay stationary. It is widely linear, that is
    linear in the real and imaginary parts, where a source is not circular (BPSK). For wifi: the known waveform is
    subtracted, and the carriers in doubt are Gaussian. Costs N D^2 operations a window of N samples in which nothing
    beyond D of them is correlated.

    Sources: Gardner, "Cyclic Wiener filtering: theory and method", IEEE Trans. Commun. 41 (1993); Picinbono and
    Chevalier, "Widely linear estimation with complex data", IEEE Trans. Signal Process. 43 (1995). Arguments and errors
    as lmmse.
    """
    return _lmmse(problem, True, regularisation)


def _lmmse(problem: Problem, cyclic: bool, regularisation: float) -> Separation:
    if not 0 <= regularisation < np.inf:
        raise MethodError(f"the regularisation must be finite and not below zero, not {regularisation:g}")
    if regularisation > MOST_REGULARISATION:
        raise MethodError(f"the regularisation must be at most {MOST_REGULARISATION:g}, not {regularisation:g}")
    for k in range(len(problem.priors)):  # a prior without moments is refused before anything is done
        LinearModel(problem.part(0, 1), k, cyclic or k == 0)
    solved: dict = {}  # the last factorisation alone: one may take 200 MB

    def method(part: Problem, go_on: GoOn) -> tuple[np.ndarray, int]:
        models = [LinearModel(part, k, cyclic or k == 0) for k in range(len(part.priors))]
        keys = [(tuple(m.key(w) for m in models), part.gains[w].tobytes(), float(part.noise_variance[w]))
                for w in range(len(part.mixture))]
        sources = np.zeros((len(models), *part.mixture.shape), dtype=np.complex64)
        order = list(dict.fromkeys(keys))
        for number, key in enumerate(order):
            if not go_on(number / len(order)):
                break
            same = [w for w, other in enumerate(keys) if other == key]
            if key not in solved:
                solved.clear()
                solved[key] = Wiener([m.moments(same[0]) for m in models], part.gains[same[0]].astype(float),
                                     float(part.noise_variance[same[0]]), regularisation)
            sources[:, same] = solved[key](part.mixture[same])
        return sources, 0

    return in_batches(problem, method)


class Wiener:
    """Linear estimates of all sources from mixtures of these moments, by a Cholesky factorisation in their band.

    moments: of the sources. gains: [K]. noise: variance of the complex noise. regularisation: the noise's least
    variance, relative to the mixture's power. Raises MethodError for a singular covariance.
    """

    def __init__(self, moments: list[Moments], gains: np.ndarray, noise: float, regularisation: float):
        samples = moments[0].covariance.shape[1]
        self.gains, self.real = gains, any(m.pseudo is not None for m in moments)
        self.means = np.zeros((len(moments), samples), dtype=complex)
        for k, m in enumerate(moments):
            if m.mean is not None:
                self.means[k] = m.mean
        self.bands = [_real_band(m) if self.real else m.covariance for m in moments]
        total = np.zeros((max(len(b) for b in self.bands), self.bands[0].shape[1]), dtype=self.bands[0].dtype)
        for gain, band in zip(gains, self.bands, strict=True):
            total[:len(band)] += gain**2 * band
        power = np.mean(total[0]).real * (2 if self.real else 1)
        total[0] += max(noise, regularisation * power) * (0.5 if self.real else 1)
        try:
            self.factor = scipy.linalg.cholesky_banded(total, overwrite_ab=True, lower=True)
        except np.linalg.LinAlgError:
            raise MethodError("the mixture's covariance is singular; give noise or a regularisation") from None

    def __call__(self, mixture: np.ndarray) -> np.ndarray:
        """Sources complex64 [K, W, N] of mixtures complex [W, N]."""
        rest = (mixture - self.gains @ self.means).T  # [N, W]
        if self.real:
            rest = np.stack([rest.real, rest.imag], 1).reshape(-1, rest.shape[1])
        white = scipy.linalg.cho_solve_banded((self.factor, True), rest)
        found = []
        for gain, band, mean in zip(self.gains, self.bands, self.means, strict=True):
            wave = gain * _product(band, white)
            if self.real:
                wave = wave[::2] + 1j * wave[1::2]
            found.append(wave.T + mean)
        return np.array(found, dtype=np.complex64)


def _real_band(m: Moments) -> np.ndarray:
    """Lower band [2 D + 2, 2 N] of the covariance of real and imaginary parts, interleaved."""
    c = m.covariance
    p = np.zeros_like(c)
    if m.pseudo is not None:
        p[:len(m.pseudo)] = m.pseudo
    depth, samples = c.shape
    band = np.zeros((2 * depth, 2 * samples))
    band[0::2, 0::2] = (c + p).real / 2  # real, real
    band[0::2, 1::2] = (c - p).real / 2  # imaginary, imaginary
    band[1::2, 0::2] = (c + p).imag / 2  # imaginary of the later sample, real of the earlier
    band[1:-1:2, 1::2] = (p - c)[1:].imag / 2  # real of the later, imaginary of the earlier
    return band


def _product(band: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Product of a Hermitian matrix, given as its lower band [D + 1, n], with x [n, W]."""
    result = band[0][:, None] * x
    for d in range(1, len(band)):
        column = band[d, :-d, None]
        result[d:] += column * x[:-d]
        result[:-d] += column.conj() * x[d:]
    return result
