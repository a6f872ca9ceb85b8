# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of a separation that was cut short, as a file: what it holds, how it is written, read and distrusted.

The file is JSON without anything that could run; arrays are in base64. It may come from anybody: whatever is wrong with
it is a StateError, one sentence.
"""

import base64
import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import math
import os
import re
import secrets
import stat
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Optional

import numpy as np

from .survey import stretches

FORMAT = "gr-unmix resume 1"
MOST_BYTES = 1 << 28  # of a state file
WHOLE_BYTES = 1 << 24  # inputs up to this size are compared byte by byte
_TYPES = ("bool", "uint8", "int64", "float32", "float64", "complex64", "complex128")
_KIND = "!"  # the key that tells an object from a dict


class StateError(ValueError):
    """A state that cannot be used; the message is one sentence."""


def need(condition: Any, what: str = "") -> None:
    """Raise StateError unless the condition holds."""
    if not condition:
        raise StateError(what or "it contradicts itself")


def whole(value: Any, low: int = 0, high: int = 1 << 53) -> int:
    """The value, if it is a whole number from low to high. Raises StateError."""
    need(isinstance(value, int) and not isinstance(value, bool) and low <= value <= high)
    return value


def number(value: Any, low: float = -1e300, high: float = 1e300) -> float:
    """The value, if it is a number from low to high. Raises StateError."""
    need(isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high)
    return float(value)


def array(value: Any, kind: str, *shape: Optional[int]) -> np.ndarray:
    """The value, if it is an array of type `kind` and the shape, None standing for any length. Raises StateError."""
    need(isinstance(value, np.ndarray) and value.dtype == kind and value.ndim == len(shape)
         and all(want in (None, got) for want, got in zip(shape, value.shape, strict=True)))
    return value


def pack(value: Any) -> Any:
    """Numbers, strings, arrays, dataclasses, lists and dicts of them as plain JSON values."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, complex):
        return {_KIND: "complex", "parts": [value.real, value.imag]}
    if isinstance(value, np.ndarray):
        if value.dtype.name not in _TYPES:
            raise TypeError(f"arrays of {value.dtype} have no place in a state")
        return {_KIND: "array", "type": value.dtype.name, "shape": list(value.shape),
                "data": base64.b64encode(np.ascontiguousarray(value)).decode()}
    if dataclasses.is_dataclass(value):
        return {_KIND: type(value).__name__,
                "fields": {f.name: pack(getattr(value, f.name)) for f in dataclasses.fields(value)}}
    if isinstance(value, (list, tuple)):
        return [pack(v) for v in value]
    if isinstance(value, dict):
        return {str(k): pack(v) for k, v in value.items()}
    raise TypeError(f"{type(value).__name__} has no place in a state")


def unpack(value: Any, kinds: Sequence[type] = ()) -> Any:
    """What pack() was given. kinds: the dataclasses that may be in it. Raises StateError."""
    if isinstance(value, list):
        return [unpack(v, kinds) for v in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_KIND)
    if kind is None:
        return {k: unpack(v, kinds) for k, v in value.items()}
    if kind == "complex":
        parts = value.get("parts")
        need(isinstance(parts, list) and len(parts) == 2)
        return complex(number(parts[0]), number(parts[1]))
    if kind == "array":
        return _array(value)
    cls = next((c for c in kinds if c.__name__ == kind), None)
    fields = value.get("fields")
    need(cls is not None and isinstance(fields, dict))
    need(set(fields) == {f.name for f in dataclasses.fields(cls)})
    hints = typing.get_type_hints(cls)
    found = {name: unpack(v, kinds) for name, v in fields.items()}
    need(all(_is(v, hints[name]) for name, v in found.items()))
    return cls(**found)


def _array(value: dict) -> np.ndarray:
    kind, shape, data = value.get("type"), value.get("shape"), value.get("data")
    need(kind in _TYPES and isinstance(shape, list) and len(shape) <= 3 and isinstance(data, str))
    size = math.prod(whole(n) for n in shape) * np.dtype(kind).itemsize
    need(size <= MOST_BYTES)
    raw = base64.b64decode(data, validate=True)
    need(len(raw) == size and (kind != "bool" or max(raw, default=0) <= 1))
    result = np.frombuffer(raw, kind).reshape(shape).copy()
    need(np.isfinite(result).all())
    return result


def _is(value: Any, hint: Any) -> bool:
    """Whether a value is what a dataclass's annotation says, and finite."""
    if typing.get_origin(hint) is typing.Union:
        return any(_is(value, each) for each in typing.get_args(hint))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if hint is complex:
        return isinstance(value, (int, float, complex)) and abs(value) < 1e300
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53
    return isinstance(hint, type) and isinstance(value, hint)


