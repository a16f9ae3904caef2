"""Placement: which model's entry is in which shard.

The algorithm is stable first fit. A model stays in its shard, and a new one goes to the first shard
with room. So most services have one ConfigMap, a deleted model leaves a gap that the next one
fills, and no change of one model ever rewrites the entry of another.

Rules, in the order in which a model meets them:

1. `_kept_entries`: a model whose spec is not usable keeps its entry, byte for byte. Doubt never
   unloads. So does a model that was renamed to a name that is taken (rule 2).
2. `name_conflicts`: of two models with one served name, the one that has it in a shard keeps it,
   else the older (creation time, then name) gets it. An entry kept by rule 1 takes part under the
   name in that entry.
3. `memory_admission`: a model without an entry is refused if its declared memory does not fit into
   the server any more, the newest first. A model with an entry stays.
4. `_settle`: a model stays in its shard if its present entry is right or the new one fits. If it is
   in two shards (an interrupted move) its home is the shard whose entry is already right, and the
   lower index if both or neither are.
5. `_move`: a model that no longer fits, or has no shard, goes to the first with room. A model that
   fits nowhere keeps its old entry, if it has one, and its status says why.
6. `_leave`: a moved model's old entry is removed in a *later* write than the one that added its new
   entry, and only when the pods have seen the new one (or have had `MOVE_GRACE` to): a kubelet may
   refresh the shards of one pod in any order, and a pod that saw only the removal would unload a
   wanted model.
7. `_wait`: a model that needs the memory of one that leaves *another* shard is added in a later
   write than that removal. So no write depends on another one of the same pass, and each may fail
   by itself. (A served name needs no such rule: a puller gives it to no other model while its
   owner's entry is there.)

A foreign ConfigMap with a shard's name is skipped: never written, never counted.

A model that moves to another service leaves the shards of the old one and enters those of the new
one in two passes of two workers, in either order. No order is safe or unsafe, because no pod mounts
shards of two services. To avoid a gap, apply a second TrainedModel and delete the first when the
second is Ready.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from trainedmodel_contract import names
from trainedmodel_contract.entry import Entry, EntryError, parse_entry
from trainedmodel_contract.quantity import format_bytes, parse_bytes
from trainedmodel_contract.reasons import SENTENCES, Reason

from trainedmodel_operator.core.shards.memory_admission import Need, admit, memory_limit
from trainedmodel_operator.core.shards.name_conflicts import Claim, Loss, settle_names
from trainedmodel_operator.core.state import DesiredModel, Gathered, ShardView

#: How long a move waits for pods that do not say that they have seen it. Un-nudged, a kubelet
#: refreshes its volumes within about 80 s; nudged, within a second.
MOVE_GRACE = timedelta(seconds=90)

#: Kept free for the manifest, whose length varies a little with its count.
MANIFEST_BYTES = 160


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a model is placed, and if not, why not. Becomes the condition `Accepted`."""

    accepted: bool
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Wait:
    """The reason why an entry waits: an object's entry must leave another shard."""

    shard: int
    leaver: str


@dataclass(frozen=True, slots=True)
class Placement:
    """The decision.

    Attributes:
        entries: For each shard index, its desired entries by object name.
        homes: For each accepted model, the shard that holds its present entry.
        verdicts: For each model, by object name.
        moving: Models whose old entry waits for the pods to see the new one.
        waiting: Models whose first entry waits for another model to leave another shard.
    """

    entries: Mapping[int, Mapping[str, str]]
    homes: Mapping[str, int]
    verdicts: Mapping[str, Verdict]
    moving: frozenset[str] = frozenset()
    waiting: Mapping[str, Wait] = field(default_factory=dict)


@dataclass(slots=True)
class _Draft:
    """The decision while it is made."""

    stored: dict[int, dict[str, str]]
    free: list[int]
    has_foreign: bool
    entries: dict[int, dict[str, str]] = field(default_factory=dict)
    used: dict[int, int] = field(default_factory=dict)
    homes: dict[str, int] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    moving: set[str] = field(default_factory=set)
    beyond: Mapping[str, str] = field(default_factory=dict)
    needs: Mapping[str, int] = field(default_factory=dict)
    waiting: dict[str, Wait] = field(default_factory=dict)

    def held(self, name: str) -> list[int]:
        """Return the shards that hold an entry of the model now, in order."""
        return [index for index in sorted(self.stored) if name in self.stored[index]]

    def put(self, index: int, name: str, entry: str) -> None:
        """Put an entry into a shard, in the place of the model's former one there."""
        before = self.entries[index].get(name)
        if before is not None:
            self.used[index] -= entry_bytes(name, before)
        self.entries[index][name] = entry
        self.used[index] += entry_bytes(name, entry)

    def take_back(self, index: int, name: str) -> None:
        """Take an entry out of a shard that never held one of this model."""
        self.used[index] -= entry_bytes(name, self.entries[index].pop(name))

    def fits(self, index: int, name: str, entry: str) -> bool:
        """Tell whether the entry fits, in the place of the model's former one there."""
        before = self.entries[index].get(name)
        spared = 0 if before is None else entry_bytes(name, before)
        return (
            self.used[index] - spared + entry_bytes(name, entry) + MANIFEST_BYTES
            <= names.SHARD_BUDGET_BYTES
        )


