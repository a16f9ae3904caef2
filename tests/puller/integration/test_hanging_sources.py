"""P12: sources that hang, each in its own way, are nobody's business but their own."""

from __future__ import annotations

import pytest
from support.puller import hanging_sources

pytestmark = pytest.mark.integration


@pytest.mark.timeout(240)
def test_p12_twenty_sources_that_hang_each_in_its_own_way_delay_nobody() -> None:
    """Real process, real DNS client, real file systems that hang; limits are generous.

    `benchmarks/hanging_sources.py` measures the same, with the limits that are aimed at.
    """
    seen = hanging_sources.measure()
    assert seen.hanging >= 20
    assert seen.told == seen.hanging
    assert max(seen.loaded) < 10
    assert seen.healthz < 3
    assert seen.status < 5
    assert (seen.code, seen.ended < 8) == (0, True)
    assert seen.left_behind >= 2  # the two claims: their calls never return
