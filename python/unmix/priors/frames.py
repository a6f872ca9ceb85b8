# SPDX-License-Identifier: GPL-3.0-or-later
"""Frame-synchronised prior: a train of frames, each a linear mixture of symbols of a known alphabet. Fitted to data."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from . import constellation as cons

#: Largest number of values in the table of cut frames: 16 MB.
TABLE = 4_000_000


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Complex x [B, 2, N] times cos + i sin, [B, N] each."""
    return torch.stack([x[:, 0] * cos - x[:, 1] * sin, x[:, 0] * sin + x[:, 1] * cos], 1)


def cut(x: Tensor, offset: Tensor, length: int) -> Tensor:
    """Cut x [B, 2, N] into frames, zeros outside the window: [B, S, 2 length]. offset [B]: x[..., 0]'s in its frame."""
    frames = (x.size(2) + 2 * length - 2) // length  # enough for every offset
    total = frames * length
    padded = nn.functional.pad(x, (length, total - x.size(2)))
    place = (length - offset)[:, None] + torch.arange(total, device=x.device)
    rows = padded.gather(2, place[:, None].expand(-1, 2, -1))
    return rows.view(x.size(0), 2, frames, length).transpose(1, 2).reshape(x.size(0), frames, -1)


def join(frames: Tensor, offset: Tensor, samples: int) -> Tensor:
    """The inverse of cut: [B, S, 2 length] to [B, 2, samples]."""
    rows = frames.view(frames.size(0), frames.size(1), 2, -1).transpose(1, 2).flatten(2)
    place = offset[:, None] + torch.arange(samples, device=frames.device)
    return rows.gather(2, place[:, None].expand(-1, 2, -1))


