#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""The figures of arXiv 2306.14411 made again, one command each; docs/reproduce.md says what each shows and costs.

Toy landscapes (1, 4, 5) are computed from closed forms. The others run benchmark.py, whose rows are kept in --out:
the same command goes on where it was stopped. Files: figure_<name>.png or a folder figure_<name>/, and JSON beside it.
"""

import argparse
import json
import sys
from pathlib import Path

import benchmark
import numpy as np
import toy_landscapes as toy
from benchmark_plots import COLOURS, PAPER, PAPER_METHODS
from gnuradio.unmix import separators
from gnuradio.unmix.separators.unet import SHIPPED as NETWORKS

OFDM = {"ofdm-qpsk": "cp-ofdm:qpsk,fft=64,cp=16,active=56", "ofdm-bpsk": "cp-ofdm:bpsk,fft=64,cp=16,active=56"}
#: Methods in the paper's figures, and the default of this package. PAPERS_BASIS is what they call BASIS.
PAPERS_BASIS = PAPER_METHODS["basis-hard"]
MAIN = ("matched-filter", "lmmse", "basis-hard", PAPERS_BASIS, "reverse-diffusion", "alpha-rgs", "pnp-dr")
BASIS = ("matched-filter", "lmmse", "basis", "basis-hard", PAPERS_BASIS, "basis-alpha", "alpha-rgs")
FACTORS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
SHOWN_LEVELS = (0, 5, 10, 15, 20, 30, 48)


def new_figure(width, height):
    """A figure that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write(args, figure, name, values):
    """figure_<name>.png and .json."""
    figure.savefig(args.out / f"figure_{name}.png", dpi=120)
    (args.out / f"figure_{name}.json").write_text(json.dumps(values, indent=1) + "\n")


def draw_losses(axis, theta, losses, title, label):
    """One curve for each of some noise levels, each moved down to its lowest value, and their mean, in black."""
    import matplotlib
    colours = matplotlib.colormaps["viridis"]
    for level in SHOWN_LEVELS:
        noise = 1 - toy.ALPHA_BAR[level]
        axis.plot(theta, losses[level] - losses[level].min(), color=colours(level / 52), linewidth=1.2,
                  label=f"1 − ᾱ = {noise:.2g}")
    mean = losses.mean(0)
    axis.plot(theta, mean - mean.min(), "k", linewidth=2.4, label="mean of all 49 levels")
    for place in toy.minima(theta, mean):
        axis.axvline(place, color="0.6", linewidth=0.8, linestyle=":")
    axis.set(xlabel="θ", ylabel=label, title=title)
    axis.grid(alpha=0.3)


def figure_1(args):
    """The joint density of two discrete sources, and the losses with omega = 1 and kappa^2."""
    theta = np.linspace(-2, 2, 801)
    figure = new_figure(13, 4.9)
    joint, *axes = figure.subplots(1, 3)
    s, b = np.meshgrid(np.linspace(-2.2, 2.2, 221), np.linspace(-2, 2, 221))
    level = 0.97  # sources with a little noise, so that there are contours
    density = (toy.FIGURE_1_SOI.log_density(np.sqrt(level) * s, level)
               + toy.FIGURE_1_INTERFERENCE.log_density(np.sqrt(level) * b, level))
    joint.contourf(s, b, -density, levels=np.linspace(-1.5, 14, 20), cmap="viridis_r", extend="max")
    joint.plot(theta * 1.1, (toy.FIGURE_1_MIXTURE - theta * 1.1) / toy.FIGURE_1_KAPPA, "r", label="s + κ b = y")
    joint.plot(1, -2 / np.sqrt(20), "w*", markersize=13, markeredgecolor="k", label="truth", linestyle="none")
    joint.set(xlabel="s", ylabel="b", title="− log joint density")
    values = {"kappa": toy.FIGURE_1_KAPPA, "mixture": toy.FIGURE_1_MIXTURE}
    for axis, omega, name in zip(axes, (1.0, toy.FIGURE_1_KAPPA**2), ("1", "κ²"), strict=True):
        losses = toy.separation_loss(theta, omega)
        draw_losses(axis, theta, losses, f"ω = {name}", "loss (15), t = u, above its minimum")
        values[f"minima, omega = {omega:g}"] = toy.minima(theta, losses.mean(0)).round(4).tolist()
    axes[1].set_ylim(-4, 160)
    axes[0].set_ylim(-0.5, 20)
    handles = {label: handle for axis in (joint, axes[0])
               for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=9)
    write(args, figure, "1", values)


