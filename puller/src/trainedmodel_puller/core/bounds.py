"""Limits of a ModelReport: its size, the fields that it leaves out, and how often it is written.

A report is one object of etcd, which refuses 1.5 MiB, and an API server spends half a second of a
core on a write of 1 MB. So a report of 10,000 models stays below 1 MB by leaving out fields. It
never states anything untrue. The levels:

0. `WHOLE`     all fields
1. `SHORT`     messages of at most 120 bytes
2. `TERSE`     messages of at most 40 bytes
3. `WORDLESS`  no messages: the reasons have their own sentences
4. `TIMELESS`  no bytes, attempts and times
5. `BARE`      no `InProgress` and no `Loaded`, which are a reader's defaults; the first four
               characters of `loadedRevision`, because only its presence matters; no models that
               are being unloaded after their TrainedModel was deleted
6. `FACTS`     a waiting model is reported as if its new revision had not been seen: `Loaded` in
               the revision that the server has, or not at all; a failed one has no `revision`
7. `WITNESS`   the same for models in progress; a failed one has no `reason`
8. `PARTIAL`   models are left out, by name: first those that serve nothing

The first level that fits is used. Down to `BARE` no field is lost that a reader decides on. In
`FACTS` and `WITNESS` the reader (the operator's `copies`) still finds for each model whether it is
ready and available; the reason is then in the puller's `/status` and log alone. The operator treats
a model that `PARTIAL` leaves out as not seen by the pod: not ready, though it may be. Because this
is the greatest loss, it begins at a higher budget than all other levels. 10,000 settled models with
names of 63 characters take 980 KB at `BARE`, and 1.15 MB at `TIMELESS`.

Sizes are of the JSON that etcd stores, in which Go writes `<`, `>` and `&` as six bytes.

A level is left only when the models would fit the next better one with a fifth to spare. So a
report whose size varies around a budget is not rewritten each time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import accumulate
from typing import Any, Final

from trainedmodel_contract.modelreport import ReportedModel
from trainedmodel_contract.reasons import Reason, State


class Level(IntEnum):
    """How much of each model is reported; see the module."""

    WHOLE = 0
    SHORT = 1
    TERSE = 2
    WORDLESS = 3
    TIMELESS = 4
    BARE = 5
    FACTS = 6
    WITNESS = 7
    PARTIAL = 8


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of the size of `models` in etcd, in bytes.

    Attributes:
        wanted: Limit for all levels but `PARTIAL`; the rest of 1 MB is for the head.
        most: Limit that is never exceeded; `PARTIAL` leaves out models beyond it.
    """

    wanted: int = 990_000
    most: int = 1_350_000

    def shrunk(self) -> Budget:
        """Return three quarters of it, for an API server that takes less than it should."""
        return Budget(self.wanted * 3 // 4, self.most * 3 // 4)


#: Bytes of one model at each level up to `WITNESS`.
Weights = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Bounded:
    """A report's models within a budget.

    Attributes:
        models: Content of the report.
        size: Upper bound of its bytes in etcd.
        left_out: Number of models that are missing from the report.
        sources: Input and size of each model, for the next round.
    """

    models: Mapping[str, ReportedModel] = field(default_factory=dict)
    level: Level = Level.WHOLE
    size: int = 2
    left_out: int = 0
    sources: Mapping[str, tuple[ReportedModel, Weights]] = field(default_factory=dict)


#: Of a budget: a better level must fit into this share before it is gone back to.
_EASE: Final = 0.8
_MESSAGE_BYTES: Final = {Level.SHORT: 120, Level.TERSE: 40}
_LOADED_CHARS: Final = 4
_WAITING: Final = frozenset({State.WAITING, State.PENDING})
_UNDER_WAY: Final = _WAITING | {State.DOWNLOADING, State.VERIFYING, State.LOADING}
_FAILED: Final = frozenset({State.FAILED, State.BLOCKED})
_SETTLED_FIELDS: Final = {"state", "revision"}
#: What JSON writes as it is: printable ASCII without `"`, `\\`, `<`, `>`, `&`.
_PLAIN: Final = re.compile(r"[ !#-%'-;=?-\[\]-~]*").fullmatch
_LEVELS: Final = int(Level.PARTIAL)
#: Of `"name":value,` what is neither name nor value.
_FIELD_MARKS: Final = 4
#: Bytes of `{}`.
_EMPTY: Final = 2

#: A write is followed by a pause of a second for each so many bytes of the report, and of what
#: changed: an API server then spends an eighth of a core on one pod's report at most.
_BYTES_PER_SECOND: Final = 250_000
_LEAST_SPACING_S: Final = 0.2


def spacing_s(size: int, sent: int) -> float:
    """Return the pause after a write, in seconds.

    Args:
        size: Bytes of the whole report; etcd and each watcher get all of it with each write.
        sent: Bytes of what changed.
    """
    return max(_LEAST_SPACING_S, (size + sent) / _BYTES_PER_SECOND)


def bound_models(
    models: Mapping[str, ReportedModel], budget: Budget, before: Bounded | None = None
) -> Bounded:
    """Fit models into a budget. Total, deterministic; see the module for the rules in order.

    `before` is the previous result. While the level stays, an unchanged model object gives the same
    result object, so that only changed models are dumped again.
    """
    before = before or Bounded()
    known = before.sources
    sources: dict[str, tuple[ReportedModel, Weights]] = {}
    for model_id, model in models.items():
        source = known.get(model_id)
        is_known = source is not None and source[0] is model
        sources[model_id] = source if is_known and source else (model, _weigh(model_id, model))
    totals = [2 + sum(column) for column in zip(*(w for _, w in sources.values()), strict=True)]
    level = _choose(totals or [2] * _LEVELS, budget, before.level)
    kept = _told(sources, min(level, Level.WITNESS), before)
    if level < Level.PARTIAL:
        return Bounded(kept, level, totals[level] if totals else 2, 0, sources)
    return _leave_out(kept, sources, budget, level)


def _choose(totals: list[int], budget: Budget, held: Level) -> Level:
    is_hopeless = totals[Level.WITNESS] > budget.wanted
    room = budget.most if is_hopeless else budget.wanted
    fits = next((Level(n) for n, total in enumerate(totals) if total <= room), Level.PARTIAL)
    if held <= fits:
        return fits
    eased = (Level(n) for n, total in enumerate(totals) if total <= room * _EASE)
    return min(next(eased, Level.PARTIAL), held)


def _told(
    sources: Mapping[str, tuple[ReportedModel, Weights]], level: Level, before: Bounded
) -> dict[str, ReportedModel]:
    is_same_level = min(before.level, Level.WITNESS) == level
    told: dict[str, ReportedModel] = {}
    for model_id, source in sources.items():
        if is_same_level and before.sources.get(model_id) is source:
            cut = before.models.get(model_id)
            if cut is None and before.left_out:
                cut = tell_less(source[0], level)
        else:
            cut = tell_less(source[0], level)
        if cut is not None:
            told[model_id] = cut
    return told


def _leave_out(
    told: Mapping[str, ReportedModel],
    sources: Mapping[str, tuple[ReportedModel, Weights]],
    budget: Budget,
    level: Level,
) -> Bounded:
    order = sorted(told, key=lambda model_id: (not _serves(told[model_id]), model_id))
    sizes = accumulate((sources[model_id][1][Level.WITNESS] for model_id in order), initial=2)
    count, size = 0, 2
    for index, total in enumerate(sizes):
        if total > budget.most:
            break
        count, size = index, total
    kept = {model_id: told[model_id] for model_id in order[:count]}
    return Bounded(kept, level, size, len(order) - count, sources)


def _serves(model: ReportedModel) -> bool:
    return model.state == State.LOADED or model.loaded_revision is not None


def tell_less(model: ReportedModel, level: Level) -> ReportedModel | None:
    """Return a model's fields at a level up to `WITNESS`; None if it has none."""
    if level is Level.WHOLE:
        return model
    if _is_settled(model):
        return model if level < Level.BARE else ReportedModel(revision=model.revision)
    said = {name: getattr(model, name) for name in model.model_fields_set}
    if level in _MESSAGE_BYTES:
        said["message"] = _shortened(model.message, _MESSAGE_BYTES[level])
    else:
        said.pop("message", None)
    if level >= Level.TIMELESS:
        for name in ("bytes", "total_bytes", "attempt", "failed_time", "next_retry_time"):
            said.pop(name, None)
    if level >= Level.BARE:
        if model.state == State.UNLOADING:
            return None
        said = _barely(said)
    if level >= Level.FACTS:
        if model.state in (_WAITING if level is Level.FACTS else _UNDER_WAY):
            return _as_unseen(model)
        if model.state in _FAILED:
            said.pop("revision", None)
            if level is Level.WITNESS:
                said.pop("reason", None)
    return ReportedModel(**said)


def _barely(said: dict[str, Any]) -> dict[str, Any]:
    """Leave out what a reader takes for granted."""
    granted = {"reason": Reason.IN_PROGRESS, "state": State.LOADED}
    told = {name: value for name, value in said.items() if granted.get(name) != value}
    loaded: str | None = said.get("loaded_revision")
    return {**told, "loaded_revision": loaded and loaded[:_LOADED_CHARS]}


def _as_unseen(model: ReportedModel) -> ReportedModel | None:
    if model.loaded_revision is None:
        return None
    return ReportedModel(revision=model.loaded_revision)


def _is_settled(model: ReportedModel) -> bool:
    return model.state == State.LOADED and model.model_fields_set == _SETTLED_FIELDS


def _shortened(message: str | None, most: int) -> str | None:
    if message is None or stored_bytes(message) <= most:
        return message
    room = most - 3  # of the ellipsis
    sizes = accumulate(stored_bytes(character) - 2 for character in message)
    count = next(index for index, size in enumerate(sizes) if size + 2 > room)
    return message[:count] + "…"


def stored_bytes(text: str) -> int:
    """Return how many bytes a string is in etcd, with its quotes."""
    if _PLAIN(text):
        return len(text) + 2
    written = len(json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    escaped = 5 * sum(text.count(mark) for mark in "<>&")
    return written + escaped + sum(4 * text.count(m) for m in "\b\f\u2028\u2029")


def _weigh(model_id: str, model: ReportedModel) -> Weights:
    """Return the bytes of a model at each level; never less than it has in etcd.

    Reckoned, not measured: to make each form of 10,000 models would take a quarter of a second.
    """
    key = stored_bytes(model_id) + 2  # a colon, and a comma
    written = len(model.__pydantic_serializer__.to_json(model, by_alias=True, exclude_none=True))
    if _is_settled(model):
        brief = key + max(written - _field("state", State.LOADED), _EMPTY)
        return (key + written,) * Level.BARE + (brief,) * (_LEVELS - Level.BARE)
    message, wordless = 0, key + written
    if model.message is not None:
        message = _field("message", model.message)
        is_plain = _PLAIN(model.message) is not None
        wordless -= message if is_plain else _field_as_json(model.message)
    short, terse = (min(message, most + 11) for most in _MESSAGE_BYTES.values())
    return (
        wordless + message,
        wordless + short,
        wordless + terse,
        wordless,
        *_weigh_facts(key, model),
    )


def _weigh_facts(key: int, model: ReportedModel) -> Weights:
    """Return the bytes from `TIMELESS` on."""
    state, revision = _field("state", model.state), _field("revision", model.revision)
    loaded, reason = _field("loadedRevision", model.loaded_revision), _field("reason", model.reason)
    key += 1  # two braces, and the last field has no comma
    timeless = key + state + revision + loaded + reason
    if model.state == State.UNLOADING:
        return (timeless, 0, 0, 0)
    if model.loaded_revision is not None:
        loaded -= max(len(model.loaded_revision) - _LOADED_CHARS, 0)
    if model.reason == Reason.IN_PROGRESS:
        reason = 0
    if model.state == State.LOADED:
        state = 0
    bare = key + max(state + revision + loaded + reason, 1)
    unseen = 0
    if model.loaded_revision is not None:
        unseen = key + _field("revision", model.loaded_revision)
    if model.state in _UNDER_WAY:
        return (timeless, bare, unseen if model.state in _WAITING else bare, unseen)
    if model.state in _FAILED:
        return (timeless, bare, bare - revision, bare - revision - reason)
    return (timeless, bare, bare, bare)


def _field_as_json(message: str) -> int:
    return len(json.dumps(message, ensure_ascii=False).encode()) + len("message") + _FIELD_MARKS


def _field(name: str, value: str | None) -> int:
    return 0 if value is None else len(name) + _FIELD_MARKS + stored_bytes(value)
