# SPDX-License-Identifier: GPL-3.0-or-later
"""Follows the packets of a stream and tells the prior what is known of them in each window."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional

import numpy as np

from ..priors import PriorError
from ..priors.wifi import DOUBTFUL, FIELDS, PIECES
from ..resume import array, need, whole
from . import headless, standard
from .measure import Measurement
from .packets import BEFORE, CARRIER, TAPS, Ear, Packet, find
from .standard import FFT, LENGTH

if TYPE_CHECKING:
    from ..estimators import Levels
    from ..priors import Prior
    from ..stream import WindowReport
    from ..windows import Window

_BINS = 1024
_KEEP = 1024  # samples held before what comes next
_AGAIN = 800  # samples that are searched again: a preamble that was cut
_IDLE = 1e-6  # variance of silence beside unit power
_SMOOTH = 48  # samples over which power is averaged
_LEFT = 0.02  # share of the others' power that separation is taken to leave
_AGREED = 0.999  # agreement of a window that is well as it is
_FADING = 0.99  # of the spectrum from one packet to the next
_UNKNOWN = 0.03  # power, beside the packets', that does not pass for silence


def _kind(packet: Packet) -> str:
    """What a packet is, for people."""
    if packet.form is None:
        return "whose signal field could not be read"
    if packet.form.headless:
        return "begun before the capture"
    return f"802.11{'n' if packet.form.ht else 'a/g'} {standard.ALPHABETS[packet.form.alphabet].upper()}"


class WifiTracker:
    """A trackers.Tracker of one transmitter's band; see priors.wifi for the rows.

    window: samples that the rows are made for.
    """

    def __init__(self, window: int = 2560):
        self._window = window
        self._others: list[Prior] = []
        self._samples = np.zeros(0, dtype=complex)
        self._first = 0  # the held samples' place in the stream
        self._searched = 0  # up to where packets were looked for
        self._unfinished: list[int] = []  # where packets begin whose end is still to come
        self._fresh = True  # no packet's preamble was heard yet
        self._loud = np.zeros(0)  # power of the held samples, of what is heard
        self._levels: Optional[Levels] = None  # of the batch
        self._rounds = 0  # how often it was learned from
        self._heard = np.zeros(_BINS)  # energy by frequency of packets that do not matter any more, fading
        self._counts: Counter = Counter()  # packets that do not matter any more, by what they were
        #: Packets heard so far that may still matter, in order.
        self.packets: list[Packet] = []

    def state(self) -> dict:
        """See trackers.Tracker."""
        return {"samples": self._samples, "first": self._first, "searched": self._searched, "fresh": self._fresh,
                "unfinished": list(self._unfinished), "packets": list(self.packets), "heard": self._heard,
                "counts": dict(self._counts)}

    def restore(self, state: dict, position: int) -> None:
        """See trackers.Tracker."""
        self._samples = array(state["samples"], "complex128", None)
        # A window that ends a stream may reach beyond it.
        self._first = whole(state["first"], 0, position + self._window - len(self._samples))
        self._searched, self._fresh = whole(state["searched"], 0, position + self._window), bool(state["fresh"])
        self._unfinished = [whole(place, 0, position + self._window) for place in state["unfinished"]]
        for packet in state["packets"]:
            need(isinstance(packet, Packet) and abs(packet.start) < position + self._window)
            array(packet.channel, "complex128", TAPS)
            array(packet.points, "complex128", None, FFT)
            array(packet.sure, "bool", len(packet.points), FFT)
            count = len(array(packet.times, "float64", None))
            need(count and len(array(packet.phases, "float64", count)))
            array(packet.delays, "float64", None)
            need(packet.form is None or packet.form.alphabet in range(len(standard.ALPHABETS)))
            need(len(packet.points) == len(packet.delays) <= packet.symbols <= 1 << 16)
        need(all(isinstance(kind, str) and len(kind) < 64 for kind in state["counts"]))
        self._counts = Counter({kind: whole(count) for kind, count in state["counts"].items()})
        self.packets, self._heard = state["packets"], array(state["heard"], "float64", _BINS)

    def result(self) -> dict:
        """For the report: packets heard so far, by what their signal fields say."""
        return {"packets": dict(self._counts + Counter(_kind(packet) for packet in self.packets))}

    def summary(self) -> list[str]:
        """The same for people."""
        found = self.result()["packets"]
        if not found:
            return ["WiFi: no packet was heard, so nothing was taken for interference"]
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
        return [f"WiFi: {sum(found.values())} packets: {kinds}"]

    def meet(self, others: Sequence["Prior"]) -> None:
        """The other sources, the SOI first. This one is taken for the last."""
        self._others = list(others)

    def side(self, samples: np.ndarray, start: int, windows: Sequence["Window"], levels: Optional["Levels"]
             ) -> np.ndarray:
        """Rows float32 [W, P]; see trackers.Tracker."""
        if windows:
            self._forget(windows[0].start)
        self._take(samples, start)
        self._levels, self._rounds = levels, 0
        width = 4 * self._window + PIECES * (len(FIELDS) + DOUBTFUL + 16 + 2 * TAPS)
        rows = np.zeros((len(windows), width), dtype=np.float32)
        if levels is None:
            return rows
        own = float(levels.gains[-1])
        self._listen(Ear(self._density(levels), levels.noise_variance), own ** 2)
        for row, window in zip(rows, windows, strict=True):
            self._fill(row, window.start, window.length, own, levels.noise_variance)
        return rows

    def learn(self, windows: Sequence["Window"], sources: np.ndarray, reports: Sequence["WindowReport"]
              ) -> Optional[np.ndarray]:
        """Better rows for windows that do not agree, from their packets measured without the SOI; see trackers.Tracker.

        Once for each batch: packets that lie wholly in its separated windows.
        """
        self._rounds += 1
        if self._rounds > 1 or self._levels is None:
            return None
        clean, done = self._samples.copy(), np.zeros(len(self._samples), dtype=bool)
        for i, (window, report) in enumerate(zip(windows, reports, strict=True)):
            low, high = window.keep_from - self._first, min(window.keep_to - self._first, len(clean))
            if report.separated:
                at = slice(window.keep_from - window.start, window.keep_from - window.start + high - low)
                clean[low:high] -= sources[:-1, i, at].sum(0)
                done[low:high] = True
        own = float(self._levels.gains[-1])
        ear = Ear(_LEFT * self._density(self._levels), self._levels.noise_variance)
        changed = np.zeros(len(self._samples), dtype=bool)
        for j, packet in enumerate(self.packets):
            low, high = packet.start - self._first, packet.end + TAPS - self._first
            if packet.form is None or packet.form.headless or low < 0 or not done[low:high].all() or high > len(done):
                continue
            found = packet.start + round(packet.shift)
            better = Measurement(clean, self._first, found, packet.frequency, ear, own ** 2).run()
            if better.form == packet.form and better.start == packet.start:
                self.packets[j] = better
                changed[low:high] = True
        width = 4 * self._window + PIECES * (len(FIELDS) + DOUBTFUL + 16 + 2 * TAPS)
        rows = np.full((len(windows), width), np.nan, dtype=np.float32)
        for row, window, report in zip(rows, windows, reports, strict=True):
            begin = window.start - self._first
            if report.separated and report.agreement < _AGREED and changed[begin:begin + window.length].any():
                row[:] = 0
                self._fill(row, window.start, window.length, own, self._levels.noise_variance)
        return rows

    def psd(self, bins: int) -> Optional[np.ndarray]:
        """Power spectral density of the packets measured so far through their channels, FFT order [bins], mean 1.

        None while there is none. What Prior.psd says of the standard's signal leaves the channel out.
        """
        total = self._heard + sum((_energy(p) for p in self.packets), np.zeros(_BINS))
        if not total.any():
            return None
        place = np.arange(bins) * (_BINS / bins)
        density = np.interp(place, np.arange(_BINS + 1), np.append(total, total[0]))
        return density / density.mean()

    def _density(self, levels: "Levels") -> np.ndarray:
        density = np.full(_BINS, 1e-9 * float(np.sum(levels.gains ** 2)))
        for prior, gain in zip(self._others, levels.gains, strict=False):
            try:
                density += gain ** 2 * prior.psd(_BINS)
            except PriorError:  # nothing known but, perhaps, where it is
                low, high = prior.band or (0.0, 0.0)
                inside = np.mod(np.arange(_BINS) / _BINS - low, 1) <= high - low
                density += gain ** 2 * inside / max(np.mean(inside), 1 / _BINS) * (high > low)
        return density

    def _take(self, samples: np.ndarray, start: int) -> None:
        end = self._first + len(self._samples)
        if start > end or not len(self._samples):
            self._samples, self._first = np.zeros(0, dtype=complex), start
            self._searched = max(self._searched, start)
            end = start
        fresh = np.asarray(samples[end - start:], dtype=complex)
        fresh = np.where(np.isfinite(fresh) & (np.abs(fresh) < 1e18), fresh, 0)
        self._samples = np.concatenate([self._samples, fresh])

    def _listen(self, ear: Ear, power: float) -> None:
        """Find and measure the packets that begin in what is new, and again those that had not ended."""
        self.packets = [p for p in self.packets if p.complete or p.start < self._first]
        begin = min([max(self._first, self._searched - _AGAIN), *self._unfinished])
        heard = ear.filtered(self._samples, power)
        share = np.mean(ear.clear(power)[np.abs(CARRIER) <= 26])
        self._loud = np.convolve(np.abs(heard) ** 2, np.ones(_SMOOTH) / (_SMOOTH * max(share, 0.2)), "same")
        heard = heard[begin - self._first:]
        self._unfinished = []
        for place, frequency in find(heard, power):
            place += begin
            if any(p.start - 100 < place < p.end - 100 for p in self.packets):
                continue
            packet = Measurement(self._samples, self._first, place, frequency, ear, power).run()
            self.packets.append(packet)
            if not packet.complete:
                self._unfinished.append(max(self._first, packet.start - 200))
        self.packets.sort(key=lambda p: p.start)
        if self._fresh:
            self._late(ear, power)
        self._searched = self._first + len(self._samples)

    def _late(self, ear: Ear, power: float) -> None:
        """The packet that was on the air when the stream began."""
        known = [p for p in self.packets if p.form is not None and not p.form.headless]
        self._fresh = not known
        if not known:
            return
        high = min(known[0].start, self._first + len(self._samples))
        quiet = np.flatnonzero(self._loud[:high - self._first] < _UNKNOWN * power + ear.noise)
        high = self._first + (int(quiet[0]) if len(quiet) else high - self._first)
        packet = headless.measure(self._samples, self._first, self._first, high, ear, power, known)
        if packet is not None:
            self.packets.insert(0, packet)

    def _forget(self, start: int) -> None:
        keep = max(self._first, min([start - _KEEP, *(p - _KEEP for p in self._unfinished)]))
        self._samples = self._samples[keep - self._first:]
        self._first = keep
        gone = [p for p in self.packets if p.end + TAPS <= keep]
        for packet in gone:
            self._heard = _FADING * self._heard + _energy(packet)
            self._counts[_kind(packet)] += 1
        self.packets = [p for p in self.packets if p.end + TAPS > keep]

    def _fill(self, row: np.ndarray, start: int, length: int, own: float, noise: float) -> None:
        """Write one window's row."""
        n = self._window
        known = np.zeros(length, dtype=complex)
        phase = np.zeros(length)
        begin = start - self._first
        loud = self._loud[begin:begin + length]
        loud = (np.pad(loud, (0, length - len(loud))) - noise) / own ** 2
        spread = np.where(loud > _UNKNOWN, 0.5 * loud, _IDLE)  # what no packet explains
        free = 0
        for packet in self.packets:
            if packet.end + TAPS <= start or packet.start - BEFORE >= start + length or not packet.channel.any():
                continue
            wave = packet.wave() / own
            low, high = max(start, packet.start - BEFORE), min(start + length, packet.start - BEFORE + len(wave))
            if high <= low:
                continue
            at = slice(low - start, high - start)
            known[at] += wave[low - packet.start + BEFORE:high - packet.start + BEFORE]
            error = 0.5 * packet.error / own ** 2
            margin = _SMOOTH if packet.form is not None else 0  # power is blurred there
            inside = slice(max(0, packet.start - margin - start), max(0, min(length, packet.end + margin - start)))
            spread[inside] = np.minimum(spread[inside], error)
            phase[at] = packet.angle(np.arange(low, high))
            if packet.form is None:
                continue
            doubtful = np.flatnonzero(~packet.sure[-1])
            if not len(doubtful) or packet.data >= start + length or packet.end <= start or packet.form.short:
                continue
            if free == PIECES:
                continue
            self._piece(row[4 * n + free * (len(row) - 4 * n) // PIECES:], packet, start, own, doubtful, error)
            free += 1
            # Symbols that the window cuts: their carriers in doubt are unexplained.
            lost = 0.5 * np.sum(np.abs(packet.gains[doubtful]) ** 2) / 52 / own ** 2
            first = packet.data - start
            symbol = np.arange(packet.form.symbols)
            for s in symbol[((first + LENGTH * symbol < 0) & (first + LENGTH * (symbol + 1) > 0))
                            | ((first + LENGTH * symbol < length) & (first + LENGTH * (symbol + 1) > length))]:
                spread[max(0, first + LENGTH * s):max(0, first + LENGTH * (s + 1))] = lost
        row[:length], row[n:n + length] = known.real, known.imag
        row[2 * n:2 * n + length], row[3 * n:3 * n + length] = spread, np.mod(phase, 2 * np.pi)

    def _piece(self, row: np.ndarray, packet: Packet, start: int, own: float, doubtful: np.ndarray, error: float
               ) -> None:
        """Write one stretch of data symbols into its part of a row."""
        first = packet.form.first
        line = np.polyfit(np.arange(len(packet.delays) - first), packet.delays[first:], 1) \
            if len(packet.delays) > first + 1 else [0.0, packet.delays[-1]]
        mapping = packet.mapping * standard.ht_scale() if packet.form.ht else 1.0
        count = len(packet.points) - first
        row[:len(FIELDS)] = (packet.data - start, count, packet.form.alphabet, error, packet.shift + line[1], line[0],
                             np.real(mapping), np.imag(mapping), len(doubtful))
        row[len(FIELDS):len(FIELDS) + len(doubtful)] = doubtful
        power = np.abs(packet.channel) ** 2
        i = np.arange(16)
        late = np.array([np.sum(power[BEFORE + k:]) for k in i])  # from the symbol before, into the prefix
        early = np.array([np.sum(power[:max(0, BEFORE - (15 - k))]) for k in i])  # from the next one, into the tail
        late, early = late + 0.02 * power.sum(), early + 0.02 * power.sum()
        at = len(FIELDS) + DOUBTFUL
        row[at:at + 16] = early / (late + early)
        row[at + 16:at + 16 + TAPS] = packet.channel.real / own
        row[at + 16 + TAPS:at + 16 + 2 * TAPS] = packet.channel.imag / own


def _energy(packet: Packet) -> np.ndarray:
    """Energy of a packet by frequency, FFT order [_BINS], arbitrary unit; 0 where its signal field was not read."""
    if packet.form is None:
        return np.zeros(_BINS)
    used = (np.abs(CARRIER) <= (28 if packet.form.ht else 26)) & (CARRIER != 0)
    offset = np.arange(_BINS) / _BINS - packet.frequency
    away = offset[:, None] - CARRIER[used] / FFT
    lobes = np.square(np.sinc(LENGTH * (away - np.round(away))))  # of a symbol's carrier
    return packet.symbols * (lobes @ np.abs(packet.gains[used]) ** 2)
