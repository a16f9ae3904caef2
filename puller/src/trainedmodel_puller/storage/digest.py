r"""The digest of a fetched model, in the form of `spec.model.digest`.

For a single object it is the SHA-256 of the object. For a folder it is the SHA-256 of a manifest:
for each file, in the byte order of the paths, the path, a newline, the file's SHA-256 in
hexadecimal, a newline, all in UTF-8. With coreutils, in the folder:

    find . -type f -printf '%P\n' | LC_ALL=C sort |
      while read -r f; do printf '%s\n' "$f"; sha256sum < "$f" | cut -d' ' -f1; done | sha256sum

Empty folders are not part of it. Files are hashed as written to the volume, not as received,
because the written files are served.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.base import Listing
from trainedmodel_puller.storage.files import finished, first_fault
from trainedmodel_puller.volume.durable import volume_fault

THREADS: Final = max(1, min(4, os.cpu_count() or 1))


async def tree_digest(folder: Path, listing: Listing) -> str:
    """Return `sha256:<hex>` of the listed files in a folder.

    Raises:
        VolumeFault: a file cannot be read.
    """
    paths = sorted((item.path for item in listing.objects), key=str.encode)
    found: dict[str, str] = {}
    queue = iter(paths)
    loop = asyncio.get_running_loop()
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="digest")

    async def job() -> None:
        for path in queue:
            job = loop.run_in_executor(threads, _file_digest, folder / path)
            found[path] = await finished(job)

    try:
        async with asyncio.TaskGroup() as group:
            await asyncio.wait([group.create_task(job()) for _ in range(THREADS)])
    except ExceptionGroup as errors:
        raise first_fault(errors) from None
    finally:
        threads.shutdown(wait=False)
    if listing.is_single:
        return f"sha256:{found[paths[0]]}"
    manifest = "".join(f"{path}\n{found[path]}\n" for path in paths)
    return f"sha256:{hashlib.sha256(manifest.encode()).hexdigest()}"


async def verify(folder: Path, listing: Listing, wanted: str) -> None:
    """Check the listed files in a folder against a digest.

    Raises:
        SourceFault: DigestMismatch, with both digests.
        VolumeFault: a file cannot be read.
    """
    found = await tree_digest(folder, listing)
    if found != wanted:
        raise SourceFault(
            Reason.DIGEST_MISMATCH, f"the content has {found}, spec.model.digest is {wanted}"
        )


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, hashlib.sha256).hexdigest()
    except OSError as error:
        raise volume_fault(error) from error
