# SPDX-License-Identifier: GPL-3.0-or-later
"""Validate priors: the denoising error beside bound and floor; bit errors, calls and time in the separation loop.

    python training/validate.py rrc-qpsk ofdm-qpsk --windows 300 --json report.json --plots .

Bound: the closed-form posterior mean of the same signal, with what the prior does not know marginalised on a grid. It
is exact for linear modulation inside a window; at the ends, and for OFDM, whose folded noise it takes for even, a
learned prior may beat it. Floor: the Gaussian prior of the same spectrum. All windows are simulated from the prior's
entry `simulation` (or its modulation), cut from longer signals; where it has neither, they come from --recording, and
the floor stands alone. The loop is pnp-dr with a closed-form partner. Prints Markdown for the prior's card. Exit status
2: bad input, one sentence.
"""

import argparse
import json
import math
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffwave import alpha_bars
from gnuradio.unmix import priors, signals, stream
from gnuradio.unmix.outputs import files_of_prior
from gnuradio.unmix.priors.gaussian import Gaussian, spectrum
from gnuradio.unmix.separators import Outcome, Problem, separate
from gnuradio.unmix.unmix_python import cuda_available
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "apps"))
import benchmark

#: Noise variances per real channel, relative to the signal: the report's levels.
LEVELS = (.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2.57)
SIR_DB = (-24, -21, -18, -15, -12, -9, -6, -3)
SOI, INTERFERENCE = "rrc:qpsk,sps=16,rolloff=0.5,span=8", "cp-ofdm:qpsk,fft=64,cp=16,active=56"


@dataclass(frozen=True)
class Subject:
    """A prior with what it is measured against.

    spec: the text that gave it. signal: what is simulated, see benchmark.py. bound: closed-form posterior mean, or
    None. peer: what a user would take instead in the loop, the closed form, or the Gaussian prior where there is none.
    floor: Gaussian prior.
    """

    spec: str
    prior: priors.Prior
    signal: object
    bound: priors.Prior | None
    peer: priors.Prior
    floor: priors.Prior

    @property
    def is_soi(self) -> bool:
        return isinstance(self.signal, benchmark.SoiSignal)

    @property
    def samples(self) -> int:
        """Window length."""
        return self.prior.window or 2560

    def draw(self, rng: np.random.Generator, windows: int) -> np.ndarray:
        """Windows complex64 [windows, samples], cut from longer signals."""
        if self.is_soi:
            return self.signal.draw(rng, windows, self.samples, self.signal.span)[0]
        return self.signal.draw(rng, windows, self.samples)


def gaussian(psd: np.ndarray) -> priors.Prior:
    """The Gaussian prior of a power spectral density [n], FFT order."""
    return priors.from_module(Gaussian(psd), {
        "format": 1, "name": "gaussian", "kind": "gaussian", "psd": (psd / psd.mean()).tolist(), "window": 0,
        "predicts": "signal", "side": []})


def subject(spec: str, recording=None, part: str = "all") -> Subject:
    """The prior of a specification, ready to be measured.

    recording: files to take windows from where the prior does not say how its signal is simulated. part: of each, see
    benchmark.RecordedSignal. Raises ValueError where the prior or the files cannot be used.
    """
    prior = priors.parse(spec)
    closed = benchmark.closed_form(prior, spec)
    if closed is None:
        if not recording:
            raise ValueError(f"the prior {prior.name} does not say how its signal is simulated; give --recording")
        signal = benchmark.RecordedSignal(recording, part)
        density = prior.info.get("psd")
        if density is None:
            density = spectrum(signal.draw(np.random.default_rng(0), 64, prior.window or 2560).ravel())
        floor = gaussian(np.asarray(density))
        return Subject(spec, prior, signal, None, floor, floor)
    unknown = closed if "sync=" in closed else f"{closed},sync=unknown"
    if closed.startswith("rrc:"):
        free = benchmark.timing_is_free(prior)
        signal, bound = benchmark.SoiSignal(closed, free), priors.parse(unknown if free else closed)
        peer = bound
    else:
        signal, bound, peer = benchmark.OfdmSignal(closed), priors.parse(unknown), priors.parse(closed)
    return Subject(spec, prior, signal, bound, peer, gaussian(peer.psd(1024)))


def _denoised(prior, x, alpha_bar, device, batch):
    engine, level = prior.engine(device), np.full(len(x), alpha_bar, np.float32)
    return np.concatenate([engine.denoise(x[i:i + batch], level[i:i + batch], None) for i in range(0, len(x), batch)])


