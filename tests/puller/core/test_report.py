"""What a report says: the server is the witness."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from trainedmodel_contract.entry import Entry
from trainedmodel_contract.modelreport import ReportedModel
from trainedmodel_contract.reasons import Reason
from trainedmodel_puller.core.backoff import backoff_s
from trainedmodel_puller.core.report import diff_models, is_only_progress, report_models
from trainedmodel_puller.core.state import (
    Deferred,
    DesiredState,
    DiskModel,
    EntryFault,
    Failure,
    ObservedState,
    ServerState,
    ServerView,
    Stage,
    Transfer,
    WantedModel,
)

READY = ServerView(True, {"a": ServerState.READY})
ENTRY = Entry(name="a", storage_uri="s3://b/a", revision="2")
WANTED = DesiredState(models={"a": WantedModel("model-a", ENTRY)}, is_known=True)
OLD = {"a": DiskModel(id="model-a", published=frozenset({"1"}), loaded="1")}
NEW = {"a": DiskModel(id="model-a", published=frozenset({"2"}), loaded="2")}
FAILURE = Failure(
    stage=Stage.DOWNLOAD,
    reason=Reason.OBJECT_NOT_FOUND,
    message="nothing at s3://b/a",
    count=3,
    until=5.0,
    failed_time=100.0,
    next_retry_time=104.0,
    entry=ENTRY,
)


def report(desired: DesiredState, observed: ObservedState, *deferred: Deferred) -> ReportedModel:
    return report_models(desired, observed, deferred)["model-a"]


def test_a_settled_model_is_two_words() -> None:
    assert report(WANTED, ObservedState(NEW, READY)).to_dict() == {
        "state": "Loaded",
        "revision": "2",
    }


def test_loaded_needs_the_servers_own_word_now() -> None:
    model = report(WANTED, ObservedState(NEW, ServerView(True, {})))
    assert model.state == "Waiting"
    assert model.loaded_revision is None


def test_a_server_that_tells_what_it_serves_is_believed_over_the_marker() -> None:
    older = replace(READY, revisions={"a": "1"})
    model = report(WANTED, ObservedState(NEW, older))
    assert model.state == "Waiting"
    assert model.loaded_revision == "1"
    foreign = replace(READY, revisions={"a": ""})
    assert report(WANTED, ObservedState(NEW, foreign)).loaded_revision is None
    newer = replace(READY, revisions={"a": "2"})
    assert report(WANTED, ObservedState(OLD, newer)).state == "Loaded"


def test_after_a_load_call_for_another_revision_the_marker_is_no_proof() -> None:
    doubtful = {"a": replace(NEW["a"], trying="3")}
    assert report(WANTED, ObservedState(doubtful, READY)).state == "Waiting"


def test_while_the_server_is_in_doubt_the_last_truth_stands() -> None:
    view = ServerView(is_known=False, models={"a": ServerState.READY})
    assert report(WANTED, ObservedState(NEW, view)).state == "Loaded"


def test_a_download_shows_its_progress_and_what_serves_meanwhile() -> None:
    transfers = {"a": Transfer("2", received_bytes=43, total_bytes=100)}
    model = report(WANTED, ObservedState(OLD, READY, transfers=transfers))
    assert (model.state, model.bytes, model.total_bytes) == ("Downloading", 43, 100)
    assert (model.revision, model.loaded_revision) == ("2", "1")


def test_verifying_and_loading_are_told_apart() -> None:
    transfers = {"a": Transfer("2", stage=Stage.VERIFY)}
    assert report(WANTED, ObservedState(OLD, READY, transfers=transfers)).state == "Verifying"
    acting = ObservedState(OLD, READY, server_actions={"a": Stage.LOAD})
    assert report(WANTED, acting).state == "Loading"


def test_p6_a_failure_is_visible_with_its_next_try() -> None:
    model = report(WANTED, ObservedState(OLD, READY, failures={("a", "2"): FAILURE}))
    assert (model.state, model.reason, model.attempt) == ("Failed", "ObjectNotFound", 3)
    assert model.loaded_revision == "1"
    assert model.next_retry_time is not None
    assert model.next_retry_time.timestamp() == 104.0


def test_a_retry_that_received_nothing_yet_still_shows_the_failure() -> None:
    observed = ObservedState(
        OLD, READY, transfers={"a": Transfer("2")}, failures={("a", "2"): FAILURE}
    )
    assert report(WANTED, observed).state == "Failed"
    moving = replace(observed, transfers={"a": Transfer("2", received_bytes=1)})
    assert report(WANTED, moving).state == "Downloading"


def test_what_waits_says_for_what() -> None:
    waiting = Deferred("a", Reason.SERVER_UNREACHABLE, "refused")
    model = report(WANTED, ObservedState(OLD, ServerView()), waiting)
    assert (model.state, model.reason, model.message) == ("Waiting", "ServerUnreachable", "refused")
    blocked = Deferred("a", Reason.FOLDER_NOT_OURS, "in the way", is_blocked=True)
    assert report(WANTED, ObservedState({}, READY), blocked).state == "Blocked"


def test_a_bad_entry_of_a_served_model_says_both() -> None:
    desired = replace(WANTED, faults={"model-a": EntryFault(Reason.INVALID_ENTRY, "no JSON")})
    model = report(desired, ObservedState(NEW, READY))
    assert (model.state, model.reason, model.loaded_revision) == ("Failed", "InvalidEntry", "2")


def test_a_bad_entry_alone_is_reported_too() -> None:
    desired = DesiredState(
        faults={"model-a": EntryFault(Reason.NAME_CONFLICT, "taken")}, is_known=True
    )
    assert report(desired, ObservedState({}, READY)).state == "Blocked"


def test_a_model_on_its_way_out_is_reported_until_it_is_gone() -> None:
    desired = DesiredState(is_known=True)
    model = report(desired, ObservedState(OLD, READY))
    assert (model.state, model.loaded_revision) == ("Unloading", "1")
    stuck = replace(FAILURE, reason=Reason.UNLOAD_FAILED)
    model = report(desired, ObservedState(OLD, READY, failures={("a", ""): stuck}))
    assert (model.state, model.reason) == ("Unloading", "UnloadFailed")
    assert report_models(desired, ObservedState({}, READY), ()) == {}


def test_what_memory_or_disk_does_not_hold_is_blocked() -> None:
    for reason in (Reason.INSUFFICIENT_MEMORY, Reason.INSUFFICIENT_DISK):
        failed = ObservedState(OLD, READY, failures={("a", "2"): replace(FAILURE, reason=reason)})
        assert report(WANTED, failed).state == "Blocked"
        waits = Deferred("a", reason, "needs 2 GiB")
        assert report(WANTED, ObservedState(OLD, READY), waits).state == "Blocked"


def test_a_message_with_half_a_character_in_it_is_told_without() -> None:
    failure = replace(FAILURE, message="nothing at \udc80.bin")  # a file name that is not UTF-8
    model = report(WANTED, ObservedState(OLD, READY, failures={("a", "2"): failure}))
    assert model.message == "nothing at ?.bin"
    json.dumps(model.to_dict(), ensure_ascii=False).encode()


def test_progress_is_told_in_hundredths_and_its_end_exactly() -> None:
    def told(received: int, total: int | None) -> int | None:
        transfer = Transfer("2", received_bytes=received, total_bytes=total)
        return report(WANTED, ObservedState(OLD, READY, transfers={"a": transfer})).bytes

    assert told(1_234_567, 100_000_000) == 1_000_000
    assert told(99_999_999, 100_000_000) == 99_000_000
    assert told(12_345_678, 12_345_678) == 12_345_678
    assert told(5 * 2**20 + 7, None) == 5 * 2**20


def test_what_did_not_change_is_the_same_object_again() -> None:
    names = [f"m{n}" for n in range(5)]
    wanted = {n: WantedModel(f"id-{n}", ENTRY.model_copy(update={"name": n})) for n in names}
    desired = DesiredState(models=wanted, is_known=True)
    disk = {n: DiskModel(id=f"id-{n}", loaded="2") for n in names}
    ready = dict.fromkeys(names, ServerState.READY)
    waits = [Deferred("m3", Reason.QUEUED, "waiting for a load slot")]
    ready["m3"] = ServerState.ABSENT
    observed = ObservedState(disk, ServerView(True, ready))
    first = report_models(desired, observed, waits)
    assert report_models(desired, observed, waits, first) is first
    ready["m1"] = ServerState.ABSENT
    second = report_models(desired, observed, waits, first)
    assert {key for key in first if second[key] is not first[key]} == {"id-m1"}


STATES = st.sampled_from([ServerState.READY, ServerState.ABSENT])
WORLDS = st.builds(
    lambda wanted, loaded, server, failures: (
        DesiredState(
            models={n: WantedModel(n, ENTRY.model_copy(update={"name": n})) for n in wanted},
            is_known=True,
        ),
        ObservedState(
            {n: DiskModel(id=n, loaded=revision) for n, revision in loaded.items()},
            ServerView(True, server),
            failures={(n, "2"): FAILURE for n in failures},
        ),
    ),
    st.frozensets(st.sampled_from("abcd")),
    st.dictionaries(st.sampled_from("abcd"), st.sampled_from("12")),
    st.dictionaries(st.sampled_from("abcd"), STATES),
    st.frozensets(st.sampled_from("abcd")),
)


SAID = st.dictionaries(
    st.sampled_from("abcd"),
    st.builds(
        ReportedModel,
        state=st.sampled_from(["Loaded", "Loaded", "Waiting"]),
        revision=st.sampled_from("12"),
        loaded_revision=st.none() | st.just("1"),
        reason=st.none() | st.just("Queued"),
    )
    | st.builds(ReportedModel, state=st.just("Loaded"), revision=st.sampled_from("12")),
)


@given(SAID, WORLDS)
def test_what_was_said_before_never_changes_what_is_said(
    before: dict[str, ReportedModel], world: tuple[DesiredState, ObservedState]
) -> None:
    assert report_models(*world, (), before) == report_models(*world, ())


def test_a_patch_holds_the_fields_that_changed_and_no_others() -> None:
    before = ReportedModel(state="Downloading", revision="2", bytes=1, total_bytes=9)
    after = ReportedModel(state="Downloading", revision="2", bytes=2, total_bytes=9)
    patch = diff_models({"a": before, "b": before}, {"a": after, "b": before})
    assert patch == {"a": {"bytes": 2}}
    assert is_only_progress(patch)
    ended = ReportedModel(state="Loaded", revision="2")
    patch = diff_models({"a": before}, {"a": ended})
    assert patch == {"a": {"state": "Loaded", "bytes": None, "totalBytes": None}}
    assert not is_only_progress(patch)
    assert not is_only_progress({"a": None})


MODELS = st.dictionaries(
    st.sampled_from("abc"),
    st.builds(
        ReportedModel,
        state=st.sampled_from(["Loaded", "Failed"]),
        revision=st.none() | st.sampled_from("12"),
        reason=st.none() | st.just("X"),
        attempt=st.none() | st.integers(1, 3),
    ),
)


@given(MODELS, MODELS)
def test_a_merged_diff_turns_one_report_into_the_other(
    before: dict[str, ReportedModel], after: dict[str, ReportedModel]
) -> None:
    document = {key: model.to_dict() for key, model in before.items()}
    for key, change in diff_models(before, after).items():
        if change is None:
            del document[key]
        else:
            merged = {**document.get(key, {}), **change}
            document[key] = {field: value for field, value in merged.items() if value is not None}
    assert document == {key: model.to_dict() for key, model in after.items()}
    assert diff_models(after, after) == {}


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_p6_backoff_grows_from_one_second_to_five_minutes(count: int, jitter: float) -> None:
    delay = backoff_s(count, jitter)
    assert 0.5 <= delay <= 300
    assert backoff_s(count + 1, jitter) >= delay
    if count >= 10:
        assert delay >= 150
