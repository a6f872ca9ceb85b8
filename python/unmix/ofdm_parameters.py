# SPDX-License-Identifier: GPL-3.0-or-later
"""The parameters of a cyclic-prefix OFDM signal from a recording of it: transform, prefix, carriers, constellation.

The lag at which a prefix repeats itself and the cycle in which that recurs come from the cyclic autocorrelation
(Gardner, IEEE Signal Process. Mag. 8(2), 1991). Carriers are then demodulated, and the constellation is the one under
which they are likeliest, with gains found blindly by the M-th power (Viterbi and Viterbi, IEEE Trans. Inf. Theory 29,
1983) and refined by expectation maximisation.
"""

import dataclasses
from typing import Optional

import numpy as np
import scipy.fft

from .priors import constellation as cons

LEAST_FFT, MOST_FFT = 16, 2048
#: Samples looked at: the loudest stretch of this length.
STRETCH = 1 << 18
#: OFDM symbols over which the cycle is averaged coherently: many hear more, few outlive packets that come and go.
COHERENT, FEW = 128, 24
#: OFDM symbols needed at least.
LEAST_SYMBOLS = 12
#: How many times a prefix must stand out from what the same cycle shows at other lags, and its score from its spread.
STANDS_OUT, DEVIATIONS = 2.5, 7.0
#: OFDM symbols per block and blocks from which the constellation is found.
BLOCK, BLOCKS = 128, 4


@dataclasses.dataclass(frozen=True)
class OfdmParameters:
    """What estimate_ofdm() found.

    fft, cp: transform and prefix, samples. active: carriers in use around the middle, which is not counted.
    constellation: a name from constellation.NAMES, None where none of them fits. start: sample, 0 .. fft + cp - 1, at
    which symbols begin, in the clearest stretch. frequency: carrier offset, cycles/sample. dc_null: whether the
    carrier in the middle is seen to be empty. snr_db: of the OFDM against all else, from the prefix. confidence: how
    many times the prefix stands out from other lags, above STANDS_OUT.
    """

    fft: int
    cp: int
    active: int
    constellation: Optional[str]
    start: int
    frequency: float
    dc_null: bool
    snr_db: float
    confidence: float


