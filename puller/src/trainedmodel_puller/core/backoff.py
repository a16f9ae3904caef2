"""The pause after a failure, and the count of consecutive failures.

Pauses double from 1 s to 5 min. Each is shortened by up to half at random, so that a hundred pods
that failed together do not retry together. The random number is an argument: the functions are
pure.

A try that made progress resets the count: its bytes are kept, and the next try continues after
them. Within a try only the stream that was cut starts again.
"""

from __future__ import annotations

from typing import Final

from trainedmodel_contract.reasons import Reason

FIRST_S: Final = 1.0
LONGEST_S: Final = 300.0
_MOST_DOUBLINGS: Final = 16
#: Fewer bytes do not count as progress: a store that sends almost nothing must not get more tries.
PROGRESS_BYTES: Final = 1024 * 1024
#: After these failures, the fetched bytes are still valid for the next try.
_KEEPS: Final = frozenset({Reason.SOURCE_UNREACHABLE, Reason.SOURCE_STALLED, Reason.SOURCE_ERROR})
_FIRST_CUT_S: Final = 0.1
#: Consecutive cuts without progress that a fetch survives if it has made progress before.
_IDLE_CUTS: Final = 3


def backoff_s(count: int, jitter: float) -> float:
    """Return the pause of a model after its `count`-th consecutive failure, in seconds."""
    return pause_s(count, FIRST_S, LONGEST_S, jitter=jitter)


def pause_s(count: int, first_s: float, longest_s: float, *, jitter: float) -> float:
    """Return the pause after the `count`-th consecutive failure (from 1), in seconds.

    It doubles from `first_s` to `longest_s`. `jitter` is in [0, 1); the result is between half the
    nominal pause and the whole of it.
    """
    exponent = min(max(count, 1) - 1, _MOST_DOUBLINGS)
    return _shortened(min(longest_s, first_s * 2.0**exponent), jitter)


def failures_in_a_row(before: int, reason: Reason, gained: int) -> int:
    """Count one more failure.

    Args:
        before: Consecutive failures before this one.
        reason: The reason of the failure.
        gained: Bytes of this try that the next one need not fetch again.
    """
    has_moved = reason in _KEEPS and gained >= PROGRESS_BYTES
    return 1 if has_moved else before + 1


def begin_again_s(
    reason: Reason, idle_cuts: int, jitter: float, *, has_moved: bool
) -> float | None:
    """Return the pause until a stream that was cut continues, in seconds; None ends the fetch.

    Args:
        reason: The reason of the cut.
        idle_cuts: Consecutive cuts of this stream without progress, this one included; 0 if it
            made progress.
        jitter: In [0, 1).
        has_moved: Whether the fetch as a whole has made progress. If not, the store is at fault,
            not one connection.
    """
    if reason not in {Reason.SOURCE_UNREACHABLE, Reason.SOURCE_STALLED}:
        return None
    if idle_cuts and (not has_moved or idle_cuts >= _IDLE_CUTS or reason is Reason.SOURCE_STALLED):
        return None  # a stall already took the whole time limit
    return _shortened(_FIRST_CUT_S * 4.0**idle_cuts, jitter)


def _shortened(nominal_s: float, jitter: float) -> float:
    return nominal_s * (1.0 - 0.5 * jitter)