def entry_bytes(name: str, entry: str) -> int:
    """Return an entry's part of a shard's budget: its key and its value."""
    return len(names.entry_key(name).encode()) + len(entry.encode())


def stored_entries(view: ShardView) -> dict[str, str]:
    """Return the entries that a shard holds now, by object name."""
    named = ((names.object_name(key), value) for key, value in view.data.items())
    return {name: value for name, value in named if name is not None}


def place(gathered: Gathered, seen: bool, now: datetime) -> Placement:
    """Decide the content of each shard. `seen`: all pods have seen the present shards."""
    ours = [view for view in gathered.shards if view.is_ours]
    foreign = {view.index for view in gathered.shards if not view.is_ours}
    draft = _Draft(
        stored={view.index: stored_entries(view) for view in ours},
        free=[index for index in range(names.SHARD_COUNT) if index not in foreign],
        has_foreign=bool(foreign),
    )
    draft.entries = {index: {} for index in draft.free}
    draft.used = dict.fromkeys(draft.free, 0)
    models = sorted(gathered.models, key=lambda model: model.seniority)
    losses = _name_conflicts(draft, models)
    contenders = [model for model in models if model.name not in losses]
    _reserve(draft, contenders)
    _kept_entries(draft, contenders)
    keeping = [one for one in models if one.name not in losses or losses[one.name].kept]
    limit = memory_limit(gathered.pods)
    _admit(draft, keeping, limit)
    homeless = _settle(draft, [one for one in contenders if one.name not in draft.verdicts])
    _move(draft, homeless)
    _leave(draft, gathered, seen, now)
    _wait(draft, keeping, limit)
    return Placement(
        draft.entries, draft.homes, draft.verdicts, frozenset(draft.moving), draft.waiting
    )


def _name_conflicts(draft: _Draft, models: list[DesiredModel]) -> dict[str, Loss]:
    """Rule 2: refuse all but one of the models with one served name."""
    claims = [
        Claim(one.name, one.seniority, None if one.model is None else one.model.served_name)
        for one in models
    ]
    losses = settle_names(claims, lambda name: [entry.name for _, entry in _parsed(draft, name)])
    for name, loss in losses.items():
        kept = ""
        if loss.kept is not None:
            kept = f"; until then it is served as {loss.kept}, as before"
            for index, entry in _parsed(draft, name):
                if entry.name == loss.kept:
                    draft.put(index, name, draft.stored[index][name])
        older = "is older and" if loss.is_owner_older else "already"
        draft.verdicts[name] = Verdict(
            accepted=False,
            reason=Reason.NAME_CONFLICT,
            message=f"TrainedModel {loss.owner} {older} has the served name {loss.name}: "
            f"rename one of them (spec.model.name){kept}",
        )
    return losses


def _parsed(draft: _Draft, name: str) -> list[tuple[int, Entry]]:
    """Return a model's entries as far as they can be read, with their shards."""
    parsed = []
    for index in draft.held(name):
        try:
            parsed.append((index, parse_entry(draft.stored[index][name])))
        except EntryError:
            continue
    return parsed


def _admit(draft: _Draft, models: list[DesiredModel], limit: int | None) -> None:
    """Rule 3: refuse models that do not fit into the server's memory."""
    if limit is None:
        return
    needs = [
        Need(model.name, _declared(draft, model), bool(draft.held(model.name))) for model in models
    ]
    draft.needs = {need.name: need.size for need in needs}
    admission = admit(needs, limit)
    draft.beyond = admission.beyond
    for name, message in admission.refused.items():
        draft.verdicts.setdefault(
            name, Verdict(accepted=False, reason=Reason.INSUFFICIENT_MEMORY, message=message)
        )


def _declared(draft: _Draft, model: DesiredModel) -> int:
    """Return what a model declares in bytes; of one that is refused, what its old entry says."""
    if model.model is None or model.name in draft.verdicts:
        return max((entry.memory or 0 for _, entry in _parsed(draft, model.name)), default=0)
    memory = model.model.spec.model.memory
    return 0 if memory is None else parse_bytes(memory)


def _reserve(draft: _Draft, contenders: list[DesiredModel]) -> None:
    """Count what lies there and is still wanted, before anything is added."""
    for model in contenders:
        for index in draft.held(model.name):
            draft.put(index, model.name, draft.stored[index][model.name])


