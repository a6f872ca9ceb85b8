#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bit error rate of a QPSK signal under whole recordings of 802.11 packets, inside packets' data and at their borders.

    python apps/benchmark_recordings.py recordings/*.sigmf-meta --sir-db -15 -9 -3

Every recording is scaled to unit power and added, from its first sample to its last and with a random phase, to a
random linear modulation of known timing; the sum is separated as one stream. The SIR and the noise's level are told, as
in benchmark.py. Interior symbols are those whose pulse lies wholly in the data of one packet, as the recording on its
own shows them; all others (training and signal fields, idle time, a packet's first and last data symbols) are borders.

--method and --steps choose the separator; alpha-rgs without --steps takes 20,000 of them, which is hours.

With --blind the SOI has a random timing, phase, carrier offset (up to 5 % of the symbol rate) and symbol rate (up to
100 ppm off), and the capture is separated as by separate_file.py, which is told none of it, nor any level. The bits
that it writes are turned and shifted by whole symbols to where they fit best; symbols that it does not decide are
"missing". The matched filter beside it knows everything. --front-end: the receiver has faults too.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from benchmark_signals import SoiSignal
from gnuradio.unmix import __version__, captures, priors, separators, signals, simulation, stream
from gnuradio.unmix.estimators import Levels
from gnuradio.unmix.priors import constellation as cons
from gnuradio.unmix.recording import RecordingError, Settings, separate_recording
from gnuradio.unmix.wifi.measure import Measurement
from gnuradio.unmix.wifi.packets import Ear, find
from impairments import RECEIVER, fit
from make_capture import write_capture

REACH = 40  # symbols that the first one decided may be off


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="+", metavar="RECORDING", help="of interference alone, at 20 MS/s")
    parser.add_argument("--soi", metavar="SPEC", help="simulated, and its prior (default rrc:qpsk,sps=16,rolloff=0.5,"
                        "span=8, with --blind and sync=auto)")
    parser.add_argument("--interference", default="wifi:", metavar="SPEC", help="prior (default %(default)s)")
    parser.add_argument("--sir-db", type=float, nargs="+", default=[-15, -9, -3])
    parser.add_argument("--snr-db", type=float, default=math.inf, help="white noise below the SOI (default: none)")
    parser.add_argument("--method", default="auto", help="see separate_file.py (default %(default)s)")
    parser.add_argument("--steps", type=int, help="largest number of calls of each prior (default: the method's)")
    parser.add_argument("--repeats", type=int, default=4, help="SOIs for each recording (default %(default)s)")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--blind", action="store_true", help="tell the separation nothing but --soi and --interference")
    parser.add_argument("--front-end", action="store_true",
                        help="noise 10 dB below the SOI, 8 bits, the strongest 0.1 %% clipped, DC offset of 0.1 of the "
                             "rms value, IQ imbalance of 1 dB and 5 degrees; needs --blind")
    parser.add_argument("--json", metavar="FILE", help="write the rows here too")
    args = parser.parse_args(argv)
    args.soi = args.soi or "rrc:qpsk,sps=16,rolloff=0.5,span=8" + ",sync=auto" * args.blind
    args.method = separators.resolve_method(args.method)
    if args.repeats < 1 or (args.steps is not None and args.steps < 1):
        raise ValueError("--repeats and --steps must be at least 1")
    if args.steps is not None and not separators.takes_steps(args.method):
        raise ValueError(f"the method {args.method} takes no --steps")
    if args.front_end and not args.blind:
        raise ValueError("--front-end needs --blind: its faults are found in the capture")
    return args


def interior(wave, centre, half):
    """Which symbols, of centres int [n] and pulses of +- half samples, lie in the data of one packet, bool [n]."""
    ear = Ear(np.full(64, 1e-7))
    inside, end = np.zeros(len(wave), dtype=int), 0
    for start, frequency in find(wave, 1.0):
        if start < end - 100:  # what looks like a preamble inside a packet
            continue
        packet = Measurement(wave, 0, start, frequency, ear, 1.0).run()
        inside[packet.data:packet.end], end = 1, packet.end
    total = np.concatenate([[0], np.cumsum(inside)])
    low, high = np.maximum(centre - half, 0), np.minimum(centre + half, len(wave))
    return total[high] - total[low] == high - low


def separated(mixture, args, gains, noise):
    """The SOI's estimate [n], and the mean calls."""
    separator = stream.StreamSeparator([priors.parse(args.soi), priors.parse(args.interference)], Levels(gains, noise),
                                       method=args.method, steps=args.steps)
    stretches = [s for s in (separator.push(mixture), separator.finish()) if s is not None]
    calls = [r.calls for s in stretches for r in s.reports]
    return np.concatenate([s.sources[0] for s in stretches]), float(np.mean(calls))


def measure(path, args, soi):
    """A recording's rows, one for each SIR."""
    capture = captures.open_capture(path)
    count = capture.length // soi.sps
    wave = capture.read(0, count * soi.sps).astype(complex)
    power = np.mean(np.abs(wave) ** 2)
    if not power > 0:
        raise ValueError(f"{path} is silent")
    wave /= math.sqrt(power)
    mask = interior(wave, np.arange(count) * soi.sps + soi.sps // 2, soi.span * soi.sps // 2)
    mask = np.repeat(mask, cons.bits_per_symbol(soi.modulation["constellation"]))
    noise = 10 ** (-args.snr_db / 10)
    for sir_db in args.sir_db:
        began, wrong, filtered, calls = time.monotonic(), [], [], []
        for repeat in range(args.repeats):
            rng = np.random.default_rng(args.seed + repeat)
            clean, bits, place = soi.draw(rng, 1, len(wave), tails=soi.span)
            mixture = clean[0] + signals.kappa(sir_db) * np.exp(2j * np.pi * rng.uniform()) * wave
            mixture = (mixture + signals.noise(rng, wave.shape, noise)).astype(np.complex64)
            estimate, used = separated(mixture, args, np.array([1.0, signals.kappa(sir_db)]), noise)
            wrong.append((soi.bits(estimate[None], place) != bits)[0])
            filtered.append((soi.bits(mixture[None], place) != bits)[0])
            calls.append(used)
        row = {"recording": Path(path).name, "sir_db": sir_db, "snr_db": args.snr_db if noise else "inf",
               "interference": args.interference, "method": args.method, "steps_limit": args.steps,
               "calls": float(np.mean(calls)),
               "seconds": (time.monotonic() - began) / args.repeats, "missing": 0}
        yield row | counted([mask] * args.repeats, wrong, filtered)


def counted(masks, wrong, filtered):
    """Bits and errors inside packets and at their borders; all lists of bool [n], one for each repeat."""
    mask, wrong, filtered = (np.concatenate(rows) for rows in (masks, wrong, filtered))
    return {name: {"bits": int(part.sum()), "bit_errors": int(wrong[part].sum()),
                   "matched_filter_errors": int(filtered[part].sum())}
            for name, part in (("interior", mask), ("border", ~mask), ("all", np.ones_like(mask)))}


def measure_blind(path, args):
    """A recording's rows, one for each SIR."""
    for sir_db in args.sir_db:
        began, rows = time.monotonic(), []
        for repeat in range(args.repeats):
            with tempfile.TemporaryDirectory() as folder:
                rows.append(blind(path, args, sir_db, args.seed + repeat, Path(folder)))
        row = {"recording": Path(path).name, "sir_db": sir_db, "snr_db": args.snr_db if args.snr_db < math.inf else
               "inf", "interference": args.interference, "method": args.method, "steps_limit": args.steps,
               "blind": True, "front_end": args.front_end,
               "calls": float(np.mean([r["calls"] for r in rows])),
               "seconds": (time.monotonic() - began) / args.repeats, "missing": sum(r["missing"] for r in rows),
               "amplitudes": [r["amplitudes"] for r in rows]}
        yield row | counted(*([r[key] for r in rows] for key in ("mask", "wrong", "filtered")))


def blind(path, args, sir_db, seed, folder):
    """One capture: masks and errors of the bits that were decided, and what was found of the levels."""
    rng = np.random.default_rng(seed)
    modulation = priors.parse(args.soi).modulation
    sps = float(modulation["samples_per_symbol"])
    faults = RECEIVER if args.front_end else {"snr_db": args.snr_db}
    p = simulation.Parameters(
        modulation=modulation["constellation"], sps=sps, rolloff=modulation["rolloff"], span=int(modulation["span"]),
        timing=rng.uniform(0, sps), phase=rng.uniform(0, 360), carrier_offset=rng.uniform(-0.05, 0.05),
        symbol_rate_ppm=rng.uniform(-100, 100), interference=(path,), sir_db=sir_db, seed=seed, **faults)
    truth = write_capture(p, folder / "capture")
    capture = simulation.SimulatedCapture(p)
    soi, half = capture.soi, math.ceil(p.span / 2 * p.sps)
    settings = Settings(str(folder / "capture.sigmf-meta"), args.soi, (args.interference,), args.method,
                        steps=args.steps, output=str(folder / "out"))
    bits = soi.bits(0, capture.symbols).reshape(-1)
    centre = np.floor(soi.timing + np.arange(capture.symbols) * soi.sps).astype(int)
    mask = interior(capture.interference[0].read(0, capture.length), centre, half)
    mask = np.repeat(mask, soi.bits_per_symbol)
    symbols = soi.matched_filter(captures.open_capture(settings.capture).read, capture.length) / truth["scale"]
    filtered = cons.demodulate(symbols, p.modulation) != bits
    none = np.zeros(0, bool)
    failed = {"mask": none, "wrong": none, "filtered": none, "missing": len(bits), "calls": 0.0, "amplitudes": None}
    try:
        report = separate_recording(settings, __version__)
    except RecordingError as error:
        print(f"{path} at {sir_db:g} dB: refused: {error}", file=sys.stderr)
        return failed
    decided = np.fromfile(folder / "out" / "capture_bits.u8", np.uint8)
    found = fit(decided, bits, p.modulation, REACH) if len(decided) else None
    if found is None:
        return failed
    wrong, (shift, _) = found
    first = max(0, shift) * soi.bits_per_symbol
    part = slice(first, first + len(wrong))
    levels, unit = report["levels"], np.array([1.0, capture.kappa]) * truth["scale"]
    amplitudes = np.array([levels["soi_amplitude"], *levels["interference_amplitudes"]]) / unit
    return {"mask": mask[part], "wrong": wrong, "filtered": filtered[part], "missing": len(bits) - len(wrong),
            "calls": float(np.mean([w["calls"] for w in report["windows"]])), "amplitudes": amplitudes.tolist()}


def line(row):
    cells = [row["recording"], f"{row['sir_db']:g}"]
    for part in ("all", "interior", "border"):
        bits = max(row[part]["bits"], 1)
        cells += [f"{row[part]['bit_errors'] / bits:.1e} ({row[part]['bit_errors']} of {row[part]['bits']})",
                  f"{row[part]['matched_filter_errors'] / bits:.3f}"]
    return "| " + " | ".join([*cells, str(row["missing"]), f"{row['calls']:.0f}", f"{row['seconds']:.1f}"]) + " |"


def main(argv=None):
    try:
        args = arguments(argv)
        soi, rows = None if args.blind else SoiSignal(args.soi), []
        print("| recording | SIR dB | BER | matched filter | interior | matched filter | borders | matched filter | "
              "missing | calls | seconds |\n" + "|---" * 11 + "|")
        for path in args.recordings:
            for row in measure_blind(path, args) if args.blind else measure(path, args, soi):
                rows.append(row)
                print(line(row), flush=True)
        if args.json:
            Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")
    except (ValueError, OSError) as error:
        print(f"benchmark_recordings.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
