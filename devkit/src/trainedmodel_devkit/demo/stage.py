"""What the demo runs on: brought up in parallel, taken down in order, nothing left.

    Stage
    ├── S3Store                  with the models' files
    └── ControlPlane             with the CRDs, deploy/base and the namespace
        ├── operator             a process with the operator's own service account
        ├── Board                the watch of the TrainedModels
        └── DevNode              pods: a model server and its puller each

The operator's Deployment is left out of what is applied, because no kubelet here would run its
image: the process beside the cluster takes its place, with the same account and not a right more.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import aiohttp

from trainedmodel_devkit import guard
from trainedmodel_devkit.controlplane import WEBHOOK_CONFIGURATION, ControlPlane
from trainedmodel_devkit.demo.board import Board, Models
from trainedmodel_devkit.demo.catalog import NAMESPACE, TABULAR, VISION, upload_models
from trainedmodel_devkit.errors import StartFailed
from trainedmodel_devkit.node import DevNode
from trainedmodel_devkit.operatorprocess import OperatorProcess, operator_account
from trainedmodel_devkit.pods import DevPod
from trainedmodel_devkit.podspec import PullerPodSpec, puller_pod
from trainedmodel_devkit.ports import free_port
from trainedmodel_devkit.processes import ManagedProcess
from trainedmodel_devkit.servers import MLServer, ServerLauncher, Triton
from trainedmodel_devkit.stores import S3Store
from trainedmodel_devkit.waiting import until

_START_TIMEOUT_S = 90.0
_UP_TIMEOUT_S = 150.0
_GRACE_S = 5.0

PODS = (("tabular-0", TABULAR), ("tabular-1", TABULAR), ("vision-0", VISION))


def install(control_plane: ControlPlane) -> None:
    """Install what a user installs, but for Deployment and webhook, and make the namespace."""
    control_plane.install(without={"Deployment", WEBHOOK_CONFIGURATION})
    control_plane.kubectl("create", "namespace", NAMESPACE)


class Stage:
    """The running system; an async context manager.

    `announce` hears of each part that is up, `on_models` of each change of a TrainedModel. Binaries
    and server environments should be in the cache already, else entering takes minutes.
    """

    def __init__(
        self,
        *,
        announce: Callable[[str], None] = lambda _: None,
        on_models: Callable[[Models], None] = lambda _: None,
    ) -> None:
        self._announce = announce
        self._on_models = on_models
        self._exits = AsyncExitStack()
        self._launchers: dict[str, ServerLauncher] = {TABULAR: MLServer(), VISION: Triton()}
        self._specs: dict[str, PullerPodSpec] = {}
        self._pods: dict[str, DevPod] = {}
        self._operator: OperatorProcess | None = None
        self.control_plane = ControlPlane()
        self.store = S3Store()

    async def __aenter__(self) -> Self:
        try:
            await self._bring_up()
        except BaseException:
            await self._exits.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    # -- what the steps use -------------------------------------------------------------

    async def kubectl(self, *args: str) -> str:
        """Run kubectl as administrator in the demo's namespace."""
        words = ("--namespace", NAMESPACE, "--request-timeout=30s", *args)
        return await asyncio.to_thread(self.control_plane.kubectl, *words)

    def pods_of(self, service: str) -> list[str]:
        """Name the pods of a service."""
        return [name for name, spec in self._specs.items() if spec.parent == service]

    def server_url(self, pod: str) -> str:
        """Return where a pod's model server answers."""
        return self._specs[pod].server_url

    def model_folder(self, pod: str, model: str) -> Path:
        """Return where a pod's model server sees a model's files."""
        return self._pods[pod].folders.models / model

    def config_folder(self, pod: str) -> Path:
        """Return where a pod's shards are projected."""
        return self._pods[pod].folders.config

    async def logs(self) -> dict[str, str]:
        """Return what the operator and all containers have said so far."""
        logs = {}
        if self._operator is not None:
            logs["operator"] = await asyncio.to_thread(self._operator.log)
        for name, pod in self._pods.items():
            for container in pod.spec.containers:
                logs[f"{name}/{container.name}"] = await pod.log(container.name)
        return logs

    # -- bringing it up -----------------------------------------------------------------

    async def _bring_up(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="trainedmodel-demo-"))
        guard.watch_folder(self._folder)
        self._exits.callback(self._remove_folder)
        try:
            async with asyncio.timeout(_UP_TIMEOUT_S):
                await _together(self._start_store(), self._start_cluster())
        except TimeoutError:
            raise StartFailed(f"not everything was up after {_UP_TIMEOUT_S:.0f} s") from None

    async def _start_store(self) -> None:
        await self._enter(self.store)
        count = await asyncio.to_thread(upload_models, self.store)
        self._announce(f"S3 store answers and holds {count} model versions")

    async def _start_cluster(self) -> None:
        await self._enter(self.control_plane)
        self._announce("control plane answers")
        await asyncio.to_thread(install, self.control_plane)
        self._announce("CRDs, roles and policies are installed")
        self.board = Board(self.control_plane, NAMESPACE, self._on_models)
        self._exits.push_async_callback(self.board.close)
        self._node = DevNode(self.control_plane, self._folder / "node", grace_s=_GRACE_S)
        await self._node.__aenter__()
        self._exits.push_async_callback(self._stop_programs)
        following = asyncio.create_task(self.board.follow(), name="demo/board")
        self._exits.push_async_callback(_cancelled, following)
        pods = (self._start_pod(name, service) for name, service in PODS)
        await _together(self._start_operator(), *pods)

    async def _start_operator(self) -> None:
        account = await asyncio.to_thread(operator_account, self.control_plane)
        port, log = free_port(), self._folder / "operator.log"
        self._operator = OperatorProcess(account, log, f"--health-port={port}")
        await asyncio.to_thread(self._operator.start)
        await self._wait_healthy(self._operator, f"http://127.0.0.1:{port}/readyz")
        guarding = asyncio.create_task(self._guard(self._operator), name="demo/operator")
        self._exits.push_async_callback(_cancelled, guarding)
        self._announce("operator watches")

    async def _guard(self, operator: ManagedProcess) -> None:
        """Let no wait last when the operator is dead: nobody would fulfil it."""
        status = await operator.exited()
        await self.board.give_up(StartFailed(f"the operator ended by itself, with status {status}"))

    async def _wait_healthy(self, operator: ManagedProcess, url: str) -> None:
        async with aiohttp.ClientSession() as session:

            async def is_healthy() -> bool:
                operator.check_alive()
                return await _answers(session, url)

            await until(
                is_healthy,
                _START_TIMEOUT_S,
                what="the operator is healthy",
                every_s=0.1,
                details=lambda: operator.log()[-3000:],
            )

    async def _start_pod(self, name: str, service: str) -> None:
        launcher = self._launchers[service]
        await asyncio.to_thread(launcher.ensure)
        spec = puller_pod(
            name, service, server=launcher, namespace=NAMESPACE, extra_env=self.store.env()
        )
        self._pods[name] = await self._node.start_pod(spec, ready_timeout_s=_START_TIMEOUT_S)
        self._specs[name] = spec
        self._announce(f"pod {name} runs: {launcher.kind} and a puller")

    async def _enter(self, manager: ControlPlane | S3Store) -> None:
        """Enter a blocking manager in a thread.

        A thread cannot be cancelled: whoever gives up meanwhile waits for its end, so that what it
        started is ended too.
        """
        entering = asyncio.create_task(asyncio.to_thread(manager.__enter__))
        try:
            await asyncio.shield(entering)
        finally:
            await asyncio.wait([entering])
            if entering.exception() is None:
                self._exits.push_async_callback(asyncio.to_thread, manager.__exit__)

    async def _stop_programs(self) -> None:
        ends: list[Coroutine[Any, Any, object]] = [self._node.__aexit__()]
        if self._operator is not None:
            ends.append(asyncio.to_thread(self._operator.stop, _GRACE_S))
        for result in await asyncio.gather(*ends, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    def _remove_folder(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        guard.forget_folder(self._folder)


async def _together(*parts: Coroutine[Any, Any, None]) -> None:
    """Run all parts at once; if one fails, cancel the others and raise what it failed with."""
    try:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(part)
    except BaseExceptionGroup as failures:
        # The rest of the group only failed along.
        raise failures.exceptions[0] from None


async def _cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=2)) as answer:
            return answer.ok
    except (aiohttp.ClientError, TimeoutError):
        return False
