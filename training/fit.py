#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""From recordings of interference alone to a prior file, in one command.

    python training/fit.py interference.sigmf-meta --output interference.pt
    python apps/separate_file.py capture.sigmf-meta --interference interference.pt

Tries frames and their alphabet (seconds), then packets of 802.11a/n (half a minute), then the spectrum alone (Gaussian
prior); keeps what denoises the held-out end of each recording best, and says at which SIR the prior will serve. Several
recordings must hold the same kind of signal at the same sample rate. --kind diffwave trains a network instead. Exit
status: 0 done; 2 bad input, one sentence on stderr and nothing written; 3 cancelled, nothing written.
"""

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path

import bursts
import frames
import numpy as np
from export import write_prior
from gnuradio.unmix import demodulation, priors, separators, signals
from gnuradio.unmix.captures import CaptureError, check_not_constant, open_capture, parse_rate
from gnuradio.unmix.priors.gaussian import Gaussian, spectrum

WINDOW = 2560
LEAST = 2000  # samples of a recording
MOST = 1000 * WINDOW  # samples that are used: more add nothing to a fit
MOST_BURSTS = 400_000  # samples that bursts are learned from: half a minute
HELD_OUT = 0.25  # of each recording, its end
CLIPPED_WARN, CLIPPED_REFUSE = 1e-3, 0.05  # shares of the samples
LEVELS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # v, noise variance per real channel beside unit power
DECISIVE = 4  # levels, the first ones, that decide which prior is kept
SIRS = (-24, -18, -12, -6, 0)  # dB
SERVES = 0.25  # share of the matched filter's bit errors that a prior which serves may leave
PIECES = 48  # held-out pieces per measurement, at random places, and no fewer of each recording than:
PIECES_EACH = 10
SOI = "rrc:qpsk,sps=16,rolloff=0.5,span=8,ends=isolated"


def decibel(ratio: float) -> float:
    return 10 * math.log10(ratio + 1e-12)


def say(text: str) -> None:
    print(text, flush=True)


@dataclasses.dataclass
class Recording:
    """Samples of one file, complex64 [n]; its samples per second or None; its licence or None."""

    path: str
    samples: np.ndarray
    rate: float | None
    licence: str | None


@dataclasses.dataclass
class Candidate:
    """A fitted prior: its kind, module and card, what was found (None: nothing to say) and its errors at LEVELS."""

    kind: str
    module: object
    card: dict
    found: dict | None
    error: list[float]

    @property
    def score(self) -> float:
        """Geometric mean of the errors that decide."""
        return math.exp(np.mean(np.log(self.error[:DECISIVE])))


def warn(text: str) -> None:
    print(f"fit.py: warning: {text}", file=sys.stderr)


def read(path: str, sample_format: str, rate: float | None, most: int) -> Recording:
    """A recording, at most its first `most` samples. Raises ValueError (CaptureError) when it will not do."""
    capture = open_capture(path, sample_format)
    if rate and capture.sample_rate and abs(rate / capture.sample_rate - 1) > 1e-6:
        raise ValueError(f"{path} was recorded at {capture.sample_rate:g} samples/s, not at {rate:g}: a prior holds at "
                         "the rate of its recording")
    if len(capture) < LEAST:
        raise ValueError(f"{path} is too short: {len(capture)} samples, at least {LEAST} are needed")
    check_not_constant(capture)
    samples = capture.read(0, most)
    power = np.mean(np.abs(samples)**2, dtype=np.float64)
    if not power > 0:
        raise ValueError(f"{path} is silent: its first {len(samples)} samples are all zero")
    extreme = np.zeros(len(samples), dtype=bool)
    for axis in (samples.real, samples.imag):
        if axis.min() < axis.max():  # a real signal's other axis is constant
            extreme |= (axis == axis.min()) | (axis == axis.max())
    clipped = max(0, int(extreme.sum()) - 4) / len(samples)  # the extremes of any signal are no clipping
    if clipped > CLIPPED_REFUSE:
        raise ValueError(f"{path} is clipped: {100 * clipped:.1f} % of its samples have the extreme value, which no "
                         f"prior models; at most {100 * CLIPPED_REFUSE:g} % may")
    if clipped > CLIPPED_WARN:
        warn(f"{path} may be clipped, which no prior models: {100 * clipped:.1f} % of its samples have the extreme "
             "value")
    if abs(samples.mean())**2 > 0.05 * power:
        warn(f"{path} has an offset of its mean (DC), which the prior will contain")
    return Recording(path, samples, rate or capture.sample_rate,
                     capture.metadata.get("core:license"))


def read_all(paths: list[str], sample_format: str, samp_rate: str | None) -> list[Recording]:
    """All recordings. Raises ValueError when one will not do, or when their rates differ."""
    rate = None if samp_rate is None else parse_rate(samp_rate)
    result = [read(path, sample_format, rate, MOST // len(paths)) for path in paths]
    first = result[0]
    for other in result[1:]:
        if (first.rate is None) != (other.rate is None):
            silent = first if first.rate is None else other
            raise ValueError(f"{silent.path} does not say its sample rate, and others do: give --samp-rate")
        if first.rate and abs(other.rate / first.rate - 1) > 1e-6:
            raise ValueError(f"{first.path} and {other.path} have different sample rates, {first.rate:g} and "
                             f"{other.rate:g} samples/s: a prior holds at one")
    return result


def pieces(rng: np.random.Generator, samples: np.ndarray, count: int, window: int, level: float) -> np.ndarray:
    """`count` pieces [count, window] at random places, each of unit power; those of less power than `level` are left.

    Fewer, or none, where most are silent.
    """
    found = []
    for start in rng.integers(0, len(samples) - window + 1, 20 * count):
        piece = samples[start:start + window]
        power = np.mean(np.abs(piece)**2)
        if power > level:
            found.append(piece / math.sqrt(power))
        if len(found) == count:
            break
    return np.array(found, dtype=np.complex64).reshape(-1, window)


def loud(samples: np.ndarray, length: int) -> np.ndarray:
    """Adjacent windows [W, length] of samples of unit power, without those that are silent."""
    windows = samples[:len(samples) // length * length].reshape(-1, length)
    return windows[np.mean(np.abs(windows)**2, 1) > 0.1]


def occupied(density: np.ndarray, share: float = 0.99) -> tuple[float, float]:
    """Narrowest band (cycles/sample, may wrap) that holds `share` of the power of a density in FFT order."""
    bins = len(density)
    total = np.concatenate([[0.0], np.cumsum(np.tile(density, 2))]) / density.sum()
    best = (bins, 0.0, 0)
    for start in range(bins):
        count = int(np.searchsorted(total, total[start] + share)) - start
        if start + count <= 2 * bins:
            best = min(best, (count, total[start] - total[start + count], start))  # the one with most power in it
    low = (best[2] + bins // 2) % bins - bins // 2
    return (low - 0.5) / bins, (low + best[0] - 0.5) / bins


def denoising(prior: priors.Prior, waves: np.ndarray, rng: np.random.Generator) -> list[float]:
    """Mean |error|^2 at LEVELS on waves of unit power, [W, N]; what a separation estimates once is estimated once."""
    side = prior.side_information(waves, [])
    result = []
    for v in LEVELS:
        x = ((waves + math.sqrt(v) * signals.noise(rng, waves.shape, 2.0)) / math.sqrt(1 + v)).astype(np.complex64)
        estimate = prior.denoise(x, np.full(len(x), 1 / (1 + v), np.float32), side)
        result.append(float(np.mean(np.abs(estimate - waves)**2)))
    return result


def serving(prior: priors.Prior, waves: np.ndarray, origin: np.ndarray, seed: int) -> list[dict]:
    """Bit error rates of pnp-dr and of the matched filter with QPSK under held-out pieces, at SIRS.

    origin: recording of each piece, [W]. `each` of a row holds the rates by recording.
    """
    soi = priors.parse(SOI)
    rows = []
    for sir_db in SIRS:
        rng = np.random.default_rng([seed, -sir_db])
        wave, bits = signals.linear_modulation(rng, len(waves), waves.shape[1] // 16)
        gains = np.array([1.0, signals.kappa(sir_db)])
        problem = separators.Problem((wave + np.float32(gains[1]) * waves).astype(np.complex64), [soi, prior], gains)
        row = {"sir_db": sir_db, "each": {}}
        for method in ("pnp-dr", "matched-filter"):
            source = separators.separate(problem, method).sources[0]
            wrong = demodulation.decide(demodulation.matched_filter(source, soi.modulation), soi.modulation) != bits
            wrong = wrong[:, 16:-16].mean(1)  # the ends of isolated pieces cost errors of their own
            row[method] = float(wrong.mean())
            row["each"][method] = [float(wrong[origin == i].mean()) for i in range(origin.max() + 1)]
        rows.append(row)
    return rows


def serves(rows: list[dict]) -> int | None:
    """The SIR from which on, upwards, the prior serves; None: at none. SIRs without errors to save say nothing."""
    least = None
    for row in reversed(rows):
        if row["matched-filter"] > 1e-3:
            if row["pnp-dr"] > SERVES * row["matched-filter"]:
                break
            least = row["sir_db"]
    return least


def temporary(module, info: dict) -> priors.Prior:
    return priors.from_module(module.eval().requires_grad_(False), info)


def gaussian(samples: np.ndarray, name: str, training: str, licence: str) -> tuple[Gaussian, dict]:
    """The Gaussian prior with the recording's spectrum, and its card."""
    density = spectrum(samples)
    return Gaussian(density), {"format": 1, "name": name, "kind": "gaussian", "window": 0, "predicts": "signal",
                               "side": [], "band": None, "psd": density.tolist(), "training": training,
                               "licence": licence, "version": "1"}


