"""The loop: read both sides, plan, act, report. Level-triggered: events only shorten the wait.

A pass reads the configuration folder (if its signature changed), lists the served folder (the files
of a name are read only if the name changed), takes the last observation of the server, and plans.
If both sides are unchanged, no action is running and no model waits, the pass ends there: the plan
would be the same. The pause between two passes is a multiple of the processor time of the last one,
so a burst of events costs a bounded share of a core. Time that a pass spent waiting is not counted.

A read that fails puts a name, or the whole volume, in doubt. The loop plans nothing on it, reports
it, and reads again in the next pass.

When an action ends, its name and the next names of the queues are planned at once, without a pass.
With a thousand models to load, slots would otherwise stay empty between passes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import structlog
from trainedmodel_contract.modelreport import ReportedModel
from trainedmodel_contract.names import is_model_name
from trainedmodel_contract.reasons import State

from trainedmodel_puller import metrics
from trainedmodel_puller.control.config_reader import Signature, read_folder, read_signature
from trainedmodel_puller.control.executor import Executor
from trainedmodel_puller.core.draft import NOTHING
from trainedmodel_puller.core.plan import plan
from trainedmodel_puller.core.report import SETTLED, report_models
from trainedmodel_puller.core.snapshot import LastGoodConfig, resolve_snapshot
from trainedmodel_puller.core.state import DiskModel, Limits, Plan
from trainedmodel_puller.errors import VolumeFault
from trainedmodel_puller.live_state import LiveState
from trainedmodel_puller.volume.async_volume import AsyncVolume

T = TypeVar("T")
P = ParamSpec("P")

log: Final = structlog.get_logger()

#: Folders are read whole this often even when a glance says that nothing changed, seconds.
_FULL_READ_S: Final = 60.0
#: After a pass that cost n seconds of a processor the next one waits at least this many times n.
_REST: Final = 9.0
#: What could not be deleted is tried again this often, seconds.
_TRASH_S: Final = 60.0
#: How many that wait for a slot are looked at when one is free: some may have ceased to.
_NEXT: Final = 2
_FOREIGN: Final = DiskModel(is_foreign=True)
_NOT_THERE: Final[frozenset[str]] = frozenset()


class Loop:
    """Drives the puller.

    Attributes:
        models: The last reported state of each model, by metadata.name.
        plan: The plan of the last pass.
        is_settled: Every model of the first configuration was loaded or has failed once.
        is_all_loaded: Every model of the first configuration was loaded, or has left it.
        on_pass: Called after each pass.
    """

    def __init__(
        self,
        config_dir: Path,
        state: LiveState,
        disk: AsyncVolume,
        limits: Limits,
        period_s: float,
    ) -> None:
        self._config_dir = config_dir
        self._state = state
        self._disk = disk
        self._volume = disk.volume
        self._limits = limits
        self._period_s = period_s
        self._held = LastGoodConfig()
        self._kept = LastGoodConfig()
        self._signature: Signature | None = None
        self._read_at = float("-inf")
        self._disk_read_at = time.monotonic()
        self._seen: dict[str, frozenset[str]] | None = None
        self._first: set[str] | None = None
        self.models: dict[str, ReportedModel] = {}
        self._times = metrics.TimeToLoaded()
        self.plan = Plan()
        self.is_settled = False
        self.is_all_loaded = False
        self.last_pass = time.monotonic()
        self._cost_s = 0.0
        self.on_pass: list[Callable[[], None]] = []
        self._executor: Executor | None = None
        self._queues: tuple[deque[str], deque[str]] = (deque(), deque())
        self._ended: list[str] = []
        self._told_left: Set[str] = frozenset()
        self._trash_tried_at = float("-inf")
        # its own: what actions wait for must not hold up a pass
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loop")

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False)

    async def restore(self) -> None:
        """Read the state of an earlier run: the files, and the last good configuration.

        Raises:
            VolumeFault: the volume cannot be read now.
        """
        self._held = await self._disk.ask(self._volume.held.read)
        self._kept = self._held
        self._state.disk = await self._disk.ask(self._volume.scan)
        for name, disk in self._state.disk.items():
            if disk.doubt is not None:
                log.warning("files_in_doubt", model=name, error=disk.doubt)

    async def run(self, executor: Executor, stop: asyncio.Event) -> None:
        """Make passes until `stop` is set."""
        self._executor = executor
        while not stop.is_set():
            was_woken = self._state.wake.is_set()
            self._state.wake.clear()
            began, self._cost_s = time.monotonic(), 0.0
            is_changed = await self.look()
            if was_woken or is_changed or not self._is_at_rest():
                with self._at_cost():
                    made = self.make_plan()
                    executor.carry_out(made)
                    self._queues = (deque(made.queued_downloads), deque(made.queued_loads))
                    self._report(made)
            self.last_pass = time.monotonic()
            metrics.PASS_SECONDS.observe(self.last_pass - began)
            await self._rest(self._cost_s, self.plan, stop)

    @contextlib.contextmanager
    def _at_cost(self) -> Iterator[None]:
        """Count the processor time of the calling thread as cost of the pass."""
        began = time.thread_time()
        try:
            yield
        finally:
            self._cost_s += time.thread_time() - began

    async def _in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        def counted() -> T:
            with self._at_cost():
                return call(*args, **kwargs)

        return await self._disk.ask_in(self._thread, counted)

    def replan(self, name: str) -> None:
        """Plan for a name whose action has ended, and for the names that wait for its slot.

        It is done soon, not at once, because actions in batches end in batches.
        """
        if self._executor is None:
            return
        if not self._ended:
            asyncio.get_running_loop().call_soon(self._plan_next, self._executor)
        self._ended.append(name)

    def _plan_next(self, executor: Executor) -> None:
        ended, self._ended = self._ended, []
        names = dict.fromkeys(ended)
        for queue in self._queues:
            count = min(_NEXT * len(ended), len(queue))
            names.update(dict.fromkeys(queue.popleft() for _ in range(count)))
        made = plan(
            self._state.desired, self._state.observed(), self._limits, time.monotonic(), only=names
        )
        executor.carry_out(made)
        for queue, still in zip(
            self._queues, (made.queued_downloads, made.queued_loads), strict=True
        ):
            queue.extendleft(reversed(still))

    async def _rest(self, cost: float, made: Plan, stop: asyncio.Event) -> None:
        await asyncio.sleep(min(cost * _REST, 1.0))
        wait_s = self._period_s
        if made.wake_at is not None:
            wait_s = min(wait_s, max(made.wake_at - time.monotonic(), 0.0))
        waiter = asyncio.ensure_future(self._state.wake.wait())
        stopper = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait(
                {waiter, stopper}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            waiter.cancel()
            stopper.cancel()

    async def look(self) -> bool:
        """Read everything that may have changed; return whether any of it may have."""
        is_read = await self._read_config()
        is_moved = await self._look_at_disk()
        self._retry_trash()
        return is_read or is_moved

    def _is_at_rest(self) -> bool:
        is_waiting = not self.plan.is_empty or not self._state.server.is_known
        return not (is_waiting or self._is_under_way())

    def _is_under_way(self) -> bool:
        state = self._state
        return bool(state.transfers or state.server_actions or state.removals)

    def make_plan(self) -> Plan:
        """Plan with what is known."""
        self._state.forget_settled_failures()
        began = time.monotonic()
        made = plan(self._state.desired, self._state.observed(), self._limits, began)
        metrics.PLAN_SECONDS.observe(time.monotonic() - began)
        return made

    async def _read_config(self) -> bool:
        """Read the folder if it may have changed; return whether it was read."""
        signature = await self._in_thread(read_signature, self._config_dir)
        now = time.monotonic()
        is_due = now - self._read_at > _FULL_READ_S
        if signature is not None and signature == self._signature and not is_due:
            return False
        files, why = await self._in_thread(read_folder, self._config_dir)
        with self._at_cost():
            owners = {name: disk.id for name, disk in self._state.disk.items()}
            desired, held = resolve_snapshot(files, self._held, owners, why)
        await self._keep(held)
        if desired.problem and desired.problem != self._state.desired.problem:
            log.warning("config_in_doubt", error=desired.problem)
        metrics.CONFIG_IN_DOUBT.set(desired.problem is not None)
        if desired != self._state.desired:
            log.info("config_read", models=len(desired.models), faults=len(desired.faults))
        self._state.desired, self._held = desired, held
        # read again at the next pass while in doubt, whatever the signature says
        self._signature = signature if desired.problem is None else None
        self._read_at = now
        return True

    async def _keep(self, held: LastGoodConfig) -> None:
        """Save the last good configuration; a full disk must not prevent removals."""
        if held == self._kept:
            return
        try:
            await self._in_thread(self._volume.held.write, held)
            self._kept = held
        except VolumeFault as fault:
            log.warning("config_not_saved", error=str(fault))

    async def _look_at_disk(self) -> bool:
        """Compare the served folder with what is known; return whether anything may be new.

        The puller's own actions wake the loop as well.
        """
        known, began = dict(self._state.disk), time.monotonic()
        try:
            seen, free = await self._in_thread(self._glance)
        except VolumeFault as fault:
            return self._doubt_volume(fault.message)
        self._doubt_volume(None)
        self._state.note_free(free, began)
        is_in_doubt = any(disk.doubt is not None for disk in known.values())
        is_due = time.monotonic() - self._disk_read_at > _FULL_READ_S
        if seen == self._seen and self._is_at_rest() and not (is_in_doubt or is_due):
            return False
        # what is under way is not compared now, so it must be the next time
        self._seen = None if self._is_under_way() else seen
        with self._at_cost():
            names = seen.keys() | self._state.disk.keys()
            strange = [name for name in names if self._is_strange(name, seen, known)]
        if is_due:
            self._disk_read_at = time.monotonic()
            await self._look_at_foreign(seen)
        for name in strange:
            if self._is_strange(name, seen, known):  # while others were looked at, much may happen
                await self._look_at(name)
        return True

    async def _look_at_foreign(self, seen: Mapping[str, frozenset[str]]) -> None:
        """Read foreign names again: an earlier read may have seen half of a move."""
        state = self._state
        for name in seen:
            is_ours = not state.disk.get(name, _FOREIGN).is_foreign
            is_busy = name in state.transfers or name in state.server_actions
            if is_model_name(name) and not (is_ours or is_busy or name in state.desired.models):
                await self._look_at(name)

    def _is_strange(
        self, name: str, seen: Mapping[str, frozenset[str]], known: Mapping[str, DiskModel]
    ) -> bool:
        """Return whether the listing of a name differs from the results of all known actions."""
        state = self._state
        held = state.disk.get(name)
        if held is not known.get(name) or name in state.transfers:
            return False  # an action of the puller is changing it, so the listing is outdated
        is_wanted = name in state.desired.models
        if held is None and not is_wanted:
            return False  # it does not belong to the puller, and no model has its name
        held = held or NOTHING
        if held.doubt is not None:
            return name not in state.server_actions and name not in state.removals
        is_as_known = seen.get(name, _NOT_THERE) == self._volume.served.expected(held.published)
        if is_as_known or name in state.server_actions or name in state.removals:
            return False
        return is_wanted or not (held.is_foreign and name in seen)

    def _glance(self) -> tuple[dict[str, frozenset[str]], int]:
        return self._volume.served.listed(), self._volume.free_bytes()

    def _doubt_volume(self, why: str | None) -> bool:
        """Record whether the volume can be read; return that something may be new."""
        if why != self._state.volume_doubt:
            self._state.volume_doubt = why
            if why is not None:
                log.warning("volume_in_doubt", error=why)
            else:
                log.info("volume_recovered")
        return True

    def _retry_trash(self) -> None:
        """Try again to delete the trash, and log the files that cannot be deleted."""
        trash = self._volume.trash
        if time.monotonic() - self._trash_tried_at > _TRASH_S:
            self._trash_tried_at = time.monotonic()
            self._disk.retry_trash()
        left = trash.left
        if left.keys() - self._told_left:
            why = next(iter(left.values()))
            log.warning("trash_not_deleted", folder=str(trash.folder), count=len(left), error=why)
        self._told_left, self._state.undeleted = left.keys(), len(left)

    async def _look_at(self, name: str) -> None:
        before = self._state.disk.get(name, NOTHING)
        found = await self._disk.look(name)
        if found != before and found.doubt is None and not found.is_foreign:
            log.warning("folder_changed", model=name, published=sorted(found.published))

    def _report(self, made: Plan) -> None:
        self.plan = made
        self.models = report_models(
            self._state.desired, self._state.observed(), made.deferred, self.models
        )
        self._times.note(self.models)
        if not self.is_all_loaded:
            self._settle()
        for listener in self.on_pass:
            listener()

    def _settle(self) -> None:
        desired = self._state.desired
        if not desired.is_known:
            return
        if self._first is None:
            self._first = set(self.models)
        states = {self.models[model_id].state for model_id in self._first & self.models.keys()}
        if self._state.server.is_known:
            self.is_settled |= states <= SETTLED
            self.is_all_loaded = states <= {State.LOADED}
