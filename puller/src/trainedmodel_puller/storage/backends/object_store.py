"""S3, Google Cloud Storage and Azure Blob Storage, through obstore.

obstore moves bytes in Rust: twice to eight times the rate of the fsspec back ends, flat in memory.
A client is kept for each bucket and profile, since its connections and tokens are worth keeping.

A URI is a folder if there are objects below it, and otherwise the object with exactly its key. A
URI whose name ends like a file's is tried as an object first. So most models need one request, and
if a store has both, the form of the name decides. A slash is added to a folder before it is listed,
so `models/m1` never fetches `models/m10`, and a URI that ends with a slash is never an object. An
empty object is the model only if there is nothing else: consoles create empty objects to show a
folder. A marker object becomes its folder. The client hides the slash at its end, so an empty
object that cannot be found under its listed name counts as one.

The client's time limit on a whole request is effectively disabled: only silence is a fault, not
size.
"""

from __future__ import annotations

import asyncio
import builtins
import os
import re
import time
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import obstore
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import StorageUri
from typing_extensions import Buffer

from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.backends.object_clients import PROVIDERS, make_client
from trainedmodel_puller.storage.backends.object_errors import (
    is_elsewhere,
    is_refusal,
    is_silent,
    region_fault,
    source_fault,
)
from trainedmodel_puller.storage.backends.object_region import bucket_region
from trainedmodel_puller.storage.backends.profiles import (
    Credentials,
    ambient,
    read_profile,
    translated,
    with_places,
)
from trainedmodel_puller.storage.backends.request_signing import can_sign, has_metadata_service
from trainedmodel_puller.storage.base import UNKNOWN_SIZE, Listing, SourceObject
from trainedmodel_puller.storage.listing import ListingCount
from trainedmodel_puller.storage.paths import make_listing, parent_folders
from trainedmodel_puller.storage.settings import StorageSettings

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta
    from obstore.store import ObjectStore

_LIST_PAGE: Final = 1000
_FILE_LIKE: Final = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,9}$")
_MARKER_CHECKS: Final = 32
#: How much to gather before it is passed on, and so what is read at one go: each turn costs that of
#: three threads, but a slow stream must show that it lives. The first of these is for a store of
#: which nothing is known.
_CHUNK_BYTES: Final = 256 * 1024
_SLOW_CHUNK_BYTES: Final = 64 * 1024
_FAST_CHUNK_BYTES: Final = 1024 * 1024
_SLOW_BYTES_PER_S: Final = 256 * 1024
_FAST_BYTES_PER_S: Final = 4 * 1024 * 1024


@dataclass(slots=True)
class _Source:
    """One bucket's client.

    Attributes:
        chunk_bytes: Bytes of a stream to gather before they are passed on; adapts to its speed, and
            is small after a fault.
        region: Region of the bucket, once the store was asked; "" if its answer has none.
    """

    client: ObjectStore
    credentials: Credentials
    is_anonymous: bool
    chunk_bytes: int = _CHUNK_BYTES
    region: str | None = None


