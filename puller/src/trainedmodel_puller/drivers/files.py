"""The driver without a server (`--server none`): it only keeps the files.

It serves servers that watch their folder by themselves, and use as a plain synchroniser. A model
counts as loaded when its files are published.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

from trainedmodel_puller.core.state import ServerState
from trainedmodel_puller.drivers.base import Observation, ServerInDoubt, Target
from trainedmodel_puller.drivers.driver import Driver
from trainedmodel_puller.volume.durable import words_of


class FilesOnly(Driver):
    """The driver without a server."""

    kind = "none"
    max_loads = 16

    async def ping(self) -> bool:
        """Return that nothing was restarted."""
        return True

    async def observe(self, names: Collection[str]) -> Observation:
        """Return each of `names` that has a folder as ready."""
        try:
            return Observation(await asyncio.to_thread(self._look, tuple(names)))
        except OSError as error:
            raise ServerInDoubt(words_of(error)) from error

    def _look(self, names: Collection[str]) -> Mapping[str, ServerState]:
        return {name: ServerState.READY for name in names if (self._model_dir / name).is_dir()}

    async def load(self, target: Target) -> None:
        """Do nothing: the files are published already."""

    async def unload(self, name: str) -> None:
        """Do nothing: the puller deletes the files."""