def estimate_ofdm(samples: np.ndarray, fft: Optional[int] = None, cp: Optional[int] = None,
                  active: Optional[int] = None, constellation: Optional[str] = None) -> OfdmParameters:
    """Find the parameters of the CP-OFDM signal that dominates a recording.

    samples: complex [n], any scale; hundreds of OFDM symbols are a good length (short prefixes need most),
    LEAST_SYMBOLS the least. fft, cp, active, constellation: what is known already; it is taken over, and fft and cp
    must still show. Found are fft of 16 to 2048 samples, prefixes of fft / 40 to 0.55 fft, of whole samples both.

    Raises ValueError with one sentence where no OFDM shows.
    """
    x, place = _loudest(samples)
    if cp is not None and cp < 1:
        raise ValueError("OFDM without a prefix (cp=0) leaves no trace in a recording's autocorrelation; give fft, "
                         "active and constellation too")
    if fft is not None and not 2 <= fft <= MOST_FFT:
        raise ValueError(f"fft={fft} is impossible; allowed are 2 to {MOST_FFT}")
    if fft is not None and cp is not None and cp > fft:
        raise ValueError(f"cp={cp} is impossible; allowed are 1 to fft={fft}")
    if active is not None and not 1 <= active < (fft or MOST_FFT):
        raise ValueError(f"active={active} is impossible; allowed are 1 to fft - 1")
    lags = _lags(x, cp) if fft is None else np.array([fft])
    found = (0.0, 0, 0, 0.0)
    for lag in lags:
        found = max(found, _cycle(x, int(lag), cp))
        if found[0] > 6 * STANDS_OUT and found[3] > 4 * DEVIATIONS:
            break  # beyond doubt
    confidence, lag, cycle, deviations = found
    sought = f"{LEAST_FFT} to {MOST_FFT}" if fft is None else str(fft)
    refusal = (f"no OFDM shows in {len(x)} samples: no prefix recurs at a lag of {sought} samples; give a longer "
               "recording, of the interference alone, or fft, cp, active and constellation")
    # products of a narrow band are alike for many samples, so fewer of them average
    alike = np.array([np.abs(np.mean(_product(x, near)))**4 for near in range(1, LEAST_FFT)])
    if confidence < STANDS_OUT or deviations < DEVIATIONS * np.sqrt(1 + 2 * alike.sum()):
        raise ValueError(refusal)
    if fft is None and cp is None:  # a narrow band's autocorrelation is wider than a sample: the middle of its peak
        near = [one for one in range(lag - 2, lag + 3) if LEAST_FFT <= one < cycle]
        lag = max(near, key=lambda one: _profile(_product(x, one), cycle, COHERENT)[0])
        if lag > MOST_FFT:
            raise ValueError(f"OFDM of {lag} samples is there; allowed are up to {MOST_FFT}")
    runs, frequency, snr = _boundaries(x, lag, cycle)
    if snr < 1:  # what recurs by chance or in one carrier is little of the whole
        raise ValueError(refusal)
    x = x * np.exp(-2j * np.pi * frequency * np.arange(len(x))).astype(np.complex64)
    blocks = _demodulate(x, lag, cycle, runs)
    power = np.mean([np.mean(np.abs(block)**2, 0) for block in blocks], 0)
    middle, count, null = _carriers(power, active)
    if constellation is None:
        used = (middle + _around(count)) % lag
        level = np.sort(power)  # guard carriers hold noise alone
        noise = level[:lag // 32].mean() / level[lag // 2:].mean() if lag - count > 4 and lag >= 32 else 1 / snr
        constellation = _constellation([block[:, used] for block in blocks], noise)
    return OfdmParameters(lag, cycle - lag, count, constellation, int((runs[0][0] + place) % cycle),
                          frequency + _signed(middle, lag) / lag, null, float(10 * np.log10(snr)), float(confidence))


def _around(active: int) -> np.ndarray:
    """Carriers in use, relative to the middle one, as the prior cp-ofdm: has them."""
    return np.concatenate([np.arange(-(active // 2), 0), np.arange(1, active - active // 2 + 1)])


def _signed(carrier: int, fft: int) -> int:
    return (carrier + fft // 2) % fft - fft // 2


def _loudest(samples: np.ndarray) -> tuple[np.ndarray, int]:
    """The loudest stretch, complex64 of unit power and without a constant, and where it begins. Raises ValueError."""
    samples = np.asarray(samples)
    if samples.ndim != 1 or not np.iscomplexobj(samples):
        raise ValueError("OFDM is sought in complex samples of one channel")
    if len(samples) < LEAST_SYMBOLS * LEAST_FFT:
        raise ValueError(f"{len(samples)} samples are too few to look for OFDM in; {LEAST_SYMBOLS * LEAST_FFT} are "
                         f"the least, {100 * MOST_FFT} a good number")
    if not np.isfinite(samples).all():
        raise ValueError("OFDM is sought in samples that are finite numbers")
    place = 0
    if len(samples) > STRETCH:
        step = STRETCH // 16
        energy = np.square(np.abs(samples[:len(samples) // step * step]), dtype=np.float64).reshape(-1, step).sum(1)
        place = step * int(np.convolve(energy, np.ones(16), "valid").argmax())
    x = samples[place:place + STRETCH].astype(np.complex128)
    peak = np.abs(x).max()
    x = x / peak if peak > 0 else x
    x = x - x.mean()
    rms = np.sqrt(np.mean(np.abs(x)**2))
    if rms < 1e-6:
        raise ValueError("the recording is silent or constant: there is no OFDM in it; give a recording of the "
                         "interference, or fft, cp, active and constellation")
    return (x / rms).astype(np.complex64), place


def _lags(x: np.ndarray, cp: Optional[int]) -> np.ndarray:
    """Lags (samples) that may be an FFT length: local maxima of the autocorrelation, as it is and whitened, best first.

    Whitening takes away what other signals' spectra leave at short lags, where it would hide a short prefix.
    """
    most = min(MOST_FFT, len(x) // LEAST_SYMBOLS)
    size = scipy.fft.next_fast_len(len(x) + most + 2)
    power = np.abs(scipy.fft.fft(x, size))**2
    # Welch, coarser than the carriers of the smallest transform
    frames = x[:len(x) // 16 * 16].reshape(-1, 16) * np.hanning(17)[:16].astype(np.float32)
    density = np.mean(np.abs(np.fft.fft(frames, 64))**2, 0)
    level = np.interp(np.arange(size) * (64 / size), np.arange(65), np.append(density, density[0]))
    chosen = []
    for spectrum, most_lags in ((power / (level + 0.1 * level.mean()), 32), (power, 8)):
        size_at = np.abs(scipy.fft.ifft(spectrum)[:most + 2])
        size_at *= len(x) / (len(x) - np.arange(most + 2))
        low = LEAST_FFT
        peaks = low + np.flatnonzero((size_at[low:-1] > size_at[low - 1:-2]) & (size_at[low:-1] >= size_at[low + 1:]))
        chosen.append(peaks[np.argsort(-size_at[peaks])[:most_lags]])
    lags = np.unique(np.concatenate(chosen))
    if cp is not None:
        lags = lags[lags >= cp]
    # a quick look at every one: how strongly its product recurs at all
    recurs = np.array([_recurrence(x, int(lag), cp) for lag in lags])
    order = list(lags[np.argsort(-recurs)[:12]]) + [lag for peaks in chosen for lag in peaks[:2] if lag in lags]
    return np.array(list(dict.fromkeys(order)), dtype=int)


def _product(x: np.ndarray, lag: int) -> np.ndarray:
    return x[:-lag] * x[lag:].conj()


def _cycles(lag: int, cp: Optional[int]) -> tuple[int, int]:
    """Shortest and longest cycle that belong to a lag, samples."""
    return (lag + cp, lag + cp) if cp is not None else (lag + max(1, lag // 40), lag + max(2, int(0.55 * lag)))


def _recurrence(x: np.ndarray, lag: int, cp: Optional[int]) -> float:
    """Largest mean of the first harmonics' power in the lag's product, relative to the spectrum's median."""
    product = _product(x, lag)
    shortest, longest = _cycles(lag, cp)
    length = min(len(product), COHERENT * (lag + longest) // 2)
    pieces = product[:len(product) // length * length].reshape(-1, length)
    size = scipy.fft.next_fast_len(2 * length)
    density = np.mean(np.abs(scipy.fft.fft(pieces - pieces.mean(1, keepdims=True), size))**2, 0)
    wide = max(1, round(size / longest))
    usual = np.median(density[wide // 2:min(size // 2, 8 * wide)])
    cycle = np.arange(shortest, longest + 1, 0.125 * max(1, lag / COHERENT)) if cp is None else np.array([shortest])
    sums = [np.mean([density[np.round(h * size / cycle).astype(int)] for h in range(1, most + 1)], 0).max() * most**0.5
            for most in (1, 2, 4, 8)]  # short prefixes have many harmonics
    return float(max(sums) / usual)


def _profile(product: np.ndarray, cycle: int, symbols: int) -> tuple[float, float]:
    """Variance over a cycle of a lag's product, averaged over that many cycles at a time, and its deviation."""
    whole = min(symbols, len(product) // cycle)
    stretches = len(product) // (whole * cycle)
    cut = product[:stretches * whole * cycle].reshape(stretches, whole, cycle)
    folded = cut.mean(1)
    each = np.mean(np.square(np.abs(folded)))
    noise = float(np.mean(np.square(np.abs(cut))) - each) / max(whole - 1, 1)
    score = float(each - np.mean(np.square(np.abs(folded.mean(1))))) - noise
    return score, max(noise / np.sqrt(stretches * cycle), 1e-9)


def _cycle(x: np.ndarray, lag: int, cp: Optional[int]) -> tuple[float, int, int, float]:
    """How many times the lag stands out from others at its best cycle, the lag, the cycle, and score over deviation."""
    shortest, longest = _cycles(lag, cp)
    if len(x) - 2 * lag < LEAST_SYMBOLS * shortest:
        return 0.0, lag, shortest, 0.0
    product = _product(x, lag)
    longest = min(longest, len(product) // LEAST_SYMBOLS)
    tried = range(shortest, max(shortest, longest) + 1)
    best = (0.0, lag, shortest, 0.0)
    for symbols in (COHERENT, FEW):
        scores = [_profile(product, cycle, symbols)[0] for cycle in tried]
        cycle = tried[int(np.argmax(scores))]
        score, deviation = _profile(product, cycle, symbols)
        # Modulations of one carrier recur too, but at all lags nearby; an echo's reach of 8 samples is left out.
        reach = max(8, lag // 16)
        others = [lag + sign * (reach + round(i * lag / 40)) for i in range(10) for sign in (-1, 1)]
        rest = [_profile(_product(x, other), cycle, symbols)[0] for other in others
                if 0 < other < len(x) - LEAST_SYMBOLS * cycle]
        rest.append(_profile(np.square(np.abs(x)), cycle, symbols)[0] / 4)  # packets' edges, one carrier's symbols
        clear = score / max(max(rest), deviation)
        if score / deviation > best[3]:
            best = clear, lag, cycle, score / deviation
        if score > 4 * DEVIATIONS * deviation and clear > 6 * STANDS_OUT or longest > 16 * COHERENT:
            break  # clear already; few symbols are no help for long ones
    return best


def _boundaries(x: np.ndarray, lag: int, cycle: int) -> tuple[list[tuple[int, int]], float, float]:
    """Runs of symbols (first boundary's sample, number) by falling length, carrier offset (cycles/sample), and SNR.

    Packets begin anywhere, so boundaries are found in short pieces and joined where they agree.
    """
    cp = cycle - lag
    product = _product(x, lag)
    level = (np.abs(x[:-lag])**2 + np.abs(x[lag:])**2) / 2
    whole = min(-(-512 // cp) if cp < 32 else 16, COHERENT, len(product) // cycle)  # enough products to average
    pieces = len(product) // (whole * cycle)
    folded = product[:pieces * whole * cycle].reshape(pieces, whole, cycle).mean(1)
    energy = level[:pieces * whole * cycle].reshape(pieces, whole, cycle).mean(1)
    prefix, energy = _circular_sum(folded, cp), _circular_sum(energy, cp)
    begins = np.abs(prefix).argmax(1)
    runs: list[tuple[int, int]] = []  # pieces [first, end)
    for piece in range(pieces):
        apart = int(begins[piece] - begins[runs[-1][0]]) if runs else cycle
        apart = abs((apart + cycle // 2) % cycle - cycle // 2)
        if runs and apart <= 1 + cp // 4 and (piece - runs[-1][0]) * whole < BLOCK:
            runs[-1] = runs[-1][0], piece + 1
        else:
            runs.append((piece, piece + 1))
    # what is there of the prefix's product, and of the power that it could reach, counts by run
    sums = [prefix[first:end].sum(0) for first, end in runs]
    best = np.array([np.abs(total).argmax() for total in sums])
    shown = np.array([total[place] for total, place in zip(sums, best, strict=True)])
    reach = np.array([energy[first:end, place].real.sum() for (first, end), place in zip(runs, best, strict=True)])
    chosen = np.argsort(-np.abs(shown))[:max(BLOCKS, len(runs) // 4)]
    frequency = -float(np.angle(shown[chosen].sum())) / (2 * np.pi * lag)
    share = float(np.clip(np.abs(shown[chosen]).sum() / reach[chosen].sum(), 1e-3, 0.9999))
    found = [(int(runs[i][0] * whole * cycle + best[i]), int(runs[i][1] - runs[i][0]) * whole) for i in chosen]
    return found, frequency, share / (1 - share)


def _circular_sum(rows: np.ndarray, count: int) -> np.ndarray:
    """Sums of `count` values from each place on, round the end: [S, n] to [S, n]."""
    total = np.cumsum(np.concatenate([np.zeros_like(rows[:, :1]), rows, rows[:, :count]], 1), 1, dtype=np.complex128)
    return total[:, count:count + rows.shape[1]] - total[:, :rows.shape[1]]


def _demodulate(x: np.ndarray, fft: int, cycle: int, runs: list[tuple[int, int]]) -> list[np.ndarray]:
    """Carriers of the first runs' symbols, a list of [symbols, fft]; symbols without power are 0."""
    cp = cycle - fft
    early = cp - cp // 4  # within the prefix, where neither an echo nor a boundary found late reaches
    blocks = []
    for begin, count in runs[:BLOCKS]:
        count = min(count, (len(x) - begin - early - fft) // cycle + 1)
        place = begin + early + np.arange(count)[:, None] * cycle + np.arange(fft)
        block = np.fft.fft(x[place]) / np.sqrt(fft)
        power = np.mean(np.abs(block)**2, 1)
        blocks.append(np.where((power > 0.1 * power.max())[:, None], block, 0))  # in place: phases run on
    return blocks


def _carriers(power: np.ndarray, active: Optional[int]) -> tuple[int, int, bool]:
    """Middle carrier (0 .. fft - 1), number in use without it, and whether it is empty, from carriers' power [fft]."""
    fft = len(power)
    shown = np.fft.fftshift(power)
    level = np.median(np.sort(shown)[fft // 2:])
    floor = np.sort(shown)[:max(1, fft // 64)].mean()
    limit = min(np.sqrt(level * max(floor, 1e-4 * level)), 0.4 * level)
    used = shown > limit
    # the longest run, across holes of a few carriers such as the one at DC
    runs = np.flatnonzero(np.diff(np.concatenate([[0], used, [0]]))).reshape(-1, 2)
    if not len(runs):
        return 0, fft - 1 if active is None else active, False
    hole = max(2, fft // 32)
    merged = [list(runs[0])]
    for low, high in runs[1:]:
        if low - merged[-1][1] <= hole:
            merged[-1][1] = high
        else:
            merged.append([low, high])
    low, high = max(merged, key=lambda run: run[1] - run[0])
    width = high - low
    guess = (low + high - 1) // 2  # an odd carrier more lies above DC
    near = np.arange(max(low + 1, guess - 1), min(high - 1, guess + 2))
    null = bool(len(near)) and bool(shown[near].min() < 0.2 * np.median(shown[max(low, guess - 5):guess + 6]))
    middle = int(near[shown[near].argmin()]) if null else guess
    if width >= fft - 1:  # no guard shows: the offset cannot be told from the edges
        middle = fft // 2
    count = min(width - 1, fft - 1)
    return (middle - fft // 2) % fft, max(1, count) if active is None else active, null


def _constellation(blocks: list[np.ndarray], noise: float) -> Optional[str]:
    """Name of the constellation under which the carriers, a list of [symbols, carriers], are likeliest; None for none.

    noise: of a carrier relative to its power, against which the decisions' errors are judged.

    Long blocks tell apart what noise hides. Short ones, of which the best eighth counts, tell what packets' beginnings
    interrupt, where there is little noise.
    """
    blocks = [block[:, ::-(-block.shape[1] // 256)] for block in blocks]  # enough points, in a second
    best = (0.02, "", 0.0)  # gain (nats per point), name, error
    for length, step, share, least in ((BLOCK, BLOCK, 4, 0.02), (16, 8, 8, 2.5)):
        parts = [block[i:i + length] for block in blocks for i in range(0, max(1, len(block) - length + 1), step)]
        parts = [part for part in parts if np.count_nonzero(np.any(part != 0, 1)) >= 10]
        if not parts or (length < BLOCK and (best[0] > 4 or noise > 0.03)):  # clear already, or never to be
            continue
        fits = np.array([[_fit(part, name, cons.points(name)) for name in cons.NAMES] for part in parts])
        chosen = fits[np.argsort(-fits[:, :, 0].max(1))[:-(-len(parts) // share)]].mean(0)
        name = int(chosen[:, 0].argmax())
        gain = chosen[name, 0] - 5 / min(length, max(map(len, parts)))  # fewer points are easier to explain
        if gain > max(best[0], least):
            best = gain, cons.NAMES[name], chosen[name, 1]
    # Denser alphabets hide among these: their decisions err by more than the noise.
    return best[1] if best[1] and best[2] < max(3 * noise, 0.02) else None


def _fit(block: np.ndarray, name: str, table: np.ndarray) -> tuple[float, float]:
    """Log-likelihood per point (nats) beyond that of Gaussian carriers, and the mean squared error of decisions."""
    order = cons.SYMMETRY[name]
    seen = np.any(block != 0, 1)
    strength = np.sqrt(np.mean(np.abs(block[seen])**2, 0)) + 1e-12
    z = block / strength
    power = z**order / np.maximum(np.abs(z), 1e-9)**(order - 1)  # robust: the magnitude counts once
    size = 8 * len(z)
    spectrum = np.fft.fft(power, size, axis=0)
    step = int(np.sum(np.abs(spectrum)**2, 1).argmax())
    turn = 2 * np.pi * ((step + size // 2) % size - size // 2) / size / order
    z = z[seen] * np.exp(-1j * turn * np.flatnonzero(seen))[:, None]
    power = power[seen] * np.exp(-1j * order * turn * np.flatnonzero(seen))[:, None]
    reference = np.mean(table.astype(complex)**order / np.abs(table)**(order - 1))
    common = np.ones(len(z), complex)
    for _ in range(6):  # what all carriers of a symbol share, which drifts slowly, and what all symbols of a carrier do
        each = common.conj() @ power
        common = np.convolve(power @ each.conj(), np.ones(min(7, len(z))), "same")
        common /= np.maximum(np.abs(common), 1e-12)
    z = z * np.exp(-1j * np.unwrap(np.angle(common)) / order)[:, None]
    gain = np.exp(1j * np.angle(common.conj() @ power / reference) / order) * 0.95
    noise = np.full(z.shape[1], 0.2)
    for _ in range(15):  # expectation maximisation of each carrier's gain and noise, and of each symbol's phase
        exponent = -np.abs(z[..., None] - gain[:, None] * table)**2 / noise[:, None]
        weight = np.exp(exponent - exponent.max(-1, keepdims=True))
        weight = weight / weight.sum(-1, keepdims=True)
        mean = weight @ table
        z = z * np.exp(-1j * np.angle((z * (gain * mean).conj() / noise).sum(1)))[:, None]
        gain = np.mean(z * mean.conj(), 0) / np.maximum(np.mean(weight @ np.abs(table)**2, 0), 1e-9)
        noise = np.mean(np.sum(weight * np.abs(z[..., None] - gain[:, None] * table)**2, -1), 0)
        noise = np.maximum(0.9 * noise + 0.1 * np.median(noise), 1e-3)  # a carrier has few points
    exponent = -np.abs(z[..., None] - gain[:, None] * table)**2 / noise[:, None]
    top = exponent.max(-1)
    likelihood = top + np.log(np.mean(np.exp(exponent - top[..., None]), -1)) - np.log(noise)
    return float(np.median(np.mean(likelihood, 0)) + 1), float(np.median(noise / np.maximum(np.abs(gain)**2, 1e-9)))
