"""What decisions are made on: desired and observed state, and the actions between them.

All of it is plain data. `ObservedState` may hold the shell's own live mappings: a plan is computed
without giving up the event loop, so nothing changes under it, and nothing needs copying.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from enum import StrEnum

from trainedmodel_contract.entry import Entry
from trainedmodel_contract.reasons import Reason

#: Seconds on a monotonic clock.
Instant = float


@dataclass(frozen=True, slots=True)
class WantedModel:
    """One model to be served.

    Attributes:
        id: metadata.name of the TrainedModel; reports are keyed by it.
        entry: What to serve, under which name, from where.
    """

    id: str
    entry: Entry


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
    """

    models: Mapping[str, WantedModel] = field(default_factory=dict)
    faults: Mapping[str, EntryFault] = field(default_factory=dict)
    config_digest: str | None = None
    problem: str | None = None
    is_known: bool = False


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
        message: Why it is not known.
    """

    is_known: bool = False
    models: Mapping[str, ServerState] = field(default_factory=dict)
    message: str = ""

    def state_of(self, name: str) -> ServerState:
        """Return the last known state of a name."""
        return self.models.get(name, ServerState.ABSENT)


@dataclass(frozen=True, slots=True)
class DiskModel:
    """What the model volume holds of one served name.

    Attributes:
        id: metadata.name of the TrainedModel that it was fetched for, as far as it is known.
        published: Revision of the files under `models/<name>`; None when there are none.
        versions: Revisions whose complete files lie ready (or kept) beside the served folder.
        loaded: Revision that the server last confirmed to serve.
        is_staged: A download has left something that it could go on from.
        is_foreign: `models/<name>` exists and the puller did not make it.
    """

    id: str | None = None
    published: str | None = None
    versions: frozenset[str] = frozenset()
    loaded: str | None = None
    is_staged: bool = False
    is_foreign: bool = False


class Stage(StrEnum):
    """The part of a model's way in which something is under way or has failed."""

    DOWNLOAD = "Download"
    VERIFY = "Verify"
    LOAD = "Load"
    UNLOAD = "Unload"


@dataclass(frozen=True, slots=True)
class Transfer:
    """A download under way."""

    revision: str
    stage: Stage = Stage.DOWNLOAD
    received_bytes: int = 0
    total_bytes: int | None = None


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


#: A failure belongs to a name and a revision; an unload's revision is "".
FailureKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class ObservedState:
    """What is, as far as it is known."""

    disk: Mapping[str, DiskModel]
    server: ServerView
    transfers: Mapping[str, Transfer] = field(default_factory=dict)
    server_actions: Mapping[str, Stage] = field(default_factory=dict)
    removals: Set[str] = frozenset()
    failures: Mapping[FailureKey, Failure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be under way at once."""

    max_downloads: int = 16
    max_loads: int = 4


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
    entry: Entry | None
    reason: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Have the server let go of a name."""

    name: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete files of a name.

    Attributes:
        version: One sealed version beside the served folder; None: everything there is.
        is_staging: Only what a download has left.
    """

    name: str
    version: str | None = None
    is_staging: bool = False


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
    """What to do now, what to stop, and what waits."""

    actions: tuple[Action, ...] = ()
    cancelled: tuple[str, ...] = ()
    deferred: tuple[Deferred, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be done and nothing waits."""
        return not (self.actions or self.cancelled or self.deferred)

    @property
    def wake_at(self) -> Instant | None:
        """The earliest instant at which something that waits may go on."""
        instants = [item.until for item in self.deferred if item.until is not None]
        return min(instants) if instants else None