def denoising(of: Subject, levels, windows: int, seed: int = 1, device: str = "cpu", batch: int = 64) -> list[dict]:
    """Mean squared errors |x_hat - x|^2 of prior, bound and floor at each level v: over whole windows, and inside.

    inside: without the samples at either end that a stream throws away. The same windows at every level.
    """
    waves = of.draw(np.random.default_rng([seed, 0]), windows)
    z = signals.noise(np.random.default_rng([seed, 1]), waves.shape, 2.0)
    edge = margin(of)
    rows = []
    for v in tqdm(levels, desc=f"{of.prior.name} denoising", leave=False, disable=not sys.stderr.isatty()):
        alpha_bar = 1 / (1 + v)
        x = (math.sqrt(alpha_bar) * waves + math.sqrt(1 - alpha_bar) * z).astype(np.complex64)
        row = {"v": float(v), "alpha_bar": alpha_bar, "windows": windows}
        for name in ("prior", "bound", "floor"):
            estimate = getattr(of, name)
            if estimate is not None:
                error = np.abs(_denoised(estimate, x, alpha_bar, device, batch) - waves) ** 2
                row[name] = float(error.mean(dtype=np.float64))
                row[f"{name}_inside"] = float(error[:, edge:-edge].mean(dtype=np.float64))
        rows.append(row)
    return rows


def title(signal) -> str:
    """A signal in words, for people: without folders."""
    name = " ".join(word.rpartition("/")[2] for word in signal.name.split(" "))
    return name + (", random timing and phase" if getattr(signal, "random", False) else "")


def margin(of: Subject) -> int:
    """Samples at each end of a window that a stream throws away."""
    return stream.default_overlap(of.samples, of.signal.sps if of.is_soi else 16) // 2


def loop(of: Subject, sir_db: float, snr_db: float, windows: int, seed: int = 1, device: str = "cpu",
         batch: int = 64) -> list[dict]:
    """pnp-dr with the prior, then with its peer, on the same mixtures, with a closed-form partner.

    The windows are cut from longer signals; bits, errors and calls are those of their insides, as in a stream.
    """
    if of.is_soi:
        soi, interference, partner = of.signal, benchmark.OfdmSignal(INTERFERENCE), priors.parse(INTERFERENCE)
    else:
        soi, interference, partner = benchmark.SoiSignal(SOI), of.signal, priors.parse(SOI)
    mixture, wave, bits, truth = benchmark.generate(soi, interference, windows, of.samples, sir_db, snr_db, seed,
                                                    soi.span)
    edge = margin(of)
    skip = edge // soi.sps * benchmark.cons.bits_per_symbol(soi.modulation["constellation"])
    rows = []
    for who, prior in (("prior", of.prior), ("peer", of.peer)):
        pair = [prior, partner] if of.is_soi else [partner, prior]
        began = time.monotonic()
        result = separate(Problem(mixture, pair, np.array([1.0, signals.kappa(sir_db)]),
                                  10 ** (-snr_db / 10) if math.isfinite(snr_db) else 0.0, margin=edge, seed=seed,
                                  device=device, batch=batch), "pnp-dr")
        seconds = time.monotonic() - began
        wrong = (soi.bits(result.sources[0], truth) != bits)[:, skip:bits.shape[1] - skip]
        error = np.mean(np.abs(result.sources[0] - wave)[:, edge:-edge] ** 2) / np.mean(np.abs(wave) ** 2)
        rows.append({
            "who": who, "prior": prior.name, "soi_signal": soi.name, "interference_signal": interference.name,
            "sir_db": sir_db, "snr_db": snr_db if math.isfinite(snr_db) else "inf", "windows": windows,
            "bits": wrong.size, "bit_errors": int(wrong.sum()), "ber": float(wrong.mean()),
            "ber_ci95": benchmark.interval(wrong.sum(1), wrong.shape[1]), "calls": float(result.calls.mean()),
            "unsettled": int(np.sum(result.outcomes != int(Outcome.AGREED))),
            "mse_db": float(10 * np.log10(max(error, 1e-12))), "seconds_per_window": seconds / windows,
            "device": device, "seed": seed})
    return rows


