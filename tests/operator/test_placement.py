from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
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
    entries_of,
    loaded,
    one,
    pod,
    report,
    shard_of,
    view,
)
from trainedmodel_contract import names
from trainedmodel_contract.reasons import Reason
from trainedmodel_operator.core.plan import plan
from trainedmodel_operator.core.shards import documents
from trainedmodel_operator.core.shards.placement import MOVE_GRACE, place, render_entry
from trainedmodel_operator.core.state import DesiredModel, Gathered, Memory


def big(name: str, kilobytes: int, **more: object) -> dict[str, object]:
    """A model whose entry is about so large."""
    parameters = {f"k{part}": "x" * 4000 for part in range(kilobytes // 4)}
    return document(name, parameters=parameters, **more)  # type: ignore[arg-type]


def settled(start: Gathered) -> Gathered:
    """Carry plans out until one is empty."""
    for _ in range(6):
        decided = plan(start, NOW)
        if decided.is_empty:
            return start
        start = carried_out(start, decided)
    raise AssertionError("never settles")


def test_a_new_model_goes_to_the_first_shard() -> None:
    gathered = settled(Gathered(KEY, desired(document("iris"))))
    assert entries_of(gathered) == {0: {"iris"}}


def test_a_model_stays_in_its_shard_when_an_earlier_one_has_room() -> None:
    model = one("iris")
    other = one("wine")
    start = Gathered(KEY, (model, other), (shard_of(0, [other]), shard_of(1, [model])))
    assert entries_of(settled(start)) == {0: {"wine"}, 1: {"iris"}}


def test_a_shard_is_filled_to_its_budget_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "SHARD_BUDGET_BYTES", 1200)
    models = desired(*(document(f"m{number}") for number in range(40)))
    gathered = settled(Gathered(KEY, models))
    assert len(gathered.shards) == 4
    assert 0 < sum(model.status["reason"] == "ShardsFull" for model in gathered.models) < 20
    for shard in gathered.shards:
        size = sum(len(key) + len(value) for key, value in shard.data.items())
        assert size <= 1200


def test_a_model_that_fits_nowhere_is_told_so_and_delays_no_other_o4(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(names, "SHARD_BUDGET_BYTES", 4000)
    placed = place(Gathered(KEY, desired(big("huge", 8), document("small"))), True, NOW)
    assert placed.verdicts["huge"].reason is Reason.SHARDS_FULL
    assert placed.verdicts["small"].accepted
    assert set(placed.entries[0]) == {"small"}


def test_a_model_that_outgrows_all_shards_keeps_its_old_entry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(names, "SHARD_BUDGET_BYTES", 4000)
    before = one("iris")
    start = Gathered(KEY, desired(big("iris", 8, generation=2)), (shard_of(0, [before]),))
    placed = place(start, True, NOW)
    assert placed.entries[0] == {"iris": render_entry(before, 0)}
    assert placed.verdicts["iris"].message.endswith("stays in force.")


def test_a_model_that_outgrows_its_shard_moves_in_two_writes() -> None:
    neighbours = desired(*(big(f"n{number}", 200) for number in range(4)))
    before = one("iris")
    grown = big("iris", 180, generation=2)
    start = Gathered(KEY, (*neighbours, *desired(grown)), (shard_of(0, [*neighbours, before]),))
    first = plan(start, NOW)
    assert [write.index for write in first.shard_writes] == [1]
    moved = carried_out(start, first)
    assert entries_of(moved)[0] >= {"iris"}
    assert entries_of(moved)[1] == {"iris"}
    second = carried_out(moved, plan(moved, NOW))
    assert "iris" not in entries_of(second)[0]
    assert entries_of(second)[1] == {"iris"}


def doubled(*, seen: bool) -> Gathered:
    model = one("iris")
    a = pod("pod-a")
    start = Gathered(KEY, (model,), (view(0, {}), shard_of(1, [model])), pods=(a,), reports={})
    stale = documents.render_shard(0, {"iris": render_entry(one("iris", generation=7), 0)})
    start = replace(start, shards=(view(0, stale), start.shards[1]))
    digest = digest_of(start) if seen else "older"
    return replace(start, reports={a.uid: report(a, loaded(model), digest=digest)})


def test_an_old_entry_waits_until_the_pods_have_seen_the_new_one() -> None:
    start = doubled(seen=False)
    decided = plan(start, NOW)
    assert decided.shard_writes == ()
    assert decided.moving == {"iris"}
    assert any("moved" in wait.reason for wait in decided.deferred)
    assert (
        "iris" not in entries_of(carried_out(doubled(seen=True), plan(doubled(seen=True), NOW)))[0]
    )


def test_an_old_entry_goes_after_a_grace_even_if_a_pod_never_speaks() -> None:
    start = replace(doubled(seen=False), memory=Memory(doubled={"iris": NOW}))
    later = NOW + MOVE_GRACE - timedelta(seconds=1)
    assert plan(start, later).shard_writes == ()
    assert len(plan(start, NOW + MOVE_GRACE).shard_writes) == 1


def test_a_model_in_two_shards_has_its_home_where_its_entry_is_right_else_in_the_lower() -> None:
    model = one("iris")
    both = Gathered(KEY, (model,), (shard_of(0, [model]), shard_of(2, [model])))
    assert place(both, False, NOW).homes == {"iris": 0}
    stale = one("iris", uri="s3://models/old")
    higher = Gathered(KEY, (model,), (shard_of(0, [stale]), shard_of(2, [model])))
    assert place(higher, False, NOW).homes == {"iris": 2}
    neither = Gathered(KEY, (model,), (shard_of(1, [stale]), shard_of(2, [stale])))
    placed = place(neither, True, NOW)
    assert placed.homes == {"iris": 1}
    assert set(placed.entries[2]) == {"iris"}, "the other goes only after this one was written"


def test_of_two_models_with_one_served_name_the_older_wins() -> None:
    models = desired(
        document("young", name="shared", age_s=1), document("old", name="shared", age_s=9)
    )
    placed = place(Gathered(KEY, models), True, NOW)
    assert set(placed.entries[0]) == {"old"}
    assert placed.verdicts["young"].reason is Reason.NAME_CONFLICT
    assert "old" in placed.verdicts["young"].message


def test_of_two_equally_old_models_the_first_by_name_wins() -> None:
    models = desired(document("b", name="shared"), document("a", name="shared"))
    assert set(place(Gathered(KEY, models), True, NOW).entries[0]) == {"a"}


def test_an_unusable_spec_keeps_the_entry_it_has_byte_for_byte() -> None:
    before = one("iris")
    broken = one("iris", generation=2, memory="lots")
    start = Gathered(KEY, (broken,), (shard_of(0, [before]),))
    decided = plan(start, NOW)
    assert decided.shard_writes == ()
    assert decided.statuses[0].status["reason"] == Reason.INVALID_SPEC
    assert "memory" in decided.statuses[0].status["conditions"][0]["message"]


def test_an_unusable_spec_without_an_entry_has_none_and_delays_no_other_o4() -> None:
    models = desired(document("bad", uri="no-uri"), document("good"))
    placed = place(Gathered(KEY, models), True, NOW)
    assert set(placed.entries[0]) == {"good"}
    assert placed.verdicts["bad"].reason is Reason.INVALID_SPEC


def test_a_kept_entry_takes_part_in_name_conflicts_under_the_name_it_carries() -> None:
    kept = one("old", name="shared", age_s=9)
    broken = one("old", name="..", age_s=9)
    young = one("young", name="shared")
    start = Gathered(KEY, (broken, young), (shard_of(0, [kept]),))
    placed = place(start, True, NOW)
    assert set(placed.entries[0]) == {"old"}
    assert placed.verdicts["young"].reason is Reason.NAME_CONFLICT


def test_a_kept_entry_that_is_itself_unreadable_stays_and_conflicts_with_nobody() -> None:
    broken = one("old", uri="no-uri")
    start = Gathered(KEY, (broken, one("young")), (view(0, {"old.json": "{"}),))
    assert place(start, True, NOW).entries[0]["old"] == "{"


def test_o5_a_config_map_that_is_not_ours_is_skipped() -> None:
    model = one("iris")
    theirs = view(0, {"iris.json": "theirs"}, ours=False)
    decided = plan(Gathered(KEY, (model,), (theirs,)), NOW)
    assert [write.name for write in decided.shard_writes] == ["tabular-models-1"]


def test_o5_only_when_nothing_else_has_room_a_foreign_config_map_is_the_reason() -> None:
    foreign = tuple(view(index, {}, ours=False) for index in range(names.SHARD_COUNT))
    decided = plan(Gathered(KEY, (one("iris"),), foreign), NOW)
    assert decided.shard_writes == ()
    assert decided.statuses[0].status["reason"] == Reason.SHARD_NOT_OURS


def test_an_entry_for_an_unusable_spec_is_never_rendered() -> None:
    with pytest.raises(ValueError, match="iris has no usable spec"):
        render_entry(one("iris", uri="no-uri"), 0)


def test_what_shrinks_makes_room_for_what_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [one("a"), *desired(big("b", 8))]
    monkeypatch.setattr(names, "SHARD_BUDGET_BYTES", 9600)
    after = desired(big("a", 8, generation=2), document("b", generation=2))
    gathered = settled(Gathered(KEY, after, (shard_of(0, before),)))
    assert entries_of(gathered) == {0: {"a", "b"}}


MODELS = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 3), st.integers(0, 60), st.integers(0, 5)),
    max_size=14,
    unique_by=lambda model: model[0],
)


