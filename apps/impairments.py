#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bit error rate of the separation of simulated captures with one impairment at a time and with all together.

Each capture is made by make_capture.py's simulator and separated as by separate_file.py, blind but for --soi and
--interference; the first rows are separated with everything known (--known-soi, --known-interference and the SIR).

BER: of the bits that the separation wrote, turned and shifted by whole symbols to where they fit best, as no receiver
knows a carrier's absolute phase. wave: of the separated signal, demodulated with perfect synchronisation. MF: of the
capture, demodulated likewise without separation. EVM: of the capture less the estimated interference against the true
symbols. Where no bits were written, BER is missing and `times known` compares waves.
"""

import argparse
import dataclasses
import json
import math
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
from benchmark_rows import interval
from gnuradio.unmix import __version__, captures, priors, simulation
from gnuradio.unmix.priors import constellation as cons
from gnuradio.unmix.recording import RecordingError, Settings, separate_recording
from gnuradio.unmix.settings import check_settings
from make_capture import write_capture
from row_files import read_rows, save
from tqdm import tqdm

NAME = "impairments.py"
SYNCHRONISATION = {"timing": 0.37, "phase": 77.0, "carrier_offset": 0.05, "symbol_rate_ppm": 100.0}
RECEIVER = {"snr_db": 10.0, "format": "ci8", "clip": 0.001, "dc": 0.1, "iq_gain_db": 1.0, "iq_phase_deg": 5.0}
IQ = ("iq_gain_db", "iq_phase_deg")
#: Name, what is impaired (timing: fraction of a symbol), and whether everything is known to the separation.
CASES = {
    "known": ("everything known", {}, True),
    "known-noise": ("everything known, noise 10 dB below the SOI", {"snr_db": 10.0}, True),
    "none": ("no impairment", {}, False),
    "timing": ("timing 0.37 symbols", {"timing": 0.37}, False),
    "phase": ("phase 77°", {"phase": 77.0}, False),
    "carrier": ("carrier offset 5 % of the symbol rate", {"carrier_offset": 0.05}, False),
    "rate": ("symbol rate +100 ppm", {"symbol_rate_ppm": 100.0}, False),
    "synchronisation": ("timing, phase, carrier and rate", SYNCHRONISATION, False),
    "noise": ("noise 10 dB below the SOI", {"snr_db": 10.0}, False),
    "8-bit": ("8 bits", {"format": "ci8"}, False),
    "clip": ("strongest 0.1 % clipped", {"clip": 0.001}, False),
    "dc": ("DC offset, 0.1 of the rms value", {"dc": 0.1}, False),
    "iq": ("IQ imbalance, 1 dB and 5°", {name: RECEIVER[name] for name in IQ}, False),
    "receiver": ("noise, 8 bits, clipping, DC and IQ", RECEIVER, False),
    "all": ("all together", SYNCHRONISATION | RECEIVER, False),
}
KEYS = ("case", "sir_db", "soi", "interference", "method", "steps", "window", "seed", "parameters")


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="Cases: " + "; ".join(f"{key}: {case[0]}" for key, case in CASES.items()))
    parser.add_argument("--soi", default="rrc:qpsk,sps=16,sync=auto", metavar="SPEC",
                        help="blind (default %(default)s)")
    parser.add_argument("--interference", action="append", metavar="SPEC",
                        help=f"blind; once per interferer (default {simulation.DEFAULT_INTERFERENCE})")
    parser.add_argument("--known-soi", metavar="SPEC",
                        help="for the cases with everything known (default: what is simulated)")
    parser.add_argument("--known-interference", action="append", metavar="SPEC",
                        help="likewise (default: --interference)")
    parser.add_argument("--modulation", choices=cons.NAMES, default="qpsk", help="of the simulated SOI")
    parser.add_argument("--sps", type=float, default=16)
    parser.add_argument("--rolloff", type=float, default=0.5)
    parser.add_argument("--span", type=int, default=8)
    parser.add_argument("--interference-signal", nargs="+", metavar="SPEC|RECORDING",
                        default=[simulation.DEFAULT_INTERFERENCE], help="what is simulated (default %(default)s)")
    parser.add_argument("--sir-db", type=float, nargs="+", default=[-15, -9, -3])
    parser.add_argument("--cases", default=",".join(CASES), help="comma-separated (default: all)")
    parser.add_argument("--symbols", type=int, help="default: 10000, or as long as the longest recording")
    parser.add_argument("--method", default="auto")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--window", type=int, help="samples")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", metavar="FILE",
                        help="write the rows here; rows that it already has are kept, not redone")
    args = parser.parse_args(argv)
    args.interference = tuple(args.interference or [simulation.DEFAULT_INTERFERENCE])
    args.known_interference = tuple(args.known_interference or args.interference)
    args.known_soi = args.known_soi or (f"rrc:{args.modulation},sps={args.sps:g},rolloff={args.rolloff:g},"
                                        f"span={args.span}")
    args.cases = args.cases.split(",")
    for case in args.cases:
        if case not in CASES:
            raise ValueError(f"unknown case '{case}'; allowed are {', '.join(CASES)}")
    if args.json and not Path(args.json).absolute().parent.is_dir():
        raise ValueError(f"the folder of --json {args.json} does not exist")
    return args


def plan(args):
    """Every row's settings, in order: dicts of KEYS and `known`. Raises ValueError for what cannot be done."""
    check_settings(args.method, args.steps, args.window, seed=args.seed, device=args.device,
                   option=lambda name: f"--{name.replace('_', '-')}")
    known = [CASES[case][2] for case in args.cases]
    for text in (args.known_soi, *args.known_interference) * any(known) + (args.soi, *args.interference) * (
            not all(known)):
        priors.parse(text)
    rows = []
    for sir_db in args.sir_db:
        for case in args.cases:
            _, impaired, known = CASES[case]
            values = dict(impaired)
            if "timing" in values:
                values["timing"] *= args.sps
            samples = None if args.symbols is None else round(args.symbols * args.sps)
            parameters = simulation.Parameters(
                modulation=args.modulation, sps=args.sps, rolloff=args.rolloff, span=args.span, samples=samples,
                interference=tuple(args.interference_signal), sir_db=sir_db, seed=args.seed, **values)
            if sir_db == args.sir_db[0]:
                simulation.SimulatedCapture(parameters)  # what does not fit is refused here, not half-way
            plain = {key: "inf" if value == math.inf else value for key, value in
                     dataclasses.asdict(parameters).items()}
            rows.append({"case": case, "sir_db": sir_db, "soi": args.known_soi if known else args.soi,
                         "interference": list(args.known_interference if known else args.interference),
                         "method": args.method, "steps": args.steps, "window": args.window, "seed": args.seed,
                         "parameters": json.loads(json.dumps(plain)), "known": known, "_parameters": parameters})
    return rows


