# SPDX-License-Identifier: GPL-3.0-or-later
"""Plug-and-play Douglas-Rachford splitting: the priors' posterior means as proximal steps, about 15 calls a window."""

from typing import Optional, Sequence

import numpy as np

from .. import unmix_python
from .common import Problem, Separation, run_engine
from .starts import begin

#: Disagreement, relative to the SOI's power and above the noise, below which a symbol counts as solved.
AGREEMENT = 0.01

#: Denoising variance where a prior is a DiffWave: a weak one halves its bit errors against 0.1.
DIFFWAVE_VARIANCE = 0.3


def pnp_dr(problem: Problem, steps: Optional[int] = None, v: Optional[Sequence[float]] = None, relaxation: float = 1.0,
           agreement: float = AGREEMENT, refine_gains: bool = True, start: str = "matched-filter") -> Separation:
    """Run the engine's Douglas-Rachford splitting.

    steps: largest number of calls of each prior, >= 1 (default 100; 16 are used on average at the hardest SIR). v:
    denoising variance per real channel and source (default 0.03, with a DiffWave among them 0.3, or the noise's own if
    that is larger; .02 to .5 work). relaxation: 0 .. 2. agreement: disagreement, relative to the SOI's power and
    above the noise, below which a symbol counts as solved. refine_gains: re-estimate the interference's gain in every
    call, which repairs levels that are 10 % off. start: where the sources begin, a name from starts.STARTS;
    lmmse-cyclic has fewer bit errors at the ends of isolated windows of known OFDM, and costs ten times pnp-dr itself.
    Raises MethodError for values out of range, PriorError for priors that the start cannot use.
    """
    if v is None and any(p.info["kind"] == "diffwave" for p in problem.priors):
        noise = float(np.max(problem.noise_variance))
        v = [max(DIFFWAVE_VARIANCE, 0.5 * noise / float(g) ** 2) for g in problem.gains.min(axis=0)]
    return run_engine(
        unmix_python.pnp_dr, problem, begin(problem, start), steps=100 if steps is None else steps,
        v=[] if v is None else list(v), relaxation=relaxation, agreement=agreement, refine_gains=refine_gains,
        margin=problem.margin)
