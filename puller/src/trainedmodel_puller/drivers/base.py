"""The seam to a model server.

A driver speaks one server's dialect and hides its quirks; it decides nothing. What it must hold:

- `load` returns only when the server itself says that the model is ready, and raises otherwise. A
  2xx answer alone proves nothing: MLServer answers 200 for a model whose load returned false;
- `unload` returns only when the server no longer has the name; a name it never had is no error;
- `observe` says what it saw or raises; it never returns a guess (P2);
- none of them is called twice at once for one name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final, Protocol

from trainedmodel_contract.entry import Entry

from trainedmodel_puller.core.state import ServerState
from trainedmodel_puller.errors import PullerError

#: How long one look at the server may take, in seconds.
OBSERVE_TIMEOUT_S: Final = 5.0
#: How long a load or unload may take before it is called failed, in seconds. The server is polled
#: meanwhile, never asked twice.
ACTION_TIMEOUT_S: Final = 600.0


class ServerGone(PullerError):
    """Nobody listens at the server's address: the process is down."""


class ServerInDoubt(PullerError):
    """Somebody listens, but did not answer in time, or answered what makes no sense."""


class ServerHungUp(ServerInDoubt):
    """Somebody listened and dropped the connection in the middle of a call."""


class ModelServer(Protocol):
    """One running model server.

    Attributes:
        kind: Name of the dialect, as in `--server`.
        url: Where it listens.
        max_loads: How many loads it bears at once.
    """

    kind: str
    url: str
    max_loads: int

    async def ping(self) -> None:
        """Ask for a sign of life, as cheaply as the server has one.

        Raises:
            ServerGone: nobody listens.
            ServerInDoubt: no answer in time, or none that makes sense.
        """
        ...

    async def observe(self, names: Collection[str]) -> Mapping[str, ServerState]:
        """Return the state of each model the server knows; of `names` at least, if it has them.

        Raises:
            ServerGone: nobody listens.
            ServerInDoubt: no answer in time, or none that makes sense.
        """
        ...

    def prepare(self, tree: Path, entry: Entry) -> None:
        """Make a verified, not yet published tree loadable under the entry's name (blocking).

        Raises:
            ServerFault: InvalidLayout; names the missing file and the fix.
        """
        ...

    def touch(self, tree: Path) -> None:
        """Make the server see that the published files are new (blocking)."""
        ...

    async def load(self, name: str, entry: Entry | None) -> None:
        """Load or reload, and return when the server says ready.

        Raises:
            ServerFault: LoadFailed or LoadTimeout, with the server's words.
            ServerGone: nobody listens (any more).
        """
        ...

    async def unload(self, name: str) -> None:
        """Unload, and return when the server says that it is gone.

        Raises:
            ServerFault: UnloadFailed, with the server's words.
            ServerGone: nobody listens: then nothing is loaded either, but that is for the next
                observation to say.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
