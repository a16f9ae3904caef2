"""What a user does with models on one service: apply, ask, update, break, delete."""

from __future__ import annotations

import urllib.error

import pytest
from trainedmodel_devkit.waiting import wait_until

from e2e.bench import Bench, predict
from e2e.traffic import Traffic
from e2e.workloads import SERVER_PORT, plain

SERVICE = "tabular"


@pytest.fixture(scope="module", autouse=True)
def service(bench: Bench) -> str:
    bench.deploy(plain(SERVICE, bench.provider.images.server))
    return SERVICE


@pytest.fixture
def pod(bench: Bench) -> str:
    return bench.pods(SERVICE)[0]


def test_an_applied_model_is_ready_and_answers(bench: Bench, pod: str) -> None:
    bench.apply(bench.model("double", SERVICE, bench.publish("double", 2)))
    bench.wait_ready("double")
    assert bench.predict(pod, "double") == 2.0
    assert bench.status("double")["copies"]["summary"] == "1/1"


def test_fifty_models_become_ready_and_answer(bench: Bench, pod: str) -> None:
    models = {f"many-{k}": bench.publish(f"many-{k}", k) for k in range(50)}
    bench.apply(*(bench.model(name, SERVICE, uri) for name, uri in models.items()))
    bench.wait_ready(*models, timeout_s=120)
    assert [bench.predict(pod, f"many-{k}") for k in (0, 1, 25, 49)] == [0.0, 1.0, 25.0, 49.0]
    bench.kubectl("delete", "tmodel", *models, "--wait=false")
    wait_until(lambda: not bench.is_served(pod, "many-49"), 60, what="deleted models are gone")


def test_an_update_loses_no_request(bench: Bench, pod: str) -> None:
    bench.apply(bench.model("updated", SERVICE, bench.publish("updated", 1)))
    bench.wait_ready("updated")
    with bench.provider.pod_url(bench.namespace, pod, SERVER_PORT) as url, Traffic(url) as traffic:
        for k in (2, 3, 4):
            bench.apply(bench.model("updated", SERVICE, bench.publish("updated", k)))
            bench.wait_ready("updated")
            assert predict(url, "updated") == k
    assert traffic.failures == []
    assert traffic.answers[0] == 1.0
    assert sorted(traffic.answers) == traffic.answers, "an old revision answered after a newer one"
    assert len(traffic.answers) > 50


def test_a_bad_uri_is_told_and_harms_nobody(bench: Bench, pod: str) -> None:
    bench.apply(bench.model("fine", SERVICE, bench.publish("fine", 3)))
    bench.apply(bench.model("absent", SERVICE, "s3://models/no/such/model"))
    bench.wait_ready("fine")
    condition = bench.wait_condition("absent", "Ready", "False")
    wait_until(lambda: bench.status("absent").get("lastFailure"), 30, what="a failure is told")
    assert condition["observedGeneration"] == 1
    assert "no/such/model" in bench.status("absent")["lastFailure"]["message"]
    assert bench.predict(pod, "fine") == 3.0


def test_a_model_that_is_mended_becomes_ready(bench: Bench, pod: str) -> None:
    bench.apply(bench.model("absent", SERVICE, bench.publish("mended", 5)))
    bench.wait_ready("absent")
    assert bench.predict(pod, "absent") == 5.0


def test_a_broken_update_leaves_the_old_model_serving(bench: Bench, pod: str) -> None:
    bench.apply(bench.model("kept", SERVICE, bench.publish("kept", 6)))
    bench.wait_ready("kept")
    bench.apply(bench.model("kept", SERVICE, bench.publish("kept", 7, broken=True)))
    bench.wait_condition("kept", "Ready", "False")
    wait_until(lambda: bench.status("kept").get("lastFailure"), 30, what="a failure is told")
    assert bench.predict(pod, "kept") == 6.0
    assert bench.wait_condition("kept", "Available", "True")


def test_a_deleted_model_is_unloaded(bench: Bench, pod: str) -> None:
    bench.apply(bench.model("passing", SERVICE, bench.publish("passing", 2)))
    bench.wait_ready("passing")
    bench.kubectl("delete", "tmodel", "passing")
    wait_until(lambda: not bench.is_served(pod, "passing"), 30, what="unloaded")
    with pytest.raises(urllib.error.HTTPError) as refusal:
        bench.predict(pod, "passing")
    with refusal.value:
        assert refusal.value.code == 404
