"""Types that readers, rules and the writer of archives share: kinds, limits, entries, faults.

The sizes that an archive declares are not trusted: `Budget` counts the real entries and bytes,
before they are written.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

from trainedmodel_contract.reasons import Reason
from typing_extensions import Buffer

from trainedmodel_puller.errors import SourceFault

MAX_ENTRIES: Final = 100_000
#: What a file takes on a volume beside its bytes: the rest of its last block, its entry.
_BESIDE_FILE_BYTES: Final = 4096
#: Most bytes that are read or unpacked at once.
CHUNK_BYTES: Final = 1024 * 1024
#: What may be there beside the data: for each entry padding, records of long names and attributes;
#: and zeros up to a whole block of tape.
_ENTRY_OVERHEAD_BYTES: Final = 4096
_END_OVERHEAD_BYTES: Final = 1024 * 1024
_REPORT_PERIOD_S: Final = 0.1


class ArchiveKind(StrEnum):
    """Archives that are unpacked."""

    TAR = "tar"
    TAR_GZ = "tar.gz"
    TAR_ZST = "tar.zst"
    ZIP = "zip"


@dataclass(frozen=True, slots=True)
class UnpackLimits:
    """Limits on unpacking one archive.

    Attributes:
        max_bytes: Limit of the unpacked bytes, holes of sparse files included.
        max_entries: Limit of its entries, and of the files, folders and links made from it.
    """

    max_bytes: int
    max_entries: int = MAX_ENTRIES


@dataclass(frozen=True, slots=True)
class UnpackedTree:
    """The result of an unpacking.

    Attributes:
        files: Files and links.
        bytes: Total size of the files, each once however many hard links it has.
    """

    files: int
    bytes: int


class EntryKind(Enum):
    """What an entry becomes."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    HARD_LINK = "hard link"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of an archive, named as the archive names it.

    Attributes:
        chunks: A file's data, each piece with its offset; valid until the next entry is read.
        target: The target of a link; for a hard link the name of an earlier entry.
    """

    name: str
    kind: EntryKind
    size: int = 0
    is_executable: bool = False
    target: str = ""
    chunks: Iterable[tuple[int, Buffer]] = ()


class Stopped(BaseException):
    """Ends the thread of an unpacking that was cancelled."""


def entry_fault(name: str, what: str) -> SourceFault:
    """Return the fault of one entry; `what` ends the sentence and names the fix."""
    return SourceFault(Reason.UNSAFE_ARCHIVE, f"the archive's entry {name!a:.200} {what}")


class ArchiveTooLarge(SourceFault):
    """An archive unpacks to more bytes than it may."""


def archive_fault(what: str) -> SourceFault:
    """Return the fault of the whole archive; `what` ends the sentence."""
    return SourceFault(Reason.UNSAFE_ARCHIVE, f"the archive {what}")


class Budget:
    """Counts one unpacking against its limits, reports its progress, and ends it on request.

    Args:
        limits: Limits that refuse the archive if exceeded.
        stop: Ends the unpacking when set.
        report: Called from time to time with the number of bytes written.
        spend: Called before each piece is written, with its size; it raises a fault if there is no
            space.
    """

    def __init__(
        self,
        limits: UnpackLimits,
        stop: threading.Event | None = None,
        report: Callable[[int], None] | None = None,
        spend: Callable[[int], None] | None = None,
    ) -> None:
        self.written = 0
        self._limits = limits
        self._stop = stop or threading.Event()
        self._report = report
        self._spend = spend or _is_free
        self._passed_over = 0
        self._entries = 0
        self._made = 0
        self._unreported = 0
        self._reported_at = time.monotonic()

    @property
    def max_entries(self) -> int:
        """The limit that readers check what an archive declares against."""
        return self._limits.max_entries

    def checkpoint(self) -> None:
        """End the thread here if the unpacking was cancelled."""
        if self._stop.is_set():
            raise Stopped

    def count_entry(self) -> None:
        """Count an entry of the archive, whatever becomes of it."""
        self.checkpoint()
        self._entries += 1
        self._check_count(self._entries)

    def count_made(self) -> None:
        """Count a file, folder or link about to be made."""
        self.checkpoint()
        self._made += 1
        self._check_count(self._made)
        self._spend(_BESIDE_FILE_BYTES)

    def count_written(self, size: int) -> None:
        """Count bytes about to be written."""
        self.checkpoint()
        self.written += size
        if self.written > self._limits.max_bytes:
            raise self._too_large()
        self._spend(size)
        self._unreported += size
        if time.monotonic() - self._reported_at > _REPORT_PERIOD_S:
            self.report()

    def count_passed_over(self, size: int) -> None:
        """Count bytes that had to be unpacked only to reach what follows them."""
        self.checkpoint()
        self._passed_over += size
        overhead = _END_OVERHEAD_BYTES + _ENTRY_OVERHEAD_BYTES * self._limits.max_entries
        if self._passed_over > self._limits.max_bytes + overhead:
            raise self._too_large()

    def report(self) -> None:
        """Tell what was written since the last time."""
        if self._report is not None and self._unreported:
            self._report(self._unreported)
        self._unreported = 0
        self._reported_at = time.monotonic()

    def _check_count(self, count: int) -> None:
        if count > self._limits.max_entries:
            raise too_many_entries(self._limits.max_entries)

    def _too_large(self) -> ArchiveTooLarge:
        return ArchiveTooLarge(
            Reason.UNSAFE_ARCHIVE,
            f"the archive unpacks to more than {self._limits.max_bytes} bytes; leave out what the"
            " model does not need, or raise --max-unpacked if it is meant to be that large",
        )


def _is_free(_: int) -> None:
    """Take space on a volume without a limit."""


def too_many_entries(limit: int) -> SourceFault:
    """Return the fault of an archive with more entries than are allowed."""
    return archive_fault(
        f"has more than {limit} entries, the limit; leave out what the model does not need"
    )