def drawn(models: list[tuple[int, int, int, int]]) -> list[DesiredModel]:
    return [
        one(f"m{n}", generation=1 + g, age_s=age, parameters={"p": "x" * (size * 10)})
        for n, g, size, age in models
    ]


@given(first=MODELS, second=MODELS, seed=st.randoms(use_true_random=False))
@settings(max_examples=examples(60))
def test_o2_placement_is_stable_within_budget_idempotent_and_order_free(
    first: list[tuple[int, int, int, int]], second: list[tuple[int, int, int, int]], seed: object
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(names, "SHARD_BUDGET_BYTES", 1500)
        start = settled(Gathered(KEY, tuple(drawn(first))))
        homes = {name: index for index, held in entries_of(start).items() for name in held}
        models = drawn(second)
        shuffled = list(models)
        seed.shuffle(shuffled)  # type: ignore[attr-defined]
        changed = replace(start, models=tuple(models))
        assert plan(replace(start, models=tuple(shuffled)), NOW) == plan(changed, NOW)
        end = settled(changed)
        for shard in end.shards:
            size = sum(len(key.encode()) + len(value.encode()) for key, value in shard.data.items())
            assert size <= 1500
        unchanged = {model[0] for model in set(first) & set(second)}
        for number in unchanged:
            name = f"m{number}"
            if name in homes:
                assert name in entries_of(end)[homes[name]], "an unchanged model never moves"
        held = [name for names_ in entries_of(end).values() for name in names_]
        assert len(held) == len(set(held)), "nobody stays in two shards"
