"""Compares files with the checksums of their store.

There are two checks. `verify_checksums` looks for contradictions in a fetched folder: a file that
does not match the store's checksum is a fault. `matches_listing` needs a proof for each file of a
folder that the puller did not make: without one, the folder is not adopted, and "no" is always
safe.

An etag of S3 is an MD5 for objects uploaded in one piece without a key of the store's, and another
value of the same form otherwise. So a matching etag proves equality, and a different one proves
nothing.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.errors import SourceFault, VolumeFault
from trainedmodel_puller.storage.base import UNKNOWN_SIZE, Listing, SourceObject
from trainedmodel_puller.storage.digest import THREADS, tree_digest
from trainedmodel_puller.storage.files import finished, first_fault
from trainedmodel_puller.storage.paths import parent_folders
from trainedmodel_puller.volume.durable import volume_fault

#: What a hub of git repositories lists for each file: git's hash of it. A server that speaks the
#: hub's API without git behind it may list the plain SHA-1 instead; either proves the content.
GIT_SHA1: Final = "git-sha1"
#: What can be computed here, the strongest first. CRC32C has no implementation in the standard
#: library that is fast enough; where a store has nothing else, nothing is known.
ALGORITHMS: Final = ("sha256", GIT_SHA1, "md5")
_DIGITS: Final = {"sha256": 64, GIT_SHA1: 40, "md5": 32}
_READ_BYTES: Final = 256 * 1024
_MD5_ETAG: Final = re.compile(r'"?(?P<md5>[0-9a-f]{32})"?')
#: As in `sha-256=:<base64>:` (RFC 9530) and `SHA-256=<base64>` (RFC 3230).
_DIGEST_ITEM: Final = re.compile(r"\s*(?P<name>[A-Za-z0-9-]+)=:?(?P<value>[A-Za-z0-9+/_-]+=*):?\s*")


async def verify_checksums(folder: Path, listing: Listing) -> None:
    """Check the fetched files whose store vouches for them.

    Raises:
        SourceFault: DigestMismatch, with the file's name and both checksums.
        VolumeFault: a file cannot be read.
    """

    def check(item: SourceObject) -> None:
        if item.checksum is None or item.checksum[0] not in ALGORITHMS:
            return
        algorithm, wanted = item.checksum
        found = _hashed(folder / item.path, algorithm)
        if wanted not in found:
            raise SourceFault(
                Reason.DIGEST_MISMATCH,
                f"{item.path!a:.200} has {algorithm}:{found[0]}, its store says {wanted}",
            )

    await _each(check, listing.objects)


async def matches_listing(
    folder: Path, listing: Listing, digest: str | None, *, ignored: frozenset[str] = frozenset()
) -> bool:
    """Return whether a folder is proven to hold exactly what is listed.

    Args:
        folder: Never followed through links: one anywhere in it is a no.
        listing: As its store gave it just now.
        digest: `spec.model.digest`; if it is given it decides alone about the content.
        ignored: Relative paths that may be there in addition.
    """
    try:
        if not await asyncio.to_thread(_has_exactly, folder, listing, ignored):
            return False
        if digest is not None:
            return await tree_digest(folder, listing) == digest
        proofs = {item.path: proof for item in listing.objects if (proof := _proof(item))}
        if len(proofs) < len(listing.objects):
            return False

        def check(item: SourceObject) -> None:
            algorithm, wanted = proofs[item.path]
            if wanted not in _hashed(folder / item.path, algorithm):
                raise SourceFault(Reason.DIGEST_MISMATCH, item.path)

        await _each(check, listing.objects)
    except (SourceFault, VolumeFault, OSError):
        return False
    return True


def header_checksum(headers: Mapping[str, str], *, is_whole: bool) -> tuple[str, str] | None:
    """Return the best checksum of the object among an answer's headers.

    Args:
        headers: Of any case, if the mapping does not mind.
        is_whole: The answer is about the whole object: `Content-MD5` is of what is sent.
    """
    found: dict[str, str] = {}
    for name in ("Digest", "Repr-Digest"):
        for item in headers.get(name, "").split(","):
            match = _DIGEST_ITEM.fullmatch(item)
            if match is not None:
                _note(found, match["name"].lower().replace("-", ""), match["value"])
    # Google unpacks what is stored compressed, and still sends the checksum of what is stored.
    if headers.get("x-goog-stored-content-encoding", "identity") in {
        "identity",
        headers.get("Content-Encoding", "identity"),
    }:
        for item in headers.get("x-goog-hash", "").split(","):
            name, _, value = item.strip().partition("=")
            _note(found, name, value)
    _note(found, "md5", headers.get("x-ms-blob-content-md5", ""))
    if is_whole:
        _note(found, "md5", headers.get("Content-MD5", ""))
    return _best(found)


def entry_checksum(entry: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the best checksum in what an fsspec file system says of an object."""
    found: dict[str, str] = {}
    settings = entry.get("content_settings")
    inner = settings.get("content_md5") if isinstance(settings, Mapping) else None
    for value in (entry.get("md5Hash"), entry.get("content_md5"), inner):
        if isinstance(value, bytes | bytearray):
            found.setdefault("md5", value.hex())
        elif isinstance(value, str):
            _note(found, "md5", value)
    return _best(found)


