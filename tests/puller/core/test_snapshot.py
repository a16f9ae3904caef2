"""P1: unreadable, half-written or missing is not empty."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainedmodel_contract.entry import Entry
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.shard import config_digest, make_manifest, parse_manifest
from trainedmodel_puller.core.snapshot import LastGoodConfig, parse_held, resolve_snapshot
from trainedmodel_puller.core.state import DesiredState


def text(name: str, generation: int = 1, shard: int | None = 0, revision: str = "r1") -> str:
    return Entry(
        name=name,
        storage_uri=f"s3://b/{name}",
        revision=revision,
        generation=generation,
        shard=shard,
    ).to_json()


def shard(index: int, *names: str, generation: int = 1) -> dict[str, bytes]:
    entries = {f"{name}.json": text(name, generation, index).encode() for name in names}
    manifest = make_manifest(index, entries)
    return {**entries, f"_shard-{index}": manifest.to_json().encode()}


def resolve(
    files: dict[str, bytes] | None, held: LastGoodConfig | None = None, **owners: str
) -> tuple[DesiredState, LastGoodConfig]:
    return resolve_snapshot(files, held or LastGoodConfig(), owners)


def names_of(desired: DesiredState) -> list[str]:
    return sorted(desired.models)


class TestShards:
    def test_a_whole_shard_is_taken(self) -> None:
        desired, _ = resolve(shard(0, "a", "b"))
        assert names_of(desired) == ["a", "b"]
        assert desired.is_known
        assert desired.problem is None
        assert desired.config_digest is not None

    def test_what_a_whole_shard_no_longer_has_is_dropped(self) -> None:
        _, held = resolve(shard(0, "a", "b"))
        desired, _ = resolve(shard(0, "a"), held)
        assert names_of(desired) == ["a"]

    def test_a_whole_empty_shard_drops_everything(self) -> None:
        _, held = resolve(shard(0, "a", "b"))
        desired, _ = resolve(shard(0), held)
        assert names_of(desired) == []
        assert desired.is_known

    def test_p1_a_truncated_folder_drops_nothing_and_says_so(self) -> None:
        _, held = resolve(shard(0, "a", "b", "c"))
        files = shard(0, "a", "b", "c")
        del files["b.json"], files["c.json"]
        desired, _ = resolve(files, held)
        assert names_of(desired) == ["a", "b", "c"]
        assert "shard 0" in str(desired.problem)

    def test_p1_a_missing_manifest_unloads_nothing(self) -> None:
        _, held = resolve(shard(0, "a", "b"))
        desired, _ = resolve({}, held)
        assert names_of(desired) == ["a", "b"]
        assert desired.problem is not None

    def test_p1_a_folder_that_cannot_be_read_unloads_nothing(self) -> None:
        _, held = resolve(shard(0, "a"))
        desired, again = resolve(None, held)
        assert names_of(desired) == ["a"]
        assert again == held

    def test_p1_a_garbled_manifest_unloads_nothing(self) -> None:
        _, held = resolve(shard(0, "a"))
        desired, _ = resolve({"_shard-0": b"{"}, held)
        assert names_of(desired) == ["a"]

    def test_an_unreadable_shard_does_not_hold_up_another(self) -> None:
        _, held = resolve({**shard(0, "a"), **shard(1, "x")})
        desired, _ = resolve({**shard(0, "a", "b"), "_shard-1": b"half"}, held)
        assert names_of(desired) == ["a", "b", "x"]

    def test_new_entries_of_a_half_written_shard_are_already_served(self) -> None:
        _, held = resolve(shard(0, "a"))
        files = shard(0, "a", "b", "c")
        del files["c.json"]
        desired, _ = resolve(files, held)
        assert names_of(desired) == ["a", "b"]

    def test_a_half_written_shard_never_takes_an_entry_back_to_an_older_generation(self) -> None:
        _, held = resolve(shard(0, "a", generation=5))
        files = {"a.json": text("a", 4).encode(), "_shard-0": b"half"}
        desired, _ = resolve(files, held)
        assert desired.models["a"].entry.generation == 5

    def test_a_model_between_two_shards_is_taken_once_in_its_newer_form(self) -> None:
        files = {**shard(0, "a"), **shard(1, "a", generation=2)}
        desired, _ = resolve(files)
        assert desired.models["a"].entry.generation == 2

    def test_a_model_that_moves_leaves_both_shards_whole(self) -> None:
        _, held = resolve(shard(0, "a", "b"))
        before, after = shard(0, "a", "b"), shard(1, "a", generation=2)
        desired, held = resolve({**before, **after}, held)
        assert desired.problem is None
        assert desired.config_digest == config_digest(
            {
                index: parse_manifest(files[f"_shard-{index}"]).digest
                for index, files in ((0, before), (1, after))
            }
        )
        assert desired.models["a"].entry.generation == 2
        desired, _ = resolve({**shard(0, "b"), **after}, held)
        assert names_of(desired) == ["a", "b"]
        assert desired.problem is None

    def test_the_digest_of_an_incomplete_folder_is_not_that_of_the_whole(self) -> None:
        whole, held = resolve(shard(0, "a", "b"))
        files = shard(0, "a", "b")
        del files["b.json"]
        half, _ = resolve(files, held)
        assert half.config_digest != whole.config_digest


class TestEntries:
    def test_an_entry_that_is_no_json_keeps_its_last_good_form_and_says_so(self) -> None:
        _, held = resolve(shard(0, "a", "b"))
        desired, _ = resolve({**shard(0, "a", "b"), "b.json": b'{"name": "b'}, held)
        assert names_of(desired) == ["a", "b"]
        assert desired.faults["b"].reason is Reason.INVALID_ENTRY

    @pytest.mark.parametrize("name", ["../x", "a/b", "..", ".hidden", "a b", "", "-x", "a..b"])
    def test_p9_a_name_that_could_leave_the_folder_is_refused(self, name: str) -> None:
        document = {"name": name, "storageUri": "s3://b/x", "revision": "r"}
        desired, _ = resolve({"evil.json": json.dumps(document).encode()})
        assert not desired.models
        assert desired.faults["evil"].reason is Reason.INVALID_NAME

    def test_fields_of_a_newer_operator_are_no_error(self) -> None:
        document = {"name": "a", "storageUri": "s3://b/x", "revision": "r", "future": 1}
        desired, _ = resolve({"a.json": json.dumps(document).encode()})
        assert names_of(desired) == ["a"]

    def test_two_entries_of_one_served_name_never_share_it(self) -> None:
        files = {"x.json": text("same", shard=None).encode()}
        files["y.json"] = files["x.json"]
        desired, _ = resolve(files, same="y")
        assert desired.models["same"].id == "y"
        assert desired.faults["x"].reason is Reason.NAME_CONFLICT

    def test_loose_entries_come_and_go_with_their_files(self) -> None:
        _, held = resolve({"a.json": text("a", shard=None).encode()})
        desired, _ = resolve({}, held)
        assert names_of(desired) == []
        assert desired.is_known


class TestKServeList:
    LIST = (
        b'[{"modelName":"a","modelSpec":{"storageUri":"s3://b/a","framework":"sklearn",'
        b'"memory":"1Gi"}}]'
    )

    def test_a_list_is_read(self) -> None:
        desired, _ = resolve({"models.json": self.LIST})
        assert desired.models["a"].entry.memory == 2**30

    def test_an_empty_list_is_an_answer(self) -> None:
        _, held = resolve({"models.json": self.LIST})
        desired, _ = resolve({"models.json": b"[]"}, held)
        assert names_of(desired) == []

    @pytest.mark.parametrize("content", [b"", b"[{", b"null", b'"x"', None])
    def test_p1_a_list_that_is_missing_or_no_json_unloads_nothing(
        self, content: bytes | None
    ) -> None:
        _, held = resolve({"models.json": self.LIST})
        desired, _ = resolve({} if content is None else {"models.json": content}, held)
        assert names_of(desired) == ["a"]
        assert desired.problem is not None

    def test_one_bad_item_does_not_hurt_the_others(self) -> None:
        bad: list[object] = [
            1,
            {"modelName": "b"},
            {"modelName": "c/d", "modelSpec": {"storageUri": "s3://b/c"}},
            {"modelName": "e", "modelSpec": {"storageUri": 3}},
            {"modelName": "f", "modelSpec": {"storageUri": "s3://b/f", "memory": "lots"}},
        ]
        items = [*json.loads(self.LIST), *bad]
        desired, _ = resolve({"models.json": json.dumps(items).encode()})
        assert names_of(desired) == ["a"]
        assert len(desired.faults) == len(bad)

    def test_a_trained_model_called_models_is_an_entry_like_any_other(self) -> None:
        desired, _ = resolve({"models.json": text("models", shard=None).encode()})
        assert desired.models["models"].id == "models"


class TestHeld:
    def test_it_survives_a_restart(self) -> None:
        _, held = resolve({**shard(0, "a"), "loose.json": text("l", shard=None).encode()})
        assert parse_held(held.to_json()) == held

    @pytest.mark.parametrize("garbage", [None, "", "{", "[]", '{"groups": 3}', "null"])
    def test_garbage_is_an_empty_memory(self, garbage: str | None) -> None:
        assert parse_held(garbage) == LastGoodConfig()


FILES = st.dictionaries(
    st.sampled_from(["a.json", "b.json", "_shard-0", "_shard-1", "models.json", "..data", "x"]),
    st.binary(max_size=40)
    | st.sampled_from([text("a").encode(), text("b", shard=1).encode(), b"[]", b"{}"]),
)


@given(FILES)
def test_p1_no_garbage_in_the_folder_ever_drops_a_model_of_a_shard(
    files: dict[str, bytes],
) -> None:
    _, held = resolve(shard(0, "keep"))
    files.pop("keep.json", None)
    desired, _ = resolve(files, held)
    assert "keep" in desired.models
