#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bit error rate of a QPSK signal under whole recordings of 802.11 packets, inside packets' data and at their borders.

    python apps/benchmark_recordings.py recordings/*.sigmf-meta --sir-db -15 -9 -3

Every recording is scaled to unit power and added, from its first sample to its last and with a random phase, to a
random linear modulation of known timing; the sum is separated as one stream. The SIR and the noise's level are told, as
in benchmark.py. Interior symbols are those whose pulse lies wholly in the data of one packet, as the recording on its
own shows them; all others (training and signal fields, idle time, a packet's first and last data symbols) are borders.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
from benchmark_signals import SoiSignal
from gnuradio.unmix import captures, priors, separators, signals, stream
from gnuradio.unmix.estimators import Levels
from gnuradio.unmix.priors import constellation as cons
from gnuradio.unmix.wifi.measure import Measurement
from gnuradio.unmix.wifi.packets import Ear, find


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="+", metavar="RECORDING", help="of interference alone, at 20 MS/s")
    parser.add_argument("--soi", default="rrc:qpsk,sps=16,rolloff=0.5,span=8", metavar="SPEC",
                        help="simulated, and its prior (default %(default)s)")
    parser.add_argument("--interference", default="wifi:", metavar="SPEC", help="prior (default %(default)s)")
    parser.add_argument("--sir-db", type=float, nargs="+", default=[-15, -9, -3])
    parser.add_argument("--snr-db", type=float, default=math.inf, help="white noise below the SOI (default: none)")
    parser.add_argument("--method", default="auto", help="see separate_file.py (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=4, help="SOIs for each recording (default %(default)s)")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--json", metavar="FILE", help="write the rows here too")
    args = parser.parse_args(argv)
    if args.repeats < 1:
        raise ValueError("--repeats must be at least 1")
    return args


def interior(wave, soi, count):
    """Which of the SOI's symbols lie in the data of one packet, bool [count]."""
    ear = Ear(np.full(64, 1e-7))
    inside, end = np.zeros(len(wave), dtype=int), 0
    for start, frequency in find(wave, 1.0):
        if start < end - 100:  # what looks like a preamble inside a packet
            continue
        packet = Measurement(wave, 0, start, frequency, ear, 1.0).run()
        inside[packet.data:packet.end], end = 1, packet.end
    total = np.concatenate([[0], np.cumsum(inside)])
    centre, half = np.arange(count) * soi.sps + soi.sps // 2, soi.span * soi.sps // 2
    low, high = np.maximum(centre - half, 0), np.minimum(centre + half, len(wave))
    return total[high] - total[low] == high - low


def separated(mixture, args, gains, noise):
    """The SOI's estimate [n], and the mean calls."""
    separator = stream.StreamSeparator([priors.parse(args.soi), priors.parse(args.interference)], Levels(gains, noise),
                                       method=args.method)
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
    mask = np.repeat(interior(wave, soi, count), cons.bits_per_symbol(soi.modulation["constellation"]))
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
               "interference": args.interference, "calls": float(np.mean(calls)),
               "seconds": (time.monotonic() - began) / args.repeats}
        for name, part in (("interior", mask), ("border", ~mask), ("all", np.ones_like(mask))):
            row[name] = {"bits": int(part.sum()) * args.repeats,
                         "bit_errors": int(sum(w[part].sum() for w in wrong)),
                         "matched_filter_errors": int(sum(f[part].sum() for f in filtered))}
        yield row


def line(row):
    cells = [row["recording"], f"{row['sir_db']:g}"]
    for part in ("all", "interior", "border"):
        bits = max(row[part]["bits"], 1)
        cells += [f"{row[part]['bit_errors'] / bits:.1e} ({row[part]['bit_errors']} of {row[part]['bits']})",
                  f"{row[part]['matched_filter_errors'] / bits:.3f}"]
    return "| " + " | ".join([*cells, f"{row['calls']:.0f}", f"{row['seconds']:.1f}"]) + " |"


def main(argv=None):
    try:
        args = arguments(argv)
        args.method = separators.resolve_method(args.method)
        soi, rows = SoiSignal(args.soi), []
        print("| recording | SIR dB | BER | matched filter | interior | matched filter | borders | matched filter | "
              "calls | seconds |\n" + "|---" * 10 + "|")
        for path in args.recordings:
            for row in measure(path, args, soi):
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
