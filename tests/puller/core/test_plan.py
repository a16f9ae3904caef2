"""The rules of the plan, one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from puller.plan_builders import (
    LIMITS,
    LOADED_A1,
    NOW,
    decide,
    desire,
    entry,
    failure,
    loaded_a1,
    on_disk,
    server,
)
from trainedmodel_contract.reasons import Reason
from trainedmodel_puller.core.draft import SLOW_LOAD_S, STUCK_DOWNLOAD_S
from trainedmodel_puller.core.state import (
    DesiredState,
    DiskModel,
    Download,
    Limits,
    Load,
    ObservedState,
    Remove,
    ServerState,
    ServerView,
    Stage,
    Transfer,
    Unload,
    WantedModel,
)


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
        assert made.actions == (
            Remove("a", frozenset({"0"}), reason="beyond the limits of kept revisions"),
        )

    def test_leftovers_that_could_not_be_removed_are_tried_again_later(self) -> None:
        failures = {("a", ""): failure("", Stage.UNLOAD, NOW + 5)}
        disk = {"a": loaded_a1("0")}
        observed = ObservedState(disk, server(a=ServerState.READY), failures=failures)
        assert not decide(desire(a="1"), observed, replace(LIMITS, keep_versions=0)).actions

    def test_what_a_cancelled_download_left_is_removed(self) -> None:
        disk = {"a": loaded_a1(is_staged=True)}
        made = decide(desire(a="1"), ObservedState(disk, server(a=ServerState.READY)))
        assert made.actions == (Remove("a", is_staging=True, reason="its download was cancelled"),)
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
