"""The limit of a volume: what fits below it, and when its use is measured."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from trainedmodel_puller.core.room import (
    available_bytes,
    bytes_beside,
    free_within,
    is_measurement_due,
    reserve_within,
    shortage,
)
from trainedmodel_puller.core.state import Limits, ObservedState, ServerView, Transfer


def test_the_smaller_of_disk_and_limit_counts() -> None:
    assert free_within(100, 0, None) == 100
    assert free_within(None, 0, None) is None
    assert free_within(100, 60, 10) == 50
    assert free_within(30, 60, 10) == 30
    assert free_within(None, 60, 10) == 50
    assert free_within(100, 60, 80) == -20


def test_nothing_is_free_while_the_use_of_the_volume_is_unknown() -> None:
    assert free_within(100, 60, None) == 0


def test_of_a_small_limit_a_part_is_left_alone_of_a_large_one_the_reserve() -> None:
    mib = 2**20
    assert reserve_within(16 * mib, 0) == 16 * mib
    assert reserve_within(16 * mib, 32 * mib) == 2 * mib
    assert reserve_within(16 * mib, 2**40) == 16 * mib


def test_a_refusal_names_the_limit_where_there_is_one() -> None:
    limits = Limits(volume_limit=2**30)
    assert shortage(2**20, -5, Limits()) == "needs 1.0 MiB, 0 B free"
    assert shortage(2**20, 512, limits) == (
        "needs 1.0 MiB, 512 B free (the volume is limited to 1.0 GiB)"
    )


def test_a_volume_is_measured_soon_for_who_waits_and_seldom_at_rest() -> None:
    def due(age_s: float, cost_s: float = 0.0, **state: bool) -> bool:
        told = {"is_stale": False, "is_wanted": False, **state}
        return is_measurement_due(age_s, cost_s, **told)

    assert due(0.5, is_wanted=True, is_stale=True)
    assert not due(0.4, is_wanted=True, is_stale=True)
    assert due(5.0, is_wanted=True)
    assert not due(4.9, is_wanted=True), "who waits for long costs little"
    assert due(5.0, is_stale=True)
    assert not due(4.9, is_stale=True)
    assert due(60.0)
    assert not due(59.0)
    assert not due(60.0, cost_s=1.0), "a costly measurement is made seldom"
    assert not due(9.0, cost_s=1.0, is_wanted=True, is_stale=True)


@given(
    limit=st.integers(2**20, 2**36),
    used=st.integers(0, 2**36),
    of_disk=st.none() | st.integers(0, 2**40),
    transfers=st.lists(st.tuples(st.integers(0, 2**34), st.integers(0, 2**34)), max_size=5),
    needed=st.integers(0, 2**36),
)
def test_what_is_let_in_never_passes_the_limit(
    limit: int,
    used: int,
    of_disk: int | None,
    transfers: list[tuple[int, int]],
    needed: int,
) -> None:
    """Counted to the end: what is there, what others will still write, and itself."""
    limits = Limits(volume_limit=limit, reserve_bytes=reserve_within(2**24, limit))
    observed = ObservedState(
        {},
        ServerView(True, {}),
        transfers={
            str(number): Transfer("1", received_bytes=received, total_bytes=total)
            for number, (received, total) in enumerate(transfers)
        },
        free_bytes=free_within(of_disk, limit, used),
    )
    room = available_bytes(observed, limits)
    assert room is not None, "with a limit there is always an answer"
    if needed <= room:
        promised = sum(max(total - received, 0) for received, total in transfers)
        assert used + promised + needed <= limit - limits.reserve_bytes
        assert of_disk is None or promised + needed <= of_disk - limits.reserve_bytes


def test_what_has_no_size_keeps_room_for_what_is_written_before_it_is_counted() -> None:
    limits = Limits(volume_limit=2**30, reserve_bytes=0)
    listing = Transfer("1")
    unsized = Transfer("1", received_bytes=5, total_bytes=0)

    def room(*transfers: Transfer) -> int | None:
        by_name = {str(number): one for number, one in enumerate(transfers)}
        observed = ObservedState({}, ServerView(True, {}), transfers=by_name, free_bytes=2**30)
        return available_bytes(observed, limits)

    assert room() == room(listing) == 2**30
    assert room(unsized, unsized) == 2**30 - 6 * 2**20
    assert (
        available_bytes(
            ObservedState({}, ServerView(True, {}), transfers={"a": unsized}, free_bytes=100),
            Limits(reserve_bytes=10),
        )
        == 90
    ), "without a limit only the disk counts"


def test_where_blocks_count_small_files_are_no_longer_small() -> None:
    limits = Limits(volume_limit=2**30)
    assert bytes_beside([1, 2, 3], Limits()) == 0
    assert bytes_beside([1] * 1000, limits) >= 1000 * 4096
    assert bytes_beside([1, -1], limits) - bytes_beside([1, 1], limits) == 3 * 2**20
