# SPDX-License-Identifier: GPL-3.0-or-later
"""What benchmark.py mixes: an SOI with known bits, simulated OFDM, recordings, and mixtures made elsewhere."""

import contextlib
import math
import re

import numpy as np
import scipy.signal
import torch
from gnuradio.unmix import captures, demodulation, priors, signals
from gnuradio.unmix.priors import constellation as cons
from gnuradio.unmix.priors.rrc import pulse_at, taps

#: Of samples in mixtures made elsewhere; streams take no larger ones either.
LARGEST = 1e18


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


def closed_form(prior, spec):
    """Specification of what a prior describes: itself, its `simulation`, or its modulation; None where it says nothing.

    spec: the text that gave the prior.
    """
    if prior.module is not None:
        return spec if prior.info["kind"] in ("rrc", "cp-ofdm") else None
    simulation, shape = prior.info.get("simulation"), prior.modulation
    if simulation is not None:
        if not isinstance(simulation, str) or not re.match("(rrc|cp-ofdm):", simulation):
            raise ValueError(f"the entry simulation of {prior.name} must be a closed form, rrc:... or cp-ofdm:...")
        return simulation
    if shape is None:
        return None
    first = "" if shape["first"] == shape["samples_per_symbol"] // 2 else f",first={shape['first']:g}"
    return (f"rrc:{shape['constellation']},sps={shape['samples_per_symbol']:g},rolloff={shape['rolloff']:g},"
            f"span={shape['span']:g}{first}")


def interference_signal(names, part=None):
    """The signal that --interference-signal and --recording-part name."""
    if len(names) == 1 and names[0].startswith("cp-ofdm:"):
        if part is not None:
            raise ValueError("--recording-part needs recordings as --interference-signal")
        return OfdmSignal(names[0])
    for name in names:
        if re.match("[a-z-]+:", name):
            raise ValueError(f"--interference-signal {name} cannot be simulated; allowed are one cp-ofdm:..., or "
                             "recordings")
    return RecordedSignal(names, part or "all")


def timing_is_free(prior):
    """Whether a prior knows neither timing nor phase of its signal."""
    if prior.info["kind"] == "gaussian":
        return True
    return (not prior.info["synchronised"] if prior.info["kind"] == "rrc" else
            {"timing", "phase"} <= set(prior.info.get("invariances") or ()))


def find_signals(args, soi, interference):
    """The signals to mix, SOI and interference (None with --mixtures). Raises ValueError where one is not known."""
    spec = args.soi_signal or closed_form(soi, args.soi)
    if spec is None:
        raise ValueError("--soi must describe a linear modulation (rrc:...), whose bits can be counted, or give "
                         "--soi-signal")
    if args.soi_signal is not None and re.search(r",\s*sync=auto\s*(,|$)", args.soi_signal):
        raise ValueError(f"--soi-signal {args.soi_signal} is simulated, not searched for; leave out sync=auto")
    random = args.soi_timing == "random"
    if random and not timing_is_free(soi):
        raise ValueError(f"the prior {soi.name} takes timing and phase for known, --soi-timing random needs one that "
                         "does not (rrc:...,sync=unknown)")
    signal = SoiSignal(spec, random)
    if args.mixtures:
        return signal, None
    if args.recording_part and not args.interference_signal:
        raise ValueError("--recording-part needs recordings as --interference-signal")
    names = args.interference_signal or [closed_form(interference, args.interference)]
    if names[0] is None or not args.interference_signal and not names[0].startswith("cp-ofdm:"):
        raise ValueError("--interference must be cp-ofdm:..., which can be simulated, or give --interference-signal or "
                         "--mixtures")
    return signal, interference_signal(names, args.recording_part)


def generate(soi, interference, windows, samples, sir_db, snr_db, seed, tails=0):
    """Mixture and SOI complex64 [windows, n], the SOI's bits, and its timing and phase; see SoiSignal.draw."""
    rng = np.random.default_rng([seed, round(1000 * (sir_db + 1000))])
    wave, bits, truth = soi.draw(rng, windows, samples, tails)
    mixture = wave + np.float32(signals.kappa(sir_db)) * interference.draw(rng, windows, wave.shape[1])
    if math.isfinite(snr_db):
        mixture = mixture + signals.noise(rng, mixture.shape, 10 ** (-snr_db / 10))
    return mixture, wave, bits, truth


