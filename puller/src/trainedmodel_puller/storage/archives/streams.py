"""Reading and decompressing with bounded memory.

A source returns at most the requested bytes, whatever the ratio of compression. Consecutive members
and frames (pigz, bgzip, pzstd) are one stream; any other data after the last one is a fault, so
that half a model never looks like a whole one.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol, Self

from trainedmodel_puller.storage.archives.common import (
    CHUNK_BYTES,
    ArchiveKind,
    Budget,
    archive_fault,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: 64 MiB, what `zstd -21` uses: a window is memory, and several models may be unpacked at once.
MAX_WINDOW_LOG: Final = 26
#: Compressed data is taken in pieces this small: what does not fit the output is copied on.
INPUT_BYTES: Final = 128 * 1024
#: What zlib gives at once: a fifth faster than in pieces of a megabyte.
OUTPUT_BYTES: Final = 128 * 1024
_GZIP_MAGIC: Final = b"\x1f\x8b"
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
#: Frames without content: the first byte is 0x50 to 0x5f.
_ZSTD_SKIPPABLE: Final = b"\x2a\x4d\x18"
_WINDOW_WORDS: Final = ("too much memory", "Unsupported frame parameter", "window")


class Source(Protocol):
    """Bytes in their order."""

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, and none only at the end."""

    def skip(self, size: int) -> None:
        """Pass over bytes; passing over the end is found by the next read."""


class RawFile:
    """A file as it is; a context manager."""

    def __init__(self, path: Path, budget: Budget) -> None:
        self._budget = budget
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes."""
        self._budget.checkpoint()
        return os.read(self._fd, size)

    def skip(self, size: int) -> None:
        """Go on behind `size` bytes, at no cost."""
        os.lseek(self._fd, size, os.SEEK_CUR)

    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from an offset on."""
        self._budget.checkpoint()
        return os.pread(self._fd, size, offset)

    @property
    def size(self) -> int:
        """The file's size in bytes."""
        return os.fstat(self._fd).st_size


class Decoder(Protocol):
    """One member or frame being decompressed."""

    @property
    def eof(self) -> bool:
        """Whether its end has been reached."""

    @property
    def needs_input(self) -> bool:
        """Whether it can give nothing more without new input."""

    @property
    def unused_data(self) -> bytes:
        """What was given beyond its end."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Take input and return at most `max_length` bytes."""


class Inflater:
    """zlib's decompressor with the interface of the other ones."""

    def __init__(self, wbits: int) -> None:
        self._object = zlib.decompressobj(wbits)

    @property
    def eof(self) -> bool:
        """Whether its end has been reached."""
        return self._object.eof

    @property
    def needs_input(self) -> bool:
        """Whether all input was taken."""
        return not self._object.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        """What was given beyond its end."""
        return self._object.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Take input and return at most `max_length` bytes."""
        tail = self._object.unconsumed_tail
        return self._object.decompress(tail + data if tail else data, max_length)


class Decompressed:
    """The content of a gz or zst file."""

    def __init__(
        self, raw: Source, kind: ArchiveKind, budget: Budget, *, window_log: int = MAX_WINDOW_LOG
    ) -> None:
        self._raw = raw
        self._kind = kind
        self._budget = budget
        self._window_log = window_log
        self._decoder: Decoder | None = self._new_decoder()
        self._rest = b""

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes."""
        size = min(size, OUTPUT_BYTES)
        while self._decoder is not None:
            if self._decoder.eof:
                self._next_member(self._decoder.unused_data)
                continue
            data, self._rest = self._rest, b""
            is_end = False
            if not data and self._decoder.needs_input:
                data = self._raw.read(INPUT_BYTES)
                is_end = not data
            piece = decompress(self._decoder, data, size)
            if piece:
                return piece
            if is_end and not self._decoder.eof:
                raise archive_fault("is truncated: its compressed data has no end; upload it again")
        return b""

    def skip(self, size: int) -> None:
        """Unpack and drop `size` bytes."""
        while size > 0 and (piece := self.read(size)):
            self._budget.count_passed_over(len(piece))
            size -= len(piece)

    def _next_member(self, rest: bytes) -> None:
        while len(rest) < len(_ZSTD_MAGIC) and (more := self._raw.read(INPUT_BYTES)):
            rest += more
        if starts_compressed(rest) is self._kind:
            self._decoder, self._rest = self._new_decoder(), rest
            return
        while rest:
            if rest.count(0) != len(rest):
                raise archive_fault(
                    f"has data after the end of its {self._kind.rpartition('.')[2]} data;"
                    " pack and upload it again"
                )
            rest = self._raw.read(INPUT_BYTES)
        self._decoder = None

    def _new_decoder(self) -> Decoder:
        if self._kind is ArchiveKind.TAR_GZ:
            return Inflater(zlib.MAX_WBITS | 16)
        options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: self._window_log}
        return zstd.ZstdDecompressor(options=options)


def starts_compressed(data: bytes) -> ArchiveKind | None:
    """Return the kind of archive that compressed data of this beginning could be."""
    if data.startswith(_GZIP_MAGIC):
        return ArchiveKind.TAR_GZ
    is_skippable = data[1:4] == _ZSTD_SKIPPABLE and data[0] >> 4 == 5
    if data.startswith(_ZSTD_MAGIC) or is_skippable:
        return ArchiveKind.TAR_ZST
    return None


def decompress(decoder: Decoder, data: bytes, size: int) -> bytes:
    """Decompress a piece.

    Raises:
        SourceFault: the data is broken, or needs too large a window.
    """
    try:
        return decoder.decompress(data, size)
    except zstd.ZstdError as error:
        if any(word in str(error) for word in _WINDOW_WORDS):
            limit = 1 << MAX_WINDOW_LOG - 20
            raise archive_fault(
                f"needs a zstd window of more than {limit} MiB;"
                f" pack it again without --ultra, and with --long={MAX_WINDOW_LOG} at most"
            ) from error
        raise archive_fault(f"is broken: {error}; upload it again") from error
    except zlib.error as error:
        raise archive_fault(f"is broken: {error}; upload it again") from error


def pieces(source: Source, size: int, truncated: Callable[[], Exception]) -> Iterator[bytes]:
    """Yield exactly `size` bytes in pieces; raise what `truncated` makes if there are fewer."""
    while size > 0:
        piece = source.read(min(size, CHUNK_BYTES))
        if not piece:
            raise truncated()
        size -= len(piece)
        yield piece
