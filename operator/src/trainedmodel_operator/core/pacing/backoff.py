"""Back-off: the pause before the next try, after failures in a row.

The pause doubles with each failure, up to a limit. Jitter shortens it by up to half, so that
callers that failed together do not retry together. The jitter is a parameter, so the functions are
pure.
"""

from __future__ import annotations

from typing import Final

#: Beyond this a power of two is only a large number.
_MOST_DOUBLINGS: Final = 16


def doubled_s(failures: int, *, first_s: float, longest_s: float) -> float:
    """Return the pause without jitter, after so many failures before the present one."""
    return min(first_s * 2.0 ** min(failures, _MOST_DOUBLINGS), longest_s)


def pause_s(failures: int, jitter: float, *, first_s: float, longest_s: float) -> float:
    """Return the pause after so many failures before the present one.

    `jitter` is between 0 and 1. The result is between half of the doubled pause and all of it.
    """
    return doubled_s(failures, first_s=first_s, longest_s=longest_s) * (0.5 + jitter / 2)
