"""The words: names, quantities, URIs, revisions, entries, shards. Their bytes are the contract."""

from __future__ import annotations

import re
import sys
import unicodedata
from random import Random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from trainedmodel_contract import names
from trainedmodel_contract.canonical import canonical_json
from trainedmodel_contract.entry import Entry, EntryError, parse_entry
from trainedmodel_contract.quantity import format_bytes, format_part, parse_bytes
from trainedmodel_contract.reasons import SENTENCES, STATE_ORDER, Reason, State
from trainedmodel_contract.revision import compute_revision
from trainedmodel_contract.shard import (
    config_digest,
    entries_digest,
    make_manifest,
    parse_manifest,
)
from trainedmodel_contract.uri import BLANK, parse_uri


class TestNames:
    def test_the_names_of_a_service_s_config_maps(self) -> None:
        assert names.shard_names("tabular") == tuple(f"tabular-models-{k}" for k in range(4))

    @given(st.integers(0, 3))
    def test_manifest_keys_are_read_back(self, index: int) -> None:
        assert names.manifest_index(names.manifest_key(index)) == index

    @pytest.mark.parametrize("key", ["_shard-4", "_shard-x", "_shard-01", "_shard-", "iris.json"])
    def test_other_keys_are_no_manifests(self, key: str) -> None:
        assert names.manifest_index(key) is None

    def test_entry_keys_are_read_back(self) -> None:
        assert names.object_name(names.entry_key("iris.v4")) == "iris.v4"
        assert names.object_name("_shard-0") is None
        assert names.object_name(".json") is None

    @pytest.mark.parametrize("name", ["iris", "a", "A_b-c.d", "_x", "0", "x" * 128])
    def test_usable_served_names(self, name: str) -> None:
        assert names.is_model_name(name)

    @pytest.mark.parametrize(
        "name", ["", ".", "..", "a/b", "a b", ".a", "-a", "a..b", "x" * 129, "é", "a\n", "a%2Fb"]
    )
    def test_p9_names_that_could_leave_a_folder_or_a_url_segment(self, name: str) -> None:
        assert not names.is_model_name(name)


class TestQuantities:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("0", 0),
            ("128974848", 128974848),
            ("129e6", 129_000_000),
            ("129M", 129_000_000),
            ("123Mi", 128974848),
            ("1.5Gi", 1610612736),
            ("500m", 1),
            ("0.1k", 100),
            ("1E", 10**18),
            (7, 7),
        ],
    )
    def test_kubernetes_forms(self, text: str | int, value: int) -> None:
        assert parse_bytes(text) == value

    @pytest.mark.parametrize("text", ["", "Gi", "1 Gi", "-1", "1KB", "abc", "1e", -1])
    def test_others_are_refused_by_name(self, text: str | int) -> None:
        with pytest.raises(ValueError, match="quantity"):
            parse_bytes(text)

    def test_a_size_is_shown_in_its_largest_unit(self) -> None:
        sizes = [0, 1023, 1024, 5 * 2**20, int(1.25 * 2**30), 2**40]
        assert [format_bytes(size) for size in sizes] == [
            "0 B",
            "1023 B",
            "1.0 KiB",
            "5.0 MiB",
            "1.2 GiB",
            "1024.0 GiB",
        ]

    def test_a_part_is_shown_in_the_unit_of_the_whole(self) -> None:
        parts = [(0, 2**30), (2**29, 2**30), (512, 2048), (3, 7)]
        assert [format_part(*part) for part in parts] == [
            "0.0 of 1.0 GiB",
            "0.5 of 1.0 GiB",
            "0.5 of 2.0 KiB",
            "3 of 7 B",
        ]


