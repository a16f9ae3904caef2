"""Certificates: the next step, given the Secret, the published bundle and the time.

The API server calls the webhook over TLS and trusts the `caBundle` of the webhook configuration.
Three things must fit together at every moment: a Secret, a configuration, and the memory of each
replica. They change in three places and cannot change at once. So each step leaves a state in which
every replica is trusted, whichever of the two last leaves it serves:

    authorities   A        B A           B A           B A          B
    published     A        A -> B A      B A           B A          B A -> B
    leaf by       A        A             A -> B        B            B
                  keep     add, publish  wait, issue   keep         A expired: drop, publish

Between *publish* and *issue* lies `overlap`: longer than API servers take to learn of a changed
configuration. Between *issue* and *drop* lies the rest of the old authority's life: longer than any
replica takes to read the Secret.

The rules, in order. The first that applies is the next step, and each step is followed by another
read:

 1. no authority that can sign         START: a new authority and leaf; nothing can be kept
 2. the published bundle differs       PUBLISH: first of all, so that the served leaf is trusted
 3. the leaf cannot be used            ISSUE, at once
 4. the newest authority is due        ADD: a second authority, which signs nothing yet
 5. the leaf is due, or not by the     ISSUE, once the newest authority has been published for
    newest authority                   long enough
 6. an old authority has expired       DROP
 7. otherwise                          KEEP

A certificate is due after two thirds of its life, so a third remains for failed attempts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

_DUE: Final = 2 / 3


class Step(StrEnum):
    """The next step."""

    START = "start"
    PUBLISH = "publish"
    ISSUE = "issue"
    ADD = "add"
    DROP = "drop"
    KEEP = "keep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """How long things live.

    Attributes:
        authority: Validity of an authority.
        leaf: Validity of a serving certificate.
        overlap: How long an authority is published before it signs. API servers learn of a changed
            configuration by watch, in well under a second; five minutes is for one that lost its
            watch, and for the replicas' own period of looking.
        skew: How far into the past validity begins, for clocks that are behind.
    """

    authority: timedelta = timedelta(days=3 * 365)
    leaf: timedelta = timedelta(days=90)
    overlap: timedelta = timedelta(minutes=5)
    skew: timedelta = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Authority:
    """One of the operator's certificate authorities.

    Attributes:
        fingerprint: sha256 of its certificate.
        has_key: Its private key is there, and fits.
    """

    fingerprint: str
    not_before: datetime
    not_after: datetime
    has_key: bool = False


@dataclass(frozen=True, slots=True)
class Leaf:
    """The serving certificate.

    Attributes:
        signer: Fingerprint of the held authority that signed it; None: none of them.
        hosts: Names and addresses that it is for.
        has_key: Its private key is there, and fits.
    """

    signer: str | None
    hosts: frozenset[str]
    not_before: datetime
    not_after: datetime
    has_key: bool


@dataclass(frozen=True, slots=True)
class Held:
    """The content of the Secret.

    Attributes:
        authorities: The newest first; only it signs.
    """

    authorities: tuple[Authority, ...] = ()
    leaf: Leaf | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that a decision is made of.

    Attributes:
        hosts: Names and addresses that API servers call the webhook by.
        is_published: The configuration has the held bundle.
    """

    held: Held
    hosts: frozenset[str]
    now: datetime
    lifetimes: Lifetimes
    is_published: bool

    @property
    def newest(self) -> Authority | None:
        """The authority that signs."""
        return self.held.authorities[0] if self.held.authorities else None


@dataclass(frozen=True, slots=True)
class Decision:
    """The next step, and why, for the log."""

    step: Step
    reason: str = ""


def decide(situation: Situation) -> Decision:
    """Decide the next step: that of the first rule which has a reason."""
    for step, why in _RULES:
        reason = why(situation)
        if reason is not None:
            return Decision(step, reason)
    return Decision(Step.KEEP)


def why_start(situation: Situation) -> str | None:
    """Say why nothing that is held can be built upon."""
    newest = situation.newest
    if newest is None or not newest.has_key:
        return "no authority can sign"
    if newest.not_after <= situation.now + situation.lifetimes.overlap:
        return "the authority has expired"
    return None


def why_publish(situation: Situation) -> str | None:
    """Say why API servers may not trust the served certificate."""
    return None if situation.is_published else "the webhook configuration has another caBundle"


def why_issue_at_once(situation: Situation) -> str | None:
    """Say why the leaf cannot be served, or soon will not be."""
    leaf, needed_until = situation.held.leaf, situation.now + situation.lifetimes.overlap
    if leaf is None or not leaf.has_key:
        return "there is no serving certificate with a key"
    if leaf.signer is None:
        return "no held authority signed the serving certificate"
    if leaf.not_after <= needed_until:
        return "the serving certificate has expired"
    missing = situation.hosts - leaf.hosts
    return (
        f"the serving certificate does not cover {', '.join(sorted(missing))}" if missing else None
    )


def why_add(situation: Situation) -> str | None:
    """Say why a second authority is wanted."""
    newest = situation.newest
    if newest is None or not _is_due(newest.not_before, newest.not_after, situation.now):
        return None
    return "two thirds of the authority's lifetime have passed"


def why_issue(situation: Situation) -> str | None:
    """Say why another leaf is wanted, and may be: its authority has been published for long."""
    leaf, newest, lifetimes = situation.held.leaf, situation.newest, situation.lifetimes
    if leaf is None or newest is None:
        return None
    if newest.not_before + lifetimes.skew + lifetimes.overlap > situation.now:
        return None
    if leaf.signer != newest.fingerprint:
        return "there is a newer authority"
    if _is_due(leaf.not_before, leaf.not_after, situation.now):
        return "two thirds of the serving certificate's lifetime have passed"
    return None


def why_drop(situation: Situation) -> str | None:
    """Say why an old authority is to be left out."""
    if any(authority.not_after <= situation.now for authority in situation.held.authorities[1:]):
        return "an old authority has expired"
    return None


_RULES: Final = (
    (Step.START, why_start),
    (Step.PUBLISH, why_publish),
    (Step.ISSUE, why_issue_at_once),
    (Step.ADD, why_add),
    (Step.ISSUE, why_issue),
    (Step.DROP, why_drop),
)


def _is_due(not_before: datetime, not_after: datetime, now: datetime) -> bool:
    return now >= not_before + (not_after - not_before) * _DUE