def fit(bits, truth, modulation, reach=16):
    """Errors of decided bits against the truth, both uint8 [n], bool [m], and the (symbols, turn) that fit best.

    Tries every turn that leaves the constellation unchanged, and shifts by up to `reach` symbols: the decided symbol k
    is the true one k + symbols. Needs at least one decided symbol.
    """
    per, order = cons.bits_per_symbol(modulation), cons.SYMMETRY[modulation]
    points = cons.modulate(bits[:len(bits) // per * per], modulation)
    best = None
    for turn in range(order):
        turned = cons.demodulate(points * np.exp(2j * np.pi * turn / order), modulation)
        for shift in range(-reach, reach + 1):
            own, true = turned[max(0, -shift) * per:], truth[max(0, shift) * per:]
            common = min(len(own), len(true))
            wrong = own[:common] != true[:common]
            if common and (best is None or wrong.mean() < best[0].mean()):
                best = wrong, (shift, turn)
    return best


def ber(wrong, cluster):
    """{bits, errors, ber, ci95} of errors bool [n], whose clusters have `cluster` bits."""
    cluster = max(1, min(cluster, wrong.size))
    counts = wrong[:wrong.size // cluster * cluster].reshape(-1, cluster).sum(1)
    return {"bits": wrong.size, "errors": int(wrong.sum()), "ber": float(wrong.mean()),
            "ci95": interval(counts, cluster)}


def measure(row, args, folder, progress):
    """Simulate and separate one capture; returns the measured part of its row. Raises RecordingError."""
    p = row["_parameters"]
    stem = folder / "capture"
    truth = write_capture(p, stem)
    soi = simulation.SimulatedCapture(p).soi
    settings = Settings(f"{stem}.sigmf-meta", row["soi"], tuple(row["interference"]), args.method,
                        row["sir_db"] if row["known"] else None, window=args.window, steps=args.steps, seed=args.seed,
                        device=args.device, output=str(folder / "out"), reference=f"{stem}_true_soi.sigmf-meta")
    began = time.monotonic()
    report = separate_recording(settings, __version__, progress=progress)
    seconds = time.monotonic() - began

    length, scale = truth["samples"], truth["scale"]
    mixture = captures.open_capture(f"{stem}.sigmf-meta")
    separated = captures.open_capture(folder / "out" / "capture_soi.sigmf-meta")
    others = [captures.open_capture(path) for path in sorted((folder / "out").glob("capture_interference*.sigmf-meta"))]

    def cleaned(start, count):
        return mixture.read(start, count) - sum(other.read(start, count) for other in others)
    bits = soi.bits(0, truth["soi"]["symbols"]).reshape(-1)
    cluster = round((report["settings"]["window"] - report["settings"]["overlap"]) / p.sps) * soi.bits_per_symbol
    found = {}
    for name, read in (("wave", separated.read), ("matched_filter", mixture.read)):
        symbols = soi.matched_filter(read, length) / scale
        found[name] = ber(cons.demodulate(symbols, p.modulation) != bits, cluster)
    symbols = soi.matched_filter(cleaned, length) / scale
    error = symbols - soi.points(0, len(symbols))
    found |= {"bits": None, "fit": None, "evm": float(np.sqrt(np.mean(np.abs(error) ** 2)))}
    file = folder / "out" / "capture_bits.u8"
    if file.exists() and file.stat().st_size:  # a receiver that found no signal decides nothing
        wrong, (shift, turn) = fit(np.fromfile(file, np.uint8), bits, p.modulation)
        found |= {"bits": ber(wrong, cluster), "fit": {"symbols": shift, "turn": turn}}
    result = report["result"]
    return found | {"windows": result["windows"], "agreed": result["agreed"],
                    "sir_estimate_db": report["levels"]["sir_db"], "method_used": report["settings"]["method"],
                    "samples": length, "seconds": seconds, "device": report["settings"]["device"],
                    "warnings": report["warnings"], "reference": report["quality"]["reference"],
                    "version": __version__}


def tables(rows):
    """A Markdown table for each SIR."""
    head = ["case", "BER", "95 % interval", "bits", "wave", "MF", "EVM", "windows agreed", "times known"]
    lines = []
    for sir_db in dict.fromkeys(row["sir_db"] for row in rows):
        mine = [row for row in rows if row["sir_db"] == sir_db]
        known = {row["case"]: row for row in mine if row["known"] and "failure" not in row}
        lines += [f"SIR {sir_db:g} dB", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for row in mine:
            if "failure" in row:
                lines.append(f"| {CASES[row['case']][0]} | {row['failure']} |" + " |" * (len(head) - 2))
                continue
            agreed = "–" if row["agreed"] is None else f"{row['agreed']} of {row['windows']}"
            main = row["bits"] or row["wave"]
            cells = [CASES[row["case"]][0], rate(row["bits"]), f"{main['ci95'][0]:.1e} … {main['ci95'][1]:.1e}",
                     main["bits"], rate(row["wave"]), rate(row["matched_filter"]), f"{100 * row['evm']:.1f} %", agreed,
                     times(row, known)]
            lines.append(f"| {' | '.join(map(str, cells))} |")
        lines.append("")
    return "\n".join(lines)


def rate(counted):
    return "–" if counted is None else "0" if not counted["errors"] else f"{counted['ber']:.2e}"


def times(row, known):
    """How much worse than the known case with as much noise, which counts for at least one error."""
    known = known.get("known" if row["parameters"]["snr_db"] == "inf" else "known-noise")
    if known is None or row["known"]:
        return "–"
    kind = "bits" if row["bits"] and known["bits"] else "wave"
    return f"{row[kind]['ber'] / max(known[kind]['ber'], 1 / known[kind]['bits']):.2g}"


def run(args, wanted, rows):
    """The wanted rows, taken from `rows` or measured; failures are rows with a `failure`, which are not kept."""
    result = []
    with tqdm(total=len(wanted), unit="row", leave=False, disable=not sys.stderr.isatty(),
              bar_format="{percentage:3.0f} %|{bar}| {elapsed} gone, {remaining} left{postfix}") as bar:
        for number, row in enumerate(wanted):
            bar.set_postfix_str(f"{row['case']}, {row['sir_db']:g} dB")

            def progress(done, total, number=number):
                bar.update(number + done / total - bar.n)
            old = next((r for r in rows if all(r.get(key) == row[key] for key in KEYS)), None)
            if old is None:
                old = {key: value for key, value in row.items() if not key.startswith("_")}
                with tempfile.TemporaryDirectory() as folder:
                    try:
                        old |= measure(row, args, Path(folder), progress)
                    except RecordingError as error:
                        old["failure"] = f"refused: {' '.join(str(error).split())}"
                    except Exception as error:  # noqa: BLE001 (one row's defect must not cost the others)
                        old["failure"] = f"crashed: {type(error).__name__}: {' '.join(str(error).split())}"
                        if os.environ.get("UNMIX_DEBUG"):
                            traceback.print_exc()
                if "failure" not in old:
                    rows.append(old)
                    if args.json:
                        save(rows, args.json)
            result.append(old)
            bar.update(number + 1 - bar.n)
    return result


def main(argv=None):
    try:
        args = arguments(argv)
        wanted, rows = plan(args), read_rows(args.json, "case", "program")
    except (ValueError, OSError) as error:  # CaptureError and PriorError are ValueErrors
        print(f"{NAME}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    try:
        result = run(args, wanted, rows)
    except KeyboardInterrupt:
        kept = f"finished rows are kept in {args.json}" if args.json else "without --json nothing is kept"
        print(f"{NAME}: cancelled; {kept}", file=sys.stderr)
        return 3
    except OSError as error:
        print(f"{NAME}: --json {args.json} cannot be written: {error.strerror or error}; rows saved before are kept",
              file=sys.stderr)
        return 2
    print(tables(result))
    return 1 if any(row.get("failure", "").startswith("crashed") for row in result) else 0


if __name__ == "__main__":
    sys.exit(main())
