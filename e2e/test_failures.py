"""What goes wrong on nodes: containers die, pods are deleted, the operator is away."""

from __future__ import annotations

import time

import pytest
from trainedmodel_devkit.waiting import wait_until

from e2e.bench import Bench
from e2e.install import operator_away
from e2e.workloads import SERVER, plain

SERVICE = "tabular"
AWAY_S = 60
MODELS = {"one": 1.0, "two": 2.0, "three": 3.0}


@pytest.fixture(scope="module", autouse=True)
def models(bench: Bench) -> None:
    bench.deploy(plain(SERVICE, bench.provider.images.server))
    bench.apply(*(bench.model(name, SERVICE, bench.publish(name, k)) for name, k in MODELS.items()))
    bench.wait_ready(*MODELS)


def answers(bench: Bench, pod: str) -> dict[str, float]:
    return {name: bench.predict(pod, name) for name in MODELS}


def serves_all(bench: Bench, pod: str) -> bool:
    return all(bench.is_served(pod, name) for name in MODELS)


def test_a_killed_server_gets_its_models_back(bench: Bench) -> None:
    pod = bench.pods(SERVICE)[0]
    bench.provider.kill_container(bench.namespace, pod, SERVER)
    wait_until(lambda: serves_all(bench, pod), 90, what="all models answer again")
    bench.wait_ready(*MODELS)
    assert answers(bench, pod) == MODELS


def test_a_killed_puller_interrupts_nobody(bench: Bench) -> None:
    pod = bench.pods(SERVICE)[0]
    bench.provider.kill_container(bench.namespace, pod, "trainedmodel-puller")
    assert answers(bench, pod) == MODELS
    bench.apply(bench.model("after-puller", SERVICE, bench.publish("after-puller", 9)))
    bench.wait_ready("after-puller", *MODELS)
    assert bench.predict(pod, "after-puller") == 9.0


def test_a_deleted_pods_report_goes_and_a_new_pod_gets_everything(bench: Bench) -> None:
    old = bench.pods(SERVICE)[0]
    assert bench.get("modelreport", old)
    bench.kubectl("delete", "pod", old, "--wait=false")
    new = wait_until(
        lambda: [one for one in bench.pods(SERVICE) if one != old], 60, what="a new pod"
    )[0]
    bench.kubectl("wait", f"pod/{new}", "--for=condition=Ready", "--timeout=90s")
    assert serves_all(bench, new), "a pod was Ready before its models were loaded"
    bench.wait_ready(*MODELS)
    wait_until(lambda: not bench.get("modelreport", old), 60, what="the old report is gone")


def test_models_are_served_while_the_operator_is_away(bench: Bench) -> None:
    started = time.monotonic()
    with operator_away(bench.cluster()):
        pod = bench.pods(SERVICE)[0]
        bench.apply(bench.model("meanwhile", SERVICE, bench.publish("meanwhile", 4)))
        bench.provider.kill_container(bench.namespace, pod, SERVER)
        wait_until(lambda: serves_all(bench, pod), 90, what="all models answer without operator")
        time.sleep(max(0.0, AWAY_S - (time.monotonic() - started)))
        assert answers(bench, pod) == MODELS
        assert not bench.is_served(pod, "meanwhile")
    bench.wait_ready("meanwhile", *MODELS)


def test_a_restarted_kubelet_changes_nothing(bench: Bench) -> None:
    pod = bench.pods(SERVICE)[0]
    before = bench.get("pod", pod)["status"]["containerStatuses"]
    bench.provider.restart_kubelet()
    assert answers(bench, pod) == MODELS
    bench.apply(bench.model("after-kubelet", SERVICE, bench.publish("after-kubelet", 8)))
    bench.wait_ready("after-kubelet", timeout_s=120)
    after = bench.get("pod", pod)["status"]["containerStatuses"]
    assert [one["containerID"] for one in after] == [one["containerID"] for one in before]


def test_scaling_out_and_in_keeps_the_truth(bench: Bench) -> None:
    bench.kubectl("scale", f"deployment/{SERVICE}", "--replicas=3")
    bench.rolled_out(SERVICE, 180)
    assert all(serves_all(bench, pod) for pod in bench.pods(SERVICE))
    _copies(bench, "3/3")
    bench.kubectl("scale", f"deployment/{SERVICE}", "--replicas=1")
    _copies(bench, "1/1")
    wait_until(lambda: len(bench.list_all("modelreports")) == 1, 60, what="one report left")
    bench.wait_ready(*MODELS)


def _copies(bench: Bench, wanted: str) -> None:
    def summaries() -> set[str]:
        statuses = [bench.status(name) for name in MODELS]
        return {one["copies"]["summary"] for one in statuses}

    wait_until(lambda: summaries() == {wanted}, 90, what=f"copies {wanted}")
