"""A limit on what a store may list: the listing is held in memory, and its size is a stranger's.

Counted while the listing comes in, so that a bucket with millions of objects is refused after the
first pages of it. Both the entries and the bytes of their names are limited.
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
        entries: How many there were so far; a listing that hangs is told by it.
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
            SourceFault: ListingTooLarge; or nobody waits for this listing any more.
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
        """Make sure that somebody waits for this listing.

        Raises:
            SourceFault: nobody does.
        """
        if self._is_stopped:
            raise SourceFault(
                Reason.SOURCE_UNREACHABLE, f"{self._where}: the listing was cancelled"
            )

    def stop(self) -> None:
        """Have a listing that goes on in a thread end at its next entry."""
        self._is_stopped = True

    def _too_large(self, words: str) -> SourceFault:
        return SourceFault(
            Reason.LISTING_TOO_LARGE,
            f"{self._where}: has {words}: let the URI name the folder of one model, "
            "or raise --max-listing of the puller",
        )
