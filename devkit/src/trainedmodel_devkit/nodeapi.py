"""What the node asks of the API server, as plain JSON.

The official client carries the requests; its model classes stay out, because a node passes objects
on and never needs to understand more of them than a name.
"""

import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import aiohttp
from kubernetes.aio import client
from kubernetes.aio.client.exceptions import ApiException

from trainedmodel_devkit.controlplane import ControlPlane

TRANSIENT = (ApiException, aiohttp.ClientError, OSError, TimeoutError)
"""What a request can fail with when the API server is away, overloaded, or of another opinion."""

_WATCH_S = 240

Json = dict[str, Any]


class NodeApi:
    """The administrator's client, reduced to what a node does; it raises `TRANSIENT`."""

    def __init__(self, control_plane: ControlPlane) -> None:
        configuration = client.Configuration(host=control_plane.server)
        configuration.ssl_ca_cert = str(control_plane.ca_file)
        configuration.api_key["authorization"] = f"Bearer {control_plane.token}"
        self._client: Any = client.ApiClient(configuration)
        self._client.user_agent = "trainedmodel-devkit-node"
        self._core: Any = client.CoreV1Api(self._client)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def create_node(self, node: Json, status: Json) -> None:
        """Register a node."""
        await _json(self._core.create_node_without_preload_content(node))
        name = node["metadata"]["name"]
        await _json(self._core.patch_node_status_without_preload_content(name, status))

    async def delete_node(self, name: str) -> None:
        """Remove the Node object."""
        await _json(self._core.delete_node_without_preload_content(name))

    async def create_pod(self, pod: Json) -> Json:
        """Create a Pod object and return it as stored."""
        namespace = pod["metadata"]["namespace"]
        return await _json(self._core.create_namespaced_pod_without_preload_content(namespace, pod))

    async def patch_pod_status(self, namespace: str, name: str, status: Json) -> None:
        """Merge into a pod's status."""
        call = self._core.patch_namespaced_pod_status_without_preload_content
        await _json(call(name, namespace, status))

    async def delete_pod(self, namespace: str, name: str) -> None:
        """Ask for the end of a pod, with its grace period."""
        call = self._core.delete_namespaced_pod_without_preload_content
        await _json(call(name, namespace))

    async def remove_pod(self, namespace: str, name: str, uid: str) -> None:
        """Remove the object of a pod that has ended; never that of a namesake made since."""
        call = self._core.delete_namespaced_pod_without_preload_content
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        await _json(call(name, namespace, body=options))

    async def config_map(self, namespace: str, name: str) -> Json:
        """Read a ConfigMap; one that does not exist is empty."""
        call = self._core.read_namespaced_config_map_without_preload_content
        try:
            return await _json(call(name, namespace))
        except ApiException as error:
            if error.status == 404:
                return {}
            raise

    async def pod_token(
        self, namespace: str, account: str, pod: str, uid: str, lifetime_s: int
    ) -> tuple[str, datetime]:
        """Request a service account's token that is bound to a pod; return it with its expiry."""
        bound = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}
        spec = {"audiences": [], "expirationSeconds": lifetime_s, "boundObjectRef": bound}
        call = self._core.create_namespaced_service_account_token_without_preload_content
        status = (await _json(call(account, namespace, {"spec": spec})))["status"]
        return status["token"], datetime.fromisoformat(status["expirationTimestamp"])

    async def pods_of(self, node: str) -> tuple[list[Json], str]:
        """List the metadata of a node's pods, and the revision to watch from."""
        call = self._core.list_pod_for_all_namespaces_without_preload_content
        pods = await _json(call(field_selector=f"spec.nodeName={node}"))
        return [pod["metadata"] for pod in pods["items"]], pods["metadata"]["resourceVersion"]

    async def watch_pods_of(self, node: str, revision: str) -> AsyncIterator[tuple[str, Json]]:
        """Yield each change of a node's pods, as type and metadata, until the watch ends."""
        stream = await self._core.list_pod_for_all_namespaces_without_preload_content(
            field_selector=f"spec.nodeName={node}",
            watch=True,
            resource_version=revision,
            timeout_seconds=_WATCH_S,
        )
        async with stream:
            if stream.status >= 400:
                raise ApiException(stream.status, await stream.text())
            async for line in stream.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                yield event["type"], event["object"]["metadata"]


async def _json(call: Any) -> Json:
    answer = await call
    async with answer:
        text = await answer.text()
        if answer.status >= 400:
            failure = ApiException(answer.status, answer.reason)
            failure.body = text
            raise failure
        return dict(json.loads(text))
