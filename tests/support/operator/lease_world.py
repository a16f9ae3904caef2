"""A Lease on an imagined server and replicas around it, each with a clock of its own.

The server knows versions and nothing else. A hand deletes the Lease once at most, and only where
all replicas go by the same terms (what `core.lease` does not cover). Whatever can happen to a
request happens on order: it is lost, its answer is lost, or it is carried out seconds after it was
sent.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainedmodel_operator.core.lease import (
    Record,
    Sighting,
    Step,
    Terms,
    decide,
    next_record,
    released,
    see,
    writes_until,
)


@dataclass(eq=False)
class Replica:
    """What one replica knows."""

    name: str
    offset: float
    terms: Terms
    seen: Sighting | None = None
    until: float = float("-inf")
    is_dead: bool = False

    def clock(self, now: float) -> float:
        return now + self.offset


class World:
    """The server, and the one true time."""

    def __init__(self, replicas: list[Replica]) -> None:
        self.replicas = replicas
        self.now = 0.0
        self._record: Record | None = None
        self._was_deleted = False
        self._version = 0

    def writers(self) -> list[Replica]:
        """Return who would let a write pass at this moment."""
        return [one for one in self.replicas if not one.is_dead and one.clock(self.now) < one.until]

    def turn(self, one: Replica, what: str, late_s: float) -> None:
        """Let one replica do something, or something be done to it."""
        if one.is_dead:
            return
        if what == "delete":
            self._delete()
        elif what == "die":
            one.is_dead = True
        elif what == "release":
            self._release(one)
        else:
            self._look_and_write(one, what, late_s)

    def _look_and_write(self, one: Replica, what: str, late_s: float) -> None:
        version = str(self._version) if self._record is not None else ""
        one.seen = see(one.seen, self._record, version, one.clock(self.now))
        step = decide(one.seen, one.name, one.terms, one.clock(self.now), one.until)
        if step is Step.WAIT:
            one.until = float("-inf") if one.seen.record.holder != one.name else one.until
            return
        record = next_record(one.seen, one.name, one.terms, f"{self.now}")
        sent_at = one.clock(self.now)
        if what == "lose request":
            return
        if what == "late":
            self.now += late_s
        is_there = self._record is not None
        if is_there != (step is not Step.CREATE):
            return
        if is_there and one.seen.version != str(self._version):
            return
        self._store(record)
        if what != "lose answer":
            one.seen = Sighting(record, str(self._version), one.clock(self.now))
            one.until = writes_until(sent_at, one.terms)

    def _release(self, one: Replica) -> None:
        """End one replica as a signal does: it writes no more, then it gives back what is its."""
        one.until = float("-inf")
        if self._record is not None and self._record.holder == one.name:
            self._store(released(self._record, f"{self.now}"))

    def _delete(self) -> None:
        are_equal = len({one.terms for one in self.replicas}) == 1
        if are_equal and not self._was_deleted:
            self._record, self._was_deleted = None, True

    def _store(self, record: Record) -> None:
        self._record = record
        self._version += 1
