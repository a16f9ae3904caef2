"""What is decided about the webhook's certificates: the table, and a life of ten years."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from trainedmodel_operator.core.certificates import (
    Authority,
    Held,
    Leaf,
    Lifetimes,
    Situation,
    Step,
    decide,
    why_add,
    why_drop,
    why_issue,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
HOSTS = frozenset({"webhook.system.svc"})
OLD = Authority("old", NOW - 1000 * DAY, NOW + 95 * DAY)
YOUNG = Authority("young", NOW - 10 * DAY, NOW + 1085 * DAY, has_key=True)
LEAF = Leaf("young", HOSTS, NOW - 10 * DAY, NOW + 80 * DAY, has_key=True)


def step(*authorities: Authority, leaf: Leaf | None = LEAF, **more: Any) -> Step:
    situation = Situation(
        held=Held(authorities, leaf),
        hosts=more.get("hosts", HOSTS),
        now=NOW,
        lifetimes=Lifetimes(),
        is_published=more.get("is_published", True),
    )
    return decide(situation).step


def test_what_is_well_is_kept() -> None:
    assert step(YOUNG) is Step.KEEP
    assert step(YOUNG, OLD) is Step.KEEP


@pytest.mark.parametrize(
    "authorities",
    [
        (),
        (replace(YOUNG, has_key=False),),
        (replace(YOUNG, not_after=NOW),),
        (replace(YOUNG, not_after=NOW + timedelta(minutes=4)),),
        (replace(YOUNG, has_key=False), replace(OLD, has_key=True)),
    ],
)
def test_without_an_authority_that_signs_all_is_begun_anew(
    authorities: tuple[Authority, ...],
) -> None:
    assert step(*authorities, is_published=False) is Step.START


def test_what_is_trusted_is_published_before_anything_is_issued() -> None:
    assert step(YOUNG, leaf=None, is_published=False) is Step.PUBLISH


@pytest.mark.parametrize(
    "leaf",
    [
        None,
        replace(LEAF, has_key=False),
        replace(LEAF, signer=None),
        replace(LEAF, not_after=NOW),
        replace(LEAF, not_after=NOW + timedelta(minutes=4)),
        replace(LEAF, hosts=frozenset({"other"})),
    ],
)
def test_a_leaf_that_cannot_be_served_is_replaced_at_once(leaf: Leaf | None) -> None:
    fresh = replace(YOUNG, not_before=NOW - timedelta(minutes=5))
    assert step(fresh, leaf=leaf) is Step.ISSUE


def test_a_new_authority_signs_nothing_before_it_was_published_for_long_enough() -> None:
    leaf = replace(LEAF, signer="old")
    just_now = replace(YOUNG, not_before=NOW - timedelta(minutes=5))
    a_while_ago = replace(YOUNG, not_before=NOW - timedelta(minutes=10))
    assert step(just_now, OLD, leaf=leaf) is Step.KEEP
    assert step(a_while_ago, OLD, leaf=leaf) is Step.ISSUE


def test_each_is_renewed_with_a_third_of_its_life_left() -> None:
    assert step(replace(YOUNG, not_before=NOW - 66 * DAY, not_after=NOW + 34 * DAY)) is Step.KEEP
    assert step(replace(YOUNG, not_before=NOW - 67 * DAY, not_after=NOW + 33 * DAY)) is Step.ADD
    aged = replace(LEAF, not_before=NOW - 60 * DAY, not_after=NOW + 30 * DAY)
    assert step(YOUNG, leaf=aged) is Step.ISSUE


def test_an_old_authority_is_left_out_once_it_has_expired_and_not_before() -> None:
    assert step(YOUNG, replace(OLD, not_after=NOW)) is Step.DROP


def test_without_anything_held_there_is_nothing_to_renew() -> None:
    nothing = Situation(held=Held(), hosts=HOSTS, now=NOW, lifetimes=Lifetimes(), is_published=True)
    assert (why_add(nothing), why_issue(nothing), why_drop(nothing)) == (None, None, None)


class Life:
    """Two replicas and an API server: what each of them has, and for how long it had it."""

    def __init__(self, lifetimes: Lifetimes) -> None:
        self.lifetimes = lifetimes
        self.held = Held()
        self.published: tuple[str, ...] = ()
        self.served: str | None = None
        self.count = 0
        self.steps: list[Step] = []

    def turn(self, now: datetime) -> None:
        """Take one step as the leader does; another replica serves the leaf a turn later."""
        stale = self.held.leaf.signer if self.held.leaf else None
        bundle = tuple(one.fingerprint for one in self.held.authorities)
        decision = decide(
            Situation(
                held=self.held,
                hosts=HOSTS,
                now=now,
                lifetimes=self.lifetimes,
                is_published=bundle == self.published,
            )
        )
        self.steps.append(decision.step)
        if decision.step is Step.START:
            self.held = Held()
        if decision.step in {Step.START, Step.ADD}:
            self.count += 1
            life = (now - self.lifetimes.skew, now + self.lifetimes.authority)
            old = tuple(replace(one, has_key=False) for one in self.held.authorities)
            newest = Authority(f"authority-{self.count}", *life, has_key=True)
            self.held = replace(self.held, authorities=(newest, *old))
        if decision.step in {Step.START, Step.ISSUE}:
            signer = self.held.authorities[0].fingerprint
            life = (now - self.lifetimes.skew, now + self.lifetimes.leaf)
            self.held = replace(self.held, leaf=Leaf(signer, HOSTS, *life, has_key=True))
        if decision.step is Step.DROP:
            kept = [one for one in self.held.authorities if one.not_after > now]
            self.held = replace(self.held, authorities=tuple(kept))
        if decision.step is Step.PUBLISH:
            self.published = bundle
        self.served = stale


@pytest.mark.parametrize("period", [timedelta(minutes=3), timedelta(hours=7), 9 * DAY])
def test_through_years_of_rotations_every_leaf_that_is_served_is_trusted(
    period: timedelta,
) -> None:
    life = Life(Lifetimes(authority=100 * DAY, leaf=30 * DAY))
    now = NOW
    for _ in range(4):
        life.turn(now)
    assert life.steps == [Step.START, Step.PUBLISH, Step.KEEP, Step.KEEP]
    for _ in range(int(min(1000 * DAY / period, 60_000))):
        now += period
        life.turn(now)
        leaf = life.held.leaf
        assert leaf is not None
        assert leaf.not_after > now
        for signer in (leaf.signer, life.served):
            assert signer in life.published
        assert len(life.held.authorities) <= 2
    assert life.steps.count(Step.START) == 1
    assert period < DAY or life.steps.count(Step.ADD) > 10
