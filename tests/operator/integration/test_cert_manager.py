"""cert-manager keeps the webhook's certificates: the shipped component, and cert-manager itself.

The API server calls the Service of the shipped webhook configuration by its name; that it is an
external one, which leads to this machine, is all that is changed. What a kubelet does to the
mounted Secret is done here, and late, as a kubelet is.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from support.helm_chart import overlay
from support.webhook.processes import Replica, all_listen, replicas
from support.webhook.replicas import (
    CONFIGURATION,
    asking_pod,
    create,
    has_puller,
    injects,
    published,
    served_by,
    transport_as,
    until,
)
from trainedmodel_devkit.certmanager import CertManager
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.operatorprocess import SYSTEM, USER
from trainedmodel_devkit.projection import AtomicWriter
from trainedmodel_devkit.waiting import wait_until
from trainedmodel_operator.api.transport import Transport

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

HOST = "trainedmodel-webhook.trainedmodel-system.svc"
LEAF, AUTHORITY = "trainedmodel-webhook", "trainedmodel-webhook-ca"
SECRET_OF = {LEAF: "trainedmodel-webhook-certificate", AUTHORITY: "trainedmodel-webhook-ca"}
#: How much later than the Secret the mounted files change; a kubelet takes up to two minutes.
LATE_S = 2.0


@pytest.fixture(scope="module")
def cert_manager() -> Iterator[CertManager]:
    with ControlPlane(audit_log=True) as control_plane, CertManager(control_plane) as running:
        control_plane.install_crds()
        yield running


class Scene:
    """The operator's replicas, with certificates by cert-manager."""

    def __init__(self, cert_manager: CertManager, replicas: list[Replica], user: Transport) -> None:
        self.cert_manager = cert_manager
        self.kubectl = cert_manager.control_plane.kubectl
        self.replicas = replicas
        self.user = user

    def issued(self, certificate: str = LEAF) -> str:
        """Return the certificate in a Certificate's Secret as PEM; nothing where there is none."""
        return _data_of(self.cert_manager.control_plane, SECRET_OF[certificate]).get("tls.crt", "")

    async def issued_after(self, change: Callable[[], object], certificate: str = LEAF) -> str:
        """Make a change, and return the certificate that is issued because of it."""
        before = await asyncio.to_thread(self.issued, certificate)
        await asyncio.to_thread(change)

        async def another() -> str:
            now = await asyncio.to_thread(self.issued, certificate)
            return "" if now == before else now

        return str(await until(another))

    async def all_serve(self, certificate: str) -> bool:
        """Tell whether each replica serves this certificate, trusted by what is published."""
        expected = ssl.PEM_cert_to_DER_cert(certificate.partition("-----END")[0] + _END)
        bundle = await asyncio.to_thread(published, self.cert_manager.control_plane)
        ports = [one.port for one in self.replicas]
        found = [await asyncio.to_thread(served_by, port, bundle, HOST) for port in ports]
        return found == [expected] * len(ports)


_END = "-----END CERTIFICATE-----\n"


@contextlib.asynccontextmanager
async def running_scene(cert_manager: CertManager, folder: Path) -> AsyncIterator[Scene]:
    """Apply what ships, run two replicas and the mount that they read from."""
    control_plane, mounted = cert_manager.control_plane, folder / "mounted"
    mounted.mkdir()
    async with (
        transport_as(control_plane.kubeconfig) as user,
        asyncio.TaskGroup() as tasks,
    ):
        # Without its Secret a pod does not start; processes that wait for files do as well.
        mounting = tasks.create_task(keep_mounted(cert_manager, mounted))
        await asyncio.to_thread(apply_overlay, control_plane, folder, door=1)
        flag = f"--webhook-certificates={mounted}"
        async with replicas(control_plane, folder, flag) as (door, found):
            await asyncio.to_thread(apply_overlay, control_plane, folder, door)
            await all_listen(found)
            await until(lambda: injects(user))
            yield Scene(cert_manager, found, user)
        mounting.cancel()


def apply_overlay(control_plane: ControlPlane, folder: Path, door: int) -> None:
    """Apply the base with the component; the Service leads to a port of this machine."""
    external = {"type": "ExternalName", "externalName": "127.0.0.1", "ports": [{"port": door}]}
    port = "/webhooks/0/clientConfig/service/port"
    patches = [
        {
            "target": {"kind": "Service", "name": "trainedmodel-webhook"},
            "patch": json.dumps([{"op": "replace", "path": "/spec", "value": external}]),
        },
        {
            "target": {"kind": "MutatingWebhookConfiguration", "name": CONFIGURATION},
            "patch": json.dumps([{"op": "replace", "path": port, "value": door}]),
        },
    ]
    own = overlay(folder / "own", "base", "cert-manager", patches=patches)
    control_plane.kubectl("apply", "-k", str(own))


