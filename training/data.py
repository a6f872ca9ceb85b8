# SPDX-License-Identifier: GPL-3.0-or-later
"""Sources of training signals, made on the device as training goes on: no simulated window is seen twice.

Constellations, pulses and OFDM are Sionna's. All signals have unit power; windows are float32 [B, 2, N], real and
imaginary.
"""

import inspect
import math

import torch
from recordings import Recording
from sionna.phy.mapping import Constellation
from sionna.phy.ofdm import OFDMModulator, ResourceGrid
from sionna.phy.signal import RootRaisedCosineFilter
from torch import Tensor, nn

BITS = {"bpsk": 1, "qpsk": 2, "8psk": 3, "16qam": 4}


def constellation_points(name: str, device: str = "cpu") -> Tensor:
    """Sionna's points of unit average power, complex64 [M]. Raises ValueError for a name that is not in BITS.

    Sionna has no phase-shift keying beyond QPSK: 8PSK is exp(2 pi i k / 8) as a custom constellation of Sionna's.
    """
    if name not in BITS:
        raise ValueError(f"constellation '{name}' is unknown; allowed are {', '.join(BITS)}")
    if name == "8psk":
        circle = torch.polar(torch.ones(8), 2 * math.pi * torch.arange(8) / 8)
        return Constellation("custom", 3, points=circle)().to(device)
    return Constellation("pam" if name == "bpsk" else "qam", BITS[name])().to(device)


def pulse_at(t: Tensor, rolloff: float) -> Tensor:
    """Root-raised-cosine pulse at times t (symbols), float64: Sionna's formula, off Sionna's grid. No truncation."""
    x = t.double()
    y = 4 * rolloff * x
    centre, corner = x.abs() < 1e-6, (y.abs() - 1).abs() < 1e-6  # 0 / 0 in the formula
    value = ((math.pi * x * (1 - rolloff)).sin() + y * (math.pi * x * (1 + rolloff)).cos()) / (
        math.pi * x * (1 - y * y))
    value = torch.where(centre, 1 + rolloff * (4 / math.pi - 1), value)
    if rolloff > 0:
        limit = rolloff / math.sqrt(2) * ((1 + 2 / math.pi) * math.sin(math.pi / 4 / rolloff)
                                          + (1 - 2 / math.pi) * math.cos(math.pi / 4 / rolloff))
        value = torch.where(corner, limit, value)
    return value


