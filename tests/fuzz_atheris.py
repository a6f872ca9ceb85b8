#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fuzz one reader for as long as you like, guided by coverage: python tests/fuzz_atheris.py TARGET --seconds N.

Begins with the seeds and the regression inputs of tests/corpus. An input that breaks a promise (fuzz_targets.py says
what is promised) is kept in the folder of --findings and named; copy it into tests/corpus/TARGET, where qa_fuzz.py
replays it for ever. Needs atheris, which the tests do without.
"""

import argparse
import sys
import tempfile
from pathlib import Path

try:
    import atheris
except ImportError:
    atheris = None

WORDS = {
    "wav": ["RIFF", "RIFX", "RF64", "WAVE", "fmt ", "data", "LIST", "fact", "auxi"],
    "sigmf": ["global", "captures", "annotations", "core:datatype", "core:sample_rate", "core:offset", "core:dataset",
              "core:header_bytes", "core:trailing_bytes", "core:sample_start", "core:frequency", "core:extensions",
              "core:sha512", "core:num_channels", "core:sample_count", "NaN", "Infinity", "1e400", "-1", "null"],
    "names": ["gqrx_", "_fc.raw", "-f", "-s", "e999", "Hz", "sps", ".sigmf-meta", ".sigmf-data", ".wav", "cf32", "_be"],
    "spec": ["rrc:", "cp-ofdm:", "gaussian:", "qpsk", "16qam", "sps=", "rolloff=", "span=", "first=", "sync=", "ends=",
             "fft=", "cp=", "active=", "unknown", "nan", "1e400", "1073741824", ".pt", "wifi:"],
    "prior_json": ["format", "name", "kind", "window", "predicts", "noise", "side", "psd", "band", "frame",
                   "synchronise", "modulation", "constellation", "NaN", "1e400", "1e99", "1e-320"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--findings", type=Path, default=None, help="folder for failing inputs (default: a new one)")
    options = parser.parse_args()
    if atheris is None:
        print("atheris is not installed: python -m pip install atheris", file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=["gnuradio.unmix.captures", "gnuradio.unmix.priors",
                                             "gnuradio.unmix.blocks"]):
        import fuzz_targets
    if options.target not in fuzz_targets.TARGETS:
        print(f"unknown target {options.target}; known are {', '.join(fuzz_targets.TARGETS)}", file=sys.stderr)
        return 2
    findings = options.findings or Path(tempfile.mkdtemp(prefix="findings-"))
    findings.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="corpus-"))
    for i, seed in enumerate(fuzz_targets.seeds(options.target)):
        (work / str(i)).write_bytes(seed)
    words = work.with_suffix(".dict")
    words.write_text("".join(f'"{word}"\n' for word in WORDS.get(options.target, ["\\x00\\x01"])))
    print(f"failing inputs go to {findings}", flush=True)
    target = fuzz_targets.TARGETS[options.target]

    def once(data: bytes) -> None:
        target(data)

    most = 100_000 if options.target == "prior_file" else 4096
    atheris.Setup([sys.argv[0], f"-max_total_time={options.seconds}", f"-artifact_prefix={findings}/", f"-dict={words}",
                   f"-max_len={most}", "-timeout=20", "-rss_limit_mb=4096", "-verbosity=0", "-print_final_stats=1",
                   str(work)], once)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