class TestUris:
    @pytest.mark.parametrize(
        ("text", "scheme", "authority", "key"),
        [
            ("s3://models/iris/v4", "s3", "models", "iris/v4"),
            ("s3://models", "s3", "models", ""),
            ("gs://b/x/", "gs", "b", "x"),
            ("https://host:8443/a.tar.gz", "https", "host:8443", "a.tar.gz"),
            ("file:///srv/m", "file", "", "srv/m"),
            ("pvc://claim/m", "pvc", "claim", "m"),
            ("hf://org/model@rev", "hf", "org", "model@rev"),
            ("s3://models/My Models/iris v1", "s3", "models", "My Models/iris v1"),
            ("s3://models/My%20Models", "s3", "models", "My%20Models"),
            (
                "abfss://box@acc.dfs.core.windows.net/m",
                "abfss",
                "box@acc.dfs.core.windows.net",
                "m",
            ),
        ],
    )
    def test_are_taken_apart(self, text: str, scheme: str, authority: str, key: str) -> None:
        uri = parse_uri(text)
        assert (uri.scheme, uri.authority, uri.key) == (scheme, authority, key)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("https://host/My Models/m.zip", "must have %20 for a space"),
            ("s3://my models/iris", "spaces within its path only"),
            ("s3://models/iris ", "not at its end"),
            ("s3://models/iris\u00a0v1", "white space other than plain spaces"),
            ("s3://models/iris\n", "control characters"),
            ("models/My Models", "must look like"),
        ],
    )
    def test_a_space_in_the_wrong_place_is_told_as_that(self, text: str, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            parse_uri(text)

    def test_blank_characters_are_those_that_unicode_calls_so(self) -> None:
        """The CRD's rule names the categories; both must refuse the same URIs."""
        letters = map(chr, range(sys.maxunicode + 1))
        blank = [x for x in letters if unicodedata.category(x) in {"Zs", "Zl", "Zp", "Cc"}]
        assert set(blank) - {" "} == set(
            re.findall(BLANK, "".join(map(chr, range(sys.maxunicode + 1))))
        )

    @given(st.text(max_size=30))
    @example("s3://b/a b?c d#e")
    @example("pvc://c//x/")
    def test_no_part_of_a_uri_is_lost(self, rest: str) -> None:
        text = f"s3://{rest}"
        try:
            uri = parse_uri(text)
        except ValueError:
            return
        assert f"{uri.scheme}://{uri.authority}{uri.path}{uri.query}" == text

    def test_p9_a_signature_is_never_shown(self) -> None:
        uri = parse_uri("https://host/m.zip?sig=SECRET")
        assert uri.query == "?sig=SECRET"
        assert "SECRET" not in str(uri)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "iris",
            "/srv/m",
            "S3://b/x",
            "s3://",
            "s3:///",
            "s3://b/../x",
            "s3://b/./x",
            "file:///srv/..",
            "s3://a b/x",
            "s3://b/a ",
            "https://h/a b",
            "https://host/x#part",
        ],
    )
    def test_what_is_none_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="storageUri"):
            parse_uri(text)

    @pytest.mark.parametrize(
        "text", ["https://me:pw@host/x", "s3://key:secret@b/x", "abfs://me:pw@acc/x", "s3://k@b/x"]
    )
    def test_p9_user_info_is_refused_without_repeating_it(self, text: str) -> None:
        with pytest.raises(ValueError, match="user info") as caught:
            parse_uri(text)
        assert "pw" not in str(caught.value)
        assert "secret" not in str(caught.value)


BASE = {"storage_uri": "s3://b/x", "name": "x", "framework": "sklearn"}


def revision(**change: Any) -> str:
    arguments: dict[str, Any] = {**BASE, **change}
    return compute_revision(**arguments)


class TestRevisions:
    def test_the_value_is_part_of_the_contract(self) -> None:
        assert revision() == "a941e6dabba6550a"

    def test_absent_and_empty_are_one(self) -> None:
        assert revision(version="", parameters={}) == revision()

    @pytest.mark.parametrize(
        "change",
        [
            {"storage_uri": "s3://b/y"},
            {"name": "y"},
            {"framework": "onnx"},
            {"version": "2"},
            {"digest": "sha256:" + "0" * 64},
            {"parameters": {"a": "b"}},
        ],
    )
    def test_each_of_the_six_changes_it(self, change: dict[str, object]) -> None:
        assert revision(**change) != revision()

    @given(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=5), st.randoms())
    def test_o2_the_order_of_parameters_does_not_matter(
        self, parameters: dict[str, str], chance: Random
    ) -> None:
        turned = list(parameters.items())
        chance.shuffle(turned)
        assert revision(parameters=parameters) == revision(parameters=dict(turned))


