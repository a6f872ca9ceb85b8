# SPDX-License-Identifier: GPL-3.0-or-later
"""Prior files looked over before torch unpacks them: torch checks no checksum and believes what sizes are claimed."""

import io
import os
import zipfile
from pathlib import Path
from typing import Optional

MOST_BYTES = 1 << 30
#: Bytes that compressed entries, which are code and metadata, may add when they are unpacked.
MOST_UNPACKED = 64 << 20
MOST_METADATA = 4 << 20


def read_archive(path: str) -> bytes:
    """The contents of a TorchScript file, a ZIP archive whose entries are whole and not absurdly large.

    Raises OSError where it cannot be read, and ValueError with what is wrong with it: "is not ...".
    """
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError("cannot be read: it is no regular file")
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":  # perhaps a capture of many gigabytes, named by mistake
            raise ValueError("is not a TorchScript file: it does not begin as a ZIP archive")
        if os.fstat(file.fileno()).st_size > MOST_BYTES:
            raise ValueError(f"is not a prior: it is larger than {MOST_BYTES >> 20} MB")
        file.seek(0)
        data = file.read()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            complaint = _complaint(archive, len(data))
    except Exception as error:  # noqa: BLE001 (zipfile raises ten kinds for broken archives)
        complaint = f"is not a TorchScript file: {str(error) or type(error).__name__}"
    if complaint:
        raise ValueError(complaint)
    return data


def _complaint(archive: zipfile.ZipFile, size: int) -> Optional[str]:
    entries = archive.infolist()
    if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
        return "is not a TorchScript file: it is compressed in another way"
    if sum(entry.file_size for entry in entries) > size + MOST_UNPACKED:
        return "is not a prior: it would unpack to much more than its size"
    if any(entry.filename.endswith("extra/prior.json") and entry.file_size > MOST_METADATA for entry in entries):
        return f"has a prior.json of more than {MOST_METADATA >> 20} MB"
    damaged = archive.testzip()
    return None if damaged is None else f"is not a TorchScript file: its part {damaged} is damaged"
