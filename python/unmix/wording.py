# SPDX-License-Identifier: GPL-3.0-or-later
"""Sentences for people that quote what a file, a file's name or a command line says."""

LONGEST = 1500


def one_line(text: object) -> str:
    """The text on one line that any terminal can show, whatever it quotes: control characters and the like as escapes
    such as \\x1b, and where it is longer than LONGEST characters, without its middle."""
    return _cut("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in _cut(str(text).strip())))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST * 2 // 3]} ... {text[-LONGEST // 4:]}".strip()
