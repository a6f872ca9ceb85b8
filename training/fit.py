#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a recording of interference alone to a prior file, in one command.

    python training/fit.py interference.sigmf-meta --output interference.pt
    python apps/separate_file.py capture.sigmf-meta --interference interference.pt

Finds frames and their alphabet where there are any (seconds), or the spectrum (Gaussian prior), keeps what denoises a
held-out part of the recording better, and says at which SIR the prior will serve. --kind diffwave trains a network
instead. Exit status: 0 done; 2 bad input, one sentence on stderr and nothing written; 3 cancelled, nothing written.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
from export import write_prior
from frames import NoFrames, card, fit
from gnuradio.unmix import demodulation, priors, separators, signals
from gnuradio.unmix.captures import CaptureError, check_not_constant, open_capture, parse_rate
from gnuradio.unmix.priors.gaussian import Gaussian, spectrum

WINDOW = 2560
LEAST = 2000  # samples of a recording
MOST = 1000 * WINDOW  # samples that are used: more add nothing to a fit
HELD_OUT = 0.25  # of the recording, its end
LEVELS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # v, noise variance per real channel beside unit power
SIRS = (-18, -12, -6, 0)  # dB
PIECES = 48  # held-out pieces per measurement, at random places
SOI = "rrc:qpsk,sps=16,rolloff=0.5,span=8,ends=isolated"


def decibel(ratio: float) -> float:
    return 10 * math.log10(ratio + 1e-12)


def say(text: str) -> None:
    print(text, flush=True)


def read(path: str, sample_format: str, samp_rate: str | None) -> tuple[np.ndarray, float | None, dict]:
    """Samples of a recording, its rate and its SigMF metadata. Raises ValueError (CaptureError) when it will not do."""
    capture = open_capture(path, sample_format)
    rate = None if samp_rate is None else parse_rate(samp_rate)
    if rate and capture.sample_rate and abs(rate / capture.sample_rate - 1) > 1e-6:
        raise ValueError(f"{path} was recorded at {capture.sample_rate:g} samples/s, not at {rate:g}: a prior holds at "
                         "the rate of its recording")
    if len(capture) < LEAST:
        raise ValueError(f"{path} is too short: {len(capture)} samples, at least {LEAST} are needed")
    check_not_constant(capture)
    samples = capture.read(0, MOST)
    largest = max(np.abs(samples.real).max(), np.abs(samples.imag).max())
    if not largest > 0:
        raise ValueError(f"{path} is silent: its first {len(samples)} samples are all zero")
    clipped = np.mean(np.maximum(np.abs(samples.real), np.abs(samples.imag)) >= largest * (1 - 1e-6))
    if clipped > 1e-3:
        print(f"fit.py: warning: {100 * clipped:.1f} % of the samples have the extreme value; the recording may be "
              "clipped, which no prior models", file=sys.stderr)
    if abs(samples.mean())**2 > 0.05 * np.mean(np.abs(samples)**2):
        print("fit.py: warning: the recording has an offset of its mean (DC), which the prior will contain",
              file=sys.stderr)
    return samples, rate or capture.sample_rate, capture.metadata


def pieces(rng: np.random.Generator, samples: np.ndarray, count: int, window: int) -> np.ndarray:
    """`count` pieces [count, window] at random places, each of unit power; silent ones (below a tenth) are avoided."""
    level = 0.1 * np.mean(np.abs(samples)**2)
    found = []
    for start in rng.integers(0, len(samples) - window + 1, 20 * count):
        piece = samples[start:start + window]
        power = np.mean(np.abs(piece)**2)
        if power > level:
            found.append(piece / math.sqrt(power))
        if len(found) == count:
            break
    return np.array(found, dtype=np.complex64)


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
    """Mean |error|^2 at LEVELS on waves of unit power, [W, N]."""
    result = []
    for v in LEVELS:
        x = ((waves + math.sqrt(v) * signals.noise(rng, waves.shape, 2.0)) / math.sqrt(1 + v)).astype(np.complex64)
        result.append(float(np.mean(np.abs(prior.denoise(x, np.full(len(x), 1 / (1 + v), np.float32)) - waves)**2)))
    return result


