"""Servers with one configuration file: TensorFlow Serving and OpenVINO Model Server.

The file is the whole desired state. The server loads each model in it, also when it starts, and
unloads each model that leaves it. So this driver edits the row of one model at a time, and never
makes the file from memory. It keeps rows of others (their `base_path` is not `<model-dir>/<name>`).
While the file cannot be read, nothing is changed (P1).

- An update has no gap. The row lists the old version and the new one until the server reports the
  new one as available. Then it lists the new one alone.
- A version that fails is removed from the file, also if the server crashed. Otherwise the restarted
  server would load it again and crash again.
- A version is a number. It is computed from the revision, so a restarted puller computes the same
  one. The order of the numbers has no meaning. Both versions serve for a moment in an update.
- If the file is missing or empty, its last seen content is written again. If it was never seen, it
  is written with the models that the server reports and whose folders the puller made.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.core.state import Layout, ServerState
from trainedmodel_puller.drivers.base import (
    Observation,
    ServerGone,
    ServerHungUp,
    ServerInDoubt,
    ServerSettings,
    Target,
)
from trainedmodel_puller.drivers.client import JsonShape, telling
from trainedmodel_puller.drivers.config_format import ConfigFormat, Row
from trainedmodel_puller.drivers.driver import HttpDriver
from trainedmodel_puller.drivers.version_status import (
    Statuses,
    VersionStatus,
    read_statuses,
    state_of,
)
from trainedmodel_puller.errors import ServerFault, SettingsError
from trainedmodel_puller.volume.durable import volume_fault, write_durably
from trainedmodel_puller.volume.identity import revision_of

_POLL_S: Final = 0.2
_ASK_AT_ONCE: Final = 8
_STATUS: Final = JsonShape("model status", read_statuses)
#: Version numbers stay below this, so that JSON carries them exactly everywhere.
_VERSIONS: Final = 2**53 - 1


class ConfigServer(HttpDriver):
    """The common part of the two drivers."""

    kind = "config"
    max_loads = 4
    layout = Layout.PER_REVISION
    file_name = "models.config"
    format: ConfigFormat
    #: How long a failure from before the load may belong to an earlier load, in seconds.
    stale_s = 0.0
    #: How long the server may take to notice that a version left the file, in seconds.
    notice_s = 0.0

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__(settings)
        self._file = settings.config_file or settings.model_dir / self.file_name
        self._editing = asyncio.Lock()
        #: Failed versions that were removed from the file: when the server has noticed that.
        self._noticed_at: dict[tuple[str, int], float] = {}
        self._seen = self._read_first()

    def _read_first(self) -> str | None:
        try:
            text = self._stored()
            self.format.rows(text or self.format.empty)
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"--server-config {self._file} cannot be read, so its content cannot be kept: "
                f"{error}; repair or remove the file"
            ) from error
        return text

    def folder_name(self, revision: str) -> str:
        """Return the version number of a revision, from 1 to 2**53 - 1: 53 bits of its hash.

        Two revisions of one model share a number only by chance, after millions of revisions.
        """
        digest = hashlib.sha256(revision.encode()).digest()
        return str(int.from_bytes(digest[:8], "big") % _VERSIONS + 1)

    # -- the file -----------------------------------------------------------------------

    async def _rows(self) -> dict[str, Row]:
        """Return the rows of the file.

        Raises:
            ServerInDoubt: it cannot be read. Then nothing is loaded or unloaded.
        """
        _, rows = await asyncio.to_thread(self._read)
        return rows

    def _read(self) -> tuple[str, dict[str, Row]]:
        try:
            text = self._stored() or self._seen
            if text is None:
                raise ServerInDoubt(f"{self._file} does not exist")
            rows = self.format.rows(text)
        except (OSError, ValueError) as error:
            raise ServerInDoubt(f"{self._file} cannot be read: {error}; repair the file") from error
        self._seen = text
        return text, rows

    def _stored(self) -> str | None:
        """Return the file's text; None if the file is missing or empty."""
        try:
            # Comments may hold any bytes, which are written back unchanged.
            text = self._file.read_bytes().decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            return None
        return text if text.strip() else None

    async def _ask_for(self, name: str, versions: Sequence[int]) -> None:
        """Write the versions of a name into the file. No versions remove the name.

        Raises:
            VolumeFault: the file cannot be written.
        """
        base = str(self._served_dir / name)

        def edit() -> None:
            text, _ = self._read()
            self._write(self.format.edit(text, name, base, versions))

        async with self._editing:
            await asyncio.to_thread(edit)

    def _write(self, text: str) -> None:
        try:
            if text == self._stored():
                return
            write_durably(self._file, text)
        except OSError as error:
            raise volume_fault(error) from error
        self._seen = text

    async def _keep_file(self, names: Collection[str], *, is_up: bool) -> None:
        """Write the file if it is missing: a server cannot start without it."""
        try:
            if await asyncio.to_thread(self._stored) is not None:
                return
        except (OSError, ValueError):
            return  # It exists and cannot be read: the next reader raises that.
        text = self._seen
        if text is None:
            text = self.format.empty
            served = await self._look(names) if is_up else {}
            for name, statuses in served.items():
                if versions := await asyncio.to_thread(self._ours, name, statuses):
                    base = str(self._served_dir / name)
                    text = self.format.edit(text, name, base, versions)
        async with self._editing:
            await asyncio.to_thread(self._write, text)

    def _ours(self, name: str, statuses: Statuses) -> list[int]:
        """Return the serving versions whose folders the puller made."""
        return [
            version
            for version, status in statuses.items()
            if status.is_available and self._revision_of(name, version)
        ]

    def _revision_of(self, name: str, version: int) -> str:
        """Return the revision in a version's folder; empty if the puller did not make it."""
        revision = revision_of(self._model_dir / name / str(version))
        return revision if revision and self.folder_name(revision) == str(version) else ""

    # -- observing ----------------------------------------------------------------------

    async def observe(self, names: Collection[str]) -> Observation:
        """Read the versions of each name in the file and of `names`."""
        try:
            await self.ping()
        except ServerGone:
            await self._keep_file(names, is_up=False)
            raise
        await self._keep_file(names, is_up=True)
        rows = await self._rows()
        looked = await self._look({*names, *(name for name in rows if self._is_ours(name, rows))})
        states = {
            name: state
            for name, statuses in looked.items()
            if (state := state_of(statuses)) is not ServerState.ABSENT
        }
        return Observation(states, await asyncio.to_thread(self._revisions, states, rows, looked))

    def _is_ours(self, name: str, rows: Mapping[str, Row]) -> bool:
        return name in rows and rows[name].base_path == str(self._served_dir / name)

    def _revisions(
        self,
        states: Mapping[str, ServerState],
        rows: Mapping[str, Row],
        looked: Mapping[str, Statuses],
    ) -> dict[str, str]:
        """Return each revision that file and server agree on; empty for an unfinished update."""
        revisions: dict[str, str] = {}
        for name in states:
            asked = rows[name].versions if self._is_ours(name, rows) else ()
            serving = tuple(v for v, status in looked[name].items() if status.is_available)
            is_clear = len(asked) == 1 and (serving == asked or not serving)
            revisions[name] = self._revision_of(name, asked[0]) if is_clear else ""
        return revisions

    async def _look(self, names: Collection[str]) -> dict[str, Statuses]:
        """Return the versions of each name that the server knows."""
        gate = asyncio.Semaphore(_ASK_AT_ONCE)

        async def ask(name: str) -> tuple[str, Statuses]:
            async with gate:
                return name, await self._client.find_json(f"/v1/models/{name}", _STATUS) or {}

        return dict(await asyncio.gather(*(ask(name) for name in names)))

    # -- acting -------------------------------------------------------------------------

    async def load(self, target: Target) -> None:
        """Add the version beside the serving one, then keep it alone."""
        name, version = target.name, int(self.folder_name(target.revision))
        deadline = time.monotonic() + self._action_timeout_s
        rows = await self._rows()
        if name in rows and not self._is_ours(name, rows):
            raise ServerFault(
                Reason.LOAD_FAILED,
                f"{self._file} has a model of this name from {rows[name].base_path}, which is not "
                f"{self._served_dir / name}: remove it or set another spec.model.name",
            )
        before = [v for v in rows[name].versions if v != version] if name in rows else []
        earlier = (await self._look([name])).get(name, {}).get(version)
        # The server loads a failed version again only if it has noticed that it left the file.
        await asyncio.sleep(self._noticed_at.pop((name, version), 0.0) - time.monotonic())
        try:
            await self._ask_for(name, [*before, version])
            await self._see_available(name, version, earlier, await self._apply(), deadline)
        except BaseException as error:
            await self._ask_for(name, before)
            self._noticed_at[name, version] = time.monotonic() + self.notice_s
            with contextlib.suppress(ServerGone, ServerInDoubt):
                await self._apply()
            if isinstance(error, ServerGone | ServerHungUp):
                # This model may have crashed the server: a failure, with backoff, and not doubt.
                raise ServerFault(Reason.LOAD_FAILED, f"{error} during the load") from error
            if isinstance(error, ServerInDoubt):
                raise ServerFault(Reason.LOAD_TIMEOUT, str(error)) from error
            raise
        await self._ask_for(name, [version])
        await self._apply()
        if not await self._are_gone(name, deadline, but=version):
            raise ServerFault(
                Reason.LOAD_TIMEOUT, f"{self.kind} serves it, but still has the previous version"
            )

    async def _see_available(
        self,
        name: str,
        version: int,
        earlier: VersionStatus | None,
        complaint: str | None,
        deadline: float,
    ) -> None:
        believed_at = time.monotonic() + self.stale_s
        status: VersionStatus | None = None
        while time.monotonic() < deadline:
            try:
                status = (await self._look([name])).get(name, {}).get(version)
            except ServerInDoubt:
                await asyncio.sleep(_POLL_S)
                continue
            if status is not None and status.is_available:
                return
            is_new = status != earlier or time.monotonic() > believed_at
            if status is not None and status.has_failed and is_new:
                cause = status.message or status.error_code
                raise ServerFault(
                    Reason.LOAD_FAILED, f"{self.kind} could not load it: {telling(cause)}"
                )
            if complaint is not None and status is None:
                raise ServerFault(Reason.LOAD_FAILED, complaint)
            await asyncio.sleep(_POLL_S)
        raise ServerFault(Reason.LOAD_TIMEOUT, self._too_late(status))

    def _too_late(self, status: VersionStatus | None) -> str:
        said = "does not know the version" if status is None else f"reports {status.state}"
        return (
            f"{self.kind} {said} {self._action_timeout_s:.0f} s after it entered {self._file.name}"
        )

    async def unload(self, name: str) -> None:
        """Remove the name from the file, and return when the server has no version of it."""
        rows = await self._rows()
        if name in rows and not self._is_ours(name, rows):
            return  # a row of others
        await self._ask_for(name, [])
        await self._apply()
        self._noticed_at = {key: at for key, at in self._noticed_at.items() if key[0] != name}
        if not await self._are_gone(name, time.monotonic() + self._action_timeout_s):
            raise ServerFault(Reason.UNLOAD_FAILED, f"{self.kind} still has it after the unload")

    async def _are_gone(self, name: str, deadline: float, but: int | None = None) -> bool:
        """Wait until the server has no version of a name, except perhaps `but`."""
        while True:
            with contextlib.suppress(ServerInDoubt):
                statuses = (await self._look([name])).get(name, {})
                if all(status.is_gone or version == but for version, status in statuses.items()):
                    return True
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_POLL_S)

    async def _apply(self) -> str | None:
        """Make the server read the file, if it does not by itself; return its complaint."""
        return None
