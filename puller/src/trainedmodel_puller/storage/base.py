"""The protocol of storage back ends: list the objects of a model, and read bytes of one.

The protocol is small on purpose. A back end does not write files, retry or detect stalls. It
translates one store's listing and errors; each error becomes a SourceFault with its reason.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final, Protocol

from trainedmodel_contract.uri import StorageUri
from typing_extensions import Buffer

#: Size of an object whose store does not tell; as the end of a read: up to the object's end.
UNKNOWN_SIZE: Final = -1
#: Objects of a listing that takes a thread's time.
_LONG: Final = 1000


@dataclass(frozen=True, slots=True)
class SourceObject:
    """One object of a model, as its store lists it.

    Attributes:
        path: Posix path relative to the model's root; the base name if the URI names one object.
        size: In bytes; UNKNOWN_SIZE if the store does not report it.
        etag: The store's name for this content, quotes and all; None if it has none.
        last_modified: In the store's own form; only ever compared for equality.
        is_ranged: Whether the store serves parts of the object.
        key: The store's own name of it, for the back end alone. A path and a URI do not give it:
            `m` of the URI `s3://b/m` may be the object `m` or the object `m/m`.
        checksum: Algorithm and lower-case hexadecimal digits, where the store itself vouches for
            the content that way. An etag is none, even where it looks like one.
    """

    path: str
    size: int
    etag: str | None = None
    last_modified: str | None = None
    is_ranged: bool = True
    key: str = ""
    checksum: tuple[str, str] | None = None

    @property
    def identity(self) -> tuple[str, str] | None:
        """Identity of the content, beside its size; None if the store gives none."""
        if self.etag is not None:
            return ("etag", self.etag)
        return ("modified", self.last_modified) if self.last_modified is not None else None


@dataclass(frozen=True, slots=True)
class Listing:
    """The objects of a model, sorted by path, and its empty folders.

    Attributes:
        objects: At least one.
        is_single: The URI names one object, not a folder.
        folders: Empty folders, sorted. A server may need one: for Triton an empty `1/` is the
            version of an ensemble.
    """

    objects: tuple[SourceObject, ...]
    is_single: bool
    folders: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        """Sum of the known sizes."""
        return sum(max(item.size, 0) for item in self.objects)

    def fingerprint(self) -> str:
        """Name the content as far as the store tells: equal fingerprint, same content.

        It covers path, size and etag (last_modified where there is no etag) of the objects, and the
        empty folders, not the order of listing. It is no digest of the bytes: a store that has
        neither hides a change that keeps the size.
        """
        digest = hashlib.sha256(b"single" if self.is_single else b"folder")
        for item in sorted(self.objects, key=lambda item: item.path):
            kind, value = item.identity or ("none", "")
            for field in (item.path, str(item.size), kind, value):
                raw = field.encode()
                digest.update(b"%d:%b" % (len(raw), raw))
        for folder in sorted(self.folders):
            raw = folder.encode()
            digest.update(b"/%d:%b" % (len(raw), raw))
        return digest.hexdigest()


async def fingerprint_of(listing: Listing) -> str:
    """Return a listing's fingerprint; one so long that it would hold the event loop in a thread."""
    is_long = len(listing.objects) > _LONG
    return await asyncio.to_thread(listing.fingerprint) if is_long else listing.fingerprint()


class Storage(Protocol):
    """One way to list and read models. Raises SourceFault and nothing else on purpose.

    Attributes:
        is_conditional: Whether reads notice an object that has changed since it was listed. If
            not, the caller lists again at the end.
    """

    @property
    def is_conditional(self) -> bool:
        """See above."""
        ...

    async def list(self, uri: StorageUri) -> Listing:
        """List the objects of a model: paths checked, sizes known, nothing read."""
        ...

    def read(
        self, uri: StorageUri, item: SourceObject, start: int, end: int
    ) -> AsyncGenerator[Buffer, None]:
        """Read bytes [start, end) of a listed object, to its end if `end` is UNKNOWN_SIZE.

        Conditional on the listed etag where the store can. Chunks come as they arrive; an empty
        one is a sign of life. Closing the generator closes the connection. What the store sends
        is passed on, be it more or less than asked for: the caller counts.
        """
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...
