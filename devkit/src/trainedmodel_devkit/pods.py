"""A pod of the devkit node: folders as its containers would see them, and the containers."""

import asyncio
import shutil
import signal
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import aiohttp

from trainedmodel_devkit.containers import Container
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.errors import StartFailed
from trainedmodel_devkit.podspec import ContainerSpec, PodSpec
from trainedmodel_devkit.processes import ManagedProcess
from trainedmodel_devkit.projection import AtomicWriter, Payload

_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True)
class PodFolders:
    """Where a pod's volumes are."""

    pod: Path

    @property
    def config(self) -> Path:
        """The projected shards."""
        return self.pod / "config"

    @property
    def volume(self) -> Path:
        """The volume that puller and server share."""
        return self.pod / "volume"

    @property
    def models(self) -> Path:
        """What the model server sees of the volume."""
        return self.volume / "models"

    @property
    def state(self) -> Path:
        """The puller's own part of the volume."""
        return self.volume / "state"

    @property
    def service_account(self) -> Path:
        """Token, CA and namespace, laid out as in any pod."""
        return self.pod / "serviceaccount"

    def make(self) -> None:
        """Create all of them."""
        for folder in (
            self.config,
            self.models,
            self.state,
            self.service_account,
            self.pod / "tmp",
        ):
            folder.mkdir(parents=True)


class DevPod:
    """A running pod. Made and ended by its node only."""

    def __init__(
        self, spec: PodSpec, uid: str, folder: Path, logs: Path, control_plane: ControlPlane
    ) -> None:
        self.spec = spec
        self.uid = uid
        self.folders = PodFolders(folder)
        self._logs = logs
        self._control_plane = control_plane
        self._containers: dict[str, Container] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._config = AtomicWriter(self.folders.config)
        self._account = AtomicWriter(self.folders.service_account)
        self.status_changed = asyncio.Event()
        self.status_lock = asyncio.Lock()
        self.started_at = self.turned_at = datetime.now(UTC)
        self.ready = False
        self._ended = False

    @property
    def name(self) -> str:
        """The Pod object's name."""
        return self.spec.name

    @property
    def namespace(self) -> str:
        """The Pod object's namespace."""
        return self.spec.namespace

    def kill(self, container: str, signal: int = signal.SIGKILL) -> None:
        """Send a signal to a container; it is started again if it dies of it."""
        self._containers[container].kill(signal)

    async def restart(self, container: str) -> None:
        """End a container with SIGTERM and wait until it was started again."""
        await self._containers[container].restart()

    async def log(self, container: str) -> str:
        """Return a container's output, all its lives together."""
        return await self._containers[container].log()

    def pid(self, container: str) -> int | None:
        """Return a container's process number, None while it does not run."""
        return self._containers[container].pid

    def restarts(self, container: str) -> int:
        """Return how often a container was started again."""
        return self._containers[container].restarts

    async def write_config(self, payload: Payload) -> bool:
        """Replace the projected shards if they differ; say if they did."""
        if self._ended:
            return False
        return await asyncio.to_thread(self._config.write, payload)

    async def write_account(self, token: str) -> None:
        """Replace the service account's folder."""
        payload = {
            "token": token.encode(),
            "ca.crt": await asyncio.to_thread(self._control_plane.ca_file.read_bytes),
            "namespace": self.namespace.encode(),
        }
        await asyncio.to_thread(self._account.write, payload)

    async def prepare(self) -> None:
        """Make the folders."""
        await asyncio.to_thread(self.folders.make)

    async def start(self) -> None:
        """Start all containers, sidecars first."""
        for spec in sorted(self.spec.containers, key=lambda c: not c.sidecar):
            work = self.folders.pod / "work" / spec.name
            await asyncio.to_thread(work.mkdir, parents=True)
            process = ManagedProcess(
                spec.name,
                [word.format_map(self._placeholders()) for word in spec.command],
                log=self._logs / f"{spec.name}.log",
                env=self._environment(spec),
                cwd=work,
                shared_memory=spec.shared_memory,
            )
            container = Container(process, restart=spec.restart, on_restart=self._report)
            self._containers[spec.name] = container
            self._tasks[spec.name] = asyncio.create_task(
                container.run(), name=f"{self.name}/{spec.name}"
            )

    async def wait_ready(self, session: aiohttp.ClientSession, timeout_s: float) -> None:
        """Wait until all containers that have a readiness URL answer it with success.

        Raises:
            StartFailed: with the silent container's last words.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        for spec in self.spec.containers:
            while spec.ready_url and not await _answers(session, spec.ready_url):
                self._raise_failures()
                if asyncio.get_running_loop().time() > deadline:
                    said = await self.log(spec.name)
                    raise StartFailed(
                        f"{self.name}/{spec.name} is not ready after {timeout_s} s:\n{said[-3000:]}"
                    )
                await asyncio.sleep(0.05)
        self.ready = True
        self.turned_at = datetime.now(UTC)

    async def stop(self, grace_s: float) -> None:
        """End all containers, sidecars last, and remove the volumes; logs stay."""
        self.ready = False
        self._ended = True
        for sidecar in (False, True):
            names = [
                c.name
                for c in self.spec.containers
                if c.sidecar is sidecar and c.name in self._containers
            ]
            stops = (self._containers[name].stop(self._tasks[name], grace_s) for name in names)
            await asyncio.gather(*stops)
        await asyncio.to_thread(shutil.rmtree, self.folders.pod, ignore_errors=True)
        self._raise_failures()

    def _raise_failures(self) -> None:
        """Raise what kept a container from being started, such as a command that does not exist."""
        failures = [task.exception() for task in self._tasks.values() if task.done()]
        if errors := [failure for failure in failures if isinstance(failure, Exception)]:
            raise ExceptionGroup(f"containers of {self.name}", errors)

    async def _report(self) -> None:
        self.status_changed.set()

    def _placeholders(self) -> dict[str, str]:
        account = self.folders.service_account
        return {
            "pod_dir": str(self.folders.pod),
            "config_dir": str(self.folders.config),
            "volume_dir": str(self.folders.volume),
            "model_dir": str(self.folders.models),
            "state_dir": str(self.folders.state),
            "token_file": str(account / "token"),
            "ca_file": str(account / "ca.crt"),
            "namespace": self.namespace,
            "pod_name": self.name,
            "pod_uid": self.uid,
            "api_server": self._control_plane.server,
        }

    def _environment(self, spec: ContainerSpec) -> dict[str, str]:
        """Compose a container's whole environment; nothing of the caller's leaks in."""
        fixed = {
            # Programs of the environment that runs the devkit (the puller's) are found by name.
            "PATH": f"{Path(sys.prefix) / 'bin'}:{_SYSTEM_PATH}",
            "HOME": str(self.folders.pod / "tmp"),
            "TMPDIR": str(self.folders.pod / "tmp"),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "POD_NAME": self.name,
            "POD_NAMESPACE": self.namespace,
            "POD_UID": self.uid,
            "KUBERNETES_SERVICE_HOST": self._control_plane.host,
            "KUBERNETES_SERVICE_PORT": str(self._control_plane.port),
        }
        own = {key: value.format_map(self._placeholders()) for key, value in spec.env.items()}
        return fixed | own


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=2)) as answer:
            return answer.ok
    except (aiohttp.ClientError, TimeoutError):
        return False
