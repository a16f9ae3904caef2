"""The interface between the puller and a model server.

A driver speaks the API of one kind of server and hides its quirks. It makes no decisions. These
rules hold for each driver:

- `load` returns only when the server itself reports that the model is ready, and raises otherwise.
  A 2xx answer alone proves nothing: MLServer answers 200 for a model whose load returned false.
- `unload` returns only when the server no longer has the name. An unknown name is no error.
- `observe` returns what the server reported, or raises. It never returns a guess (P2).
- Calls for one name never overlap.

The place for the files of a revision depends on the server. The driver's `layout` says which:

- *In place*: one folder for each name, `<model-dir>/<name>`. An update swaps the folder, and the
  old model stays in the server's memory. This is for servers that read files only during a load.
- *Per revision*: one folder for each revision, `<model-dir>/<name>/<folder>`. It never changes, and
  it is deleted only after the server has unloaded the revision. This is for servers that read the
  files again later (vLLM reads an evicted adapter again) or need a new version number (TensorFlow
  Serving).
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

#: Time limit of one request that observes the server, in seconds.
OBSERVE_TIMEOUT_S: Final = 5.0
#: Time limit of a load or unload, in seconds. The call is sent once, then the state is polled.
ACTION_TIMEOUT_S: Final = 600.0


class ServerGone(PullerError):
    """The server's address refuses connections: the process is down."""


class ServerInDoubt(PullerError):
    """The server accepts connections, but its answer is late, unexpected or malformed."""


class ServerHungUp(ServerInDoubt):
    """The server closed the connection during a call."""


@dataclass(frozen=True, slots=True)
class Target:
    """The wanted result of a load.

    Attributes:
        name: Served name.
        revision: The revision that serves after the load.
        path: The tree, as the server sees it: below `--server-model-dir`.
        entry: The entry that the revision was fetched for. Its parameters go into the load call.
        is_serving: Whether the server was last seen to serve some revision of the name. In that
            case readiness does not prove that the new revision serves.
    """

    name: str
    revision: str
    path: Path
    entry: Entry
    is_serving: bool = True


@dataclass(frozen=True, slots=True)
class Observation:
    """The models of a server at one moment.

    Attributes:
        states: State by served name. A name without a state is not loaded.
        revisions: Revision by served name, for servers that report which files they serve.
    """

    states: Mapping[str, ServerState]
    revisions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The settings of a driver.

    Attributes:
        url: Address of the server; of MMS and TorchServe, the management address.
        model_dir: The served folder, as the puller sees it.
        served_dir: The same folder, as the server sees it.
        action_timeout_s: Time limit of a whole load or unload, in seconds.
        config_file: Path of the configuration file, for servers that read one.
    """

    url: str
    model_dir: Path
    served_dir: Path
    action_timeout_s: float = ACTION_TIMEOUT_S
    config_file: Path | None = None


class ModelServer(Protocol):
    """One running model server.

    Attributes:
        kind: As in `--server`.
        url: Address of the server.
        max_loads: How many loads may run at once.
        layout: Where the files of a revision are.
    """

    kind: str
    url: str
    max_loads: int
    layout: Layout

    async def ping(self) -> bool:
        """Check that the server runs, with its cheapest request.

        Returns:
            Whether it is provably the same process as at the last ping.

        Raises:
            ServerGone: connection refused.
            ServerInDoubt: no answer in time, or an unexpected one.
        """
        ...

    async def observe(self, names: Collection[str]) -> Observation:
        """Return the state of the server's models, and of each of `names` that it has.

        Raises:
            ServerGone: connection refused.
            ServerInDoubt: no answer in time, or an unexpected or malformed one.
        """
        ...

    def check_layout(self, shape: Shape, entry: Entry) -> str | None:
        """Return why the server cannot load a source of this shape; None if it may be able to.

        Pure. It is called with a listing before the first byte is fetched, and `prepare` calls it
        with the tree. So a refusal depends on names alone.
        """
        ...

    def prepare(self, tree: Path, entry: Entry) -> bool:
        """Make a verified, not yet published tree loadable under the entry's name (blocking).

        A kill may come between any two steps, so a second call must end with the same result. An
        existing file is never written into, only replaced, because other models may share it. The
        driver removes or sets each name and version inside the tree.

        Returns:
            Whether the tree may have changed. After False its caller need not look at each file.

        Raises:
            ServerFault: InvalidLayout. The message names the wanted files and the found ones.
            OSError: from the model volume.
        """
        ...

    def touch(self, tree: Path) -> None:
        """Make the published files look new to the server (blocking)."""
        ...

    def folder_name(self, revision: str) -> str:
        """Return the folder name of a revision, for the layout per revision."""
        ...

    async def load(self, target: Target) -> None:
        """Load or reload, and return when the model is ready and older revisions are unloaded.

        Raises:
            ServerFault: LoadFailed or LoadTimeout, with the server's error.
            ServerGone: connection refused.
        """
        ...

    async def unload(self, name: str) -> None:
        """Unload, and return when the server no longer has the model.

        Raises:
            ServerFault: UnloadFailed, with the server's error.
            ServerGone: connection refused. Then nothing is loaded, but only the next observation
                reports that.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
