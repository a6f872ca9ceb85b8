# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures of the benchmark's rows: BER and MSE against SIR, with the curves of the paper where the case is its own."""

import json
import re
from pathlib import Path
from typing import Optional

import numpy as np
from benchmark_tables import groups, series
from gnuradio.unmix import priors

#: In dB; windows without any bit error are exact, which a picture need not show.
LOWEST_MSE = -45

PAPER = Path(__file__).parent / "paper_figures.json"

#: One colour for each method in all pictures, the paper's curves included.
COLOURS = {"matched-filter": "0.45", "lmmse": "tab:brown", "lmmse-cyclic": "tab:olive", "zero-forcing": "black",
           "basis": "gold", "basis-hard": "rosybrown", "basis-hard:temperature=0.5": "darkorange",
           "basis-alpha": "chocolate", "reverse-diffusion": "tab:purple",
           "guided-dps": "tab:cyan", "guided-dps:aligned=no": "teal", "guided-dsg": "slategray",
           "guided-hybrid": "orchid", "unet": "tab:green", "alpha-rgs": "tab:blue",
           "alpha-rgs:start=lmmse-cyclic": "navy", "pnp-dr": "tab:red", "pnp-dr:start=lmmse-cyclic": "darkred"}

#: What a method of the paper's figures is here: their "BASIS" adds noise of sqrt(eta), half the printed variance.
PAPER_METHODS = {"basis-hard": "basis-hard:temperature=0.5"}


def _ofdm_case(name: str) -> Optional[str]:
    """ofdm-qpsk or ofdm-bpsk where a specification is the paper's OFDM, however it is written."""
    if not name.startswith("cp-ofdm:") or "auto" in name:
        return None
    module = priors.parse(name).module
    if (module.fft, module.cp, module.active) != (64, 16, 56) or module.constellation not in ("qpsk", "bpsk"):
        return None
    return f"ofdm-{module.constellation}"


def paper_case(rows: list[dict]) -> Optional[dict]:
    """The paper's curves for rows of one mixture: title, sir_db and curves; None where the case is not the paper's.

    The paper's: RRC-QPSK of known timing, isolated windows, no added noise, under its OFDM or CommSignal2.
    """
    soi = priors.parse("rrc:qpsk,sps=16,rolloff=0.5,span=8").modulation
    for row in rows:
        signal = row.get("soi_signal") or row["soi"]
        if (row["snr_db"] != "inf" or row["protocol"] != "isolated" or not signal.startswith("rrc:")
                or priors.parse(signal).modulation != soi or row.get("mixtures")):
            return None
    names = {row.get("interference_signal") or "" for row in rows}
    cases = {"commsignal2" if "commsignal2" in name.lower() else _ofdm_case(name) for name in names}
    if len(cases) != 1 or None in cases:
        return None
    data = json.loads(PAPER.read_text())
    case = data["cases"][cases.pop()]
    curves = [{**curve, "method": PAPER_METHODS.get(curve["method"], curve["method"])} for curve in case["curves"]]
    return {**case, "curves": curves, "sir_db": data["sir_db"]}


def _draw(axis, rows, case, quantity):
    """All series of one quantity, ber or mse_db, and the paper's curves of the methods among them and of alpha-RGS."""
    markers = "osD^vP*X<>"
    names = [n for n, own in series(rows).items() if any(r[quantity] is not None for r in own)]
    methods = [series(rows)[n][0]["method"] for n in names]
    for number, name in enumerate(names):
        own = [r for r in series(rows)[name] if r[quantity] is not None]
        x = [r["sir_db"] for r in own]
        y = np.array([max(r["ber"], 0.5 / r["bits"]) if quantity == "ber" else max(r["mse_db"], LOWEST_MSE)
                      for r in own])
        ends = np.array([r.get(f"{quantity}_ci95") or [v, v] for r, v in zip(own, y, strict=True)])
        if quantity == "mse_db":
            ends = np.maximum(ends, LOWEST_MSE)
        spread = np.maximum([y - ends[:, 0], ends[:, 1] - y], 0)
        if quantity == "ber":
            spread[0] = np.minimum(spread[0], y * 0.999)  # down to the axis, on a logarithmic one
        twins = [i for i, m in enumerate(methods) if m == methods[number]]
        colour = COLOURS.get(methods[number]) if len(twins) == 1 else None
        axis.errorbar(x, y, spread, color=colour, marker=markers[number % len(markers)], markersize=5, capsize=3,
                      linewidth=1.6, label=name)
    for curve in case["curves"] if case else ():
        ours = curve["method"] in methods or curve["method"] == "alpha-rgs"
        if quantity not in curve or not ours:
            continue
        points = [(s, max(v, 0.5 / 32000) if quantity == "ber" else v)
                  for s, v in zip(case["sir_db"], curve[quantity], strict=True) if v is not None]
        axis.plot(*zip(*points, strict=True), color=COLOURS[curve["method"]], linewidth=1.1, alpha=0.8, markersize=4,
                  linestyle=":" if "trained" in curve["label"] else "--", marker="o", markerfacecolor="white",
                  label=f"{curve['label']} (paper)")
    heights = [y for line in axis.get_lines() for y in line.get_ydata() if line.get_marker() in markers]
    if quantity == "ber":
        axis.set_yscale("log")
        axis.set_ylim(0.4 * min(heights), 1)
    axis.set_xticks(sorted({r["sir_db"] for r in rows}))
    axis.set_xlabel("SIR (dB)")
    axis.set_ylabel("bit error rate" if quantity == "ber" else "mean squared error of the SOI (dB)")
    axis.grid(which="major", alpha=0.35)


def plot(rows: list[dict], folder) -> list[Path]:
    """Draw one picture for each (interference, SNR) into a folder, which is made; returns the files."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    Path(folder).mkdir(parents=True, exist_ok=True)
    files = []
    for (name, snr), own in groups(rows).items():
        own = [r for r in own if r["ber"] is not None or r["mse_db"] is not None]
        if not own:
            continue
        case = paper_case(own)
        quantities = [q for q in ("ber", "mse_db") if any(r[q] is not None for r in own)]
        figure = Figure(figsize=(5.6 * len(quantities), 5.2), layout="constrained")
        FigureCanvasAgg(figure)
        shown = {}
        for place, quantity in enumerate(quantities, 1):
            axis = figure.add_subplot(1, len(quantities), place)
            _draw(axis, own, case, quantity)
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
                shown.setdefault(label, handle)
        columns = 3 if len(quantities) == 2 else 2
        shown = dict(sorted(shown.items(), key=lambda item: "(paper)" in item[0]))  # ours first
        figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=columns, fontsize=8)
        noise = "no noise" if snr == "inf" else f"SNR {snr:g} dB"
        title = case["title"] if case else name if len(name) < 60 else f"{name[:57]}…"
        figure.suptitle(f"{own[0].get('soi_signal') or own[0]['soi']} under {title}, {noise}\n"
                        f"bars: 95 % intervals; no bit error is drawn as half a one, MSE below {LOWEST_MSE} dB there",
                        fontsize=10)
        file = Path(folder) / f"{re.sub('[^A-Za-z0-9=.-]+', '_', name)[-120:]}_snr={snr}.png"
        figure.savefig(file, dpi=120)
        files.append(file)
    return files
