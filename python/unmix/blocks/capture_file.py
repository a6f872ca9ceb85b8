# SPDX-License-Identifier: GPL-3.0-or-later
"""Source of the samples of a capture file."""

import math

import numpy as np
from gnuradio import blocks, digital, gr

from .. import captures


class capture_source(gr.hier_block2):
    """Plays a capture (SigMF, WAV with two channels, or raw samples): the samples that `captures.open_capture` reads.

    Output: complex; integers are scaled to -1 to +1, see `captures.formats.make_format`. Unlike `Capture.read`, the
    block does not look for NaN, infinite or absurdly large samples.

    path: SigMF metadata, data or their common stem, or another file, whose suffix tells the format. format: 'auto',
    'cf32', 'ci16', 'ci8', 'cu8', ... (_le or _be) or 'wav'. repeat: begin anew at the end of the file.
    sample_rate: samples per second, stronger than what the file says; None to believe the file.

    Raises ValueError with one sentence for what `captures.open_capture` refuses, for formats that GNU Radio's blocks
    cannot convert (cf64, cu16, cu32), and for SigMF with headers between its capture segments.

    Attributes: sample_rate (samples per second, or None where nothing says), center_frequency (Hz or None), length
    (samples in the file), format_reason (a phrase that says how all this was decided).
    """

    def __init__(self, path, format: str = "auto", repeat: bool = False, sample_rate=None):
        capture = captures.open_capture(path, format, sample_rate)
        begin, stored = capture.segments[0][1], capture.sample_format
        if any(offset != begin + first * stored.sample_bytes for first, offset in capture.segments):
            raise ValueError(f"{capture.path} has headers between its capture segments, which GNU Radio's file source "
                             "cannot leave out: play a copy without them.")
        convert = _converter(capture.path, stored)
        gr.hier_block2.__init__(self, "Capture source", gr.io_signature(0, 0, 0),
                                gr.io_signature(1, 1, gr.sizeof_gr_complex))
        self.sample_rate, self.center_frequency = capture.sample_rate, capture.center_frequency
        self.length, self.format_reason = capture.length, capture.format_reason

        # The file source counts in its items, and a header need not be whole samples or components.
        component = stored.sample_bytes // 2
        item = math.gcd(begin, component)
        chain = [blocks.file_source(item, str(capture.path), bool(repeat), begin // item,
                                    capture.length * stored.sample_bytes // item)]
        if item < component:
            chain.append(blocks.stream_to_vector(item, component // item))
        if stored.order == ">" and component > 1:
            chain.append(blocks.endian_swap(component))
        self.connect(*chain, *convert, self)


def _converter(path, stored) -> list:
    """Blocks that turn stored components (I and Q alternating) into complex samples, equal to SampleFormat.decode."""
    pair = blocks.stream_to_vector(gr.sizeof_float, 2)  # the same bytes as a complex
    if stored.kind == "cf32":
        return [pair]
    if stored.kind == "ci16":
        return [blocks.interleaved_short_to_complex(False, False, stored.full_scale)]
    if stored.kind == "ci8":
        return [blocks.interleaved_char_to_complex(False, stored.full_scale)]
    if stored.kind == "ci32":
        return [blocks.int_to_float(1, stored.full_scale), pair]
    if stored.kind == "cu8":  # a table: multiplying by a rounded 1 / 127.5 would differ in the last bit
        values = stored.decode(np.arange(256, dtype=np.uint8))[0].view(np.float32)
        return [digital.chunks_to_symbols_bf(values.tolist()), pair]
    raise ValueError(f"{path} holds {stored.datatype} samples, which GNU Radio's blocks cannot convert exactly: play "
                     "a copy as cf32, ci32, ci16, ci8 or cu8.")
