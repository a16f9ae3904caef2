from __future__ import annotations

import pytest
from trainedmodel_contract.reasons import Reason
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.base import Listing, SourceObject
from trainedmodel_puller.storage.paths import make_listing


def _listing(*paths: str) -> Listing:
    found = [SourceObject(path, 1, '"e"') for path in paths]
    return make_listing(found, is_single=False, where="s3://b/m")


@pytest.mark.parametrize(
    "paths",
    [
        ("/etc/passwd",),
        ("../x",),
        ("a/../b",),
        ("a/./b",),
        ("a//b",),
        ("a/",),
        ("",),
        ("a\0b",),
        ("a\nb",),
        ("a\udc80b",),
        ("x" * 256,),
        ("a", "a"),
        ("a", "a/b"),
        ("a/b/c", "a/b"),
    ],
)
def test_a_name_that_cannot_safely_be_a_file_stops_the_model(paths: tuple[str, ...]) -> None:
    with pytest.raises(SourceFault) as caught:
        _listing(*paths)
    assert caught.value.reason is Reason.UNSAFE_PATH
    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()


def test_odd_but_harmless_names_pass_sorted() -> None:
    names = ["ünï", "a b", "-rf", "..a", "a%2Fb", "a\\b", ".hidden", "c/.trainedmodel.json"]
    assert [item.path for item in _listing(*names).objects] == sorted(names)


def test_the_reserved_name_is_left_out_at_the_top_only() -> None:
    assert [i.path for i in _listing(".trainedmodel.json", "x").objects] == ["x"]
    with pytest.raises(SourceFault) as caught:
        _listing(".trainedmodel.json")
    assert caught.value.reason is Reason.OBJECT_NOT_FOUND


def test_a_fingerprint_tells_content_apart_and_ignores_order() -> None:
    a, b = SourceObject("a", 1, '"1"'), SourceObject("b", 2, None, "Monday")
    one = Listing((a, b), is_single=False)
    assert one.fingerprint() == Listing((b, a), is_single=False).fingerprint()
    assert one.total_bytes == 3
    others = [
        Listing((a,), is_single=False),
        Listing((a, SourceObject("b", 2, None, "Tuesday")), is_single=False),
        Listing((a, SourceObject("b", 2, "Monday")), is_single=False),
        Listing((SourceObject("a", 2, '"1"'), b), is_single=False),
        Listing((SourceObject("a", 1, '"2"'), b), is_single=False),
        Listing((a, b), is_single=True),
    ]
    assert len({one.fingerprint(), *(other.fingerprint() for other in others)}) == 7


def test_a_time_beside_an_etag_does_not_count() -> None:
    a = Listing((SourceObject("a", 1, '"1"', "Monday"),), is_single=True)
    b = Listing((SourceObject("a", 1, '"1"', "Tuesday"),), is_single=True)
    assert a.fingerprint() == b.fingerprint()
