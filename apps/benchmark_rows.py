# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark's rows: what decides one, its confidence intervals, and their file."""

import hashlib
import math
import os
import platform
import re
from pathlib import Path
from typing import Iterable, Optional, Sequence

import numpy as np
import scipy.stats
import torch
from gnuradio.unmix import priors
from gnuradio.unmix.outputs import files_behind, files_of_prior
from gnuradio.unmix.priors.spec import SHIPPED
from gnuradio.unmix.separators.unet import SHIPPED as SHIPPED_NETWORKS
from row_files import read_rows

#: Batch, also of stream rows that do not say theirs.
DEFAULT_BATCH = 64


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


def prior_files(spec: str) -> list[Path]:
    """Files that a prior's specification is made from; empty for closed forms."""
    spec = spec.strip()
    if spec in priors.shipped():  # before a file of that name, as priors.parse() has it
        return [SHIPPED / f"{spec}.pt"]
    if spec.startswith("cp-ofdm:"):  # its parameters may be those of a recording, whose name may hold commas
        parts = [part.strip() for part in re.split(r",(?=\s*(?:[a-z]+=|$))", spec)]
        named = [part.removeprefix("recording=") for part in parts if part.startswith("recording=")]
        return [file for name in named for file in recording_files(name)]
    return _there(files_of_prior(spec))


def recording_files(name: str) -> list[Path]:
    """Files of a recording, however it is named: of SigMF metadata and data."""
    return _there(files_behind(name))


def _there(files: Iterable[Path]) -> list[Path]:
    return sorted(file for file in set(files) if file.is_file())


def method_files(name: str, options: dict) -> list[Path]:
    """Files that a method works with: a U-Net's, or all those that come with the package, one of which it takes."""
    if name != "unet":
        return []
    if options.get("model") is None:
        return sorted(SHIPPED_NETWORKS.glob("*.pt"))
    file = Path(options["model"])
    return [file] if file.is_file() else []


def input_files(args) -> list[Path]:
    """Files that a run of benchmark.py works with, whatever the method: of its priors, mixtures and recordings."""
    files = [*prior_files(args.soi), *prior_files(args.interference)]
    if args.mixtures is not None:
        files.append(Path(args.mixtures))
    for name in args.interference_signal or ():
        files += prior_files(name) if name.startswith("cp-ofdm:") else recording_files(name)
    return files


def fingerprint(files: Sequence[Path]) -> Optional[str]:
    """16 hexadecimal digits of the contents of files; None without any."""
    digest = hashlib.sha256()
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
        if row.setdefault("batch") is None and row.get("protocol") == "stream":  # taken to be the default's
            row["batch"] = min(DEFAULT_BATCH, row.get("asked_windows", DEFAULT_BATCH) // row["streams"])
    return rows


def finite_or_text(value: float):
    """A number as JSON can hold it: infinity becomes the text inf."""
    return value if math.isfinite(value) else "inf"
