"""Promises of the plan: it converges, it is safe on doubt, it never acts twice on a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st
from trainedmodel_contract.entry import Entry
from trainedmodel_contract.reasons import Reason
from trainedmodel_puller.core.draft import SLOW_LOAD_S, STUCK_DOWNLOAD_S
from trainedmodel_puller.core.plan import plan
from trainedmodel_puller.core.state import (
    DesiredState,
    DiskModel,
    Download,
    Failure,
    Limits,
    Load,
    ObservedState,
    Plan,
    Remove,
    ServerState,
    ServerView,
    Stage,
    Transfer,
    Tree,
    Unload,
    WantedModel,
)

NOW = 1000.0
Value = TypeVar("Value")
LIMITS = Limits(max_downloads=4, max_loads=2)


def entry(name: str, revision: str, credentials: str | None = None) -> Entry:
    return Entry(
        name=name, storage_uri=f"s3://b/{name}", revision=revision, credentials=credentials
    )


def desire(**revisions: str) -> DesiredState:
    models = {name: WantedModel(name, entry(name, rev)) for name, rev in revisions.items()}
    return DesiredState(models=models, is_known=True)


def server(**states: ServerState) -> ServerView:
    return ServerView(is_known=True, models=states)


def failure(revision: str, stage: Stage, until: float, *, rechecked: bool = False) -> Failure:
    return Failure(
        stage=stage,
        reason=Reason.LOAD_FAILED,
        message="no",
        count=1,
        until=until,
        failed_time=0,
        next_retry_time=0,
        entry=entry("a", revision) if revision else None,
        is_rechecked=rechecked,
    )


def on_disk(
    *versions: str,
    published: str | None = None,
    loaded: str | None = None,
    sizes: int = 10,
    **fields: Any,
) -> DiskModel:
    """Return a name's disk: trees beside (oldest first), one published, one confirmed."""
    trees = {revision: Tree(sizes, float(at)) for at, revision in enumerate(versions)}
    if published is not None:
        trees[published] = Tree(sizes, 100.0)
    shown = frozenset() if published is None else frozenset({published})
    return DiskModel(trees=trees, published=shown, loaded=loaded, **fields)


def loaded_a1(*versions: str, **fields: Any) -> DiskModel:
    return on_disk(*versions, id="a", published="1", loaded="1", **fields)


LOADED_A1 = loaded_a1()


def decide(desired: DesiredState, observed: ObservedState, limits: Limits = LIMITS) -> Plan:
    return plan(desired, observed, limits, NOW)


class TestFirstLoad:
    def test_an_absent_model_is_downloaded(self) -> None:
        made = decide(desire(a="1"), ObservedState({}, server()))
        assert [type(action) for action in made.actions] == [Download]

    def test_a_sealed_version_is_loaded(self) -> None:
        disk = {"a": on_disk("1")}
        made = decide(desire(a="1"), ObservedState(disk, server()))
        assert made.actions == (Load("a", "a", "1", "wanted"),)

    def test_a_settled_model_needs_nothing(self) -> None:
        observed = ObservedState({"a": LOADED_A1}, server(a=ServerState.READY))
        assert decide(desire(a="1"), observed).is_empty

    def test_leftover_versions_of_a_settled_model_are_removed(self) -> None:
        disk = {"a": loaded_a1("0")}
        observed = ObservedState(disk, server(a=ServerState.READY))
        made = decide(desire(a="1"), observed, replace(LIMITS, keep_versions=0))
        assert made.actions == (Remove("a", frozenset({"0"}), reason="more than is kept"),)

    def test_leftovers_that_could_not_be_removed_are_tried_again_later(self) -> None:
        failures = {("a", ""): failure("", Stage.UNLOAD, NOW + 5)}
        disk = {"a": loaded_a1("0")}
        observed = ObservedState(disk, server(a=ServerState.READY), failures=failures)
        assert not decide(desire(a="1"), observed, replace(LIMITS, keep_versions=0)).actions

    def test_what_a_cancelled_download_left_is_removed(self) -> None:
        disk = {"a": loaded_a1(is_staged=True)}
        made = decide(desire(a="1"), ObservedState(disk, server(a=ServerState.READY)))
        assert made.actions == (Remove("a", is_staging=True, reason="a cancelled download"),)
        gone = decide(desire(), ObservedState({"a": DiskModel(is_staged=True)}, server()))
        assert gone.actions == (Remove("a"),)

    def test_p5_a_ready_server_is_not_believed_for_a_revision_that_it_never_confirmed(self) -> None:
        disk = {"a": on_disk(published="1")}
        made = decide(desire(a="1"), ObservedState(disk, server(a=ServerState.READY)))
        assert [type(action) for action in made.actions] == [Load]


