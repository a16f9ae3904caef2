"""Reads one consistent snapshot of the configuration folder.

A kubelet publishes a projected volume as `..<time>/`, with a link `..data` that it replaces by
rename. The reader resolves the link once and reads all files below its target, so a snapshot never
mixes two versions. If the target disappears meanwhile, the reader starts again.

A file that cannot be read is recorded as unreadable, and the other files are used. A fault of all
files (no free descriptors, a missing folder) makes the whole folder unreadable.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from trainedmodel_puller.core.snapshot import Unreadable

#: Larger files are no entries.
_MAX_FILE_BYTES: Final = 2 * 1024 * 1024
_TRIES: Final = 5
_CONCERNS_ALL: Final = frozenset(
    {errno.ENOENT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENOTDIR}
)

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
        with os.scandir(folder) as entries:
            return tuple(sorted(_row(entry) for entry in entries))
    except OSError:
        return None


def _row(entry: os.DirEntry[str]) -> tuple[str, int, int, int]:
    try:
        status = entry.stat()
    except OSError as error:  # a link that leads nowhere, or to itself
        return (entry.name, -1, error.errno or 0, 0)
    return (entry.name, status.st_mtime_ns, status.st_size, status.st_ino)


def read_folder(folder: Path) -> tuple[dict[str, bytes | Unreadable] | None, str]:
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


def _read_files(base: Path) -> dict[str, bytes | Unreadable]:
    files: dict[str, bytes | Unreadable] = {}
    with os.scandir(base) as entries:
        found = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in found:
        try:
            content = _read_file(entry)
        except OSError as error:
            if error.errno in _CONCERNS_ALL:
                raise
            content = Unreadable(error.strerror or str(error))
        if content is not None:
            files[entry.name] = content
    return files


def _read_file(entry: os.DirEntry[str]) -> bytes | Unreadable | None:
    """Read one file; None for what is no file, and is not to be waited for either."""
    if not entry.is_file():
        return None
    descriptor = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > _MAX_FILE_BYTES:
        return Unreadable(f"is larger than {_MAX_FILE_BYTES} bytes")
    return content
