# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of measured rows, which a program goes on from: a JSON list of objects."""

import json
from pathlib import Path
from typing import Optional

from gnuradio.unmix.outputs import write_text


def read_rows(path: Optional[str], field: str, program: str) -> list[dict]:
    """Rows of an earlier run, none where there was none. Raises ValueError for a file of something else.

    field: which every row of the program has. program: as the message calls it.
    """
    if not path or not Path(path).exists():
        return []
    try:
        rows = json.loads(Path(path).read_text())
    except ValueError:
        rows = None
    if not isinstance(rows, list) or not all(isinstance(r, dict) and field in r for r in rows):
        raise ValueError(f"--json {path} exists and holds no rows of this {program}; name another file")
    return rows


def save(rows: list[dict], path: str) -> None:
    """Write all rows, so that an interrupted or failing write leaves the old ones. Raises OSError."""
    write_text(Path(path), "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")  # a row a line, for who compares
