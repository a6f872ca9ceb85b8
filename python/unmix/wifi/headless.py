# SPDX-License-Identifier: GPL-3.0-or-later
"""The rest of a packet whose beginning was not heard: from its prefixes, and what other packets say of the channel."""

from collections.abc import Sequence
from typing import Optional

import numpy as np

from . import standard
from .measure import Measurement
from .packets import BEFORE, CARRIER, TAPS, Ear, Packet
from .standard import CP, FFT, LENGTH, Format

_LEAST = 4  # symbols
_BACK = 4


def measure(samples: np.ndarray, first: int, low: int, high: int, ear: Ear, power: float, others: Sequence[Packet]
            ) -> Optional[Packet]:
    """The packet that fills the stream's samples low .. high, or most of them; None where there is none.

    samples, first, ear, power: as for Measurement. others: packets of the same transmitter, of which the one nearest in
    frequency lends its channel. Symbol boundary and frequency come from the prefixes, the delay and the phase from the
    M-th power of the carriers, the alphabet from what decisions leave.
    """
    heard = ear.filtered(samples[max(0, low - first):high - first], power)
    low = max(low, first)
    if len(heard) < (_LEAST + 1) * LENGTH or not others:
        return None
    boundary, frequency, match = _prefixes(heard)
    if match < 0.5:
        return None
    likely = min(others, key=lambda p: abs(p.frequency - frequency))
    best = None
    for ring in {0.0, *(p.ring for p in others if p.form is not None and p.form.ht)}:
        found = _aligned(heard, boundary, frequency, ear, power, likely, ring)
        if found is not None and (best is None or found[0] > best[0]):
            best = found
    if best is None:
        return None
    _, begin, frequency, phase, delay, form, shift = best
    measurement = Measurement(samples, first, low + begin - 320, frequency, ear, power)
    packet = measurement.packet
    packet.form, packet.shift, packet.power = form, shift, likely.power
    gains = likely.gains * np.exp(-2j * np.pi / FFT * delay * CARRIER + 1j * phase)
    packet.channel = np.fft.ifft(gains)[np.arange(TAPS) - BEFORE]
    measurement.lent = packet.channel
    return measurement.follow()


def _prefixes(heard: np.ndarray) -> tuple[int, float, float]:
    """First symbol boundary (0 .. 79), frequency offset (cycles/sample) and how well prefixes match (0 .. 1)."""
    count = len(heard) - FFT
    product = heard[:count].conj() * heard[FFT:]
    energy = 0.5 * (np.abs(heard[:count]) ** 2 + np.abs(heard[FFT:]) ** 2)
    place = np.arange(count) % LENGTH
    folded = np.bincount(place, product.real, LENGTH) + 1j * np.bincount(place, product.imag, LENGTH)
    energy = np.bincount(place, energy, LENGTH)
    around = (np.arange(LENGTH)[:, None] + np.arange(2, CP - 1)) % LENGTH
    match = folded[around].sum(1) / np.maximum(energy[around].sum(1), 1e-30)
    best = int(np.argmax(np.abs(match)))
    return best, float(np.angle(match[best])) / (2 * np.pi * FFT), float(np.abs(match[best]))


def _aligned(heard, boundary, frequency, ear, power, likely, ring):
    """How well a cyclic shift `ring` beside that of `likely` explains the symbols, and what it makes of them."""
    count = (len(heard) - boundary) // LENGTH
    if count < _LEAST:
        return None
    clear = ear.clear(power, frequency) & (np.abs(CARRIER) <= 26)
    clear[list(standard.PILOTS)] = False
    weight = np.maximum(ear.weight(CARRIER / FFT + frequency, power), 0.2)
    gains = likely.gains

    def points(begin, offset):
        symbols = (len(heard) - begin) // LENGTH
        n = begin + np.arange(symbols)[:, None] * LENGTH + CP - _BACK + np.arange(FFT)
        spectra = np.fft.fft(heard[n] * np.exp(-2j * np.pi * offset * (n - begin + 320))) * (np.sqrt(52) / FFT) / weight
        return standard.shifted(spectra, -(_BACK + likely.shift + ring)) * gains.conj()

    seen = points(boundary, frequency)
    delays = np.arange(-7, 7, 0.05)
    turns = np.exp(2j * np.pi / FFT * delays[:, None] * CARRIER[clear])
    results = []
    for power_of in (2, 4):
        moments = (seen[:, clear] ** power_of) @ (turns ** power_of).T  # [S, delays]
        size = np.sum(np.abs(seen[:, clear]) ** power_of)
        strength = np.sum(np.abs(moments), 0)
        at = int(np.argmax(strength))
        results.append((strength[at] / size, power_of, float(delays[at])))
    (two, *_), (four, *_) = results
    order, delay = results[0][1:] if two > 0.5 else results[1][1:]
    # The same body, taken where the boundary belongs; what is left is a fraction of a sample.
    begin = boundary + round(delay)
    delay -= round(delay)
    if begin < 0:
        begin += LENGTH
    for lag in (1, 2, 4):
        seen = points(begin, frequency)
        moments = ((seen * np.exp(2j * np.pi / FFT * delay * CARRIER))[:, clear] ** order).sum(1)
        if len(moments) > lag:
            pull = np.angle(np.sum(moments[lag:] * moments[:-lag].conj()))
            frequency += pull / (2 * np.pi * LENGTH * lag * order)
    seen = points(begin, frequency) * np.exp(2j * np.pi / FFT * delay * CARRIER)
    moment = np.sum(seen[:, clear] ** order) * (1 if order == 2 else -1)
    phase = float(np.angle(moment)) / order
    if order == 4:  # pilots lie on the real axis
        square = np.sum(seen[:, list(standard.PILOTS)] ** 2 * np.exp(-2j * phase))
        phase += round(np.angle(square) / 2 / (np.pi / 4)) * np.pi / 4
    level = np.abs(gains) ** 2
    point = seen / np.maximum(level, 1e-12) * np.exp(-1j * phase)
    strength = np.mean(np.abs(seen) ** 2, 0) / np.maximum(level, 1e-12)  # of what was received on each carrier
    outer = np.mean(strength[[27, 28, -27, -28]]) > 0.15 * np.mean(strength[[24, 25, -24, -25]])
    use = np.where(clear, level, 0)
    scores = []
    scale = standard.ht_scale() if outer else 1.0
    for alphabet in range(4):
        gap = np.abs(point / scale - standard.nearest(point / scale, alphabet)) ** 2
        left = np.sum(gap * use) / (np.sum(use) * len(point))
        scores.append(-np.log(left + 1e-3) - np.log(2.0 ** (1, 2, 4, 6)[alphabet]))
    alphabet = int(np.argmax(scores))
    form = Format(alphabet, len(point), bool(outer), headless=True)
    return max(scores), begin, frequency, phase, delay, form, likely.shift + ring
