"""Carries plans out: one owned task for each action. Each failure is counted, no exception is lost.

Actions of different names run concurrently. The plan guarantees at most one transfer and one server
action at a time for one name. A transfer can be cancelled. A load cannot, because no model server
stops loading when its client disconnects, so the executor waits for its end.

`volume` documents the order of steps within an action, and the state after a kill between two.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog
from trainedmodel_contract.entry import Entry
from trainedmodel_contract.reasons import Reason

from trainedmodel_puller import metrics
from trainedmodel_puller.core.draft import NOTHING
from trainedmodel_puller.core.secrets import without_queries
from trainedmodel_puller.core.state import (
    Download,
    FailureKey,
    Load,
    Plan,
    Remove,
    ServerState,
    Stage,
    Transfer,
    Unload,
)
from trainedmodel_puller.drivers.base import ModelServer, ServerGone, ServerInDoubt, Target
from trainedmodel_puller.errors import ModelFault, PullerError, VolumeFault
from trainedmodel_puller.fetch.fetcher import Fetcher
from trainedmodel_puller.live_state import LiveState
from trainedmodel_puller.volume.async_volume import AsyncVolume
from trainedmodel_puller.volume.identity import read_identity

log: Final = structlog.get_logger()


class Executor:
    """Starts actions and owns their tasks."""

    def __init__(
        self,
        state: LiveState,
        disk: AsyncVolume,
        fetcher: Fetcher,
        server: ModelServer,
        tasks: asyncio.TaskGroup,
        *,
        served_dir: Path,
        replan: Callable[[str], None],
    ) -> None:
        self._state = state
        self._disk = disk
        self._volume = disk.volume
        self._fetcher = fetcher
        self._server = server
        self._served_dir = served_dir
        self._replan = replan
        self._tasks = tasks
        self._transfers: dict[str, asyncio.Task[None]] = {}
        self._acting: set[asyncio.Task[None]] = set()
        self._holders: dict[str, asyncio.Task[None]] = {}
        self._is_stopping = False

    def carry_out(self, plan: Plan) -> None:
        """Start the plan's actions, and cancel the downloads that it names. Never waits."""
        if self._is_stopping:
            return
        for name in plan.cancelled:
            task = self._transfers.get(name)
            if task is not None and not task.cancelling():
                log.info("download_cancelled", model=name, trigger="no longer wanted")
                task.cancel()
        for action in plan.actions:
            match action:
                case Download():
                    self._state.transfers[action.name] = Transfer(
                        action.entry.revision,
                        source=(action.entry.storage_uri, action.entry.credentials),
                        progressed_at=time.monotonic(),
                    )
                    task = self._tasks.create_task(self._download(action))
                    self._transfers[action.name] = task
                case Load():
                    self._act(action.name, Stage.LOAD, self._load(action))
                case Unload():
                    self._act(action.name, Stage.UNLOAD, self._unload(action))
                case Remove():
                    self._state.begin_removal(action)
                    self._keep(self._tasks.create_task(self._remove(action)))

    def _act(self, name: str, stage: Stage, job: Awaitable[None]) -> None:
        self._state.server_actions[name] = stage
        self._state.action_began[name] = time.monotonic()

        async def run() -> None:
            try:
                await job
            finally:
                self._release(name)

        task = self._tasks.create_task(run())
        self._holders[name] = task
        self._keep(task)

    def _release(self, name: str) -> None:
        """Give back the slot of the calling task's action; the second time nothing.

        By then the slot may be that of the name's next action.
        """
        if self._holders.get(name) is asyncio.current_task():
            del self._holders[name]
            self._state.action_began.pop(name, None)
            self._state.server_actions.pop(name, None)
            self._end(name)

    def _end(self, name: str) -> None:
        """Report the end of an action: now for its name, soon for all."""
        self._state.wake.set()
        self._replan(name)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._acting.add(task)
        task.add_done_callback(self._acting.discard)

    async def drain(self, grace_s: float) -> None:
        """Stop: cancel transfers at once, let server actions end within the grace period."""
        self._is_stopping = True
        for task in self._transfers.values():
            task.cancel()
        waiting = {*self._transfers.values(), *self._acting}
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=grace_s)
            for task in late:
                task.cancel()

    # -- the actions --------------------------------------------------------------------

    async def _download(self, action: Download) -> None:
        name, key = action.name, (action.name, action.entry.revision)
        try:
            with self._guarded(key, Stage.DOWNLOAD, lambda: action.entry):
                await self._fetch(action)
        finally:
            self._state.end_transfer(name)
            self._transfers.pop(name, None)
            self._end(name)

    async def _fetch(self, action: Download) -> None:
        name, revision = action.name, action.entry.revision
        began = time.monotonic()
        try:
            fetched = await self._fetcher.fetch(action)
        except asyncio.CancelledError:
            if self._is_stopping:
                raise
            # cancelled by a plan: an end like any other, for this name alone
            await self._disk.look(name)
            return
        except Exception:
            await self._disk.look(name)
            raise
        seconds = time.monotonic() - began
        metrics.DOWNLOAD_SECONDS.observe(seconds)
        self._state.recheck((name, revision))
        log.info(
            "model_downloaded",
            model=name,
            revision=revision,
            bytes=fetched.size,
            how=fetched.how,
            seconds=round(seconds, 3),
        )

    async def _load(self, action: Load) -> None:
        key = (action.name, action.revision)
        with self._guarded(key, Stage.LOAD, lambda: self._wanted_entry(*key)):
            await self._serve(action)

    async def _serve(self, action: Load) -> None:
        name, revision = action.name, action.revision
        began = time.monotonic()
        before = self._state.disk.get(name, NOTHING)
        try:
            target = await self._make_target(name, revision)
            await self._server.load(target)
        except (ServerGone, ServerInDoubt) as error:
            # the next observation says what is; nothing is known to be wrong with the model
            self._state.doubt_server(str(error))
            metrics.LOADS.labels(outcome="undecided").inc()
            log.info("load_undecided", model=name, revision=revision, error=str(error))
            self._put_off((name, revision), Stage.LOAD, error)
        except ModelFault as fault:
            metrics.LOADS.labels(outcome="failed").inc()
            is_refused = fault.reason is not Reason.LOAD_TIMEOUT
            await self._roll_back(name, before.loaded, revision, is_refused=is_refused)
            raise
        else:
            await self._confirm(action, target.entry.memory or 0, time.monotonic() - began)

    async def _confirm(self, action: Load, memory: int, seconds: float) -> None:
        """Record the server's confirmation, free the slot, and only then write the marker.

        After a kill before the write, the model is loaded once more, which does no harm.
        """
        name, revision = action.name, action.revision
        self._state.failures.pop((name, revision), None)
        self._state.note_loaded(name, action.id, revision, memory)
        metrics.LOAD_SECONDS.observe(seconds)
        metrics.LOADS.labels(outcome="loaded").inc()
        log.info(
            "model_loaded",
            model=name,
            revision=revision,
            trigger=action.reason,
            seconds=round(seconds, 3),
        )
        self._release(name)
        try:
            mark = partial(self._volume.mark_loaded, name, action.id, revision)
            await self._disk.run_batched(name, mark)
        except VolumeFault as fault:
            self._state.unmarked.pop(name, None)
            await self._disk.look(name)
            self._fail((name, revision), Stage.LOAD, fault, self._wanted_entry(name, revision))
        finally:
            self._state.unmarked.pop(name, None)

    async def _make_target(self, name: str, revision: str) -> Target:
        """Publish a tree, and return the target of its load."""
        is_serving = self._state.server.state_of(name) is not ServerState.ABSENT
        entry = self._wanted_entry(name, revision)
        tree = self._volume.served.place(name, revision)
        # after a failure the source was looked at again, and a mended tree may lie beside
        is_first_try = (name, revision) not in self._state.failures
        disk = self._state.disk.get(name, NOTHING)
        is_noted = disk.trying is None and disk.loaded in {None, revision}
        is_there = is_first_try and is_noted and revision in disk.published
        if entry is None or is_serving or not is_there:
            tree, identity = await self._publish(name, revision)
            entry = entry or self._entry_of(name, revision, identity)
        return Target(name, revision, self._as_served(tree), entry, is_serving)

    def _wanted_entry(self, name: str, revision: str) -> Entry | None:
        wanted = self._state.desired.models.get(name)
        return wanted.entry if wanted is not None and wanted.entry.revision == revision else None

    def _entry_of(self, name: str, revision: str, identity: dict[str, Any]) -> Entry:
        """Return the entry that a revision was fetched for, from its tree's identity."""
        try:
            return Entry.model_validate(identity.get("entry"))
        except ValueError:
            uri = str(identity.get("storageUri") or "unknown:")
            return Entry(name=name, storage_uri=uri, revision=revision)

    def _as_served(self, tree: Path) -> Path:
        return self._served_dir / tree.relative_to(self._volume.model_dir)

    async def _publish(self, name: str, revision: str) -> tuple[Path, dict[str, Any]]:
        """Publish a tree; return its path and its identity."""

        def put() -> tuple[Path, dict[str, Any]]:
            tree = self._volume.publish(name, revision)
            self._server.touch(tree)
            return tree, read_identity(tree)

        return await self._disk.run(name, put)

    async def _roll_back(
        self, name: str, loaded: str | None, failed: str, *, is_refused: bool
    ) -> None:
        """Restore the files of the served revision, so that it stays loadable (P5).

        Args:
            name: Served name.
            loaded: Revision that the server served before.
            failed: Revision whose load failed.
            is_refused: The server has refused it; otherwise it may still serve it later.
        """
        if loaded == failed:
            return
        try:
            if loaded is not None and await self._disk.run(name, self._volume.finds, name, loaded):
                await self._publish(name, loaded)
                log.info("model_rolled_back", model=name, revision=loaded, failed=failed)
            else:
                await self._disk.run(name, self._volume.withdraw, name, failed)
            if is_refused:
                await self._disk.run(name, self._volume.markers.settle, name)
        except VolumeFault as fault:
            log.warning("rollback_failed", model=name, revision=loaded, error=str(fault))

    async def _unload(self, action: Unload) -> None:
        with self._guarded((action.name, ""), Stage.UNLOAD):
            await self._let_go(action.name)

    async def _let_go(self, name: str) -> None:
        try:
            await self._server.unload(name)
        except (ServerGone, ServerInDoubt) as error:
            self._state.doubt_server(str(error))
            metrics.UNLOADS.labels(outcome="undecided").inc()
            log.info("unload_undecided", model=name, error=str(error))
            self._put_off((name, ""), Stage.UNLOAD, error)
            return
        except ModelFault:
            metrics.UNLOADS.labels(outcome="failed").inc()
            raise
        metrics.UNLOADS.labels(outcome="unloaded").inc()
        self._state.set_server_model(name, ServerState.ABSENT)
        log.info("model_unloaded", model=name)
        # if the volume refuses that, the model is unloaded once more, which is no error
        await self._disk.run(name, self._volume.forget_loaded, name)

    async def _remove(self, action: Remove) -> None:
        name = action.name
        try:
            with self._guarded((name, ""), Stage.UNLOAD):
                await self._delete(action)
                self._state.failures.pop((name, ""), None)
        finally:
            self._state.end_removal(name)
            self._end(name)

    async def _delete(self, action: Remove) -> None:
        name = action.name
        if action.is_staging:
            await self._disk.run(name, self._volume.remove_staging, name)
        elif action.versions is not None:
            await self._disk.run(name, self._volume.remove_versions, name, action.versions)
            metrics.EVICTIONS.inc(len(action.versions))
            log.info(
                "versions_removed",
                model=name,
                revisions=sorted(action.versions),
                trigger=action.reason,
            )
        else:
            await self._disk.run(name, self._volume.remove, name)
            log.info("model_removed", model=name)

    # -- what all of them share ---------------------------------------------------------

    @contextlib.contextmanager
    def _guarded(
        self, key: FailureKey, stage: Stage, entry: Callable[[], Entry | None] = lambda: None
    ) -> Iterator[None]:
        """Turn each error of an action into a failure of its model, and of no other one."""
        try:
            yield
        except ModelFault as fault:
            self._fail(key, stage, fault, entry())
        except Exception as error:
            self._crash(key, stage, error, entry())

    def _fail(self, key: FailureKey, stage: Stage, fault: ModelFault, entry: Entry | None) -> None:
        failure = self._state.fail(key, stage, entry, fault)
        metrics.count_failure(fault.reason, stage, failure.count)
        log.warning(
            "action_failed",
            model=key[0],
            revision=key[1] or None,
            stage=str(stage),
            reason=str(fault.reason),
            error=failure.message,
            attempt=failure.count,
            retry_in_s=round(failure.until - time.monotonic(), 1),
        )

    def _put_off(self, key: FailureKey, stage: Stage, error: PullerError) -> None:
        """Retry with backoff if the server answers, but gives no valid answer for one name."""
        if isinstance(error, ServerInDoubt):
            entry = self._wanted_entry(*key)
            self._fail(key, stage, ModelFault(Reason.SERVER_UNREACHABLE, str(error)), entry)

    def _crash(self, key: FailureKey, stage: Stage, error: Exception, entry: Entry | None) -> None:
        log.exception("action_crashed", model=key[0], stage=str(stage))
        words = without_queries(f"{type(error).__name__}: {error}")
        self._fail(key, stage, ModelFault(Reason.INTERNAL_ERROR, words), entry)
