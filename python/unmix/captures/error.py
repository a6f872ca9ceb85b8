# SPDX-License-Identifier: GPL-3.0-or-later
"""The one exception that bad input raises."""

from ..wording import one_line


class CaptureError(ValueError):
    """Bad input; ``str(error)`` is one clear sentence that names what was wrong and what is allowed.

    It quotes names and contents of files, which may hold anything: it is made one line that can be shown.
    """

    def __init__(self, sentence):
        super().__init__(one_line(sentence))
