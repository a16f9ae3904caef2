"""The operator process while its watches break; the periodic resync is far away, to prove them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.operator.faulted import FaultedScene
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.documents import trained_model
from trainedmodel_devkit.waiting import wait_until
from trainedmodel_operator.watch.kopf_runner import SILENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

NEVER_S = 3600.0
CRDS = Path(__file__).resolve().parents[3] / "crds"


def lists_by_kopf(scene: FaultedScene) -> int:
    return scene.proxy.count(verb="list", kind="trainedmodels", user_agent="kopf")


def test_a_cut_watch_goes_on_where_it_was(scene: FaultedScene) -> None:
    with scene.operator(resync_s=NEVER_S), scene.witness() as witness:
        scene.cluster.apply(trained_model("kept"), trained_model("gone"))
        scene.wait_for_shards([trained_model("kept"), trained_model("gone")])
        scene.wait_until_idle()
        lists = lists_by_kopf(scene)
        with scene.proxy.refusing_connections():
            witness.may_leave("gone")
            scene.cluster.kubectl("delete", "tmodel", "gone")
            scene.cluster.apply(trained_model("new"))
        scene.wait_for_shards([trained_model("kept"), trained_model("new")])
        assert lists_by_kopf(scene) == lists, "the deletion came as an event"
        assert witness.lost == []


def test_a_watch_that_fell_silent_is_found_and_replaced(scene: FaultedScene) -> None:
    with scene.operator(resync_s=NEVER_S), scene.witness() as witness:
        scene.cluster.apply(trained_model("kept"), trained_model("gone"))
        scene.wait_for_shards([trained_model("kept"), trained_model("gone")])
        scene.wait_until_idle()
        began = time.monotonic()
        assert scene.proxy.freeze_watches() == 2
        witness.may_leave("gone")
        scene.cluster.kubectl("delete", "tmodel", "gone")
        scene.cluster.apply(trained_model("new"))
        scene.wait_for_shards(
            [trained_model("kept"), trained_model("new")], timeout_s=SILENCE_S + 15
        )
        assert time.monotonic() - began > 5, "the silence was there"
        assert witness.lost == []


def test_what_was_deleted_in_a_gap_that_was_compacted_away_is_found(scene: FaultedScene) -> None:
    with scene.operator(resync_s=NEVER_S) as operator, scene.witness() as witness:
        scene.cluster.apply(trained_model("kept"), trained_model("gone"))
        scene.wait_for_shards([trained_model("kept"), trained_model("gone")])
        scene.wait_until_idle()
        lists = lists_by_kopf(scene)
        with scene.proxy.refusing_connections():
            witness.may_leave("gone")
            scene.cluster.kubectl("delete", "tmodel", "gone")
            scene.cluster.control_plane.compact()
            scene.cluster.control_plane.restart_api_server()
        scene.wait_for_shards([trained_model("kept")], timeout_s=40)
        assert lists_by_kopf(scene) > lists, "the watch could not go on: it was answered 410"
        assert "early_resync_started" in operator.log()
        assert witness.lost == []


def test_errors_in_a_stream_end_the_watches_but_not_the_operator(scene: FaultedScene) -> None:
    with scene.operator(resync_s=NEVER_S) as operator, scene.witness() as witness:
        scene.cluster.apply(trained_model("kept"))
        scene.wait_for_shards([trained_model("kept")])
        models = [trained_model("kept")]
        for code in (500, 504, 410):
            scene.wait_for_watches()
            assert scene.proxy.inject(code) >= 1
            models.append(trained_model(f"after-{code}"))
            scene.cluster.apply(models[-1])
            scene.wait_for_shards(models)
        assert operator.poll() is None
        assert witness.lost == []
        scene.wait_for_watches()
        one_of_each = ["modelreports", "trainedmodels"]
        wait_until(lambda: sorted(one.resource for one in scene.proxy.watches()) == one_of_each)
        restarts = scene.metric("trainedmodel_operator_watch_restarts", cause="WatchingError")
        assert restarts == 2, "a 410 is kopf's own matter"
        assert operator.log().count("operator_started") == 1


def test_after_watches_began_anew_nothing_is_written_for_nothing(scene: FaultedScene) -> None:
    with scene.operator(resync_s=NEVER_S):
        scene.cluster.apply(trained_model("iris"))
        wait_until(lambda: scene.cluster.status("iris").get("state"))
        scene.wait_until_idle()
        mark = scene.cluster.control_plane.audit_mark()
        scene.proxy.inject(500)
        wait_until(lambda: scene.metric("trainedmodel_operator_watch_restarts") == 1)
        scene.wait_for_watches()
        time.sleep(3)  # the early resync
        scene.wait_until_idle()
        assert not scene.cluster.writes("configmaps", since=mark)
        assert not scene.cluster.writes("trainedmodels", "status", since=mark)


@contextlib.contextmanager
def removed(control_plane: ControlPlane, *crds: str) -> Iterator[None]:
    """Take kinds away, with all their objects, and bring them back at the end."""
    control_plane.kubectl("delete", "crd", *crds, "--timeout=30s")
    try:
        yield
    finally:
        control_plane.kubectl("apply", "-f", str(CRDS))
        control_plane.kubectl(
            "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"
        )


def test_the_kind_of_reports_is_removed_and_brought_back(scene: FaultedScene) -> None:
    before, after = trained_model("before"), trained_model("after")
    with scene.operator(resync_s=NEVER_S) as operator, scene.witness() as witness:
        scene.cluster.run_pod("pod-0")
        scene.cluster.apply(before)
        scene.report_loaded(["pod-0"], [before])
        scene.wait_for_truth([before])
        with removed(scene.cluster.control_plane, "modelreports.trainedmodel.dev"):
            wait_until(lambda: not scene.proxy.watches("modelreports"))
            scene.cluster.apply(after)
        scene.wait_for_shards([before, after], timeout_s=60)
        scene.wait_for_watches(60)
        scene.report_loaded(["pod-0"], [before, after])
        scene.wait_for_truth([before, after])
        assert operator.poll() is None
        assert operator.log().count("operator_started") == 1
        assert witness.lost == []


def test_both_kinds_are_removed_and_brought_back(scene: FaultedScene) -> None:
    before, after = trained_model("before"), trained_model("after")
    with scene.operator(resync_s=NEVER_S) as operator, scene.witness() as witness:
        scene.cluster.run_pod("pod-0")
        scene.cluster.apply(before)
        scene.wait_for_shards([before])
        witness.may_leave("before")
        kinds = ("trainedmodels.trainedmodel.dev", "modelreports.trainedmodel.dev")
        with removed(scene.cluster.control_plane, *kinds):
            wait_until(lambda: not scene.proxy.watches())
            wait_until(lambda: "watches_restarted" in operator.log())
        scene.cluster.apply(after)
        scene.wait_for_shards([after], timeout_s=60)
        scene.wait_for_watches(60)
        scene.report_loaded(["pod-0"], [after])
        scene.wait_for_truth([after])
        assert operator.poll() is None
        assert operator.log().count("operator_started") == 1
        assert witness.lost == []
