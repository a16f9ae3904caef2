"""Allocated blocks of folders, as du and a kubelet count them, while trees move between them.

A single walk misses a tree that moves during the walk from a folder not yet listed into a folder
already listed. The tree may be a model of any size. Such a move changes the modification time of
the target folder. So folders whose time has changed are listed again, and trees that were not
counted before are counted then. Each file and folder is counted once.

The second listing looks for folders only: the puller moves no single files between folders.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_BLOCK_BYTES: Final = 512
_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
#: A tree moves twice in a row at most: from staging to the sealed ones, and into the served folder.
_LOOKS_AGAIN: Final = 2
#: Two changes within one tick of the kernel's clock (10 ms at 100 Hz) may bear the same time.
_TICK_NS: Final = 20_000_000

#: Device and inode.
_Key = tuple[int, int]
#: Path of a folder, and its inode as its parent's listing has it.
_Found = tuple[str, int | None]


def allocated_bytes(folders: Iterable[Path]) -> tuple[int, frozenset[str]]:
    """Add up the allocated blocks below the folders, each inode once. This call blocks.

    Returns:
        The bytes, and the paths of folders that could not be read.
    """
    roots = [os.fspath(folder) for folder in folders]
    walk = _Walk(roots)
    walk.look([(root, None) for root in roots])
    for _ in range(_LOOKS_AGAIN):
        changed = walk.changed()
        if not changed:
            break
        walk.look([(path, None) for path in changed])
    return walk.total, frozenset(walk.unread)


class _Walk:
    """Counts the files and folders below some folders.

    Attributes:
        total: Bytes of all of them.
        unread: Paths of folders that could not be read.
    """

    def __init__(self, roots: Iterable[str]) -> None:
        self.total = 0
        self.unread: set[str] = set()
        self._roots = frozenset(roots)
        self._began_ns = 0
        self._listed: dict[str, tuple[_Key, int]] = {}
        self._counted: set[_Key] = set()
        self._whole: set[_Key] = set()
        self._linked: set[_Key] = set()

    def look(self, pending: list[_Found]) -> None:
        """List folders and all below them. Of a folder listed before, count only new folders."""
        self._began_ns = time.time_ns() - _TICK_NS
        while pending:
            path, inode = pending.pop()
            try:
                pending += self._list(path, inode)
            except (FileNotFoundError, NotADirectoryError):
                self._note_gone(path)
            except OSError:
                self.unread.add(path)

    def changed(self) -> list[str]:
        """Return the folders that may have got new entries since they were listed."""
        return [path for path, (_, at_ns) in self._listed.items() if self._has_changed(path, at_ns)]

    def _has_changed(self, path: str, at_ns: int) -> bool:
        try:
            now_ns = os.lstat(path).st_mtime_ns
        except OSError:
            return False  # it has moved, or it is in `unread` already
        return now_ns != at_ns or now_ns >= self._began_ns

    def _list(self, path: str, inode: int | None) -> list[_Found]:
        """Count a folder and its files, and return which of its folders are to be listed."""
        is_below = path not in self._roots
        folder = os.open(path, _OPEN_FOLDER | (os.O_NOFOLLOW if is_below else 0))
        try:  # the open folder stays the same one, even if another one takes its name
            status = os.fstat(folder)
            key = (status.st_dev, status.st_ino)
            if inode not in {None, status.st_ino}:
                self._note_gone(path)
            self._listed[path] = (key, status.st_mtime_ns)
            is_new = key not in self._counted
            if is_new:
                self._counted.add(key)
                self.total += status.st_blocks * _BLOCK_BYTES
            inner: list[_Found] = []
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        at = entry.inode()
                        if (status.st_dev, at) not in self._whole:
                            inner.append((os.path.join(path, entry.name), at))
                    elif is_new:
                        self.total += self._bytes_of(entry)
        finally:
            os.close(folder)
        self._whole.add(key)
        return inner

    def _note_gone(self, path: str) -> None:
        """Note that a folder, or one above it, moved or went before it was listed.

        The folders above it count as incomplete, so they are listed again at their new place.
        """
        above = os.path.dirname(path)
        while above in self._listed:
            self._whole.discard(self._listed[above][0])
            above = os.path.dirname(above)

    def _bytes_of(self, entry: os.DirEntry[str]) -> int:
        """Return the bytes that a file takes; nothing if one of its other names was counted."""
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return 0
        if status.st_nlink > 1:
            key = (status.st_dev, status.st_ino)
            if key in self._linked:
                return 0
            self._linked.add(key)
        return status.st_blocks * _BLOCK_BYTES
