# SPDX-License-Identifier: GPL-3.0-or-later
"""A capture: random access to the complex samples of a file that may be larger than memory."""

import numpy as np

from .error import CaptureError
from .formats import ABSURD_MAGNITUDE

STRETCH = 4096
STRETCHES = 64


class Capture:
    """The complex samples of one recording, read piece by piece. ``open_capture`` makes it.

    Attributes:
        path: pathlib.Path of the file that holds the samples.
        datatype: how they are stored, in SigMF's words: 'cf32_le', 'ci16_le', 'cu8', ...
        format_reason: one phrase that says how format, rate and frequency were decided, meant for the user's
            eyes.
        sample_rate: samples per second, or None where nothing says.
        center_frequency: hertz, or None where nothing says.
        length: number of samples, at least 1.
        metadata: a dict, the global section of the SigMF metadata, or {}.
        sample_format: how a sample is stored, a ``formats.SampleFormat``.
        segments: where samples lie in the file, ``[(first sample, byte offset), ...]``.
    """

    def __init__(self, path, sample_format, segments, length, format_reason, sample_rate=None,
                 center_frequency=None, metadata=None):
        """Describe a file whose layout is known.

        Args:
            path: the file with the samples.
            sample_format: a ``formats.SampleFormat``.
            segments: ``[(first sample, byte offset), ...]`` in ascending order, the first one from sample 0;
                within a segment the samples are contiguous.
            length: number of samples.
            format_reason, sample_rate, center_frequency, metadata: the attributes of the same names.
        """
        self.path = path
        self.datatype = sample_format.datatype
        self.format_reason = format_reason
        self.sample_rate = sample_rate
        self.center_frequency = center_frequency
        self.length = length
        self.metadata = dict(metadata or {})
        self.sample_format = sample_format
        self.segments = list(segments)

    def __len__(self):
        return self.length

    def __repr__(self):
        return f"Capture({str(self.path)!r}, {self.datatype}, {self.length} samples)"

    def read(self, start, count):
        """Read samples ``start`` to ``start + count``.

        Args:
            start: index of the first sample, 0 or more.
            count: number of samples, 0 or more; what lies beyond the end is left out.

        Returns:
            complex64 ``[<= count]``, a copy; integer formats are scaled to -1 to +1.

        Raises:
            CaptureError: where a sample is NaN, infinite or absurdly large (the message names the first one),
                where the file has become shorter or unreadable, or where ``start`` or ``count`` is negative.
        """
        start, count = int(start), int(count)
        if start < 0 or count < 0:
            raise CaptureError(f"Cannot read {count} samples from sample {start}: both must be 0 or more.")
        stop = min(start + count, self.length)
        pieces = []
        ends = [first for first, _ in self.segments[1:]] + [self.length]
        for (first, offset), end in zip(self.segments, ends, strict=True):
            begin, end = max(start, first), min(stop, end)
            if begin < end:
                offset += (begin - first) * self.sample_format.sample_bytes
                pieces.append(self._read_piece(begin, end, offset))
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty(0, np.complex64)

    def _read_piece(self, begin, end, offset):
        # A mapping for each read: the pages of a 10 GB file do not pile up in this process, and a file that
        # has been shortened meanwhile raises here, where access through one long-lived mapping would kill the
        # process.
        try:
            stored = np.memmap(self.path, self.sample_format.component, "r", offset, shape=(2 * (end - begin),))
        except (OSError, ValueError) as error:
            raise CaptureError(f"{self.path} can no longer be read at samples {begin} to {end}: {error}; it "
                               "must not be moved, shortened or written while it is read.") from error
        samples, bad = self.sample_format.decode(stored)
        if bad is not None:
            i, q = (float(v) for v in stored[2 * bad:2 * bad + 2])
            raise CaptureError(self._complain(begin + bad, i, q))
        return samples

    def _complain(self, index, i, q):
        where = f"Sample {index} of {self.path}, read as {self.datatype}, is"
        if np.isnan(i) or np.isnan(q):
            return f"{where} not a number (I {i:g}, Q {q:g}): only finite samples can be used."
        if np.isinf(i) or np.isinf(q):
            return f"{where} infinite (I {i:g}, Q {q:g}): only finite samples can be used."
        return (f"{where} larger than {ABSURD_MAGNITUDE:g} (I {i:g}, Q {q:g}): this is probably another "
                "sample format or byte order, which must be named.")


def check_not_constant(capture):
    """Refuse a capture that holds nothing but one constant value, such as all zeros.

    Looks at up to 64 stretches of 4096 samples across the file, which is quick for any file. Only where they
    are all the same is the rest read too, so that short bursts between long stretches of digital silence are
    never refused.

    Args:
        capture: a Capture.

    Raises:
        CaptureError: where every sample has the same value, or where ``read`` raises it.
    """
    value = capture.read(0, 1)[0]
    starts = np.linspace(0, max(capture.length - STRETCH, 0), STRETCHES).astype(np.int64)
    chunk = 1 << 20
    looks = [(start, STRETCH) for start in np.unique(starts)]
    looks += [(start, chunk) for start in range(0, capture.length, chunk)]
    for start, count in looks:
        if np.any(capture.read(start, count) != value):
            return
    raise CaptureError(f"All {capture.length} samples of {capture.path}, read as {capture.datatype}, have "
                       f"the same value {value.real:g}{value.imag:+g}j: a capture must contain a signal.")
