"""Memory admission: what is declared against what the server may use; nothing placed ever goes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from support.operator.builders import (
    KEY,
    NOW,
    carried_out,
    desired,
    document,
    entries_of,
    one,
    pod,
    shard_of,
)
from trainedmodel_contract.reasons import Reason
from trainedmodel_operator.core.plan import plan
from trainedmodel_operator.core.shards.memory_admission import Need, admit, memory_limit
from trainedmodel_operator.core.shards.placement import Placement, place
from trainedmodel_operator.core.state import Gathered

GIB = 2**30


def serving(limit: int | None, *documents: dict[str, Any], **more: Any) -> Gathered:
    return Gathered(KEY, desired(*documents), pods=(pod(server_memory=limit),), **more)


def placed(gathered: Gathered) -> Placement:
    return place(gathered, True, NOW)


def test_the_newest_of_those_that_do_not_fit_loses_and_is_told_in_numbers() -> None:
    result = placed(
        serving(
            4 * GIB,
            document("newest", memory="2Gi", age_s=1),
            document("oldest", memory="2Gi", age_s=9),
            document("middle", memory="820Mi", age_s=5),
        )
    )
    assert set(result.entries[0]) == {"oldest", "middle"}
    verdict = result.verdicts["newest"]
    assert (verdict.accepted, verdict.reason) == (False, Reason.INSUFFICIENT_MEMORY)
    assert verdict.message == (
        "needs 2.0 GiB, 1.2 of 4.0 GiB are declared free in the model server"
    )


def test_a_model_that_is_too_large_keeps_no_smaller_one_waiting_o4() -> None:
    result = placed(
        serving(GIB, document("huge", memory="2Gi", age_s=9), document("small", memory="1Gi"))
    )
    assert set(result.entries[0]) == {"small"}


def test_a_refused_model_comes_in_as_soon_as_there_is_room() -> None:
    old, new = document("old", memory="1Gi", age_s=9), document("new", memory="1Gi")
    start = serving(GIB, old, new)
    after = carried_out(start, plan(start, NOW))
    assert entries_of(after) == {0: {"old"}}
    refused = next(model for model in after.models if model.name == "new")
    assert (refused.status["state"], refused.status["reason"]) == ("Blocked", "InsufficientMemory")
    raised = replace(after, pods=(pod(server_memory=2 * GIB),))
    assert entries_of(carried_out(raised, plan(raised, NOW))) == {0: {"old", "new"}}
    left = replace(after, models=tuple(one for one in after.models if one.name == "new"))
    assert entries_of(carried_out(left, plan(left, NOW))) == {0: {"new"}}


def test_a_lowered_limit_displaces_nothing_and_the_newest_are_told() -> None:
    models = desired(
        document("old", memory="1Gi", age_s=9),
        document("free", age_s=5),
        document("new", memory="1Gi"),
    )
    start = replace(serving(GIB), models=models, shards=(shard_of(0, models),))
    decided = plan(start, NOW)
    assert decided.shard_writes == ()
    verdicts = placed(start).verdicts
    assert all(verdict.accepted for verdict in verdicts.values())
    assert verdicts["old"].message == verdicts["free"].message == "The entry is in shard 0."
    assert "2.0 of 1.0 GiB are declared" in verdicts["new"].message


def test_a_placed_model_that_declares_more_stays_and_is_told_so() -> None:
    before = one("iris", memory="1Gi")
    grown = document("iris", memory="3Gi", generation=2)
    start = serving(2 * GIB, grown, shards=(shard_of(0, [before]),))
    result = placed(start)
    assert result.verdicts["iris"].accepted
    assert "3.0 of 2.0 GiB are declared" in result.verdicts["iris"].message
    assert '"memory":3221225472' in result.entries[0]["iris"]


def test_what_a_kept_entry_declares_still_counts() -> None:
    kept = one("iris", memory="1Gi", age_s=9)
    broken = document("iris", memory="lots", age_s=9)
    start = serving(GIB, broken, document("new", memory="1Mi"), shards=(shard_of(0, [kept]),))
    assert placed(start).verdicts["new"].reason is Reason.INSUFFICIENT_MEMORY


def test_without_a_known_limit_nothing_is_refused() -> None:
    huge = document("huge", memory="1Ei")
    assert placed(serving(None, huge)).verdicts["huge"].accepted
    assert placed(replace(serving(1, huge), pods=())).verdicts["huge"].accepted
    ended = pod(server_memory=1, phase="Failed")
    assert placed(replace(serving(1, huge), pods=(ended,))).verdicts["huge"].accepted


def test_of_several_pods_the_smallest_limit_counts() -> None:
    pods = [
        pod("a", server_memory=5),
        pod("b", server_memory=3),
        pod("c"),
        pod("d", phase="Failed"),
    ]
    assert memory_limit([*pods, pod("e", server_memory=1, terminating=True)]) == 3


NEEDS = st.lists(st.tuples(st.integers(0, 8), st.booleans()), max_size=12)


@given(NEEDS, st.integers(0, 20))
def test_nothing_placed_is_refused_and_nobody_is_let_in_beyond_the_limit(
    drawn: list[tuple[int, bool]], limit: int
) -> None:
    needs = [Need(f"m{n}", size, is_placed) for n, (size, is_placed) in enumerate(drawn)]
    admission = admit(needs, limit)
    assert not {need.name for need in needs if need.is_placed} & admission.refused.keys()
    before = sum(need.size for need in needs if need.is_placed)
    after = sum(need.size for need in needs if need.name not in admission.refused)
    assert after <= max(limit, before)
    for need in needs:
        if need.name in admission.refused:
            assert after + need.size > limit, "whoever still fits is let in"
    assert bool(admission.beyond) == (after > limit)
    again = [replace(need, is_placed=need.name not in admission.refused) for need in needs]
    assert admit(again, limit).refused.keys() == admission.refused.keys(), "and it stays so"
