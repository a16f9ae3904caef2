"""Requests to the Kubernetes API: every read and write of the operator.

`ApiKubeClient` implements `protocol.KubeClient` over `kubernetes.aio` of the official client, and
uses its configuration, authentication and transport. Documents are plain JSON, because building
model objects for thousands of TrainedModels costs more than all decisions about them. This module
chooses the priority level of each request. `transport` decides when and how a request is sent.

Guarantees: a list is complete or an error (a page that fails fails the list, O1). Lists are
consistent reads, never served from a stale cache. Every request has a timeout. Every write names
its field manager. Every failure is one of `errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog
from kubernetes.aio import client as kubernetes_client
from trainedmodel_contract import modelreport, names, trainedmodel

from trainedmodel_operator.api.protocol import ModelVersion, as_it_is
from trainedmodel_operator.api.transport import JSON, LIST_TIMEOUT_S, TIMEOUT_S, Transport
from trainedmodel_operator.core.document import Document
from trainedmodel_operator.core.fingerprint import part_of
from trainedmodel_operator.core.pacing.rate_limiter import PriorityLevel
from trainedmodel_operator.core.shards.documents import ShardWrite, WriteKind, new_shard
from trainedmodel_operator.core.state import ServiceKey
from trainedmodel_operator.errors import (
    Conflict,
    NotFound,
    PatchNotApplied,
    Refused,
    Unavailable,
)
from trainedmodel_operator.observability.metrics import Metrics

FIELD_MANAGER: Final = names.MANAGED_BY
PAGE_SIZE: Final = 500
#: A shard has up to 900 kB.
PAGE_OF_SHARDS: Final = 20
#: Events are written one after the other: one that hangs keeps all others.
EVENT_TIMEOUT_S: Final = 3.0

log = structlog.get_logger()

_MERGE_PATCH: Final = "application/merge-patch+json"
_JSON_PATCH: Final = "application/json-patch+json"
_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_GROUP_PATH: Final = f"/apis/{names.GROUP}/{names.VERSION}"
_EVENTS_PATH: Final = "/apis/events.k8s.io/v1"
_KSERVE_PATH: Final = "/apis/serving.kserve.io/v1beta1"


class ApiKubeClient:
    """The protocol over `kubernetes.aio`."""

    def __init__(
        self,
        api: kubernetes_client.ApiClient,
        metrics: Metrics,
        fence: Callable[[], None] = lambda: None,
    ) -> None:
        """Speak over `api`; `fence` is called before every write and raises if none may be sent."""
        self._transport = Transport(api, metrics, fence)
        self._metrics = metrics

    async def list_models(
        self,
        namespace: str | None,
        service: str | None,
        *,
        keep: Callable[[Document], Any] = as_it_is,
    ) -> list[Any]:
        """List TrainedModels; one service's by field selector (CRD `selectableFields`)."""
        query = {} if service is None else {"fieldSelector": f"spec.inferenceService={service}"}
        return await self._list(
            _GROUP_PATH, namespace, trainedmodel.PLURAL, query, keep=lambda item: keep(_lean(item))
        )

    async def list_model_versions(self, namespace: str | None) -> list[ModelVersion]:
        """List all TrainedModels that name a service; of each page only this is kept."""
        versions = await self._list(
            _GROUP_PATH, namespace, trainedmodel.PLURAL, {}, keep=model_version
        )
        return [version for version in versions if version is not None]

    async def list_shards(
        self,
        namespace: str | None,
        service: str | None,
        *,
        keep: Callable[[Document], Any] = as_it_is,
    ) -> list[Any]:
        """List the shards of one service or all, by our labels; few at once, they may be large."""
        label = names.PARENT_LABEL if service is None else f"{names.PARENT_LABEL}={service}"
        query = {"labelSelector": f"{_OURS},{label}"}
        return await self._list(
            "/api/v1", namespace, "configmaps", query, keep=keep, page_size=PAGE_OF_SHARDS
        )

    async def list_shard_metadata(self, namespace: str | None) -> list[Document]:
        """List all shards without their data."""
        query = {"labelSelector": f"{_OURS},{names.PARENT_LABEL}"}
        return await self._list("/api/v1", namespace, "configmaps", query, accept=_METADATA_ONLY)

    async def get_config_map(self, namespace: str, name: str) -> Document | None:
        """Read one ConfigMap."""
        return await self._get(f"/api/v1/namespaces/{namespace}/configmaps/{name}")

    async def list_pods(self, namespace: str | None, service: str | None) -> list[Document]:
        """List a service's pods under each label that may name it, merged by uid, or all pods."""
        injected = f"{names.INJECT_LABEL}={names.INJECT_VALUE}"
        if service is None:
            return await self._list(
                "/api/v1", namespace, "pods", {"labelSelector": injected}, keep=_lean
            )
        pods: dict[str, Document] = {}
        for label in names.PARENT_POD_LABELS:
            query = {"labelSelector": f"{injected},{label}={service}"}
            for pod in await self._list("/api/v1", namespace, "pods", query):
                pods[pod["metadata"]["uid"]] = pod
        return list(pods.values())

    async def list_pod_metadata(self, namespace: str | None) -> list[Document]:
        """List all pods that carry a puller, without spec and status."""
        query = {"labelSelector": f"{names.INJECT_LABEL}={names.INJECT_VALUE}"}
        return await self._list("/api/v1", namespace, "pods", query, accept=_METADATA_ONLY)

    async def list_report_metadata(
        self, namespace: str | None, service: str | None
    ) -> list[Document]:
        """List the metadata of reports: a tenth of a per cent of the bytes."""
        query = {} if service is None else {"fieldSelector": f"inferenceService={service}"}
        return await self._list(
            _GROUP_PATH, namespace, modelreport.PLURAL, query, accept=_METADATA_ONLY
        )

    async def list_reports(
        self, namespace: str | None, *, page_size: int, keep: Callable[[Document], Any]
    ) -> list[Any]:
        """List reports with all that they say."""
        return await self._list(
            _GROUP_PATH, namespace, modelreport.PLURAL, {}, keep=keep, page_size=page_size
        )

    async def get_report(self, namespace: str, name: str) -> Document | None:
        """Read one report: by a list of one, which needs no right that a start does not need."""
        query = {"fieldSelector": f"metadata.name={name}"}
        found = await self._list(_GROUP_PATH, namespace, modelreport.PLURAL, query)
        return found[0] if found else None

    async def write_shard(self, namespace: str, write: ShardWrite) -> None:
        """Carry out one shard write."""
        folder = f"/api/v1/namespaces/{namespace}/configmaps"
        if write.kind is WriteKind.CREATE:
            await self._write(PriorityLevel.SHARD, "POST", folder, write.body)
        elif write.kind is WriteKind.PATCH:
            path = f"{folder}/{write.name}"
            await self._write(PriorityLevel.SHARD, "PATCH", path, write.body, _MERGE_PATCH)
        else:
            try:
                await self._transport.request(
                    PriorityLevel.SHARD, "DELETE", f"{folder}/{write.name}", body=write.body
                )
            except NotFound:
                return
        self._metrics.count_write(f"shard_{write.kind}")

    async def annotate_pod(self, namespace: str, name: str, value: str) -> None:
        """Set the pod's config annotation."""
        body = {"metadata": {"annotations": {names.CONFIG_ANNOTATION: value}}}
        path = f"/api/v1/namespaces/{namespace}/pods/{name}"
        await self._write(PriorityLevel.NUDGE, "PATCH", path, body, _MERGE_PATCH)
        self._metrics.count_write("pod_annotation")

    async def write_status(self, namespace: str, name: str, uid: str, status: Document) -> None:
        """Replace a TrainedModel's status.

        A JSON patch, because it can ask for the uid: a merge patch of the status subresource
        ignores metadata, and a recreated object of that name would get the old one's status.
        """
        path = f"{_GROUP_PATH}/namespaces/{namespace}/{trainedmodel.PLURAL}/{name}/status"
        patch: list[Document] = [
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "add", "path": "/status", "value": status},
        ]
        try:
            await self._write(PriorityLevel.STATUS, "PATCH", path, patch, _JSON_PATCH)
        except PatchNotApplied as error:  # only its test can fail
            raise NotFound(f"{namespace}/{name} was replaced by another object", 404) from error
        self._metrics.count_write("status")

    async def namespace_exists(self, namespace: str) -> bool:
        """Tell whether there is a namespace of this name, by creating a shard that is not kept.

        Only a namespace that is not there is answered with 404; whatever else refuses the dry run
        (a quota, a policy) has found it.
        """
        path = f"/api/v1/namespaces/{namespace}/configmaps"
        body = new_shard(ServiceKey(namespace, names.MANAGED_BY), 0, {})
        query = {"dryRun": "All", "fieldManager": FIELD_MANAGER}
        try:
            await self._transport.request(PriorityLevel.SHARD, "POST", path, query=query, body=body)
        except NotFound:
            return False
        except (Conflict, Refused):
            return True
        return True

    async def list_inference_services(self, namespace: str, name: str) -> list[Document]:
        """List the InferenceService of this name: one or none.

        Raises:
            NotFound: the kind is not installed.
        """
        query = {"fieldSelector": f"metadata.name={name}"}
        return await self._list(_KSERVE_PATH, namespace, "inferenceservices", query)

    async def create_event(self, namespace: str, event: Document) -> None:
        """Write a new Event."""
        path = f"{_EVENTS_PATH}/namespaces/{namespace}/events"
        await self._write(PriorityLevel.EVENT, "POST", path, event, timeout_s=EVENT_TIMEOUT_S)
        self._metrics.count_write("event")

    async def patch_event(self, namespace: str, name: str, patch: Document) -> None:
        """Change an Event."""
        path = f"{_EVENTS_PATH}/namespaces/{namespace}/events/{name}"
        await self._write(
            PriorityLevel.EVENT, "PATCH", path, patch, _MERGE_PATCH, timeout_s=EVENT_TIMEOUT_S
        )
        self._metrics.count_write("event")

    async def _list(
        self,
        api: str,
        namespace: str | None,
        plural: str,
        query: Mapping[str, str],
        *,
        accept: str = JSON,
        keep: Callable[[Document], Any] = as_it_is,
        page_size: int = PAGE_SIZE,
    ) -> list[Any]:
        """Read a whole list, page by page; the pages are of one moment. `keep` says what of each.

        That moment may have been compacted away before the last page is read (410). Then the list
        is read again, in one page, which cannot expire.
        """
        folder = (
            f"{api}/{plural}" if namespace is None else f"{api}/namespaces/{namespace}/{plural}"
        )
        try:
            return await self._pages(folder, {**query, "limit": str(page_size)}, accept, keep)
        except Conflict as error:
            if error.status != 410:
                raise
            log.info("list_restarted", error=str(error))
            return await self._pages(folder, query, accept, keep)

    async def _pages(
        self,
        folder: str,
        query: Mapping[str, str],
        accept: str,
        keep: Callable[[Document], Any],
    ) -> list[Any]:
        items: list[Any] = []
        page = query
        while True:
            answer = await self._transport.request(
                PriorityLevel.READ,
                "GET",
                folder,
                query=page,
                accept=accept,
                timeout_s=LIST_TIMEOUT_S,
            )
            if "items" not in answer or "metadata" not in answer:
                raise Unavailable(f"GET {folder}: the answer is not a list")
            items.extend(map(keep, answer["items"] or ()))  # an empty list of metadata is null
            token = answer["metadata"].get("continue")
            if not token:
                return items
            page = {**query, "continue": token}

    async def _get(self, path: str) -> Document | None:
        try:
            return await self._transport.request(PriorityLevel.READ, "GET", path)
        except NotFound:
            return None

    async def _write(
        self,
        level: PriorityLevel,
        method: str,
        path: str,
        body: Document | list[Document],
        content_type: str = JSON,
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        query = {"fieldManager": FIELD_MANAGER}
        await self._transport.request(
            level,
            method,
            path,
            query=query,
            body=body,
            content_type=content_type,
            timeout_s=timeout_s,
        )


def _lean(item: Document) -> Document:
    """Drop `managedFields`: half of a TrainedModel, and not used here."""
    metadata = {name: value for name, value in item["metadata"].items() if name != "managedFields"}
    return {**item, "metadata": metadata}


def model_version(model: Document) -> ModelVersion | None:
    """Return a TrainedModel's service and its part of the fingerprint; None if it names none."""
    metadata, service = model["metadata"], (model.get("spec") or {}).get("inferenceService")
    if not service:
        return None
    return ModelVersion(ServiceKey(metadata["namespace"], service), part_of(metadata))


_OURS: Final = f"{names.MANAGED_BY_LABEL}={names.MANAGED_BY}"
