"""Parses `hf://` URIs: a repository, a revision of it, and a path inside. Pure.

    hf://<organisation>/<model>[@<revision> | :<revision>][/<path>]

`:` is KServe's spelling and `@` is Hugging Face's; both mean the same. A revision is a branch, a
tag or a commit. Its slashes are written `%2F`, except in `refs/pr/<n>` and `refs/convert/<name>`,
which are known. The path is used as written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import StorageUri

from trainedmodel_puller.errors import SourceFault

DEFAULT_REVISION: Final = "main"
_FORM: Final = "must be hf://organisation/model, with @revision and /path after it if need be"
#: First segments that name something else than an organisation.
_OTHER_KINDS: Final = frozenset({"models", "datasets", "spaces", "kernels", "buckets"})
_PATH: Final = re.compile(
    r"/(?P<name>[^/@:]+)"
    r"(?:[@:](?P<revision>refs/(?:pr/[0-9]+|convert/[^/]+)|[^/]*))?"
    r"(?:/(?P<path>.*))?",
    re.DOTALL,
)
_NAME: Final = re.compile(r"(?!.*(?:\.\.|--))[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
#: What git takes for the name of a branch or tag, and no more than a hub's address can carry.
_REVISION: Final = re.compile(
    r"(?!.*(?:\.\.|//|/\.|@\{))[^\x00-\x20\x7f~^:?*\[\\/.-][^\x00-\x20\x7f~^:?*\[\\]{0,254}(?<![/.])"
)


@dataclass(frozen=True, slots=True)
class HubPlace:
    """A place on a hub.

    Attributes:
        repository: `organisation/model`.
        revision: A branch, tag or commit; its slashes are slashes.
        path: Of a file or folder in the repository; empty for all of it.
        is_folder: The URI ends with a slash, so it names no file.
    """

    repository: str
    revision: str
    path: str
    is_folder: bool


def hub_place(uri: StorageUri) -> HubPlace:
    """Take an `hf://` URI apart.

    Raises:
        SourceFault: InvalidUri; the message names the part and the right form.
    """
    if uri.authority in _OTHER_KINDS:
        raise _invalid(uri, f"{uri.authority!r} is no organisation; only models can be fetched")
    match = _PATH.fullmatch(uri.path)
    if match is None or not _NAME.fullmatch(uri.authority) or not _NAME.fullmatch(match["name"]):
        raise _invalid(uri, _FORM)
    written = match["revision"]
    revision = DEFAULT_REVISION if written is None else unquote(written)
    if _REVISION.fullmatch(revision) is None:
        raise _invalid(
            uri, f"{written!a:.100} is no revision; write a branch, a tag or a commit after '@'"
        )
    path = match["path"] or ""
    if "" in path.split("/")[:-1]:
        raise _invalid(uri, "has an empty path segment ('//')")
    return HubPlace(
        f"{uri.authority}/{match['name']}",
        revision,
        path.removesuffix("/"),
        is_folder=uri.path.endswith("/"),
    )


def _invalid(uri: StorageUri, words: str) -> SourceFault:
    return SourceFault(Reason.INVALID_URI, f"{uri}: {words}")
