"""The trash: removed trees are moved there in one rename, then deleted piece by piece.

A model server may run as another user, and write files that this process may not delete (a root
server's `__pycache__`). So only the rename can fail an operation. Files that cannot be deleted stay
in the trash: `left` reports them, and `empty` tries again.

All of it blocks; `discard` raises OSError.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

_REFUSED: Final = frozenset({errno.EACCES, errno.EPERM})


class Trash:
    """The folder of the files that are being deleted.

    Attributes:
        left: The errors of trees that could not be deleted, by name in the folder. The mapping is
            replaced and never changed in place, so callers may keep it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.left: Mapping[str, str] = {}
        self._lock = threading.Lock()
        self._being_deleted: set[str] = set()

    def discard(self, path: Path) -> None:
        """Move a folder or file into the trash, then delete as much of it as possible."""
        doomed = self.folder / uuid.uuid4().hex
        with self._lock:
            self._being_deleted.add(doomed.name)
        try:
            path.rename(doomed)
            self._delete(doomed)
        finally:
            with self._lock:
                self._being_deleted.discard(doomed.name)

    def empty(self) -> None:
        """Delete the whole content, also of an earlier run.

        The content is read from the folder, not from `left`: a file that the system reported as
        missing may still exist.
        """
        try:
            found = os.listdir(self.folder)
        except FileNotFoundError:
            found = []
        except OSError as error:
            self._note("", _words(error, self.folder))
            return
        self._note("", None)
        with self._lock:
            names = {*found, *self.left} - self._being_deleted
        for name in sorted(names):
            self._delete(self.folder / name)

    def _delete(self, doomed: Path) -> None:
        error = delete_tree(doomed)
        self._note(doomed.name, None if error is None else _words(error, doomed))

    def _note(self, name: str, why: str | None) -> None:
        with self._lock:
            others = {key: value for key, value in self.left.items() if key != name}
            self.left = others if why is None else {**others, name: why}


def delete_tree(path: Path) -> OSError | None:
    """Delete a file, or a folder with as much of its content as may be; never follow a link.

    Returns:
        The first error, if something is left.
    """
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return None
    except FileNotFoundError:
        return None
    except OSError as error:
        return error
    refusal = _delete_folder(path)
    if refusal is not None and refusal.errno in _REFUSED:
        _make_writable(path)
        refusal = _delete_folder(path)
    return refusal


def _delete_folder(path: Path) -> OSError | None:
    first: list[OSError] = []

    def note(_: Callable[..., Any], where: str, raised: Any) -> None:
        error = raised[1]
        if not first and isinstance(error, OSError):
            first.append(OSError(error.errno, error.strerror, where))

    shutil.rmtree(path, onerror=note)
    if not first:
        return None
    try:
        os.lstat(path)
    except FileNotFoundError:
        return None  # what an error kept from being seen was gone already
    except OSError as error:
        return error
    return first[0]


def _make_writable(path: Path) -> None:
    """Make the puller's folders writable: a server of the same user may have changed that."""
    for folder, _, _ in os.walk(path):
        try:
            os.chmod(folder, stat.S_IRWXU)
        except OSError:
            continue


def _words(error: OSError, doomed: Path) -> str:
    where = os.fsdecode(error.filename) if error.filename else str(doomed)
    return f"{os.path.relpath(where, doomed)!a:.200}: {error.strerror or error}"
