# SPDX-License-Identifier: GPL-3.0-or-later
"""The frame-synchronised prior against brute force: posterior means, cut frames, start and phase, gradients."""

import io
import itertools
import math
import tempfile
import unittest
from pathlib import Path

import numpy as np
import torch
from gnuradio.unmix import priors, signals
from gnuradio.unmix.priors import constellation as cons
from gnuradio.unmix.priors.cp_ofdm import active_carriers
from gnuradio.unmix.priors.frames import FrameNet, FramePrior
from gnuradio.unmix.priors.prior import PriorError, from_module, to_bytes

INFO = {"format": 1, "name": "frames", "kind": "frames", "side": ["start", "phase"], "synchronised": False,
        "synchronise": True, "frame": 80, "training": "none", "licence": "GPL-3.0-or-later"}
SOI_BAND = (-0.046875, 0.046875)


def ofdm_mixing(fft=64, cp=16, active=56):
    """The mixing matrix [fft + cp, active] of CP-OFDM of unit power."""
    turns = np.outer(np.arange(fft + cp) - cp, active_carriers(fft, active)) / fft
    return np.exp(2j * np.pi * turns) / math.sqrt(active)


def planes(x):
    return torch.from_numpy(np.stack([x.real, x.imag], -2).astype(np.float32))


def wave(y):
    return y[:, 0].numpy() + 1j * y[:, 1].numpy()


def train(rng, mixing, alphabet, frames, start, samples):
    """A frame train [samples] whose first boundary lies at `start`."""
    length, count = mixing.shape
    bits = rng.integers(0, 2, (frames, count * cons.bits_per_symbol(alphabet)))
    whole = (cons.modulate(bits, alphabet) @ mixing.T).ravel()
    return whole[(length - start) % length:][:samples]


