# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said about a separation: a report for machines (JSON) and a summary for people."""

import dataclasses
import json
import math
import platform
from collections import Counter
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
import scipy
import torch

from .quality import Quality
from .recording_setup import Opened
from .resume import need, number, whole
from .stream import TRUST, WindowReport

FORMAT = 1
SIR_DRIFT_DB = 3.0  # the windows' SIR may differ by this from the assumed one
#: Standard errors below which an SOI of known timing does not show before it is separated.
EVIDENT = 4.0
#: Noise relative to the SOI from which on agreement proves little, and the share of windows that should agree.
NOISY_DB, MOST = -3.0, 0.5
MOST_WINDOWS = 20000
MOST_STRETCHES = 1000
LISTED = 3  # stretches of a kind in the summary


class Tally:
    """Counts over the windows of a stream, in memory that does not grow with it.

    checks: whether the method measures agreement at all.
    """

    def __init__(self, checks: bool):
        self.checks = checks
        self.windows: list[dict] = []  # every `every`-th one
        self.every = 1
        self.count = self.agreed = self.calls = 0
        self.seconds = 0.0
        self.outcomes: Counter = Counter()
        self.distrusted: list[dict] = []
        #: Where the SOI pauses.
        self.absent: list[dict] = []
        self.distrusted_samples = self.unlisted = self.absent_samples = self.absent_unlisted = 0
        self.measured = 0  # windows that say something of the SIR
        #: Least and largest amplitude that the SOI was taken to have; None before there was any.
        self.amplitudes: Optional[tuple[float, float]] = None
        self._power_ratio = 0.0

    def add(self, reports: Sequence[WindowReport]) -> None:
        """Count windows, which must come in order."""
        for report in reports:
            broken = not report.separated
            agreement = 0.0 if broken else report.agreement
            if self.count % self.every == 0:
                row = dataclasses.asdict(report) | {"agreement": agreement}
                row["absent"] = sum(count for _, count in report.absent)
                if broken or not self.checks:
                    row["disagreement"] = None
                if not self.checks:
                    row["agreement"] = None
                self.windows.append(row)
                if len(self.windows) > MOST_WINDOWS:
                    self.windows = self.windows[::2]
                    self.every *= 2
            self.count += 1
            self.calls += report.calls
            self.seconds += report.seconds
            self.outcomes[report.outcome] += 1
            for start, count in report.absent:
                self.absent_samples += count
                self.absent_unlisted += _append(self.absent, start, count)
            if report.soi_amplitude > 0:
                low, high = self.amplitudes or (math.inf, 0.0)
                self.amplitudes = min(low, report.soi_amplitude), max(high, report.soi_amplitude)
            if not report.absent and report.outcome != "no_interference":
                self.measured += 1
                self._power_ratio += 10 ** (-report.sir_db / 10)
            if report.outcome == "silent":
                continue  # nothing to trust or to distrust
            if broken or (self.checks and agreement < TRUST):
                self._distrust(report.start, report.length, agreement)
            elif self.checks:
                self.agreed += 1

    def _distrust(self, start: int, length: int, agreement: float) -> None:
        self.distrusted_samples += length
        self.unlisted += _append(self.distrusted, start, length)
        last = self.distrusted[-1]
        if last["start"] + last["samples"] == start + length:  # it is listed
            last["lowest_agreement"] = min(last.get("lowest_agreement", 1.0), agreement)

    _COUNTS = ("every", "count", "agreed", "calls", "distrusted_samples", "unlisted", "absent_samples",
               "absent_unlisted", "measured")

    def state(self) -> dict:
        """All of it, for restore()."""
        state = {name: getattr(self, name) for name in (*self._COUNTS, "windows", "seconds", "distrusted", "absent")}
        return state | {"outcomes": dict(self.outcomes), "power_ratio": self._power_ratio,
                        "amplitudes": self.amplitudes}

    def restore(self, state: dict) -> None:
        """Go on with what state() said. Raises resume.StateError, KeyError, TypeError for anything else."""
        for name in self._COUNTS:
            setattr(self, name, whole(state[name], name == "every"))
        self.seconds = number(state["seconds"], 0)
        need(isinstance(state["power_ratio"], float))  # NaN after windows without levels
        self._power_ratio = state["power_ratio"]
        if state["amplitudes"] is not None:
            low, high = state["amplitudes"]
            self.amplitudes = number(low, 0), number(high, low)
        self.outcomes = Counter({str(name): whole(count) for name, count in state["outcomes"].items()})
        need(sum(self.outcomes.values()) == self.count and len(state["windows"]) <= MOST_WINDOWS)
        names = [f.name for f in dataclasses.fields(WindowReport)]
        for row in state["windows"]:
            need(list(row) == names)
            need(all(isinstance(row[n], str) if n == "outcome" else row[n] is None or
                     isinstance(row[n], (int, float)) for n in names))
        self.windows = state["windows"]
        need(len(state["distrusted"]) <= MOST_STRETCHES)
        self.distrusted = [{"start": whole(s["start"]), "samples": whole(s["samples"]),
                            "lowest_agreement": number(s["lowest_agreement"], 0, 1)} for s in state["distrusted"]]
        need(len(state["absent"]) <= MOST_STRETCHES)
        self.absent = [{"start": whole(s["start"]), "samples": whole(s["samples"])} for s in state["absent"]]

    def annotations(self) -> list[dict]:
        """SigMF annotations of the stretches to distrust, and of those without the SOI."""
        found = [{"core:sample_start": s["start"], "core:sample_count": s["samples"], "core:label": "distrust",
                 "core:comment": "The estimates of the signals do not explain the capture here.",
                 "unmix:agreement": s["lowest_agreement"]} for s in self.distrusted]
        found += [{"core:sample_start": s["start"], "core:sample_count": s["samples"], "core:label": "no SOI",
                   "core:comment": "The interference alone explains the capture here."} for s in self.absent]
        return sorted(found, key=lambda a: a["core:sample_start"])

    def result(self, sample_rate: Optional[float]) -> dict:
        """The report's `result`. sample_rate: samples/s or None."""
        rows, absent = [dict(s) for s in self.distrusted], [dict(s) for s in self.absent]
        for row in [*rows, *absent]:
            row["start_s"] = row["start"] / sample_rate if sample_rate else None
            row["duration_s"] = row["samples"] / sample_rate if sample_rate else None
        count = max(1, self.count)
        ratio = self._power_ratio / max(1, self.measured)
        return {"windows": self.count, "agreed": self.agreed if self.checks else None, "outcomes": dict(self.outcomes),
                "distrusted": rows, "distrusted_samples": self.distrusted_samples,
                "distrusted_samples_not_listed": self.unlisted,
                "no_soi": absent, "no_soi_samples": self.absent_samples,
                "no_soi_samples_not_listed": self.absent_unlisted,
                "sir_db": -10 * math.log10(ratio) if ratio > 0 else None,
                "calls_per_window": self.calls / count, "seconds": self.seconds,
                "ms_per_window": 1e3 * self.seconds / count}


