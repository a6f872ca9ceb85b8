# SPDX-License-Identifier: GPL-3.0-or-later
"""Prior of recorded OFDM bursts (802.11a/n): learned gains; timing, offset and alphabet of each burst estimated."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from .frames import cut, join, turned

#: Bursts that a window may hold, and what the side information says about each.
BURSTS = 5
PREAMBLES = 4
PREAMBLE_FIELDS = ("preamble", "preamble_delay", "preamble_phase", "preamble_frequency", "preamble_level")
FIELDS = ("begin", "end", "delay", "phase", "frequency", "level", "alphabet", "outer")
#: Alphabets, in the order of the field `alphabet`: levels of the real and the imaginary axis, unit power.
ALPHABETS = ("bpsk", "qpsk", "16qam", "64qam")


def _levels() -> np.ndarray:
    """Equiprobable levels [5, 2, 8] of each alphabet's axes, variance 1 per axis on average; the last is silence."""
    pam = [np.arange(1 - size, size, 2) / math.sqrt((size**2 - 1) / 3) for size in (2, 4, 8)]
    table = np.zeros((5, 2, 8))
    table[0, 0] = np.tile([-math.sqrt(2), math.sqrt(2)], 4)
    for index, levels in enumerate(pam):
        table[index + 1] = np.tile(levels, 8 // len(levels))
    return table


class OfdmBursts(nn.Module):
    """E[b | x] for x = sqrt(abar) b + sqrt(1 - abar) z, b bursts of OFDM symbols, z ~ N(0, 1) per channel.

    A symbol of P = fft + cp samples is level * (A diag(exp(2 pi i k delay / fft)) c + e), turned by phase and carrier
    offset: A the cyclically extended exponentials of the carriers k times their gains, c points of the burst's alphabet
    (pilots: BPSK; outer carriers: silent where `outer` is 0), e a Gaussian error of a variance per sample. Symbols
    inside a burst get the linear estimate and symbol-wise posterior means, as FramePrior; everything else (preambles,
    idle time, symbols that the window cuts) gets the Wiener filter of the mean spectrum.

    Ahead of a packet stands a known waveform, the preamble: the same with its own level, delay, phase and offset.

    Side information [B, 5 * 8 + 4 * 5], for each burst (FIELDS): `begin` and `end` (samples, whole symbols; equal: no
    burst), `delay` (samples), `phase` (radians at sample 0), `frequency` (cycles/sample beside the module's), `level`
    (amplitude), `alphabet` (index into ALPHABETS), `outer` (0 or 1); then for each preamble (PREAMBLE_FIELDS): first
    sample, which may lie before the window, delay beside it, phase, frequency, level (0: none). With side of width 0
    all this is estimated in each call. Windows must have at least 2 P - 1 samples.

    gains: complex [K] of the carriers `carriers` (int [K], within -fft/2 .. fft/2). pilots, outer: their places among
    the carriers, bool [K]. error: [P] >= 0, variance of e per real channel. density: of the signal's power, FFT order,
    [n]. frequency: carrier offset, cycles/sample. preamble: complex [L], L <= 448, and preamble_error: [L], variance
    per real channel. Raises ValueError for other shapes.
    """

    def __init__(self, gains: np.ndarray, carriers: np.ndarray, pilots: np.ndarray, outer: np.ndarray,
                 error: np.ndarray, density: np.ndarray, preamble: np.ndarray, preamble_error: np.ndarray,
                 frequency: float = 0.0, fft: int = 64, cp: int = 16):
        super().__init__()
        gains, carriers = np.asarray(gains, dtype=np.complex128), np.asarray(carriers, dtype=np.int64)
        length, count = fft + cp, len(carriers)
        if gains.shape != (count,) or len(pilots) != count or len(outer) != count or np.shape(error) != (length,):
            raise ValueError(f"gains, pilots and outer must belong to {count} carriers, and error to {length} samples")
        self.length, self.fft, self.cp, self.count, self.frequency = length, fft, cp, count, float(frequency)
        # TorchScript sees no module constants.
        self.bursts, self.fields, self.preambles, self.preamble_fields = BURSTS, len(FIELDS), PREAMBLES, 5
        self.first_preamble = BURSTS * len(FIELDS)  # column of the side information
        if np.ndim(preamble) != 1 or len(preamble) > 448 or np.shape(preamble_error) != np.shape(preamble):
            raise ValueError("the preamble must be a waveform of at most 448 samples, with an error for each")
        mixing = np.exp(2j * np.pi * np.outer(np.arange(length) - cp, carriers) / fft) * gains
        columns = np.concatenate([mixing.real, mixing.imag]).T / math.sqrt(2)
        quarter = np.concatenate([-mixing.imag, mixing.real]).T / math.sqrt(2)
        synthesis = np.stack([columns, quarter], 1).reshape(2 * count, 2 * length)
        spread, basis = np.linalg.eigh(synthesis.T @ synthesis + np.diag(np.concatenate([error, error])))
        tables = {"mixing": np.stack([mixing.real, mixing.imag], -1), "synthesis": synthesis, "basis": basis,
                  "spread": spread, "share": synthesis @ basis, "error": np.asarray(error),
                  "density": np.asarray(density) / np.mean(density), "levels": _levels(),
                  "slope": 2 * np.pi * carriers / fft, "preamble_error": np.asarray(preamble_error),
                  "preamble": np.stack([np.real(preamble), np.imag(preamble)])}
        for name, value in tables.items():
            self.register_buffer(name, torch.from_numpy(value).float().contiguous())
        self.register_buffer("carriers", torch.from_numpy(carriers))
        self.register_buffer("pilots", torch.from_numpy(np.asarray(pilots, dtype=bool)))
        self.register_buffer("outer", torch.from_numpy(np.asarray(outer, dtype=bool)))

    def forward(self, x: Tensor, alpha_bar: Tensor, side: Tensor) -> Tensor:
        """x: [B, 2, N] float32. alpha_bar: [B] in (0, 1). side: [B, P] or [B, 0]. Returns E[b | x], [B, 2, N]."""
        observed = x / alpha_bar.sqrt()[:, None, None]
        v = (1 - alpha_bar) / alpha_bar
        if side.size(1) == 0:
            side = self.synchronise(observed.detach(), torch.zeros(0, 2, device=x.device))
        n = torch.arange(x.size(2), device=x.device)
        density = self.resampled(x.size(2))
        spectrum = torch.fft.fft(torch.complex(observed[:, 0], observed[:, 1]))
        linear = torch.fft.ifft(spectrum * (density / (density + 2 * v[:, None])))
        estimate = torch.stack([linear.real, linear.imag], 1)
        for j in range(self.bursts):
            burst = side[:, self.fields * j:self.fields * (j + 1)]
            row = (burst[:, 1] > burst[:, 0]).nonzero()[:, 0]  # windows that have one
            if row.size(0) > 0:
                burst = burst[row]
                inside = (n >= burst[:, :1]) & (n < burst[:, 1:2])
                wave = self.burst(observed[row], v[row], burst, n)
                estimate = torch.index_put(estimate, (row,), torch.where(inside[:, None], wave, estimate[row]))
        for j in range(self.preambles):
            first = self.first_preamble + self.preamble_fields * j
            place = side[:, first:first + self.preamble_fields]
            row = (place[:, 4] > 0).nonzero()[:, 0]
            if row.size(0) > 0:
                place = place[row]
                wave, trust = self.known(place, v[row], n)
                inside = (n >= place[:, :1]) & (n < place[:, :1] + self.preamble.size(1))
                wave = wave + trust[:, None] * (observed[row] - wave)
                estimate = torch.index_put(estimate, (row,), torch.where(inside[:, None], wave, estimate[row]))
        return estimate

    def known(self, place: Tensor, v: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        """The preamble as [B, 5] says, [B, 2, N], and how far to trust the data instead, [B, N]."""
        template = torch.complex(self.preamble[0], self.preamble[1])
        angle = -2 * math.pi * torch.fft.fftfreq(512, device=v.device) * place[:, 1:2]
        shifted = torch.fft.ifft(torch.fft.fft(template, 512) * torch.polar(torch.ones_like(angle), angle))
        index = (n - place[:, :1].round().long()).clamp(0, template.size(0) - 1)
        turn = place[:, 2:3] + 2 * math.pi * (self.frequency + place[:, 3:4]) * n
        wave = shifted.gather(1, index) * torch.polar(place[:, 4:].expand_as(turn), turn)
        error = self.preamble_error[index] * place[:, 4:].square()
        return torch.stack([wave.real, wave.imag], 1), error / (error + v[:, None])

    def resampled(self, samples: int) -> Tensor:
        """The density on the DFT grid of `samples` points."""
        place = torch.arange(samples, device=self.density.device) * (self.density.size(0) / samples)
        low = place.long()
        left, right = self.density[low], self.density[(low + 1).remainder(self.density.size(0))]
        return left + (right - left) * (place - low)

    def burst(self, observed: Tensor, v: Tensor, burst: Tensor, n: Tensor) -> Tensor:
        """Posterior mean [B, 2, N] as if the burst [B, 8] filled the window."""
        level = burst[:, 5].clamp(min=1e-3)
        noise = v / level.square()
        turn = burst[:, 3:4] + 2 * math.pi * (self.frequency + burst[:, 4:5]) * n
        cos, sin = turn.cos(), turn.sin()
        offset = torch.remainder(-burst[:, 0].round().long(), self.length)
        frames = cut(turned(observed / level[:, None, None], cos, -sin), offset, self.length)
        weight = 1 / (self.spread + noise[:, None])
        linear = torch.matmul(torch.matmul(frames, self.basis) * weight[:, None], self.share.t())
        left = (1 - torch.matmul(weight, self.share.square().t())).clamp(1e-7, 1.0)[:, None]
        angle = self.slope * burst[:, 2:3]
        turns = torch.polar(torch.ones_like(angle), angle)[:, None]  # [B, 1, K]
        u = torch.view_as_complex((linear / left).view(linear.size(0), linear.size(1), -1, 2)) * turns.conj()
        energy = ((1 - left) / left).view(left.size(0), 1, -1, 2)
        levels = self.axes(burst)[:, None]  # [B, 1, K, 2, 8]
        score = torch.view_as_real(u)[..., None] * levels - 0.5 * energy[..., None] * levels.square()
        point = (torch.softmax(score, -1) * levels).sum(-1)
        point = torch.view_as_real(torch.view_as_complex(point) * turns).flatten(2)
        wave = torch.matmul(point, self.synthesis)
        trust = self.error / (self.error + noise[:, None])  # what the model leaves over may be model error
        wave = wave + torch.cat([trust, trust], 1)[:, None] * (frames - wave)
        return turned(join(wave, offset, observed.size(2)), cos, sin) * level[:, None, None]

    def axes(self, burst: Tensor) -> Tensor:
        """Levels of every carrier's axes for bursts [B, 8]: [B, K, 2, 8]."""
        kind = burst[:, 6:7].round().long().clamp(0, 3)
        silent = self.outer & (burst[:, 7:8] < 0.5)
        index = torch.where(self.pilots, 0, torch.where(silent, 4, kind))
        return self.levels[index]

    @torch.jit.export
    def synchronise(self, y: Tensor, occupied: Tensor) -> Tensor:
        """Side information [B, P] from mixtures y [B, 2, N], leaving out the bands `occupied` [J, 2] of other signals.

        Bursts: runs of symbols with little energy in the dimensions that neither the carriers nor the bands use. Delay
        and offset: the peak of the fourth power of the carriers over carrier and symbol. Phase: that peak and the
        pilots. Alphabet: the likeliest. Then least squares on decisions.
        """
        samples, length = y.size(2), self.length
        n = torch.arange(samples, device=y.device)
        wave = torch.complex(y[:, 0], y[:, 1])
        # Power of the bursts from the spectrum outside the bands, against the learned density.
        spectrum = torch.fft.fft(wave)
        clear = self.heard(samples, occupied, 0.0)
        density = self.resampled(samples)
        if bool((clear * density).sum() < 0.1 * samples):
            clear = torch.ones_like(clear)
        power = (spectrum.abs().square() * clear).sum(1) / samples / (density * clear).sum().clamp(min=1e-6)
        angle = -2 * math.pi * self.frequency * n
        wave = wave / power.sqrt().clamp(min=1e-20)[:, None] * torch.polar(torch.ones_like(angle), angle)

        mixing = torch.view_as_complex(self.mixing)
        own = torch.matmul(mixing, mixing.mH) + torch.diag(2 * self.error).to(mixing.dtype)
        lag = (torch.arange(length, device=y.device)[:, None] - torch.arange(length, device=y.device)).float()
        other = torch.zeros_like(own)
        for j in range(occupied.size(0)):
            width = occupied[j, 1] - occupied[j, 0]
            centre = (math.pi * (occupied[j, 1] + occupied[j, 0]) - 2 * math.pi * self.frequency) * lag
            other = other + torch.polar(torch.ones_like(centre), centre) * torch.sinc(width * lag)
        eye = torch.eye(length, device=y.device)
        total = own + other + 0.003 * eye
        spread, basis = torch.linalg.eigh(total)
        free = spread < 0.15
        probe = basis[:, free] * torch.rsqrt(spread[free])
        analysis = torch.linalg.solve(total, mixing)  # [P, K]
        gain = (mixing.conj() * analysis).sum(0).real.clamp(1e-3, 1 - 1e-3)  # of the linear estimate of c
        analysis = analysis.conj() / gain
        doubt = 1 / gain - 1 + 0.003  # variance of a point's estimate

        size = 1
        while size < samples:
            size *= 2
        padded = torch.fft.fft(wave, size)
        places = samples - length + 1
        energy = torch.zeros(wave.size(0), places, device=y.device)
        for i in range(probe.size(1)):
            response = torch.fft.fft(probe[:, i], size).conj()
            energy = energy + torch.fft.ifft(padded * response)[:, :places].abs().square()
        energy = energy / energy.mean(1, keepdim=True).clamp(min=1e-20)
        symbols = (places + length - 1) // length
        energy = nn.functional.pad(energy, (0, symbols * length - places), value=9.0)
        score = (0.35 - energy.view(-1, symbols, length)).clamp(min=-1.0)  # of a symbol at s * P + p

        columns = self.first_preamble + self.preambles * self.preamble_fields
        result = torch.zeros(wave.size(0), columns, device=y.device)
        row = torch.arange(wave.size(0), device=y.device)
        begin_of = (torch.arange(symbols, device=y.device) * length)[:, None] + torch.arange(length, device=y.device)
        result[:, self.first_preamble:] = self.find_preambles(wave, occupied)
        for j in range(self.preambles):
            place = self.first_preamble + self.preamble_fields * j
            low = result[:, place].long()
            high = low + torch.where(result[:, place + 4] > 0, self.preamble.size(1), 0) - 8
            taken = (begin_of < high[:, None, None]) & (begin_of + length > low[:, None, None])
            score = torch.where(taken, torch.full_like(score, -1.0), score)
        for j in range(self.bursts):
            value, first, last = self.best_run(score)
            place = value.argmax(1)
            first, last = first[row, place], last[row, place]
            begin, count = first * length + place, last - first + 1
            count = torch.where((value[row, place] > 0.5) & (count >= 2), count, torch.zeros_like(count))
            burst = self.measure(wave, begin, count, analysis, doubt)
            result[:, self.fields * j:self.fields * (j + 1)] = burst
            # What is left of a run may be another burst: the legacy part of an 802.11n preamble, say.
            found = burst[:, 1] > burst[:, 0]
            low = torch.where(found, burst[:, 0].long(), begin)
            high = torch.where(found, burst[:, 1].long(), begin + count * length)
            taken = (begin_of < high[:, None, None]) & (begin_of + length > low[:, None, None])
            score = torch.where(taken, torch.full_like(score, -1.0), score)
        return result

    def find_preambles(self, wave: Tensor, occupied: Tensor) -> Tensor:
        """Side information [B, 4 * 5] of the preambles in derotated windows [B, N], the bands left out.

        A preamble is where the known waveform explains more than a third of the power over at least half its length.
        """
        samples, length = wave.size(1), self.preamble.size(1)
        template = torch.complex(self.preamble[0], self.preamble[1])
        half = length // 2
        size = 1
        while size < samples + 2 * length:
            size *= 2
        wave = torch.fft.ifft(torch.fft.fft(wave) * self.heard(samples, occupied, -self.frequency))
        filtered = torch.fft.fft(template, 512) * self.heard(512, occupied, -self.frequency)
        filtered = torch.fft.ifft(filtered)[:length]
        padded = torch.fft.fft(nn.functional.pad(wave, (half, size - samples - half)))
        places = samples  # first samples from -half to samples - half
        found = torch.fft.ifft(padded * torch.fft.fft(filtered, size).conj())[:, :places]
        power = nn.functional.pad(wave.abs().square(), (half + 1, length)).cumsum(1)
        power = power[:, length:length + places] - power[:, :places]  # of the samples that are there
        own = nn.functional.pad(filtered.abs().square(), (1, 0)).cumsum(0)
        first = torch.arange(places, device=wave.device) - half
        least = own[(samples - first).clamp(0, length)] - own[(-first).clamp(0, length)]
        share = found.abs().square() / (power * least).clamp(min=1e-6)
        share = torch.where((least > 0.4 * own[length]), share, torch.zeros_like(share))
        result = torch.zeros(wave.size(0), self.preambles * self.preamble_fields, device=wave.device)
        frequency = torch.fft.fftfreq(512, device=wave.device)
        n = torch.arange(length, device=wave.device)
        spectrum = torch.fft.fft(filtered, 512)
        sure = (spectrum.abs() > 0.3 * spectrum.abs().amax()).float()
        for j in range(self.preambles):
            value, place = share.max(1)
            begin = place - half
            index = begin[:, None] + n
            there = ((index >= 0) & (index < samples)).to(wave.dtype)
            piece = wave.gather(1, index.clamp(0, samples - 1)) * there
            delay, phase = torch.zeros_like(value), torch.zeros_like(value)
            drift, level = torch.zeros_like(value), torch.zeros_like(value)
            for _ in range(3):
                angle = -2 * math.pi * frequency * delay[:, None]
                model = torch.fft.ifft(spectrum * torch.polar(torch.ones_like(angle), angle))[:, :length] * there
                model = model * torch.polar(torch.ones_like(index, dtype=torch.float32),
                                            2 * math.pi * drift[:, None] * (n - half))
                match = piece * model.conj()
                parts = match.view(-1, 4, length // 4).sum(2)
                pair = (parts[:, 1:] * parts[:, :-1].conj()).sum(1)
                drift = drift + torch.atan2(pair.imag, pair.real) / (2 * math.pi * (length // 4))
                total = match.sum(1)
                phase = torch.atan2(total.imag, total.real)
                level = total.abs() / model.abs().square().sum(1).clamp(min=1e-6)
                cross = torch.fft.fft(piece, 512) * torch.fft.fft(model, 512).conj() * sure
                cross = cross * torch.polar(torch.ones_like(phase), -phase)[:, None]
                weight = cross.abs()
                angle = torch.atan2(cross.imag, cross.real)
                delay = delay - ((weight * angle * frequency).sum(1)
                                 / (2 * math.pi * (weight * frequency.square()).sum(1).clamp(min=1e-9)))
            good = (value > 0.35) & (delay.abs() < 2)
            whole = phase - 2 * math.pi * drift * (begin + half)  # at sample 0
            burst = torch.stack([begin.float(), delay, whole, drift, level], 1)
            columns = torch.where(good[:, None], burst, torch.zeros_like(burst))
            result[:, self.preamble_fields * j:self.preamble_fields * (j + 1)] = columns
            near = (first - begin[:, None]).abs() < length - 16
            share = torch.where(near, torch.zeros_like(share), share)
        return result

    def heard(self, samples: int, occupied: Tensor, shift: float) -> Tensor:
        """1 on the DFT grid of `samples` points where no band `occupied` [J, 2], moved by `shift`, lies; else 0."""
        bins = torch.fft.fftfreq(samples, device=occupied.device)
        result = torch.ones(samples, device=occupied.device)
        for j in range(occupied.size(0)):
            inside = (bins > occupied[j, 0] + shift - 0.003) & (bins < occupied[j, 1] + shift + 0.003)
            result = torch.where(inside, torch.zeros_like(result), result)
        return result

    def best_run(self, score: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Largest sum over consecutive symbols (Kadane), with its first and last symbol: score [B, S, P] to [B, P]."""
        run, start = torch.zeros_like(score[:, 0]), torch.zeros_like(score[:, 0]).long()
        best, first, last = run - 1.0, start, start
        for s in range(score.size(1)):
            fresh = run <= 0
            run = torch.where(fresh, score[:, s], run + score[:, s])
            start = torch.where(fresh, torch.full_like(start, s), start)
            better = run > best
            best = torch.where(better, run, best)
            first = torch.where(better, start, first)
            last = torch.where(better, torch.full_like(last, s), last)
        return best, first, last

    def measure(self, wave: Tensor, begin: Tensor, count: Tensor, analysis: Tensor, doubt: Tensor) -> Tensor:
        """Side information [B, 8] of one burst of `count` symbols from sample `begin` in mixtures [B, N]."""
        symbols = max(1, int(count.max()))
        n = torch.arange(symbols * self.length, device=wave.device)
        place = (begin[:, None] + n).clamp(max=wave.size(1) - 1)
        s = torch.arange(symbols, device=wave.device)
        there = s < count[:, None]  # [B, S]
        frames = wave.gather(1, place).view(-1, symbols, self.length)
        point = torch.matmul(frames, analysis) * there[:, :, None]  # estimates of c, turned; [B, S, K]

        # Fourth power over symbol and carrier: delay and offset are its frequencies.
        sure = (~self.pilots) / (1 + 16 * doubt)  # pilots have another fourth power
        fourth = point.square().square() * sure
        low = int(self.carriers.min())
        grid = torch.zeros(wave.size(0), symbols, int(self.carriers.max()) - low + 1, device=wave.device,
                           dtype=fourth.dtype)
        grid[:, :, self.carriers - low] = fourth
        steps, slopes = 128, 512
        peak = torch.fft.fft(torch.fft.fft(grid, slopes, 2), steps, 1).flatten(1)
        best = peak.abs().argmax(1)
        step = torch.div(best, slopes, rounding_mode="floor")
        slope = torch.remainder(best, slopes)
        step = torch.where(step >= steps // 2, step - steps, step).float() / steps * (math.pi / 2)  # radians a symbol
        slope = torch.where(slope >= slopes // 2, slope - slopes, slope).float() / slopes * (math.pi / 2)  # a carrier
        k = self.carriers.float()
        centre = (count.float() - 1) / 2
        phase = torch.zeros_like(step)
        turned_back = self.unturned(point, phase, step, slope, centre)
        moment = -(turned_back.square().square() * sure).sum((1, 2))
        phase = torch.atan2(moment.imag, moment.real) / 4
        # Pilots lie on the real axis: the fourth power leaves multiples of 45 degrees open.
        turned_back = self.unturned(point, phase, step, slope, centre)
        square = (turned_back.square() * self.pilots).sum((1, 2))
        phase = phase + (torch.atan2(square.imag, square.real) / 2 / (math.pi / 4)).round() * (math.pi / 4)

        use = (doubt < 1.0).float() / doubt  # carriers that the bands leave alone
        expected = (use * doubt).sum() / use.sum()
        outer = torch.ones_like(phase)
        kind = torch.zeros_like(count)
        decided = point
        weight = there.float()  # of symbols: those that the decisions explain count
        for _ in range(5):
            turned_back = self.unturned(point, phase, step, slope, centre)
            present = ((turned_back.abs().square() * self.outer).sum((1, 2))
                       / (count.clamp(min=1) * max(1, int(self.outer.sum()))))
            outer = (present > 0.4 + (doubt * self.outer).sum() / max(1, int(self.outer.sum()))).float()
            likely = torch.zeros(wave.size(0), 4, device=wave.device)
            real = torch.view_as_real(turned_back)
            data = use * (~self.pilots) * (~self.outer)
            data = data / data.sum()
            for a in range(4):  # each with the noise that it leaves: at high SNR, log p = -log noise - log points
                gap = (real[..., None] - self.levels[a] / math.sqrt(2.0)).square().min(-1).values.sum(-1)
                gap = (gap * data * weight[:, :, None]).sum((1, 2)) / weight.sum(1).clamp(min=1e-6)
                likely[:, a] = -torch.log(gap + 1e-4) - math.log(2.0 ** [1, 2, 4, 6][a])
            kind = likely.argmax(1)
            burst = torch.stack([phase, phase, phase, phase, phase, phase, kind.float(), outer], 1)
            levels = (self.axes(burst) / math.sqrt(2.0))[:, None]  # [B, 1, K, 2, 8]
            nearest = (real[..., None] - levels).abs().argmin(-1, keepdim=True)
            decided = torch.view_as_complex(levels.expand(-1, symbols, -1, -1, -1).gather(4, nearest)[..., 0]
                                            .contiguous())
            # Phase, step and slope by weighted least squares on the angles to the decisions.
            error = turned_back * decided.conj()
            gap = (use * (turned_back - decided).abs().square()).sum(2) / use.sum()
            weight = there / (gap + expected + 0.02).square()
            weight = weight / weight.amax(1, keepdim=True).clamp(min=1e-20)
            trust = use * weight[:, :, None] * decided.abs().square()
            angle = torch.atan2(error.imag, error.real) * (decided.abs() > 0)
            time = (s - centre[:, None])[:, :, None].expand_as(angle)
            tone = k.expand_as(angle)
            basis = torch.stack([torch.ones_like(time), time, tone], -1).flatten(1, 2)
            weighted = basis * trust.flatten(1)[..., None]
            gram = torch.matmul(weighted.transpose(1, 2), basis) + 1e-3 * torch.eye(3, device=wave.device)
            shift = torch.linalg.solve(gram, torch.matmul(weighted.transpose(1, 2), angle.flatten(1)[..., None]))
            phase, step, slope = phase + shift[:, 0, 0], step + shift[:, 1, 0], slope + shift[:, 2, 0]

        turned_back = self.unturned(point, phase, step, slope, centre)
        trust = use * weight[:, :, None]
        amplitude = (trust * (turned_back * decided.conj()).real).sum((1, 2)) / (
            trust * decided.abs().square()).sum((1, 2)).clamp(min=1e-6)
        # Symbols that the decisions do not explain (preamble, signal field, another burst) are left out.
        gap = (use * (turned_back - decided * amplitude[:, None, None]).abs().square()).sum(2) / use.sum()
        room = torch.tensor([0.1, 0.1, 0.05, 0.02], device=wave.device)[kind]
        good = torch.where(there, (1 - gap / (room[:, None] + expected)).clamp(min=-1.0), torch.full_like(gap, -1.0))
        value, first, last = self.best_run(good[..., None])
        first, last = first[:, 0], last[:, 0]
        size = torch.where((count > 0) & (value[:, 0] > 0.5), last - first + 1, torch.zeros_like(first))
        size = torch.where(size >= 2, size, torch.zeros_like(size))
        start = begin + first * self.length
        frequency = step / (2 * math.pi * self.length)
        middle = begin + centre * self.length + self.cp + 0.5 * self.fft  # where `phase` holds
        whole = phase - 2 * math.pi * frequency * middle
        delay = slope * self.fft / (2 * math.pi)
        return torch.stack([start.float(), (start + size * self.length).float(), delay, whole, frequency, amplitude,
                            kind.float(), outer], 1)

    def unturned(self, point: Tensor, phase: Tensor, step: Tensor, slope: Tensor, centre: Tensor) -> Tensor:
        """Points [B, S, K] without the burst's phase, phase step per symbol and phase slope per carrier."""
        s = torch.arange(point.size(1), device=point.device)
        angle = (phase[:, None, None] + (step[:, None] * (s - centre[:, None]))[:, :, None]
                 + slope[:, None, None] * self.carriers)
        return point * torch.polar(torch.ones_like(angle), -angle)
