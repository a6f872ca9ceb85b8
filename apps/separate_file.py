#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Take apart a recording in which two (or more) transmitters overlap in time and frequency."""

import os
import signal
import sys

NAME = "separate_file.py"


def give_up(number, frame):
    """Ends the program at once; nothing was written yet. Exceptions would drown in what is being imported."""
    os.write(2, f"{NAME}: cancelled; nothing was written\n".encode())
    os._exit(3)


if __name__ == "__main__":  # importing what follows takes a second or more
    signal.signal(signal.SIGINT, give_up)
    signal.signal(signal.SIGTERM, give_up)

# ruff: noqa: E402, I001 (imports below the handlers)
import argparse
import contextlib
import threading
import time
import traceback
from pathlib import Path

from gnuradio.unmix import __version__, priors, report, separators
from gnuradio.unmix.command_line import rate
from gnuradio.unmix.outputs import write_text
from gnuradio.unmix.recording import DEFAULT_INTERFERENCE, DEFAULT_SOI, Cancelled, Recording, RecordingError, Settings
from tqdm import tqdm

EPILOG = f"""SPEC describes what is known about a signal (its prior):

{priors.HELP}

Written to the output folder, STEM being the capture's name without its suffix:
  STEM_soi.sigmf-meta, .sigmf-data            the signal of interest, cf32, in the capture's units, sample for sample
  STEM_interference.sigmf-meta, .sigmf-data   the interference (STEM_interference1, 2, ... where there are several)
  STEM_bits.u8                                the SOI's bits, one byte 0 or 1 per bit, where modulation, timing and
                                              phase are known; first bit first, hard decisions
  STEM_report.json                            settings, levels, every window's agreement, stretches to distrust
  STEM_*.png                                  with --plots
  STEM_resume.json                            where --resume continues a run that was cut short; removed at the end
Files of an earlier run are replaced, those of the input never. Ctrl-C keeps the batches (--batch) that are finished;
a second Ctrl-C gives up at once. --resume continues after Ctrl-C, and after a crash from where the run was up to ten
seconds before; the result is the same to the last bit.

Exit status: 0 done; 2 bad input, nothing written, or a file that cannot be read or written on the way (the message
says what is kept); 3 cancelled; 1 a defect of ours (UNMIX_DEBUG=1 shows where)."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message):
        raise RecordingError(message)


def sir(text):
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is neither auto nor a number of dB") from None


def arguments(argv):
    """Settings and the options that concern this front end alone."""
    parser = Parser(prog=NAME, description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capture", metavar="CAPTURE",
                        help="SigMF (either file or their stem), raw IQ (.cf32 .ci16 .cu8 ...) or two-channel WAV")
    parser.add_argument("--soi", default=DEFAULT_SOI, metavar="SPEC",
                        help="the signal of interest (default %(default)s)")
    parser.add_argument("--interference", action="append", metavar="SPEC",
                        help=f"give it once per interferer (default {DEFAULT_INTERFERENCE})")
    parser.add_argument("--method", default="auto", help=f"auto or {', '.join(sorted(separators.METHODS))}; with "
                        "options as in pnp-dr:start=lmmse-cyclic")
    parser.add_argument("--sir-db", type=sir, default=None, metavar="auto|X",
                        help="power of the SOI over all interference, dB (default: estimated from the spectrum)")
    parser.add_argument("--format", default="auto",
                        help="auto, cf32, ci16, ci8, cu8, wav, ... (default: from name or metadata)")
    parser.add_argument("--samp-rate", type=rate, metavar="R",
                        help="samples/s, such as 25e6 or 2.4M, where the file does not say")
    parser.add_argument("--window", type=int, metavar="N",
                        help="samples, more than a symbol of the SOI (default: 2560, or what a prior was made for)")
    parser.add_argument("--overlap", type=int, metavar="N",
                        help="samples (default: about a tenth of a window); window - overlap must be a multiple of "
                             "the SOI's samples per symbol")
    parser.add_argument("--steps", type=int, metavar="N",
                        help="largest number of calls of each prior, for methods that take some (default: theirs)")
    parser.add_argument("--seed", type=int, default=0, help="of random numbers; the same seed gives the same result")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--batch", type=int, default=64, metavar="N",
                        help="windows worked on at a time (default %(default)s); after Ctrl-C results are kept batch "
                             "by batch")
    parser.add_argument("--output", metavar="DIR",
                        help="folder to write to (default: STEM_unmix in the current folder)")
    parser.add_argument("--plots", action="store_true", help="draw spectrogram, spectrum, constellation and agreement")
    parser.add_argument("--json", metavar="FILE|-", help="write the report here as well; -: to standard output, alone")
    parser.add_argument("--reference", metavar="FILE",
                        help="the truth, to count errors: a capture of the SOI alone in the same units, or its bits, "
                             "one byte each (.u8, .bits, .npy)")
    parser.add_argument("--resume", action="store_true",
                        help="continue a run with the same settings that was cancelled or crashed")
    parser.add_argument("--quiet", action="store_true", help="say nothing unless something is wrong")
    parser.add_argument("--version", action="version", version=f"{NAME} {__version__}")
    args = parser.parse_args(argv)
    settings = Settings(
        args.capture, args.soi, tuple(args.interference or (DEFAULT_INTERFERENCE,)), args.method, args.sir_db,
        args.format, args.samp_rate, args.window, args.overlap, args.steps, args.seed, args.device, args.batch,
        args.output, args.plots, args.reference, None if args.json in (None, "-") else args.json, args.resume)
    return settings, args


class Meter:
    """Progress on stderr: a bar with the time left on a terminal, now and then a line elsewhere.

    The time left is that of the windows which this run has seen, from its first call on.
    """

    def __init__(self, quiet):
        self.quiet, self.bar, self.began = quiet, None, None

    def __call__(self, done, total):
        if self.quiet:
            return
        if self.began is None:
            self.began = self.last = time.monotonic()
            self.first, self.tenth = done, int(10 * done / total)
        if sys.stderr.isatty():
            if self.bar is None:
                self.bar = tqdm(total=total, initial=self.first, leave=False, dynamic_ncols=True,
                                bar_format="{percentage:3.0f} %|{bar}| {n:.0f} of {total:.0f} windows, "
                                "{elapsed} gone, {remaining} left")
            self.bar.update(done - self.bar.n)
            return
        now, tenth = time.monotonic(), int(10 * done / total)
        if tenth > self.tenth and self.first < done < total and now - self.last >= 5:
            left = (now - self.began) * (total - done) / (done - self.first)
            print(f"{100 * done / total:.0f} %, {done:.0f} of {total} windows, about {left:.0f} s left",
                  file=sys.stderr, flush=True)
            self.last, self.tenth = now, tenth

    def close(self):
        if self.bar is not None:
            self.bar.close()


def listen(cancel):
    """The first SIGINT or SIGTERM cancels, the next one interrupts. Returns what puts the handlers back."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: None

    def handler(number, frame):
        if cancel.is_set():
            raise KeyboardInterrupt
        cancel.set()
    old = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    return lambda: [signal.signal(number, before) for number, before in old.items()]


