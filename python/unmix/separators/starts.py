# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the engine's separators begin: first estimates of the sources by name."""

from dataclasses import replace

import numpy as np

from .common import MethodError, Problem, first_estimates
from .lmmse import lmmse, lmmse_cyclic

#: Of the sources, complex64 [K, W, N].
STARTS = {"matched-filter": first_estimates, "lmmse": lambda problem: lmmse(problem).sources,
          "lmmse-cyclic": lambda problem: lmmse_cyclic(problem).sources}


def begin(problem: Problem, start: str) -> np.ndarray:
    """First estimates complex64 [K, W, N] by a name from STARTS.

    Raises MethodError for an unknown one, PriorError for priors that it cannot use.
    """
    if start not in STARTS:
        raise MethodError(f"unknown start '{start}'; allowed are {', '.join(STARTS)}")
    return STARTS[start](replace(problem, progress=None))  # what follows says how far it is
