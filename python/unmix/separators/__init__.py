# SPDX-License-Identifier: GPL-3.0-or-later
"""Separators: one short file per method over the same problem and result."""

import inspect
from typing import Optional

from .alpha_rgs import alpha_rgs
from .basis import basis, basis_alpha, basis_hard
from .best_of import best_of
from .common import CancelFlag, Outcome, Problem, Progress, Separation, first_estimates
from .guided import guided_analytical, guided_dps, guided_dsg, guided_hybrid
from .lmmse import lmmse, lmmse_cyclic
from .matched_filter import matched_filter
from .pnp_dr import AGREEMENT, pnp_dr
from .reverse_diffusion import reverse_diffusion
from .zero_forcing import zero_forcing

__all__ = ["AGREEMENT", "METHODS", "CancelFlag", "Outcome", "Problem", "Progress", "Separation", "best_of",
           "first_estimates", "resolve_method", "separate", "takes_steps"]

#: Methods by the name that users type. "auto" is the one that measures best for the priors at hand.
METHODS = {
    "alpha-rgs": alpha_rgs,
    "basis": basis,
    "basis-alpha": basis_alpha,
    "basis-hard": basis_hard,
    "guided-analytical": guided_analytical,
    "guided-dps": guided_dps,
    "guided-dsg": guided_dsg,
    "guided-hybrid": guided_hybrid,
    "lmmse": lmmse,
    "lmmse-cyclic": lmmse_cyclic,
    "matched-filter": matched_filter,
    "pnp-dr": pnp_dr,
    "reverse-diffusion": reverse_diffusion,
    "zero-forcing": zero_forcing,
}


def resolve_method(name: str) -> str:
    """The method for a name or "auto". Raises ValueError for an unknown one."""
    if name == "auto":
        return "pnp-dr"
    if name not in METHODS:
        raise ValueError(f"unknown method '{name}'; allowed are auto, {', '.join(sorted(METHODS))}")
    return name


def takes_steps(method: str) -> bool:
    """Whether a method can be told its number of steps. Raises ValueError for an unknown one."""
    return "steps" in inspect.signature(METHODS[resolve_method(method)]).parameters


def separate(problem: Problem, method: str = "auto", steps: Optional[int] = None) -> Separation:
    """Separate windows by a named method with its default options. steps: see the method; None for its default.

    Raises ValueError for an unknown method and for steps that are out of range or that the method does not take.
    """
    chosen = resolve_method(method)
    if takes_steps(chosen):
        return METHODS[chosen](problem, steps=steps)
    if steps is not None:
        raise ValueError(f"the method {chosen} takes no steps")
    return METHODS[chosen](problem)
