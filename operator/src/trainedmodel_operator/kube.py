"""Requests to the Kubernetes API: every read and write of the operator, and nothing else.

`KubeClient` is the seam: the shell knows this protocol only, tests that must force a fault or a
delay implement it in memory, all others run against a real API server.

`ApiKubeClient` is the implementation over the official client's `kubernetes.aio`, of which it uses
the configuration, authentication and transport. It speaks in plain JSON documents: building model
objects for thousands of TrainedModels costs more than all decisions about them.

Promises: a list is whole or an error (a page that fails fails the list, O1); lists are consistent
reads, never served from a stale cache; every request has a time limit; every write names its field
manager; what comes back as an error is one of `errors`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import aiohttp
from kubernetes.aio import client as kubernetes_client
from kubernetes.aio import config as kubernetes_config
from trainedmodel_contract import modelreport, names, trainedmodel

from trainedmodel_operator.core.shards import ShardWrite, WriteKind
from trainedmodel_operator.errors import (
    ApiError,
    ConfigurationError,
    Conflict,
    NotFound,
    Refused,
    Throttled,
    Unavailable,
)
from trainedmodel_operator.metrics import Metrics

Document = Mapping[str, Any]

FIELD_MANAGER: Final = names.MANAGED_BY
PAGE_SIZE: Final = 500
TIMEOUT_S: Final = 30.0

_JSON: Final = "application/json"
_MERGE_PATCH: Final = "application/merge-patch+json"
_JSON_PATCH: Final = "application/json-patch+json"
_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_GROUP_PATH: Final = f"/apis/{names.GROUP}/{names.VERSION}"


class KubeClient(Protocol):
    """What the operator asks of the API. `namespace` None: all namespaces."""

    async def list_models(self, namespace: str | None, parent: str | None) -> list[Document]:
        """List TrainedModels, of one parent or all."""
        ...

    async def list_shards(self, namespace: str, parent: str) -> list[Document]:
        """List a parent's shards, by our labels."""
        ...

    async def list_shard_metadata(self, namespace: str | None) -> list[Document]:
        """List all shards without their data."""
        ...

    async def get_config_map(self, namespace: str, name: str) -> Document | None:
        """Read one ConfigMap, whosever it is; None if there is none."""
        ...

    async def list_pods(self, namespace: str, parent: str) -> list[Document]:
        """List a parent's pods that carry a puller, under either label."""
        ...

    async def list_report_metadata(self, namespace: str, parent: str) -> list[Document]:
        """List a parent's reports without what they say."""
        ...

    async def get_report(self, namespace: str, name: str) -> Document | None:
        """Read one report; None if there is none."""
        ...

    async def write_shard(self, namespace: str, write: ShardWrite) -> None:
        """Carry out one shard write. One that deletes what is gone already has succeeded."""
        ...

    async def annotate_pod(self, namespace: str, name: str, value: str) -> None:
        """Set the pod's config annotation."""
        ...

    async def write_status(self, namespace: str, name: str, uid: str, status: Document) -> None:
        """Replace the status of the TrainedModel that has this uid.

        Raises:
            NotFound: it is gone, or another object has its name.
        """
        ...


async def load_configuration() -> kubernetes_client.Configuration:
    """Read how to reach the API: KUBECONFIG, the pod's service account, or ~/.kube/config.

    Raises:
        ConfigurationError: none of them is usable.
    """
    configuration = kubernetes_client.Configuration()
    try:
        if "KUBECONFIG" not in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ:
            kubernetes_config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
        else:
            await kubernetes_config.load_kube_config(  # type: ignore[no-untyped-call]
                client_configuration=configuration
            )
    except (kubernetes_config.ConfigException, OSError) as error:
        raise ConfigurationError(f"no way to the Kubernetes API: {error}") from error
    return configuration