class TestDoubt:
    def test_p1_nothing_is_unwanted_before_a_configuration_was_read(self) -> None:
        observed = ObservedState({"a": LOADED_A1}, server(a=ServerState.READY))
        assert decide(DesiredState(), observed).is_empty

    def test_p2_no_load_and_no_unload_while_the_server_is_unknown(self) -> None:
        disk = {"a": on_disk("1"), "gone": LOADED_A1}
        made = decide(desire(a="1", b="1"), ObservedState(disk, ServerView(message="silent")))
        assert [type(action) for action in made.actions] == [Download]
        reasons = {item.name: item.reason for item in made.deferred}
        assert reasons["a"] is reasons["gone"] is Reason.SERVER_UNREACHABLE

    def test_p2_downloads_go_on_while_the_server_is_unknown(self) -> None:
        made = decide(desire(a="1"), ObservedState({}, ServerView()))
        assert [type(action) for action in made.actions] == [Download]

    def test_a_server_that_is_loading_by_itself_is_left_alone(self) -> None:
        disk = {"a": on_disk(published="1")}
        made = decide(desire(a="1"), ObservedState(disk, server(a=ServerState.LOADING)))
        assert not made.actions
        assert made.wake_at is not None
        assert made.wake_at > NOW

    def test_a_foreign_folder_is_never_touched(self) -> None:
        disk = {"a": DiskModel(is_foreign=True), "b": DiskModel(is_foreign=True)}
        made = decide(desire(a="1"), ObservedState(disk, server()))
        assert not made.actions
        assert [item.reason for item in made.deferred] == [Reason.FOLDER_NOT_OURS]


class TestUpdate:
    def test_an_update_downloads_while_the_old_revision_serves(self) -> None:
        observed = ObservedState({"a": LOADED_A1}, server(a=ServerState.READY))
        made = decide(desire(a="2"), observed)
        assert [type(action) for action in made.actions] == [Download]

    def test_a_failed_update_backs_off_and_says_until_when(self) -> None:
        failures = {("a", "2"): failure("2", Stage.LOAD, NOW + 5)}
        observed = ObservedState(
            {"a": loaded_a1("2")},
            server(a=ServerState.READY),
            failures=failures,
        )
        made = decide(desire(a="2"), observed)
        assert not made.actions
        assert made.wake_at == NOW + 5

    def test_after_a_failed_load_the_source_is_looked_at_again_before_the_next_try(self) -> None:
        failures = {("a", "2"): failure("2", Stage.LOAD, NOW - 1)}
        disk = {"a": loaded_a1("2")}
        observed = ObservedState(disk, server(a=ServerState.READY), failures=failures)
        made = decide(desire(a="2"), observed)
        assert [type(action) for action in made.actions] == [Download]

    def test_p6_it_is_loaded_again_once_the_source_was_rechecked(self) -> None:
        failures = {("a", "2"): failure("2", Stage.LOAD, NOW - 1, rechecked=True)}
        disk = {"a": loaded_a1("2")}
        observed = ObservedState(disk, server(a=ServerState.READY), failures=failures)
        made = decide(desire(a="2"), observed)
        assert [type(action) for action in made.actions] == [Load]

    def test_p6_a_change_of_the_entry_resets_the_backoff(self) -> None:
        failures = {("a", "2"): failure("2", Stage.DOWNLOAD, NOW + 100)}
        wanted = WantedModel("a", entry("a", "2", credentials="other"))
        desired = DesiredState(models={"a": wanted}, is_known=True)
        made = decide(desired, ObservedState({}, server(), failures=failures))
        assert [type(action) for action in made.actions] == [Download]

    def test_a_b_a_cancels_the_download_of_b(self) -> None:
        observed = ObservedState(
            {"a": LOADED_A1}, server(a=ServerState.READY), transfers={"a": Transfer("2")}
        )
        made = decide(desire(a="1"), observed)
        assert made.cancelled == ("a",)
        assert not made.actions


