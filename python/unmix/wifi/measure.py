# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything about one packet from its preamble on: channel, signal fields, phase and clock symbol by symbol."""

from dataclasses import replace
from typing import Optional

import numpy as np

from . import standard
from .packets import BEFORE, CARRIER, FLOOR, TAPS, Ear, Packet, channel
from .standard import CP, FFT, LENGTH, Format

_BACK = 4  # samples of the prefix that a transform takes in: room for the channel's taps before 0
_SHIFTS = range(0, 9)  # cyclic delays that are tried, samples
_MIDDLE = 320 + CP - _BACK + FFT / 2 - 0.5  # of the signal field's transform, samples from the start
_AHEAD = 256  # samples around a packet that the filter takes in
_STRANGE = 0.15  # share of its power that decisions may leave


class Measurement:
    """Measures one packet in a stretch of the stream."""

    def __init__(self, samples: np.ndarray, first: int, start: int, frequency: float, ear: Ear, power: float):
        """samples: complex [n], the stream from sample `first` on. start, frequency: as packets.find gives them.

        power: what the packets' is about.
        """
        self.first, self.ear, self.samples = first, ear, samples
        self.packet = Packet(start, frequency)
        low = max(0, start - first - _AHEAD)
        self.low = low + first
        self.heard = ear.filtered(samples[low:start - first + 320 + 6 * LENGTH + _AHEAD], power)
        heard = self.heard[start - self.low:][:320]
        self.clear = ear.clear(power, frequency)
        self.weight = np.maximum(ear.weight(CARRIER / FFT + frequency, power), 0.2)  # of the filter
        active = np.abs(CARRIER) <= 26
        share = np.sum(active & self.clear) / max(1, np.sum(active))
        self.packet.power = float(np.mean(np.abs(heard) ** 2)) / max(share, 0.2)
        self.power = power
        self.lent: Optional[np.ndarray] = None  # the channel that other packets lend one without a preamble

    def run(self) -> Packet:
        """The packet. Its form is None where the signal field could not be read."""
        p = self.packet
        there = self.first + len(self.samples) - p.start - 320  # samples behind the training fields
        p.complete = False
        p.error = 10 * FLOOR * p.power
        if there < TAPS:
            return p
        self._train()
        if there < LENGTH + TAPS:
            return p
        signal = self._points(0)
        weight = p.gains.conj() * self.clear
        data = standard.LEGACY_DATA
        read = standard.signal_field((signal * weight)[data].real)
        if read is None or not self._explained(signal, standard.signal_points(read[1])[0]):
            p.complete = there >= LENGTH + TAPS + 16
            return p
        form, bits = read
        self._add(standard.signal_points(bits)[0], [1, 1, 1, -1], data)
        if form.alphabet == 0 and form.symbols >= 5:
            cut = there < 5 * LENGTH + TAPS  # too early to say which
            form = replace(form, symbols=0) if cut else self._high_throughput(form, weight)
            if cut:
                p.form = form
                self.follow().complete = False
                return p
        p.form = form
        return self.follow()

    def follow(self) -> Packet:
        """The packet, once its form is known, and its channel about."""
        p = self.packet
        self._hear_all()
        self._follow()
        if p.error - self.ear.noise > _STRANGE * p.power and p.form.symbols and not p.form.headless:
            p.form = replace(p.form, symbols=0)  # several streams, 802.11ac, ...: the data cannot be followed
            self._follow()
        for _ in range(2):
            self._refit()
            self._follow()
        self._refit()
        return p

    def _explained(self, signal: np.ndarray, points: np.ndarray) -> bool:
        """Whether decoded points [48] explain most of a symbol's transform [64]: parity is a weak check."""
        data = standard.LEGACY_DATA
        expected = self.packet.gains[data] * points
        use = self.clear[data]
        turn = np.vdot(expected[use], signal[data][use])  # a wrong frequency has turned it
        return bool(abs(turn) > 0.7 * np.linalg.norm(expected[use]) * np.linalg.norm(signal[data][use]))

    def _hear_all(self) -> None:
        low, end = self.low - self.first, self.packet.end - self.first
        self.heard = self.ear.filtered(self.samples[low:end + _AHEAD], self.power)
        self.packet.complete = end + TAPS <= len(self.samples)

    def _density(self, size: int, also: np.ndarray | float = 0.0) -> np.ndarray:
        frequency = np.fft.fftfreq(size)
        return self.ear.others(frequency + self.packet.frequency) + self.ear.floor(self.packet.power) + also

    def _piece(self, begin: int, count: int) -> np.ndarray:
        """Mixture without turn, `count` samples from stream sample `begin` on, zeros where there are none."""
        n = np.arange(begin, begin + count)
        inside = (n >= self.first) & (n < self.first + len(self.samples))
        piece = np.where(inside, self.samples[np.clip(n - self.first, 0, len(self.samples) - 1)], 0)
        return piece * np.exp(-1j * self.packet.angle(n))

    def _train(self) -> None:
        """Start, cyclic shift and channel from the training fields alone."""
        p = self.packet
        found = p.start
        best = None
        density = self._density(512)
        for shift in _SHIFTS:
            piece = self._piece(found + shift - BEFORE, 320 + BEFORE)
            sent = standard.joined(list(standard.training(-shift)))[:320]
            taps, value = channel([(piece, sent, density)], p.power)
            if best is None or value > best[0]:
                best = value, shift, taps
        _, shift, p.channel = best
        p.start, p.shift = found + shift, -float(shift)
        p.channel, _ = channel([(self._piece(p.start - BEFORE, 320 + BEFORE),
                                 standard.joined(list(standard.training(p.shift)))[:320], density)], p.power)

    def _points(self, symbol: int, delay: float = 0.0) -> np.ndarray:
        """Transform [64] of a heard symbol, in units of points times gains, without cyclic shift and delay."""
        p = self.packet
        n = np.arange(FFT) + p.start + 320 + symbol * LENGTH + CP - _BACK
        place = n - self.low
        if place[-1] >= len(self.heard):
            return np.zeros(FFT, dtype=complex)
        body = self.heard[place] * np.exp(-1j * p.angle(n))
        spectrum = np.fft.fft(body) / self.weight * (np.sqrt(52) / FFT)
        return standard.shifted(spectrum, -(_BACK + p.shift + delay))

    def _add(self, data: np.ndarray | float, pilots: np.ndarray | list[int] | float, carriers: np.ndarray) -> None:
        """A symbol all of whose points are known."""
        p = self.packet
        points = np.zeros(FFT, dtype=complex)
        points[carriers] = data
        points[list(standard.PILOTS)] = pilots
        p.points = np.concatenate([p.points, points[None]])
        p.sure = np.concatenate([p.sure, np.ones((1, FFT), dtype=bool)])
        p.delays = np.append(p.delays, 0.0)

    def _high_throughput(self, form: Format, weight: np.ndarray) -> Format:
        """The format that HT-SIG gives, where there is one: its points lie on the imaginary axis (19.3.9.4.3)."""
        data = standard.LEGACY_DATA
        soft = np.array([self._points(1) * weight, self._points(2) * weight])[:, data]
        if np.sum(soft.imag ** 2) < np.sum(soft.real ** 2):
            return form
        read = standard.ht_signal_field(soft.imag)
        if read is None or not self._explained(self._points(1), 1j * standard.signal_points(read[1])[0]):
            return replace(form, symbols=0)
        form, bits = read
        if form.short:  # symbols of 72 samples
            form = replace(form, symbols=0)
        signs = standard.polarity()
        for i, points in enumerate(standard.signal_points(bits)):
            self._add(1j * points, np.array([1, 1, 1, -1]) * signs[i + 1], data)
        for spectrum in (standard.short_spectrum(), standard.ht_long_spectrum()):
            self._add(0, 0, data)
            self.packet.points[-1] = spectrum
        self._steady()
        self._map()
        return form

    def _steady(self) -> None:
        """A better frequency from the first three symbols, whose points are known."""
        p = self.packet
        use = p.gains.conj() * self.clear
        turns = [np.angle(np.sum(self._points(s) * use * p.points[s].conj())) for s in range(3)]
        time = np.concatenate([[256.0], _MIDDLE + LENGTH * np.arange(3)])
        slope = np.polyfit(time, np.unwrap([0.0, *turns]), 1)[0]
        p.frequency += slope / (2 * np.pi)
        p.phases = p.phases - slope * 256  # the phase in the middle of the long field stays

    def _trained(self) -> tuple[np.ndarray, np.ndarray]:
        """Knots of the phase in the training fields: times and radians beside what is known."""
        p = self.packet
        sent = np.convolve(standard.joined(list(standard.training(p.shift)))[:320], p.channel)
        n = np.arange(p.start - BEFORE, p.start - BEFORE + len(sent))
        model = np.concatenate([np.zeros(64), sent * np.exp(1j * p.angle(n)), np.zeros(64)])
        model = self.ear.filtered(model, self.power)[64:]
        blocks = np.array([[16, 80], [80, 144], [176, 248], [248, 316]])
        turns = []
        for low, high in blocks:
            place = np.arange(low, high) + p.start - self.low
            turns.append(np.angle(np.sum(self.heard[np.maximum(place, 0)] * model[low + BEFORE:high + BEFORE].conj()
                                         * (place >= 0))))
        return blocks.mean(1), np.array(turns)

    def _map(self) -> None:
        """How the part of 802.11n differs: another cyclic shift (19.3.9.3.2) and a factor, from HT-LTF."""
        p = self.packet
        spectrum = p.points[4]
        use = self.clear & (spectrum != 0)
        ratio = (self._points(4) * p.gains.conj() * spectrum.conj())[use]
        shifts = np.arange(-16, 16, 0.05)
        sums = np.exp(2j * np.pi / FFT * shifts[:, None] * CARRIER[use]) @ ratio
        best = int(np.argmax(np.abs(sums)))
        p.mapping = complex(sums[best] / np.sum(np.abs(p.gains[use] * spectrum[use]) ** 2))
        p.ring = float(shifts[best])

    def _follow(self) -> None:
        """Points, phase and delay of every symbol, each from the one before; decisions where the others are silent."""
        p, form = self.packet, self.packet.form
        known = form.first
        data, count = form.carriers, min(form.symbols, max(0, (len(self.heard) + self.low - p.data) // LENGTH))
        scale = standard.ht_scale() if form.ht else 1.0
        pilots = standard.pilots(form, max(count, 1))
        gains = p.gains
        weight = np.abs(gains) ** 2 * self.clear
        p.points, p.sure = p.points[:known], p.sure[:known]
        left, size = np.zeros(FFT), 0
        fresh = np.zeros((count, FFT), dtype=complex)
        sure = np.zeros((count, FFT), dtype=bool)
        sure[:, list(standard.PILOTS)] = True
        sure[:, np.setdiff1d(np.arange(-32, 32), np.concatenate([data, standard.PILOTS]))] = True
        before = (p.times, p.phases)
        phase, step, delay = 0.0, 0.0, 0.0
        ring = np.where(np.arange(known + count) >= 3, p.ring, 0.0)
        times, phases, delays = [], [], []
        for s in range(known + count):
            factor = gains * np.exp(1j * (phase + step)) * (p.mapping if s > 2 else 1.0)
            point = self._points(s, delay + ring[s]) / np.where(factor == 0, 1, factor)
            phase += step
            if s < known:
                decided = p.points[s]
            else:
                decided = np.zeros(FFT, dtype=complex)
                decided[list(standard.PILOTS)] = pilots[s - known]
                if form.headless:  # how many symbols came before is unknown
                    decided[list(standard.PILOTS)] = np.sign(point[list(standard.PILOTS)].real) * scale
                decided[data] = standard.nearest(point[data] / scale, form.alphabet) * scale
            use = weight * (decided != 0)
            error = point * decided.conj()
            turn = np.angle(np.sum(use * error))
            angle = np.angle(error * np.exp(-1j * turn))
            trust = use * np.abs(decided) ** 2
            tilt = np.sum(trust * angle * CARRIER) / max(np.sum(trust * CARRIER ** 2), 1e-30)
            delay -= 0.15 * tilt * FFT / (2 * np.pi)
            phase += turn
            step += 0.1 * turn
            gap = np.abs(point * np.exp(-1j * turn) - decided) ** 2
            left, size = left + weight * gap, size + 1
            times.append(_MIDDLE + LENGTH * s)
            phases.append(phase)
            delays.append(delay)
            if s >= known:
                fresh[s - known] = decided
        mean = float(np.mean(left[data][self.clear[data]])) / max(size, 1) if np.any(self.clear[data]) else p.power
        p.error = max(mean * FFT / 52, 1e-4 * p.power)
        left = (left + 8 * mean) / (size + 8)  # of each carrier; few symbols say little about one
        # A point is certain four standard deviations from where it would be decided otherwise.
        spread = np.sqrt(0.5 * left) / np.maximum(np.abs(gains) * scale, 1e-12)
        sure[:, data] = (self.clear & (standard.reach(form.alphabet) > 4 * spread))[data]
        p.points, p.sure = np.concatenate([p.points, fresh]), np.concatenate([p.sure, sure])
        time = np.arange(len(delays))
        line = np.polyfit(time, delays, 1) if len(delays) >= 12 else [0.0, 0.0]
        p.delays = np.polyval(line, time) + ring
        early, turns = self._trained() if not form.headless else (np.zeros(0), np.zeros(0))
        phases = np.array(phases)
        if form.ht and known and known + count >= 7:  # a step between the two parts is a matter of the mapping
            at = np.arange(7)
            basis = np.stack([np.ones(7), at, at > 2], 1)
            jump = np.linalg.lstsq(basis, phases[:7], rcond=None)[0][2]
            phases[3:] -= jump
            p.mapping *= np.exp(1j * jump)
        p.times = np.concatenate([early, times])
        p.phases = np.interp(p.times, *before) + np.concatenate([turns, phases])

    def _refit(self) -> None:
        """The channel from all that is decided; where it is not, the packet itself is noise."""
        p, known = self.packet, self.packet.form.first
        head = 320 + known * LENGTH
        sent = p.sent()
        size = 1 << int(len(sent) + TAPS).bit_length()
        parts = []
        if not p.form.headless:
            parts.append((self._piece(p.start - BEFORE, head + BEFORE), sent[:head], self._density(2048)))
        if len(p.points) > known:
            count = len(sent) - head
            frequency = np.fft.fftfreq(size)
            unheard = np.zeros(FFT)
            unheard[~p.sure[-1]] = FFT / 52 * p.power
            nearest = np.round(frequency * FFT).astype(int) % FFT
            wide = np.maximum(unheard[nearest], np.maximum(unheard[(nearest + 1) % FFT], unheard[nearest - 1]))
            parts.append((self._piece(p.start + head - BEFORE, count + BEFORE), p.sent(known)[:count],
                          self._density(size, wide)))
        if self.lent is None:
            p.channel, _ = channel(parts, p.power)
        elif parts:
            (received, transmitted, density), = parts
            model = np.convolve(transmitted, self.lent)[:len(received)]
            change, _ = channel([(received - model, transmitted, density)], 3e-3 * p.power)
            p.channel = self.lent + change