def _kept_entries(draft: _Draft, contenders: list[DesiredModel]) -> None:
    """Rule 1: say why a model is not usable; its entry was reserved as it is."""
    for model in contenders:
        if model.model is None:
            kept = "; its last good entry stays in force" if draft.held(model.name) else ""
            draft.verdicts[model.name] = Verdict(
                accepted=False,
                reason=Reason.INVALID_SPEC,
                message=f"{model.fault}{kept}",
            )


def render_entry(model: DesiredModel, index: int) -> str:
    """Render a usable model's entry for one shard, canonically (O2)."""
    if model.model is None:
        raise ValueError(f"{model.name} has no usable spec")
    return model.model.to_entry(index).to_json()


def _settle(draft: _Draft, usable: list[DesiredModel]) -> list[DesiredModel]:
    """Rule 4: let models stay. Return those that have no home, the older first.

    Those that shrink are settled first, so that the room they leave counts for those that grow.
    """
    changed: list[tuple[int, DesiredModel, int, str]] = []
    homeless: list[DesiredModel] = []
    for model in usable:
        held = draft.held(model.name)
        if not held:
            homeless.append(model)
            continue
        right = [i for i in held if draft.stored[i][model.name] == render_entry(model, i)]
        if right:
            _accept(draft, model, right[0])
            continue
        wanted = render_entry(model, held[0])
        growth = len(wanted.encode()) - len(draft.stored[held[0]][model.name].encode())
        changed.append((growth, model, held[0], wanted))
    for _, model, home, wanted in sorted(changed, key=lambda one: (one[0], one[1].name)):
        if draft.fits(home, model.name, wanted):
            draft.put(home, model.name, wanted)
            _accept(draft, model, home)
        else:
            homeless.append(model)
    return sorted(homeless, key=lambda model: model.seniority)


def _accept(draft: _Draft, model: DesiredModel, home: int) -> None:
    draft.homes[model.name] = home
    draft.verdicts[model.name] = Verdict(
        accepted=True,
        reason=Reason.ACCEPTED,
        message=" ".join(
            filter(None, (f"The entry is in shard {home}.", draft.beyond.get(model.name)))
        ),
    )
    if len(set(draft.held(model.name)) | {home}) > 1:
        draft.moving.add(model.name)


def _move(draft: _Draft, homeless: list[DesiredModel]) -> None:
    """Rule 5: first fit, in the order of the shards."""
    for model in homeless:
        for index in draft.free:
            entry = render_entry(model, index)
            if draft.fits(index, model.name, entry):
                draft.put(index, model.name, entry)
                _accept(draft, model, index)
                break
        else:
            draft.verdicts[model.name] = _no_room(draft, model)


def _no_room(draft: _Draft, model: DesiredModel) -> Verdict:
    kept = " The last good entry stays in force." if draft.held(model.name) else ""
    size = entry_bytes(model.name, render_entry(model, 0)) + MANIFEST_BYTES
    if size > names.SHARD_BUDGET_BYTES:
        words = (
            f"The entry has {format_bytes(size)}, but a shard holds at most "
            f"{format_bytes(names.SHARD_BUDGET_BYTES)}: shorten spec.model.parameters."
        )
        return Verdict(accepted=False, reason=Reason.SHARDS_FULL, message=words + kept)
    reason = Reason.SHARD_NOT_OURS if draft.has_foreign else Reason.SHARDS_FULL
    return Verdict(accepted=False, reason=reason, message=SENTENCES[reason] + kept)


def _leave(draft: _Draft, gathered: Gathered, seen: bool, now: datetime) -> None:
    """Rule 6: remove a moved model's old entries, once every pod has the new one."""
    for name in sorted(draft.moving):
        home = draft.homes[name]
        has_arrived = draft.stored.get(home, {}).get(name) == draft.entries[home][name]
        since = gathered.memory.doubled.get(name)
        has_waited = since is not None and now - since >= MOVE_GRACE
        if not has_arrived or not (seen or has_waited):
            continue
        for index in draft.held(name):
            if index != home:
                del draft.entries[index][name]
        draft.moving.discard(name)


def _wait(draft: _Draft, keeping: list[DesiredModel], limit: int | None) -> None:
    """Rule 7: let new models wait for the memory that a model in another shard still has."""
    wanted = {model.name for model in keeping}
    leaving = [
        (index, name, memory)
        for index in sorted(draft.stored)
        for name in draft.stored[index]
        if name not in wanted
        and (memory := max((one.memory or 0 for _, one in _parsed(draft, name)), default=0))
    ]
    if limit is None or not leaving:
        return
    free = limit - sum(need for name, need in draft.needs.items() if draft.held(name))
    for model in keeping:
        home, need = draft.homes.get(model.name), draft.needs[model.name]
        if home is None or not need or draft.held(model.name):
            continue
        others = [one for one in leaving if one[0] != home]
        if others and need > free - sum(memory for _, _, memory in others):
            draft.waiting[model.name] = Wait(*others[0][:2])
            draft.take_back(home, model.name)
        else:
            free -= need
