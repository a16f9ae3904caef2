"""O11: each write of a plan stands for itself; whichever are refused, the others are the same.

The world here changes models, refuses writes, and carries the others out in any order. What must
never be is what pods would suffer from: a wanted model in no shard, or more declared memory in the
shards than the server has.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.operator.builders import KEY, NOW, carried_out, entries_of, one, pod, report, view
from trainedmodel_contract import names
from trainedmodel_contract.entry import parse_entry
from trainedmodel_operator.core.pacing.put_off import Failure, Kind, put_off
from trainedmodel_operator.core.plan import Plan, plan
from trainedmodel_operator.core.shards import documents
from trainedmodel_operator.core.shards.placement import MOVE_GRACE
from trainedmodel_operator.core.state import DesiredModel, Gathered, Memory

BUDGET = 1500
LIMIT = 10 * 1024**3
SEEDS = st.integers(0, 2**32)
INDICES = st.frozensets(st.integers(0, names.SHARD_COUNT - 1))


def holding(gathered: Gathered, held: frozenset[int]) -> Gathered:
    return replace(gathered, memory=replace(gathered.memory, held=held))


class World:
    """Models that need much memory, in shards that are soon full."""

    def __init__(self, seed: int, *, is_seen: bool = True) -> None:
        self.rng = Random(seed)
        self.now = NOW
        self.is_seen = is_seen
        self.gathered = Gathered(KEY, pods=(pod("pod-a", server_memory=LIMIT),))
        self.placed: set[str] = set()
        #: A model that comes to declare more is let in all the same, so none does.
        self.sizes = {f"m{n}": self.rng.randint(0, 4) for n in range(10)}

    def change_model(self) -> None:
        name = f"m{self.rng.randint(0, 9)}"
        models = [model for model in self.gathered.models if model.name != name]
        if self.rng.random() < 0.4:
            self.placed.discard(name)
        else:
            models.append(self.drawn_model(name))
        self.gathered = replace(self.gathered, models=tuple(models))

    def drawn_model(self, name: str) -> DesiredModel:
        size = self.rng.choice([0, 20, 45, 90])
        return one(
            name,
            generation=self.rng.randint(1, 99),
            memory=f"{self.sizes[name]}Gi",
            uri="no-uri" if self.rng.random() < 0.1 else None,
            parameters={"p": "x" * (size * 10)},
        )

    def decide(self, held: frozenset[int] = frozenset()) -> Plan:
        digest = documents.seen_digest((one.index, one.data) for one in self.gathered.shards)
        of = self.gathered.pods[0]
        reports = {of.uid: report(of, digest=digest)} if self.is_seen else {}
        self.gathered = replace(self.gathered, reports=reports)
        return plan(holding(self.gathered, held), self.now)

    def make_pass(self, refused: frozenset[int]) -> None:
        decided = self.decide(refused)
        writes = [write for write in decided.shard_writes if write.index not in refused]
        self.rng.shuffle(writes)
        for write in writes:
            part = Plan(shard_writes=(write,), moving=decided.moving)
            self.gathered = carried_out(self.gathered, part, self.now)
            self.check()
        if not writes:
            self.gathered = carried_out(self.gathered, Plan(moving=decided.moving), self.now)
        self.now += timedelta(seconds=self.rng.choice([0, 1, 100]))

    def check(self) -> None:
        held = {name for entries in entries_of(self.gathered).values() for name in entries}
        assert self.placed <= held, "a wanted model left all shards"
        self.placed |= held & {model.name for model in self.gathered.models}
        memory: dict[str, int] = {}
        for shard in self.gathered.shards:
            for key, text in shard.data.items():
                name = names.object_name(key)
                if name is None:
                    continue
                entry = parse_entry(text)
                memory[name] = max(entry.memory or 0, memory.get(name, 0))
        assert sum(memory.values()) <= LIMIT, "more memory than the server has"


@pytest.fixture(autouse=True, scope="module")
def _small_shards() -> object:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(names, "SHARD_BUDGET_BYTES", BUDGET)
        yield


@settings(max_examples=examples(40))
@given(seed=SEEDS, refused=INDICES)
def test_o11_whatever_is_refused_what_is_written_is_what_an_unhindered_pass_writes_less_that(
    seed: int, refused: frozenset[int]
) -> None:
    world = World(seed)
    for _ in range(25):
        world.change_model()
        if world.rng.random() < 0.5:
            unhindered, hindered = world.decide(), world.decide(refused)
            assert hindered.shard_writes == tuple(
                write for write in unhindered.shard_writes if write.index not in refused
            )
            assert {write.index for write in hindered.held} == refused & {
                write.index for write in unhindered.shard_writes
            }
            world.make_pass(frozenset(world.rng.sample(range(4), world.rng.randint(0, 2))))


@settings(max_examples=examples(40))
@given(seed=SEEDS, refused=INDICES, is_seen=st.booleans())
def test_o11_refused_writes_lose_no_model_and_give_no_memory_twice(
    seed: int, refused: frozenset[int], is_seen: bool
) -> None:
    world = World(seed, is_seen=is_seen)
    for _ in range(40):
        world.change_model()
        if world.rng.random() < 0.6:
            world.make_pass(refused)
        if world.rng.random() < 0.1:
            refused = frozenset(world.rng.sample(range(4), world.rng.randint(0, 3)))


@settings(max_examples=examples(25))
@given(seed=SEEDS, refused=INDICES)
def test_o11_once_nothing_is_refused_any_more_everything_comes_to_rest_in_a_few_passes(
    seed: int, refused: frozenset[int]
) -> None:
    world = World(seed)
    for _ in range(20):
        world.change_model()
        world.make_pass(refused)
    for _ in range(8):
        world.make_pass(frozenset())
        world.now += MOVE_GRACE
    rest = world.decide()
    assert rest.shard_writes == ()
    assert rest.held == ()


def of(index: int, *models: DesiredModel) -> object:
    entries = {model.name: model.model.to_entry(index).to_json() for model in models}  # type: ignore[union-attr]
    return view(index, documents.render_shard(index, entries))


def two_shards(leaver: DesiredModel, comer: DesiredModel) -> Gathered:
    """Return a service whose first shard is to lose `leaver`, and whose second is to get `comer`.

    The first one has no room: `old` is there, and is wanted.
    """
    old = one("old", parameters={"p": "x" * 1000})
    neighbour = one("neighbour")
    shown = (of(0, old, leaver), of(1, neighbour))
    return Gathered(KEY, (old, neighbour, comer), shown, (pod(server_memory=LIMIT),))  # type: ignore[arg-type]


NEEDY = one("b", memory="8Gi", parameters={"p": "y" * 400})


def test_o11_what_takes_memory_from_another_shard_comes_after_that_was_written() -> None:
    start = two_shards(one("a", memory="8Gi"), NEEDY)
    first = plan(start, NOW)
    assert [write.index for write in first.shard_writes] == [0]
    assert NOW in {wait.until for wait in first.deferred}, "and the next pass is made at once"
    second = plan(carried_out(start, first), NOW)
    assert [write.index for write in second.shard_writes] == [1]


def test_o11_what_waits_for_a_refused_write_says_so_and_its_neighbours_do_not_wait() -> None:
    start = two_shards(one("a", memory="8Gi"), NEEDY)
    start = replace(start, models=(*start.models, one("new", parameters={"p": "z" * 400})))
    decided = plan(_refused(start, 0), NOW)
    assert [write.reason for write in decided.shard_writes] == ["+1 ~0 -0 entries"]
    told = {write.name: write.status for write in decided.statuses}
    assert told["b"]["reason"] == "ShardRefused"
    message = told["b"]["conditions"][0]["message"]
    assert message == (
        "The API server refused to write ConfigMap tabular-models-0: over quota. "
        "The operator tries again. This model needs the memory of a, which is still in that "
        "ConfigMap."
    )
    assert {name for name, one in told.items() if one["reason"] == "ReportMissing"} == {
        "old",
        "neighbour",
        "new",
    }


def _refused(gathered: Gathered, index: int) -> Gathered:
    [write] = [write for write in plan(gathered, NOW).shard_writes if write.index == index]
    failed = put_off(
        None, Failure(Kind.REFUSED, "over quota", documents.attempt(write)), NOW, jitter=1.0
    )
    return replace(gathered, memory=Memory(put_off={index: failed}))
