"""A plan in the making: its actions so far, and the rest of each limit."""

from __future__ import annotations

from typing import Final

from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.core.room import Kept, MemoryBudget, available_bytes
from trainedmodel_puller.core.state import (
    Action,
    Deferred,
    DesiredState,
    DiskModel,
    Instant,
    Limits,
    ObservedState,
    Source,
    WantedModel,
)

#: A load that takes longer than this, in seconds, gives its slot back.
SLOW_LOAD_S: Final = 0.5
#: A download that has got no byte for so long, in seconds, gives its slot back.
STUCK_DOWNLOAD_S: Final = 2.0
NOTHING: Final = DiskModel()


class Draft:
    """A plan in the making, and the rest of each limit."""

    def __init__(
        self, desired: DesiredState, observed: ObservedState, limits: Limits, now: Instant
    ) -> None:
        self.desired = desired
        self.observed = observed
        self.limits = limits
        self.now = now
        self.actions: list[Action] = []
        self.cancelled: list[str] = []
        self.deferred: list[Deferred] = []
        self.kept: list[Kept] = []
        self.missing_bytes = 0
        self.queued_downloads: list[str] = []
        self.queued_loads: list[str] = []
        self.download_slots, self.download_slot_at = _slots(
            [transfer.progressed_at + STUCK_DOWNLOAD_S for transfer in observed.transfers.values()],
            limits.max_downloads,
            limits.max_slow_downloads,
            now,
        )
        began = observed.action_began
        self.load_slots, self.load_slot_at = _slots(
            [began.get(name, now) + SLOW_LOAD_S for name in observed.server_actions],
            limits.max_loads,
            limits.max_slow_loads,
            now,
        )
        self.memory = MemoryBudget(desired, observed, limits)
        self.available = available_bytes(observed, limits)
        self._claimed: dict[Source, str] = {}

    def defer(self, name: str, reason: Reason, message: str, until: Instant | None = None) -> None:
        """Note that something waits."""
        self.deferred.append(Deferred(name, reason, message, until))

    def block(self, name: str, reason: Reason, message: str, until: Instant | None = None) -> None:
        """Record that an action waits for a change that may never come."""
        self.deferred.append(Deferred(name, reason, message, until, is_blocked=True))

    def takes_load_slot(self, name: str) -> bool:
        """Take a slot of loads and unloads, or wait for one."""
        if self.load_slots > 0:
            self.load_slots -= 1
            return True
        self.queued_loads.append(name)
        self.defer(name, Reason.QUEUED, "waiting for a load slot", self.load_slot_at)
        return False

    def same_source_in_flight(self, wanted: WantedModel) -> str | None:
        """Return which name fetches the same source just now; claim the source if there is none.

        A source that is already on disk can be linked, so no model waits for it.
        """
        names = self.desired.names_of[wanted.source]
        if len(names) == 1:
            return None
        models, disk = self.desired.models, self.observed.disk
        if any(is_on_disk(models[name], disk.get(name, NOTHING)) for name in names):
            return None
        for name in names:
            transfer = self.observed.transfers.get(name)
            if transfer is not None and transfer.source == wanted.source:
                return name
        same_source_in_flight = self._claimed.setdefault(wanted.source, wanted.entry.name)
        return None if same_source_in_flight == wanted.entry.name else same_source_in_flight


def _slots(
    slow_from: list[Instant], most: int, most_slow: int, now: Instant
) -> tuple[int, Instant | None]:
    """Return the free slots, and when one that is taken is given back at the latest."""
    quick = [instant for instant in slow_from if now < instant]
    free = min(most - len(quick), most + most_slow - len(slow_from))
    return free, min(quick, default=None)


def is_on_disk(wanted: WantedModel, disk: DiskModel) -> bool:
    """Return whether the wanted revision lies whole on the volume."""
    return wanted.entry.revision in disk.trees
