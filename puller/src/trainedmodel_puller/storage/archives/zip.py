"""Reading zips: the directory entry by entry, each file's data in pieces, bounded memory.

The standard library's reader is not used: it reads the whole directory into memory before its size
is known, a gigabyte for a few million empty names. Sizes come from the directory and are checked
against the unpacked bytes; entries that share data (a zip bomb) are detected by their sum.
"""

from __future__ import annotations

import io
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.archives.common import (
    CHUNK_BYTES,
    Budget,
    Entry,
    EntryKind,
    archive_fault,
    entry_fault,
    too_many_entries,
)
from trainedmodel_puller.storage.archives.rules import MAX_TARGET_BYTES
from trainedmodel_puller.storage.archives.streams import (
    INPUT_BYTES,
    OUTPUT_BYTES,
    Inflater,
    RawFile,
    decompress,
)

LOCAL_MAGIC: Final = b"PK\x03\x04"
EMPTY_MAGIC: Final = b"PK\x05\x06"
_END: Final = struct.Struct("<4s4H2LH")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64: Final = struct.Struct("<4sLQL")
_CENTRAL: Final = struct.Struct("<4s2B5H3L5H2L")
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_MAX_COMMENT_BYTES: Final = 65535
_IS_LARGE: Final = 0xFFFFFFFF
_STORED: Final = 0
_DEFLATED: Final = 8
_ENCRYPTED: Final = 0x1 | 0x40 | 0x2000
_UTF8: Final = 0x800
_UNIX_SYSTEMS: Final = frozenset({3, 19})
_DOS_FOLDER: Final = 0x10


@dataclass(frozen=True, slots=True)
class ZipItem:
    """An entry of the directory."""

    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed_size: int
    size: int
    mode: int
    offset: int

    @property
    def is_folder(self) -> bool:
        """Whether it has no content."""
        return self.name.endswith("/") or stat.S_ISDIR(self.mode)


def read_directory(path: Path, max_entries: int) -> Iterator[ZipItem]:
    """Yield what the directory lists, without looking at the files.

    Raises:
        SourceFault: there is no whole directory, or it has more entries than allowed.
    """
    with path.open("rb") as file:
        count, start, size, end = _find_directory(file)
        if count > max_entries:
            raise too_many_entries(max_entries)
        if start + size > end:
            raise _no_directory()
        file.seek(start)
        for _ in range(count):
            item, taken = _read_item(file)
            size -= taken
            if size < 0:
                raise _no_directory()
            yield item
        if size:
            # what is left over would be entries that other tools see
            raise archive_fault("has more entries than it says; pack it again")


def read_zip(path: Path, budget: Budget) -> Iterator[Entry]:
    """Yield the entries in the directory's order.

    Raises:
        SourceFault: the archive is broken, truncated, or holds what cannot be a file.
    """
    with RawFile(path, budget) as raw:
        packed_left = raw.size
        for item in read_directory(path, budget.max_entries):
            packed_left -= item.packed_size
            if packed_left < 0:
                raise entry_fault(
                    item.name, "shares its data with other entries, as zip bombs do; pack it again"
                )
            yield _entry(raw, item)


def _entry(raw: RawFile, item: ZipItem) -> Entry:
    name = item.name
    if "\\" in name:
        raise entry_fault(name, "has a backslash; pack it with a tool that writes slashes: zip -r")
    if item.is_folder:
        return Entry(name, EntryKind.FOLDER)
    file_type = stat.S_IFMT(item.mode)
    if file_type not in {0, stat.S_IFREG, stat.S_IFLNK}:
        raise entry_fault(name, "is a device, a pipe or a socket; pack only files and folders")
    chunks = _chunks(raw, item)
    if file_type == stat.S_IFLNK:
        if item.size > MAX_TARGET_BYTES:
            raise entry_fault(name, f"is a link of more than {MAX_TARGET_BYTES} bytes")
        target = b"".join(chunk for _, chunk in chunks).decode("utf-8", "surrogateescape")
        return Entry(name, EntryKind.LINK, target=target)
    return Entry(name, EntryKind.FILE, item.size, bool(item.mode & 0o111), chunks=chunks)


def _chunks(raw: RawFile, item: ZipItem) -> Iterator[tuple[int, bytes]]:
    """Unpack one file, checking its size and checksum."""
    if item.flags & _ENCRYPTED:
        raise entry_fault(item.name, "is encrypted; pack it again without a password")
    if item.method not in {_STORED, _DEFLATED}:
        raise entry_fault(
            item.name,
            f"is compressed by method {item.method}, which is not read; pack it again with zip -r"
            " (deflate)",
        )
    if item.method == _STORED:
        found = _packed(raw, item, CHUNK_BYTES)
    else:
        found = _inflated(_packed(raw, item, INPUT_BYTES), item)
    at = crc = 0
    for chunk in found:
        if at + len(chunk) > item.size:
            raise entry_fault(item.name, "unpacks to more than it declares; pack it again")
        crc = zlib.crc32(chunk, crc)
        yield at, chunk
        at += len(chunk)
    if at != item.size or crc != item.crc:
        raise entry_fault(item.name, "is broken: wrong size or checksum; pack and upload it again")


