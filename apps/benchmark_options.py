# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark's command line."""

import argparse
import inspect
import math
import os
from pathlib import Path
from typing import Optional, Sequence

from benchmark_rows import DEFAULT_BATCH
from gnuradio.unmix import separators
from gnuradio.unmix.outputs import same_file
from gnuradio.unmix.separators.methods import split_method
from gnuradio.unmix.settings import check_settings

#: Beyond these dB single precision runs out.
MOST_DB = 300
#: What mixtures made elsewhere say themselves.
DEFAULTS = {"sir_db": [-24, -21, -18, -15, -12, -9, -6, -3], "windows": 100, "window": 2560}


def arguments(argv: Optional[Sequence[str]], description: str) -> argparse.Namespace:
    """The parsed command line. Raises ValueError with a sentence for values that are impossible."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    parser.add_argument("--sir-db", type=float, nargs="+", metavar="dB",
                        help="power of the SOI over the interference's (default "
                             f"{' '.join(map(str, DEFAULTS['sir_db']))})")
    parser.add_argument("--snr-db", nargs="+", default=["inf"], metavar="dB",
                        help="white noise below the SOI, inf: none (default); with --mixtures the one level that is in "
                             "them already, which the methods are told")
    parser.add_argument("--methods", default="pnp-dr", metavar="METHOD,...",
                        help=f"{', '.join(sorted(separators.METHODS))}; with options as in pnp-dr:start=lmmse-cyclic")
    parser.add_argument("--windows", type=int, help=f"mixtures a point (default {DEFAULTS['windows']})")
    parser.add_argument("--window", type=int, help=f"samples (default {DEFAULTS['window']})")
    parser.add_argument("--protocol", choices=["isolated", "stream"], default="isolated")
    parser.add_argument("--streams", type=int, default=1, metavar="N",
                        help="stream: divide the windows among N streams, as short recordings need")
    parser.add_argument("--steps", metavar="N|METHOD=N,...",
                        help="largest number of calls of each prior, for all methods that take steps, for some, or "
                             "both, such as 2000,basis=5000 (default: each method's own)")
    parser.add_argument("--omega", type=float, nargs="+", metavar="FACTOR",
                        help="omega / kappa^2, the weight of the interference's term, for methods that take one; each "
                             "factor gives rows of its own (default: the method's)")
    parser.add_argument("--batch", type=int, default=DEFAULT_BATCH,
                        help="windows worked on at a time; in streams that are longer, where trackers learn batch by "
                             "batch, another batch gives other rows (default %(default)s)")
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
                        help="take mixtures from here: mixture [W, L], sir_db [W]; soi [W, L], bits [W, n] if known; "
                             "they say themselves what --sir-db, --windows and --window would")
    args = parser.parse_args(argv)
    for name, value in vars(args).items():
        if value == "":
            raise ValueError(f"--{name.replace('_', '-')} must not be empty")
    args.methods = list(dict.fromkeys(separators.resolve_method(m) for m in args.methods.split(",")))
    if args.mixtures:
        check_mixtures_alone(args)
    for name, value in DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.soi_timing == "random" and "matched-filter" in args.methods:
        raise ValueError("the method matched-filter needs the timing; leave out --soi-timing random")
    try:
        args.snr_db = list(dict.fromkeys(map(float, args.snr_db)))  # a point that is named twice is one point
    except ValueError:
        raise ValueError(f"--snr-db must be numbers of dB or inf, not {' '.join(args.snr_db)}") from None
    args.sir_db = list(dict.fromkeys(args.sir_db))
    if args.mixtures and len(args.snr_db) > 1:
        raise ValueError("--mixtures have their noise already; --snr-db states its one level, not several")
    args.steps = steps_of(args.steps, args.methods)
    if args.omega is not None:
        args.omega = list(dict.fromkeys(args.omega))
        if args.protocol != "isolated":
            raise ValueError("--omega needs isolated windows; leave out --protocol stream")
        if not all(math.isfinite(f) and f > 0 for f in args.omega):
            raise ValueError("--omega must be finite and above 0")
        if not any(map(takes_omega, args.methods)):
            raise ValueError(f"none of the methods {', '.join(args.methods)} takes --omega")
    check_outputs(args)
    if args.windows < 1:
        raise ValueError(f"--windows must be at least 1, not {args.windows}")
    check_settings(window=args.window, batch=args.batch, seed=args.seed, option="--{}".format)
    if args.streams != 1 and (args.protocol == "isolated" or not 1 <= args.streams <= args.windows):
        raise ValueError("--streams divides the windows of --protocol stream; allowed are 1 to --windows")
    if not all(abs(s) <= MOST_DB for s in args.sir_db):
        raise ValueError(f"--sir-db must be finite, at most {MOST_DB} dB either way")
    if not all(abs(s) <= MOST_DB or s == math.inf for s in args.snr_db):
        raise ValueError(f"--snr-db must be finite, at most {MOST_DB} dB either way, or inf")
    return args


def check_mixtures_alone(args: argparse.Namespace) -> None:
    """Raise ValueError where an option says what the --mixtures say themselves."""
    made = {"interference_signal": None, "recording_part": None, "soi_timing": "known", **dict.fromkeys(DEFAULTS)}
    given = [f"--{name.replace('_', '-')}" for name, default in made.items() if getattr(args, name) != default]
    if given:
        raise ValueError(f"--mixtures are made already; leave out {' and '.join(given)}")
    if args.protocol != "isolated":
        raise ValueError("--mixtures are isolated windows; leave out --protocol stream")


def check_outputs(args: argparse.Namespace) -> None:
    """Raise ValueError where --json, --table or --plots names what cannot be written, before hours of work."""
    outputs = {"json": args.json, "table": None if args.table == "-" else args.table, "plots": args.plots}
    outputs = {option: Path(path) for option, path in outputs.items() if path is not None}
    for option, path in outputs.items():
        folder = path.absolute().parent
        if not folder.is_dir():
            raise ValueError(f"the folder of --{option} {path} does not exist")
        if option == "plots":
            if path.exists() and not path.is_dir():
                raise ValueError(f"--plots {path} exists and is no folder; name another")
        elif path.is_dir():
            raise ValueError(f"--{option} {path} is a folder; name a file")
        elif option == "json" and path.exists() and not path.is_file():
            raise ValueError(f"--json {path} is no plain file; name another")
        # rows replace their file, so that the folder must be writable; the others are written where they are
        target = path if option != "json" and path.exists() else folder
        if not os.access(target, os.W_OK):
            raise ValueError(f"--{option} {path} cannot be written: the permissions of {target} do not allow it")
    table = outputs.get("table")
    for option, other in (("json", args.json), ("mixtures", args.mixtures)):
        if table is not None and other is not None and same_file(table, Path(other)):
            raise ValueError(f"--table {table} would overwrite --{option}; name another file")


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
        check_settings(steps=int(number), option="--{}".format)
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
