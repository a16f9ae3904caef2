"""From mounted files to desired state; a doubtful file never counts as a deleted one (P1).

The folder is read file by file while other processes write it, so a missing file may be deleted or
not written yet. Each group of entries therefore has its own proof of absence:

- a *shard* (entries with `"shard": k`) is whole if its manifest `_shard-k` has the count and digest
  of the files. Only then are missing models dropped;
- a *list* (KServe's `models.json`) is whole if it is JSON;
- *loose* entries (neither) are one file each: a missing file is a deleted one, as long as the
  folder itself could be read. They are for use without Kubernetes.

The entries of the last whole state of a group are kept, in memory and on disk. A group that is not
whole still gives its readable entries, because a present file is certain. An entry that cannot be
read keeps its last good content, and the fault is reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from trainedmodel_contract import names
from trainedmodel_contract.canonical import canonical_json, parse_json
from trainedmodel_contract.entry import Entry, EntryError, parse_entry
from trainedmodel_contract.quantity import parse_bytes
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.revision import compute_revision
from trainedmodel_contract.shard import ShardManifest, config_digest, entries_digest, parse_manifest

from trainedmodel_puller.core.state import DesiredState, EntryFault, WantedModel

LIST_KEY: Final = "models.json"
LOOSE: Final = "loose"
LIST: Final = "list"

#: Group name ("0".."3", "loose", "list") to metadata.name to entry JSON.
Groups = dict[str, dict[str, str]]


#: So much of a name that anybody may have written is shown.
_MAX_SHOWN: Final = 128


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that is there and cannot be read.

    Attributes:
        why: In the system's words.
    """

    why: str


@dataclass(frozen=True, slots=True)
class LastGoodConfig:
    """The entries of each group when it was last whole."""

    groups: Groups = field(default_factory=dict)
    is_known: bool = False

    def to_json(self) -> str:
        """Render for the state folder."""
        return canonical_json({"groups": self.groups})


def parse_held(text: str | bytes | None) -> LastGoodConfig:
    """Parse the output of `LastGoodConfig.to_json`; anything else counts as empty."""
    try:
        groups = parse_json(text or "")["groups"]
        read = {str(g): {str(k): str(v) for k, v in e.items()} for g, e in groups.items()}
        for group in read.values():
            for entry in group.values():
                parse_entry(entry)
    except (ValueError, TypeError, KeyError, AttributeError):
        return LastGoodConfig()
    return LastGoodConfig(read, is_known=True)


