"""The puller's calls of the Kubernetes API: read, create and replace its own report.

A pod may read and write its own report only. RBAC cannot express that, so an admission policy does,
and a policy sees only creations, updates and deletions. It does not see a GET, and it sees a PATCH
too late: the API server's answer to a patch that does not match the schema contains the whole
object, before any policy runs. So a pod has neither right. Instead

* a write is a PUT of the whole report, with the resourceVersion of the last one. It costs the API
  server less than a patch (measured with 5,000 models, 360 KB: 0.54 s of a processor against
  0.72 s), and a write by another client in between makes it a conflict;
* a read is a deletion with `dryRun`, whose answer is the object. With foreground propagation the
  object would have to wait for its dependents, so the answer is the object and not just a status.

The calls use the configuration, authentication and transport of the official client. It is imported
late and in a thread: it costs a second and 40 MB, and the first model should not wait for that.
Documents are passed to it as they are, because it would copy a report of 10,000 models value by
value.

Answers to writes are requested without the written object. Each PUT empties `managedFields`, which
would name each field of each model again: half of the object in etcd, and of the API server's work.
A report has one writer, so field ownership is not needed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from trainedmodel_contract import modelreport, names

from trainedmodel_puller.errors import PullerError

_TIMEOUT_S: Final = 10.0
_JSON: Final = "application/json"
_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_FIELD_MANAGER: Final = "trainedmodel-puller"
#: The finalizer that a deletion with foreground propagation shows.
_FOREGROUND: Final = "foregroundDeletion"
_TRIED_DELETION: Final = {
    "apiVersion": "v1",
    "kind": "DeleteOptions",
    "dryRun": ["All"],
    "propagationPolicy": "Foreground",
}
#: What the API server says in a 500 when etcd, or its own client of etcd, finds a write too large.
_TOO_LARGE: Final = ("request is too large", "message larger than max")


class ReportGone(PullerError):
    """The report does not exist (any more)."""


class ReportRefused(PullerError):
    """The API server refused a write, and would refuse it again.

    Attributes:
        status: Of the HTTP answer.
        is_too_large: It was refused for its size, not for its content.
    """

    def __init__(self, status: int, message: str, *, is_too_large: bool) -> None:
        super().__init__(f"{status} {message}")
        self.status = status
        self.is_too_large = is_too_large


class ApiUnavailable(PullerError):
    """The API server did not answer, or returned a temporary error."""


class ReportConflict(ApiUnavailable):
    """Another client wrote, deleted or created the report since it was last read or written."""


class ReportClient:
    """Calls the API server with the pod's service account.

    Each call may raise `ApiUnavailable`.

    Args:
        namespace: The pod's.
        account_dir: Folder with `token` and `ca.crt`, as a kubelet mounts it.
    """

    def __init__(self, namespace: str, account_dir: Path) -> None:
        self._folder = (
            f"/apis/{names.GROUP}/{names.VERSION}/namespaces/{namespace}/{modelreport.PLURAL}"
        )
        self._account_dir = account_dir
        self._client: Any = None

    async def read(self, name: str) -> dict[str, Any] | None:
        """Return the report, or None when there is none."""
        path = f"{self._folder}/{name}"
        try:
            raw = await self._request("DELETE", path, _TRIED_DELETION, accept=_JSON)
        except ReportGone:
            return None
        document: dict[str, Any] = await asyncio.to_thread(json.loads, raw)
        return _as_it_is(document)

    async def create(self, document: dict[str, Any]) -> str:
        """Create the report and return its resourceVersion.

        Raises:
            ReportConflict: there is one already.
            ReportRefused: it is too large, or breaks its schema.
        """
        return _version(await self._request("POST", self._folder, document))

    async def replace(self, document: dict[str, Any]) -> str:
        """Replace the report, which has a resourceVersion, and return the new resourceVersion.

        Raises:
            ReportGone: there is none.
            ReportConflict: it has another resourceVersion.
            ReportRefused: it is too large, or breaks its schema.
        """
        metadata = {**document["metadata"], "managedFields": [{}]}
        path = f"{self._folder}/{metadata['name']}"
        return _version(await self._request("PUT", path, {**document, "metadata": metadata}))

    async def close(self) -> None:
        """Let go of connections."""
        if self._client is not None:
            await self._client.close()

    async def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any],
        accept: str = _METADATA_ONLY,
    ) -> bytes:
        client = await self._ready()
        query = [] if method == "DELETE" else [("fieldManager", _FIELD_MANAGER)]
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                _, url, headers, _, _ = await client.param_serialize(
                    method,
                    path,
                    query_params=query,
                    header_params={"Accept": accept, "Content-Type": _JSON},
                    auth_settings=["BearerToken"],
                )
                answer = await client.call_api(
                    method, url, headers, body, _request_timeout=_TIMEOUT_S
                )
                raw: bytes = await answer.read()
        except Exception as error:  # the client's own, aiohttp's, the system's: all mean the same
            raise ApiUnavailable(f"{method} {path}: {type(error).__name__} {error}") from error
        if not 200 <= answer.status < 300:
            raise _fault(f"{method} {path}", answer.status, raw)
        return raw

    async def _ready(self) -> Any:
        if self._client is None:
            client = await asyncio.to_thread(import_module, "kubernetes.aio.client")
            config = await asyncio.to_thread(
                import_module, "kubernetes.aio.config.incluster_config"
            )
            configuration = client.Configuration()
            loader = config.InClusterConfigLoader(
                token_filename=str(self._account_dir / "token"),
                cert_filename=str(self._account_dir / "ca.crt"),
            )
            try:
                await asyncio.to_thread(loader.load_and_set, configuration)
            except (config.ConfigException, OSError) as error:
                raise ApiUnavailable(f"cannot reach the Kubernetes API: {error}") from error
            # The variables of proxies are for stores. Their NO_PROXY knows no networks in this
            # client, so the API server's address would be sent to the proxy.
            configuration.client_session_kwargs = {"trust_env": False}
            self._client = await asyncio.to_thread(client.ApiClient, configuration)
        return self._client


def _as_it_is(document: dict[str, Any]) -> dict[str, Any]:
    """Return a report without what the deletion that was tried would change of it."""
    tried = ("deletionTimestamp", "deletionGracePeriodSeconds", "finalizers")
    metadata = {key: value for key, value in document["metadata"].items() if key not in tried}
    finalizers = [one for one in document["metadata"].get("finalizers", ()) if one != _FOREGROUND]
    if finalizers:
        metadata["finalizers"] = finalizers
    return {**document, "metadata": metadata}


def _version(raw: bytes) -> str:
    version: str = json.loads(raw)["metadata"]["resourceVersion"]
    return version


def _fault(request: str, status: int, raw: bytes) -> PullerError:
    try:
        said = str(json.loads(raw).get("message", ""))[:500]
    except (ValueError, AttributeError):
        said = raw[:300].decode(errors="replace")
    message = f"{request}: {said}"
    is_too_large = status == 413 or any(words in said for words in _TOO_LARGE)
    if status == 404:
        return ReportGone(message)
    if status == 409:
        return ReportConflict(f"{status} {message}")
    if is_too_large or status in {400, 422}:
        return ReportRefused(status, message, is_too_large=is_too_large)
    return ApiUnavailable(f"{status} {message}")
