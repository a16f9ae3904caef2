"""Fetches one model from its source to a sealed version on the volume.

    list -> unchanged? -> room? -> staging: linked from a twin, or fetched -> size, checksum, digest
      -> unpacked if it is an archive -> marked as verified -> fitted to its server -> sealed

Nothing is fetched twice. An interrupted download resumes. Files that another model has from the
same source are linked (a *twin*: equal URI, credentials and fingerprint). Files of KServe's agent
in the served folder are adopted if they are proven equal to the source. A layout that the server
cannot load is refused by the listing's names, before the first byte. A refusal that depends on the
content is remembered until the source or the entry changes (`refusals`).

Each step may be killed, refused or cancelled; the next try continues from the files on the disk
(see `volume`). Faults are raised, and the executor counts them.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog
from trainedmodel_contract.entry import Entry
from trainedmodel_contract.quantity import format_bytes
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import parse_uri

from trainedmodel_puller.core.draft import NOTHING
from trainedmodel_puller.core.room import available_bytes, bytes_beside
from trainedmodel_puller.core.shape import Shape
from trainedmodel_puller.core.state import DiskModel, Download, Limits, Stage, Tree
from trainedmodel_puller.drivers.base import ModelServer
from trainedmodel_puller.errors import ModelFault, ServerFault, SourceFault, VolumeFault
from trainedmodel_puller.fetch.job import FetchJob
from trainedmodel_puller.fetch.progress import Progress
from trainedmodel_puller.fetch.refusals import Refusals, question_of
from trainedmodel_puller.fetch.reuse import Reuse
from trainedmodel_puller.live_state import LiveState
from trainedmodel_puller.storage.archives import (
    ArchiveKind,
    ArchiveTooLarge,
    UnpackLimits,
    declared_bytes,
    recognise,
    unpack,
)
from trainedmodel_puller.storage.base import Listing, fingerprint_of
from trainedmodel_puller.storage.checksum import verify_checksums
from trainedmodel_puller.storage.digest import verify
from trainedmodel_puller.storage.download import Chunks, Downloader, is_small
from trainedmodel_puller.storage.files import write_tree
from trainedmodel_puller.volume.async_volume import AsyncVolume
from trainedmodel_puller.volume.durable import sync_path, translate_os_errors
from trainedmodel_puller.volume.staging import Begun
from trainedmodel_puller.volume.tree_links import FileStats, note_changes, stat_files

log: Final = structlog.get_logger()

#: Of trees with more files than this only the source is compared, not each file.
_LISTED_FILES: Final = 1000


@dataclass(frozen=True, slots=True)
class Fetched:
    """The result of a fetch.

    Attributes:
        size: Bytes of the source.
        how: `unchanged`, `resumed`, `linked`, `adopted` or `downloaded`, for the log.
    """

    size: int
    how: str


class Fetcher:
    """Fetches models, each within the task of its caller."""

    def __init__(
        self,
        state: LiveState,
        disk: AsyncVolume,
        downloader: Downloader,
        server: ModelServer,
        limits: Limits,
    ) -> None:
        self._reuse = Reuse(state, disk, downloader)
        self._refusals = Refusals(disk.volume)
        self._state = state
        self._disk = disk
        self._volume = disk.volume
        self._downloader = downloader
        self._server = server
        self._limits = limits
        self._progress = Progress(state, limits)

    async def fetch(self, action: Download) -> Fetched:
        """Fetch a revision and seal it.

        Raises:
            ModelFault: of the source, of the volume, or InvalidLayout for this server.
        """
        name, entry = action.name, action.entry
        try:
            uri = parse_uri(entry.storage_uri)
        except ValueError as error:
            raise SourceFault(Reason.INVALID_URI, str(error)) from error
        key = (name, entry.revision)
        self._state.sources.pop(key, None)
        listing = await self._downloader.list(uri, credentials=entry.credentials)
        fingerprint = await fingerprint_of(listing)
        self._state.sources[key] = fingerprint
        question = question_of(fingerprint, self._server.kind, entry)
        if self._state.disk.get(name, NOTHING).is_staged:
            await self._disk.run_unseen(name, self._refusals.check, name, entry.revision, question)
        begun = await self._begin(name, entry.revision, fingerprint)
        if begun.is_sealed:
            return Fetched(listing.total_bytes, "unchanged")
        await self._check_layout(listing, entry)
        beside = bytes_beside([item.size for item in listing.objects], self._limits)
        self._progress.admit(name, max(listing.total_bytes - begun.staged_bytes, 0) + beside)
        self._progress.begin(name, entry.revision, listing.total_bytes, beside)
        job = FetchJob(action, uri, listing, fingerprint, begun.folder)
        try:
            await self._bring(job, begun)
        except ServerFault as fault:  # of the driver, about what was fetched
            keep = partial(self._refusals.keep, name, entry.revision, question, fault.message)
            await self._disk.run(name, keep)
            raise
        return Fetched(listing.total_bytes, job.how)

    async def _check_layout(self, listing: Listing, entry: Entry) -> None:
        """Refuse an unsuitable layout by names; a single file is not checked before its fetch."""
        if listing.is_single:
            return

        def look() -> str | None:
            files = (item.path for item in listing.objects)
            shape = Shape((*files, *(f"{folder}/" for folder in listing.folders)))
            return self._server.check_layout(shape, entry)

        is_long = len(listing.objects) > _LISTED_FILES
        why = await asyncio.to_thread(look) if is_long else look()
        if why is not None:
            raise ServerFault(Reason.INVALID_LAYOUT, why)

    async def _bring(self, job: FetchJob, begun: Begun) -> None:
        """Fill, unpack, fit and seal, continuing an earlier try."""
        if begun.is_whole:
            # it may have been fitted before a kill, so its changes are unknown
            job.how, job.may_share = "resumed", False
        elif begun.staged_bytes == 0 and self._is_small(job):
            if await self._fetch_small(job):
                return
            await self._unpack(job)
        else:
            await self._fill_or_give_back(job)
        await self._disk.run(job.name, self._finish, job)

    async def _begin(self, name: str, revision: str, fingerprint: str) -> Begun:
        disk, free = self._state.disk.get(name, NOTHING), self._state.free_bytes
        if free is not None and not disk.trees and not disk.is_staged:
            return Begun(self._volume.staged(name, revision), free_bytes=free)  # nothing is there
        began = time.monotonic()
        begun = await self._disk.run_unseen(name, self._volume.begin, name, revision, fingerprint)
        self._state.note_free(begun.free_bytes, began)
        return begun

    # -- small models: read into memory, then written in a batch ------------------------

    def _is_small(self, job: FetchJob) -> bool:
        """Return whether a model is read into memory and written in one batch with others."""
        return (
            is_small(job.listing)
            and len(self._state.desired.names_of.get(job.source, ())) <= 1
            and not self._state.disk.get(job.name, NOTHING).is_adoptable
            and job.entry.digest is None
            and not any(item.checksum is not None for item in job.listing.objects)
        )

    async def _fetch_small(self, job: FetchJob) -> bool:
        """Fetch, fit and commit; False if it is an archive, which then is staged."""
        meter = self._progress.meter(job, is_in_memory=True)
        content = await self._downloader.read(
            job.uri, job.listing, meter, credentials=job.entry.credentials
        )
        name, revision = job.name, job.entry.revision
        is_new = name not in self._state.disk
        is_published = await self._disk.run_batched(
            name,
            partial(self._write_small, job, content),
            partial(self._volume.commit, name, revision),
        )
        if is_new and is_published:
            trees, published = {revision: Tree(job.size, time.time())}, frozenset({revision})
            self._state.set_disk(name, DiskModel(job.action.id, trees, published))
        else:
            await self._disk.look(name)
        return is_published is not None

    def _write_small(self, job: FetchJob, content: Mapping[str, Chunks]) -> Path | None:
        """Write and fit a tree, and return it; None if it is an archive, which then is staged."""
        name, revision = job.name, job.entry.revision
        tree = self._volume.begin_small(name, revision)
        before = write_tree(tree, content, job.listing.folders)
        if job.listing.is_single and recognise(tree / job.listing.objects[0].path) is not None:
            self._volume.keep_as_download(name, revision)
            return None
        after = self._fit(job, tree, before)
        job.size = _size(after)
        self._volume.draft(tree, revision, self._identity(job, before, after))
        return tree

    # -- filling the staging folder -----------------------------------------------------

    async def _fill_or_give_back(self, job: FetchJob) -> None:
        """Fill the staging folder; on a full volume, delete files that cannot be resumed."""
        try:
            await self._fill(job)
        except VolumeFault as fault:
            is_resumable = all(item.size >= 0 for item in job.listing.objects)
            if fault.reason is Reason.INSUFFICIENT_DISK and not is_resumable:
                await self._disk.run(job.name, self._volume.remove_staging, job.name)
            raise

    async def _fill(self, job: FetchJob) -> None:
        if await self._reuse.link_unpacked(job):
            return
        await self._reuse.seed(job)
        fetch = self._downloader.fetch(
            job.uri,
            job.listing,
            job.folder,
            self._progress.meter(job),
            durable=job.is_large,
            credentials=job.entry.credentials,
        )
        await self._progress.while_there_is_room(job, fetch)
        transfer = self._state.transfers[job.name]
        self._state.transfers[job.name] = replace(transfer, stage=Stage.VERIFY)
        if any(item.checksum is not None for item in job.listing.objects):
            await verify_checksums(job.folder, job.listing)
        if job.entry.digest is not None:
            await verify(job.folder, job.listing, job.entry.digest)
        await self._unpack(job)

    # -- archives -----------------------------------------------------------------------

    async def _unpack(self, job: FetchJob) -> None:
        if not job.listing.is_single:
            return
        name, revision = job.name, job.entry.revision
        archive = job.folder / job.listing.objects[0].path
        kind = await asyncio.to_thread(recognise, archive)
        if kind is None:
            return
        declared = await asyncio.to_thread(declared_bytes, archive, kind)
        began = time.monotonic()
        self._state.note_free(await self._disk.ask(self._volume.free_bytes), began)
        self._progress.admit(name, declared or 0)
        self._progress.begin(name, revision, declared or 0, stage=Stage.VERIFY)
        target = await self._disk.run(name, self._volume.begin_unpacking, name, revision)
        await self._extract(job, archive, kind, target)
        await self._disk.run(name, self._volume.end_unpacking, name, revision)
        job.is_unpacked = True

    async def _extract(self, job: FetchJob, archive: Path, kind: ArchiveKind, target: Path) -> None:
        room = available_bytes(self._state.observed(), self._limits, but=job.name)
        most = self._limits.max_unpacked_bytes
        is_room_the_limit = room is not None and room < most
        limits = UnpackLimits(max_bytes=min(most, room) if room is not None else most)

        advance, spend = self._progress.unpacking_meter(job)
        try:
            tree = await unpack(archive, kind, target, limits, advance, spend=spend)
        except ModelFault as fault:
            # a half-unpacked archive is never resumed, and would keep a full volume full
            await asyncio.to_thread(shutil.rmtree, target, ignore_errors=True)
            if not isinstance(fault, ArchiveTooLarge):
                raise
            if is_room_the_limit:
                raise VolumeFault(
                    Reason.INSUFFICIENT_DISK,
                    f"the archive unpacks to more than the free {format_bytes(max(room or 0, 0))}",
                ) from fault
            raise
        log.info(
            "archive_unpacked", model=job.name, kind=str(kind), files=tree.files, bytes=tree.bytes
        )

    # -- the end ------------------------------------------------------------------------

    def _finish(self, job: FetchJob) -> None:
        revision, fingerprint = job.entry.revision, job.fingerprint
        tree = self._volume.begin_fitting(job.name, revision, fingerprint, is_large=job.is_large)
        before = stat_files(tree)
        after = self._fit(job, tree, before)
        is_synced = job.is_large and not job.is_unpacked
        if is_synced:
            for path, told in after.items():
                if before.get(path) != told:
                    sync_path(tree / path)
        identity = self._identity(job, before, after)
        self._volume.seal(job.name, revision, identity, is_synced=is_synced)

    def _fit(self, job: FetchJob, tree: Path, before: FileStats) -> FileStats:
        with translate_os_errors():  # users' files are the driver's to judge: this is the volume
            is_changed = self._server.prepare(tree, job.entry)
        return stat_files(tree) if is_changed else before

    def _identity(self, job: FetchJob, before: FileStats, after: FileStats) -> dict[str, Any]:
        """Return the identity of a tree: its model, its source, and the changes by fitting."""
        changes = note_changes(before, after) if job.may_share else None
        return {
            "id": job.action.id,
            "name": job.name,
            "storageUri": str(job.uri),
            "fingerprint": job.fingerprint,
            "bytes": _size(after),
            "entry": _without_query(job.entry.model_dump(by_alias=True, exclude_none=True), job),
            "isUnpacked": job.is_unpacked,
            "files": _sizes(after) if len(after) <= _LISTED_FILES else None,
            **(changes.to_dict() if changes is not None else {}),
        }


def _without_query(entry: dict[str, Any], job: FetchJob) -> dict[str, Any]:
    """Return an entry as others may read it: the query of a URI may be a signature."""
    return {**entry, "storageUri": str(job.uri)}


def _sizes(files: FileStats) -> dict[str, int]:
    return {path: size for path, (_, _, size) in files.items()}


def _size(files: FileStats) -> int:
    return sum(size for _, _, size in files.values())
