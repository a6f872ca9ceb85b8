# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing SigMF as a stream: what stands under the final name is always whole, or says that it is not."""

import contextlib
import copy
import hashlib
import json
import os
import secrets
from pathlib import Path

import numpy as np
import sigmf
from jsonschema.exceptions import ValidationError

from .error import CaptureError

EXTENSION = {"name": "unmix", "version": "1.0.0", "optional": True}

#: What the writer itself knows and the caller cannot say otherwise.
RESERVED = ("core:datatype", "core:num_channels", "core:sample_rate", "core:sha512", "core:version",
            "core:description", "core:offset", "core:dataset", "core:trailing_bytes", "core:metadata_only",
            "unmix:complete")

INCOMPLETE = "Incomplete: cancelled before the end."


class SigMFWriter:
    """Writes complex samples to ``stem.sigmf-data`` and, at the end, ``stem.sigmf-meta``.

    Samples go to a temporary file beside the target. ``close`` renames it, the data first and the metadata
    last, so that a crash never leaves a recording that looks whole. As a context manager it closes at the
    end, aborts on an exception, and keeps what was written, marked as incomplete, on KeyboardInterrupt.

    Where several recordings must get their names together, the steps of ``close`` are called for each of them in
    turn: ``prepare``, ``name_data``, ``name_metadata``, ``finish``. Whoever does so calls ``leave`` or ``abort`` where
    one of them raises.

    Data is cf32_le; core:sha512 is computed on the way. ``unmix:complete`` in the global section is true or
    false.

    Attributes:
        data_path, meta_path: pathlib.Path of the two files to be.
        length: samples written so far.
    """

    def __init__(self, stem_path, sample_rate, center_frequency, description, global_extra, annotations=(),
                 token=None, earlier=None):
        """Open the temporary file and check the metadata, before hours of work go into the samples.

        Args:
            stem_path: path without suffix (``.sigmf-data`` and ``.sigmf-meta`` are taken off); an existing
                recording of that name is replaced at the end. Its folder must exist.
            sample_rate: samples per second, or None where it is unknown.
            center_frequency: hertz, or None where it is unknown.
            description: a sentence for core:description.
            global_extra: dict of further global fields ('core:author', 'unmix:method', ...), JSON values.
                Extensions other than unmix must be declared in its 'core:extensions'.
            annotations: dicts with 'core:sample_start' and other annotation fields. What reaches beyond the
                last sample is clipped at the end.
            token: part of the temporary files' names (default: drawn at random).
            earlier: resume.Head of samples that an earlier writer left; they are kept, and what follows them
                is cut off. The file becomes this writer's.

        Raises:
            CaptureError: where the metadata would not be valid SigMF, or the files cannot be made.
        """
        stem = Path(stem_path)
        if stem.suffix in (".sigmf-data", ".sigmf-meta"):
            stem = stem.with_suffix("")
        self.data_path = stem.with_name(stem.name + ".sigmf-data")
        self.meta_path = stem.with_name(stem.name + ".sigmf-meta")
        self.length = 0
        self._hash = hashlib.sha512()
        self._relied_on = earlier is not None  # a state elsewhere speaks of the temporary file
        self._naming = False  # whether files may have their final names already
        self._global = _global_section(sample_rate, description, global_extra)
        self._capture = {} if center_frequency is None else {"core:frequency": _plain(center_frequency)}
        self._annotations = [_plain(dict(annotation)) for annotation in annotations]
        _require_declared(self._global, *self._annotations)
        self._document(complete=True, clip=False)

        if not stem.parent.is_dir():
            raise CaptureError(f"The folder {stem.parent} does not exist: {self.data_path.name} cannot be "
                               "written.")
        part = f".{stem.name}.{token or secrets.token_hex(4)}"
        self._data_part = stem.with_name(f"{part}.sigmf-data.part")
        self._meta_part = stem.with_name(f"{part}.sigmf-meta.part")
        try:
            if earlier is None:
                self._file = open(self._data_part, "xb")  # noqa: SIM115 (close and abort close it)
            else:
                self._continue(earlier)
        except OSError as error:
            raise CaptureError(f"{self.data_path} cannot be written: {error.strerror or error}.") from error

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is None:
            self.close()
        elif issubclass(kind, KeyboardInterrupt):
            self.close(complete=False)
        else:
            self.abort()
        return False

    def _continue(self, earlier):
        """Go on where an earlier writer ended, whose file may have got its final name."""
        self._meta_part.unlink(missing_ok=True)
        if earlier.path == self.data_path:  # the old metadata goes first: it must never stand beside other data
            self.meta_path.unlink(missing_ok=True)
        os.replace(earlier.path, self._data_part)
        self._file, self._hash, self.length = earlier.file, earlier.hash, earlier.count // 8
        self._file.truncate(earlier.count)
        self._file.seek(earlier.count)

    @property
    def file(self):
        """The open temporary file."""
        return self._file

    def checkpoint(self):
        """Bring everything written so far to the disk; returns the SHA-512 of it, hexadecimal. Raises OSError.

        From then on the temporary file stays where `close` fails.
        """
        _sync(self._file)
        self._relied_on = True
        return self._hash.hexdigest()

    def leave(self):
        """Close the file and leave the samples as they are, for another writer to continue. Safe at any time.

        They have their temporary name or, where `name_data` got as far, the final one, and no metadata beside them.
        """
        if self._file is None:
            return
        self._shut()
        take_back(self._meta_part, self.meta_path, self._naming)

    def write(self, samples):
        """Append samples.

        Args:
            samples: complex ``[n]``, finite; stored as complex64.

        Raises:
            ValueError: for another shape, real or non-finite samples, or after ``close``; nothing is written
                then.
            OSError: where the disk is full or gone.
        """
        if self._file is None:
            raise ValueError("The recording is closed: nothing more can be written to it.")
        samples = np.asarray(samples)
        if samples.ndim != 1 or not np.iscomplexobj(samples):
            raise ValueError(f"Samples must be complex with shape [n], not {samples.dtype} "
                             f"{list(samples.shape)}.")
        with np.errstate(over="ignore"):  # what overflows is refused below
            stored = np.ascontiguousarray(samples, "<c8")
        if not np.isfinite(stored).all():
            bad = self.length + int(np.argmin(np.isfinite(stored)))
            raise ValueError(f"Sample {bad} to be written is {stored[bad - self.length]}: samples must be "
                             "finite.")
        self._file.write(stored.data)
        self._hash.update(stored.data)
        self.length += stored.size

    def annotate(self, annotations):
        """Add annotations that are known only after the samples were written.

        Args:
            annotations: dicts as the constructor takes them.

        Raises:
            CaptureError: where the metadata would not be valid SigMF; nothing is added then.
        """
        before = self._annotations
        self._annotations = before + [_plain(dict(annotation)) for annotation in annotations]
        try:
            _require_declared(self._global, *self._annotations)
            self._document(complete=True, clip=False)
        except CaptureError:
            self._annotations = before
            raise

    def close(self, complete=True):
        """Finish: give both files their final names. A second call does nothing.

        Args:
            complete: False keeps what was written but marks it: ``unmix:complete`` is false and the
                description says so. Where nothing was written yet, nothing is kept.

        Raises:
            CaptureError: where ``complete`` and no sample was written; nothing is kept then.
            OSError: where the disk is full or gone; the temporary files are removed, but for one that was
                continued or that `checkpoint` spoke of.
        """
        if self._file is None:
            return
        if self.length == 0 and not complete:
            self.abort()
            return
        try:
            self.prepare(complete)
            self.name_data()
            self.name_metadata()
        except BaseException:
            if self._relied_on:
                self.leave()
            else:
                self.abort()
            raise
        self.finish()

    def prepare(self, complete=True):
        """Bring samples and metadata to the disk under their temporary names: all that takes space.

        Args:
            complete: see `close`.

        Raises:
            CaptureError: where no sample was written.
            OSError: where the disk is full or gone.
        """
        if self.length == 0:
            raise CaptureError(f"No sample was written to {self.data_path}: an empty recording is not kept.")
        self._drop_half_written()
        text = self._document(complete, clip=True)
        _sync(self._file)
        with open(self._meta_part, "x", encoding="utf-8") as file:
            file.write(text + "\n")
            _sync(file)

    def name_data(self):
        """Give the samples their final name, without metadata yet. Raises OSError."""
        self._naming = True
        # the old metadata goes first: it must never stand beside the new data
        self.meta_path.unlink(missing_ok=True)
        os.replace(self._data_part, self.data_path)

    def name_metadata(self):
        """Give the metadata their final name. Raises OSError."""
        os.replace(self._meta_part, self.meta_path)

    def finish(self):
        """Let go of the file, once both have their names. Safe at any time."""
        if self._file is not None:
            self._shut()

    def abort(self, named=False):
        """Remove the temporary files; what stood under the final names before stays. Safe at any time.

        Args:
            named: whether samples that got their final name from an unfinished `close` are removed too. Metadata are in
                any case: these would make them look whole.
        """
        if self._file is None:
            return
        self._shut()
        take_back(self._meta_part, self.meta_path, self._naming)
        if named:
            take_back(self._data_part, self.data_path, self._naming)
        remove(self._data_part)

    def _shut(self):
        with contextlib.suppress(OSError):  # flushing the last block to a full disk
            self._file.close()
        self._file = None

    def _drop_half_written(self):
        # Ctrl-C may come while write is at work, when file, hash and length do not agree
        if self._file.tell() == self.length * 8:
            return
        self._file.truncate(self.length * 8)
        self._file.flush()
        with open(self._data_part, "rb") as file:
            self._hash = hashlib.file_digest(file, "sha512")

    def _document(self, complete, clip):
        """The metadata as JSON text, valid SigMF. ``clip`` cuts annotations at the last sample."""
        section = dict(self._global, **{"unmix:complete": bool(complete)})
        if not complete:
            section["core:description"] = f"{section.get('core:description', '')} {INCOMPLETE}".strip()
        section["core:sha512"] = self._hash.hexdigest()
        recording = sigmf.SigMFFile(global_info=section)
        recording.add_capture(0, metadata=dict(self._capture))
        for annotation in copy.deepcopy(self._annotations):
            start = annotation.pop("core:sample_start", None)
            count = annotation.pop("core:sample_count", None)
            if not (_is_index(start) and (count is None or _is_index(count))):
                raise CaptureError(f"An annotation has core:sample_start {start!r} and core:sample_count "
                                   f"{count!r}: both must be whole numbers from 0 up, and the first must be "
                                   "there.")
            if clip:
                if start >= self.length:
                    continue
                count = None if count is None else min(count, self.length - start)
            recording.add_annotation(start, count, annotation)
        try:
            recording.validate()
        except ValidationError as error:
            where = "/".join(str(part) for part in error.absolute_path)
            raise CaptureError(f"The metadata of {self.data_path.name} would not be valid SigMF at {where}: "
                               f"{error.message}.") from error
        return recording.dumps()


