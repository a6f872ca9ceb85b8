# SPDX-License-Identifier: GPL-3.0-or-later
"""Methods by the text that users type: a name, and options behind colons, as in pnp-dr:start=lmmse:relaxation=0.9."""

import functools
import inspect
import types
import typing
from typing import Any, Optional

from ..wording import one_line
from .alpha_rgs import alpha_rgs
from .basis import basis, basis_alpha, basis_hard
from .best_of import best_of
from .common import Problem, Separation
from .guided import guided_analytical, guided_dps, guided_dsg, guided_hybrid
from .lmmse import lmmse, lmmse_cyclic
from .matched_filter import matched_filter
from .pnp_dr import pnp_dr
from .reverse_diffusion import reverse_diffusion
from .unet import unet
from .zero_forcing import zero_forcing

#: Methods by name. "auto" is the one that measures best for the priors at hand.
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
    "unet": unet,
    "zero-forcing": zero_forcing,
}

#: Methods that depend on the seed. They have the option restarts: best of n runs, see best_of().
RANDOM = ("alpha-rgs", "basis", "basis-alpha", "basis-hard", "guided-analytical", "guided-dps", "guided-dsg",
          "guided-hybrid", "reverse-diffusion")


def resolve_method(text: str) -> str:
    """The method for a text or "auto", with its options. Raises ValueError for an unknown method or option."""
    name, options = split_method(text)
    return ":".join([name, *(f"{key}={_text(value)}" for key, value in options.items())])


def takes_steps(method: str) -> bool:
    """Whether a method can be told its number of steps. Raises ValueError for an unknown one."""
    return "steps" in inspect.signature(METHODS[split_method(method)[0]]).parameters


def separate(problem: Problem, method: str = "auto", steps: Optional[int] = None) -> Separation:
    """Separate windows by a method, see resolve_method(). steps: see the method; None for its default.

    Raises ValueError for an unknown method or option and for steps that the method does not take, MethodError where
    the method refuses a value or the problem, PriorError where it refuses a prior.
    """
    name, options = split_method(method)
    restarts = options.pop("restarts", 1)
    if takes_steps(name):
        options["steps"] = steps
    elif steps is not None:
        raise ValueError(f"the method {name} takes no steps")
    function = functools.partial(METHODS[name], **options)
    return function(problem) if restarts == 1 else best_of(problem, function, restarts, steps)


def method_options(name: str) -> dict[str, type]:
    """Options of a method that a text can give, and the type of each: bool, float, int or str."""
    found = {"restarts": int} if name in RANDOM else {}
    for key, parameter in inspect.signature(METHODS[name]).parameters.items():
        kinds = typing.get_args(parameter.annotation) or (parameter.annotation,)
        kinds = [kind for kind in kinds if kind is not types.NoneType]
        if key != "steps" and len(kinds) == 1 and kinds[0] in (bool, float, int, str):
            found[key] = kinds[0]
    return found


def split_method(text: str) -> tuple[str, dict[str, Any]]:
    """Name and options of a text such as pnp-dr:relaxation=0.9; "auto" is pnp-dr. Errors as resolve_method()."""
    name, *parts = text.split(":")
    if name == "auto":
        name = "pnp-dr"
    if name not in METHODS:
        raise ValueError(f"unknown method '{name}'; allowed are auto, {', '.join(sorted(METHODS))}")
    known, options = method_options(name), {}
    for part in parts:
        key, _, value = part.partition("=")
        if key not in known:
            raise ValueError(f"the method {name} has no option '{key}'; it has {', '.join(known) or 'none'}")
        if key in options:
            raise ValueError(f"the method {name} is given its option {key} twice")
        options[key] = _value(name, key, value, known[key])
    return name, options


def _value(name: str, key: str, text: str, kind: type) -> Any:
    """An option's value. Raises ValueError where the text is none."""
    try:
        if kind is bool:
            return {"yes": True, "no": False}[text]
        if text:
            return kind(text)
    except (KeyError, ValueError):
        pass
    allowed = {bool: "yes or no", float: "a number", int: "a whole number", str: "a name"}[kind]
    raise ValueError(f"the option {key} of the method {name} must be {allowed}, not '{one_line(text)}'")


def _text(value: Any) -> str:
    """The text of exactly this value; a float's has six digits where they do, else as many as it takes."""
    if isinstance(value, bool):
        return ("no", "yes")[value]
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value).removesuffix(".0")
    return str(value)
