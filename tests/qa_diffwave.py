# SPDX-License-Identifier: GPL-3.0-or-later
"""DiffWave, its export to a prior file, and the engine's answer from that file."""

import io
import json
import sys
import tempfile
import unittest
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "training"))

import export
from diffwave import DiffWave, StepEmbedding, alpha_bars
from export import PriorModule, export_prior, make_card, random_network

torch.set_num_threads(1)

CARD = {"name": "test", "training": "none", "licence": "GPL-3.0-or-later"}


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def load(path):
    extra = {"prior.json": ""}
    return torch.jit.load(str(path), _extra_files=extra), json.loads(extra["prior.json"])


class Network(unittest.TestCase):
    def test_parameter_counts_of_table_1(self):
        for channels, millions in ((64, 2.3), (128, 6.3), (256, 20.1)):
            count = sum(p.numel() for p in DiffWave(channels).parameters())
            self.assertEqual(round(count / 1e6, 1), millions)

    def test_untrained_network_starts_from_zero_weights_at_its_output(self):
        network = DiffWave(8, 2)
        with torch.no_grad():
            answer = network(noise(2, 2, 50), torch.tensor([0, 49]))
        self.assertTrue(torch.equal(answer, network.output_projection.bias.view(1, 2, 1).expand(2, 2, 50)))

    def test_scripted_equals_eager(self):
        network = random_network(1, 16, 12)
        x, step = noise(4, 2, 300), torch.tensor([0.0, 3.25, 17.9, 49.0])
        with torch.no_grad():
            gap = (torch.jit.script(network)(x, step) - network(x, step)).abs().max()
        self.assertLess(float(gap), 1e-6)

    def test_table_is_sin_then_cos_of_the_step(self):
        table = StepEmbedding(50).table.double().numpy()
        angle = np.arange(50)[:, None] * 10.0 ** (np.arange(64) * 4 / 63)
        tolerance = 1e-6 + 5e-7 * angle  # four roundings of float32 angles
        self.assertEqual(table.shape, (50, 128))
        self.assertTrue((np.abs(table[:, :64] - np.sin(angle)) < tolerance).all())
        self.assertTrue((np.abs(table[:, 64:] - np.cos(angle)) < tolerance).all())

    def test_steps_between_rows_are_interpolated(self):
        embedding = StepEmbedding(50)
        whole = torch.arange(50)
        self.assertTrue(torch.equal(embedding.rows(whole), embedding.table))
        self.assertTrue(torch.equal(embedding.rows(whole.float()), embedding.table))
        half = embedding.rows(whole[:-1] + 0.5)
        self.assertLess(float((half - (embedding.table[1:] + embedding.table[:-1]) / 2).abs().max()), 1e-6)

    def changed(self, network, length, at):
        """Output samples that change with input sample `at`, as offsets from it."""
        x = noise(1, 2, length, seed=2, dtype=torch.float64)
        y = x.clone()
        y[0, :, at] += 10.0
        with torch.no_grad():
            gap = (network(x, torch.tensor([5.0])) - network(y, torch.tensor([5.0]))).abs().amax(1)[0]
        return set((gap.nonzero().flatten() - at).tolist())

    def test_receptive_field_of_one_dilation_cycle(self):
        reach = {0}
        for dilation in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512):
            reach = {r + tap for r in reach for tap in (-dilation, 0, dilation)}
        self.assertEqual(reach, set(range(-1023, 1024)))
        self.assertEqual(self.changed(random_network(2, 8, 10, 10).double(), 2560, 1280), reach)

    def test_each_block_has_its_dilation(self):
        dilations = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1, 2]
        for block, dilation in enumerate(dilations):
            network = random_network(3, 8, 12, 10).double()
            for i, layer in enumerate(network.residual_layers):
                if i != block:  # silent: hands its input on, adds nothing to the output
                    torch.nn.init.zeros_(layer.output_projection.weight)
                    torch.nn.init.zeros_(layer.output_projection.bias)
            self.assertEqual(self.changed(network, 1200, 600), {-dilation, 0, dilation})

    def test_two_blocks_against_numpy(self):
        network = random_network(4, 6, 2, 10).double()
        w = {key: value.numpy() for key, value in network.state_dict().items()}
        x, length = noise(2, 40, seed=5, dtype=torch.float64).numpy(), 40

        def sigmoid(v):
            return 1 / (1 + np.exp(-v))

        def dense(name, v):
            return w[name + ".weight"].reshape(len(w[name + ".bias"]), -1) @ v + w[name + ".bias"].reshape(
                -1, *[1] * (v.ndim - 1))

        e = network.diffusion_embedding.table[7].numpy()
        for name in ("diffusion_embedding.projection1", "diffusion_embedding.projection2"):
            e = dense(name, e)
            e = e * sigmoid(e)
        h, skips = np.maximum(dense("input_projection", x), 0), 0
        for i, d in enumerate((1, 2)):
            block = f"residual_layers.{i}."
            padded = np.pad(h + dense(block + "diffusion_projection", e)[:, None], ((0, 0), (d, d)))
            y = w[block + "dilated_conv.bias"][:, None] + sum(
                w[block + "dilated_conv.weight"][:, :, k] @ padded[:, k * d:k * d + length] for k in range(3))
            y = dense(block + "output_projection", sigmoid(y[:6]) * np.tanh(y[6:]))
            h, skips = (h + y[:6]) / np.sqrt(2), skips + y[6:]
        expected = dense("output_projection", np.maximum(dense("skip_projection", skips / np.sqrt(2)), 0))
        with torch.no_grad():
            answer = network(torch.from_numpy(x)[None], torch.tensor([7])).numpy()[0]
        self.assertLess(np.abs(answer - expected).max(), 1e-12)

    def test_bad_sizes_are_refused(self):
        for bad in ({"channels": 0}, {"blocks": 0}, {"cycle": 0}, {"steps": 0}):
            with self.assertRaisesRegex(ValueError, f"{next(iter(bad))} is 0, it must be at least 1"):
                DiffWave(**bad)


