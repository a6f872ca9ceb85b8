# SPDX-License-Identifier: GPL-3.0-or-later
"""What the command-line programs read in the same way: types for argparse."""

import argparse

from .captures import CaptureError, parse_rate


def rate(text: str) -> float:
    """A sample rate such as 25e6 or 2.4M, samples/s. Raises argparse.ArgumentTypeError with one sentence."""
    try:
        return parse_rate(text)
    except CaptureError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
