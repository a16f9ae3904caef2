"""Limits of a listing, which is held in memory and whose size is not under the puller's control.

Entries are counted while the listing comes in, so that a bucket with millions of objects is refused
after its first pages. Both the entries and the bytes of their names are limited.
"""

from __future__ import annotations

from typing import Final

from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.errors import SourceFault

#: Most objects of one model (`--max-listing`).
MAX_LISTING: Final = 100_000
#: Names may have so many bytes on average.
_NAME_BYTES: Final = 256


class ListingCount:
    """Counts the entries of one listing.

    Attributes:
        entries: Number of entries so far; it shows whether a listing hangs.
    """

    def __init__(self, where: object, most: int = MAX_LISTING) -> None:
        self._where = where
        self._most = most
        self._name_bytes = 0
        self._is_stopped = False
        self.entries = 0

    def add(self, name: str) -> None:
        """Count an entry, folders included.

        Raises:
            SourceFault: ListingTooLarge; or the listing was cancelled.
        """
        self.look()
        self.entries += 1
        self._name_bytes += len(name)
        if self.entries > self._most:
            raise self._too_large(f"more than {self._most:,} objects")
        if self._name_bytes > self._most * _NAME_BYTES:
            raise self._too_large(
                f"object names of more than {self._most * _NAME_BYTES:,} characters together"
            )

    def look(self) -> None:
        """End the listing if it was cancelled.

        Raises:
            SourceFault: it was.
        """
        if self._is_stopped:
            raise SourceFault(
                Reason.SOURCE_UNREACHABLE, f"{self._where}: the listing was cancelled"
            )

    def stop(self) -> None:
        """End a listing that runs in a thread at its next entry."""
        self._is_stopped = True

    def _too_large(self, words: str) -> SourceFault:
        return SourceFault(
            Reason.LISTING_TOO_LARGE,
            f"{self._where}: has {words}: let the URI name the folder of one model, "
            "or raise --max-listing of the puller",
        )
