from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.operator.builders import (
    KEY,
    NOW,
    carried_out,
    desired,
    digest_of,
    document,
    loaded,
    one,
    pod,
    report,
    shard_of,
)
from trainedmodel_contract import names
from trainedmodel_operator.core.plan import LONGEST_NUDGE_PAUSE, plan
from trainedmodel_operator.core.state import Gathered, Memory, PodView

A, B = pod("pod-a"), pod("pod-b")


def behind(annotation: str | None = None, *, seen: str | None = "older") -> Gathered:
    annotations = {} if annotation is None else {names.CONFIG_ANNOTATION: annotation}
    a = pod("pod-a", annotations=annotations)
    model = one()
    reports = {a.uid: report(a, loaded(model), digest=seen)}
    return Gathered(KEY, (model,), (shard_of(0, [model]),), (a,), reports)


DIGEST = digest_of(behind())


def test_an_empty_parent_needs_nothing() -> None:
    assert plan(Gathered(KEY), NOW).is_empty


def test_a_pod_that_has_not_seen_the_shards_is_nudged() -> None:
    decided = plan(behind(), NOW)
    assert [nudge.value for nudge in decided.nudges] == [DIGEST]
    assert decided.behind == {"uid-pod-a"}
    assert decided.deferred[0].until == NOW + timedelta(seconds=3)


def test_a_pod_is_nudged_for_the_shards_as_they_are_after_this_passs_writes() -> None:
    start = replace(behind(), models=(one(), one("wine")))
    decided = plan(start, NOW)
    assert decided.nudges[0].value == digest_of(carried_out(start, decided))
    assert decided.nudges[0].value != DIGEST


def test_a_pod_that_has_seen_everything_is_left_alone() -> None:
    assert plan(behind(seen=DIGEST), NOW).nudges == ()


def test_pods_without_a_report_or_on_their_way_out_are_left_alone() -> None:
    start = behind()
    assert plan(replace(start, reports={}), NOW).nudges == ()
    going = replace(start.pods[0], terminating=True)
    assert plan(replace(start, pods=(going,)), NOW).nudges == ()


def test_a_pod_that_has_seen_nothing_of_nothing_is_not_behind() -> None:
    start = Gathered(KEY, pods=(A,), reports={A.uid: report(A)})
    assert plan(start, NOW).is_empty


def test_a_nudge_without_effect_is_repeated_with_a_counter_ever_more_slowly() -> None:
    start, at, pauses = behind(), NOW, []
    for _ in range(8):
        decided = plan(start, at)
        assert len(decided.nudges) == 1
        start = carried_out(start, decided, at)
        assert plan(start, at).nudges == (), "not again at once"
        (wait,) = {wait.until for wait in plan(start, at).deferred}
        assert wait is not None
        pauses.append(wait - at)
        at = wait
    assert start.pods[0].annotations[names.CONFIG_ANNOTATION] == f"{DIGEST}/8"
    assert [pause.total_seconds() for pause in pauses] == [3, 6, 12, 24, 48, 60, 60, 60]
    assert max(pauses) == LONGEST_NUDGE_PAUSE


def test_after_a_restart_a_pod_nudged_before_is_given_its_time() -> None:
    decided = plan(behind(DIGEST), NOW)
    assert decided.nudges == ()
    assert decided.deferred[0].until == NOW + timedelta(seconds=3)


def test_an_annotation_that_a_hand_wrote_is_no_counter() -> None:
    memory = Memory(nudged={"uid-pod-a": NOW - timedelta(seconds=5)})
    decided = plan(replace(behind(f"{DIGEST}/²"), memory=memory), NOW)
    assert [nudge.value for nudge in decided.nudges] == [f"{DIGEST}/2"]


def test_while_the_shard_window_is_closed_a_pass_tells_statuses_only() -> None:
    known = one("known")
    start = Gathered(
        KEY,
        (known, one("fresh")),
        (shard_of(0, [known]),),
        (A,),
        {A.uid: report(A, loaded(known))},
        may_write_shards=False,
    )
    decided = plan(start, NOW)
    assert decided.shard_writes == ()
    assert [write.name for write in decided.statuses] == ["known"], "Accepted never runs ahead"
    assert [wait.until for wait in decided.deferred if wait.until is None] == [None]
    assert {nudge.value for nudge in decided.nudges} == {digest_of(start)}


def test_a_changed_model_keeps_its_status_until_its_entry_is_written() -> None:
    start = Gathered(
        KEY, (one(generation=2, version="2"),), (shard_of(0, [one()]),), may_write_shards=False
    )
    assert plan(start, NOW).statuses == ()
    assert len(plan(replace(start, may_write_shards=True), NOW).statuses) == 1


def test_o4_one_bad_model_costs_no_other_its_place_or_its_status() -> None:
    models = desired(document("bad", uri="no-uri"), document("good"), document("worse", memory="x"))
    decided = plan(Gathered(KEY, models), NOW)
    assert list(decided.shard_writes[0].body["data"]) == ["_shard-0", "good.json"]
    assert [write.name for write in decided.statuses] == ["bad", "good", "worse"]


def test_o3_a_plan_writes_shards_annotations_and_statuses_and_nothing_else() -> None:
    decided = plan(replace(behind(), models=(one(), one("wine"))), NOW)
    assert {write.name for write in decided.shard_writes} <= set(names.shard_names(KEY.service))
    assert all(set(write.body) <= {"metadata", "data"} for write in decided.shard_writes)
    fields = {"observedGeneration", "revision", "state", "reason", "copies", "conditions", "pods"}
    assert all(set(write.status) <= fields for write in decided.statuses)


PODS = st.lists(st.sampled_from(["pod-a", "pod-b", "pod-c"]), unique=True)
STATES = st.sampled_from(["Waiting", "Downloading", "Loaded", "Failed"])


@given(
    models=st.lists(st.tuples(st.integers(0, 6), STATES), unique_by=lambda one: one[0]),
    pods=PODS,
    bad=st.integers(0, 6),
    digest=st.sampled_from([None, "older"]),
)
@settings(max_examples=examples(80))
def test_o2_a_plan_that_was_carried_out_gives_an_empty_one(
    models: list[tuple[int, str]], pods: list[str], bad: int, digest: str | None
) -> None:
    wanted = tuple(
        one(f"m{number}", uri="no-uri" if number == bad else None) for number, _ in models
    )
    views: list[PodView] = [pod(name) for name in pods]
    said: dict[str, Any] = {
        f"m{number}": {"state": state, "revision": model.model.revision()}
        for (number, state), model in zip(models, wanted, strict=True)
        if model.model is not None
    }
    reports = {view.uid: report(view, said, digest=digest) for view in views}
    start = Gathered(KEY, wanted, pods=tuple(views), reports=reports)
    assert plan(start, NOW) == plan(
        replace(start, models=wanted[::-1], pods=tuple(views[::-1])), NOW
    )
    after = carried_out(start, plan(start, NOW))
    assert plan(after, NOW).is_empty
    assert plan(after, NOW + timedelta(seconds=1)).is_empty
