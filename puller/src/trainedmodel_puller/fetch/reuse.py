"""Reuses files that another model, or KServe's agent, has already fetched from the same source.

A twin's source has the same URI, credentials and fingerprint, so its files have the same bytes.
They are linked, and only files that were changed for the twin's server are fetched. Files of
KServe's agent in the served folder have no such proof: they are adopted only if each file is proven
equal to the source.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from trainedmodel_puller.core.draft import NOTHING, is_on_disk
from trainedmodel_puller.fetch.job import FetchJob
from trainedmodel_puller.live_state import LiveState
from trainedmodel_puller.storage.base import Listing
from trainedmodel_puller.storage.checksum import matches_listing
from trainedmodel_puller.storage.download import Downloader
from trainedmodel_puller.volume.async_volume import AsyncVolume
from trainedmodel_puller.volume.durable import FILE_MODE
from trainedmodel_puller.volume.identity import KSERVE_MARKER
from trainedmodel_puller.volume.tree_links import Changes, link_tree


class Reuse:
    """Finds such files, and links or adopts those that equal the source."""

    def __init__(self, state: LiveState, disk: AsyncVolume, downloader: Downloader) -> None:
        self._state = state
        self._disk = disk
        self._volume = disk.volume
        self._downloader = downloader

    async def _find(self, job: FetchJob) -> list[tuple[Path, dict[str, Any]]]:
        """Return the trees of other names that were made of the same source."""
        for name in self._state.desired.names_of.get(job.source, ()):
            wanted = self._state.desired.models.get(name)
            disk = self._state.disk.get(name, NOTHING)
            if name == job.name or wanted is None or not is_on_disk(wanted, disk):
                continue
            revision = wanted.entry.revision
            tree = await self._disk.ask(self._volume.tree, name, revision)
            identity = await self._disk.ask(self._volume.identity, name, revision)
            if tree is not None and identity.get("fingerprint") == job.fingerprint:
                return [(tree, identity)]
        return []

    async def link_unpacked(self, job: FetchJob) -> bool:
        """Link what a twin unpacked, if its server was not given anything but the archive's own."""
        for tree, identity in await self._find(job):
            changes = Changes.of(identity)
            if not identity.get("isUnpacked") or changes is None or changes.lost:
                continue
            linked = await self._disk.ask(link_tree, tree, job.folder, changes.added)
            if linked:
                job.how, job.is_unpacked = "linked", True
                return True
        return False

    async def seed(self, job: FetchJob) -> None:
        """Link the available files into the folder that a fetch will then fill."""
        for tree, identity in await self._find(job):
            changes = Changes.of(identity)
            if identity.get("isUnpacked") or changes is None:
                continue
            seeded = await self._downloader.seed(job.folder, job.listing, tree, changes.lost)
            job.how = "linked" if seeded else job.how
            return
        if self._state.disk.get(job.name, NOTHING).is_adoptable:
            await self._seed_from_kserve(job)

    async def _seed_from_kserve(self, job: FetchJob) -> None:
        folder = self._volume.model_dir / job.name
        markers = await self._disk.ask(_kserve_markers, folder)
        if await matches_listing(folder, job.listing, job.entry.digest, ignored=markers):
            await self._disk.ask(_give_modes, folder, job.listing)
            seeded = await self._downloader.seed(job.folder, job.listing, folder, ())
            job.how = "adopted" if seeded else job.how


def _kserve_markers(folder: Path) -> frozenset[str]:
    with os.scandir(folder) as entries:
        return frozenset(entry.name for entry in entries if entry.name.startswith(KSERVE_MARKER))


def _give_modes(folder: Path, listing: Listing) -> None:
    """Give the files of KServe's agent (0666) the puller's mode, because others are not linked."""
    with contextlib.suppress(OSError):  # files of another user: they are fetched
        for item in listing.objects:
            descriptor = os.open(folder / item.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fchmod(descriptor, FILE_MODE)
            finally:
                os.close(descriptor)
