"""Failed writes: how long each is deferred, and when a status shows it.

Each write that fails is deferred by itself: 1 s, doubled by each further failure. All other writes
of the service continue.

- *Refused* (a quota, a policy, an immutable object; any 4xx): at most `LONGEST_BACKOFF_S` between
  two tries. The status shows it at once, because it lasts until somebody fixes it.
- *Trouble* (no answer, a 5xx, throttled): at most `LONGEST_TROUBLE_S`, because its end is unknown.
  The status shows it when it has lasted for `TELL_AFTER`.
- *Ending* (the namespace is being deleted): retried after `LONGEST_BACKOFF_S`. No status shows it,
  because the models are about to be deleted too.
- *Race* (another writer wrote meanwhile): the first pause is 0.05 s. Shown as trouble is.

A write that differs from the failed one is tried at once: the change may be the fix.

The message is that of the first failure while later ones have the same shape (`core.words`), so a
status does not change with each try.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from trainedmodel_operator.core.pacing.backoff import pause_s
from trainedmodel_operator.core.pacing.windows import FIRST_BACKOFF_S, LONGEST_BACKOFF_S
from trainedmodel_operator.core.words import shape

FIRST_RACE_S: Final = 0.05
LONGEST_TROUBLE_S: Final = 15.0
TELL_AFTER: Final = timedelta(seconds=10)


class Kind(StrEnum):
    """The kind of a failure."""

    REFUSED = "refused"
    TROUBLE = "trouble"
    RACE = "race"
    ENDING = "ending"


#: Failures that last until a person acts.
_LASTING: Final = frozenset({Kind.REFUSED, Kind.ENDING})
_FIRST_S: Final = {Kind.RACE: FIRST_RACE_S, Kind.ENDING: LONGEST_BACKOFF_S}


@dataclass(frozen=True, slots=True)
class Failure:
    """A write that failed.

    Attributes:
        words: The message of the API server, or of the operator.
        attempt: Identifies the write; a different write has a different value.
        pause_s: The pause that the server asked for.
    """

    kind: Kind
    words: str
    attempt: str
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class PutOff:
    """A write that waits for its next try.

    Attributes:
        since: When it first failed.
        until: When it is tried again.
        failures: Failures of this attempt in a row.
    """

    kind: Kind
    words: str
    attempt: str
    since: datetime
    until: datetime
    failures: int = 1

    def holds(self, attempt: str, now: datetime) -> bool:
        """Tell whether a write is to wait."""
        return self.attempt == attempt and now < self.until

    def is_told(self, now: datetime) -> bool:
        """Tell whether a status shows it."""
        if self.kind is Kind.ENDING:
            return False
        return self.kind is Kind.REFUSED or now - self.since >= TELL_AFTER


def put_off(before: PutOff | None, failure: Failure, now: datetime, jitter: float) -> PutOff:
    """Return until when a write is put off that has just failed; `jitter` is between 0 and 1."""
    failures = 1
    if before is not None and before.attempt == failure.attempt:
        failures = before.failures + 1
    longest = LONGEST_BACKOFF_S if failure.kind in _LASTING else LONGEST_TROUBLE_S
    first = _FIRST_S.get(failure.kind, FIRST_BACKOFF_S)
    pause = pause_s(failures - 1, jitter, first_s=first, longest_s=longest)
    words = failure.words
    if before is not None and shape(before.words) == shape(words):
        words = before.words
    return PutOff(
        kind=failure.kind,
        words=words,
        attempt=failure.attempt,
        since=now if before is None else before.since,
        until=now + timedelta(seconds=max(pause, failure.pause_s)),
        failures=failures,
    )