def write(path: Path, state: dict) -> None:
    """Write a state so that its name never stands for half of it, nor for what is not on the disk. Raises OSError."""
    text = json.dumps({"format": FORMAT, "state": pack(state)})
    digest = hashlib.sha256(text.encode()).hexdigest()
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "x", encoding="ascii") as file:
            file.write(f"{text}\n{digest}\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def read(path: Path, kinds: Sequence[type] = ()) -> dict:
    """The state in a file. kinds: see unpack. Raises FileNotFoundError where there is none, else StateError."""
    try:
        return unpack(_load(path), kinds)
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise error if isinstance(error, StateError) else StateError("it is damaged") from None


def _load(path: Path) -> dict:
    """The state in a file as pack() gave it."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise StateError("it is not a file")
        if path.stat().st_size > MOST_BYTES:
            raise StateError(f"it is larger than {MOST_BYTES >> 20} MiB")
        with open(path, encoding="ascii") as file:
            text, _, digest = file.read(MOST_BYTES + 1).partition("\n")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StateError(f"it cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise StateError("it is not a state of this program") from None
    if not text.startswith('{"format": "gr-unmix resume '):
        raise StateError("it is not a state of this program")
    if hashlib.sha256(text.encode()).hexdigest() != digest.strip():
        raise StateError("it is damaged")
    try:
        content = json.loads(text)
        if content["format"] != FORMAT:
            raise StateError("it stems from another version")
        need(isinstance(content["state"], dict))
        return content["state"]
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise error if isinstance(error, StateError) else StateError("it is damaged") from None


def identity(path: Path) -> Optional[dict]:
    """What tells whether an input is still the same: its size and bytes, or those of 64 stretches and its date.

    None where there is no such file.
    """
    try:
        with open(path, "rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                return None
            result, total = {"bytes": facts.st_size}, hashlib.sha256()
            if facts.st_size > WHOLE_BYTES:
                result["changed_ns"] = facts.st_mtime_ns
            pieces = stretches(facts.st_size, WHOLE_BYTES, 1) if facts.st_size <= WHOLE_BYTES else \
                stretches(facts.st_size)
            for start, count in pieces:
                file.seek(start)
                total.update(file.read(count))
            return result | {"sha256": total.hexdigest()}
    except OSError:
        return None


@dataclasses.dataclass
class Head:
    """A file whose first bytes are known: open for reading and writing, locked, and the hash of these bytes."""

    file: BinaryIO
    path: Path
    count: int
    hash: Any


def find_head(candidates: Sequence[Path], count: int, digest: str) -> Head:
    """The first of the files that begins with `count` bytes of the SHA-512 `digest`. Raises StateError."""
    for path in candidates:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.EISDIR, errno.ENXIO):
                continue
            raise StateError(f"{path} cannot be written: {error.strerror or error}") from None
        file = os.fdopen(descriptor, "r+b")
        facts = os.fstat(descriptor)
        if stat.S_ISREG(facts.st_mode) and facts.st_size >= count:
            if not lock(file):
                file.close()
                raise StateError(f"another run is still writing {path}")
            total = hashlib.sha512()
            left = count
            while left:
                piece = file.read(min(left, 1 << 20))
                if not piece:
                    break
                total.update(piece)
                left -= len(piece)
            if total.hexdigest() == digest:
                return Head(file, path, count, total)
        file.close()
    raise StateError(f"{candidates[-1].name} is gone or not what the earlier run wrote")


def lock(file: BinaryIO) -> bool:
    """Keep other runs away from a file as long as it is open; False where another one has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system that has no locks
        pass
    return True


def is_token(text: Any) -> bool:
    """Whether a text may be part of the names of unfinished files."""
    return isinstance(text, str) and re.fullmatch("[0-9a-f]{8}", text) is not None


def remove_parts(folder: Path, names: Sequence[str], path: Path, own: str) -> None:
    """Remove the unfinished files that a state file `path` in the folder speaks of, unless a run is writing them.

    names: of the unfinished files, {} standing for the token. own: the token of the run that asks.
    """
    try:
        token = _load(path)["outputs"]["token"]
    except (OSError, KeyError, TypeError, StateError):
        return
    if not is_token(token) or token == own:
        return
    for name in names:
        part = folder / name.format(token)
        if part.is_file():
            with contextlib.suppress(OSError), open(part, "rb") as file:
                if lock(file):
                    part.unlink(missing_ok=True)