def _append(stretches: list[dict], start: int, length: int) -> int:
    """Add a stretch to a list, to the last one where it continues it; returns how many samples have no room there."""
    last = stretches[-1] if stretches else None
    if last is not None and last["start"] + last["samples"] == start:
        last["samples"] += length
    elif len(stretches) < MOST_STRETCHES:
        stretches.append({"start": start, "samples": length})
    else:
        return length
    return 0


def compose(opened: Opened, tally: Tally, quality: Quality, done: int, resumed_at: Sequence[int]) -> dict:
    """The report of a recording, with no files yet.

    tally, quality: of what was separated. done: samples of it. resumed_at: at which earlier runs were continued.
    """
    s, capture, stream = opened.settings, opened.capture, opened.stream
    cancelled = None if done == capture.length else {"at_sample": done, "of_samples": capture.length}
    levels, dc, image = opened.levels, opened.front_end.dc, opened.front_end.image
    noise = levels.noise_variance / float(levels.gains[0]) ** 2
    outcome = {
        "format": FORMAT,
        "complete": cancelled is None,
        "cancelled": cancelled,
        "resumed_at": resumed_at,
        "capture": {"file": str(capture.path), "format": capture.datatype, "format_reason": capture.format_reason,
                    "length": capture.length, "sample_rate": capture.sample_rate,
                    "center_frequency": capture.center_frequency,
                    "duration_s": capture.length / capture.sample_rate if capture.sample_rate else None},
        "settings": {"soi": s.soi, "interference": list(s.interference), "method": stream.method,
                     "sir_db": "auto" if s.sir_db is None else s.sir_db, "window": stream.plan.window,
                     "overlap": stream.plan.overlap, "steps": s.steps, "seed": s.seed, "device": opened.device,
                     "batch": s.batch},
        "priors": [{k: v for k, v in p.info.items() if k not in ("psd", "side")} | {"learned": p.learned}
                   for p in stream.priors],
        "levels": {"sir_db": levels.sir_db, "sir_estimated": s.sir_db is None, "tracked": opened.tracked,
                   "soi_amplitude": float(levels.gains[0]), "soi_amplitude_range": tally.amplitudes,
                   "interference_amplitudes": [float(g) for g in levels.gains[1:]],
                   "noise_power": levels.noise_variance,
                   "noise_relative_to_soi_db": 10 * math.log10(noise) if noise > 0 else None},
        "front_end": {"dc": [dc.real, dc.imag], "image": [image.real, image.imag]},
        "versions": versions(opened.version),
        "output": str(opened.folder),
        "files": [],
        "result": tally.result(capture.sample_rate),
        "soi_evidence": None if opened.evidence is None else dataclasses.asdict(opened.evidence),
        "quality": quality.result(),
        "windows_every": tally.every,
        "windows": tally.windows,
    }
    if not tally.checks:  # the interference is what its decisions leave: no errors by construction
        outcome["quality"]["evm_after"] = None
    outcome["warnings"] = warnings(outcome) + quality.warnings()
    if opened.stream.refusal:
        outcome["refusal"] = opened.stream.refusal
    outcome["summary"] = summary(outcome)
    for tracker in stream.trackers[1:]:
        if hasattr(tracker, "summary"):
            outcome["summary"] += tracker.summary()
            outcome.setdefault("interference_found", []).append(tracker.result())
    if opened.tracker is not None:
        outcome["synchronisation"] = opened.tracker.result()
        outcome["summary"] += _about_synchronisation(opened, tally, outcome["quality"]["reference"])
    return outcome


