"""Object stores through fsspec, if `--storage-backend` selects it.

A scheme is supported only if a test runs its file system against a real server of its kind. fsspec
has dozens more; they need options that a URI does not have, or cache their listings, and are
refused by name (`registry`).

A file system may cache listings, and the answer "not found" too. The cache is cleared before each
listing, because the listing decides whether the source has changed.

fsspec's file systems block, or run a loop of their own in a thread. Here each call runs in a thread
of its host (`outside`), so that a call that hangs delays no other host. Objects are read in ranges,
never with `get()`, which holds the whole object in memory. A thread cannot be cancelled: an
abandoned read ends with its current range, and its bytes are dropped.
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.registry import known_implementations
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import StorageUri
from typing_extensions import Buffer

from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.backends.fsspec_options import fsspec_options, is_unsigned
from trainedmodel_puller.storage.backends.profiles import (
    Credentials,
    read_profile,
    translated,
    with_places,
)
from trainedmodel_puller.storage.base import UNKNOWN_SIZE, Listing, SourceObject
from trainedmodel_puller.storage.checksum import entry_checksum
from trainedmodel_puller.storage.listing import MAX_LISTING, ListingCount
from trainedmodel_puller.storage.outside import OutsideThreads, outside_loop
from trainedmodel_puller.storage.paths import make_listing

T = TypeVar("T")

#: Served without `--storage-backend`. `memory` is this process's own: only tests fill it.
TESTED_SCHEMES: Final = frozenset({"memory"})
_CHUNK_BYTES: Final = 2 * 1024 * 1024
_ETAG_KEYS: Final = ("ETag", "etag", "e_tag", "md5Hash", "md5", "blob_id", "checksum", "uid")
_TIME_KEYS: Final = ("LastModified", "last_modified", "mtime", "updated", "created")


class FsspecStorage:
    """Models behind one fsspec scheme."""

    is_conditional = False

    def __init__(
        self,
        scheme: str,
        answer_timeout_s: float,
        *,
        profile: Path | None = None,
        instance_metadata: bool = False,
        threads: OutsideThreads | None = None,
        max_listing: int = MAX_LISTING,
    ) -> None:
        """Take a scheme; whether anything serves it is found out at the first listing.

        Args:
            scheme: As in the URI.
            answer_timeout_s: Limit on a listing.
            profile: Folder of the credential profile; none for the environment's credentials.
            instance_metadata: Whether the node's metadata service may be asked for credentials.
            threads: Where to call; some of its own if None.
            max_listing: Most objects of a listing.
        """
        self._scheme = scheme
        self._answer_timeout_s = answer_timeout_s
        self._threads = threads or OutsideThreads()
        self._max_listing = max_listing
        self._profile = profile
        self._instance_metadata = instance_metadata
        self._lock = threading.Lock()
        self._system: Any = None
        self._made_with: Credentials | None = None

    async def list(self, uri: StorageUri) -> Listing:
        """List the object or folder at a URI; a name that is both is the object."""
        return await self._call(uri, self._list, uri)

    async def read(
        self, uri: StorageUri, item: SourceObject, start: int, end: int
    ) -> AsyncGenerator[Buffer, None]:
        """Read bytes of one object, range by range; fsspec knows no conditions.

        Whoever reads lists again afterwards (`is_conditional`).
        """
        at = start
        while end == UNKNOWN_SIZE or at < end:
            upto = at + _CHUNK_BYTES if end == UNKNOWN_SIZE else min(at + _CHUNK_BYTES, end)
            chunk: bytes = await self._call(
                uri, functools.partial(self._read, item.key, at, upto), has_limit=False
            )
            if not chunk:
                return
            at += len(chunk)
            yield chunk

    async def close(self) -> None:
        """Let the file system go; threads end by themselves."""
        self._system = None

    def _list(self, uri: StorageUri) -> Listing:
        if "@" in uri.authority:
            raise SourceFault(
                Reason.INVALID_URI,
                f"{uri}: fsspec takes the account from AZURE_STORAGE_ACCOUNT_NAME, not from the "
                f"URI: write {uri.scheme}://container/path, or leave az with obstore",
            )
        system = self._fresh_system()
        system.invalidate_cache()
        path: str = system._strip_protocol(f"{uri.scheme}://{uri.authority}{uri.path}")
        top = system.info(path)
        if top.get("type") != "directory":
            if uri.path.endswith("/"):
                raise FileNotFoundError  # fsspec drops the slash; a folder was asked for
            item = _source_object(path.rstrip("/").rsplit("/", 1)[-1], path, top)
            return make_listing([item], is_single=True, where=uri)
        prefix = path.rstrip("/") + "/"
        count = ListingCount(uri, self._max_listing)
        found, inner = [], []
        # folder by folder, not `find`: that holds all of them before anything can be counted
        for _, folders, files in system.walk(path, detail=True, on_error="raise"):
            for entry in (*folders.values(), *files.values()):
                name = entry["name"]
                count.add(name)
                if not name.startswith(prefix):
                    continue
                if entry["type"] == "directory" or name[-1] == "/":
                    inner.append(name.removeprefix(prefix).rstrip("/"))
                else:
                    found.append(_source_object(name.removeprefix(prefix), name, entry))
        return make_listing(found, is_single=False, where=uri, folders=inner)

    def _read(self, key: str, start: int, end: int) -> bytes:
        system = self._system if self._system is not None else self._fresh_system()
        content: bytes = system.cat_file(key, start=start, end=end)
        return content

    def _fresh_system(self) -> Any:
        """Return the file system, made again if the profile's content has changed."""
        if self._profile is None:
            credentials = Credentials(translated(os.environ))
        else:
            credentials = with_places(read_profile(self._profile), os.environ)
        with self._lock:
            if self._system is None or self._made_with != credentials:
                kind = find_class(self._scheme)
                options = fsspec_options(
                    self._scheme,
                    credentials.values,
                    is_profile=credentials.is_profile,
                    is_anonymous=not self._instance_metadata
                    and is_unsigned(self._scheme, credentials.values),
                )
                # Listings are asked for to learn what is new: a cached one would hide it.
                options |= {"use_listings_cache": False, "skip_instance_cache": True}
                if issubclass(kind, AsyncFileSystem):
                    options["loop"] = outside_loop()
                self._system, self._made_with = kind(**options), credentials
            return self._system

    async def _call(
        self, uri: StorageUri, call: Callable[..., T], *args: object, has_limit: bool = True
    ) -> T:
        # a profile has one endpoint, and so one host that may hang
        place = f"{self._scheme} {self._profile or ''}"
        try:
            async with asyncio.timeout(self._answer_timeout_s if has_limit else None):
                return await self._threads.run(place, functools.partial(call, *args))
        except SourceFault:
            raise
        except FileNotFoundError:
            raise SourceFault(Reason.OBJECT_NOT_FOUND, f"{uri}: no such object or folder") from None
        except PermissionError:
            raise SourceFault(Reason.ACCESS_DENIED, f"{uri}: the store refused access") from None
        except TimeoutError:
            raise SourceFault(
                Reason.SOURCE_UNREACHABLE, f"{uri}: the store did not answer in time"
            ) from None
        except OSError as error:
            raise SourceFault(
                Reason.SOURCE_UNREACHABLE, f"{uri}: the store cannot be reached: {_kind(error)}"
            ) from None
        except Exception as error:
            raise SourceFault(
                Reason.SOURCE_ERROR, f"{uri}: the {self._scheme} back end failed: {_kind(error)}"
            ) from None


