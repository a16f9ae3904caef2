"""Outgoing connections: proxies and private authorities, by one rule for all schemes.

Proxies come from the usual variables (`core.proxies`). Certificates of private
authorities are trusted in addition to the system's: `SSL_CERT_FILE`, `REQUESTS_CA_BUNDLE`,
`CURL_CA_BUNDLE`, and for S3 `AWS_CA_BUNDLE`. Each names a file, or holds the certificates itself,
as a mounted Secret does. Both come from the credential profile, and from the environment where the
profile has none.

A proxy resolves names itself, so the puller does not resolve them, and the proxy decides which
addresses they may have. Addresses in a URI, in any spelling, are still checked here
(`address_guard`).
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import aiohttp
from trainedmodel_contract.reasons import Reason
from yarl import URL

from trainedmodel_puller.core.proxies import (
    PROXY_VARIABLES,
    TRUST_VARIABLES,
    ProxyError,
    proxy_for,
)
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.backends.address_guard import AddressRule, CheckedResolver
from trainedmodel_puller.storage.settings import StorageSettings

_PEM: Final = "-----BEGIN CERTIFICATE-----"
_MOST_BYTES: Final = 4 * 1024 * 1024
_BUFFER_BYTES: Final = 256 * 1024


def certificates(values: Mapping[str, str], *more: str) -> bytes:
    """Return the certificates that variables name or hold, as PEM; blocks.

    Args:
        values: Translated variables.
        more: Names beside `TRUST_VARIABLES`.

    Raises:
        SourceFault: SourceError: a variable names no file that can be read, or no certificates.
    """
    found: list[bytes] = []
    for name in (*TRUST_VARIABLES, *more):
        text = values.get(name, "")
        if not text:
            continue
        content = text.encode() if _PEM in text else _read(name, Path(text))
        if _PEM.encode() not in content:
            raise _unusable(name, "has no certificate in PEM form")
        if content not in found:
            found.append(content)
    return b"\n".join(found)


def _read(name: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise _unusable(
            name, f"names {path.name!a:.100}, which is not readable: {error.strerror}"
        ) from None
    if len(content) > _MOST_BYTES:
        raise _unusable(name, f"names a file of more than {_MOST_BYTES} bytes")
    return content


def _unusable(name: str, words: str) -> SourceFault:
    return SourceFault(Reason.SOURCE_ERROR, f"{name} {words}")


class WayOut:
    """Connections over http(s), configured by variables; one for each credential profile."""

    def __init__(self, settings: StorageSettings, rule: AddressRule) -> None:
        """Make no connection yet.

        Args:
            settings: Limits of time.
            rule: Which addresses are never connected to.
        """
        self._settings = settings
        self._rule = rule
        self._variables: Mapping[str, str] = {}
        self._trust: ssl.SSLContext | bool = True
        self._stamp = b""
        self._direct: aiohttp.ClientSession | None = None
        self._proxied: aiohttp.ClientSession | None = None

    def read(self, values: Mapping[str, str]) -> None:
        """Take variables, and read the certificates that they name; blocks.

        Raises:
            SourceFault: they cannot be used.
        """
        pem = certificates(values)
        stamp = hashlib.sha256(pem).digest() if pem else b""
        if stamp != self._stamp:
            self._trust = _context(pem) if pem else True
            self._stamp = stamp
        self._variables = {name: values[name] for name in PROXY_VARIABLES if values.get(name)}

    async def request(
        self, method: str, url: URL, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """Make one request; redirects are the caller's to follow.

        Raises:
            SourceFault: SourceError: no proxy can be used as it is configured.
            OSError, aiohttp.ClientError: it failed; DeniedAddressError among them.
        """
        host = url.host or ""
        self._rule.check_host(host)
        try:
            proxy = proxy_for(url.scheme, host, url.port, self._variables)
        except ProxyError as error:
            raise SourceFault(Reason.SOURCE_ERROR, str(error)) from None
        session = self._direct_session() if proxy is None else self._proxied_session()
        return await session.request(
            method,
            url,
            headers=headers,
            allow_redirects=False,
            proxy=proxy,
            ssl=self._trust,
        )

    async def close(self) -> None:
        """Close all connections."""
        for session in (self._direct, self._proxied):
            if session is not None:
                await session.close()

    def _direct_session(self) -> aiohttp.ClientSession:
        if self._direct is None:
            resolver = CheckedResolver(self._rule)
            self._direct = self._session(
                aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, limit=0)
            )
        return self._direct

    def _proxied_session(self) -> aiohttp.ClientSession:
        """Return the session of which only the proxy's own name is resolved here, unchecked.

        Whoever configures a proxy may have it anywhere, on a link-local address for one.
        """
        if self._proxied is None:
            self._proxied = self._session(aiohttp.TCPConnector(use_dns_cache=False, limit=0))
        return self._proxied

    def _session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        limits = self._settings
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(
                total=None,
                connect=limits.answer_timeout_s,  # DNS and a proxy's answer included
                sock_connect=limits.connect_timeout_s,
                sock_read=limits.answer_timeout_s,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # sizes and etags are of the bytes as stored
            headers={"Accept-Encoding": "identity", "User-Agent": "trainedmodel-puller"},
            read_bufsize=_BUFFER_BYTES,
            trust_env=False,  # no netrc; proxies are chosen above
        )


def _context(pem: bytes) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(cadata=pem.decode("ascii", "replace"))
    except (ssl.SSLError, ValueError):
        names = ", ".join(TRUST_VARIABLES)
        raise _unusable(names, "have a certificate that cannot be read") from None
    return context
