"""A crowd: thousands of objects, written as fast as the API server takes them.

The writer shares the processors with what is measured, so it costs as little as it can: plain JSON
over kept connections, nothing built from answers. What it writes is what people (TrainedModels),
workload controllers (Pods) and pullers (ModelReports) write.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Self

import aiohttp
from trainedmodel_contract import names
from trainedmodel_contract.conditions import is_true
from trainedmodel_contract.shard import config_digest, parse_manifest
from trainedmodel_contract.trainedmodel import READY

from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.documents import Document
from trainedmodel_devkit.errors import CommandFailed

IN_FLIGHT: Final = 24
_METADATA_ONLY: Final = "application/json;as={};g=meta.k8s.io;v=v1"
_MODELS: Final = f"/apis/{names.GROUP}/{names.VERSION}/namespaces/{{}}/trainedmodels"
_REPORTS: Final = f"/apis/{names.GROUP}/{names.VERSION}/namespaces/{{}}/modelreports"


class Crowd:
    """Everybody who writes to one namespace, over one HTTP session; a context manager."""

    def __init__(self, control_plane: ControlPlane, namespace: str) -> None:
        self.namespace = namespace
        self._control_plane = control_plane

    async def __aenter__(self) -> Self:
        context = ssl.create_default_context(cafile=str(self._control_plane.ca_file))
        self._session = aiohttp.ClientSession(
            self._control_plane.server,
            connector=aiohttp.TCPConnector(ssl=context, limit=IN_FLIGHT + 8),
            headers={"Authorization": f"Bearer {self._control_plane.token}"},
            timeout=aiohttp.ClientTimeout(total=120),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def all(self, *coroutines: Coroutine[Any, Any, Any], at_once: int = IN_FLIGHT) -> None:
        """Run all, `at_once` at a time, begun in their order; the first error ends them."""
        waiting = iter(coroutines)

        async def some() -> None:
            for coroutine in waiting:
                await coroutine

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(at_once):
                    group.create_task(some())
        finally:
            for coroutine in waiting:
                coroutine.close()

    async def create_models(self, models: Iterable[Document]) -> None:
        """Create TrainedModels in the order given."""
        folder = _MODELS.format(self.namespace)
        await self.all(*(self._send("POST", folder, model) for model in models))

    async def patch_model(self, name: str, patch: Document) -> None:
        """Change one TrainedModel."""
        await self._send("PATCH", f"{_MODELS.format(self.namespace)}/{name}", patch)

    async def create_pod(self, name: str, parent: str) -> str:
        """Create a pod of a service, with a puller by its labels; return its uid."""
        labels = {names.INJECT_LABEL: names.INJECT_VALUE, names.PARENT_LABEL: parent}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels},
            "spec": {"containers": [{"name": "server", "image": "server"}]},
        }
        raw = await self._send("POST", f"/api/v1/namespaces/{self.namespace}/pods", pod)
        return str(json.loads(raw)["metadata"]["uid"])

    async def create_report(self, pod: str, uid: str, parent: str) -> None:
        """Create a pod's report, about no model yet."""
        owner = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}
        report = {
            "apiVersion": names.API_VERSION,
            "kind": "ModelReport",
            "metadata": {"name": pod, "ownerReferences": [owner]},
            "inferenceService": parent,
            "server": {"kind": "mlserver", "reachable": True},
        }
        await self._send("POST", _REPORTS.format(self.namespace), report)

    async def patch_report(self, pod: str, patch: Mapping[str, Any]) -> None:
        """Say more in a report, without `managedFields`. A puller replaces the whole of it."""
        bare = {**patch, "metadata": {"managedFields": [{}]}}
        await self._send("PATCH", f"{_REPORTS.format(self.namespace)}/{pod}", bare)

    async def count_entries(self) -> int:
        """Return how many entries the shards of the namespace hold."""
        raw = await self._send("GET", f"/api/v1/namespaces/{self.namespace}/configmaps")
        return raw.count(b'.json":"')  # keys with values; managed fields have objects

    async def seen_digest(self, parent: str) -> str:
        """Return what a pod reports that has seen all shards of a service."""
        digests: dict[int, str] = {}
        for index in range(names.SHARD_COUNT):
            path = f"/api/v1/namespaces/{self.namespace}/configmaps/"
            try:
                raw = await self._send("GET", path + names.shard_name(parent, index))
            except CommandFailed:
                continue
            manifest = json.loads(raw)["data"][names.manifest_key(index)]
            digests[index] = parse_manifest(manifest).digest
        return config_digest(digests)

    async def count_ready(self) -> int:
        """Return how many TrainedModels of the namespace are Ready."""
        raw = await self._send("GET", _MODELS.format(self.namespace))
        return sum(is_true(model.get("status"), READY) for model in json.loads(raw)["items"])

    @asynccontextmanager
    async def watching_shards(self) -> AsyncIterator[ShardWatch]:
        """Watch the namespace's ConfigMaps while the context lasts."""
        watch = ShardWatch()
        folder = f"/api/v1/namespaces/{self.namespace}/configmaps"
        bare = _METADATA_ONLY.format("PartialObjectMetadataList")
        listed = json.loads(await self._send("GET", f"{folder}?limit=1", accept=bare))
        version = listed["metadata"]["resourceVersion"]
        async with (
            self._session.get(
                f"{folder}?watch=1&resourceVersion={version}",
                headers={"Accept": _METADATA_ONLY.format("PartialObjectMetadata")},
                timeout=aiohttp.ClientTimeout(),
                raise_for_status=True,
            ) as answer,
            asyncio.TaskGroup() as group,
        ):
            reading = group.create_task(watch.read(answer))
            yield watch
            reading.cancel()

    async def _send(
        self, method: str, path: str, body: object = None, accept: str = "application/json"
    ) -> bytes:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        async with self._session.request(
            method,
            path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": kind, "Accept": accept},
        ) as answer:
            raw = await answer.read()
            if answer.status >= 300:
                raise CommandFailed(f"{method} {path}: {answer.status} {raw[:300]!r}")
            return raw


class ShardWatch:
    """When which ConfigMap was seen to change."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, str]] = []
        self._news = asyncio.Event()

    async def read(self, answer: aiohttp.ClientResponse) -> None:
        """Take in events until the watch ends."""
        async for line in answer.content:
            at = time.monotonic()
            self.seen.append((at, json.loads(line)["object"]["metadata"]["name"]))
            self._news.set()

    async def next_of(self, name: str, since: float, timeout_s: float = 30.0) -> float:
        """Return when a ConfigMap was first seen to change after `since`."""
        async with asyncio.timeout(timeout_s):
            while True:
                self._news.clear()
                for at, seen in self.seen:
                    if seen == name and at >= since:
                        return at
                await self._news.wait()
