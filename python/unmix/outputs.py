# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of one separation: they get their names together at the end, or nothing is left of them."""

import contextlib
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np

from .captures import CaptureError, SigMFWriter
from .captures.formats import SUFFIXES
from .priors.spec import SHIPPED

_SUFFIXES = {"sigmf-meta", "sigmf-data", *SUFFIXES, "wav", "raw", "bin", "dat"}


def stem_of(path: str) -> str:
    """The name of a capture without folder and suffix; a dot in a stem such as 'pass_2.4M' is no suffix."""
    name = Path(path).name
    base, dot, suffix = name.rpartition(".")
    return base if dot and base and suffix.lower() in _SUFFIXES else name


def write_text(path: Path, text: str) -> None:
    """Write a text file so that its name never stands for half of it. Raises OSError."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def files_behind(path: str) -> list[Path]:
    """All files that a recording's name may stand for: itself, and where it is SigMF its metadata and its data."""
    given = Path(path)
    stem = given.with_suffix("") if given.suffix.lower() in (".sigmf-meta", ".sigmf-data") else given
    meta = Path(f"{stem}.sigmf-meta")
    found = [given, meta, Path(f"{stem}.sigmf-data")]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # no metadata, or none that names a file
        found.append(meta.with_name(json.loads(meta.read_text(encoding="utf-8"))["global"]["core:dataset"]))
    return found


def files_of_prior(spec: str) -> list[Path]:
    """All files that a prior's specification names; empty for closed forms."""
    spec = spec.strip()
    if spec.startswith("gaussian:"):
        return files_behind(spec.removeprefix("gaussian:"))
    return [Path(spec), SHIPPED / f"{spec}.pt"]


def same_file(one: Path, other: Path) -> bool:
    """Whether two names stand for one file, there already or not."""
    try:
        return one.samefile(other)
    except OSError:  # one is missing
        return os.path.realpath(one) == os.path.realpath(other)


class Outputs:
    """Separated streams, bits and report in one folder.

    folder: made where it is missing. stem: of all names. sources: K >= 2 dicts, SOI first, with `description` and
    `extra` (global metadata). bits: whether there are any. keep: files that must not be overwritten. pictures: names
    of pictures that will be drawn. copy: where a copy of the report goes, which must not be another of the files.
    Raises CaptureError with one sentence where the folder cannot be written, or would overwrite a file to keep.
    """

    def __init__(self, folder: Path, stem: str, sources: Sequence[dict], sample_rate: Optional[float],
                 frequency: Optional[float], bits: bool, keep: Sequence[Path] = (), pictures: Sequence[str] = (),
                 copy: Optional[Path] = None):
        self.folder, self.stem = Path(folder), stem
        count = len(sources) - 1
        names = ["soi"] + (["interference"] if count == 1 else [f"interference{i + 1}" for i in range(count)])
        self.stems = [self.folder / f"{stem}_{name}" for name in names]
        self.bits_path = self.folder / f"{stem}_bits.u8" if bits else None
        self.report_path = self.folder / f"{stem}_report.json"
        self.writers: list[SigMFWriter] = []
        self._made: list[Path] = []
        self._bits = self._bits_part = None
        paths = [Path(f"{s}{suffix}") for s in self.stems for suffix in (".sigmf-meta", ".sigmf-data")]
        paths += [self.folder / f"{stem}_{name}.png" for name in pictures] + ([self.bits_path] if bits else [])
        if copy is not None:
            if any(same_file(copy, other) for other in keep):
                raise CaptureError(f"The report {copy} would overwrite an input: name another file (--json).")
            folder = copy.parent
            if not same_file(copy, self.report_path) and (
                    copy.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK)):
                raise CaptureError(f"The report {copy} cannot be written: it must be a file in a folder that exists "
                                   "and may be written.")
            if any(same_file(copy, other) for other in paths):
                raise CaptureError(f"The report {copy} would overwrite another output: name another file (--json).")
        for path in [*paths, self.report_path]:
            if any(same_file(path, other) for other in keep):
                raise CaptureError(f"The output {path} would overwrite an input: name another folder (--output).")
            if path.is_dir():
                raise CaptureError(f"The output {path} cannot be written: a folder of that name is in the way.")
        try:
            self._make_folder()
            for path, source in zip(self.stems, sources, strict=True):
                # the name may have a suffix of its own, which the writer must not mistake for SigMF's
                self.writers.append(SigMFWriter(f"{path}.sigmf-data", sample_rate, frequency, source["description"],
                                                source["extra"]))
            if bits:
                self._bits_part = self.folder / f".{stem}.{secrets.token_hex(4)}.u8.part"
                self._bits = open(self._bits_part, "xb")  # noqa: SIM115 (close and abort close it)
        except OSError as error:
            self.abort()
            why = error.strerror or error
            raise CaptureError(f"The output folder {self.folder} cannot be written: {why}.") from None
        except BaseException:
            self.abort()
            raise

    def _make_folder(self) -> None:
        missing = []
        folder = self.folder
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        self._made = missing
        self.folder.mkdir(parents=True, exist_ok=True)
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise CaptureError(f"The output folder {self.folder} may not be written: its permissions do not allow it.")

    @property
    def length(self) -> int:
        """Samples written so far, of each source."""
        return self.writers[0].length

    @property
    def files(self) -> list[str]:
        """Names of what is there once it is closed, without the report's."""
        names = [f"{s.name}{suffix}" for s in self.stems for suffix in (".sigmf-meta", ".sigmf-data")]
        return names + ([self.bits_path.name] if self.bits_path is not None else [])

    def write(self, sources: np.ndarray, bits: np.ndarray) -> None:
        """Append sources complex64 [K, n] and bits uint8 [m]. Raises OSError where the disk is full."""
        for writer, wave in zip(self.writers, sources, strict=True):
            writer.write(wave)
        if self._bits is not None:
            self._bits.write(bits.tobytes())

    def close(self, complete: bool, annotations: Sequence[dict]) -> None:
        """Give all files their names. complete: False marks them as cut short. Raises OSError, CaptureError."""
        for writer in self.writers:
            writer.annotate(annotations)
            writer.close(complete)
        if self._bits is not None:
            self._bits.close()
            self._bits = None
            os.replace(self._bits_part, self.bits_path)

    def abort(self) -> None:
        """Remove what has no name yet, and folders that were made for it. Safe at any time."""
        for writer in self.writers:
            writer.abort()
        if self._bits is not None:
            with contextlib.suppress(OSError):
                self._bits.close()
            self._bits = None
            self._bits_part.unlink(missing_ok=True)
        for folder in self._made:
            with contextlib.suppress(OSError):  # something else lives there by now
                folder.rmdir()
        self._made = []
