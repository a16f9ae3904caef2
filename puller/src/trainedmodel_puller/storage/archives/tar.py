"""Reading tars: one pass, forward only, bounded memory.

The standard library's reader is not used: it reads as many bytes at once as a header declares, so a
kilobyte of archive can request all memory, and its older releases never return from some damaged
headers. Supported here: V7, ustar, GNU long names, pax records, sparse files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from typing_extensions import Buffer

from trainedmodel_puller.storage.archives.common import (
    Budget,
    Entry,
    EntryKind,
    archive_fault,
    entry_fault,
)
from trainedmodel_puller.storage.archives.sparse import (
    BLOCK_BYTES,
    Segment,
    is_sparse,
    old_segments,
    pax_segments,
)
from trainedmodel_puller.storage.archives.streams import Source, pieces

_MAX_RECORD_BYTES: Final = 1024 * 1024
_MAX_RECORDS: Final = 8
_MAX_OCTAL_BYTES: Final = 12
_MAX_SIZE: Final = 1 << 62
_ZEROS: Final = bytes(BLOCK_BYTES)
_FILES: Final = frozenset(b"0\x007S")
_RECORDS: Final = frozenset(b"xgXLK")
_VOLUME_LABEL: Final = ord("V")
_KINDS: Final = {
    ord("1"): EntryKind.HARD_LINK,
    ord("2"): EntryKind.LINK,
    ord("5"): EntryKind.FOLDER,
    ord("D"): EntryKind.FOLDER,
}
_REFUSED: Final = {
    ord("3"): "is a device",
    ord("4"): "is a device",
    ord("6"): "is a pipe",
    ord("M"): "is part of a file that continues in another archive",
}
_KEPT_KEYS: Final = frozenset({"path", "linkpath", "size"})


@dataclass(slots=True)
class _Header:
    """One header block, combined with the records before it."""

    block: bytes
    flag: int
    name: str
    target: str
    size: int
    mode: int
    pax: dict[str, str] = field(default_factory=dict)


def is_header(block: bytes) -> bool:
    """Return whether 512 bytes are the header of a tar's entry: their checksum is right."""
    if len(block) < BLOCK_BYTES or block[0] == 0:
        return False
    try:
        wanted = _number(block[148:156])
    except ValueError:
        return False
    others = block[:148] + block[156:BLOCK_BYTES]
    unsigned = sum(others) + 8 * ord(" ")
    # some old tars add the bytes up as signed ones
    return wanted in {unsigned, unsigned - 256 * sum(byte > 127 for byte in others)}


def read_tar(source: Source, budget: Budget) -> Iterator[Entry]:
    """Yield the entries; data that is not taken is passed over.

    Raises:
        SourceFault: the archive is broken, truncated, or holds what cannot be a file.
    """
    return _TarReader(source, budget).entries()