def table_stride(length: int, count: int, real: bool) -> int:
    """Every how many samples a FramePrior tabulates cut frames of `length` samples and `count` points."""
    return -(-length * count**2 * (2 if real else 4) // TABLE)


class FramePrior(nn.Module):
    """E[b | x] for x = sqrt(abar) b + sqrt(1 - abar) z, b a train of frames of P samples, z ~ N(0, 1) per channel.

    Sample n of the window is exp(i (phase + 2 pi frequency n)) times a frame's A c + e: A complex [P, K], c independent
    equiprobable points of an alphabet, e a Gaussian model error. Whole frames are estimated by the unbiased linear
    estimator of least error for c (LMMSE), symbol-wise posterior means, and A; frames that the window cuts, see
    decide_cut. training/frames.py finds A in a recording.

    Side information [B, 2]: `start`, the sample (0 .. P - 1) at which the first frame boundary lies in the window,
    and `phase` (radians) of the whole signal. With side of width 0 both are estimated in every call, see synchronise.
    Windows must have at least 2 P - 1 samples.

    mixing: A, complex [P, K], 1 <= K < P, for points of unit average power. alphabet: a name from constellation.NAMES.
    error: [P] >= 0, variance of e per real channel, default 0. frequency: carrier offset, cycles/sample.
    Raises ValueError for other shapes and values.

    All parameters can be trained by gradient; the estimate of start and phase follows `columns`.
    """

    def __init__(self, mixing: np.ndarray, alphabet: str, error: np.ndarray | None = None,
                 frequency: float = 0.0, sweeps: int = 2, candidates: int = 8):
        super().__init__()
        mixing = np.asarray(mixing, dtype=np.complex128)
        length, count = mixing.shape if mixing.ndim == 2 else (0, 0)
        error = np.zeros(length) if error is None else np.asarray(error, dtype=np.float64)
        if not 1 <= count < length or not np.isfinite(mixing).all():
            raise ValueError(f"a frame prior needs finite mixing [P, K] with 1 <= K < P, not {list(mixing.shape)}")
        if error.shape != (length,) or not np.isfinite(error).all() or error.min() < 0:
            raise ValueError(f"the model error of a frame prior must be {length} finite variances, not negative")
        table = cons.points(alphabet)
        self.length, self.count, self.alphabet = length, count, alphabet
        self.symmetry: int = cons.SYMMETRY[alphabet]
        self.real: bool = alphabet == "bpsk"
        self.sweeps, self.frequency = sweeps, float(frequency)
        self.candidates: int = min(candidates, length)

        # Every real dimension of a point has variance 1: sqrt(2) times points of unit power, where they are complex.
        axes = 1.0 if self.real else 2.0
        scaled = mixing / math.sqrt(axes)
        rows = [np.concatenate([scaled.real, scaled.imag])]  # of the real axis of each point
        if not self.real:
            rows.append(np.concatenate([-scaled.imag, scaled.real]))
        synthesis = np.stack(rows, -1).reshape(2 * length, -1).T  # [Q, 2 P], a point's axes side by side
        self.columns = nn.Parameter(torch.from_numpy(rows[0].T.copy()).float())  # [K, 2 P]
        self.register_buffer("error", torch.from_numpy(error).float())
        table = np.stack([table.real, table.imag], -1) * math.sqrt(axes)
        self.register_buffer("table", torch.from_numpy(table).float())

        # Covariance of a frame's real and imaginary parts = basis diag(spread) basis^T: one basis for all levels.
        spread, basis = np.linalg.eigh(synthesis.T @ synthesis + np.diag(np.concatenate([error, error])))
        share = synthesis @ basis
        used = (share**2).sum(0) > 1e-9 * (share**2).sum()
        self.basis = nn.Parameter(torch.from_numpy(basis[:, used]).float().contiguous())  # [2 P, R]
        self.spread = nn.Parameter(torch.from_numpy(spread[used]).float())  # [R]
        self.share = nn.Parameter(torch.from_numpy(share[:, used]).float().contiguous())  # [Q, R]

        self.tabulate()

    def tabulate(self) -> None:
        """Singular vectors of A's rows in frames that a window cuts, from `columns`: for every number of samples seen,
        or, where that would take more than TABLE values, for every `stride`-th, and the samples between are not used.
        """
        rows = self.columns.detach().double()
        rows = rows if self.real else torch.complex(rows[:, :self.length], rows[:, self.length:])
        self.stride = table_stride(self.length, self.count, self.real)
        #: Model error in cut frames: even, and samples far above it are left out.
        self.floor = float(self.error.median())
        good = self.error <= 4 * self.floor + 1e-9
        seen = torch.arange(0, self.length + 1, self.stride)[:, None]
        sample = torch.arange(self.length)
        visible = torch.stack([sample >= self.length - seen, sample < seen]) & good  # [2, cuts, P]
        self.register_buffer("visible", torch.cat([visible, visible], 2).float())
        mask = self.visible.double() if self.real else visible.double()
        cut = rows * mask[:, :, None]  # [2, cuts, K, P]
        gram = torch.matmul(cut.conj(), cut.transpose(2, 3))
        gains, vectors = map(torch.from_numpy, np.linalg.eigh(gram.cpu().numpy()))  # torch's is many times slower
        self.register_buffer("gains", gains.clamp(min=0).float().to(rows.device))
        vectors = (vectors if self.real else torch.view_as_real(vectors)).to(rows.device)
        self.register_buffer("vectors", vectors.float().contiguous())

    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        """x: [B, 2, N] float32. alpha_bar: [B] in (0, 1). side: [B, 2] or [B, 0]. Returns E[b | x], [B, 2, N]."""
        if x.size(2) < 2 * self.length - 1:
            raise ValueError(f"this prior needs windows of at least {2 * self.length - 1} samples, not {x.size(2)}")
        observed = x / alpha_bar.sqrt()[:, None, None]  # b and noise of variance v per channel
        v = (1 - alpha_bar) / alpha_bar
        if side.size(1) == 0:
            side = self.synchronise(observed.detach(), torch.zeros(0, 2, device=x.device))
        offset = torch.remainder(self.length - side[:, 0].round().long(), self.length)
        turn = side[:, 1:] + 2 * math.pi * self.frequency * torch.arange(x.size(2), device=x.device)
        cos, sin = turn.cos(), turn.sin()
        frames = cut(turned(observed, cos, -sin), offset, self.length)  # [B, S, 2 P]
        point = self.decide_whole(frames, v)

        # The last frame in the window is number S - 1 or, for small offsets, the one before.
        last = torch.div(offset + (x.size(2) - 1), self.length, rounding_mode="floor")
        edge = torch.stack([torch.zeros_like(last), last], 1)
        row = torch.arange(x.size(0), device=x.device)[:, None]
        number = torch.stack([self.length - offset, offset + x.size(2) - last * self.length], 1)
        point = torch.index_put(point, (row, edge), self.decide_cut(frames[row, edge], number, v))

        wave = torch.matmul(point, self.synthesis())
        trust = self.error / (self.error + v[:, None])  # what the model leaves over may be model error
        wave = wave + torch.cat([trust, trust], 1)[:, None] * (frames - wave)
        return turned(join(wave, offset, x.size(2)), cos, sin)

    def synthesis(self) -> Tensor:
        """Points' axes to samples: [Q, 2 P], Q = K real or 2 K interleaved axes."""
        if self.real:
            return self.columns
        quarter = torch.cat([-self.columns[:, self.length:], self.columns[:, :self.length]], 1)
        return torch.stack([self.columns, quarter], 1).view(-1, 2 * self.length)

    def decide_whole(self, frames: Tensor, v: Tensor) -> Tensor:
        """Posterior means [B, S, Q] of the axes of whole frames [B, S, 2 P] in noise of variance v [B] per channel."""
        weight = 1 / (self.spread + v[:, None])  # [B, R]
        linear = torch.matmul(torch.matmul(frames, self.basis) * weight[:, None], self.share.t())
        # linear = gain c + noise of variance gain (1 - gain): the linear estimate of a variable of variance 1
        left = (1 - torch.matmul(weight, self.share.square().t())).clamp(1e-7, 1.0)[:, None]
        return self.decide(linear / left, (1 - left) / left)[0]

    def decide(self, u: Tensor, energy: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and variance of axes, where log p(u | c) = sum over axes of u c - energy c^2 / 2 + const.

        u: [..., Q]. energy: broadcastable to u. Returns two of u's shape.
        """
        if self.alphabet == "bpsk" or self.alphabet == "qpsk":
            mean = torch.tanh(u)
            return mean, 1 - mean.square()
        if self.alphabet == "16qam":  # the axes are independent 4-level signals
            levels = self.table[:4, 1]
            weight = torch.softmax(u[..., None] * levels - 0.5 * energy[..., None] * levels.square(), -1)
            mean = (weight * levels).sum(-1)
            return mean, (weight * levels.square()).sum(-1) - mean.square()
        pair = u.view(u.size(0), u.size(1), -1, 2)
        weight = torch.softmax(torch.matmul(pair, self.table.t()), -1)  # equal energies drop out
        mean = torch.matmul(weight, self.table)
        left = torch.matmul(weight, self.table.square()) - mean.square()
        return mean.flatten(2), left.flatten(2)

    def decide_cut(self, shown: Tensor, number: Tensor, v: Tensor) -> Tensor:
        """Posterior means [B, 2, Q] of the axes of the window's first and last frame, of which it has some samples.

        shown: [B, 2, 2 P], zero where not seen. number: int64 [B, 2], samples seen, of the first frame's end and of the
        last frame's beginning.

        Expectation propagation with one variance per frame (vector AMP: Rangan, Schniter and Fletcher, IEEE Trans.
        Inf. Theory 65, 2019): the linear step, in the singular vectors of the rows of A that are seen, and the decision
        hand each other only what is new. Of the linear and the decided estimate, the one that expects the smaller
        error in the samples seen.
        """
        index = torch.div(number, self.stride, rounding_mode="floor")
        index = index + torch.tensor([0, self.gains.size(1)], device=v.device)
        gain = self.gains.flatten(0, 1)[index]  # [B, 2, K], squared singular values
        rows = torch.matmul(shown * self.visible.flatten(0, 1)[index], self.synthesis().t())
        vectors = self.vectors.flatten(0, 1)[index]
        noise = (v + self.floor)[:, None, None]
        observed = self.rotated(vectors, rows, True) / noise
        gain = gain if self.real else gain.repeat_interleave(2, dim=2)
        total = gain.sum(2, keepdim=True).clamp(min=1e-6)
        mean, spread = torch.zeros_like(observed), torch.ones_like(total)
        linear, decided, left = mean, mean, spread
        for _ in range(self.sweeps):
            posterior = 1 / (gain / noise + 1 / spread)
            linear = posterior * (observed + self.rotated(vectors, mean, True) / spread)
            average = posterior.mean(2, keepdim=True)
            energy = (1 / average - 1 / spread).clamp(min=1e-6)
            u = self.rotated(vectors, linear, False) / average - mean / spread
            decided, left = self.decide(u, energy)
            doubt = (gain * posterior).sum(2, keepdim=True)
            left = left.mean(2, keepdim=True).clamp(min=1e-6)
            spread = 1 / (1 / left - energy).clamp(min=1.0)
            mean = spread * (decided / left - u)
            linear = torch.where(doubt < total * left, self.rotated(vectors, linear, False), decided)
        return linear

    def rotated(self, vectors: Tensor, axes: Tensor, adjoint: bool) -> Tensor:
        """vectors [B, 2, K, K] (or [B, 2, K, K, 2], complex), or their adjoint, times axes [B, 2, Q]."""
        if self.real:
            matrix = vectors.transpose(2, 3) if adjoint else vectors
            return torch.matmul(matrix, axes[..., None])[..., 0]
        matrix = torch.view_as_complex(vectors)
        matrix = matrix.mH if adjoint else matrix
        points = torch.view_as_complex(axes.view(axes.size(0), axes.size(1), -1, 2))
        return torch.view_as_real(torch.matmul(matrix, points[..., None])[..., 0]).flatten(2)

    @torch.jit.export
    def synchronise(self, y: Tensor, occupied: Tensor) -> Tensor:
        """Start (samples) and phase (radians) of the frames in mixtures y [B, 2, N], N >= 2 P - 1: [B, 2].

        occupied: [J, 2], lowest and highest frequency (cycles/sample) of each other signal. They enter as band-limited
        noise of the frames' own power: the start is where the frames have least energy in the dimensions that neither
        these bands nor the frames use (folded over the window), times the M-th power statistic of the symbols, which
        also gives the phase, up to the alphabet's symmetry. Neither factor is enough: the first is blunt, the second
        confuses starts.
        """
        samples, length = y.size(2), self.length
        turn = -2 * math.pi * self.frequency * torch.arange(samples, device=y.device)
        wave = torch.complex(y[:, 0], y[:, 1]) * torch.complex(turn.cos(), turn.sin())
        wave = wave / wave.abs().square().mean(1, keepdim=True).sqrt().clamp(min=1e-20)
        mixing = torch.complex(self.columns[:, :length], self.columns[:, length:]).t().detach()
        if not self.real:
            mixing = mixing * math.sqrt(2.0)
        eye = torch.eye(length, device=y.device)
        own = torch.matmul(mixing, mixing.mH) + torch.diag(2 * self.error).to(mixing.dtype)
        lag = torch.arange(length, device=y.device)
        lag = (lag[:, None] - lag).float()
        other = torch.zeros_like(own)
        for j in range(occupied.size(0)):
            width = occupied[j, 1] - occupied[j, 0]
            centre = (math.pi * (occupied[j, 1] + occupied[j, 0]) - 2 * math.pi * self.frequency) * lag
            other = other + torch.complex(centre.cos(), centre.sin()) * torch.sinc(width * lag)
        spread, basis = torch.linalg.eigh(own + other)
        free = spread < 0.05
        if not bool(free.any()):  # the other signals cover everything: use all of it
            other = torch.zeros_like(own)
            spread, basis = torch.linalg.eigh(own)
            free = spread < 0.05
            if not bool(free.any()):
                free = spread <= spread[0]
        probe = basis[:, free] * torch.rsqrt(spread[free].clamp(min=0) + 0.01)

        size = 1
        while size < samples:
            size *= 2
        spectrum = torch.fft.fft(wave, size)
        places = samples - length + 1
        energy = torch.zeros(wave.size(0), places, device=y.device)
        for i in range(probe.size(1)):  # energy in one dimension of the frame at every sample
            response = torch.fft.fft(probe[:, i], size).conj()
            energy = energy + torch.fft.ifft(spectrum * response)[:, :places].abs().square()
        whole = places // length
        energy = energy[:, :whole * length].view(-1, whole, length).mean(1)
        contrast = (1 - energy / energy.mean(1, keepdim=True).clamp(min=1e-20)).clamp(min=1e-6)
        starts = contrast.topk(self.candidates, dim=1).indices

        analysis = torch.linalg.solve(own + other + 0.01 * eye, mixing).conj()  # [P, K], linear estimate of c
        best = torch.full_like(contrast[:, 0], -1.0)
        result = torch.zeros(wave.size(0), 2, device=y.device)
        sample = torch.arange(whole * length, device=y.device)
        for i in range(self.candidates):
            frames = wave.gather(1, starts[:, i:i + 1] + sample).view(-1, whole, length)
            power = torch.matmul(frames, analysis)
            power = power * power
            if self.symmetry >= 4:
                power = power * power
            if self.symmetry == 8:
                power = power * power
            total = power.sum((1, 2))
            if self.symmetry == 4:  # QPSK and 16QAM have their mean fourth power on the negative real axis
                total = -total
            score = total.abs() / power.abs().sum((1, 2)).clamp(min=1e-30)
            score = score * contrast.gather(1, starts[:, i:i + 1])[:, 0]
            phase = torch.atan2(total.imag, total.real) / self.symmetry
            found = torch.stack([starts[:, i].float(), phase], 1)
            result = torch.where((score > best)[:, None], found, result)
            best = torch.maximum(best, score)
        return result


class FrameNet(nn.Module):
    """A network over aligned frames that is trained by gradient: linear, tanh(gain c / v), linear; no alphabet is told.

    Start and phase come from a FramePrior, which is not trained: with it in place one saturating layer learns what deep
    networks do not find in hours. The gain starts saturated: started small, the network stays linear.

    prior: a FramePrior for start and phase. width: hidden units, at least the real dimensions of a frame's symbols
    (K for BPSK, 2 K else). forward, synchronise and side information as FramePrior.
    """

    def __init__(self, prior: FramePrior, width: int):
        super().__init__()
        self.prior = prior.requires_grad_(False)
        self.length, self.frequency = prior.length, prior.frequency
        self.analysis = nn.Parameter(nn.init.orthogonal_(torch.empty(width, 2 * prior.length)))
        self.synthesis = nn.Parameter(self.analysis.detach().clone())
        self.gain = nn.Parameter(torch.zeros(width))  # logarithm

    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        """x: [B, 2, N] float32. alpha_bar: [B] in (0, 1). side: [B, 2] or [B, 0]. Returns E[b | x], [B, 2, N]."""
        observed = x / alpha_bar.sqrt()[:, None, None]
        v = (1 - alpha_bar) / alpha_bar
        if side.size(1) == 0:
            side = self.synchronise(observed.detach(), torch.zeros(0, 2, device=x.device))
        offset = torch.remainder(self.length - side[:, 0].round().long(), self.length)
        turn = side[:, 1:] + 2 * math.pi * self.frequency * torch.arange(x.size(2), device=x.device)
        cos, sin = turn.cos(), turn.sin()
        frames = cut(turned(observed, cos, -sin), offset, self.length)
        hidden = torch.tanh(torch.matmul(frames, self.analysis.t()) * self.gain.exp() / v[:, None, None])
        return turned(join(torch.matmul(hidden, self.synthesis), offset, x.size(2)), cos, sin)

    @torch.jit.export
    def synchronise(self, y: Tensor, occupied: Tensor) -> Tensor:
        """See FramePrior.synchronise."""
        return self.prior.synchronise(y, occupied)
