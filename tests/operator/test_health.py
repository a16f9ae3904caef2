"""The probes: what they say, and that they say it over HTTP from the start."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from dataclasses import replace
from typing import Any

import pytest
from trainedmodel_devkit.ports import free_port
from trainedmodel_operator.core.health import Vitals, judge_life, judge_readiness
from trainedmodel_operator.errors import ConfigurationError
from trainedmodel_operator.observability.probes import probes_served

STANDBY = Vitals(
    leading_for_s=None,
    turned_s=0.5,
    resync_s=None,
    reached_s=0.5,
    is_injecting=None,
    resync_period_s=60,
)
LEADER = replace(STANDBY, leading_for_s=1000.0, resync_s=30.0)


def test_a_leader_is_alive_while_resyncs_end() -> None:
    assert judge_life(LEADER) == (True, "leading, a resync finished 30 s ago")
    assert judge_life(replace(LEADER, resync_s=300.0)).is_good
    verdict = judge_life(replace(LEADER, resync_s=301.0))
    assert verdict == (False, "leading, but no resync has finished for 301 s")


def test_a_leader_is_given_five_minutes_for_its_first_resync() -> None:
    new = replace(LEADER, leading_for_s=299.0, resync_s=None)
    assert judge_life(new).is_good
    assert not judge_life(replace(new, leading_for_s=301.0)).is_good


def test_resyncs_that_are_rare_by_order_kill_nobody() -> None:
    rare = replace(LEADER, resync_s=1500.0, leading_for_s=9000.0, resync_period_s=600)
    assert judge_life(rare).is_good
    assert not judge_life(replace(rare, resync_s=1801.0)).is_good


def test_a_standby_is_alive_as_long_as_its_election_turns() -> None:
    assert judge_life(replace(STANDBY, reached_s=None)) == (True, "standing by")
    for one in (STANDBY, LEADER):
        stuck = judge_life(replace(one, turned_s=61.0))
        assert stuck == (False, "leader election is stuck: no attempt for 61 s")
    assert judge_life(replace(LEADER, turned_s=None)).is_good, "there may be none"


def test_whoever_reached_the_api_is_ready_leader_or_not() -> None:
    assert judge_readiness(STANDBY) == (True, "standing by, the API server answered 0 s ago")
    assert judge_readiness(LEADER) == (True, "leading, the API server answered 0 s ago")
    assert judge_readiness(replace(STANDBY, reached_s=None)) == (
        False,
        "the API server has not answered yet",
    )
    assert not judge_readiness(replace(LEADER, reached_s=301.0)).is_good


def test_a_webhook_that_does_not_serve_is_not_ready() -> None:
    assert not judge_readiness(replace(STANDBY, is_injecting=False)).is_good
    assert judge_readiness(replace(STANDBY, is_injecting=True)).is_good


def _ask(port: int, path: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


async def test_the_body_says_why() -> None:
    vitals, port = [STANDBY], free_port()
    async with probes_served(port, lambda: vitals[0]):
        assert await asyncio.to_thread(_ask, port, "/healthz") == (
            200,
            {"ok": True, "reason": "standing by", "leader": False},
        )
        vitals[0] = replace(LEADER, resync_s=400.0, reached_s=None)
        status, body = await asyncio.to_thread(_ask, port, "/healthz")
        assert (status, body["ok"], body["leader"]) == (503, False, True)
        status, body = await asyncio.to_thread(_ask, port, "/readyz")
        assert (status, body["reason"]) == (503, "the API server has not answered yet")


async def test_a_port_that_is_taken_is_named() -> None:
    port = free_port()
    async with probes_served(port, lambda: STANDBY):
        with pytest.raises(ConfigurationError, match=f"--health-port {port}"):
            async with probes_served(port, lambda: STANDBY):
                pass
    async with probes_served(0, lambda: STANDBY):
        pass
