# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark's rows: what decides one, its confidence intervals, its file, and Markdown tables of many."""

import hashlib
import json
import math
import os
import platform
import re
from pathlib import Path
from typing import Iterable, Optional

import numpy as np
import scipy.stats
import torch
from gnuradio.unmix import priors
from gnuradio.unmix.priors.spec import SHIPPED
from gnuradio.unmix.separators.unet import SHIPPED as SHIPPED_NETWORKS

#: What a row's case is besides its method and point: fields that tell the series of a table or picture apart.
SERIES = ("method", "omega", "steps_limit", "soi", "interference", "protocol", "soi_timing", "soi_signal", "window",
          "asked_windows", "seed", "device")


def interval(errors: np.ndarray, bits_per_window: int) -> list[float]:
    """95 % interval of the bit error rate whose errors come in clusters: one count per window, [W].

    Clopper-Pearson with the number of bits divided by the design effect, the factor by which the windows' error counts
    scatter more than independent errors would.
    """
    bits = errors.size * bits_per_window
    rate = errors.sum() / bits
    effect = 1.0
    if errors.size > 1 and 0 < rate < 1:
        scatter = np.sum((errors - rate * bits_per_window) ** 2) * errors.size / (errors.size - 1) / bits**2
        effect = max(1.0, scatter / (rate * (1 - rate) / bits))
    n, k = bits / effect, rate * bits / effect
    low = scipy.stats.beta.ppf(0.025, k, n - k + 1) if k > 0 else 0.0
    high = scipy.stats.beta.ppf(0.975, k + 1, n - k) if k < n else 1.0
    return [float(low), float(high)]


def decibels(ratio) -> np.ndarray:
    """10 log10, not below -120."""
    return 10 * np.log10(np.maximum(ratio, 1e-12))


