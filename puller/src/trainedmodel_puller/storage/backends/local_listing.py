"""Listing a folder of the pod: links followed, roots checked, each fault named by its path.

All of it blocks and may hang with the file system; `local` runs it in a thread.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import StorageUri

from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.base import Listing, SourceObject
from trainedmodel_puller.storage.listing import ListingCount
from trainedmodel_puller.storage.paths import make_listing

#: mkfs.ext4 makes it at the top of each file system, and root alone may read it.
_FSCK_FOLDER: Final = "lost+found"
_MISSING: Final = frozenset({errno.ENOENT, errno.ENOTDIR})
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP})


class FolderListing:
    """One listing of a URI's file or folder, below some roots."""

    def __init__(self, uri: StorageUri, roots: Sequence[Path], count: ListingCount) -> None:
        self._uri = uri
        self._roots = tuple(roots)
        self._count = count
        self._objects: list[SourceObject] = []
        self._folders: list[str] = []

    def run(self, path: Path) -> Listing:
        """List a file, which has the name that was asked for, or a folder.

        Raises:
            SourceFault: missing, denied, too large, or what can be no model.
        """
        top = self._resolved(path, "")
        if self._is_folder(top, ""):
            self._walk(top, "", (top,))
            return make_listing(
                self._objects, is_single=False, where=self._uri, folders=self._folders
            )
        if self._uri.path.endswith("/"):
            raise SourceFault(
                Reason.OBJECT_NOT_FOUND, f"{self._uri}: is a file; remove the slash at its end"
            )
        return make_listing([self._entry(top, path.name)], is_single=True, where=self._uri)

    def _walk(self, folder: Path, prefix: str, above: tuple[Path, ...]) -> None:
        for name in self._names(folder, prefix):
            self._count.look()
            shown = prefix + name
            path = self._resolved(folder / name, shown)
            if not self._is_folder(path, shown):
                self._objects.append(self._entry(path, shown))
            elif path in above:
                raise self._fault(Reason.UNSAFE_PATH, shown, "is part of a loop of links")
            else:
                self._folders.append(shown)
                self._walk(path, f"{shown}/", (*above, path))

    def _names(self, folder: Path, prefix: str) -> list[str]:
        names = []
        is_top = not prefix and (os.path.ismount(folder) or self._is_claim(folder))
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if is_top and entry.name == _FSCK_FOLDER:
                        continue
                    self._count.add(prefix + entry.name)
                    names.append(entry.name)
        except OSError as error:
            raise local_fault(self._uri, error, prefix.rstrip("/")) from None
        return sorted(names)

    def _is_claim(self, folder: Path) -> bool:
        return self._uri.scheme == "pvc" and any(folder == root.resolve() for root in self._roots)

    def _resolved(self, path: Path, shown: str) -> Path:
        """Follow all links; the end must exist and lie under a root."""
        # What lies outside is refused before it is looked for: its existence is no one's business.
        written = Path(os.path.normpath(path))
        if not any(
            written.is_relative_to(base) for root in self._roots for base in (root, root.resolve())
        ):
            raise outside(self._uri, shown)
        try:
            resolved = Path(os.path.realpath(path, strict=True))
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self._fault(Reason.UNSAFE_PATH, shown, "is a link to itself") from None
            raise local_fault(self._uri, error, shown) from None
        if not any(resolved.is_relative_to(root.resolve()) for root in self._roots):
            raise outside(self._uri, shown)
        return resolved

    def _is_folder(self, path: Path, shown: str) -> bool:
        try:
            return stat.S_ISDIR(path.stat().st_mode)
        except OSError as error:
            raise local_fault(self._uri, error, shown) from None

    def _entry(self, path: Path, shown: str) -> SourceObject:
        try:
            found = path.stat()
        except OSError as error:
            raise local_fault(self._uri, error, shown) from None
        if not stat.S_ISREG(found.st_mode):
            raise self._fault(Reason.UNSAFE_PATH, shown, "is neither a file nor a folder")
        return SourceObject(shown, found.st_size, etag_of(found), key=str(path))

    def _fault(self, reason: Reason, shown: str, words: str) -> SourceFault:
        return SourceFault(reason, f"{_named(self._uri, shown)} {words}")


def etag_of(found: os.stat_result) -> str:
    """Name the content of a file, as far as its file system tells."""
    return f"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"


def outside(uri: StorageUri, shown: str = "") -> SourceFault:
    """Return the fault of what lies under no root."""
    flag = "--pvc-root" if uri.scheme == "pvc" else "--file-root"
    return SourceFault(
        Reason.ACCESS_DENIED,
        f"{_named(uri, shown)} lies outside the folders that {flag} allows to be read",
    )


def local_fault(uri: StorageUri, error: OSError, shown: str = "") -> SourceFault:
    """Return the fault of the file system for a path of the model."""
    named = _named(uri, shown)
    if error.errno in _MISSING:
        words = "is a link whose target does not exist" if shown else "no such file or folder"
        return SourceFault(Reason.OBJECT_NOT_FOUND, f"{named} {words}")
    words = f"cannot be read: {error.strerror}"
    if error.errno in _DENIED:
        return SourceFault(
            Reason.ACCESS_DENIED, f"{named} {words}; the puller runs as user {os.geteuid()}"
        )
    return SourceFault(Reason.SOURCE_ERROR, f"{named} {words}")


def _named(uri: StorageUri, shown: str) -> str:
    return f"{uri}: {shown!a:.200}" if shown else f"{uri}:"
