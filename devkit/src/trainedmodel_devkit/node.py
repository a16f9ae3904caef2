"""A node without a container engine: real Pod objects, and local processes in place of containers.

It does what a kubelet does for the pods of a model service, as far as puller and operator can see:
the projected shards with the kubelet's own manner of writing, refreshed at once when the pod's
annotations change and else only after a minute or so; a token bound to the pod; restarts with
backoff; status; the end of a pod when its object is deleted. It leaves out what they cannot see:
images, cgroups, probes, scheduling.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import aiohttp
from kubernetes.aio.client.exceptions import ApiException
from trainedmodel_contract.names import shard_names

from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.nodeapi import TRANSIENT, Json, NodeApi
from trainedmodel_devkit.pods import DevPod
from trainedmodel_devkit.podspec import PodSpec, manifest
from trainedmodel_devkit.podstatus import node_status, pod_status
from trainedmodel_devkit.projection import payload_of

_log = logging.getLogger(__name__)

#: A request that failed is made again after this pause.
_AGAIN_S = 0.2


class DevNode:
    """A node of a control plane; an async context manager.

    `refresh_s` is the range of the time after which a pod's files follow a changed ConfigMap by
    themselves. `token_lifetime_s` (600 at least, says the API) is that of the pods' tokens,
    replaced at 80 % of it.
    """

    def __init__(
        self,
        control_plane: ControlPlane,
        folder: Path,
        *,
        name: str = "devkit",
        refresh_s: tuple[float, float] = (60, 90),
        token_lifetime_s: int = 3600,
        grace_s: float = 30,
    ) -> None:
        self.name = name
        self._control_plane = control_plane
        self._folder = folder
        self._refresh_s = refresh_s
        self._token_lifetime_s = token_lifetime_s
        self._grace_s = grace_s
        self._pods: dict[str, DevPod] = {}
        self._annotations: dict[str, dict[str, str]] = {}
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}
        self._ends: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        self._api = NodeApi(self._control_plane)
        self._http = aiohttp.ClientSession()
        try:
            labels = {"kubernetes.io/hostname": self.name}
            body = {"metadata": {"name": self.name, "labels": labels}}
            await self._api.create_node(body, node_status())
        except BaseException:
            await self._close()
            raise
        self._watching = asyncio.create_task(self._watch(), name=f"{self.name}/watch")
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            stops = [self.stop_pod(pod.name, pod.namespace) for pod in self._pods.values()]
            results = await asyncio.gather(*stops, return_exceptions=True)
            await _cancelled(self._watching)
            with contextlib.suppress(*TRANSIENT):
                await self._api.delete_node(self.name)
        finally:
            await self._close()
        if errors := [result for result in results if isinstance(result, Exception)]:
            raise ExceptionGroup(f"pods of {self.name}", errors)

    async def start_pod(self, spec: PodSpec, *, ready_timeout_s: float = 60) -> DevPod:
        """Create the Pod object, start its processes, return when all readiness URLs answer.

        Raises:
            StartFailed: a container was not ready in time; the pod is gone again.
        """
        metadata = (await self._create(spec))["metadata"]
        key = _key(spec.namespace, spec.name)
        folder = self._folder / "pods" / metadata["uid"]
        logs = self._folder / "logs" / spec.namespace / spec.name
        pod = DevPod(spec, metadata["uid"], folder, logs, self._control_plane)
        self._pods[key] = pod
        self._annotations[key] = metadata.get("annotations", {})
        try:
            await pod.prepare()
            expires = await self._renew_token(pod)
            await self._project(pod)
            await pod.start()
            self._tasks[key] = [
                asyncio.create_task(self._keep_projected(pod), name=f"{key}/projection"),
                asyncio.create_task(self._keep_token(pod, expires), name=f"{key}/token"),
                asyncio.create_task(self._keep_status(pod), name=f"{key}/status"),
            ]
            await pod.wait_ready(self._http, ready_timeout_s)
            await self._report(pod)
        except BaseException:
            await self.stop_pod(spec.name, spec.namespace)
            raise
        return pod

    async def stop_pod(self, name: str, namespace: str = "default") -> None:
        """Delete a pod as `kubectl delete pod` does, and wait until it is gone."""
        key = _key(namespace, name)
        if key in self._pods:
            with contextlib.suppress(*TRANSIENT):
                await self._api.delete_pod(namespace, name)
        # The watch may have seen the deletion first, and ended the pod meanwhile.
        if key in self._pods:
            await asyncio.shield(self._end(key))

    def pod(self, name: str, namespace: str = "default") -> DevPod:
        """Return a running pod."""
        return self._pods[_key(namespace, name)]

    async def refresh(self, name: str, namespace: str = "default") -> bool:
        """Bring a pod's files up to date now; say whether they changed."""
        return await self._project(self._pods[_key(namespace, name)])

    async def _create(self, spec: PodSpec) -> Json:
        """Create the Pod object; in a new namespace the service account may lag behind."""
        deadline = asyncio.get_running_loop().time() + 10
        while True:
            try:
                return await self._api.create_pod(manifest(spec, self.name))
            except ApiException as error:
                lagging = error.status == 403 and "error looking up service account" in str(
                    error.body
                )
                if not lagging or asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(0.1)

    def _end(self, key: str) -> "asyncio.Task[None]":
        """Return the task that ends a pod, started if none is under way."""
        if key not in self._ends:
            self._ends[key] = asyncio.create_task(self._finish(key), name=f"{key}/end")
        return self._ends[key]

    async def _finish(self, key: str) -> None:
        pod = self._pods[key]
        try:
            await _cancelled(*self._tasks.pop(key, []))
            await pod.stop(self._grace_s)
        finally:
            with contextlib.suppress(*TRANSIENT):
                await self._api.remove_pod(pod.namespace, pod.name, pod.uid)
            del self._pods[key], self._annotations[key], self._ends[key]

    async def _project(self, pod: DevPod) -> bool:
        if pod.spec.parent is None:
            return False
        names = shard_names(pod.spec.parent)
        shards = await asyncio.gather(
            *(self._api.config_map(pod.namespace, name) for name in names)
        )
        return await pod.write_config(payload_of(shards))

    async def _keep_projected(self, pod: DevPod) -> None:
        while True:
            await asyncio.sleep(random.uniform(*self._refresh_s))  # noqa: S311 - jitter
            await _tried(f"{pod.name}: projection", lambda: self._project(pod))

    async def _keep_token(self, pod: DevPod, expires: datetime) -> None:
        while True:
            left = (expires - datetime.now(UTC)).total_seconds()
            await asyncio.sleep(max(left - 0.2 * self._token_lifetime_s, 1))
            with contextlib.suppress(*TRANSIENT):
                expires = await self._renew_token(pod)

    async def _keep_status(self, pod: DevPod) -> None:
        """Write the status whenever it has changed; a write that fails is made again."""
        while True:
            pod.status_changed.clear()
            if await _tried(f"{pod.name}: status", lambda: self._report(pod)):
                await pod.status_changed.wait()
            else:
                await asyncio.sleep(_AGAIN_S)

    async def _renew_token(self, pod: DevPod) -> datetime:
        token, expires = await self._api.pod_token(
            pod.namespace, pod.spec.service_account, pod.name, pod.uid, self._token_lifetime_s
        )
        await pod.write_account(token)
        return expires

    async def _report(self, pod: DevPod) -> None:
        # One at a time: of two writes under way, the older status could come last.
        async with pod.status_lock:
            await self._api.patch_pod_status(pod.namespace, pod.name, pod_status(pod))

    async def _watch(self) -> None:
        """Follow this node's pods for ever: list, watch from there, start over after a failure."""
        while True:
            try:
                async for kind, metadata in self._events():
                    await self._on_event(kind, metadata)
            except TRANSIENT as error:
                _log.info("watch of node %s was cut: %s", self.name, error)
                await asyncio.sleep(_AGAIN_S)

    async def _events(self) -> AsyncIterator[tuple[str, Json]]:
        known = list(self._pods.values())
        present, revision = await self._api.pods_of(self.name)
        for metadata in present:
            yield "MODIFIED", metadata
        uids = {metadata["uid"] for metadata in present}
        for gone in (pod for pod in known if pod.uid not in uids):
            yield "DELETED", {"name": gone.name, "namespace": gone.namespace, "uid": gone.uid}
        async for change in self._api.watch_pods_of(self.name, revision):
            yield change

    async def _on_event(self, kind: str, metadata: Json) -> None:
        key = _key(metadata["namespace"], metadata["name"])
        pod = self._pods.get(key)
        if pod is None or pod.uid != metadata["uid"]:
            return
        if kind == "DELETED" or metadata.get("deletionTimestamp"):
            self._end(key)
            return
        annotations = metadata.get("annotations", {})
        if annotations != self._annotations[key]:
            self._annotations[key] = annotations
            await _tried(f"{pod.name}: projection", lambda: self._project(pod))

    async def _close(self) -> None:
        await self._http.close()
        await self._api.close()


async def _tried(what: str, action: Callable[[], Awaitable[object]]) -> bool:
    """Do something that a later turn repeats, and tell whether it worked.

    An API server that is away is no error of the node.
    """
    try:
        await action()
    except TRANSIENT as error:
        _log.info("%s failed: %s", what, error)
        return False
    return True


async def _cancelled(*tasks: "asyncio.Task[None]") -> None:
    """Cancel tasks, wait for them, and raise what any of them failed with."""
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    if errors := [result for result in results if isinstance(result, Exception)]:
        raise ExceptionGroup("tasks of the node", errors)


def _key(namespace: str, name: str) -> str:
    return f"{namespace}/{name}"
