# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark's rows: what decides one, its confidence intervals, and their file."""

import hashlib
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
from row_files import read_rows


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
    rows = read_rows(path, "method", "benchmark")
    for row in rows:  # before there were other signals, they were what the priors described
        row.setdefault("soi_signal", row.get("soi"))
        row.setdefault("interference_signal", row.get("interference"))
        row.setdefault("soi_timing", "known")
        row.setdefault("streams", 1)
        row.setdefault("omega", None)
    return rows


def finite_or_text(value: float):
    """A number as JSON can hold it: infinity becomes the text inf."""
    return value if math.isfinite(value) else "inf"
