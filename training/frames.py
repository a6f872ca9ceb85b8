# SPDX-License-Identifier: GPL-3.0-or-later
"""Fit a frame-synchronised prior to a recording of interference alone: seconds on a CPU, nothing told beforehand.

Lag and cycle come from the cyclic autocorrelation (Gardner, IEEE Signal Process. Mag. 8(2), 1991), the mixing matrix
from FastICA (Hyvarinen, IEEE Trans. Neural Netw. 10, 1999), refit to an alphabet by iterative least squares with
projection (ILSP: Talwar, Viberg and Paulraj, IEEE Trans. Signal Process. 44, 1996).
"""

import argparse
import dataclasses
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from export import power_spectrum, write_prior
from gnuradio.unmix import priors, signals
from gnuradio.unmix.priors import constellation as cons
from gnuradio.unmix.priors.frames import FrameNet, FramePrior

#: Share of the power that a fit may leave unexplained, beyond white noise.
ACCEPTED = 10**-1.5
#: Squared decision error beyond which a component is none of the alphabet: half of what a Gaussian one has.
DOUBTFUL = {"bpsk": 0.2, "qpsk": 0.2, "8psk": 0.13, "16qam": 0.06}


class NoFrames(ValueError):
    """The recording is no train of frames of a known alphabet; the message says in one sentence why."""


@dataclasses.dataclass
class Fit:
    """What fit() found. prior: of unit power. length: cycle, samples. lag: where the frames repeat themselves, samples.

    frequency: carrier offset, cycles/sample. count: symbols per frame. carriers: FFT size where the fit began
    with OFDM's carriers, 0 where with independent components. alphabet: a name from constellation.NAMES.
    residual: share of the power that the model leaves, noise included; noise: share of the power that is white noise.
    starts: frame boundary in each window used, [W]. windows: their indices.
    """

    prior: FramePrior
    carriers: int
    lag: int
    length: int
    frequency: float
    count: int
    alphabet: str
    residual: float
    noise: float
    starts: np.ndarray
    windows: np.ndarray


def fit(windows: np.ndarray, seed: int = 0) -> Fit:
    """Fit a frame prior to windows of interference alone, complex [W, N]; 2560 samples are a good length.

    Windows may differ in frame start and phase, not in carrier frequency and channel. BPSK wants 50 windows, QPSK
    200. Raises NoFrames where no frames are found, or none of a known alphabet.
    """
    windows = np.asarray(windows, dtype=np.complex128)
    power = np.mean(np.abs(windows)**2, 1)
    used = np.flatnonzero(power > 0.1 * np.median(power))  # silence says nothing
    x = windows[used] / math.sqrt(power[used].mean())
    rng = np.random.default_rng(seed)

    lag, length, frequency = _cycle(x)
    x = x * np.exp(-2j * np.pi * frequency * np.arange(x.shape[1]))
    starts = _align(x, lag, length)
    for _ in range(2):
        covariance = _covariance(_frames(x, starts, length))
        count = _dimensions(np.linalg.eigvalsh(covariance))
        starts = _quietest(x, np.linalg.eigh(covariance)[1][:, :length - count])
    frames = _frames(x, starts, length)
    covariance = _covariance(frames)
    spread, basis = np.linalg.eigh(covariance)
    noise = max(float(spread[:length - count].mean()), 0.0)
    spread, basis = spread[length - count:] - noise, basis[:, length - count:]

    pseudo = np.einsum("wni,wnj->wij", frames, frames) / frames.shape[1]
    strength = np.linalg.eigvalsh(np.einsum("wij,vij->wv", pseudo, pseudo.conj()))
    real = len(x) > 1 and strength[-1] > 4 * strength[-2]
    names = ("bpsk",) if real else ("qpsk", "16qam", "8psk")
    attempts = []
    for start in (_carriers, _separate_real if real else _separate):
        mixing = start(frames, basis, spread, lag, noise, rng)
        attempts += [_refit(frames, mixing, name, lag if start is _carriers else 0) for name in names]
        if min(a.residual for a in attempts) - noise / np.mean(np.abs(frames)**2) < ACCEPTED / 10:
            break
    total = np.mean(np.abs(frames)**2)
    least = min(a.residual for a in attempts)
    best = next(a for a in attempts if a.residual < 1.3 * least + 1e-6)  # the simplest that does
    frequency += best.step / (2 * np.pi * length)
    noise_share = float(noise / total)
    if best.residual - noise_share > ACCEPTED:
        raise NoFrames(f"frames of {length} samples were found, but no known alphabet explains them: the best, "
                       f"{best.alphabet}, leaves {10 * math.log10(best.residual):.1f} dB")
    error = np.maximum(best.left - noise, 0) / 2
    error[error < 0.1 * noise + 1e-5] = 0  # cannot be told from noise
    size = np.mean(np.sum(np.abs(best.mixing)**2, 1) + 2 * error)
    prior = FramePrior(best.mixing / math.sqrt(size), best.alphabet, error / size, frequency)
    return Fit(prior, best.carriers, lag, length, float(frequency), best.mixing.shape[1], best.alphabet, best.residual,
               noise_share, starts, used)


