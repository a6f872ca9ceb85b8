#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bit error rate, mean squared error and time of separation methods on simulated mixtures (or mixtures made elsewhere).

What is mixed is apart from what the priors believe: --soi-signal and --interference-signal; without them it is what
the priors describe: a closed form itself, a learned prior's entry `simulation`, or its modulation.

Two protocols. isolated: the paper's, windows on their own whose ends count. stream: one long signal, cut into
overlapping windows, of which the interiors are joined. Both take the SIR and the noise level as known, as the paper.
"""

import argparse
import json
import math
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import scipy.stats
from benchmark_signals import OfdmSignal, RecordedSignal, SoiSignal
from gnuradio.unmix import priors, separators, signals, stream
from gnuradio.unmix.estimators import Levels
from gnuradio.unmix.priors import constellation as cons
from gnuradio.unmix.settings import choose_device
from tqdm import tqdm


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--soi", default="rrc:qpsk,sps=16,rolloff=0.5,span=8", metavar="SPEC")
    parser.add_argument("--interference", default="cp-ofdm:qpsk,fft=64,cp=16,active=56", metavar="SPEC",
                        help="priors (default %(default)s)")
    parser.add_argument("--soi-signal", metavar="SPEC", help="what is simulated: rrc:... (default: what --soi says)")
    parser.add_argument("--interference-signal", nargs="+", metavar="SPEC|RECORDING",
                        help="what is simulated: cp-ofdm:..., or random windows of recordings, of unit power and "
                             "random phase (default: what --interference says)")
    parser.add_argument("--recording-part", metavar="all|last:FRACTION",
                        help="of each recording of --interference-signal, such as last:0.4 (default: all)")
    parser.add_argument("--soi-timing", choices=["known", "random"], default="known",
                        help="random: fractional timing and phase anew in every window (stream: in every stream), for "
                             "SOI priors that know neither; bits are counted with the true ones")
    parser.add_argument("--sir-db", type=float, nargs="+", default=[-24, -21, -18, -15, -12, -9, -6, -3])
    parser.add_argument("--snr-db", nargs="+", default=["inf"], metavar="dB",
                        help="white noise below the SOI; inf: none")
    parser.add_argument("--methods", default="pnp-dr", help=f"comma-separated: {', '.join(sorted(separators.METHODS))}")
    parser.add_argument("--windows", type=int, default=100)
    parser.add_argument("--window", type=int, default=2560, help="samples")
    parser.add_argument("--protocol", choices=["isolated", "stream"], default="isolated")
    parser.add_argument("--steps", type=int, help="largest number of calls of each prior (default: the method's)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", metavar="FILE",
                        help="write the rows here; rows that it already has are kept, not redone")
    parser.add_argument("--plots", metavar="DIR", help="draw BER against SIR here")
    parser.add_argument("--mixtures", metavar="FILE.npz",
                        help="take mixtures from here: mixture [W, L], sir_db [W]; soi [W, L], bits [W, n] if known")
    args = parser.parse_args(argv)
    args.methods = [separators.resolve_method(m) for m in args.methods.split(",")]
    if args.mixtures and (args.interference_signal or args.recording_part or args.soi_timing == "random"):
        raise ValueError("--mixtures are made already; leave out --interference-signal, --recording-part and "
                         "--soi-timing")
    if args.soi_timing == "random" and "matched-filter" in args.methods:
        raise ValueError("the method matched-filter needs the timing; leave out --soi-timing random")
    try:
        args.snr_db = [float(s) for s in args.snr_db]
    except ValueError:
        raise ValueError(f"--snr-db must be numbers of dB or inf, not {' '.join(args.snr_db)}") from None
    if args.steps is not None and args.methods == ["matched-filter"]:
        raise ValueError("the method matched-filter takes no --steps")
    for option in ("json", "plots"):
        path = getattr(args, option)
        if path and not Path(path).absolute().parent.is_dir():
            raise ValueError(f"the folder of --{option} {path} does not exist")
    if args.windows < 1 or args.batch < 1 or args.window < 1 or (args.steps is not None and args.steps < 1):
        raise ValueError("--windows, --window, --batch and --steps must be at least 1")
    if not all(math.isfinite(s) for s in args.sir_db) or any(math.isnan(s) for s in args.snr_db):
        raise ValueError("--sir-db must be finite, --snr-db finite or inf")
    return args


def interval(errors: np.ndarray, bits_per_window: int) -> list[float]:
    """95 % interval of the bit error rate whose errors come in clusters: one count per window, [W].

    Clopper-Pearson with the number of bits divided by the design effect, the factor by which the windows' error counts
    scatter more than independent errors would.
    """
    bits = errors.size * bits_per_window
    rate = errors.sum() / bits
    effect = 1.0
    if errors.size > 1 and 0 < rate < 1:
        scatter = np.sum((errors - rate * bits_per_window) ** 2) * errors.size / (errors.size - 1) / bits**2
        effect = max(1.0, scatter / (rate * (1 - rate) / bits))
    n, k = bits / effect, rate * bits / effect
    low = scipy.stats.beta.ppf(0.025, k, n - k + 1) if k > 0 else 0.0
    high = scipy.stats.beta.ppf(0.975, k + 1, n - k) if k < n else 1.0
    return [float(low), float(high)]


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


def run_isolated(case, mixture, method, args, device):
    """Separate windows on their own: SOI estimates [W, L], calls [W]."""
    with tqdm(total=len(mixture), unit="window", desc=case, leave=False, disable=not sys.stderr.isatty()) as bar:
        def progress(_, done):
            bar.update(done - bar.n)
            return True
        problem = separators.Problem(mixture, args.priors, args.gains, args.noise, seed=args.seed, device=device,
                                     batch=args.batch, progress=progress)
        result = separators.separate(problem, method, args.steps)
    return result.sources[0], result.calls, len(mixture)


def run_stream(case, mixture, method, args, device):
    """Separate one long signal [1, L] as a stream: SOI estimate [1, L], calls per window."""
    separator = stream.StreamSeparator(args.priors, Levels(args.gains, args.noise), method, args.steps, args.window,
                                       seed=args.seed, device=device, batch=args.batch)
    pieces, calls = [], []
    chunk = args.batch * separator.plan.hop * 4
    starts = range(0, mixture.shape[1], chunk)
    stretches = (separator.push(mixture[0, s:s + chunk]) for s in starts)
    for stretch in tqdm(stretches, total=len(starts), desc=case, leave=False, disable=not sys.stderr.isatty()):
        if stretch:
            pieces.append(stretch.sources[0])
            calls += [r.calls for r in stretch.reports]
    last = separator.finish()
    pieces.append(last.sources[0])
    calls += [r.calls for r in last.reports]
    return np.concatenate(pieces)[None], np.array(calls), len(calls)


def hop(args, sps):
    """Samples from one window of a stream to the next."""
    return stream.Plan(args.window, stream.default_overlap(args.window, sps), sps).hop


def measure(args, method, sir_db, snr_db, device, given=None):
    """One row of the table."""
    soi, interference = args.signals
    args.gains = np.array([1.0, signals.kappa(sir_db)])
    args.noise = 10 ** (-snr_db / 10) if math.isfinite(snr_db) else 0.0
    if given is not None:
        (mixture, truth, bits), place = given, None
    elif args.protocol == "isolated":
        mixture, truth, bits, place = generate(soi, interference, args.windows, args.window, sir_db, snr_db, args.seed)
    else:
        mixture, truth, bits, place = generate(soi, interference, 1, args.windows * hop(args, soi.sps), sir_db, snr_db,
                                               args.seed)
    case = f"{method} {sir_db:g} dB"
    run = run_isolated if args.protocol == "isolated" else run_stream
    began = time.monotonic()
    estimate, calls, count = run(case, mixture, method, args, device)
    seconds = time.monotonic() - began
    row = {"method": method, "soi": args.soi, "interference": args.interference, "protocol": args.protocol,
           "sir_db": sir_db, "snr_db": snr_db if math.isfinite(snr_db) else "inf", "windows": count, "bits": 0,
           "bit_errors": None, "ber": None, "ber_ci95": None, "mse_db": None,
           "seconds_per_window": seconds / count, "steps": float(np.mean(calls)), "device": device, "seed": args.seed,
           "steps_limit": args.steps, "asked_windows": args.windows, "window": args.window,
           "soi_signal": soi.name, "interference_signal": interference.name if interference else None,
           "soi_timing": args.soi_timing}
    if bits is not None:
        wrong = soi.bits(estimate, place) != bits
        # A stream's errors cluster by window too: count them in pieces of a hop.
        per = wrong.shape[1] if args.protocol == "isolated" else wrong.size // count
        clusters = wrong.reshape(-1)[:wrong.size // per * per].reshape(-1, per).sum(1)
        row |= {"bits": wrong.size, "bit_errors": int(wrong.sum()), "ber": float(wrong.mean()),
                "ber_ci95": interval(clusters, per)}
    if truth is not None:
        error = np.mean(np.abs(estimate - truth) ** 2) / np.mean(np.abs(truth) ** 2)
        row["mse_db"] = float(10 * np.log10(max(error, 1e-12)))
    return row


def load_mixtures(path, soi_shape):
    """Mixtures made elsewhere, grouped by SIR: {sir_db: (mixture, soi or None, bits or None)}.

    Raises ValueError for arrays that are missing or do not fit.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = {key: data[key] for key in ("mixture", "sir_db", "soi", "bits") if key in data}
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f"{path} is not an .npz file of plain arrays") from None
    if "mixture" not in arrays or "sir_db" not in arrays:
        raise ValueError(f"{path} must hold the arrays mixture [W, L] and sir_db [W]")
    mixture, sir = arrays["mixture"].astype(np.complex64), arrays["sir_db"]
    soi, bits = arrays.get("soi"), arrays.get("bits")
    if mixture.ndim != 2 or sir.shape != mixture.shape[:1] or not np.isfinite(mixture).all():
        raise ValueError(f"mixture in {path} must be finite and [W, L], with one sir_db for each window")
    if soi is not None and soi.shape != mixture.shape:
        raise ValueError(f"soi in {path} must have the mixture's shape {list(mixture.shape)}")
    expected = (len(mixture), len(range(round(soi_shape["first"]), mixture.shape[1], soi_shape["samples_per_symbol"]))
                * cons.bits_per_symbol(soi_shape["constellation"]))
    if bits is not None and bits.shape != expected:
        raise ValueError(f"bits in {path} must be {list(expected)} for the SOI given")
    groups = {}
    for level in np.unique(sir):
        of_level = sir == level
        groups[float(level)] = tuple(None if a is None else a[of_level] for a in (mixture, soi, bits))
    return groups


