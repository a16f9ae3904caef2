"""Grow and move: whatever changes, crashes or comes late, a wanted model never leaves all shards.

The pods are here: each mounts the shards as a kubelet gives them, each ConfigMap from a moment of
its own, and reports what it saw late or never. What such a pod sees is the promise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.operator.builders import KEY, NOW, carried_out, entries_of, one, pod, report, view
from trainedmodel_contract import names
from trainedmodel_operator.core.plan import Plan, plan
from trainedmodel_operator.core.shards import documents
from trainedmodel_operator.core.shards.placement import MOVE_GRACE
from trainedmodel_operator.core.state import DesiredModel, Gathered

BUDGET = 1500
#: A kubelet that is not nudged refreshes within this, which is less than the grace of a move.
REFRESH = timedelta(seconds=80)


@dataclass
class SlowPod:
    """A pod that sees each shard as it was at some moment, and says so later."""

    name: str
    seen: dict[int, dict[str, str]] = field(default_factory=dict)
    seen_at: dict[int, Any] = field(default_factory=dict)
    digest: str | None = None

    def refresh(self, gathered: Gathered, indices: list[int], now: Any) -> None:
        there = {shard.index: dict(shard.data) for shard in gathered.shards}
        for index in indices:
            self.seen[index] = there.get(index, {})
            self.seen_at[index] = now

    def overdue(self, now: Any) -> list[int]:
        return [index for index in range(4) if now - self.seen_at.get(index, NOW) >= REFRESH]

    def speak(self) -> None:
        whole = [(index, data) for index, data in self.seen.items() if data]
        self.digest = documents.seen_digest(whole)

    def entries(self) -> set[tuple[str, str]]:
        """Return what it sees: metadata.name and entry."""
        return {entry for data in self.seen.values() for entry in named(data)}


def named(data: Mapping[str, str]) -> set[tuple[str, str]]:
    pairs = ((names.object_name(key), value) for key, value in data.items())
    return {(name, value) for name, value in pairs if name is not None}


def size_of(data: Any) -> int:
    return sum(len(key.encode()) + len(value.encode()) for key, value in data.items())


class World:
    """Models, shards and pods, and what was ever true of them."""

    def __init__(self, rng: Random, pods: int) -> None:
        self.rng = rng
        self.now = NOW
        self.pods = [SlowPod(f"pod-{n}") for n in range(pods)]
        self.gathered = Gathered(KEY, pods=tuple(pod(one.name) for one in self.pods))
        self.placed: set[str] = set()
        #: All entries that each model ever had since it was last created.
        self.entries: dict[str, set[str]] = {}
        self.shown: dict[str, set[str]] = {one.name: set() for one in self.pods}

    def change_model(self) -> None:
        name = f"m{self.rng.randint(0, 9)}"
        kept = [model for model in self.gathered.models if model.name != name]
        if self.rng.random() < 0.2:
            self.placed.discard(name)
            self.entries.pop(name, None)
            for shown in self.shown.values():
                shown.discard(name)
            models = kept
        else:
            models = [*kept, self.drawn_model(name)]
        self.gathered = replace(self.gathered, models=tuple(models))

    def drawn_model(self, name: str) -> DesiredModel:
        size, generation = self.rng.choice([0, 5, 20, 60, 110]), self.rng.randint(1, 99)
        uri = "no-uri" if self.rng.random() < 0.1 else None
        return one(name, uri=uri, generation=generation, parameters={"p": "x" * (size * 10)})

    def make_pass(self) -> None:
        reports = {
            f"uid-{one.name}": report(pod(one.name), digest=one.digest)
            for one in self.pods
            if one.digest is not None
        }
        self.gathered = replace(self.gathered, reports=reports)
        decided = plan(self.gathered, self.now)
        cut = self.rng.randint(0, len(decided.shard_writes)) if self.rng.random() < 0.3 else None
        if cut is not None:  # the operator dies between two writes; its memory with it
            decided = replace(decided, shard_writes=decided.shard_writes[:cut], moving=frozenset())
        for write in decided.shard_writes:
            part = Plan(shard_writes=(write,), moving=decided.moving)
            self.gathered = carried_out(self.gathered, part, self.now)
            self.check()
        if not decided.shard_writes:
            self.gathered = carried_out(self.gathered, Plan(moving=decided.moving), self.now)

    def pods_look(self) -> None:
        for each in self.pods:
            some = [index for index in range(4) if self.rng.random() < 0.4]
            each.refresh(self.gathered, sorted({*some, *each.overdue(self.now)}), self.now)
            if self.rng.random() < 0.5:
                each.speak()
        self.check()

    def check(self) -> None:
        held = {name for entries in entries_of(self.gathered).values() for name in entries}
        wanted = {model.name for model in self.gathered.models}
        assert self.placed <= held, "a wanted model left all shards"
        self.placed |= held & wanted
        for shard in self.gathered.shards:
            assert size_of(shard.data) <= BUDGET
            for name, entry in named(shard.data):
                if name in wanted:
                    self.entries.setdefault(name, set()).add(entry)
        for each in self.pods:
            shown, seen = self.shown[each.name], each.entries()
            assert shown <= {name for name, _ in seen}, "a pod saw a wanted model vanish"
            shown |= {name for name, entry in seen if entry in self.entries.get(name, ())}


@settings(max_examples=examples(60))
@given(seed=st.integers(0, 2**32), pods=st.integers(0, 3))
def test_a_wanted_model_that_was_placed_is_never_missing_from_the_shards_nor_from_a_pod(
    seed: int, pods: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(names, "SHARD_BUDGET_BYTES", BUDGET)
        world = World(Random(seed), pods)
        for _ in range(40):
            act = world.rng.choice([world.change_model, world.make_pass, world.pods_look])
            act()
            world.now += timedelta(seconds=world.rng.choice([0, 1, 10]))
        world.now += MOVE_GRACE


@settings(max_examples=examples(40))
@given(seed=st.integers(0, 2**32))
def test_a_change_of_one_model_touches_one_shard_and_no_entry_but_its_own(seed: int) -> None:
    rng = Random(seed)
    models = [one(f"m{n}", parameters={"p": "x" * rng.randint(0, 200)}) for n in range(12)]
    start = Gathered(KEY, tuple(models))
    start = carried_out(start, plan(start, NOW))
    name = f"m{rng.randint(0, 12)}"
    changed = one(name, generation=2, parameters={"p": "y" * rng.randint(0, 200)})
    others = [model for model in start.models if model.name != name]
    after = replace(start, models=(*others, changed) if rng.random() < 0.8 else tuple(others))
    writes = plan(after, NOW).shard_writes
    assert len(writes) <= 1
    for write in writes:
        manifest = names.manifest_key(write.index)
        assert write.body["data"].keys() <= {names.entry_key(name), manifest}


def test_a_pod_without_a_report_is_given_the_grace_of_a_move() -> None:
    model = one("iris")
    older = one("iris", generation=7)
    assert model.model is not None
    assert older.model is not None
    stale = documents.render_shard(0, {"iris": older.model.to_entry(0).to_json()})
    right = documents.render_shard(1, {"iris": model.model.to_entry(1).to_json()})
    start = Gathered(KEY, (model,), (view(0, stale), view(1, right)), (pod("pod-a"),))
    assert plan(start, NOW).shard_writes == ()
    ended = replace(start, pods=(pod("pod-a", phase="Failed"),))
    assert len(plan(ended, NOW).shard_writes) == 1, "one that has ended sees nothing any more"
    ending = replace(start, pods=(pod("pod-a", terminating=True),))
    assert plan(ending, NOW).shard_writes == (), "one that ends still serves"
