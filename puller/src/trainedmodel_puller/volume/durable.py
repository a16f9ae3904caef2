"""Small file operations that survive a kill, or raise the reason why they failed.

`exchange` is Linux's RENAME_EXCHANGE through libc, because Python lacks it (tested on ext4 and
tmpfs). If the file system refuses it, two renames replace it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from trainedmodel_contract.canonical import parse_json
from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.errors import VolumeFault

_RENAME_EXCHANGE: Final = 2
_AT_FDCWD: Final = -100
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
#: Errors of the system for a missing file, or for an object that is not a regular file.
_NO_FILE: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG}
)
#: The puller's own files are far smaller; a larger file was written by another program.
_MAX_FILE_BYTES: Final = 64 * 1024 * 1024
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def volume_fault(error: OSError) -> VolumeFault:
    """Turn an error of the puller's file operations into the fault that users see."""
    if error.errno in _NO_ROOM:
        return VolumeFault(Reason.INSUFFICIENT_DISK, f"the model volume is full: {error.strerror}")
    return VolumeFault(Reason.VOLUME_ERROR, words_of(error))


def words_of(error: OSError) -> str:
    """Return the system's error with the name of its file, but without the file's folder."""
    is_named = isinstance(error.filename, (str, bytes)) and error.filename
    where = Path(os.fsdecode(error.filename)).name if is_named else "the model volume"
    return f"{where!a:.200}: {error.strerror or error}"


@contextlib.contextmanager
def translate_os_errors() -> Iterator[None]:
    """Turn errors of our own file work into the fault that users see."""
    try:
        yield
    except OSError as error:
        raise volume_fault(error) from error


def read_file(path: Path | str) -> bytes | None:
    """Return the content of one of the puller's files; None if there is no such file.

    Its path may hold a link, a pipe or a device. None of them belongs to the puller, and the call
    does not wait for any. Every other error leaves doubt, and is raised.

    Raises:
        OSError: it is unknown whether the file exists, or its content cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > _MAX_FILE_BYTES:
            return None
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            return file.readall()
    finally:
        os.close(descriptor)


def read_json(path: Path | str) -> dict[str, Any]:
    """Return the JSON object of one of the puller's files; empty if it is missing or malformed.

    Raises:
        OSError: it is unknown whether the file exists, or its content cannot be read.
    """
    try:
        document = parse_json(read_file(path) or b"")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def write_file(path: Path | str, text: str, *, durable: bool, mode: int | None = None) -> None:
    """Write a file, over what it holds; if `durable`, force it to the disk.

    Half of it may stand there after a kill. It has its `mode` before it has its content.
    """
    with open(_open_to_write(path), "wb", buffering=0) as file:
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        file.write(text.encode("utf-8", "surrogateescape"))
        if durable:
            os.fsync(file.fileno())


def _open_to_write(path: Path | str) -> int:
    """Open one of the puller's files; a link, pipe or device at its path is replaced."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENXIO}:
            raise
    else:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
    os.unlink(path)
    return os.open(path, flags | os.O_EXCL, 0o666)


def replace_file(path: Path | str, text: str, *, durable: bool, mode: int | None = None) -> None:
    """Replace a file's content, whole or not at all; if `durable`, force it to the disk.

    The caller syncs the folder, which forces the name. Without `durable` a crash of the whole
    machine may leave an empty file.
    """
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.tmp")
    write_file(temporary, text, durable=durable, mode=mode)
    os.replace(temporary, path)


def write_durably(path: Path, text: str, mode: int | None = None) -> None:
    """Replace a file's content, whole or not at all, and force it to the disk."""
    replace_file(path, text, durable=True, mode=mode)
    sync_path(path.parent)


def sync_path(path: Path | str) -> None:
    """Force a file's data, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(folder: Path) -> None:
    """Force the whole file system of a folder to the disk: one call for many files.

    Busy neighbours may share the file system, so it is used only to replace many calls. It reports
    failed writes from Linux 5.8 on.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _LIBC.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))
    finally:
        os.close(descriptor)


def sync_tree(root: Path, *, with_files: bool) -> None:
    """Force the names of a folder and all below it to the disk, and the files' data if asked."""
    for folder, _, files in os.walk(root, topdown=False):
        if with_files:
            for name in files:
                sync_path(os.path.join(folder, name))
        sync_path(folder)


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
    try:
        one.rename(other)
    except OSError:
        aside.rename(other)  # what was served must not stay among what is deleted
        raise
    aside.rename(one)


FILE_MODE: Final = 0o644


FOLDER_MODE: Final = 0o755
