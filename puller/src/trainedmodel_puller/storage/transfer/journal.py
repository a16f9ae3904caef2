"""The journal beside a download's folder: the parts that have arrived, for a run after a kill.

`<folder>.journal` holds, for each file, the identity of the source object (size, etag) and a bit
for each written part. A bit is set after the part's data was passed to the kernel, and the file is
replaced atomically, so a killed process leaves a journal that claims too little, never too much.
After a crash of the node, data that the kernel had accepted may be lost. So the journal has the id
of its boot, and is ignored after another one. That is cheaper than a sync for each flush, and
fetching again after a node crash is acceptable.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from trainedmodel_puller.storage.base import SourceObject

_VERSION: Final = 1
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(slots=True)
class FileRecord:
    """The record of one file.

    Attributes:
        item: The source object that it is made from.
        part_bytes: Size of the parts that the bits stand for.
        bits: Bit k is set if part k is written.
    """

    item: SourceObject
    part_bytes: int
    bits: int = 0

    @property
    def part_count(self) -> int:
        """Number of parts; at least one, so that an empty file can be done too."""
        return max(1, -(-self.item.size // self.part_bytes))

    @property
    def is_done(self) -> bool:
        """Whether all parts are written."""
        return self.bits == (1 << self.part_count) - 1

    def mark(self, part: int) -> None:
        """Note that a part is written."""
        self.bits |= 1 << part

    def mark_all(self) -> None:
        """Note that the file is complete."""
        self.bits = (1 << self.part_count) - 1

    def has(self, part: int) -> bool:
        """Return whether a part is written."""
        return bool(self.bits >> part & 1)

    def done_bytes(self) -> int:
        """Count the bytes of the parts that are written."""
        full = self.bits.bit_count() * self.part_bytes
        last = self.part_count - 1
        short = (self.part_count * self.part_bytes - self.item.size) if self.has(last) else 0
        return full - short

    def is_for(self, item: SourceObject, part_bytes: int) -> bool:
        """Return whether what is there is of this very object; without an identity it never is."""
        mine = self.item
        return (
            item.size >= 0
            and mine.size == item.size
            and item.identity is not None
            and mine.identity == item.identity
            and self.part_bytes == part_bytes
        )


class Journal:
    """The records of one folder. Reading and writing block: call them in a thread."""

    def __init__(self, path: Path, records: dict[str, FileRecord]) -> None:
        self.path = path
        self.records = records

    @classmethod
    def beside(cls, folder: Path) -> Self:
        """Read the journal of a folder; an unusable one is an empty one."""
        path = journal_path(folder)
        return cls(path, _read(path))

    def lasting_bytes(self) -> int:
        """Count what the next fetch of the same source will find; without identity, nothing."""
        records = self.records.values()
        return sum(each.done_bytes() for each in records if each.item.identity is not None)

    def save(self) -> None:
        """Replace the journal's file."""
        files = {
            path: {
                "size": record.item.size,
                "etag": record.item.etag,
                "modified": record.item.last_modified,
                "partBytes": record.part_bytes,
                "parts": f"{record.bits:x}",
            }
            # Bits are set by the event loop meanwhile: a copy of the mapping is safe to walk, and
            # a bit that comes too late for this file is in the next.
            for path, record in dict(self.records).items()
        }
        text = json.dumps({"version": _VERSION, "boot": _boot_id(), "files": files})
        draft = self.path.with_name(self.path.name + ".new")
        draft.write_text(text)
        os.replace(draft, self.path)


def journal_path(folder: Path) -> Path:
    """Name the journal of a folder. Whoever moves or removes the folder removes it too."""
    return folder.with_name(folder.name + ".journal")


def _read(path: Path) -> dict[str, FileRecord]:
    try:
        content = json.loads(path.read_bytes())
        boot = _boot_id()
        if not boot or content["version"] != _VERSION or content["boot"] != boot:
            return {}
        files: Mapping[str, Mapping[str, Any]] = content["files"]
        return {name: _record(name, entry) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _record(name: str, entry: Mapping[str, Any]) -> FileRecord:
    item = SourceObject(name, int(entry["size"]), entry["etag"], entry["modified"])
    return FileRecord(item, int(entry["partBytes"]), int(entry["parts"], 16))


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