class _Reading:
    """One reading of the folder, group by group."""

    def __init__(self, files: Mapping[str, bytes | Unreadable]) -> None:
        self.manifests: dict[int, ShardManifest] = {}
        self.groups: Groups = {}
        self.raw: dict[int, dict[str, bytes]] = {}
        self.faults: dict[str, EntryFault] = {}
        self.problems: list[str] = []
        self.list_is_broken = False
        for key in sorted(files):
            self._take(key, files[key])

    def _take(self, key: str, value: bytes | Unreadable) -> None:
        index = names.manifest_index(key)
        if index is not None:
            self._take_manifest(index, value)
            return
        model_id = names.object_name(key)
        if model_id is None:
            return
        if not key.isprintable():
            words = f"{key!a}: a file name must be printable UTF-8"
            self.faults[_shown(model_id)] = EntryFault(Reason.INVALID_ENTRY, words)
            return
        if isinstance(value, Unreadable):
            self._take_unreadable(key, model_id, value.why)
            return
        if key == LIST_KEY and not value.lstrip().startswith(b"{"):
            self._take_list(value)
            return
        try:
            entry = parse_entry(value)
        except EntryError as error:
            self.faults[model_id] = EntryFault(_entry_reason(error), f"{key}: {error}")
            return
        if entry.shard is None:
            self.groups.setdefault(LOOSE, {})[model_id] = entry.to_json()
        else:
            self.groups.setdefault(str(entry.shard), {})[model_id] = value.decode()
            self.raw.setdefault(entry.shard, {})[key] = value

    def _take_manifest(self, index: int, value: bytes | Unreadable) -> None:
        try:
            if isinstance(value, Unreadable):
                raise EntryError(value.why)
            self.manifests[index] = parse_manifest(value)
        except EntryError:
            self.problems.append(f"manifest of shard {index} is not readable")

    def _take_unreadable(self, key: str, model_id: str, why: str) -> None:
        if key == LIST_KEY:
            self.list_is_broken = True
            self.problems.append(f"{LIST_KEY} cannot be read: {why}")
        else:
            words = f"{key} cannot be read: {why}"
            self.faults[model_id] = EntryFault(Reason.INVALID_ENTRY, words)

    def _take_list(self, value: bytes) -> None:
        why = ""
        try:
            items = parse_json(value)
        except ValueError as error:
            items, why = None, f": {error}"
        if not isinstance(items, list):
            self.list_is_broken = True
            self.problems.append(f"{LIST_KEY} is not a JSON list{why}")
            return
        group = self.groups.setdefault(LIST, {})
        for position, item in enumerate(items):
            try:
                entry = _kserve_entry(item)
            except EntryError as error:
                name = item.get("modelName") if isinstance(item, dict) else None
                model_id = f"{LIST_KEY}[{position}]"
                if isinstance(name, str) and name:
                    model_id = _shown(name)
                self.faults[model_id] = EntryFault(
                    _entry_reason(error), f"{LIST_KEY}[{position}]: {error}"
                )
            else:
                group[entry.name] = entry.to_json()

    def is_whole(self, index: int, old: Mapping[str, str]) -> bool:
        """Return whether a shard matches its manifest.

        While a model moves, two shards hold its key, and the folder shows the later one's file.
        What `old` says the hidden file was is put in its place: the match proves that it still is.
        """
        manifest = self.manifests.get(index)
        moved = {
            names.entry_key(model_id): text.encode()
            for model_id, text in old.items()
            if any(model_id in group for name, group in self.groups.items() if name != str(index))
        }
        raw = {**moved, **self.raw.get(index, {})}
        return (
            manifest is not None
            and manifest.shard == index
            and manifest.entries == len(raw)
            and manifest.digest == entries_digest(raw)
        )


def _shown(name: str) -> str:
    """Return the printable form of an untrusted name."""
    return name[:_MAX_SHOWN] if name.isprintable() else ascii(name[:_MAX_SHOWN])[1:-1]


def _entry_reason(error: EntryError) -> Reason:
    is_name = error.field == "name" and not error.is_missing
    return Reason.INVALID_NAME if is_name else Reason.INVALID_ENTRY


def _kserve_entry(item: Any) -> Entry:
    """Make an entry of one item of KServe's `models.json`.

    Raises:
        EntryError: a field is missing or wrong.
    """
    if not isinstance(item, dict) or not isinstance(item.get("modelSpec"), dict):
        raise EntryError("must be an object with modelName and modelSpec")
    spec = item["modelSpec"]
    name, uri = item.get("modelName"), spec.get("storageUri")
    if not isinstance(name, str) or not isinstance(uri, str):
        raise EntryError("modelName and modelSpec.storageUri must be strings")
    framework = spec.get("framework") or ""
    if not isinstance(framework, str):
        raise EntryError("modelSpec.framework must be a string")
    try:
        memory = None if spec.get("memory") is None else parse_bytes(spec["memory"])
    except (ValueError, TypeError) as error:
        raise EntryError(f"modelSpec.memory: {error}") from error
    revision = compute_revision(storage_uri=uri, name=name, framework=framework)
    document = {
        "name": name,
        "storageUri": uri,
        "framework": framework,
        "revision": revision,
        "memory": memory,
    }
    return parse_entry(canonical_json(document))


