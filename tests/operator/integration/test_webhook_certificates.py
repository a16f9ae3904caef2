"""The webhook's certificates on a real API server: made, agreed on, rotated, healed."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.webhook.replicas import (
    HOSTS,
    asking_pod,
    balancer,
    create,
    has_puller,
    injects,
    install,
    operators_transport,
    published,
    replica,
    self_made,
    served_by,
    transport_as,
    until,
    webhook_control_plane,
)
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.operatorprocess import SYSTEM
from trainedmodel_operator.api.transport import Transport
from trainedmodel_operator.core.certificates import Held, Lifetimes
from trainedmodel_operator.core.pacing.rate_limiter import PriorityLevel
from trainedmodel_operator.webhook import pki
from trainedmodel_operator.webhook.certificates import FileCertificates

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

SECRET = f"/api/v1/namespaces/{SYSTEM}/secrets/trainedmodel-webhook"
#: Short enough to be seen whole, long enough for a machine that has other things to do.
SHORT = Lifetimes(
    authority=timedelta(seconds=30),
    leaf=timedelta(seconds=15),
    overlap=timedelta(seconds=3),
    skew=timedelta(seconds=1),
)


@pytest.fixture(scope="module")
def running() -> Iterator[ControlPlane]:
    with webhook_control_plane() as running:
        yield running


@pytest.fixture
def control_plane(running: ControlPlane) -> ControlPlane:
    """The control plane, without what another test left."""
    running.kubectl("delete", "mutatingwebhookconfigurations", "--all")
    running.kubectl("delete", "secrets", "--all", "-n", SYSTEM)
    return running


@pytest.fixture
async def operator(control_plane: ControlPlane) -> AsyncIterator[Transport]:
    async with operators_transport(control_plane) as transport:
        yield transport


@pytest.fixture
async def user(control_plane: ControlPlane) -> AsyncIterator[Transport]:
    async with transport_as(control_plane.kubeconfig) as transport:
        yield transport


async def held(user: Transport) -> Held:
    secret = await user.request(PriorityLevel.READ, "GET", SECRET)
    return pki.read_bundle(pki.Bundle.from_secret(secret["data"]))


async def test_a_rotation_loses_no_pod_while_two_replicas_serve(
    control_plane: ControlPlane, operator: Transport, user: Transport
) -> None:
    async with AsyncExitStack() as stack:
        certificates = (
            self_made(operator, lifetimes=SHORT),
            self_made(operator, is_leader=lambda: False, lifetimes=SHORT),
        )
        ports = [await stack.enter_async_context(replica(one)) for one in certificates]
        door = await stack.enter_async_context(balancer(ports))
        await asyncio.to_thread(install, control_plane, door)
        await until(lambda: injects(user))
        first = (await held(user)).authorities[0].fingerprint
        leaves: set[bytes] = set()
        created = 0

        async def stream() -> None:
            nonlocal created
            while True:
                assert has_puller(await create(user, asking_pod()))
                created += 1
                await asyncio.sleep(0.02)

        async def shake_hands() -> None:
            while True:
                bundle = await asyncio.to_thread(published, control_plane)
                for port in ports:
                    leaves.add(await asyncio.to_thread(served_by, port, bundle))
                await asyncio.sleep(0.05)

        async def is_replaced() -> bool:
            now = await held(user)
            return first not in {one.fingerprint for one in now.authorities}

        loads = [asyncio.create_task(stream()), asyncio.create_task(shake_hands())]
        try:
            done = asyncio.create_task(until(is_replaced, 80))
            await asyncio.wait([*loads, done], return_when=asyncio.FIRST_COMPLETED)
            assert done.done()
            await done
            await until(lambda: injects(user))
        finally:
            for load in loads:
                load.cancel()
            ended = await asyncio.gather(*loads, return_exceptions=True)
        assert [one for one in ended if not isinstance(one, asyncio.CancelledError)] == []
        assert created > 100
        assert len(leaves) >= 3


async def test_two_replicas_that_both_may_write_serve_one_certificate(
    control_plane: ControlPlane, operator: Transport, user: Transport
) -> None:
    async with AsyncExitStack() as stack:
        starting = [stack.enter_async_context(replica(self_made(operator))) for _ in range(2)]
        ports = await asyncio.gather(*starting)
        await asyncio.to_thread(install, control_plane, ports[0])
        await until(lambda: injects(user))

        async def is_one() -> bool:
            bundle = await asyncio.to_thread(published, control_plane)
            served = {await asyncio.to_thread(served_by, port, bundle) for port in ports}
            return len(served) == 1

        await until(is_one)


async def test_a_replica_that_may_not_write_waits_for_the_one_that_may(
    control_plane: ControlPlane, operator: Transport, user: Transport
) -> None:
    leads = False
    follower = self_made(operator, is_leader=lambda: leads)
    looking = asyncio.create_task(follower.run())
    try:
        await asyncio.sleep(1)
        assert not follower.has_begun.is_set()
        found = await asyncio.to_thread(
            control_plane.kubectl, "get", "secrets", "-n", SYSTEM, "-o", "name"
        )
        assert found == ""
        leads = True
        async with asyncio.timeout(20):
            await follower.has_begun.wait()
    finally:
        looking.cancel()
        await asyncio.wait([looking])


async def test_a_bundle_that_was_edited_by_hand_is_healed_and_nothing_else_is_touched(
    control_plane: ControlPlane, operator: Transport, user: Transport
) -> None:
    async with replica(self_made(operator)) as port:
        await asyncio.to_thread(install, control_plane, port)
        await until(lambda: injects(user))
        bundle = await asyncio.to_thread(published, control_plane)
        other = pki.encoded(pki.start_anew(HOSTS, _now(), Lifetimes()).authorities)
        edit = [
            {"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": other},
            {"op": "replace", "path": "/webhooks/0/timeoutSeconds", "value": 3},
        ]
        await asyncio.to_thread(
            control_plane.kubectl,
            *("patch", "mutatingwebhookconfiguration", "trainedmodel-webhook"),
            *("--type=json", "-p", json.dumps(edit)),
        )

        async def is_healed() -> bool:
            return await asyncio.to_thread(published, control_plane) == bundle

        await until(is_healed)
        await until(lambda: injects(user))
        text = await asyncio.to_thread(
            control_plane.kubectl,
            *("get", "mutatingwebhookconfiguration", "trainedmodel-webhook", "-o", "json"),
        )
        (webhook,) = json.loads(text)["webhooks"]
        assert webhook["timeoutSeconds"] == 3
        assert webhook["clientConfig"]["url"].endswith(f"{port}/inject")


@pytest.mark.parametrize("harm", ["deleted", "garbage"])
async def test_a_secret_that_was_lost_is_made_again(
    harm: str, control_plane: ControlPlane, operator: Transport, user: Transport
) -> None:
    async with replica(self_made(operator)) as port:
        await asyncio.to_thread(install, control_plane, port)
        await until(lambda: injects(user))
        first = (await held(user)).authorities[0].fingerprint
        if harm == "deleted":
            await user.request(PriorityLevel.SHARD, "DELETE", SECRET)
        else:
            body = {"data": {"ca.key": pki.encoded("no key"), "tls.crt": "////"}}
            await user.request(
                PriorityLevel.SHARD,
                "PATCH",
                SECRET,
                body=body,
                content_type="application/merge-patch+json",
            )

        async def is_anew() -> bool:
            return (await held(user)).authorities[0].fingerprint != first

        await until(is_anew)
        await until(lambda: injects(user))


async def test_o5_a_secret_of_somebody_else_is_not_touched(
    control_plane: ControlPlane, operator: Transport, user: Transport
) -> None:
    foreign = {
        "metadata": {"name": "trainedmodel-webhook"},
        "data": {"password": pki.encoded("theirs")},
    }
    before = await user.request(
        PriorityLevel.SHARD, "POST", SECRET.rpartition("/")[0], body=foreign
    )
    certificates = self_made(operator)
    looking = asyncio.create_task(certificates.run())
    try:
        await asyncio.sleep(2)
        assert not certificates.has_begun.is_set()
        after = await user.request(PriorityLevel.READ, "GET", SECRET)
        assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    finally:
        looking.cancel()
        await asyncio.wait([looking])


async def test_certificates_that_somebody_else_keeps_are_read_again_when_they_change(
    control_plane: ControlPlane, user: Transport, tmp_path: Path
) -> None:
    def write() -> str:
        bundle = pki.start_anew(HOSTS, _now(), Lifetimes())
        (tmp_path / pki.CERTIFICATE).write_text(bundle.certificate)
        (tmp_path / pki.KEY).write_text(bundle.key)
        return pki.encoded(bundle.authorities)

    first = write()
    async with replica(FileCertificates(tmp_path, period_s=0.1)) as port:
        await asyncio.to_thread(served_by, port, first)
        second = write()

        async def is_second() -> bool:
            try:
                return bool(await asyncio.to_thread(served_by, port, second))
            except ssl.SSLError:
                return False

        await until(is_second)


async def test_a_leader_that_has_nothing_to_do_writes_nothing(
    control_plane: ControlPlane, operator: Transport
) -> None:
    certificates = self_made(operator)
    await certificates.look()
    first = await operator.request(PriorityLevel.READ, "GET", SECRET)
    await certificates.look()
    second = await operator.request(PriorityLevel.READ, "GET", SECRET)
    assert first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]


def _now() -> datetime:
    return datetime.now(UTC)
