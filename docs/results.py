#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the tables of docs/results.md anew and draws its pictures, from the benchmark's rows in docs/results/*.json.

In results.md a table lies between <!-- FILE QUANTITY SNR --> and <!-- end -->: FILE.json of docs/results, one of
benchmark_tables.QUANTITIES, and the SNR in dB or inf. Behind <!-- standing --> lies the table of standing() over all
files. A picture FILE_SNR.png is drawn for each image that the text has.
Usage, after `source build/run_env.sh`: docs/results.py
"""

import re
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "apps"))

from benchmark_plots import plot  # noqa: E402
from benchmark_rows import load_rows  # noqa: E402
from benchmark_tables import quantity_table  # noqa: E402
from gnuradio.unmix.separators.methods import split_method  # noqa: E402

#: From the simplest to ours, as the tables list them.
ORDER = ["matched-filter", "lmmse", "reverse-diffusion", "basis", "basis-hard", "basis-alpha", "guided-analytical",
         "guided-dps", "guided-dps:strength=10", "guided-dps:aligned=no", "guided-dsg", "guided-hybrid", "unet",
         "alpha-rgs", "alpha-rgs:start=lmmse-cyclic", "lmmse-cyclic", "pnp-dr", "pnp-dr:start=lmmse-cyclic",
         "zero-forcing"]
#: Methods of this project, and linear ones that no paper here has.
OURS = ["pnp-dr", "pnp-dr:start=lmmse-cyclic", "alpha-rgs", "alpha-rgs:start=lmmse-cyclic"]
NOT_PUBLISHED = {*OURS, "lmmse-cyclic", "zero-forcing"}
#: Files of rows, and what the mixtures are called.
CASES = {"ofdm-qpsk": "OFDM (QPSK)", "ofdm-bpsk": "OFDM (BPSK)", "wifi": "recorded WiFi"}
#: Lines that would cover others in the pictures, and say no more than these.
NOT_DRAWN = {"basis", "guided-dps:aligned=no", "guided-dps:strength=10", "guided-dsg", "guided-hybrid",
             "guided-analytical"}


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


def compared(row: dict, others: list[dict]) -> str:
    """How a row's BER compares with the lowest of others': ahead, level or behind, "clearly" where intervals part."""
    best = min(others, key=lambda r: r["ber"])
    if row["ber"] == best["ber"]:
        return "level"
    low, high = sorted((row, best), key=lambda r: r["ber"])
    apart = low["ber_ci95"][1] < high["ber_ci95"][0]
    return ("clearly " if apart else "") + ("ahead" if low is row else "behind")


def standing() -> str:
    """A Markdown table: at how many SIRs each of our methods is ahead of the published one that is best there."""
    rows = {(name, snr): rows_of(name, snr) for name in CASES for snr in ("inf", "30", "20")}
    lines = ["| | SNR dB | SIRs | " + " | ".join(f"`{name}`" for name in OURS) + " |", "|---" * (3 + len(OURS)) + "|"]
    for (name, snr), found in rows.items():
        cells = [CASES[name], "∞" if snr == "inf" else snr, str(len({r["sir_db"] for r in found}))]
        for method in OURS:
            own = [r for r in found if r["method"] == method]
            cells.append("; ".join(filter(None, (told_standing(own, found, steps) for steps in
                                                 sorted({r["steps_limit"] or 0 for r in own})))) or "–")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def told_standing(own: list[dict], found: list[dict], steps: int) -> str:
    """The counts of compared() over rows of one method and number of steps."""
    counts = Counter()
    for row in own:
        if (row["steps_limit"] or 0) == steps:
            counts[compared(row, [r for r in found if r["sir_db"] == row["sir_db"]
                                  and r["method"] not in NOT_PUBLISHED])] += 1
    text = []
    for word in ("ahead", "level", "behind"):
        clearly, total = counts[f"clearly {word}"], counts[word] + counts[f"clearly {word}"]
        if total:
            text.append(f"{total} {word}" + (f" ({clearly} clearly)" if clearly else ""))
    return (f"{steps:,} steps: " if steps else "") + ", ".join(text)


def title(name: str) -> str:
    """A method as code, ours bold."""
    method, _, steps = name.partition(", ")
    text = f"`{method}`{', ' if steps else ''}{steps}"
    return f"**{text}**" if split_method(method)[0] in ("alpha-rgs", "pnp-dr") else text


def filled(text: str) -> str:
    """The document with all its tables written anew."""
    def table(match: re.Match) -> str:
        if match[1] == "standing":
            return f"<!-- standing -->\n{standing()}\n<!-- end -->"
        name, quantity, snr = match[1].split()
        return f"<!-- {match[1]} -->\n{quantity_table(told(rows_of(name, snr)), quantity, title=title)}\n<!-- end -->"
    return re.sub(r"<!-- (standing|\S+ \S+ \S+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


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
