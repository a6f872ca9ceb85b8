# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets in a mixture: what is known of one, what can be heard beside other signals, where preambles are."""

from dataclasses import dataclass, field
from typing import Optional

import numpy as np

from . import standard
from .standard import FFT, LENGTH, Format

BEFORE, TAPS = 8, 24  # the channel's taps are at delays -8 .. 15 samples
FLOOR = 1e-3  # what a packet's own distortion is taken for before it is measured, of its power
CARRIER = np.fft.fftfreq(FFT, 1 / FFT)


@dataclass
class Packet:
    """A packet in a stream.

    start: its first sample in the stream. frequency: offset, cycles/sample. form: None where the signal field could
    not be read. shift: of the carriers around the ring, samples (cyclic delay of 19.3.9.3.2, negative there).
    channel: complex [TAPS], delays from -BEFORE on, in the stream's units. points: complex [S, 64] of the symbols from
    the signal field on, without shift; sure: bool [S, 64], where they are known. times, phases: knots of the phase
    beside the frequency (samples from start, radians). delays: of each symbol, samples, around the ring. mapping: what
    802.11n's own part (from HT-STF on) is multiplied by beside the rest (spatial mapping of one antenna), ring: by how
    much more its carriers are shifted. error:
    variance of complex samples that all this leaves unexplained. power: of its samples. complete: its end has been
    heard.
    """

    start: int
    frequency: float
    form: Optional[Format] = None
    shift: float = 0.0
    channel: np.ndarray = field(default_factory=lambda: np.zeros(TAPS, dtype=complex))
    points: np.ndarray = field(default_factory=lambda: np.zeros((0, FFT), dtype=complex))
    sure: np.ndarray = field(default_factory=lambda: np.zeros((0, FFT), dtype=bool))
    times: np.ndarray = field(default_factory=lambda: np.array([240.0]))
    phases: np.ndarray = field(default_factory=lambda: np.zeros(1))
    delays: np.ndarray = field(default_factory=lambda: np.zeros(0))
    mapping: complex = 1.0
    ring: float = 0.0
    error: float = 0.0
    power: float = 0.0
    complete: bool = True

    @property
    def symbols(self) -> int:
        """Symbols of 80 samples from the signal field on; the signal field alone where nothing could be read."""
        return 1 if self.form is None else self.form.first + self.form.symbols

    @property
    def data(self) -> int:
        """First sample of the data symbols in the stream."""
        return self.start + 320 + LENGTH * (1 if self.form is None else self.form.first)

    @property
    def end(self) -> int:
        """One past its last sample."""
        return self.start + 320 + LENGTH * self.symbols

    @property
    def gains(self) -> np.ndarray:
        """The channel at the carriers, FFT order [64]."""
        padded = np.zeros(FFT, dtype=complex)
        padded[np.arange(TAPS) - BEFORE] = self.channel
        return np.fft.fft(padded)

    def angle(self, n: np.ndarray) -> np.ndarray:
        """Phase (radians) at samples n of the stream."""
        n = np.asarray(n) - self.start
        return 2 * np.pi * self.frequency * n + np.interp(n, self.times, self.phases)

    def sent(self, from_symbol: Optional[int] = None) -> np.ndarray:
        """What is known of the transmitted samples, [320 + 80 S + 1]; from a symbol on: [80 (S - from_symbol) + 1]."""
        begin = from_symbol or 0
        spectra = np.where(self.sure, self.points, 0)
        spectra[3:] *= self.mapping
        spectra = spectra[begin:]
        parts = list(standard.transmit(standard.shifted(spectra, self.delays[begin:] + self.shift)))
        if from_symbol is None:
            training = standard.training(self.shift)
            if self.form is not None and self.form.headless:
                training = np.zeros((2, 161))
            parts = [*training, *parts]
        return standard.joined(parts)

    def wave(self) -> np.ndarray:
        """What is known of the received samples from start - BEFORE on, [320 + 80 S + TAPS]."""
        wave = np.convolve(self.sent(), self.channel)
        return wave * np.exp(1j * self.angle(self.start - BEFORE + np.arange(len(wave))))


