# SPDX-License-Identifier: GPL-3.0-or-later
"""WAV files with I and Q as their two channels."""

import re
import warnings

from scipy.io import wavfile

from .capture import Capture
from .error import CaptureError
from .formats import SampleFormat, make_format
from .names import parse_file_name

#: numpy's kind and size of a WAV sample, to its format. Bytes are centred on 128, as in GNU Radio.
WAV_FORMATS = {
    "u1": SampleFormat("cu8", "<", 128.0, 128.0),
    "i2": make_format("ci16"),
    "i4": make_format("ci32"),
    "f4": make_format("cf32"),
    "f8": make_format("cf64"),
}

ALLOWED_WAV = "two channels (I and Q) of 16-bit or 32-bit integers, unsigned bytes or 32-bit floats are read"


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
    try:
        with warnings.catch_warnings():
            # receivers add chunks of their own ('auxi'), which scipy skips with a warning
            warnings.simplefilter("ignore", wavfile.WavFileWarning)
            header_rate, data = wavfile.read(path, mmap=True)
    except UnboundLocalError as error:  # scipy's answer to a header without a data chunk
        raise CaptureError(f"{path} is a WAV file without samples: its header is followed by no "
                           "data.") from error
    except Exception as error:  # for broken headers scipy raises struct.error, ValueError and others
        raise CaptureError(_explain(path, error)) from error
    if data.size == 0:
        raise CaptureError(f"{path} is empty: a capture must hold at least one sample.")
    channels = 1 if data.ndim == 1 else data.shape[1]
    if channels != 2:
        raise CaptureError(f"{path} has {channels} channel{'s' if channels > 1 else ''}: {ALLOWED_WAV}.")
    sample_format = WAV_FORMATS.get(f"{data.dtype.kind}{data.dtype.itemsize}")
    if sample_format is None:
        raise CaptureError(f"{path} holds {data.dtype.name} numbers: {ALLOWED_WAV}.")
    order = ">" if magic[:4] == b"RIFX" else "<"
    sample_format = SampleFormat(sample_format.kind, order, sample_format.midpoint, sample_format.full_scale)

    reason = f"{sample_format.datatype}, from the WAV header"
    _, _, frequency = parse_file_name(path)
    if sample_rate is None and header_rate <= 0:
        raise CaptureError(f"The header of {path} gives a sample rate of {header_rate}: it must be positive, "
                           "or be given by hand.")
    if frequency is not None:
        reason += f"; {frequency:.12g} Hz from the file name"
    if sample_rate is not None and sample_rate != header_rate:
        reason += f"; {sample_rate:.12g} samples/s as given, not the header's {header_rate}"
    return Capture(path, sample_format, [(0, int(data.offset))], int(data.shape[0]), reason,
                   float(sample_rate or header_rate), frequency)


def _explain(path, error):
    """One sentence for what scipy did not read."""
    text = str(error)
    if "mmap length" in text:
        return f"{path} is cut short: its header promises more samples than the file holds."
    if "-byte container" in text or "bit depth" in text:
        container = re.search(r"(\d+)-byte container", text)
        bits = f"{8 * int(container[1])}-bit" if container else "oddly sized"
        return f"{path} holds {bits} samples, which cannot be read in place: {ALLOWED_WAV}."
    return f"{path} is a WAV file that cannot be read ({text or type(error).__name__}): {ALLOWED_WAV}."
