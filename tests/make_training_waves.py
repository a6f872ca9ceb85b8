# SPDX-License-Identifier: GPL-3.0-or-later
"""Run by qa_training_data.py in the training environment: python make_training_waves.py OUTPUT.npz

Writes, for every case, windows of training/data.py with the symbols and the timing and phase (linear) or start and
phase (OFDM) that made them; constellations by Sionna's mapper; many starts and timings; and what make_source refuses.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "training"))

import data
from sionna.phy.mapping import Constellation, Mapper

torch.set_num_threads(1)

SAMPLES = Path(__file__).resolve().parent.parent / "apps" / "samples"
RANDOM = {"timing": "random", "phase": "random"}
CASES = {
    **{f"linear-{name}": {"constellation": name} for name in ("bpsk", "qpsk", "8psk", "16qam")},
    "linear-isolated": {"ends": "isolated"},
    "linear-short": {"sps": 5, "rolloff": 0.3, "span": 7, "window": 640},
    "linear-random": RANDOM,
    "linear-random-16qam": {**RANDOM, "constellation": "16qam"},
    "linear-random-isolated": {**RANDOM, "ends": "isolated"},
    "linear-random-short": {**RANDOM, "sps": 5, "rolloff": 0.3, "span": 7, "window": 640},
    **{f"ofdm-{name}": {"kind": "cp-ofdm", "constellation": name} for name in ("bpsk", "qpsk", "16qam")},
    "ofdm-full": {"kind": "cp-ofdm", "fft": 32, "cp": 5, "active": 31, "window": 700},
    "ofdm-odd": {"kind": "cp-ofdm", "fft": 33, "cp": 0, "active": 7, "window": 700},
}
REFUSED = [3, {"kind": "chirp"}, {"sps": 16.5}, {"window": 2561}, {"timing": "late"}, {"constellation": "32qam"},
           {"rollof": 0.5}, {"rolloff": 1.5}, {"kind": "cp-ofdm", "active": 64}, {"kind": "cp-ofdm", "cp": 65},
           {"kind": "cp-ofdm", "sps": 4}, {"kind": "recording"}, {"kind": "recording", "files": "no/such.sigmf-meta"}]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def main(path: str) -> None:
    out = {}
    for number, (name, config) in enumerate(CASES.items()):
        source = data.make_source(config)
        wave, symbols, side = source.draw(96, generator(number))
        same = source(96, generator(number))
        assert wave.dtype == torch.float32 and wave.shape == (96, 2, source.window) and torch.equal(wave, same), name
        assert not torch.equal(wave, source(96, generator(number + 100))), name
        card = source.card()
        json.dumps(card, allow_nan=False)
        out |= {f"{name}/wave": torch.complex(wave[:, 0], wave[:, 1]).numpy(), f"{name}/symbols": symbols.numpy(),
                f"{name}/side": side.numpy(), f"{name}/config": json.dumps(config), f"{name}/card": json.dumps(card)}
        held = data.validation_set(config, 5, seed=7)
        assert held.shape == (5, 2, source.window) and torch.equal(held, data.validation_set(config, 5, seed=7)), name
        assert not torch.equal(held, data.validation_set(config, 5, seed=8)), name
        assert not torch.equal(held, source(5, generator(7))), name  # training with the same seed
    recording = {"kind": "recording", "files": str(SAMPLES / "wifi_excerpt.sigmf-meta"), "window": 320}
    held, source = data.validation_set(recording, 5, seed=7), data.make_source(recording | {"part": "validation"})
    assert torch.equal(held, source(5, generator(2**31 + 7))), "recording"
    assert source.samples.shape[1] < data.make_source(recording).samples.shape[1], "recording"
    for name, (kind, bits) in {"bpsk": ("pam", 1), "qpsk": ("qam", 2), "16qam": ("qam", 4)}.items():
        labels = (torch.arange(2**bits)[:, None] >> torch.arange(bits - 1, -1, -1)) & 1
        mapper = Mapper(constellation=Constellation(kind, bits, device="cpu"), device="cpu")
        out[f"sionna/{name}"] = mapper(labels.float()).numpy().ravel()
    for name in data.BITS:
        out[f"points/{name}"] = data.constellation_points(name).numpy()
    out["many/starts"] = data.CpOfdm(window=80).draw(40000, generator(1))[2].numpy()
    out["many/timings"] = data.LinearModulation(window=16, **RANDOM).draw(40000, generator(2))[2].numpy()
    sentences = []
    for config in REFUSED:
        try:
            data.make_source(config)
            sentences.append(f"{config} was accepted")
        except ValueError as error:
            sentences.append(str(error))
    out["refused"] = np.array(sentences)
    np.savez(path, **out)


if __name__ == "__main__":
    main(sys.argv[1])
