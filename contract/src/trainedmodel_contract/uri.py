"""Storage URIs: the rules of `spec.model.storageUri`.

`kubectl get`, logs and reports show URIs, so a URI must never carry a secret. User info is refused,
and queries (signed links) are cut before a URI is shown.

A path is used as written, spaces included: it is the key of an object or the path of a file. Only
an http address is percent-encoded, so a space in it is `%20`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

#: The least that makes a URI. A stricter pattern would hide the messages of the other rules.
STORAGE_URI_PATTERN: Final = r"^[a-z][a-z0-9+.-]*://"
#: `abfs://container@account.dfs.core.windows.net/path` has an @ that is not user info.
CONTAINER_AT_ACCOUNT_SCHEMES: Final = frozenset({"abfs", "abfss", "az", "wasb", "wasbs"})

#: Schemes whose paths are percent-encoded.
ENCODED_SCHEMES: Final = frozenset({"http", "https"})

#: The Unicode categories Z and Cc (CEL's `\\p{Z}` and `\\p{Cc}`) without the plain space. It is a
#: compiled pattern, because each start checks a thousand URIs.
BLANK: Final = re.compile(r"[\x00-\x1f\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
_URI = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<rest>.*)"
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
    """Parse a storage URI.

    Raises:
        ValueError: it is not a URI, carries user info, or has `.` or `..` among its segments;
            the message names the fault and does not repeat a secret.
    """
    if BLANK.search(text):
        raise ValueError(
            "storageUri must not have control characters, or white space other than plain spaces"
        )
    match = _URI.fullmatch(text)
    if match is None:
        raise ValueError("storageUri must look like scheme://bucket-or-host/path")
    scheme, authority, path = match["scheme"], match["authority"], match["path"]
    if " " in authority or text.endswith(" "):
        raise ValueError("storageUri may have spaces within its path only, and not at its end")
    if scheme in ENCODED_SCHEMES and " " in text:
        raise ValueError("storageUri must have %20 for a space in an http address")
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
