"""Storage addresses of KServe, in the form that the puller reads.

gs:// s3:// hf:// pvc:// http(s)://       the same
az:// abfs(s):// wasb(s)://               the same
https://ACCOUNT.blob.core.windows.net/CONTAINER/PATH
                                          abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH
hdfs:// webhdfs:// oci:// ...             refused, with the alternative
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from trainedmodel_contract.uri import parse_uri

from trainedmodel_operator.core.conversion.result import Field, Unconvertible

_SAME: Final = frozenset(
    {
        *("s3", "s3a", "gs", "gcs", "hf", "pvc", "http", "https", "file"),
        *("az", "azure", "abfs", "abfss", "wasb", "wasbs"),
    }
)
_BLOB: Final = re.compile(
    r"https://(?P<account>[a-z0-9]{1,63})\.blob\.core\.windows\.net"
    r"(?:/(?P<container>[^/?#]+)(?P<path>/[^?#]*)?)?/?(?P<query>\?[^#]*)?",
    re.IGNORECASE,
)
_ZONE: Final = re.compile(
    r"https://[a-z0-9]+\.z[0-9]{1,2}\.blob\.storage\.azure\.net/", re.IGNORECASE
)
_SHARE: Final = re.compile(
    r"https://[a-z0-9]+\.(file\.core\.windows|z[0-9]{1,2}\.file\.storage\.azure)\.net/",
    re.IGNORECASE,
)
_COPY: Final = "copy the model to a store that the puller reads (s3, gs, abfss, https, hf, pvc)"
_ADVICE: Final = {
    "hdfs": f"the puller does not read HDFS: {_COPY}",
    "webhdfs": f"the puller does not read HDFS: {_COPY}",
    "oci": f"the puller does not read models in container images: {_COPY}",
    "oss": "the puller reads Alibaba's store by its S3 API: write s3://BUCKET/PATH, with a "
    "credential profile that sets AWS_ENDPOINT_URL",
    "mlflow": f"the puller does not ask an MLflow registry: {_COPY}",
    "ms": f"the puller does not read ModelScope: {_COPY}",
}


def readable_uri(found: Field) -> tuple[str, list[str]]:
    """Return a storage address in the form that the puller reads, and notes about it.

    Raises:
        Unconvertible: the puller does not read such addresses.
    """
    text = found.text()
    if not text:
        raise Unconvertible(f"{found.path} is missing: say where the model is")
    scheme = text.partition("://")[0].lower() if "://" in text else ""
    if scheme == "https":
        text = _azure(found, text)
    if not scheme:
        raise Unconvertible(
            f"{found} has no scheme: write an address such as s3://BUCKET/PATH or pvc://CLAIM/PATH"
        )
    if scheme not in _SAME:
        advice = _ADVICE.get(scheme, f"the puller does not read {scheme}://: {_COPY}")
        raise Unconvertible(f"{found}: {advice}")
    text = scheme_of(text) + text[text.index("://") :]
    try:
        parsed = parse_uri(text)
    except ValueError as error:
        raise Unconvertible(f"{found}: {error}") from error
    notes = []
    if parsed.scheme == "pvc":
        notes.append(
            f"is read from the claim {parsed.authority!r}: name it on the pods, in the annotation "
            "trainedmodel.dev/claims"
        )
    if parsed.scheme == "file":
        notes.append("is read from a local folder of the puller: allow it with --file-root")
    if parsed.scheme in {"az", "azure"}:
        notes.append(
            "names no storage account: set AZURE_STORAGE_ACCOUNT_NAME in its credential profile or "
            "in the puller's environment"
        )
    return text, notes


def scheme_of(text: str) -> str:
    """Return the scheme of an address, in lower case."""
    return text.partition("://")[0].lower()


def _azure(found: Field, text: str) -> str:
    """Return an https address; one of Azure's blobs in the form that names account and container.

    Raises:
        Unconvertible: it is one of Azure's that the puller does not read, or holds a signature.
    """
    if _SHARE.match(text):
        raise Unconvertible(
            f"{found}: the puller does not read Azure file shares: mount the share as a "
            "PersistentVolumeClaim and write pvc://CLAIM/PATH"
        )
    if _ZONE.match(text):
        raise Unconvertible(
            f"{found}: write az://CONTAINER/PATH, with a credential profile that sets "
            "AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ENDPOINT to the account's address"
        )
    match = _BLOB.fullmatch(text)
    if match is None:
        return text
    if match["query"]:
        raise Unconvertible(
            f"{found}: an address must not contain a signature: remove it, put it into a "
            "Secret as AZURE_STORAGE_SAS_TOKEN, and name that credential profile in "
            "spec.model.credentials"
        )
    if not match["container"]:
        raise Unconvertible(f"{found} names no container: write .../CONTAINER/PATH")
    try:
        path = unquote(match["path"] or "/", errors="strict")  # only http addresses are encoded
    except UnicodeDecodeError:
        raise Unconvertible(f"{found}: its path is not UTF-8: rename the blobs") from None
    if "?" in path or "#" in path:
        raise Unconvertible(f"{found}: the puller reads no blobs with '?' or '#' in their name")
    account = match["account"].lower()
    return f"abfss://{match['container']}@{account}.dfs.core.windows.net{path}"
