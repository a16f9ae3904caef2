r"""The list of allowed URIs (`--allow-uri`), checked before any connection.

A prefix ends at a path boundary: `s3://models/team-a` matches itself and all paths below it, never
`s3://models/team-ab`. Scheme and host or bucket must be equal (the case of an http host and its
default port are ignored); queries are ignored.

Names are compared segment by segment, for http after decoding, since a server decodes as well. A
URI that the server could interpret differently is refused: segments that are dots after any number
of decodings or before a `;`, encoded slashes, and backslashes.

Each hop of a redirect must be in the list too. Otherwise an allowed server that redirects to an
address in its query would defeat the list. To allow a server's CDN, add it to the list.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import unquote

from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import StorageUri, parse_uri

from trainedmodel_puller.errors import SettingsError, SourceFault

_HTTP_PORTS: Final = {"http": ":80", "https": ":443"}
_MAX_DECODINGS: Final = 8

_Place = tuple[str, str, tuple[str, ...]]


class UriRule:
    """The allowed URIs; without prefixes, all are allowed."""

    def __init__(self, prefixes: Iterable[str] = ()) -> None:
        """Take prefixes apart.

        Raises:
            SettingsError: one is not a URI, has a query, or is ambiguous.
        """
        self._prefixes = tuple(_prefix(text) for text in prefixes)

    def check(self, uri: StorageUri, *, what: str = "") -> None:
        """Check one URI.

        Args:
            uri: What is about to be connected to.
            what: Shown first, if it is not the URI itself that a user wrote.

        Raises:
            SourceFault: UriNotAllowed.
        """
        if not self._prefixes:
            return
        place = _place(uri)
        if place is None or not any(_covers(prefix, place) for prefix in self._prefixes):
            shown = f"{what} leads to {uri.scheme}://{uri.authority}, which" if what else str(uri)
            raise SourceFault(
                Reason.URI_NOT_ALLOWED,
                f"{shown} is not below any prefix that --allow-uri gives to this puller",
            )


def _prefix(text: str) -> _Place:
    try:
        uri = parse_uri(text)
    except ValueError as error:
        raise SettingsError(f"--allow-uri {text!a:.200}: {error}") from None
    place = _place(uri)
    if place is None or uri.query:
        raise SettingsError(
            f"--allow-uri {text!a:.200}: must be a plain prefix like s3://bucket/folder, without "
            "query, encoded slashes or dots"
        )
    return place


def _covers(prefix: _Place, place: _Place) -> bool:
    return prefix[:2] == place[:2] and place[2][: len(prefix[2])] == prefix[2]


def _place(uri: StorageUri) -> _Place | None:
    """Return where a URI points, in a form to compare; None if that is ambiguous."""
    raw: Sequence[str] = uri.path.split("/")[1:]
    while raw and not raw[-1]:
        raw = raw[:-1]
    if any(_is_ambiguous(segment) for segment in raw):
        return None
    authority = uri.authority
    if uri.scheme in _HTTP_PORTS:
        authority = authority.lower().removesuffix(_HTTP_PORTS[uri.scheme])
        raw = [unquote(segment) for segment in raw]
    return uri.scheme, authority, tuple(raw)


def _is_ambiguous(segment: str) -> bool:
    for _ in range(_MAX_DECODINGS):
        is_dots = segment.split(";", 1)[0].strip() in {".", ".."}
        if is_dots or any(mark in segment for mark in ("/", "\\", "\0")):
            return True
        decoded = unquote(segment)
        if decoded == segment:
            return False
        segment = decoded
    return True