def cost(of: Subject, windows: int = 8) -> dict:
    """Parameters, MFLOP a window and milliseconds a window on one core, of prior and peer by turns.

    Side information that a separation estimates once per window is given. Parameters and MFLOP (twice the
    multiplications of layers and matrix products) are None for closed forms.
    """
    result = {"parameters": None, "mflop": None}
    x = of.draw(np.random.default_rng(0), windows)
    level = np.full(windows, 0.9, np.float32)
    sides = {name: getattr(of, name).side_information(x, []) for name in ("prior", "peer")}
    if of.prior.module is None:
        file = next(path for path in files_of_prior(of.spec) if path.is_file())
        network = torch.jit.load(str(file), map_location="cpu")
        result["parameters"] = sum(p.numel() for p in network.parameters())
        side = torch.zeros(1, 0) if sides["prior"] is None else torch.from_numpy(sides["prior"][:1])
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, 2, of.samples), torch.full((1,), 0.9), side)
        result["mflop"] = counter.get_total_flops() / 1e6
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    taken = {"prior": [], "peer": []}
    try:
        for turn in range(30):
            for name, times in taken.items():
                prior = getattr(of, name)
                began = time.perf_counter()
                prior.denoise(x, level, sides[name])
                times.append((time.perf_counter() - began) / windows * 1e3)
            if turn >= 4 and sum(map(sum, taken.values())) * windows > 2e3:
                break
    finally:
        torch.set_num_threads(threads)
    # The first two calls specialise the TorchScript.
    ms = {name: float(np.median(times[2:])) for name, times in taken.items()}
    return result | {"ms": ms["prior"], "peer_ms": ms["peer"], "ratio": ms["prior"] / ms["peer"]}


def markdown(report: dict) -> str:
    """The report of a prior for its card."""
    peer = report["peer"]
    lines = [f"### {report['prior']}", "", f"Signal: {report['signal']}. Denoising error, mean |x̂ − x|² over "
             f"{report['denoising'][0]['windows']} windows cut from longer signals; inside: without "
             f"{report['margin']} samples at either end; v: noise variance per real channel.", ""]
    names = [name for name in ("prior", "bound", "floor") if name in report["denoising"][0]]
    titles = {"prior": "this", "bound": "closed form", "floor": "Gaussian"}
    head = ["v"] + [titles[n] for n in names] + [f"{titles[n]}, inside" for n in names]
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in report["denoising"]:
        cells = [row[n] for n in names] + [row[f"{n}_inside"] for n in names]
        lines.append(f"| {row['v']:g} | {' | '.join(f'{c:.2g}' for c in cells)} |")
    if report["loop"]:
        first = report["loop"][0]
        lines += ["", f"In `pnp-dr`, {first['windows']} windows and {first['bits']:,} bits inside them a row, 95 % "
                  f"intervals; unsettled: windows that did not agree in 100 calls. Beside it: {peer}.", "",
                  "| SNR | SIR dB | BER | calls | unsettled | its BER | its calls | its unsettled |", "|---" * 8 + "|"]
        for own, other in zip(report["loop"][::2], report["loop"][1::2], strict=True):
            snr = "no noise" if own["snr_db"] == "inf" else f"{own['snr_db']:g} dB"
            cells = [text for r in (own, other) for text in (
                f"{r['ber']:.1e} ({r['ber_ci95'][0]:.1e} … {r['ber_ci95'][1]:.1e})" if r["bit_errors"] else
                f"0 (… {r['ber_ci95'][1]:.1e})", f"{r['calls']:.1f}", str(r["unsettled"]))]
            lines.append(f"| {snr} | {own['sir_db']:g} | {' | '.join(cells)} |")
    use = report["cost"]
    size = "" if use["parameters"] is None else (f"{use['parameters']:,} parameters, {use['mflop']:.1f} MFLOP a "
                                                 "window. ")
    lines += ["", f"{size}One call takes {use['ms']:.3g} ms a window on one core (what is estimated once per window "
              f"left out), {use['ratio']:.2g} times as long as {peer} in the same run.", ""]
    return "\n".join(lines)


