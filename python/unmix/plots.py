# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures of a separation, drawn from stretches of the files: long captures cost no more than short ones."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np

from . import report as words
from .captures import Capture, CaptureError
from .demodulation import matched_filter
from .priors import constellation as cons
from .survey import survey

COLUMNS = 500
POINTS = 4000
NAMES = ("spectrogram", "spectrum", "agreement", "constellation")
COLOURS = {"capture": "0.55", "soi": "tab:blue", "interference": "tab:orange"}


def require() -> None:
    """Raises CaptureError where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise CaptureError(f"pictures (--plots) need matplotlib, which cannot be imported: {error}") from None


def draw(folder: Path, stem: str, capture: Capture, separated: Sequence[Capture], modulation: Optional[dict],
         report: dict, symbols: Optional[np.ndarray] = None) -> list[str]:
    """Draw all pictures; returns their file names.

    capture: the mixture. separated: SOI and interferers, as long. modulation: the SOI's, where timing and phase are
    known. report: see recording. symbols: complex64 [2, n], before and after, where timing and phase were found blind.
    Raises CaptureError where a file can no longer be read, OSError from writing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # no pyplot: no global state, no display
    pictures = {"spectrogram": _spectrogram, "spectrum": _spectrum, "agreement": _agreement}
    if modulation is not None:
        pictures["constellation"] = _constellation
    scene = _Scene(capture, separated, modulation, report, symbols)
    names = []
    for name, paint in pictures.items():
        figure = Figure(layout="constrained", dpi=120)
        FigureCanvasAgg(figure)
        paint(figure, scene)
        names.append(f"{stem}_{name}.png")
        figure.savefig(Path(folder) / names[-1])
    return names


class _Scene:
    """What all pictures share: the streams, their names, the units of the axes."""

    def __init__(self, capture: Capture, separated: Sequence[Capture], modulation: Optional[dict], report: dict,
                 symbols: Optional[np.ndarray] = None):
        self.capture, self.separated, self.modulation, self.report = capture, separated, modulation, report
        self.symbols = symbols
        self.rate = capture.sample_rate
        others = len(separated) - 1
        names = ["interference"] if others == 1 else [f"interference {i + 1}" for i in range(others)]
        self.streams = [("capture", capture, COLOURS["capture"]), ("SOI", separated[0], COLOURS["soi"])]
        colours = ["tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown"]
        self.streams += [(n, s, colours[i % 5]) for i, (n, s) in enumerate(zip(names, separated[1:], strict=True))]
        self.title = f"{capture.path.name}, {report['settings']['method']}"

    def time(self) -> tuple[float, str]:
        """Factor from samples to the unit of a time axis, and its label."""
        if not self.rate:
            return 1.0, "time (samples)"
        scale, unit = next(((f, u) for f, u in ((1, "s"), (1e3, "ms")) if f * self.capture.length / self.rate >= 1),
                           (1e6, "µs"))
        return scale / self.rate, f"time ({unit})"

    def frequency(self) -> tuple[float, str]:
        """Factor from cycles/sample to the unit of a frequency axis, and its label."""
        if not self.rate:
            return 1.0, "frequency (cycles/sample)"
        scale, unit = next((f, u) for f, u in ((1e-6, "MHz"), (1e-3, "kHz"), (1, "Hz")) if f * self.rate >= 2 or f == 1)
        centre = self.capture.center_frequency
        around = f", around {centre / 1e6:.9g} MHz" if centre else ""
        return scale * self.rate, f"frequency ({unit}{around})"

    def density(self) -> tuple[float, str]:
        """What to add to dB per cycle/sample, and the label."""
        if not self.rate:
            return 0.0, "power density (dBFS per cycle/sample)"
        return -10 * math.log10(self.rate), "power density (dBFS/Hz)"


def _decibel(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, 1e-20))


