# SPDX-License-Identifier: GPL-3.0-or-later
"""The matched filter: what a receiver gets that does not know of the interference. The line to beat."""

import numpy as np

from .common import Outcome, Problem, Separation, first_estimates


def matched_filter(problem: Problem) -> Separation:
    """Hard decisions behind the SOI's matched filter, modulated again; the interference is the rest."""
    sources = first_estimates(problem)
    windows, samples = problem.mixture.shape
    blocks = -(-samples // problem.block)
    return Separation(sources, problem.gains.copy(), np.zeros((windows, blocks), np.float32),
                      np.zeros(windows, np.int32), np.full(windows, int(Outcome.STEPS_USED), np.uint8))
