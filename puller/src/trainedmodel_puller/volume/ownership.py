"""Ownership of the volume: one puller at a time, by locks that the kernel frees with the process.

Two pullers on one volume would publish each other's half of a swap. So each takes `flock` on the
folders that it uses, and keeps it until it ends. The kernel then frees the locks, so there is
nothing to clean up after a kill -9. Three locks are taken, because each alone has a gap:

- the folder `--state-dir` itself. A folder can be locked on a full or read-only volume as well;
- the folder `--model-dir` itself, for a puller with another state folder;
- the file `owner` in the state folder, if it can be opened. On NFS only locks on files that are
  open for writing reach the server, and with it pullers on other nodes. The file also names the
  owner, for people.

A file system without locks (ENOLCK, EOPNOTSUPP) is used without, and `acquire` reports that. All of
it blocks for no longer than a system call.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from pathlib import Path
from typing import Final

_TAKEN: Final = frozenset({errno.EWOULDBLOCK, errno.EACCES})
_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
#: Why the file may not be had where the folders can be locked: full, read-only, another user's.
_NO_FILE: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP}
)
_LONGEST_NAME: Final = 200


class VolumeInUse(Exception):
    """Another puller has the volume; the message names it, if it is known."""


class Ownership:
    """The locks of one puller."""

    def __init__(self, model_dir: Path, state_dir: Path) -> None:
        self._folders = (state_dir, model_dir)
        self._file = state_dir / "owner"
        self._descriptors: list[int] = []

    def acquire(self) -> bool:
        """Take the volume.

        Returns:
            Whether the file system has locks; without them the volume counts as this puller's.

        Raises:
            VolumeInUse: another process has it.
            OSError: the owner is unknown.
        """
        try:
            is_locked = [self._lock(folder, os.O_RDONLY) for folder in self._folders]
            is_locked.append(self._lock_file())
        except BaseException:
            self.release()
            raise
        return all(is_locked)

    def release(self) -> None:
        """Give it back."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []

    def _lock_file(self) -> bool:
        try:
            is_locked = self._lock(self._file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno in _NO_FILE:
                return True
            raise
        with contextlib.suppress(OSError):
            said = f"{socket.gethostname()} (process {os.getpid()})\n".encode()
            os.ftruncate(self._descriptors[-1], 0)
            os.pwrite(self._descriptors[-1], said, 0)
        return is_locked

    def _lock(self, path: Path, flags: int) -> bool:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)
        self._descriptors.append(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                raise VolumeInUse(self._who()) from error
            if error.errno in _NO_LOCKS:
                return False
            raise
        return True

    def _who(self) -> str:
        try:
            descriptor = os.open(self._file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                said = os.read(descriptor, _LONGEST_NAME).decode("ascii", "replace").strip()
            finally:
                os.close(descriptor)
        except OSError:
            said = ""
        return said if said.isprintable() and said else "another process"
