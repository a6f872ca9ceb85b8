# SPDX-License-Identifier: GPL-3.0-or-later
"""The learned priors that come with the package: what their cards claim, beside the closed form (the bound)."""

import io
import json
import unittest
from pathlib import Path

import numpy as np
import torch
from gnuradio.unmix import demodulation, priors, separators, signals
from gnuradio.unmix.priors.spec import SHIPPED

CLOSED_FORM = {"rrc-qpsk": "rrc:qpsk,sps=16,rolloff=0.5,span=8"}


def smoothed(rng, waves, v):
    """Windows x = sqrt(abar) s + sqrt(1 - abar) z at noise variance v per channel, relative to the signal."""
    alpha_bar = np.full(len(waves), 1 / (1 + v), np.float32)
    z = signals.noise(rng, waves.shape, 2.0)
    return (np.sqrt(alpha_bar)[:, None] * waves + np.sqrt(1 - alpha_bar)[:, None] * z).astype(np.complex64), alpha_bar


class ShippedPriors(unittest.TestCase):
    def test_each_has_a_card_and_a_test_here(self):
        self.assertEqual(set(priors.shipped()), set(CLOSED_FORM))
        for name in priors.shipped():
            file = SHIPPED / f"{name}.pt"
            self.assertLess(file.stat().st_size, 30e6)
            card = file.with_suffix(".md").read_text()
            self.assertIn("training/train.py", card)
            self.assertEqual(priors.parse(name).name, name)

    def test_engine_and_pytorch_agree(self):
        rng = np.random.default_rng(0)
        for name in priors.shipped():
            prior = priors.parse(name)
            x, alpha_bar = smoothed(rng, signals.linear_modulation(rng, 3, 160)[0], 0.3)
            module = torch.jit.load(io.BytesIO((SHIPPED / f"{name}.pt").read_bytes()))
            with torch.no_grad():
                planes = module(torch.from_numpy(np.stack([x.real, x.imag], 1)), torch.from_numpy(alpha_bar),
                                torch.zeros(3, 0)).numpy()
            np.testing.assert_allclose(prior.denoise(x, alpha_bar), planes[:, 0] + 1j * planes[:, 1], atol=1e-5)

    def test_denoising_error_is_near_the_closed_forms_and_never_below_it(self):
        rng = np.random.default_rng(1)
        waves = signals.linear_modulation(rng, 128, 168)[0][:, 64:64 + 2560]  # cut from longer signals
        for name, spec in CLOSED_FORM.items():
            net, bound = priors.parse(name), priors.parse(spec)
            for v, excess in ((0.03, 2e-3), (0.3, 3e-3), (1.0, 1e-2), (2.5, 1e-2)):
                x, alpha_bar = smoothed(rng, waves, v)
                error, least = (np.mean(np.abs(p.denoise(x, alpha_bar) - waves)[:, 64:-64] ** 2) for p in (net, bound))
                self.assertLess(error - least, excess, f"{name} at v = {v}")
                self.assertGreater(error, 0.98 * least, f"{name} at v = {v}: better than the posterior mean")

    def test_in_the_loop_it_makes_few_errors_in_few_calls(self):
        ofdm = priors.parse("cp-ofdm:qpsk")
        for name, spec in CLOSED_FORM.items():
            net, closed = priors.parse(name), priors.parse(spec)
            for sir_db in (-24, -15, -9):
                rng = np.random.default_rng([4, -sir_db])
                soi, bits = signals.linear_modulation(rng, 100, 160)
                mixture = (soi + np.float32(signals.kappa(sir_db)) * signals.cp_ofdm(rng, 100, 2560)[0]
                           + signals.noise(rng, soi.shape, 0.01))
                errors, calls = [], []
                for prior in (net, closed):
                    problem = separators.Problem(mixture, [prior, ofdm], np.array([1, signals.kappa(sir_db)]), 0.01,
                                                 margin=128)
                    result = separators.separate(problem, "pnp-dr")
                    symbols = demodulation.matched_filter(result.sources[0], prior.modulation)
                    wrong = demodulation.decide(symbols, prior.modulation) != bits
                    errors.append(int(wrong[:, 16:-16].sum()))
                    calls.append(result.calls.mean())
                self.assertLessEqual(errors[0], 2 * errors[1] + 10, f"{name} at {sir_db} dB")  # of 28,800 bits
                self.assertLessEqual(calls[0], 25, f"{name} at {sir_db} dB")

    def test_metadata_says_what_a_user_needs(self):
        for name in priors.shipped():
            info = priors.parse(name).info
            self.assertEqual(info["modulation"]["constellation"], "qpsk")
            self.assertEqual(len(info["psd"]), 256)
            self.assertEqual(json.loads(json.dumps(info))["licence"], "GPL-3.0-or-later")
            self.assertTrue(Path(SHIPPED / f"{name}.md").read_text().startswith("# "))


if __name__ == "__main__":
    unittest.main()