class GaussianNetwork(torch.nn.Module):
    """The best predictor for s' ~ N(0, 1): x' has unit variance, so E[z | x'] = sqrt(1 - abar') x'."""

    def __init__(self):
        super().__init__()
        abar = alpha_bars()
        self.register_buffer("log_ratio", torch.log((1 - abar) / abar))

    def forward(self, x, step):
        low = step.floor().long().clamp(0, 48)
        ratio = self.log_ratio[low] + (self.log_ratio[low + 1] - self.log_ratio[low]) * (step.double() - low)
        return torch.sigmoid(ratio).sqrt().float().view(-1, 1, 1) * x


class Wrapper(unittest.TestCase):
    def test_trained_levels_map_to_their_own_steps(self):
        abar = alpha_bars()
        for scale in (1.0, 0.5):
            step = PriorModule(GaussianNetwork(), abar, scale=scale).step(
                (1 / (1 + scale**2 * (1 - abar) / abar)).float())
            self.assertLess(float((step - torch.arange(50)).abs().max()), 2e-3)  # float32 alpha_bar near 1

    def test_steps_are_monotonic_and_clamped(self):
        prior = PriorModule(GaussianNetwork(), alpha_bars())
        step = prior.step(torch.linspace(1, 0, 2001))
        self.assertEqual((float(step[0]), float(step[-1])), (0.0, 49.0))
        self.assertTrue(bool((step[1:] >= step[:-1]).all()))
        inside = prior.step(torch.linspace(0.999, 0.29, 2001))
        self.assertTrue(bool((inside[1:] > inside[:-1]).all()))

    def test_standardised_data_are_handled_exactly(self):
        for mean, scale in (((0.0, 0.0), 1.0), ((0.1, -0.3), 0.6), ((0.0, 0.2), 2**-0.5), ((-0.2, 0.0), 1.4)):
            prior = PriorModule(GaussianNetwork(), alpha_bars(), mean, scale)
            low, high = make_card(CARD | {"mean": list(mean), "scale": scale})["alpha_bar"]
            abar = torch.linspace(low + 1e-6, high - 1e-6, 9)
            x, m = 2 * noise(9, 2, 64, seed=6), torch.tensor(mean).view(1, 2, 1)
            a = abar.double().view(-1, 1, 1)
            # Jointly Gaussian per channel: x ~ N(sqrt(a) m, d^2 a + 1 - a), cov(z, x) = sqrt(1 - a).
            expected = (1 - a).sqrt() * (x - a.sqrt() * m) / (scale**2 * a + 1 - a)
            gap = (prior(x, abar, torch.zeros(9, 0)) - expected).abs().max()
            self.assertLess(float(gap), 1e-5, f"mean {mean}, scale {scale}")

    def test_differentiable_in_x(self):
        prior = torch.jit.script(PriorModule(random_network(5, 8, 3), alpha_bars(), scale=0.7))
        x = noise(1, 2, 32).requires_grad_()
        prior(x, torch.tensor([0.6]), torch.zeros(1, 0)).square().sum().backward()
        self.assertGreater(float(x.grad.abs().max()), 0.0)

    def test_bad_scaling_is_refused(self):
        with self.assertRaisesRegex(ValueError, "scale is 0.0"):
            PriorModule(GaussianNetwork(), alpha_bars(), scale=0.0)
        with self.assertRaisesRegex(ValueError, "decreasing"):
            PriorModule(GaussianNetwork(), alpha_bars().flip(0))


