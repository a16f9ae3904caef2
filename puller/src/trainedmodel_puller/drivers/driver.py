"""Base classes of the drivers: what most of them do in the same way.

`base.ModelServer` is the interface that the rest of the puller uses. `Driver` has its defaults, and
`HttpDriver` adds the connection to a server. A driver overrides only what its server does
differently. `drivers.factory` lists the drivers as `ModelServer`, so the type checker proves that
each of them is complete.
"""

from __future__ import annotations

from pathlib import Path

from trainedmodel_contract.entry import Entry

from trainedmodel_puller.core.shape import Shape
from trainedmodel_puller.core.state import Layout
from trainedmodel_puller.drivers.base import ServerSettings
from trainedmodel_puller.drivers.client import ServerClient
from trainedmodel_puller.drivers.userfiles import refused, shape_of


class Driver:
    """The defaults: any layout, one folder for each name, nothing to prepare."""

    kind = ""
    url = ""
    max_loads = 2
    layout = Layout.IN_PLACE

    def __init__(self, settings: ServerSettings) -> None:
        self._model_dir = settings.model_dir
        self._served_dir = settings.served_dir
        self._action_timeout_s = settings.action_timeout_s

    def check_layout(self, shape: Shape, entry: Entry) -> str | None:
        """Accept any layout."""
        return None

    def prepare(self, tree: Path, entry: Entry) -> bool:
        """Leave the tree as it is."""
        return False

    def touch(self, tree: Path) -> None:
        """Do nothing: the server needs no new time stamps."""

    def folder_name(self, revision: str) -> str:
        """Return the revision."""
        return revision

    async def close(self) -> None:
        """Do nothing: there are no connections."""

    def _checked_shape(self, tree: Path, entry: Entry) -> Shape:
        """Return the shape of a tree that the server can load (blocking).

        Raises:
            ServerFault: InvalidLayout; the message of `check_layout`.
        """
        shape = shape_of(tree)
        message = self.check_layout(shape, entry)
        if message is not None:
            raise refused(message)
        return shape


class HttpDriver(Driver):
    """A driver of a server with an HTTP API at one address."""

    #: Path of the cheapest request that only a running server answers.
    ping_path = ""

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__(settings)
        self._client = ServerClient(self.kind, settings.url)
        self.url = self._client.url

    async def ping(self) -> bool:
        """Send one request to `ping_path`.

        Returns:
            Whether it is provably the same process as at the last ping.

        Raises:
            ServerGone: connection refused.
            ServerInDoubt: no answer in time, or an unexpected status.
        """
        status, is_same = await self._client.ping(self.ping_path)
        if not self._is_alive(status):
            raise self._client.unexpected(self.ping_path, status)
        return is_same

    def _is_alive(self, status: int) -> bool:
        """Return whether a status of `ping_path` proves that the server runs."""
        return status == 200

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()
