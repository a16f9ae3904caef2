"""The operator's own processes serve the webhook: two replicas, as shipped and wired."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.webhook.processes import all_listen, replicas
from support.webhook.replicas import (
    ROOT,
    asking_pod,
    create,
    has_puller,
    injects,
    install,
    transport_as,
    until,
    webhook_control_plane,
)
from trainedmodel_contract import names
from trainedmodel_contract.conditions import find_condition
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.documents import trained_model
from trainedmodel_operator.core.pacing.rate_limiter import PriorityLevel

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def control_plane() -> Iterator[ControlPlane]:
    with webhook_control_plane() as running:
        yield running


async def test_a_replica_that_ends_takes_no_pods_creation_with_it(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    flags = (
        "--webhook-host=127.0.0.1",
        "--puller-image=trainedmodel-puller:of-the-flag",
        "--puller-memory-limit=300Mi",
    )
    async with (
        transport_as(control_plane.kubeconfig) as user,
        replicas(control_plane, tmp_path, *flags) as (door, found),
    ):
        await asyncio.to_thread(install, control_plane, door)
        await all_listen(found)
        await until(lambda: injects(user))
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
            return found[0].poll() is not None

        async def has_created_more() -> bool:
            return created > 20 or any(one.done() for one in streams)

        streams = [asyncio.create_task(stream()) for _ in range(3)]
        found[0].kill(signal.SIGTERM)
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
        assert found[0].poll() == 0
        assert "Traceback" not in found[0].log()


async def test_a_proxy_in_front_of_the_server_lends_it_no_memory_limit(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    """What the webhook takes for the server is what declared memory is held against."""
    model = trained_model("four-gib", memory="4Gi")
    pod = asking_pod()
    pod["spec"]["containers"] = [
        {"name": name, "image": "x", "resources": {"limits": {"memory": memory}}}
        for name, memory in (("istio-proxy", "1Gi"), ("triton", "32Gi"))
    ]
    async with (
        transport_as(control_plane.kubeconfig) as user,
        replicas(control_plane, tmp_path, "--webhook-host=127.0.0.1", count=1) as (door, found),
    ):
        await asyncio.to_thread(install, control_plane, door)
        await all_listen(found)
        await until(lambda: injects(user))
        made = await create(user, pod, dry_run=False)
        assert made["metadata"]["annotations"][names.CONTAINER_ANNOTATION] == "triton"
        path = f"/apis/{names.API_VERSION}/namespaces/default/trainedmodels"
        await user.request(PriorityLevel.SHARD, "POST", path, body=model)

        async def accepted() -> Any:
            read = await user.request(PriorityLevel.READ, "GET", f"{path}/four-gib")
            return find_condition(read.get("status"), "Accepted")

        verdict = await until(accepted)
        assert verdict["status"] == "True", verdict["message"]


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
