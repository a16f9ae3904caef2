"""The input and output of decisions: desired and observed state, and the actions between them.

All of it is plain data. `ObservedState` may hold the shell's own live mappings: a plan is computed
without yielding to the event loop, so nothing changes meanwhile, and nothing needs copying.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import StrEnum

from trainedmodel_contract.entry import Entry
from trainedmodel_contract.reasons import Reason

#: Seconds on a monotonic clock.
Instant = float

#: Storage URI and credential profile.
Source = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class WantedModel:
    """One model to be served.

    Attributes:
        id: metadata.name of the TrainedModel; reports are keyed by it.
        entry: Its entry.
    """

    id: str
    entry: Entry

    @property
    def source(self) -> Source:
        """What is fetched, with whose credentials: equal sources give equal bytes."""
        return (self.entry.storage_uri, self.entry.credentials)


@dataclass(frozen=True, slots=True)
class EntryFault:
    """An entry that is not valid; the model may still have its last good entry."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class DesiredState:
    """The models that must be served.

    Attributes:
        models: By served name.
        faults: By metadata.name: entries that were refused. A model may have a fault and still be
            in `models`, with its last good entry.
        config_digest: Digest over the shard manifests seen; None outside Kubernetes.
        problem: Why the configuration is in doubt, if it is. Nothing is dropped on doubt (P1).
        is_known: False until a first configuration was read, now or before a restart.
        names_of: Made of `models`: the served names of each source.
    """

    models: Mapping[str, WantedModel] = field(default_factory=dict)
    faults: Mapping[str, EntryFault] = field(default_factory=dict)
    config_digest: str | None = None
    problem: str | None = None
    is_known: bool = False
    names_of: Mapping[Source, Sequence[str]] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        names_of: dict[Source, list[str]] = {}
        for name, wanted in self.models.items():
            names_of.setdefault(wanted.source, []).append(name)
        object.__setattr__(self, "names_of", names_of)


class ServerState(StrEnum):
    """The state of one name, as the model server reports it."""

    READY = "Ready"
    LOADING = "Loading"
    UNLOADING = "Unloading"
    ABSENT = "Absent"


@dataclass(frozen=True, slots=True)
class ServerView:
    """The state of the model server.

    Attributes:
        is_known: The server answered, and plans may use its last answer. If False, `models` is the
            last known state, for reports only (P2).
        models: By served name; names that are not in it are absent.
        revisions: Revision by served name, for servers that report which files they serve.
        message: The reason, if the state is not known.
    """

    is_known: bool = False
    models: Mapping[str, ServerState] = field(default_factory=dict)
    revisions: Mapping[str, str] = field(default_factory=dict)
    message: str = ""

    def state_of(self, name: str) -> ServerState:
        """Return the last known state of a name."""
        return self.models.get(name, ServerState.ABSENT)


@dataclass(frozen=True, slots=True)
class Tree:
    """The whole, verified files of one revision.

    Attributes:
        size: In bytes.
        retired: Seconds since the epoch at which it last stopped being wanted (or was made).
    """

    size: int = 0
    retired: float = 0.0


@dataclass(frozen=True, slots=True)
class DiskModel:
    """The files of one served name on the model volume.

    Attributes:
        id: metadata.name of the TrainedModel that it was fetched for, as far as it is known.
        trees: By revision: all whole trees, in the served folder or outside of it.
        published: Revisions in the served folder: one at most if updates happen in place.
        loaded: Revision that the server last confirmed to serve.
        trying: Revision whose load was requested, without a known outcome: the server may serve
            either of the two.
        memory: Declared memory of the loaded revision when it was fetched, in bytes.
        is_staged: A download has left files from which it can resume.
        is_foreign: `models/<name>` exists and the puller did not make it.
        is_adoptable: As `is_foreign`, and KServe's agent made it: it may be taken over.
        doubt: The error, if the files could not be read. The other attributes are then the last
            known state, and nothing is planned on them.
    """

    id: str | None = None
    trees: Mapping[str, Tree] = field(default_factory=dict)
    published: frozenset[str] = frozenset()
    loaded: str | None = None
    trying: str | None = None
    memory: int = 0
    is_staged: bool = False
    is_foreign: bool = False
    is_adoptable: bool = False
    doubt: str | None = None


class Stage(StrEnum):
    """The step of a model that is in progress or has failed."""

    DOWNLOAD = "Download"
    VERIFY = "Verify"
    LOAD = "Load"
    UNLOAD = "Unload"


@dataclass(frozen=True, slots=True)
class Transfer:
    """A running download.

    Attributes:
        source: URI and credential profile: no two transfers fetch the same source at once.
        progressed_at: When it began or last got a byte.
    """

    revision: str
    source: Source | None = None
    stage: Stage = Stage.DOWNLOAD
    received_bytes: int = 0
    total_bytes: int | None = None
    progressed_at: Instant = 0.0


