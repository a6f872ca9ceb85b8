# SPDX-License-Identifier: GPL-3.0-or-later
"""Source of cyclic-prefix OFDM with endless random data."""

import cmath
import math

import numpy as np
from gnuradio import analog, blocks, digital, gr
from gnuradio.fft import fft_vcc

from ..priors import constellation as cons
from ..priors.cp_ofdm import active_carriers


class cp_ofdm_source(gr.hier_block2):
    """Sends random data as cyclic-prefix OFDM at unit power, for ever: the wave of `signals.cp_ofdm`.

    Output: complex, of unit power. It begins inside an OFDM symbol, or with one where start is 0.

    constellation: 'bpsk', 'qpsk', '8psk' or '16qam', mapped as `priors.constellation` does. fft: carriers, integer
    >= 2. cp: cyclic prefix in samples, integer, 0 to fft. active: carriers around DC, without DC, that carry data,
    integer, 1 to fft - 1. start: sample of the first symbol boundary, integer, 0 to fft + cp - 1. phase: radians, of
    the whole signal. seed: integer >= 0, from which the data are drawn, and start and phase where they are None; two
    sources in one flowgraph need different ones.

    Raises ValueError for values outside these ranges.

    Attributes start (int) and phase (float): the values in use, the side information of the prior `cp-ofdm:...`.
    """

    def __init__(self, constellation: str = "qpsk", fft: int = 64, cp: int = 16, active: int = 56, start=None,
                 phase=None, seed: int = 0):
        points = cons.points(constellation)
        for name, value, low, high in (("fft", fft, 2, math.inf), ("cp", cp, 0, fft), ("active", active, 1, fft - 1),
                                       ("start", start, 0, fft + cp - 1), ("seed", seed, 0, math.inf)):
            if value is not None and not (low <= value <= high and value < math.inf and value == int(value)):
                allowed = f"at least {low}" if high == math.inf else f"{low} to {high}"
                raise ValueError(f"{name}={value} is impossible; it must be an integer, {allowed}")
        if phase is not None and not math.isfinite(phase):
            raise ValueError(f"phase={phase} is impossible; it must be a finite angle in radians")
        gr.hier_block2.__init__(self, "CP-OFDM source", gr.io_signature(0, 0, 0),
                                gr.io_signature(1, 1, gr.sizeof_gr_complex))
        fft, cp, active = int(fft), int(cp), int(active)
        rng = np.random.default_rng(int(seed))
        data_seed = int(rng.integers(2**31))  # GNU Radio's seeds are C ints here
        drawn = rng.integers(fft + cp), rng.uniform(0, 2 * math.pi)
        self.start = int(drawn[0] if start is None else start)
        self.phase = float(drawn[1] if phase is None else phase)

        # Points on all carriers, of which the gains keep the active ones: ten times faster than the carrier
        # allocator with its tags. One gain makes unit power and the phase.
        gains = np.zeros(fft, complex)
        gains[active_carriers(fft, active)] = cmath.exp(1j * self.phase) / math.sqrt(active)
        prefixer = digital.ofdm_cyclic_prefixer(fft, fft + cp) if cp else (
            blocks.vector_to_stream(gr.sizeof_gr_complex, fft))  # the prefixer refuses to add nothing
        self.connect(analog.random_uniform_source_b(0, len(points), data_seed),
                     digital.chunks_to_symbols_bc(points.tolist()),
                     blocks.stream_to_vector(gr.sizeof_gr_complex, fft),
                     blocks.multiply_const_vcc(gains.tolist()),
                     fft_vcc(fft, False, [], False),  # inverse, not normalised
                     prefixer,
                     blocks.skiphead(gr.sizeof_gr_complex, -self.start % (fft + cp)),
                     self)
