"""Builds the puller from its parts, and shuts it down in order.

On SIGTERM the puller starts no new action. It cancels transfers, which resume later. Running loads
get the rest of the grace period, because a server finishes them anyway. Then all parts are closed.
Nothing is unloaded: the server may outlive the puller and keeps serving.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import structlog
from aiohttp import web

from trainedmodel_puller.control.config_watcher import watch_folder
from trainedmodel_puller.control.executor import Executor
from trainedmodel_puller.control.loop import Loop
from trainedmodel_puller.control.server_monitor import ServerMonitor
from trainedmodel_puller.control.source_monitor import SourceMonitor
from trainedmodel_puller.core.room import reserve_within
from trainedmodel_puller.core.state import Layout, Limits
from trainedmodel_puller.drivers.auto import Identity, identify
from trainedmodel_puller.drivers.base import ModelServer, ServerSettings
from trainedmodel_puller.drivers.factory import AUTO, default_url, make_server
from trainedmodel_puller.errors import SettingsError
from trainedmodel_puller.fetch.fetcher import Fetcher
from trainedmodel_puller.live_state import LiveState
from trainedmodel_puller.reporting.endpoints import Endpoints
from trainedmodel_puller.reporting.listen import listen_everywhere
from trainedmodel_puller.reporting.report_client import ReportClient
from trainedmodel_puller.reporting.reporter import KubernetesReporter
from trainedmodel_puller.reporting.startup_endpoints import (
    EndpointRouter,
    Waiting,
    WaitingForServer,
)
from trainedmodel_puller.settings import PodIdentity, Settings
from trainedmodel_puller.startup import take, until_done
from trainedmodel_puller.storage.download import Downloader, DownloadLimits
from trainedmodel_puller.storage.registry import StorageRegistry
from trainedmodel_puller.usage.volume_usage import VolumeUsage
from trainedmodel_puller.volume.async_volume import AsyncVolume
from trainedmodel_puller.volume.layouts import make_model_dir
from trainedmodel_puller.volume.ownership import Ownership
from trainedmodel_puller.volume.volume import Volume

log: Final = structlog.get_logger()

#: Time for running loads, out of the 5 s between a SIGTERM and the end of the process.
_GRACE_S: Final = 3.0
#: Pause between two attempts to detect the kind of server.
_IDENTIFY_PERIOD_S: Final = 0.5


async def run(settings: Settings, on_stop: Callable[[], None] | None = None) -> None:
    """Run until SIGTERM or SIGINT.

    Args:
        settings: Settings of the process.
        on_stop: Called when the signal comes.

    Raises:
        SettingsError: the puller cannot start with these settings.
    """
    stop = asyncio.Event()
    running = asyncio.get_running_loop()

    def end() -> None:
        stop.set()
        if on_stop is not None:
            on_stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        running.add_signal_handler(number, end)
    # first of all: other containers may wait for the folder to mount it
    await asyncio.to_thread(_make_folder, settings.model_dir)
    router = EndpointRouter()
    async with AsyncExitStack() as stack:
        await _serve(stack, router.application(), settings.port)
        if settings.server == AUTO:
            router.answers = WaitingForServer()
        server = await find_server(settings, stop)
        if server is None:
            return
        stack.push_async_callback(server.close)
        router.answers = Waiting("reading the model volume")
        volume = make_volume(settings, server)
        ownership = Ownership(settings.model_dir, settings.state_dir)
        stack.callback(ownership.release)
        if not await until_done(lambda: take(volume, ownership), router, stop):
            return
        registry = StorageRegistry(settings.storage)
        stack.push_async_callback(registry.close)
        downloader = Downloader(
            registry,
            DownloadLimits(
                max_connections=settings.max_connections,
                stall_timeout_s=settings.stall_timeout_s,
            ),
        )
        stack.push_async_callback(downloader.close)
        await _run_parts(settings, volume, server, downloader, router=router, stop=stop)
    log.info("puller_stopped")


async def find_server(settings: Settings, stop: asyncio.Event) -> ModelServer | None:
    """Make the driver; with `auto`, wait until the server is detected, or `stop` is set."""
    kind, url = settings.server, settings.server_url
    if kind == AUTO:
        identity = await _identify(settings, stop)
        if identity is None:
            return None
        kind, url = identity.kind, identity.url
        log.info("server_identified", server=kind, url=url)
    told = ServerSettings(
        url=url if url is not None else default_url(kind),
        model_dir=settings.model_dir,
        served_dir=settings.server_model_dir or settings.model_dir,
        action_timeout_s=settings.load_timeout_s,
        config_file=settings.server_config,
    )
    return await asyncio.to_thread(make_server, kind, told)  # some read a file first


def _make_folder(folder: Path) -> None:
    try:
        make_model_dir(folder)
    except OSError as error:
        # the parent exists, and no folder can be made in it, as in /proc
        is_hopeless = isinstance(error, FileNotFoundError) and folder.parent.is_dir()
        if is_hopeless or isinstance(error, PermissionError):
            raise SettingsError(
                f"--model-dir {folder} must be a writable folder: {error.strerror}"
            ) from error
        log.warning(
            "model_dir_not_created", folder=str(folder), error=error.strerror
        )  # `take` waits


async def _identify(settings: Settings, stop: asyncio.Event) -> Identity | None:
    while not stop.is_set():
        identity = await identify(settings.server_url)
        if identity is not None:
            return identity
        try:
            async with asyncio.timeout(_IDENTIFY_PERIOD_S):
                await stop.wait()
        except TimeoutError:
            continue
    return None


def make_volume(settings: Settings, server: ModelServer) -> Volume:
    """Make the volume in the layout that a server wants."""
    return Volume(settings.model_dir, settings.state_dir, server.layout, server.folder_name)


def make_limits(settings: Settings, server: ModelServer) -> Limits:
    """Turn settings into the limits of plans."""
    # where trees stay in place, running requests may still read the tree that was just replaced
    least_kept = 1 if server.layout is Layout.PER_REVISION else 0
    return Limits(
        max_downloads=settings.max_downloads,
        max_loads=settings.max_loads or server.max_loads,
        memory_budget=settings.memory_budget,
        keep_versions=max(settings.keep_versions, least_kept),
        keep_bytes=settings.keep_bytes,
        max_unpacked_bytes=settings.max_unpacked_bytes,
        reserve_bytes=reserve_within(Limits().reserve_bytes, settings.volume_limit),
        volume_limit=settings.volume_limit,
    )


def make_state(settings: Settings) -> LiveState:
    """Make the empty live state of a start."""
    usage = VolumeUsage(settings.volume_limit, settings.limited_folders)
    return LiveState(jitter=random.random, usage=usage)


async def _run_parts(
    settings: Settings,
    volume: Volume,
    server: ModelServer,
    downloader: Downloader,
    *,
    router: EndpointRouter,
    stop: asyncio.Event,
) -> None:
    state = make_state(settings)
    limits = make_limits(settings, server)
    disk = AsyncVolume(volume, state)
    loop = Loop(settings.config_dir, state, disk, limits, settings.period_s)
    if not await until_done(loop.restore, router, stop):
        disk.close()
        loop.close()
        return
    if settings.volume_limit:
        await state.usage.measure()  # before any download is admitted
    watch = ServerMonitor(server, state, settings.period_s)
    router.answers = endpoints = Endpoints(
        state, loop, watch, server, ready_when=settings.ready_when
    )
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        for part in (disk, loop, endpoints):
            stack.callback(part.close)
        stack.callback(setattr, router, "answers", Waiting("the puller is shutting down"))
        log.info("puller_started", server=server.kind, url=server.url, port=settings.port)
        fetcher = Fetcher(state, disk, downloader, server, limits)
        served_dir = settings.server_model_dir or settings.model_dir
        executor = Executor(
            state, disk, fetcher, server, tasks, served_dir=served_dir, replan=loop.replan
        )
        jobs = [*_watchers(settings, state), watch.run(), SourceMonitor(state, downloader).run()]
        if settings.identity is not None:
            sources = (state, loop, watch, server)
            jobs.append(_make_reporter(stack, settings.identity, sources).run())
        owned = [tasks.create_task(job) for job in jobs]
        try:
            await loop.run(executor, stop)
        finally:
            log.info("puller_stopping")
            for task in owned:
                task.cancel()
            await executor.drain(_GRACE_S)


def _watchers(settings: Settings, state: LiveState) -> Iterator[Coroutine[Any, Any, None]]:
    """Yield the watchers of the volume and of the configuration that the settings ask for."""
    if settings.volume_limit:
        yield state.usage.run(state.is_room_wanted, state.wake)
    if settings.has_watch:
        yield watch_folder(settings.config_dir, state.wake)


def _make_reporter(
    stack: AsyncExitStack,
    identity: PodIdentity,
    sources: tuple[LiveState, Loop, ServerMonitor, ModelServer],
) -> KubernetesReporter:
    client = ReportClient(identity.namespace, identity.account_dir)
    stack.push_async_callback(client.close)
    return KubernetesReporter(identity, client, sources)


async def _serve(stack: AsyncExitStack, application: web.Application, port: int) -> None:
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    try:
        await web.SockSite(runner, listen_everywhere(port)).start()
    except OSError as error:
        raise SettingsError(f"--port {port} cannot bind: {error.strerror}") from error
