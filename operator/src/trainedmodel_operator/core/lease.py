"""The Lease: who may take it, when its holder renews, and when the holder must stop writing.

A replica knows two things: what the Lease said when it last looked, and its own clock, which counts
seconds and is compared with nobody else's. The times that are written in the Lease are for people;
that they *change* is what shows its holder to be alive.

The rules for whoever looks, in order:

1. Held by me: renew. (Nobody else has my name: it is new with every start of the process.)
2. Held by somebody, and I have not seen it unchanged for as long as it lasts: wait. How long it
   lasts is what the Lease says, or what I was told to give it, whichever is longer: while the flags
   are rolled out, both the old and the new replica are right.
3. Gone, though I saw it there: the same, from when I found it gone (it may have been renewed or
   taken since I last saw it). Somebody deleted it, which stops no holder. Only who may still write
   makes it anew at once: nobody else can have held it meanwhile.
4. Not there: create it. Released, or unchanged for that long: take it.

The rule for its holder: what it sent at `s` and saw accepted lets it write until `s` and the renew
deadline, and not a moment longer, whatever else happens to it.

Why this is enough. Others count from when they *saw* the renewal, which is never before it was
sent, and they count to the duration, which is longer than the deadline. So when the first of them
may take the Lease, its holder has been silent for the difference. That holds for any delay of any
message and any freeze of any process, and takes one thing for granted: that two clocks do not drift
apart by a third within a few seconds. Who takes it names the version that it saw, so of two who
try, one succeeds.

What is not covered, and must do no harm for other reasons (the decision record says which): who
starts after a Lease was deleted has seen no holder and takes it at once, and the holder notices
when it next renews; a Lease that is made and deleted again between two looks leaves no trace; and
one that is taken by a replica with longer times and deleted between them does not tell those times.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from math import inf
from typing import Final

#: Nobody waits longer for a holder, whatever a hand wrote into the Lease.
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
    """What a Lease says; `holder` is empty if nobody holds it."""

    holder: str = ""
    duration_s: int = 0
    acquired: str = ""
    renewed: str = ""
    transitions: int = 0


_NEVER: Final = Record()


@dataclass(frozen=True, slots=True)
class Sighting:
    """What was seen of the Lease.

    Attributes:
        record: What it said, the last time that it was there; nothing, if it never was.
        version: Its resourceVersion; empty if it is not there.
        since: When it was first seen to say this, or to be gone, on the clock of whoever looks.
    """

    record: Record
    version: str
    since: float

    def freed_at(self, terms: Terms) -> float:
        """Return when somebody else than its holder may take it."""
        is_gone = not self.version and self.record != _NEVER
        if not self.record.holder and not is_gone:
            return -inf
        return self.since + max(min(self.record.duration_s, LONGEST_S), terms.duration_s)


def see(before: Sighting | None, record: Record | None, version: str, now: float) -> Sighting:
    """Return what is known after a look that found this; `record` None: there is no Lease.

    Only what the record says is compared: who labels a Lease does not keep a dead holder alive.
    """
    if record is None:
        if before is None:
            return Sighting(_NEVER, "", now)
        return replace(before, version="", since=now) if before.version else before
    if before is not None and before.record == record:
        return replace(before, version=version)
    return Sighting(record, version, now)


class Step(StrEnum):
    """What to do about the Lease."""

    RENEW = "renew"
    WAIT = "wait"
    CREATE = "create"
    TAKE = "take"


def decide(sighting: Sighting, me: str, terms: Terms, now: float, until: float = -inf) -> Step:
    """Return what a replica does that may write `until` then about what it saw: rules 1 to 4."""
    if sighting.record.holder == me:
        if sighting.version:
            return Step.RENEW
        if now < until:
            return Step.CREATE
    if now < sighting.freed_at(terms):
        return Step.WAIT
    return Step.TAKE if sighting.version else Step.CREATE


def next_record(sighting: Sighting, me: str, terms: Terms, date: str) -> Record:
    """Return what the Lease shall say when it is created, taken or renewed by me at `date`."""
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
    """Return what the Lease shall say when its holder gives it back."""
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
