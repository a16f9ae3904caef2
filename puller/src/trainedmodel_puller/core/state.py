"""What decisions are made on: desired and observed state, and the actions between them.

All of it is plain data. `ObservedState` may hold the shell's own live mappings: a plan is computed
without giving up the event loop, so nothing changes under it, and nothing needs copying.
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
        entry: What to serve, under which name, from where.
    """

    id: str
    entry: Entry

    @property
    def source(self) -> Source:
        """What is fetched, with whose credentials: equal sources give equal bytes."""
        return (self.entry.storage_uri, self.entry.credentials)


@dataclass(frozen=True, slots=True)
class EntryFault:
    """An entry that cannot be used, beside whatever else is known of its model."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What must be served.

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
    """What a model server says of one model name."""

    READY = "Ready"
    LOADING = "Loading"
    UNLOADING = "Unloading"
    ABSENT = "Absent"


@dataclass(frozen=True, slots=True)
class ServerView:
    """What is known of the model server.

    Attributes:
        is_known: The server answered, and its last answer is fit to plan on. When False, `models`
            is the last known truth, for reports only (P2).
        models: By served name; names that are not in it are absent.
        revisions: By served name, for servers that tell which files they serve: the revision.
        message: Why it is not known.
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
    """What the model volume holds of one served name.

    Attributes:
        id: metadata.name of the TrainedModel that it was fetched for, as far as it is known.
        trees: By revision: all whole trees, in the server's sight or beside it.
        published: Revisions in the server's sight: one at most where updates happen in place.
        loaded: Revision that the server last confirmed to serve.
        trying: Revision that the server was told to load instead, without an outcome that is known:
            which of the two it serves is not known either.
        memory: Bytes that the loaded revision was declared to need, when it was fetched.
        is_staged: A download has left something that it could go on from.
        is_foreign: `models/<name>` exists and the puller did not make it.
        is_adoptable: As `is_foreign`, and KServe's agent made it: it may be taken over.
        doubt: Why it could not be looked at, if the last look failed. All else is what was known
            before, and nothing is planned on it.
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
    """The part of a model's way in which something is under way or has failed."""

    DOWNLOAD = "Download"
    VERIFY = "Verify"
    LOAD = "Load"
    UNLOAD = "Unload"


@dataclass(frozen=True, slots=True)
class Transfer:
    """A download under way.

    Attributes:
        source: What is fetched with whose credentials: no two transfers fetch the same at once.
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
    """The failures in a row of one revision of one name.

    Attributes:
        entry: The entry that failed; any change of it, also of its credentials, clears the failure.
        count: Failures in a row, from 1.
        until: No further try before this instant.
        failed_time, next_retry_time: Seconds since the epoch, for people.
        is_rechecked: After a failed load the source was listed again: content that was mended
            under the same URI has been fetched.
        needs_bytes: What did not fit on the volume: it is tried again as soon as that is free.
        failed_at: When it failed.
        fingerprint: What the listing of the source was then; None if it could not be listed.
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
    """What is, as far as it is known.

    Attributes:
        action_began: When each of the server actions began.
        free_bytes: What may still be written to the volume, by its disk and by its limit; None
            while that is not known.
        freeing_bytes: Bytes that running and recent removals free. `free_bytes` may not show them
            yet.
        volume_doubt: Why the volume cannot be looked at, if it cannot: nothing is planned then.
        undeleted: How many removed trees could not be deleted yet.
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
    """How much may be under way at once, and how much may be used up.

    Attributes:
        max_slow_downloads: So many more, while others are stuck: a dead store must not keep all
            slots (P12).
        max_slow_loads: So many more, while others take long. Triton serves HTTP with 8 threads, and
            a load holds one: with the four of `max_loads` one is left for its health.
        memory_budget: Bytes of declared memory that all models may need together; 0: any.
        keep_versions: Replaced revisions of a model that are kept for a rollback.
        keep_bytes: Bytes of replaced revisions, of all models together, that are kept.
        reserve_bytes: Free space that downloads leave on the volume.
        max_unpacked_bytes: Bytes that one archive may unpack to.
        volume_limit: Bytes that the volume may hold, whatever its disk has; 0: any.
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
    """Put a revision into place and have the server serve it."""

    name: str
    id: str
    revision: str
    reason: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Have the server let go of a name."""

    name: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete files of a name.

    Attributes:
        versions: Revisions whose trees go; None: everything there is, and the memory of it.
        is_staging: Only what a download has left.
        reason: Why, for the log.
    """

    name: str
    versions: frozenset[str] | None = None
    is_staging: bool = False
    reason: str = "no longer wanted"


Action = Download | Load | Unload | Remove


@dataclass(frozen=True, slots=True)
class Deferred:
    """Something that is wanted and cannot be done now: why, and until when (None: an event)."""

    name: str
    reason: Reason
    message: str
    until: Instant | None = None
    is_blocked: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, what to stop, and what waits.

    Attributes:
        queued_downloads, queued_loads: Names that wait for nothing but a slot, in their order.
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
    """Where the trees of a name lie in the served folder."""

    IN_PLACE = "InPlace"
    PER_REVISION = "PerRevision"
