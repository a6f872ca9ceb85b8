#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bit error rate, mean squared error and time of separation methods on simulated mixtures (or mixtures made elsewhere).

What is mixed is apart from what the priors believe: --soi-signal and --interference-signal; without them it is what
the priors describe: a closed form itself, a learned prior's entry `simulation`, or its modulation. At each point all
methods get the same mixtures.

Two protocols. isolated: the paper's, windows on their own whose ends count. stream: one long signal, cut into
overlapping windows, of which the interiors are joined. Both take the SIR and the noise level as known, as the paper.
"""

import argparse
import functools
import inspect
import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Optional

import numpy as np
from benchmark_plots import paper_case, plot
from benchmark_rows import (
    fingerprint,
    finite_or_text,
    interval,
    load_rows,
    mean_squared_error,
    method_files,
    processor_name,
)
from benchmark_signals import (
    OfdmSignal,
    RecordedSignal,
    SoiSignal,
    closed_form,
    find_signals,
    generate,
    load_mixtures,
    timing_is_free,
)
from benchmark_tables import refusals, summary, table
from gnuradio.unmix import priors, separators, signals, stream
from gnuradio.unmix.estimators import Levels
from gnuradio.unmix.priors import constellation as cons
from gnuradio.unmix.separators.methods import split_method
from gnuradio.unmix.settings import choose_device
from row_files import save
from tqdm import tqdm

__all__ = ["OfdmSignal", "RecordedSignal", "SoiSignal", "closed_form", "cons", "generate", "interval", "main",
           "timing_is_free"]

#: Beyond these dB single precision runs out.
MOST_DB = 300
#: Steps of a method's first, untimed run.
WARM_UP_STEPS = 3


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
    parser.add_argument("--methods", default="pnp-dr", metavar="METHOD,...",
                        help=f"{', '.join(sorted(separators.METHODS))}; with options as in pnp-dr:start=lmmse-cyclic")
    parser.add_argument("--windows", type=int, default=100)
    parser.add_argument("--window", type=int, default=2560, help="samples")
    parser.add_argument("--protocol", choices=["isolated", "stream"], default="isolated")
    parser.add_argument("--streams", type=int, default=1, metavar="N",
                        help="stream: divide the windows among N streams, as short recordings need")
    parser.add_argument("--steps", metavar="N|METHOD=N,...",
                        help="largest number of calls of each prior, for all methods that take steps, for some, or "
                             "both, such as 2000,basis=5000 (default: each method's own)")
    parser.add_argument("--omega", type=float, nargs="+", metavar="FACTOR",
                        help="omega / kappa^2, the weight of the interference's term, for methods that take one; each "
                             "factor gives rows of its own (default: the method's)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", metavar="FILE",
                        help="write the rows here, each when it is done; rows that it already has are kept, not redone "
                             "(with the code of another day they may differ: take a new file then)")
    parser.add_argument("--table", metavar="FILE|-", default="-",
                        help="Markdown: to standard output a line for each row, to a file tables of BER, MSE and time "
                             "against SIR, beside the paper's (default -)")
    parser.add_argument("--plots", metavar="DIR",
                        help="draw BER and MSE against SIR here, one picture for each interference and SNR, with the "
                             "paper's curves where the case is the paper's")
    parser.add_argument("--mixtures", metavar="FILE.npz",
                        help="take mixtures from here: mixture [W, L], sir_db [W]; soi [W, L], bits [W, n] if known")
    args = parser.parse_args(argv)
    args.methods = list(dict.fromkeys(separators.resolve_method(m) for m in args.methods.split(",")))
    if args.mixtures and (args.interference_signal or args.recording_part or args.soi_timing == "random"):
        raise ValueError("--mixtures are made already; leave out --interference-signal, --recording-part and "
                         "--soi-timing")
    if args.soi_timing == "random" and "matched-filter" in args.methods:
        raise ValueError("the method matched-filter needs the timing; leave out --soi-timing random")
    try:
        args.snr_db = [float(s) for s in args.snr_db]
    except ValueError:
        raise ValueError(f"--snr-db must be numbers of dB or inf, not {' '.join(args.snr_db)}") from None
    args.steps = steps_of(args.steps, args.methods)
    if args.omega is not None:
        if args.protocol != "isolated":
            raise ValueError("--omega needs isolated windows; leave out --protocol stream")
        if not all(math.isfinite(f) and f > 0 for f in args.omega):
            raise ValueError("--omega must be finite and above 0")
        if not any(map(takes_omega, args.methods)):
            raise ValueError(f"none of the methods {', '.join(args.methods)} takes --omega")
    for option in ("json", "plots", "table"):
        path = getattr(args, option)
        if path and not Path(path).absolute().parent.is_dir():
            raise ValueError(f"the folder of --{option} {path} does not exist")
    if args.windows < 1 or args.batch < 1 or args.window < 1:
        raise ValueError("--windows, --window and --batch must be at least 1")
    if args.streams != 1 and (args.protocol == "isolated" or not 1 <= args.streams <= args.windows):
        raise ValueError("--streams divides the windows of --protocol stream; allowed are 1 to --windows")
    if not all(abs(s) <= MOST_DB for s in args.sir_db):
        raise ValueError(f"--sir-db must be finite, at most {MOST_DB} dB either way")
    if not all(abs(s) <= MOST_DB or s == math.inf for s in args.snr_db):
        raise ValueError(f"--snr-db must be finite, at most {MOST_DB} dB either way, or inf")
    return args


def steps_of(text: Optional[str], methods: list[str]) -> dict[str, Optional[int]]:
    """Steps of each method, None for its default, from text such as "2000,basis=5000". Raises ValueError.

    methods: as resolve_method() writes them; in the text options may be written in any way, as in basis:restarts=02=50.
    """
    steps = dict.fromkeys(methods)
    if text is None:
        return steps
    own = {}
    for part in text.split(","):
        name, equals, number = part.strip().rpartition("=")
        if not number.isdecimal() or int(number) < 1:
            raise ValueError(f"--steps must be at least 1, such as 2000 or 2000,alpha-rgs=20000, not {text}")
        if equals:
            name = separators.resolve_method(name)
        if equals and name not in methods:
            raise ValueError(f"--steps names the method {name}, which is not among {', '.join(methods)}")
        if name in own:
            raise ValueError(f"--steps {text} says twice how many")
        own[name] = int(number)
    for name in methods:
        if separators.takes_steps(name):
            steps[name] = own.get(name, own.get(""))
        elif name in own or len(methods) == 1:
            raise ValueError(f"the method {name} takes no --steps")
    return steps


def takes_omega(method: str) -> bool:
    """Whether a method weighs the sources' terms, as alpha-RGS does."""
    return "omega" in inspect.signature(separators.METHODS[split_method(method)[0]]).parameters


