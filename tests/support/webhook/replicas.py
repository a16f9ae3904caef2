"""The webhook as replicas in this process, behind one address, on a real API server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import itertools
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from kubernetes.aio import client as kubernetes_client
from kubernetes.aio import config as kubernetes_config
from trainedmodel_contract import names
from trainedmodel_devkit import waiting
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.operatorprocess import SYSTEM, operator_account
from trainedmodel_devkit.ports import free_port
from trainedmodel_devkit.waiting import GIVE_UP_AFTER_S
from trainedmodel_operator.api.transport import Transport
from trainedmodel_operator.core.certificates import Lifetimes
from trainedmodel_operator.core.injection.sidecar import InjectionSettings
from trainedmodel_operator.core.pacing.rate_limiter import PriorityLevel
from trainedmodel_operator.errors import ApiError
from trainedmodel_operator.observability.metrics import Metrics
from trainedmodel_operator.webhook.certificates import (
    CertificatePlace,
    Certificates,
    SelfSignedCertificates,
)
from trainedmodel_operator.webhook.server import serve_webhook

ROOT = Path(__file__).resolve().parents[3]
BASE = ROOT / "deploy" / "base"
CONFIGURATION = "trainedmodel-webhook"
SETTINGS = InjectionSettings(image="trainedmodel-puller:test")
HOSTS = frozenset({"trainedmodel-webhook.trainedmodel-system.svc", "127.0.0.1"})


@contextlib.contextmanager
def webhook_control_plane() -> Iterator[ControlPlane]:
    """Run a control plane that has all of ours but the webhook's configuration."""
    with ControlPlane() as running:
        running.install()
        yield running


def install(control_plane: ControlPlane, port: int) -> None:
    """Apply the shipped configuration, with an address on this machine in place of a Service."""
    document = yaml.safe_load((BASE / "webhook-configuration.yaml").read_text())
    (webhook,) = document["webhooks"]
    del webhook["clientConfig"]["service"]
    webhook["clientConfig"]["url"] = f"https://127.0.0.1:{port}/inject"
    control_plane.kubectl(
        "delete", "mutatingwebhookconfiguration", CONFIGURATION, "--ignore-not-found"
    )
    control_plane.kubectl("create", "-f", "-", input=yaml.safe_dump(document))


def published(control_plane: ControlPlane) -> str:
    """Return the caBundle of our webhook."""
    return control_plane.kubectl(
        "get",
        "mutatingwebhookconfiguration",
        CONFIGURATION,
        "-o",
        "jsonpath={.webhooks[0].clientConfig.caBundle}",
    )


def served_by(port: int, bundle: str, host: str = "127.0.0.1") -> bytes:
    """Return the certificate that a replica serves, checked as by an API server."""
    context = ssl.create_default_context(cadata=base64.b64decode(bundle).decode())
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=host) as tls,
    ):
        found = tls.getpeercert(binary_form=True)
        assert found
        return found


@contextlib.asynccontextmanager
async def transport_as(kubeconfig: Path) -> AsyncIterator[Transport]:
    """Speak to the API server as a kubeconfig says."""
    configuration = kubernetes_client.Configuration()
    await kubernetes_config.load_kube_config(  # type: ignore[no-untyped-call]
        config_file=str(kubeconfig), client_configuration=configuration
    )
    async with kubernetes_client.ApiClient(configuration) as api:
        yield Transport(api, Metrics())
    await asyncio.sleep(0.25)  # aiohttp's sessions end before their TLS connections do


@contextlib.asynccontextmanager
async def operators_transport(control_plane: ControlPlane) -> AsyncIterator[Transport]:
    """Speak as the shipped service account."""
    kubeconfig = await asyncio.to_thread(operator_account, control_plane)
    async with transport_as(kubeconfig) as transport:
        yield transport


