"""Reads the configuration folder, as one moment of it.

A kubelet publishes a projected volume as `..<time>/`, with a link `..data` that it replaces by
rename. The link is resolved once and everything is read below its target, so that a reading never
mixes two moments; when the target vanishes under the reading, the reading starts anew.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

#: Larger files are no entries.
_MAX_FILE_BYTES: Final = 2 * 1024 * 1024
_TRIES: Final = 5

#: Equal signatures mean that nothing changed since.
Signature = tuple[object, ...]


def _base(folder: Path) -> Path:
    link = folder / "..data"
    return folder / os.readlink(link) if link.is_symlink() else folder


def read_signature(folder: Path) -> Signature | None:
    """Return a cheap fingerprint of the folder's content; None when it cannot be read. Blocks."""
    try:
        base = _base(folder)
        if base != folder:
            return (str(base), base.stat().st_ino)
        rows = []
        for entry in os.scandir(folder):
            status = entry.stat()
            rows.append((entry.name, status.st_mtime_ns, status.st_size, status.st_ino))
        return tuple(sorted(rows))
    except OSError:
        return None


def read_folder(folder: Path) -> tuple[dict[str, bytes] | None, str]:
    """Read all files of the folder, by name. Blocks.

    Returns:
        The files and "", or None and why they could not be read.
    """
    why = ""
    for _ in range(_TRIES):
        try:
            return _read_files(_base(folder)), ""
        except OSError as error:
            why = f"{folder} cannot be read: {error.strerror or error}"
    return None, why


def _read_files(base: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for entry in os.scandir(base):
        if entry.name.startswith(".") or not entry.is_file():
            continue
        with open(entry.path, "rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        if len(content) <= _MAX_FILE_BYTES:
            files[entry.name] = content
    return files