def _about_synchronisation(opened: Opened, tally: Tally, truth: Optional[dict]) -> list[str]:
    """Lines of the summary on an SOI that had to be found. truth: the report's comparison with the reference."""
    tracker = opened.tracker
    lines = list(tracker.summary(opened.capture.sample_rate))
    heard = tally.count - tally.outcomes["silent"]
    if tally.checks and tracker.sync is not None and 10 * tally.agreed < heard:
        lines.append("warning: the separation does not confirm the SOI that was found: there may be none, its carrier "
                     f"may be more than {100 * tracker.most_offset:.3g} % of the symbol rate off, or --soi or "
                     "--interference may not describe what is there")
    if truth and truth.get("delay_symbols") is not None:
        degrees, delay = truth["rotation_deg"] % 360, truth["delay_symbols"]
        lines.append(f"compared with the true bits turned by {degrees:.0f} degrees, from the reference's symbol "
                     f"{delay} on")
    return lines


def versions(own: str) -> dict:
    """Versions of what a result depends on."""
    return {"unmix": own, "torch": torch.__version__, "numpy": np.__version__, "scipy": scipy.__version__,
            "python": platform.python_version()}


def cancellation(report: dict) -> Optional[str]:
    """How far a cancelled separation came; None for one that was not cancelled."""
    if not report["cancelled"]:
        return None
    at, of = report["cancelled"]["at_sample"], report["cancelled"]["of_samples"]
    kept = "what was finished is kept and marked as incomplete, and --resume continues it" if at else \
        "nothing was written: results are kept batch by batch (--batch), and no batch was finished"
    return f"cancelled at sample {at} of {of}; {kept}"


