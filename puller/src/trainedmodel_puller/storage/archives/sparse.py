"""Sparse files in tars: where their pieces belong.

GNU tar writes them on request (`--sparse`), the tar of macOS by itself. Three forms are known:
GNU's own header, and versions 0.1 and 1.0 of its pax records. The holes count against the limits
as if they were data: a server that reads the file gets them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

from trainedmodel_puller.storage.archives.common import entry_fault

#: A piece: its offset in the file, and its size.
Segment = tuple[int, int]

BLOCK_BYTES: Final = 512
#: As many pieces as one file may have; a map is memory.
_MAX_SEGMENTS: Final = 20_000
_NUMBER: Final = re.compile(rb"[0-9]{1,19}")
_OLD_STRUCT_BYTES: Final = 24


def is_sparse(pax: dict[str, str]) -> bool:
    """Return whether an entry's pax records make it sparse."""
    return any(key.startswith("GNU.sparse.") for key in pax)


def old_segments(
    name: str, header: bytes, next_block: Callable[[], bytes], number: Callable[[bytes], int]
) -> tuple[int, list[Segment]]:
    """Read GNU's own form; returns the file's real size and its pieces."""
    try:
        size = number(header[483:495])
        found = _old_fields(header[386:482], number)
        is_continued = header[482]
        while is_continued and len(found) <= _MAX_SEGMENTS:
            block = next_block()
            found += _old_fields(block[:504], number)
            is_continued = block[504]
    except ValueError as error:
        raise _unusable(name) from error
    return size, _checked(name, size, found)


def pax_segments(
    name: str, pax: dict[str, str], next_block: Callable[[], bytes]
) -> tuple[int, list[Segment], int]:
    """Read a pax form; returns the real size, the pieces, and how much of the data the map took."""
    try:
        if "GNU.sparse.map" in pax:
            size = int(pax["GNU.sparse.size"])
            return size, _checked(name, size, _pairs(pax["GNU.sparse.map"].split(","))), 0
        if (pax.get("GNU.sparse.major"), pax.get("GNU.sparse.minor")) == ("1", "0"):
            size = int(pax["GNU.sparse.realsize"])
            numbers, taken = _leading_numbers(name, next_block)
            return size, _checked(name, size, _pairs(numbers)), taken
    except (KeyError, ValueError) as error:
        raise _unusable(name) from error
    raise _unusable(name)


def _leading_numbers(name: str, next_block: Callable[[], bytes]) -> tuple[list[bytes], int]:
    text, taken = b"", 0
    numbers: list[bytes] = []
    wanted = 1
    while len(numbers) < wanted:
        text += next_block()
        taken += BLOCK_BYTES
        *lines, text = text.split(b"\n")
        if any(_NUMBER.fullmatch(line) is None for line in lines):
            raise _unusable(name)
        numbers += lines
        if numbers and wanted == 1:
            wanted = 1 + 2 * int(numbers[0])
        if wanted > 2 * _MAX_SEGMENTS or len(text) > BLOCK_BYTES:
            raise _unusable(name)
    return numbers[1:wanted], taken


def _old_fields(fields: bytes, number: Callable[[bytes], int]) -> list[Segment]:
    found = []
    for at in range(0, len(fields) - _OLD_STRUCT_BYTES + 1, _OLD_STRUCT_BYTES):
        offset, size = fields[at : at + 12], fields[at + 12 : at + 24]
        if not offset.strip(b"\0 ") or not size.strip(b"\0 "):
            break
        found.append((number(offset), number(size)))
    return found


def _pairs(numbers: Iterable[str | bytes]) -> list[Segment]:
    values = [int(number) for number in numbers]
    return list(zip(values[::2], values[1::2], strict=True))


def _checked(name: str, size: int, segments: list[Segment]) -> list[Segment]:
    end = 0
    for offset, length in segments:
        if offset < end or length < 0:
            raise _unusable(name)
        end = offset + length
    if end > size or len(segments) > _MAX_SEGMENTS:
        raise _unusable(name)
    return segments


def _unusable(name: str) -> Exception:
    return entry_fault(
        name, "is a sparse file of a form that is not read; pack it again without --sparse"
    )
