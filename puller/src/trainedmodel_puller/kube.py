"""The calls that a puller makes to the Kubernetes API: read, create, patch its own report.

The official client does them, of which configuration, authentication and transport are used. It is
imported late and in a thread: it costs a second and 40 MB, and the first model should not wait for
that. Documents go to it as they are, because it would copy a report of 10,000 models value by
value.

Answers to writes are asked for without what was written, and each patch empties `managedFields`,
which would name each field of each model again: half of the object in etcd, and of what the API
server has to do (measured with 5,000 models: 575 KB and 0.48 s a patch, without it 310 KB and
0.25 s). One writer needs no record of who wrote what.
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
_MERGE_PATCH: Final = "application/merge-patch+json"
_FIELD_MANAGER: Final = "trainedmodel-puller"
#: What the API server says in a 500 when etcd, or its own client of etcd, finds a write too large.
_TOO_LARGE: Final = ("request is too large", "message larger than max")


class ReportGone(PullerError):
    """The report does not exist (any more)."""


class ReportRefused(PullerError):
    """The API server does not take what was sent, and would not take it a second time.

    Attributes:
        status: Of the HTTP answer.
        is_too_large: It is a matter of size, and not of what is in it.
    """

    def __init__(self, status: int, message: str, *, is_too_large: bool) -> None:
        super().__init__(f"{status} {message}")
        self.status = status
        self.is_too_large = is_too_large


class ApiUnavailable(PullerError):
    """The API server did not answer, or with an error that passes."""


class ReportClient:
    """Speaks to the API server as the pod's service account.

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
        try:
            raw = await self._request("GET", f"{self._folder}/{name}", accept=_JSON)
        except ReportGone:
            return None
        document: dict[str, Any] = await asyncio.to_thread(json.loads, raw)
        return document

    async def read_version(self, name: str) -> str | None:
        """Return the report's resourceVersion alone, or None when there is no report."""
        try:
            return _version(await self._request("GET", f"{self._folder}/{name}"))
        except ReportGone:
            return None

    async def create(self, document: dict[str, Any]) -> str:
        """Create the report and return its resourceVersion.

        Raises:
            ReportRefused: it is too large, or breaks its schema.
        """
        return _version(await self._request("POST", self._folder, document))

    async def patch(self, name: str, patch: dict[str, Any]) -> str:
        """Merge a patch into the report and return its resourceVersion.

        Raises:
            ReportGone: there is none.
            ReportRefused: it would be too large, or break its schema.
        """
        metadata = {**patch.get("metadata", {}), "managedFields": [{}]}
        body = {**patch, "metadata": metadata}
        return _version(await self._request("PATCH", f"{self._folder}/{name}", body))

    async def close(self) -> None:
        """Let go of connections."""
        if self._client is not None:
            await self._client.close()

    async def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        accept: str = _METADATA_ONLY,
    ) -> bytes:
        client = await self._ready()
        query = [("fieldManager", _FIELD_MANAGER)] if body is not None else []
        content_type = _MERGE_PATCH if method == "PATCH" else _JSON
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                _, url, headers, _, _ = await client.param_serialize(
                    method,
                    path,
                    query_params=query,
                    header_params={"Accept": accept, "Content-Type": content_type},
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
                raise ApiUnavailable(f"no way to the Kubernetes API: {error}") from error
            self._client = await asyncio.to_thread(client.ApiClient, configuration)
        return self._client


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
    if is_too_large or status in {400, 422}:
        return ReportRefused(status, message, is_too_large=is_too_large)
    return ApiUnavailable(f"{status} {message}")