def _source_figure(args, name, source, theta, title):
    figure = new_figure(10.5, 4.8)
    density, axis = figure.subplots(1, 2)
    level = 0.9999 if max(source.variances) > 0 else 0.97
    density.plot(theta, np.exp(source.log_density(np.sqrt(level) * theta, level)), "k")
    density.set(xlabel="s", ylabel="density", title=title)
    density.grid(alpha=0.3)
    losses = toy.smoothed_loss(source, theta)
    draw_losses(axis, theta, losses, "smoothed loss of one source", "loss (16), above its minimum")
    axis.set_ylim(-0.2, 20 if max(source.variances) == 0 else 8)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    write(args, figure, name, {"weights": source.weights, "modes": source.means, "variances": source.variances,
                               "minima of the loss": toy.minima(theta, losses.mean(0)).round(4).tolist()})


def figure_4(args):
    """The smoothed loss of a BPSK source."""
    _source_figure(args, "4", toy.BPSK, np.linspace(-2, 2, 801), "BPSK, with a little noise")


def figure_5(args):
    """The smoothed loss of a mixture of four Gaussians."""
    _source_figure(args, "5", toy.GMM, np.linspace(-4, 6, 1001), "four Gaussians")


def run_benchmark(args, name, methods, *more, plots=True):
    """Rows of a benchmark run into <out>/figure_<name>.json, those that it asked for and not what else the file has;
    methods that this build lacks are left out, and named.

    Raises SystemExit with benchmark.py's exit code where it is not 0.
    """
    asked = methods if args.methods is None else args.methods.split(",")
    if not all(m.strip() for m in asked):
        raise ValueError(f"--methods must be names with commas between them, not '{args.methods}'")
    missing = [m for m in asked if m.partition(":")[0] not in (*separators.METHODS, "auto")]  # options follow a colon
    asked = [m for m in asked if m not in missing]
    if not asked:
        raise ValueError(f"this build has none of the methods {', '.join(missing)}")
    if missing:
        print(f"figures.py: this build has no {', '.join(missing)}; left out", file=sys.stderr)
    file = args.out / f"figure_{name}.json"
    argv = ["--methods", ",".join(asked), "--json", str(file), "--seed", str(args.seed), "--device", args.device,
            "--table", str(args.out / f"figure_{name}.md"), *more]
    if not any(m == "--windows" for m in more):
        argv += ["--windows", str(asked_windows(args, 100))]
    if plots:
        argv += ["--plots", str(args.out / f"figure_{name}")]
    if args.steps is not None:
        argv += ["--steps", args.steps]
    if args.sir_db:
        argv += ["--sir-db", *map(str, args.sir_db)]
    code, rows = benchmark.run(argv)
    if code:
        raise SystemExit(code)
    return rows


def asked_windows(args, default):
    """Mixtures a point."""
    return default if args.windows is None else args.windows


def figure_14(args):
    """BER and MSE against SIR under OFDM (QPSK) and OFDM (BPSK)."""
    for name, spec in OFDM.items():
        run_benchmark(args, f"14_{name}", MAIN, "--interference", spec, "--snr-db", *args.snr_db)


def figure_3(args):
    """Figure 14's curves and Figure 17's."""
    figure_14(args)
    figure_17(args)


def figure_15(args):
    """BER and MSE against SIR under recordings: CommSignal2, or any others."""
    if not args.recordings or not args.interference:
        raise ValueError("figure 15 needs --recordings FILE ... (CommSignal2 of the RF Challenge as SigMF, or "
                         "any other capture) and --interference SPEC, a prior for them")
    run_benchmark(args, "15", MAIN, "--interference", args.interference, "--interference-signal", *args.recordings,
                  "--recording-part", "last:0.4", "--snr-db", *args.snr_db, "--protocol", args.protocol,
                  "--streams", str(args.streams))


