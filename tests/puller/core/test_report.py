"""What a report says: the server is the witness."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from trainedmodel_contract.entry import Entry
from trainedmodel_contract.modelreport import ReportedModel
from trainedmodel_contract.reasons import Reason
from trainedmodel_puller.core.backoff import backoff_s
from trainedmodel_puller.core.report import diff_models, report_models
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
OLD = {"a": DiskModel(id="model-a", published="1", loaded="1")}
NEW = {"a": DiskModel(id="model-a", published="2", loaded="2")}
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


def test_while_the_server_is_in_doubt_the_last_truth_stands() -> None:
    view = ServerView(is_known=False, models={"a": ServerState.READY})
    assert report(WANTED, ObservedState(NEW, view)).state == "Loaded"


def test_a_download_shows_its_progress_and_what_serves_meanwhile() -> None:
    transfers = {"a": Transfer("2", received_bytes=43, total_bytes=100)}
    model = report(WANTED, ObservedState(OLD, READY, transfers=transfers))
    assert (model.state, model.bytes, model.total_bytes) == ("Downloading", 43, 100)
    assert (model.revision, model.loaded_revision) == ("2", "1")


def test_verifying_and_loading_are_told_apart() -> None:
    transfers = {"a": Transfer("2", Stage.VERIFY)}
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
def test_p6_backoff_grows_from_one_second_to_five_minutes(count: int, chance: float) -> None:
    delay = backoff_s(count, chance)
    assert 0.5 <= delay <= 300
    assert backoff_s(count + 1, chance) >= delay
    if count >= 10:
        assert delay >= 150
