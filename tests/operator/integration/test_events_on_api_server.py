"""Events on the real API server: accepted by it, shown by kubectl, and not told twice."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from kubernetes.aio import client as kubernetes_client
from kubernetes.aio import config as kubernetes_config
from support.kserve_kind import install_kind, remove_kind, serve
from support.operator.on_cluster import Cluster
from trainedmodel_devkit.documents import loaded, trained_model
from trainedmodel_devkit.operatorprocess import USER, OperatorProcess
from trainedmodel_devkit.waiting import wait_until
from trainedmodel_operator.api.client import ApiKubeClient
from trainedmodel_operator.core.pacing import event_correlator
from trainedmodel_operator.core.state import ServiceKey
from trainedmodel_operator.observability.event_recorder import EventRecorder
from trainedmodel_operator.observability.metrics import Metrics
from trainedmodel_operator.reconcile.work_queue import ACTIVE_PASSES

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

shown = logging.getLogger("shown")

StartOperator = Callable[..., AbstractContextManager[OperatorProcess]]


def events(cluster: Cluster) -> list[Any]:
    items = json.loads(cluster.kubectl("get", "events.events.k8s.io", "-o", "json"))["items"]
    return sorted(items, key=lambda one: str(one["eventTime"]))


def reasons(cluster: Cluster, name: str) -> list[str]:
    return [one["reason"] for one in events(cluster) if one["regarding"]["name"] == name]


def failed(reason: str, **more: Any) -> dict[str, Any]:
    return {"state": "Failed", "reason": reason, "message": "no such object", "attempt": 1, **more}


def test_a_models_life_is_told_by_its_events_and_kubectl_shows_them(
    cluster: Cluster, start_operator: StartOperator
) -> None:
    first, second = trained_model("iris"), trained_model("iris", version="2")
    with start_operator():
        cluster.run_pod("pod-a")
        cluster.apply(first)
        revision = loaded([first])["iris"]["revision"]
        cluster.report("pod-a", {"iris": {**failed("ObjectNotFound"), "revision": revision}})
        wait_until(lambda: reasons(cluster, "iris") == ["ObjectNotFound"])
        cluster.report("pod-a", loaded([first]))
        wait_until(lambda: reasons(cluster, "iris")[1:] == ["Ready"])
        cluster.apply(second)
        wait_until(lambda: reasons(cluster, "iris")[2:] == ["Updating"])
        told = {**failed("LoadFailed"), "loadedRevision": revision}
        told["revision"] = loaded([second])["iris"]["revision"]
        cluster.report("pod-a", {"iris": told})
        wait_until(lambda: reasons(cluster, "iris")[3:] == ["LoadFailed"])
        cluster.apply(first)
        cluster.report("pod-a", loaded([first]))
        wait_until(lambda: cluster.status("iris").get("revision") == revision)
        cluster.kubectl("wait", "--for=condition=Ready", "tmodel/iris", "--timeout=20s")
        listed = cluster.kubectl("get", "events")
        described = cluster.kubectl("describe", "tmodel", "iris")
    shown.info("kubectl get events:\n%s", listed)
    shown.info("kubectl describe tm:\n%s", described[described.index("Events:") :])
    assert f"The pod keeps serving revision {revision}. pod-a: no such object" in listed
    tail = described[described.index("Events:") :]
    assert "Warning  ObjectNotFound" in tail
    assert "trainedmodel.dev/operator" in tail


def test_a_restart_tells_nothing_again(cluster: Cluster, start_operator: StartOperator) -> None:
    with start_operator() as operator:
        cluster.run_pod("pod-a")
        cluster.apply(
            trained_model("iris"), trained_model("a", name="same"), trained_model("b", name="same")
        )
        cluster.report("pod-a", loaded([trained_model("iris")]))
        wait_until(lambda: reasons(cluster, "iris") == ["Ready"])
        wait_until(lambda: reasons(cluster, "b") == ["NameConflict"])
        operator.kill(signal.SIGTERM)
        operator.wait(10)
    before = events(cluster)
    mark = cluster.control_plane.audit_mark()
    with start_operator(resync_s=0.5):
        cluster.apply(trained_model("fresh", name="same"))
        wait_until(lambda: reasons(cluster, "fresh") == ["NameConflict"])
        time.sleep(3)
    assert len(events(cluster)) == len(before) + 1
    writes = cluster.control_plane.requests(resource="events", since=mark)
    mine = [one for one in writes if one.namespace == cluster.namespace and one.user == USER]
    assert [one.verb for one in mine] == ["create"]


def test_a_service_of_many_models_tells_a_few_and_sums_up(
    cluster: Cluster, start_operator: StartOperator
) -> None:
    models = [trained_model(f"m{number:03}") for number in range(150)]
    with start_operator():
        cluster.run_pod("pod-a")
        cluster.apply(*models)
        wait_until(lambda: len(cluster.data()) == 151)
        cluster.report("pod-a", loaded(models))
        wait_until(
            lambda: any("more models of service tabular" in one["note"] for one in events(cluster)),
            timeout_s=40,
        )
        told = [one for one in events(cluster) if one["reason"] == "Ready"]
        assert len(told) <= 2 * event_correlator.BURST + 2
        wait_until(lambda: all(one.get("state") == "Loaded" for one in cluster.statuses().values()))


async def test_repeats_are_a_series_of_the_first_event(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_correlator, "SERIES_PAUSE_S", 0.5)
    cluster.apply(trained_model("iris"))
    uid = cluster.find("tmodel", "iris")["metadata"]["uid"]
    configuration = kubernetes_client.Configuration()
    await kubernetes_config.load_kube_config(  # type: ignore[no-untyped-call]
        config_file=str(cluster.control_plane.kubeconfig), client_configuration=configuration
    )
    ready = {
        "revision": "aaaa",
        "conditions": [{"type": "Ready", "status": "True", "reason": "AllCopiesReady"}],
    }
    async with kubernetes_client.ApiClient(configuration) as api:
        metrics = Metrics()
        recorder = EventRecorder(ApiKubeClient(api, metrics), metrics, instance="operator-0")
        running = asyncio.create_task(recorder.run())
        for _ in range(7):
            key = ServiceKey(cluster.namespace, "tabular")
            recorder.status_written(key, "iris", uid, {}, ready)
            await asyncio.sleep(0.05)
        has_series = lambda: any(one.get("series") for one in events(cluster))  # noqa: E731
        await asyncio.to_thread(wait_until, has_series)
        running.cancel()
        await asyncio.wait([running])
    [event] = events(cluster)
    assert event["series"]["count"] == 7
    assert "x7 over" in cluster.kubectl("get", "events", "-o", "wide") + cluster.kubectl(
        "describe", "tmodel", "iris"
    )


@pytest.fixture
def kserve(cluster: Cluster) -> Iterator[None]:
    install_kind(cluster.control_plane)
    yield
    remove_kind(cluster.control_plane)


@pytest.mark.usefixtures("kserve")
def test_the_url_comes_with_the_inference_service_and_goes_with_it(
    cluster: Cluster, start_operator: StartOperator
) -> None:
    with start_operator(resync_s=0.5):
        serve(cluster, "tabular", "http://tabular.example.com")
        cluster.run_pod("pod-a")
        cluster.apply(trained_model("iris", name="flower"))
        url = "http://tabular.example.com/v2/models/flower"
        cluster.report("pod-a", loaded([trained_model("iris", name="flower")]))
        wait_until(lambda: cluster.status("iris").get("url") == url)
        cluster.kubectl("delete", "inferenceservice", "tabular")
        cluster.apply(trained_model("iris", name="flower", version="2"))
        wait_until(lambda: "url" not in cluster.status("iris"))


def test_without_kserve_nobody_asks_for_its_kind_again_and_again(
    cluster: Cluster, start_operator: StartOperator
) -> None:
    mark = cluster.control_plane.audit_mark()
    with start_operator(resync_s=0.5):
        names = [f"m{number}" for number in range(5)]
        cluster.apply(*(trained_model(name, service=f"service-{name}") for name in names))
        wait_until(lambda: all(cluster.status(name) for name in names))
        asked = cluster.control_plane.requests(
            resource="inferenceservices", since=mark, where=lambda one: one.user == USER
        )
    assert 1 <= len(asked) <= ACTIVE_PASSES, "at most as many as passes run at once at the start"