def load_mixtures(path, soi_shape):
    """Mixtures made elsewhere, grouped by SIR: {sir_db: (mixture, soi or None, bits or None)}.

    soi_shape: the SOI's modulation. Raises ValueError, in a sentence that names file and array, for files that cannot
    be read and arrays that are missing or do not fit.
    """
    arrays = _plain_arrays(path, {"mixture": "iufc", "sir_db": "iuf", "soi": "iufc", "bits": "biuf"})
    if "mixture" not in arrays or "sir_db" not in arrays:
        raise ValueError(f"{path} must hold the arrays mixture [W, L] and sir_db [W]")
    mixture, sir = arrays["mixture"], arrays["sir_db"]
    if mixture.ndim != 2 or 0 in mixture.shape:
        raise ValueError(f"mixture in {path} must be [W, L], at least one window of at least one sample, not "
                         f"{list(mixture.shape)}")
    if sir.shape != mixture.shape[:1]:
        raise ValueError(f"sir_db in {path} must have one number for each window, {list(mixture.shape[:1])}, not "
                         f"{list(sir.shape)}")
    expected = (len(mixture), len(range(round(soi_shape["first"]), mixture.shape[1], soi_shape["samples_per_symbol"]))
                * cons.bits_per_symbol(soi_shape["constellation"]))
    for name, shape, why in (("soi", mixture.shape, "as the mixture"), ("bits", expected, "for the SOI given")):
        if name in arrays and arrays[name].shape != shape:
            raise ValueError(f"{name} in {path} must be {list(shape)} {why}, not {list(arrays[name].shape)}")
    for name in {"mixture", "soi"} & arrays.keys():
        with np.errstate(over="ignore"):  # what single precision cannot hold is refused in the next line
            arrays[name] = arrays[name].astype(np.complex64)
        if not np.all(np.abs(arrays[name]) <= LARGEST):
            raise ValueError(f"{name} in {path} must be finite, at most {LARGEST:g} in magnitude")
    if "bits" in arrays and not np.isin(arrays["bits"], (0, 1)).all():
        raise ValueError(f"bits in {path} must all be 0 or 1")
    columns = [arrays.get(name) for name in ("mixture", "soi", "bits")]
    groups = {}
    for level in np.unique(sir):
        of_level = sir == level
        groups[float(level)] = tuple(None if a is None else a[of_level] for a in columns)
        if "soi" in arrays and np.any(of_level) and not arrays["soi"][of_level].any():
            raise ValueError(f"soi in {path} must have some power at every sir_db; at {level:g} dB it is silent")
    return groups


def _plain_arrays(path, kinds):
    """Arrays of an .npz file whose names are in `kinds`, {name: letters of the NumPy kinds that it may have}."""
    arrays = {}
    with contextlib.ExitStack() as files:
        try:
            data = np.load(files.enter_context(open(path, "rb")), allow_pickle=False)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
        except Exception:  # noqa: BLE001 (of files that are damaged or something else NumPy raises all kinds)
            data = None
        if not isinstance(data, np.lib.npyio.NpzFile):
            raise ValueError(f"{path} is not an .npz file of plain arrays")
        files.enter_context(data)
        for name in [name for name in kinds if name in data]:
            try:
                arrays[name] = data[name]
            except Exception:  # noqa: BLE001 (see above; an array of Python objects is among them)
                raise ValueError(f"{name} in {path} cannot be read: it is damaged, or no plain array") from None
            kind = arrays[name].dtype.kind if isinstance(arrays[name], np.ndarray) else "?"
            if kind not in kinds[name]:
                allowed = "real or complex numbers" if "c" in kinds[name] else "real numbers"
                raise ValueError(f"{name} in {path} must be a plain array of {allowed}")
    return arrays