class TestRestart:
    def test_p10_a_server_that_came_back_empty_gets_everything_again(self) -> None:
        made = decide(desire(a="1"), ObservedState({"a": LOADED_A1}, server()))
        assert [type(action) for action in made.actions] == [Load]

    def test_p10_it_gets_the_old_revision_while_the_new_one_still_downloads(self) -> None:
        observed = ObservedState({"a": LOADED_A1}, server(), transfers={"a": Transfer("2")})
        made = decide(desire(a="2"), observed)
        assert made.actions == (Load("a", "a", "1", "restore"),)

    def test_p10_it_gets_the_old_revision_while_the_new_one_keeps_failing(self) -> None:
        failures = {("a", "2"): failure("2", Stage.DOWNLOAD, NOW + 60)}
        observed = ObservedState({"a": LOADED_A1}, server(), failures=failures)
        made = decide(desire(a="2"), observed)
        assert made.actions == (Load("a", "a", "1", "restore"),)

    def test_a_restore_that_fails_backs_off_like_any_other(self) -> None:
        failures = {
            ("a", "2"): failure("2", Stage.DOWNLOAD, NOW + 60),
            ("a", "1"): failure("1", Stage.LOAD, NOW + 5),
        }
        observed = ObservedState({"a": LOADED_A1}, server(), failures=failures)
        assert not decide(desire(a="2"), observed).actions

    def test_restores_and_unloads_wait_for_a_slot_like_any_other(self) -> None:
        disk = {"a": LOADED_A1, "gone": LOADED_A1}
        observed = ObservedState(
            disk,
            server(),
            transfers={"a": Transfer("2")},
            server_actions={"x": Stage.LOAD, "y": Stage.LOAD},
        )
        made = decide(desire(a="2"), observed)
        assert not made.actions
        assert {item.name: item.reason for item in made.deferred} == {
            "a": Reason.QUEUED,
            "gone": Reason.QUEUED,
        }


class TestRemoval:
    def test_an_unload_that_failed_is_tried_again_later(self) -> None:
        failures = {("a", ""): failure("", Stage.UNLOAD, NOW + 5)}
        observed = ObservedState({"a": LOADED_A1}, server(), failures=failures)
        made = decide(desire(), observed)
        assert not made.actions
        assert made.wake_at == NOW + 5

    def test_p3_an_unwanted_model_is_unloaded_before_anything_is_deleted(self) -> None:
        observed = ObservedState({"a": LOADED_A1}, server(a=ServerState.READY))
        assert decide(desire(), observed).actions == (Unload("a"),)

    def test_p3_a_marker_alone_is_reason_enough_to_unload_first(self) -> None:
        assert decide(desire(), ObservedState({"a": LOADED_A1}, server())).actions == (Unload("a"),)

    def test_files_are_deleted_once_the_server_let_go(self) -> None:
        observed = ObservedState({"a": replace(LOADED_A1, loaded=None)}, server())
        assert decide(desire(), observed).actions == (Remove("a"),)

    def test_a_transfer_of_an_unwanted_model_is_cancelled_first(self) -> None:
        observed = ObservedState({}, server(), transfers={"a": Transfer("1")})
        made = decide(desire(), observed)
        assert made.cancelled == ("a",)