def table(rows):
    """The rows as a Markdown table."""
    head = ["method", "interference", "protocol", "SIR dB", "SNR dB", "BER", "95 % interval", "bits", "MSE dB", "calls",
            "ms/window"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for r in rows:
        ber = "–" if r["ber"] is None else f"{r['ber']:.2e}"
        ci = "–" if r["ber_ci95"] is None else f"{r['ber_ci95'][0]:.1e} … {r['ber_ci95'][1]:.1e}"
        mse = "–" if r["mse_db"] is None else f"{r['mse_db']:.1f}"
        cells = [r["method"], r["interference"], r["protocol"], f"{r['sir_db']:g}", r["snr_db"], ber, ci, r["bits"],
                 mse, f"{r['steps']:.1f}", f"{1e3 * r['seconds_per_window']:.2f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def load_rows(path):
    """Rows of an earlier run, none where there was none. Raises ValueError for a file of something else."""
    if not path or not Path(path).exists():
        return []
    try:
        rows = json.loads(Path(path).read_text())
    except ValueError:
        rows = None
    if not isinstance(rows, list) or not all(isinstance(r, dict) and "method" in r for r in rows):
        raise ValueError(f"--json {path} exists and holds no rows of this benchmark; name another file")
    for row in rows:  # before there were other signals, they were what the priors described
        row.setdefault("soi_signal", row.get("soi"))
        row.setdefault("interference_signal", row.get("interference"))
        row.setdefault("soi_timing", "known")
    return rows


def save(rows, path):
    temporary = f"{path}.part"
    Path(temporary).write_text(json.dumps(rows, indent=1) + "\n")
    os.replace(temporary, path)


def plot(rows, folder):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in sorted({r["interference"] for r in rows}):
        figure, axis = plt.subplots(figsize=(7, 5), layout="constrained")
        mine = [r for r in rows if r["interference"] == name and r["ber"] is not None]
        for key in sorted({(r["method"], r["protocol"], str(r["snr_db"])) for r in mine}):
            points = sorted((r["sir_db"], max(r["ber"], 0.5 / r["bits"]), r["ber_ci95"]) for r in mine
                            if (r["method"], r["protocol"], str(r["snr_db"])) == key)
            x, y, ci = zip(*points, strict=True)
            low, high = np.array([[max(b - c[0], 0), max(c[1] - b, 0)] for b, c in zip(y, ci, strict=True)]).T
            noise = "no noise" if key[2] == "inf" else f"SNR {float(key[2]):g} dB"
            axis.errorbar(x, y, [low, high], marker="o", capsize=3, label=f"{key[0]}, {key[1]}, {noise}")
        axis.set(yscale="log", xlabel="SIR (dB)", ylabel="bit error rate (none: half an error)", title=name)
        axis.grid(which="both", alpha=0.3)
        axis.legend()
        figure.savefig(Path(folder) / f"ber_{re.sub('[^A-Za-z0-9=.-]', '_', name)}.png", dpi=120)
        plt.close(figure)


def main(argv=None):
    try:
        args = arguments(argv)
        # Isolated windows have no neighbours; a stream's windows do.
        ends = "stream" if args.protocol == "stream" else "isolated"
        args.priors = [priors.parse(f"{args.soi},ends={ends}" if args.soi.startswith("rrc:") else args.soi),
                       priors.parse(args.interference)]
        if args.mixtures and args.protocol != "isolated":
            raise ValueError("--mixtures are isolated windows; leave out --protocol stream")
        args.signals = find_signals(args, *args.priors)
        soi = args.signals[0]
        given = load_mixtures(args.mixtures, soi.modulation) if args.mixtures else None
        length = next(iter(given.values()))[0].shape[1] if given else args.window
        for prior in args.priors:
            if prior.window not in (0, length):
                raise ValueError(f"the prior {prior.name} was made for windows of {prior.window} samples, not {length}")
            least = 2 * prior.info["frame"] - 1 if prior.info["synchronise"] else 1
            if length < least:
                raise ValueError(f"the prior {prior.name} needs windows of at least {least} samples, not {length}")
        rows = load_rows(args.json)
        device = choose_device(args.device)
        for prior in args.priors:
            prior.engine(device)
        if isinstance(args.signals[1], RecordedSignal):  # too short or silent: refused here, not half-way
            args.signals[1].draw(np.random.default_rng(0), 1,
                                 args.window if args.protocol == "isolated" else args.windows * hop(args, soi.sps))
    except (ValueError, OSError) as error:
        print(f"benchmark.py: {error}", file=sys.stderr)
        return 2
    print(f"device {device}, {args.protocol} windows; SOI {soi.name}, timing {args.soi_timing}; interference "
          f"{args.mixtures or args.signals[1].name}", file=sys.stderr)

    fresh = []
    for snr_db in args.snr_db:
        for method in args.methods:
            for sir_db in (sorted(given) if given else args.sir_db):
                key = (method, args.soi, args.interference, args.protocol, sir_db,
                       snr_db if math.isfinite(snr_db) else "inf", args.steps, args.windows, args.window, args.seed,
                       device, soi.name, None if given else args.signals[1].name, args.soi_timing)
                names = ("method", "soi", "interference", "protocol", "sir_db", "snr_db", "steps_limit",
                         "asked_windows", "window", "seed", "device", "soi_signal", "interference_signal", "soi_timing")
                old = [r for r in rows if tuple(r.get(n) for n in names) == key] if given is None else []
                if old:
                    fresh += old
                    continue
                row = measure(args, method, sir_db, snr_db, device, given[sir_db] if given else None)
                rows.append(row)
                fresh.append(row)
                if args.json:
                    save(rows, args.json)
                if row["ber"] is not None:
                    print(f"{method} SIR {sir_db:g} dB, SNR {snr_db:g} dB: BER {row['ber']:.2e} "
                          f"[{row['ber_ci95'][0]:.1e}, {row['ber_ci95'][1]:.1e}], {row['steps']:.1f} calls, "
                          f"{1e3 * row['seconds_per_window']:.2f} ms/window", file=sys.stderr)
    print(table(fresh))
    if args.plots:
        plot(fresh, args.plots)
    return 0


if __name__ == "__main__":
    sys.exit(main())
