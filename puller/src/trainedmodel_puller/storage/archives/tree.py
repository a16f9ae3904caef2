"""The folder being filled: the only place that writes content of an archive.

Every name is opened segment by segment from the folder's own descriptor, never through a link, and
every file must be new (P9). Links are made last, after their targets are checked, so no write can
follow a link out of the folder.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final, Self

from trainedmodel_puller.storage.archives.common import (
    Budget,
    Entry,
    UnpackedTree,
    archive_fault,
    entry_fault,
)
from trainedmodel_puller.storage.archives.rules import (
    MAX_LINKS,
    Found,
    check_circles,
    check_target,
    entry_path,
    resolve,
)
from trainedmodel_puller.storage.files import write_all
from trainedmodel_puller.volume.durable import FILE_MODE, FOLDER_MODE, sync_path

_EXECUTABLE_MODE: Final = 0o755
_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: Forced to the disk at a time: a cancellation waits for this much, and no more is left dirty.
_SYNC_BYTES: Final = 16 * 1024 * 1024
_NO_FOLDER: Final = frozenset({errno.ENOTDIR, errno.ELOOP})


class TreeWriter:
    """Fills one folder; a context manager. Each method raises OSError if the volume refuses."""

    def __init__(self, folder: Path, budget: Budget, *, durable: bool) -> None:
        self._folder = folder
        self._budget = budget
        self._durable = durable
        self._files = 0
        self._links: dict[str, str] = {}
        folder.mkdir(exist_ok=True)
        self._root = os.open(folder, _OPEN_FOLDER)
        os.fchmod(self._root, FOLDER_MODE)
        # entries come folder by folder: the last one stays open
        self._at = ""
        self._at_fd = os.dup(self._root)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._at_fd)
        os.close(self._root)

    def add_folder(self, path: str) -> None:
        """Make a folder, unless it is there."""
        self._enter(path)

    def add_file(self, path: str, entry: Entry) -> None:
        """Write a file from its pieces.

        Raises:
            SourceFault: the name is taken, or lies below a file.
        """
        parent, name = self._place(path)
        fd = self._create(parent, name, path)
        try:
            os.fchmod(fd, _EXECUTABLE_MODE if entry.is_executable else FILE_MODE)
            self._fill(fd, entry)
        finally:
            os.close(fd)
        self._files += 1

    def add_hard_link(self, path: str, entry: Entry) -> None:
        """Give an earlier file one more name.

        Raises:
            SourceFault: there is no such earlier file.
        """
        target = entry_path(entry.target)
        if target is not None and target in self._links:
            self.add_link(path, self._links[target])
            return
        if target is None or self._look(target) is not Found.FILE:
            raise entry_fault(
                path,
                f"is a hard link to {entry.target!a:.200}, which is no earlier file of the"
                " archive; pack the file itself: tar --hard-dereference",
            )
        parent, name = self._place(path)
        try:
            os.link(target, name, src_dir_fd=self._root, dst_dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            raise self._taken(path) from None
        self._files += 1

    def add_link(self, path: str, target: str) -> None:
        """Remember a symbolic link, to be made at the end.

        Raises:
            SourceFault: the name is taken, or no link may say that.
        """
        check_target(path, target)
        if len(self._links) >= MAX_LINKS:
            raise archive_fault(f"has more than {MAX_LINKS} links; pack it with tar --dereference")
        self._place(path)
        if path in self._links:
            raise self._taken(path)
        self._links[path] = target
        self._files += 1

    def finish(self) -> UnpackedTree:
        """Make the links, force everything to the disk.

        Raises:
            SourceFault: a link leads nowhere, outside or in a circle; or there is no file.
        """
        if not self._files:
            raise archive_fault("holds no file; pack the model's files")
        self._check_links()
        for path, target in self._links.items():
            self._budget.checkpoint()
            parent, name = self._place(path, is_counted=False)
            os.symlink(target, name, dir_fd=parent)
        if self._durable:
            for folder, _, _ in os.walk(self._folder):
                self._budget.checkpoint()
                sync_path(Path(folder))
        return UnpackedTree(self._files, self._budget.written)

    # -- links --------------------------------------------------------------------------

    def _check_links(self) -> None:
        jumps: dict[str, str] = {}
        for path in self._links:
            self._budget.checkpoint()
            if self._look(path) is not Found.NOTHING:
                raise self._taken(path)
            end = resolve(path, self._links, self._look)
            if self._look(end) is Found.FOLDER:
                jumps[path] = end
        check_circles(jumps)

    def _look(self, path: str) -> Found:
        """Tell what is there. No link exists yet: no path leads outside."""
        try:
            mode = os.stat(path or ".", dir_fd=self._root, follow_symlinks=False).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return Found.NOTHING
        return Found.FOLDER if stat.S_ISDIR(mode) else Found.FILE

    # -- names --------------------------------------------------------------------------

    def _place(self, path: str, *, is_counted: bool = True) -> tuple[int, str]:
        """Return the open folder that a new name goes into, and its last segment."""
        if is_counted:
            self._budget.count_made()
        parent, _, name = path.rpartition("/")
        return self._enter(parent), name

    def _enter(self, path: str) -> int:
        """Open a folder, making what is missing; it stays open until another one is entered."""
        if path == self._at:
            return self._at_fd
        fd = os.dup(self._root)
        try:
            for segment in path.split("/") if path else ():
                inner = self._step(fd, segment, path)
                os.close(fd)
                fd = inner
        except BaseException:
            os.close(fd)
            raise
        os.close(self._at_fd)
        self._at, self._at_fd = path, fd
        return fd

    def _step(self, fd: int, segment: str, path: str) -> int:
        try:
            return os.open(segment, _OPEN_FOLDER, dir_fd=fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in _NO_FOLDER:
                raise
            raise entry_fault(
                path, f"must be a folder, but {segment!a:.200} is a file; pack it again"
            ) from None
        self._budget.count_made()
        os.mkdir(segment, FOLDER_MODE, dir_fd=fd)
        inner = os.open(segment, _OPEN_FOLDER, dir_fd=fd)
        os.fchmod(inner, FOLDER_MODE)  # the umask of the process is not ours to trust
        return inner

    def _create(self, parent: int, name: str, path: str) -> int:
        try:
            return os.open(name, _NEW_FILE, FILE_MODE, dir_fd=parent)
        except FileExistsError:
            raise self._taken(path) from None

    def _taken(self, path: str) -> Exception:
        return entry_fault(
            path, "is in it twice, or is a folder as well; pack it again, into a new archive"
        )

    # -- data ---------------------------------------------------------------------------

    def _fill(self, fd: int, entry: Entry) -> None:
        end = unsynced = 0
        for offset, chunk in entry.chunks:
            size = memoryview(chunk).nbytes
            self._budget.count_written(offset - end + size)
            write_all(fd, [chunk], offset)
            end = offset + size
            unsynced += size
            if self._durable and unsynced >= _SYNC_BYTES:
                os.fdatasync(fd)
                unsynced = 0
        if end < entry.size:
            self._budget.count_written(entry.size - end)
            os.ftruncate(fd, entry.size)
        if self._durable:
            os.fsync(fd)
