"""Queries of addresses are cut from texts that are not ours."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from trainedmodel_puller.core.secrets import without_queries

QUERY = st.text(st.characters(categories=["L", "N"], include_characters="=&%-_.~+/"), min_size=1)


@given(st.text(), QUERY, st.text())
def test_no_query_is_left_whatever_stands_around_it(before: str, query: str, after: str) -> None:
    text = f"{before} https://a.example/m?X-Sig={query}SECRET {after}"
    assert f"X-Sig={query}SECRET" not in without_queries(text)
    assert "https://a.example/m " in without_queries(text)


@given(st.text())
def test_a_text_without_addresses_stays_as_it_is(text: str) -> None:
    plain = text.replace("://", "")
    assert without_queries(plain) == plain