class _TarReader:
    def __init__(self, source: Source, budget: Budget) -> None:
        self._source = source
        self._budget = budget
        self._globals: dict[str, str] = {}
        self._name = ""
        #: What is still to be read of the current entry's data, padding included.
        self._left = 0

    def entries(self) -> Iterator[Entry]:
        while (header := self._next_header()) is not None:
            self._name = header.name
            if header.flag == _VOLUME_LABEL:
                continue
            yield self._entry(header)
            self._source.skip(self._left)
            self._left = 0
        self._expect_end()

    def _entry(self, header: _Header) -> Entry:
        name, flag = header.name, header.flag
        if flag in _REFUSED:
            raise entry_fault(name, f"{_REFUSED[flag]}; pack only files, folders and links")
        is_old_folder = flag in b"0\0" and name.endswith("/")
        if flag in _KINDS or is_old_folder:
            kind = EntryKind.FOLDER if is_old_folder else _KINDS[flag]
            self._left = _padded(header.size) if flag == ord("D") else 0
            return Entry(name, kind, target=header.target)
        if flag not in _FILES:
            raise entry_fault(name, f"is of an unknown kind, {chr(flag)!a}; pack it again with tar")
        stored, self._left = header.size, _padded(header.size)
        size, segments = header.size, [(0, header.size)]
        if flag == ord("S"):
            self._left = 0
            size, segments = old_segments(name, header.block, self._block, _number)
            self._left = _padded(stored)
        elif is_sparse(header.pax):
            size, segments, taken = pax_segments(name, header.pax, self._data_block)
            stored -= taken
        if sum(length for _, length in segments) != stored:
            raise entry_fault(name, "is a sparse file whose pieces do not add up; pack it again")
        is_executable = bool(header.mode & 0o111)
        return Entry(name, EntryKind.FILE, size, is_executable, chunks=self._chunks(segments))

    def _chunks(self, segments: list[Segment]) -> Iterator[tuple[int, Buffer]]:
        for offset, size in segments:
            at = offset
            for piece in pieces(self._source, size, self._truncated):
                self._left -= len(piece)
                yield at, piece
                at += len(piece)

    # -- headers ------------------------------------------------------------------------

    def _next_header(self) -> _Header | None:
        """Read up to the next entry's header; None at the end mark."""
        pax: dict[str, str] = {}
        long: dict[int, str] = {}
        for _ in range(_MAX_RECORDS):
            block = self._source_block()
            if block == _ZEROS:
                return None
            header = _parse(block, self._name)
            if header.flag not in _RECORDS:
                return self._complete(header, pax, long)
            record = self._record(header)
            if header.flag in b"LK":
                long[header.flag] = _text(record)
            elif header.flag == ord("g"):
                found = _parse_pax(record, self._name)
                self._globals |= {key: found[key] for key in _KEPT_KEYS & found.keys()}
            else:
                pax |= _parse_pax(record, self._name)
        raise archive_fault(
            f"is broken after entry {self._name!a:.200}: too many records; pack it again"
        )

    def _complete(self, header: _Header, pax: dict[str, str], long: dict[int, str]) -> _Header:
        pax = self._globals | pax
        header.pax = pax
        header.name = pax.get("path", long.get(ord("L"), header.name))
        header.name = pax.get("GNU.sparse.name", header.name)
        header.target = pax.get("linkpath", long.get(ord("K"), header.target))
        if "size" in pax:
            if not pax["size"].isdecimal() or len(pax["size"]) > 19:
                raise entry_fault(header.name, "has an unreadable size; pack it again")
            header.size = int(pax["size"])
        if header.size > _MAX_SIZE:
            raise entry_fault(header.name, "has an impossible size; pack it again")
        return header

    def _record(self, header: _Header) -> bytes:
        if header.size > _MAX_RECORD_BYTES:
            raise archive_fault(
                f"has a record of {header.size} bytes after entry {self._name!a:.200};"
                " pack it again without extended attributes"
            )
        size = _padded(header.size)
        self._budget.count_passed_over(size)
        return b"".join(pieces(self._source, size, self._truncated))[: header.size]

    def _block(self) -> bytes:
        return b"".join(pieces(self._source, BLOCK_BYTES, self._truncated))

    def _data_block(self) -> bytes:
        self._left -= BLOCK_BYTES
        if self._left < 0:
            raise self._truncated()
        return self._block()

    def _source_block(self) -> bytes:
        block = self._source.read(BLOCK_BYTES)
        if not block:
            raise archive_fault(
                f"ends after entry {self._name!a:.200} without a tar's end mark: truncated, or"
                " packed by a tool that leaves the mark out; pack it again with tar"
            )
        if len(block) < BLOCK_BYTES:
            block += b"".join(pieces(self._source, BLOCK_BYTES - len(block), self._truncated))
        return block

    def _expect_end(self) -> None:
        """Read to the end, which proves the checksums of compressed data; expect zeros only."""
        while piece := self._source.read(_MAX_RECORD_BYTES):
            self._budget.count_passed_over(len(piece))
            if piece.count(0) != len(piece):
                raise archive_fault(
                    f"has data after its end mark, after entry {self._name!a:.200}; archives that"
                    " were joined must be packed as one"
                )

    def _truncated(self) -> Exception:
        return archive_fault(f"is truncated in entry {self._name!a:.200}; upload it again")


def _parse(block: bytes, before: str) -> _Header:
    if not is_header(block):
        raise archive_fault(f"is broken after entry {before!a:.200}; pack and upload it again")
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
        name = f"{prefix}/{name}"
    try:
        mode, size = _number(block[100:108]), _number(block[124:136])
    except ValueError as error:
        raise entry_fault(name, "has an unreadable header; pack it again") from error
    return _Header(block, block[156], name, _text(block[157:257]), size, mode)


def _parse_pax(data: bytes, before: str) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    try:
        while at < len(data):
            space = data.index(b" ", at, at + 10)
            end = at + int(data[at:space])
            key, equals, value = data[space + 1 : end - 1].partition(b"=")
            if end <= space or end > len(data) or data[end - 1] != ord("\n") or not equals:
                raise ValueError("a record of the wrong length")
            found[_decoded(key)] = _decoded(value)
            at = end
    except ValueError as error:
        raise archive_fault(
            f"is broken after entry {before!a:.200}: {error}; pack it again"
        ) from error
    return found


def _number(data: bytes) -> int:
    """Read a number, octal or in GNU's base 256; never a negative one."""
    if data[0] == 0x80:
        return int.from_bytes(data[1:], "big")
    text = data.split(b"\0")[0].strip()
    if not text:
        return 0
    if len(text) > _MAX_OCTAL_BYTES or text.strip(b"01234567"):
        raise ValueError("not an octal number")
    return int(text, 8)


def _padded(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _text(data: bytes) -> str:
    return _decoded(data.split(b"\0")[0])


def _decoded(data: bytes) -> str:
    """Decode a name; one that is not UTF-8 is kept visible, and refused where it is used."""
    return data.decode("utf-8", "surrogateescape")
