# SPDX-License-Identifier: GPL-3.0-or-later
"""SigMF recordings: metadata that is checked against its schema and against the samples it describes."""

import copy
import json
import math
import warnings

import sigmf
from jsonschema.exceptions import ValidationError
from sigmf.hashing import calculate_sha512

from .capture import Capture
from .error import CaptureError
from .formats import make_format, parse_format

#: Up to this size the data is checked against core:sha512; a larger file would take seconds and more to hash.
HASH_LIMIT_BYTES = 64 << 20

#: Bytes of the largest metadata file that is read: to hold it against the schema takes 30 times as much memory.
META_LIMIT_BYTES = 16 << 20

MOST_RATE = 1e12  # by the schema


def open_sigmf(stem, explicit, sample_rate):
    """Open the SigMF recording ``stem.sigmf-meta`` with its data.

    Several capture segments, ``core:header_bytes``, ``core:trailing_bytes``, ``core:offset`` and
    ``core:dataset`` are honoured. The frequency is the first segment's.

    Args:
        stem: pathlib.Path without .sigmf-meta or .sigmf-data.
        explicit: None, or the format that the user names, as ``parse_format`` returns it; the metadata must
            agree.
        sample_rate: samples per second, stronger than the metadata, or None.

    Returns:
        A Capture.

    Raises:
        CaptureError: for missing or malformed files and for metadata that does not fit the data.
    """
    meta_path = stem.with_name(stem.name + ".sigmf-meta")
    data_path = stem.with_name(stem.name + ".sigmf-data")
    if not meta_path.is_file():
        if data_path.is_file():
            raise CaptureError(f"{data_path} has no metadata beside it ({meta_path.name}): add that, or name "
                               "the sample format to read it as raw samples.")
        raise CaptureError(f"There is no file {meta_path}.")
    document = _read_json(meta_path)
    given = document["global"]
    data_path = _data_path(meta_path, data_path, given)
    sample_format, reason = _sample_format(meta_path, given, explicit)
    rate, rate_reason = _sample_rate(meta_path, given, sample_rate)
    try:
        segments, annotations = _validated(meta_path, document, sample_format, rate)
    except RecursionError as error:
        raise CaptureError(f"The metadata {meta_path} is nested too deeply for SigMF.") from error

    length, layout = _fit(meta_path, data_path, given, sample_format, segments)
    _check_annotations(meta_path, annotations, int(given.get("core:offset") or 0), length)
    _check_hash(data_path, given.get("core:sha512"))

    frequencies = [segment.get("core:frequency") for segment in segments]
    frequency = frequencies[0] if frequencies else None
    if frequency is not None and not math.isfinite(frequency):  # NaN is below and above every limit of the schema
        raise CaptureError(f"core:frequency in {meta_path} is {frequency}: it must be a finite number of hertz.")
    reason += rate_reason
    if len(set(frequencies)) > 1:
        reason += f"; the frequency changes between its {len(segments)} segments, the first one's is taken"
    return Capture(data_path, sample_format, layout, length, f"{sample_format.datatype}, {reason}", rate,
                   None if frequency is None else float(frequency), given)


def _read_json(meta_path):
    """The metadata as a dict that has a global section."""
    if meta_path.stat().st_size > META_LIMIT_BYTES:
        raise CaptureError(f"{meta_path} is larger than {META_LIMIT_BYTES >> 20} MB, the limit of "
                           "metadata here.")
    try:
        document = json.loads(meta_path.read_bytes())
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise CaptureError(f"The metadata {meta_path} is not JSON: {error}.") from error
    if not isinstance(document, dict) or not isinstance(document.get("global"), dict):
        raise CaptureError(f"The metadata {meta_path} is not SigMF: it has no 'global' section.")
    return document


def _data_path(meta_path, data_path, given):
    """The existing, non-empty file that holds the samples."""
    if given.get("core:metadata_only"):
        raise CaptureError(f"{meta_path} says core:metadata_only: it comes without samples, which are "
                           "needed.")
    dataset = given.get("core:dataset")
    if dataset is not None:
        if not isinstance(dataset, str) or dataset in ("", ".", "..") or any(c in dataset for c in "/\\\0"):
            raise CaptureError(f"core:dataset in {meta_path} is {dataset!r}: it must be the name of a file "
                               "in the same folder.")
        data_path = meta_path.with_name(dataset)
    if not data_path.is_file():
        raise CaptureError(f"{meta_path} has no data beside it: {data_path.name} is missing.")
    if data_path.stat().st_size == 0:
        raise CaptureError(f"{data_path} is empty: a capture must hold at least one sample.")
    return data_path


def _sample_format(meta_path, given, explicit):
    """The SampleFormat that metadata and user agree on, and the phrase that explains it."""
    datatype = given.get("core:datatype")
    if datatype is None:
        raise CaptureError(f"The metadata {meta_path} has no core:datatype, which must say how samples are "
                           "stored.")
    try:
        kind, order = parse_format(datatype)
    except CaptureError as error:
        raise CaptureError(f"core:datatype in {meta_path}: {error}") from error
    channels = given.get("core:num_channels", 1)
    if channels != 1:
        raise CaptureError(f"core:num_channels in {meta_path} is {channels!r}: only 1 channel is separated; "
                           "split the recording first.")
    sample_format = make_format(kind, order or "<")
    if explicit is not None and (explicit[0] != kind or explicit[1] not in (None, sample_format.order)):
        named = make_format(explicit[0], explicit[1] or "<").datatype
        raise CaptureError(f"The format {named} contradicts core:datatype {datatype} in {meta_path}: leave "
                           "the format at auto, or correct the metadata.")
    reason = "from the SigMF metadata"
    if order is None and sample_format.bits > 8:
        reason += f", which says {datatype}: little-endian is assumed"
    return sample_format, reason


