"""Admission and progress of transfers, and their end at the volume's limit.

A transfer is admitted with the bytes that it will still write. A transfer of unknown size reserves
nothing, and an archive may hold more than it declares. A full disk stops them, but the limit of a
volume does not, so they are stopped here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final, TypeVar

from trainedmodel_contract.quantity import format_bytes
from trainedmodel_contract.reasons import Reason

from trainedmodel_puller import metrics
from trainedmodel_puller.core.room import ahead_bytes, available_bytes, shortage
from trainedmodel_puller.core.state import Limits, Stage, Transfer
from trainedmodel_puller.errors import VolumeFault
from trainedmodel_puller.fetch.job import FetchJob
from trainedmodel_puller.live_state import LiveState
from trainedmodel_puller.storage.files import settled

T = TypeVar("T")

#: Progress rings the bell at most this often, in seconds.
_PROGRESS_PERIOD_S: Final = 1.0
#: So many bytes are progress; a store that trickles is as good as stuck (`core.draft`).
_TRICKLE_BYTES: Final = 256 * 1024
#: Room that an unpacking takes at once.
_PIECE_BYTES: Final = 1024 * 1024


class Progress:
    """Admits transfers, and counts their bytes."""

    def __init__(self, state: LiveState, limits: Limits) -> None:
        self._state = state
        self._limits = limits

    def admit(self, name: str, needed: int) -> None:
        """Admit a transfer that writes `needed` bytes.

        Raises:
            VolumeFault: InsufficientDisk.
        """
        room = available_bytes(self._state.observed(), self._limits, but=name)
        if room is not None and needed > room:
            message = shortage(needed, room, self._limits)
            raise VolumeFault(Reason.INSUFFICIENT_DISK, message, needs_bytes=needed)

    def begin(
        self,
        name: str,
        revision: str,
        total: int,
        beside: int = 0,
        *,
        stage: Stage = Stage.DOWNLOAD,
    ) -> None:
        """Record the bytes that a transfer will write, and those beside its content."""
        self._state.usage.hold(name, beside)
        transfer = self._state.transfers.get(name)
        if transfer is not None and transfer.revision == revision:
            self._state.transfers[name] = replace(
                transfer, stage=stage, received_bytes=0, total_bytes=total
            )

    def meter(self, job: FetchJob, *, is_in_memory: bool = False) -> Callable[[int], None]:
        """Return the callback that a transfer calls with the number of new bytes.

        Args:
            job: The fetch that transfers.
            is_in_memory: The bytes are written later. Otherwise they are on the volume before the
                call, and those of the first call were there before the transfer.
        """
        name, revision = job.name, job.entry.revision
        rung = time.monotonic()
        gathered = 0
        is_there = not is_in_memory

        def advance(received: int) -> None:
            nonlocal rung, gathered, is_there
            if is_in_memory:
                self._state.usage.hold(name, received)
            elif not is_there:
                self._state.usage.note_written(received)
            is_there = False
            transfer = self._state.transfers.get(name)
            if transfer is None or transfer.revision != revision:
                return
            metrics.count_bytes(job.uri.scheme, received)
            now = time.monotonic()
            gathered += received
            is_progress = gathered >= _TRICKLE_BYTES  # less than that keeps no slot from others
            self._take(job, transfer, received, now if is_progress else transfer.progressed_at)
            self._check(job, self._state.transfers[name])
            if is_progress:
                gathered = 0
            if now - rung > _PROGRESS_PERIOD_S:
                rung = now
                self._state.wake.set()

        return advance

    def unpacking_meter(
        self, job: FetchJob
    ) -> tuple[Callable[[int], None], Callable[[int], None] | None]:
        """Return the callbacks of an unpacking: for written bytes, and for space to write more.

        The first is called in the event loop. The second is called in the unpacking thread before
        bytes are written, and is None if the volume has no limit.
        """

        def advance(count: int) -> None:
            transfer = self._state.transfers.get(job.name)
            if transfer is not None:
                self._take(job, transfer, count, time.monotonic())

        return advance, Allowance(self, job.name).spend if self._limits.volume_limit else None

    def take_room(self, name: str, count: int, left: int) -> None:
        """Take space for bytes that were not reserved before.

        Args:
            name: Whose bytes they are.
            count: How many.
            left: Of what it took before, this much is not written yet.

        Raises:
            VolumeFault: InsufficientDisk.
        """
        room = available_bytes(self._state.observed(), self._limits, but=name)
        if room is not None and room < count:
            raise self._too_large()
        self._state.usage.settle(name, but=left)
        self._state.usage.hold(name, count)

    def _take(self, job: FetchJob, transfer: Transfer, count: int, progressed_at: float) -> None:
        received = transfer.received_bytes + count
        self._state.transfers[job.name] = replace(
            transfer, received_bytes=received, progressed_at=progressed_at
        )

    def _check(self, job: FetchJob, transfer: Transfer) -> None:
        """Stop a download that writes more than it reserved, if there is no space for it."""
        if not self._limits.volume_limit or transfer.received_bytes <= (transfer.total_bytes or 0):
            return
        room = available_bytes(self._state.observed(), self._limits, but=job.name)
        if room is not None and room < ahead_bytes(self._limits):
            job.is_over.set()

    async def while_there_is_room(self, job: FetchJob, transfer: Coroutine[Any, Any, T]) -> T:
        """Run a transfer to its end, unless it exceeds the limit of the volume.

        Raises:
            VolumeFault: InsufficientDisk; it was stopped, and writes nothing more.
        """
        if not self._limits.volume_limit:
            return await transfer
        task = asyncio.ensure_future(transfer)
        watch = asyncio.ensure_future(job.is_over.wait())
        try:
            await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
        finally:
            watch.cancel()
            task.cancel()
            await settled(task)
        raise self._too_large()

    def _too_large(self) -> VolumeFault:
        limit = format_bytes(self._limits.volume_limit)
        return VolumeFault(
            Reason.INSUFFICIENT_DISK,
            f"the source is larger than its listed size, and the volume is limited to {limit}",
        )


class Allowance:
    """Space for one unpacking, which its thread requests from the event loop piece by piece."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._left = 0

    def spend(self, count: int) -> None:
        """Take room for so many bytes; blocks until the event loop has answered.

        Raises:
            VolumeFault: InsufficientDisk.
        """
        if count > self._left:
            more = max(count, _PIECE_BYTES)
            # The event loop waits for this thread's end before it ends, so it always answers.
            asyncio.run_coroutine_threadsafe(self._ask(more), self._loop).result()
            self._left += more
        self._left -= count

    async def _ask(self, count: int) -> None:
        self._progress.take_room(self._name, count, self._left)