def warnings(report: dict) -> list[str]:
    """Reasons not to take agreement for a proof that the separation is right, a sentence each."""
    found, result = [], report["result"]
    if not result["windows"] or result["agreed"] is None:
        return found
    for prior in report["priors"]:
        if prior["kind"] == "gaussian":
            found.append(f"the prior {prior['name']} is Gaussian and agrees with everything: agreement does not show "
                         "that it fits")
        elif prior["learned"]:
            found.append(f"the prior {prior['name']} is learned and may agree with signals it was not made for: "
                         "agreement does not show that it fits")
    measured, assumed = result["sir_db"], report["levels"]["sir_db"]
    if report["levels"].get("tracked"):  # levels that change have no SIR that was assumed
        measured = None
    if measured is not None and math.isfinite(assumed) and abs(measured - assumed) > SIR_DRIFT_DB:
        found.append(f"the SIR with the interference as measured in the windows, {measured:.1f} dB, differs by "
                     f"{abs(measured - assumed):.1f} dB from the assumed {assumed:.1f} dB: the priors may not fit")
    noise = report["levels"]["noise_relative_to_soi_db"]
    evidence, soi = report.get("soi_evidence"), report["priors"][0]["name"]
    proven = (noise is None or noise < NOISY_DB) and _agreed_with_soi(result) >= MOST
    if evidence is not None and evidence["errors"] < EVIDENT and not proven:
        found.append(f"no SOI shows in the capture: {evidence['symbols']} symbols of {soi} at the timing told lie "
                     f"where they belong no better than by chance ({evidence['errors']:.1f} standard errors, below "
                     f"{EVIDENT:g}); is there one, and are its timing, phase and carrier those of --soi "
                     "(sync=auto finds them)?")
    if noise is not None and noise >= 0:  # agreement is measured against the noise
        found.append(f"the noise is taken to be {noise:.1f} dB stronger than the signal of interest, which leaves "
                     "agreement without meaning: do the priors fit the capture?")
    return found


def _agreed_with_soi(result: dict) -> float:
    """The share of windows that agree of those that are heard; windows found to hold no SOI do not."""
    empty = result["outcomes"].get("no_soi", 0)
    return (result["agreed"] - empty) / max(1, result["windows"] - result["outcomes"].get("silent", 0))


