"""The volume at start: made, locked, read. Whatever keeps it from that is told and waited for.

A volume that another puller still uses, that is sick, or is not there yet, is no reason to end: a
puller that is restarted again and again says less than one that is alive, not ready, and says why.
Only what no waiting mends (a folder that may not be written to, two file systems) ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.errors import VolumeFault
from trainedmodel_puller.reporting.startup_endpoints import EndpointRouter, Waiting
from trainedmodel_puller.volume.durable import translate_os_errors
from trainedmodel_puller.volume.ownership import Ownership, VolumeInUse
from trainedmodel_puller.volume.volume import Volume

log: Final = structlog.get_logger()

#: How long until the volume is tried again, seconds.
_PERIOD_S: Final = 1.0


async def until_done(
    step: Callable[[], Awaitable[None]], router: EndpointRouter, stop: asyncio.Event
) -> bool:
    """Try a step until the volume lets it be done; return False if `stop` came first."""
    told = ""
    while not stop.is_set():
        try:
            await step()
        except VolumeFault as fault:
            if str(fault) != told:
                told = str(fault)
                log.warning("volume_unavailable", reason=str(fault.reason), error=fault.message)
            router.answers = Waiting(f"waiting for the model volume: {told}")
        else:
            return True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PERIOD_S):
                await stop.wait()
    return False


async def take(volume: Volume, ownership: Ownership) -> None:
    """Make a volume this puller's own, and see whether it can be used.

    Raises:
        VolumeFault: another puller has it, or it refused; it may be tried again.
        SettingsError: it can never be used as configured.
    """
    with translate_os_errors():
        await asyncio.to_thread(volume.make_folders)
        try:
            has_locks = await asyncio.to_thread(ownership.acquire)
        except VolumeInUse as other:
            raise VolumeFault(
                Reason.VOLUME_IN_USE,
                f"{other} uses the model volume, and this puller waits until it ends; "
                "give each puller a volume of its own",
            ) from other
        if not has_locks:
            log.warning("volume_locks_unsupported", folder=str(volume.state_dir))
        try:
            why = await asyncio.to_thread(volume.prepare)
        except BaseException:
            ownership.release()
            raise
    if why is not None:
        log.warning("volume_not_writable", error=why)
