# SPDX-License-Identifier: GPL-3.0-or-later
"""Probe a prior as arXiv 2306.14411, Appendix D: draw samples from it by reverse diffusion and demodulate them.

    python training/probe.py rrc-qpsk --output rrc-qpsk_samples.png

Ancestral sampling on the paper's schedule, beta = linspace(1e-4, 0.05, 50). Its last level, alpha_bar = 0.28 (v = 2.6),
is far from pure noise: the schedule goes on with beta = 0.05 to the lowest alpha_bar that the prior was trained on
(closed forms: 0.001) and leaves out levels above the highest. It starts from the marginal that a Gaussian signal of
the prior's spectrum has at that level. Prints the error vector magnitude (EVM) of what the samples carry and how evenly
they use the constellation, or, where it is not known what they carry, how far their spectrum is from the prior's. Exit
status 2: bad input, one sentence.
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import torch
from diffwave import alpha_bars
from gnuradio.unmix import demodulation, estimators, priors, signals
from gnuradio.unmix.priors import constellation as cons
from gnuradio.unmix.priors.cp_ofdm import active_carriers
from gnuradio.unmix.priors.gaussian import expected_spectrum, spectrum
from gnuradio.unmix.unmix_python import cuda_available
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "apps"))
import benchmark

CLOSED_FORM_RANGE = (1e-3, 1 - 1e-4)  # alpha_bar; as good as pure noise, and the paper's first level


def levels(prior: priors.Prior, steps: int | None = None) -> np.ndarray:
    """alpha_bar of the levels, rising from the noisiest, within what the prior was trained on: float64 [n].

    steps: that many levels with v = (1 - alpha_bar) / alpha_bar even in its logarithm instead of the paper's. Raises
    ValueError for steps below 2.
    """
    low, high = prior.info.get("alpha_bar") or CLOSED_FORM_RANGE
    if steps is not None:
        if steps < 2:
            raise ValueError("--steps must be at least 2")
        return 1 / (1 + np.geomspace((1 - low) / low, (1 - high) / high, steps))
    schedule = alpha_bars(50).numpy()
    more = max(0, math.ceil(math.log(low / schedule[-1]) / math.log(0.95)))
    schedule = np.concatenate([schedule, schedule[-1] * 0.95 ** np.arange(1, more + 1)])
    inside = schedule[(schedule > low * 1.001) & (schedule <= high)]
    return np.append(inside, low)[::-1].copy()


def sample(prior: priors.Prior, count: int, seed: int = 0, steps: int | None = None, device: str = "cpu") -> np.ndarray:
    """Samples of a prior by ancestral sampling (Ho et al., arXiv 2006.11239, equation 7): complex64 [count, N].

    N is the prior's window, 2560 where it takes any. The answer of the last call is the sample, without noise. Raises
    ValueError for fewer than one sample or two steps.
    """
    if count < 1:
        raise ValueError("--count must be at least 1")
    rng, length, schedule = np.random.default_rng(seed), prior.window or 2560, levels(prior, steps)
    engine = prior.engine(device)
    density = np.ones(2 * length) if prior.info.get("psd") is None else prior.psd(2 * length)
    white = np.fft.fft(signals.noise(rng, (count, 2 * length), 1.0))
    gauss = np.fft.ifft(white * np.sqrt(density))[:, :length]  # cut from a longer one: the transform is periodic
    shape = (count, length)
    x = np.sqrt(schedule[0]) * gauss + np.sqrt(1 - schedule[0]) * signals.noise(rng, shape, 2.0)
    bar = tqdm(range(len(schedule)), desc=prior.name, leave=False, disable=not sys.stderr.isatty())
    for i in bar:
        now = schedule[i]
        mean = engine.denoise(x.astype(np.complex64), np.full(count, now, np.float32), None)
        if i + 1 < len(schedule):
            after = schedule[i + 1]
            alpha = now / after  # of the step from `after` to `now`
            x = (np.sqrt(after) * (1 - alpha) * mean + np.sqrt(alpha) * (1 - after) * x) / (1 - now)
            x = x + np.sqrt((1 - after) / (1 - now) * (1 - alpha)) * signals.noise(rng, shape, 2.0)
    return mean


def linear_symbols(waves: np.ndarray, spec: str, free: bool) -> np.ndarray:
    """Matched-filter outputs complex [W, n] of an SOI `rrc:...`, away from the ends, with timing and phase as given.

    free: they are not known; take the likeliest.
    """
    signal = benchmark.SoiSignal(spec, free)
    truth = np.tile([signal.modulation["first"], 0.0], (len(waves), 1))
    if free:
        planes = torch.from_numpy(np.stack([waves.real, waves.imag], 1))
        module = priors.parse(spec).module
        truth = torch.stack(module.likeliest(planes, torch.full((len(waves),), 0.9)), 1).double().numpy()
        truth[:, 0] %= signal.sps
    waves = waves[:, :waves.shape[1] // signal.sps * signal.sps]
    return signal.symbols(waves, truth)[:, signal.span // 2:-(signal.span // 2)]


def ofdm_symbols(waves: np.ndarray, spec: str) -> np.ndarray:
    """Points complex [W, n] on the active carriers of the complete symbols of `cp-ofdm:...`, derotated.

    Start and phase are estimated from each window as if all else were known.
    """
    module = priors.parse(spec).module
    side = estimators.ofdm_start_and_phase(waves, module)
    points = []
    for wave, (start, phase) in zip(waves, side, strict=True):
        whole = (len(wave) - int(start)) // module.length
        frames = wave[int(start):int(start) + whole * module.length].reshape(whole, module.length)
        bodies = np.fft.fft(frames[:, module.cp:]) * (math.sqrt(module.active) / module.fft)
        points.append((bodies[:, active_carriers(module.fft, module.active)] * np.exp(-1j * phase)).ravel())
    least = min(map(len, points))
    return np.array([p[:least] for p in points])


def spectral_error(waves: np.ndarray, prior: priors.Prior, bins: int = 64) -> float:
    """Root-mean-square difference (dB) of the samples' spectrum from the prior's, over bins within 20 dB of its top."""
    measured = np.mean([spectrum(wave, bins) for wave in waves], axis=0)
    expected = expected_spectrum(prior.psd(4 * bins), bins)
    strong = expected > 0.01 * expected.max()
    return float(np.sqrt(np.mean((10 * np.log10(measured[strong] / expected[strong])) ** 2)))


def probe(prior: priors.Prior, spec: str, waves: np.ndarray) -> dict:
    """What samples complex64 [W, N] carry: power, and points [W, n] with their evm (ratio), evm_each, and
    share, those of the rarest and the commonest point of the constellation; or spectral_error_db.

    spec: the text that gave the prior. Raises ValueError where nothing is known to compare with.
    """
    closed = benchmark.closed_form(prior, spec)
    found = {"power": float(np.mean(np.abs(waves) ** 2)), "signal": closed}
    if closed is None:
        return found | {"spectral_error_db": spectral_error(waves, prior)}
    if closed.startswith("rrc:"):
        points = linear_symbols(waves, closed, benchmark.timing_is_free(prior))
        shape = priors.parse(closed).modulation
    else:
        points = ofdm_symbols(waves, closed)
        shape = {"constellation": priors.parse(closed).info["constellation"]}
    labels = np.abs(points[..., None] - cons.points(shape["constellation"])).argmin(-1)
    share = np.bincount(labels.ravel(), minlength=len(cons.points(shape["constellation"]))) / labels.size
    return found | {"points": points, "evm": demodulation.evm(points, shape), "constellation": shape["constellation"],
                    "share": (float(share.min()), float(share.max())),
                    "evm_each": [demodulation.evm(p, shape) for p in points]}


def draw(prior: priors.Prior, waves: np.ndarray, found: dict, path: Path) -> None:
    """Draw the samples: constellations before and behind the receiver, or waveform and spectrum."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    shown = waves[:6]
    figure, axes = plt.subplots(2, len(shown), figsize=(1.9 * len(shown) + 0.6, 4.2), layout="constrained",
                                squeeze=False)
    if "points" in found:
        ideal = cons.points(found["constellation"])
        behind = "matched filter" if found["signal"].startswith("rrc:") else "OFDM receiver"
        for column, (wave, points) in enumerate(zip(shown, found["points"], strict=False)):
            for axis, values in zip(axes[:, column], (wave[::2], points), strict=True):
                axis.plot(values.real, values.imag, ".", markersize=2, alpha=0.5)
                axis.plot(ideal.real, ideal.imag, "k+")
                limit = max(1.6, min(3, 1.05 * np.abs(wave).max()))
                axis.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
            axes[1, column].set_xlabel(f"EVM {100 * found['evm_each'][column]:.1f} %", fontsize=9)
        axes[0, 0].set_ylabel("samples")
        axes[1, 0].set_ylabel(f"behind the {behind}")
    else:
        bins = 64
        expected = np.fft.fftshift(expected_spectrum(prior.psd(4 * bins), bins))
        for column, wave in enumerate(shown):
            axes[0, column].plot(wave.real[:400], lw=0.6)
            axes[0, column].plot(wave.imag[:400], lw=0.6)
            axes[0, column].set(xlabel="sample", ylim=(-3, 3), yticks=[] if column else [-2, 0, 2])
            frequency = np.fft.fftshift(np.fft.fftfreq(bins))
            for values, label in ((np.fft.fftshift(spectrum(wave, bins)), "sample"), (expected, "prior's spectrum")):
                axes[1, column].plot(frequency, 10 * np.log10(np.maximum(values, 1e-6)), lw=0.8, label=label)
            axes[1, column].set(xlabel="cycles/sample", ylim=(-40, 12), yticks=[] if column else [-40, -20, 0])
        axes[0, 0].set_ylabel("real and imaginary")
        axes[1, 0].set_ylabel("dB")
        axes[1, 0].legend(fontsize=7)
    figure.suptitle(f"samples of {prior.name}", fontsize=11)
    figure.savefig(path, dpi=100)
    plt.close(figure)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        """One sentence and status 2, without argparse's usage text."""
        self.exit(2, f"{self.prog}: {message}\n")