def summary(report: dict) -> list[str]:
    """A report in plain words, a line each, without what cancellation() says. Needs the report's `warnings`."""
    result, capture, settings = report["result"], report["capture"], report["settings"]
    rate, count = capture["sample_rate"], result["windows"]
    lines = []
    if report.get("resumed_at"):
        lines.append("continued from an earlier run at " + ", ".join(
            f"sample {at}" + (f" ({at / rate:.6g} s)" if rate else "") for at in report["resumed_at"]))
    if not count:
        return lines
    milliseconds = result["ms_per_window"]
    took = f"{milliseconds:.{0 if milliseconds >= 100 else 1}f} ms per window on {settings['device']}"
    if result["agreed"] is None:
        lines.append(f"{count} windows done, {took}; {settings['method']} does not check its own result")
    else:
        empty = result["outcomes"].get("no_soi", 0)
        heard, agreed = count - result["outcomes"].get("silent", 0) - empty, result["agreed"] - empty
        only = "the only window agreed" if result["agreed"] else "the only window did not agree"
        verdict = only if count == 1 else f"{agreed} of {heard} windows{' with an SOI' if empty else ''} agreed"
        if empty == count:
            verdict = f"none of {count} windows holds an SOI"
        lines.append(f"{verdict}, {took}")
        if result["sir_db"] is not None:
            lines.append(f"SIR {result['sir_db']:.1f} dB, the interference's gain being measured in each window and "
                         f"the SOI's {'in each batch' if report['levels'].get('tracked') else 'for the whole capture'}")
    if report["levels"].get("tracked") and report["levels"]["soi_amplitude_range"]:
        low, high = report["levels"]["soi_amplitude_range"]
        lines.append(f"the SOI's amplitude was found to be {low:.4g} to {high:.4g}")
    if result["outcomes"].get("silent"):
        lines.append(f"{result['outcomes']['silent']} further windows are silent and passed through")
    if result["outcomes"].get("refused"):
        why = report.get("refusal") or f"{settings['method']} refuses their levels"
        lines.append(f"{result['outcomes']['refused']} windows passed through unseparated: {why}")
    if result["outcomes"].get("no_interference"):
        lines.append("no interference was heard: the SOI is the capture, untouched")
    lines += [f"warning: {text}" for text in report["warnings"]]
    if result["no_soi"]:
        share = result["no_soi_samples"] / max(1, capture["length"])
        lines.append(f"no SOI in {percent(share)} of the capture, where it is given as zero and its bits mean nothing: "
                     f"{listing(result['no_soi'], rate)}")
    if result["distrusted"]:
        share = result["distrusted_samples"] / max(1, capture["length"])
        lines.append(f"distrust {percent(share)} of the capture: {listing(result['distrusted'], rate)}")
    quality = report["quality"]
    if quality["evm_after"] is not None:
        lines.append(f"EVM {percent(quality['evm_before'])} before, {percent(quality['evm_after'])} after")
    truth = quality["reference"]
    if truth and "ber_after" in truth and truth["ber_after"]["bits"]:
        before, after = truth["ber_before"], truth["ber_after"]
        low, high = after["ci95"]
        where = " where the SOI was not found to pause" if result["no_soi"] else ""
        lines.append(f"bit error rate {error_rate(before['rate'])} before, {error_rate(after['rate'])} after "
                     f"({after['errors']} of {after['bits']} bits{where}, 95 % interval {error_rate(low)} to "
                     f"{error_rate(high)})")
        every = truth["ber_of_all"]
        if every["bits"] > after["bits"]:
            lines.append(f"bit error rate {error_rate(every['rate'])} of all bits ({every['errors']} of "
                         f"{every['bits']}), those where no SOI was found included")
        if truth.get("true_bits", quality["bits"]) != quality["bits"]:
            lines.append(f"the reference holds {truth['true_bits']} bits and the capture {quality['bits']}; "
                         f"{after['bits']} were compared")
    if truth and "mse_after_db" in truth:
        lines.append(f"mean squared error {truth['mse_before_db']:.1f} dB before, {truth['mse_after_db']:.1f} dB "
                     "after, relative to the signal of interest")
    return lines


def listing(stretches: Sequence[dict], rate: Optional[float]) -> str:
    """The first stretches of a list for people."""
    listed = [span(s["start"], s["samples"], rate) for s in stretches[:LISTED]]
    if len(stretches) > LISTED:
        listed.append(f"and {len(stretches) - LISTED} more in the report")
    return ", ".join(listed)


def span(start: int, samples: int, rate: Optional[float]) -> str:
    """A stretch of samples for people."""
    text = f"samples {start} to {start + samples - 1}"
    return f"{text} ({start / rate:.6g} s to {(start + samples) / rate:.6g} s)" if rate else text


def percent(ratio: Optional[float]) -> str:
    """A ratio as '3.2 %'."""
    return "unknown" if ratio is None or not math.isfinite(ratio) else f"{100 * ratio:.{1 if ratio < 1 else 0}f} %"


def error_rate(rate: Optional[float]) -> str:
    """A bit error rate: '0', '0.30', '0.065', '1.2e-04', or 'unknown' where there were no bits."""
    if rate is None or not math.isfinite(rate):
        return "unknown"
    return "0" if rate == 0 else f"{rate:.2f}" if rate >= 0.1 else f"{rate:.2g}" if rate >= 0.001 else f"{rate:.1e}"


def to_json(report: dict) -> str:
    """The report as strict JSON: what is not finite becomes null."""
    return json.dumps(_plain(report), indent=1, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
