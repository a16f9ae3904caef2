"""What an `hf://` URI names, and what a hub's answers may be: anything."""

from __future__ import annotations

import contextlib
import json
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import StorageUri, parse_uri
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.backends.hub_errors import hub_fault
from trainedmodel_puller.storage.backends.hub_names import HubPlace, hub_place
from trainedmodel_puller.storage.backends.hub_pages import (
    NotHubsAnswerError,
    file_object,
    next_query,
    read_commit,
    read_page,
)
from trainedmodel_puller.storage.base import SourceObject

SHA = "a" * 40


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("hf://o/m", HubPlace("o/m", "main", "", is_folder=False)),
        ("hf://o/m/", HubPlace("o/m", "main", "", is_folder=True)),
        ("hf://o/m@v1/a/b", HubPlace("o/m", "v1", "a/b", is_folder=False)),
        ("hf://o/m:v1/a/", HubPlace("o/m", "v1", "a", is_folder=True)),
        ("hf://o/m/a@b:c", HubPlace("o/m", "main", "a@b:c", is_folder=False)),
        ("hf://o/m@refs/pr/1", HubPlace("o/m", "refs/pr/1", "", is_folder=False)),
        ("hf://o/m@refs/pr/1/x", HubPlace("o/m", "refs/pr/1", "x", is_folder=False)),
        ("hf://o/m@refs/x/1", HubPlace("o/m", "refs", "x/1", is_folder=False)),
        ("hf://o/m@a%2Fb/c%2Fd", HubPlace("o/m", "a/b", "c%2Fd", is_folder=False)),
    ],
)
def test_a_uri_names_a_repository_a_revision_and_a_path(text: str, place: HubPlace) -> None:
    assert hub_place(parse_uri(text)) == place


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hf://gpt2", "must be hf://organisation/model"),
        ("hf://o/", "must be hf://organisation/model"),
        ("hf://o//m", "must be hf://organisation/model"),
        ("hf://o:80/m", "must be hf://organisation/model"),
        ("hf:///m", "must be hf://organisation/model"),
        ("hf://datasets/o/m", "'datasets' is no organisation"),
        ("hf://models/o/m", "'models' is no organisation"),
        ("hf://o/m@", "no revision"),
        ("hf://o/m@v1:v2", "no revision"),
        ("hf://o/m@-x", "no revision"),
        ("hf://o/m@a%2F..%2Fb", "no revision"),
        ("hf://o/m@a%00", "no revision"),
        ("hf://o/m//a", "empty path segment"),
        ("hf://o/m/a//", "empty path segment"),
    ],
)
def test_what_cannot_be_named_is_refused_by_its_part(text: str, words: str) -> None:
    with pytest.raises(SourceFault) as caught:
        hub_place(parse_uri(text))
    assert caught.value.reason is Reason.INVALID_URI
    assert words in caught.value.message


@given(st.text(max_size=40))
@example("m@refs/pr/1/x")
@example("m:refs/convert/parquet")
@example("m/a%2Fb")
def test_every_part_of_a_uri_is_used_or_it_is_refused(text: str) -> None:
    try:
        place = hub_place(parse_uri(f"hf://o/{text}"))
    except (ValueError, SourceFault):
        return
    name = place.repository.removeprefix("o/")
    slash = "/" if place.is_folder else ""
    path = f"/{place.path}" if place.path else ""
    spellings = {
        f"{name}{mark}{revision}{path}{slash}"
        for mark in "@:"
        for revision in (place.revision, quote(place.revision, safe=""))
    }
    if place.revision == "main":
        spellings.add(f"{name}{path}{slash}")
    is_escaped = "%" in text.partition("/")[0]  # a revision may be escaped in more ways than one
    assert text in spellings or is_escaped


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
ENTRIES = st.fixed_dictionaries(
    {"path": st.text(max_size=9), "type": st.sampled_from(["file", "directory"]) | JSON},
    optional={"size": JSON | st.integers(), "oid": JSON | st.just(SHA), "lfs": JSON},
)


@given(
    st.binary(max_size=60) | st.lists(ENTRIES | JSON, max_size=4).map(json.dumps).map(str.encode)
)
@example(b'[{"path": "\\ud800", "type": "file", "size": 1}]')
@example(b'[{"path": "x", "type": "file", "size": true, "lfs": {"oid": []}}]')
@example(b'[{"path": "x", "type": "file", "size": 1e400}]')
@example(b"[" * 100_000)
@example(b'{"sha": "' + SHA.encode() + b'"}')
@example(b"1" * 5000)
def test_any_answer_is_files_and_folders_or_is_refused(body: bytes) -> None:
    try:
        for entry in read_page(body):
            if entry["type"] == "file":
                item = file_object(entry, SHA, "")
                assert isinstance(item, SourceObject)
                assert item.size >= 0
                item.path.encode()  # half of a surrogate pair would raise
    except NotHubsAnswerError:
        pass
    with contextlib.suppress(NotHubsAnswerError):
        assert len(read_commit(body)) in {40, 64}


@given(st.text(max_size=60))
@example("http://h/tree?cursor=a%3D&x=1")
@example("http://[::1/?cursor=1")
@example("?cursor=1\r\nX: y")
def test_a_link_gives_a_query_and_nothing_else(link: str) -> None:
    try:
        query = next_query(link, "")
    except NotHubsAnswerError:
        return
    if query is not None:
        assert query.startswith("?")
        assert query.isascii()
        assert query.isprintable()
        assert "#" not in query


def test_a_page_that_follows_itself_is_no_endless_list() -> None:
    with pytest.raises(NotHubsAnswerError):
        next_query("http://h/x?cursor=1", "?cursor=1")


@given(st.integers(400, 599), st.text(max_size=20), st.text(max_size=300), st.booleans())
@example(403, "", "see https://h/x?sig=SECRET", True)
def test_any_refusal_is_one_short_printable_sentence_that_is_the_same_each_time(
    status: int, code: str, said: str, has_token: bool
) -> None:
    headers = {"X-Error-Code": code, "X-Error-Message": said}
    fault = hub_fault("hf://o/m", status, headers, has_token=has_token)
    again = hub_fault("hf://o/m", status, headers, has_token=has_token)
    assert fault.message == again.message
    assert len(fault.message) < 400
    assert fault.message.isprintable()
    assert "SECRET" not in fault.message


def test_a_uri_of_another_scheme_never_gets_here_but_is_shown_without_its_query() -> None:
    uri = StorageUri("hf", "o", "", "?token=SECRET")
    with pytest.raises(SourceFault) as caught:
        hub_place(uri)
    assert "SECRET" not in caught.value.message