def resolve_snapshot(
    files: Mapping[str, bytes | Unreadable] | None,
    held: LastGoodConfig,
    owners: Mapping[str, str | None],
    unreadable: str = "the configuration folder cannot be read",
) -> tuple[DesiredState, LastGoodConfig]:
    """Turn files (key to bytes; None when the folder could not be read) into desired state.

    `held` is the last good configuration; the new one is returned, to be saved. `owners` has the
    TrainedModel of each served name's files, so that another model never takes a name over.
    """
    if files is None:
        return _desire(held, owners, faults={}, digest=None, problems=[unreadable]), held
    reading = _Reading(files)
    groups: Groups = {}
    for index in range(names.SHARD_COUNT):
        _settle_shard(reading, index, held, groups)
    _settle_list(reading, held, groups)
    _settle_loose(reading, held, groups)
    kept = LastGoodConfig({name: group for name, group in groups.items() if group}, is_known=True)
    digest = (
        config_digest({index: manifest.digest for index, manifest in reading.manifests.items()})
        if reading.manifests
        else None
    )
    desired = _desire(kept, owners, faults=reading.faults, digest=digest, problems=reading.problems)
    return desired, kept


def _settle_shard(reading: _Reading, index: int, held: LastGoodConfig, groups: Groups) -> None:
    name = str(index)
    read, old = reading.groups.get(name, {}), held.groups.get(name, {})
    if reading.is_whole(index, {}) or reading.is_whole(index, old):
        groups[name] = read
        return
    if not read and not old and index not in reading.manifests:
        return
    fault = "does not match its manifest" if index in reading.manifests else "has no manifest"
    reading.problems.append(f"shard {index} {fault}: no model is unloaded until it does")
    groups[name] = {**old, **{k: _newer(old.get(k), text) for k, text in read.items()}}
    # a half-written shard cannot be seen as such by the operator unless the digest differs
    reading.manifests.pop(index, None)


def _newer(old: str | None, new: str) -> str:
    if old is None or parse_entry(old).generation < parse_entry(new).generation:
        return new
    return old


def _settle_list(reading: _Reading, held: LastGoodConfig, groups: Groups) -> None:
    old = held.groups.get(LIST, {})
    if LIST in reading.groups:
        faulty = {k: text for k, text in old.items() if k in reading.faults}
        groups[LIST] = {**faulty, **reading.groups[LIST]}
    elif old:
        groups[LIST] = old
        if not reading.list_is_broken:
            reading.problems.append(f"{LIST_KEY} is missing: no model is unloaded until it is back")


def _settle_loose(reading: _Reading, held: LastGoodConfig, groups: Groups) -> None:
    old = held.groups.get(LOOSE, {})
    faulty = {k: text for k, text in old.items() if k in reading.faults}
    groups[LOOSE] = {**faulty, **reading.groups.get(LOOSE, {})}


def _desire(
    held: LastGoodConfig,
    owners: Mapping[str, str | None],
    *,
    faults: Mapping[str, EntryFault],
    digest: str | None,
    problems: list[str],
) -> DesiredState:
    by_id: dict[str, Entry] = {}
    for name in sorted(held.groups, key=lambda group: (group in {LIST, LOOSE}, group)):
        for model_id, text in held.groups[name].items():
            entry = parse_entry(text)
            # in two shards at once while it moves between them: the newer one counts
            if model_id not in by_id or by_id[model_id].generation < entry.generation:
                by_id[model_id] = entry
    models: dict[str, WantedModel] = {}
    all_faults = dict(faults)
    for model_id in sorted(by_id, key=lambda m: (owners.get(by_id[m].name) != m, m)):
        entry = by_id[model_id]
        if entry.name in models:
            all_faults[model_id] = EntryFault(
                Reason.NAME_CONFLICT,
                f"served name {entry.name!r} belongs to {models[entry.name].id!r}",
            )
        else:
            models[entry.name] = WantedModel(model_id, entry)
    return DesiredState(
        models=models,
        faults=all_faults,
        config_digest=digest,
        problem="; ".join(problems) or None,
        is_known=held.is_known,
    )
