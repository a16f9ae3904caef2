"""One object at an `http(s)://` address, through aiohttp.

The back end follows redirects itself, because each hop has an address to check and a query to hide.
It sends no cookies and reads no netrc. Credentials come from a named profile, and go to the URI's
own origin only. Proxies and private authorities: see `outbound`.

Servers differ in their answers. Size and etag come from a HEAD, or from a GET of one byte if a HEAD
is refused (links signed for GET) or does not mention ranges. Without ranges the object is one
stream; without a size it is read to its end. Requests are conditional on the listed object
(If-Match, or If-Unmodified-Since). Each answer is checked as well, because many servers ignore
conditions.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import aiohttp
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import StorageUri
from typing_extensions import Buffer
from yarl import URL

from trainedmodel_puller.core.proxies import TRUST_VARIABLES, WAY_VARIABLES
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.backends.address_guard import AddressRule, DeniedAddressError
from trainedmodel_puller.storage.backends.http_credentials import HttpLogin, http_login
from trainedmodel_puller.storage.backends.outbound import WayOut
from trainedmodel_puller.storage.backends.profiles import read_profile, translated, with_places
from trainedmodel_puller.storage.base import UNKNOWN_SIZE, Listing, SourceObject
from trainedmodel_puller.storage.checksum import header_checksum
from trainedmodel_puller.storage.paths import make_listing, path_fault
from trainedmodel_puller.storage.settings import StorageSettings
from trainedmodel_puller.storage.transfer.receive import stalled
from trainedmodel_puller.storage.uri_allowlist import UriRule

#: A length with more digits is none.
_MOST_DIGITS: Final = 18
_MAX_REDIRECTS: Final = 5
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
#: Files of certificates are read again so often, in seconds, for they are rotated.
_TRUST_S: Final = 30.0
#: A variable of proxies that is named like those of logins.
_PROXY: Final = "HTTP_PROXY"
_CONTENT_RANGE: Final = re.compile(r"bytes (?P<start>\d+)-(?P<end>\d+)/(?P<total>\d{1,18}|\*)")
_REASONS: Final = {
    401: Reason.ACCESS_DENIED,
    403: Reason.ACCESS_DENIED,
    407: Reason.ACCESS_DENIED,
    404: Reason.OBJECT_NOT_FOUND,
    410: Reason.OBJECT_NOT_FOUND,
    412: Reason.SOURCE_CHANGED,
    416: Reason.SIZE_MISMATCH,
}


class HttpStorage:
    """Models at http addresses, one object each."""

    is_conditional = True

    def __init__(
        self,
        settings: StorageSettings,
        profile: Path | None = None,
        allowed: UriRule | None = None,
    ) -> None:
        """Make a back end that has no connection yet.

        Args:
            settings: Limits, and denied addresses.
            profile: Folder of the credential profile; none for requests without credentials.
            allowed: What each hop of a redirect must be allowed by; that of the settings if None.
        """
        self._settings = settings
        self._profile = profile
        self._login: HttpLogin | None = None
        self._allowed = allowed or UriRule(settings.allowed_uris)
        self._way = WayOut(settings, AddressRule(settings.denied_networks))
        self._ambient = translated(os.environ)  # a process's own does not change
        self._looking = asyncio.Lock()
        self._found: Mapping[str, str] | None = None
        self._read_again_at = 0.0

    async def list(self, uri: StorageUri) -> Listing:
        """Learn size and etag of the object; its name is the last segment of the URI's path."""
        name = unquote(uri.path.rsplit("/", 1)[-1])
        if not name:
            raise SourceFault(Reason.INVALID_URI, f"{uri}: must name a file, not end with '/'")
        if "/" in name or path_fault(name):
            raise SourceFault(Reason.UNSAFE_PATH, f"{uri}: {name!a:.200} is not a valid file name")
        await self._look_up_login()
        item = await self._head(uri, name)
        # some answer HEAD with a length of 0, whatever the object holds
        if item is None or item.size == 0 or not item.is_ranged:
            item = await self._probe(uri, name, is_empty=item is not None and item.size == 0)
        return make_listing([item], is_single=True, where=uri)

    async def read(
        self, uri: StorageUri, item: SourceObject, start: int, end: int
    ) -> AsyncGenerator[Buffer, None]:
        """Read bytes of the object.

        A server that listed ranges and then sends all is read from the start, and what was not
        asked for is thrown away: slow, but it comes to an end.
        """
        is_whole = start == 0 and end in {item.size, UNKNOWN_SIZE}
        headers = _conditions(item)
        if not is_whole:
            headers["Range"] = f"bytes={start}-{end - 1}"
        if self._found is None:  # its listing was another instance's
            await self._look_up_login()
        async with self._follow("GET", uri, headers) as answer:
            self.check_answer(uri, answer, frozenset({200, 206}))
            _check_same(uri, item, answer)
            at = _first_byte(uri, answer, start)
            try:
                async for chunk in answer.content.iter_any():
                    begin = min(max(start - at, 0), len(chunk))
                    at += len(chunk)
                    if not is_whole and at >= end:
                        yield chunk[begin : len(chunk) - (at - end)]
                        return
                    yield chunk[begin:]
            except TimeoutError:
                raise stalled(uri, item, self._settings.answer_timeout_s) from None
            except (aiohttp.ClientError, OSError):
                raise SourceFault(
                    Reason.SOURCE_UNREACHABLE, f"{uri}: the connection broke"
                ) from None

    async def close(self) -> None:
        """Close all connections."""
        await self._way.close()

    def check_answer(
        self, uri: StorageUri, answer: aiohttp.ClientResponse, wanted: Collection[int]
    ) -> None:
        """Make sure that an answer has one of the wanted status codes.

        Raises:
            SourceFault: it has another; a server with words of its own overrides this method.
        """
        if answer.status not in wanted:
            reason = _REASONS.get(answer.status, Reason.SOURCE_ERROR)
            raise SourceFault(reason, f"{uri}: the server answered {answer.status}")

    async def _look_up_login(self) -> None:
        """Read the profile; a rotated Secret counts from the next listing on."""
        if self._profile is None:
            await self._look_up_way(self._ambient)
            return
        profile = await asyncio.to_thread(read_profile, self._profile)
        has_login = any(name.startswith("HTTP_") for name in profile.values if name != _PROXY)
        if has_login or not WAY_VARIABLES & profile.values.keys():
            self._login = http_login(profile.values)
        await self._look_up_way(with_places(profile, self._ambient).values)

    async def _look_up_way(self, values: Mapping[str, str]) -> None:
        """Take proxies and authorities; files of certificates are read again now and then."""
        found = {name: values[name] for name in WAY_VARIABLES if values.get(name)}
        async with self._looking:  # one after the other: each new trust has connections of its own
            now = time.monotonic()
            if found == self._found and now < self._read_again_at:
                return
            if any(name in found for name in TRUST_VARIABLES):
                await asyncio.to_thread(self._way.read, found)
            else:
                self._way.read(found)  # no file is read
            self._found, self._read_again_at = found, now + _TRUST_S

    async def _head(self, uri: StorageUri, name: str) -> SourceObject | None:
        async with self._follow("HEAD", uri, {}) as answer:
            if answer.status != 200:
                return None
            length = answer.headers.get("Content-Length", "")
            is_ranged = answer.headers.get("Accept-Ranges", "").strip().lower() == "bytes"
            is_size = length.isdecimal() and len(length) <= _MOST_DIGITS
            size = int(length) if is_size else UNKNOWN_SIZE
            return _source_object(name, size, answer, is_ranged=is_ranged and size >= 0)

    async def _probe(self, uri: StorageUri, name: str, *, is_empty: bool) -> SourceObject:
        """Request one byte: a partial answer has the size and proves support of ranges.

        `is_empty` says that a HEAD called the object empty: then it is, if it has no first byte.
        """
        async with self._follow("GET", uri, {"Range": "bytes=0-0"}) as answer:
            is_told = answer.headers.get("Content-Range") == "bytes */0"
            if answer.status == 416 and (is_told or is_empty):
                return _source_object(name, 0, answer, is_ranged=False)
            self.check_answer(uri, answer, frozenset({200, 206}))
            size, is_ranged = answer.content_length, False
            if answer.status == 206:
                match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
                total = match["total"] if match else "*"
                size, is_ranged = (int(total), True) if total != "*" else (None, False)
            answer.close()  # the body, if it is all of it, is not wanted
            known = UNKNOWN_SIZE if size is None else size
            return _source_object(name, known, answer, is_ranged=is_ranged)

    @contextlib.asynccontextmanager
    async def _follow(
        self, method: str, uri: StorageUri, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        url = _url(uri, f"{uri.scheme}://{uri.authority}{uri.path}{uri.query}")
        home, login = url.origin(), self._login
        if login is not None:
            login.check(url)
            headers = {**headers, "Authorization": login.authorization}
        for _ in range(_MAX_REDIRECTS + 1):
            answer = await self._send(method, uri, url, headers)
            try:
                if answer.status not in _REDIRECTS:
                    yield answer
                    return
                url = _next_hop(uri, url, answer.headers.get("Location", ""))
                place = StorageUri(url.scheme, url.raw_authority, url.raw_path)
                self._allowed.check(place, what=f"{uri}: a redirect")
                if url.origin() != home:
                    # For good: what another server sends back to us is that server's wish.
                    headers = {k: v for k, v in headers.items() if k != "Authorization"}
            finally:
                # A response whose body was read to its end has given its connection back already.
                answer.close()
        raise SourceFault(Reason.SOURCE_ERROR, f"{uri}: more than {_MAX_REDIRECTS} redirects")

    async def _send(
        self, method: str, uri: StorageUri, url: URL, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        try:
            return await self._way.request(method, url, headers)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise network_fault(uri, error) from None


def _url(uri: StorageUri, text: str) -> URL:
    try:
        url = URL(text, encoded=True)
        host = url.host
    except ValueError:
        host = None
    if not host:
        raise SourceFault(
            Reason.INVALID_URI, f"{uri}: is not a valid address, or redirects to one that is not"
        )
    return url


def _next_hop(uri: StorageUri, url: URL, location: str) -> URL:
    hop = _url(uri, str(url.join(_url_reference(uri, location))))
    if hop.scheme not in {"http", "https"} or (url.scheme == "https" and hop.scheme == "http"):
        raise SourceFault(
            Reason.ACCESS_DENIED, f"{uri}: a redirect from {url.scheme} to {hop.scheme} is refused"
        )
    if hop.raw_user or hop.raw_password:
        raise SourceFault(Reason.ACCESS_DENIED, f"{uri}: a redirect with user info is refused")
    return hop


def _url_reference(uri: StorageUri, location: str) -> URL:
    try:
        return URL(location, encoded=True)
    except ValueError:
        raise SourceFault(
            Reason.SOURCE_ERROR, f"{uri}: redirects to an address that is not valid"
        ) from None


def _source_object(
    name: str, size: int, answer: aiohttp.ClientResponse, *, is_ranged: bool
) -> SourceObject:
    headers = answer.headers
    return SourceObject(
        name,
        size,
        headers.get("ETag"),
        headers.get("Last-Modified"),
        is_ranged=is_ranged,
        checksum=header_checksum(headers, is_whole=answer.status == 200),
    )


def _conditions(item: SourceObject) -> dict[str, str]:
    if item.etag is not None:
        # A weak etag never matches by the book; the answer's own is compared instead.
        return {} if item.etag.startswith("W/") else {"If-Match": item.etag}
    return {"If-Unmodified-Since": item.last_modified} if item.last_modified else {}


def _check_same(uri: StorageUri, item: SourceObject, answer: aiohttp.ClientResponse) -> None:
    etag, modified = answer.headers.get("ETag"), answer.headers.get("Last-Modified")
    if item.etag is not None:
        is_other = etag is not None and etag.removeprefix("W/") != item.etag.removeprefix("W/")
    else:
        is_other = item.last_modified is not None and modified not in {None, item.last_modified}
    if is_other:
        raise SourceFault(Reason.SOURCE_CHANGED, f"{uri}: has changed since it was listed")
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    total = match["total"] if match else "*"
    size = answer.content_length if answer.status == 200 else None
    size = int(total) if total != "*" else size
    if item.size >= 0 and size is not None and size != item.size:
        raise SourceFault(
            Reason.SIZE_MISMATCH, f"{uri}: has {size} bytes, was listed with {item.size}"
        )


def _first_byte(uri: StorageUri, answer: aiohttp.ClientResponse, wanted: int) -> int:
    """Return where the answer's body begins within the object."""
    if answer.status == 200:
        return 0
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if match is None or int(match["start"]) != wanted:
        raise SourceFault(Reason.SOURCE_ERROR, f"{uri}: the server sent another range than asked")
    return wanted


def network_fault(uri: StorageUri, error: Exception) -> SourceFault:
    """Return the network fault that ended a request."""
    cause = getattr(error, "os_error", error)
    if isinstance(cause, DeniedAddressError):
        return SourceFault(Reason.ACCESS_DENIED, f"{uri}: {cause}")
    if isinstance(error, aiohttp.InvalidURL):
        return SourceFault(
            Reason.INVALID_URI, f"{uri}: is not a valid address, or redirects to one that is not"
        )
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        words = "its name does not resolve"
    elif isinstance(error, aiohttp.ClientHttpProxyError):
        reason = Reason.ACCESS_DENIED if error.status == 407 else Reason.SOURCE_UNREACHABLE
        return SourceFault(reason, f"{uri}: the proxy answered {error.status}")
    elif isinstance(error, aiohttp.ClientProxyConnectionError):
        told = cause.strerror if isinstance(cause, OSError) else None
        words = f"no connection to the proxy: {told or 'it does not answer'}"
    elif isinstance(error, aiohttp.ClientSSLError | aiohttp.ServerFingerprintMismatch):
        words = "its TLS certificate was not accepted"
    elif isinstance(error, asyncio.TimeoutError):
        words = "it did not answer in time"
    elif isinstance(error, aiohttp.ClientResponseError):
        return SourceFault(Reason.SOURCE_ERROR, f"{uri}: the server did not answer in HTTP")
    elif isinstance(cause, OSError) and cause.strerror:
        words = cause.strerror
    else:
        words = "the connection broke"
    return SourceFault(Reason.SOURCE_UNREACHABLE, f"{uri}: the server cannot be reached: {words}")
