# SPDX-License-Identifier: GPL-3.0-or-later
"""The one exception that bad input raises."""


class CaptureError(ValueError):
    """Bad input; ``str(error)`` is one clear sentence that names what was wrong and what is allowed."""
