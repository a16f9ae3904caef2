"""A report stays below its budget, whatever it has to say, and one change stays one small patch."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainedmodel_contract.modelreport import ReportedModel
from trainedmodel_puller.core.bounds import (
    Bounded,
    Budget,
    Level,
    bound_models,
    spacing_s,
    stored_bytes,
)
from trainedmodel_puller.core.report import diff_models

pytestmark = pytest.mark.slow

MANY = 10_000
NEW, OLD = "9f3ac1d20b7e4455", "66bbc1d20b7e4455"
THEN = datetime(2026, 1, 1, tzinfo=UTC)
SETTLED = ReportedModel(state="Loaded", revision=NEW)
FAILED = ReportedModel(
    state="Failed",
    revision=NEW,
    reason="ObjectNotFound",
    message="x" * 300,
    attempt=3,
    failed_time=THEN,
    next_retry_time=THEN,
)
KINDS = {
    "loaded": SETTLED,
    "failed": FAILED,
    "failed update": FAILED.model_copy(update={"loaded_revision": OLD}),
    "escaped": FAILED.model_copy(update={"message": "<é\u2028" * 100}),
    "blocked": FAILED.model_copy(update={"state": "Blocked", "reason": "InsufficientMemory"}),
    "downloading": ReportedModel(
        state="Downloading", revision=NEW, reason="InProgress", bytes=10**9, total_bytes=10**11
    ),
    "updating": ReportedModel(
        state="Verifying", revision=NEW, loaded_revision=OLD, reason="InProgress"
    ),
    "waiting": ReportedModel(
        state="Waiting", revision=NEW, reason="Queued", message="waiting for a download slot"
    ),
    "leaving": ReportedModel(state="Unloading", loaded_revision=OLD, reason="InProgress"),
}


def etcd_bytes(models: object) -> int:
    """Size as Go writes it."""
    text = json.dumps(models, separators=(",", ":"), ensure_ascii=False)
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, "\\u0000")
    return len(text.encode())


def as_stored(bounded: Bounded) -> int:
    return etcd_bytes({key: model.to_dict() for key, model in bounded.models.items()})


def many(model: ReportedModel, length: int, count: int = MANY) -> dict[str, ReportedModel]:
    return {f"m{index:06d}".ljust(length, "x"): model for index in range(count)}


@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_models_of_40_characters_stay_below_a_megabyte(kind: str) -> None:
    bounded = bound_models(many(KINDS[kind], 40), Budget())
    assert as_stored(bounded) <= bounded.size <= 990_000
    assert bounded.left_out == 0


@pytest.mark.parametrize("kind", KINDS)
def test_with_names_of_63_characters_what_decides_is_still_told(kind: str) -> None:
    bounded = bound_models(many(KINDS[kind], 63), Budget())
    assert as_stored(bounded) <= bounded.size <= 1_350_000
    assert bounded.left_out == 0


def test_ten_thousand_settled_models_of_63_characters_stay_below_a_megabyte() -> None:
    models = many(SETTLED, 63)
    bounded = bound_models(models, Budget())
    assert as_stored(bounded) <= bounded.size <= 990_000
    assert (bounded.level, bounded.left_out) == (Level.BARE, 0)
    as_read = {
        name: ReportedModel.model_validate(model.to_dict())
        for name, model in bounded.models.items()
    }
    assert as_read == models, "what is left out goes without saying"


def test_a_report_that_becomes_large_is_rewritten_once_and_one_change_stays_one_small_patch() -> (
    None
):
    models = many(SETTLED, 63)
    before = bound_models(dict(list(models.items())[:8000]), Budget())
    assert before.level is Level.WHOLE
    large = bound_models(models, Budget(), before)
    assert set(map(str, diff_models(before.models, large.models).values())) == {
        "{'state': None}",
        f"{{'revision': '{NEW}'}}",
    }
    name = next(iter(models))
    changed = bound_models({**models, name: KINDS["downloading"]}, Budget(), large)
    (change,) = diff_models(large.models, changed.models).values()
    assert change is not None
    assert change["state"] == "Downloading"
    settled = bound_models(models, Budget(), changed)
    (back,) = diff_models(changed.models, settled.models).values()
    assert back is not None
    assert back["state"] is None


def test_a_mix_of_everything_stays_below_a_megabyte() -> None:
    kinds = list(KINDS.values())
    models = {f"m{n:06d}".ljust(40, "x"): kinds[n % len(kinds)] for n in range(MANY)}
    bounded = bound_models(models, Budget())
    assert as_stored(bounded) <= bounded.size <= 990_000
    for name, model in models.items():
        if model.state == "Loaded":
            assert bounded.models[name] == model
        elif model.loaded_revision and model.state != "Unloading":
            told = bounded.models[name]
            assert told.state == "Loaded" or told.loaded_revision


def test_names_that_fit_nowhere_are_left_out_and_those_that_serve_go_last() -> None:
    models = many(SETTLED, 128) | {f"failed-{n}": FAILED for n in range(100)}
    bounded = bound_models(models, Budget())
    assert as_stored(bounded) <= bounded.size <= 1_350_000
    assert bounded.left_out == len(models) - len(bounded.models) > 0
    assert {model.state for model in bounded.models.values()} == {"Loaded"}


def test_few_models_are_told_whole() -> None:
    models = many(FAILED, 20, 1000)
    assert bound_models(models, Budget()).models == models


def test_details_go_before_facts() -> None:
    levels = [
        bound_models(many(FAILED, 20, count), Budget()).level
        for count in (1_000, 3_000, 4_000, 6_000, 9_000)
    ]
    assert levels == sorted(levels)
    assert levels[0] is Level.WHOLE
    assert Level.SHORT in levels
    short = bound_models(many(FAILED, 20, 3_000), Budget())
    told = next(iter(short.models.values()))
    assert told.message is not None
    assert stored_bytes(told.message) <= 120
    assert (told.reason, told.attempt, told.next_retry_time) == ("ObjectNotFound", 3, THEN)


def test_a_size_that_swings_about_a_budget_is_not_rewritten_with_each_swing() -> None:
    budget = Budget(wanted=30_000, most=60_000)
    before = bound_models(many(FAILED, 20, 60), budget)
    assert before.level is Level.WHOLE
    more = bound_models(many(FAILED, 20, 64), budget, before)
    assert more.level is Level.SHORT
    fewer = bound_models(many(FAILED, 20, 60), budget, more)
    assert fewer.level is Level.SHORT
    assert set(diff_models(more.models, fewer.models).values()) == {None}
    assert bound_models(many(FAILED, 20, 20), budget, fewer).level is Level.WHOLE


def test_what_was_cut_before_is_the_same_object_again() -> None:
    models = many(FAILED, 20, 60)
    budget = Budget(wanted=20_000, most=60_000)
    before = bound_models(models, budget)
    assert before.level is not Level.WHOLE
    changed = {**models, next(iter(models)): SETTLED}
    after = bound_models(changed, budget, before)
    fresh = [name for name in models if after.models[name] is not before.models[name]]
    assert fresh == [next(iter(models))]


def test_a_shrunk_budget_tells_less() -> None:
    models = many(FAILED, 20, 2_000)
    whole = bound_models(models, Budget())
    assert bound_models(models, Budget().shrunk(), whole).size <= 742_500


def test_writes_are_rarer_the_larger_they_are() -> None:
    assert spacing_s(13_000, 200) == 0.2
    assert spacing_s(700_000, 200) == pytest.approx(2.8, abs=0.01)
    assert spacing_s(700_000, 700_000) == pytest.approx(5.6, abs=0.01)


TEXT = st.text(st.characters(codec="utf-8"), max_size=60)
SOME = st.builds(
    ReportedModel,
    state=st.sampled_from(["Loaded", "Failed", "Blocked", "Waiting", "Downloading", "Unloading"]),
    revision=st.none() | st.sampled_from([OLD, NEW]),
    loaded_revision=st.none() | st.sampled_from([OLD, NEW, "1"]),
    reason=st.none() | st.sampled_from(["InProgress", "Queued", "ObjectNotFound"]),
    message=st.none() | TEXT | st.just("m" * 300),
    bytes=st.none() | st.integers(0, 2**40),
    attempt=st.none() | st.integers(1, 9999),
    failed_time=st.none() | st.just(THEN),
)
REPORTS = st.dictionaries(st.text("abc<", min_size=1, max_size=20), SOME, max_size=12)
BUDGETS = st.builds(Budget, wanted=st.integers(2, 3000), most=st.integers(3000, 4000)) | st.builds(
    Budget, wanted=st.just(10), most=st.integers(10, 500)
)


@given(REPORTS, REPORTS, BUDGETS)
def test_nothing_is_ever_larger_than_the_budget(
    first: dict[str, ReportedModel], second: dict[str, ReportedModel], budget: Budget
) -> None:
    before = bound_models(first, budget)
    for bounded in (before, bound_models(second, budget, before)):
        assert as_stored(bounded) <= max(bounded.size, 2) <= budget.most
        if bounded.level is Level.WHOLE:
            assert bounded.left_out == 0
    assert bound_models(first, budget, before) == before


@given(st.lists(SOME, min_size=30, max_size=30), st.integers(0, 29), SOME, st.integers(300, 9000))
def test_one_change_is_one_small_patch(
    models: list[ReportedModel], index: int, change: ReportedModel, room: int
) -> None:
    budget = Budget(wanted=room, most=room + 300)
    report = {f"model-{n:02d}": model for n, model in enumerate(models)}
    before = bound_models(report, budget)
    after = bound_models({**report, f"model-{index:02d}": change}, budget, before)
    changed = diff_models(before.models, after.models)
    if after.level == before.level:
        # at the end of a full report the changed model makes room for some, or takes theirs
        assert len(changed) <= (1 if after.level < Level.PARTIAL else 6)
        if after.level < Level.PARTIAL:
            assert changed.keys() <= {f"model-{index:02d}"}


@given(TEXT)
def test_sizes_are_those_of_go(text: str) -> None:
    assert stored_bytes(text) >= etcd_bytes(text)
    if not set(text) & set("\b\f"):
        assert stored_bytes(text) == etcd_bytes(text)
