# SPDX-License-Identifier: GPL-3.0-or-later
"""A simulated capture with each impairment as a parameter, of any length, read piece by piece.

Every wave is a function of the sample's number: random numbers belong to chunks of fixed size, each with a generator of
its own, so that pieces of any size join without a seam and memory does not grow with the length.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np
import scipy.integrate

from . import priors, signals
from .captures import Capture, CaptureError, open_capture
from .priors import constellation as cons
from .priors.cp_ofdm import active_carriers

BLOCK = 1 << 16  # samples worked on at a time
DEFAULT_INTERFERENCE = "cp-ofdm:qpsk,fft=64,cp=16,active=56"
FORMAT_BITS = {"cf32": None, "ci16": 16, "ci8": 8}
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


@dataclass(frozen=True)
class Parameters:
    """Everything about a simulated capture; the defaults are a capture without any impairment.

    modulation: bpsk, qpsk, 8psk, 16qam. sps: samples per symbol, >= 2. rolloff: 0 .. 1. span: symbols. timing: centre
    of the first symbol, samples, 0 <= timing < sps (None: floor(sps / 2), where rrc:... takes it to be). phase:
    degrees, at sample 0. carrier_offset: of the SOI, fraction of the symbol rate. symbol_rate_ppm: how much faster than
    1/sps symbols come. phase_noise: width of the SOI's line at half power, Hz.

    interference: cp-ofdm:... or recordings, of equal power; none: no interference. sir_db: the SOI over all of it,
    while it is on. interference_offset: Hz. interference_bursts, soi_bursts: mean seconds on and off, or None.
    snr_db: the SOI over white noise in the whole band; inf: none.

    iq_gain_db, iq_phase_deg: of Q against I. dc: offset relative to the rms value of everything, of random direction.
    clip: share of samples of which I or Q is cut off. bits: resolution, None: the format's. format: cf32, ci16, ci8.
    Integers, and floats with `bits`, are scaled to full scale; other floats have an SOI of unit power.

    samples: length, or symbols, or None: 10000 symbols or the longest recording. sample_rate: samples/s, or None: the
    recording's, or 20e6. seed: of all random numbers.
    """

    modulation: str = "qpsk"
    sps: float = 16
    rolloff: float = 0.5
    span: int = 8
    timing: Optional[float] = None
    phase: float = 0.0
    carrier_offset: float = 0.0
    symbol_rate_ppm: float = 0.0
    phase_noise: float = 0.0
    interference: tuple[str, ...] = (DEFAULT_INTERFERENCE,)
    sir_db: float = 0.0
    interference_offset: float = 0.0
    interference_bursts: Optional[tuple[float, float]] = None
    soi_bursts: Optional[tuple[float, float]] = None
    snr_db: float = math.inf
    iq_gain_db: float = 0.0
    iq_phase_deg: float = 0.0
    dc: float = 0.0
    clip: float = 0.0
    bits: Optional[int] = None
    format: str = "cf32"
    samples: Optional[int] = None
    sample_rate: Optional[float] = None
    seed: int = 0

    def __post_init__(self):
        cons.points(self.modulation)  # refuses unknown names
        for name, low, high in (
                ("sps", 2, 1024), ("rolloff", 0, 1), ("span", 2, 256), ("phase", -1e6, 1e6),
                ("carrier_offset", -0.5, 0.5), ("symbol_rate_ppm", -1000, 1000), ("sir_db", -100, 100),
                ("iq_gain_db", -20, 20), ("iq_phase_deg", -45, 45), ("dc", 0, 10), ("bits", 2, 16),
                ("samples", 16, 10**12), ("sample_rate", 1, 1e12), ("seed", 0, 2**63 - 1)):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} {value:g} is impossible; allowed is {low:g} to {high:g}")
        if not self.snr_db >= -100:
            raise ValueError(f"snr_db {self.snr_db:g} is impossible; allowed is -100 or more, or inf for no noise")
        if not 0 <= self.clip <= 0.5:
            raise ValueError(f"clip {self.clip:g} is impossible; allowed is a share of samples from 0 to 0.5")
        if self.timing is not None and not 0 <= self.timing < self.sps:
            raise ValueError(f"timing {self.timing:g} is impossible; the first symbol's centre lies at 0 to less than "
                             f"{self.sps:g} samples, one symbol")
        if self.format not in FORMAT_BITS:
            raise ValueError(f"unknown format '{self.format}'; allowed are {', '.join(FORMAT_BITS)}")
        most = FORMAT_BITS[self.format]
        if most and self.bits and self.bits > most:
            raise ValueError(f"{self.bits} bits do not fit into {self.format}; allowed are 2 to {most}")
        edge = (abs(self.carrier_offset) + (1 + self.rolloff) / 2) / self.sps
        if edge > 0.5 + 1e-9:
            raise ValueError(f"the signal reaches to {edge:.3g} cycles/sample with carrier_offset "
                             f"{self.carrier_offset:g}, rolloff {self.rolloff:g} and sps {self.sps:g}; at most 0.5 is "
                             "allowed")


class SimulatedCapture:
    """A capture with its truth; see Parameters.

    Attributes: length (samples), sample_rate, soi (LinearModulation), symbols (whose centres lie inside), threshold
    and scale (of the converter, None until measure() was called; a file's samples are scale times those here).
    Raises ValueError (CaptureError, PriorError) with one sentence for what does not fit together.
    """

    _SOI, _NOISE, _PHASE, _DC, _SOI_BURSTS, _OTHERS = range(6)

    def __init__(self, parameters: Parameters):
        p = self.parameters = parameters
        recordings = {text: RecordedWave(text) for text in p.interference if not text.startswith("cp-ofdm:")}
        self.sample_rate = self._rate(recordings)
        if not abs(p.interference_offset) <= self.sample_rate / 2:
            raise ValueError(f"interference_offset {p.interference_offset:g} is impossible; allowed is up to half the "
                             f"sample rate, {self.sample_rate / 2:g} Hz, either way")
        if not 0 <= p.phase_noise <= self.sample_rate / 100:
            raise ValueError(f"phase_noise {p.phase_noise:g} is impossible; allowed is 0 to a hundredth of the sample "
                             f"rate, {self.sample_rate / 100:g} Hz")
        longest = max((r.capture.length for r in recordings.values()), default=0)
        self.length = p.samples or longest or math.floor(10000 * p.sps)

        linewidth = p.phase_noise / self.sample_rate
        self.soi = LinearModulation(
            p.modulation, RootRaisedCosine(p.rolloff, p.span), p.sps / (1 + 1e-6 * p.symbol_rate_ppm),
            float(p.sps // 2) if p.timing is None else p.timing, math.radians(p.phase), p.carrier_offset / p.sps,
            (p.seed, self._SOI), self._bursts(p.soi_bursts, self._SOI_BURSTS),
            PhaseNoise(linewidth, (p.seed, self._PHASE)) if linewidth else None)
        self.symbols = self.soi.count_symbols(self.length)
        self.interference = [recordings.get(text) or CpOfdm(text, (p.seed, self._OTHERS, i))
                             for i, text in enumerate(p.interference)]
        self._gates = [self._bursts(p.interference_bursts, self._OTHERS, i) for i in range(len(p.interference))]
        #: Amplitude of each interferer beside the SOI's 1, and the noise's variance.
        self.kappa = signals.kappa(p.sir_db) / math.sqrt(max(1, len(p.interference)))
        self.noise_variance = 10 ** (-p.snr_db / 10)
        noise = math.sqrt(self.noise_variance / 2)
        self._noise = RandomSequence((p.seed, self._NOISE), BLOCK, lambda rng: np.float32(noise) * rng.standard_normal(
            (BLOCK, 2), np.float32))

        gain, angle = 10 ** (p.iq_gain_db / 20), math.radians(p.iq_phase_deg)
        direct, image = (1 + gain * np.exp(1j * angle)) / 2, (1 - gain * np.exp(-1j * angle)) / 2
        self.image = complex(image / direct)  # relative to the direct part, which keeps its level and phase
        power = 1 + self.kappa**2 * len(p.interference) + self.noise_variance
        direction = np.random.default_rng([p.seed, self._DC]).uniform(0, 2 * np.pi)
        self.dc = complex(p.dc * math.sqrt(power) * np.exp(1j * direction))
        self.resolution = p.bits or FORMAT_BITS[p.format]
        self.threshold: Optional[float] = None
        self.scale: Optional[float] = None

    def _rate(self, recordings: dict[str, RecordedWave]) -> float:
        rate = self.parameters.sample_rate
        for text, recording in recordings.items():
            own = recording.capture.sample_rate
            if rate and own and abs(own / rate - 1) > 1e-6:
                raise ValueError(f"the recording {text} has {own:g} samples/s, not {rate:g}; all interference must "
                                 "have the capture's sample rate")
            rate = rate or own
        return float(rate or 20e6)

    def _bursts(self, seconds: Optional[tuple[float, float]], *key: int) -> Optional[Bursts]:
        if seconds is None:
            return None
        on, off = (s * self.sample_rate for s in seconds)
        return Bursts(on, off, self.length, (self.parameters.seed, *key, 2))

    def received(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Samples start .. start + count in front of the converter, and the SOI alone, of power 1: complex128."""
        soi = self.soi.read(start, count)
        mixture = soi.copy()
        offset = self.parameters.interference_offset / self.sample_rate
        turn = self.kappa * (rotation(offset, 0.0, start, count) if offset else 1)
        for wave, gate in zip(self.interference, self._gates, strict=True):
            piece = wave.read(start, count) * turn
            mixture += piece if gate is None else piece * gate.on(np.arange(start, start + count))
        if self.noise_variance:
            mixture += np.ascontiguousarray(self._noise.read(start, count)).view(np.complex64)[:, 0]
        if self.image:
            mixture += self.image * mixture.conj()
        return mixture + self.dc, soi

    def measure(self, progress: Callable[[int], None] = lambda samples: None) -> None:
        """Set the converter's threshold and scale, for which integers and clipping need a pass over the capture.

        progress: called with the number of samples after each piece.
        """
        p = self.parameters
        self.threshold, self.scale = math.inf, 1.0
        if self.resolution is None and not p.clip:
            return
        # Positive floats have the order of their bits: those without the lowest 11 number bins 0.02 % wide.
        counts, peak = np.zeros(1 << 20, np.int64), 0.0
        for start in range(0, self.length, BLOCK):
            mixture, _ = self.received(start, min(BLOCK, self.length - start))
            largest = np.maximum(np.abs(mixture.real), np.abs(mixture.imag))
            peak = max(peak, float(largest.max()))
            if p.clip:
                bins, number = np.unique(largest.astype(np.float32).view(np.uint32) >> 11, return_counts=True)
                counts[bins] += number
            progress(len(mixture))
        if not peak > 0:
            raise ValueError("the capture is silent: nothing was sent; allow longer bursts, interference or noise")
        self.threshold = peak
        if p.clip:
            beyond = np.cumsum(counts[::-1])[::-1]  # samples in this bin and above
            edge = int(np.searchsorted(-beyond, -p.clip * self.length))  # the first with no more than wanted
            self.threshold = float(np.uint32(edge << 11).view(np.float32))
        if self.resolution:
            self.scale = (1 - 2.0 ** (1 - self.resolution)) / self.threshold

    def read(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The capture's samples start .. start + count and the SOI alone in the same units, complex64. After measure().

        With a resolution of b bits, I and Q are whole multiples of 2^(1 - b).
        """
        mixture, soi = self.received(start, count)
        parts = mixture.view(np.float64)
        np.clip(parts, -self.threshold, self.threshold, out=parts)
        parts *= self.scale
        if self.resolution:
            steps = 2.0 ** (self.resolution - 1)
            parts[:] = np.round(parts * steps) / steps
        return mixture.astype(np.complex64), (soi * self.scale).astype(np.complex64)

    def truth(self) -> dict:
        """Everything that was simulated, as JSON values; levels in the file's units. After measure()."""
        p, scale = self.parameters, self.scale
        others = [{"spec": text, "amplitude": self.kappa * scale} | wave.truth()
                  for text, wave in zip(p.interference, self.interference, strict=True)]
        plain = {k: v for k, v in dataclasses.asdict(p).items() if v != math.inf}
        plain["interference"] = [text if text.startswith("cp-ofdm:") else Path(text).name for text in p.interference]
        for other, name in zip(others, plain["interference"], strict=True):
            other["spec"] = name
        return {
            "parameters": plain, "samples": self.length, "sample_rate": self.sample_rate,
            "soi": {"modulation": p.modulation, "samples_per_symbol": self.soi.sps, "rolloff": p.rolloff,
                    "span": p.span, "timing": self.soi.timing, "phase_rad": self.soi.phase,
                    "frequency": self.soi.frequency, "amplitude": scale, "symbols": self.symbols,
                    "bits": self.symbols * self.soi.bits_per_symbol},
            "interference": others, "interference_frequency": p.interference_offset / self.sample_rate,
            "noise_power": self.noise_variance * scale**2, "image": [self.image.real, self.image.imag],
            "dc": [self.dc.real * scale, self.dc.imag * scale], "scale": scale,
            "clipped_beyond": self.threshold * scale if p.clip else None, "resolution_bits": self.resolution}

    def annotations(self) -> list[dict]:
        """SigMF annotations of the bursts."""
        gates = [("soi", self.soi.bursts)] + [(f"interference{i + 1}", gate) for i, gate in enumerate(self._gates)]
        return [{"core:sample_start": start, "core:sample_count": count, "core:label": name}
                for name, gate in gates if gate is not None for start, count in gate.stretches()]
