"""Storage URIs: what may stand in `spec.model.storageUri`.

A URI is shown in `kubectl get`, logs and reports, so it must never carry a secret: user info is
refused, and queries (signed links) are cut from whatever is shown.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

STORAGE_URI_PATTERN: Final = r"^[a-z][a-z0-9+.-]*://[^\s]+$"
#: `abfs://container@account.dfs.core.windows.net/path` has an @ that is no user info.
CONTAINER_AT_ACCOUNT_SCHEMES: Final = frozenset({"abfs", "abfss", "az", "wasb", "wasbs"})

#: Unicode categories of white space and control characters, as CEL's `[\\p{Z}\\p{Cc}]`.
_BLANK: Final = frozenset({"Zs", "Zl", "Zp", "Cc"})
_URI = re.compile(
    r"^(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<authority>[^/?#\s]*)(?P<path>[^?#\s]*)(?P<rest>[^\s]*)$"
)


@dataclass(frozen=True, slots=True)
class StorageUri:
    """A storage URI in its parts.

    Attributes:
        scheme: Lower case, without `://`.
        authority: Bucket, host or container; may be empty (`file:///models`).
        path: With its leading slash, as written (not unquoted); may be empty.
        query: With its leading `?`; empty when there is none. May hold a signature: never show it.
    """

    scheme: str
    authority: str
    path: str
    query: str = ""

    @property
    def key(self) -> str:
        """The object key or prefix: the path without slashes at either end."""
        return self.path.strip("/")

    def __str__(self) -> str:
        """Show the URI without its query."""
        return f"{self.scheme}://{self.authority}{self.path}"


def parse_uri(text: str) -> StorageUri:
    """Take a storage URI apart.

    Raises:
        ValueError: it is not a URI, carries user info, or has `.` or `..` among its segments;
            the message names the fault and does not repeat a secret.
    """
    if not text.isprintable() and any(unicodedata.category(c) in _BLANK for c in text):
        raise ValueError("storageUri must not have white space or control characters")
    match = _URI.fullmatch(text)
    if match is None:
        raise ValueError("storageUri must look like scheme://bucket-or-host/path")
    scheme, authority, path = match["scheme"], match["authority"], match["path"]
    if "@" in authority and (
        scheme not in CONTAINER_AT_ACCOUNT_SCHEMES or ":" in authority.rpartition("@")[0]
    ):
        raise ValueError(
            "storageUri must not carry user info before '@': use model.credentials instead"
        )
    if any(part in {".", ".."} for part in (authority, *path.split("/"))):
        raise ValueError("storageUri must not have '.' or '..' as a bucket, host or path segment")
    rest = match["rest"]
    if "#" in rest:
        raise ValueError("storageUri must not have a fragment ('#...')")
    if not authority and not path.strip("/"):
        raise ValueError("storageUri must name a bucket, host or path after '://'")
    return StorageUri(scheme, authority, path, rest)
