"""Which Events are written, when, and what is left out."""

from __future__ import annotations

from math import inf

from trainedmodel_operator.core.pacing.event_correlator import (
    BURST,
    COLLECT_S,
    MOST_WAITING,
    RATE,
    RATE_BURST,
    REFILL_S,
    SERIES_PAUSE_S,
    SERIES_S,
    EventCorrelator,
    EventWrite,
    Subject,
)
from trainedmodel_operator.core.state import ServiceKey
from trainedmodel_operator.core.status.transitions import Action, EventKind, Transition

KEY = ServiceKey("demo", "tabular")
GOOD = Transition(EventKind.NORMAL, "Ready", Action.WATCH_COPIES, "1 pod serves revision aaaa.")
BAD = Transition(EventKind.WARNING, "LoadFailed", Action.WATCH_COPIES, "pod-a: no")


def subject(number: int, key: ServiceKey = KEY) -> Subject:
    return Subject(key, f"m{number}", f"uid-{key.service}-{number}")


def drain(
    book: EventCorrelator, now: float = 0.0, until: float = 1e6
) -> list[tuple[float, EventWrite]]:
    """Take everything as time goes by."""
    taken = []
    while (due := book.due(now)) <= until:
        now = max(now, due)
        write = book.take(now)
        assert write is not None
        taken.append((now, write))
    return taken


def test_one_piece_of_news_is_written_at_once() -> None:
    book = EventCorrelator()
    book.note(subject(1), GOOD, 5.0)
    assert [(at, one.count, one.others) for at, one in drain(book, 5.0)] == [(5.0, 1, 0)]
    assert book.due(5.0) == inf


def test_repeats_are_one_series_and_seldom_written() -> None:
    book = EventCorrelator()
    for second in range(60):
        book.note(subject(1), BAD, float(second))
        if second == 0:
            assert book.take(0.0) is not None
    written = [(at, one.count) for at, one in drain(book, 60.0)]
    assert len(written) == 1
    assert written[0] == (60.0, 60)
    book.note(subject(1), BAD, 61.0)
    assert [(at, one.count) for at, one in drain(book, 61.0)] == [(60.0 + SERIES_PAUSE_S, 61)]


def test_news_after_a_long_quiet_is_a_new_event() -> None:
    book = EventCorrelator()
    book.note(subject(1), BAD, 0.0)
    first = drain(book)[0][1]
    book.note(subject(1), BAD, SERIES_S + 1)
    again = drain(book, SERIES_S + 1)[0][1]
    assert again.count == 1
    assert again.series != first.series


def test_other_words_are_another_event() -> None:
    book = EventCorrelator()
    book.note(subject(1), BAD, 0.0)
    book.note(subject(1), GOOD, 0.0)
    assert [one.news for _, one in drain(book)] == [BAD, GOOD]


def test_many_models_of_one_service_are_told_by_a_few_and_a_summary() -> None:
    book = EventCorrelator()
    for number in range(5_000):
        book.note(subject(number), GOOD, number / 5_000)
    written = [one for _, one in drain(book, 1.0)]
    assert len(written) == BURST + 1
    assert written[-1].subject == subject(4_999)
    assert sum(1 + one.others for one in written) == 5_000
    assert book.dropped == 0


def test_a_summary_waits_to_collect_and_the_next_one_begins_anew() -> None:
    book = EventCorrelator()
    for number in range(12):
        book.note(subject(number), GOOD, 0.0)
    assert drain(book)[-1][0] == COLLECT_S
    for number in range(12, 14):
        book.note(subject(number), GOOD, COLLECT_S + 1)
    assert [(at, one.others) for at, one in drain(book, COLLECT_S + 1)] == [(2 * COLLECT_S + 1, 1)]


def test_good_news_never_takes_the_place_of_bad_news_or_of_another_service() -> None:
    book = EventCorrelator()
    for number in range(100):
        book.note(subject(number), GOOD, 0.0)
    book.note(subject(1), BAD, 0.0)
    book.note(subject(1, ServiceKey("demo", "other")), GOOD, 0.0)
    at_once = [one for at, one in drain(book) if at == 0.0]
    assert {(one.subject.key.service, one.news.reason) for one in at_once} == {
        ("tabular", "Ready"),
        ("tabular", "LoadFailed"),
        ("other", "Ready"),
    }


def test_a_service_may_speak_again_after_a_while() -> None:
    book = EventCorrelator()
    for number in range(20):
        book.note(subject(number), GOOD, 0.0)
    drain(book)
    book.note(subject(50), GOOD, 2 * REFILL_S)
    assert [one.others for _, one in drain(book, 2 * REFILL_S)] == [0]


def test_ten_thousand_models_that_become_ready_are_two_thousand_events_at_a_bounded_rate() -> None:
    book = EventCorrelator()
    keys = [ServiceKey("demo", f"service-{number}") for number in range(200)]
    for number in range(50):
        for key in keys:
            book.note(subject(number, key), GOOD, number / 50)
    written = drain(book, 1.0)
    assert len(written) == 200 * (BURST + 1)
    assert sum(1 + one.others for _, one in written) == 10_000
    took = written[-1][0] - 1.0
    assert took >= (len(written) - RATE_BURST) / RATE - 1
    assert took < 100


def test_a_flood_is_bounded_and_what_is_dropped_is_counted() -> None:
    book = EventCorrelator()
    for number in range(3 * MOST_WAITING):
        book.note(subject(1, ServiceKey("demo", f"service-{number}")), BAD, 0.0)
    assert book.waiting == MOST_WAITING
    assert book.dropped == 2 * MOST_WAITING
    assert len(drain(book)) == MOST_WAITING


def test_what_has_no_bearing_any_more_is_forgotten() -> None:
    book = EventCorrelator()
    for number in range(1_000):
        book.note(subject(1, ServiceKey("demo", f"service-{number}")), BAD, 0.0)
    drain(book)
    book.forget(SERIES_S + 1)
    assert not book._series
    assert not book._buckets
    assert not book._summaries
