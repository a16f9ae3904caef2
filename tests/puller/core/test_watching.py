"""How soon the server is looked at again: what a look costs now decides, within a limit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from trainedmodel_puller.core.watching import RECENT, SHARE, longest_pause_s, pause_s

looks = st.lists(st.floats(0.0, 60.0), max_size=10)
some_looks = st.lists(st.floats(0.0, 60.0), min_size=RECENT, max_size=10)
models = st.integers(0, 100_000)


@given(looks, models)
def test_the_pause_is_bounded_whatever_a_look_took(looks_s: list[float], count: int) -> None:
    assert 0.0 <= pause_s(looks_s, count) <= longest_pause_s(count) <= 60.0


@given(looks, st.integers(0, 50))
def test_with_few_models_the_pause_is_a_matter_of_seconds(looks_s: list[float], count: int) -> None:
    assert pause_s(looks_s, count) <= 6.0


@given(st.floats(0.0, 0.05), st.floats(0.0, 60.0), st.integers(0, RECENT - 1), models)
def test_one_slow_look_does_not_change_the_pause(
    usual_s: float, slow_s: float, at: int, count: int
) -> None:
    looks_s = [usual_s] * RECENT
    looks_s[at] = max(slow_s, usual_s)
    assert pause_s(looks_s, count) == pause_s([usual_s] * RECENT, count)


@given(some_looks, st.floats(0.0, 60.0), models)
def test_a_look_that_has_become_cheap_counts_at_once(
    looks_s: list[float], now_s: float, count: int
) -> None:
    assert pause_s([*looks_s, now_s], count) <= now_s / SHARE


@given(st.lists(st.floats(0.0, 60.0), min_size=RECENT), models)
def test_what_was_long_ago_does_not_count(looks_s: list[float], count: int) -> None:
    assert pause_s(looks_s, count) == pause_s(looks_s[-RECENT:], count)


@given(st.integers(0, 900), st.floats(1.0, 1.2))
def test_looks_of_a_server_that_reads_a_file_a_model_cost_two_percent(
    count: int, ms_a_model: float
) -> None:
    """MLServer with up to 900 models: the limit never makes it pay more than its share."""
    look_s = count * ms_a_model / 1000
    assert pause_s([look_s] * RECENT, count) >= look_s / SHARE - 1e-9


@given(models, models)
def test_more_models_never_shorten_the_longest_pause(one: int, other: int) -> None:
    fewer, more = sorted((one, other))
    assert longest_pause_s(fewer) <= longest_pause_s(more)


@given(looks, models)
def test_while_we_load_looks_are_never_more_frequent(looks_s: list[float], count: int) -> None:
    acting = pause_s(looks_s, count, is_acting=True)
    assert pause_s(looks_s, count) <= acting <= min(5 * longest_pause_s(count), 60.0)
