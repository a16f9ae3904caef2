"""How long a failed write is put off, when it is told, and in which words."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.operator.builders import NOW
from trainedmodel_operator.core.pacing.put_off import TELL_AFTER, Failure, Kind, PutOff, put_off
from trainedmodel_operator.core.words import MOST_WORDS, api_words, shape

QUOTA = "exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=3"


def failed_often(kind: Kind, times: int, words: str = QUOTA) -> list[float]:
    """Return the pauses of a write that fails each time it is due."""
    before: PutOff | None = None
    now, pauses = NOW, []
    for _ in range(times):
        before = put_off(before, Failure(kind, words, "one"), now, jitter=1.0)
        pauses.append((before.until - now).total_seconds())
        now = before.until
    return pauses


def test_pauses_double_and_have_a_bound() -> None:
    assert failed_often(Kind.REFUSED, 8) == [1, 2, 4, 8, 16, 32, 60, 60]
    assert failed_often(Kind.TROUBLE, 6) == [1, 2, 4, 8, 15, 15]
    assert failed_often(Kind.RACE, 4) == [0.05, 0.1, 0.2, 0.4]


def test_a_namespace_that_is_being_deleted_is_left_in_peace_and_its_models_are_told_nothing() -> (
    None
):
    assert failed_often(Kind.ENDING, 3) == [60, 60, 60]
    first = put_off(None, Failure(Kind.ENDING, QUOTA, "one"), NOW, 1.0)
    assert not first.is_told(NOW + 2 * TELL_AFTER)


def test_another_write_is_tried_at_once_and_begins_anew() -> None:
    first = put_off(None, Failure(Kind.REFUSED, QUOTA, "one"), NOW, 1.0)
    assert first.holds("one", NOW)
    assert not first.holds("another", NOW)
    assert not first.holds("one", first.until)
    later = put_off(first, Failure(Kind.REFUSED, QUOTA, "another"), NOW, 1.0)
    assert (later.failures, later.since) == (1, first.since)


def test_a_refusal_is_told_at_once_and_trouble_when_it_lasts() -> None:
    refused = put_off(None, Failure(Kind.REFUSED, QUOTA, "one"), NOW, 1.0)
    trouble = put_off(None, Failure(Kind.TROUBLE, "no answer", "one"), NOW, 1.0)
    assert refused.is_told(NOW)
    assert not trouble.is_told(NOW)
    again = put_off(trouble, Failure(Kind.TROUBLE, "no answer", "two"), NOW + TELL_AFTER, 1.0)
    assert again.is_told(NOW + TELL_AFTER)


def test_a_server_that_asks_for_time_is_given_it() -> None:
    asked = put_off(None, Failure(Kind.TROUBLE, "busy", "one", pause_s=40), NOW, 1.0)
    assert asked.until == NOW + timedelta(seconds=40)


def test_words_that_differ_in_numbers_only_stay_the_first_ones() -> None:
    first = put_off(None, Failure(Kind.REFUSED, QUOTA, "one"), NOW, 1.0)
    same = put_off(first, Failure(Kind.REFUSED, QUOTA.replace("=3", "=4"), "one"), NOW, 1.0)
    assert same.words == QUOTA
    other = put_off(first, Failure(Kind.REFUSED, "it is immutable", "one"), NOW, 1.0)
    assert other.words == "it is immutable"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("s3://user:pw@b/m is denied", "s3://[hidden]@b/m is denied"),
        ("https://h/m?X-Amz-Signature=abc is denied", "https://h/m?[hidden] is denied"),
        ("header Bearer abc.def is wrong", "header Bearer [hidden] is wrong"),
        ("key wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY1234", "key [hidden]"),
        ("two\nlines\tand\x1b[31m red", "two lines and[31m red"),
        ("why?", "why?"),
        ("configmaps is forbidden: exceeded quota", "configmaps is forbidden: exceeded quota"),
    ],
)
def test_words_of_the_api_server_have_no_secrets_and_one_line(said: str, told: str) -> None:
    assert api_words(said) == told


@given(st.text(max_size=2000))
def test_words_are_bounded_printable_and_stay_as_they_are_when_read_again(said: str) -> None:
    words = api_words(said)
    assert len(words) <= MOST_WORDS
    assert words.isprintable()
    assert shape(words) == shape(shape(words))