def serving(prior: priors.Prior, waves: np.ndarray, seed: int) -> list[dict]:
    """Bit error rates of pnp-dr and of the matched filter with QPSK under held-out pieces, at SIRS."""
    soi = priors.parse(SOI)
    rows = []
    for sir_db in SIRS:
        rng = np.random.default_rng([seed, -sir_db])
        wave, bits = signals.linear_modulation(rng, len(waves), waves.shape[1] // 16)
        gains = np.array([1.0, signals.kappa(sir_db)])
        problem = separators.Problem((wave + np.float32(gains[1]) * waves).astype(np.complex64), [soi, prior], gains)
        row = {"sir_db": sir_db}
        for method in ("pnp-dr", "matched-filter"):
            source = separators.separate(problem, method).sources[0]
            wrong = demodulation.decide(demodulation.matched_filter(source, soi.modulation), soi.modulation) != bits
            row[method] = float(wrong[:, 16:-16].mean())  # the ends of isolated pieces cost errors of their own
        rows.append(row)
    return rows


def temporary(module, info: dict) -> priors.Prior:
    return priors.from_module(module.eval().requires_grad_(False), info)


def gaussian(samples: np.ndarray, name: str, training: str, licence: str) -> tuple[Gaussian, dict]:
    """The Gaussian prior with the recording's spectrum, and its card."""
    density = spectrum(samples)
    return Gaussian(density), {"format": 1, "name": name, "kind": "gaussian", "window": 0, "predicts": "signal",
                               "side": [], "band": None, "psd": density.tolist(), "training": training,
                               "licence": licence, "version": "1"}


def diffwave(args, samples: np.ndarray, name: str, licence: str, path: Path) -> None:
    """Train a network on the recording, as training/train.py does. Raises ValueError where its packages are missing."""
    folder = Path("runs") / name
    try:
        import torch
        import train
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "recording.npy", samples[None])
        run = train.Run({"name": name, "licence": licence,
                         "data": {"kind": "recording", "files": str(folder / "recording.npy"), "window": WINDOW},
                         "network": {"kind": "diffwave", "channels": 64},
                         "training": {"minutes": args.minutes, "seed": args.seed}},
                        "cuda" if torch.cuda.is_available() else "cpu")
    except ImportError as error:
        raise ValueError(f"--kind diffwave needs the training environment (make training-env); {error}") from None
    if not train.train(run, folder):
        raise KeyboardInterrupt
    train.write(run, path)


