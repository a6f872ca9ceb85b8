# SPDX-License-Identifier: GPL-3.0-or-later
"""Plug-and-play Douglas-Rachford splitting: the priors' posterior means as proximal steps, about 15 calls a window."""

from typing import Optional, Sequence

import numpy as np

from .. import unmix_python
from .common import MethodError, Problem, Separation, run_engine
from .starts import begin

#: Disagreement, relative to the SOI's power and above the noise, below which a symbol counts as solved.
AGREEMENT = 0.01

#: Denoising variance where a prior is a DiffWave: a weak one halves its bit errors against 0.1.
DIFFWAVE_VARIANCE = 0.3

#: The largest agreement, far above the disagreement of any first estimate.
MOST_AGREEMENT = 1e6

#: The largest number of steps.
MOST_STEPS = 10**9


def pnp_dr(problem: Problem, steps: Optional[int] = None, v: Optional[Sequence[float]] = None, relaxation: float = 1.0,
           agreement: float = AGREEMENT, refine_gains: bool = True, start: str = "matched-filter") -> Separation:
    """Run the engine's Douglas-Rachford splitting.

    steps: largest number of calls of each prior, 1 to 10^9 (default 100; 16 are used on average at the hardest SIR). v:
    denoising variance per real channel and source (default 0.03, with a DiffWave among them 0.3, or the noise's own if
    that is larger; .02 to .5 work). relaxation: above 0 and below 2. agreement: disagreement, relative to the SOI's
    power and above the noise, below which a symbol counts as solved; above 0, at most MOST_AGREEMENT. refine_gains:
    re-estimate the interference's gain in every call, which repairs levels that are 10 % off. start: where the sources
    begin, a name from starts.STARTS; lmmse-cyclic has fewer bit errors at the ends of isolated windows of known OFDM,
    and costs ten times pnp-dr itself. Raises MethodError for values out of range, PriorError for priors that the start
    cannot use.
    """
    steps = 100 if steps is None else steps
    if not 1 <= steps <= MOST_STEPS:
        raise MethodError(f"pnp-dr needs at least 1 step, and at most {MOST_STEPS}, not {steps}")
    if not 0 < relaxation < 2:
        raise MethodError(f"relaxation={relaxation} is impossible; allowed is above 0 and below 2")
    if not 0 < agreement <= MOST_AGREEMENT:
        raise MethodError(f"agreement={agreement} is impossible; allowed is above 0 and at most {MOST_AGREEMENT:g}")
    if v is None and any(p.info["kind"] == "diffwave" for p in problem.priors):
        noise = float(np.max(problem.noise_variance))
        v = [max(DIFFWAVE_VARIANCE, 0.5 * noise / float(g) ** 2) for g in problem.gains.min(axis=0)]
    return run_engine(
        unmix_python.pnp_dr, problem, begin(problem, start), steps=steps,
        v=[] if v is None else list(v), relaxation=relaxation, agreement=agreement, refine_gains=refine_gains,
        margin=problem.margin)
