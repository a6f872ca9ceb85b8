# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark's rows as Markdown: a line for each, or tables of one quantity against SIR with the paper's curves."""

from typing import Callable, Optional

#: What a row's case is besides its method and point: fields that tell the series of a table or picture apart.
SERIES = ("method", "omega", "steps_limit", "soi", "interference", "protocol", "soi_timing", "soi_signal", "window",
          "asked_windows", "streams", "batch", "seed", "device")


def table(rows: list[dict]) -> str:
    """A Markdown table of one line per row."""
    head = ["method", "ω/κ²", "interference", "protocol", "SIR dB", "SNR dB", "BER", "95 % interval", "bits", "MSE dB",
            "calls", "ms/window"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for r in rows:
        ber = "–" if r["ber"] is None else f"{r['ber']:.2e}"
        ci = "–" if r["ber_ci95"] is None else f"{r['ber_ci95'][0]:.1e} … {r['ber_ci95'][1]:.1e}"
        mse = "–" if r["mse_db"] is None else f"{r['mse_db']:.1f}"
        omega = "–" if r.get("omega") is None else f"{r['omega']:g}"
        cells = [r["method"], omega, r["interference"], r["protocol"], f"{r['sir_db']:g}", r["snr_db"], ber, ci,
                 r["bits"], mse, f"{r['steps']:.1f}", f"{1e3 * r['seconds_per_window']:.2f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def refusals(refused: dict) -> list[str]:
    """Lines of Markdown that say which methods refused, where and why, from the sentences of jobs."""
    lines = [""] if refused else []
    for sentence in dict.fromkeys(refused.values()):
        levels = dict.fromkeys(f"{job.sir_db:g}" for job, own in refused.items() if own == sentence)
        lines.append(f"- SIR {', '.join(levels)} dB: {sentence}")
    return [*lines, ""] if refused else []


def groups(rows: list[dict]) -> dict[tuple, list[dict]]:
    """Rows by what was mixed: (interference, SNR in dB); mixtures made elsewhere go by their priors' names."""
    found = {}
    for row in rows:
        name = row.get("interference_signal") or row.get("mixtures") or row["interference"]
        found.setdefault((name, row["snr_db"]), []).append(row)
    return found


def series(rows: list[dict]) -> dict[str, list[dict]]:
    """Rows by their series, each by rising SIR. A series is named by its method and by what tells it apart."""
    fields = [f for f in SERIES if f != "method" and len({str(r.get(f)) for r in rows}) > 1]
    found = {}
    for row in rows:
        same = [r for r in rows if r["method"] == row["method"]]
        parts = [row["method"]]
        for field in fields:
            if len({str(r.get(field)) for r in same}) == 1 and field in ("omega", "steps_limit"):
                continue  # another method's option
            value = row.get(field)
            if value is not None:
                parts.append({"omega": f"ω = {value} κ²", "steps_limit": f"{value} steps",
                              "asked_windows": f"{value} windows", "streams": f"{value} streams",
                              "batch": f"batches of {value}", "seed": f"seed {value}",
                              "window": f"{value} samples"}.get(field, str(value)))
        found.setdefault(", ".join(parts), []).append(row)
    return {name: sorted(own, key=lambda r: r["sir_db"]) for name, own in found.items()}


#: Quantities of a row that are drawn or tabulated against SIR: their name in a heading, and how a value is written.
QUANTITIES: dict[str, tuple[str, Callable]] = {
    "ber": ("Bit error rate", lambda v: "0" if v == 0 else f"{v:.1e}".replace("e-0", "e-")),
    "ber_ci95": ("95 % interval of the bit error rate", lambda v: " … ".join(map(QUANTITIES["ber"][1], v))),
    "mse_db": ("Mean squared error of the SOI, dB", lambda v: "< -100" if v < -100 else f"{v:.1f}"),
    "seconds_per_window": ("Seconds a window", lambda v: f"{v:.2g}"),
}


def quantity_table(rows: list[dict], quantity: str, paper: Optional[dict] = None,
                   title: Callable[[str], str] = "`{}`".format) -> str:
    """A Markdown table of one of QUANTITIES: a line for each series, a column for each SIR, a dash where there is none.

    † marks cells of rows in which windows diverged. rows: of one group, see groups(). paper: see
    benchmark_plots.paper_case. title: what is written for a series' name.
    """
    levels = sorted({r["sir_db"] for r in rows})
    lines = [f"| SIR dB | {' | '.join(f'{s:g}' for s in levels)} |", f"|---{'|---' * len(levels)}|"]
    written = QUANTITIES[quantity][1]

    def line(name: str, points: dict, broken: frozenset = frozenset()) -> None:
        cells = ("–" if points.get(s) is None else written(points[s]) + " †" * (s in broken) for s in levels)
        lines.append(f"| {name} | {' | '.join(cells)} |")

    for name, own in series(rows).items():
        if any(r[quantity] is not None for r in own):
            line(title(name), {r["sir_db"]: r[quantity] for r in own},
                 frozenset(r["sir_db"] for r in own if r.get("diverged")))
    for curve in paper["curves"] if paper else ():
        if quantity in curve:
            line(f"{curve['label']}, paper", dict(zip(paper["sir_db"], curve[quantity], strict=True)))
    return "\n".join(lines)


def summary(rows: list[dict], paper: Optional[Callable] = None) -> str:
    """Markdown tables of each of QUANTITIES for each (interference, SNR).

    paper: see benchmark_plots.paper_case; called with a group's rows it gives the paper's curves, or None.
    """
    lines = []
    for (name, snr), own in groups(rows).items():
        lines += [f"### {name}, {'no noise' if snr == 'inf' else f'SNR {snr:g} dB'}", ""]
        bits = " or ".join(f"{b:,}" for b in sorted({r["bits"] for r in own}))
        case = paper(own) if paper else None
        for quantity, (heading, _) in QUANTITIES.items():
            if any(r[quantity] is not None for r in own):
                unit = f", {bits} bits a point" if quantity == "ber" else ""
                lines += [f"{heading}{unit}:", "", quantity_table(own, quantity, case), ""]
    return "\n".join(lines)
