"""What is installed changes, and is taken away, under a service that is asked without rest.

The last file of the suite: it leaves a cluster without an operator.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from trainedmodel_devkit.waiting import wait_until

from e2e.bench import Bench
from e2e.install import OPERATOR, SYSTEM, chart_with, helm, wait_for_operator
from e2e.traffic import Traffic
from e2e.workloads import SERVER_PORT, plain

pytestmark = pytest.mark.usefixtures("helm_program")

SERVICE = "tabular"


@pytest.fixture(scope="module")
def pod(bench: Bench) -> str:
    bench.deploy(plain(SERVICE, bench.provider.images.server))
    bench.apply(bench.model("lasting", SERVICE, bench.publish("lasting", 2)))
    bench.wait_ready("lasting")
    return bench.pods(SERVICE)[0]


@pytest.fixture
def traffic(bench: Bench, pod: str) -> Iterator[Traffic]:
    with (
        bench.provider.pod_url(bench.namespace, pod, SERVER_PORT) as url,
        Traffic(url, "lasting") as running,
    ):
        yield running


def test_helm_takes_over_what_kustomize_installed(
    bench: Bench, traffic: Traffic, tmp_path: Path
) -> None:
    kubectl = bench.cluster()
    flags = (*chart_with(bench.provider.images), "--take-ownership", "--force-conflicts")
    helm(kubectl, tmp_path, "install", *flags)
    wait_for_operator(kubectl)
    bench.apply(bench.model("by-helm", SERVICE, bench.publish("by-helm", 3)))
    bench.wait_ready("by-helm")
    assert bench.is_ready("lasting")
    assert traffic.failures == []


def test_an_upgrade_replaces_the_operator_and_nothing_else(
    bench: Bench, pod: str, traffic: Traffic, tmp_path: Path
) -> None:
    kubectl = bench.cluster()
    before = bench.get("pod", pod)
    flags = (*chart_with(bench.provider.images), "--set=log.level=debug")
    helm(kubectl, tmp_path, "upgrade", *flags)
    wait_for_operator(kubectl)
    bench.apply(bench.model("by-helm", SERVICE, bench.publish("by-helm", 4)))
    bench.wait_ready("by-helm")
    assert bench.predict(pod, "by-helm") == 4.0
    after = bench.get("pod", pod)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    restarts = [one["restartCount"] for one in after["status"]["containerStatuses"]]
    assert restarts == [one["restartCount"] for one in before["status"]["containerStatuses"]]
    assert traffic.failures == []


def test_after_it_is_uninstalled_crds_and_models_stay_and_are_served(
    bench: Bench, pod: str, traffic: Traffic, tmp_path: Path
) -> None:
    kubectl = bench.cluster()
    helm(kubectl, tmp_path, "uninstall")
    wait_until(
        lambda: not kubectl.get("deployment", OPERATOR, "-n", SYSTEM), 60, what="the operator goes"
    )
    names = {one["metadata"]["name"] for one in bench.list_all("tmodel")}
    assert names == {"lasting", "by-helm"}
    bench.provider.kill_container(bench.namespace, pod, "trainedmodel-puller")
    wait_until(lambda: bench.predict(pod, "by-helm") == 4.0, 30, what="it is served on")
    assert traffic.failures == []
    assert not kubectl.list_all(
        "mutatingwebhookconfigurations", "--selector=app.kubernetes.io/part-of=trainedmodel"
    ), "no pod waits for a webhook that is gone"
