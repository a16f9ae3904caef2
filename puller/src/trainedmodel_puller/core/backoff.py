"""How long to wait after a failure.

1 s doubling to 5 min, each shortened by up to half at random, so that a hundred pods that failed
together do not come back together. Chance comes in as an argument: the function is pure.
"""

from __future__ import annotations

from typing import Final

FIRST_S: Final = 1.0
LONGEST_S: Final = 300.0


def backoff_s(count: int, chance: float) -> float:
    """Return the seconds to wait after the `count`-th failure in a row (from 1).

    `chance` is in [0, 1); the result is between half the nominal delay and the whole of it.
    """
    exponent = min(max(count, 1) - 1, 16)
    nominal = min(LONGEST_S, FIRST_S * 2.0**exponent)
    return nominal * (1.0 - 0.5 * chance)