@dataclass(frozen=True)
class Job:
    """One row to measure. omega: factor of kappa^2, None for the method's own."""

    method: str
    steps: Optional[int]
    omega: Optional[float]
    sir_db: float
    snr_db: float

    def __str__(self):
        omega = "" if self.omega is None else f", omega {self.omega:g} kappa^2"
        noise = f", SNR {self.snr_db:g} dB" if math.isfinite(self.snr_db) else ""
        return f"{self.method}{omega}, SIR {self.sir_db:g} dB{noise}"


def make_jobs(args, given) -> list[Job]:
    """All rows that are asked for. Methods come innermost: after the first point each one's time is known."""
    return [Job(method, args.steps[method], omega, sir_db, snr_db)
            for snr_db in args.snr_db for sir_db in (sorted(given) if given else args.sir_db)
            for method in args.methods
            for omega in ((args.omega or [None]) if takes_omega(method) else [None])]


class Progress:
    """A bar over all rows, and the time that the rest takes, from what a window took so far with each method."""

    def __init__(self, jobs: list[Job], rows: list[dict], windows: int):
        self._left, self._windows, self._total = list(jobs), windows, len(jobs)
        self._seconds = {}
        for row in rows:
            self.learn(row)
        self.bar = tqdm(total=windows * len(jobs), unit="window", disable=not sys.stderr.isatty(), smoothing=0.05,
                        bar_format="{l_bar}{bar}| {n:.0f}/{total_fmt} windows [{elapsed}, {postfix}]")

    def learn(self, row):
        """Take a row's time into account."""
        self._seconds.setdefault((row["method"], row.get("steps_limit")), []).append(row["seconds_per_window"])

    def left(self, fraction: float = 0.0) -> str:
        """Time that the rows not done take; `fraction` of the next one is done."""
        total, unknown = 0.0, False
        for number, job in enumerate(self._left):
            known = self._seconds.get((job.method, job.steps))
            unknown |= known is None
            total += (1 - fraction if number == 0 else 1) * self._windows * (np.mean(known) if known else 0)
        unit = f"{total:.0f} s" if total < 100 else f"{total / 60:.0f} min" if total < 6000 else f"{total / 3600:.1f} h"
        return f"{'at least' if unknown else 'about'} {unit} left"

    def during(self, fraction: float) -> None:
        """Show that a fraction of the row in work is done."""
        done = (self._total - len(self._left) + fraction) * self._windows
        self.bar.set_postfix_str(f"{self._left[0]}: {self.left(fraction)}", refresh=False)
        self.bar.update(done - self.bar.n)

    def skipped(self) -> None:
        """One row is not to be had."""
        self._left.pop(0)
        self.bar.update((self._total - len(self._left)) * self._windows - self.bar.n)

    def finished(self, row: dict) -> None:
        """One row is done."""
        job = self._left[0]
        self.skipped()
        self.learn(row)
        ber = "" if row["ber"] is None else (f"BER {row['ber']:.2e} [{row['ber_ci95'][0]:.1e}, "
                                             f"{row['ber_ci95'][1]:.1e}], ")
        tqdm.write(f"[{self._total - len(self._left)}/{self._total}] {job}: {ber}{row['steps']:.1f} calls, "
                   f"{1e3 * row['seconds_per_window']:.2f} ms/window; {self.left()}", file=sys.stderr)


