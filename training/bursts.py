# SPDX-License-Identifier: GPL-3.0-or-later
"""Learn a prior of 802.11a/n bursts from recordings: the carriers' gains, the error within a symbol, the spectrum.

For fit.py --kind bursts. Told: FFT of 64, prefix of 16, carriers and pilots of the standard. Learned: carrier offset
(up to half a carrier, 156 kHz at 20 MS/s), the 56 gains, the variance that they leave at each sample of a symbol. The
recordings must come from one transmitter through one receiver and a static channel.
"""

import dataclasses
import math

import numpy as np
import torch
from gnuradio.unmix.priors.bursts import ALPHABETS, BURSTS, FIELDS, PREAMBLE_FIELDS, PREAMBLES, OfdmBursts
from gnuradio.unmix.priors.gaussian import spectrum

CARRIERS = np.array([k for k in range(-28, 29) if k])
PILOTS = np.isin(np.abs(CARRIERS), (7, 21))
OUTER = np.abs(CARRIERS) > 26  # silent in 802.11a
DATA = ~PILOTS & ~OUTER
#: Training symbols of 802.11a (IEEE 802.11-2020, 17.3.3): long, carriers -26 .. 26, and short, every fourth from -24.
LONG = ("++--++-+-++++++--++-+-++++0+--++-+-+-----++--+-+-++++")
SHORT = "+-+--+0--++++"
WINDOW = 2560
SYMBOLS = 6  # of a burst, at least: shorter ones are not learned from
HEARD = 4  # preambles without which nothing is tried


class NoBursts(ValueError):
    """The recordings are no 802.11 packets; the message says in one sentence why."""


@dataclasses.dataclass
class Learned:
    """What learn() found. prior: of unit power. preambles: of 802.11a, that were learned from.

    packets: alphabet's name to packets, of each recording; those of 6 symbols or more that the windows hold.
    residual: median share of a burst's power that the decided points leave.
    """

    prior: OfdmBursts
    preambles: int
    packets: list[dict[str, int]]
    residual: float


def standard_preamble(gains: np.ndarray) -> np.ndarray:
    """The preamble of 802.11a, complex [320], through the carriers' gains."""
    sign = {"+": 1.0, "-": -1.0, "0": 0.0}
    long, short = np.zeros(57), np.zeros(57, dtype=complex)
    long[2:55] = [sign[c] for c in LONG]
    short[4:53:4] = np.array([sign[c] for c in SHORT]) * (1 + 1j) * math.sqrt(13 / 6)
    n = np.arange(160)
    turns = np.exp(2j * np.pi * np.outer(n, CARRIERS) / 64)
    active = CARRIERS + 28
    return np.concatenate([turns @ (short[active] * gains), np.roll(turns, 32, 0)[n] @ (long[active] * gains)])