def mean_squared_error(estimate: np.ndarray, truth: np.ndarray, cluster: int) -> tuple[float, list[float]]:
    """Mean squared error of waves [W, N] relative to the truth's power, in dB, and its 95 % interval.

    The interval: 1,000 bootstrap draws of pieces of `cluster` samples, as errors come in windows.
    """
    error = np.abs(estimate.astype(complex) - truth).ravel() ** 2
    power = np.mean(np.abs(truth) ** 2, dtype=float)
    cluster = min(cluster, error.size)
    pieces = error[:error.size // cluster * cluster].reshape(-1, cluster).mean(1) / power
    draws = np.random.default_rng(0).integers(len(pieces), size=(1000, len(pieces)))
    low, high = decibels(np.percentile(pieces[draws].mean(1), [2.5, 97.5]))
    value = float(decibels(error.mean() / power))
    return value, [float(min(low, value)), float(max(high, value))]


def files_of(text: str) -> list[Path]:
    """Files that a specification, a file's name or the name of a shipped prior means, each with its SigMF twin."""
    if text in priors.shipped():
        return [SHIPPED / f"{text}.pt"]
    candidates = [text, *(part.rpartition("=")[2] for part in re.sub("^[a-z-]+:", "", text).split(","))]
    found = {Path(c).with_suffix(suffix) if c.endswith((".sigmf-meta", ".sigmf-data")) else Path(c)
             for c in candidates for suffix in (".sigmf-meta", ".sigmf-data")}
    return sorted(f for f in found if f.is_file())


def method_files(name: str, options: dict) -> list[Path]:
    """Files that a method works with: a U-Net's, or all those that come with the package, one of which it takes."""
    if name != "unet":
        return []
    if options.get("model") is None:
        return sorted(SHIPPED_NETWORKS.glob("*.pt"))
    file = Path(options["model"])
    return [file] if file.is_file() else []


def fingerprint(texts: Iterable[str], more: Iterable[Path] = ()) -> Optional[str]:
    """16 hexadecimal digits of the contents of all files that the texts name, and of more; None without any."""
    digest, files = hashlib.sha256(), [*(file for text in texts for file in files_of(text)), *more]
    for file in files:
        with file.open("rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()[:16] if files else None


def processor_name(device: str) -> str:
    """What a device's work is done on, as far as the system says: a processor's name, and of a CPU its cores."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    try:
        name = re.search(r"^model name\s*:\s*(.*\S)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        name = None
    name = name[1] if name else platform.processor() or platform.machine() or "unknown processor"
    return f"{name}, {os.cpu_count()} cores"


def load_rows(path: Optional[str]) -> list[dict]:
    """Rows of an earlier run, none where there was none. Raises ValueError for a file of something else."""
    if not path or not Path(path).exists():
        return []
    try:
        rows = json.loads(Path(path).read_text())
    except ValueError:
        rows = None
    if not isinstance(rows, list) or not all(isinstance(r, dict) and "method" in r for r in rows):
        raise ValueError(f"--json {path} exists and holds no rows of this benchmark; name another file")
    for row in rows:  # before there were other signals, they were what the priors described
        row.setdefault("soi_signal", row.get("soi"))
        row.setdefault("interference_signal", row.get("interference"))
        row.setdefault("soi_timing", "known")
        row.setdefault("streams", 1)
        row.setdefault("omega", None)
    return rows


def save(rows: list[dict], path: str) -> None:
    """Write all rows, so that an interrupted write leaves the old ones."""
    temporary = f"{path}.part"
    Path(temporary).write_text(json.dumps(rows, indent=1) + "\n")
    os.replace(temporary, path)


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
                              "asked_windows": f"{value} windows", "seed": f"seed {value}",
                              "window": f"{value} samples"}.get(field, str(value)))
        found.setdefault(", ".join(parts), []).append(row)
    return {name: sorted(own, key=lambda r: r["sir_db"]) for name, own in found.items()}


def _rate(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


def summary(rows: list[dict], paper: Optional[dict] = None) -> str:
    """Markdown tables, one of bit error rates and one of errors and times for each (interference, SNR).

    paper: see benchmark_plots.paper_case; called with a group's rows it gives the paper's curves, or None.
    """
    lines = []
    for (name, snr), own in groups(rows).items():
        levels = sorted({r["sir_db"] for r in own})
        head = f"| SIR dB | {' | '.join(f'{s:g}' for s in levels)} |\n|---{'|---' * len(levels)}|"
        noise = "no noise" if snr == "inf" else f"SNR {snr:g} dB"
        lines += [f"### {name}, {noise}", "", head]

        def line(title, points, digits, levels=levels):
            cells = ("–" if points.get(s) is None else digits(points[s]) for s in levels)
            return f"| {title} | {' | '.join(cells)} |"

        case = paper(own) if paper else None
        for title, of in series(own).items():
            at = {r["sir_db"]: r for r in of}
            rate = {s: r["ber"] for s, r in at.items()}
            if any(r is not None for r in rate.values()):
                lines.append(line(f"**{title}**, BER", rate, _rate))
                lines.append(line("… 95 % interval", {s: r["ber_ci95"] for s, r in at.items()},
                                  lambda v: " … ".join(map(_rate, v))))
            if any(r["mse_db"] is not None for r in of):
                lines.append(line("… MSE dB", {s: r["mse_db"] for s, r in at.items()}, lambda v: f"{v:.1f}"))
            lines.append(line("… ms per window", {s: 1e3 * r["seconds_per_window"] for s, r in at.items()},
                              lambda v: f"{v:.3g}"))
        for curve in case["curves"] if case else ():
            for quantity, digits in (("ber", _rate), ("mse_db", lambda v: f"{v:.1f}")):
                if quantity in curve:
                    points = dict(zip(case["sir_db"], curve[quantity], strict=True))
                    title = f"{curve['label']}, paper" + (", MSE dB" if quantity == "mse_db" else "")
                    lines.append(line(title, points, digits))
        bits = sorted({r["bits"] for r in own})
        lines += ["", f"{' or '.join(f'{b:,}' for b in bits)} bits a point.", ""]
    return "\n".join(lines)


def finite_or_text(value: float):
    """A number as JSON can hold it: infinity becomes the text inf."""
    return value if math.isfinite(value) else "inf"
