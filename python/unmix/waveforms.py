# SPDX-License-Identifier: GPL-3.0-or-later
"""Waves of a simulated capture: functions of the sample's number, read piece by piece.

Random numbers belong to chunks of fixed size, each with a generator of its own, so that pieces of any size join without
a seam and memory does not grow with the length.
"""

import math
from collections.abc import Callable, Iterator
from typing import Optional

import numpy as np
import scipy.integrate

from . import priors
from .captures import Capture, CaptureError, open_capture
from .priors import constellation as cons
from .priors.cp_ofdm import active_carriers

BLOCK = 1 << 16  # samples worked on at a time
MOST_BURSTS = 10000


class RandomSequence:
    """Random rows 0, 1, 2, ..., the same however they are read.

    key: non-negative integers that tell this sequence from others. size: rows of a chunk. draw: makes a chunk, an array
    [size, ...], from a generator.
    """

    def __init__(self, key: tuple[int, ...], size: int, draw: Callable[[np.random.Generator], np.ndarray]):
        self.size = size
        self._key, self._draw = key, draw
        self._chunks: dict[int, np.ndarray] = {}  # the last two: pieces seldom begin where a chunk does

    def chunk(self, number: int) -> np.ndarray:
        """Chunk `number` (0, 1, ...), [size, ...]; not to be changed."""
        if number not in self._chunks:
            if len(self._chunks) > 1:
                del self._chunks[next(iter(self._chunks))]
            self._chunks[number] = self._draw(np.random.default_rng([*self._key, number]))
        return self._chunks[number]

    def read(self, start: int, count: int) -> np.ndarray:
        """Rows start .. start + count, start >= 0."""
        first, last = start // self.size, max(start + count - 1, start) // self.size
        rows = np.concatenate([self.chunk(i) for i in range(first, last + 1)])
        return rows[start - first * self.size:][:count]


