# SPDX-License-Identifier: GPL-3.0-or-later
"""apps/separate_file.py refuses what it cannot use: exit code 2, one sentence, nothing written."""

import json
import os
import unittest
import warnings
from pathlib import Path

import numpy as np
import torch
from gnuradio.unmix import captures, priors
from separate_file_common import SOI, Broken, Case, Shrink


class Refusals(Case):
    def test_captures(self):
        Path("empty.cf32").touch()
        self.refused("empty.cf32", words=["empty"])
        self.refused("missing.cf32", words=["no file missing.cf32"])
        Path("odd.cf32").write_bytes(self.mixture.tobytes()[:-3])
        self.refused("odd.cf32", words=["bytes", "cut"])
        Path("x.unknown").write_bytes(b"1234")
        self.refused("x.unknown", words=[".unknown"])
        np.zeros(9000, np.complex64).tofile("zero.cf32")
        self.refused("zero.cf32", words=["same value"])
        np.ones(5, np.complex64).cumsum().astype(np.complex64).tofile("five.cf32")
        self.refused("five.cf32", words=["too short"])
        self.refused("mix.cf32", "--format", "f32", words=["real-valued"])
        self.refused("mix.cf32", "--format", "wav", words=["not a WAV"])
        self.refused("mix.cf32", "--samp-rate", "fast", words=["fast"])

    def test_broken_samples(self):
        for value in (np.nan, np.inf):
            for place in (0, len(self.mixture) - 1):
                broken = self.mixture.copy()
                broken[place] = value
                broken.tofile("broken.cf32")
                self.refused("broken.cf32", words=[f"Sample {place} "])

    def test_sigmf(self):
        with captures.SigMFWriter("rec", 1e6, None, "A test.", {}) as writer:
            writer.write(self.mixture)
        data, meta = Path("rec.sigmf-data"), Path("rec.sigmf-meta")
        whole, text = data.read_bytes(), meta.read_text()
        data.write_bytes(whole[:-5])
        self.refused("rec", words=["rec.sigmf-data"])
        data.write_bytes(whole)
        document = json.loads(text)
        document["global"]["core:datatype"] = "rf32_le"
        meta.write_text(json.dumps(document))
        self.refused("rec.sigmf-meta", words=["rf32_le"])
        document = json.loads(text)
        document["captures"] = [{"core:sample_start": 10**9}]
        meta.write_text(json.dumps(document))
        self.refused("rec.sigmf-data", words=["shorter than its metadata"])
        meta.unlink()
        self.refused("rec.sigmf-data", words=["no metadata"])

    def test_priors(self):
        self.refused("mix.cf32", "--soi", "morse", words=["unknown prior 'morse'", "rrc:"])
        self.refused("mix.cf32", "--interference", "nowhere.pt", words=["nowhere.pt", "does not exist"])
        self.refused("mix.cf32", "--soi", "rrc:qpsk,sps=x", words=["sps=x"])
        Path("text.pt").write_text("no network")
        self.refused("mix.cf32", "--interference", "text.pt", words=["text.pt"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.save(torch.jit.script(Shrink()), "bare.pt")
        self.refused("mix.cf32", "--interference", "bare.pt", words=["bare.pt", "prior.json"])
        info = {"format": 1, "name": "tiny", "kind": "test", "window": 512}
        Path("tiny.pt").write_bytes(priors.to_bytes(Shrink(), info))
        self.refused("mix.cf32", "--interference", "tiny.pt", "--window", 1024, words=["512", "1024"])
        self.refused("mix.cf32", "--interference", "tiny.pt", words=["--sir-db"])
        Path("nan.pt").write_bytes(priors.to_bytes(Broken(), info | {"name": "nan"}))
        self.refused("mix.cf32", "--interference", "nan.pt", "--sir-db", "-12", words=["prior nan"])

    def test_numbers(self):
        for options, words in ((["--steps", "-3"], ["-3", "at least 1"]), (["--batch", "0"], ["0", "at least 1"]),
                               (["--window", "0"], ["at least 1"]), (["--steps", "many"], ["--steps", "many"]),
                               (["--steps", "3000000000"], ["--steps 3000000000", "at most 1000000000"]),
                               (["--method", "alpha-rgs", "--steps", "9" * 23], ["at most 1000000000"]),
                               (["--batch", "1" + "0" * 20], ["--batch", "at most 1000000"]),
                               (["--window", str(10**16)], ["--window", "at most 100000000"]),
                               (["--seed", str(1 << 63)], ["--seed", "2^63 - 1"]),
                               (["--method", "matched-filter", "--steps", "5"], ["--steps 5", "matched-filter"]),
                               (["--window", "1"], ["longer than a symbol", "16 samples"]),
                               (["--window", "16"], ["longer than a symbol", "16 samples"]),
                               (["--overlap", "33"], ["multiple", "overlaps are 32 and 48"]),
                               (["--overlap", "2550"], ["multiple", "overlap is 2544"]),
                               (["--overlap", "2560"], ["2560", "2559"]), (["--overlap", "7"], ["multiple"]),
                               (["--overlap", "-16"], ["-16"]), (["--seed", "-1"], ["-1"]),
                               (["--sir-db", "nan"], ["nan"]), (["--sir-db", "loud"], ["loud", "auto"]),
                               (["--method", "lmmse-magic"], ["lmmse-magic", "alpha-rgs", "pnp-dr"]),
                               (["--device", "tpu"], ["tpu", "cuda"]), (["--nonsense"], ["--nonsense"])):
            with self.subTest(options):
                self.refused("mix.cf32", *options, words=words)
        self.refused(words=["CAPTURE"])
        if not torch.cuda.is_available():
            self.refused("mix.cf32", "--device", "cuda", words=["cuda"])

    def test_outputs(self):
        Path("file").write_text("in the way")
        for folder in ("file", "file/below"):
            self.refused("mix.cf32", "--output", folder, words=[f"output folder {folder} cannot be written"])
        self.refused("mix.cf32", "--json", "nowhere/report.json", words=["nowhere/report.json"])
        self.refused("mix.cf32", "--json", "mix.cf32", words=["overwrite an input"])
        with captures.SigMFWriter("mix_soi", None, None, "The truth.", {}) as writer:
            writer.write(self.soi)
        self.refused("mix.cf32", "--reference", "mix_soi", "--output", ".", words=["overwrite an input"])
        if os.geteuid():  # root may write anywhere
            Path("locked").mkdir(mode=0o500)
            self.refused("mix.cf32", "--output", "locked/out", words=["locked/out"])

    def test_inputs_are_never_overwritten(self):
        info = {"format": 1, "name": "tiny", "kind": "test", "window": 512}
        Path("tiny.pt").write_bytes(priors.to_bytes(Shrink(), info))
        Path("in").mkdir()
        self.mixture.tofile("in/x.cf32")
        with captures.SigMFWriter("in/x_interference", None, None, "The other signal.", {}) as writer:
            writer.write(self.mixture - self.soi)
        Path("in/x_report.json").write_bytes(Path("tiny.pt").read_bytes())  # a prior file may have any name
        Path("in/x_spectrum.png").symlink_to("../tiny.pt")
        Path("link").symlink_to("in")
        before = {path: path.read_bytes() for path in self.folder.rglob("*.*") if path.is_file()}
        gaussian = "gaussian:in/x_interference"
        learned = ["--sir-db", "-12", "--method", "matched-filter"]
        for options in (["--interference", gaussian, "--output", "in"],
                        ["--interference", f"{gaussian}.sigmf-meta", "--output", "link"],
                        ["--interference", f"{gaussian}.sigmf-data", "--json", "in/x_interference.sigmf-meta"],
                        ["--interference", f"{gaussian}.sigmf-meta", "--json", "link/x_interference.sigmf-data"],
                        ["--interference", "tiny.pt", *learned, "--json", "tiny.pt"],
                        ["--interference", "tiny.pt", *learned, "--json", "in/x_spectrum.png"],
                        ["--interference", "tiny.pt", *learned, "--plots", "--output", "in"],
                        ["--interference", "in/x_report.json", *learned, "--output", "in"],
                        ["--json", "link/x.cf32"]):
            with self.subTest(options):
                self.refused("in/x.cf32", *options, words=["overwrite an input"])
        for name in ("x_soi.sigmf-data", "x_soi.sigmf-meta", "x_interference.sigmf-data", "x_bits.u8"):
            with self.subTest(name):
                self.refused("in/x.cf32", "--output", "in", "--json", f"link/{name}", words=["another output"])
        self.refused("in/x.cf32", "--output", "in", "--plots", "--json", "in/x_agreement.png", words=["another output"])
        self.assertEqual(before, {path: path.read_bytes() for path in before})

    def test_spectrum_without_the_signals(self):
        np.tile(np.array([1, -1], np.complex64), 10000).tofile("tone.cf32")  # where neither signal has power
        self.refused("tone.cf32", "--sir-db", "-12", words=["tone.cf32", "rrc:qpsk", "cp-ofdm:qpsk"])

    def test_references(self):
        self.refused("mix.cf32", "--reference", "none.u8", words=["none.u8"])
        self.refused("mix.cf32", "--reference", "./mix.cf32", words=["is the capture itself"])
        np.packbits(self.bits).tofile("packed.u8")
        self.refused("mix.cf32", "--reference", "packed.u8", words=["one byte per bit"])
        self.soi[:-1].tofile("soi.cf32")
        self.refused("mix.cf32", "--reference", "soi.cf32", words=["same length"])
        self.bits.tofile("truth.u8")
        self.refused("mix.cf32", "--soi", f"{SOI},sync=unknown", "--reference", "truth.u8", words=["timing"])


if __name__ == "__main__":
    unittest.main()