class Files(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def run_main(self, *argv):
        """Exit status and stderr of the command line."""
        err = io.StringIO()
        with redirect_stdout(io.StringIO()), redirect_stderr(err):
            try:
                status = export.main([str(a) for a in argv])
            except SystemExit as end:
                status = end.code
        return status, err.getvalue()

    def test_round_trip_with_card(self):
        network, path = random_network(6, 8, 3, 2), self.folder / "prior.pt"
        psd = np.arange(256).tolist()
        module, card = export_prior(network, CARD | {
            "window": 2560, "mean": [0.01, -0.02], "scale": 0.7, "samples_per_symbol": 16.0,
            "constellation": "qpsk", "invariances": ["phase"], "psd": psd, "version": "3"}, path)
        loaded, loaded_card = load(path)
        self.assertEqual(loaded_card, card)
        self.assertEqual(set(card), {
            "format", "name", "kind", "window", "predicts", "side", "alpha_bar", "schedule", "mean", "scale",
            "samples_per_symbol", "constellation", "invariances", "training", "psd", "licence", "version"})
        self.assertEqual((card["format"], card["kind"]), (1, "diffwave"))
        self.assertEqual((card["predicts"], card["side"]), ("noise", []))
        self.assertEqual(card["schedule"], {"beta_min": 1e-4, "beta_max": 0.05, "steps": 50})
        self.assertEqual((card["samples_per_symbol"], card["window"]), (16, 2560))
        self.assertAlmostEqual(np.mean(card["psd"]), 1.0)
        self.assertAlmostEqual(card["psd"][2] / card["psd"][1], 2.0)
        x, abar, side = noise(3, 2, 200), torch.tensor([0.9, 0.5, 0.3]), torch.zeros(3, 0)
        with torch.no_grad():
            eager = PriorModule(network, alpha_bars(), (0.01, -0.02), 0.7)(x, abar, side)
            for other in (module, loaded):
                self.assertLess(float((other(x, abar, side) - eager).abs().max()), 1e-6)
        self.assertTrue(all(p.requires_grad for p in network.parameters()), "the caller's network changed")

    def test_trained_range_in_the_engines_units(self):
        abar = alpha_bars()
        low, high = make_card(CARD)["alpha_bar"]
        self.assertAlmostEqual(low, float(abar[-1]), places=12)
        self.assertAlmostEqual(high, float(abar[0]), places=12)
        low, high = make_card(CARD | {"scale": 0.5})["alpha_bar"]
        for engine, trained in ((low, abar[-1]), (high, abar[0])):  # abar' = d^2 abar / (d^2 abar + 1 - abar)
            self.assertAlmostEqual(0.25 * engine / (0.25 * engine + 1 - engine), float(trained), places=12)

    def test_equal_weights_give_equal_files_without_source_paths(self):
        for name in ("a.pt", "b.pt"):
            export_prior(random_network(7, 8, 3), CARD, self.folder / name)
        content = (self.folder / "a.pt").read_bytes()
        self.assertEqual(content, (self.folder / "b.pt").read_bytes())
        self.assertNotIn(b"debug_pkl", content)

    def test_half_storage(self):
        network = random_network(8, 64, 10)
        export_prior(network, CARD, self.folder / "full.pt")
        export_prior(network, CARD, self.folder / "half.pt", half=True)
        ratio = (self.folder / "half.pt").stat().st_size / (self.folder / "full.pt").stat().st_size
        self.assertLess(ratio, 0.53)
        x, abar, side = noise(2, 2, 256), torch.tensor([0.9, 0.4]), torch.zeros(2, 0)
        with torch.no_grad():
            full, half = (load(self.folder / name)[0](x, abar, side) for name in ("full.pt", "half.pt"))
        self.assertEqual(half.dtype, torch.float32)
        self.assertLess(float((half - full).norm() / full.norm()), 3e-3)
        self.assertGreater(float((half - full).norm()), 0.0)

    def test_spectrum_of_training_data(self):
        t = np.arange(4096)
        psd = export.power_spectrum(np.exp(2j * np.pi * (256 - 40) / 256 * t).astype(np.complex64))
        self.assertEqual((len(psd), int(np.argmax(psd))), (1024, 864))
        short = export.power_spectrum(np.exp(-2j * np.pi * 40 / 256 * t[:256]).astype(np.complex64))
        self.assertEqual((len(short), int(np.argmax(short))), (1024, 864))
        self.assertAlmostEqual(float(np.mean(psd)), 1.0)

    def test_bad_cards_are_refused(self):
        for change, words in (({"licence": ""}, "needs licence"), ({"colour": "red"}, "no entry colour"),
                              ({"window": -1}, "window is -1"), ({"psd": [1.0, -1.0]}, "psd must be"),
                              ({"schedule": {"beta_min": 1e-4, "beta_max": 0.05, "steps": 20}}, "20 steps"),
                              ({"samples_per_symbol": 0}, "samples_per_symbol is 0"),
                              ({"scale": -1.0}, "scale is -1")):
            with self.assertRaisesRegex(ValueError, words):
                export_prior(DiffWave(4, 1), CARD | change, self.folder / "prior.pt")
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_command_line_with_random_weights(self):
        path = self.folder / "noise.pt"
        self.assertEqual(self.run_main("--random-weights", 9, "--channels", 8, "--blocks", 3, "--cycle", 2,
                                       "--output", path), (0, ""))
        module, card = load(path)
        self.assertEqual(card["name"], "noise")
        self.assertIn("random weights, seed 9", card["training"])
        x, abar, side = noise(1, 2, 90), torch.tensor([0.7]), torch.zeros(1, 0)
        with torch.no_grad():
            expected = PriorModule(random_network(9, 8, 3, 2), alpha_bars())(x, abar, side)
            self.assertLess(float((module(x, abar, side) - expected).abs().max()), 1e-6)

    def test_command_line_with_a_checkpoint(self):
        network, path = random_network(10, 8, 4, 3, 20), self.folder / "weights.pt"
        state = {f"module.{key}": value for key, value in network.state_dict().items()}
        torch.save({"model": state, "config": {"cycle": 3, "steps": 20}, "step": 5,
                    "info": {"training": "a test", "licence": "CC0-1.0", "scale": 0.5}}, path)
        out = self.folder / "prior.pt"
        said = self.run_main("--checkpoint", path, "--output", out, "--name", "mine", "--scale", 0.6)
        self.assertEqual(said, (0, ""))
        module, card = load(out)
        self.assertEqual((card["name"], card["licence"], card["scale"], card["schedule"]["steps"]),
                         ("mine", "CC0-1.0", 0.6, 20))
        x, abar, side = noise(1, 2, 90), torch.tensor([0.9]), torch.zeros(1, 0)
        with torch.no_grad():
            expected = PriorModule(network, alpha_bars(20), scale=0.6)(x, abar, side)
            self.assertLess(float((module(x, abar, side) - expected).abs().max()), 1e-6)

    def test_command_line_refuses_in_one_sentence(self):
        text, out = self.folder / "text.pt", self.folder / "out" / "prior.pt"
        text.write_text("not weights")
        bare = self.folder / "bare.pt"
        torch.save(random_network(11, 8, 2).state_dict(), bare)
        other = self.folder / "other.pt"
        torch.save(torch.nn.Linear(2, 2).state_dict(), other)
        tiny = ("--random-weights", 1, "--channels", 4, "--blocks", 1)
        for argv, words in (
                (("--checkpoint", self.folder / "none.pt"), "cannot read"),
                (("--checkpoint", text), "not a PyTorch checkpoint"),
                (("--checkpoint", other), "holds no DiffWave"),
                (("--checkpoint", bare), "the card needs training"),
                (("--checkpoint", bare, "--config", "qpsk"), "has 8 channels, not 64"),
                (tiny, "cannot write"), ((*tiny, "--scale", 0), "scale is 0.0"),
                ((*tiny, "--cycle", 0), "--cycle is 0"),
                ((*tiny, "--psd-data", text), "not a .npy file"), ((), "required"),
                (("--random-weights", "x"), "invalid int value")):
            status, message = self.run_main(*argv, "--output", out)
            self.assertEqual((status, message.count("\n")), (2, 1), message)
            self.assertIn(words, message)
        self.assertFalse(out.parent.exists())


class Engine(unittest.TestCase):
    """The C++ engine runs the exported file and gives PyTorch's posterior mean."""

    def check(self, **options):
        # Imported here, so that the other tests run without the built module.
        from gnuradio import unmix

        network = random_network(12, 16, 12)
        abar = np.array([0.995, 0.9, 0.6, 0.3], dtype=np.float32)
        x = noise(4, 2, 640, seed=13)
        x_t = (x[:, 0] + 1j * x[:, 1]).numpy().astype(np.complex64)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "prior.pt"
            module, _ = export_prior(network, CARD | {"mean": [0.02, -0.01], "scale": 0.7}, path, **options)
            x0 = unmix.priors.load(str(path)).denoise(x_t, abar)
        with torch.no_grad():
            z = module(x, torch.from_numpy(abar), torch.zeros(4, 0)).double().numpy()
        z_hat = z[:, 0] + 1j * z[:, 1]
        level = abar.astype(float)[:, None]
        expected = (x_t - np.sqrt(1 - level) * z_hat) / np.sqrt(level)
        self.assertEqual((x0.shape, x0.dtype), (x_t.shape, np.complex64))
        self.assertLess(np.abs(x0 - expected).max(), 1e-5)

    def test_posterior_mean(self):
        self.check()

    def test_posterior_mean_from_half_storage(self):
        self.check(half=True)


if __name__ == "__main__":
    unittest.main(warnings="ignore")  # torch.jit's deprecation notes: it is what the engine reads
