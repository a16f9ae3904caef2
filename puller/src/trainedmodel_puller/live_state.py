"""The puller's live state, in the types that decisions take.

There is one object, which changes only on the event loop's thread, between awaits. Each task
changes its own part (a download its transfer, a load its server action) and sets `wake`. No task
waits for a state: all read it again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from trainedmodel_contract.entry import Entry

from trainedmodel_puller.core.backoff import backoff_s, failures_in_a_row
from trainedmodel_puller.core.room import Freeing, removed_bytes
from trainedmodel_puller.core.state import (
    DesiredState,
    DiskModel,
    Failure,
    FailureKey,
    ObservedState,
    Remove,
    ServerState,
    ServerView,
    Stage,
    Transfer,
)
from trainedmodel_puller.core.wording import steady
from trainedmodel_puller.errors import ModelFault, SourceFault, VolumeFault
from trainedmodel_puller.usage.volume_usage import VolumeUsage


@dataclass
class LiveState:
    """The current knowledge of the puller.

    Attributes:
        wake: Set after a change; the loop clears it and makes a pass.
        jitter: Source of the backoff's jitter, in [0, 1).
        sources: Fingerprint of each source, as it was last listed for a fetch.
        unmarked: Revisions that the server confirmed and whose markers are not written yet.
        free_bytes: Free space of the volume's disk, as last read.
        freeing: Bytes that removals free and that the free space does not show yet.
        usage: Used bytes of the volume, if it has a limit.
        server_marks: Time at which the puller's own actions last changed the server, by name. An
            observation that began before it is stale for the name.
    """

    jitter: Callable[[], float]
    desired: DesiredState = field(default_factory=DesiredState)
    disk: dict[str, DiskModel] = field(default_factory=dict)
    server: ServerView = field(default_factory=ServerView)
    server_models: dict[str, ServerState] = field(default_factory=dict)
    server_revisions: dict[str, str] = field(default_factory=dict)
    server_marks: dict[str, float] = field(default_factory=dict)
    transfers: dict[str, Transfer] = field(default_factory=dict)
    server_actions: dict[str, Stage] = field(default_factory=dict)
    action_began: dict[str, float] = field(default_factory=dict)
    unmarked: dict[str, str] = field(default_factory=dict)
    removals: set[str] = field(default_factory=set)
    failures: dict[FailureKey, Failure] = field(default_factory=dict)
    sources: dict[FailureKey, str] = field(default_factory=dict)
    free_bytes: int | None = None
    free_at: float = float("-inf")
    freeing: Freeing = field(default_factory=Freeing)
    usage: VolumeUsage = field(default_factory=VolumeUsage)
    volume_doubt: str | None = None
    undeleted: int = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def observed(self) -> ObservedState:
        """Return the input of decisions: views of the live state, not copies."""
        return ObservedState(
            disk=self.disk,
            server=self.server,
            transfers=self.transfers,
            server_actions=self.server_actions,
            action_began=self.action_began,
            removals=self.removals,
            failures=self.failures,
            free_bytes=self.usage.free_bytes(self.free_bytes),
            freeing_bytes=self.freeing.bytes,
            volume_doubt=self.volume_doubt,
            undeleted=self.undeleted,
        )

    def fail(
        self, key: FailureKey, stage: Stage, entry: Entry | None, fault: ModelFault
    ) -> Failure:
        """Record one more failure and the time of the next try."""
        previous = self.failures.get(key)
        same = previous is not None and previous.entry == entry
        before = previous.count if previous is not None and same else 0
        gained = fault.gained if isinstance(fault, SourceFault) else 0
        count = failures_in_a_row(before, fault.reason, gained)
        delay = backoff_s(count, self.jitter())
        now = time.monotonic()
        failure = Failure(
            stage=stage,
            reason=fault.reason,
            message=steady(fault.message),
            count=count,
            until=now + delay,
            failed_time=time.time(),
            next_retry_time=time.time() + delay,
            entry=entry,
            needs_bytes=fault.needs_bytes if isinstance(fault, VolumeFault) else None,
            failed_at=now,
            fingerprint=self.sources.get(key),
        )
        self.failures[key] = failure
        return failure

    def end_wait(self, key: FailureKey, failure: Failure) -> bool:
        """End the wait of a model after a failure; False if the failure is no longer its last."""
        if self.failures.get(key) is not failure:
            return False
        self.failures[key] = replace(failure, until=time.monotonic(), next_retry_time=time.time())
        self.wake.set()
        return True

    def is_room_wanted(self) -> bool:
        """Return whether a model waits for free space on the volume."""
        return any(failure.needs_bytes is not None for failure in self.failures.values())

    def note_free(self, count: int, looked_at: float) -> None:
        """Record the free space of the disk. A reading older than the last one is ignored."""
        if looked_at >= self.free_at:
            self.free_bytes, self.free_at = count, looked_at
            self.freeing.look(looked_at, self.usage.seen_at)

    def end_transfer(self, name: str) -> None:
        """Record that a transfer has ended. It writes nothing more."""
        self.transfers.pop(name, None)
        self.usage.settle(name)

    def begin_removal(self, action: Remove) -> None:
        """Record the start of a removal, and the bytes that it frees."""
        self.removals.add(action.name)
        disk = self.disk.get(action.name, DiskModel())
        self.freeing.begin(action.name, removed_bytes(action, disk))

    def end_removal(self, name: str) -> None:
        """Record the end of a removal, successful or not."""
        self.removals.discard(name)
        self.freeing.end(name, time.monotonic())
        self.usage.touch()

    def recheck(self, key: FailureKey) -> None:
        """Record that the source was listed again after a failed load."""
        failure = self.failures.get(key)
        if failure is not None:
            self.failures[key] = replace(failure, is_rechecked=True)

    def doubt_server(self, message: str) -> None:
        """Mark the server's state as unknown until the next observation."""
        self.server = ServerView(False, self.server_models, self.server_revisions, message)

    def set_disk(self, name: str, disk: DiskModel) -> None:
        """Record the current files of a name on the volume."""
        if name in self.unmarked:
            disk = replace(disk, loaded=self.unmarked[name], trying=None)
        if disk != self.disk.get(name, DiskModel()):
            self.usage.touch()
        if disk == DiskModel():
            self.disk.pop(name, None)
        else:
            self.disk[name] = disk

    def doubt_disk(self, name: str, why: str) -> None:
        """Record that a name's files could not be read; the last state stands, for reports only."""
        self.disk[name] = replace(self.disk.get(name, DiskModel()), doubt=why)

    def note_loaded(self, name: str, model_id: str, revision: str, memory: int) -> None:
        """Record that the server confirmed a revision, whose marker is about to be written."""
        disk = self.disk.get(name, DiskModel())
        self.unmarked[name] = revision
        self.disk[name] = replace(disk, id=model_id, loaded=revision, trying=None, memory=memory)
        self.set_server_model(name, ServerState.READY, revision)

    def set_server_model(self, name: str, state: ServerState, revision: str | None = None) -> None:
        """Record the state that the server confirmed after one of the puller's own actions."""
        self.server_marks[name] = time.monotonic()
        if state is ServerState.ABSENT:
            self.server_models.pop(name, None)
        else:
            self.server_models[name] = state
        if revision is None or name not in self.server_revisions:
            self.server_revisions.pop(name, None)
        else:
            self.server_revisions[name] = revision

    def forget_settled_failures(self) -> None:
        """Drop the failures of revisions that are no longer wanted."""
        for key in list(self.failures):
            name, revision = key
            wanted = self.desired.models.get(name)
            disk = self.disk.get(name)
            if revision == "":
                is_current = disk is not None
            else:
                is_wanted = wanted is not None and wanted.entry.revision == revision
                is_kept = disk is not None and disk.loaded == revision
                is_current = is_wanted or is_kept
            if not is_current:
                del self.failures[key]
        if len(self.sources) > 2 * len(self.desired.models):
            current = {(name, each.entry.revision) for name, each in self.desired.models.items()}
            self.sources = {key: at for key, at in self.sources.items() if key in current}
