# SPDX-License-Identifier: GPL-3.0-or-later
"""alpha-RGS: score-based separation with randomised Gaussian smoothing (arXiv 2306.14411, Algorithm 1)."""

from typing import Optional, Sequence

from .. import unmix_python
from .common import SCHEDULE, MethodError, Problem, Separation, run_engine
from .starts import begin

#: The cap that suits a linear estimate as the start: uncapped steps (rate times weight reaches 8) leave it again.
WEIGHT_CAP = 0.3

#: The largest number of steps: a step's number is part of a 32-bit counter.
MOST_STEPS = 10**9

#: The largest rate_max. Runs diverge far below it; with much more, float32 cannot hold a step.
MOST_RATE = 1e9


def alpha_rgs(problem: Problem, steps: Optional[int] = None, omega: Optional[Sequence[float]] = None,
              rate_max: float = 5e-3, rate_min: float = 1e-6, level_max_last: int = 49,
              weight_cap: Optional[float] = None, start: str = "matched-filter", equal_levels: bool = False
              ) -> Separation:
    """Run the engine's alpha-RGS; defaults as in the paper.

    steps: N, 1 to 10^9 (default 20,000). omega: weight of each source's term, K values (default kappa^2 each, that is
    gains^2). rate_max, rate_min: learning rate, cosine-annealed; 0 <= rate_min <= rate_max <= MOST_RATE.
    level_max_last: the largest noise level moves from 49 to this, 1 .. 49; 3 halves the errors of short runs.
    weight_cap: > 0 limits a step's pull (rate times weight), 0 does not (default: 0 with the matched filter's start,
    WEIGHT_CAP with the others). start: where the sources begin, a name from starts.STARTS. equal_levels: one noise
    level for all sources in a step; the paper draws one for each. Raises MethodError for values out of range,
    PriorError for priors that the start cannot use.
    """
    steps = 20000 if steps is None else steps
    if not 1 <= steps <= MOST_STEPS:
        raise MethodError(f"alpha-rgs needs 1 to {MOST_STEPS} steps, not {steps}")
    if not 0 <= rate_min <= rate_max <= MOST_RATE:
        raise MethodError(f"rate_max={rate_max}, rate_min={rate_min} is impossible; allowed are 0 <= rate_min <= "
                          f"rate_max <= {MOST_RATE:g}")
    if not 1 <= level_max_last < SCHEDULE.steps:
        raise MethodError(f"level_max_last={level_max_last} is impossible; allowed is 1 to {SCHEDULE.steps - 1}")
    if weight_cap is not None and not weight_cap >= 0:
        raise MethodError(f"weight_cap={weight_cap} is impossible; allowed is at least 0, and 0 is for none")
    if weight_cap is None:
        weight_cap = 0.0 if start == "matched-filter" else WEIGHT_CAP
    return run_engine(
        unmix_python.alpha_rgs, problem, begin(problem, start), steps=steps, rate_max=rate_max, rate_min=rate_min,
        omega=[] if omega is None else list(omega), level_max_last=level_max_last, weight_cap=weight_cap,
        equal_levels=equal_levels)
