"""The status document: the plan in words, and each model with all that is known of it."""

from __future__ import annotations

import json

from trainedmodel_contract.entry import Entry
from trainedmodel_contract.modelreport import ReportedModel
from trainedmodel_contract.reasons import Reason
from trainedmodel_puller.core.state import (
    Deferred,
    DesiredState,
    DiskModel,
    Download,
    Load,
    ObservedState,
    Plan,
    Remove,
    ServerView,
    Transfer,
    Tree,
    Unload,
    WantedModel,
)
from trainedmodel_puller.core.status import MAX_LISTED, status_document

ENTRY = Entry(name="a", storage_uri="s3://b/a?sig=secret", revision="2")
WANTED = DesiredState(models={"a": WantedModel("model-a", ENTRY)}, is_known=True)
NOTHING = ObservedState({}, ServerView(True))
MODELS = {"model-a": ReportedModel(state="Waiting", revision="2", loaded_revision="1")}


def words(*actions: Download | Load | Unload | Remove) -> list[str]:
    document = status_document(WANTED, NOTHING, Plan(actions), MODELS, 0.0)
    return [item["words"] for item in document["plan"]["next"]]


def test_each_action_has_its_words() -> None:
    assert words(
        Download("a", "model-a", ENTRY),
        Load("a", "model-a", "2", "wanted"),
        Unload("a"),
        Remove("a"),
        Remove("a", frozenset({"0", "1"}), reason="beyond the limits of kept revisions"),
        Remove("a", is_staging=True),
    ) == [
        "download s3://b/a as revision 2",
        "load revision 2: wanted",
        "unload: no longer wanted",
        "delete all files: no longer wanted",
        "delete revision 0, 1: beyond the limits of kept revisions",
        "delete the staged files: no longer wanted",
    ]


def test_what_is_under_way_is_not_told_as_still_to_come() -> None:
    observed = ObservedState({}, ServerView(True), transfers={"a": Transfer("2")})
    plan = Plan((Download("a", "model-a", ENTRY),))
    told = status_document(WANTED, observed, plan, MODELS, 0.0)["plan"]
    assert told["next"] == []
    assert told["underWay"][0]["percent"] is None  # the size is not known yet
    assert told["counts"] == {"underWay": 1, "next": 0, "cancelled": 0, "waiting": 0}


def test_what_waits_says_why_and_until_when() -> None:
    waits = (
        Deferred("a", Reason.SOURCE_ERROR, "503", until=112.34),
        Deferred("a", Reason.SERVER_UNREACHABLE, "refused"),
    )
    document = status_document(WANTED, NOTHING, Plan(deferred=waits), MODELS, 100.0)
    assert [item["inSeconds"] for item in document["plan"]["waiting"]] == [12.3, None]
    assert document["plan"]["nextTryInSeconds"] == 12.3
    assert [item["reason"] for item in document["models"]["model-a"]["waitsFor"]] == [
        "SourceError",
        "ServerUnreachable",
    ]


def test_a_long_queue_is_counted_and_listed_in_part() -> None:
    waits = tuple(Deferred(f"n{n}", Reason.QUEUED, "waiting for a load slot") for n in range(500))
    told = status_document(WANTED, NOTHING, Plan(deferred=waits), MODELS, 0.0)["plan"]
    assert len(told["waiting"]) == MAX_LISTED
    assert told["counts"]["waiting"] == 500


def test_a_model_on_its_way_out_is_told_with_its_files() -> None:
    disk = {"old": DiskModel(id="model-old", trees={"1": Tree(7)}, loaded="1")}
    models = {"model-old": ReportedModel(state="Unloading", loaded_revision="1")}
    observed = ObservedState(disk, ServerView(True))
    document = status_document(DesiredState(is_known=True), observed, Plan(), models, 0.0)
    assert document["models"]["model-old"] == {
        "state": "Unloading",
        "loadedRevision": "1",
        "name": "old",
        "onDisk": [{"revision": "1", "bytes": 7, "isPublished": False}],
    }


def test_an_unusable_entry_is_told_without_its_name() -> None:
    models = {"bad": ReportedModel(state="Failed", reason="InvalidEntry", message="no JSON")}
    document = status_document(DesiredState(is_known=True), NOTHING, Plan(), models, 0.0)
    assert document["models"]["bad"]["message"] == "no JSON"
    json.dumps(document)


def test_a_served_name_is_looked_up_when_no_model_has_it_as_its_own() -> None:
    desired = DesiredState(
        models={
            "a": WantedModel("x", ENTRY),
            "x": WantedModel("y", ENTRY.model_copy(update={"name": "x"})),
        }
    )
    models = {"x": MODELS["model-a"], "y": MODELS["model-a"]}

    def chosen(only: str) -> list[str]:
        document = status_document(desired, NOTHING, Plan(), models, 0.0, only=only)
        return list(document["models"])

    assert chosen("a") == ["x"]
    assert chosen("x") == ["x"]
    assert chosen("nobody") == []