def main(argv=None) -> int:
    parser = _Parser(prog="probe.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prior", help="a specification, as separate_file.py takes it")
    parser.add_argument("--count", type=int, default=6, help="samples (default %(default)s); six are drawn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="levels, v even in its logarithm (default: the paper's schedule)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--output", type=Path, required=True, metavar="PNG")
    args = parser.parse_args(argv)
    try:
        if args.output.suffix.lower() != ".png" or not args.output.absolute().parent.is_dir():
            raise ValueError(f"--output {args.output} must be a .png file in a folder that exists")
        if args.seed < 0:
            raise ValueError("--seed must be at least 0")
        prior = priors.parse(args.prior)
        if prior.info.get("psd") is None and benchmark.closed_form(prior, args.prior) is None:
            raise ValueError(f"the prior {prior.name} says neither what its signal is nor its spectrum")
        device = ("cuda" if cuda_available() else "cpu") if args.device == "auto" else args.device
        waves = sample(prior, args.count, args.seed, args.steps, device)
        found = probe(prior, args.prior, waves)
        draw(prior, waves, found, args.output)
    except (ValueError, OSError) as error:
        print(f"probe.py: {error}", file=sys.stderr)
        return 2
    schedule = levels(prior, args.steps)
    told = (f"EVM {100 * found['evm']:.2f} % over {found['points'].size} points, of which each of the constellation's "
            f"has {100 * found['share'][0]:.1f} to {100 * found['share'][1]:.1f} %" if "points" in found else
            f"spectrum {found['spectral_error_db']:.2f} dB from the prior's")
    print(f"{prior.name}: {args.count} samples, {len(schedule)} levels from v = {1 / schedule[0] - 1:.3g} to "
          f"{1 / schedule[-1] - 1:.2g}, {told}, power {found['power']:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