def find_class(scheme: str) -> Any:
    """Return fsspec's class for a scheme; imports it, which blocks.

    Raises:
        SourceFault: UnsupportedScheme, with the package that is missing.
    """
    try:
        return fsspec.get_filesystem_class(scheme)
    except ImportError:
        package = known_implementations[scheme]["class"].split(".", 1)[0]
        raise SourceFault(
            Reason.UNSUPPORTED_SCHEME,
            f"scheme {scheme!a} needs the package {package}, which this image lacks",
        ) from None


def _source_object(path: str, key: str, entry: Mapping[str, Any]) -> SourceObject:
    size = entry.get("size")
    etag = _first(entry, _ETAG_KEYS)
    return SourceObject(
        path,
        UNKNOWN_SIZE if size is None else int(size),
        etag,
        _first(entry, _TIME_KEYS),
        is_ranged=size is not None,
        key=key,
        checksum=entry_checksum(entry),
    )


def _first(entry: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    return next((str(entry[key]) for key in keys if entry.get(key) is not None), None)


def _kind(error: Exception) -> str:
    """Name an error without its text, which may hold a signed address or a token."""
    strerror = getattr(error, "strerror", None)
    return f"{type(error).__name__}" + (f": {strerror}" if isinstance(strerror, str) else "")