def run_isolated(job, mixture, args, device, progress):
    """Separate windows on their own: SOI estimates [W, L], calls [W], windows, and how many of them diverged."""
    gains = np.array([1.0, signals.kappa(job.sir_db)])

    def show(fraction, _):
        progress.during(fraction)
        return True

    problem = separators.Problem(mixture, args.priors, gains, noise_of(job), seed=args.seed, device=device,
                                 batch=args.batch, progress=show)
    if job.omega is None:
        result = separators.separate(problem, job.method, job.steps)
    else:
        name, options = split_method(job.method)
        restarts = options.pop("restarts", 1)
        method = functools.partial(separators.METHODS[name], omega=[1.0, *job.omega * gains[1:] ** 2], **options)
        result = separators.best_of(problem, method, restarts, job.steps)
    diverged = int(np.sum(result.outcomes == int(separators.Outcome.DIVERGED)))
    return result.sources[0], result.calls, len(mixture), diverged


def run_stream(job, mixture, args, device, progress):
    """Separate long signals [S, L] as streams; see run_isolated."""
    levels = Levels(np.array([1.0, signals.kappa(job.sir_db)]), noise_of(job))
    estimates, reports = np.zeros(mixture.shape, np.complex64), []
    for number, signal in enumerate(mixture):
        separator = stream.StreamSeparator(args.priors, levels, job.method, job.steps, args.window,
                                           seed=args.seed + number, device=device, batch=args.batch)
        pieces = []
        chunk = args.batch * separator.plan.hop * 4
        for start in range(0, len(signal), chunk):
            stretch = separator.push(signal[start:start + chunk])
            progress.during((number + min(1.0, (start + chunk) / len(signal))) / len(mixture))
            if stretch:
                pieces.append(stretch)
        pieces.append(separator.finish())
        estimates[number] = np.concatenate([p.sources[0] for p in pieces])
        reports += [r for p in pieces for r in p.reports]
    diverged = sum(r.outcome == "diverged" for r in reports)
    return estimates, np.array([r.calls for r in reports]), len(reports), diverged


def noise_of(job):
    """Variance of the white noise, relative to the SOI's power."""
    return 10 ** (-job.snr_db / 10) if math.isfinite(job.snr_db) else 0.0


def hop(args, sps):
    """Samples from one window of a stream to the next."""
    return stream.Plan(args.window, stream.default_overlap(args.window, sps), sps).hop


def stream_length(args):
    """Samples of each stream."""
    return args.windows // args.streams * hop(args, args.signals[0].sps)


