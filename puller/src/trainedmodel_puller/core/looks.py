"""When to list the source of a failed model before its next try is due.

A try is expensive (bytes, a load that the server refuses again), so pauses between tries grow to
minutes. Listing the source is cheap, and a repaired source should not wait for minutes. So while a
model waits, its source is listed every 15 s, and a changed listing ends the wait.

The rules, in order; a failure that matches none of the first three is due by the last two:

1. a failure that no change of the source can mend (the volume, a silent server): no listing
2. a model that is being fetched, loaded or removed: no listing
3. a model whose next try is due in a moment: no listing
4. a listing is due 15 s after the failure or the last listing, and listings take at most a
   twentieth of the time: a source that takes long to list is listed less often
5. models that waited longest go first, within the limit of concurrent listings
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.core.state import Failure, FailureKey, Instant

#: Seconds between two looks at one source.
LOOK_S: Final = 15.0
#: All looks together take at most one of so many seconds of a source.
_SHARE: Final = 20.0
#: A try that is due within so many seconds makes a look needless.
_SOON_S: Final = 2.0
_NOT_THE_SOURCE: Final = frozenset(
    {
        Reason.VOLUME_ERROR,
        Reason.LOAD_TIMEOUT,
        Reason.SERVER_UNREACHABLE,
        Reason.SERVER_FULL,
        Reason.INVALID_URI,
        Reason.UNSUPPORTED_SCHEME,
        Reason.URI_NOT_ALLOWED,
    }
)


@dataclass(frozen=True, slots=True)
class Look:
    """The last look at a source.

    Attributes:
        at: When it ended.
        took: Seconds.
    """

    at: Instant
    took: float


def due(
    failures: Mapping[FailureKey, Failure],
    looks: Mapping[FailureKey, Look],
    busy: Collection[str],
    now: Instant,
    most: int,
) -> list[FailureKey]:
    """Return whose sources are to be listed now, at most so many. See the module for the rules."""
    waiting: list[tuple[Instant, FailureKey]] = []
    for key, failure in failures.items():
        if failure.entry is None or failure.reason in _NOT_THE_SOURCE or key[0] in busy:
            continue
        if failure.until <= now + _SOON_S:
            continue
        last = looks.get(key, Look(failure.failed_at, 0.0))
        next_at = max(last.at, failure.failed_at) + max(LOOK_S, _SHARE * last.took)
        if next_at <= now:
            waiting.append((next_at, key))
    return [key for _, key in sorted(waiting)[: max(most, 0)]]


def has_changed(failure: Failure, found: str | None) -> bool:
    """Return whether a source differs from what it was when its model failed.

    Args:
        failure: What failed.
        found: The fingerprint of the source's listing now; None if it cannot be listed.
    """
    return found is not None and found != failure.fingerprint