@dataclass(frozen=True, slots=True)
class Failure:
    """The consecutive failures of one revision of one name.

    Attributes:
        entry: The entry that failed; any change of it, also of its credentials, clears the failure.
        count: Consecutive failures, from 1.
        until: No further try before this instant.
        failed_time, next_retry_time: Seconds since the epoch, for people.
        is_rechecked: After a failed load the source was listed again: content that was mended
            under the same URI has been fetched.
        needs_bytes: Bytes that did not fit on the volume: it is retried as soon as they are free.
        failed_at: When it failed.
        fingerprint: Fingerprint of the source at that time; None if it could not be listed.
    """

    stage: Stage
    reason: Reason
    message: str
    count: int
    until: Instant
    failed_time: float
    next_retry_time: float
    entry: Entry | None = None
    is_rechecked: bool = False
    needs_bytes: int | None = None
    failed_at: Instant = 0.0
    fingerprint: str | None = None


#: A failure belongs to a name and a revision; an unload's revision is "".
FailureKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class ObservedState:
    """The observed state.

    Attributes:
        action_began: When each of the server actions began.
        free_bytes: Bytes that may still be written to the volume, by its disk and by its limit;
            None while unknown.
        freeing_bytes: Bytes that running and recent removals free. `free_bytes` may not show them
            yet.
        volume_doubt: The error, if the volume cannot be read: nothing is planned then.
        undeleted: Number of removed trees that could not be deleted yet.
    """

    disk: Mapping[str, DiskModel]
    server: ServerView
    transfers: Mapping[str, Transfer] = field(default_factory=dict)
    server_actions: Mapping[str, Stage] = field(default_factory=dict)
    action_began: Mapping[str, Instant] = field(default_factory=dict)
    removals: Set[str] = frozenset()
    failures: Mapping[FailureKey, Failure] = field(default_factory=dict)
    free_bytes: int | None = None
    freeing_bytes: int = 0
    volume_doubt: str | None = None
    undeleted: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of concurrency and of resources.

    Attributes:
        max_slow_downloads: Additional downloads while others are stuck: a dead store must not keep
            all slots (P12).
        max_slow_loads: Additional loads while others take long. Triton serves HTTP with 8 threads,
            and a load holds one: with the four of `max_loads` one is left for health checks.
        memory_budget: Limit of the declared memory of all models, in bytes; 0: no limit.
        keep_versions: Replaced revisions kept for each model, for a rollback.
        keep_bytes: Limit of the kept revisions' bytes, over all models.
        reserve_bytes: Free space that downloads leave on the volume.
        max_unpacked_bytes: Bytes that one archive may unpack to.
        volume_limit: Bytes that the volume may hold, independent of its disk; 0: no limit.
    """

    max_downloads: int = 16
    max_loads: int = 4
    max_slow_downloads: int = 48
    max_slow_loads: int = 3
    memory_budget: int = 0
    keep_versions: int = 1
    keep_bytes: int = 10 * 2**30
    reserve_bytes: int = 16 * 2**20
    max_unpacked_bytes: int = 2**40
    volume_limit: int = 0


@dataclass(frozen=True, slots=True)
class Download:
    """Fetch, verify and seal one revision beside the served folder."""

    name: str
    id: str
    entry: Entry


@dataclass(frozen=True, slots=True)
class Load:
    """Publish a revision and load it in the server."""

    name: str
    id: str
    revision: str
    reason: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Unload a name from the server."""

    name: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete files of a name.

    Attributes:
        versions: Revisions whose trees are deleted; None: all files and the marker.
        is_staging: Only the files that a download has left.
        reason: Why, for the log.
    """

    name: str
    versions: frozenset[str] | None = None
    is_staging: bool = False
    reason: str = "no longer wanted"


Action = Download | Load | Unload | Remove


@dataclass(frozen=True, slots=True)
class Deferred:
    """An action that has to wait: the reason, and the time of its end (None: an event)."""

    name: str
    reason: Reason
    message: str
    until: Instant | None = None
    is_blocked: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The actions to start, the downloads to cancel, and the waiting models.

    Attributes:
        queued_downloads, queued_loads: Names that wait only for a slot, in their order.
    """

    actions: tuple[Action, ...] = ()
    cancelled: tuple[str, ...] = ()
    deferred: tuple[Deferred, ...] = ()
    queued_downloads: tuple[str, ...] = ()
    queued_loads: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be done and nothing waits."""
        return not (self.actions or self.cancelled or self.deferred)

    @property
    def wake_at(self) -> Instant | None:
        """The earliest instant at which something that waits may go on."""
        instants = [item.until for item in self.deferred if item.until is not None]
        return min(instants) if instants else None


class Layout(StrEnum):
    """The arrangement of a name's trees in the served folder."""

    IN_PLACE = "InPlace"
    PER_REVISION = "PerRevision"