def _best(found: Mapping[str, str]) -> tuple[str, str] | None:
    for name in ALGORITHMS:
        if re.fullmatch(f"[0-9a-f]{{{_DIGITS[name]}}}", found.get(name, "")):
            return name, found[name]
    return None


def _note(found: dict[str, str], name: str, value: str) -> None:
    """Note a checksum that is written in base64."""
    try:
        raw = base64.b64decode(value.strip(), validate=True)
    except (binascii.Error, ValueError):
        return
    if raw:
        found.setdefault(name, raw.hex())


def _proof(item: SourceObject) -> tuple[str, str] | None:
    if item.checksum is not None and item.checksum[0] in ALGORITHMS:
        return item.checksum
    match = _MD5_ETAG.fullmatch(item.etag or "")
    return ("md5", match["md5"]) if match else None


def _has_exactly(folder: Path, listing: Listing, ignored: frozenset[str]) -> bool:
    sizes = {item.path: item.size for item in listing.objects}
    folders = {parent for path in sizes for parent in parent_folders(path)}
    folders |= {parent for path in listing.folders for parent in parent_folders(f"{path}/")}
    missing = set(listing.folders)
    seen = 0
    pending = [""]
    if not stat.S_ISDIR(os.lstat(folder).st_mode):
        return False
    while pending:
        prefix = pending.pop()
        with os.scandir(folder / prefix) as entries:
            for entry in entries:
                path = prefix + entry.name
                if path in folders and entry.is_dir(follow_symlinks=False):
                    pending.append(f"{path}/")
                    missing.discard(path)
                elif path in sizes and entry.is_file(follow_symlinks=False):
                    if sizes[path] not in {UNKNOWN_SIZE, entry.stat(follow_symlinks=False).st_size}:
                        return False
                    seen += 1
                elif path not in ignored or not entry.is_file(follow_symlinks=False):
                    return False
    return seen == len(sizes) and not missing


def _hashed(path: Path, algorithm: str) -> tuple[str, ...]:
    """Return the digests of a file that count as this algorithm's, its own first."""
    try:
        with path.open("rb") as file:
            if algorithm == GIT_SHA1:
                return _git_hashes(file)
            return (hashlib.file_digest(file, lambda: _hash(algorithm)).hexdigest(),)
    except OSError as error:
        raise volume_fault(error) from error


def _git_hashes(file: BufferedReader) -> tuple[str, str]:
    plain, blob = _hash("sha1"), _hash("sha1")
    blob.update(b"blob %d\0" % os.fstat(file.fileno()).st_size)
    while chunk := file.read(_READ_BYTES):
        plain.update(chunk)
        blob.update(chunk)
    return blob.hexdigest(), plain.hexdigest()


def _hash(algorithm: str) -> Any:
    return hashlib.new(algorithm, usedforsecurity=False)


async def _each(check: Callable[[SourceObject], None], items: Sequence[SourceObject]) -> None:
    """Run a check of each object in a few threads; the first fault ends them all."""
    queue = iter(items)
    loop = asyncio.get_running_loop()
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="checksum")

    async def job() -> None:
        for item in queue:
            await finished(loop.run_in_executor(threads, check, item))

    try:
        async with asyncio.TaskGroup() as group:
            await asyncio.wait([group.create_task(job()) for _ in range(THREADS)])
    except ExceptionGroup as errors:
        raise first_fault(errors) from None
    finally:
        threads.shutdown(wait=False)
