"""No kept revision goes for bytes that another removal frees already."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from puller.core.test_room import LIMITS, NOW, decide, desire, loaded, no_room, ready, wanted
from trainedmodel_puller.core.room import Freeing, Kept, evict, removed_bytes
from trainedmodel_puller.core.state import (
    DiskModel,
    ObservedState,
    Plan,
    Remove,
    Transfer,
    Tree,
)

BIG = wanted("big")
NAMES = ("a", "b", "c", "d", "e", "f")


def removed(made: Plan) -> dict[str, frozenset[str] | None]:
    return {action.name: action.versions for action in made.actions if isinstance(action, Remove)}


class Volume:
    """A volume with one kept revision a name, a model that waits for room, and a clock."""

    def __init__(self, sizes: tuple[int, ...], free: int, needs: int, *, has_limit: bool) -> None:
        names = NAMES[: len(sizes)]
        self.disk = {
            name: DiskModel(
                trees={"old": Tree(size, float(at)), "9": Tree(1, 50.0)},
                published=frozenset({"9"}),
                loaded="9",
            )
            for at, (name, size) in enumerate(zip(names, sizes, strict=True))
        }
        self.desired = desire(BIG, *(wanted(name, "9") for name in names))
        self.failures = no_room(BIG, needs)
        self.now = NOW
        self.free = self.seen = free
        self.disk_at = self.account_at = NOW
        self.has_limit = has_limit
        self.under_way: dict[str, int] = {}
        self.late: list[tuple[float, int]] = []
        self.freeing = Freeing()
        self.gone: set[str] = set()
        self.account = free

    def plan(self) -> None:
        """Decide, and begin what is decided."""
        observed = ObservedState(
            self.disk,
            ready(*self.disk),
            removals=set(self.under_way),
            failures=self.failures,
            free_bytes=min(self.seen, self.account) if self.has_limit else self.seen,
            freeing_bytes=self.freeing.bytes,
        )
        for action in decide(self.desired, observed, replace(LIMITS, keep_versions=1)).actions:
            if isinstance(action, Remove):
                size = removed_bytes(action, self.disk[action.name])
                self.under_way[action.name] = size
                self.freeing.begin(action.name, size)
                self.gone.add(action.name)

    def free_a_part(self, name: str) -> None:
        """Have half of what is left of a tree deleted."""
        half = self.under_way[name] // 2
        self.under_way[name] -= half
        self.free += half

    def end(self, name: str, lag_s: float) -> None:
        """Have a removal end; the file system frees the rest a little later."""
        self.late.append((self.now + lag_s, self.under_way.pop(name)))
        disk = self.disk[name]
        self.disk[name] = replace(disk, trees={"9": disk.trees["9"]})
        self.freeing.end(name, self.now)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.free += sum(size for at, size in self.late if at <= self.now)
        self.late = [(at, size) for at, size in self.late if at > self.now]

    def look(self) -> None:
        """Ask the disk what is free."""
        self.seen, self.disk_at = self.free, self.now
        self._note()

    def measure(self) -> None:
        """Measure what a limit leaves; a walk sees at once that a file is gone."""
        self.account, self.account_at = self.free + sum(size for _, size in self.late), self.now
        self._note()

    def _note(self) -> None:
        self.freeing.look(self.disk_at, self.account_at if self.has_limit else float("inf"))


#: Of which removal half of what is left is freed, or which one ends, at how late a freeing; how
#: long that takes; which looks are made then. A plan follows.
STEPS = st.lists(
    st.tuples(
        st.none() | st.integers(0, 5),
        st.none() | st.tuples(st.integers(0, 5), st.sampled_from([0.0, 0.9])),
        st.sampled_from([0.001, 0.5, 1.1]),
        st.booleans(),
        st.booleans(),
    ),
    max_size=20,
)
Step = tuple[int | None, tuple[int, float] | None, float, bool, bool]


def carry_out(volume: Volume, step: Step) -> None:
    part, end, seconds, looks, measures = step
    if part is not None and NAMES[part] in volume.under_way:
        volume.free_a_part(NAMES[part])
    if end is not None and NAMES[end[0]] in volume.under_way:
        volume.end(NAMES[end[0]], end[1])
    volume.wait(seconds)
    if looks:
        volume.look()
    if measures:
        volume.measure()
    volume.plan()


@given(
    st.lists(st.integers(1, 100), min_size=2, max_size=6),
    st.integers(0, 200),
    st.floats(0, 1.1),
    st.booleans(),
    STEPS,
)
def test_however_removals_looks_and_plans_meet_no_more_goes_than_is_needed(
    sizes: list[int], free: int, part: float, has_limit: bool, steps: list[Step]
) -> None:
    needs = max(free - LIMITS.reserve_bytes + int(part * sum(sizes)), 1)
    volume = Volume(tuple(sizes), free, needs, has_limit=has_limit)
    kept = [
        Kept(float(at), name, "old", size)
        for at, (name, size) in enumerate(zip(NAMES, sizes, strict=False))
    ]
    needed = {tree.name for tree in evict(kept, needs + LIMITS.reserve_bytes - free)}
    volume.plan()
    for step in steps:
        assert volume.gone == needed
        carry_out(volume, step)
    for name in list(volume.under_way):
        volume.end(name, 0.5)
    volume.wait(2)
    volume.look()
    volume.measure()
    assert volume.freeing.bytes == 0
    volume.plan()
    assert volume.gone == needed
    assert not needed or volume.seen >= needs + LIMITS.reserve_bytes


def test_below_a_limit_a_removal_is_not_seen_before_the_volume_is_measured() -> None:
    """However long ago the files went: the account still has them."""
    volume = Volume((100, 100, 100), free=60, needs=100, has_limit=True)
    volume.plan()
    volume.end("a", 0.0)
    volume.wait(30)
    volume.look()
    volume.plan()
    assert volume.gone == {"a"}
    volume.measure()
    assert volume.freeing.bytes == 0
    volume.plan()
    assert volume.gone == {"a"}


def test_what_freed_less_than_it_was_takes_another_one_once_that_is_seen() -> None:
    """Linked trees free nothing, for one."""
    volume = Volume((100, 100, 100), free=60, needs=100, has_limit=False)
    volume.plan()
    assert volume.gone == {"a"}
    volume.under_way["a"] = 0
    volume.end("a", 0.0)
    volume.wait(0.5)
    volume.look()
    volume.plan()
    assert volume.gone == {"a"}, "its bytes may still come"
    volume.wait(0.6)
    volume.look()
    volume.plan()
    assert volume.gone == {"a", "b"}


def test_a_model_that_is_let_in_takes_no_further_revision() -> None:
    """What it is promised is not free any more, and it is not missing either."""
    observed = ObservedState(
        {"a": loaded("9", "old", size=300)},
        ready("a"),
        transfers={"big": Transfer("1", total_bytes=500)},
        failures=no_room(BIG, 500),
        free_bytes=510,
    )
    made = decide(desire(BIG, wanted("a", "9")), observed)
    assert removed(made) == {}
    other = wanted("other")
    failures = no_room(BIG, 500) | no_room(other, 200)
    observed = replace(observed, failures=failures)
    made = decide(desire(BIG, other, wanted("a", "9")), observed)
    assert removed(made) == {"a": frozenset({"old"})}, "another one's room is missing"


def test_what_goes_anyway_makes_room_first() -> None:
    a, b = wanted("a", "9"), wanted("b", "9")
    disk = {"a": loaded("9", "oldest"), "b": loaded("9", "old", "older")}
    disk["b"] = replace(
        disk["b"],
        trees={"old": Tree(100, 7.0), "older": Tree(100, 6.0), "9": Tree(100, 50.0)},
    )
    observed = ObservedState(disk, ready("a", "b"), failures=no_room(BIG, 500), free_bytes=450)
    made = decide(desire(BIG, a, b), observed)
    assert removed(made) == {"b": frozenset({"older"})}, "one of two is kept, and 60 are missing"


def test_a_model_that_leaves_makes_room_before_a_kept_revision_does() -> None:
    disk = {"a": loaded("9", "old"), "leaving": replace(loaded(), loaded=None)}
    observed = ObservedState(disk, ready("a"), failures=no_room(BIG, 500), free_bytes=450)
    made = decide(desire(BIG, wanted("a", "9")), observed)
    assert removed(made) == {"leaving": None}
    under_way = replace(observed, removals={"leaving"}, freeing_bytes=100)
    assert removed(decide(desire(BIG, wanted("a", "9")), under_way)) == {}
    gone = replace(observed, disk={"a": disk["a"]}, freeing_bytes=0)
    assert removed(decide(desire(BIG, wanted("a", "9")), gone)) == {"a": frozenset({"old"})}


def test_what_a_download_left_is_not_counted_since_nobody_knows_its_size() -> None:
    disk = replace(loaded("1", "0"), is_staged=True)
    assert removed_bytes(Remove("a", is_staging=True), disk) == 0
    assert removed_bytes(Remove("a", frozenset({"0", "gone"})), disk) == 100
    assert removed_bytes(Remove("a"), disk) == 200
