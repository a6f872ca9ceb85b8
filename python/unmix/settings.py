# SPDX-License-Identifier: GPL-3.0-or-later
"""Bounds of the settings that the command line and the block share."""

from collections.abc import Callable
from typing import Optional

import numpy as np

from .separators import resolve_method, takes_steps
from .unmix_python import cuda_available

DEVICES = ("auto", "cpu", "cuda")


def check_settings(method: str = "auto", steps: Optional[int] = None, window: Optional[int] = None, batch: int = 64,
                   seed: int = 0, sir_db: Optional[float] = None, device: str = "auto", overlap: Optional[int] = None,
                   option: Callable[[str], str] = str, automatic: str = "None") -> None:
    """Refuse what no separation can work with. option: how a setting is called, "steps" -> "--steps". automatic: how an
    SIR that is to be estimated is written.

    Raises ValueError with one sentence that names the setting, its value and what is allowed.
    """
    for name, value, least, most in (("window", window, 1, 10**8), ("steps", steps, 1, 10**9),
                                     ("batch", batch, 1, 10**6), ("overlap", overlap, 0, 10**8),
                                     ("seed", seed, 0, 2**63 - 1)):
        if value is None and name not in ("batch", "seed"):
            continue
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not least <= value <= most:
            limits = f"at least {least} and at most {most}" if name != "seed" else "between 0 and 2^63 - 1"
            raise ValueError(f"{option(name)} {value} is impossible; it must be a whole number, {limits}")
    if not isinstance(method, str):
        raise ValueError(f"{option('method')} {method!r} is impossible; it must be a name")
    chosen = resolve_method(method)
    if steps is not None and not takes_steps(chosen):
        raise ValueError(f"{option('steps')} {steps} means nothing to the method {chosen}, which takes "
                         f"no steps; leave it out or choose alpha-rgs or pnp-dr ({option('method')})")
    if sir_db is not None and (not isinstance(sir_db, (int, float, np.number)) or not abs(sir_db) <= 100):
        raise ValueError(f"{option('sir_db')} {sir_db} is impossible; it must be {automatic} or lie between -100 and "
                         "100 dB")
    if device not in DEVICES:
        raise ValueError(f"unknown device '{device}'; allowed are auto, cpu and cuda")


def choose_device(device: str) -> str:
    """The device for a name or "auto": cuda where this build and this machine have it, else cpu."""
    return ("cuda" if cuda_available() else "cpu") if device == "auto" else device
