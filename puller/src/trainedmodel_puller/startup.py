"""Prepares the volume at start: makes its folders, locks it, and reads it.

If another puller still uses the volume, or the volume is missing or faulty, the puller waits. It
stays alive, is not ready, and reports the reason, which a puller in a restart loop cannot. The
process ends only for faults that waiting cannot mend: a folder that is not writable, or two file
systems.
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

#: Seconds until the next attempt on the volume.
_PERIOD_S: Final = 1.0


async def until_done(
    step: Callable[[], Awaitable[None]], router: EndpointRouter, stop: asyncio.Event
) -> bool:
    """Repeat a step until the volume allows it; return False if `stop` is set first."""
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
    """Lock the volume for this puller, and check that it is usable.

    Raises:
        VolumeFault: another puller uses it, or an operation failed; the caller may retry.
        SettingsError: it can never be used with these settings.
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
