#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the tables of docs/results.md anew and draws its pictures, from the benchmark's rows in docs/results/*.json.

In results.md a table lies between <!-- FILE QUANTITY SNR --> and <!-- end -->: FILE.json of docs/results, one of
benchmark_tables.QUANTITIES, and the SNR in dB or inf. A picture FILE_SNR.png is drawn for each image that the text has.
Usage, after `source build/run_env.sh`: docs/results.py
"""

import re
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "apps"))

from benchmark_plots import plot  # noqa: E402
from benchmark_rows import load_rows  # noqa: E402
from benchmark_tables import quantity_table  # noqa: E402
from gnuradio.unmix.separators.methods import split_method  # noqa: E402

#: From the simplest to ours, as the tables list them.
ORDER = ["matched-filter", "lmmse", "reverse-diffusion", "basis", "basis-hard", "basis-alpha", "guided-analytical",
         "guided-dps", "guided-dps:strength=3", "guided-dps:aligned=no", "guided-dsg", "guided-hybrid", "unet",
         "alpha-rgs", "alpha-rgs:start=lmmse-cyclic", "lmmse-cyclic", "pnp-dr", "pnp-dr:start=lmmse-cyclic",
         "zero-forcing"]
#: Lines that would cover others in the pictures, and say no more than these.
NOT_DRAWN = {"basis", "guided-dps:aligned=no", "guided-dsg", "guided-hybrid", "guided-analytical"}


def rows_of(name: str, snr: str) -> list[dict]:
    """Rows of docs/results/NAME.json at one SNR, in the tables' order."""
    rows = load_rows(str(HERE / "results" / f"{name}.json"))
    if not rows:
        raise SystemExit(f"results.py: there are no rows in results/{name}.json")
    rows = [r for r in rows if r["snr_db"] == (snr if snr == "inf" else float(snr))]
    place = {method: i for i, method in enumerate(ORDER)}
    return sorted(rows, key=lambda r: (place.get(r["method"], len(ORDER)), r["steps_limit"] or 0, r["sir_db"]))


def told(rows: list[dict]) -> list[dict]:
    """The rows with the number of steps in the method's name where one was given."""
    return [{**r, "method": f"{r['method']}, {r['steps_limit']:,} steps" if r["steps_limit"] else r["method"],
             "steps_limit": None} for r in rows]


def title(name: str) -> str:
    """A method as code, ours bold."""
    method, _, steps = name.partition(", ")
    text = f"`{method}`{', ' if steps else ''}{steps}"
    return f"**{text}**" if split_method(method)[0] in ("alpha-rgs", "pnp-dr") else text


def filled(text: str) -> str:
    """The document with all its tables written anew."""
    def table(match: re.Match) -> str:
        name, quantity, snr = match[1].split()
        return f"<!-- {match[1]} -->\n{quantity_table(told(rows_of(name, snr)), quantity, title=title)}\n<!-- end -->"
    return re.sub(r"<!-- (\S+ \S+ \S+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def draw(text: str) -> None:
    """Draw every picture NAME_SNR.png that the document shows."""
    for name, snr in re.findall(r"\(results/([\w-]+)_(\w+)\.png\)", text):
        rows = [r for r in rows_of(name, snr) if r["method"] not in NOT_DRAWN]
        with tempfile.TemporaryDirectory() as folder:
            (picture,) = plot(rows, folder)
            shutil.copyfile(picture, HERE / "results" / f"{name}_{snr}.png")


if __name__ == "__main__":
    document = HERE / "results.md"
    text = filled(document.read_text(encoding="utf-8"))
    document.write_text(text, encoding="utf-8")
    draw(text)
