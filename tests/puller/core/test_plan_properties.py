"""Promises of the plan: it converges, it is safe on doubt, it never acts twice on a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from puller.plan_builders import (
    NOW,
    Value,
    decide,
    desire,
    on_disk,
)
from support.examples import examples
from trainedmodel_puller.core.plan import plan
from trainedmodel_puller.core.state import (
    DesiredState,
    DiskModel,
    Download,
    Limits,
    Load,
    ObservedState,
    Plan,
    Remove,
    ServerState,
    ServerView,
    Stage,
    Transfer,
    Tree,
    Unload,
)

NAMES = st.sampled_from(["a", "b", "c"])
REVISIONS = st.sampled_from(["1", "2"])
DISKS = st.builds(
    lambda beside, published, loaded, is_staged: on_disk(
        *sorted(beside), published=published, loaded=loaded, is_staged=is_staged
    ),
    st.frozensets(REVISIONS, max_size=2),
    st.none() | REVISIONS,
    st.none() | REVISIONS,
    st.booleans(),
)
VIEWS = st.builds(
    ServerView,
    is_known=st.booleans(),
    models=st.dictionaries(NAMES, st.sampled_from(list(ServerState))),
)
DESIRES = st.builds(
    lambda revisions, known: replace(desire(**revisions), is_known=known),
    st.dictionaries(NAMES, REVISIONS),
    st.booleans(),
)
OBSERVATIONS = st.builds(
    ObservedState,
    disk=st.dictionaries(NAMES, DISKS),
    server=VIEWS,
    transfers=st.dictionaries(NAMES, st.builds(Transfer, revision=REVISIONS)),
    server_actions=st.dictionaries(NAMES, st.sampled_from([Stage.LOAD, Stage.UNLOAD])),
    removals=st.frozensets(NAMES),
)


def apply_plan(made: Plan, observed: ObservedState) -> ObservedState:
    """Be a world in which each action succeeds at once."""
    disk, models = dict(observed.disk), dict(observed.server.models)
    for action in made.actions:
        old = disk.get(action.name, DiskModel())
        match action:
            case Download():
                disk[action.name] = replace(old, trees={**old.trees, action.entry.revision: Tree()})
            case Load():
                disk[action.name] = replace(
                    old, published=frozenset({action.revision}), loaded=action.revision
                )
                models[action.name] = ServerState.READY
            case Unload():
                disk[action.name] = replace(old, loaded=None)
                models.pop(action.name, None)
            case Remove():
                if action.is_staging:
                    disk[action.name] = replace(old, is_staged=False)
                elif action.versions is None:
                    disk.pop(action.name, None)
                else:
                    left = {k: v for k, v in old.trees.items() if k not in action.versions}
                    disk[action.name] = replace(old, trees=left)
    return ObservedState(disk, replace(observed.server, models=models))


@given(DESIRES, OBSERVATIONS)
@settings(max_examples=examples(500))
def test_a_plan_never_acts_on_what_is_in_flight_or_in_doubt(
    desired: DesiredState, observed: ObservedState
) -> None:
    made = decide(desired, observed)
    for action in made.actions:
        if isinstance(action, Load | Unload):
            assert observed.server.is_known
            assert action.name not in observed.server_actions
            assert action.name not in observed.removals
        if isinstance(action, Download):
            assert action.name not in observed.transfers
        if isinstance(action, Remove):
            assert action.name not in observed.removals
            if action.versions is None and not action.is_staging:
                assert desired.is_known
                assert observed.server.is_known
                assert observed.server.state_of(action.name) is ServerState.ABSENT
                assert observed.disk[action.name].loaded is None
    names = [
        (type(action), action.name, getattr(action, "is_staging", 0)) for action in made.actions
    ]
    assert len(names) == len(set(names))


@given(DESIRES, OBSERVATIONS, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(
    desired: DesiredState, observed: ObservedState, jitter: Random
) -> None:
    def turned(mapping: Mapping[str, Value]) -> dict[str, Value]:
        items = list(mapping.items())
        jitter.shuffle(items)
        return dict(items)

    other = decide(
        replace(desired, models=turned(desired.models)),
        replace(observed, disk=turned(observed.disk)),
    )
    made = decide(desired, observed)
    assert sorted(map(repr, made.actions)) == sorted(map(repr, other.actions))
    assert set(made.cancelled) == set(other.cancelled)


@given(DESIRES, OBSERVATIONS)
@settings(max_examples=examples(500))
def test_p7_from_any_state_a_few_passes_reach_the_empty_plan(
    desired: DesiredState, observed: ObservedState
) -> None:
    calm = {
        name: ServerState.READY if state is ServerState.READY else ServerState.ABSENT
        for name, state in observed.server.models.items()
    }
    observed = ObservedState(observed.disk, ServerView(True, calm))
    for _ in range(24):
        made = decide(desired, observed)
        if made.is_empty:
            break
        observed = apply_plan(made, observed)
    assert decide(desired, observed).is_empty
    for name, wanted in desired.models.items():
        assert observed.disk[name].loaded == wanted.entry.revision
    if desired.is_known:
        assert observed.disk.keys() == desired.models.keys()


@given(DESIRES, OBSERVATIONS)
@settings(max_examples=examples(300))
def test_a_plan_is_the_same_when_nothing_has_changed(
    desired: DesiredState, observed: ObservedState
) -> None:
    assert decide(desired, observed) == decide(desired, observed)


@given(DESIRES, OBSERVATIONS, NAMES)
@settings(max_examples=examples(300))
def test_a_plan_for_one_name_decides_as_the_plan_for_all_does(
    desired: DesiredState, observed: ObservedState, name: str
) -> None:
    """Slots apart, of which there are enough for all here."""
    plenty = Limits(max_downloads=100, max_loads=100)
    whole = plan(desired, observed, plenty, NOW)
    alone = plan(desired, observed, plenty, NOW, only=[name])
    tidied = [action for action in whole.actions if getattr(action, "versions", None) is not None]
    mine = [action for action in whole.actions if action.name == name and action not in tidied]
    assert list(alone.actions) == mine
    assert [item for item in whole.deferred if item.name == name] == list(alone.deferred)
    assert set(alone.cancelled) == {cancelled for cancelled in whole.cancelled if cancelled == name}
