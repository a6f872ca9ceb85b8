# SPDX-License-Identifier: GPL-3.0-or-later
"""Timing, phase, frequency and symbol rate of a linear modulation under stronger interference.

Two lines stand out of a long stretch, however strong the interference, which rarely has these cycles: |z|^2 of the
filtered signal z has one at the symbol rate (Oerder and Meyr 1988), and |z|^2 e^(j M arg z) at the symbols' centres
has one at M times the frequency offset (Viterbi and Viterbi 1983), M the constellation's rotational symmetry.
"""

import math
from dataclasses import dataclass, replace
from typing import Optional

import numpy as np
import scipy.fft

from .priors import constellation as cons

#: Largest frequency offset that is looked for, as a share of the symbol rate; a twelfth more is tolerated. The M-th
#: power of M-ary PSK repeats itself every 1/M: with 8PSK 0.05 can be told apart from what lies beyond.
MOST_OFFSET = 0.1
#: Largest deviation of the symbol rate that is looked for, ppm.
MOST_PPM = 100.0
#: Frequencies that are looked at more closely.
CANDIDATES = 3
#: Chance of taking noise for either line of a signal, at most; both must stand out. Measured: none in 4,500 stretches
#: of noise and 300 of CP-OFDM, 1,250 symbols each, nor in 300 acquisitions from CP-OFDM alone, 2,000 symbols, through
#: its prior (so below 7e-4 and 1e-2 with 95 % confidence). SOIs from -3 to -15 dB have 8 to 300 times the least
#: strength after 8,000 symbols.
FALSE_ALARM = 0.01
#: A line this strong gives timing to 1 % of a symbol and QPSK's phase to 1 degree: longer stretches are not needed.
AMPLE = 120.0
#: Errors under interference are as many times those in white noise, as measured.
LOOSE = 4.0
#: Symbols, and samples, that an acquisition looks at at most.
MOST_SYMBOLS, MOST_SAMPLES = 1 << 17, 1 << 21


@dataclass(frozen=True)
class Sync:
    """Where the symbols of a stream lie and how they are turned.

    timing: a symbol's centre, samples from the stream's beginning. step: samples per symbol. phase: rad at `timing`,
    modulo the constellation's symmetry. frequency: cycles/sample. strength: the weaker of the two lines, power relative
    to the noise around it. least: the strength that noise alone has with a chance of FALSE_ALARM. timed: the strength
    of the timing's line. symbols: that it was found in; 0 where that is not known.
    """

    timing: float
    step: float
    phase: float
    frequency: float
    strength: float
    least: float = 0.0
    timed: float = 0.0
    symbols: int = 0

    @property
    def step_error(self) -> float:
        """Uncertainty of `step`, relative to it, 0 where it is not known.

        LOOSE times the Cramer-Rao bound for the frequency of a tone as strong as the timing's line.
        """
        if not self.symbols or not self.timed > 0:
            return 0.0
        return LOOSE * math.sqrt(6 / self.timed) / (2 * math.pi * self.symbols)

    @property
    def certain(self) -> bool:
        """Whether this is more than noise."""
        return self.strength > self.least

    @property
    def ample(self) -> bool:
        """Whether a longer stretch would be of no use."""
        return self.strength > AMPLE

    def fits(self, sps: float, position: float) -> bool:
        """Whether this may have been found up to sample `position` of a stream of nominally sps samples per symbol."""
        return abs(self.step / sps - 1) < 1e-3 and abs(self.frequency) < 0.5 and abs(self.phase) < 1e6 and \
            abs(self.timing) < position + MOST_SAMPLES

    def error(self, truth: "Sync", sample: float, symmetry: int) -> tuple[float, float]:
        """How far timing (symbols) and phase (rad) are off at a sample of the stream, modulo what cannot be known."""
        sector = 2 * math.pi / symmetry
        timing = (self.timing - sample) / self.step - (truth.timing - sample) / truth.step
        return timing - round(timing), math.remainder(self.phase_at(sample) - truth.phase_at(sample), sector)

    def side(self, start: int, sps: float) -> tuple[float, float, float, float]:
        """Side information of RrcSync, nominally of sps samples per symbol, for a window from sample `start` on."""
        ahead = math.ceil((start - self.timing) / self.step) * self.step + self.timing - start
        return ahead, self.phase_at(start), self.frequency, self.step / sps - 1

    def phase_at(self, sample: float) -> float:
        """Phase at a sample of the stream, rad, -pi .. pi."""
        turns = (sample - self.timing) * self.frequency + self.phase / (2 * math.pi)
        return 2 * math.pi * (turns - round(turns))


