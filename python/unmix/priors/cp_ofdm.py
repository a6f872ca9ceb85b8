# SPDX-License-Identifier: GPL-3.0-or-later
"""Closed-form prior of a cyclic-prefix OFDM signal of known parameters, start and phase known or marginalised."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from . import constellation as cons
from .frames import FramePrior, table_stride
from .marginal import accumulate, power_phase


def active_carriers(fft: int, active: int) -> np.ndarray:
    """The `active` carriers nearest to DC without DC: int64 [active], negative ones first. 56 -> -28..-1, 1..28."""
    half = active // 2
    return np.concatenate([np.arange(-half, 0), np.arange(1, active - half + 1)])


def modulation_matrix(fft: int, cp: int, active: int) -> np.ndarray:
    """A symbol's samples from its carriers' points, complex128 [fft + cp, active], of unit power for such points."""
    sample = (np.arange(fft + cp) - cp) % fft
    return np.exp(2j * np.pi * np.outer(sample, active_carriers(fft, active)) / fft) / math.sqrt(active)


def autocorrelation(fft: int, cp: int, active: int) -> np.ndarray:
    """E[b(n + d) b*(n)] for d = 0 .. fft + cp - 1, averaged over the symbols' unknown start: complex128 [fft + cp].

    It has the prefix's echo at d = fft; nothing reaches from one symbol into another.
    """
    symbol = modulation_matrix(fft, cp, active)
    inside = symbol @ symbol.conj().T
    return np.array([np.trace(inside, -d) for d in range(fft + cp)]) / (fft + cp)


class CpOfdm(nn.Module):
    """E[b | x] for x = sqrt(abar) b + sqrt(1 - abar) z, b a CP-OFDM signal of unit power, z ~ N(0, 1) per channel.

    Each OFDM symbol carries independent equiprobable points on its active carriers. A symbol is folded (prefix and
    tail averaged), transformed, decided softly carrier by carrier (Proposition 3 of arXiv 2306.14411), and extended
    again. Folding leaves the noise of a full symbol uneven by a factor of two, which is treated as even. The first and
    the last symbol, which the window may cut, are estimated from the samples that are there, see cut_symbols, in
    `sweeps` iterations. Half a symbol determines BPSK: in windows of two symbols or more its cut symbols are decided by
    FramePrior.decide_cut, as far as the tables hold every cut (to 128 carriers or so; larger ones would be several
    times slower for few bits).

    Side information [B, 2]: `start`, the sample (0 .. fft + cp - 1) at which the first symbol boundary lies in the
    window, and `phase` (radians) of the whole signal. With side of width 0 both are marginalised: the `starts` most
    likely boundaries times `phases` points around each one's phase, weighted by their likelihoods.

    constellation: a name from constellation.NAMES. fft: carriers, >= 2. cp: prefix, 0 .. fft samples. active:
    carriers around DC, 1 .. fft - 1. Raises ValueError for values outside these ranges.
    """

    def __init__(self, constellation: str = "qpsk", fft: int = 64, cp: int = 16, active: int = 56,
                 sweeps: int = 2, starts: int = 4, phases: int = 9):
        super().__init__()
        if fft < 2 or not 0 <= cp <= fft or not 1 <= active < fft:
            raise ValueError(f"fft={fft}, cp={cp}, active={active} is impossible; allowed are fft >= 2, "
                             "cp from 0 to fft, active from 1 to fft - 1")
        table = cons.points(constellation)
        self.constellation = constellation
        self.symmetry: int = cons.SYMMETRY[constellation]
        self.fft, self.cp, self.active, self.length = fft, cp, active, fft + cp
        self.sweeps, self.starts, self.phases = sweeps, min(starts, fft + cp), phases
        self.register_buffer("table", torch.from_numpy(np.stack([table.real, table.imag], -1)))

        # b[j] = sum_k a_k exp(2 pi i j k / fft) / sqrt(active): unit power, whatever the number of carriers
        carriers = active_carriers(fft, active)
        body = np.exp(2j * np.pi * np.outer(np.arange(fft), carriers) / fft) / math.sqrt(active)
        position = (np.arange(self.length) - cp) % fft  # where sample i of a symbol lies in its body
        copies = np.bincount(position, minlength=fft)
        synthesis = body[position]  # [length, active]
        analysis = synthesis.conj() * (active / fft) / copies[position][:, None]  # averages the copies; its inverse
        parts = np.array([[analysis.real, analysis.imag], [-analysis.imag, analysis.real]])  # in, out, length, active
        parts = parts.transpose(0, 2, 3, 1).reshape(2 * self.length, 2 * active)
        self.register_buffer("analysis", torch.from_numpy(parts).float().contiguous())
        parts = np.array([[synthesis.real, synthesis.imag], [-synthesis.imag, synthesis.real]])
        parts = parts.transpose(1, 3, 0, 2).reshape(2, 2 * active, self.length)
        self.register_buffer("synthesis", torch.from_numpy(parts).float().contiguous())

        twin = np.arange(self.length)  # a sample's other copy; itself where there is none
        twin[:cp], twin[fft:] = np.arange(fft, fft + cp), np.arange(cp)
        self.register_buffer("twin", torch.from_numpy(twin))
        self.register_buffer("paired", torch.from_numpy(twin != np.arange(self.length)))
        self.register_buffer("share", torch.from_numpy(1 / copies[position] / fft).float())  # of a copy in the body
        #: Noise variance of a carrier of a full symbol, relative to a sample's.
        self.noise_gain: float = float(np.mean(1.0 / copies)) * active / fft

        #: Decides cut symbols of BPSK; None where cut_symbols does.
        self.cut_bpsk = None
        if constellation == "bpsk" and table_stride(self.length, active, real=True) == 1:
            self.cut_bpsk = FramePrior(synthesis, "bpsk", sweeps=sweeps).requires_grad_(False)

    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        """x: [B, 2, N] float32. alpha_bar: [B] in (0, 1). side: [B, 2] or [B, 0]. Returns E[b | x], [B, 2, N]."""
        if side.size(1) == 0:
            return self.marginal(x, alpha_bar)
        offset = self.offset(side[:, 0])
        turn = torch.complex(side[:, 1].cos(), side[:, 1].sin())
        return self.given(x, alpha_bar, offset, turn)

    def offset(self, start: Tensor) -> Tensor:
        """Place of the window's first sample in its symbol, int64 [B], from the first boundary's sample."""
        return torch.remainder(self.length - start.round().long(), self.length)

    def cut(self, x: Tensor, offset: Tensor) -> Tensor:
        """Cut x [B, 2, N] into whole symbols, zeros outside the window: [B, symbols, 2, length]."""
        count = (x.size(2) + 2 * self.length - 2) // self.length  # enough for every offset
        padded = nn.functional.pad(x, (self.length, (count + 1) * self.length - x.size(2)))
        # By gather: the gradient of an index into overlapping views is thirty times slower.
        place = (self.length - offset)[:, None] + torch.arange(count * self.length, device=x.device)
        frames = padded.gather(2, place[:, None].expand(-1, 2, -1))
        return frames.view(x.size(0), 2, count, self.length).transpose(1, 2)

    def observe(self, frames: Tensor, noise: Tensor, alpha_bar: Tensor, turn: Tensor) -> Tensor:
        """Scaled, derotated carriers u [B, S, active, 2], see constellation.posterior_mean.

        frames: [B, S, 2, length]. noise: [B, S], variance of a carrier per channel. turn: complex [B], exp(i phase).
        """
        carriers = torch.matmul(frames.reshape(-1, 2 * self.length), self.analysis)
        carriers = torch.view_as_complex(carriers.view(frames.size(0), frames.size(1), self.active, 2))
        scale = (alpha_bar.sqrt()[:, None] / noise) * turn.conj()[:, None]
        return torch.view_as_real(carriers * scale[:, :, None])

    def decide(self, frames: Tensor, noise: Tensor, alpha_bar: Tensor, turn: Tensor) -> Tensor:
        """Posterior means of the carriers' points, [B, S, active, 2]; arguments as observe."""
        energy = (alpha_bar[:, None] / noise)[:, :, None]
        return cons.posterior_mean(self.observe(frames, noise, alpha_bar, turn), energy, self.table,
                                   self.constellation)

    def extend(self, mean: Tensor, turn: Tensor) -> Tensor:
        """Carriers [B, S, active, 2] to symbols with prefix, [2, B, S, length]."""
        turned = torch.view_as_real(torch.view_as_complex(mean) * turn[:, None, None])
        rows = torch.matmul(turned.reshape(1, -1, 2 * self.active), self.synthesis)
        return rows.view(2, mean.size(0), mean.size(1), self.length)

    def seen(self, offset: Tensor, samples: int, symbol: Tensor) -> Tensor:
        """Which samples of symbols number `symbol`, [B or 1, S], are in the window: bool [B, S, length]."""
        sample = torch.arange(self.length, device=offset.device) + symbol[:, :, None] * self.length
        return (sample >= offset[:, None, None]) & (sample < (offset + samples)[:, None, None])

    def cut_symbols(self, shown: Tensor, seen: Tensor, alpha_bar: Tensor, turn: Tensor) -> Tensor:
        """Posterior means [2, B, E, length] of symbols of which only some samples are seen.

        shown: [B, E, 2, length], zero where not seen. seen: bool [B, E, length].

        Expectation propagation with one variance per symbol (orthogonal AMP: Ma and Ping, IEEE Access 5, 2017). A
        linear step estimates the carriers from the samples seen, where the unseen ones' share acts as noise; a soft
        decision per carrier follows; each hands the other only what is new (extrinsic). The result is the
        linear step's Wiener estimate of the seen samples, which holds however few they are, or the decided symbol.
        """
        visible = seen | seen.index_select(2, self.twin)  # itself or its other copy
        twice = seen & seen.index_select(2, self.twin) & self.paired
        other = shown.index_select(3, self.twin)
        sample = torch.where(twice[:, :, None], 0.5 * (shown + other), torch.where(seen[:, :, None], shown, other))
        sample = sample / alpha_bar.sqrt()[:, None, None, None]
        noise = ((1 - alpha_bar) / alpha_bar)[:, None, None] * (1 - 0.5 * twice.float())  # [B, E, length]
        part = (self.share * visible).sum(-1).clamp(min=0.5 / self.fft)  # of the body that is seen
        to_carrier = self.active / self.fft / part
        mean_noise = (self.share * visible * noise).sum(-1) / part

        axes = 1.0 if self.constellation == "bpsk" else 2.0  # real dimensions of a point
        ones = torch.ones_like(alpha_bar)
        mean = torch.zeros(shown.size(0), shown.size(1), self.active, 2, device=shown.device)
        spread = torch.full_like(part, 1.0 / axes)  # extrinsic variance of a point, per axis
        wave, decided, left = torch.zeros_like(sample), mean, spread
        for _ in range(self.sweeps):
            rest = (sample - wave) * visible[:, :, None]
            seen_noise = to_carrier * ((1 - part) * spread * (0.5 * axes) + mean_noise)  # per channel, of a carrier
            step = self.observe(rest, part, ones, turn)
            point = mean + step
            if self.constellation == "bpsk":
                point = point * torch.tensor([1.0, 0.0], device=point.device)
            precision = 1 / seen_noise
            decided = cons.posterior_mean(point * precision[:, :, None, None], precision[:, :, None], self.table,
                                          self.constellation)
            left = ((1 - decided.square().sum(-1).mean(-1)) / axes).clamp(min=1e-6)
            spread = 1 / (1 / left - precision).clamp(min=axes)
            new = decided / left[:, :, None, None] - point * precision[:, :, None, None]
            mean = spread[:, :, None, None] * new
            wave = self.extend(mean, turn).permute(1, 2, 0, 3)
        power = spread * (0.5 * axes)
        gain = power[:, :, None] / (power[:, :, None] + noise) * visible
        linear = (wave + gain[:, :, None] * (sample - wave)).permute(2, 0, 1, 3)
        better = power * mean_noise / (power + mean_noise) < left * (0.5 * axes)  # by the errors that they expect
        return torch.where(better[None, :, :, None], linear, self.extend(decided, turn))

    def cut_bpsk_symbols(self, shown: Tensor, number: Tensor, alpha_bar: Tensor, turn: Tensor) -> Tensor:
        """The same as cut_symbols for BPSK, of the first and the last symbol in a window of two symbols or more.

        number: int64 [B, 2], samples seen of the first one's end and of the last one's beginning.
        """
        upright = torch.complex(shown[:, :, 0], shown[:, :, 1]) * (turn.conj() / alpha_bar.sqrt())[:, None, None]
        point = torch.zeros(shown.size(0), 2, self.active, device=shown.device)
        if self.cut_bpsk is not None:  # which TorchScript must see
            flat = torch.cat([upright.real, upright.imag], 2)
            point = self.cut_bpsk.decide_cut(flat, number, (1 - alpha_bar) / alpha_bar)
        return self.extend(torch.stack([point, torch.zeros_like(point)], 3), turn)

    def given(self, x: Tensor, alpha_bar: Tensor, offset: Tensor, turn: Tensor) -> Tensor:
        """Posterior mean [B, 2, N] for known offset [B] and phase, as turn = exp(i phase), complex [B]."""
        frames = self.cut(x, offset)
        count = frames.size(1)
        noise = ((1 - alpha_bar) * self.noise_gain)[:, None].expand(-1, count)
        symbols = self.extend(self.decide(frames, noise, alpha_bar, turn), turn)  # [2, B, S, length]
        # The last symbol in the window is the last frame or, for small offsets, the one before.
        last = torch.div(offset + (x.size(2) - 1), self.length, rounding_mode="floor")
        edge = torch.stack([torch.zeros_like(last), last], 1)
        window = torch.arange(x.size(0), device=x.device)[:, None]
        shown = frames[window, edge]
        if self.cut_bpsk is not None and x.size(2) >= 2 * self.length:
            number = torch.stack([self.length - offset, offset + x.size(2) - last * self.length], 1)
            symbols[:, window, edge] = self.cut_bpsk_symbols(shown, number, alpha_bar, turn)
        else:
            symbols[:, window, edge] = self.cut_symbols(shown, self.seen(offset, x.size(2), edge), alpha_bar, turn)
        batch, row = x.size(0), count * self.length
        place = offset[:, None] + torch.arange(x.size(2), device=x.device)
        return symbols.reshape(2, batch, row).gather(2, place[None].expand(2, -1, -1)).transpose(0, 1)

    def log_likelihood(self, x: Tensor, alpha_bar: Tensor, offset: Tensor, turn: Tensor) -> Tensor:
        """log p(x | start, phase) up to a constant of x, [B].

        Prefix and tail differ by noise alone; the folded body follows the constellation in complete symbols, and a
        Gaussian of unit power in those that the window cuts.
        """
        noise = 1 - alpha_bar
        frames = self.cut(x, offset)
        count = frames.size(1)
        seen = self.seen(offset, x.size(2), torch.arange(count, device=x.device)[None])
        first, tail = seen[:, :, :self.cp], seen[:, :, self.fft:]
        pair = (first & tail).float()
        difference = (frames[..., :self.cp] - frames[..., self.fft:]).square().sum(2)
        total = -((difference / (4 * noise[:, None, None]) + torch.log(4 * noise[:, None, None])) * pair).sum((1, 2))

        copies = seen[:, :, self.cp:].float()
        body = frames[..., self.cp:].clone()
        if self.cp > 0:
            copies[:, :, self.fft - self.cp:] += first
            body[..., self.fft - self.cp:] += frames[..., :self.cp]
        power = (body / copies.clamp(min=1.0)[:, :, None]).square().sum(2)  # [B, S, fft]
        variance = noise[:, None, None] / copies.clamp(min=1.0)
        gaussian = variance + 0.5 * alpha_bar[:, None, None]
        per_sample = -(power / (2 * gaussian) + torch.log(gaussian)) * (copies > 0)
        even = noise * self.noise_gain * self.fft / self.active  # of a folded sample, taken as even
        carrier = (noise * self.noise_gain)[:, None].repeat(1, count)
        u = self.observe(frames, carrier, alpha_bar, turn)
        evidence = cons.log_evidence(u, (alpha_bar[:, None] / carrier)[:, :, None], self.table).sum(2)
        whole = evidence - power.sum(2) / (2 * even[:, None]) - self.fft * torch.log(even[:, None])
        return total + torch.where(seen.all(2), whole, per_sample.sum(2)).sum(1)

    def marginal(self, x: Tensor, alpha_bar: Tensor) -> Tensor:
        """Posterior mean with start and phase marginalised.

        The phase's grid has a spacing of one standard deviation (Cramer-Rao) around its likeliest value, or covers
        one period where the signal does not determine it. Costs fft + cp + starts * phases evaluations.
        """
        one = torch.complex(torch.ones_like(alpha_bar), torch.zeros_like(alpha_bar))
        scores, phases = [torch.zeros(0)], [torch.zeros(0)]
        for place in range(self.length):
            offset = torch.full_like(alpha_bar, float(place)).long()
            frames = self.cut(x, offset)
            if frames.size(1) > 2:
                frames = frames[:, 1:-1]
            noise = ((1 - alpha_bar) * self.noise_gain)[:, None].expand(-1, frames.size(1))
            phase = power_phase(self.observe(frames, noise, alpha_bar, one).flatten(1, 2), self.symmetry)
            turn = torch.complex(phase.cos(), phase.sin())
            scores.append(self.log_likelihood(x, alpha_bar, offset, turn))
            phases.append(phase)
        candidates = torch.stack(scores[1:], 1).topk(self.starts, dim=1).indices  # [B, starts]
        centre = torch.stack(phases[1:], 1).gather(1, candidates)
        step = ((1 - alpha_bar) / alpha_bar / x.size(2)).sqrt().clamp(
            max=2 * math.pi / self.symmetry / self.phases)
        mean, weight, top = torch.zeros_like(x), torch.zeros_like(step), torch.full_like(step, -float("inf"))
        for i in range(self.starts):
            offset = candidates[:, i]
            for j in range(self.phases):
                angle = centre[:, i] + (j - self.phases // 2) * step
                turn = torch.complex(angle.cos(), angle.sin())
                value = self.given(x, alpha_bar, offset, turn)
                mean, weight, top = accumulate(mean, weight, top, value,
                                               self.log_likelihood(x, alpha_bar, offset, turn))
        return mean