class TestLimits:
    def test_p12_models_that_failed_before_get_slots_last(self) -> None:
        revisions = {f"m{i}": "1" for i in range(4)}
        failures = {
            ("m0", "1"): replace(
                failure("1", Stage.DOWNLOAD, NOW - 1), count=3, entry=entry("m0", "1")
            )
        }
        made = decide(
            desire(**revisions),
            ObservedState({}, server(), failures=failures),
            Limits(max_downloads=3, max_loads=1),
        )
        started = [action.name for action in made.actions]
        assert started == ["m1", "m2", "m3"]
        assert [item.name for item in made.deferred] == ["m0"]

    def test_no_more_loads_than_the_server_bears(self) -> None:
        revisions = {f"m{i}": "1" for i in range(10)}
        disk = {name: on_disk("1") for name in revisions}
        made = decide(desire(**revisions), ObservedState(disk, server()))
        assert len(made.actions) == LIMITS.max_loads
        assert {item.reason for item in made.deferred} == {Reason.QUEUED}


class TestSlots:
    def in_flight(self, count: int, began: float, **fields: Any) -> ObservedState:
        busy = {f"busy{i}": Stage.LOAD for i in range(count)}
        return ObservedState(
            {"a": on_disk("1")},
            server(),
            server_actions=busy,
            action_began=dict.fromkeys(busy, began),
            **fields,
        )

    def test_p12_a_load_that_takes_long_gives_its_slot_back(self) -> None:
        young = decide(desire(a="1"), self.in_flight(2, NOW - 0.1))
        assert not young.actions
        assert young.queued_loads == ("a",)
        assert young.wake_at == NOW - 0.1 + SLOW_LOAD_S, "it looks again when one turns slow"
        slow = decide(desire(a="1"), self.in_flight(2, NOW - SLOW_LOAD_S))
        assert slow.actions == (Load("a", "a", "1", "wanted"),)

    def test_slow_loads_are_bounded_too_for_a_load_holds_a_thread_of_the_server(self) -> None:
        most = LIMITS.max_loads + LIMITS.max_slow_loads
        assert decide(desire(a="1"), self.in_flight(most - 1, NOW - 60)).actions
        full = decide(desire(a="1"), self.in_flight(most, NOW - 60))
        assert not full.actions
        assert full.queued_loads == ("a",)

    def test_p12_a_download_without_a_byte_gives_its_slot_back(self) -> None:
        def transfers(progressed_at: float) -> ObservedState:
            stuck = {f"t{i}": Transfer("1", progressed_at=progressed_at) for i in range(4)}
            return ObservedState({}, server(), transfers=stuck)

        wanted = desire(a="1", **{f"t{i}": "1" for i in range(4)})
        assert not decide(wanted, transfers(NOW - 0.1)).actions
        made = decide(wanted, transfers(NOW - STUCK_DOWNLOAD_S))
        assert [action.name for action in made.actions] == ["a"]


# -- properties -----------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c"])
REVISIONS = st.sampled_from(["1", "2"])
DISKS = st.builds(
    lambda beside, published, loaded, is_staged: on_disk(
        *sorted(beside), published=published, loaded=loaded, is_staged=is_staged
    ),
    st.frozensets(REVISIONS, max_size=2),
    st.none() | REVISIONS,
    st.none() | REVISIONS,
    st.booleans(),
)
VIEWS = st.builds(
    ServerView,
    is_known=st.booleans(),
    models=st.dictionaries(NAMES, st.sampled_from(list(ServerState))),
)
DESIRES = st.builds(
    lambda revisions, known: replace(desire(**revisions), is_known=known),
    st.dictionaries(NAMES, REVISIONS),
    st.booleans(),
)
OBSERVATIONS = st.builds(
    ObservedState,
    disk=st.dictionaries(NAMES, DISKS),
    server=VIEWS,
    transfers=st.dictionaries(NAMES, st.builds(Transfer, revision=REVISIONS)),
    server_actions=st.dictionaries(NAMES, st.sampled_from([Stage.LOAD, Stage.UNLOAD])),
    removals=st.frozensets(NAMES),
)


