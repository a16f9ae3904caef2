"""Configuration folders that nobody writes on purpose: one bad file hurts no other."""

from __future__ import annotations

import json

from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.examples import examples
from trainedmodel_contract.entry import Entry
from trainedmodel_contract.shard import make_manifest
from trainedmodel_puller.core.plan import plan
from trainedmodel_puller.core.report import report_models
from trainedmodel_puller.core.snapshot import (
    LastGoodConfig,
    Unreadable,
    parse_held,
    resolve_snapshot,
)
from trainedmodel_puller.core.state import Limits, ObservedState, ServerView
from trainedmodel_puller.core.status import status_document

GOOD = Entry(name="good", storage_uri="s3://b/good", revision="r1")
BAD = Entry(name="bad", storage_uri="s3://b/bad", revision="r1", shard=0, memory=5)
LISTED = {"modelName": "listed", "modelSpec": {"storageUri": "s3://b/l", "framework": "x"}}
MANIFEST = make_manifest(0, {"bad.json": BAD.to_json()}).to_json()
DEEP = b"[" * 1000 + b"]" * 1000
ENTRY = BAD.to_json().encode()

#: What was found once, or is known from elsewhere; each is tried at every run.
CORPUS: tuple[bytes, ...] = (
    b"",
    b"\x00",
    b"null",
    b"{}",
    b"[[]]",
    b"\xff\xfe[\x00]\x00",
    b"\xef\xbb\xbf" + ENTRY,
    DEEP,
    b'{"a":' * 100_000,
    b'[{"modelName": ' + DEEP + b', "modelSpec": {"storageUri": "s3://b/x"}}]',
    b'[{"modelName": "\\ud800", "modelSpec": {"storageUri": "s3://b/x"}}]',
    b'[{"modelName": "x\\u0000\\n", "modelSpec": {"storageUri": "s3://b/x"}}]',
    b'[{"modelName": "x", "modelSpec": {"storageUri": "s3://b/\\udfff"}}]',
    b'[{"modelName": "x", "modelSpec": {"storageUri": "s3://b/x", "memory": NaN}}]',
    b'[{"modelName": "x", "modelSpec": {"storageUri": "s3://b/x", "memory": 1e999}}]',
    b'[{"modelName": "x", "modelSpec": {"storageUri": "s3://b/x", "memory": "1e99999999999"}}]',
    b'[{"modelName": "x", "modelSpec": {"storageUri": "s3://b/x", "memory": [1]}}]',
    b'[{"modelName": "x", "modelSpec": {"storageUri": "s3://b/x", "framework": {}}}]',
    b'[{"modelName": "' + b"x" * 100_000 + b'", "modelSpec": 1}]',
    b'{"name": "x", "storageUri": "s3://b/x", "revision": "1", "memory": ' + b"9" * 400 + b"}",
    b'{"name": "x", "storageUri": "s3://b/x", "revision": "1", "memory": ' + b"9" * 5000 + b"}",
    b'{"name": "x", "name": "y", "storageUri": "s3://b/x", "revision": "1"}',
    b'{"name": "x", "storageUri": "s3://b/x", "revision": "1", "parameters": {"a": "\\ud800"}}',
    b'{"name": "x", "storageUri": "s3://b/\xff", "revision": "1"}',
    b'{"shard": 0, "entries": 1e999, "digest": ""}',
)
KEYS = ("models.json", "bad.json", "_shard-0", "_shard-9", ".json", "a/b.json", "\udcff.json")


def mutated(base: bytes) -> st.SearchStrategy[bytes]:
    """Return a strategy for a document with a few bytes cut out and put in."""

    def cut(where: tuple[int, int, bytes]) -> bytes:
        start, length, new = where
        start %= len(base) + 1
        return base[:start] + new + base[start + length :]

    return st.tuples(st.integers(0, len(base)), st.integers(0, 20), st.binary(max_size=20)).map(cut)


LIST = json.dumps([LISTED, LISTED]).encode()
CONTENT = (
    st.binary(max_size=60)
    | st.sampled_from(CORPUS)
    | mutated(ENTRY)
    | mutated(LIST)
    | mutated(MANIFEST.encode())
)
NAME = st.sampled_from(KEYS) | st.text(st.characters(), max_size=8).map(lambda text: f"{text}.json")
FOLDER = st.dictionaries(
    NAME.filter(lambda name: name != "good.json"), CONTENT | st.builds(Unreadable, st.just("no"))
)


def check(folder: dict[str, bytes | Unreadable], held: LastGoodConfig) -> LastGoodConfig:
    """Resolve a folder; what follows from it must be writable, whatever it holds."""
    files = {**folder, "good.json": GOOD.to_json().encode()}
    desired, kept = resolve_snapshot(files, held, {})
    assert desired.models["good"].entry.storage_uri == "s3://b/good"
    assert parse_held(kept.to_json().encode()) == kept
    observed = ObservedState(disk={}, server=ServerView(is_known=True), free_bytes=10**9)
    made = plan(desired, observed, Limits(), 0.0)
    models = report_models(desired, observed, made.deferred)
    document = status_document(desired, observed, made, models, 0.0)
    json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    for model_id, model in models.items():
        json.dumps({model_id: model.to_dict()}, ensure_ascii=False, default=str).encode()
    return kept


@settings(max_examples=examples(150))
@given(FOLDER, FOLDER)
def test_no_folder_keeps_a_good_entry_from_being_served(
    before: dict[str, bytes | Unreadable], after: dict[str, bytes | Unreadable]
) -> None:
    check(after, check(before, LastGoodConfig()))


def test_each_of_the_corpus_under_each_name() -> None:
    for content in CORPUS:
        for key in KEYS:
            kept = check({key: content}, LastGoodConfig())
            check({}, kept)


def test_a_list_that_is_nested_too_deep_is_told_and_drops_nothing() -> None:
    _, held = resolve_snapshot({"models.json": LIST}, LastGoodConfig(), {})
    desired, _ = resolve_snapshot({"models.json": DEEP}, held, {})
    assert "listed" in desired.models
    assert "recursion" in str(desired.problem)


def test_one_bad_name_in_a_list_hurts_no_other() -> None:
    bad = {"modelName": "x\u0000y", "modelSpec": {"storageUri": "s3://b/x"}}
    desired, _ = resolve_snapshot(
        {"models.json": json.dumps([bad, LISTED]).encode()}, LastGoodConfig(), {}
    )
    assert list(desired.models) == ["listed"]
    assert list(desired.faults) == ["x\\x00y"]


def test_a_file_that_cannot_be_read_keeps_its_last_good_form_and_says_so() -> None:
    _, held = resolve_snapshot({"good.json": GOOD.to_json().encode()}, LastGoodConfig(), {})
    desired, _ = resolve_snapshot({"good.json": Unreadable("Permission denied")}, held, {})
    assert list(desired.models) == ["good"]
    assert desired.faults["good"].message == "good.json cannot be read: Permission denied"


@given(CONTENT | mutated(LastGoodConfig({"loose": {"good": GOOD.to_json()}}).to_json().encode()))
@example(b'{"groups": {"loose": {"a": "{}"}}}')
@example(b'{"groups": ' + DEEP + b"}")
@example(b'{"groups": {"loose": {"a": 1}}}')
@example(b'{"groups": {"loose": []}}')
def test_a_memory_that_is_garbled_is_empty_or_can_be_used(text: bytes) -> None:
    check({}, parse_held(text))