class Ear:
    """What can be heard beside other signals.

    density: power per sample of the other signals by frequency, FFT order [bins]; its mean is their power. noise:
    variance of white noise.
    """

    def __init__(self, density: np.ndarray, noise: float = 0.0):
        self.density = np.asarray(density, dtype=float)
        self.noise = noise

    def floor(self, power: float) -> float:
        """Density of what else there is beside packets of `power`: noise and their own distortion."""
        return FLOOR * power + self.noise

    def others(self, frequency: np.ndarray) -> np.ndarray:
        """The others' density at `frequency` (cycles/sample)."""
        place = np.mod(frequency, 1) * len(self.density)
        return np.interp(place, np.arange(len(self.density) + 1), np.append(self.density, self.density[0]))

    def filtered(self, samples: np.ndarray, power: float) -> np.ndarray:
        """Samples without what the others cover, where packets have `power`."""
        size = 1 << int(len(samples) + 256).bit_length()
        weight = self.weight(np.fft.fftfreq(size), power)
        return np.fft.ifft(np.fft.fft(samples, size) * weight)[:len(samples)]

    def weight(self, frequency: np.ndarray, power: float) -> np.ndarray:
        """The filter's gain at `frequency` (cycles/sample): 1 where nothing else is, near 0 under strong signals."""
        floor = self.floor(power)
        return floor / (self.others(frequency) + floor)

    def clear(self, power: float, offset: float = 0.0) -> np.ndarray:
        """Carriers that the others leave alone, bool [64], of a packet of `power` moved by `offset` cycles/sample."""
        fine = self.others((CARRIER[:, None] + np.linspace(-1, 1, 9)) / FFT + offset)
        return fine.max(1) < 2 * self.floor(power)


def find(heard: np.ndarray, power: float) -> list[tuple[int, float]]:
    """Starts of packets (samples) and their frequency offsets (cycles/sample), in order.

    heard: complex [n], without the others. power: of packets; 20 dB less are still found. A short training field
    repeats itself every 16 samples; then the whole preamble must explain a third of the power.
    """
    if len(heard) < 400:
        return []
    size = np.abs(heard) ** 2
    total = np.concatenate([[0], np.cumsum(heard[:-16].conj() * heard[16:])])
    energy = np.concatenate([[0], np.cumsum((size[:-16] + size[16:]) / 2)])
    span = 112
    match, energy = total[span:] - total[:-span], energy[span:] - energy[:-span]
    ratio = np.abs(match) / np.maximum(energy, 0.01 * power * span)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], ratio > 0.5, [0]])))
    template = standard.joined(list(standard.training()))[:320]
    own = np.sum(np.abs(template) ** 2)
    result: list[tuple[int, float]] = []
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        if not 8 <= end - begin <= 400:
            continue
        best = begin + int(np.argmax(ratio[begin:end] * energy[begin:end]))
        frequency = float(np.angle(match[best])) / (2 * np.pi * 16)
        low, high = max(0, begin - 120), min(len(heard), end + 420)
        piece = heard[low:high] * np.exp(-2j * np.pi * frequency * np.arange(high - low))
        if len(piece) < 320:
            continue
        fit = np.abs(np.correlate(piece, template, "valid")) ** 2
        energy_of = np.convolve(np.abs(piece) ** 2, np.ones(320), "valid") * own
        peak = int(np.argmax(fit))
        if fit[peak] < 0.3 * energy_of[peak]:
            continue
        start = low + peak
        bodies = heard[start + 192:start + 256], heard[start + 256:start + 320]
        pull = np.angle(np.vdot(*bodies) * np.exp(-2j * np.pi * frequency * 64)) / (2 * np.pi * 64)
        if not result or start - result[-1][0] >= 300:
            result.append((start, frequency + float(pull)))
    return result


def channel(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]], power: float) -> tuple[np.ndarray, float]:
    """Taps [TAPS] by generalised least squares under a decaying prior, and their log-likelihood.

    parts: (received [n], from BEFORE ahead of the sent, derotated; sent [m], m <= n; density of what else there is, at
    np.fft.fftfreq(size), size >= m + TAPS). power: of the packet.
    """
    lag = np.arange(TAPS)
    gram, right, unexplained = np.zeros((TAPS, TAPS), dtype=complex), np.zeros(TAPS, dtype=complex), 0.0
    for received, sent, density in parts:
        size = len(density)
        spectrum, heard = np.fft.fft(sent, size), np.fft.fft(received, size)
        gram += np.fft.ifft(np.abs(spectrum) ** 2 / density)[lag[:, None] - lag]
        right += np.fft.ifft(heard * spectrum.conj() / density)[lag]
        unexplained += np.mean(np.abs(heard) ** 2 / density)
    delay = lag - BEFORE
    spread = np.where(delay < 0, np.exp(1.2 * delay), np.exp(-0.4 * delay)) + 1e-5
    taps = np.linalg.solve(gram + np.diag(1 / (power * spread)), right)
    return taps, float(np.vdot(right, taps).real - unexplained)