def _columns(capture: Capture) -> tuple[np.ndarray, int]:
    """Spectrogram in dB, [bins, columns] from the lowest frequency up, each column an average of up to 4 frames."""
    bins = 256
    while bins > 16 and capture.length < 64 * bins:
        bins //= 2
    bins = min(bins, capture.length)
    window = np.hanning(bins + 1)[:bins]
    columns = max(1, min(COLUMNS, 2 * capture.length // bins))
    frames = max(1, min(4, capture.length // (bins * columns)))
    picture = np.zeros((bins, columns))
    for i, start in enumerate(np.linspace(0, capture.length - frames * bins, columns).astype(np.int64)):
        piece = capture.read(start, frames * bins).reshape(frames, bins)
        picture[:, i] = (np.abs(np.fft.fft(piece * window)) ** 2).mean(0)
    return np.fft.fftshift(_decibel(picture / np.sum(window**2)), axes=0), bins


def _spectrogram(figure, scene: _Scene) -> None:
    figure.set_size_inches(10, 2.6 * len(scene.streams) + 0.5)
    axes = figure.subplots(len(scene.streams), 1, sharex=True, sharey=True)
    offset, label = scene.density()
    pictures = [_columns(stream)[0] + offset for _, stream, _ in scene.streams]
    high = float(np.percentile(pictures[0], 99.8))
    low = max(float(np.percentile(pictures[0], 1)), high - 60)
    time, time_label = scene.time()
    frequency, frequency_label = scene.frequency()
    extent = (0, scene.capture.length * time, -0.5 * frequency, 0.5 * frequency)
    for axis, (name, _, _), picture in zip(axes, scene.streams, pictures, strict=True):
        image = axis.imshow(picture, aspect="auto", origin="lower", extent=extent, vmin=low, vmax=high, cmap="viridis",
                            interpolation="nearest")
        axis.set_title("before: capture" if name == "capture" else f"after: {name}", fontsize=11, loc="left")
    figure.supylabel(frequency_label, fontsize=10)
    axes[-1].set_xlabel(time_label)
    figure.colorbar(image, ax=axes, label=label, pad=0.01, extend="both")
    figure.suptitle(scene.title, fontsize=11)


def _spectrum(figure, scene: _Scene) -> None:
    figure.set_size_inches(9, 5)
    axis = figure.subplots()
    offset, label = scene.density()
    frequency, frequency_label = scene.frequency()
    floor = np.inf
    for name, stream, colour in scene.streams:
        try:
            density, _ = survey(stream)
        except CaptureError:  # an estimate may be silent
            continue
        level = np.fft.fftshift(_decibel(density)) + offset
        place = np.fft.fftshift(np.fft.fftfreq(len(density))) * frequency
        first = name == "capture"
        floor = min(floor, level.min()) if first else floor  # what lies far below the capture means nothing
        while_on = ", while it is on" if name == "SOI" and scene.report["result"]["no_soi"] else ""
        axis.plot(place, level, color=colour, lw=3.5 if first else 1.5, zorder=1 if first else 2,
                  label="before: capture" if first else f"after: {name}{while_on}")
    axis.set(xlabel=frequency_label, ylabel=label, xlim=(-0.5 * frequency, 0.5 * frequency), title=scene.title)
    axis.set_ylim(max(axis.get_ylim()[0], floor - 25))
    axis.grid(alpha=0.3)
    axis.legend(loc="lower left")


def _symbols(scene: _Scene) -> tuple[np.ndarray, np.ndarray]:
    """Up to POINTS symbols behind the matched filter, of the capture and of the capture less the interference.

    Symbols where the SOI pauses are left out.
    """
    if scene.symbols is not None:
        return scene.symbols[0], scene.symbols[1]
    modulation = scene.modulation
    sps, gain = int(modulation["samples_per_symbol"]), scene.report["levels"]["soi_amplitude"]
    guard = int(modulation["span"]) // 2 + 1
    total = scene.capture.length // sps
    each = min(total, 128)
    before, after = [], []
    pauses = scene.report["result"]["no_soi"]
    first = np.array([s["start"] for s in pauses])
    behind = np.array([s["start"] + s["samples"] for s in pauses])
    for start in np.linspace(0, total - each, max(1, min(POINTS, total) // max(1, each))).astype(int):
        begin = max(0, start - guard)  # pulses reach into the stretch from both sides
        span = (begin * sps, (start + each + guard - begin) * sps)
        mixture = scene.capture.read(*span)
        rest = mixture - sum(s.read(*span) for s in scene.separated[1:])
        centre = (start + np.arange(each) + 0.5) * sps
        sent = np.searchsorted(first, centre, "right") == np.searchsorted(behind, centre, "right")
        for waves, found in ((mixture, before), (rest, after)):
            found.append(matched_filter(waves / gain, modulation)[start - begin:start - begin + each][sent])
    return np.concatenate(before), np.concatenate(after)


def _constellation(figure, scene: _Scene) -> None:
    figure.set_size_inches(10, 5.4)
    axes = figure.subplots(1, 2)
    quality = scene.report["quality"]
    truth = quality["reference"] or {}
    points = cons.points(scene.modulation["constellation"])
    headings = {"before": "before: matched filter on the capture",
                "after": "after: matched filter on capture − interference"}
    for axis, symbols, when in zip(axes, _symbols(scene), ("before", "after"), strict=True):
        parts = np.append(np.abs([symbols.real, symbols.imag]), 0)  # there may be no symbols
        limit = 1.15 * max(1.2, float(np.percentile(parts, 99.7)))
        axis.axhline(0, color="0.8", lw=0.8, zorder=0)
        axis.axvline(0, color="0.8", lw=0.8, zorder=0)
        axis.scatter(symbols.real, symbols.imag, s=7, alpha=0.6, color="tab:blue", linewidths=0)
        axis.scatter(points.real, points.imag, marker="x", color="tab:red", s=50, lw=1.5,
                     label=f"ideal {scene.modulation['constellation'].upper()}")
        ratio = quality[f"evm_{when}"]
        own = f"{scene.report['settings']['method']}: its own decisions"
        facts = [own if ratio is None else f"EVM {words.percent(ratio)}"]
        if f"ber_{when}" in truth:
            facts.append(f"bit error rate {words.error_rate(truth[f'ber_{when}']['rate'])}")
        axis.set_title(f"{headings[when]}\n{', '.join(facts)}", fontsize=10.5)
        axis.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xlabel="in-phase (SOI amplitude = 1)",
                 ylabel="quadrature (SOI amplitude = 1)")
        axis.grid(alpha=0.2)
    axes[1].legend(loc="upper right", fontsize=9)
    figure.suptitle(scene.title, fontsize=11)


def _agreement(figure, scene: _Scene) -> None:
    figure.set_size_inches(10, 6.5)
    upper, middle, lower = figure.subplots(3, 1, sharex=True)
    time, time_label = scene.time()
    windows = scene.report["windows"]
    start = np.array([w["start"] for w in windows]) * time
    ends = np.append(start, (windows[-1]["start"] + windows[-1]["length"]) * time)
    few = len(windows) <= 200

    def column(key: str) -> np.ndarray:
        return np.array([np.nan if w[key] is None else w[key] for w in windows], dtype=float)

    def steps(axis, values: np.ndarray, colour: str) -> None:
        axis.stairs(values, ends, color=colour, lw=1.6, baseline=None)
        if few:
            axis.plot((ends[1:] + ends[:-1]) / 2, values, ".", color=colour, ms=6)
        axis.grid(alpha=0.3)

    heard = np.array([w["outcome"] != "no_soi" for w in windows])  # the others have no symbols to agree on
    steps(upper, np.where(heard, column("agreement"), np.nan), "tab:blue")
    upper.axhline(words.TRUST, color="tab:red", ls="--", lw=1, label=f"distrusted below {words.TRUST:g}")
    upper.set(ylim=(-0.05, 1.05), ylabel="agreement\n(share of symbols)")
    disagreement = _decibel(np.maximum(column("disagreement"), 1e-8))
    steps(middle, disagreement, "tab:purple")
    middle.set(ylabel="disagreement\n(dB rel. to the SOI)")
    if scene.report["result"]["agreed"] is None:
        for axis in (upper, middle):
            axis.text(0.5, 0.5, f"{scene.report['settings']['method']} does not check its own result", ha="center",
                      va="center", transform=axis.transAxes, color="0.4")
    ratio, level = column("sir_db"), scene.report["levels"]["sir_db"]
    steps(lower, np.where(np.isfinite(ratio), ratio, np.nan), "tab:green")
    if math.isfinite(level):
        how = "estimated from the whole capture" if scene.report["levels"]["sir_estimated"] else "as given"
        lower.axhline(level, color="0.4", ls="--", lw=1, label=f"{level:.1f} dB, {how}")
        lower.legend(loc="best", fontsize=9)
        bottom, top = lower.get_ylim()
        lower.set_ylim(min(bottom, level - 0.5), max(top, level + 0.5))
    else:
        lower.text(0.5, 0.5, "no interference", ha="center", va="center", transform=lower.transAxes, color="0.4")
    lower.set(xlabel=time_label, ylabel="SIR (dB), inter-\nference re-measured", xlim=(0, scene.capture.length * time))
    result = scene.report["result"]
    for stretches, colour, label in ((result["no_soi"], "0.5", "no SOI"),
                                     (result["distrusted"], "tab:red", "to distrust")):
        for i, stretch in enumerate(stretches):
            for axis in (upper, middle, lower):
                axis.axvspan(stretch["start"] * time, (stretch["start"] + stretch["samples"]) * time, color=colour,
                             alpha=0.15, lw=0, label=label if i == 0 and axis is upper else None)
    upper.legend(loc="lower right", fontsize=9)
    figure.suptitle(f"{scene.title}: how far the estimates explain the capture", fontsize=11)
    figure.align_ylabels()
