"""The operator process while its watches break; the periodic resync is far away, to prove them."""

from __future__ import annotations

import time

import pytest
from faulted_operator import FaultedScene
from operator_on_cluster import model, wait_until
from trainedmodel_operator.watches import SILENCE_S

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

NEVER_S = 3600.0


def lists_by_kopf(scene: FaultedScene) -> int:
    return scene.proxy.count(verb="list", kind="trainedmodels", user_agent="kopf")


def test_a_cut_watch_goes_on_where_it_was(scene: FaultedScene) -> None:
    with scene.operator(resync_s=NEVER_S), scene.witness() as witness:
        scene.cluster.apply(model("kept"), model("gone"))
        scene.wait_for_shards([model("kept"), model("gone")])
        scene.wait_until_idle()
        lists = lists_by_kopf(scene)
        with scene.proxy.refusing_connections():
            witness.may_leave("gone")
            scene.cluster.kubectl("delete", "tm", "gone")
            scene.cluster.apply(model("new"))
        scene.wait_for_shards([model("kept"), model("new")])
        assert lists_by_kopf(scene) == lists, "the deletion came as an event"
        assert witness.lost == []


def test_a_watch_that_fell_silent_is_found_and_replaced(scene: FaultedScene) -> None:
    with scene.operator(resync_s=NEVER_S), scene.witness() as witness:
        scene.cluster.apply(model("kept"), model("gone"))
        scene.wait_for_shards([model("kept"), model("gone")])
        scene.wait_until_idle()
        began = time.monotonic()
        assert scene.proxy.freeze_watches() == 2
        witness.may_leave("gone")
        scene.cluster.kubectl("delete", "tm", "gone")
        scene.cluster.apply(model("new"))
        scene.wait_for_shards([model("kept"), model("new")], timeout_s=SILENCE_S + 15)
        assert time.monotonic() - began > 5, "the silence was there"
        assert witness.lost == []


def test_what_was_deleted_in_a_gap_that_was_compacted_away_is_found(scene: FaultedScene) -> None:
    with scene.operator(resync_s=NEVER_S) as operator, scene.witness() as witness:
        scene.cluster.apply(model("kept"), model("gone"))
        scene.wait_for_shards([model("kept"), model("gone")])
        scene.wait_until_idle()
        lists = lists_by_kopf(scene)
        with scene.proxy.refusing_connections():
            witness.may_leave("gone")
            scene.cluster.kubectl("delete", "tm", "gone")
            scene.cluster.control_plane.compact()
            scene.cluster.control_plane.restart_api_server()
        scene.wait_for_shards([model("kept")], timeout_s=40)
        assert lists_by_kopf(scene) > lists, "the watch could not go on: it was answered 410"
        assert "early resync" in operator.log()
        assert witness.lost == []


def test_errors_in_a_stream_end_the_watches_but_not_the_operator(scene: FaultedScene) -> None:
    with scene.operator(resync_s=NEVER_S) as operator, scene.witness() as witness:
        scene.cluster.apply(model("kept"))
        scene.wait_for_shards([model("kept")])
        models = [model("kept")]
        for code in (500, 504, 410):
            scene.wait_for_watches()
            assert scene.proxy.inject(code) >= 1
            models.append(model(f"after-{code}"))
            scene.cluster.apply(models[-1])
            scene.wait_for_shards(models)
        assert operator.child.poll() is None
        assert witness.lost == []
        scene.wait_for_watches()
        one_of_each = ["modelreports", "trainedmodels"]
        wait_until(lambda: sorted(one.resource for one in scene.proxy.watches()) == one_of_each)
        restarts = scene.metric("trainedmodel_operator_watch_restarts", cause="WatchingError")
        assert restarts == 2, "a 410 is kopf's own matter"
        assert operator.log().count("operator starts") == 1


def test_after_watches_began_anew_nothing_is_written_for_nothing(scene: FaultedScene) -> None:
    with scene.operator(resync_s=NEVER_S):
        scene.cluster.apply(model("iris"))
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
