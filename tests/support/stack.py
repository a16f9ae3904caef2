"""The whole system for a test: operator process, node, pods with real pullers and model servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.node import DevNode
from trainedmodel_devkit.operatorprocess import OperatorProcess, operator_account
from trainedmodel_devkit.pods import DevPod
from trainedmodel_devkit.podspec import PullerPodSpec, puller_pod
from trainedmodel_devkit.servers.base import ServerLauncher
from trainedmodel_devkit.stores import S3Store
from trainedmodel_devkit.waiting import until

Json = dict[str, Any]


class Stack:
    """One namespace with an operator that serves it and pods that run on a node of its own."""

    def __init__(
        self, control_plane: ControlPlane, store: S3Store, folder: Path, namespace: str
    ) -> None:
        self.control_plane = control_plane
        self.store = store
        self.namespace = namespace
        self._folder = folder
        self.node = DevNode(control_plane, folder / "node", name=f"node-{namespace}", grace_s=5)
        self.operator: OperatorProcess | None = None
        self.pods: dict[str, DevPod] = {}

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._prepare)
        await self.node.__aenter__()
        await asyncio.to_thread(self.start_operator)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.operator is not None:
            await asyncio.to_thread(self.operator.stop, 5)
        await self.node.__aexit__(kind, error, trace)
        await self.kubectl("delete", "namespace", self.namespace, "--wait=false")

    def _prepare(self) -> None:
        self.control_plane.kubectl("create", "namespace", self.namespace)
        account = operator_account(self.control_plane)
        self.operator = OperatorProcess(account, self._folder / "operator.log")

    def start_operator(self) -> None:
        """Start the operator (again)."""
        assert self.operator is not None
        self.operator.start()

    async def kill_operator(self) -> None:
        """End the operator as the kernel would."""
        assert self.operator is not None
        self.operator.kill()
        await asyncio.to_thread(self.operator.wait)

    async def start_pod(self, name: str, parent: str, launcher: ServerLauncher) -> PullerPodSpec:
        """Start a pod with a puller and a model server."""
        await asyncio.to_thread(launcher.ensure)
        spec = puller_pod(
            name, parent, server=launcher, namespace=self.namespace, extra_env=self.store.env()
        )
        self.pods[name] = await self.node.start_pod(spec)
        return spec

    # -- speaking to the API as a user ---------------------------------------------------

    async def kubectl(self, *args: str, text: str | None = None) -> str:
        """Run kubectl in the stack's namespace."""
        return await asyncio.to_thread(
            lambda: self.control_plane.kubectl("-n", self.namespace, *args, input=text)
        )

    async def apply(self, *documents: Json) -> None:
        """Apply documents in one kubectl call."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)})
        await self.kubectl("apply", "-f", "-", text=text)

    async def get(self, name: str) -> Json:
        """Return a TrainedModel."""
        document: Json = json.loads(await self.kubectl("get", "trainedmodel", name, "-o", "json"))
        return document

    async def all(self) -> dict[str, Json]:
        """Return all TrainedModels by name."""
        listed = json.loads(await self.kubectl("get", "trainedmodels", "-o", "json"))
        return {item["metadata"]["name"]: item for item in listed["items"]}

    async def wait_status(
        self, name: str, is_so: Callable[[Json], bool], what: str, timeout_s: float = 60
    ) -> Json:
        """Wait until a TrainedModel's status is so; return the TrainedModel."""
        document: Json = {}

        async def found() -> bool:
            nonlocal document
            document = await self.get(name)
            return is_so(document.get("status", {}))

        await until(found, timeout_s, what=f"{name}: {what}", details=lambda: str(document))
        return document

    async def wait_ready(self, *names: str, timeout_s: float = 30) -> None:
        """Wait with kubectl, as a user does, for Ready at the current generation."""
        await self.kubectl(
            "wait",
            "--for=condition=Ready",
            f"--timeout={timeout_s:.0f}s",
            *(f"trainedmodel/{name}" for name in names),
        )

    async def until(self, condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
        """Wait for a condition that may block its thread."""
        await until(lambda: asyncio.to_thread(condition), timeout_s, what=what)
