"""Files of a source that a driver reads or replaces. None of them may cause an internal error.

A path may be a file with any bytes of any size, a pipe, a folder, or a link to any place. So a read
has a limit, never waits, and never follows a link out of the tree. A file that cannot be used is
refused, and the message names it. A file is replaced, never written into, because other models may
share it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.core.shape import Shape, named
from trainedmodel_puller.errors import ServerFault
from trainedmodel_puller.volume.durable import FILE_MODE

#: Larger files are not read, in bytes. Settings written by people have a few thousand.
MOST_BYTES: Final = 1024 * 1024
_TEMPORARY: Final = ".trainedmodel-new"
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def refused(message: str) -> ServerFault:
    """Return the fault for a tree that the server cannot load."""
    return ServerFault(Reason.INVALID_LAYOUT, message)


def shape_of(tree: Path) -> Shape:
    """Return the names at the top of a tree and in its folders (blocking)."""
    return Shape(_paths(tree))


def _paths(tree: Path) -> Iterator[str]:
    for name, is_file, path in _listed(tree):
        yield name if is_file else f"{name}/"
        if not is_file:
            for inner, is_inner_file, _ in _listed(path):
                yield f"{name}/{inner}" if is_inner_file else f"{name}/{inner}/"


def _listed(folder: Path | str) -> Iterator[tuple[str, bool, str]]:
    """Yield name, whether it is a file, and path of each entry of a folder; links are followed."""
    with os.scandir(folder) as entries:
        for entry in entries:
            # Only a link needs another call. A dangling or circular link is neither.
            is_link = entry.is_symlink()
            if os.path.isfile(entry.path) if is_link else entry.is_file():
                yield entry.name, True, entry.path
            elif os.path.isdir(entry.path) if is_link else entry.is_dir():
                yield entry.name, False, entry.path


def read_user_file(tree: Path, name: str) -> bytes | None:
    """Return a file's bytes; None if it does not exist (blocking).

    Raises:
        ServerFault: InvalidLayout; it is not a file, is too large, or lies outside the tree.
    """
    try:
        descriptor = _open_inside(tree, name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise refused(f"{named([name])} cannot be read: {error.strerror}") from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
            raise refused(f"{named([name])} is {kind}, and must be a file")
        content = _read_up_to(descriptor, MOST_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MOST_BYTES:
        raise refused(f"{named([name])} is larger than the limit of {MOST_BYTES // 1024} KiB")
    return content


def _open_inside(tree: Path, name: str) -> int:
    """Open a file of a tree; links are followed within the tree only."""
    path = os.path.join(tree, name)
    if os.sep not in name:
        try:  # Most are plain files, whose path needs no check.
            return os.open(path, _FLAGS | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
    if not os.path.realpath(path).startswith(f"{os.path.realpath(tree)}{os.sep}"):
        raise refused(f"{named([name])} is a link that leads out of the source: use a file")
    return os.open(path, _FLAGS)


def _read_up_to(descriptor: int, most: int) -> bytes:
    parts: list[bytes] = []
    while most > 0 and (part := os.read(descriptor, most)):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


def read_user_json(tree: Path, name: str) -> dict[str, Any] | None:
    """Return a file's JSON object; None if it does not exist (blocking).

    Raises:
        ServerFault: InvalidLayout; it is not a readable file with a JSON object.
    """
    content = read_user_file(tree, name)
    if content is None:
        return None
    try:
        document = json.loads(content)
    except UnicodeDecodeError as error:
        raise refused(f"{name} is not JSON: it is not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise refused(f"{name} is nested too deeply") from error
    except ValueError as error:
        raise refused(f"{name} is not JSON: {error!s:.200}") from error
    if not isinstance(document, dict):
        raise refused(f"{name} must be a JSON object")
    return document


def write_user_json(tree: Path, name: str, document: dict[str, Any]) -> None:
    """Replace a file by a JSON object in ASCII (blocking).

    Raises:
        ServerFault: InvalidLayout; the name belongs to a folder.
        OSError: from the model volume.
    """
    try:
        text = json.dumps(document, indent=2)
    except (RecursionError, ValueError) as error:
        raise refused(f"{name} is nested too deeply") from error
    replace_user_file(tree, name, f"{text}\n".encode())


def replace_user_file(tree: Path, name: str, content: bytes) -> None:
    """Replace a file atomically, without writing into the old one (blocking).

    Raises:
        ServerFault: InvalidLayout; the name belongs to a folder.
        OSError: from the model volume.
    """
    path = tree / name
    new = path.with_name(f".{path.name}{_TEMPORARY}")
    _clear(new)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(new, flags, FILE_MODE), "wb", buffering=0) as file:
        os.fchmod(file.fileno(), FILE_MODE)
        rest = memoryview(content)
        while rest:
            rest = rest[file.write(rest) :]
    try:
        os.replace(new, path)
    except IsADirectoryError as error:
        new.unlink()
        raise refused(f"{named([name])} is a folder, and must be a file") from error


def _clear(path: Path) -> None:
    """Remove a temporary file of a killed puller, or a file of the source with that name."""
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
