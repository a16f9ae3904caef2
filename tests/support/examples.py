"""How many examples a property is tried with: few by default, all in `make test`.

No property has a deadline: a busy machine is no fault of the code.
"""

from __future__ import annotations

import os
from typing import Final

from hypothesis import HealthCheck, settings

#: Set by `make test` and CI.
WHOLE: Final = os.environ.get("TRAINEDMODEL_TEST_EXAMPLES") == "all"
_PART: Final = 10
_LEAST: Final = 10


def examples(count: int) -> int:
    """Return how many of `count` examples are tried now."""
    return count if WHOLE else max(_LEAST, count // _PART)


def configure() -> None:
    """Give each property that says nothing else its number of examples, and no deadline."""
    settings.register_profile(
        "tests",
        max_examples=examples(100),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        print_blob=True,
    )
    settings.load_profile("tests")