class ApiKubeClient:
    """The protocol over `kubernetes.aio`."""

    def __init__(
        self,
        api: kubernetes_client.ApiClient,
        metrics: Metrics,
        fence: Callable[[], None] = lambda: None,
    ) -> None:
        """Speak over `api`; `fence` is called before every write and raises if none may be sent."""
        self._api = api
        self._metrics = metrics
        self._fence = fence

    async def list_models(self, namespace: str | None, parent: str | None) -> list[Document]:
        """List TrainedModels; one parent's by field selector (CRD `selectableFields`)."""
        query = {} if parent is None else {"fieldSelector": f"spec.inferenceService={parent}"}
        return await self._list(_GROUP_PATH, namespace, trainedmodel.PLURAL, query)

    async def list_shards(self, namespace: str, parent: str) -> list[Document]:
        """List a parent's shards, by our labels."""
        query = {"labelSelector": f"{_OURS},{names.PARENT_LABEL}={parent}"}
        return await self._list("/api/v1", namespace, "configmaps", query)

    async def list_shard_metadata(self, namespace: str | None) -> list[Document]:
        """List all shards without their data."""
        query = {"labelSelector": f"{_OURS},{names.PARENT_LABEL}"}
        return await self._list("/api/v1", namespace, "configmaps", query, accept=_METADATA_ONLY)

    async def get_config_map(self, namespace: str, name: str) -> Document | None:
        """Read one ConfigMap."""
        return await self._get(f"/api/v1/namespaces/{namespace}/configmaps/{name}")

    async def list_pods(self, namespace: str, parent: str) -> list[Document]:
        """List a parent's pods under each label that may name it, merged by uid."""
        injected = f"{names.INJECT_LABEL}={names.INJECT_VALUE}"
        pods: dict[str, Document] = {}
        for label in names.PARENT_POD_LABELS:
            query = {"labelSelector": f"{injected},{label}={parent}"}
            for pod in await self._list("/api/v1", namespace, "pods", query):
                pods[pod["metadata"]["uid"]] = pod
        return list(pods.values())

    async def list_report_metadata(self, namespace: str, parent: str) -> list[Document]:
        """List a parent's reports without what they say: a tenth of a per cent of the bytes."""
        query = {"fieldSelector": f"inferenceService={parent}"}
        return await self._list(
            _GROUP_PATH, namespace, modelreport.PLURAL, query, accept=_METADATA_ONLY
        )

    async def get_report(self, namespace: str, name: str) -> Document | None:
        """Read one report."""
        return await self._get(f"{_GROUP_PATH}/namespaces/{namespace}/{modelreport.PLURAL}/{name}")

    async def write_shard(self, namespace: str, write: ShardWrite) -> None:
        """Carry out one shard write."""
        folder = f"/api/v1/namespaces/{namespace}/configmaps"
        if write.kind is WriteKind.CREATE:
            await self._write("POST", folder, write.body)
        elif write.kind is WriteKind.PATCH:
            await self._write("PATCH", f"{folder}/{write.name}", write.body, _MERGE_PATCH)
        else:
            try:
                await self._request("DELETE", f"{folder}/{write.name}", body=write.body)
            except NotFound:
                return
        self._metrics.count_write(f"shard_{write.kind}")

    async def annotate_pod(self, namespace: str, name: str, value: str) -> None:
        """Set the pod's config annotation."""
        body = {"metadata": {"annotations": {names.CONFIG_ANNOTATION: value}}}
        await self._write(
            "PATCH", f"/api/v1/namespaces/{namespace}/pods/{name}", body, _MERGE_PATCH
        )
        self._metrics.count_write("pod_annotation")

    async def write_status(self, namespace: str, name: str, uid: str, status: Document) -> None:
        """Replace a TrainedModel's status.

        A JSON patch, because it can ask for the uid: a merge patch of the status subresource
        ignores metadata, and an object made anew under the name would be told the old one's status.
        """
        path = f"{_GROUP_PATH}/namespaces/{namespace}/{trainedmodel.PLURAL}/{name}/status"
        patch: list[Document] = [
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "add", "path": "/status", "value": status},
        ]
        try:
            await self._write("PATCH", path, patch, _JSON_PATCH)
        except Refused as error:
            # A failed test has no words of its own; a status against the schema "is invalid".
            if error.status == 422 and "is invalid" not in str(error):
                raise NotFound(f"{namespace}/{name} is another object now", 404) from error
            raise
        self._metrics.count_write("status")

    async def _list(
        self,
        api: str,
        namespace: str | None,
        plural: str,
        query: Mapping[str, str],
        accept: str = _JSON,
    ) -> list[Document]:
        """Read a whole list, page by page; the pages are of one moment."""
        folder = (
            f"{api}/{plural}" if namespace is None else f"{api}/namespaces/{namespace}/{plural}"
        )
        items: list[Document] = []
        page = {**query, "limit": str(PAGE_SIZE)}
        while True:
            answer = await self._request("GET", folder, query=page, accept=accept)
            if "items" not in answer or "metadata" not in answer:
                raise Unavailable(f"GET {folder}: the answer is not a list")
            items.extend(answer["items"] or ())  # an empty list of metadata is null
            token = answer["metadata"].get("continue")
            if not token:
                return items
            page = {**page, "continue": token}

    async def _get(self, path: str) -> Document | None:
        try:
            return await self._request("GET", path)
        except NotFound:
            return None

    async def _write(
        self,
        method: str,
        path: str,
        body: Document | list[Document],
        content_type: str = _JSON,
    ) -> None:
        query = {"fieldManager": FIELD_MANAGER}
        await self._request(method, path, query=query, body=body, content_type=content_type)

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Document | list[Document] | None = None,
        accept: str = _JSON,
        content_type: str = _JSON,
    ) -> Document:
        if method != "GET":
            self._fence()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                _, url, headers, content, _ = await self._api.param_serialize(
                    method,
                    path,
                    query_params=list((query or {}).items()),
                    header_params={"Accept": accept, "Content-Type": content_type},
                    body=body,
                    auth_settings=["BearerToken"],
                )
                answer = await self._api.call_api(
                    method, url, headers, content, _request_timeout=TIMEOUT_S
                )
                raw: bytes = await answer.read()  # type: ignore[no-untyped-call]
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{method} {path}: {type(error).__name__} {error}") from error
        if not 200 <= answer.status < 300:
            raise _error(f"{method} {path}", answer.status, answer.headers, raw)
        try:
            document: Document = json.loads(raw)
        except ValueError as error:
            raise Unavailable(f"{method} {path}: the answer is not JSON") from error
        return document


_OURS: Final = f"{names.MANAGED_BY_LABEL}={names.MANAGED_BY}"


def _error(request: str, status: int, headers: Mapping[str, str], raw: bytes) -> ApiError:
    """Return the error that an answer stands for."""
    try:
        said = str(json.loads(raw).get("message", ""))
    except (ValueError, AttributeError):
        said = raw[:300].decode(errors="replace")
    message = f"{request}: {status} {said}"
    if status == 429:
        pause = headers.get("Retry-After", "")
        return Throttled(message, float(pause) if pause.isdigit() else 1.0)
    if status == 404:
        return NotFound(message, status)
    if status in {409, 410}:
        return Conflict(message, status)
    if status >= 500:
        return Unavailable(message, status)
    return Refused(message, status)
