# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of apps/separate_file.py share: a mixture in a scratch folder, small priors, a way to run it."""

import contextlib
import importlib.util
import io
import json
import os
import tempfile
import unittest
from pathlib import Path

import numpy as np
import torch
from gnuradio.unmix import captures, signals

APP = Path(__file__).resolve().parent.parent / "apps" / "separate_file.py"
SIR_DB = -12.0
SYMBOLS = 640  # five windows' worth
SOI = "rrc:qpsk,sps=16,rolloff=0.5,span=8"


def load_app():
    spec = importlib.util.spec_from_file_location("separate_file", APP)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


app = load_app()


class Shrink(torch.nn.Module):
    """The smallest prior: white Gaussian."""

    def forward(self, x: torch.Tensor, alpha_bar: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
        return x * alpha_bar.sqrt()[:, None, None]


class Broken(torch.nn.Module):
    """A prior that answers with NaN."""

    def forward(self, x: torch.Tensor, alpha_bar: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
        return x * float("nan")


def simulate(symbols=SYMBOLS, seed=7, snr_db=30.0):
    """Mixture, SOI (both complex64 [n], peak 0.9), and the SOI's bits uint8."""
    rng = np.random.default_rng(seed)
    wave, bits = signals.linear_modulation(rng, 1, symbols)
    other, _ = signals.cp_ofdm(rng, 1, wave.shape[1])
    mixture = wave + np.float32(signals.kappa(SIR_DB)) * other + signals.noise(rng, wave.shape, 10 ** (-snr_db / 10))
    scale = np.float32(0.9 / np.abs(np.stack([mixture.real, mixture.imag])).max())
    return mixture[0] * scale, wave[0] * scale, bits[0]


class Case(unittest.TestCase):
    """A scratch folder that is the current one, a mixture in it, and a way to run the program."""

    @classmethod
    def setUpClass(cls):
        cls.mixture, cls.soi, cls.bits = simulate()

    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        self.folder = Path(scratch.name)
        os.chdir(self.folder)
        self.mixture.tofile("mix.cf32")

    def run_app(self, *argv):
        """Run in this process: exit code, standard output, standard error."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = app.main([str(a) for a in argv])
        return code, out.getvalue(), err.getvalue()

    def done(self, *argv):
        """Run, expect success, return the report."""
        code, out, err = self.run_app(*argv, "--json", "-", "--quiet")
        self.assertEqual(code, 0, err)
        self.assertEqual(err, "")
        return json.loads(out)

    def refused(self, *argv, words=()):
        """Run, expect exit code 2, one sentence that has the words, and nothing written."""
        before = sorted(self.folder.rglob("*"))
        code, out, err = self.run_app(*argv, "--quiet")
        self.assertEqual(code, 2, err)
        self.assertEqual(out, "")
        self.assertTrue(err.startswith("separate_file.py: "), err)
        self.assertEqual(err.count("\n"), 1, err)
        for word in words:
            self.assertIn(word, err)
        self.assertEqual(sorted(self.folder.rglob("*")), before)

    def read(self, path):
        capture = captures.open_capture(path)
        return capture.read(0, capture.length)
