# SPDX-License-Identifier: GPL-3.0-or-later
"""Mixer of a signal of interest, interference and noise at given ratios."""

import math

import numpy as np
from gnuradio import analog, blocks, gr

from ..signals import kappa


class sir_mixer(gr.hier_block2):
    """Adds interference and white Gaussian noise to a signal of interest (SOI) at given power ratios.

    out = soi + kappa * (sum of the interference) / sqrt(interferers) + noise, kappa = 10^(-sir_db / 20): the SOI's
    level never changes. The stream ends with the shortest input.

    Inputs: complex, the SOI and then the interference, each of unit power. Output: complex.

    sir_db: power of the SOI relative to that of all interference, -100 to 100 dB. snr_db: power of the SOI relative
    to the noise's (complex) variance, -100 to 100 dB; None for no noise. interferers: number of interference inputs,
    integer, 1 to 4. seed: of the noise, integer >= 0.

    Raises ValueError for values outside these ranges.
    """

    def __init__(self, sir_db: float = 0.0, snr_db=None, interferers: int = 1, seed: int = 0):
        if interferers not in (1, 2, 3, 4):
            raise ValueError(f"interferers={interferers} is impossible; it must be an integer, 1 to 4")
        if not 0 <= seed < math.inf or seed != int(seed):
            raise ValueError(f"seed={seed} is impossible; it must be an integer, at least 0")
        _check("sir_db", sir_db)
        _check("snr_db", 0 if snr_db is None else snr_db)
        self.interferers = int(interferers)
        gr.hier_block2.__init__(self, "SIR mixer",
                                gr.io_signature(1 + self.interferers, 1 + self.interferers, gr.sizeof_gr_complex),
                                gr.io_signature(1, 1, gr.sizeof_gr_complex))
        self._gain = blocks.multiply_const_cc(1.0)
        # Drawn, so that other noise sources in the flowgraph with the same small seed send other noise.
        noise_seed = int(np.random.default_rng(int(seed)).integers(2**31))
        self._noise = analog.noise_source_c(analog.GR_GAUSSIAN, 0.0, noise_seed)
        self.set_sir_db(sir_db)
        self.set_snr_db(snr_db)

        mixture = blocks.add_cc()
        mixture.set_output_multiple(1)  # else the stream's last samples, up to 7, are lost: the noise never ends
        self.connect(self, mixture, self)
        if self.interferers == 1:
            self.connect((self, 1), self._gain)
        else:
            interference = blocks.add_cc()
            interference.set_output_multiple(1)
            for i in range(self.interferers):
                self.connect((self, 1 + i), (interference, i))
            self.connect(interference, self._gain)
        self.connect(self._gain, (mixture, 1))
        self.connect(self._noise, (mixture, 2))

    def set_sir_db(self, sir_db: float) -> None:
        """Change the SIR, -100 to 100 dB, also while the flowgraph runs. Raises ValueError for other values."""
        _check("sir_db", sir_db)
        self._gain.set_k(kappa(sir_db) / math.sqrt(self.interferers))

    def set_snr_db(self, snr_db) -> None:
        """Change the SNR, -100 to 100 dB or None for no noise, also while the flowgraph runs. Raises as set_sir_db."""
        if snr_db is None:
            self._noise.set_amplitude(0.0)
            return
        _check("snr_db", snr_db)
        self._noise.set_amplitude(10 ** (-snr_db / 20))  # its square is the complex variance


def _check(name: str, value: float) -> None:
    if not -100 <= value <= 100:
        raise ValueError(f"{name}={value} is impossible; it must lie between -100 and 100 dB")