class TestEntries:
    ENTRY = Entry(
        name="iris",
        storage_uri="s3://models/iris/v4",
        framework="sklearn",
        revision="9f3ac1d20b7e4455",
        generation=4,
        memory=268435456,
        shard=0,
    )

    def test_the_bytes_are_the_contract(self) -> None:
        assert self.ENTRY.to_json() == (
            '{"framework":"sklearn","generation":4,"memory":268435456,"name":"iris",'
            '"revision":"9f3ac1d20b7e4455","shard":0,"storageUri":"s3://models/iris/v4"}'
        )

    def test_they_are_read_back(self) -> None:
        assert parse_entry(self.ENTRY.to_json()) == self.ENTRY

    @pytest.mark.parametrize(
        ("text", "field"),
        [
            ("{", "JSON"),
            ("[]", "object"),
            ('{"storageUri":"s3://b/x","revision":"r"}', "name"),
            ('{"name":"x","revision":"r"}', "storageUri"),
            ('{"name":"x","storageUri":"s3://b/x"}', "revision"),
            ('{"name":"../x","storageUri":"s3://b/x","revision":"r"}', "name"),
            ('{"name":"x","storageUri":"s3://b/x","revision":"../r"}', "revision"),
            ('{"name":"x","storageUri":"s3://b/x","revision":"r","digest":"md5:1"}', "digest"),
            ('{"name":"x","storageUri":"s3://b/x","revision":"r","credentials":"../x"}', "cred"),
        ],
    )
    def test_the_faulty_field_is_named(self, text: str, field: str) -> None:
        with pytest.raises(EntryError, match=field):
            parse_entry(text)

    def test_p9_a_revision_is_one_path_segment(self) -> None:
        for revision in ("..", "a/b", ""):
            with pytest.raises(EntryError):
                parse_entry(
                    canonical_json({**self.ENTRY.model_dump(by_alias=True), "revision": revision})
                )


class TestShards:
    def test_a_manifest_is_read_back(self) -> None:
        manifest = make_manifest(2, {"a.json": "{}"})
        assert parse_manifest(manifest.to_json()) == manifest
        assert manifest.entries == 1

    def test_garbage_is_no_manifest(self) -> None:
        for text in ("", "{}", "[]", '{"shard":9,"entries":0,"digest":"x"}'):
            with pytest.raises(EntryError):
                parse_manifest(text)

    @given(st.dictionaries(st.text(max_size=5), st.text(max_size=5), min_size=1))
    def test_any_change_changes_the_digest(self, entries: dict[str, str]) -> None:
        key = next(iter(entries))
        assert entries_digest(entries) == entries_digest(dict(reversed(entries.items())))
        assert entries_digest({**entries, key: entries[key] + "x"}) != entries_digest(entries)
        assert entries_digest({k: v for k, v in entries.items() if k != key}) != entries_digest(
            entries
        )

    def test_text_and_bytes_have_one_digest(self) -> None:
        assert entries_digest({"a": "é"}) == entries_digest({"a": "é".encode()})

    def test_the_config_digest_tells_shards_apart(self) -> None:
        assert config_digest({0: "a"}) != config_digest({1: "a"})
        assert config_digest({0: "a", 1: "b"}) == config_digest({1: "b", 0: "a"})


def test_each_reason_has_a_sentence_and_each_state_a_rank() -> None:
    assert SENTENCES.keys() == set(Reason)
    assert set(STATE_ORDER) == set(State)
    assert all(sentence.endswith(".") for sentence in SENTENCES.values())
