"""The operator process while the API server refuses, fails and is away; nothing desired is lost."""

from __future__ import annotations

import threading
import time

import pytest
from support.operator.faulted import FaultedScene
from trainedmodel_devkit.documents import trained_model
from trainedmodel_devkit.faultproxy import Request, answering, is_write
from trainedmodel_devkit.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


def run_pods(scene: FaultedScene, *pods: str) -> None:
    for pod in pods:
        scene.cluster.run_pod(pod)


def test_a_third_of_the_writes_is_answered_429(scene: FaultedScene) -> None:
    models = [trained_model(f"m{number:02}") for number in range(40)]
    run_pods(scene, "pod-a", "pod-b")
    refused = answering(429, retry_after="1")
    with scene.operator() as operator, scene.witness() as witness:
        with scene.proxy.failing(refused, where=is_write, every=3):
            scene.cluster.apply(*models[:20])
            scene.cluster.apply(*models[20:])
            scene.report_loaded(["pod-a", "pod-b"], models)
            scene.wait_for_truth(models, timeout_s=60)
        assert witness.lost == []
        assert witness.versions > 0
        assert scene.metric("trainedmodel_operator_api_errors", cause="throttled") >= 10
        assert scene.metric("trainedmodel_operator_throttled_seconds", priority_level="status") > 1
        assert "requests_rate_limited" in operator.log()
    refusals = [one for one in scene.proxy.requests if one.status == 429]
    assert len(refusals) < 40, "a lane that is told to wait does not go on asking"


def test_refused_statuses_delay_no_shard(scene: FaultedScene) -> None:
    def is_status(request: Request) -> bool:
        return request.kind == "trainedmodels/status"

    with scene.operator():
        with scene.proxy.failing(answering(429, retry_after="3600"), where=is_status):
            scene.cluster.apply(trained_model("first"))
            wait_until(lambda: scene.proxy.count(kind="trainedmodels/status"))
            scene.cluster.apply(trained_model("second"))
            scene.wait_for_shards([trained_model("first"), trained_model("second")])
        assert scene.proxy.count(kind="trainedmodels/status") == 1


def test_everything_fails_with_500_for_10_seconds(scene: FaultedScene) -> None:
    kept = [trained_model(f"kept-{number}") for number in range(5)]
    new = [trained_model(f"new-{number}") for number in range(5)]
    run_pods(scene, "pod-a")
    with scene.operator() as operator, scene.witness() as witness:
        scene.cluster.apply(*kept, trained_model("gone"))
        scene.wait_for_shards([*kept, trained_model("gone")])
        with scene.proxy.failing(answering(500)):
            scene.proxy.cut_watches()
            scene.cluster.apply(*new)
            witness.may_leave("gone")
            scene.cluster.kubectl("delete", "tmodel", "gone")
            scene.report_loaded(["pod-a"], [*kept, *new])
            time.sleep(10)
        scene.wait_for_truth([*kept, *new], timeout_s=40)
        assert witness.lost == []
        assert operator.poll() is None, "it waits, it does not end"


def test_connections_are_refused_for_30_seconds(scene: FaultedScene) -> None:
    kept = [trained_model(f"kept-{number}") for number in range(5)]
    new = [trained_model(f"new-{number}") for number in range(30)]
    run_pods(scene, "pod-a")
    with scene.operator(resync_s=5) as operator, scene.witness() as witness:
        scene.cluster.apply(*kept)
        scene.wait_for_shards(kept)
        with scene.proxy.refusing_connections():
            scene.cluster.apply(*new)
            scene.report_loaded(["pod-a"], [*kept, *new])
            time.sleep(30)
        scene.wait_for_truth([*kept, *new])
        assert witness.lost == []
        assert operator.poll() is None
        assert scene.metric("trainedmodel_operator_api_errors", cause="unreachable") > 0


def test_killed_in_a_burst_while_writes_fail(scene: FaultedScene) -> None:
    models = [trained_model(f"m{number:02}") for number in range(60)]
    run_pods(scene, "pod-a")
    with scene.witness() as witness:
        with scene.proxy.failing(answering(500), where=is_write, every=2):
            burst = threading.Thread(target=lambda: scene.cluster.apply(*models))
            for _ in range(3):
                with scene.operator() as operator:
                    if not burst.is_alive() and burst.ident is None:
                        burst.start()
                    time.sleep(0.7)
                    operator.kill()
                    operator.wait(5)
            burst.join()
        with scene.operator():
            scene.report_loaded(["pod-a"], models)
            scene.wait_for_truth(models, timeout_s=40)
        assert witness.lost == []
