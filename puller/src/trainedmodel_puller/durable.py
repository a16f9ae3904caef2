"""Small steps on a file system that survive a kill, or say why they could not be made.

`exchange` is Linux's RENAME_EXCHANGE by way of libc, as Python does not offer it (seen on ext4 and
tmpfs); two renames stand in where the file system refuses it.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import uuid
from pathlib import Path
from typing import Any, Final

from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.errors import VolumeFault

_RENAME_EXCHANGE: Final = 2
_AT_FDCWD: Final = -100
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def volume_fault(error: OSError) -> VolumeFault:
    """Turn an error of our own file work into the fault that users see."""
    if error.errno in _NO_ROOM:
        return VolumeFault(Reason.INSUFFICIENT_DISK, f"the model volume is full: {error.strerror}")
    where = Path(os.fsdecode(error.filename)).name if error.filename else "the model volume"
    return VolumeFault(Reason.VOLUME_ERROR, f"{where!a:.200}: {error.strerror or error}")


def read_json(path: Path) -> dict[str, Any]:
    """Return a file's JSON object; anything else is an empty one."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def write_durably(path: Path, text: str) -> None:
    """Replace a file's content, whole or not at all, and force it to the disk."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_path(path.parent)


def sync_path(path: Path) -> None:
    """Force a file's data, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree_folders(root: Path) -> None:
    """Force the names of a folder and all below it to the disk."""
    for folder, _, _ in os.walk(root):
        sync_path(Path(folder))


def exchange(one: Path, other: Path, trash: Path) -> None:
    """Swap two folders in one step; in two renames where the file system cannot (EINVAL)."""
    arguments = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if _LIBC.renameat2(*arguments) == 0:
        return
    code = ctypes.get_errno()
    if code not in {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}:
        raise OSError(code, os.strerror(code), str(other))
    aside = trash / uuid.uuid4().hex
    other.rename(aside)
    one.rename(other)
    aside.rename(one)
