"""Folders of the pod itself: `file://` and `pvc://`, under configured roots only.

A TrainedModel's author must not read the puller's own files (tokens are mounted into every pod),
so nothing may be read unless the pod's owner has named the folder. Links are followed, since hub
caches are made of them, and wherever they lead is checked again: after opening, against the path
that the kernel says was opened, so that a link exchanged in between gains nothing.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from typing import Final

from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import StorageUri
from typing_extensions import Buffer

from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.base import UNKNOWN_SIZE, Listing, SourceObject
from trainedmodel_puller.storage.paths import make_listing

_CHUNK_BYTES: Final = 1024 * 1024
_MISSING: Final = frozenset({errno.ENOENT, errno.ENOTDIR})
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP})


class LocalStorage:
    """Models in folders that the pod has mounted."""

    is_conditional = True

    def __init__(self, file_roots: Sequence[Path] = (), pvc_root: Path | None = None) -> None:
        self._file_roots = tuple(file_roots)
        self._pvc_root = pvc_root

    async def list(self, uri: StorageUri) -> Listing:
        """List the file or folder at a URI; what is neither (a socket, a device) is refused."""
        return await asyncio.to_thread(self._list, uri)

    async def read(
        self, uri: StorageUri, item: SourceObject, start: int, end: int
    ) -> AsyncGenerator[Buffer, None]:
        """Read bytes of one file, if its size and time are still the listed ones."""
        roots = self._roots(uri)
        handle = await asyncio.to_thread(self._open, roots, uri, item)
        at = start
        while end == UNKNOWN_SIZE or at < end:
            size = _CHUNK_BYTES if end == UNKNOWN_SIZE else min(_CHUNK_BYTES, end - at)
            try:
                chunk = await asyncio.to_thread(handle.read, size, at)
            except OSError as error:
                raise _source_fault(uri, error) from None
            if not chunk:
                return
            at += len(chunk)
            yield chunk

    async def close(self) -> None:
        """Nothing is kept open."""

    def _list(self, uri: StorageUri) -> Listing:
        roots = self._roots(uri)
        try:
            top = self._resolve(roots, uri, self._path(roots, uri))
            if not top.is_dir():
                if uri.path.endswith("/"):
                    raise NotADirectoryError(errno.ENOTDIR, "is a file, not a folder")
                return make_listing([_entry(top, top.name)], is_single=True, where=uri)
            found = list(self._walk(roots, uri, top, "", (top,)))
        except OSError as error:
            raise _source_fault(uri, error) from None
        return make_listing(found, is_single=False, where=uri)

    def _walk(
        self,
        roots: Sequence[Path],
        uri: StorageUri,
        folder: Path,
        prefix: str,
        above: tuple[Path, ...],
    ) -> Iterator[SourceObject]:
        for name in sorted(os.listdir(folder)):
            path = self._resolve(roots, uri, folder / name)
            if not path.is_dir():
                yield _entry(path, prefix + name)
            elif path in above:
                raise SourceFault(
                    Reason.UNSAFE_PATH, f"{uri}: the link {prefix + name!a} leads into a circle"
                )
            else:
                yield from self._walk(roots, uri, path, f"{prefix}{name}/", (*above, path))

    def _path(self, roots: Sequence[Path], uri: StorageUri) -> Path:
        if uri.scheme == "pvc":
            return roots[0] / uri.key
        if uri.authority not in {"", "localhost"}:
            raise SourceFault(
                Reason.INVALID_URI, f"{uri}: a file URI has three slashes: file:///folder"
            )
        return Path("/") / uri.key

    def _roots(self, uri: StorageUri) -> tuple[Path, ...]:
        if uri.scheme != "pvc":
            return self._file_roots
        if self._pvc_root is None:
            raise SourceFault(
                Reason.ACCESS_DENIED, f"{uri}: no claim is mounted for models; see --pvc-root"
            )
        if not uri.authority:
            raise SourceFault(Reason.INVALID_URI, f"{uri}: must be pvc://claim/path")
        return (self._pvc_root / uri.authority,)

    def _resolve(self, roots: Sequence[Path], uri: StorageUri, path: Path) -> Path:
        """Follow all links; the end must exist and lie under a root."""
        # What lies outside is refused before it is looked for: its existence is no one's business.
        written = Path(os.path.normpath(path))
        if not any(
            written.is_relative_to(base) for root in roots for base in (root, root.resolve())
        ):
            raise _outside(uri, self._flag(uri))
        resolved = path.resolve(strict=True)
        if not any(resolved.is_relative_to(root.resolve()) for root in roots):
            raise _outside(uri, self._flag(uri))
        return resolved

    def _open(self, roots: Sequence[Path], uri: StorageUri, item: SourceObject) -> _OpenFile:
        try:
            # Without O_NONBLOCK, opening a pipe that nobody writes to waits for ever.
            fd = os.open(item.key, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno in _MISSING:
                raise _changed(uri, item) from None
            raise _source_fault(uri, error) from None
        handle = _OpenFile(fd)
        try:
            opened = Path(os.readlink(f"/proc/self/fd/{fd}"))
            if not any(opened.is_relative_to(root.resolve()) for root in roots):
                raise _outside(uri, self._flag(uri))
            if _etag(os.fstat(fd)) != item.etag:
                raise _changed(uri, item)
        except OSError as error:
            raise _source_fault(uri, error) from None
        return handle

    @staticmethod
    def _flag(uri: StorageUri) -> str:
        return "--pvc-root" if uri.scheme == "pvc" else "--file-root"


class _OpenFile:
    """A file that closes when the last who holds it lets go.

    A read that was cancelled goes on in its thread for a moment; a file closed under it would
    hand its number to the next one opened.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __del__(self) -> None:
        os.close(self._fd)

    def read(self, size: int, at: int) -> bytes:
        return os.pread(self._fd, size, at)


def _entry(path: Path, name: str) -> SourceObject:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise SourceFault(Reason.UNSAFE_PATH, f"{name!a:.200} is neither a file nor a folder")
    return SourceObject(name, found.st_size, _etag(found), key=str(path))


def _etag(found: os.stat_result) -> str:
    return f"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"


def _outside(uri: StorageUri, flag: str) -> SourceFault:
    return SourceFault(
        Reason.ACCESS_DENIED, f"{uri}: lies outside the folders that {flag} allows to be read"
    )


def _changed(uri: StorageUri, item: SourceObject) -> SourceFault:
    return SourceFault(
        Reason.SOURCE_CHANGED, f"{uri}: {item.path!a:.200} has changed since it was listed"
    )


def _source_fault(uri: StorageUri, error: OSError) -> SourceFault:
    if error.errno in _MISSING:
        return SourceFault(Reason.OBJECT_NOT_FOUND, f"{uri}: no such file or folder")
    reason = Reason.ACCESS_DENIED if error.errno in _DENIED else Reason.SOURCE_ERROR
    return SourceFault(reason, f"{uri}: {error.strerror}")
