# SPDX-License-Identifier: GPL-3.0-or-later
"""IQ captures: reading SigMF, WAV and raw files in pieces, and writing SigMF as a stream."""

from .capture import Capture, check_not_constant
from .error import CaptureError
from .names import parse_rate
from .opening import open_capture
from .sigmf_writer import SigMFWriter

__all__ = ["Capture", "CaptureError", "SigMFWriter", "check_not_constant", "open_capture", "parse_rate"]
