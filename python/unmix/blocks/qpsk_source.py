# SPDX-License-Identifier: GPL-3.0-or-later
"""Source of QPSK with root-raised-cosine pulses and known bits."""

import math

import numpy as np
from gnuradio import blocks, digital, filter, gr

from ..priors import constellation as cons

#: Quadrants (one more is a rotation by 90 degrees) of the labels 00, 01, 10, 11, and the labels of quadrants 0 to 3.
QUADRANT_OF_LABEL = [0, 3, 1, 2]
LABEL_OF_QUADRANT = [0, 2, 3, 1]


class rrc_qpsk_source(gr.hier_block2):
    """Sends known bits as QPSK with root-raised-cosine pulses, at unit power.

    Symbol k's centre is sample sps // 2 + k * sps, as `signals.rrc_wave` has it and as the prior
    `rrc:qpsk,sps=...,rolloff=...,span=...` expects. Nothing is sent before the first symbol.

    Output: complex, of unit power for equiprobable bits.

    bits: sequence of 0 and 1, its length even and at least 2; two make a symbol, mapped as `priors.constellation` does:
    0 gives the positive level, on I for the first and on Q for the second bit. sps: samples per symbol, integer >= 2.
    rolloff: 0 to 1. span: length of the pulse in symbols, integer >= 2. differential: send each pair of bits as a
    rotation from the symbol before (00: 0, 10: 90, 11: 180, 01: 270 degrees; the first one from 45 degrees), so that
    the receiver needs no absolute phase: from the quadrants 0 to 3 of the symbols received, diff_decoder_bb(4),
    map_bb(LABEL_OF_QUADRANT) and unpack_k_bits_bb(2) recover the bits. repeat: send the bits for ever; otherwise the
    stream ends after len(bits) // 2 * sps samples, before the last span / 2 pulses have rung out.

    Raises ValueError for values outside these ranges.

    Attribute bits: uint8 [n], as given.
    """

    def __init__(self, bits, sps: int = 16, rolloff: float = 0.5, span: int = 8, differential: bool = False,
                 repeat: bool = True):
        values = np.asarray(bits)
        if values.ndim != 1 or len(values) < 2 or len(values) % 2:
            raise ValueError(f"bits of shape {values.shape} are impossible; they must be one sequence, its length even "
                             "and at least 2")
        wrong = next((value for value in values.tolist() if value not in (0, 1)), None)
        if wrong is not None:
            raise ValueError(f"bits with the value {wrong!r} are impossible; each must be 0 or 1")
        for name, value in (("sps", sps), ("span", span)):
            if not 2 <= value < math.inf or value != int(value):
                raise ValueError(f"{name}={value} is impossible; it must be an integer, at least 2")
        if not 0 <= rolloff <= 1:
            raise ValueError(f"rolloff={rolloff} is impossible; it must lie between 0 and 1")
        gr.hier_block2.__init__(self, "RRC QPSK source", gr.io_signature(0, 0, 0),
                                gr.io_signature(1, 1, gr.sizeof_gr_complex))
        self.bits = values.astype(np.uint8)
        sps, span = int(sps), int(span)

        points = cons.points("qpsk")
        symbols = [blocks.vector_source_b(self.bits.tolist(), True), blocks.pack_k_bits_bb(2)]
        if differential:
            points = points[LABEL_OF_QUADRANT]
            symbols += [digital.map_bb(QUADRANT_OF_LABEL), digital.diff_encoder_bb(4)]
        symbols.append(digital.chunks_to_symbols_bc(points.tolist()))

        half = span * sps // 2
        # firdes divides by the rolloff; a sinc differs from 1e-6 by 3e-7 of its peak.
        pulse = np.array(filter.firdes.root_raised_cosine(1.0, sps, 1.0, max(rolloff, 1e-6), 2 * half + 1))
        pulse *= math.sqrt(sps / np.sum(pulse**2))  # unit power for unit symbols
        wave = [filter.interp_fir_filter_ccf(sps, pulse.tolist()),
                blocks.skiphead(gr.sizeof_gr_complex, half - sps // 2)]
        if not repeat:
            # Only one round of symbols, then zeros that push the last pulses through the filter.
            count = len(self.bits) // 2
            gate = blocks.multiply_cc()
            gate.set_output_multiple(1)  # else up to 7 symbols are lost, as one input never ends
            self.connect(blocks.vector_source_c([1] * count + [0] * span), (gate, 1))
            wave = [gate, *wave, blocks.head(gr.sizeof_gr_complex, count * sps)]
        self.connect(*symbols, *wave, self)