def _global_section(sample_rate, description, global_extra):
    section = _plain(dict(global_extra))
    taken = [key for key in section if key in RESERVED]
    if taken:
        raise CaptureError(f"{', '.join(taken)} cannot be given among the extra metadata: the writer sets "
                           "it.")
    section["core:datatype"] = "cf32_le"
    section["core:description"] = str(description)
    if sample_rate is not None:
        section["core:sample_rate"] = _plain(sample_rate)
    extensions = section.setdefault("core:extensions", [])
    if not isinstance(extensions, list) or not all(isinstance(e, dict) for e in extensions):
        raise CaptureError(f"core:extensions is {extensions!r}: it must be a list of dicts with name, "
                           "version and optional.")
    if all(e.get("name") != "unmix" for e in extensions):
        extensions.append(dict(EXTENSION))
    return section


def _require_declared(section, *annotations):
    """Raise CaptureError for a key such as 'antenna:gain' whose extension nothing declares."""
    declared = {"core", *(str(e.get("name")).split(":")[0] for e in section["core:extensions"])}
    for key in (key for fields in (section, *annotations) for key in fields):
        if ":" in key and key.split(":")[0] not in declared:
            raise CaptureError(f"The metadata field {key} belongs to an extension that core:extensions does "
                               "not declare.")


def _is_index(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _plain(value):
    """A copy made of plain JSON values: numpy scalars and arrays become numbers and lists."""
    try:
        return json.loads(json.dumps(value, default=lambda v: v.tolist(), allow_nan=False))
    except (TypeError, ValueError, AttributeError) as error:
        raise CaptureError(f"The metadata {value!r} cannot be written as JSON: {error}.") from error


def remove(path):
    """Remove a file, if it is there and that is possible."""
    with contextlib.suppress(OSError):  # a disk that is gone: the error that led here says more
        path.unlink(missing_ok=True)


def take_back(part, final, naming):
    """Remove a file that was written as `part` (None: it was not), which may have its final name where `naming`."""
    if part is None:
        return
    # What is under the final name is an earlier file as long as the temporary one is there.
    if naming and not part.exists():
        remove(final)
    remove(part)


def _sync(file):
    # renaming a file whose blocks are not on the disk yet may leave an empty one after a power cut
    file.flush()
    os.fsync(file.fileno())
