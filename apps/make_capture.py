#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulate a capture: a linear modulation under interference, with each impairment as a parameter, and its truth.

Without options of its own, an impairment is absent. Written, STEM being --output:
  STEM.sigmf-meta, .sigmf-data            the capture; all parameters, and what was drawn at random, are in its metadata
                                          under unmix:truth (times in samples, frequencies in cycles/sample)
  STEM_true_soi.sigmf-meta, .sigmf-data   the signal of interest alone, cf32, in the capture's units
  STEM_true_bits.u8                       its bits, one byte 0 or 1 per bit, of symbols whose centres lie inside
"""

import argparse
import contextlib
import os
import re
import secrets
import signal
import sys
from pathlib import Path

import numpy as np
from gnuradio.unmix import __version__, captures, simulation
from gnuradio.unmix.command_line import rate
from gnuradio.unmix.outputs import files_behind, same_file
from gnuradio.unmix.priors import constellation as cons
from tqdm import tqdm

NAME = "make_capture.py"
DEFAULTS = simulation.Parameters()


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and takes -36e3 for a number."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._negative_number_matcher = re.compile(r"^-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE)

    def error(self, message):
        raise ValueError(message)


class Writer(captures.SigMFWriter):
    """Stores cf32, ci16 or ci8; integers from samples that are whole multiples of what one step means."""

    def __init__(self, stem, kind, *args):
        super().__init__(f"{stem}.sigmf-data", *args)
        self._type = {"cf32": None, "ci16": np.dtype("<i2"), "ci8": np.dtype("i1")}[kind]
        self._global["core:datatype"] = {"cf32": "cf32_le", "ci16": "ci16_le", "ci8": "ci8"}[kind]

    def write(self, samples):
        if self._type is None:
            return super().write(samples)
        full = 1 << (8 * self._type.itemsize - 1)
        stored = (np.ascontiguousarray(samples, np.complex64).view(np.float32) * full).astype(self._type)
        self._file.write(stored.data)
        self._hash.update(stored.data)
        self.length += samples.size

    def _drop_half_written(self):
        """Nothing to do: after an interruption nothing is kept."""


def write_capture(parameters, stem, progress=lambda samples, total: None):
    """Simulate and write the files of `stem`; all of them get their names at the end, or nothing is left.

    parameters: simulation.Parameters. progress: called with the samples of each piece and all there are. Returns the
    truth, a dict. Raises ValueError with one sentence for what cannot be simulated or written, OSError for a full disk.
    """
    stem = Path(stem)
    capture = simulation.SimulatedCapture(parameters)
    recordings = [text for text in parameters.interference if not text.startswith("cp-ofdm:")]
    inputs = [file for text in recordings for file in files_behind(text)]
    outputs = [stem.with_name(f"{stem.name}{end}") for end in (".sigmf-meta", ".sigmf-data", "_true_soi.sigmf-meta",
                                                               "_true_soi.sigmf-data", "_true_bits.u8")]
    if not stem.name or not stem.parent.is_dir() or not os.access(stem.parent, os.W_OK | os.X_OK):
        raise ValueError(f"--output {stem} is impossible; it must be a name in a folder that exists and may be written")
    for path in outputs:
        if path.is_dir():
            raise ValueError(f"{path} cannot be written: a folder of that name is in the way")
        if any(same_file(path, other) for other in inputs):
            raise ValueError(f"{path} would overwrite the recording of the interference; name another --output")
    total = capture.length * (2 if capture.resolution or parameters.clip else 1)
    capture.measure(lambda samples: progress(samples, total))
    truth = capture.truth()
    bits_part = stem.with_name(f".{stem.name}.{secrets.token_hex(4)}.u8.part")
    with contextlib.ExitStack() as stack:
        writers = []
        for end, kind, what in (("_true_soi", "cf32", "The signal of interest alone of"),
                                ("", parameters.format, "Simulated:")):
            writers.append(Writer(stem.with_name(stem.name + end), kind, capture.sample_rate, None,
                                  f"{what} {describe(truth)}.", metadata(capture, truth), capture.annotations()))
            stack.callback(writers[-1].abort)  # does nothing after close
        stack.callback(lambda: bits_part.unlink(missing_ok=True))
        with open(bits_part, "xb") as file:
            for first in range(0, capture.symbols, simulation.BLOCK):
                capture.soi.bits(first, min(simulation.BLOCK, capture.symbols - first)).tofile(file)
        for start in range(0, capture.length, simulation.BLOCK):
            mixture, soi = capture.read(start, min(simulation.BLOCK, capture.length - start))
            writers[0].write(soi)
            writers[1].write(mixture)
            progress(len(mixture), total)
        os.replace(bits_part, outputs[-1])
        for writer in writers:  # the capture last: where it is, its truth is too
            writer.close()
    return truth


def describe(truth):
    """What was simulated, in a phrase."""
    soi, p = truth["soi"], truth["parameters"]
    others = " and ".join(other["spec"] for other in truth["interference"])
    under = f" under {others} at SIR {p['sir_db']:g} dB" if others else ""
    return f"{soi['modulation']}, {soi['samples_per_symbol']:.9g} samples/symbol{under} (unmix:truth says all)"


def metadata(capture, truth):
    """Global metadata of all files. Recordings pass on their licence."""
    licences = {wave.capture.metadata.get("core:license") for wave in capture.interference
                if isinstance(wave, simulation.RecordedWave)} - {None, ""}
    extra = {"core:author": f"gr-unmix, apps/{NAME}", "core:recorder": f"gr-unmix {__version__}", "unmix:truth": truth}
    return extra | ({"core:license": licences.pop()} if len(licences) == 1 else {})


def timing(text):
    """A fraction of a symbol, or samples: ("symbols" or "samples", number)."""
    match = re.fullmatch(r"(\S+?)\s*(samples?)?", text.strip())
    try:
        return ("samples" if match[2] else "symbols"), float(match[1])
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(f"'{text}' is neither a fraction of a symbol, such as 0.3, nor samples, such "
                                         "as 4.8samples") from None


def arguments(argv):
    parser = Parser(prog=NAME, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, metavar="STEM", help="path of the files without their suffix")
    soi = parser.add_argument_group("signal of interest")
    soi.add_argument("--modulation", choices=cons.NAMES, default="qpsk")
    soi.add_argument("--sps", type=float, default=16, help="samples per symbol, any number from 2 up (default 16)")
    soi.add_argument("--rolloff", type=float, default=0.5)
    soi.add_argument("--span", type=int, default=8, help="length of the pulse, symbols")
    soi.add_argument("--timing", type=timing, metavar="T", help="centre of the first symbol: fraction of a symbol, or "
                     "samples as in 4.8samples (default: floor(sps / 2) samples, where rrc:... takes it to be)")
    soi.add_argument("--phase", type=float, default=0, help="degrees, at sample 0")
    soi.add_argument("--carrier-offset", type=float, default=0, metavar="F", help="fraction of the symbol rate")
    soi.add_argument("--symbol-rate-ppm", type=float, default=0, metavar="PPM", help="how much faster symbols come")
    soi.add_argument("--phase-noise", type=float, default=0, metavar="HZ",
                     help="width of the carrier's line at half power (a Wiener phase)")
    soi.add_argument("--soi-bursts", type=float, nargs=2, metavar=("ON", "OFF"),
                     help="random bursts of symbols: mean seconds on and off")
    other = parser.add_argument_group("interference and noise")
    other.add_argument("--interference", action="append", metavar="SPEC|RECORDING",
                       help="cp-ofdm:..., a recording (repeated where it is shorter), or none; several times: of equal "
                       f"power (default {simulation.DEFAULT_INTERFERENCE})")
    other.add_argument("--sir-db", type=float, default=0, help="the SOI over all interference while both are on")
    other.add_argument("--interference-offset", type=float, default=0, metavar="HZ", help="added to its frequency")
    other.add_argument("--interference-bursts", type=float, nargs=2, metavar=("ON", "OFF"),
                       help="mean seconds on and off")
    other.add_argument("--snr-db", type=float, default=DEFAULTS.snr_db,
                       help="the SOI over white noise in the whole band (default: none)")
    end = parser.add_argument_group("receiver")
    end.add_argument("--iq-gain-db", type=float, default=0, help="gain of Q over I")
    end.add_argument("--iq-phase-deg", type=float, default=0, help="angle by which Q is off")
    end.add_argument("--dc", type=float, default=0, metavar="D", help="offset relative to the rms value of everything")
    end.add_argument("--clip", type=float, default=0, metavar="SHARE",
                     help="share of the strongest samples of which I or Q is cut off, such as 0.001")
    end.add_argument("--bits", type=int, help="resolution, 2 to 16 (default: the format's)")
    end.add_argument("--format", choices=list(simulation.FORMAT_BITS),
                     help="default: ci8 for up to 8 --bits, ci16 for more, else cf32")
    much = parser.add_argument_group("length")
    length = much.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float)
    length.add_argument("--symbols", type=int, help="default: 10000, or as long as the longest recording")
    much.add_argument("--samp-rate", type=rate, metavar="R", help="samples/s (default: the recordings', or 20e6)")
    much.add_argument("--seed", type=int, default=0, help="of all random numbers")
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--version", action="version", version=f"{NAME} {__version__}")
    return parser.parse_args(argv)


def parameters_of(args):
    """simulation.Parameters of parsed arguments. Raises ValueError."""
    same = ("modulation", "sps", "rolloff", "span", "phase", "carrier_offset", "symbol_rate_ppm", "phase_noise",
            "soi_bursts", "sir_db", "interference_offset", "interference_bursts", "snr_db", "iq_gain_db",
            "iq_phase_deg", "dc", "clip", "bits", "seed")
    values = {name: getattr(args, name) for name in same}
    others = tuple(args.interference or (simulation.DEFAULT_INTERFERENCE,))
    if "none" in others:
        if len(others) > 1:
            raise ValueError("--interference none goes with no other --interference")
        others = ()
    plain = simulation.Parameters(**values, interference=others, sample_rate=args.samp_rate)  # what follows needs it
    samples = None
    if args.seconds is not None:
        recordings = [text for text in others if not text.startswith("cp-ofdm:")]
        own = captures.open_capture(recordings[0]).sample_rate if recordings else None
        samples = count(args.seconds * (args.samp_rate or own or 20e6), f"--seconds {args.seconds:g}")
    elif args.symbols is not None:
        samples = count(args.symbols * plain.sps, f"--symbols {args.symbols}")
    first = None
    if args.timing is not None:
        unit, number = args.timing
        first = number * (plain.sps if unit == "symbols" else 1)
    kind = args.format or ("cf32" if args.bits is None else "ci8" if args.bits <= 8 else "ci16")
    return simulation.Parameters(**values, interference=others, sample_rate=args.samp_rate, samples=samples,
                                 timing=first, format=kind)


def count(samples, option):
    """A whole number of samples. Raises ValueError for fewer than 16 and absurd ones."""
    if not 16 <= samples <= 1e12:
        raise ValueError(f"{option} is impossible; it makes {samples:g} samples, and 16 to 1e12 are allowed")
    return round(samples)


def main(argv=None):
    try:
        args = arguments(argv)
        parameters = parameters_of(args)
        with tqdm(unit=" samples", unit_scale=True, leave=False, disable=args.quiet or not sys.stderr.isatty()) as bar:
            def progress(samples, total):
                bar.total = total
                bar.update(samples)
            truth = write_capture(parameters, args.output, progress)
    except (ValueError, OSError) as error:  # CaptureError and PriorError are ValueErrors
        print(f"{NAME}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{NAME}: cancelled; nothing was written", file=sys.stderr)
        return 3
    if not args.quiet:
        print(f"{args.output}: {truth['samples']} samples at {truth['sample_rate']:.12g} samples/s, {describe(truth)}")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
