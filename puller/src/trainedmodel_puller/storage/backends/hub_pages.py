"""Parses the answers of a hub's API, which are untrusted input. Pure.

A page of a repository's tree is a JSON list of files and folders. A file has a size and the SHA-1
that git gives its content; a large one has its SHA-256 as well. Both are checked after a fetch, and
they are the identity of the content: a file that two commits share is not fetched twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qs, quote

from trainedmodel_puller.storage.base import SourceObject
from trainedmodel_puller.storage.checksum import GIT_SHA1

_COMMIT: Final = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SHA1: Final = re.compile(r"[0-9a-f]{40}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class NotHubsAnswerError(ValueError):
    """An answer does not match a hub's API; the message names the fault."""


def read_commit(body: bytes) -> str:
    """Return the commit that an answer about a revision names.

    Raises:
        NotHubsAnswerError: there is none.
    """
    found = _parsed(body)
    commit = found.get("sha") if isinstance(found, dict) else None
    if not isinstance(commit, str) or _COMMIT.fullmatch(commit) is None:
        raise NotHubsAnswerError("it names no commit")
    return commit


def read_page(body: bytes) -> list[Mapping[str, Any]]:
    """Return the entries of one page of a tree: each has a `path` and a `type`.

    Raises:
        NotHubsAnswerError: it is no list of such entries.
    """
    found = _parsed(body)
    if not isinstance(found, list) or not all(_is_entry(entry) for entry in found):
        raise NotHubsAnswerError("it is no list of files and folders")
    return found


def next_query(link: str, previous: str) -> str | None:
    """Return the query of the next page from a `Link` header's address; None after the last.

    Only the query is taken: a token is never sent to another address because a header says so.

    Raises:
        NotHubsAnswerError: it leads to the page that was just read.
    """
    query = link.partition("?")[2].partition("#")[0]
    if not parse_qs(query):
        return None
    if f"?{query}" == previous:
        raise NotHubsAnswerError("its next page is itself")
    return f"?{quote(query, safe='=&%+-._~:/,')}"


def file_object(entry: Mapping[str, Any], commit: str, prefix: str) -> SourceObject:
    """Return the object of one file entry; its path is relative to `prefix`.

    Raises:
        NotHubsAnswerError: it has no size, or a name that no address can carry.
    """
    path, size, lfs = entry["path"], entry.get("size"), entry.get("lfs")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise NotHubsAnswerError("a file has no size")
    checksum: tuple[str, str] | None = None
    large = lfs.get("oid") if isinstance(lfs, dict) else None
    oid = entry.get("oid")
    if isinstance(large, str) and _SHA256.fullmatch(large.removeprefix("sha256:")):
        checksum = ("sha256", large.removeprefix("sha256:"))
    elif lfs is None and isinstance(oid, str) and _SHA1.fullmatch(oid):
        checksum = (GIT_SHA1, oid)
    etag = f'"{checksum[1]}"' if checksum else f'"{commit}"'
    return SourceObject(
        path.removeprefix(prefix), size, etag, key=f"{commit}/{path}", checksum=checksum
    )


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise NotHubsAnswerError("it is not JSON") from None


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
        return False
    path = entry.get("path")
    return isinstance(path, str) and _is_text(path)


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: no file or address has such a name
        return False
    return True
