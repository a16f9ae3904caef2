"""The pause between two reads of the model server's index.

A read takes some of the server's time, so reads are spaced until they cost a small share of it. The
measure is the current cost of a read. A read that was slow because the server was busy with a load
does not predict the next one, so the cheapest of the last few reads counts. The pause has an upper
limit, which grows with the number of models: the state of a handful of models is never older than
seconds. While the server carries out an action of the puller, the limit is higher, because a read
then waits behind loads and makes loads wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

#: Share of the server's time that looks may take: a look of 20 ms, one a second.
SHARE: Final = 0.02
#: Number of the last reads of which the cheapest is the current cost.
RECENT: Final = 3
#: The longest pause for a server without models, and what each model adds to it, in seconds.
#: MLServer reads a file for each model (1.2 ms), which is 0.06 s of pause at a share of 2 %.
_BASE_S: Final = 3.0
_MODEL_S: Final = 0.06
#: Factor of the longest pause while the puller loads or unloads a model.
_ACTING: Final = 5
#: The longest pause of all, in seconds.
_LONGEST_S: Final = 60.0


def longest_pause_s(models: int, *, is_acting: bool = False) -> float:
    """Return the longest pause between two looks at a server with so many models, in seconds."""
    usual = _BASE_S + _MODEL_S * models
    return min(usual * _ACTING if is_acting else usual, _LONGEST_S)


def pause_s(looks_s: Sequence[float], models: int, *, is_acting: bool = False) -> float:
    """Return the seconds to wait before the next look.

    Args:
        looks_s: How long the last looks took, in seconds, the latest one last.
        models: How many models the server has, or should have.
        is_acting: The puller is loading or unloading a model.
    """
    recent = looks_s[-RECENT:]
    if not recent:
        return 0.0
    return min(min(recent) / SHARE, longest_pause_s(models, is_acting=is_acting))
