# SPDX-License-Identifier: GPL-3.0-or-later
"""What IEEE 802.11-2020 fixes of a packet: training fields, pilots, signal fields. Clause 17 (OFDM), clause 19 (HT).

Spectra are complex [64] in FFT order, carriers of unit power on average; waves are theirs through transmit().
"""

import functools
from dataclasses import dataclass

import numpy as np

FFT, CP, LENGTH = 64, 16, 80
CARRIERS = np.array([k for k in range(-28, 29) if k])
PILOTS = (-21, -7, 7, 21)
#: Data carriers in the order in which bits fill them: 48 of 802.11a/g (17.3.5.10), 52 of 802.11n (19.3.11.10).
LEGACY_DATA = np.array([k for k in range(-26, 27) if k and k not in PILOTS])
HT_DATA = np.array([k for k in range(-28, 29) if k and k not in PILOTS])
ALPHABETS = ("bpsk", "qpsk", "16qam", "64qam")
_SIGN = {"+": 1.0, "-": -1.0, "0": 0.0}
_LONG = "++--++-+-++++++--++-+-++++0+--++-+-+-----++--+-+-++++"  # 17-8, carriers -26 .. 26
_SHORT = "+-+--+0--++++"  # 17-7, every fourth carrier from -24
#: RATE of the signal field (R1 first, table 17-6): alphabet's index and data bits per symbol.
_RATES = {"1101": (0, 24), "1111": (0, 36), "0101": (1, 48), "0111": (1, 72),
          "1001": (2, 96), "1011": (2, 144), "0001": (3, 192), "0011": (3, 216)}
#: The same of MCS 0 .. 7 (table 19-27).
_MCS = ((0, 26), (1, 52), (1, 78), (2, 104), (2, 156), (3, 208), (3, 234), (3, 260))


@dataclass(frozen=True)
class Format:
    """What the signal fields say: `symbols` data symbols of ALPHABETS[alphabet]; ht: 802.11n (HT-mixed).

    short: 802.11n with a guard interval of 8 samples. headless: the rest of a packet whose beginning was not heard.
    """

    alphabet: int
    symbols: int
    ht: bool = False
    short: bool = False
    headless: bool = False

    @property
    def carriers(self) -> np.ndarray:
        """Data carriers."""
        return HT_DATA if self.ht else LEGACY_DATA

    @property
    def first(self) -> int:
        """Symbols of 80 samples between the training fields and the first data symbol."""
        return 0 if self.headless else 5 if self.ht else 1


def long_spectrum() -> np.ndarray:
    """Long training symbol (17.3.3)."""
    result = np.zeros(FFT, dtype=complex)
    result[np.arange(-26, 27)] = [_SIGN[c] for c in _LONG]
    return result


def short_spectrum() -> np.ndarray:
    """Short training symbol, also HT-STF (17.3.3, 19.3.9.4.5)."""
    result = np.zeros(FFT, dtype=complex)
    result[np.arange(-24, 25, 4)] = np.array([_SIGN[c] for c in _SHORT]) * (1 + 1j) * np.sqrt(13 / 6)
    return result


def ht_long_spectrum() -> np.ndarray:
    """HT-LTF of one stream (19.3.9.4.6), with the power of 52 carriers spread over 56."""
    result = long_spectrum()
    result[[-28, -27]], result[[27, 28]] = 1, -1
    return result * ht_scale()


def ht_scale() -> float:
    """Amplitude of a carrier of 802.11n beside one of 802.11a: 56 share the power of 52."""
    return float(np.sqrt(52 / 56))


def shifted(spectra: np.ndarray, delay) -> np.ndarray:
    """Spectra [..., 64] of bodies delayed by `delay` samples (broadcast against [...]), around the ring."""
    carrier = np.fft.fftfreq(FFT, 1 / FFT)
    return spectra * np.exp(-2j * np.pi / FFT * np.asarray(delay)[..., None] * carrier)


