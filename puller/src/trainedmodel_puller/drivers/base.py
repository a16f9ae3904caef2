"""The seam to a model server.

A driver speaks one server's dialect and hides its quirks; it decides nothing. What it must hold:

- `load` returns only when the server itself says that the model is ready, and raises otherwise. A
  2xx answer alone proves nothing: MLServer answers 200 for a model whose load returned false;
- `unload` returns only when the server no longer has the name; a name it never had is no error;
- `observe` says what it saw or raises; it never returns a guess (P2);
- none of them is called twice at once for one name.

Where the files of a revision must lie depends on the server, and a driver says so (`layout`):

- *in place*: one folder a name, `<model-dir>/<name>`; an update swaps it, the old model lives on in
  the server's memory. For servers that read files only while they load;
- *per revision*: one folder a revision, `<model-dir>/<name>/<folder>`, never touched again once
  made, gone only after it was let go of. For servers that come back to the files (vLLM reads an
  evicted adapter again) or want a new version number (TensorFlow Serving).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from trainedmodel_contract.entry import Entry

from trainedmodel_puller.core.shape import Shape
from trainedmodel_puller.core.state import Layout, ServerState
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


@dataclass(frozen=True, slots=True)
class Target:
    """What a load is to bring about.

    Attributes:
        name: Served name.
        revision: What must serve afterwards.
        path: The tree, as the server sees it: below `--server-model-dir`.
        entry: As the revision was fetched with; its parameters go into the load call.
        is_serving: The server was last seen to serve some revision of the name: then its being
            ready proves nothing of the new one.
    """

    name: str
    revision: str
    path: Path
    entry: Entry
    is_serving: bool = True


@dataclass(frozen=True, slots=True)
class Observation:
    """What one look at the server has shown.

    Attributes:
        states: By served name; a name that is not in it is absent.
        revisions: By served name, for servers that tell which files they serve: the revision.
    """

    states: Mapping[str, ServerState]
    revisions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What a driver is told.

    Attributes:
        url: Where the server listens; for MMS and TorchServe the management address.
        model_dir: The served folder, as the puller sees it.
        served_dir: The same folder, as the server sees it.
        action_timeout_s: How long a load or unload may take in all, in seconds.
        config_file: For servers that take one configuration file: where it is.
    """

    url: str
    model_dir: Path
    served_dir: Path
    action_timeout_s: float = ACTION_TIMEOUT_S
    config_file: Path | None = None


class ModelServer(Protocol):
    """One running model server.

    Attributes:
        kind: Name of the dialect, as in `--server`.
        url: Where it listens.
        max_loads: How many loads it bears at once.
        layout: Where it wants its files.
    """

    kind: str
    url: str
    max_loads: int
    layout: Layout

    async def ping(self) -> bool:
        """Ask for a sign of life, as cheaply as the server has one.

        Returns:
            Whether it is provably the same process as at the last ping.

        Raises:
            ServerGone: nobody listens.
            ServerInDoubt: no answer in time, or none that makes sense.
        """
        ...

    async def observe(self, names: Collection[str]) -> Observation:
        """Return the state of each model the server knows; of `names` at least, if it has them.

        Raises:
            ServerGone: nobody listens.
            ServerInDoubt: no answer in time, or none that makes sense.
        """
        ...

    def check_layout(self, shape: Shape, entry: Entry) -> str | None:
        """Say why the server cannot load a source of this shape; None if nothing tells so yet.

        Pure. It is asked about a listing before the first byte is fetched, and `prepare` asks it
        about the tree, so a refusal never depends on more than names.
        """
        ...

    def prepare(self, tree: Path, entry: Entry) -> bool:
        """Make a verified, not yet published tree loadable under the entry's name (blocking).

        A kill may come between any two of its steps, so doing it again must end the same way. A
        file that was there is never written into, only replaced: other names may share it. Names
        and versions that the tree gives itself are the driver's: it takes them away or sets them.

        Returns:
            Whether the tree may be another now; False spares its caller a look at each file.

        Raises:
            ServerFault: InvalidLayout; names what is wanted and what is there.
            OSError: the volume refused.
        """
        ...

    def touch(self, tree: Path) -> None:
        """Make the server see that the published files are new (blocking)."""
        ...

    def folder_name(self, revision: str) -> str:
        """Return the folder of a revision below that of its name; for the layout per revision."""
        ...

    async def load(self, target: Target) -> None:
        """Load or reload, and return when the server says ready and has let go of older revisions.

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