def key_of(job, args, device):
    """All that decides a row's numbers: rows that have the same are not measured again."""
    soi, interference = args.signals
    return {"method": job.method, "soi": args.soi, "interference": args.interference, "protocol": args.protocol,
            "streams": args.streams, "sir_db": job.sir_db, "snr_db": finite_or_text(job.snr_db),
            "steps_limit": job.steps, "omega": job.omega, "asked_windows": args.windows, "window": args.window,
            "seed": args.seed, "device": device, "soi_signal": soi.name,
            "interference_signal": interference.name if interference else None, "soi_timing": args.soi_timing,
            "mixtures": args.mixtures, "files": args.fingerprints[job.method]}


def draw(job, args, given):
    """A point's mixtures: mixture, SOI, bits, and the SOI's place (see generate); None where one is not known."""
    if given is not None:
        return (*given[job.sir_db], None)
    windows, samples = args.windows, args.window
    if args.protocol == "stream":
        windows, samples = args.streams, stream_length(args)
    return generate(*args.signals, windows, samples, job.sir_db, job.snr_db, args.seed)


def measure(job, made, args, device, progress):
    """One row of the table, of mixtures from draw(). Raises MethodError and PriorError, see separators.separate()."""
    mixture, truth, bits, place = made
    run = run_isolated if args.protocol == "isolated" else run_stream
    began, processor = time.monotonic(), time.process_time()
    estimate, calls, count, diverged = run(job, mixture, args, device, progress)
    seconds, processor = time.monotonic() - began, time.process_time() - processor
    row = {**key_of(job, args, device), "windows": count, "bits": 0, "bit_errors": None, "ber": None, "ber_ci95": None,
           "mse_db": None, "mse_db_ci95": None, "seconds_per_window": seconds / count,
           "processor_seconds_per_window": processor / count, "steps": float(np.mean(calls)), "diverged": diverged,
           "processor": processor_name(device)}
    isolated = args.protocol == "isolated"
    if bits is not None:
        wrong = args.signals[0].bits(estimate, place) != bits
        # A stream's errors cluster by window too: count them in pieces of a hop.
        per = wrong.shape[1] if isolated else wrong.size // count
        clusters = wrong.reshape(-1)[:wrong.size // per * per].reshape(-1, per).sum(1)
        row |= {"bits": wrong.size, "bit_errors": int(wrong.sum()), "ber": float(wrong.mean()),
                "ber_ci95": interval(clusters, per)}
    if truth is not None:
        piece = truth.shape[1] if isolated else truth.size // count
        row["mse_db"], row["mse_db_ci95"] = mean_squared_error(estimate, truth, piece)
    return row


def warm_up(jobs, args, device):
    """Run each method of the jobs once on two windows of noise: what compiles, loads or is cached is nobody's time."""
    rng, quiet = np.random.default_rng(0), SimpleNamespace(during=lambda fraction: None)
    isolated = args.protocol == "isolated"
    shape = (2, args.window) if isolated else (1, args.window + hop(args, args.signals[0].sps))
    noise = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    warm = set()
    for job in jobs:
        if job.method in warm:
            continue
        short = replace(job, steps=WARM_UP_STEPS if separators.takes_steps(job.method) else None)
        try:
            (run_isolated if isolated else run_stream)(short, noise, args, device, quiet)
            warm.add(job.method)
        except (separators.MethodError, priors.PriorError):
            pass  # where it refuses the job too, measure_all() says so; the next job may suit it


def prepare(argv):
    """The parsed arguments with priors, signals, mixtures, rows and device. Raises ValueError or OSError."""
    args = arguments(argv)
    # Isolated windows have no neighbours; a stream's windows do.
    ends = "stream" if args.protocol == "stream" else "isolated"
    args.priors = [priors.parse(f"{args.soi},ends={ends}" if args.soi.startswith("rrc:") else args.soi),
                   priors.parse(args.interference)]
    if args.mixtures and args.protocol != "isolated":
        raise ValueError("--mixtures are isolated windows; leave out --protocol stream")
    args.signals = find_signals(args, *args.priors)
    soi, interference = args.signals
    args.given = load_mixtures(args.mixtures, soi.modulation) if args.mixtures else None
    if args.given:
        made = [group[0] for group in args.given.values()]
        args.window, args.windows = made[0].shape[1], sum(map(len, made))
        if not all(abs(s) <= MOST_DB for s in args.given):
            raise ValueError(f"the sir_db of {args.mixtures} must be finite, at most {MOST_DB} dB either way")
    if args.window < soi.sps:
        raise ValueError(f"--window must be at least one symbol, {soi.sps} samples, not {args.window}")
    for prior in args.priors:
        if prior.tracker is not None and args.protocol == "isolated":
            raise ValueError(f"the prior {prior.name} follows its signal from window to window; take --protocol stream")
        if prior.window not in (0, args.window):
            raise ValueError(f"the prior {prior.name} was made for windows of {prior.window} samples, not "
                             f"{args.window}")
        least = 2 * prior.info["frame"] - 1 if prior.info["synchronise"] else 1
        if args.window < least:
            raise ValueError(f"the prior {prior.name} needs windows of at least {least} samples, not {args.window}")
    args.rows = load_rows(args.json)
    texts = [args.soi, args.interference, args.mixtures or "", *(args.interference_signal or [])]
    common = fingerprint(texts)
    files = {method: method_files(*split_method(method)) for method in args.methods}
    args.fingerprints = {method: fingerprint(texts, own) if own else common for method, own in files.items()}
    device = choose_device(args.device)
    for prior in args.priors:
        prior.engine(device)
    if isinstance(interference, RecordedSignal):  # too short or silent: refused here, not half-way
        interference.draw(np.random.default_rng(0), 1,
                          args.window if args.protocol == "isolated" else stream_length(args))
    return args, device


def measure_all(args, device, jobs):
    """Measure what is not there yet: all rows that were asked for, the sentence of each job that its method refuses,
    and whether the rest is complete."""
    keys = {job: key_of(job, args, device) for job in jobs}
    found = {job: row for job in jobs for row in args.rows if all(row.get(n) == v for n, v in keys[job].items())}
    pending = [job for job in jobs if job not in found]
    per_row = max(1, args.windows // len(args.given)) if args.given else args.windows
    progress = Progress(pending, list(found.values()), per_row)
    made, point, complete, refused = None, None, True, {}
    try:
        warm_up(pending, args, device)
        for job in pending:
            if point != (job.sir_db, job.snr_db):
                made, point = draw(job, args, args.given), (job.sir_db, job.snr_db)
            try:
                found[job] = measure(job, made, args, device, progress)
            except (separators.MethodError, priors.PriorError) as error:  # other errors are defects
                sentence = f"the method {job.method} refuses: {error}"
                if sentence not in refused.values():
                    tqdm.write(f"benchmark.py: {sentence}", file=sys.stderr)
                refused[job] = sentence
                progress.skipped()
                continue
            args.rows.append(found[job])
            if args.json:
                save(args.rows, args.json)
            progress.finished(found[job])
    except KeyboardInterrupt:
        complete = False
        done = len(found) - (len(jobs) - len(pending))
        print(f"benchmark.py: stopped after {done} of {len(pending)} rows; "
              + (f"{args.json} has them, and the same command goes on" if args.json else "they are in the table"),
              file=sys.stderr)
    finally:
        progress.bar.close()
    ordered = sorted(found, key=jobs.index)
    return [found[job] for job in ordered], refused, complete


def main(argv=None):
    try:
        args, device = prepare(argv)
        jobs = make_jobs(args, args.given)
    except (ValueError, OSError) as error:
        print(f"benchmark.py: {error}", file=sys.stderr)
        return 2
    print(f"device {device}, {args.protocol} windows; SOI {args.signals[0].name}, timing {args.soi_timing}; "
          f"interference {args.mixtures or args.signals[1].name}", file=sys.stderr)
    rows, refused, complete = measure_all(args, device, jobs)
    if refused and not rows:
        return 2 if complete else 3
    rows.sort(key=lambda r: [list(args.snr_db).index(float(r["snr_db"])), args.methods.index(r["method"]),
                             r["omega"] or 0, r["sir_db"]])
    if args.table == "-":
        print("\n".join([table(rows), *refusals(refused)]))
    else:
        Path(args.table).write_text("\n".join([summary(rows, paper_case), *refusals(refused)]))
    if args.plots:
        plot(rows, args.plots)
    return 3 if not complete else 2 if refused and len(args.methods) == 1 else 0


if __name__ == "__main__":
    sys.exit(main())
