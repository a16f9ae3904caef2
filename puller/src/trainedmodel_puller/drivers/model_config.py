"""Servers that take one configuration file: TensorFlow Serving and OpenVINO Model Server.

The file is the whole desired state: what is in it the server loads, also when it starts, and what
is not in it any more it unloads. So this driver edits one model's row at a time and never makes the
file anew from memory; rows that are not ours (their `base_path` is not `<model-dir>/<name>`) are
kept, and a file that cannot be read changes nothing (P1).

- An update has no gap: the row names the old version and the new one until the server says that the
  new one is available, then the new one alone.
- A version that does not come up is taken out again, also if the server died meanwhile: a server
  that restarts loads what is in the file, and would die of it again.
- A version is a number. Ours are made of the revision, so a restarted puller finds the same ones;
  which number is the greater means nothing. Both versions serve for the moment of an update.
- If the file is gone or empty, it is written back as it was last seen; if it was never seen, with
  what the server says it serves of the models at hand.
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
    """What the two servers have in common."""

    kind = "config"
    max_loads = 4
    layout = Layout.PER_REVISION
    file_name = "models.config"
    format: ConfigFormat
    #: For how long a failure that was there before the load may be of the load before.
    stale_s = 0.0
    #: How long after a version was taken out of the file the server has noticed it.
    notice_s = 0.0

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__(settings)
        self._file = settings.config_file or settings.model_dir / self.file_name
        self._editing = asyncio.Lock()
        #: Versions that were taken out after they had failed: when the server has noticed.
        self._noticed_at: dict[tuple[str, int], float] = {}
        self._seen = self._read_first()

    def _read_first(self) -> str | None:
        try:
            text = self._stored()
            self.format.rows(text or self.format.empty)
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"--server-config {self._file} cannot be read, so nothing in it can be kept: "
                f"{error}; mend it or move it away"
            ) from error
        return text

    def folder_name(self, revision: str) -> str:
        """Return the version number of a revision, from 1 to 2**53 - 1: 53 bits of its hash.

        It would take millions of revisions of one model for two of them to share a number.
        """
        digest = hashlib.sha256(revision.encode()).digest()
        return str(int.from_bytes(digest[:8], "big") % _VERSIONS + 1)

    # -- the file -----------------------------------------------------------------------

    async def _rows(self) -> dict[str, Row]:
        """Return what the file asks for.

        Raises:
            ServerInDoubt: it cannot be read: then nothing is loaded or unloaded.
        """
        _, rows = await asyncio.to_thread(self._read)
        return rows

    def _read(self) -> tuple[str, dict[str, Row]]:
        try:
            text = self._stored() or self._seen
            if text is None:
                raise ServerInDoubt(f"{self._file} is not there, nor was it before")
            rows = self.format.rows(text)
        except (OSError, ValueError) as error:
            raise ServerInDoubt(f"{self._file} cannot be read: {error}; mend it") from error
        self._seen = text
        return text, rows

    def _stored(self) -> str | None:
        """Return the file's text; None if there is no file, or (cut off, once) nothing in it."""
        try:
            # comments may hold any bytes; they come back as they were
            text = self._file.read_bytes().decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            return None
        return text if text.strip() else None

    async def _ask_for(self, name: str, versions: Sequence[int]) -> None:
        """Put the versions of a name into the file; none takes the name out.

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
        """Write the file if it is not there; a server cannot start without it."""
        try:
            if await asyncio.to_thread(self._stored) is not None:
                return
        except (OSError, ValueError):
            return  # there, and not to be read: whoever needs it says so
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
        """Return the versions that serve and whose folders are ours."""
        return [
            version
            for version, status in statuses.items()
            if status.is_available and self._revision_of(name, version)
        ]

    def _revision_of(self, name: str, version: int) -> str:
        """Return the revision in a version's folder; empty if there is none of ours."""
        revision = revision_of(self._model_dir / name / str(version))
        return revision if revision and self.folder_name(revision) == str(version) else ""

    # -- observing ----------------------------------------------------------------------

    async def observe(self, names: Collection[str]) -> Observation:
        """Ask for the versions of each name in the file and of `names`."""
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
        """Say the revision where file and server agree on one; empty where an update hangs."""
        told: dict[str, str] = {}
        for name in states:
            asked = rows[name].versions if self._is_ours(name, rows) else ()
            serving = tuple(v for v, status in looked[name].items() if status.is_available)
            is_clear = len(asked) == 1 and (serving == asked or not serving)
            told[name] = self._revision_of(name, asked[0]) if is_clear else ""
        return told

    async def _look(self, names: Collection[str]) -> dict[str, Statuses]:
        """Return the versions of each name, as far as the server knows any."""
        gate = asyncio.Semaphore(_ASK_AT_ONCE)

        async def ask(name: str) -> tuple[str, Statuses]:
            async with gate:
                return name, await self._client.find_json(f"/v1/models/{name}", _STATUS) or {}

        return dict(await asyncio.gather(*(ask(name) for name in names)))

    # -- acting -------------------------------------------------------------------------

    async def load(self, target: Target) -> None:
        """Ask for the version beside the one that serves, then for it alone."""
        name, version = target.name, int(self.folder_name(target.revision))
        deadline = time.monotonic() + self._action_timeout_s
        rows = await self._rows()
        if name in rows and not self._is_ours(name, rows):
            raise ServerFault(
                Reason.LOAD_FAILED,
                f"{self._file} has a model of this name from {rows[name].base_path}, which is not "
                f"{self._served_dir / name}: take it out or set another spec.model.name",
            )
        before = [v for v in rows[name].versions if v != version] if name in rows else []
        earlier = (await self._look([name])).get(name, {}).get(version)
        # one that failed is tried again only if it was seen to be gone from the file meanwhile
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
                # it may have died of this very model: a failure, with backoff, and not a doubt
                raise ServerFault(Reason.LOAD_FAILED, f"{error} during the load") from error
            if isinstance(error, ServerInDoubt):
                raise ServerFault(Reason.LOAD_TIMEOUT, str(error)) from error
            raise
        await self._ask_for(name, [version])
        await self._apply()
        if not await self._are_gone(name, deadline, but=version):
            raise ServerFault(
                Reason.LOAD_TIMEOUT, f"{self.kind} serves it, and has not let go of the one before"
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
                why = status.message or status.error_code
                raise ServerFault(
                    Reason.LOAD_FAILED, f"{self.kind} could not load it: {telling(why)}"
                )
            if complaint is not None and status is None:
                raise ServerFault(Reason.LOAD_FAILED, complaint)
            await asyncio.sleep(_POLL_S)
        raise ServerFault(Reason.LOAD_TIMEOUT, self._too_late(status))

    def _too_late(self, status: VersionStatus | None) -> str:
        said = "does not know of it" if status is None else f"says {status.state}"
        return f"{self.kind} {said} {self._action_timeout_s:.0f} s after {self._file.name} did"

    async def unload(self, name: str) -> None:
        """Take the name out of the file, and return when the server has no version of it."""
        rows = await self._rows()
        if name in rows and not self._is_ours(name, rows):
            return  # somebody else's; of ours there is nothing
        await self._ask_for(name, [])
        await self._apply()
        self._noticed_at = {key: at for key, at in self._noticed_at.items() if key[0] != name}
        if not await self._are_gone(name, time.monotonic() + self._action_timeout_s):
            raise ServerFault(Reason.UNLOAD_FAILED, f"{self.kind} still has it after the unload")

    async def _are_gone(self, name: str, deadline: float, but: int | None = None) -> bool:
        """Wait until the server has no version of a name, but perhaps one."""
        while True:
            with contextlib.suppress(ServerInDoubt):
                statuses = (await self._look([name])).get(name, {})
                if all(status.is_gone or version == but for version, status in statuses.items()):
                    return True
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_POLL_S)

    async def _apply(self) -> str | None:
        """Have the server read the file, if it does not by itself; return what it says against."""
        return None
