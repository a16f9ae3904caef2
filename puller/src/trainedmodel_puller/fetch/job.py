"""The state of one running fetch."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from trainedmodel_contract.entry import Entry
from trainedmodel_contract.uri import StorageUri

from trainedmodel_puller.core.state import Download, Source
from trainedmodel_puller.storage.base import Listing

#: What is larger is not fetched again because of a kill between its last byte and its seal.
_DEAR_BYTES: Final = 16 * 1024 * 1024


@dataclass(slots=True)
class FetchJob:
    """One running fetch.

    Attributes:
        folder: Where its files are staged.
        how: As in `Fetched`.
        size: Bytes of the tree of a small model.
        is_unpacked: The folder holds the unpacked content of the source's archive.
        is_over: Set when it has written more than it was admitted with, and the volume is full.
        may_share: The files that equal the source are known, so other models may link them.
    """

    action: Download
    uri: StorageUri
    listing: Listing
    fingerprint: str
    folder: Path
    how: str = "downloaded"
    size: int = 0
    is_unpacked: bool = False
    may_share: bool = True
    is_over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def entry(self) -> Entry:
        """The entry to fetch."""
        return self.action.entry

    @property
    def source(self) -> Source:
        """The URI and the credential profile."""
        return (self.entry.storage_uri, self.entry.credentials)

    @property
    def is_large(self) -> bool:
        """Whether it is synced while it is received, because it is too large to fetch twice."""
        return self.listing.total_bytes >= _DEAR_BYTES

    @property
    def name(self) -> str:
        """Served name."""
        return self.action.name
