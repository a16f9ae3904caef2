"""Errors of the system at a chosen step of whoever works on a volume.

A step is a call that the kernel may refuse: a file opened, renamed, removed or forced to the disk,
a folder listed, a status read. Python tells most of them to audit hooks, and an error that a hook
raises comes out of the call; the others are wrapped. Nothing of this is known to who is tested.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainedmodel_puller.volume import durable, layouts, staging

#: What disks, networks and limits really answer.
CODES = (
    errno.EACCES,
    errno.EIO,
    errno.ENOSPC,
    errno.EROFS,
    errno.EMFILE,
    errno.ESTALE,
    errno.ENOENT,
)
_EVENTS = frozenset(
    {
        *("open", "os.scandir", "os.listdir", "os.rename", "os.remove", "os.mkdir", "os.rmdir"),
        *("os.link", "os.symlink", "os.truncate", "os.utime", "os.chmod"),
    }
)
_WRAPPED = ("stat", "lstat", "statvfs", "fsync", "fdatasync", "pwritev")


class Faults:
    """Refuses some of the steps that are made below one folder.

    Attributes:
        root: Steps on other paths are none.
        count: Steps seen since it was armed.
        refused: What was refused, for a test's words.
    """

    def __init__(self) -> None:
        self.root = ""
        self.count = 0
        self.refused: list[str] = []
        self._first = self._last = -1
        self._code = 0
        self._lock = threading.Lock()
        self._is_installed = False

    @contextmanager
    def armed(self, root: Path, first: int, code: int, times: int = 1) -> Iterator[None]:
        """Refuse so many steps below `root` from the `first` on, while the block lasts."""
        self.install()
        self.count, self.refused = 0, []
        self._first, self._last, self._code = first, first + times, code
        self.root = str(root)
        try:
            yield
        finally:
            self.root = ""

    def install(self) -> None:
        """Begin to see steps; once a process."""
        if self._is_installed:
            return
        self._is_installed = True
        for name in _WRAPPED:
            setattr(os, name, self._wrap(name, getattr(os, name)))
        real = durable.exchange

        def exchange(one: Path, other: Path, trash: Path) -> None:
            self._step("exchange", str(other))
            real(one, other, trash)

        for module in (layouts, staging):
            vars(module)["exchange"] = exchange
        sys.addaudithook(self._hook)

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *rest: Any, **named: Any) -> Any:
            if self.root:
                if isinstance(path, int):
                    if name not in {"stat", "lstat"}:
                        self._step(name, f"{self.root}/(open)")
                else:
                    self._step(name, os.fsdecode(path))
            return real(path, *rest, **named)

        return call

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.root and event in _EVENTS and not isinstance(arguments[0], int):
            path = os.fsdecode(arguments[0])
            # what is named from an open folder on is of a tree that is being deleted
            self._step(event, path if os.path.isabs(path) else f"{self.root}/{path}")

    def _step(self, what: str, path: str) -> None:
        if not path.startswith(self.root + "/"):
            return
        with self._lock:
            number = self.count
            self.count += 1
            is_refused = self._first <= number < self._last
            if is_refused:
                self.refused.append(f"{number} {what} {path.removeprefix(self.root)}")
        if is_refused:
            raise OSError(self._code, os.strerror(self._code), path)


FAULTS = Faults()
