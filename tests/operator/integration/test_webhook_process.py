"""The operator's own processes serve the webhook: two replicas, as shipped and wired."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
import yaml
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.ports import free_port
from trainedmodel_operator.transport import Transport
from webhook_replicas import (
    ROOT,
    SYSTEM,
    asking_pod,
    balancer,
    create,
    has_puller,
    injects,
    install,
    transport_as,
    until,
    webhook_control_plane,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def control_plane() -> Iterator[ControlPlane]:
    with webhook_control_plane() as running:
        running.kubectl("apply", "-f", str(ROOT / "crds"))
        running.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        yield running


class Replica:
    """One operator process with the webhook."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        self.port = free_port()
        self.log_file = folder / f"operator-{self.port}.log"
        with self.log_file.open("wb") as output:
            self.child = subprocess.Popen(
                [
                    *(sys.executable, "-m", "trainedmodel_operator"),
                    *("--metrics-port=0", "--health-port=0", "--log-format=console"),
                    f"--webhook-port={self.port}",
                    "--webhook-host=127.0.0.1",
                    *("--leader-elect", f"--lease-namespace={SYSTEM}"),
                    "--puller-image=trainedmodel-puller:of-the-flag",
                    "--puller-memory-limit=300Mi",
                ],
                env={**os.environ, "KUBECONFIG": str(kubeconfig), "NO_PROXY": "127.0.0.1"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait(10)


@contextlib.asynccontextmanager
async def two_replicas(
    control_plane: ControlPlane, folder: Path
) -> AsyncIterator[tuple[Transport, list[Replica]]]:
    kubeconfig = await asyncio.to_thread(
        control_plane.kubeconfig_for_service_account, SYSTEM, "trainedmodel-operator"
    )
    async with AsyncExitStack() as stack:
        replicas = []
        for _ in range(2):
            replicas.append(Replica(kubeconfig, folder))
            stack.callback(replicas[-1].kill)
        door = await stack.enter_async_context(balancer([one.port for one in replicas]))
        user = await stack.enter_async_context(transport_as(control_plane.kubeconfig))
        await asyncio.to_thread(install, control_plane, door)
        try:
            for one in replicas:
                await until(partial(is_listened_on, one.port), 60)
            await until(lambda: injects(user))
        except TimeoutError:
            sys.stderr.write("\n".join(one.log_file.read_text() for one in replicas))
            raise
        yield user, replicas


async def is_listened_on(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def test_a_replica_that_ends_takes_no_pods_creation_with_it(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    async with two_replicas(control_plane, tmp_path) as (user, replicas):
        pod = await create(user, asking_pod())
        sidecar = pod["spec"]["initContainers"][0]
        assert sidecar["image"] == "trainedmodel-puller:of-the-flag"
        assert sidecar["resources"]["limits"] == {"memory": "300Mi"}
        created = 0

        async def stream() -> None:
            nonlocal created
            while True:
                assert has_puller(await create(user, asking_pod()))
                created += 1

        async def has_ended() -> bool:
            return replicas[0].child.poll() is not None

        async def has_created_more() -> bool:
            return created > 20 or any(one.done() for one in streams)

        streams = [asyncio.create_task(stream()) for _ in range(3)]
        replicas[0].child.send_signal(signal.SIGTERM)
        try:
            await until(has_ended)
            before, created = created, 0
            await until(has_created_more)
        finally:
            for one in streams:
                one.cancel()
            ended = await asyncio.gather(*streams, return_exceptions=True)
        assert [one for one in ended if not isinstance(one, asyncio.CancelledError)] == []
        assert before > 20
        assert replicas[0].child.returncode == 0
        assert "Traceback" not in replicas[0].log_file.read_text()


def test_the_shipped_objects_of_the_webhook_fit_together() -> None:
    base = ROOT / "deploy" / "base"
    (webhook,) = yaml.safe_load((base / "webhook-configuration.yaml").read_text())["webhooks"]
    service = yaml.safe_load((base / "webhook-service.yaml").read_text())
    called = webhook["clientConfig"]["service"]
    assert called["name"] == service["metadata"]["name"]
    assert called["namespace"] == service["metadata"]["namespace"]
    assert [called["port"]] == [port["port"] for port in service["spec"]["ports"]]
    configuration = yaml.safe_load((base / "webhook-configuration.yaml").read_text())
    assert configuration["metadata"]["name"] > "inferenceservice.serving.kserve.io"
