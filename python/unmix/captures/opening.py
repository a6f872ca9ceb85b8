# SPDX-License-Identifier: GPL-3.0-or-later
"""Opening a capture: what kind of file it is, decided from its name, its metadata and what the user says."""

import math
import os
from pathlib import Path

from .capture import Capture
from .error import CaptureError
from .formats import ALLOWED, SUFFIXES, make_format, parse_format
from .names import parse_file_name
from .sigmf_reader import open_sigmf
from .wav import open_wav

ARCHIVES = {".sigmf": "archive", ".sigmf-collection": "collection"}


def open_capture(path, format="auto", sample_rate=None):
    """Open a recording of complex samples for random access, without reading it.

    Args:
        path: SigMF (``x.sigmf-meta``, ``x.sigmf-data`` or their stem ``x``), ``.wav`` with two channels, or
            raw samples, whose format the suffix tells: .cf32 .fc32 .cfile .iq (floats), .ci16 .cs16 .sc16
            .c16, .ci8 .cs8 .sc8 .c8, .cu8 .uc8 and the like. File names of gqrx, osmocom_fft, rtl_433 and
            SDR# tell rate and frequency.
        format: 'auto', or the sample format ('cf32', 'ci16', 'ci8', 'cu8', 'ci16_be', ...) or 'wav'. It is
            stronger than a suffix; SigMF metadata must agree with it. With it, ``.sigmf-data`` is readable
            without metadata.
        sample_rate: samples per second; stronger than what the file says.

    Returns:
        A Capture; its ``format_reason`` is meant to be shown to the user.

    Raises:
        CaptureError: where there is no such file, or it is empty, of unknown format, at odds with its
            metadata, or not made of whole samples.
    """
    path = Path(path)
    if sample_rate is not None:
        sample_rate = _positive_rate(sample_rate)
    wanted = str(format).strip().lower()
    explicit = None if wanted in ("auto", "wav") else parse_format(wanted)

    kind = ARCHIVES.get(path.suffix.lower())
    if kind:
        raise CaptureError(f"{path} is a SigMF {kind}: name one .sigmf-meta file" +
                           (" after unpacking it with tar." if kind == "archive" else " that belongs to it."))
    try:
        stem = _sigmf_stem(path, explicit is not None)
        if stem is not None:
            if wanted == "wav":
                raise CaptureError(f"{path} is a SigMF recording and no WAV file: leave the format at auto.")
            return open_sigmf(stem, explicit, sample_rate)
        _require_samples(path)
        if wanted == "wav" or (wanted == "auto" and path.suffix.lower() == ".wav"):
            return open_wav(path, sample_rate)
        return _open_raw(path, explicit, sample_rate)
    except OSError as error:
        raise CaptureError(f"{path} cannot be read: {error.strerror or error}.") from error


def _positive_rate(sample_rate):
    try:
        rate = float(sample_rate)
    except (TypeError, ValueError, OverflowError):
        rate = math.nan
    if not (math.isfinite(rate) and rate > 0):
        raise CaptureError(f"The sample rate {sample_rate!r} is not allowed: it must be a positive, finite "
                           "number of samples per second.")
    return rate


def _sigmf_stem(path, format_given):
    """The common stem of a SigMF recording that ``path`` means, or None where it means another file."""
    if path.suffix.lower() == ".sigmf-meta":
        return path.with_suffix("")
    if path.suffix.lower() == ".sigmf-data":
        stem = path.with_suffix("")
        if format_given and path.exists() and not _sibling(stem, ".sigmf-meta").exists():
            return None  # readable as raw samples
        return stem
    siblings = _sibling(path, ".sigmf-meta"), _sibling(path, ".sigmf-data")
    if not path.is_file() and any(sibling.is_file() for sibling in siblings):
        return path
    return None


def _sibling(stem, suffix):
    # not with_suffix: the stem 'pass_2.4M' has a dot of its own
    return stem.with_name(stem.name + suffix) if stem.name else stem


def _require_samples(path):
    """Raise CaptureError unless ``path`` is a regular file with something in it that may be read."""
    if path.is_dir():
        raise CaptureError(f"{path} is a folder: name one capture file.")
    if not path.exists():
        raise CaptureError(f"There is no file {path}, and no SigMF recording {path}.sigmf-meta either.")
    if not path.is_file():
        raise CaptureError(f"{path} is not a regular file: a capture is read in random order, which pipes "
                           "and devices do not allow.")
    if not os.access(path, os.R_OK):
        raise CaptureError(f"{path} may not be read: its permissions do not allow it.")
    if path.stat().st_size == 0:
        raise CaptureError(f"{path} is empty: a capture must hold at least one sample.")


def _open_raw(path, explicit, sample_rate):
    """Open a file of bare samples. ``explicit`` is None or what ``parse_format`` returned."""
    suffix = path.suffix[1:].lower()
    program, name_rate, frequency = parse_file_name(path)
    if explicit is not None:
        kind, order = explicit
        reason = "as named"
        with open(path, "rb") as file:
            magic = file.read(12)
        if magic[:4] in (b"RIFF", b"RIFX") and magic[8:] == b"WAVE":
            raise CaptureError(f"{path} is a WAV file, not raw {kind} samples: leave the format at auto, or "
                               "name wav.")
    elif program == "gqrx" and suffix in ("raw", ""):
        kind, order, reason = "cf32", "<", "assumed because gqrx records it"
    elif suffix in SUFFIXES:
        kind, order, reason = SUFFIXES[suffix], "<", f"assumed from the suffix .{suffix}"
    else:
        raise CaptureError(f"The sample format of {path} cannot be told from its "
                           f"{f'suffix .{suffix}' if suffix else 'name, which has no suffix'}: name it; it "
                           f"must be {ALLOWED}.")
    sample_format = make_format(kind, order or "<")
    size = path.stat().st_size
    left_over = size % sample_format.sample_bytes
    if left_over:
        raise CaptureError(f"{path} has {size} bytes, which is {left_over} more than a whole number of "
                           f"{sample_format.sample_bytes}-byte {sample_format.datatype} samples: it is cut "
                           "off, or in another format.")
    told = [f"{value:.12g} {unit}" for value, unit in ((None if sample_rate else name_rate, "samples/s"),
                                                   (frequency, "Hz")) if value is not None]
    reason = f"{sample_format.datatype}, {reason}"
    if told:
        reason += f"; {' and '.join(told)} from the file name"
    return Capture(path, sample_format, [(0, 0)], size // sample_format.sample_bytes, reason,
                   sample_rate or name_rate, frequency)
