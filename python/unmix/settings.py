# SPDX-License-Identifier: GPL-3.0-or-later
"""Bounds of the settings that the command line and the block share."""

from collections.abc import Callable
from typing import Optional

from .separators import resolve_method
from .unmix_python import cuda_available

MOST = {"window": 10**8, "steps": 10**9, "batch": 10**6}
DEVICES = ("auto", "cpu", "cuda")


def check_settings(method: str = "auto", steps: Optional[int] = None, window: Optional[int] = None, batch: int = 64,
                   seed: int = 0, sir_db: Optional[float] = None, device: str = "auto",
                   option: Callable[[str], str] = str) -> None:
    """Refuse what no separation can work with. option: how a setting is called, "steps" -> "--steps".

    Raises ValueError with one sentence that names the setting, its value and what is allowed.
    """
    for name, value in (("window", window), ("steps", steps), ("batch", batch)):
        if value is not None and not 1 <= value <= MOST[name]:
            raise ValueError(f"{option(name)} {value} is impossible; it must be at least 1 and at most {MOST[name]}")
    if not 0 <= seed < 1 << 63:
        raise ValueError(f"{option('seed')} {seed} is impossible; it must lie between 0 and 2^63 - 1")
    if resolve_method(method) == "matched-filter" and steps is not None:
        raise ValueError(f"{option('steps')} {steps} means nothing to the method matched-filter, which takes no steps; "
                         f"leave it out or choose alpha-rgs or pnp-dr ({option('method')})")
    if sir_db is not None and not abs(sir_db) <= 100:
        raise ValueError(f"{option('sir_db')} {sir_db:g} is impossible; it must be auto or lie between -100 and 100 dB")
    if device not in DEVICES:
        raise ValueError(f"unknown device '{device}'; allowed are auto, cpu and cuda")


def choose_device(device: str) -> str:
    """The device for a name or "auto": cuda where this build and this machine have it, else cpu."""
    return ("cuda" if cuda_available() else "cpu") if device == "auto" else device
