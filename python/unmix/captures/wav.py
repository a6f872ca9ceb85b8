# SPDX-License-Identifier: GPL-3.0-or-later
"""WAV files with I and Q as their two channels."""

import os
import struct

from .capture import Capture
from .error import CaptureError
from .formats import SampleFormat, make_format
from .names import parse_file_name

#: Format tag and bytes of a WAV sample, to its format. Bytes are centred on 128, as in GNU Radio.
WAV_FORMATS = {
    (1, 1): SampleFormat("cu8", "<", 128.0, 128.0),
    (1, 2): make_format("ci16"),
    (1, 4): make_format("ci32"),
    (3, 4): make_format("cf32"),
    (3, 8): make_format("cf64"),
}

EXTENSIBLE = 0xFFFE
#: What follows the format tag in the identifier of an extensible header's format.
TAILS = {"<": bytes.fromhex("00001000800000aa00389b71"), ">": bytes.fromhex("00000010800000aa00389b71")}

ALLOWED_WAV = "two channels (I and Q) of 16-bit or 32-bit integers, unsigned bytes or 32-bit floats are read"

#: Chunks that are skipped in search of the samples; receivers write one or two of their own ('auxi').
MOST_CHUNKS = 1000


def open_wav(path, sample_rate):
    """Open a two-channel WAV file; the first channel is I.

    Args:
        path: pathlib.Path of an existing file.
        sample_rate: samples per second, or None for the header's.

    Returns:
        A Capture; the frequency comes from the file name where that tells it.

    Raises:
        CaptureError: where the file is no WAV file, is cut short, or has another number of channels or
            another sample format.
    """
    with open(path, "rb") as file:
        magic = file.read(12)
        if magic[:4] == b"RF64":
            raise CaptureError(f"{path} is an RF64 file, a WAV file for more than 4 GB, which is not read: "
                               "convert it to raw samples or SigMF.")
        if magic[:4] not in (b"RIFF", b"RIFX") or magic[8:] != b"WAVE":
            raise CaptureError(f"{path} is not a WAV file: it does not begin with RIFF and WAVE; name its sample "
                               "format if it holds raw samples.")
        order = ">" if magic[:4] == b"RIFX" else "<"
        header, offset, size = _find_samples(file, path, order)
    sample_format, channels, header_rate = _read_format(header, path, order)
    if channels != 2:
        raise CaptureError(f"{path} has {channels} channel{'' if channels == 1 else 's'}: {ALLOWED_WAV}.")
    if size > os.path.getsize(path) - offset:
        raise CaptureError(f"{path} is cut short: its header promises more samples than the file holds.")
    length, left_over = divmod(size, sample_format.sample_bytes)
    if length == 0:
        raise CaptureError(f"{path} is empty: a capture must hold at least one sample.")
    if left_over:
        raise CaptureError(f"{path} has {size} bytes of samples, which is {left_over} more than a whole number of "
                           f"{sample_format.sample_bytes}-byte samples: it is damaged.")

    reason = f"{sample_format.datatype}, from the WAV header"
    _, _, frequency = parse_file_name(path)
    if sample_rate is None and header_rate <= 0:
        raise CaptureError(f"The header of {path} gives a sample rate of {header_rate}: it must be positive, "
                           "or be given by hand.")
    if frequency is not None:
        reason += f"; {frequency:.12g} Hz from the file name"
    if sample_rate is not None and sample_rate != header_rate:
        reason += f"; {sample_rate:.12g} samples/s as given, not the header's {header_rate}"
    return Capture(path, sample_format, [(0, offset)], length, reason, float(sample_rate or header_rate), frequency)


def _find_samples(file, path, order):
    """Walk the chunks from byte 12 to the samples.

    Returns:
        ``(format, offset, size)``: the first 40 bytes of the format chunk, and where the samples are said to lie.
    """
    header = None
    for _ in range(MOST_CHUNKS):
        name = file.read(8)
        if len(name) < 8:
            break
        size = struct.unpack(order + "I", name[4:])[0]
        start = file.tell()
        if name[:4] == b"data" and header is not None:
            return header, start, size
        if name[:4] == b"fmt ":
            header = file.read(min(size, 40))
        file.seek(start + size + size % 2)  # chunks begin at even bytes
    missing = "a format" if header is None else "samples"
    raise CaptureError(f"{path} is a WAV file without {missing}: its header is not followed by what belongs there.")


def _read_format(header, path, order):
    """The SampleFormat, the number of channels and the sample rate in a format chunk."""
    if len(header) < 16:
        raise CaptureError(f"{path} is a WAV file whose format has {len(header)} bytes instead of 16 or more: it is "
                           "damaged.")
    tag, channels, rate, _, align, bits = struct.unpack(order + "HHIIHH", header[:16])
    if tag == EXTENSIBLE and header[28:40] == TAILS[order]:
        tag = struct.unpack(order + "I", header[24:28])[0]
    if channels == 0 or align % channels:
        raise CaptureError(f"{path} is a WAV file with {channels} channels in {align} bytes, which is impossible: it "
                           "is damaged.")
    width = align // channels
    known = WAV_FORMATS.get((tag, width))
    # an integer may fill the upper part of its bytes only: 12 bits in 2, 24 in 4
    if known is None or not (8 * width == bits if tag == 3 or width == 1 else 8 < bits <= 8 * width):
        kind = {1: "integers", 3: "floats"}.get(tag, f"samples of the WAV format {tag}")
        packed = "" if 8 * width == bits else f" in {width} bytes"
        raise CaptureError(f"{path} holds {bits}-bit {kind}{packed}, which are not read: {ALLOWED_WAV}.")
    return SampleFormat(known.kind, order, known.midpoint, known.full_scale), channels, rate
