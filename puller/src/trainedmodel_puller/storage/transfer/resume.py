"""Prepares a folder for a fetch: keeps valid files, and removes the others.

The order matters for a kill at any point (P7): first the journal drops the records of removed
files, then the files are removed, then new ones are made. In another order, a journal could have a
record of a file that was made again from other content.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Final

from trainedmodel_puller.storage.base import Listing, SourceObject
from trainedmodel_puller.storage.files import open_new
from trainedmodel_puller.storage.paths import parent_folders
from trainedmodel_puller.storage.transfer.journal import FileRecord, Journal
from trainedmodel_puller.volume.durable import FILE_MODE, FOLDER_MODE, sync_file_system, sync_path

#: From so many files on the whole file system is flushed instead of each of them.
_MANY: Final = 32


def prepare(folder: Path, listing: Listing, part_bytes: int) -> Journal:
    """Make a folder hold nothing but kept files and the folders of the listing; blocks."""
    folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    journal = Journal.beside(folder)
    journal.records = {
        item.path: _kept(folder, journal.records.get(item.path), item, part_bytes)
        for item in listing.objects
    }
    journal.save()
    kept = {path for path, record in journal.records.items() if record.bits}
    folders = _folders(listing)
    _remove_others(folder, "", kept, folders)
    for path in ["", *sorted(folders)]:
        target = folder / path
        target.mkdir(exist_ok=True)
        target.chmod(FOLDER_MODE)
    return journal


def make_file(path: Path, size: int) -> None:
    """Make a file of a given size, without data; one that is there keeps its data."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        fd = open_new(path)
    try:
        os.fchmod(fd, FILE_MODE)
        os.ftruncate(fd, size)
    finally:
        os.close(fd)


def sync_folders(folder: Path, listing: Listing) -> None:
    """Force the names of all files to the disk."""
    for path in ["", *sorted(_folders(listing))]:
        sync_path(folder / path)


def sync_files(folder: Path, paths: Collection[str]) -> None:
    """Force files' data to the disk: many of them at one go."""
    if len(paths) >= _MANY:
        sync_file_system(folder)
        return
    for path in paths:
        sync_path(folder / path)


def _folders(listing: Listing) -> set[str]:
    paths = [*(item.path for item in listing.objects), *(f"{path}/" for path in listing.folders)]
    return {parent for path in paths for parent in parent_folders(path)}


def _kept(
    folder: Path, known: FileRecord | None, item: SourceObject, part_bytes: int
) -> FileRecord:
    """Return the record of what can be used again, or an empty one."""
    fresh = FileRecord(item, part_bytes)
    if known is None or not known.is_for(item, part_bytes):
        return fresh
    try:
        found = os.lstat(folder / item.path)
    except OSError:
        return fresh
    if not stat.S_ISREG(found.st_mode) or found.st_size != item.size:
        return fresh
    # Bits beyond the end would make the record look unfinished for ever.
    record = FileRecord(item, part_bytes, known.bits & ((1 << fresh.part_count) - 1))
    # What is still to be written into must be this folder's alone (`hardlinks`).
    return record if record.is_done or found.st_nlink == 1 else fresh


def _remove_others(folder: Path, prefix: str, kept: set[str], folders: set[str]) -> None:
    with os.scandir(folder / prefix) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in found:
        path = prefix + name
        if is_folder and path in folders:
            _remove_others(folder, f"{path}/", kept, folders)
        elif is_folder:
            shutil.rmtree(folder / path)
        elif path not in kept:
            (folder / path).unlink()