def plot(report: dict, folder: Path) -> Path:
    """Draw error against noise level; returns the file."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    figure, axis = plt.subplots(figsize=(6, 4.5), layout="constrained")
    rows = sorted(report["denoising"] + report["paper_levels"], key=lambda row: row["v"])
    for name, label, style in (("floor", "Gaussian prior, same spectrum", "C7--"), ("bound", "closed form", "C0-"),
                               ("prior", report["prior"], "C1o-")):
        if name in rows[0]:
            axis.loglog([r["v"] for r in rows], [r[f"{name}_inside"] for r in rows], style, markersize=3, label=label)
    axis.set_ylim(bottom=min(r["prior_inside"] for r in rows) / 10)  # the closed form's may be rounding alone
    axis.set(xlabel="noise variance v per real channel", ylabel="mean |x̂ − x|², inside the window",
             title=f"{report['prior']}: denoising error, {rows[0]['windows']} windows")
    axis.grid(which="both", alpha=0.3)
    axis.legend()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"priors_{re.sub('[^A-Za-z0-9=.-]', '_', report['prior'])}_error.png"
    figure.savefig(file, dpi=100)
    plt.close(figure)
    return file


def validate(of: Subject, args) -> dict:
    """The whole report of a prior. args: the command line's."""
    paper = (1 / alpha_bars(50)[1:] - 1).tolist() if args.json or args.plots else []
    common = {"seed": args.seed, "device": args.device, "batch": args.batch}
    rows = denoising(of, (*LEVELS, *paper), args.error_windows, **common)
    cases = [(snr, sir) for snr in args.snr_db for sir in args.sir_db]
    bar = tqdm(cases, desc=f"{of.prior.name} loop", leave=False, disable=not sys.stderr.isatty())
    return {"prior": of.prior.name, "peer": of.peer.name if of.bound else "the Gaussian prior",
            "signal": title(of.signal),
            "bound": of.bound.name if of.bound else None, "margin": margin(of), "window": of.samples,
            "denoising": rows[:len(LEVELS)], "paper_levels": rows[len(LEVELS):],
            "loop": [row for snr, sir in bar for row in loop(of, sir, snr, args.windows, **common)],
            "cost": cost(of), "seed": args.seed, "device": args.device}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        """One sentence and status 2, without argparse's usage text."""
        self.exit(2, f"{self.prog}: {message}\n")


def _arguments(argv):
    parser = _Parser(prog="validate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("priors", nargs="+", metavar="PRIOR", help="a specification, as separate_file.py takes it")
    parser.add_argument("--windows", type=int, default=300, help="in the loop, a point (default %(default)s)")
    parser.add_argument("--error-windows", type=int, default=64, help="for the denoising error (default %(default)s)")
    parser.add_argument("--sir-db", type=float, nargs="+", default=list(SIR_DB))
    parser.add_argument("--snr-db", type=float, nargs="+", default=[math.inf, 20.0], help="default: inf 20")
    parser.add_argument("--recording", nargs="+", metavar="FILE", help="recordings of a signal that has no simulation")
    parser.add_argument("--recording-part", metavar="all|last:FRACTION",
                        help="of each recording (default last:0.2, what training holds out)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the reports here, with the paper's 49 levels")
    parser.add_argument("--plots", metavar="DIR", type=Path, help="draw error against noise level here")
    args = parser.parse_args(argv)
    if min(args.windows, args.error_windows, args.batch) < 1 or args.seed < 0:
        raise ValueError("--windows, --error-windows and --batch must be at least 1, --seed 0")
    if not all(map(math.isfinite, args.sir_db)) or any(s != s or s == -math.inf for s in args.snr_db):
        raise ValueError("--sir-db must be finite, --snr-db finite or inf")
    if args.recording_part and not args.recording:
        raise ValueError("--recording-part needs --recording")
    for option in ("json", "plots"):
        path = getattr(args, option)
        if path and not path.absolute().parent.is_dir():
            raise ValueError(f"the folder of --{option} {path} does not exist")
    if args.device == "auto":
        args.device = "cuda" if cuda_available() else "cpu"
    return args


def main(argv=None) -> int:
    try:
        args = _arguments(argv)
        subjects = [subject(spec, args.recording, args.recording_part or "last:0.2") for spec in args.priors]
        recorded = [of for of in subjects if of.bound is None]
        if args.recording and not recorded:
            raise ValueError("all these priors say how their signals are simulated; leave out --recording")
        for of in recorded:  # too short or silent: refused here, not half-way
            of.draw(np.random.default_rng(0), 1)
        for of in subjects:
            of.prior.engine(args.device)
    except (ValueError, OSError) as error:
        print(f"validate.py: {error}", file=sys.stderr)
        return 2
    reports = []
    for of in subjects:
        reports.append(validate(of, args))
        print(markdown(reports[-1]), flush=True)
        if args.json:
            part = Path(f"{args.json}.part")
            part.write_text(json.dumps(reports, indent=1) + "\n")
            os.replace(part, args.json)
        if args.plots:
            print(plot(reports[-1], args.plots), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
