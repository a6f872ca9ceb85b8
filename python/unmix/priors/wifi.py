# SPDX-License-Identifier: GPL-3.0-or-later
"""Prior of 802.11a/g/n packets in 20 MHz: a known waveform, and the carriers in doubt symbol by symbol."""

import math

import numpy as np
import torch
from torch import Tensor, nn

#: Stretches of data symbols that a window may hold, and what the side information says about each, see Wifi.
PIECES = 4
TAPS, BEFORE, DOUBTFUL = 24, 8, 56
FIELDS = ("begin", "count", "alphabet", "error", "delay", "drift", "mapping_re", "mapping_im", "doubtful")


def columns(window: int) -> list[str]:
    """Names of the side information of windows of `window` samples."""
    names = [f"{kind}{i}" for kind in ("known_re", "known_im", "spread", "phase") for i in range(window)]
    for j in range(PIECES):
        names += [f"{field}_{j}" for field in FIELDS]
        names += [f"carrier{i}_{j}" for i in range(DOUBTFUL)] + [f"fold{i}_{j}" for i in range(16)]
        names += [f"tap{i}_{part}_{j}" for part in ("re", "im") for i in range(TAPS)]
    return names


def _levels() -> np.ndarray:
    """Levels [4, 2, 8] of each alphabet's axes, points of unit power on average."""
    table = np.zeros((4, 2, 8))
    table[0, 0] = np.tile([-1.0, 1.0], 4)
    for alphabet, size in ((1, 2), (2, 4), (3, 8)):
        table[alphabet] = np.tile(np.arange(1 - size, size, 2) / math.sqrt(2 * (size**2 - 1) / 3), 8 // size)
    return table


class Wifi(nn.Module):
    """E[b | x] for x = sqrt(abar) b + sqrt(1 - abar) z, b packets of 802.11a/g/n, z ~ N(0, 1) per channel.

    b is a known waveform (training and signal fields, pilots, whatever a tracker decided for certain; 0 between
    packets), plus the carriers in doubt, plus a Gaussian error. Each of these carriers has equiprobable points. Their
    symbols are cut out of x less what is known, folded (prefix and tail averaged), transformed, and decided softly
    carrier by carrier (Proposition 3 of arXiv 2306.14411); the means are transmitted again as IEEE 802.11-2020,
    17.3.2.5 says, with the overlap of one sample between symbols, and convolved with the channel's taps. Symbols that
    the window cuts keep what is known alone.

    Side information [B, P], see columns(): the known waveform (real, imaginary; unit: that of b), the variance per
    real channel of what it leaves unexplained, and the phase (radians) at each sample; then for each of 4 pieces its
    first sample `begin` (a symbol's first, also before the window), `count` of symbols (0: no piece), `alphabet`
    (0 .. 3: BPSK, QPSK, 16QAM, 64QAM), `error` (variance per real channel), `delay` (samples around the ring) of the
    first symbol and `drift` per symbol, the factor `mapping` of the points, the number of `doubtful` carriers, those
    (FFT order, 0 .. 63), the prefix's weight for each of its 16 samples against the tail's, and the channel's taps at
    delays -8 .. 15.
    With side of width 0, b is white. window: samples, >= 80.
    """

    def __init__(self, window: int = 2560):
        super().__init__()
        self.window, self.pieces, self.taps, self.before = window, PIECES, TAPS, BEFORE
        self.doubtful, self.fields, self.width = DOUBTFUL, len(FIELDS), len(FIELDS) + DOUBTFUL + 16 + 2 * TAPS
        self.register_buffer("levels", torch.from_numpy(_levels()).float())
        self.register_buffer("carrier", torch.from_numpy(np.fft.fftfreq(64, 1 / 64)).float())

    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        """x: [B, 2, N] float32, N <= window. alpha_bar: [B] in (0, 1). side: [B, P] or [B, 0]. Returns [B, 2, N]."""
        observed = x / alpha_bar.sqrt()[:, None, None]
        v = ((1 - alpha_bar) / alpha_bar)[:, None]
        if side.size(1) == 0:
            return observed * (0.5 / (0.5 + v))[:, None]
        samples, window = x.size(2), self.window
        known = torch.complex(side[:, :samples], side[:, window:window + samples])
        spread = side[:, 2 * window:2 * window + samples]
        phase = side[:, 3 * window:3 * window + samples]
        wave = torch.complex(observed[:, 0], observed[:, 1])
        rest = wave - known
        estimate = known
        for j in range(self.pieces):
            first = 4 * window + j * self.width
            piece = side[:, first:first + self.width]
            row = (piece[:, 1] > 0).nonzero()[:, 0]
            if row.size(0) > 0:
                turn = torch.polar(torch.ones_like(phase[row]), phase[row])
                part = self.data(rest[row] * turn.conj(), v[row], piece[row]) * turn
                estimate = torch.index_add(estimate, 0, row, part)
        estimate = estimate + (wave - estimate) * (spread / (spread + v))
        return torch.stack([estimate.real, estimate.imag], 1)

    def data(self, rest: Tensor, v: Tensor, piece: Tensor) -> Tensor:
        """What the carriers in doubt add, from the mixture without turn and known part; both complex [B, N]."""
        batch, samples = rest.size(0), rest.size(1)
        count = samples // 80 + 2
        begin = piece[:, 0].round().long()
        lead = torch.remainder(-begin, 80)  # samples of the first symbol that lie before the window
        number = torch.div(-begin - lead, 80, rounding_mode="floor")[:, None] + torch.arange(count, device=rest.device)
        place = torch.arange(count * 80, device=rest.device) - lead[:, None]
        inside = (place >= 0) & (place < samples)
        frames = (rest.gather(1, place.clamp(0, samples - 1)) * inside).view(batch, count, 80)
        whole = inside.view(batch, count, 80)[:, :, 4:].all(2)
        there = whole & (number >= 0) & (number < piece[:, 1:2])  # [B, S]

        f = self.fields
        fold = piece[:, f + self.doubtful:f + self.doubtful + 16]
        body = torch.cat([frames[:, :, 16:64],
                          frames[:, :, 64:] * (1 - fold)[:, None] + frames[:, :, :16] * fold[:, None]], 2)
        uneven = (48 + (fold.square() + (1 - fold).square()).sum(1)) / 64
        noise = (v + piece[:, 3:4]) * (uneven[:, None] * (52.0 / 64))  # of a carrier, per channel; [B, 1]

        most = max(1, int(piece[:, 8].max()))
        carrier = piece[:, f:f + most].round().long()  # [B, U]
        used = torch.arange(most, device=rest.device) < piece[:, 8:9]
        first = f + self.doubtful + 16
        taps = torch.complex(piece[:, first:first + self.taps], piece[:, first + self.taps:first + 2 * self.taps])
        response = torch.fft.fft(taps, 64) * torch.polar(
            torch.ones_like(self.carrier), self.carrier * (2 * math.pi * self.before / 64))
        mapping = torch.complex(piece[:, 6:7], piece[:, 7:8])
        delay = piece[:, 4:5] + piece[:, 5:6] * number  # [B, S]
        angle = -2 * math.pi / 64 * delay[:, :, None] * self.carrier[carrier][:, None]
        factor = torch.polar(torch.ones_like(angle), angle) * mapping[:, None]  # [B, S, U], from points to what is sent
        gain = factor * response.gather(1, carrier)[:, None]
        index = carrier[:, None].expand(-1, count, -1)
        seen = torch.fft.fft(body).gather(2, index) * (math.sqrt(52.0) / 64)
        levels = self.levels[piece[:, 2].round().long().clamp(0, 3)][:, None, None]  # [B, 1, 1, 2, 8]
        u = torch.view_as_real(seen * gain.conj() / noise[:, None])
        energy = (gain.abs().square() / noise[:, None])[..., None, None]
        point = (torch.softmax(u[..., None] * levels - 0.5 * energy * levels.square(), -1) * levels).sum(-1)
        point = torch.view_as_complex(point) * factor * (there[:, :, None] & used[:, None])

        spectrum = torch.zeros(batch, count, 64, dtype=point.dtype, device=rest.device).scatter_add(2, index, point)
        body = torch.fft.ifft(spectrum) * (64 / math.sqrt(52.0))
        sent = torch.cat([body[:, :, 48:], body], 2)
        # A symbol's first sample is shared with the one before.
        before = nn.functional.pad(torch.view_as_real(body[:, :-1, 0]), (0, 0, 1, 0))
        first_sample = 0.5 * (sent[:, :, 0] + torch.view_as_complex(before))
        sent = torch.cat([first_sample[:, :, None], sent[:, :, 1:]], 2).flatten(1)
        size = 1
        while size < sent.size(1) + self.taps:
            size *= 2
        received = torch.fft.ifft(torch.fft.fft(sent, size) * torch.fft.fft(taps, size))
        place = torch.arange(samples, device=rest.device) + lead[:, None] + self.before
        return received.gather(1, place)