def choose(args, samples: np.ndarray, rate: float | None, name: str, licence: str) -> tuple:
    """Fit what --kind allows and pick the best: (module, card, findings)."""
    rng = np.random.default_rng(args.seed)
    split = int(len(samples) * (1 - HELD_OUT))
    window = min(WINDOW, (len(samples) - split) // 16 * 16)
    used, held_out = samples[:split], pieces(rng, samples[split:], PIECES, window)
    if not len(held_out):
        raise ValueError("the last quarter of the recording is silent, and without it the fit cannot be judged")
    training = f"training/fit.py {Path(args.recording).name} --kind {args.kind} --seed {args.seed}, {split} samples"
    module, info = gaussian(used, name, training, licence)
    low, high = occupied(np.array(info["psd"]))
    unit, scale = ("MHz", rate / 1e6) if rate else ("cycles/sample", 1.0)
    say(f"spectrum: 99 % of the power between {low * scale:.4g} and {high * scale:.4g} {unit}")
    error = denoising(temporary(module, info), held_out, np.random.default_rng(args.seed))
    findings = {"recording": args.recording, "samples": len(samples), "sample_rate": rate, "kind": "gaussian",
                "occupied": [low, high], "levels": list(LEVELS), "error_gaussian": error, "frames": None}
    if args.kind != "gaussian":
        try:
            length = min(WINDOW, len(used) // 4)
            windows = used[:len(used) // length * length].reshape(-1, length)
            found = fit(windows, args.seed)
            power = np.mean(np.abs(windows[found.windows])**2)
            framed = card(found, windows / math.sqrt(power), name, training, licence)
            frames_error = denoising(temporary(found.prior, framed), held_out, np.random.default_rng(args.seed))
            where = f"on carriers of an FFT of {found.carriers}" if found.carriers else "by independent components"
            offset = f"{found.frequency * rate:.1f} Hz" if rate else f"{found.frequency:.3g} cycles/sample"
            say(f"frames: lag {found.lag}, cycle {found.length} samples, {found.count} symbols a frame {where}, "
                f"alphabet {found.alphabet}, carrier offset {offset}, ILSP residual {decibel(found.residual):.1f} dB, "
                f"white noise in the recording {decibel(found.noise):.1f} dB")
            findings["frames"] = {"lag": found.lag, "cycle": found.length, "symbols": found.count,
                                  "carriers": found.carriers, "alphabet": found.alphabet, "frequency": found.frequency,
                                  "residual": found.residual, "noise": found.noise, "windows": len(found.windows)}
            findings["error_frames"] = frames_error
            if args.kind == "frames" or sum(np.log(frames_error[:4])) < sum(np.log(error[:4])) + 4 * math.log(0.95):
                module, info, error, findings["kind"] = found.prior, framed, frames_error, "frames"
            else:
                say("frames: not kept, the Gaussian prior denoises the held-out part as well")
        except NoFrames as reason:
            if args.kind == "frames":
                raise
            say(f"frames: none. {reason}")
            if str(reason).startswith("frames of"):
                say("bursts of different timing and alphabets, as 802.11 has, need training/bursts.py")
            findings["reason"] = str(reason)
    findings["error"] = error
    return module.eval().requires_grad_(False), info, findings, held_out


def report(prior: priors.Prior, findings: dict, held_out: np.ndarray, seed: int) -> None:
    """Say how well the prior fits and where it will serve, and add that to the findings."""
    say(f"prior: {findings['kind']}; error on {len(held_out)} held-out pieces (Gaussian prior)")
    for v, own, floor in zip(LEVELS, findings["error"], findings["error_gaussian"], strict=True):
        say(f"  v = {v:<5g} {own:.4g} ({floor:.4g})")
    if findings["kind"] == "frames":  # a Gaussian prior decides nothing: the rule does not hold for it
        findings["least_sir_db"] = decibel(findings["error"][LEVELS.index(0.1)])
        say("rule of thumb, kappa^2 times the error at v = 0.1 below 1: serves above "
            f"{findings['least_sir_db']:.0f} dB SIR")
    findings["serving"] = serving(prior, held_out, seed)
    say("bit error rate of QPSK (16 samples/symbol) under held-out pieces, pnp-dr (matched filter)")
    for row in findings["serving"]:
        say(f"  SIR {row['sir_db']:>3} dB: {row['pnp-dr']:.4g} ({row['matched-filter']:.4g})")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        """One sentence and status 2, without argparse's usage text."""
        self.exit(2, f"{self.prog}: {message}\n")


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status. argv: arguments without the program's name (sys.argv)."""
    parser = _Parser(prog="fit.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", help="interference alone: SigMF, raw IQ or WAV, as separate_file.py reads")
    parser.add_argument("--output", metavar="FILE", help="prior file to write (default: <recording>_prior.pt)")
    parser.add_argument("--format", default="auto", help="of raw samples: cf32, ci16, cu8, ... (default: the suffix's)")
    parser.add_argument("--samp-rate", metavar="RATE", help="samples per second; must agree with the recording's own")
    parser.add_argument("--kind", choices=["auto", "gaussian", "frames", "diffwave"], default="auto")
    parser.add_argument("--minutes", type=float, help="of training, for --kind diffwave (default 30)")
    parser.add_argument("--name", help="default: the output's name without its ending")
    parser.add_argument("--licence", help="of the prior (default: the recording's, or 'not stated')")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="write what was found here")
    args = parser.parse_args(argv)
    try:
        stem = Path(args.recording).name.removesuffix(".sigmf-meta").removesuffix(".sigmf-data")
        path = Path(args.output or f"{Path(stem).stem if '.' in stem else stem}_prior.pt")
        name = args.name or path.stem
        for target in filter(None, (path, args.json and Path(args.json))):
            if not target.absolute().parent.is_dir():
                raise ValueError(f"the folder of {target} does not exist")
        if args.minutes is not None and args.kind != "diffwave":
            raise ValueError("--minutes belongs to --kind diffwave; the other kinds are fitted in seconds")
        if args.seed < 0:
            raise ValueError(f"--seed must be 0 or more, not {args.seed}")
        samples, rate, metadata = read(args.recording, args.format, args.samp_rate)
        licence = args.licence or metadata.get("core:license") or "not stated"
        if args.kind == "diffwave":
            args.minutes = 30.0 if args.minutes is None else args.minutes
            if not args.minutes > 0:
                raise ValueError(f"--minutes must be above 0, not {args.minutes:g}")
            diffwave(args, samples, name, licence, path)
            say(f"wrote {path}")
            return 0
        module, info, findings, held_out = choose(args, samples, rate, name, licence)
        report(temporary(module, info), findings, held_out, args.seed)
        write_prior(module, info, path)
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