def apply_plan(made: Plan, observed: ObservedState) -> ObservedState:
    """Be a world in which each action succeeds at once."""
    disk, models = dict(observed.disk), dict(observed.server.models)
    for action in made.actions:
        old = disk.get(action.name, DiskModel())
        match action:
            case Download():
                disk[action.name] = replace(old, trees={**old.trees, action.entry.revision: Tree()})
            case Load():
                disk[action.name] = replace(
                    old, published=frozenset({action.revision}), loaded=action.revision
                )
                models[action.name] = ServerState.READY
            case Unload():
                disk[action.name] = replace(old, loaded=None)
                models.pop(action.name, None)
            case Remove():
                if action.is_staging:
                    disk[action.name] = replace(old, is_staged=False)
                elif action.versions is None:
                    disk.pop(action.name, None)
                else:
                    left = {k: v for k, v in old.trees.items() if k not in action.versions}
                    disk[action.name] = replace(old, trees=left)
    return ObservedState(disk, replace(observed.server, models=models))


@given(DESIRES, OBSERVATIONS)
@settings(max_examples=500)
def test_a_plan_never_acts_on_what_is_in_flight_or_in_doubt(
    desired: DesiredState, observed: ObservedState
) -> None:
    made = decide(desired, observed)
    for action in made.actions:
        if isinstance(action, Load | Unload):
            assert observed.server.is_known
            assert action.name not in observed.server_actions
            assert action.name not in observed.removals
        if isinstance(action, Download):
            assert action.name not in observed.transfers
        if isinstance(action, Remove):
            assert action.name not in observed.removals
            if action.versions is None and not action.is_staging:
                assert desired.is_known
                assert observed.server.is_known
                assert observed.server.state_of(action.name) is ServerState.ABSENT
                assert observed.disk[action.name].loaded is None
    names = [
        (type(action), action.name, getattr(action, "is_staging", 0)) for action in made.actions
    ]
    assert len(names) == len(set(names))


@given(DESIRES, OBSERVATIONS, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(
    desired: DesiredState, observed: ObservedState, chance: Random
) -> None:
    def turned(mapping: Mapping[str, Value]) -> dict[str, Value]:
        items = list(mapping.items())
        chance.shuffle(items)
        return dict(items)

    other = decide(
        replace(desired, models=turned(desired.models)),
        replace(observed, disk=turned(observed.disk)),
    )
    made = decide(desired, observed)
    assert sorted(map(repr, made.actions)) == sorted(map(repr, other.actions))
    assert set(made.cancelled) == set(other.cancelled)


@given(DESIRES, OBSERVATIONS)
@settings(max_examples=500)
def test_p7_from_any_state_a_few_passes_reach_the_empty_plan(
    desired: DesiredState, observed: ObservedState
) -> None:
    calm = {
        name: ServerState.READY if state is ServerState.READY else ServerState.ABSENT
        for name, state in observed.server.models.items()
    }
    observed = ObservedState(observed.disk, ServerView(True, calm))
    for _ in range(24):
        made = decide(desired, observed)
        if made.is_empty:
            break
        observed = apply_plan(made, observed)
    assert decide(desired, observed).is_empty
    for name, wanted in desired.models.items():
        assert observed.disk[name].loaded == wanted.entry.revision
    if desired.is_known:
        assert observed.disk.keys() == desired.models.keys()


@given(DESIRES, OBSERVATIONS)
@settings(max_examples=300)
def test_a_plan_is_the_same_when_nothing_has_changed(
    desired: DesiredState, observed: ObservedState
) -> None:
    assert decide(desired, observed) == decide(desired, observed)


@given(DESIRES, OBSERVATIONS, NAMES)
@settings(max_examples=300)
def test_a_plan_for_one_name_decides_as_the_plan_for_all_does(
    desired: DesiredState, observed: ObservedState, name: str
) -> None:
    """Slots apart, of which there are enough for all here."""
    plenty = Limits(max_downloads=100, max_loads=100)
    whole = plan(desired, observed, plenty, NOW)
    alone = plan(desired, observed, plenty, NOW, only=[name])
    tidied = [action for action in whole.actions if getattr(action, "versions", None) is not None]
    mine = [action for action in whole.actions if action.name == name and action not in tidied]
    assert list(alone.actions) == mine
    assert [item for item in whole.deferred if item.name == name] == list(alone.deferred)
    assert set(alone.cancelled) == {cancelled for cancelled in whole.cancelled if cancelled == name}
