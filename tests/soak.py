#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the simulated mixture for a long time and prints, every minute, memory, threads, errors and processor time.

Not a test of ctest: it takes as long as it is told to. Exit status 1 where memory or threads have grown in the
second half (the first tenth left out), or the separator gave up.
"""

import argparse
import sys
import time
from pathlib import Path

from gnuradio import blocks, gr, unmix


def status() -> tuple[int, int]:
    """Memory (KiB) that this process has allocated and touched, and its threads. Mapped libraries are left out: their
    pages come and go with the page cache."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]), int(fields["Threads"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--samp-rate", type=float, default=1e6)
    parser.add_argument("--sir-db", type=float, default=-15)
    args = parser.parse_args()
    bits = unmix.random_bits(2 * 16384)
    mixer = unmix.sir_mixer(args.sir_db, 30)
    separator = unmix.separator_cc()
    receiver = unmix.qpsk_receiver(unique_word=bits[:64])
    meter = unmix.ber_meter(bits, skip=4000)
    tb = gr.top_block()
    tb.connect(unmix.rrc_qpsk_source(bits), (mixer, 0))
    tb.connect(unmix.cp_ofdm_source(seed=1), (mixer, 1))
    tb.connect(mixer, blocks.throttle(gr.sizeof_gr_complex, args.samp_rate), separator, receiver)
    tb.connect((separator, 1), blocks.null_sink(gr.sizeof_gr_complex))
    tb.connect((receiver, 0), blocks.null_sink(gr.sizeof_gr_complex))
    tb.connect((receiver, 1), meter, blocks.null_sink(gr.sizeof_float))
    tb.start()
    began, rows = time.monotonic(), []
    print("   min   MiB  threads  MS/s  processor %    bits      BER  relocks  unseparated")
    while separator.error is None and (now := time.monotonic() - began) < args.seconds:
        time.sleep(min(60, args.seconds - now))
        memory, threads = status()
        now = time.monotonic() - began
        rows.append((memory, threads))
        print(f"{now / 60:6.1f} {memory / 1024:5.1f} {threads:8d} {separator.nitems_written(0) / now / 1e6:5.2f} "
              f"{100 * time.process_time() / now:12.0f} {meter.compared():7.2g} {meter.total_ber():8.1e} "
              f"{meter.relocks():8d} {separator.unseparated:12d}", flush=True)
    tb.stop()
    tb.wait()
    settled = rows[len(rows) // 10:]
    first, second = settled[:(len(settled) + 1) // 2], settled[len(settled) // 2:]
    memory, threads = (max(row[i] for row in second) - max(row[i] for row in first) for i in (0, 1))
    print(f"second half against first, at most: {memory:+d} KiB, {threads:+d} threads")
    return int(separator.error is not None or memory > 2048 or threads > 0)


if __name__ == "__main__":
    sys.exit(main())