class LinearModulation:
    """RRC-shaped linear modulation as in arXiv 2306.14411, Appendix C.2: symbol k is centred at sample first + k sps.

    constellation: bpsk, qpsk, 8psk or 16qam. sps: samples per symbol, >= 2. rolloff: 0 .. 1. span: symbols, >= 2.
    window: samples, a multiple of sps. ends: "isolated", no symbols outside the window, or "stream", the window is cut
    from a longer signal. timing: "known", first = sps // 2, or "random", first uniform over 0 .. sps, fractions
    included; the pulse is then evaluated at the fractional offsets and truncated to the same span. phase: "known", 0,
    or "random", uniform. Raises ValueError for values outside these ranges.
    """

    def __init__(self, constellation: str = "qpsk", sps: int = 16, rolloff: float = 0.5, span: int = 8,
                 window: int = 2560, ends: str = "stream", timing: str = "known", phase: str = "known",
                 device: str = "cpu"):
        self.points = constellation_points(constellation, device)
        if not (sps >= 2 and span >= 2 and 0 <= rolloff <= 1):
            raise ValueError(f"sps={sps}, rolloff={rolloff}, span={span} is impossible; allowed are sps >= 2, "
                             "rolloff from 0 to 1, span >= 2")
        if window < sps or window % sps:
            raise ValueError(f"a window of {window} samples is impossible; it must be a multiple of sps={sps}")
        for key, value, allowed in (("ends", ends, ("stream", "isolated")), ("timing", timing, ("known", "random")),
                                    ("phase", phase, ("known", "random"))):
            if value not in allowed:
                raise ValueError(f"{key} is '{value}'; allowed are {' and '.join(allowed)}")
        self.constellation, self.sps, self.rolloff, self.span = constellation, sps, rolloff, span
        self.window, self.ends, self.timing, self.phase, self.device = window, ends, timing, phase, device
        taps = RootRaisedCosineFilter(span, sps, rolloff).coefficients.to(device).real.float()
        taps = taps * math.sqrt(sps / float(taps.square().sum()))
        self.half = len(taps) // 2
        if timing == "random":
            self.reach = -(-self.half // sps)  # blocks of sps samples that a pulse reaches to each side
            grid = (torch.arange(len(taps)) - self.half) / sps
            self.level = math.sqrt(sps / float(pulse_at(grid, rolloff).square().sum()))
            self.tails = self.reach if ends == "stream" else 0
            self.count = window // sps + 2 * self.tails
        else:
            self.tails = span // 2 if ends == "stream" else 0
            self.count = window // sps + 2 * self.tails
            centre = sps // 2 + (torch.arange(self.count, device=device) - self.tails) * sps
            place = torch.arange(window, device=device) - centre[:, None] + self.half
            inside = (place >= 0) & (place < len(taps))
            self.pulses = taps[place.clamp(0, len(taps) - 1)] * inside  # [symbols, window]

    def __call__(self, batch: int, generator: torch.Generator) -> Tensor:
        """A fresh batch of windows, float32 [batch, 2, window]."""
        return self.draw(batch, generator)[0]

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """A fresh batch of windows with what made them.

        Returns the waves float32 [batch, 2, window]; the symbols complex64 [batch, n], of which self.tails lie before
        the window; and float32 [batch, 2]: the sample of the window's first symbol and the phase (radians).
        """
        label = torch.randint(len(self.points), (batch, self.count), generator=generator, device=self.device)
        symbols = self.points[label]
        first = torch.full((batch,), float(self.sps // 2), device=self.device)
        angle = torch.zeros(batch, device=self.device)
        if self.timing == "random":
            first = self.sps * torch.rand(batch, generator=generator, device=self.device)
        turned = symbols
        if self.phase == "random":
            angle = 2 * math.pi * torch.rand(batch, generator=generator, device=self.device)
            turned = symbols * torch.polar(torch.ones_like(angle), angle)[:, None]
        parts = torch.stack([turned.real, turned.imag], 1)
        wave = self.shape(parts, first) if self.timing == "random" else parts @ self.pulses
        return wave, symbols, torch.stack([first, angle], 1)

    def shape(self, symbols: Tensor, first: Tensor) -> Tensor:
        """Shape symbols [B, 2, n], a pulse of its own for each window's first symbol at first [B] (samples)."""
        block = torch.arange(-self.reach, self.reach + 1, device=self.device)
        offset = torch.arange(self.sps, device=self.device) - first.double()[:, None, None] + self.sps * block[:, None]
        pulse = pulse_at(offset / self.sps, self.rolloff) * (offset.abs() <= self.half) * self.level  # [B, blocks, sps]
        pad = self.reach - self.tails
        near = nn.functional.pad(symbols, (pad, pad)).unfold(2, 2 * self.reach + 1, 1)  # symbols t - reach .. t + reach
        near = near.reshape(len(symbols), -1, 2 * self.reach + 1)
        wave = torch.bmm(near, pulse.flip(1).float())
        return wave.view(len(symbols), 2, self.window)

    def card(self) -> dict:
        """The entries of prior.json that the data determine."""
        edge = (1 + self.rolloff) / (2 * self.sps)
        free = [name for name in ("timing", "phase") if getattr(self, name) == "random"]
        spec = f"rrc:{self.constellation},sps={self.sps},rolloff={self.rolloff:g},span={self.span}"
        spec += ",ends=isolated" if self.ends == "isolated" else ""
        return {"window": self.window, "band": [-edge, edge], "samples_per_symbol": self.sps,
                "constellation": self.constellation,
                "modulation": {"constellation": self.constellation, "samples_per_symbol": self.sps,
                               "rolloff": self.rolloff, "span": self.span, "first": self.sps // 2},
                "synchronised": not free, "invariances": free, "simulation": spec,
                "training": f"{spec} by Sionna, timing {self.timing}, phase {self.phase}"}


class CpOfdm:
    """Cyclic-prefix OFDM as in arXiv 2306.14411, Appendix C.2: random start and phase in every window.

    Each window is cut from a longer signal; the start is uniform over the fft + cp samples of a symbol. The carriers
    lie around DC, which is empty. constellation: bpsk, qpsk, 8psk or 16qam. fft: carriers, >= 2. cp: prefix,
    0 .. fft samples. active: carriers in use, 1 .. fft - 1. window: samples, >= 1. Raises ValueError for values outside
    these ranges.
    """

    def __init__(self, constellation: str = "qpsk", fft: int = 64, cp: int = 16, active: int = 56, window: int = 2560,
                 device: str = "cpu"):
        self.points = constellation_points(constellation, device)
        if not (fft >= 2 and 0 <= cp <= fft and 1 <= active < fft and window >= 1):
            raise ValueError(f"fft={fft}, cp={cp}, active={active}, window={window} is impossible; allowed are "
                             "fft >= 2, cp from 0 to fft, active from 1 to fft - 1, window >= 1")
        self.constellation, self.fft, self.cp, self.active = constellation, fft, cp, active
        self.window, self.device, self.length = window, device, fft + cp
        self.count = (window + 2 * self.length - 2) // self.length  # whole symbols enough for every start
        below, above = fft // 2 - active // 2, (fft - 1) // 2 - (active - active // 2)
        if above < 0:  # all carriers of an even fft: the highest is the lowest one's alias
            below, above = below - 1, 0
        place = str(torch.empty(0, device=device).device)  # Sionna knows "cuda:0", not "cuda"
        grid = ResourceGrid(self.count, fft, 1.0, num_guard_carriers=(below, above), dc_null=True, device=place)
        self.carriers = torch.as_tensor(grid.effective_subcarrier_ind, device=device).long()  # lowest frequency first
        self.modulator = OFDMModulator(cp, device=place)

    def __call__(self, batch: int, generator: torch.Generator) -> Tensor:
        """A fresh batch of windows, float32 [batch, 2, window]."""
        return self.draw(batch, generator)[0]

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """A fresh batch of windows with what made them.

        Returns the waves float32 [batch, 2, window]; the points complex64 [batch, symbols, active], lowest frequency
        first, before the rotation; and float32 [batch, 2]: the first symbol boundary (samples, 0 .. fft + cp - 1; the
        boundary of symbol 0 if that is 0, else of symbol 1) and the phase (radians).
        """
        label = torch.randint(len(self.points), (batch, self.count, self.active), generator=generator,
                              device=self.device)
        start = torch.randint(self.length, (batch,), generator=generator, device=self.device)
        angle = 2 * math.pi * torch.rand(batch, generator=generator, device=self.device)
        points = self.points[label]
        grid = torch.zeros(batch, self.count, self.fft, dtype=points.dtype, device=self.device)
        grid[..., self.carriers] = points * torch.polar(torch.ones_like(angle), angle)[:, None, None]
        wave = self.modulator(grid) * math.sqrt(self.fft / self.active)  # unit power with empty carriers
        place = torch.remainder(-start, self.length)[:, None] + torch.arange(self.window, device=self.device)
        wave = wave.gather(1, place)
        return torch.stack([wave.real, wave.imag], 1), points, torch.stack([start.float(), angle], 1)

    def card(self) -> dict:
        """The entries of prior.json that the data determine."""
        spec = f"cp-ofdm:{self.constellation},fft={self.fft},cp={self.cp},active={self.active}"
        return {"window": self.window, "band": None, "samples_per_symbol": None, "constellation": self.constellation,
                "modulation": None, "synchronised": False, "invariances": ["shift", "phase"], "simulation": spec,
                "training": f"{spec} by Sionna, start and phase random"}


SOURCES = {"linear": LinearModulation, "cp-ofdm": CpOfdm, "recording": Recording}


def make_source(config: dict, device: str = "cpu") -> LinearModulation | CpOfdm | Recording:
    """The source that a YAML file's `data` describes: `kind` (default linear) and that source's own parameters.

    A source has window (samples), card() -> dict (its entries of prior.json), and source(batch, generator) -> float32
    [batch, 2, window] of unit power, on the device that the generator must be on too. Raises ValueError for an unknown
    kind or parameter, or one of the wrong type or out of range.
    """
    if not isinstance(config, dict):
        raise ValueError("data must be a mapping of parameters")
    given = dict(config)
    kind = given.pop("kind", "linear")
    if kind not in SOURCES:
        raise ValueError(f"data kind '{kind}' is unknown; allowed are {', '.join(SOURCES)}")
    allowed = {name: parameter for name, parameter in inspect.signature(SOURCES[kind]).parameters.items()
               if name != "device"}
    for name, value in given.items():
        if name not in allowed:
            raise ValueError(f"unknown parameter '{name}' of data kind {kind}; allowed are {', '.join(allowed)}")
        wanted = allowed[name].annotation
        whole_for_float = type(value) is int and isinstance(0.0, wanted)
        if isinstance(value, bool) or not (isinstance(value, wanted) or whole_for_float):
            raise ValueError(f"parameter '{name}' of data kind {kind} is {value!r}; it must be "
                             f"{getattr(wanted, '__name__', wanted)}")
    for name, parameter in allowed.items():
        if parameter.default is parameter.empty and name not in given:
            raise ValueError(f"data kind {kind} needs the parameter '{name}'")
    return SOURCES[kind](**given, device=device)


def validation_set(config: dict, windows: int, seed: int) -> Tensor:
    """The same held-out windows at every call, float32 [windows, 2, window], on the CPU.

    config: as make_source. seed: 0 .. 2**31 - 1; simulated windows share no random numbers with training on such seeds.
    Recorded windows come from the validation part. Raises ValueError as make_source does.
    """
    if isinstance(config, dict) and config.get("kind") == "recording":
        config = config | {"part": "validation"}
    return make_source(config)(windows, torch.Generator().manual_seed(2**31 + seed))


def coloured_residue(batch: int, window: int, generator: torch.Generator, power: tuple[float, float],
                     device: str = "cpu") -> Tensor:
    """What Douglas-Rachford leaves of the interference: wide-band, gated, of random power, [batch, 2, window].

    White noise through a random band of 20 to 95 % of the spectrum, switched on and off in stretches of 80 samples.
    power: lowest and highest, per complex sample; log-uniform. Three windows in ten have none.
    """
    def uniform(*size):
        return torch.rand(*size, generator=generator, device=device)

    noise = torch.randn(batch, 2, window, generator=generator, device=device)
    spectrum = torch.fft.fft(torch.complex(noise[:, 0], noise[:, 1]))
    frequency = torch.fft.fftfreq(window, device=device)
    width = 0.1 + 0.375 * uniform(batch, 1)
    spectrum = spectrum * ((frequency - 0.1 * (uniform(batch, 1) - 0.5)).abs() < width)
    wave = torch.fft.ifft(spectrum)
    wave = wave / wave.abs().square().mean(1, keepdim=True).sqrt()
    gate = (uniform(batch, -(-window // 80)) < uniform(batch, 1)).repeat_interleave(80, 1)[:, :window]
    level = (math.log(power[0]) + math.log(power[1] / power[0]) * uniform(batch, 1)).exp().sqrt()
    wave = wave * gate * level * (uniform(batch, 1) < 0.7)
    return torch.stack([wave.real, wave.imag], 1)
