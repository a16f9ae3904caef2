"""The operator process among others who write, lie and delete; nothing desired is lost."""

from __future__ import annotations

import json
import ssl
import threading
import time
import urllib.request
from typing import Any

import pytest
from support.operator.faulted import FaultedScene
from support.operator.on_cluster import Cluster
from trainedmodel_contract import names
from trainedmodel_contract.conditions import find_condition
from trainedmodel_devkit.documents import loaded, trained_model
from trainedmodel_devkit.faultproxy import Request, answering, is_write
from trainedmodel_devkit.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

ERRORS = "trainedmodel_operator_api_errors"


class SecondWriter:
    """Somebody who edits a shard without rest, so that what others read of it is soon stale."""

    def __init__(self, cluster: Cluster, shard: str) -> None:
        self._plane = cluster.control_plane
        self._path = f"/api/v1/namespaces/{cluster.namespace}/configmaps/{shard}"
        self._over = threading.Event()
        self.edits = 0

    def __enter__(self) -> SecondWriter:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(10)

    def _run(self) -> None:
        context = ssl.create_default_context(cafile=str(self._plane.ca_file))
        while not self._over.wait(0.02):
            patch = {"metadata": {"annotations": {"edited": str(self.edits)}}}
            request = urllib.request.Request(
                self._plane.server + self._path,
                json.dumps(patch).encode(),
                {
                    "Authorization": f"Bearer {self._plane.token}",
                    "Content-Type": "application/merge-patch+json",
                },
                method="PATCH",
            )
            urllib.request.urlopen(request, context=context, timeout=10).close()
            self.edits += 1


def test_a_second_writer_who_never_rests(scene: FaultedScene) -> None:
    models = [trained_model("first")]
    with scene.operator() as operator, scene.witness() as witness:
        scene.cluster.apply(*models)
        scene.wait_for_shards(models)
        with SecondWriter(scene.cluster, "tabular-models-0") as other:
            for number in range(10):
                models.append(trained_model(f"m{number}"))
                scene.cluster.apply(models[-1])
                time.sleep(0.3)
            scene.wait_for_shards(models, timeout_s=20)
            assert other.edits > 20
        assert witness.lost == []
        assert "tries=" in operator.log(), "they did meet"


def test_a_shard_of_which_an_entry_was_taken_or_forged_is_healed(scene: FaultedScene) -> None:
    models = [trained_model("iris"), trained_model("wine")]
    with scene.operator(resync_s=1.0):
        scene.cluster.apply(*models)
        scene.wait_for_shards(models)
        good = scene.cluster.data()
        forged = {"data": {"iris.json": None, "wine.json": "{}", "_shard-0": "", "x": "y"}}
        scene.cluster.kubectl("patch", "cm", "tabular-models-0", "-p", json.dumps(forged))
        wait_until(lambda: scene.cluster.data() == good)
        scene.cluster.kubectl("delete", "cm", "tabular-models-0")
        wait_until(lambda: scene.cluster.data() == good)


def test_a_shard_that_lost_our_label_is_not_ours_any_more_and_nothing_is_lost(
    scene: FaultedScene,
) -> None:
    with scene.operator(resync_s=1.0), scene.witness() as witness:
        scene.cluster.apply(trained_model("iris"))
        scene.wait_for_shards([trained_model("iris")])
        before = scene.cluster.data()
        scene.cluster.kubectl("label", "cm", "tabular-models-0", f"{names.MANAGED_BY_LABEL}-")
        wait_until(lambda: "iris.json" in scene.cluster.data(1))
        assert scene.cluster.data() == before
        assert witness.lost == []


def test_four_foreign_config_maps_are_left_alone_and_the_condition_says_so(
    scene: FaultedScene,
) -> None:
    shards = names.shard_names("tabular")
    for shard in shards:
        scene.cluster.kubectl("create", "configmap", shard, "--from-literal=mine=yes")
    with scene.operator(resync_s=1.0):
        scene.cluster.apply(trained_model("iris"))

        def accepted() -> Any:
            return find_condition(scene.cluster.status("iris"), "Accepted")

        said = wait_until(accepted)
        assert (said["status"], said["reason"]) == ("False", "ShardNotOurs")
        assert all(scene.cluster.data(index) == {"mine": "yes"} for index in range(4))
        scene.cluster.kubectl("delete", "configmap", shards[2])
        wait_until(lambda: "iris.json" in scene.cluster.data(2))
        wait_until(lambda: accepted()["status"] == "True")
        assert scene.cluster.data(0) == {"mine": "yes"}


