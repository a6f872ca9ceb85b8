# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of one separation: they get their names together at the end, or are left for --resume, or are removed."""

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np

from . import resume
from .captures import CaptureError, SigMFWriter
from .captures.formats import SUFFIXES
from .captures.sigmf_writer import remove, take_back
from .priors.spec import SHIPPED

_SUFFIXES = {"sigmf-meta", "sigmf-data", *SUFFIXES, "wav", "raw", "bin", "dat"}


def stem_of(path: str) -> str:
    """The name of a capture without folder and suffix; a dot in a stem such as 'pass_2.4M' is no suffix."""
    name = Path(path).name
    base, dot, suffix = name.rpartition(".")
    return base if dot and base and suffix.lower() in _SUFFIXES else name


def write_text(path: Path, text: str, follow: bool = False) -> None:
    """Write a text file so that its name never stands for half of it. Raises OSError.

    A pipe or a device of that name is written to, which may wait for a reader, and never replaced. follow: so is what
    a symbolic link stands for, which is replaced otherwise.
    """
    if (path.exists() and not path.is_file()) or (follow and path.is_symlink()):
        path.write_text(text, encoding="utf-8")
        return
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


def state_path(folder: Path, stem: str) -> Path:
    """The file that says where to continue a separation that was cut short."""
    return Path(folder) / f"{stem}_resume.json"


