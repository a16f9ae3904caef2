"""Models on a hub of Hugging Face's kind: `hf://organisation/model`, always read at one commit.

The back end calls the hub's HTTP API through the back end for http, which streams ranges, follows
redirects to the hub's content servers, and sends a token to the hub alone.
`docs/adr/0010-hf-without-its-package.md` explains why it does not use the hub's own package.

A listing resolves the revision to its current commit, and lists that commit. Nothing is cached
between two listings. Reads name the commit, so a branch that moves meanwhile has no effect.
Fetched files are checked against the hashes that the hub lists for each.

The token is `HF_TOKEN` of the environment or of the credential profile, and the hub is
`HF_ENDPOINT` (https://huggingface.co). The owner of the puller sets both, so hops of a redirect are
not subject to `--allow-uri`, which has checked the `hf://` URI itself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import aiohttp
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import StorageUri
from typing_extensions import Buffer
from yarl import URL

from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.backends.http import HttpStorage, network_fault
from trainedmodel_puller.storage.backends.http_credentials import HttpLogin
from trainedmodel_puller.storage.backends.hub_errors import hub_fault
from trainedmodel_puller.storage.backends.hub_names import HubPlace, hub_place
from trainedmodel_puller.storage.backends.hub_pages import (
    NotHubsAnswerError,
    file_object,
    next_query,
    read_commit,
    read_page,
)
from trainedmodel_puller.storage.backends.profiles import read_profile, translated, with_places
from trainedmodel_puller.storage.base import Listing, SourceObject
from trainedmodel_puller.storage.listing import ListingCount
from trainedmodel_puller.storage.paths import make_listing
from trainedmodel_puller.storage.settings import StorageSettings
from trainedmodel_puller.storage.uri_allowlist import UriRule

_PUBLIC_HUB: Final = "https://huggingface.co"
_ENDPOINT: Final = "HF_ENDPOINT"
_TOKENS: Final = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
#: A page has at most a thousand entries of some hundred bytes.
_MAX_PAGE_BYTES: Final = 8 * 1024 * 1024
_MAX_PAGES: Final = 1000


@dataclass(frozen=True, slots=True)
class _Address(StorageUri):
    """An address at the hub, shown as the URI that it was made from."""

    shown: str = ""

    def __str__(self) -> str:
        return self.shown


class HubStorage(HttpStorage):
    """Models on one hub; one instance for each credential profile."""

    def __init__(self, settings: StorageSettings, profile: Path | None = None) -> None:
        super().__init__(settings, profile, UriRule())
        self._hub: URL | None = None  # found out with the token

    async def list(self, uri: StorageUri) -> Listing:
        """List a repository, or a file or folder of it, at the commit of its revision."""
        place = hub_place(uri)
        await self._look_up_login()
        try:
            commit = await self._commit(uri, place)
            entry = await self._entry(uri, place, commit) if place.path else None
            if entry is not None and entry["type"] == "file" and not place.is_folder:
                parent = place.path.rpartition("/")[0]
                item = file_object(entry, commit, f"{parent}/" if parent else "")
                return make_listing([item], is_single=True, where=uri)
            prefix = f"{place.path}/" if place.path else ""
            is_none = place.path and (entry is None or entry["type"] != "directory")
            found = [] if is_none else await self._files(uri, place, commit, prefix)
        except NotHubsAnswerError as error:
            raise SourceFault(
                Reason.SOURCE_ERROR,
                f"{uri}: {self._place()} returned a malformed Hugging Face answer: {error}",
            ) from None
        return make_listing(found, is_single=False, where=uri)

    async def read(
        self, uri: StorageUri, item: SourceObject, start: int, end: int
    ) -> AsyncGenerator[Buffer, None]:
        """Read bytes of one file at the commit that was listed."""
        if self._hub is None:  # its listing was another instance's
            await self._look_up_login()
        commit, _, path = item.key.partition("/")
        repository = hub_place(uri).repository
        address = self._address(
            uri, f"/{repository}/resolve/{commit}/{quote(path)}", file=item.path
        )
        # The commit in the address is the condition; content servers have etags of their own.
        plain = replace(item, etag=None, last_modified=None)
        async with aclosing(super().read(address, plain, start, end)) as chunks:
            async for chunk in chunks:
                yield chunk

    def check_answer(
        self, uri: StorageUri, answer: aiohttp.ClientResponse, wanted: Collection[int]
    ) -> None:
        """Turn a refusal into the hub's own reason, if it gives one."""
        if answer.status not in wanted:
            is_hubs_own = self._hub is not None and answer.url.origin() == self._hub.origin()
            headers: Mapping[str, str] = answer.headers if is_hubs_own else {}
            raise hub_fault(str(uri), answer.status, headers, has_token=self._login is not None)

    async def _look_up_login(self) -> None:
        """Read where the hub is, and the token for it; both may change between two listings."""
        if self._profile is None:
            values: Mapping[str, str] = translated(os.environ)
        else:
            profile = await asyncio.to_thread(read_profile, self._profile)
            values = with_places(profile, os.environ).values
        self._hub = hub_url(values.get(_ENDPOINT, _PUBLIC_HUB))
        token = next((values[name].strip() for name in _TOKENS if values.get(name)), "")
        if self._profile is not None and not token:
            raise SourceFault(Reason.ACCESS_DENIED, "the credential profile has no HF_TOKEN")
        self._login = hub_login(self._hub, token) if token else None
        await self._look_up_way(values)

    async def _commit(self, uri: StorageUri, place: HubPlace) -> str:
        """Return the commit that the revision points to now."""
        revision = quote(place.revision, safe="")
        address = self._address(uri, f"/api/models/{place.repository}/revision/{revision}")
        body, _ = await self._get(address)
        return await asyncio.to_thread(read_commit, body)

    async def _entry(
        self, uri: StorageUri, place: HubPlace, commit: str
    ) -> Mapping[str, Any] | None:
        """Return what the folder around a path says of it."""
        parent = place.path.rpartition("/")[0]
        async with aclosing(self._tree(uri, place, commit, parent, is_deep=False)) as entries:
            async for entry in entries:
                if entry["path"] == place.path:
                    return entry
        return None

    async def _files(
        self, uri: StorageUri, place: HubPlace, commit: str, prefix: str
    ) -> Sequence[SourceObject]:
        """Return all files below a folder."""
        tree = self._tree(uri, place, commit, place.path, is_deep=True)
        async with aclosing(tree) as entries:
            return [
                file_object(entry, commit, prefix)
                async for entry in entries
                if entry["type"] == "file" and entry["path"].startswith(prefix)
            ]

    async def _tree(
        self, uri: StorageUri, place: HubPlace, commit: str, folder: str, *, is_deep: bool
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        below = f"/{quote(folder, safe='')}" if folder else ""
        path = f"/api/models/{place.repository}/tree/{commit}{below}"
        query = f"?recursive={str(is_deep).lower()}&expand=false"
        count = ListingCount(uri, self._settings.max_listing)
        for _ in range(_MAX_PAGES):
            body, link = await self._get(self._address(uri, path, query))
            for entry in await asyncio.to_thread(read_page, body):
                count.add(entry["path"])
                yield entry
            following = next_query(link, query)
            if following is None:
                return
            query = following
        raise NotHubsAnswerError(f"its list has more than {_MAX_PAGES} pages")

    async def _get(self, address: _Address) -> tuple[bytes, str]:
        """Return the body of an answer of the API, and the address of its next page."""
        async with self._follow("GET", address, {}) as answer:
            self.check_answer(address, answer, frozenset({200}))
            body = bytearray()
            try:
                async for chunk in answer.content.iter_any():
                    body += chunk
                    if len(body) > _MAX_PAGE_BYTES:
                        raise NotHubsAnswerError(f"a page has more than {_MAX_PAGE_BYTES} bytes")
            except (aiohttp.ClientError, OSError) as error:
                raise network_fault(address, error) from None
            return bytes(body), _next_page(answer)

    def _address(self, uri: StorageUri, path: str, query: str = "", *, file: str = "") -> _Address:
        hub = self._hub or URL(_PUBLIC_HUB)
        shown = f"{uri} at {self._place()}" + (f", file {file!a:.200}" if file else "")
        return _Address(
            hub.scheme, hub.raw_authority, hub.raw_path.rstrip("/") + path, query, shown
        )

    def _place(self) -> str:
        return self._hub.raw_authority if self._hub is not None else _PUBLIC_HUB


def _next_page(answer: aiohttp.ClientResponse) -> str:
    """Return the address of the next page in a `Link` header; empty if there is none."""
    try:
        link = answer.links.get("next")
    except ValueError:
        return ""
    return str(link["url"]) if link is not None and "url" in link else ""


def hub_url(text: str) -> URL:
    """Return the address of a hub.

    Raises:
        SourceFault: SourceError: it is none.
    """
    try:
        url = URL(text.strip())
        if url.scheme in {"http", "https"} and url.host and not url.user and not url.query_string:
            return url
    except ValueError:
        pass
    raise SourceFault(
        Reason.SOURCE_ERROR, f"{_ENDPOINT} must be an address like {_PUBLIC_HUB}, without a query"
    )


def hub_login(hub: URL, token: str) -> HttpLogin:
    """Return a token's login, which is good for the hub alone.

    Raises:
        SourceFault: AccessDenied: no header can carry the token.
    """
    if not (token.isascii() and token.isprintable()):
        raise SourceFault(Reason.ACCESS_DENIED, "HF_TOKEN has characters that no token has")
    return HttpLogin(frozenset({hub.origin()}), f"Bearer {token}")
