# SPDX-License-Identifier: GPL-3.0-or-later
"""Priors: what is known about a signal, as small scriptable torch modules."""

from .prior import Prior, PriorError, from_module, load, to_bytes
from .spec import HELP, describe, parse, shipped

__all__ = ["HELP", "Prior", "PriorError", "describe", "from_module", "load", "parse", "shipped",
           "to_bytes"]
