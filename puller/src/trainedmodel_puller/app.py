"""Puts the puller together and ends it in order.

On SIGTERM: no new action; transfers are cancelled (they resume where they were); loads under way
get the rest of the grace period, because a server finishes them anyway; then everything is closed.
Nothing is unloaded: the server may outlive the puller, and goes on serving.
"""

from __future__ import annotations

import asyncio
import random
import signal
from contextlib import AsyncExitStack
from typing import Final

import structlog
from aiohttp import web

from trainedmodel_puller.core.state import Limits
from trainedmodel_puller.disk import Disk
from trainedmodel_puller.drivers.base import ModelServer
from trainedmodel_puller.drivers.factory import make_server
from trainedmodel_puller.errors import SettingsError
from trainedmodel_puller.executor import Executor
from trainedmodel_puller.http import Endpoints
from trainedmodel_puller.kube import ReportClient
from trainedmodel_puller.loop import Loop
from trainedmodel_puller.reporters import KubernetesReporter
from trainedmodel_puller.serverwatch import ServerWatch
from trainedmodel_puller.settings import Settings
from trainedmodel_puller.state import LiveState
from trainedmodel_puller.storage.download import Downloader, DownloadLimits
from trainedmodel_puller.storage.registry import StorageRegistry
from trainedmodel_puller.volume import Volume
from trainedmodel_puller.watch import watch_folder

log: Final = structlog.get_logger()

#: Of the 5 s in which a SIGTERM must be answered, this much is for loads under way.
_GRACE_S: Final = 3.0


async def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        SettingsError: it cannot start as configured.
    """
    stop = asyncio.Event()
    running = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        running.add_signal_handler(number, stop.set)
    volume = Volume(settings.model_dir, settings.state_dir)
    await asyncio.to_thread(volume.prepare)
    server = make_server(
        settings.server, settings.server_url, settings.model_dir, settings.load_timeout_s
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.close)
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
        await _run_parts(settings, volume, server, downloader, stop)
    log.info("stopped")


async def _run_parts(
    settings: Settings,
    volume: Volume,
    server: ModelServer,
    downloader: Downloader,
    stop: asyncio.Event,
) -> None:
    state = LiveState(chance=random.random)
    limits = Limits(settings.max_downloads, settings.max_loads or server.max_loads)
    disk = Disk(volume, state)
    loop = Loop(settings.config_dir, state, disk, limits, settings.period_s)
    await loop.restore()
    watch = ServerWatch(server, state, settings.period_s)
    endpoints = Endpoints(state, loop, watch, server)
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        await _serve(stack, endpoints, settings.port)
        log.info("started", server=server.kind, url=server.url, port=settings.port)
        executor = Executor(state, disk, downloader, server, tasks)
        owned = [tasks.create_task(watch.run())]
        if settings.has_watch:
            owned.append(tasks.create_task(watch_folder(settings.config_dir, state.bell, stop)))
        if settings.identity is not None:
            client = ReportClient(settings.identity.namespace, settings.identity.account_dir)
            stack.push_async_callback(client.close)
            reporter = KubernetesReporter(settings.identity, client, (state, loop, watch, server))
            owned.append(tasks.create_task(reporter.run()))
        try:
            await loop.run(executor, stop)
        finally:
            log.info("stopping")
            for task in owned:
                task.cancel()
            await executor.drain(_GRACE_S)


async def _serve(stack: AsyncExitStack, endpoints: Endpoints, port: int) -> None:
    runner = web.AppRunner(endpoints.application(), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    try:
        await web.TCPSite(runner, "0.0.0.0", port).start()
    except OSError as error:
        raise SettingsError(f"--port {port} cannot be listened on: {error.strerror}") from error