def separate(settings, args):
    def say(line):
        if not args.quiet:
            print(line, file=sys.stderr, flush=True)
    cancel, meter, outcome = separators.CancelFlag(), Meter(args.quiet), None
    try:
        restore = listen(cancel)
        try:
            outcome = Recording(settings, __version__, say, meter, cancel).run()
            cancel.set()  # nothing is left to cancel: a signal interrupts what follows, which may wait for a reader
            meter.close()
            tell(outcome, args)
            if outcome["complete"]:
                return 0
            print(f"{NAME}: {report.cancellation(outcome)}", file=sys.stderr)
            return 3
        finally:
            meter.close()
            restore()
    except KeyboardInterrupt:
        if outcome is None:
            raise
        copy = f", the report's copy {args.json} may not be" if args.json and outcome["complete"] else ""
        raise Cancelled(f"{'cancelled; ' if outcome['complete'] else ''}{written(outcome)}{copy}") from None


def written(outcome):
    """What has become of the files, for what is said where telling of them fails."""
    return f"all files in {outcome['output']} are complete" if outcome["complete"] else report.cancellation(outcome)


def tell(outcome, args):
    """Write the report's copy and the summary. Raises RecordingError where one cannot be written."""
    text, failures = report.to_json(outcome), []

    @contextlib.contextmanager
    def trying(what):
        try:
            yield
        except OSError as error:
            failures.append(f"{what} cannot be written: {error.strerror or error}")
    if args.json == "-":
        with trying("the report on standard output"):
            print(text, flush=True)
    elif args.json and Path(args.json).parent.is_dir():  # it may be the report's own, of a folder that was not kept
        with trying(f"the report's copy {args.json}"):
            write_text(Path(args.json), text + "\n", follow=True)
    if not args.quiet:
        lines = list(outcome["summary"])
        if outcome["files"]:
            lines.append(f"written to {outcome['output']}: {', '.join(outcome['files'])}")
        with trying("the summary"):
            print("\n".join(lines), file=sys.stderr if args.json == "-" else sys.stdout, flush=True)
    if failures:
        drop_output()
        raise RecordingError(f"{'; '.join(failures)}; {written(outcome)}")


def drop_output():
    """Have Python not complain again, at its end, of what standard output did not take."""
    if sys.stdout is None:  # closed from the beginning
        return
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):  # a stream without a file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv=None):
    try:
        if signal.getsignal(signal.SIGINT) is give_up:  # from here on the clauses below and separate() see to it
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return separate(*arguments(argv))
    except RecordingError as error:
        print(f"{NAME}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (Cancelled, KeyboardInterrupt) as error:
        print(f"{NAME}: {str(error) or 'cancelled; nothing was written'}", file=sys.stderr)
        return 3
    except Exception as error:  # noqa: BLE001 (the last resort: one line for people, the rest on request)
        if os.environ.get("UNMIX_DEBUG"):
            traceback.print_exc()
        notes = "; ".join(["", *filter(None, getattr(error, "__notes__", []))])
        print(f"{NAME}: a defect of this program: {type(error).__name__}: {' '.join(str(error).split())} "
              f"(UNMIX_DEBUG=1 shows where){notes}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
