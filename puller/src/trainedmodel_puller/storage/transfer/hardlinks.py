"""Links files of one model's verified tree into the folder of another model.

Models from one source need one fetch. A hard link takes no time and no space. If the volume refuses
it, a clone of the blocks is tried (FICLONE: xfs, btrfs), and if that is refused too, the file is
fetched. Linked files are recorded in the journal, so that the following fetch keeps them and
requests only the rest.

An inode with two names is read by both and written by neither. Each write makes a new inode:
`resume` keeps no half-written file with more than one name, and `files.open_new` unlinks an
existing file first. All files have the same mode (`FILE_MODE`); a file with another mode is not
linked.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Final

from trainedmodel_puller.storage.base import Listing, SourceObject
from trainedmodel_puller.storage.files import open_new
from trainedmodel_puller.storage.transfer.resume import prepare
from trainedmodel_puller.volume.durable import FILE_MODE

#: `_IOW(0x94, 9, int)` of linux/fs.h.
_FICLONE: Final = 0x40049409
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Refusals of a link that say nothing of the volume: it is another, or this one knows none.
_NO_LINK: Final = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}
)


def seed(
    folder: Path, listing: Listing, part_bytes: int, source: Path, changed: Collection[str]
) -> int:
    """Put another model's files into a folder before it is fetched; blocks.

    A kill at any point leaves a folder whose journal claims too little, never too much (P7).

    Args:
        folder: Made if missing; usable files of an earlier fetch are kept.
        listing: Listing of the model to fetch.
        part_bytes: Part size of the following fetch.
        source: A verified tree of the same listing fingerprint, which is never written into. A file
            that is missing, or not a regular file of the listed size, is left to the fetch.
        changed: Paths in `source` that have been edited since they were fetched.

    Returns:
        How many bytes need not be fetched thanks to the source.

    Raises:
        OSError: the folder cannot be made ready.
    """
    journal = prepare(folder, listing, part_bytes)
    wanted = [
        record
        for path, record in journal.records.items()
        # Without an identity the journal could not vouch for the file.
        if not record.is_done and path not in changed and record.item.identity is not None
    ]
    # Until it is saved the journal may vouch for parts of a file that was begun and is now gone or
    # linked: `prepare` believes it in neither case.
    taken = [record for record in wanted if _take(folder, source, record.item)]
    for record in taken:
        record.mark_all()
    journal.save()
    return sum(record.item.size for record in taken)


def _take(folder: Path, source: Path, item: SourceObject) -> bool:
    """Link or clone one file in the place of one that was begun; False if that cannot be done."""
    target = folder / item.path
    try:
        parent = _open_parent(source, item.path)
    except OSError:
        return False
    name = item.path.rsplit("/", 1)[-1]
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode) or found.st_size != item.size:
            return False
        target.unlink(missing_ok=True)
        if stat.S_IMODE(found.st_mode) == FILE_MODE and _link(parent, name, target, found):
            return True
        return _clone(parent, name, target, found)
    except FileNotFoundError:
        return False
    finally:
        os.close(parent)


def _open_parent(root: Path, path: str) -> int:
    """Open the folder that a file lies in, step by step, following no link."""
    at = os.open(root, _FOLDER_FLAGS)
    for segment in path.split("/")[:-1]:
        try:
            below = os.open(segment, _FOLDER_FLAGS, dir_fd=at)
        finally:
            os.close(at)
        at = below
    return at


def _link(parent: int, name: str, target: Path, found: os.stat_result) -> bool:
    try:
        os.link(name, target, src_dir_fd=parent, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NO_LINK:
            return False
        raise
    made = os.lstat(target)
    if (made.st_ino, made.st_dev, made.st_size) == (found.st_ino, found.st_dev, found.st_size):
        return True
    target.unlink()  # exchanged in between
    return False


def _clone(parent: int, name: str, target: Path, found: os.stat_result) -> bool:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        origin = os.open(name, flags, dir_fd=parent)
    except OSError:
        return False
    try:
        copy = open_new(target)
        try:
            os.fchmod(copy, FILE_MODE)
            fcntl.ioctl(copy, _FICLONE, origin)
            if os.fstat(copy).st_size == found.st_size:
                return True
        except OSError:
            pass
        finally:
            os.close(copy)
        target.unlink()
        return False
    finally:
        os.close(origin)
