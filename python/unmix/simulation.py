# SPDX-License-Identifier: GPL-3.0-or-later
"""A simulated capture with each impairment as a parameter, of any length, read piece by piece; see waveforms."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np

from . import signals
from .priors import constellation as cons
from .waveforms import (
    BLOCK,
    Bursts,
    CpOfdm,
    LinearModulation,
    PhaseNoise,
    RandomSequence,
    RecordedWave,
    RootRaisedCosine,
    rotation,
)

DEFAULT_INTERFERENCE = "cp-ofdm:qpsk,fft=64,cp=16,active=56"
FORMAT_BITS = {"cf32": None, "ci16": 16, "ci8": 8}


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