def transmit(spectra: np.ndarray) -> np.ndarray:
    """Symbols' spectra [..., 64] to waves [..., 81]: prefix, body, and the sample that overlaps with the next symbol.

    Unit power where 52 carriers have it.
    """
    body = np.fft.ifft(spectra, axis=-1) * (FFT / np.sqrt(52))
    return np.concatenate([body[..., FFT - CP:], body, body[..., :1]], -1)


def training(shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Short and long training field, complex [161] each, their carriers shifted around the ring by `shift` samples."""
    short = transmit(shifted(short_spectrum(), shift))[CP:CP + FFT]
    long = transmit(shifted(long_spectrum(), shift))[CP:CP + FFT]
    n = np.arange(161)
    return short[n % FFT], long[(n - 32) % FFT]


def joined(parts: list[np.ndarray]) -> np.ndarray:
    """Waves of n + 1 samples each, end to end: in the sample that two share either has half (w_T of 17.3.2.5)."""
    wave = np.zeros(sum(len(p) - 1 for p in parts) + 1, dtype=complex)
    begin = 0
    for part in parts:
        wave[begin:begin + len(part)] += part
        begin += len(part) - 1
        wave[begin] -= 0.5 * part[-1]
        wave[begin - len(part) + 1] -= 0.5 * part[0]
    return wave


@functools.cache
def polarity() -> np.ndarray:
    """Pilots' polarity p_0 .. p_126 (17.3.5.10): the scrambler's output from all ones, +1 for 0."""
    state, result = [1] * 7, []
    for _ in range(127):
        bit = state[6] ^ state[3]
        state = [bit, *state[:6]]
        result.append(1.0 - 2 * bit)
    return np.array(result)


def pilots(form: Format, count: int) -> np.ndarray:
    """Pilots of data symbols 0 .. count - 1, on carriers -21, -7, 7, 21: [count, 4] (17.3.5.10, 19.3.11.10)."""
    n = np.arange(count)
    pattern = np.array([1.0, 1.0, 1.0, -1.0])
    if form.ht:
        return pattern[(n[:, None] + np.arange(4)) % 4] * polarity()[(n + 3) % 127, None] * ht_scale()
    return pattern * polarity()[(n + 1) % 127, None]


def _coded(bits: np.ndarray) -> np.ndarray:
    """Convolutional code of rate 1/2 from state 0 (17.3.5.6): bits [n] to [2 n]."""
    padded = np.concatenate([np.zeros(6, int), bits])
    taps = np.array([[1, 0, 1, 1, 0, 1, 1], [1, 1, 1, 1, 0, 0, 1]])
    windows = np.lib.stride_tricks.sliding_window_view(padded, 7)[:, ::-1]
    return (windows @ taps.T % 2).ravel()


@functools.cache
def _trellis() -> tuple[np.ndarray, np.ndarray]:
    """For each state after a bit (the newest 6, newest most significant) its two predecessors, and signs [64, 2, 2]."""
    states = np.arange(64)
    before = np.stack([(states << 1) & 63, ((states << 1) & 63) | 1], 1)
    signs = np.empty((64, 2, 2))
    for state in states:
        for j, previous in enumerate(before[state]):
            register = [(state >> 5) & 1] + [(previous >> (5 - i)) & 1 for i in range(6)]
            pair = [register[0] ^ register[2] ^ register[3] ^ register[5] ^ register[6],
                    register[0] ^ register[1] ^ register[2] ^ register[3] ^ register[6]]
            signs[state, j] = 2 * np.array(pair) - 1
    return before, signs


def _decoded(soft: np.ndarray) -> np.ndarray:
    """Viterbi decoding [2 n] -> bits [n] of a code that begins and ends in state 0; soft: > 0 for a 1."""
    before, signs = _trellis()
    metric = np.full(64, -np.inf)
    metric[0] = 0
    choice = []
    for pair in soft.reshape(-1, 2):
        total = metric[before] + signs @ pair
        choice.append(total.argmax(1))
        metric = total.max(1)
    state, bits = 0, []
    for taken in reversed(choice):
        bits.append(state >> 5)
        state = before[state, taken[state]]
    return np.array(bits[::-1])


_LONGEST = 1400  # data symbols: 5.484 ms, aPPDUMaxTime, table 19-25
_ORDER = 3 * (np.arange(48) % 16) + np.arange(48) // 16  # interleaver of a BPSK symbol (17.3.5.7)


def signal_points(bits: np.ndarray) -> np.ndarray:
    """Points +-1 [symbols, 48] on LEGACY_DATA of a signal field's bits (24 or 48)."""
    coded = 2.0 * _coded(bits).reshape(-1, 48) - 1
    points = np.empty_like(coded)
    points[:, _ORDER] = coded
    return points


def _read(soft: np.ndarray) -> np.ndarray:
    return _decoded(soft[:, _ORDER].ravel())


def _number(bits: np.ndarray) -> int:
    return int(bits @ (1 << np.arange(len(bits))))


def signal_field(soft: np.ndarray) -> tuple[Format, np.ndarray] | None:
    """Format and bits of the signal field (17.3.4) from soft values [48] on LEGACY_DATA; None unless it is sound."""
    bits = _read(soft[None])
    rate = _RATES.get("".join(map(str, bits[:4])))
    length = _number(bits[5:17])
    if rate is None or bits[:18].sum() % 2 or bits[18:].any() or bits[4] or not length:
        return None
    return Format(rate[0], -(-(16 + 8 * length + 6) // rate[1])), bits


def ht_signal_field(soft: np.ndarray) -> tuple[Format, np.ndarray] | None:
    """Format and bits of HT-SIG (19.3.9.4.3) from soft values [2, 48]; None unless its CRC is right.

    None also for more than one stream, 40 MHz, and more than 1400 symbols.
    """
    bits = _read(soft)
    if not np.array_equal(ht_crc(bits[:34]), bits[34:42]) or bits[42:].any():
        return None
    mcs, length = _number(bits[:7]), _number(bits[8:24])
    if mcs > 7 or bits[7] or bits[28:30].any():
        return None
    alphabet, per_symbol = _MCS[mcs]
    symbols = -(-(16 + 8 * length + 6) // per_symbol)
    return (Format(alphabet, symbols, True, bool(bits[31])), bits) if symbols <= _LONGEST else None


def ht_crc(bits: np.ndarray) -> np.ndarray:
    """The CRC of HT-SIG's first 34 bits, x^8 + x^2 + x + 1, C7 first (19.3.9.4.4)."""
    state = np.ones(8, dtype=int)  # c7 .. c0
    for bit in bits:
        feed = bit ^ state[0]
        state = np.concatenate([state[1:], [0]]) ^ (feed * np.array([0, 0, 0, 0, 0, 1, 1, 1]))
    return 1 - state


def levels(alphabet: int) -> tuple[np.ndarray, np.ndarray]:
    """Levels of the real and of the imaginary axis; points of unit power on average."""
    if alphabet == 0:
        return np.array([-1.0, 1.0]), np.zeros(1)
    size = 2 ** alphabet
    axis = np.arange(1 - size, size, 2) / np.sqrt(2 * (size**2 - 1) / 3)
    return axis, axis


def reach(alphabet: int) -> float:
    """Half the distance between neighbouring levels of an axis."""
    axis = levels(alphabet)[0]
    return float(axis[1] - axis[0]) / 2


def nearest(points: np.ndarray, alphabet: int) -> np.ndarray:
    """The alphabet's points nearest to `points` [...]."""
    real, imaginary = levels(alphabet)
    return (real[np.abs(points.real[..., None] - real).argmin(-1)]
            + 1j * imaginary[np.abs(points.imag[..., None] - imaginary).argmin(-1)])
