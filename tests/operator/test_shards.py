from __future__ import annotations

from dataclasses import replace

from support.operator.builders import (
    KEY,
    NOW,
    carried_out,
    desired,
    document,
    one,
    pod,
    shard_of,
    view,
)
from trainedmodel_contract import names
from trainedmodel_contract.shard import config_digest, entries_digest, parse_manifest
from trainedmodel_operator.core.plan import plan
from trainedmodel_operator.core.shards import documents
from trainedmodel_operator.core.shards.documents import ShardWrite, WriteKind
from trainedmodel_operator.core.state import Gathered, ShardView, read_shard


def test_o2_equal_entries_in_any_order_render_to_equal_bytes() -> None:
    forward = documents.render_shard(0, {"a": "1", "b": "2"})
    backward = documents.render_shard(0, {"b": "2", "a": "1"})
    assert list(forward.items()) == list(backward.items())


def test_a_shard_carries_the_manifest_that_proves_it_whole() -> None:
    data = documents.render_shard(2, {"a": "1", "b": "2"})
    manifest = parse_manifest(data["_shard-2"])
    assert (manifest.shard, manifest.entries) == (2, 2)
    assert manifest.digest == entries_digest({"a.json": "1", "b.json": "2"})


def test_a_shard_that_is_as_it_shall_be_is_not_written() -> None:
    there = shard_of(0, [one()])
    assert documents.diff_shard(KEY, there, dict(there.data)) is None


def test_a_patch_holds_the_differing_keys_the_manifest_and_the_version_it_was_made_from() -> None:
    there = view(0, documents.render_shard(0, {"a": "1", "b": "2", "c": "3"}), version="41")
    wanted = documents.render_shard(0, {"a": "1", "b": "9"})
    patch = documents.diff_shard(KEY, there, wanted)
    assert patch == {
        "metadata": {"resourceVersion": "41"},
        "data": {"_shard-0": wanted["_shard-0"], "b.json": "9", "c.json": None},
    }


def test_the_manifest_goes_with_every_change_even_one_that_a_hand_undid() -> None:
    wanted = documents.render_shard(0, {"a": "1"})
    patch = documents.diff_shard(KEY, view(0, {**wanted, "a.json": "by hand"}), wanted)
    assert patch is not None
    assert set(patch["data"]) == {"_shard-0", "a.json"}


def patch_of(there: ShardView) -> ShardWrite:
    gathered = Gathered(KEY, models=desired(document("iris")), shards=(there,))
    (write,) = plan(gathered, NOW).shard_writes
    assert write.kind is WriteKind.PATCH
    return write


def test_a_patch_holds_for_a_shard_of_which_only_the_version_has_changed() -> None:
    there = shard_of(0, [])
    write = patch_of(there)
    found = replace(there, resource_version="99", labels={**there.labels, "team": "a"})
    rebased = documents.rebase(write, found)
    assert rebased is not None
    assert rebased.body["metadata"]["resourceVersion"] == "99"
    assert rebased.body["data"] == write.body["data"]
    assert documents.rebase(rebased, found) == rebased


def test_a_patch_does_not_hold_for_a_shard_whose_content_or_owner_has_changed() -> None:
    there = shard_of(0, [])
    write = patch_of(there)
    assert documents.rebase(write, None) is None, "it is gone"
    assert documents.rebase(write, replace(there, is_ours=False)) is None
    assert documents.rebase(write, replace(there, data={**there.data, "x.json": "1"})) is None
    unlabelled = {key: there.labels[key] for key in there.labels if key != names.SHARD_LABEL}
    assert documents.rebase(write, replace(there, labels=unlabelled)) is None


def test_neither_a_creation_nor_a_deletion_is_rebased() -> None:
    there = shard_of(0, [])
    (made,) = plan(Gathered(KEY, models=desired(document("iris"))), NOW).shard_writes
    assert made.kind is WriteKind.CREATE
    assert documents.rebase(made, there) is None
    (gone,) = plan(Gathered(KEY, shards=(there,)), NOW).shard_writes
    assert gone.kind is WriteKind.DELETE
    assert documents.rebase(gone, there) is None


def test_what_does_not_belong_into_a_shard_is_taken_out() -> None:
    wanted = documents.render_shard(0, {})
    patch = documents.diff_shard(KEY, view(0, {**wanted, "README": "hello"}), wanted)
    assert patch is not None
    assert patch["data"]["README"] is None


def test_a_lost_label_is_put_back() -> None:
    wanted = documents.render_shard(0, {})
    there = view(0, wanted)
    labels = {key: there.labels[key] for key in there.labels if key != names.SHARD_LABEL}
    patch = documents.diff_shard(KEY, replace(there, labels=labels), wanted)
    assert patch == {
        "metadata": {"resourceVersion": "1", "labels": {names.SHARD_LABEL: "0"}},
    }


def test_the_seen_digest_is_over_the_manifests_that_can_be_read() -> None:
    data = documents.render_shard(1, {"a": "1"})
    digest = parse_manifest(data["_shard-1"]).digest
    seen = documents.seen_digest([(1, data), (0, {}), (2, {"_shard-2": "{"})])
    assert seen == config_digest({1: digest})


def test_o8_a_shard_without_models_becomes_empty_while_its_parent_has_pods() -> None:
    start = Gathered(KEY, (), (shard_of(0, [one()]),), pods=(pod(terminating=True),))
    decided = plan(start, NOW)
    assert [write.kind for write in decided.shard_writes] == [WriteKind.PATCH]
    assert decided.shard_writes[0].reason == "+0 ~0 -1 entries"
    after = carried_out(start, decided)
    assert parse_manifest(after.shards[0].data["_shard-0"]).entries == 0
    assert plan(after, NOW).is_empty


def test_o8_a_shard_is_deleted_when_its_parent_has_neither_models_nor_pods() -> None:
    decided = plan(Gathered(KEY, (), (shard_of(0, [one()]),)), NOW)
    assert [write.kind for write in decided.shard_writes] == [WriteKind.DELETE]
    assert decided.shard_writes[0].body == {"preconditions": {"resourceVersion": "1"}}


def test_o5_a_foreign_config_map_is_not_deleted_with_the_last_model() -> None:
    assert plan(Gathered(KEY, (), (view(0, {}, ours=False),)), NOW).is_empty


def test_o7_a_missing_parent_gets_its_shards_all_the_same() -> None:
    decided = plan(Gathered(KEY, desired(document("iris"))), NOW)
    assert decided.shard_writes[0].kind is WriteKind.CREATE
    body = decided.shard_writes[0].body
    assert body["metadata"]["labels"] == {
        "app.kubernetes.io/managed-by": "trainedmodel-operator",
        "trainedmodel.dev/inference-service": "tabular",
        "trainedmodel.dev/shard": "0",
    }
    assert decided.statuses[0].status["state"] == "Pending"
    assert decided.statuses[0].status["reason"] == "NoPods"


def test_only_a_config_map_with_a_shards_name_and_our_labels_is_ours() -> None:
    metadata = {
        "name": "tabular-models-1",
        "resourceVersion": "7",
        "labels": documents.shard_labels(KEY, 1),
    }
    ours = read_shard(KEY, {"metadata": metadata})
    assert ours is not None
    assert ours.is_ours
    assert (ours.index, ours.data, ours.resource_version) == (1, {}, "7")
    stranger = read_shard(KEY, {"metadata": {"name": "tabular-models-1"}, "data": {"a": "b"}})
    assert stranger is not None
    assert not stranger.is_ours
    assert read_shard(KEY, {"metadata": {"name": "tabular-models-4"}}) is None