class Synchroniser:
    """Estimates Sync from stretches of a signal.

    constellation: a name from constellation.NAMES. sps: nominal samples per symbol, >= 2. rolloff: 0 .. 1; below 0.1
    the timing has next to no line.
    """

    OVERSAMPLING = 8  # of the symbol rate: enough for cubic interpolation

    def __init__(self, constellation: str, sps: float, rolloff: float):
        self.sps, self.rolloff = sps, rolloff
        self.symmetry = cons.SYMMETRY[constellation]
        #: Largest frequency offset that is looked for, as a share of the symbol rate.
        self.most_offset = min(MOST_OFFSET, 0.4 / self.symmetry)
        self.slack = self.most_offset / 0.92
        points = cons.points(constellation).astype(complex)
        #: Argument of the constellation's M-th moment: 0, or pi where it lies on the negative axis.
        self.turn = 0.0 if np.mean(points**self.symmetry).real > 0 else math.pi

    def estimate(self, samples: np.ndarray, start: int, near: Optional[Sync] = None, joint: int = 0
                 ) -> Optional[Sync]:
        """Synchronisation of samples complex64 [n], the stream from sample `start` on; None for too few of them.

        near: what was found before. Then the search is for frequencies close by, and the branch of the phase is the one
        that continues it at the stream's sample `joint`. Look at `certain` before the result is used.
        """
        if len(samples) < 64 * self.sps:
            return None
        least = math.log((2 * self.symmetry * self.slack * len(samples) / self.sps + 1) / FALSE_ALARM)
        if near is not None:
            found = self._around(samples, start, near.frequency, least)
            return None if found is None else self._same_branch(found, near, joint)
        wave, rate, _ = self._filter(samples, 0.0)  # first find where the filter belongs
        timing, step, _ = self._timing(wave, rate)
        symbols, _ = _interpolate(wave, timing, step)
        if len(symbols) < 32:
            return None
        found = [self._around(samples, start, deviation * rate / step, least)
                 for deviation in self._carriers(symbols)]
        return max((f for f in found if f is not None), key=lambda f: f.strength, default=None)

    def _around(self, samples: np.ndarray, start: int, offset: float, least: float) -> Optional[Sync]:
        """Synchronisation with the filter at a frequency (cycles/sample); None for too few samples."""
        wave, rate, centre = self._filter(samples, offset)
        timing, step, timing_line = self._timing(wave, rate)
        symbols, middle = _interpolate(wave, timing, step)
        if len(symbols) < 32:
            return None
        deviation, phase, phase_line = self._carrier(symbols, middle, 0.01)
        # The filter turned the samples by its centre, counted from the stretch's first sample.
        place = (timing + middle * step) / rate
        phase = math.remainder(phase + 2 * math.pi * centre * place, 2 * math.pi)
        return Sync(start + place, step / rate, phase, centre + deviation * rate / step,
                    min(timing_line, phase_line), least, timing_line, len(symbols))

    def timing(self, samples: np.ndarray, start: int) -> Sync:
        """Timing, and the frequency to a hundredth of the symbol rate, of samples complex64 as in estimate().

        The timing's line is strongest behind the filter that lies where the signal is. The phase is left at 0.
        """
        offsets = np.linspace(-1.2, 1.2, 25) * self.most_offset / self.sps
        lines = np.array([self._timing(*self._filter(samples, offset)[:2])[2] for offset in offsets])
        offset = float(np.interp(_vertex(lines), np.arange(len(offsets)), offsets))
        wave, rate, _ = self._filter(samples, offset)
        timing, step, line = self._timing(wave, rate)
        return Sync(start + timing / rate, step / rate, 0.0, offset, 0.0, 1.0, line)

    def _same_branch(self, found: Sync, near: Sync, joint: int) -> Sync:
        """The same with the branch of the phase that continues `near` at sample `joint`."""
        sector = 2 * math.pi / self.symmetry
        turns = round((near.phase_at(joint) - found.phase_at(joint)) / sector)
        return replace(found, phase=found.phase + sector * turns)

    def _filter(self, samples: np.ndarray, offset: float) -> tuple[np.ndarray, float, float]:
        """Matched filter around `offset` (cycles/sample), at about 8 samples per symbol.

        Returns the signal around 0 Hz, complex64; its samples per sample of the input; the filter's centre.
        """
        count = scipy.fft.next_fast_len(len(samples))
        spectrum = scipy.fft.fft(samples - np.complex64(samples.mean()), count)  # a receiver's DC would be a line too
        shift = round(offset * count)
        half = min(math.ceil(0.5 * (1 + self.rolloff) / self.sps * count), (count - 1) // 2)
        bins = np.arange(-half, half + 1)
        away = np.clip((np.abs(bins) * (self.sps / count) - 0.5 * (1 - self.rolloff)) / max(self.rolloff, 1e-9), 0, 1)
        length = scipy.fft.next_fast_len(max(2 * half + 1, math.ceil(count / self.sps * self.OVERSAMPLING)))
        band = np.zeros(length, np.complex64)
        band[bins] = spectrum[(bins + shift) % count] * np.cos(0.5 * math.pi * away)
        rate = length / count
        wave = scipy.fft.ifft(band)[:math.floor(len(samples) * rate)] * np.float32(rate)
        # Where the interference is strong, the signal is worth less: the noise of both lines' summands, of the size
        # |z|^2, grows with the power. Not the other way round: where there is little power the SOI may pause.
        size = 32 * self.OVERSAMPLING
        power = np.square(np.abs(wave[:len(wave) // size * size])).reshape(-1, size).mean(1)
        level = np.interp(np.arange(len(wave)), (np.arange(len(power)) + 0.5) * size, power / (power.mean() + 1e-30))
        return wave / np.maximum(level, 0.5).astype(np.float32), rate, shift / count

    def _timing(self, wave: np.ndarray, rate: float) -> tuple[float, float, float]:
        """Centre of a symbol and samples per symbol, both in samples of `wave`, and the strength of the line."""
        power = np.square(np.abs(wave))
        power -= power.mean()
        size = scipy.fft.next_fast_len(4 * len(power), real=True)
        spectrum = scipy.fft.rfft(power, size)
        nominal = size / (self.sps * rate)
        slack = nominal * 1.5e-6 * MOST_PPM + 2
        low, high = math.floor(nominal - slack), math.ceil(nominal + slack)
        line = np.abs(spectrum[low:high + 1])
        around = np.abs(spectrum[math.floor(0.8 * nominal):math.ceil(1.2 * nominal)]) ** 2
        peak = low + _vertex(line)
        strength = line.max() ** 2 / (np.median(around) / math.log(2) + 1e-30)
        frequency = peak / size
        total = np.vdot(np.exp(2j * math.pi * frequency * np.arange(len(power))), power)
        return -np.angle(total) / (2 * math.pi * frequency) % (1 / frequency), 1 / frequency, float(strength)

    def _carriers(self, symbols: np.ndarray) -> list[float]:
        """The CANDIDATES strongest frequencies (cycles/symbol) of the M-th power, or fewer, at least one.

        Interference whose symbols are a few of the signal's long puts lines beside the signal's.
        """
        _, line, size = self._line(symbols, self.slack)
        reach, apart = len(line) // 2, math.ceil(0.02 * self.symmetry * size)
        line, found = line.copy(), []
        while not found or (len(found) < CANDIDATES and line.any()):
            i = int(np.argmax(line))
            found.append((i - reach) / size / self.symmetry)
            line[max(0, i - apart):i + apart + 1] = 0
        return found

    def _line(self, symbols: np.ndarray, slack: float) -> tuple[np.ndarray, np.ndarray, int]:
        """The M-th power of symbols, its spectrum's magnitude at -M slack .. M slack, and how many bins are a cycle."""
        # Of size |z|^2 rather than |z|^M, where a few large values drown 8PSK's line.
        magnitude = np.abs(symbols) + 1e-30
        power = (symbols / magnitude) ** self.symmetry * magnitude**2
        size = scipy.fft.next_fast_len(4 * len(power))
        reach = min(math.ceil(self.symmetry * slack * size), size // 2 - 1)
        return power, np.abs(scipy.fft.fft(power, size)[np.arange(-reach, reach + 1)]), size

    def _carrier(self, symbols: np.ndarray, middle: int, slack: float) -> tuple[float, float, float]:
        """Frequency (cycles/symbol, -slack .. slack), phase at symbol `middle`, strength of the line."""
        power, line, size = self._line(symbols, slack)
        reach = len(line) // 2
        strength = line.max() ** 2 / (np.median(line**2) / math.log(2) + 1e-30)
        frequency = (_vertex(line) - reach) / size
        total = np.vdot(np.exp(2j * math.pi * frequency * (np.arange(len(power)) - middle)), power)
        return frequency / self.symmetry, (np.angle(total) - self.turn) / self.symmetry, float(strength)


def _vertex(line: np.ndarray) -> float:
    """Place of the highest value of a line, by the parabola through it and its neighbours."""
    i = int(np.argmax(line))
    if not 0 < i < len(line) - 1:
        return float(i)
    left, top, right = (float(v) for v in line[i - 1:i + 2])
    return i + 0.5 * (left - right) / min(left - 2 * top + right, -1e-30)


def _interpolate(wave: np.ndarray, first: float, step: float) -> tuple[np.ndarray, int]:
    """Values of `wave` at first, first + step, ..., by cubic interpolation; and the number of the middle one."""
    place = first + step * np.arange(max(0, math.floor((len(wave) - 2 - first) / step)))
    place = place[place >= 1]
    whole = place.astype(np.int64)
    u = place - whole
    value = (-u * (u - 1) * (u - 2) / 6 * wave[whole - 1] + (u + 1) * (u - 1) * (u - 2) / 2 * wave[whole]
             - (u + 1) * u * (u - 2) / 2 * wave[whole + 1] + (u + 1) * u * (u - 1) / 6 * wave[whole + 2])
    return value, len(value) // 2