def figure_13(args):
    """The variants of BASIS under OFDM (QPSK)."""
    run_benchmark(args, "13", BASIS, "--interference", OFDM["ofdm-qpsk"])


def figure_18(args):
    """The supervised U-Net and alpha-RGS, where a network was trained for the case; with --methods all cases."""
    cases = {n: spec for n, spec in OFDM.items() if args.methods or (NETWORKS / f"unet-{n}.pt").is_file()}
    if not cases:
        raise ValueError("figure 18 needs a network that comes with the package, and there is none; allowed is "
                         "--methods, such as unet:model=FILE,alpha-rgs")
    for name, spec in cases.items():
        run_benchmark(args, f"18_{name}", ("unet", "alpha-rgs", "pnp-dr"), "--interference", spec,
                      "--snr-db", *args.snr_db)


def figure_17(args):
    """BER and MSE of alpha-RGS against omega / kappa^2, each SIR and their mean (of the MSE: of its dB values)."""
    levels = args.sir_db or [-24, -18, -12, -6]
    args.sir_db = None
    rows = run_benchmark(args, "17", ("alpha-rgs",), "--sir-db", *map(str, levels), "--omega", *map(str, FACTORS),
                         "--windows", str(asked_windows(args, 64)), plots=False)
    weighted = [r for r in rows if r["omega"] is not None]  # --methods may name others that take none
    draw_omega(weighted).savefig(args.out / "figure_17.png", dpi=120)


def draw_omega(rows):
    """Figure 17 from rows of many omegas."""
    figure = new_figure(11, 8)
    axes = figure.subplots(2, 2, sharex=True)
    methods = sorted({(r["method"], r["steps_limit"]) for r in rows}, key=str)
    for column, quantity in enumerate(("ber", "mse_db")):
        for method, steps in methods:
            own = [r for r in rows if (r["method"], r["steps_limit"]) == (method, steps)]
            factors = sorted({r["omega"] for r in own})
            name = f"{method}, {steps} steps" if steps else method
            means = [np.mean([r[quantity] for r in own if r["omega"] == f]) for f in factors]
            axes[0, column].plot(factors, means, "o-", label=name)
            for level in sorted({r["sir_db"] for r in own}):
                at = sorted((r["omega"], max(r["ber"], 0.5 / r["bits"]) if quantity == "ber" else r["mse_db"],
                             r[f"{quantity}_ci95"]) for r in own if r["sir_db"] == level)
                x, y, ci = zip(*at, strict=True)
                y, ends = np.array(y), np.array(ci)
                label = f"SIR {level:g} dB" + (f", {name}" if len(methods) > 1 else "")
                line, = axes[1, column].plot(x, y, "o-", markersize=4, label=label)
                axes[1, column].fill_between(x, np.maximum(ends[:, 0], 1e-5) if quantity == "ber" else ends[:, 0],
                                             ends[:, 1], color=line.get_color(), alpha=0.15, linewidth=0)
        mean = "mean over the SIRs" if quantity == "ber" else "mean of the dB values over the SIRs"
        for axis, what in zip(axes[:, column], (mean, "each SIR"), strict=True):
            axis.axvline(1, color="0.5", linestyle=":")
            axis.set(xscale="log", title=what, ylabel="bit error rate" if quantity == "ber" else "MSE (dB)")
            if quantity == "ber":
                axis.set_yscale("log")
            else:
                axis.set_ylim(-32, 12)  # beyond: diverging runs
            axis.grid(alpha=0.3)
        axes[1, column].set_xlabel("ω / κ²")
    handles, labels = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
    names = ", ".join(f"{name}, {steps} steps" if steps else name for name, steps in methods)
    figure.suptitle(f"{names} against the weight of the interference's term "
                    "(bands: 95 % intervals)", fontsize=11)
    return figure


