# SPDX-License-Identifier: GPL-3.0-or-later
"""Separators: one short file per method over the same problem and result."""

from .alpha_rgs import alpha_rgs
from .best_of import best_of
from .common import CancelFlag, LevelsRefused, MethodError, Outcome, Problem, Progress, Separation, first_estimates
from .matched_filter import matched_filter
from .methods import METHODS, method_options, resolve_method, separate, takes_steps
from .pnp_dr import AGREEMENT, pnp_dr

__all__ = ["AGREEMENT", "METHODS", "CancelFlag", "LevelsRefused", "MethodError", "Outcome", "Problem", "Progress",
           "Separation", "alpha_rgs", "best_of", "first_estimates", "matched_filter", "method_options", "pnp_dr",
           "resolve_method", "separate", "takes_steps"]
