# SPDX-License-Identifier: GPL-3.0-or-later
"""Telling want of memory from defects."""

import errno
from typing import Optional

#: What PyTorch, CUDA and their libraries say in a RuntimeError where memory is short.
_WORDS = ("out of memory", "not enough memory", "allocate memory", "bad_alloc", "alloc_failed")


def out_of_memory(error: Optional[BaseException]) -> bool:
    """Whether an error, or what it was raised from, is want of memory, of the computer or of its accelerator."""
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return True
        if isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS):
            return True
        error = error.__cause__
    return False
