# SPDX-License-Identifier: GPL-3.0-or-later
"""Paired mixtures, made as training goes on: y = s + kappa b + w and the signal of interest s in it."""

import math

import numpy as np
import torch
from data import CpOfdm, LinearModulation, make_source
from recordings import Recording

#: First numbers of the keys that batches are drawn with.
TRAINING, HELD_OUT = 0, 1


class Mixtures:
    """Mixtures of an SOI and an interference of unit power each, windows of equal length.

    soi, interference: a configuration of data.make_source each, or a list of such, from which the windows of a batch
    are drawn in equal parts. sir_db: lowest and highest SIR; it is uniform between them. snr_db: lowest and highest
    ratio of the SOI's to the white noise's power, uniform between them; None: no noise. Raises ValueError for sources
    that make_source refuses, an SOI without symbols, unequal windows or ranges that are none.
    """

    def __init__(self, soi: dict | list, interference: dict | list, sir_db: tuple[float, float] = (-24, -3),
                 snr_db: tuple[float, float] | None = None, device: str = "cpu"):
        self.soi, self.interference = (
            [make_source(config, device) for config in (given if isinstance(given, list) else [given])]
            for given in (soi, interference))
        if not self.soi or not self.interference:
            raise ValueError("data need at least one soi and one interference")
        if not all(isinstance(source, LinearModulation) for source in self.soi):
            raise ValueError("the soi must be of kind linear")
        windows = sorted({source.window for source in self.soi + self.interference})
        if len(windows) > 1:
            raise ValueError(f"the sources have windows of {windows[0]} and {windows[-1]} samples; they must be equal")
        for name, limits in (("sir_db", sir_db), ("snr_db", snr_db)):
            if limits is None and name == "snr_db":
                continue
            if not (isinstance(limits, (list, tuple)) and len(limits) == 2
                    and all(isinstance(x, (int, float)) and math.isfinite(x) for x in limits)
                    and limits[0] <= limits[1]):
                raise ValueError(f"data have {name} {limits}; it must be two numbers, the lower one first")
        self.window, self.sir_db, self.snr_db, self.device = windows[0], tuple(sir_db), snr_db, device

    def draw(self, batch: int, key: tuple[int, ...], sir_db: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The batch of a key, whole numbers from 0 on, always the same: mixtures and SOIs, float32 [batch, window, 2].

        The SOI has unit power, the mixture is in its unit. sir_db: the same SIR for all, in place of the range.
        """
        seed = int(np.random.SeedSequence(key).generate_state(1)[0])  # of 32 bits: torch forgets the others
        generator = torch.Generator(self.device).manual_seed(seed)

        def uniform(low, high):
            return low + (high - low) * torch.rand(batch, 1, 1, generator=generator, device=self.device)

        s, b = (torch.cat([source(len(range(k, batch, len(sources))), generator)
                           for k, source in enumerate(sources) if k < batch])
                for sources in (self.soi, self.interference))
        b = b[torch.randperm(batch, generator=generator, device=self.device)]  # every SOI meets every interference
        sir = uniform(*self.sir_db) if sir_db is None else torch.full((batch, 1, 1), float(sir_db), device=self.device)
        y = s + 10 ** (-sir / 20) * b
        if self.snr_db is not None:
            level = 10 ** (-uniform(*self.snr_db) / 20) / math.sqrt(2)  # per real channel
            y = y + level * torch.randn(y.shape, generator=generator, device=self.device)
        return tuple(x.transpose(1, 2).contiguous().cpu().numpy() for x in (y, s))

    def card(self) -> dict:
        """The entries of a separator's card that the data determine."""
        return {"window": self.window, "soi": [_spec(source) for source in self.soi],
                "interference": [_spec(source) for source in self.interference], "sir_db": list(self.sir_db),
                "snr_db": None if self.snr_db is None else list(self.snr_db)}


def _spec(source: LinearModulation | CpOfdm | Recording) -> str:
    """The specification of a closed-form prior of the same signal. Raises ValueError for a recording."""
    card = source.card()
    if card["simulation"] is None or card["invariances"] and not isinstance(source, CpOfdm):
        raise ValueError("the data have no closed form to which a problem's priors could be compared")
    return card["simulation"]
