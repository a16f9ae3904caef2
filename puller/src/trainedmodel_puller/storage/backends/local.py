"""Folders of the pod itself: `file://` and `pvc://`, under configured roots only.

A TrainedModel's author must not read the puller's own files (tokens are mounted into every pod), so
only folders that the pod's owner has named may be read. Links are followed, since hub caches
consist of them. Their targets are checked after opening, against the opened path that the kernel
reports, so that a link replaced in between has no effect.

A mounted claim may hang without end in any system call, `close` included. Each claim has its own
threads for them (`outside`), and a listing that finds nothing more for `answer_timeout_s` fails.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import StorageUri
from typing_extensions import Buffer

from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.backends.local_listing import (
    FolderListing,
    etag_of,
    local_fault,
    outside,
)
from trainedmodel_puller.storage.base import UNKNOWN_SIZE, Listing, SourceObject
from trainedmodel_puller.storage.listing import MAX_LISTING, ListingCount
from trainedmodel_puller.storage.outside import OutsideThreads

_CHUNK_BYTES: Final = 1024 * 1024
_MISSING: Final = frozenset({errno.ENOENT, errno.ENOTDIR})


class LocalStorage:
    """Models in folders that the pod has mounted."""

    is_conditional = True

    def __init__(
        self,
        file_roots: Sequence[Path] = (),
        pvc_root: Path | None = None,
        *,
        threads: OutsideThreads | None = None,
        answer_timeout_s: float = 30.0,
        max_listing: int = MAX_LISTING,
    ) -> None:
        """Touch nothing yet.

        Args:
            file_roots: As in `StorageSettings`, like the limits.
            pvc_root: See there.
            threads: Where to read; some of its own if None.
            answer_timeout_s: How long a listing may find nothing more.
            max_listing: Most entries of a listing.
        """
        self._file_roots = tuple(file_roots)
        self._pvc_root = pvc_root
        self._threads = threads or OutsideThreads()
        self._answer_timeout_s = answer_timeout_s
        self._max_listing = max_listing

    async def list(self, uri: StorageUri) -> Listing:
        """List the file or folder at a URI; what is neither (a socket, a device) is refused."""
        count = ListingCount(uri, self._max_listing)
        limit_s = self._answer_timeout_s
        look = asyncio.ensure_future(
            self._threads.run(_place(uri), partial(self._list, uri, count))
        )
        try:
            seen = -1
            while not look.done() and count.entries > seen:
                seen = count.entries
                await asyncio.wait({look}, timeout=limit_s)
            if look.done():
                return look.result()
        finally:
            count.stop()
            look.cancel()
        raise SourceFault(
            Reason.SOURCE_UNREACHABLE, f"{uri}: the file system did not answer for {limit_s:g} s"
        )

    async def read(
        self, uri: StorageUri, item: SourceObject, start: int, end: int
    ) -> AsyncGenerator[Buffer, None]:
        """Read bytes of one file, if its size and time are still the listed ones."""
        roots = self._roots(uri)
        place = _place(uri)
        handle = await self._threads.run(place, partial(self._open, roots, uri, item))
        at = start
        while end == UNKNOWN_SIZE or at < end:
            size = _CHUNK_BYTES if end == UNKNOWN_SIZE else min(_CHUNK_BYTES, end - at)
            try:
                chunk = await self._threads.run(place, partial(handle.read, size, at))
            except OSError as error:
                raise local_fault(uri, error, item.path) from None
            if not chunk:
                return
            at += len(chunk)
            yield chunk

    async def close(self) -> None:
        """Nothing is kept open."""

    def _list(self, uri: StorageUri, count: ListingCount) -> Listing:
        roots = self._roots(uri)
        return FolderListing(uri, roots, count).run(self._path(roots, uri))

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

    def _open(self, roots: Sequence[Path], uri: StorageUri, item: SourceObject) -> _OpenFile:
        try:
            # Without O_NONBLOCK, opening a pipe without a writer waits without end.
            fd = os.open(item.key, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno in _MISSING:
                raise _changed(uri, item) from None
            raise local_fault(uri, error, item.path) from None
        handle = _OpenFile(fd, self._threads)
        try:
            opened = Path(os.readlink(f"/proc/self/fd/{fd}"))
            if not any(opened.is_relative_to(root.resolve()) for root in roots):
                raise outside(uri, item.path)
            if etag_of(os.fstat(fd)) != item.etag:
                raise _changed(uri, item)
        except OSError as error:
            raise local_fault(uri, error, item.path) from None
        return handle


class _OpenFile:
    """A file that is closed, in a thread, after its last user has released it.

    An abandoned read continues in its thread for a moment. If the file were closed meanwhile, the
    next opened file could get its descriptor.
    """

    def __init__(self, fd: int, threads: OutsideThreads) -> None:
        self._fd = fd
        self._threads = threads

    def __del__(self) -> None:
        self._threads.leave(partial(os.close, self._fd))

    def read(self, size: int, at: int) -> bytes:
        return os.pread(self._fd, size, at)


def _place(uri: StorageUri) -> str:
    """Name what hangs together: a claim, or all folders of `--file-root`."""
    return f"pvc {uri.authority}" if uri.scheme == "pvc" else "file"


def _changed(uri: StorageUri, item: SourceObject) -> SourceFault:
    return SourceFault(
        Reason.SOURCE_CHANGED, f"{uri}: {item.path!a:.200} has changed since it was listed"
    )
