# SPDX-License-Identifier: GPL-3.0-or-later
"""What benchmark.py mixes: an SOI with known bits, simulated OFDM, and windows of recordings."""

import math

import numpy as np
import scipy.signal
import torch
from gnuradio.unmix import captures, demodulation, priors, signals
from gnuradio.unmix.priors import constellation as cons
from gnuradio.unmix.priors.rrc import pulse_at, taps


class SoiSignal:
    """A linear modulation with known bits, from `rrc:...`: at the timing given there and phase 0, or random ones.

    Raises ValueError for a specification of another kind.
    """

    def __init__(self, spec: str, random: bool = False):
        if not spec.startswith("rrc:"):
            raise ValueError(f"the SOI's signal must be a linear modulation (rrc:...), whose bits can be counted, not "
                             f"'{spec}'")
        self.name, self.random = spec, random
        self.modulation = priors.parse(spec).modulation
        self.sps, self.span = (int(self.modulation[key]) for key in ("samples_per_symbol", "span"))
        self._half = self.span * self.sps // 2

    def _pulse(self, fraction):
        """The pulse delayed by a fraction of a sample, [2 * half + 2]; energy as the undelayed one's."""
        rolloff = self.modulation["rolloff"]
        grid = torch.arange(-self._half, self._half + 2, dtype=torch.float64) - fraction
        top = pulse_at(torch.zeros(1, dtype=torch.float64), rolloff, self.span).item()
        level = taps(self.sps, rolloff, self.span)[self._half] / top
        return pulse_at(grid / self.sps, rolloff, self.span).numpy() * level

    def _shaped(self, symbols, timing, samples):
        """Wave [samples] of symbols [n], of which the first one's centre lies at `timing` (samples, also below 0)."""
        whole = math.floor(timing)
        wave = scipy.signal.upfirdn(self._pulse(timing - whole), symbols, up=self.sps)
        begin = self._half - whole
        wave = np.pad(wave, (max(-begin, 0), samples + self.sps))
        return wave[max(begin, 0):][:samples]

    def draw(self, rng, windows, samples, tails=0):
        """Waves complex64 [windows, n * sps], n = samples // sps, bits uint8 [windows, ...] of the symbols whose
        centre is inside, and [windows, 2]: timing (samples, of the first) and phase (radians).

        tails: symbols that go on beyond each end; 0: none, the paper's isolated windows.
        """
        per, count = cons.bits_per_symbol(self.modulation["constellation"]), samples // self.sps
        bits = rng.integers(0, 2, (windows, (count + 2 * tails) * per), dtype=np.uint8)
        truth = np.tile([self.modulation["first"], 0.0], (windows, 1))
        if self.random:
            truth = rng.uniform(0, [self.sps, 2 * np.pi], (windows, 2))
        symbols = cons.modulate(bits, self.modulation["constellation"])
        waves = np.empty((windows, count * self.sps), np.complex64)
        for wave, own, (timing, phase) in zip(waves, symbols, truth, strict=True):
            wave[:] = self._shaped(own, timing - tails * self.sps, len(wave)) * np.exp(1j * phase)
        return waves, bits[:, tails * per:bits.shape[1] - tails * per], truth

    def bits(self, waves, truth):
        """Hard decisions on waves [W, N] with their true timing and phase [W, 2]: uint8 [W, n]."""
        return demodulation.decide(self.symbols(waves, truth), self.modulation)

    def symbols(self, waves, truth):
        """Matched-filter outputs complex [W, N // sps] of waves [W, N], N a multiple of sps; truth as in bits."""
        if not self.random and self.modulation["first"] % 1 == 0:
            return demodulation.matched_filter(waves, self.modulation)
        reach = 2 * self._half + 1
        lead = -reach % self.sps  # the filter delays by `reach`: with zeros in front by whole symbols
        begin, symbols = (reach + lead) // self.sps, []
        for wave, (timing, phase) in zip(waves, truth, strict=True):
            whole = math.floor(timing)
            padded = np.pad(wave * np.exp(-1j * phase), (self._half, reach + self.sps))[whole:]
            filtered = scipy.signal.upfirdn(self._pulse(timing - whole)[::-1], np.pad(padded, (lead, 0)),
                                            down=self.sps)
            symbols.append(filtered[begin:begin + len(wave) // self.sps] / self.sps)
        return np.array(symbols)


class OfdmSignal:
    """CP-OFDM of random start and phase, from `cp-ofdm:...`."""

    def __init__(self, spec: str):
        self.name, self._module = spec, priors.parse(spec).module

    def draw(self, rng, windows, samples):
        """Waves complex64 [windows, samples], cut from longer ones."""
        m = self._module
        return signals.cp_ofdm(rng, windows, samples, m.constellation, m.fft, m.cp, m.active)[0]


class RecordedSignal:
    """Random windows of recordings, each of unit power and with a random phase.

    files: recordings, see captures.open_capture; a longer one is drawn from more often. part: "all", or "last:F", the
    last fraction F (0 .. 1) of each. Raises ValueError (CaptureError) for files that cannot be read.
    """

    def __init__(self, files, part: str = "all"):
        kind, _, number = part.partition(":")
        try:
            self._share = 1.0 if part == "all" else float(number)
        except ValueError:
            self._share = math.nan
        if (part != "all" and kind != "last") or not 0 < self._share <= 1:
            raise ValueError(f"the part of a recording is all or last:FRACTION, such as last:0.4, not {part}")
        self.name = " ".join(map(str, files)) + (f" {part}" if part != "all" else "")
        self._captures = [captures.open_capture(file) for file in files]

    def draw(self, rng, windows, samples):
        """Waves complex64 [windows, samples]. Raises ValueError for recordings that are shorter or silent."""
        first = [c.length - math.floor(c.length * self._share) for c in self._captures]
        places = np.array([c.length - f - samples + 1 for c, f in zip(self._captures, first, strict=True)])
        if places.min() < 1:
            short = int(places.argmin())
            raise ValueError(f"{self._captures[short].path} has {places[short] + samples - 1} samples to draw from, "
                             f"fewer than the {samples} of one piece")
        waves = np.empty((windows, samples), np.complex64)
        for wave in waves:
            for _ in range(100):  # idle stretches may be all zero
                which = rng.choice(len(places), p=places / places.sum())
                piece = self._captures[which].read(first[which] + rng.integers(places[which]), samples)
                power = np.mean(np.abs(piece) ** 2, dtype=np.float64)
                if power > 0:
                    break
            else:
                raise ValueError(f"{self.name} is silent")
            wave[:] = piece * (np.exp(2j * np.pi * rng.uniform()) / math.sqrt(power))
        return waves