@contextlib.asynccontextmanager
async def serving_webhook(control_plane: ControlPlane) -> AsyncIterator[Transport]:
    """Serve the webhook, as the shipped account, and speak as the administrator."""
    async with (
        operators_transport(control_plane) as operator,
        transport_as(control_plane.kubeconfig) as user,
        replica(self_made(operator)) as port,
    ):
        await asyncio.to_thread(install, control_plane, port)
        await until(lambda: injects(user))
        yield user


def self_made(
    transport: Transport,
    *,
    is_leader: Callable[[], bool] = lambda: True,
    lifetimes: Lifetimes | None = None,
    period_s: float = 0.3,
) -> SelfSignedCertificates:
    """Make the certificates of one replica."""
    place = CertificatePlace(
        namespace=SYSTEM, hosts=HOSTS, lifetimes=lifetimes or Lifetimes(), period_s=period_s
    )
    return SelfSignedCertificates(transport, place, is_leader)


@contextlib.asynccontextmanager
async def replica(
    certificates: Certificates, settings: InjectionSettings = SETTINGS
) -> AsyncIterator[int]:
    """Run one replica of the webhook; yields its port once it serves."""
    port, has_begun = free_port(), asyncio.Event()
    serving = asyncio.create_task(
        serve_webhook(
            port,
            settings,
            certificates,
            host="127.0.0.1",
            has_begun=has_begun,
            linger_s=0,
        )
    )
    try:
        async with asyncio.timeout(15):
            await has_begun.wait()
        yield port
    finally:
        serving.cancel()
        await asyncio.wait([serving])


@contextlib.asynccontextmanager
async def balancer(ports: list[int]) -> AsyncIterator[int]:
    """Hand connections to the ports in turn, as a Service does: to none that nobody listens on."""
    turns = itertools.count()
    joined: set[asyncio.Future[Any]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def reach(turn: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for number in range(len(ports)):
            with contextlib.suppress(OSError):
                port = ports[(turn + number) % len(ports)]
                return await asyncio.open_connection("127.0.0.1", port)
        return None

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far = await reach(next(turns))
        if far is None:
            writer.close()
            return
        both = asyncio.gather(pump(reader, far[1]), pump(far[0], writer))
        joined.add(both)
        with contextlib.suppress(asyncio.CancelledError):
            await both
        joined.discard(both)

    server = await asyncio.start_server(join, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for both in list(joined):
            both.cancel()


def asking_pod(**annotations: str) -> Any:
    """Return a pod that asks for a puller."""
    return copy.deepcopy(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "generateName": "tabular-",
                "labels": {
                    names.INJECT_LABEL: names.INJECT_VALUE,
                    names.PARENT_LABEL: "tabular",
                },
                "annotations": annotations,
            },
            "spec": {"containers": [{"name": "server", "image": "server:test"}]},
        }
    )


async def create(
    transport: Transport, pod: Any, namespace: str = "default", *, dry_run: bool = True
) -> Any:
    """Create a pod, without keeping it unless asked to."""
    return await transport.request(
        PriorityLevel.SHARD,
        "POST",
        f"/api/v1/namespaces/{namespace}/pods",
        query={"dryRun": "All"} if dry_run else {},
        body=pod,
    )


def has_puller(pod: Any) -> bool:
    """Tell whether a pod came back with a puller."""
    return any(
        container["name"] == names.PULLER_CONTAINER
        for container in pod["spec"].get("initContainers") or ()
    )


async def injects(user: Transport) -> bool:
    """Tell whether a pod that asks gets a puller."""
    return has_puller(await create(user, asking_pod()))


async def until(look: Callable[[], Awaitable[Any]], timeout_s: float = GIVE_UP_AFTER_S) -> Any:
    """Return what `look` returns once that is true of it; a refusal is not."""

    async def looked() -> Any:
        try:
            return await look()
        except ApiError as error:
            if error.status == 403:
                raise
            return None

    return await waiting.until(looked, timeout_s, every_s=0.1)
