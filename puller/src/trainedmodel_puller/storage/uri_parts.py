"""The parts of a storage URI that its scheme supports. Pure.

An unsupported part must not be ignored: a pinned version would become the newest one. So a URI with
such a part is refused, and the message names the part. The supported parts of each scheme:

    http(s)             all of it, as written
    s3, gs, az, ...     bucket or container (and account), key; a slash at the end means a folder
    hf                  organisation, model, revision, path (`hub_names`)
    pvc, file           claim, path; two slashes in a row are one, as they are for the kernel
"""

from __future__ import annotations

import re
from typing import Final

from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import ENCODED_SCHEMES, StorageUri

from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.backends.object_clients import PROVIDERS

_ESCAPE: Final = re.compile(r"%[0-9A-Fa-f]{2}")
#: Parameters that people put there, and what to do instead. Others are not shown: they may be
#: secrets.
_PARAMETERS: Final = (
    ("versionid", "copy that version to a key of its own, or state its spec.model.digest"),
    ("generation", "copy that generation to a name of its own, or state its spec.model.digest"),
    ("snapshot", "copy that snapshot to a blob of its own, or state its spec.model.digest"),
    (
        "sig",
        "put the SAS token into AZURE_STORAGE_SAS_TOKEN of a credential profile or of the "
        "puller's environment",
    ),
    ("x-amz-signature", "write the signed link as https://, or use a credential profile"),
    ("x-goog-signature", "write the signed link as https://, or use a credential profile"),
    ("revision", "write hf://organisation/model@revision"),
)
_ADVICE: Final = "remove it; names with a '?' in them cannot be fetched"


def check_parts(uri: StorageUri) -> None:
    """Make sure that each part of a URI will be used.

    Raises:
        SourceFault: InvalidUri; the message names the part and never shows a query's values.
    """
    if uri.scheme in ENCODED_SCHEMES:
        return
    if uri.query:
        names = {pair.partition("=")[0].lower() for pair in re.split("[?&]", uri.query)}
        known = next(((name, advice) for name, advice in _PARAMETERS if name in names), None)
        shown, advice = (f" ('{known[0]}')", known[1]) if known else ("", _ADVICE)
        raise _invalid(
            uri, f"has a query{shown} after '?', which {uri.scheme} does not support: {advice}"
        )
    if uri.scheme in PROVIDERS and "//" in uri.path:
        raise _invalid(
            uri,
            "has an empty path segment ('//'); keys with one cannot be fetched: copy the model to "
            "another key, or write one slash if that is what is meant",
        )


def explained(fault: SourceFault, uri: StorageUri) -> SourceFault:
    """Add to a "not found" what its reader may not know of the URI's spelling."""
    if fault.reason is not Reason.OBJECT_NOT_FOUND or uri.scheme in ENCODED_SCHEMES:
        return fault
    # the first segment of an hf path has the revision, which may be escaped
    path = uri.path[1:].partition("/")[2] if uri.scheme == "hf" else uri.path
    escape = _ESCAPE.search(path)
    if escape is None:
        return fault
    if escape[0] == "%20":
        words = "'%20' is taken as written: if the name has a space, write the space"
    else:
        words = f"{escape[0]!r} is taken as written: if the name has another character, write that"
    return SourceFault(fault.reason, f"{fault.message}; {words}")


def _invalid(uri: StorageUri, words: str) -> SourceFault:
    return SourceFault(Reason.INVALID_URI, f"{uri}: {words}")
