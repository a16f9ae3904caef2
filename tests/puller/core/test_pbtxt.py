"""`config.pbtxt` as people write it: the name goes, all else stays, byte for byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainedmodel_puller.core.pbtxt import is_ensemble, without_name

pieces = st.sampled_from(
    [
        'name: "m"',
        "name: 'm'",
        'name : "a" "b"',
        'name: # why\n "m";',
        'backend: "python"',
        'input [ { name: "x" } ]',
        'input < name: "x" >',
        '# name: "c"\n',
        'parameters: { key: "name" value: { string_value: "name: \\"y\\"" } }',
        "max_batch_size: 8",
        "\n",
        " ",
        ",",
        "\udcf6",
        "{",
        "}",
        '"',
    ]
)


@given(st.lists(pieces).map("\n".join))
def test_taking_the_name_out_is_done_after_one_time(text: str) -> None:
    once = without_name(text)
    assert without_name(once) == once


@given(st.text(), st.text(alphabet="abc \n#\udcf6é{}"))
def test_a_text_without_a_name_stays_as_it_is(one: str, other: str) -> None:
    for text in (one, other):
        if "name" not in text:
            assert without_name(text) == text


@given(st.binary())
def test_bytes_of_any_kind_come_through(content: bytes) -> None:
    text = content.decode("utf-8", "surrogateescape")
    if "name" not in text:
        assert without_name(text).encode("utf-8", "surrogateescape") == content


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ('name: "m" name: "n"\nbackend: "x"', ' \nbackend: "x"'),
        ('name: "a" "b"\nbackend: "x"', '\nbackend: "x"'),
        ('name : # why\n  "m";\nbackend: "x"', '\nbackend: "x"'),
        ('input < name: "x" >', 'input < name: "x" >'),
        ('# it\'s\nname: "m"', "# it's\n"),
        ('\ufeffname: "m"\n', "\ufeff\n"),
        ('name: ""\nbackend: "x"', '\nbackend: "x"'),
        ("name: unquoted", "name: unquoted"),
    ],
)
def test_the_forms_of_a_name(text: str, without: str) -> None:
    assert without_name(text) == without


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ('platform: "ensemble"', True),
        ("platform: 'ensemble'\nmax_batch_size: 0", True),
        ("ensemble_scheduling { step [] }", True),
        ('# platform: "ensemble"\nplatform: "onnxruntime_onnx"', False),
        ('parameters { platform: "ensemble" }', False),
        ("", False),
    ],
)
def test_an_ensemble_is_known_by_its_top_level(text: str, is_one: bool) -> None:
    assert is_ensemble(text) is is_one
