#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bit error rate, mean squared error and time of separation methods on simulated mixtures (or mixtures made elsewhere).

What is mixed is apart from what the priors believe: --soi-signal and --interference-signal; without them it is what
the priors describe: a closed form itself, a learned prior's entry `simulation`, or its modulation. At each point all
methods get the same mixtures.

Two protocols. isolated: the paper's, windows on their own whose ends count. stream: one long signal, cut into
overlapping windows, of which the interiors are joined. Both take the SIR and the noise level as known, as the paper.
"""

import functools
import math
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from benchmark_jobs import Progress, make_jobs
from benchmark_options import MOST_DB, arguments
from benchmark_plots import paper_case, plot
from benchmark_rows import (
    fingerprint,
    finite_or_text,
    input_files,
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
from gnuradio.unmix.memory import out_of_memory
from gnuradio.unmix.priors import constellation as cons
from gnuradio.unmix.separators.methods import split_method
from gnuradio.unmix.settings import choose_device
from row_files import save
from tqdm import tqdm

__all__ = ["OfdmSignal", "RecordedSignal", "SoiSignal", "closed_form", "cons", "generate", "interval", "main",
           "timing_is_free"]

#: Steps of a method's first, untimed run.
WARM_UP_STEPS = 3


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


def batch_of(args):
    """Windows of a stream worked on at a time, which decides its rows: trackers learn batch by batch; else None."""
    return min(args.batch, args.windows // args.streams) if args.protocol == "stream" else None


def key_of(job, args, device):
    """All that decides a row's numbers: rows that have the same are not measured again."""
    soi, interference = args.signals
    return {"method": job.method, "soi": args.soi, "interference": args.interference, "protocol": args.protocol,
            "streams": args.streams, "sir_db": job.sir_db, "snr_db": finite_or_text(job.snr_db),
            "steps_limit": job.steps, "omega": job.omega, "asked_windows": args.windows, "window": args.window,
            "batch": batch_of(args),
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
        except Exception as error:
            refusal(error)  # where it refuses the job too, measure_all() says so; the next job may suit it


def refusal(error):
    """Why a method refuses a job, in a sentence. Raises the error again where it is a defect."""
    if isinstance(error, (separators.MethodError, priors.PriorError)):
        return str(error)
    if out_of_memory(error):
        return "memory ran out; a smaller --batch needs less"
    raise error


def soi_prior(args):
    """The SOI's prior, whose ends are the protocol's where --soi says none. Raises ValueError."""
    prior = priors.parse(args.soi)
    if prior.info["kind"] == "rrc" and prior.info.get("sync") == "auto":
        raise ValueError(f"--soi {args.soi} follows its timing along a capture (sync=auto); the benchmark takes "
                         "sync=known, where it is told, or sync=unknown, where each window shows it")
    if not args.soi.strip().startswith("rrc:") or re.search(r",\s*ends=", args.soi):
        return prior
    # isolated windows have no neighbours; a stream's windows do
    return priors.parse(f"{args.soi},ends={'stream' if args.protocol == 'stream' else 'isolated'}")


def prepare(argv):
    """The parsed arguments with priors, signals, mixtures, rows and device. Raises ValueError or OSError."""
    args = arguments(argv, __doc__)
    args.priors = [soi_prior(args), priors.parse(args.interference)]
    args.signals = find_signals(args, *args.priors)
    soi, interference = args.signals
    args.given = load_mixtures(args.mixtures, soi.modulation) if args.mixtures else None
    if args.given is not None:
        made = [group[0] for group in args.given.values()]
        args.window, args.windows = made[0].shape[1], sum(map(len, made))
        if not all(abs(s) <= MOST_DB for s in args.given):
            raise ValueError(f"the sir_db of {args.mixtures} must be finite, at most {MOST_DB} dB either way")
    if args.window < soi.sps:
        whose = f"the windows of {args.mixtures}" if args.mixtures else "--window"
        raise ValueError(f"{whose} must be at least one symbol, {soi.sps} samples, not {args.window}")
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
    common = input_files(args)
    args.fingerprints = {method: fingerprint([*common, *method_files(*split_method(method))])
                         for method in args.methods}
    device = choose_device(args.device)
    for prior in args.priors:
        prior.engine(device)
    if isinstance(interference, RecordedSignal):  # too short or silent: refused here, not half-way
        interference.draw(np.random.default_rng(0), 1,
                          args.window if args.protocol == "isolated" else stream_length(args))
    return args, device


def measure_all(args, device, jobs):
    """Measure what is not there yet: all rows that were asked for, the sentence of each job that its method refuses,
    and the exit code: 0, 2 where rows could not be saved, 3 after an interrupt."""
    keys = {job: key_of(job, args, device) for job in jobs}
    found = {job: row for job in jobs for row in args.rows if all(row.get(n) == v for n, v in keys[job].items())}
    pending = [job for job in jobs if job not in found]
    per_row = args.windows if args.given is None else max(1, args.windows // len(args.given))
    progress = Progress(pending, list(found.values()), per_row)
    made, point, code, refused = None, None, 0, {}
    try:
        warm_up(pending, args, device)
        for job in pending:
            if point != (job.sir_db, job.snr_db):
                made, point = draw(job, args, args.given), (job.sir_db, job.snr_db)
            try:
                found[job] = measure(job, made, args, device, progress)
            except Exception as error:
                sentence = f"the method {job.method} refuses: {refusal(error)}"
                if sentence not in refused.values():
                    tqdm.write(f"benchmark.py: {sentence}", file=sys.stderr)
                refused[job] = sentence
                progress.skipped()
                continue
            args.rows.append(found[job])
            if args.json and (code := written(f"--json {args.json}", save, args.rows, args.json)):
                print("benchmark.py: stopped; the rows saved before are kept, and the table shows the last one too",
                      file=sys.stderr)
                break
            progress.finished(found[job])
    except KeyboardInterrupt:
        code = 3
        done = len(found) - (len(jobs) - len(pending))
        print(f"benchmark.py: stopped after {done} of {len(pending)} rows; "
              + (f"{args.json} has them, and the same command goes on" if args.json else "they are in the table"),
              file=sys.stderr)
    finally:
        progress.bar.close()
    ordered = sorted(found, key=jobs.index)
    return [found[job] for job in ordered], refused, code


def written(output, write, *values):
    """Call write(*values): 0, or 2 where the output, in words, cannot be written, with a sentence that says so."""
    try:
        write(*values)
    except OSError as error:
        print(f"benchmark.py: {output} cannot be written: {error.strerror or error}", file=sys.stderr)
        return 2
    return 0


def run(argv=None):
    """The exit code, and the rows that this run asked for, those that are there."""
    try:
        args, device = prepare(argv)
        jobs = make_jobs(args, args.given)
    except (ValueError, OSError) as error:
        print(f"benchmark.py: {error}", file=sys.stderr)
        return 2, []
    print(f"device {device}, {args.protocol} windows; SOI {args.signals[0].name}, timing {args.soi_timing}; "
          f"interference {args.mixtures or args.signals[1].name}", file=sys.stderr)
    rows, refused, code = measure_all(args, device, jobs)
    if refused and not rows:
        return code or 2, []
    rows.sort(key=lambda r: [list(args.snr_db).index(float(r["snr_db"])), args.methods.index(r["method"]),
                             r["omega"] or 0, r["sir_db"]])
    failed = 0
    if args.table == "-":
        print("\n".join([table(rows), *refusals(refused)]))
    else:
        text = "\n".join([summary(rows, paper_case), *refusals(refused)])
        failed |= written(f"--table {args.table}", lambda: Path(args.table).write_text(text, encoding="utf-8"))
    if args.plots:
        failed |= written(f"--plots {args.plots}", plot, rows, args.plots)
    return code or failed or (2 if refused and len(args.methods) == 1 else 0), rows


def main(argv=None):
    return run(argv)[0]


if __name__ == "__main__":
    sys.exit(main())
