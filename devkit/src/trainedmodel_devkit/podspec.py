"""What a pod of the devkit node is: an object in the API, and programs for its containers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainedmodel_contract.names import (
    INJECT_LABEL,
    INJECT_VALUE,
    PARENT_LABEL,
    PARENT_POD_LABELS,
    SHARD_COUNT,
    shard_name,
)

from trainedmodel_devkit.ports import free_port
from trainedmodel_devkit.servers.base import ServerLauncher, shared_memory


@dataclass(frozen=True)
class ContainerSpec:
    """A program that runs as a container of a pod.

    Command and environment may hold placeholders, filled when the pod starts: `{pod_dir}`,
    `{config_dir}`, `{volume_dir}`, `{model_dir}`, `{state_dir}`, `{token_file}`, `{ca_file}`,
    `{namespace}`, `{pod_name}`, `{pod_uid}`, `{api_server}`. Other braces must be doubled.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    ready_url: str | None = None
    restart: bool = True
    sidecar: bool = False
    """A native sidecar: an init container that is started first and stopped last."""
    shared_memory: str = ""
    """The prefix that the program gives to the names of its shared memory, if it has any."""


@dataclass(frozen=True)
class PodSpec:
    """A pod: metadata as they go into the API, and its containers."""

    name: str
    containers: Sequence[ContainerSpec]
    namespace: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    service_account: str = "default"

    @property
    def parent(self) -> str | None:
        """The service that the pod belongs to, whose shards are projected into it."""
        return next((self.labels[key] for key in PARENT_POD_LABELS if key in self.labels), None)


@dataclass(frozen=True)
class PullerPodSpec(PodSpec):
    """A pod of a model server and the puller beside it, and where both listen."""

    server_port: int = 0
    puller_port: int = 0

    @property
    def server_url(self) -> str:
        """Where the model server answers."""
        return f"http://127.0.0.1:{self.server_port}"


def puller_pod(
    name: str,
    parent: str,
    *,
    server: ServerLauncher,
    namespace: str = "default",
    puller_command: Sequence[str] = ("trainedmodel-puller", "run"),
    extra_env: Mapping[str, str] | None = None,
) -> PullerPodSpec:
    """Describe a pod as the webhook would make it: the model server, the puller as its sidecar.

    `server.ensure()` must have been called. `extra_env` goes to the puller: a store's address and
    credentials.
    """
    server_port, puller_port = free_port(), free_port()
    arguments = {
        "--config-dir": "{config_dir}",
        "--model-dir": "{model_dir}",
        "--state-dir": "{state_dir}",
        "--server": server.kind,
        "--server-url": f"http://127.0.0.1:{server_port}",
        "--port": str(puller_port),
    }
    puller = ContainerSpec(
        name="puller",
        command=[*puller_command, *(word for pair in arguments.items() for word in pair)],
        env={
            "TRAINEDMODEL_SERVICE": parent,
            "TRAINEDMODEL_SERVICE_ACCOUNT_DIR": "{pod_dir}/serviceaccount",
            "TRAINEDMODEL_TOKEN_FILE": "{token_file}",
            "TRAINEDMODEL_CA_FILE": "{ca_file}",
            **(extra_env or {}),
        },
        sidecar=True,
    )
    model_server = ContainerSpec(
        name=server.kind,
        command=server.command("{model_dir}", server_port),
        env=server.env(server_port),
        ready_url=server.ready_url(server_port),
        shared_memory=shared_memory(server_port),
    )
    return PullerPodSpec(
        name=name,
        containers=[puller, model_server],
        namespace=namespace,
        labels={INJECT_LABEL: INJECT_VALUE, PARENT_LABEL: parent},
        server_port=server_port,
        puller_port=puller_port,
    )


def manifest(spec: PodSpec, node: str) -> dict[str, Any]:
    """Render the Pod object. Its images name nothing: no kubelet ever reads them."""
    plain = [_container(c) for c in spec.containers if not c.sidecar]
    sidecars = [{**_container(c), "restartPolicy": "Always"} for c in spec.containers if c.sidecar]
    # The API demands a container even where a test runs none.
    body: dict[str, Any] = {
        "nodeName": node,
        "serviceAccountName": spec.service_account,
        "terminationGracePeriodSeconds": 30,
        "containers": plain or [{"name": "none", "image": "devkit.local/none"}],
        "initContainers": sidecars,
    }
    if spec.parent is not None:
        sources = [
            {"configMap": {"name": shard_name(spec.parent, index), "optional": True}}
            for index in range(SHARD_COUNT)
        ]
        body["volumes"] = [{"name": "trainedmodel-config", "projected": {"sources": sources}}]
    metadata = {
        "name": spec.name,
        "namespace": spec.namespace,
        "labels": dict(spec.labels),
        "annotations": dict(spec.annotations),
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": body}


def _container(container: ContainerSpec) -> dict[str, Any]:
    return {"name": container.name, "image": f"devkit.local/{container.name}"}