def framed(args, used: list[np.ndarray], rate: float | None, name: str, training: str, licence: str) -> tuple:
    """The frame prior, its card and what was found. Raises frames.NoFrames."""
    length = min(WINDOW, sum(map(len, used)) // 4, min(map(len, used)))
    windows = np.concatenate([loud(samples, length) for samples in used])
    if not len(windows):
        raise frames.NoFrames("too little but silence was left to look for frames in")
    try:
        found = frames.fit(windows, args.seed)
    except np.linalg.LinAlgError:
        raise frames.NoFrames("the fit of frames did not converge") from None
    whole = len(found.windows) * (length // found.length)
    if whole < 2 * found.count:
        raise frames.NoFrames(f"{whole} frames of {found.length} samples are too few to tell {found.count} symbols of "
                              "each")
    power = np.mean(np.abs(windows[found.windows])**2)
    where = f"on carriers of an FFT of {found.carriers}" if found.carriers else "by independent components"
    say(f"frames: lag {found.lag}, cycle {found.length} samples, {found.count} symbols a frame {where}, "
        f"alphabet {found.alphabet}, carrier offset {offset(found.frequency, rate)}, ILSP residual "
        f"{decibel(found.residual):.1f} dB, white noise in the recording {decibel(found.noise):.1f} dB")
    return found.prior, frames.card(found, windows / math.sqrt(power), name, training, licence), {
        "lag": found.lag, "cycle": found.length, "symbols": found.count, "carriers": found.carriers,
        "alphabet": found.alphabet, "frequency": found.frequency, "residual": found.residual, "noise": found.noise,
        "windows": len(found.windows)}


def bursty(recordings: list[Recording], splits: list[int], name: str, training: str, licence: str) -> tuple:
    """The prior of 802.11 packets, its card and what was found. splits: where held-out ends begin. Raises NoBursts."""
    rate, most = recordings[0].rate, MOST_BURSTS // len(recordings)
    for recording, split in zip(recordings, splits, strict=True):
        if split < 2 * WINDOW:
            raise bursts.NoBursts(f"{recording.path} is too short for bursts: {split} samples without the held-out "
                                  f"end, at least {2 * WINDOW} are needed")
    try:
        found = bursts.learn([recording.samples[:split].astype(complex)
                              for recording, split in zip(recordings, splits, strict=True)], most)
    except bursts.NoBursts as reason:
        if rate is None or abs(rate / 20e6 - 1) < 1e-3:
            raise
        raise bursts.NoBursts(f"{reason}; recorded were {rate:g} samples/s") from None
    total = {}
    for packets in found.packets:
        for alphabet, count in packets.items():
            total[alphabet] = total.get(alphabet, 0) + count
    say(f"bursts: 802.11 with 64 carriers and a prefix of 16, {sum(total.values())} packets ("
        f"{listed(total).removesuffix(', ')}), {found.preambles} preambles, "
        f"carrier offset {offset(found.prior.frequency, rate)}, residual {decibel(found.residual):.1f} dB")
    return found.prior, bursts.card(found.prior, name, training, licence), {
        "packets": total, "packets_each": found.packets, "preambles": found.preambles,
        "frequency": found.prior.frequency, "residual": found.residual}


def offset(frequency: float, rate: float | None) -> str:
    """A frequency in cycles/sample, in words."""
    return f"{frequency * rate:.1f} Hz" if rate else f"{frequency:.3g} cycles/sample"


def diffwave(args, recordings: list[Recording], name: str, licence: str, path: Path) -> None:
    """Train a network on the recordings, as training/train.py does. Raises ValueError where packages are missing."""
    folder = Path("runs") / name
    try:
        import data  # noqa: F401, needs Sionna: missing packages are said before anything is written
        import loop
        import torch
        import train
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"recording{i}.npy" for i in range(len(recordings))]
        for file, recording in zip(files, recordings, strict=True):
            np.save(file, recording.samples[None])
        run = train.Run({"name": name, "licence": licence,
                         "data": {"kind": "recording", "files": list(map(str, files)), "window": WINDOW},
                         "network": {"kind": "diffwave", "channels": 64},
                         "training": {"minutes": args.minutes, "seed": args.seed}},
                        "cuda" if torch.cuda.is_available() else "cpu")
    except ImportError as error:
        raise ValueError(f"--kind diffwave needs the training environment (make training-env); {error}") from None
    if not loop.train(run, folder):
        raise KeyboardInterrupt
    train.write(run, path)


def choose(args, recordings: list[Recording], name: str, licence: str) -> tuple:
    """Fit what --kind allows and pick the best: (Candidate, findings, held-out pieces, recording of each piece)."""
    rng = np.random.default_rng(args.seed)
    rate = recordings[0].rate
    splits = [int(len(recording.samples) * (1 - args.held_out)) for recording in recordings]
    even = [r.samples / np.sqrt(np.mean(np.abs(r.samples)**2)) for r in recordings]  # of unit power
    used = [samples[:split] for samples, split in zip(even, splits, strict=True)]
    ends = [samples[split:] for samples, split in zip(even, splits, strict=True)]
    window = min(WINDOW, min(map(len, ends)) // 16 * 16)
    count = max(PIECES_EACH, math.ceil(PIECES / len(ends)))
    held_out = [pieces(rng, end, count if len(ends) > 1 else PIECES, window, 0.1) for end in ends]
    for recording, found in zip(recordings, held_out, strict=True):
        if not len(found):
            raise ValueError(f"the last {100 * args.held_out:g} % of {recording.path} are silent, and without them the "
                             "fit cannot be judged")
    origin = np.repeat(np.arange(len(held_out)), list(map(len, held_out)))
    waves = np.concatenate(held_out)
    named = Path(recordings[0].path).name if len(recordings) == 1 else f"{len(recordings)} recordings"
    training = (f"training/fit.py {named} --kind {args.kind} --held-out {args.held_out:g} --seed {args.seed}, "
                f"{sum(splits)} samples")

    def judged(kind: str, module, card: dict, found: dict | None) -> Candidate:
        module = module.eval().requires_grad_(False)
        return Candidate(kind, module, card, found, denoising(temporary(module, card), waves,
                                                              np.random.default_rng(args.seed)))

    floor = judged("gaussian", *gaussian(np.concatenate(used), name, training, licence), None)
    low, high = occupied(np.array(floor.card["psd"]))
    unit, scale = ("MHz", rate / 1e6) if rate else ("cycles/sample", 1.0)
    say(f"spectrum: 99 % of the power between {low * scale:.4g} and {high * scale:.4g} {unit}")
    candidates, reasons = [floor], {}
    for kind, attempt in (("frames", lambda: framed(args, used, rate, name, training, licence)),
                          ("bursts", lambda: bursty(recordings, splits, name, training, licence))):
        if args.kind in ("auto", kind):
            try:
                candidates.append(judged(kind, *attempt()))
            except (frames.NoFrames, bursts.NoBursts) as reason:
                if args.kind == kind:
                    raise
                reasons[kind] = str(reason)
                say(f"{kind}: none. {reason}")
    best = floor
    for other in candidates[1:]:
        if args.kind != "auto" or other.score < 0.95 * best.score:
            best = other
    if len(candidates) > 1:
        say(f"error on the held-out part, mean over v = {LEVELS[0]:g} to {LEVELS[DECISIVE - 1]:g}: "
            f"{', '.join(f'{c.kind} {c.score:.3g}' for c in candidates)}; kept: {best.kind}")
    findings = {"recordings": [{"file": recording.path, "samples": len(recording.samples)} for recording in recordings],
                "sample_rate": rate, "held_out": args.held_out, "kind": best.kind, "occupied": [low, high],
                "levels": list(LEVELS), "error": best.error, "reasons": reasons, "frames": None, "bursts": None}
    for candidate in candidates:
        findings[f"error_{candidate.kind}"] = candidate.error
        findings |= {candidate.kind: candidate.found} if candidate.found else {}
    return best, findings, waves, origin


def report(prior: priors.Prior, findings: dict, held_out: np.ndarray, origin: np.ndarray, seed: int) -> None:
    """Say how well the prior fits and where it will serve, and add that to the findings."""
    say(f"prior: {findings['kind']}; error on {len(held_out)} held-out pieces (Gaussian prior)")
    for v, own, floor in zip(LEVELS, findings["error"], findings["error_gaussian"], strict=True):
        say(f"  v = {v:<5g} {own:.4g} ({floor:.4g})")
    if findings["kind"] == "frames":  # a Gaussian prior decides nothing: the rule does not hold for it
        findings["least_sir_db"] = decibel(findings["error"][LEVELS.index(0.1)])
        say("rule of thumb, kappa^2 times the error at v = 0.1 below 1: serves above "
            f"{findings['least_sir_db']:.0f} dB SIR")
    findings["serving"] = serving(prior, held_out, origin, seed)
    say("bit error rate of QPSK (16 samples/symbol) under held-out pieces, pnp-dr (matched filter)")
    for row in findings["serving"]:
        say(f"  SIR {row['sir_db']:>3} dB: {row['pnp-dr']:.4g} ({row['matched-filter']:.4g})")
    findings["serves_from_db"] = serves(findings["serving"])
    say(f"{served(findings['serves_from_db'])}; to serve is to leave at most {SERVES:g} of the matched filter's bit "
        "errors, there and at higher SIR")
    if len(findings["recordings"]) > 1:
        say(f"the same by recording, at {', '.join(f'{sir_db}' for sir_db in SIRS)} dB SIR")
        for i, recording in enumerate(findings["recordings"]):
            rows = [{"sir_db": row["sir_db"], **{method: rates[i] for method, rates in row["each"].items()}}
                    for row in findings["serving"]]
            recording["serves_from_db"] = serves(rows)
            packets = findings["bursts"]["packets_each"][i] if findings["bursts"] else {}
            say("  " + "  ".join(f"{row['pnp-dr']:.4f} ({row['matched-filter']:.4f})" for row in rows)
                + f"  {Path(recording['file']).name}: {listed(packets)}{served(recording['serves_from_db'])}")


def listed(packets: dict[str, int]) -> str:
    """Packets of each alphabet, in words."""
    return "".join(f"{count} {alphabet}, " for alphabet, count in packets.items())


def served(least: int | None) -> str:
    """What serves() answered, in words."""
    return "falls short" if least is None else f"serves from {least} dB SIR on"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        """One sentence and status 2, without argparse's usage text."""
        self.exit(2, f"{self.prog}: {message}\n")


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status. argv: arguments without the program's name (sys.argv)."""
    parser = _Parser(prog="fit.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="+", metavar="RECORDING",
                        help="interference alone: SigMF, raw IQ or WAV, as separate_file.py reads")
    parser.add_argument("--output", metavar="FILE", help="prior file to write (default: <first recording>_prior.pt)")
    parser.add_argument("--format", default="auto", help="of raw samples: cf32, ci16, cu8, ... (default: the suffix's)")
    parser.add_argument("--samp-rate", metavar="RATE", help="samples per second; must agree with the recording's own")
    parser.add_argument("--kind", choices=["auto", "gaussian", "frames", "bursts", "diffwave"], default="auto")
    parser.add_argument("--held-out", type=float, metavar="SHARE",
                        help=f"of each recording, its end, that judges the fit (default {HELD_OUT:g})")
    parser.add_argument("--minutes", type=float, help="of training, for --kind diffwave (default 30)")
    parser.add_argument("--name", help="default: the output's name without its ending")
    parser.add_argument("--licence", help="of the prior (default: the first recording's, or 'not stated')")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="write what was found here")
    args = parser.parse_args(argv)
    try:
        stem = Path(args.recordings[0]).name.removesuffix(".sigmf-meta").removesuffix(".sigmf-data")
        path = Path(args.output or f"{Path(stem).stem if '.' in stem else stem}_prior.pt")
        name = args.name or path.stem
        for target in filter(None, (path, args.json and Path(args.json))):
            if not target.absolute().parent.is_dir():
                raise ValueError(f"the folder of {target} does not exist")
        if args.minutes is not None and args.kind != "diffwave":
            raise ValueError("--minutes belongs to --kind diffwave; the other kinds are fitted in seconds")
        if args.kind == "diffwave" and (args.json or args.held_out is not None):
            raise ValueError("--json and --held-out do not belong to --kind diffwave, whose run folder has its report")
        args.held_out = HELD_OUT if args.held_out is None else args.held_out
        if not 0.1 <= args.held_out <= 0.9:
            raise ValueError(f"--held-out must be 0.1 to 0.9, not {args.held_out:g}")
        if args.seed < 0:
            raise ValueError(f"--seed must be 0 or more, not {args.seed}")
        recordings = read_all(args.recordings, args.format, args.samp_rate)
        licence = args.licence or recordings[0].licence or "not stated"
        if args.kind == "diffwave":
            args.minutes = 30.0 if args.minutes is None else args.minutes
            if not args.minutes > 0:
                raise ValueError(f"--minutes must be above 0, not {args.minutes:g}")
            diffwave(args, recordings, name, licence, path)
            say(f"wrote {path}")
            return 0
        best, findings, held_out, origin = choose(args, recordings, name, licence)
        report(temporary(best.module, best.card), findings, held_out, origin, args.seed)
        write_prior(best.module, best.card, path)
        if args.json:
            Path(args.json).write_text(json.dumps(findings, indent=1) + "\n")
        say(f"wrote {path}")
    except KeyboardInterrupt:
        print("fit.py: cancelled; nothing was written", file=sys.stderr)
        return 3
    except (ValueError, OSError, CaptureError) as error:
        parser.error(" ".join(str(error).split()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
