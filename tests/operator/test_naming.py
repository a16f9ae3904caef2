"""Served names: who has one keeps it, else the older gets it; nobody is displaced in silence."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from support.operator.builders import KEY, NOW, carried_out, desired, document, one, shard_of, view
from trainedmodel_contract import names
from trainedmodel_contract.entry import parse_entry
from trainedmodel_contract.reasons import Reason
from trainedmodel_operator.core.plan import plan
from trainedmodel_operator.core.shards.name_conflicts import Claim, settle_names
from trainedmodel_operator.core.shards.placement import place
from trainedmodel_operator.core.state import DesiredModel, Gathered, ShardView


def served(gathered: Gathered) -> dict[str, str]:
    """Return what the shards say after a pass: metadata.name to served name."""
    after = carried_out(gathered, plan(gathered, NOW))
    return {
        name: parse_entry(entry).name
        for shard in after.shards
        for key, entry in shard.data.items()
        if (name := names.object_name(key)) is not None
    }


def with_shard(*models: DesiredModel, shard: ShardView) -> Gathered:
    return Gathered(KEY, tuple(models), (shard,))


def test_an_older_model_that_takes_a_name_later_displaces_nobody() -> None:
    young = one("young", name="shared")
    old = one("old", name="shared", age_s=9, generation=2)
    start = with_shard(young, old, shard=shard_of(0, [young]))
    assert served(start) == {"young": "shared"}
    message = place(start, True, NOW).verdicts["old"].message
    assert message.startswith("TrainedModel young already has the served name shared")


def test_a_model_renamed_to_a_name_that_is_taken_is_served_on_as_before() -> None:
    holder = one("holder", name="x")
    before = one("iris", name="y", age_s=9)
    renamed = one("iris", name="x", age_s=9, generation=2)
    start = with_shard(holder, renamed, shard=shard_of(0, [holder, before]))
    assert served(start) == {"holder": "x", "iris": "y"}
    decided = plan(start, NOW)
    assert decided.shard_writes == ()
    verdict = place(start, True, NOW).verdicts["iris"]
    assert (verdict.accepted, verdict.reason) == (False, Reason.NAME_CONFLICT)
    assert verdict.message.endswith("until then it is served as y, as before")


def test_the_name_that_a_model_keeps_is_not_given_to_a_third() -> None:
    holder = one("holder", name="x")
    before = one("iris", name="y")
    renamed = one("iris", name="x", generation=2)
    third = one("third", name="y", age_s=9)
    start = with_shard(holder, renamed, third, shard=shard_of(0, [holder, before]))
    assert served(start) == {"holder": "x", "iris": "y"}


def test_a_model_gets_the_name_as_soon_as_its_holder_is_gone() -> None:
    before = one("iris", name="y")
    renamed = one("iris", name="x", generation=2)
    start = with_shard(renamed, shard=shard_of(0, [one("holder", name="x"), before]))
    assert served(start) == {"iris": "x"}


def test_two_models_may_swap_their_names() -> None:
    before = [one("a", name="x"), one("b", name="y")]
    start = with_shard(
        one("a", name="y", generation=2),
        one("b", name="x", generation=2),
        shard=shard_of(0, before),
    )
    assert served(start) == {"a": "y", "b": "x"}


def test_a_model_that_was_repaired_does_not_take_a_name_back() -> None:
    broken, young = (
        document("old", uri="no-uri", name="shared", age_s=9),
        one("young", name="shared"),
    )
    start = Gathered(KEY, (*desired(broken), young))
    first = carried_out(start, plan(start, NOW))
    repaired = one("old", name="shared", age_s=9, generation=2)
    assert served(Gathered(KEY, (repaired, young), first.shards)) == {"young": "shared"}


def test_of_two_that_hold_one_name_already_the_older_keeps_it() -> None:
    old, young = one("old", name="shared", age_s=9), one("young", name="shared")
    assert served(with_shard(old, young, shard=shard_of(0, [old, young]))) == {"old": "shared"}


def test_an_entry_that_cannot_be_read_holds_no_name() -> None:
    young, old = one("young", name="shared"), one("old", name="shared", age_s=9)
    start = with_shard(young, old, shard=view(0, {"young.json": "{"}))
    assert served(start) == {"old": "shared"}


CLAIMS = st.lists(
    st.tuples(st.none() | st.sampled_from("xyz"), st.lists(st.sampled_from("xyz"), max_size=2)),
    max_size=7,
)


@given(CLAIMS)
def test_every_name_has_one_owner_and_a_sole_holder_never_loses_it(
    drawn: list[tuple[str | None, list[str]]],
) -> None:
    claims = [Claim(f"m{n}", ("", f"m{n}"), wanted) for n, (wanted, _) in enumerate(drawn)]
    held = {f"m{n}": names_ for n, (_, names_) in enumerate(drawn)}
    losses = settle_names(claims, held.__getitem__)
    granted: dict[str, str] = {}
    for claim in claims:
        loss = losses.get(claim.model)
        name = loss.kept if loss else claim.wanted or next(iter(held[claim.model]), None)
        if name is not None:
            assert granted.setdefault(name, claim.model) == claim.model
    for claim in claims:
        if claim.wanted in held[claim.model]:
            rivals = [one for one in claims if one is not claim and claim.wanted in held[one.model]]
            assert rivals or claim.model not in losses
