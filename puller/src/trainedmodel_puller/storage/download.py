"""Listing and fetching models: the interface of this package for the rest of the puller.

A fetch prepares a folder (`transfer.resume`), transfers the missing files (`transfer.transfer`),
and forces them to the disk. The process has one Downloader: all models share its connections and
writing threads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import StorageUri
from typing_extensions import Buffer

from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.base import Listing, SourceObject, Storage
from trainedmodel_puller.storage.files import (
    FilePool,
    first_fault,
)
from trainedmodel_puller.storage.registry import StorageRegistry
from trainedmodel_puller.storage.transfer.fair_limiter import FairLimiter
from trainedmodel_puller.storage.transfer.hardlinks import seed
from trainedmodel_puller.storage.transfer.journal import Journal
from trainedmodel_puller.storage.transfer.receive import receive
from trainedmodel_puller.storage.transfer.resume import prepare, sync_folders
from trainedmodel_puller.storage.transfer.transfer import DownloadLimits, Transfer
from trainedmodel_puller.storage.uri_parts import explained

__all__ = ["DownloadLimits", "Downloader", "is_small"]

#: An object's bytes, as they came.
Chunks = list[Buffer]

#: Limits of a model that is read into memory.
_SMALL_BYTES: Final = 1024 * 1024
_SMALL_OBJECTS: Final = 32
#: Time limit of a whole listing, as a multiple of the time that a store may be silent.
_LISTING_STALLS: Final = 10


def is_small(listing: Listing) -> bool:
    """Return whether a model is so small that an interrupted fetch need not resume."""
    sizes = [item.size for item in listing.objects]
    return len(sizes) <= _SMALL_OBJECTS and min(sizes) >= 0 and sum(sizes) <= _SMALL_BYTES


class Downloader:
    """Lists and fetches models; one for the process, an async context manager."""

    def __init__(self, registry: StorageRegistry, limits: DownloadLimits | None = None) -> None:
        self._registry = registry
        self._limits = limits or DownloadLimits()
        self._connections = FairLimiter(self._limits.max_connections)
        self._files = FilePool(self._limits.file_threads)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def list(self, uri: StorageUri, *, credentials: str | None = None) -> Listing:
        """List a model's objects.

        Each back end limits its waits; all of them together are limited here, for a store that
        sends a little in time, again and again.

        Raises:
            SourceFault: not found, denied, unreachable, too large, or names that cannot be files.
        """
        limit_s = _LISTING_STALLS * self._limits.stall_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await self._registry.for_uri(uri, credentials).list(uri)
        except SourceFault as fault:
            raise explained(fault, uri) from None
        except TimeoutError:
            raise SourceFault(
                Reason.SOURCE_UNREACHABLE,
                f"{uri}: the store did not finish its listing within {limit_s:g} s",
            ) from None

    async def fetch(
        self,
        uri: StorageUri,
        listing: Listing,
        folder: Path,
        progress: Callable[[int], None],
        *,
        durable: bool = True,
        credentials: str | None = None,
    ) -> None:
        """Make `folder` hold exactly the listed objects.

        What an earlier fetch left is used again as far as its journal vouches for it. After a
        fault or a cancellation nothing goes on, and the folder is resumable. The journal stays
        beside the folder: remove it (`journal_path`) when the folder moves on.

        Args:
            uri: Where the listing came from.
            listing: As `list` gave it.
            folder: Made if missing; everything else in it is removed.
            progress: Called in the event loop with the bytes that have come into place since the
                last call; the first call counts what was there already.
            durable: Whether data and names are forced to the disk before this returns.
            credentials: Name of a credential profile.

        Raises:
            ModelFault: of the source, which failed or broke its promise, or of the volume.
        """
        storage = self._registry.for_uri(uri, credentials)
        journal = await self._files.run(prepare, folder, listing, self._limits.part_bytes)
        transfer = Transfer(
            storage=storage,
            uri=uri,
            folder=folder,
            journal=journal,
            progress=progress,
            durable=durable,
            limits=self._limits,
            connections=self._connections,
            files=self._files,
        )
        await _run(transfer, journal)
        await self._check_unchanged(storage, uri, listing)
        if durable:
            await self._files.run(sync_folders, folder, listing)

    async def read(
        self,
        uri: StorageUri,
        listing: Listing,
        progress: Callable[[int], None],
        *,
        credentials: str | None = None,
    ) -> dict[str, Chunks]:
        """Read all objects of a small listing into memory, by path.

        With thousands of small models, what a resumable fetch writes down costs more than the
        fetch. `is_small` tells which listings are small enough.

        Raises:
            SourceFault: the source failed or broke its promise.
        """
        storage = self._registry.for_uri(uri, credentials)
        found: dict[str, Chunks] = {}
        key = object()

        async def read_one(item: SourceObject) -> None:
            chunks = found[item.path] = []

            async def gather(chunk: Buffer, size: int) -> None:
                chunks.append(chunk)
                progress(size)

            async with self._connections.slot(key) as slot:
                stall_timeout_s = self._limits.stall_timeout_s
                await receive(storage, uri, item, 0, item.size, gather, stall_timeout_s, slot)

        if len(listing.objects) == 1:
            await read_one(listing.objects[0])
        else:
            await self._read_all(read_one, listing)
        await self._check_unchanged(storage, uri, listing)
        return found

    async def _read_all(
        self, read_one: Callable[[SourceObject], Coroutine[None, None, None]], listing: Listing
    ) -> None:
        with _one_fault():
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(read_one(item)) for item in listing.objects]
                await asyncio.wait(tasks)

    async def seed(
        self, folder: Path, listing: Listing, source: Path, changed: Collection[str] = ()
    ) -> int:
        """Take another model's files over before a fetch; see `hardlinks.seed`.

        Returns:
            How many bytes the fetch of this listing into this folder will find there.

        Raises:
            VolumeFault: the folder cannot be made ready.
        """
        return await self._files.run(
            seed, folder, listing, self._limits.part_bytes, source, changed
        )

    @staticmethod
    async def _check_unchanged(storage: Storage, uri: StorageUri, listing: Listing) -> None:
        if storage.is_conditional:
            return  # the reads notice a change themselves
        # What was read bears the etag that was listed before: if that still holds, so it did then.
        now = {item.path: item for item in (await storage.list(uri)).objects}
        for item in listing.objects:
            found = now.get(item.path)
            if found is None or (found.size, found.identity) != (item.size, item.identity):
                raise SourceFault(
                    Reason.SOURCE_CHANGED,
                    f"{uri}: {item.path!a:.200} has changed since it was listed",
                )

    async def close(self) -> None:
        """End the writing threads. The registry is its owner's to close."""
        self._files.close()


async def _run(transfer: Transfer, journal: Journal) -> None:
    """Run a transfer. If its source fails, the fault has the number of gained bytes.

    Raises:
        ModelFault: of the source or of the volume.
    """
    before = journal.lasting_bytes()
    try:
        with _one_fault():
            await transfer.run()
    except SourceFault as fault:
        fault.gained = journal.lasting_bytes() - before
        raise


@contextlib.contextmanager
def _one_fault() -> Iterator[None]:
    """Turn the end of a task group into the one fault, or the cancellation, that ended it."""
    try:
        yield
    except BaseExceptionGroup as group:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError from None
        raise first_fault(group) from None