class RootRaisedCosine:
    """The root-raised-cosine pulse h(t) of unit energy, t in symbols, cut off beyond +- span / 2.

    rolloff: 0 .. 1. span: symbols.
    """

    def __init__(self, rolloff: float, span: int):
        self.rolloff, self.span = rolloff, span
        self.reach = math.ceil(span / 2)
        self._level = 1.0
        grid = np.linspace(-span / 2, span / 2, 1024 * span + 1)
        self._level = 1 / math.sqrt(scipy.integrate.simpson(self(grid) ** 2, x=grid))

    def __call__(self, t: np.ndarray) -> np.ndarray:
        """h at times t, float64 of any shape."""
        t, beta = np.asarray(t, np.float64), self.rolloff
        x = 4 * beta * t
        with np.errstate(divide="ignore", invalid="ignore"):
            h = (np.sin(np.pi * t * (1 - beta)) + x * np.cos(np.pi * t * (1 + beta))) / (np.pi * t * (1 - x * x))
        h = np.where(np.abs(t) < 1e-7, 1 - beta + 4 * beta / np.pi, h)
        if beta > 0:  # the other removable pole
            corner = beta / math.sqrt(2) * ((1 + 2 / np.pi) * np.sin(np.pi / (4 * beta))
                                            + (1 - 2 / np.pi) * np.cos(np.pi / (4 * beta)))
            h = np.where(np.abs(np.abs(x) - 1) < 1e-7, corner, h)
        return np.where(np.abs(t) <= self.span / 2 + 1e-9, h * self._level, 0)

    def taps(self, u: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """All (j, h(u + j)) that are not zero for u in [0, 1), float64 [n]: four sines for all j together."""
        beta = self.rolloff
        slow, fast = np.pi * (1 - beta), np.pi * (1 + beta)
        sine, cosine = (np.sin(slow * u), np.sin(fast * u)), (np.cos(slow * u), np.cos(fast * u))
        for j in range(-self.reach - 1, self.reach + 1):
            t = u + j
            x = 4 * beta * t
            below = np.pi * t * (1 - x * x)
            above = sine[0] * math.cos(slow * j) + cosine[0] * math.sin(slow * j)
            above += x * (cosine[1] * math.cos(fast * j) - sine[1] * math.sin(fast * j))
            near = np.flatnonzero(np.abs(below) < 1e-4)  # the poles
            below[near] = 1
            h = above * (self._level / below)
            h[near] = self(t[near])
            if abs(j) >= self.span // 2 - 1:
                h[np.abs(t) > self.span / 2 + 1e-9] = 0
            yield j, h


class Bursts:
    """Random stretches that are on and off in turn, exponentially distributed.

    on, off: mean lengths, samples. length: of all, samples. Raises ValueError for lengths that are not positive and
    for more than MOST_BURSTS bursts.
    """

    def __init__(self, on: float, off: float, length: int, key: tuple[int, ...]):
        if not (on >= 1 and off >= 1 and math.isfinite(on + off)):
            raise ValueError(f"bursts of {on:g} samples and gaps of {off:g} are impossible; both must be at least one "
                             "sample long on average")
        if length > MOST_BURSTS * (on + off):
            raise ValueError(f"bursts of {on:g} samples and gaps of {off:g} are about {length / (on + off):.0f} "
                             f"bursts; allowed are {MOST_BURSTS}")
        rng = np.random.default_rng(key)
        begins_on, edges, at = bool(rng.random() < on / (on + off)), [0], 0.0
        state = begins_on
        while at < length:
            at += 1 + rng.exponential(on if state else off)
            edges.append(math.floor(at))
            state = not state
        self.length, self._begins_on, self._edges = length, begins_on, np.array(edges)

    def on(self, samples: np.ndarray) -> np.ndarray:
        """Whether it is on at the given samples (before the first one and after the last as there): bool."""
        place = np.searchsorted(self._edges, np.clip(samples, 0, self.length - 1), "right") - 1
        return (place % 2 == 0) == self._begins_on

    def stretches(self) -> list[tuple[int, int]]:
        """(first sample, samples) of each burst."""
        edges = np.minimum(self._edges, self.length)
        pairs = zip(edges[:-1], edges[1:], strict=True)
        return [(int(a), int(b - a)) for i, (a, b) in enumerate(pairs) if (i % 2 == 0) == self._begins_on and b > a]


def rotation(frequency: float, phase: float, start: int, count: int) -> np.ndarray:
    """exp(i (2 pi frequency n + phase)) for samples n = start .. start + count, complex128; frequency in cycles/sample.

    In pieces of BLOCK at fixed places, so that a sample's value does not depend on where the reading began.
    """
    wave = np.empty(count, np.complex128)
    step = np.exp(2j * np.pi * frequency * np.arange(BLOCK))
    for number in range(start // BLOCK, (start + max(count, 1) - 1) // BLOCK + 1):
        begin, end = max(number * BLOCK, start), min((number + 1) * BLOCK, start + count)
        turns = math.fmod(frequency * number * BLOCK, 1.0)
        wave[begin - start:end - start] = step[begin - number * BLOCK:end - number * BLOCK] * np.exp(
            1j * (2 * np.pi * turns + phase))
    return wave


class PhaseNoise:
    """The phase of a free-running oscillator, a Wiener process of Lorentzian line; 0 at sample 0.

    linewidth: full width of the line at half its power, cycles/sample.
    """

    def __init__(self, linewidth: float, key: tuple[int, ...]):
        spread = math.sqrt(2 * np.pi * linewidth)
        self._walks = RandomSequence(key, BLOCK, lambda rng: np.cumsum(spread * rng.standard_normal(BLOCK)))
        self._begins = [0.0]  # the phase at which each chunk begins

    def read(self, start: int, count: int) -> np.ndarray:
        """Phase of samples start .. start + count, radians, float64."""
        last = (start + max(count, 1) - 1) // BLOCK
        while len(self._begins) <= last:
            self._begins.append(self._begins[-1] + self._walks.chunk(len(self._begins) - 1)[-1])
        phase = self._walks.read(start, count)
        return phase + np.array(self._begins)[np.arange(start, start + count) // BLOCK]


class LinearModulation:
    """s(n) = exp(i (2 pi f n + phase)) sum_k a_k h((n - timing) / sps - k), unit power, k from minus to plus infinity.

    constellation: of a_k, see constellation.NAMES. pulse: h. sps: samples per symbol, any number. timing: centre of
    symbol 0, samples. phase: radians, at sample 0. frequency: f, cycles/sample. key: of the random bits. bursts:
    symbols whose centres lie outside are not sent. phase_noise: added to the phase.
    """

    CHUNK = 4096

    def __init__(self, constellation: str, pulse: RootRaisedCosine, sps: float, timing: float, phase: float,
                 frequency: float, key: tuple[int, ...], bursts: Optional[Bursts] = None,
                 phase_noise: Optional[PhaseNoise] = None):
        self.constellation, self.pulse, self.sps, self.timing = constellation, pulse, sps, timing
        self.phase, self.frequency, self.bursts, self.phase_noise = phase, frequency, bursts, phase_noise
        self.bits_per_symbol = cons.bits_per_symbol(constellation)
        shape = (self.CHUNK, self.bits_per_symbol)
        self._bits = RandomSequence(key, self.CHUNK, lambda rng: rng.integers(0, 2, shape, np.uint8))
        self._ahead = 2 * pulse.span + 2  # row 0 of the random bits is symbol -ahead

    def bits(self, first: int, count: int) -> np.ndarray:
        """Bits of symbols first .. first + count, uint8 [count, bits per symbol]."""
        return self._bits.read(first + self._ahead, count)

    def points(self, first: int, count: int) -> np.ndarray:
        """Symbols first .. first + count as sent, complex128 [count]; 0 between bursts."""
        points = cons.modulate(self.bits(first, count), self.constellation)[:, 0].astype(np.complex128)
        if self.bursts is not None:
            points *= self.bursts.on(np.floor(self.timing + np.arange(first, first + count) * self.sps))
        return points

    def turn(self, start: int, count: int) -> np.ndarray:
        """exp(i (2 pi f n + phase)) of samples start .. start + count, with phase noise, complex128."""
        turn = rotation(self.frequency, self.phase, start, count)
        if self.phase_noise is not None:
            turn *= np.exp(1j * self.phase_noise.read(start, count))
        return turn

    def read(self, start: int, count: int) -> np.ndarray:
        """Samples start .. start + count, complex128."""
        if not count:
            return np.zeros(0, np.complex128)
        position = (np.arange(start, start + count) - self.timing) / self.sps
        symbol = np.floor(position).astype(np.int64)
        first = int(symbol[0]) - self.pulse.reach - 1
        points = self.points(first, int(symbol[-1]) + self.pulse.reach + 2 - first)
        wave = np.zeros(count, np.complex128)
        for j, h in self.pulse.taps(position - symbol):
            wave += h * points[symbol - (j + first)]
        return wave * self.turn(start, count)

    def count_symbols(self, length: int) -> int:
        """Symbols 0, 1, ... whose centres lie before sample `length`."""
        return max(0, math.ceil((length - self.timing) / self.sps))

    def matched_filter(self, read: Callable[[int, int], np.ndarray], length: int) -> np.ndarray:
        """What a receiver that knows everything makes of a wave: symbols complex128 [count_symbols(length)].

        read(start, count): the wave's samples; zeros are taken beyond 0 .. length.
        """
        count, reach = self.count_symbols(length), math.ceil(self.pulse.span / 2 * self.sps) + 1
        symbols, offsets = np.zeros(count, np.complex128), np.arange(-reach, reach + 1)
        step = max(1, BLOCK // len(offsets))
        for first in range(0, count, step):
            centre = self.timing + np.arange(first, min(first + step, count)) * self.sps
            sample = np.floor(centre).astype(np.int64)[:, None] + offsets
            begin, end = max(int(sample[0, 0]), 0), min(int(sample[-1, -1]) + 1, length)
            wave = read(begin, end - begin) * self.turn(begin, end - begin).conj()
            inside = (sample >= begin) & (sample < end)
            weight = self.pulse((sample - centre[:, None]) / self.sps) * inside / self.sps
            symbols[first:first + step] = np.sum(weight * wave[np.clip(sample - begin, 0, end - begin - 1)], 1)
        return symbols


class CpOfdm:
    """CP-OFDM of unit power with random points, a random start and a random phase, from `cp-ofdm:...`.

    Raises ValueError (PriorError) for a specification that is malformed or of another kind.
    """

    CHUNK = 512  # OFDM symbols

    def __init__(self, spec: str, key: tuple[int, ...]):
        if not spec.startswith("cp-ofdm:"):
            raise ValueError(f"'{spec}' cannot be simulated; interference is cp-ofdm:..., or a recording")
        module = priors.parse(spec).module
        fft, cp, self._period = module.fft, module.cp, module.fft + module.cp
        carriers, name = active_carriers(fft, module.active), module.constellation
        rng = np.random.default_rng([*key, 0])
        self.start, self.phase = int(rng.integers(self._period)), float(rng.uniform(0, 2 * np.pi))
        turn, size = np.exp(1j * self.phase), max(1, self.CHUNK * 80 // self._period)

        def draw(rng):
            bits = rng.integers(0, 2, (size, len(carriers) * cons.bits_per_symbol(name)), np.uint8)
            spectrum = np.zeros((size, fft), np.complex128)
            spectrum[:, carriers] = cons.modulate(bits, name)
            body = np.fft.ifft(spectrum) * (fft / math.sqrt(len(carriers)) * turn)
            return np.concatenate([body[:, fft - cp:], body], 1).reshape(-1)
        self._wave = RandomSequence((*key, 1), size * self._period, draw)

    def read(self, start: int, count: int) -> np.ndarray:
        """Samples start .. start + count, complex128."""
        return self._wave.read(start + self._period - self.start, count)

    def truth(self) -> dict:
        """What there is to know: the first symbol boundary (samples) and the phase (radians)."""
        return {"start": self.start, "phase_rad": self.phase}


class RecordedWave:
    """A recording at unit power, from its beginning to its end and over again.

    Raises ValueError (CaptureError) for one that cannot be read or is silent.
    """

    def __init__(self, path: str):
        self.capture: Capture = open_capture(path)
        energy = sum(float(np.sum(np.abs(self.capture.read(s, BLOCK)).astype(np.float64) ** 2))
                     for s in range(0, self.capture.length, BLOCK))
        if not energy > 0:
            raise CaptureError(f"{path} is silent: interference must have some power.")
        self._gain = math.sqrt(self.capture.length / energy)

    def read(self, start: int, count: int) -> np.ndarray:
        """Samples start .. start + count, complex128."""
        length, pieces = self.capture.length, []
        while count:
            place = start % length
            pieces.append(self.capture.read(place, min(count, length - place)))
            start, count = start + len(pieces[-1]), count - len(pieces[-1])
        return np.concatenate(pieces or [np.zeros(0)]).astype(np.complex128) * self._gain

    def truth(self) -> dict:
        """What there is to know: the recording's length (samples) and gain."""
        return {"recording_samples": self.capture.length, "gain": self._gain}
