"""Both sides of a plan, in few words."""

from __future__ import annotations

from typing import Any, TypeVar

from trainedmodel_contract.entry import Entry
from trainedmodel_contract.reasons import Reason
from trainedmodel_puller.core.plan import plan
from trainedmodel_puller.core.state import (
    DesiredState,
    DiskModel,
    Failure,
    Limits,
    ObservedState,
    Plan,
    ServerState,
    ServerView,
    Stage,
    Tree,
    WantedModel,
)

NOW = 1000.0
Value = TypeVar("Value")
LIMITS = Limits(max_downloads=4, max_loads=2)


def entry(name: str, revision: str, credentials: str | None = None) -> Entry:
    return Entry(
        name=name, storage_uri=f"s3://b/{name}", revision=revision, credentials=credentials
    )


def desire(**revisions: str) -> DesiredState:
    models = {name: WantedModel(name, entry(name, rev)) for name, rev in revisions.items()}
    return DesiredState(models=models, is_known=True)


def server(**states: ServerState) -> ServerView:
    return ServerView(is_known=True, models=states)


def failure(revision: str, stage: Stage, until: float, *, rechecked: bool = False) -> Failure:
    return Failure(
        stage=stage,
        reason=Reason.LOAD_FAILED,
        message="no",
        count=1,
        until=until,
        failed_time=0,
        next_retry_time=0,
        entry=entry("a", revision) if revision else None,
        is_rechecked=rechecked,
    )


def on_disk(
    *versions: str,
    published: str | None = None,
    loaded: str | None = None,
    sizes: int = 10,
    **fields: Any,
) -> DiskModel:
    """Return a name's disk: trees beside (oldest first), one published, one confirmed."""
    trees = {revision: Tree(sizes, float(at)) for at, revision in enumerate(versions)}
    if published is not None:
        trees[published] = Tree(sizes, 100.0)
    shown = frozenset() if published is None else frozenset({published})
    return DiskModel(trees=trees, published=shown, loaded=loaded, **fields)


def loaded_a1(*versions: str, **fields: Any) -> DiskModel:
    return on_disk(*versions, id="a", published="1", loaded="1", **fields)


LOADED_A1 = loaded_a1()


def decide(desired: DesiredState, observed: ObservedState, limits: Limits = LIMITS) -> Plan:
    return plan(desired, observed, limits, NOW)