class Denoising(unittest.TestCase):
    def test_orthogonal_mixing_gives_the_exact_posterior_mean(self):
        rng = np.random.default_rng(0)
        length, count = 5, 2
        for alphabet in cons.NAMES:
            mixing = np.linalg.qr(rng.standard_normal((length, count)) + 1j * rng.standard_normal((length, count)))[0]
            if alphabet == "bpsk":  # orthogonal real and imaginary parts together
                wide = np.linalg.qr(rng.standard_normal((2 * length, count)))[0]
                mixing = wide[:length] + 1j * wide[length:]
            mixing = mixing * math.sqrt(length / count)
            words = np.array(list(itertools.product(cons.points(alphabet), repeat=count))) @ mixing.T  # [M, P]
            module = FramePrior(mixing, alphabet).eval()
            start, phase, frames = 2, 0.7, 4
            side = torch.tensor([[start, phase]] * 3)
            for v in (0.02, 0.3, 2.0):
                b = np.stack([train(rng, mixing, alphabet, frames + 2, start, start + frames * length + 1)
                              for _ in range(3)]) * np.exp(1j * phase)
                r = b + signals.noise(rng, b.shape, 2 * v)
                abar = 1 / (1 + v)
                with torch.no_grad():
                    found = wave(module(planes(r * math.sqrt(abar)), torch.full((3,), abar), side))
                for row in range(3):
                    for n in range(frames):
                        place = slice(start + n * length, start + (n + 1) * length)
                        gap = np.abs(r[row, place] * np.exp(-1j * phase) - words)**2
                        weight = np.exp(-(gap.sum(1) - gap.sum(1).min()) / (2 * v))
                        exact = weight @ words / weight.sum() * np.exp(1j * phase)
                        np.testing.assert_allclose(found[row, place], exact, atol=2e-3)

    def test_cut_frames_follow_a_dense_gaussian_solve_at_high_noise(self):
        rng = np.random.default_rng(1)
        for alphabet in ("bpsk", "qpsk"):
            mixing = ofdm_mixing()
            module = FramePrior(mixing, alphabet, sweeps=1).eval()
            for start, v in ((7, 20.0), (33, 20.0), (79, 20.0)):
                r = signals.noise(rng, (2, 400), 2 * v)
                with torch.no_grad():
                    found = wave(module(planes(r / math.sqrt(1 + v)), torch.full((2,), 1 / (1 + v)),
                                        torch.tensor([[float(start), 0.0]] * 2)))
                rows = mixing[80 - start:]  # of the samples seen at the beginning
                rows = np.concatenate([rows.real, rows.imag]) if alphabet == "bpsk" else rows
                seen = r[:, :start]
                seen = np.concatenate([seen.real, seen.imag], 1) if alphabet == "bpsk" else seen
                noise = v if alphabet == "bpsk" else 2 * v
                covariance = rows @ rows.conj().T
                dense = np.linalg.solve(covariance + noise * np.eye(len(rows)), seen.T)
                exact = (covariance @ dense).T
                exact = exact[:, :start] + 1j * exact[:, start:] if alphabet == "bpsk" else exact
                np.testing.assert_allclose(found[:, :start], exact, atol=0.05 * np.abs(exact).max())

    def test_error_is_at_most_the_closed_forms(self):
        rng = np.random.default_rng(2)
        for alphabet in ("bpsk", "qpsk"):
            prior = from_module(FramePrior(ofdm_mixing(), alphabet).requires_grad_(False), INFO)
            closed = priors.parse(f"cp-ofdm:{alphabet}")
            b, side = signals.cp_ofdm(rng, 64, 2560, alphabet)
            for v in (0.02, 0.1, 0.5, 2.57):
                abar = np.full(64, 1 / (1 + v), np.float32)
                x = ((b + math.sqrt(v) * signals.noise(rng, b.shape, 2.0)) / math.sqrt(1 + v)).astype(np.complex64)
                error, bound = (np.mean(np.abs(p.denoise(x, abar, side.astype(np.float32)) - b)**2)
                                for p in (prior, closed))
                self.assertLess(error, 1.05 * bound, f"{alphabet} at v = {v}")

    def test_model_error_is_left_to_the_data(self):
        mixing, error = ofdm_mixing(), np.zeros(80)
        error[[0, 79]] = 0.5
        rng = np.random.default_rng(3)
        b = train(rng, mixing, "qpsk", 7, 0, 480)[None]
        b[:, 80] += 1.0  # the first sample of a frame deviates from the model
        with torch.no_grad():
            found = wave(FramePrior(mixing, "qpsk", error)(planes(b / math.sqrt(1.01)), torch.full((1,), 1 / 1.01),
                                                          torch.zeros(1, 2)))
        np.testing.assert_allclose(found, b, atol=0.05)

    def test_carrier_offset_and_levels_per_row(self):
        rng = np.random.default_rng(4)
        b, side = signals.cp_ofdm(rng, 2, 2560, "qpsk")
        turned = b * np.exp(2j * np.pi * 1.7e-3 * np.arange(2560))
        module = FramePrior(ofdm_mixing(), "qpsk", frequency=1.7e-3)
        abar = torch.tensor([0.999, 0.5])
        x = turned * np.sqrt(abar.numpy())[:, None] + signals.noise(rng, b.shape, 2.0) * np.sqrt(
            1 - abar.numpy())[:, None]
        with torch.no_grad():
            both = module(planes(x), abar, torch.tensor(side).float())
            alone = module(planes(x[1:]), abar[1:], torch.tensor(side[1:]).float())
        self.assertLess(np.mean(np.abs(wave(both)[0, 80:-80] - turned[0, 80:-80])**2), 1e-4)
        torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-4)

    def test_large_frames_have_a_bounded_table(self):
        module = FramePrior(ofdm_mixing(256, 64, 200), "qpsk")
        self.assertGreater(module.stride, 1)
        self.assertLess(module.vectors.numel(), 4.2e6)
        rng = np.random.default_rng(5)
        b, side = signals.cp_ofdm(rng, 2, 2560, "qpsk", 256, 64, 200)
        with torch.no_grad():
            found = wave(module(planes(b / math.sqrt(1.01)), torch.full((2,), 1 / 1.01), torch.tensor(side).float()))
        self.assertLess(np.mean(np.abs(found - b)**2), 0.02)

    def test_impossible_parameters(self):
        mixing = ofdm_mixing()
        for arguments in ((mixing[:56], "qpsk"), (mixing, "64qam"), (mixing, "qpsk", np.full(80, -1.0)),
                          (mixing * np.nan, "qpsk")):
            with self.assertRaises(ValueError):
                FramePrior(*arguments)
        with self.assertRaisesRegex(ValueError, "at least 159 samples"):
            FramePrior(mixing, "qpsk")(torch.zeros(1, 2, 100), torch.full((1,), 0.5), torch.zeros(1, 2))


