"""Carries plans out: one owned task for each action, each failure counted, no exception lost.

Actions of different names run side by side; for one name there is at most one transfer and one
server action at a time, which the plan guarantees. A transfer can be cancelled; a load cannot (no
model server stops loading because its client hung up), so it is always seen through to its end.

Order within an action, and what a kill between two steps leaves, is told in `volume`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

import structlog
from trainedmodel_contract.entry import Entry
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import parse_uri

from trainedmodel_puller import metrics
from trainedmodel_puller.core.plan import NOTHING
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
from trainedmodel_puller.disk import Disk
from trainedmodel_puller.drivers.base import ModelServer, ServerGone, ServerInDoubt
from trainedmodel_puller.errors import ModelFault, SourceFault, VolumeFault
from trainedmodel_puller.state import LiveState
from trainedmodel_puller.storage.base import Listing
from trainedmodel_puller.storage.digest import verify
from trainedmodel_puller.storage.download import Downloader

log: Final = structlog.get_logger()

#: Free space that a download must leave on the volume, in bytes.
RESERVE_BYTES: Final = 16 * 1024 * 1024
#: Progress rings the bell at most this often, in seconds.
_PROGRESS_PERIOD_S: Final = 1.0


class Executor:
    """Starts actions and owns their tasks."""

    def __init__(
        self,
        state: LiveState,
        disk: Disk,
        downloader: Downloader,
        server: ModelServer,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._state = state
        self._disk = disk
        self._volume = disk.volume
        self._downloader = downloader
        self._server = server
        self._tasks = tasks
        self._transfers: dict[str, asyncio.Task[None]] = {}
        self._acting: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    def carry_out(self, plan: Plan) -> None:
        """Start what the plan wants and stop what it no longer wants. Never waits."""
        for name in plan.cancelled:
            task = self._transfers.get(name)
            if task is not None and not task.cancelling():
                log.info("download_cancelled", model=name, reason="no longer wanted")
                task.cancel()
        for action in plan.actions:
            match action:
                case Download():
                    total = Transfer(action.entry.revision)
                    self._state.transfers[action.name] = total
                    task = self._tasks.create_task(self._download(action))
                    self._transfers[action.name] = task
                case Load():
                    self._act(action.name, Stage.LOAD, self._load(action))
                case Unload():
                    self._act(action.name, Stage.UNLOAD, self._unload(action))
                case Remove():
                    self._state.removals.add(action.name)
                    self._keep(self._tasks.create_task(self._remove(action)))

    def _act(self, name: str, stage: Stage, work: Awaitable[None]) -> None:
        self._state.server_actions[name] = stage

        async def run() -> None:
            try:
                await work
            finally:
                self._state.server_actions.pop(name, None)
                self._state.bell.set()

        self._keep(self._tasks.create_task(run()))

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
        name, revision = action.name, action.entry.revision
        began = time.monotonic()
        try:
            listing = await self._fetch(action)
        except asyncio.CancelledError:
            if self._is_stopping:
                raise
            # cancelled by a plan: an end like any other, for this name alone
        except ModelFault as fault:
            self._fail((name, revision), Stage.DOWNLOAD, fault, action.entry)
        except Exception as error:
            self._crash((name, revision), Stage.DOWNLOAD, error, action.entry)
        else:
            metrics.DOWNLOAD_SECONDS.observe(time.monotonic() - began)
            self._state.recheck((name, revision))
            log.info(
                "downloaded",
                model=name,
                revision=revision,
                bytes=listing.total_bytes,
                seconds=round(time.monotonic() - began, 3),
            )
        finally:
            if not self._is_stopping:
                await self._disk.look(name)
            self._state.transfers.pop(name, None)
            self._transfers.pop(name, None)
            self._state.bell.set()

    async def _fetch(self, action: Download) -> Listing:
        name, entry = action.name, action.entry
        try:
            uri = parse_uri(entry.storage_uri)
        except ValueError as error:
            raise SourceFault(Reason.INVALID_URI, str(error)) from error
        listing = await self._downloader.list(uri, credentials=entry.credentials)
        fingerprint = listing.fingerprint()
        known = await asyncio.to_thread(self._volume.sealed_identity, name, entry.revision)
        if known.get("fingerprint") == fingerprint:
            return listing
        await self._admit(name, listing)
        self._progress(name, entry.revision, total=listing.total_bytes)
        folder, is_verified = await self._disk.run(
            name, self._volume.staging, name, entry.revision, fingerprint
        )
        if not is_verified:
            progress = self._progress_meter(name, entry.revision)
            await self._downloader.fetch(
                uri, listing, folder, progress, credentials=entry.credentials
            )
            self._state.transfers[name] = replace(self._state.transfers[name], stage=Stage.VERIFY)
            if entry.digest is not None:
                await verify(folder, listing, entry.digest)
            await asyncio.to_thread(self._volume.mark_verified, name, entry.revision, fingerprint)
        await asyncio.to_thread(self._server.prepare, folder, entry)
        identity = {
            "id": action.id,
            "name": name,
            "storageUri": str(uri),
            "fingerprint": fingerprint,
            "bytes": listing.total_bytes,
        }
        await self._disk.run(name, self._volume.seal, name, entry.revision, identity)
        return listing

    async def _admit(self, name: str, listing: Listing) -> None:
        promised = sum(
            max((other.total_bytes or 0) - other.received_bytes, 0)
            for key, other in self._state.transfers.items()
            if key != name
        )
        free = await asyncio.to_thread(self._volume.free_bytes) - promised - RESERVE_BYTES
        if listing.total_bytes > free:
            raise VolumeFault(
                Reason.INSUFFICIENT_DISK,
                f"needs {listing.total_bytes / 2**20:.1f} MiB, {max(free, 0) / 2**20:.1f} MiB free",
            )

    def _progress(self, name: str, revision: str, total: int) -> None:
        if name in self._state.transfers:
            self._state.transfers[name] = Transfer(revision, total_bytes=total)

    def _progress_meter(self, name: str, revision: str) -> Callable[[int], None]:
        rung = time.monotonic()

        def advance(received: int) -> None:
            nonlocal rung
            transfer = self._state.transfers.get(name)
            if transfer is None or transfer.revision != revision:
                return
            metrics.BYTES.inc(received)
            self._state.transfers[name] = replace(
                transfer, received_bytes=transfer.received_bytes + received
            )
            if time.monotonic() - rung > _PROGRESS_PERIOD_S:
                rung = time.monotonic()
                self._state.bell.set()

        return advance

    async def _load(self, action: Load) -> None:
        name, revision = action.name, action.revision
        began = time.monotonic()
        before = self._state.disk.get(name, NOTHING)
        try:
            await self._publish(name, revision)
            await self._server.load(name, action.entry)
            await self._disk.run(name, self._volume.mark_loaded, name, action.id, revision)
        except (ServerGone, ServerInDoubt) as error:
            # the next observation says what is; nothing is known to be wrong with the model
            self._state.doubt_server(str(error))
            log.info("load_undecided", model=name, revision=revision, why=str(error))
        except ModelFault as fault:
            await self._roll_back(name, before.loaded, revision)
            self._fail((name, revision), Stage.LOAD, fault, action.entry)
        except Exception as error:
            self._crash((name, revision), Stage.LOAD, error, action.entry)
        else:
            self._state.failures.pop((name, revision), None)
            self._state.set_server_model(name, ServerState.READY)
            seconds = time.monotonic() - began
            metrics.LOAD_SECONDS.observe(seconds)
            log.info(
                "loaded",
                model=name,
                revision=revision,
                why=action.reason,
                seconds=round(seconds, 3),
            )

    async def _publish(self, name: str, revision: str) -> None:
        served = await self._disk.run(name, self._volume.publish, name, revision)
        await asyncio.to_thread(self._server.touch, served)

    async def _roll_back(self, name: str, loaded: str | None, failed: str) -> None:
        """Put back the files of what still serves, so that it stays loadable (P5)."""
        if loaded == failed:
            return
        try:
            versions = (await self._disk.look(name)).versions
            if loaded is not None and loaded in versions:
                await self._publish(name, loaded)
                log.info("rolled_back", model=name, revision=loaded, failed=failed)
            else:
                await self._disk.run(name, self._volume.withdraw, name)
        except VolumeFault as fault:
            log.warning("rollback_failed", model=name, revision=loaded, why=str(fault))

    async def _unload(self, action: Unload) -> None:
        name = action.name
        try:
            await self._server.unload(name)
            await self._disk.run(name, self._volume.forget_loaded, name)
        except (ServerGone, ServerInDoubt) as error:
            self._state.doubt_server(str(error))
            log.info("unload_undecided", model=name, why=str(error))
        except ModelFault as fault:
            self._fail((name, ""), Stage.UNLOAD, fault, None)
        except Exception as error:
            self._crash((name, ""), Stage.UNLOAD, error, None)
        else:
            self._state.set_server_model(name, ServerState.ABSENT)
            log.info("unloaded", model=name)

    async def _remove(self, action: Remove) -> None:
        name = action.name
        try:
            if action.is_staging:
                await self._disk.run(name, self._volume.remove_staging, name)
            elif action.version is not None:
                await self._disk.run(name, self._volume.remove_version, name, action.version)
            else:
                await self._disk.run(name, self._volume.remove, name)
                log.info("removed", model=name)
        except ModelFault as fault:
            self._fail((name, ""), Stage.UNLOAD, fault, None)
        except Exception as error:
            self._crash((name, ""), Stage.UNLOAD, error, None)
        else:
            self._state.failures.pop((name, ""), None)
        finally:
            self._state.removals.discard(name)
            self._state.bell.set()

    # -- what all of them share ---------------------------------------------------------

    def _fail(self, key: FailureKey, stage: Stage, fault: ModelFault, entry: Entry | None) -> None:
        failure = self._state.fail(key, stage, entry, fault.reason, fault.message)
        metrics.FAILURES.labels(reason=str(fault.reason)).inc()
        log.warning(
            "failed",
            model=key[0],
            revision=key[1] or None,
            stage=str(stage),
            reason=str(fault.reason),
            message=fault.message,
            attempt=failure.count,
            retry_in_s=round(failure.until - time.monotonic(), 1),
        )

    def _crash(self, key: FailureKey, stage: Stage, error: Exception, entry: Entry | None) -> None:
        log.exception("crashed", model=key[0], stage=str(stage))
        words = f"{type(error).__name__}: {error}"
        self._fail(key, stage, ModelFault(Reason.INTERNAL_ERROR, words), entry)