def _may_be_written(copy: Path) -> bool:
    """Whether a text can be written under a name: a file, there or not, a pipe, or a device such as a terminal."""
    if copy.is_fifo() or copy.is_char_device() or (copy.is_symlink() and copy.is_file()):
        return os.access(copy, os.W_OK)
    folder = Path(os.path.realpath(copy)).parent
    return folder.is_dir() and os.access(folder, os.W_OK) and (copy.is_file() or not copy.exists())


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
    earlier: what state() said in a run that was cut short, to go on behind it; such files are never removed, nor are
    those that save() spoke of, but by discard().
    Raises CaptureError with one sentence where the folder cannot be written, or would overwrite a file to keep, and
    resume.StateError where the files are not what `earlier` says.
    """

    def __init__(self, folder: Path, stem: str, sources: Sequence[dict], sample_rate: Optional[float],
                 frequency: Optional[float], bits: bool, keep: Sequence[Path] = (), pictures: Sequence[str] = (),
                 copy: Optional[Path] = None, earlier: Optional[dict] = None):
        self.folder, self.stem = Path(folder), stem
        count = len(sources) - 1
        names = ["soi"] + (["interference"] if count == 1 else [f"interference{i + 1}" for i in range(count)])
        self.stems = [self.folder / f"{stem}_{name}" for name in names]
        self.bits_path = self.folder / f"{stem}_bits.u8" if bits else None
        self.report_path = self.folder / f"{stem}_report.json"
        self.state_path = state_path(self.folder, stem)
        self.writers: list[SigMFWriter] = []
        self._made: list[Path] = []
        self._bits = self._bits_part = None
        self._bits_hash, self._bits_length = hashlib.sha512(), 0
        self._token = secrets.token_hex(4)
        self._report_part: Optional[Path] = None
        self._continued, self._saved, self._kept = earlier is not None, False, 0
        # How far save() and close() came, set before each step: an interrupt may follow any of them.
        self._saving = self._naming = self._named = self._complete = self._untidy = False
        paths = [Path(f"{s}{suffix}") for s in self.stems for suffix in (".sigmf-meta", ".sigmf-data")]
        paths += [self.folder / f"{stem}_{name}.png" for name in pictures] + ([self.bits_path] if bits else [])
        if copy is not None:
            if any(same_file(copy, other) for other in keep):
                raise CaptureError(f"The report {copy} would overwrite an input: name another file (--json).")
            if not same_file(copy, self.report_path) and not _may_be_written(copy):
                raise CaptureError(f"The report {copy} cannot be written: it must be a file in a folder that exists "
                                   "and may be written, or a pipe or a terminal that may be.")
            if any(same_file(copy, other) for other in [*paths, self.state_path]):
                raise CaptureError(f"The report {copy} would overwrite another output: name another file (--json).")
        for path in [*paths, self.report_path, self.state_path]:
            if any(same_file(path, other) for other in keep):
                raise CaptureError(f"The output {path} would overwrite an input: name another folder (--output).")
            if path.is_dir():
                raise CaptureError(f"The output {path} cannot be written: a folder of that name is in the way.")
        heads: list[resume.Head] = []
        try:
            self._make_folder()
            heads += self._heads(earlier, bits) if earlier is not None else []
            self._report_part = self.folder / f".{stem}.{self._token}.json.part"
            for i, (path, source) in enumerate(zip(self.stems, sources, strict=True)):
                # the name may have a suffix of its own, which the writer must not mistake for SigMF's
                self.writers.append(SigMFWriter(f"{path}.sigmf-data", sample_rate, frequency, source["description"],
                                                source["extra"], token=self._token,
                                                earlier=heads[i] if heads else None))
                resume.lock(self.writers[-1].file)
            if bits:
                self._bits_part = self.folder / f".{stem}.{self._token}.u8.part"
                self._open_bits(heads[-1] if heads else None)
        except OSError as error:
            self.abort()
            why = error.strerror or error
            raise CaptureError(f"The output folder {self.folder} cannot be written: {why}.") from None
        except BaseException:
            self.abort()
            raise
        finally:
            for head in heads[len(self.writers) + (self._bits is not None):]:
                head.file.close()

    def _heads(self, earlier: dict, bits: bool) -> list[resume.Head]:
        """The files that an earlier run left, as far as they are sure, the sources' and the bits'."""
        found: list[resume.Head] = []
        try:
            self._token, parts = earlier["token"], earlier["files"]
            resume.need(resume.is_token(self._token) and isinstance(parts, list))
            resume.need(len(parts) == len(self.stems) + bits)
            names = [f"{s.name}.{self._token}.sigmf-data" for s in self.stems]
            names += [f"{self.stem}.{self._token}.u8"] * bits
            final = [Path(f"{s}.sigmf-data") for s in self.stems] + [self.bits_path] * bits
            for name, path, part in zip(names, final, parts, strict=True):
                found.append(resume.find_head([self.folder / f".{name}.part", path], resume.whole(part["bytes"]),
                                              part["sha512"]))
            counts = {head.count for head in found[:len(self.stems)]}
            resume.need(len(counts) == 1)
            self._kept, rest = divmod(counts.pop(), 8)
            resume.need(not rest)
            return found
        except BaseException as error:
            for head in found:
                head.file.close()
            if isinstance(error, (LookupError, TypeError)):
                raise resume.StateError("it contradicts itself") from error
            raise

    def _open_bits(self, earlier: Optional[resume.Head]) -> None:
        if earlier is None:
            self._bits = open(self._bits_part, "xb")  # noqa: SIM115 (close and abort close it)
            return
        os.replace(earlier.path, self._bits_part)
        self._bits, self._bits_hash, self._bits_length = earlier.file, earlier.hash, earlier.count
        self._bits.truncate(earlier.count)
        self._bits.seek(earlier.count)

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
            self._bits_hash.update(bits.tobytes())
            self._bits_length += bits.size

    @property
    def bits(self) -> int:
        """Bits written so far."""
        return self._bits_length

    def state(self) -> dict:
        """Bring everything to the disk and say what is there, for `earlier`. Raises OSError."""
        files = [{"bytes": 8 * writer.length, "sha512": writer.checkpoint()} for writer in self.writers]
        if self._bits is not None:
            self._bits.flush()
            os.fsync(self._bits.fileno())
            files.append({"bytes": self._bits_length, "sha512": self._bits_hash.hexdigest()})
        return {"token": self._token, "files": files}

    def save(self, state: dict) -> None:
        """Write the state from which the separation can be continued. Raises OSError."""
        self._remove_strays()
        self._saving = True
        resume.write(self.state_path, state)
        self._kept, self._saved = state["outputs"]["files"][0]["bytes"] // 8, True
        self._saving = False

    def _look(self) -> None:
        """Find out whether the state that save() was writing is there, which errors and interrupts leave open."""
        if not self._saving:
            return
        with (contextlib.suppress(OSError, ValueError, LookupError, TypeError, MemoryError),
              open(self.state_path) as file):
            state = json.loads(file.readline())["state"]["outputs"]
            if state["token"] == self._token:
                self._kept, self._saved = state["files"][0]["bytes"] // 8, True
        self._saving = False

    @property
    def kept(self) -> int:
        """Samples from which the last saved state goes on, 0 where there is none."""
        self._look()
        return self._kept

    @property
    def named(self) -> bool:
        """Whether all files have their names, as whole ones or as ones that were cut short."""
        return self._named

    @property
    def complete(self) -> bool:
        """Whether all files have their names and are whole."""
        return self._named and self._complete

    def _remove_strays(self) -> None:
        """Remove what a run left that crashed, and that this one replaces."""
        if not self._saved and not self._continued:
            names = [f".{s.name}.{{}}.sigmf-data.part" for s in self.stems]
            names += [f".{s.name}.{{}}.sigmf-meta.part" for s in self.stems]
            names += [f".{self.stem}.{{}}.{kind}.part" for kind in ("u8", "json")]
            resume.remove_parts(self.folder, names, self.state_path, self._token)

    def close(self, complete: bool, annotations: Sequence[dict], report: str) -> None:
        """Give all files their names, the report too. complete: False marks them as cut short, True removes the state.

        All that takes space is done under temporary names, then names change only: where the former fails, what an
        earlier run left is as it was. Raises OSError, CaptureError; the caller then calls abort().
        """
        for writer in self.writers:
            writer.annotate(annotations)
            writer.prepare(complete)
        if self._bits is not None:
            self._bits.flush()
            os.fsync(self._bits.fileno())
        with open(self._report_part, "w", encoding="utf-8") as file:
            file.write(report)
            file.flush()
            os.fsync(file.fileno())
        self._complete, self._naming = complete, True
        self.report_path.unlink(missing_ok=True)  # an earlier one must not stand beside these signals
        for writer in self.writers:
            writer.name_data()
        if self._bits is not None:
            os.replace(self._bits_part, self.bits_path)
        for writer in reversed(self.writers):  # the SOI looks whole when the others do
            writer.name_metadata()
        os.replace(self._report_part, self.report_path)
        self._untidy = complete
        self._named = True
        self._let_go()
        if complete:
            self._remove_strays()
            self.state_path.unlink(missing_ok=True)
        self._untidy = False

    def _let_go(self) -> None:
        """Close the files that close() gave their names."""
        for writer in self.writers:
            writer.finish()
        self._close_bits()

    def _close_bits(self) -> None:
        if self._bits is not None:
            with contextlib.suppress(OSError):
                self._bits.close()
            self._bits = None

    def abort(self) -> None:
        """Give up where something broke: what a saved state speaks of stays, all else goes. Safe at any time."""
        if self._named:
            self._let_go()
            if self._untidy:
                self._remove_strays()
                remove(self.state_path)
                self._untidy = False
        elif self.kept or self._continued:
            for writer in self.writers:
                writer.leave()
            self._close_bits()
            take_back(self._report_part, self.report_path, self._naming)
            self._naming = False
        else:
            self.discard()

    def discard(self) -> None:
        """Remove what this run wrote, its state, and folders that were made for it; what an earlier run left stays.

        Does nothing once all files have their names. Safe at any time.
        """
        if self._named or self._continued:
            self.abort()
            return
        self._look()
        if self._saved:  # goes first: it must not speak of files that are gone
            remove(self.state_path)
            self._saved, self._kept = False, 0
        for writer in self.writers:
            writer.abort(named=True)
        if self._bits is not None:
            self._close_bits()
            take_back(self._bits_part, self.bits_path, self._naming)
        take_back(self._report_part, self.report_path, self._naming)
        self._naming = False
        for folder in self._made:
            with contextlib.suppress(OSError):  # something else lives there by now
                folder.rmdir()
        self._made = []