def figure_time(args):
    """Run time of all methods per window of 2560 samples, beside the paper's."""
    args.sir_db = args.sir_db or [-15.0]
    rows = run_benchmark(args, "time", sorted(separators.METHODS), "--windows", str(asked_windows(args, 16)),
                         plots=False)
    seconds = {}
    for row in rows:
        name = f"{row['method']}, {row['steps']:.0f} calls" if row["steps"] else row["method"]
        seconds[name] = (row["seconds_per_window"], row["method"])
    paper = {PAPER_METHODS.get(m, m): s for m, s in json.loads(PAPER.read_text())["seconds_per_window"].items()}
    bars = [(s, n, COLOURS.get(m, "tab:gray"), False) for n, (s, m) in seconds.items()]
    bars += [(s, f"{m} (paper, V100)", COLOURS.get(m, "tab:gray"), True) for m, s in paper.items()]
    figure = new_figure(8, 0.3 * len(bars) + 1.2)
    axis = figure.subplots()
    for place, (value, _, colour, theirs) in enumerate(sorted(bars)):
        axis.barh(place, value, color="none" if theirs else colour, edgecolor=colour, hatch="///" if theirs else None)
        axis.annotate(f" {value:.3g} s", (value, place), va="center", fontsize=8)
    axis.set_yticks(range(len(bars)), [name for _, name, *_ in sorted(bars)], fontsize=8)
    axis.set(xscale="log", xlabel="seconds per window of 2560 samples", title=f"on {places(rows)}")
    axis.set_xlim(min(bars)[0] / 2, 4000)
    axis.grid(axis="x", alpha=0.3)
    figure.savefig(args.out / "figure_time.png", dpi=120)


def places(rows):
    """Where rows were measured: device and processor."""
    found = (", ".join(filter(None, (r["device"], r.get("processor")))) for r in rows)
    return " and ".join(dict.fromkeys(found))


FIGURES = {"1": figure_1, "3": figure_3, "4": figure_4, "5": figure_5, "13": figure_13, "14": figure_14,
           "15": figure_15, "17": figure_17, "18": figure_18, "time": figure_time}
MEASURED = tuple(name for name in FIGURES if name not in ("1", "4", "5"))
#: Options, the figures that take them, and their defaults.
OPTIONS = {**dict.fromkeys(("windows", "steps", "methods", "sir_db"), (MEASURED, None)),
           "device": (MEASURED, "auto"), "seed": (MEASURED, 1), "snr_db": (("3", "14", "15", "18"), ["inf"]),
           **dict.fromkeys(("recordings", "interference"), (("15",), None)), "protocol": (("15",), "isolated"),
           "streams": (("15",), 1)}


def check_options(args):
    """Refuse options that the figure would ignore, with a ValueError, and fill in the defaults of the others."""
    for name, (figures, default) in OPTIONS.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
        elif args.figure not in figures:
            raise ValueError(f"figure {args.figure} takes no --{name.replace('_', '-')}; allowed with "
                             f"{', '.join(figures)}")
    if args.windows is not None and args.windows < 1:
        raise ValueError(f"--windows must be at least 1, not {args.windows}")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=FIGURES, help="; ".join(f"{n}: {f.__doc__}" for n, f in FIGURES.items()))
    parser.add_argument("--out", type=Path, default=Path("figures"), metavar="DIR",
                        help="is made (default %(default)s)")
    parser.add_argument("--windows", type=int, help="mixtures a point (default 100; figure 17: 64, time: 16)")
    parser.add_argument("--steps", metavar="N|METHOD=N,...", help="as in benchmark.py (default: each method's own)")
    parser.add_argument("--methods", metavar="NAME,...", help="instead of the figure's own")
    parser.add_argument("--sir-db", type=float, nargs="+")
    parser.add_argument("--snr-db", nargs="+", help="figures 3, 14, 15, 18 (default inf: no noise)")
    parser.add_argument("--recordings", nargs="+", metavar="FILE", help="figure 15")
    parser.add_argument("--interference", metavar="SPEC", help="figure 15: prior of the recordings")
    parser.add_argument("--protocol", choices=["isolated", "stream"],
                        help="figure 15 (default isolated); priors that follow a signal, such as wifi:, need stream")
    parser.add_argument("--streams", type=int, metavar="N", help="figure 15: as in benchmark.py")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], help="default auto")
    parser.add_argument("--seed", type=int, help="default 1")
    args = parser.parse_args(argv)
    try:
        check_options(args)
        args.out.mkdir(parents=True, exist_ok=True)
        FIGURES[args.figure](args)
    except (ValueError, OSError) as error:
        print(f"figures.py: {error}", file=sys.stderr)
        return 2
    except SystemExit as stopped:
        return stopped.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