def _inflated(packed: Iterator[bytes], item: ZipItem) -> Iterator[bytes]:
    decoder = Inflater(-zlib.MAX_WBITS)
    for data in packed:
        pending = data
        while not decoder.eof:
            try:
                chunk = decompress(decoder, pending, OUTPUT_BYTES)
            except SourceFault as fault:
                raise entry_fault(item.name, "is broken; pack and upload it again") from fault
            pending = b""
            if chunk:
                yield chunk
            elif decoder.needs_input:
                break
    if not decoder.eof:
        raise entry_fault(item.name, "is truncated; upload it again")


def _packed(raw: RawFile, item: ZipItem, piece_bytes: int) -> Iterator[bytes]:
    header = raw.read_at(item.offset, _LOCAL.size)
    if len(header) < _LOCAL.size or not header.startswith(LOCAL_MAGIC):
        raise entry_fault(item.name, "is not where the directory says; pack and upload it again")
    *_, name_size, extra_size = _LOCAL.unpack(header)
    at = item.offset + _LOCAL.size
    if raw.read_at(at, name_size) != item.raw_name:
        raise entry_fault(item.name, "has another name beside its data; pack it again")
    at += name_size + extra_size
    left = item.packed_size
    while left > 0:
        piece = raw.read_at(at, min(left, piece_bytes))
        if not piece:
            raise entry_fault(item.name, "is truncated; upload it again")
        at += len(piece)
        left -= len(piece)
        yield piece


# -- the directory ----------------------------------------------------------------------


def _find_directory(file: BinaryIO) -> tuple[int, int, int, int]:
    """Return the directory's count of entries, offset, size, and where its end record lies."""
    end = file.seek(0, io.SEEK_END)
    start = max(0, end - _END.size - _MAX_COMMENT_BYTES)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(EMPTY_MAGIC, 0, len(tail) - _END.size + len(EMPTY_MAGIC))
    if at < 0:
        raise _no_directory()
    _, disk, first_disk, here, count, size, offset, comment_size = _END.unpack_from(tail, at)
    if at + _END.size + comment_size != len(tail):
        raise _no_directory()
    record = start + at
    large = _find_directory64(file, record)
    if large is not None:
        return large
    if disk or first_disk or here != count:
        raise archive_fault("is one part of several; pack it as one")
    return count, offset, size, record


def _find_directory64(file: BinaryIO, record: int) -> tuple[int, int, int, int] | None:
    if record < _LOCATOR64.size:
        return None
    file.seek(record - _LOCATOR64.size)
    magic, _, offset64, _ = _LOCATOR64.unpack(file.read(_LOCATOR64.size))
    if magic != b"PK\x06\x07":
        return None
    if offset64 > record:
        raise _no_directory()
    file.seek(offset64)
    data = file.read(_END64.size)
    if len(data) < _END64.size or not data.startswith(b"PK\x06\x06"):
        raise _no_directory()
    *_, disk, first_disk, here, count, size, offset = _END64.unpack(data)
    if disk or first_disk or here != count:
        raise archive_fault("is one part of several; pack it as one")
    return count, offset, size, offset64


def _read_item(file: BinaryIO) -> tuple[ZipItem, int]:
    data = file.read(_CENTRAL.size)
    if len(data) < _CENTRAL.size or not data.startswith(b"PK\x01\x02"):
        raise _no_directory()
    (_, _, system, _, flags, method, _, _, crc, packed_size, size, *more) = _CENTRAL.unpack(data)
    name_size, extra_size, comment_size, _, _, attributes, offset = more
    raw_name = file.read(name_size)
    extra = file.read(extra_size)
    comment = file.read(comment_size)
    if len(comment) < comment_size or len(extra) < extra_size or len(raw_name) < name_size:
        raise _no_directory()
    name = _decoded(raw_name, flags)
    size, packed_size, offset = _large(name, extra, [size, packed_size, offset])
    mode = attributes >> 16 if system in _UNIX_SYSTEMS else 0
    if not mode and attributes & _DOS_FOLDER:
        mode = stat.S_IFDIR
    taken = _CENTRAL.size + name_size + extra_size + comment_size
    return (
        ZipItem(name, raw_name, flags, method, crc, packed_size, size, mode, offset),
        taken,
    )


def _large(name: str, extra: bytes, values: list[int]) -> list[int]:
    """Put in the 64-bit values of those that say they do not fit."""
    if _IS_LARGE not in values:
        return values
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, at)
        at += 4
        if tag == 1:
            field = io.BytesIO(extra[at : at + length])
            numbers = [field.read(8) if value == _IS_LARGE else b"" for value in values]
            if any(len(data) not in {0, 8} for data in numbers):
                break
            return [
                int.from_bytes(data, "little") if data else value
                for value, data in zip(values, numbers, strict=True)
            ]
        at += length
    if _IS_LARGE in values[1:]:
        raise entry_fault(name, "has no 64-bit size or place; pack it again")
    return values


def _decoded(name: bytes, flags: int) -> str:
    """Decode a name: macOS writes UTF-8 without saying so, others mean code page 437."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("utf-8", "surrogateescape") if flags & _UTF8 else name.decode("cp437")


def _no_directory() -> SourceFault:
    return archive_fault(
        "is a zip without a complete directory at its end: truncated; upload it again"
    )
