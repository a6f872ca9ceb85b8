# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of captures share: a scratch folder, made-up samples, and sentences to check."""

import json
import tempfile
import unittest
from pathlib import Path

import numpy as np
from gnuradio.unmix import captures

RATE = 250000.0


def noise(count, seed=1):
    """Complex64 [count] within the unit square."""
    rng = np.random.default_rng(seed)
    return (rng.uniform(-1, 1, count) + 1j * rng.uniform(-1, 1, count)).astype(np.complex64)


class CaptureTest(unittest.TestCase):
    """A scratch folder, and the two questions every test asks."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def store(self, name, array):
        path = self.folder / name
        np.asarray(array).tofile(path)
        return path

    def sigmf(self, array, name="rec", datatype="cf32_le", segments=None, annotations=(), **fields):
        """Write a recording by hand, so that it can be wrong; returns the stem."""
        stem = self.folder / name
        self.store(f"{name}.sigmf-data", array)
        fields = {f"core:{key}": value for key, value in fields.items()}
        document = {"global": {"core:datatype": datatype, "core:version": "1.2.0", **fields},
                    "captures": [{"core:sample_start": 0}] if segments is None else segments,
                    "annotations": list(annotations)}
        (self.folder / f"{name}.sigmf-meta").write_text(json.dumps(document))
        return stem

    def refused(self, *words, path, **options):
        """open_capture must raise one sentence that contains the words."""
        with self.assertRaises(captures.CaptureError) as caught:
            captures.open_capture(path, **options)
        self.check_sentence(caught.exception, *words)

    def check_sentence(self, error, *words):
        text = str(error)
        self.assertTrue(text.endswith("."), text)
        self.assertNotIn("\n", text)
        for word in words:
            self.assertIn(word, text)

    def whole(self, path, **options):
        capture = captures.open_capture(path, **options)
        samples = capture.read(0, capture.length)
        self.assertEqual(samples.dtype, np.complex64)
        return samples
