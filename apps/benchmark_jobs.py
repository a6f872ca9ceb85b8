# SPDX-License-Identifier: GPL-3.0-or-later
"""What the benchmark measures: one job for each row, and the progress over all of them."""

import math
import sys
from dataclasses import dataclass
from typing import Optional

import numpy as np
from benchmark_options import takes_omega
from tqdm import tqdm


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
            for snr_db in args.snr_db for sir_db in (args.sir_db if given is None else sorted(given))
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
