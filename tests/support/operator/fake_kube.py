"""The operator's `KubeClient` in memory, where a test must force a fault, a delay or a race.

It holds documents, counts what is written, and obeys `resourceVersion`. It knows no more of
Kubernetes than that: whatever else matters is tested on a real API server.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import timedelta
from typing import Any

from support.operator.builders import NOW, document
from trainedmodel_contract import names
from trainedmodel_operator.api.protocol import ModelVersion, as_it_is
from trainedmodel_operator.api.report_cache import ReportCache
from trainedmodel_operator.core.fingerprint import part_of
from trainedmodel_operator.core.pacing.windows import Trigger
from trainedmodel_operator.core.shards.documents import ShardWrite, WriteKind
from trainedmodel_operator.core.state import ServiceKey
from trainedmodel_operator.errors import Conflict, NotFound, Unavailable
from trainedmodel_operator.observability.metrics import Metrics
from trainedmodel_operator.reconcile.initial_sync import InitialSync
from trainedmodel_operator.reconcile.inventory import Inventory
from trainedmodel_operator.reconcile.reconciler import Reconciler
from trainedmodel_operator.reconcile.resync import Resync
from trainedmodel_operator.reconcile.status_writer import StatusWriter
from trainedmodel_operator.reconcile.work_queue import WorkQueue
from trainedmodel_operator.watch.handlers import EventHandlers

Document = Mapping[str, Any]


class FakeKube:
    """An API server of one namespace, with faults to order."""

    def __init__(self, delay_s: float = 0.001) -> None:
        self.models: dict[str, dict[str, Any]] = {}
        self.config_maps: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, dict[str, Any]] = {}
        self.reports: dict[str, dict[str, Any]] = {}
        self.calls: Counter[str] = Counter()
        self.writes: list[tuple[float, str, str]] = []
        self.statuses: list[tuple[float, str, Document]] = []
        self.fault: Callable[[str], Exception | None] = lambda _: None
        self.delay_s = delay_s
        self.before_write: Callable[[], None] = lambda: None
        self._version = 0

    def next_version(self) -> str:
        self._version += 1
        return str(self._version)

    def put_model(self, document: dict[str, Any]) -> None:
        metadata = {**document["metadata"], "resourceVersion": self.next_version()}
        self.models[document["metadata"]["name"]] = {**document, "metadata": metadata}

    def touch(self, there: dict[str, Any]) -> None:
        """Note that a test has edited an object in place."""
        there["metadata"] = {**there["metadata"], "resourceVersion": self.next_version()}

    def put_pod(self, name: str, service: str) -> None:
        self.pods[name] = {
            "metadata": {
                "name": name,
                "namespace": "demo",
                "uid": f"uid-{name}",
                "labels": {"parent": service, names.PARENT_LABEL: service},
                "resourceVersion": self.next_version(),
            },
            "status": {"phase": "Running"},
        }

    def put_reporting_pod(self, name: str, service: str) -> None:
        """Put a pod that has reported no model yet."""
        self.put_pod(name, service)
        self.put_report(name, service)

    def put_report(self, name: str, service: str, **content: Any) -> dict[str, Any]:
        owner = {"kind": "Pod", "name": name, "uid": f"uid-{name}"}
        self.reports[name] = {
            "metadata": {
                "name": name,
                "namespace": "demo",
                "uid": f"report-{name}",
                "resourceVersion": self.next_version(),
                "generation": self._version,
                "ownerReferences": [owner],
            },
            "inferenceService": service,
            "server": {"kind": "mlserver", "reachable": True},
            **content,
        }
        return self.reports[name]

    async def list_models(
        self,
        namespace: str | None,
        service: str | None,
        *,
        keep: Callable[[Document], Any] = as_it_is,
    ) -> list[Any]:
        await self._call("list_models")
        return [
            keep(dict(model))
            for model in self.models.values()
            if service in (None, model["spec"]["inferenceService"])
        ]

    async def list_model_versions(self, namespace: str | None) -> list[ModelVersion]:
        await self._call("list_model_versions")
        return [
            ModelVersion(
                ServiceKey(model["metadata"]["namespace"], model["spec"]["inferenceService"]),
                part_of(model["metadata"]),
            )
            for model in self.models.values()
        ]

    async def list_shards(
        self,
        namespace: str | None,
        service: str | None,
        *,
        keep: Callable[[Document], Any] = as_it_is,
    ) -> list[Any]:
        await self._call("list_shards")
        shards = (dict(one) for one in self.config_maps.values() if _service(one) is not None)
        return [keep(one) for one in shards if service in (None, _service(one))]

    async def list_shard_metadata(self, namespace: str | None) -> list[Document]:
        await self._call("list_shard_metadata")
        return [dict(one) for one in self.config_maps.values() if _service(one) is not None]

    async def get_config_map(self, namespace: str, name: str) -> Document | None:
        await self._call("get_config_map")
        return self.config_maps.get(name)

    async def list_pods(self, namespace: str | None, service: str | None) -> list[Document]:
        await self._call("list_pods")
        return [
            pod
            for pod in self.pods.values()
            if service in (None, pod["metadata"]["labels"]["parent"])
        ]

    async def list_pod_metadata(self, namespace: str | None) -> list[Document]:
        await self._call("list_pod_metadata")
        return [{"metadata": pod["metadata"]} for pod in self.pods.values()]

    async def list_report_metadata(
        self, namespace: str | None, service: str | None
    ) -> list[Document]:
        await self._call("list_report_metadata")
        return [
            {"metadata": one["metadata"]}
            for one in self.reports.values()
            if service in (None, one["inferenceService"])
        ]

    async def list_reports(
        self, namespace: str | None, *, page_size: int, keep: Callable[[Document], Any]
    ) -> list[Any]:
        await self._call("list_reports")
        return [keep(one) for one in self.reports.values()]

    async def get_report(self, namespace: str, name: str) -> Document | None:
        await self._call("get_report")
        return self.reports.get(name)

    async def write_shard(self, namespace: str, write: ShardWrite) -> None:
        self.before_write()
        await self._call("write_shard")
        if write.kind is WriteKind.CREATE:
            if write.name in self.config_maps:
                raise Conflict("exists", 409)
            created = {
                **write.body["metadata"],
                "uid": f"uid-{write.name}",
                "resourceVersion": self.next_version(),
            }
            self.config_maps[write.name] = {"metadata": created, "data": dict(write.body["data"])}
        elif write.kind is WriteKind.DELETE:
            self.config_maps.pop(write.name, None)
        else:
            self._patch(self.config_maps[write.name], write.body)
        self._note("shard", write.name)

    async def annotate_pod(self, namespace: str, name: str, value: str) -> None:
        await self._call("annotate_pod")
        if name not in self.pods:
            raise NotFound(name, 404)
        self.pods[name]["metadata"]["annotations"] = {names.CONFIG_ANNOTATION: value}
        self.pods[name]["metadata"]["resourceVersion"] = self.next_version()
        self._note("nudge", name)

    async def write_status(self, namespace: str, name: str, uid: str, status: Document) -> None:
        await self._call("write_status")
        if name not in self.models or self.models[name]["metadata"]["uid"] != uid:
            raise NotFound(name, 404)
        self.put_model({**self.models[name], "status": dict(status)})
        self._note("status", name)
        self.statuses.append((self.writes[-1][0], name, status))

    async def namespace_exists(self, namespace: str) -> bool:
        await self._call("namespace_exists")
        return True

    def count(self, kind: str, name: str | None = None) -> int:
        return sum(one[1] == kind and name in (None, one[2]) for one in self.writes)

    def _patch(self, there: dict[str, Any], patch: Document) -> None:
        if patch["metadata"]["resourceVersion"] != there["metadata"]["resourceVersion"]:
            raise Conflict("stale", 409)
        data = {**there["data"], **patch.get("data", {})}
        there["data"] = {key: value for key, value in data.items() if value is not None}
        there["metadata"]["resourceVersion"] = self.next_version()

    def _note(self, kind: str, name: str) -> None:
        self.writes.append((asyncio.get_running_loop().time(), kind, name))

    async def _call(self, method: str) -> None:
        self.calls[method] += 1
        await asyncio.sleep(self.delay_s)
        error = self.fault(method)
        if error is not None:
            raise error


def _service(document: Document) -> str | None:
    labels: Mapping[str, str] = document["metadata"].get("labels", {})
    return labels.get(names.PARENT_LABEL)


def fails(*methods: str, error: Exception | None = None) -> Callable[[str], Exception | None]:
    """Make a fault of the fake: these methods fail, with this error or with no answer."""
    return lambda method: (error or Unavailable("down")) if method in methods else None


class Operator:
    """The operator's own parts over the fake, without kopf: its events are rung by the test."""

    def __init__(self, kube: FakeKube, *, resync_s: float = 60.0) -> None:
        self.kube = kube
        self.metrics = Metrics()
        self.reports = ReportCache()
        self.statuses = StatusWriter(kube, self.metrics, jitter=lambda: 1.0)

        def clock() -> Any:
            return NOW + timedelta(seconds=asyncio.get_running_loop().time())

        self.reconciler = Reconciler(
            kube,
            self.reports,
            self.statuses,
            clock,
            metrics=self.metrics,
            jitter=lambda: 1.0,
        )
        self.queue = WorkQueue(self.reconciler.reconcile, self.metrics, jitter=lambda: 1.0)
        self.reconciler.rings(lambda key: self.queue.enqueue(key, Trigger.RESYNC))
        self.statuses.yields_to = lambda: self.queue.is_full
        self.inventory = Inventory(kube, self.reports)
        self.handlers = EventHandlers(
            self.queue.enqueue, self.reports, is_surveyed=self.inventory.has_seen
        )
        self.resync = Resync(
            self.inventory,
            self.queue.enqueue,
            period_s=resync_s,
            is_settled=self.reconciler.is_settled,
            initial_sync=InitialSync(kube, self.inventory, self.reports, self.reconciler.judge),
            jitter=lambda: 0.5,
        )

    def apply(self, document: dict[str, Any], kind: str = "ADDED") -> None:
        self.kube.put_model(document)
        self.handlers.model_event({"type": kind, "object": document})

    def delete(self, name: str) -> None:
        document = self.kube.models.pop(name)
        self.handlers.model_event({"type": "DELETED", "object": document})

    def report(self, name: str, service: str = "tabular", **content: Any) -> None:
        document = self.kube.put_report(name, service, **content)
        self.handlers.report_event({"type": "MODIFIED", "object": document})

    @contextlib.asynccontextmanager
    async def running(self, *, resync: bool = False) -> AsyncIterator[Operator]:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self.queue.run()),
                group.create_task(self.statuses.run()),
                group.create_task(self.reconciler.run()),
            ]
            if resync:
                tasks.append(group.create_task(self.resync.run()))
            await asyncio.sleep(0)
            yield self
            for task in tasks:
                task.cancel()

    @contextlib.asynccontextmanager
    async def serving(self, *models: str) -> AsyncIterator[Operator]:
        """Run it with these models, which have been written and told before the block begins."""
        async with self.running():
            for name in models:
                self.apply(document(name))
            await asyncio.sleep(3)
            yield self
