"""Unpacking an archive into a fresh folder: a thread of its own, cancellable, in bounded memory.

Every archive has its own thread: a large one neither waits for another nor delays it (P12), and the
event loop only receives progress (P8). A cancellation ends the thread at its next piece or entry,
and waits for that, so that nothing writes to the folder afterwards.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from trainedmodel_puller.storage.archives.common import (
    ArchiveKind,
    Budget,
    Entry,
    EntryKind,
    UnpackedTree,
    UnpackLimits,
)
from trainedmodel_puller.storage.archives.rules import entry_path
from trainedmodel_puller.storage.archives.streams import Decompressed, RawFile
from trainedmodel_puller.storage.archives.tar import read_tar
from trainedmodel_puller.storage.archives.tree import TreeWriter
from trainedmodel_puller.storage.archives.zip import read_zip
from trainedmodel_puller.storage.files import settled
from trainedmodel_puller.volume.durable import volume_fault


async def unpack(
    archive: Path,
    kind: ArchiveKind,
    folder: Path,
    limits: UnpackLimits,
    progress: Callable[[int], None],
    *,
    spend: Callable[[int], None] | None = None,
    durable: bool = True,
) -> UnpackedTree:
    """Unpack an archive into a fresh folder, which is made if it is missing.

    Args:
        archive: The archive; it must not lie in the folder.
        kind: What `recognise` said.
        folder: Empty or missing; its parent is there. After a failure its content is undefined.
        limits: What is refused when exceeded, counted while unpacking.
        progress: Called in the event loop with the bytes written since the last call.
        spend: Called in the unpacking thread before each piece is written, with the room that it
            takes on the volume; raises a fault if there is none.
        durable: Force all data and names to the disk before returning.

    Raises:
        SourceFault: UnsafeArchive, with the entry and the fix: broken, hostile or too large.
        VolumeFault: the volume is full, or refused.
    """
    loop = asyncio.get_running_loop()
    stop = threading.Event()

    def report(count: int) -> None:
        loop.call_soon_threadsafe(progress, count)

    budget = Budget(limits, stop, report, spend)
    thread = ThreadPoolExecutor(1, thread_name_prefix="unpack")
    job = loop.run_in_executor(thread, _unpack, archive, kind, folder, budget, durable)
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        stop.set()
        await settled(job)
        raise
    finally:
        thread.shutdown(wait=False)


def _unpack(
    archive: Path, kind: ArchiveKind, folder: Path, budget: Budget, durable: bool
) -> UnpackedTree:
    try:
        with ExitStack() as open_files:
            entries = _entries(archive, kind, budget, open_files)
            tree = open_files.enter_context(TreeWriter(folder, budget, durable=durable))
            for entry in entries:
                budget.count_entry()
                _add(tree, entry)
            found = tree.finish()
        budget.report()
        return found
    except OSError as error:
        raise volume_fault(error) from error


def _entries(
    archive: Path, kind: ArchiveKind, budget: Budget, open_files: ExitStack
) -> Iterator[Entry]:
    if kind is ArchiveKind.ZIP:
        return read_zip(archive, budget)
    raw = open_files.enter_context(RawFile(archive, budget))
    if kind is ArchiveKind.TAR:
        return read_tar(raw, budget)
    return read_tar(Decompressed(raw, kind, budget), budget)


def _add(tree: TreeWriter, entry: Entry) -> None:
    path = entry_path(entry.name)
    if path is None:
        return
    match entry.kind:
        case EntryKind.FOLDER:
            tree.add_folder(path)
        case EntryKind.FILE:
            tree.add_file(path, entry)
        case EntryKind.HARD_LINK:
            tree.add_hard_link(path, entry)
        case EntryKind.LINK:
            tree.add_link(path, entry.target)
