"""Model archives: a single object that is a tar, tar.gz, tar.zst or zip is unpacked.

Order and ownership: the caller fetches and verifies the archive, asks `recognise` what it is by its
content, asks `declared_bytes` for the room it needs, and gives `unpack` a fresh folder. After a
failure nothing is promised about that folder: it is removed and filled again.

What is unpacked is what is in the archive, no more and no less, as if its content had been uploaded
object by object:

- A single folder at the top is *kept*. It may carry meaning (Triton's `1`, `model.savedmodel`), so
  taking it away can destroy a right model, while leaving it can only make a wrong one say so.
- A name that is in it twice is refused: which of the two is meant differs between tools.
- macOS litter (`__MACOSX/`, `._x`, `.DS_Store`) and the puller's own `.trainedmodel.json` are left
  out. Archives inside are files like others.
- Links are kept if they lead, when all is unpacked, to something inside. Model servers fail in odd
  ways on dangling links and walk circles for ever, so both are refused.
- Owners, times, special modes and attributes are not restored.

    formats     which zips and tars are one model file of some library, and stay as they are
    recognise   what kind of archive a file is
    streams     decompression with bounded memory
    tar, sparse, zip   readers: archives to entries
    rules       names and links that may be unpacked; pure
    tree        the folder being filled; the only writer
    unpack      all of it, in a thread
"""

from trainedmodel_puller.storage.archives.common import (
    ArchiveKind,
    ArchiveTooLarge,
    UnpackedTree,
    UnpackLimits,
)
from trainedmodel_puller.storage.archives.recognise import declared_bytes, recognise
from trainedmodel_puller.storage.archives.unpack import unpack

__all__ = [
    "ArchiveKind",
    "ArchiveTooLarge",
    "UnpackLimits",
    "UnpackedTree",
    "declared_bytes",
    "recognise",
    "unpack",
]
