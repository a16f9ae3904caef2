"""A namespace that enforces the pod security standard `restricted`, with users of its own."""

from __future__ import annotations

import pytest

from e2e.bench import Bench
from e2e.kubectl import Json, Refused
from e2e.workloads import kserve_custom, plain

USER = 2000
GROUP = 3000
_ENFORCED = "pod-security.kubernetes.io/enforce=restricted"


@pytest.fixture(scope="module", autouse=True)
def restricted(bench: Bench) -> None:
    bench.cluster()("label", "namespace", bench.namespace, _ENFORCED)


def locked_down(deployment: Json, **pods_own: int) -> Json:
    """Give a Deployment what the standard asks for, a user of its own and a read-only root."""
    pod = deployment["spec"]["template"]["spec"]
    pod["securityContext"] = {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
        **pods_own,
    }
    pod["volumes"] = [{"name": "scratch", "emptyDir": {}}]
    for container in pod["containers"]:
        container["securityContext"] = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        container["volumeMounts"] = [{"name": "scratch", "mountPath": "/tmp"}]
    return deployment


def test_a_pod_that_is_not_locked_down_is_not_admitted_here(bench: Bench) -> None:
    template = plain("open", bench.provider.images.server)["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    pod["metadata"] = {"name": "open"}
    with pytest.raises(Refused, match="violates PodSecurity"):
        bench.apply(pod)


@pytest.mark.parametrize("pods_own", [{}, {"runAsGroup": GROUP, "fsGroup": GROUP}])
def test_an_injected_pod_is_admitted_and_serves(bench: Bench, pods_own: dict[str, int]) -> None:
    service = "grouped" if pods_own else "locked"
    image = bench.provider.images.server
    deployment = locked_down(kserve_custom(service, image), **pods_own)
    name = bench.deploy(deployment)
    bench.apply(bench.model(f"in-{service}", service, bench.publish(f"in-{service}", 4)))
    bench.wait_ready(f"in-{service}")
    (pod,) = bench.pods(service)
    assert bench.predict(pod, f"in-{service}") == 4.0
    for container in ("trainedmodel-puller", "kserve-container"):
        assert bench.kubectl("exec", pod, "-c", container, "--", "id", "-u").strip() == str(USER)
    bench.kubectl("delete", "deployment", name, "--wait=false")