class ObjectStorage:
    """Models in object stores; one instance for each credential profile."""

    is_conditional = True

    def __init__(self, settings: StorageSettings, profile: Path | None = None) -> None:
        self._settings = settings
        self._profile = profile
        self._sources: dict[tuple[str, str], _Source] = {}
        self._making: dict[tuple[str, str], asyncio.Lock] = {}
        # A process's environment does not change, and to look through it for each model adds up.
        self._ambient = ambient(os.environ)

    async def list(self, uri: StorageUri) -> Listing:
        """List the object or folder at a URI."""
        source = await self._fresh_source(uri)
        looks = [self._find_below, self._find_object]
        if _FILE_LIKE.search(uri.key):
            looks.reverse()
        denied: SourceFault | None = None
        empty: Listing | None = None
        for look in looks:
            try:
                found = await look(source, uri)
            except SourceFault as fault:
                # Without the right to list, stores answer "denied" for what does not exist; an
                # object can be read without that right, and some gateways know no lists at all.
                if fault.reason not in {Reason.ACCESS_DENIED, Reason.OBJECT_NOT_FOUND}:
                    raise
                denied = denied or fault
                continue
            if found is not None and found.total_bytes:
                return found
            empty = found or empty
        if empty is not None:
            return empty
        if denied is not None:
            raise denied
        return make_listing([], is_single=True, where=uri)

    async def _find_object(self, source: _Source, uri: StorageUri) -> Listing | None:
        if not uri.key or uri.path.endswith("/"):
            return None
        found = await self._head(source, uri, uri.key)
        return None if found is None else make_listing([found], is_single=True, where=uri)

    async def _find_below(self, source: _Source, uri: StorageUri) -> Listing | None:
        below = await self._list_below(source, uri)
        objects, folders = await self._without_markers(source, uri, below)
        if not objects:
            return None
        make = partial(make_listing, objects, is_single=False, where=uri, folders=folders)
        # checking the names of a long listing takes longer than the event loop can be held
        return make() if len(below) <= _LIST_PAGE else await asyncio.to_thread(make)

    async def read(
        self, uri: StorageUri, item: SourceObject, start: int, end: int
    ) -> AsyncGenerator[Buffer, None]:
        """Read bytes of one object, on condition that its etag is the listed one."""
        if item.size == 0:
            return
        source = self._sources.get((uri.scheme, uri.authority)) or await self._fresh_source(uri)
        options: GetOptions = {}
        if item.etag is not None:
            options["if_match"] = item.etag
        if (start, end) != (0, item.size) and end != UNKNOWN_SIZE:
            options["range"] = (start, end)
        what = _shown(uri, item)
        try:
            answer = await obstore.get_async(source.client, item.key, options=options)
            _check_same(item, answer.meta, what)
            if end - start <= source.chunk_bytes:
                yield await answer.bytes_async()
                return
            began, passed = time.monotonic(), 0
            async for chunk in answer.stream(min_chunk_size=source.chunk_bytes):
                passed += len(chunk)
                yield chunk
            source.chunk_bytes = _chunk_bytes(passed / max(time.monotonic() - began, 1e-6))
        except FileNotFoundError:
            raise SourceFault(
                Reason.SOURCE_CHANGED, f"{what}: was deleted after it was listed"
            ) from None
        except (SourceFault, asyncio.CancelledError, GeneratorExit):
            source.chunk_bytes = _SLOW_CHUNK_BYTES
            raise
        except Exception as error:
            raise await self._fault(source, uri, what, error) from None

    async def close(self) -> None:
        """Let go of all clients."""
        self._sources.clear()

    async def _fresh_source(self, uri: StorageUri) -> _Source:
        """Return the bucket's client, made again if the profile's content has changed."""
        if self._profile is None:
            credentials = self._ambient
        else:
            profile = await asyncio.to_thread(read_profile, self._profile)
            credentials = with_places(profile, os.environ)
        key = (uri.scheme, uri.authority)
        # concurrent callers share one client
        async with self._making.setdefault(key, asyncio.Lock()):
            known = self._sources.get(key)
            if known is not None and known.credentials == credentials:
                return known
            return await self._make_source(uri, credentials)

    async def _make_source(self, uri: StorageUri, credentials: Credentials) -> _Source:
        provider = PROVIDERS[uri.scheme]
        is_anonymous = not await self._may_sign(provider, credentials)
        try:
            client = await asyncio.to_thread(
                make_client, uri, credentials, is_anonymous=is_anonymous, settings=self._settings
            )
        except SourceFault:
            raise
        except Exception as error:
            raise source_fault(error, f"{uri.scheme}://{uri.authority}") from None
        source = _Source(client, credentials, is_anonymous)
        self._sources[uri.scheme, uri.authority] = source
        return source

    async def _may_sign(self, provider: str, credentials: Credentials) -> bool:
        variables = credentials.values if credentials.is_profile else translated(os.environ)
        if can_sign(provider, variables):
            return True
        if credentials.is_profile:
            return False
        if self._settings.instance_metadata is None:
            return provider == "gs" and await has_metadata_service()
        return self._settings.instance_metadata

    async def _head(self, source: _Source, uri: StorageUri, key: str) -> SourceObject | None:
        """Return one object by its exact key, None if there is none."""
        try:
            async with asyncio.timeout(self._settings.answer_timeout_s):
                meta = await obstore.head_async(source.client, key)
        except FileNotFoundError:
            return None
        except TimeoutError:
            raise _silent(uri) from None
        except Exception as error:
            raise await self._head_fault(source, uri, key, error) from None
        return _source_object(meta, key.rsplit("/", 1)[-1])

    async def _head_fault(
        self, source: _Source, uri: StorageUri, key: str, error: Exception
    ) -> SourceFault:
        """Explain a refused HEAD: such answers have no words, so the object's first byte is read.

        A store that grants that byte has refused the HEAD alone: its status is all that is known.
        """
        if is_silent(error):
            try:
                async with asyncio.timeout(self._settings.answer_timeout_s):
                    await obstore.get_range_async(source.client, key, start=0, length=1)
            except TimeoutError:
                pass
            except Exception as other:
                error = other if is_refusal(other) else error
        return await self._fault(source, uri, str(uri), error)

    async def _fault(
        self, source: _Source, uri: StorageUri, what: str, error: Exception
    ) -> SourceFault:
        if is_elsewhere(error) and PROVIDERS[uri.scheme] == "s3":
            if source.region is None:
                source.region = await bucket_region(
                    uri.authority, source.credentials.values, self._settings
                )
            fault = region_fault(error, what, source.region)
            if fault is not None:
                return fault
        return source_fault(error, what, is_anonymous=source.is_anonymous)

    async def _list_below(self, source: _Source, uri: StorageUri) -> builtins.list[SourceObject]:
        prefix = f"{uri.key}/" if uri.key else ""
        count = ListingCount(uri, self._settings.max_listing)
        found: builtins.list[SourceObject] = []
        try:
            pages = obstore.list(source.client, prefix or None, chunk_size=_LIST_PAGE)
            while True:
                async with asyncio.timeout(self._settings.answer_timeout_s):
                    page = await anext(pages, None)
                if page is None:
                    break
                for meta in page:
                    path = meta["path"].removeprefix(prefix)
                    if not meta["path"].startswith(prefix):
                        if meta["path"] == uri.key:
                            continue  # the folder's own marker, without its slash
                        raise _elsewhere(uri)
                    count.add(path)
                    found.append(_source_object(meta, path))
                if len(page) < _LIST_PAGE:
                    break  # the client fills its pages from the store's: a short one is the last
        except SourceFault:
            raise
        except TimeoutError:
            raise _silent(uri) from None
        except Exception as error:
            raise await self._fault(source, uri, str(uri), error) from None
        return found

    async def _without_markers(
        self, source: _Source, uri: StorageUri, found: builtins.list[SourceObject]
    ) -> tuple[builtins.list[SourceObject], Collection[str]]:
        """Separate objects from markers, which are folders without other objects."""
        if all(item.size for item in found):
            return found, ()
        folders = {folder for item in found for folder in parent_folders(item.path)}
        kept = [item for item in found if item.size or item.path not in folders]
        doubtful = iter([item for item in kept if not item.size])
        markers: set[str] = set()

        async def check() -> None:
            for item in doubtful:
                if await self._is_marker(source, uri, item):
                    markers.add(item.path)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_MARKER_CHECKS, sum(not item.size for item in kept))):
                group.create_task(check())
        return [item for item in kept if item.path not in markers], markers

    async def _is_marker(self, source: _Source, uri: StorageUri, item: SourceObject) -> bool:
        try:
            return await self._head(source, uri, item.key) is None
        except SourceFault:
            return False  # not certain: an empty file too many does no harm