def _sample_rate(meta_path, given, sample_rate):
    """The rate to use or None, and the phrase that explains it where the user overrules the metadata."""
    declared = given.get("core:sample_rate")
    if sample_rate is not None:
        differs = declared is not None and declared != sample_rate
        note = f"; {sample_rate:.12g} samples/s as given, not core:sample_rate {declared}"
        return sample_rate, note if differs else ""
    if declared is None:
        return None, ""
    number = isinstance(declared, (int, float)) and not isinstance(declared, bool)
    if not (number and 0 < declared <= MOST_RATE):
        raise CaptureError(f"core:sample_rate in {meta_path} is {declared!r}: it must be a positive number "
                           "of at most 1e12, or be given by hand.")
    return float(declared), ""


def _validated(meta_path, document, sample_format, rate):
    """Hold the document against the SigMF schema; returns its capture segments and its annotations."""
    document = copy.deepcopy(document)
    document.setdefault("captures", [])
    document.setdefault("annotations", [])
    checked = document["global"]
    checked["core:datatype"] = sample_format.datatype  # its alias was understood
    if rate is not None:
        checked["core:sample_rate"] = rate
    annotations = document["annotations"]
    if isinstance(annotations, list) and all(isinstance(a, dict) for a in annotations):
        # their order is a formality that recorders get wrong; nothing here depends on it
        annotations.sort(key=_start_or_first)
    recording = sigmf.SigMFFile(metadata=document)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # undeclared optional extensions harm nobody
            recording.validate()
    except ValidationError as error:
        where = "/".join(str(part) for part in error.absolute_path)
        message = error.message if len(error.message) <= 200 else error.message[:200] + "..."
        raise CaptureError(f"The metadata {meta_path} breaks the SigMF "
                           f"schema{f' at {where}' if where else ''}: {message}.") from error
    for extension in checked.get("core:extensions", []):
        if not extension["optional"] and extension["name"].split(":")[0] != "unmix":
            raise CaptureError(f"{meta_path} cannot be read without the SigMF extension "
                               f"{extension['name']!r}, which is unknown here: only optional extensions can "
                               "be ignored.")
    return recording.get_captures(), recording.get_annotations()


def _start_or_first(annotation):
    start = annotation.get("core:sample_start")
    return start if isinstance(start, int) else -1  # what is missing or malformed is for the schema to refuse


def _fit(meta_path, data_path, given, sample_format, segments):
    """Lay the segments over the data file.

    Returns:
        ``(length, [(first sample, byte offset), ...])``.
    """
    size = data_path.stat().st_size
    trailing = int(given.get("core:trailing_bytes") or 0)
    origin = int(given.get("core:offset") or 0)
    headers = sum(int(segment.get("core:header_bytes") or 0) for segment in segments)
    room = size - headers - trailing
    kept = f" besides its {headers} header and {trailing} trailing bytes" if headers or trailing else ""
    if room <= 0:
        raise CaptureError(f"{data_path} has only {size} bytes: nothing is left{kept} that {meta_path.name} "
                           "declares.")
    if room % sample_format.sample_bytes:
        raise CaptureError(f"{data_path} has {room} bytes{kept}, which is not a whole number of "
                           f"{sample_format.sample_bytes}-byte {sample_format.datatype} samples: it is cut "
                           "off, or its metadata does not belong to it.")
    length = room // sample_format.sample_bytes
    layout = [(0, 0)]
    skipped = 0
    for segment in segments:
        start = int(segment["core:sample_start"]) - origin
        if not 0 <= start <= length:
            raise CaptureError(f"A capture segment in {meta_path} starts at sample {start + origin}, but the "
                               f"data holds samples {origin} to {origin + length - 1} only: it is shorter "
                               "than its metadata says.")
        skipped += int(segment.get("core:header_bytes") or 0)
        entry = (start, skipped + start * sample_format.sample_bytes)
        if layout[-1][0] == start:
            layout[-1] = entry
        else:
            layout.append(entry)
    return length, layout


def _check_annotations(meta_path, annotations, origin, length):
    for annotation in annotations:
        start = int(annotation["core:sample_start"])
        stop = start + int(annotation.get("core:sample_count") or 0)
        if start < origin or stop > origin + length:
            raise CaptureError(f"An annotation in {meta_path} covers samples {start} to {stop}, but the data "
                               f"holds samples {origin} to {origin + length - 1} only: it is not as long as "
                               "its metadata says.")


def _check_hash(data_path, expected):
    if expected is None or data_path.stat().st_size > HASH_LIMIT_BYTES:
        return
    if calculate_sha512(data_path) != expected.lower():
        raise CaptureError(f"{data_path} does not match core:sha512 in its metadata: it is damaged, or "
                           "belongs to other metadata.")
