"""No server at all: files only (`--server none`).

For servers that watch their folder by themselves, and for use as a plain synchroniser. A model
counts as loaded once its files are published: there is nobody else to ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from pathlib import Path

from trainedmodel_contract.entry import Entry

from trainedmodel_puller.core.shape import Shape
from trainedmodel_puller.core.state import Layout, ServerState
from trainedmodel_puller.drivers.base import Observation, ServerInDoubt, ServerSettings, Target
from trainedmodel_puller.volume.durable import words_of


class FilesOnly:
    """The absence of a server."""

    kind = "none"
    url = ""
    max_loads = 16
    layout = Layout.IN_PLACE

    def __init__(self, settings: ServerSettings) -> None:
        self._model_dir = settings.model_dir

    async def ping(self) -> bool:
        """Be alive, and the same for ever."""
        return True

    async def observe(self, names: Collection[str]) -> Observation:
        """Call ready what has a folder."""
        try:
            return Observation(await asyncio.to_thread(self._look, tuple(names)))
        except OSError as error:
            raise ServerInDoubt(words_of(error)) from error

    def _look(self, names: Collection[str]) -> Mapping[str, ServerState]:
        return {name: ServerState.READY for name in names if (self._model_dir / name).is_dir()}

    def check_layout(self, shape: Shape, entry: Entry) -> str | None:
        """Accept any layout."""
        return None

    def prepare(self, tree: Path, entry: Entry) -> bool:
        """Accept any layout, as it is."""
        return False

    def touch(self, tree: Path) -> None:
        """Do nothing."""

    def folder_name(self, revision: str) -> str:
        """Return the revision; this layout has no use for it."""
        return revision

    async def load(self, target: Target) -> None:
        """Do nothing: publishing was all."""

    async def unload(self, name: str) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""