def windows(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Windows of WINDOW samples, overlapping by half, idle ones left out: [W, WINDOW], and where they begin, [W]."""
    starts = np.arange(0, len(samples) - WINDOW + 1, WINDOW // 2)
    cut = samples[starts[:, None] + np.arange(WINDOW)]
    loud = np.mean(np.abs(cut)**2, 1) > 0.1 * np.mean(np.abs(samples)**2)
    return cut[loud], starts[loud]


def active(samples: np.ndarray) -> np.ndarray:
    """Samples without idle time: stretches of 320 or more, 10 dB below the packets, leave 160 of their own."""
    power = np.abs(samples)**2
    level = np.sum(power**2) / np.sum(power) / 2  # of packets, whose samples are near Gaussian
    total = np.concatenate([[0], np.cumsum(power)])
    idle = np.zeros(len(samples), dtype=bool)
    idle[32:-31] = total[64:] - total[:-64] < 0.1 * 64 * level
    edges = np.flatnonzero(np.diff(np.concatenate([[0], idle, [0]])))
    keep = np.ones(len(samples), dtype=bool)
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        if end - begin >= 320:
            keep[begin + 80:end - 80] = False
    return samples[keep]


def heard(samples: np.ndarray) -> int:
    """How many short training fields there are: places where the samples repeat themselves every 16 for 144."""
    power = np.abs(samples)**2
    total = np.concatenate([[0], np.cumsum(samples[:-16] * samples[16:].conj())])
    energy = np.concatenate([[0], np.cumsum((power[:-16] + power[16:]) / 2)])
    match, energy = np.abs(total[128:] - total[:-128]), energy[128:] - energy[:-128]
    high = (match > 0.8 * energy) & (energy > 12.8 * power.mean())
    edges = np.flatnonzero(np.diff(np.concatenate([[0], high, [0]])))
    runs = edges[1::2] - edges[::2]
    return int(np.sum((runs >= 4) & (runs <= 160)))  # a tone repeats itself for longer


def symbols(prior: OfdmBursts, cut: np.ndarray, side: np.ndarray):
    """For each burst that `side` [W, P] finds in windows [W, N]: frames without phase and offset, points, decisions.

    Yields (frames [S, P], points [S, K], decided [S, K], delay, alphabet); points and decisions without the delay.
    """
    mixing = torch.view_as_complex(prior.mixing).numpy().astype(complex)
    inverse = np.linalg.pinv(mixing)
    slope = prior.slope.numpy().astype(float)
    n = np.arange(cut.shape[1])
    rows = side[:, :BURSTS * len(FIELDS)].reshape(len(side), BURSTS, len(FIELDS)).astype(float)
    for wave, row in zip(cut, rows, strict=True):
        for burst in row:
            begin, end, delay, phase, frequency, level, alphabet, _ = burst
            if end - begin < SYMBOLS * prior.length or not level > 0:
                continue
            turned = wave / level * np.exp(-1j * (phase + 2 * np.pi * (prior.frequency + frequency) * n))
            frames = turned[int(begin):int(end)].reshape(-1, prior.length)
            points = frames @ inverse.T * np.exp(-1j * slope * delay)
            levels = prior.axes(torch.tensor(burst, dtype=torch.float32)[None])[0].numpy() / math.sqrt(2)  # [K, 2, 8]
            both = np.stack([points.real, points.imag], -1)
            nearest = np.abs(both[..., None] - levels).argmin(-1)
            decided = np.take_along_axis(np.broadcast_to(levels, (*both.shape, 8)), nearest[..., None], -1)[..., 0]
            yield frames, points, decided[..., 0] + 1j * decided[..., 1], delay, int(alphabet)


def synchronised(prior: OfdmBursts, cut: np.ndarray) -> np.ndarray:
    """Side information of windows without other signals."""
    planes = torch.from_numpy(np.stack([cut.real, cut.imag], 1).astype(np.float32))
    with torch.inference_mode():
        return torch.cat([prior.synchronise(part, torch.zeros(0, 2)) for part in planes.split(64)]).numpy()


def learn(recordings: list[np.ndarray], most: int | None = None, sweeps: int = 5) -> Learned:
    """The prior of recordings (complex [n] each), at most `most` samples of each. Raises NoBursts where there are none.

    Idle time does not count.
    """
    parts = [active(r)[:most] for r in recordings]
    parts = [r / np.sqrt(np.mean(np.abs(r)**2)) for r in parts]
    count = sum(map(heard, parts))
    if count < HEARD:
        raise NoBursts(f"{count or 'no'} preambles of 802.11 were found, which repeat themselves every 16 samples at "
                       f"20 MS/s; at least {HEARD} are needed")
    pieces = [windows(p) for p in parts]
    if not any(len(starts) for _, starts in pieces):
        raise NoBursts(f"the recordings hold less than {WINDOW} samples between idle times")
    which = np.repeat(np.arange(len(parts)), [len(starts) for _, starts in pieces])
    places = np.concatenate([starts for _, starts in pieces])
    cut = np.concatenate([piece for piece, _ in pieces])
    cut = cut / np.sqrt(np.mean(np.abs(cut)**2, 1, keepdims=True))
    frequency = float(np.angle(sum(np.vdot(p[:-64], p[64:]) for p in parts)) / (2 * np.pi * 64))
    density = spectrum(np.concatenate(parts))
    place = np.fft.fftfreq(len(density))
    order = np.argsort(place)
    gains = np.sqrt(np.interp(CARRIERS / 64 + frequency, place[order], density[order])).astype(complex)
    error = np.full(80, 2e-3)
    error[[0, 1, 78, 79]] = 0.025
    for sweep in range(sweeps):
        if not np.all(np.isfinite(gains)):
            raise NoBursts(f"{count} preambles of 802.11 were found, but the bursts' gains did not converge")
        gains = gains / np.sqrt(np.sum(np.abs(gains)**2))
        prior = OfdmBursts(gains, CARRIERS, PILOTS, OUTER, error, density, standard_preamble(gains), np.full(320, 5e-3),
                           frequency)
        side = synchronised(prior, cut)
        offsets = side[:, :BURSTS * len(FIELDS)].reshape(-1, len(FIELDS))
        found = list(symbols(prior, cut, side))
        if not found:
            raise NoBursts(f"{count} preambles of 802.11 were found, but no bursts of {SYMBOLS} or more OFDM symbols "
                           "of 64 carriers with a prefix of 16")
        if sweep == 0:  # gains' phases: fourth power, whose phase is smooth over the carriers
            moment = np.zeros(len(CARRIERS), dtype=complex)
            for _, points, _, _, _ in found:
                fourth = (points**4).sum(0)
                moment += fourth * np.exp(-1j * np.angle(fourth[DATA].sum()))
            fit = np.polyfit(CARRIERS[DATA], np.unwrap(np.angle(moment[DATA])) / 4, 7)
            gains = gains * np.exp(1j * np.polyval(fit, CARRIERS))
            continue
        delays = np.array([d for *_, d, _ in found])
        left = np.array([np.mean(np.abs(p - d)[:, ~OUTER]**2) for _, p, d, _, _ in found])
        clean = left < 2 * np.median(left) + 1e-3
        use = (offsets[:, 1] - offsets[:, 0] >= 480)
        frequency += float(np.median(offsets[use, 4]))
        cross, size = np.zeros(len(CARRIERS), dtype=complex), np.full(len(CARRIERS), 1e-9)
        for (_, points, decided, _, _), good in zip(found, clean, strict=True):
            if good:
                cross, size = cross + (points * decided.conj()).sum(0), size + (np.abs(decided)**2).sum(0)
        ratio = np.where(size > 1, cross / size, 1)
        gains = gains * ratio * np.exp(1j * prior.slope.numpy() * np.median(delays))
        # What is left at each sample, with the gains as they were: the next sweep has better ones.
        mixing = torch.view_as_complex(prior.mixing).numpy() * ratio
        gaps = [np.abs(frames - (decided * np.exp(1j * prior.slope.numpy() * delay)) @ mixing.T)**2
                for (frames, _, decided, delay, _), good in zip(found, clean, strict=True) if good]
        gap = np.concatenate(gaps)
        error = np.maximum(gap[gap.mean(1) < 4 * np.median(gap.mean(1))].mean(0) / 2, 1e-5)
    gains = gains / np.sqrt(np.sum(np.abs(gains)**2))
    preamble, spread = standard_preamble(gains), np.full(320, 5e-3)
    for _ in range(3):
        prior = OfdmBursts(gains, CARRIERS, PILOTS, OUTER, error, density, preamble, spread, frequency)
        side = synchronised(prior, cut)
        seen = aligned_preambles(prior, cut, side)
        if len(seen) < 8:
            raise NoBursts(f"only {len(seen)} whole preambles of 802.11a were found, too few to learn from")
        preamble = seen.mean(0)
        gap = np.mean(np.abs(seen - preamble)**2, 1)
        good = seen[gap < 3 * np.median(gap)]
        preamble, spread = good.mean(0), np.maximum(np.mean(np.abs(good - good.mean(0))**2, 0) / 2, 1e-5)
    prior = OfdmBursts(gains, CARRIERS, PILOTS, OUTER, error, density, preamble, spread, frequency)
    counted = [packets(side[which == i], places[which == i], prior.length) for i in range(len(parts))]
    return Learned(prior, len(good), counted, float(np.median(left)))


def packets(side: np.ndarray, starts: np.ndarray, length: int) -> dict[str, int]:
    """Packets by alphabet in a recording whose windows begin at `starts` [W] and hold the bursts `side` [W, P]."""
    rows = side[:, :BURSTS * len(FIELDS)].reshape(len(side), BURSTS, len(FIELDS)).astype(float)
    begin, end = starts[:, None] + rows[..., 0], starts[:, None] + rows[..., 1]
    used = end - begin >= SYMBOLS * length
    runs = []  # end, samples of each alphabet; bursts that touch are parts of one packet
    for first, last, kind in sorted(zip(begin[used], end[used], rows[..., 6][used], strict=True)):
        if not runs or first > runs[-1][0] + length:
            runs.append([last, np.zeros(len(ALPHABETS))])
        runs[-1][0] = max(runs[-1][0], last)
        runs[-1][1][int(kind)] += last - first
    kinds = [ALPHABETS[int(samples.argmax())] for _, samples in runs]
    return {name: kinds.count(name) for name in ALPHABETS if name in kinds}


def aligned_preambles(prior: OfdmBursts, cut: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Whole preambles found in windows [W, N], without level, phase, offset and delay: [n, L]."""
    result, length, n = [], prior.preamble.shape[1], np.arange(cut.shape[1])
    places = side[:, BURSTS * len(FIELDS):].reshape(len(side), PREAMBLES, -1).astype(float)
    for wave, rows in zip(cut, places, strict=True):
        for begin, delay, phase, drift, level in rows:
            first = int(begin) - 96
            if level > 0 and first >= 0 and first + 512 <= len(wave):
                piece = (wave * np.exp(-1j * (phase + 2 * np.pi * (prior.frequency + drift) * n)))[first:first + 512]
                piece = np.fft.ifft(np.fft.fft(piece) * np.exp(2j * np.pi * np.fft.fftfreq(512) * delay))
                result.append(piece[96:96 + length] / level)
    return np.array(result)


def card(prior: OfdmBursts, name: str, training: str, licence: str) -> dict:
    """prior.json of a learned prior."""
    density = prior.density.double().numpy()
    side = [f"{field}{j}" for j in range(BURSTS) for field in FIELDS]
    side += [f"{field}{j}" for j in range(PREAMBLES) for field in PREAMBLE_FIELDS]
    return {"format": 1, "name": name, "kind": "ofdm-bursts", "window": 0, "predicts": "signal", "side": side,
            "synchronised": False, "synchronise": True, "frame": prior.length, "band": None,
            "alpha_bar": [1 / 6, 1 / (1 + 1e-3)], "psd": (density / density.mean()).tolist(), "training": training,
            "licence": licence, "version": "1"}
