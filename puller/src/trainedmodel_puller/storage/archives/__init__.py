"""Model archives: a single object that is a tar, tar.gz, tar.zst or zip is unpacked.

Order and ownership: the caller fetches and verifies the archive, detects its kind by its content
(`recognise`), reads its declared size (`declared_bytes`), and passes a new folder to `unpack`.
After a failure the content of that folder is undefined: it is removed and filled again.

The result is exactly the content of the archive, as if it had been uploaded object by object:

- A single folder at the top is *kept*. It may have a meaning (Triton's `1`, `model.savedmodel`), so
  removing it can break a valid model, while keeping it can only expose an invalid one.
- A name that appears twice is refused, because tools differ in the entry that they use.
- macOS litter (`__MACOSX/`, `._x`, `.DS_Store`) and the puller's own `.trainedmodel.json` are left
  out. Archives inside are files like others.
- Links are kept if their target exists inside the folder after unpacking. Model servers fail in odd
  ways on dangling links and follow loops without end, so both are refused.
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