def test_a_report_in_the_name_of_another_pod_convinces_nobody(scene: FaultedScene) -> None:
    models = [trained_model("iris")]
    scene.cluster.run_pod("pod-a")
    scene.cluster.run_pod("pod-b")
    with scene.operator():
        scene.cluster.apply(*models)
        scene.cluster.report("pod-a", loaded(models))
        lie = scene.cluster.report_document("pod-b", models=loaded(models))
        lie["metadata"]["name"] = "pod-c"
        lie["metadata"]["ownerReferences"][0]["name"] = "pod-c"
        scene.cluster.kubectl("create", "-f", "-", documents=[lie])
        time.sleep(3)

        def ready() -> int:
            return int(scene.cluster.status("iris")["copies"]["ready"])

        assert ready() == 1, "pod-b itself has said nothing"
        scene.report_loaded(["pod-b"], models)
        scene.wait_for_truth(models)
        wait_until(lambda: ready() == 2)


def test_a_report_of_nonsense_harms_no_other_model_and_no_shard(scene: FaultedScene) -> None:
    models = [trained_model("iris"), trained_model("wine")]
    scene.cluster.run_pod("pod-a")
    with scene.operator() as operator, scene.witness() as witness:
        scene.cluster.apply(*models)
        nonsense = {
            "iris": {"state": "Loaded", "revision": "0" * 16, "message": "x" * 500},
            "wine": loaded(models)["wine"],
            "never-heard-of": {"state": "Failed", "revision": "0" * 16, "reason": "Whatever"},
        }
        scene.cluster.report("pod-a", nonsense, configDigest="not a digest")
        wait_until(lambda: scene.cluster.status("wine").get("state") == "Loaded")
        assert scene.cluster.status("iris").get("state") != "Loaded"
        scene.report_loaded(["pod-a"], models)
        scene.wait_for_truth(models)
        assert witness.lost == []
        assert "_crashed" not in operator.log()


def test_a_namespace_deleted_while_busy_is_left_in_peace_and_delays_no_other(
    scene: FaultedScene,
) -> None:
    doomed = Cluster(scene.cluster.control_plane, _doomed(scene))
    held = [trained_model(f"held-{number:02}") for number in range(30)]
    for one in held[:5]:
        one["metadata"]["finalizers"] = ["test.example/held"]

    def in_doomed(request: Request) -> bool:
        return request.namespace == doomed.namespace and is_write(request)

    with scene.operator(everywhere=True) as operator, scene.witness() as witness:
        doomed.apply(*held)
        doomed.kubectl("delete", "namespace", doomed.namespace, "--wait=false")
        scene.cluster.apply(trained_model("iris"))
        scene.wait_for_shards([trained_model("iris")], timeout_s=10)
        time.sleep(3)
        before = scene.proxy.count(where=in_doomed)
        time.sleep(5)
        assert scene.proxy.count(where=in_doomed) - before <= 5
        scene.cluster.apply(trained_model("wine"))
        scene.wait_for_shards([trained_model("iris"), trained_model("wine")], timeout_s=10)
        assert witness.lost == []
        for one in held[:5]:
            patch = json.dumps({"metadata": {"finalizers": None}})
            doomed.kubectl("patch", "tmodel", one["metadata"]["name"], "--type=merge", "-p", patch)
        wait_until(lambda: scene.cluster.find("namespace", doomed.namespace) is None, 30)
        assert "_crashed" not in operator.log()


def _doomed(scene: FaultedScene) -> str:
    namespace = f"{scene.cluster.namespace}-doomed"
    scene.cluster.control_plane.kubectl("create", "namespace", namespace)
    return namespace


def test_creates_that_are_refused_are_tried_ever_more_rarely(scene: FaultedScene) -> None:
    def is_create(request: Request) -> bool:
        return (request.verb, request.kind) == ("create", "configmaps")

    with scene.operator():
        before = scene.proxy.count(where=is_create)  # whether the namespace exists was tried
        with scene.proxy.failing(answering(403), where=is_create):
            scene.cluster.apply(trained_model("iris"))
            time.sleep(8)
            tried = scene.proxy.count(where=is_create) - before
            assert 2 <= tried <= 6
            assert scene.metric(ERRORS, priority_level="shard", cause="refused") == tried
        scene.wait_for_shards([trained_model("iris")], timeout_s=40)
