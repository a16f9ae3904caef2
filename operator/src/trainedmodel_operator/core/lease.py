"""The Lease: when a replica may take it, when its holder renews, when the holder stops writing.

A replica knows two things: the content of the Lease at its last read, and its own clock, which
counts seconds and is compared with no other clock. The times in the Lease are for people. Only
their *change* shows that the holder is alive.

The rules for a replica that reads the Lease, in order:

1. Held by me: renew. (No other process has my name, which is new with every start.)
2. Held by another, and I have not seen it unchanged for its duration: wait. The duration is that of
   the Lease or that of my own flags, whichever is longer. So both old and new replicas are right
   while the flags are rolled out.
3. Deleted after I had seen it: treat it as still held from the moment at which I found it deleted
   (it may have been renewed or taken since my last read), because a deletion does not stop the
   holder. Only a replica that may still write recreates it at once: no other can have held it
   meanwhile.
4. Never there: create it. Released, or unchanged for that long: take it.

The rule for its holder: a renewal that was sent at `s` and accepted allows writes until `s` plus
the renew deadline, and not longer, whatever happens.

Why this is enough. Others count from when they *saw* the renewal, which is never before it was
sent, and they count to the duration, which is longer than the deadline. So when the first of them
may take the Lease, its holder has been silent for the difference. That holds for any delay of any
message and any freeze of any process. It assumes one thing: that two clocks do not drift apart by a
third within a few seconds. A replica that takes the Lease names the version that it read, so of two
that try, one succeeds.

Three cases are not covered, and do no harm for other reasons (see the decision record). A replica
that starts after a Lease was deleted has seen no holder and takes it at once; the holder notices at
its next renewal. A Lease that is created and deleted between two reads leaves no trace. A Lease
that is taken by a replica with longer times, and deleted between two reads, does not show those
times.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from math import inf
from typing import Final

#: The longest wait for a holder, whatever a manual edit wrote into the Lease.
LONGEST_S: Final = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How long things last, in seconds.

    Attributes:
        duration_s: How long a Lease that does not change stays its holder's.
        renew_deadline_s: How long a holder writes after its last renewal. The difference to the
            duration is what a write may take that was sent in the last moment.
        retry_s: How often a holder renews.
        poll_s: How often the others look.

    Raises:
        ValueError: they do not fit together.
    """

    duration_s: int = 15
    renew_deadline_s: float = 10.0
    retry_s: float = 2.0
    poll_s: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < 2 * self.retry_s <= self.renew_deadline_s:
            raise ValueError(
                f"the renew deadline ({self.renew_deadline_s:g} s) must leave time for two "
                f"renewals, one every {self.retry_s:g} s"
            )
        if not self.renew_deadline_s < self.duration_s <= LONGEST_S:
            raise ValueError(
                f"the duration ({self.duration_s} s) must be longer than the renew deadline "
                f"({self.renew_deadline_s:g} s), and at most {LONGEST_S} s"
            )

    @property
    def attempt_s(self) -> float:
        """How long one request may take: a deadline has room for three that hang."""
        return self.renew_deadline_s / 3


@dataclass(frozen=True, slots=True)
class Record:
    """The content of a Lease; `holder` is empty if it is free."""

    holder: str = ""
    duration_s: int = 0
    acquired: str = ""
    renewed: str = ""
    transitions: int = 0


_NEVER: Final = Record()


@dataclass(frozen=True, slots=True)
class Sighting:
    """The Lease as this replica last saw it.

    Attributes:
        record: Its content when it last existed; empty, if it never did.
        version: Its resourceVersion; empty if it is not there.
        since: When this content, or its absence, was first seen, on the own clock.
    """

    record: Record
    version: str
    since: float

    def freed_at(self, terms: Terms) -> float:
        """Return when a replica other than its holder may take it."""
        is_gone = not self.version and self.record != _NEVER
        if not self.record.holder and not is_gone:
            return -inf
        return self.since + max(min(self.record.duration_s, LONGEST_S), terms.duration_s)


def see(before: Sighting | None, record: Record | None, version: str, now: float) -> Sighting:
    """Return the sighting after a read; `record` None: there is no Lease.

    Only the record is compared: a label on a Lease does not keep a dead holder alive.
    """
    if record is None:
        if before is None:
            return Sighting(_NEVER, "", now)
        return replace(before, version="", since=now) if before.version else before
    if before is not None and before.record == record:
        return replace(before, version=version)
    return Sighting(record, version, now)


class Step(StrEnum):
    """The next step about the Lease."""

    RENEW = "renew"
    WAIT = "wait"
    CREATE = "create"
    TAKE = "take"


def decide(sighting: Sighting, me: str, terms: Terms, now: float, until: float = -inf) -> Step:
    """Return the step of a replica that may write until `until`: rules 1 to 4."""
    if sighting.record.holder == me:
        if sighting.version:
            return Step.RENEW
        if now < until:
            return Step.CREATE
    if now < sighting.freed_at(terms):
        return Step.WAIT
    return Step.TAKE if sighting.version else Step.CREATE


def next_record(sighting: Sighting, me: str, terms: Terms, date: str) -> Record:
    """Return the record of a Lease that I create, take or renew at `date`."""
    before = sighting.record
    mine = before.holder == me
    return Record(
        holder=me,
        duration_s=terms.duration_s,
        acquired=before.acquired if mine else date,
        renewed=date,
        transitions=before.transitions + (not mine and bool(sighting.version)),
    )


def released(record: Record, date: str) -> Record:
    """Return the record of a Lease that its holder releases."""
    return replace(record, holder="", duration_s=1, renewed=date)


def writes_until(sent_at: float, terms: Terms) -> float:
    """Return until when a holder may write whose accepted renewal was sent at `sent_at`."""
    return sent_at + terms.renew_deadline_s


def looks_again_in(holds: bool, failures: int, terms: Terms) -> float:
    """Return the pause before the next look; `failures`: how many in a row were not answered.

    A holder that fails tries more often at first, a candidate more rarely.
    """
    more = 2.0 ** min(failures, 8)
    if not holds:
        return max(terms.poll_s, min(terms.retry_s, terms.poll_s * more))
    return min(terms.retry_s, 0.25 * more) if failures else terms.retry_s
