"""Detects the kind of an archive, by its content only.

Names and headers are not reliable: a store serves a `.tar.gz` as an octet stream, the model file of
a library is a zip under another name, and a `.pkl.gz` is no archive. So a gz or zst must have a tar
inside, and a zip or tar that is one model file of a library is left as it is (`formats`).

A file that begins like an archive and is damaged further on counts as an archive: `unpack` reports
the damage.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.archives.common import (
    MAX_ENTRIES,
    ArchiveKind,
    Budget,
    UnpackLimits,
)
from trainedmodel_puller.storage.archives.formats import tar_is_model_file, zip_is_model_file
from trainedmodel_puller.storage.archives.sparse import BLOCK_BYTES
from trainedmodel_puller.storage.archives.streams import (
    Decompressed,
    RawFile,
    Source,
    starts_compressed,
)
from trainedmodel_puller.storage.archives.tar import is_header, read_tar
from trainedmodel_puller.storage.archives.zip import EMPTY_MAGIC, LOCAL_MAGIC, read_directory
from trainedmodel_puller.volume.durable import volume_fault

#: Names of a tar that are looked at, and what may be unpacked to get at them.
_LOOK_NAMES: Final = 256
_ANY_WINDOW_LOG: Final = 31
_LOOK: Final = UnpackLimits(max_bytes=4 * 1024 * 1024, max_entries=_LOOK_NAMES)


def recognise(path: Path) -> ArchiveKind | None:
    """Return what kind of archive a file is, None if it stays a file; blocks.

    Raises:
        VolumeFault: the file cannot be read.
    """
    budget = Budget(_LOOK)
    try:
        with RawFile(path, budget) as raw:
            head = raw.read_at(0, BLOCK_BYTES)
            if head.startswith((LOCAL_MAGIC, EMPTY_MAGIC)):
                return None if zip_is_model_file(_zip_names(path)) else ArchiveKind.ZIP
            if is_header(head):
                return None if tar_is_model_file(_tar_names(raw, budget)) else ArchiveKind.TAR
            kind = starts_compressed(head)
        return kind if kind is not None and _holds_tar(path, kind) else None
    except OSError as error:
        raise volume_fault(error) from error


def declared_bytes(path: Path, kind: ArchiveKind, *, max_entries: int = MAX_ENTRIES) -> int | None:
    """Return the bytes that an archive says it unpacks to, None if it does not say; blocks.

    It is good for asking for room, and for nothing else: it may lie. A tar's own size stands for
    what is in it.

    Raises:
        SourceFault: a zip's directory is broken, or has more entries than allowed.
        VolumeFault: the file cannot be read.
    """
    try:
        if kind is ArchiveKind.ZIP:
            return sum(item.size for item in read_directory(path, max_entries))
        return path.stat().st_size if kind is ArchiveKind.TAR else None
    except OSError as error:
        raise volume_fault(error) from error


def _holds_tar(path: Path, kind: ArchiveKind) -> bool:
    budget = Budget(_LOOK)
    with RawFile(path, budget) as raw:
        content = _content(raw, kind, budget)
        try:
            head = b""
            while len(head) < BLOCK_BYTES and (piece := content.read(BLOCK_BYTES - len(head))):
                head += piece
        except SourceFault:
            return False
        if not is_header(head):
            return False
    with RawFile(path, budget) as raw:
        return not tar_is_model_file(_tar_names(_content(raw, kind, budget), budget))


def _content(raw: Source, kind: ArchiveKind, budget: Budget) -> Decompressed:
    # Any window: only the part that the first megabytes touch is real memory. An archive that needs
    # a larger window than allowed must get that error, and must not count as a plain file.
    return Decompressed(raw, kind, budget, window_log=_ANY_WINDOW_LOG)


def _tar_names(source: Source, budget: Budget) -> Iterator[str]:
    try:
        for entry in islice(read_tar(source, budget), _LOOK_NAMES):
            yield entry.name
    except SourceFault:
        return


def _zip_names(path: Path) -> Iterator[str]:
    try:
        for item in read_directory(path, MAX_ENTRIES):
            yield item.name
    except SourceFault:
        return