def _cycle(x: np.ndarray) -> tuple[int, int, float]:
    """Lag and cycle (samples) of the strongest cyclic autocorrelation, and the carrier offset that the lag shows."""
    some, samples = x[:60], x.shape[1]
    correlation = np.fft.ifft(np.mean(np.abs(np.fft.fft(some, 2 * samples))**2, 0))[:samples // 3]
    size = np.abs(correlation)
    local = np.flatnonzero((size[4:-1] > size[3:-2]) & (size[4:-1] >= size[5:])) + 4
    best = (0.0, 0, 0.0)
    for lag in local[np.argsort(-size[local])[:24]]:
        product = some[:, :-lag] * some[:, lag:].conj()
        density = np.mean(np.abs(np.fft.fft(product - product.mean(1, keepdims=True), 4 * samples))**2, 0)
        first = 4 * 6  # six frames in a window at least
        density = density[first:samples]  # frames of 4 samples at least
        place = int(density.argmax())
        ratio = density[place] / np.median(density)
        if ratio > best[0]:
            best = (ratio, int(lag), 4 * samples / (place + first))
    ratio, lag, period = best
    if ratio < 3 + 15 / math.sqrt(len(some)):
        raise NoFrames("no frames were found: nothing in the recording repeats itself in a cycle")
    product = x[:, :-lag] * x[:, lag:].conj()
    variance = np.var(product, 1).mean()
    scores = {}
    for harmonic in range(1, 6):
        spread = harmonic * period**2 / (8 * samples) + 1
        for cycle in range(math.ceil(harmonic * period - spread), math.floor(harmonic * period + spread) + 1):
            if lag < cycle <= samples // 4:
                whole = product.shape[1] // cycle
                folded = product[:, :whole * cycle].reshape(len(x), whole, cycle).mean(1)
                scores[cycle] = np.var(folded, 1).mean() - variance / whole
    if not scores:
        raise NoFrames("no frames were found: what repeats itself does so over more than a quarter of a window")
    limit = 0.8 * max(scores.values())
    shortest = min(cycle for cycle, score in scores.items() if score > limit)
    near = [cycle for cycle in scores if abs(cycle - shortest) < 0.2 * shortest]
    return lag, max(near, key=scores.get), float(-np.angle(product.sum()) / (2 * np.pi * lag))


def _align(x: np.ndarray, lag: int, length: int) -> np.ndarray:
    """Frame boundary in each window, [W], from the lag product's profile and the frames' covariance."""
    product = (x[:, :-lag] * x[:, lag:].conj()).real
    whole = product.shape[1] // length
    profile = product[:, :whole * length].reshape(len(x), whole, length).mean(1)
    spectrum = np.fft.fft(profile)
    shift = np.round(-np.angle(spectrum[:, 1]) / (2 * np.pi) * length).astype(int) % length
    sample = np.arange(length)
    for _ in range(6):  # each window against the mean of all
        template = np.take_along_axis(profile, (sample + shift[:, None]) % length, 1).mean(0)
        shift = np.fft.ifft(spectrum * np.fft.fft(template - template.mean()).conj()).real.argmax(1)
    two = _covariance(_frames(x, shift, 2 * length, length))  # holds the covariance at every boundary
    volume = [np.linalg.slogdet(two[c:c + length, c:c + length] + 0.01 * np.eye(length))[1] for c in range(length)]
    return (shift + int(np.argmin(volume))) % length


def _frames(x: np.ndarray, starts: np.ndarray, length: int, step: int = 0) -> np.ndarray:
    """Whole frames from each window's start on: [W, n, length], a frame every `step` samples (default: length)."""
    step = step or length
    count = (x.shape[1] - step + 1 - length) // step + 1
    place = starts[:, None, None] + np.arange(count)[:, None] * step + np.arange(length)
    return x[np.arange(len(x))[:, None, None], place]


def _covariance(frames: np.ndarray) -> np.ndarray:
    flat = frames.reshape(-1, frames.shape[-1])
    return flat.T @ flat.conj() / len(flat)


def _dimensions(spread: np.ndarray) -> int:
    """How many of the eigenvalues (ascending) belong to the signal: those above the largest gap, of ratio."""
    down = np.maximum(spread[::-1], 0) + 1e-5 * spread[-1]
    strong = down > 0.05 * (down[0] - down[-1]) + down[-1]
    count = int(strong.sum())
    low, high = max(1, count // 2), min(len(down) - 1, count + 1 + (len(down) - count) // 2)
    return low + int(np.argmax(down[low - 1:high - 1] / down[low:high])) if high > low else max(1, count)


def _quietest(x: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """The start with least energy in the dimensions `empty` [P, D] that frames leave empty, folded over the window."""
    samples, length = x.shape[1], len(empty)
    places = samples - length + 1
    whole = places // length
    response = np.fft.fft(empty.T, samples).conj()
    starts = np.zeros(len(x), dtype=int)
    for i, row in enumerate(np.fft.fft(x)):
        energy = (np.abs(np.fft.ifft(row * response)[:, :whole * length])**2).sum(0)
        starts[i] = energy.reshape(whole, length).sum(0).argmin()
    return starts


def _carriers(frames: np.ndarray, basis: np.ndarray, spread: np.ndarray, lag: int, noise: float,
              rng: np.random.Generator) -> np.ndarray:
    """First mixing matrix [P, K] of OFDM: the exponentials of period `lag` that the frames' subspace holds best."""
    length, count = basis.shape
    waves = np.exp(2j * np.pi * np.outer(np.arange(length), np.arange(lag)) / lag) / math.sqrt(length)
    held = basis.conj().T @ waves  # [K, lag]
    best = np.sort(np.argsort(-np.sum(np.abs(held)**2, 0), kind="stable")[:count])
    held = held[:, best]
    inverse = np.linalg.pinv(held, rcond=1e-3)  # carriers' powers from the covariance: spread = held size^2 held^H
    size = np.sqrt(np.maximum(np.diag(inverse @ np.diag(spread) @ inverse.conj().T).real, 1e-3 * spread.mean()))
    return (basis @ held) * size


def _separate_real(frames: np.ndarray, basis: np.ndarray, spread: np.ndarray, lag: int, noise: float,
                   rng: np.random.Generator) -> np.ndarray:
    """First mixing matrix [P, K] for real symbols: independent components of real and imaginary parts together."""
    pseudo = np.einsum("wni,wnj->wij", frames, frames)
    phase = np.angle(np.linalg.eigh(np.einsum("wij,vij->wv", pseudo, pseudo.conj()))[1][:, -1]) / 2
    flat = (frames * np.exp(-1j * phase)[:, None, None]).reshape(-1, len(basis))
    mixing = _fast_ica(np.concatenate([flat.real, flat.imag], 1), basis.shape[1], noise / 2, rng)
    return mixing[:len(basis)] + 1j * mixing[len(basis):]


def _separate(frames: np.ndarray, basis: np.ndarray, spread: np.ndarray, lag: int, noise: float,
              rng: np.random.Generator) -> np.ndarray:
    """First mixing matrix [P, K] for complex symbols: independent components."""
    rotation = _fast_ica_complex(frames.reshape(-1, len(basis)) @ (basis / np.sqrt(spread)).conj(), rng)
    return (basis * np.sqrt(spread)) @ rotation.conj().T


def _fast_ica(x: np.ndarray, count: int, noise: float, rng: np.random.Generator, sweeps: int = 100) -> np.ndarray:
    """Mixing matrix [D, count] of real data [n, D] by symmetric FastICA with kurtosis. noise: its variance."""
    covariance = x.T @ x / len(x)
    spread, basis = np.linalg.eigh(covariance)
    spread, basis = np.maximum(spread[-count:] - noise, 1e-3 * spread[-1]), basis[:, -count:]
    z = x @ (basis / np.sqrt(spread))
    own = z.T @ z / len(z)
    rotation = np.linalg.qr(rng.standard_normal((count, count)))[0]
    for _ in range(sweeps):
        y = z @ rotation.T
        new = (y**3).T @ z / len(z) - 3 * (y**2).mean(0)[:, None] * (rotation @ own)
        left, _, right = np.linalg.svd(new)
        new = left @ right
        settled = np.abs((new * rotation).sum(1)).min() > 1 - 1e-6
        rotation = new
        if settled:
            break
    return (basis * np.sqrt(spread)) @ rotation.T


def _fast_ica_complex(z: np.ndarray, rng: np.random.Generator, sweeps: int = 100) -> np.ndarray:
    """Unitary rotation [K, K] of whitened circular data [n, K] to independent components, as _fast_ica."""
    count = z.shape[1]
    own = z.T @ z.conj() / len(z)
    rotation = np.linalg.qr(rng.standard_normal((count, count)) + 1j * rng.standard_normal((count, count)))[0]
    for _ in range(sweeps):
        y = z @ rotation.T
        size = np.abs(y)**2
        new = (y * size).T @ z.conj() / len(z) - 2 * size.mean(0)[:, None] * (rotation @ own)
        left, _, right = np.linalg.svd(new)
        new = left @ right
        settled = np.abs((new * rotation.conj()).sum(1)).min() > 1 - 1e-6
        rotation = new
        if settled:
            break
    return rotation


@dataclasses.dataclass
class _Refit:
    alphabet: str
    carriers: int  # FFT size where the mixing started from carriers, else 0
    mixing: np.ndarray  # [P, K]
    step: float  # phase advance per frame, radians
    residual: float  # share of the power
    left: np.ndarray  # [P], power at each sample of the frame


def _refit(frames: np.ndarray, mixing: np.ndarray, alphabet: str, carriers: int, sweeps: int = 20) -> _Refit:
    """ILSP: decide the symbols, refit the mixing, each window's phase and the drift, until nothing moves.

    The points' own phases and the windows' come first, from the moment of the alphabet's symmetry.
    """
    table, symmetry = cons.points(alphabet), cons.SYMMETRY[alphabet]
    n = np.arange(frames.shape[1])[:, None] + np.arange(frames.shape[2]) / frames.shape[2]
    powers = _points(frames, mixing)**symmetry
    step = float(np.angle((powers[:, 1:] * powers[:, :-1].conj()).sum())) / symmetry
    frames = frames * np.exp(-1j * step * n)
    powers = _points(frames, mixing)**symmetry
    moment = powers.mean(1)  # [W, K]
    phase = np.angle(np.linalg.eigh(moment @ moment.conj().T)[1][:, -1])
    own = np.angle((powers * np.exp(-1j * phase)[:, None, None]).mean((0, 1)) * (-1 if symmetry == 4 else 1))
    mixing, turn = mixing * np.exp(1j * own / symmetry), np.exp(1j * phase / symmetry)
    power, before = np.mean(np.abs(frames)**2), np.inf
    for sweep in range(sweeps):
        flat = (frames * turn.conj()[:, None, None]).reshape(-1, frames.shape[2])
        points = _points(flat, mixing, alphabet == "bpsk")
        symbols = table[_nearest(points, alphabet)]
        good = (np.mean(np.abs(points - symbols)**2, 0) < DOUBTFUL[alphabet]) | (sweep < 4)  # let all settle first
        if not good.any():
            break
        symbols = symbols[:, good]
        gram, cross = symbols.T @ symbols.conj(), flat.T @ symbols.conj()
        mixing = np.linalg.solve(gram.T + 1e-9 * len(flat) * np.eye(len(gram)), cross.T).T
        model = (symbols @ mixing.T).reshape(frames.shape)
        match = np.sum(frames * model.conj(), 2)  # [W, n]
        drift = float(np.angle(np.sum(match[:, 1:] * match[:, :-1].conj())))
        step, frames, match = step + drift, frames * np.exp(-1j * drift * n), match * np.exp(-1j * drift * n[:, 0])
        turn = np.exp(1j * np.angle(match.sum(1)))
        gap = np.mean(np.abs(frames - model * turn[:, None, None])**2, (0, 1))
        residual = float(gap.mean() / power)
        if sweep > 4 and before - residual < 1e-7 + 1e-3 * residual:
            break
        before = residual
    if not good.any():
        return _Refit(alphabet, carriers, mixing, step, 1.0, np.full(frames.shape[2], power))
    return _Refit(alphabet, carriers, mixing, step, residual, gap)


def _points(frames: np.ndarray, mixing: np.ndarray, real: bool = False) -> np.ndarray:
    """Least-squares symbols [..., K] of frames [..., P]. real: symbols are real."""
    if not real:
        return frames @ np.linalg.pinv(mixing).T
    inverse = np.linalg.pinv(np.concatenate([mixing.real, mixing.imag]))
    return np.concatenate([frames.real, frames.imag], -1) @ inverse.T + 0j


def _nearest(points: np.ndarray, alphabet: str) -> np.ndarray:
    """Index of the nearest point of the alphabet."""
    bits = cons.demodulate(points, alphabet)
    width = cons.bits_per_symbol(alphabet)
    return bits.reshape(*points.shape, width) @ (1 << np.arange(width - 1, -1, -1))


def train_net(found: Fit, waves: np.ndarray, seconds: float, seed: int = 0, batch: int = 32, rate: float = 4e-3
              ) -> FrameNet:
    """Train a FrameNet on the windows [W, N] (unit power) that `found` was fitted to, which gives start and phase only.

    Noise variances log-uniform from 0.01 to 3 per real channel; each window's loss is relative to that of the best
    scaling. Phases are taken from the whole window, where they are known up to the alphabet's symmetry only: that turn
    permutes the symbols, and tanh has the same symmetry.
    """
    torch.manual_seed(seed)
    planes = torch.from_numpy(np.stack([waves.real, waves.imag], 1).astype(np.float32))
    with torch.no_grad():
        side = torch.cat([found.prior.synchronise(part, torch.zeros(0, 2)) for part in planes.split(64)])
    net = FrameNet(found.prior, found.count + 8 if found.alphabet == "bpsk" else 2 * found.count + 8)
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, rate)
    began, progress = time.monotonic(), 0.0
    while progress < 1:
        progress = (time.monotonic() - began) / seconds
        optimizer.param_groups[0]["lr"] = rate * max(0.01, 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
        pick = torch.randint(len(planes), (batch,))
        v = 0.01 * 300 ** torch.rand(batch)
        x = (planes[pick] + v.sqrt()[:, None, None] * torch.randn(batch, *planes.shape[1:])) * torch.rsqrt(
            1 + v)[:, None, None]
        error = (net(x, 1 / (1 + v), side[pick]) - planes[pick]).square().mean((1, 2))
        loss = (error * (0.5 + v) / (0.5 * v)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    return net.requires_grad_(False)


def card(found: Fit, windows: np.ndarray, name: str, training: str, licence: str,
         simulation: str | None = None) -> dict:
    """prior.json of a fitted prior. windows: what it was fitted to. simulation: closed form of the same signal."""
    return {"format": 1, "name": name, "kind": "frames", "window": 0, "predicts": "signal", "side": ["start", "phase"],
            "synchronised": False, "synchronise": True, "frame": found.length, "band": None,
            "constellation": found.alphabet, "alpha_bar": [1 / 6, 1 / (1 + 1e-3)],
            "psd": power_spectrum(windows), "training": training, "licence": licence, "version": "1",
            **({"simulation": simulation} if simulation else {})}


def main(argv: list[str] | None = None) -> int:
    """Fit a prior to simulated CP-OFDM, as the shipped ones were."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("specification", help="of the closed form, such as cp-ofdm:qpsk,fft=64,cp=16,active=56")
    parser.add_argument("--windows", type=int, default=400, help="of 2560 samples, random start and phase (400)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--network", type=float, metavar="SECONDS", help="train a FrameNet for so long instead")
    parser.add_argument("--output", required=True, help="prior file to write; its stem is the prior's name")
    args = parser.parse_args(argv)
    try:
        module = priors.parse(args.specification).module
        if not hasattr(module, "cp"):
            raise ValueError(f"{args.specification} is no cp-ofdm")
        waves, _ = signals.cp_ofdm(np.random.default_rng(args.seed), args.windows, 2560, module.constellation,
                                   module.fft, module.cp, module.active)
        found = fit(waves, args.seed)
        command = f"training/frames.py {args.specification} --windows {args.windows} --seed {args.seed}"
        how = "fitted, nothing told beforehand"
        if args.network:
            command, how = f"{command} --network {args.network:g}", "FrameNet, trained by gradient"
        module = train_net(found, waves, args.network, args.seed) if args.network else found.prior
        write_prior(module.eval().requires_grad_(False),
                    card(found, waves, Path(args.output).stem, f"{command}: {how}", "GPL-3.0-or-later",
                         args.specification), args.output)
    except (ValueError, OSError) as error:
        print(f"frames.py: {error}", file=sys.stderr)
        return 2
    print(f"{args.output}: frames of {found.length} samples, {found.count} symbols of {found.alphabet}, residual "
          f"{10 * math.log10(found.residual + 1e-12):.1f} dB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