def _source_object(meta: ObjectMeta, path: str) -> SourceObject:
    modified = meta["last_modified"]
    return SourceObject(
        path=path,
        size=meta["size"],
        etag=_quoted(meta["e_tag"]),
        last_modified=modified.isoformat() if modified else None,
        key=meta["path"],
    )


def _quoted(etag: str | None) -> str | None:
    """Add the quotes that Azure leaves out in its listings, and only there."""
    is_bare = etag is not None and not etag.endswith('"')
    return f'"{etag}"' if is_bare else etag


def _check_same(item: SourceObject, meta: ObjectMeta, what: str) -> None:
    """Compare an answer with the listing, for stores that take conditions and ignore them."""
    if item.etag is not None and _quoted(meta["e_tag"]) not in {None, item.etag}:
        raise SourceFault(Reason.SOURCE_CHANGED, f"{what}: has changed since it was listed")
    if meta["size"] != item.size:
        raise SourceFault(
            Reason.SIZE_MISMATCH, f"{what}: has {meta['size']} bytes, was listed with {item.size}"
        )


def _chunk_bytes(bytes_per_s: float) -> int:
    if bytes_per_s > _FAST_BYTES_PER_S:
        return _FAST_CHUNK_BYTES
    return _CHUNK_BYTES if bytes_per_s > _SLOW_BYTES_PER_S else _SLOW_CHUNK_BYTES


def _shown(uri: StorageUri, item: SourceObject) -> str:
    return f"{uri.scheme}://{uri.authority}/{item.key}"


def _elsewhere(uri: StorageUri) -> SourceFault:
    return SourceFault(
        Reason.SOURCE_ERROR, f"{uri}: the store listed an object outside the requested folder"
    )


def _silent(uri: StorageUri) -> SourceFault:
    return SourceFault(Reason.SOURCE_UNREACHABLE, f"{uri}: the store did not answer in time")
