"""The webhook as the API server calls it: what is injected, what is refused, what is left alone."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from support.webhook.injection_corpus import accepted, refused
from support.webhook.replicas import (
    HOSTS,
    asking_pod,
    create,
    has_puller,
    injects,
    install,
    operators_transport,
    replica,
    self_made,
    serving_webhook,
    transport_as,
    until,
    webhook_control_plane,
)
from trainedmodel_contract import names
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.ports import free_port
from trainedmodel_operator.api.transport import Transport
from trainedmodel_operator.core.certificates import Lifetimes
from trainedmodel_operator.core.injection.sidecar import ACCOUNT_DIR, ACCOUNT_VOLUME, VOLUME_DIR
from trainedmodel_operator.core.pacing.rate_limiter import PriorityLevel
from trainedmodel_operator.errors import ApiError, Refused
from trainedmodel_operator.webhook import pki

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]


@pytest.fixture(scope="module")
def control_plane() -> Iterator[ControlPlane]:
    with webhook_control_plane() as running:
        running.kubectl("create", "serviceaccount", "models")
        running.kubectl("create", "namespace", "strict")
        running.kubectl(
            "label", "namespace", "strict", "pod-security.kubernetes.io/enforce=restricted"
        )
        yield running


@dataclass
class Serving:
    """The webhook, and a user of the cluster."""

    user: Transport

    async def create(self, pod: Any, namespace: str = "default") -> Any:
        return await create(self.user, pod, namespace)


@pytest.fixture
async def serving(control_plane: ControlPlane) -> AsyncIterator[Serving]:
    async with serving_webhook(control_plane) as user:
        yield Serving(user)


async def test_every_pod_of_the_corpus_is_valid_once_it_is_injected(serving: Serving) -> None:
    for name, pod in accepted().items():
        result = await serving.create(pod)
        first = result["spec"]["initContainers"][0]
        assert (name, first["name"]) == (name, names.PULLER_CONTAINER)
        assert first["restartPolicy"] == "Always"


async def test_the_token_is_mounted_once_and_ours_and_nobody_elses_changes(
    serving: Serving,
) -> None:
    for automount in (True, False):
        pod = asking_pod()
        pod["spec"]["automountServiceAccountToken"] = automount
        spec = (await serving.create(pod))["spec"]
        (sidecar,), (server,) = spec["initContainers"], spec["containers"]
        at_account = [
            mount["name"] for mount in sidecar["volumeMounts"] if mount["mountPath"] == ACCOUNT_DIR
        ]
        assert at_account == [ACCOUNT_VOLUME]
        tokens = [mount for mount in server["volumeMounts"] if mount["mountPath"] == ACCOUNT_DIR]
        assert bool(tokens) == automount
        assert ACCOUNT_VOLUME not in [mount["name"] for mount in server["volumeMounts"]]


async def test_a_restricted_namespace_takes_the_injected_pod(serving: Serving) -> None:
    pod = asking_pod()
    pod["spec"]["securityContext"] = {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    pod["spec"]["containers"][0]["securityContext"] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert has_puller(await serving.create(pod, "strict"))


async def test_the_server_shares_the_models_of_the_pullers_volume(serving: Serving) -> None:
    spec = (await serving.create(asking_pod()))["spec"]
    (sidecar,), (server,) = spec["initContainers"], spec["containers"]
    (whole,) = [m for m in sidecar["volumeMounts"] if m["mountPath"] == VOLUME_DIR]
    (models,) = [m for m in server["volumeMounts"] if m["mountPath"] == "/mnt/models"]
    assert models == {
        "name": whole["name"],
        "mountPath": "/mnt/models",
        "subPath": "models",
        "readOnly": True,
    }


async def test_a_pod_that_does_not_ask_is_not_touched(serving: Serving) -> None:
    pod = asking_pod()
    pod["metadata"]["labels"][names.INJECT_LABEL] = "disabled"
    assert not has_puller(await serving.create(pod))


async def test_a_pod_that_was_injected_is_taken_as_it_is(serving: Serving) -> None:
    result = await serving.create(asking_pod())
    again = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "copied",
            "labels": result["metadata"]["labels"],
        },
        "spec": result["spec"],
    }
    assert (await serving.create(again))["spec"] == result["spec"]


async def test_an_impossible_pod_is_refused_and_its_owner_is_told_what_to_change(
    serving: Serving,
) -> None:
    for name, (pod, words) in refused().items():
        with pytest.raises(Refused) as told:
            await serving.create(pod)
        assert words in str(told.value), name
        assert told.value.status == 422


async def test_a_transformer_of_kserve_gets_no_puller_and_is_counted_no_more(
    serving: Serving,
) -> None:
    pod = asking_pod()
    pod["metadata"]["labels"] |= {
        names.PARENT_POD_LABELS[0]: "tabular",
        "component": "transformer",
    }
    result = await serving.create(pod)
    assert not has_puller(result)
    assert result["metadata"]["labels"][names.INJECT_LABEL] == names.INJECT_SKIPPED


async def test_when_no_replica_answers_only_pods_that_ask_wait(
    control_plane: ControlPlane,
) -> None:
    async with (
        operators_transport(control_plane) as operator,
        transport_as(control_plane.kubeconfig) as user,
    ):
        async with replica(self_made(operator)) as port:
            await asyncio.to_thread(install, control_plane, port)
            await until(lambda: injects(user))
        with pytest.raises(ApiError, match=r"failed calling webhook .pods\.trainedmodel\.dev"):
            await create(user, asking_pod())
        pod = asking_pod()
        del pod["metadata"]["labels"][names.INJECT_LABEL]
        assert not has_puller(await create(user, pod))


async def test_a_later_webhook_that_changes_the_pod_makes_no_second_puller(
    serving: Serving, control_plane: ControlPlane
) -> None:
    bundle = pki.start_anew(HOSTS, datetime.now(UTC), Lifetimes())
    context = pki.new_context()
    pki.load_pair(context, bundle.certificate, bundle.key)
    late = [{"op": "add", "path": "/spec/containers/-", "value": {"name": "late", "image": "x"}}]

    async def add_a_container(request: web.Request) -> web.Response:
        review = await request.json()
        response = {
            "uid": review["request"]["uid"],
            "allowed": True,
            "patchType": "JSONPatch",
            "patch": base64.b64encode(json.dumps(late).encode()).decode(),
        }
        return web.json_response({**review, "request": None, "response": response})

    application = web.Application()
    application.router.add_post("/late", add_a_container)
    runner = web.AppRunner(application)
    await runner.setup()
    port = free_port()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
        url = f"https://127.0.0.1:{port}/late"
        await asyncio.to_thread(install_late, control_plane, url, bundle)

        async def comes_late() -> Any:
            pod = await serving.create(asking_pod())
            return pod if len(pod["spec"]["containers"]) == 2 else None

        spec = (await until(comes_late))["spec"]
        assert [one["name"] for one in spec["containers"]] == ["server", "late"]
        assert [one["name"] for one in spec["initContainers"]] == [names.PULLER_CONTAINER]
    finally:
        await asyncio.to_thread(
            control_plane.kubectl, "delete", "mutatingwebhookconfiguration", "zz-late"
        )
        await runner.cleanup()


def install_late(control_plane: ControlPlane, url: str, bundle: pki.Bundle) -> None:
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"]}
    webhook = {
        "name": "late.example.com",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "clientConfig": {"url": url, "caBundle": pki.encoded(bundle.authorities)},
        "rules": [{**rule, "resources": ["pods"]}],
    }
    document = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "zz-late"},
        "webhooks": [webhook],
    }
    control_plane.kubectl("create", "-f", "-", input=json.dumps(document))


async def test_the_operator_may_read_and_write_its_own_secret_and_no_other(
    serving: Serving, control_plane: ControlPlane
) -> None:
    folder = "/api/v1/namespaces/trainedmodel-system/secrets"
    async with operators_transport(control_plane) as operator:
        secret = await operator.request(PriorityLevel.READ, "GET", f"{folder}/trainedmodel-webhook")
        assert set(secret["data"]) == {"ca.crt", "ca.key", "tls.crt", "tls.key"}
        for method, path, body in (
            ("GET", folder, None),
            ("GET", f"{folder}/another", None),
            ("POST", folder, {"metadata": {"name": "another"}}),
            ("POST", folder, {"metadata": {"name": "trainedmodel-webhook"}}),
            ("DELETE", f"{folder}/trainedmodel-webhook", None),
            ("GET", "/api/v1/namespaces/default/secrets/trainedmodel-webhook", None),
        ):
            with pytest.raises(Refused) as told:
                await operator.request(PriorityLevel.SHARD, method, path, body=body)
            assert told.value.status == 403