class Synchronising(unittest.TestCase):
    def test_start_and_phase_in_mixtures(self):
        rng = np.random.default_rng(6)
        for alphabet in cons.NAMES:
            module = FramePrior(ofdm_mixing(), alphabet)
            for sir_db in (-24, -3):
                b, side = signals.cp_ofdm(rng, 50, 2560, alphabet)
                soi = signals.linear_modulation(rng, 50, 160)[0]
                y = soi + signals.kappa(sir_db) * b + signals.noise(rng, b.shape, 0.01)
                with torch.no_grad():
                    found = module.synchronise(planes(y), torch.tensor([SOI_BAND])).numpy()
                np.testing.assert_array_equal(found[:, 0], side[:, 0])
                turn = module.symmetry
                off = np.angle(np.exp(1j * turn * (found[:, 1] - side[:, 1]))) / turn
                self.assertLess(np.abs(off).max(), 0.05 if alphabet == "16qam" else 0.01, f"{alphabet} {sir_db}")

    def test_a_prior_file_synchronises_itself(self):
        rng = np.random.default_rng(7)
        b, side = signals.cp_ofdm(rng, 70, 1280, "bpsk")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "frames.pt"
            path.write_bytes(to_bytes(FramePrior(ofdm_mixing(), "bpsk"), INFO))
            prior = priors.load(str(path))
        self.assertTrue(prior.learned)
        found = prior.side_information(b, [priors.parse("rrc:qpsk")])
        self.assertEqual((found.shape, found.dtype), ((70, 2), np.float32))
        np.testing.assert_array_equal(found[:, 0], side[:, 0])
        with self.assertRaisesRegex(PriorError, "at least 159 samples"):
            prior.side_information(b[:, :158], [])
        abar = np.full(70, 0.9, np.float32)
        x = (math.sqrt(0.9) * b + math.sqrt(0.1) * signals.noise(rng, b.shape, 2.0)).astype(np.complex64)
        blind, told = prior.denoise(x, abar), prior.denoise(x, abar, side.astype(np.float32))
        self.assertLess(np.mean(np.abs(blind - told)**2), 0.02)

    def test_metadata_must_fit(self):
        for change in ({"synchronise": 1}, {"frame": None}, {"side": []}):
            with self.assertRaises(PriorError):
                from_module(FramePrior(ofdm_mixing(), "bpsk"), INFO | change)


class Script(unittest.TestCase):
    def test_script_is_eager_and_gradients_are_right(self):
        rng = np.random.default_rng(8)
        for alphabet in cons.NAMES:
            mixing = (rng.standard_normal((6, 3)) + 1j * rng.standard_normal((6, 3))) / math.sqrt(6)
            module = FramePrior(mixing, alphabet, np.linspace(0.0, 0.1, 6)).eval()
            scripted = torch.jit.load(io.BytesIO(to_bytes(module, INFO)))
            x, abar = torch.randn(2, 2, 40), torch.tensor([0.3, 0.8])
            side = torch.tensor([[0.0, 0.3], [4.0, -1.0]])
            for s in (side, torch.zeros(2, 0)):
                torch.testing.assert_close(scripted(x, abar, s), module(x, abar, s), atol=1e-5, rtol=1e-4)
            double, given = module.double(), (abar.double(), side.double())
            self.assertTrue(torch.autograd.gradcheck(lambda t, m=double, g=given: m(t, *g)[:, :, ::7],
                                                     x.double().requires_grad_(True), atol=1e-4, nondet_tol=1e-9))

    def test_parameters_train(self):
        rng = np.random.default_rng(9)
        mixing = ofdm_mixing(16, 4, 12)
        module = FramePrior(mixing * (1 + 0.2 * rng.standard_normal(12)), "bpsk")
        optimizer = torch.optim.Adam(module.parameters(), 3e-3)
        b, side = (torch.tensor(a) for a in signals.cp_ofdm(rng, 64, 320, "bpsk", 16, 4, 12))
        target, losses = planes(b.numpy()), []
        for _ in range(40):
            x = math.sqrt(0.8) * target + math.sqrt(0.2) * torch.randn(target.shape)
            loss = (module(x, torch.full((64,), 0.8), side.float()) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        self.assertLess(np.mean(losses[-5:]), 0.8 * np.mean(losses[:5]))
        module.tabulate()

    def test_network_learns_from_a_random_start(self):
        rng = np.random.default_rng(10)
        torch.manual_seed(0)
        module = FrameNet(FramePrior(ofdm_mixing(16, 4, 12), "bpsk"), 16)
        self.assertTrue(all(not p.requires_grad for p in module.prior.parameters()))
        parameters = [p for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(parameters, 1e-2)
        b, side = (torch.tensor(a) for a in signals.cp_ofdm(rng, 128, 320, "bpsk", 16, 4, 12))
        target = planes(b.numpy())
        for _ in range(400):
            x = (target + math.sqrt(0.1) * torch.randn(target.shape)) / math.sqrt(1.1)
            loss = (module(x, torch.full((128,), 1 / 1.1), side.float()) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.assertLess(loss.item(), 0.02)  # the best scaling: 0.083
        prior = from_module(module.requires_grad_(False), INFO | {"frame": 20})
        np.testing.assert_array_equal(prior.side_information(b.numpy(), [])[:, 0], side[:, 0])


if __name__ == "__main__":
    unittest.main()