async def keep_mounted(cert_manager: CertManager, folder: Path) -> None:
    """Do as a kubelet: show the Secret's content, some time after it has changed; for ever."""
    writer = AtomicWriter(folder)
    while True:
        cert_manager.process.check_alive()
        data = await asyncio.to_thread(_data_of, cert_manager.control_plane, SECRET_OF[LEAF])
        if data.get("tls.crt"):
            files = {key: text.encode() for key, text in data.items()}
            if (folder / "tls.crt").exists():
                await asyncio.sleep(LATE_S)
            await asyncio.to_thread(writer.write, files)
        await asyncio.sleep(0.2)


def _data_of(control_plane: ControlPlane, secret: str) -> dict[str, str]:
    text = control_plane.kubectl(
        *("get", "secret", secret, "-n", SYSTEM, "--ignore-not-found", "-o", "json")
    )
    data = json.loads(text).get("data") or {} if text else {}
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


async def test_cert_manager_issues_and_publishes_and_pods_are_injected(
    cert_manager: CertManager, tmp_path: Path
) -> None:
    control_plane = cert_manager.control_plane
    mark = control_plane.audit_mark()
    async with running_scene(cert_manager, tmp_path) as scene:
        assert has_puller(await create(scene.user, asking_pod()))
        assert await scene.all_serve(scene.issued())
        authority = await asyncio.to_thread(scene.issued, AUTHORITY)
        bundle = await asyncio.to_thread(published, control_plane)
        assert authority in base64.b64decode(bundle).decode()
    asked = {
        request.resource for request in control_plane.requests(since=mark) if request.user == USER
    }
    assert "trainedmodels" in asked
    assert not asked & {"secrets", "mutatingwebhookconfigurations"}


async def test_what_is_issued_again_is_served_without_a_restart_and_refuses_no_pod(
    cert_manager: CertManager, tmp_path: Path
) -> None:
    """The order of an operator's life: renewals, a lost Secret, an upgrade, another authority."""
    async with running_scene(cert_manager, tmp_path) as scene:
        created = 0

        async def stream() -> None:
            nonlocal created
            while True:
                assert has_puller(await create(scene.user, asking_pod()))
                created += 1
                await asyncio.sleep(0.02)

        async def goes_on(certificate: str) -> None:
            await until(lambda: scene.all_serve(certificate))
            before = created
            await until(lambda: asyncio.sleep(0.05, created > before + 5))

        async def life() -> None:
            leaf = await scene.issued_after(lambda: cert_manager.renew(SYSTEM, LEAF))
            await goes_on(leaf)
            secret = ("delete", "secret", SECRET_OF[LEAF], "-n", SYSTEM)
            leaf = await scene.issued_after(lambda: scene.kubectl(*secret))
            await goes_on(leaf)
            own = ("apply", "-k", str(tmp_path / "own"))
            await asyncio.to_thread(scene.kubectl, *own)
            await scene.issued_after(lambda: cert_manager.renew(SYSTEM, AUTHORITY), AUTHORITY)
            await goes_on(leaf)
            leaf = await scene.issued_after(lambda: cert_manager.renew(SYSTEM, LEAF))
            await goes_on(leaf)

        streaming, living = asyncio.create_task(stream()), asyncio.create_task(life())
        try:
            await asyncio.wait([streaming, living], return_when=asyncio.FIRST_COMPLETED)
            assert not streaming.done(), streaming.exception()
            await living
        finally:
            for task in (streaming, living):
                task.cancel()
            await asyncio.wait([streaming, living])
        assert created > 100
        assert [one.poll() for one in scene.replicas] == [None, None]
        bundle = await asyncio.to_thread(published, cert_manager.control_plane)
        authority = await asyncio.to_thread(scene.issued, AUTHORITY)
        # Beside those of before: cert-manager keeps them until they expire.
        assert authority in base64.b64decode(bundle).decode()


def test_a_bundle_that_was_removed_is_put_back_by_cert_manager(
    cert_manager: CertManager, tmp_path: Path
) -> None:
    control_plane = cert_manager.control_plane
    apply_overlay(control_plane, tmp_path, door=1)
    before = wait_until(lambda: published(control_plane))
    removal = [{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]
    control_plane.kubectl(
        *("patch", "mutatingwebhookconfiguration", CONFIGURATION),
        *("--type=json", "-p", json.dumps(removal)),
    )
    after = wait_until(lambda: published(control_plane))
    authority = _data_of(control_plane, SECRET_OF[AUTHORITY])["tls.crt"]
    assert all(authority in base64.b64decode(one).decode() for one in (before, after))
