"""What a puller changes about its pod: quotas, limits and prescribed users of an API server."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from support.webhook.replicas import (
    asking_pod,
    create,
    install,
    operators_transport,
    replica,
    self_made,
    serving_webhook,
    until,
    webhook_control_plane,
)
from trainedmodel_contract import names
from trainedmodel_devkit.binaries import control_plane_binaries
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.documents import admission_policy
from trainedmodel_operator.api.transport import Transport
from trainedmodel_operator.core.injection.resources import MEMORY_REQUEST, Said
from trainedmodel_operator.core.injection.sidecar import InjectionSettings
from trainedmodel_operator.errors import Refused

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

#: The range of users that OpenShift gives to a namespace.
FIRST_USER = 1_000_680_000
GUARANTEED = {"limits": {"cpu": "1", "memory": "2Gi"}}


@pytest.fixture(scope="module")
def control_plane() -> Iterator[ControlPlane]:
    with webhook_control_plane() as running:
        for namespace in ("quota", "ranged", "prescribed"):
            running.kubectl("create", "namespace", namespace)
        yield running


@pytest.fixture
async def user(control_plane: ControlPlane) -> AsyncIterator[Transport]:
    async with serving_webhook(control_plane) as user:
        yield user


def pod_with(resources: Any, **annotations: str) -> Any:
    pod = asking_pod(**{f"{names.GROUP}/{key}": value for key, value in annotations.items()})
    pod["spec"]["containers"][0]["resources"] = resources
    return pod


def sidecar(pod: Any) -> Any:
    return pod["spec"]["initContainers"][0]


def apply(control_plane: ControlPlane, *documents: Any) -> None:
    for document in documents:
        control_plane.kubectl("apply", "-f", "-", input=json.dumps(document))


async def as_kubectl_shows(control_plane: ControlPlane, pod: Any, namespace: str) -> str:
    """Create a pod with kubectl, without keeping it; return what it writes for people."""

    def run() -> str:
        done = subprocess.run(
            [
                *(control_plane_binaries().kubectl, "--kubeconfig", control_plane.kubeconfig),
                *("create", "--dry-run=server", "-n", namespace, "-f", "-"),
            ],
            input=json.dumps(pod),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.stderr

    return await asyncio.to_thread(run)


async def test_who_creates_a_guaranteed_pod_sees_that_it_will_be_burstable(
    user: Transport, control_plane: ControlPlane
) -> None:
    said = await as_kubectl_shows(control_plane, pod_with(GUARANTEED), "default")
    assert "Warning: trainedmodel.dev: with the puller the pod's QoS class is Burstable" in said
    assert (await create(user, pod_with(GUARANTEED)))["status"]["qosClass"] == "Burstable"
    kept = pod_with(GUARANTEED, qos="guaranteed", **{"cpu-limit": "500m"})
    assert "Warning" not in await as_kubectl_shows(control_plane, kept, "default")
    assert (await create(user, kept))["status"]["qosClass"] == "Guaranteed"


async def test_a_quota_on_processor_limits_is_warned_of_and_can_be_met(
    user: Transport, control_plane: ControlPlane
) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "cpu", "namespace": "quota"},
        "spec": {"hard": {"limits.cpu": "8"}},
    }
    await asyncio.to_thread(apply, control_plane, quota)
    # No controller of quotas runs here; it would write this.
    status = json.dumps({"status": {"hard": {"limits.cpu": "8"}, "used": {"limits.cpu": "0"}}})
    await asyncio.to_thread(
        control_plane.kubectl,
        *("patch", "resourcequota", "cpu", "-n", "quota", "--subresource=status"),
        *("--type=merge", "-p", status),
    )
    bounded = {"requests": {"cpu": "500m", "memory": "1Gi"}, **GUARANTEED}

    async def refused() -> str:
        said = await as_kubectl_shows(control_plane, pod_with(bounded), "quota")
        return said if "forbidden" in said else ""

    said = await until(refused)
    assert "must specify limits.cpu for: trainedmodel-puller" in said
    assert "a ResourceQuota on limits.cpu would refuse the pod" in said
    assert "trainedmodel.dev/cpu-limit" in said
    met = await create(user, pod_with(bounded, **{"cpu-limit": "500m"}), "quota")
    assert sidecar(met)["resources"]["limits"]["cpu"] == "500m"


async def test_a_limit_range_gives_the_puller_its_defaults_too(
    user: Transport, control_plane: ControlPlane
) -> None:
    limits = {
        "type": "Container",
        "default": {"cpu": "20m", "memory": "64Mi"},
        "defaultRequest": {"cpu": "10m", "memory": "64Mi"},
    }
    ranged = {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": {"name": "defaults", "namespace": "ranged"},
        "spec": {"limits": [limits]},
    }
    await asyncio.to_thread(apply, control_plane, ranged)

    async def refused() -> str:
        try:
            await create(user, asking_pod(), "ranged")
        except Refused as error:
            return str(error)
        return ""

    assert "must be less than or equal to cpu limit of 20m" in await until(refused)
    said = await as_kubectl_shows(control_plane, asking_pod(), "ranged")
    assert "trainedmodel.dev/cpu-limit" in said
    fits = asking_pod(**{names.CPU_LIMIT_ANNOTATION: "500m"})
    assert sidecar(await create(user, fits, "ranged"))["resources"] == {
        "requests": {"cpu": "50m", "memory": "128Mi"},
        "limits": {"cpu": "500m", "memory": "1Gi"},
    }


async def test_one_of_two_values_that_belong_together_is_enough(
    user: Transport, control_plane: ControlPlane
) -> None:
    low = await create(user, asking_pod(**{names.CPU_LIMIT_ANNOTATION: "20m"}))
    assert sidecar(low)["resources"]["requests"]["cpu"] == "20m"
    high = await create(user, asking_pod(**{names.MEMORY_REQUEST_ANNOTATION: "2Gi"}))
    assert sidecar(high)["resources"]["limits"]["memory"] == "2Gi"
    with pytest.raises(Refused, match=r"memory-request=2Gi is more than .*memory-limit=1Gi"):
        await create(
            user,
            asking_pod(
                **{names.MEMORY_REQUEST_ANNOTATION: "2Gi", names.MEMORY_LIMIT_ANNOTATION: "1Gi"}
            ),
        )
    flag = InjectionSettings(image="x", resources=Said({MEMORY_REQUEST: "2Gi"}))
    async with (
        operators_transport(control_plane) as operator,
        replica(self_made(operator), flag) as port,
    ):
        await asyncio.to_thread(install, control_plane, port)

        async def created() -> Any:
            limits = sidecar(await create(user, asking_pod()))["resources"]["limits"]
            return limits["memory"] == "2Gi"

        await until(created)


def users_of_a_range_only(namespace: str) -> tuple[Any, Any]:
    """Describe a policy that allows a namespace's pods only the users of a range."""
    rule = (
        "(object.spec.containers + object.spec.?initContainers.orValue([])).all(c, "
        f"c.securityContext.runAsUser >= {FIRST_USER} && "
        f"c.securityContext.runAsUser < {FIRST_USER + 10_000})"
    )
    return admission_policy(
        "must-run-as-range", namespace, ["pods"], rule=rule, message="must be in the ranges"
    )


def prescribed(**annotations: str) -> Any:
    pod = asking_pod(**annotations)
    pod["spec"]["securityContext"] = {"fsGroup": FIRST_USER}
    pod["spec"]["containers"][0]["securityContext"] = {"runAsUser": FIRST_USER}
    return pod


async def test_where_a_cluster_prescribes_users_the_puller_has_one_that_is_allowed(
    user: Transport, control_plane: ControlPlane
) -> None:
    """As OpenShift does: each container has a user, and only those of a range are allowed."""
    await asyncio.to_thread(apply, control_plane, *users_of_a_range_only("prescribed"))

    async def refuses_others() -> bool:
        try:
            await create(user, prescribed(**{names.RUN_AS_USER_ANNOTATION: "65532"}), "prescribed")
        except Refused as error:
            return "must be in the ranges" in str(error)
        return False

    await until(refuses_others)
    pod = await create(user, prescribed(), "prescribed")
    assert sidecar(pod)["securityContext"]["runAsUser"] == FIRST_USER
    assert pod["spec"]["securityContext"]["fsGroup"] == FIRST_USER
