"""The model volume: where files are staged, sealed, served, and how they move between.

    <model-dir>/<name>/                what the server sees; only whole trees, only by rename (P4)
    <state-dir>/staging/<name>/<rev>/  being downloaded; may be half written, may be resumed
    <state-dir>/versions/<name>/<rev>/ whole and verified: ready to be published, or just replaced
    <state-dir>/markers/<name>.json    which revision the server last confirmed
    <state-dir>/trash/                 being deleted
    <state-dir>/held.json              the last good configuration (P1)

Both folders are on one file system, so that each move is one rename. Which revision a tree holds
is written inside it (`.trainedmodel.json`), because a name outside could be wrong after a kill
between the two renames of a swap; `scan` puts such names right. Everything here blocks and runs in
threads, one operation of a name at a time.

What a kill -9 leaves, step by step (P7): a half-filled staging folder is resumed or refilled; a
sealed version is published by the next load; a published tree whose marker has another revision is
loaded again; an unloaded name whose marker is still there is unloaded again, which is no error;
trash is emptied at start.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from pathlib import Path
from typing import Any, Final

from trainedmodel_contract import names
from trainedmodel_contract.canonical import canonical_json
from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.core.state import DiskModel
from trainedmodel_puller.durable import (
    exchange,
    read_json,
    sync_path,
    sync_tree_folders,
    volume_fault,
    write_durably,
)
from trainedmodel_puller.errors import SettingsError, VolumeFault

#: Inside each tree: which TrainedModel and revision it is, and what its source looked like.
IDENTITY_FILE: Final = ".trainedmodel.json"


class Volume:
    """The folders of one puller.

    Args:
        model_dir: What the model server serves from.
        state_dir: The puller's own; on the same file system, outside `model_dir`.
    """

    def __init__(self, model_dir: Path, state_dir: Path) -> None:
        self.model_dir = model_dir
        self.state_dir = state_dir
        self._staging = state_dir / "staging"
        self._versions = state_dir / "versions"
        self._markers = state_dir / "markers"
        self._trash = state_dir / "trash"
        self._held = state_dir / "held.json"

    def prepare(self) -> None:
        """Create the folders, check them, and empty the trash of an earlier life.

        Raises:
            SettingsError: a folder cannot be used; names the flag and the fix.
        """
        try:
            for folder in (self.model_dir, *self._own_folders()):
                folder.mkdir(parents=True, exist_ok=True)
            model_dir, state_dir = self.model_dir.resolve(), self.state_dir.resolve()
            probe = self._trash / f"probe-{uuid.uuid4().hex}"
            probe.mkdir()
            target = model_dir / probe.name
            probe.rename(target)
            target.rmdir()
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise SettingsError(
                    "--model-dir and --state-dir must be on one file system: "
                    "put both on the same volume"
                ) from error
            raise SettingsError(
                f"--model-dir {self.model_dir} and --state-dir {self.state_dir} "
                f"must be writable folders: {error.strerror} ({error.filename})"
            ) from error
        if state_dir.is_relative_to(model_dir):
            raise SettingsError("--state-dir must not lie inside --model-dir: the server sees that")
        self.empty_trash()

    def _own_folders(self) -> tuple[Path, ...]:
        return (self._staging, self._versions, self._markers, self._trash)

    # -- what is there ------------------------------------------------------------------

    def scan(self) -> dict[str, DiskModel]:
        """Read everything, at start, and mend what a kill left misnamed."""
        for entry in list(os.scandir(self._versions)):
            self._mend_versions(Path(entry.path))
        found: set[str] = set()
        for folder in (self.model_dir, self._versions, self._staging):
            found.update(entry.name for entry in os.scandir(folder) if entry.is_dir())
        found.update(path.stem for path in self._markers.glob("*.json"))
        return {name: self.scan_one(name) for name in sorted(found) if names.is_model_name(name)}

    def scan_one(self, name: str) -> DiskModel:
        """Read what there is of one name; changes nothing."""
        identity = read_json(self.model_dir / name / IDENTITY_FILE)
        marker = read_json(self._marker(name))
        published = identity.get("revision")
        return DiskModel(
            id=marker.get("id") or identity.get("id"),
            published=published,
            versions=self._sealed_versions(name),
            loaded=marker.get("loaded"),
            is_staged=(self._staging / name).exists(),
            is_foreign=published is None and (self.model_dir / name).exists(),
        )

    def _sealed_versions(self, name: str) -> frozenset[str]:
        folder = self._versions / name
        if not folder.is_dir():
            return frozenset()
        return frozenset(
            entry.name
            for entry in os.scandir(folder)
            if read_json(Path(entry.path) / IDENTITY_FILE).get("revision") == entry.name
        )

    def _mend_versions(self, folder: Path) -> None:
        """Put right what a kill between the two renames of a swap left under a wrong name."""
        for entry in list(os.scandir(folder)):
            revision = read_json(Path(entry.path) / IDENTITY_FILE).get("revision")
            if revision == entry.name:
                continue
            if revision is None or (folder / revision).exists():
                self._discard(Path(entry.path))
            else:
                Path(entry.path).rename(folder / revision)

    def listed_names(self) -> frozenset[str]:
        """Return the names of the folders that the server sees: one cheap look, for each pass."""
        return frozenset(entry.name for entry in os.scandir(self.model_dir))

    def free_bytes(self) -> int:
        """Return the bytes that the puller may still write."""
        return shutil.disk_usage(self.state_dir).free

    # -- the way in ---------------------------------------------------------------------

    def staging(self, name: str, revision: str, fingerprint: str) -> tuple[Path, bool]:
        """Return the folder to download a revision into, and whether it already is all there.

        What is left of other revisions is dropped. A folder that was verified is whole; it may have
        been fitted to its server since, so it is neither resumed nor verified again: with another
        fingerprint of the source it is dropped.

        Raises:
            VolumeFault: the volume refused.
        """
        folder = self._staging / name
        try:
            folder.mkdir(exist_ok=True)
            verified = read_json(self._verified(name, revision)).get("fingerprint")
            for entry in list(os.scandir(folder)):
                is_of_it = entry.name == revision or entry.name.startswith(f"{revision}.")
                if not is_of_it or verified not in {None, fingerprint}:
                    self._discard(Path(entry.path))
        except OSError as error:
            raise volume_fault(error) from error
        return folder / revision, verified == fingerprint

    def mark_verified(self, name: str, revision: str, fingerprint: str) -> None:
        """Remember that a staged tree is whole and right, before it is fitted to its server.

        Raises:
            VolumeFault: the volume refused.
        """
        try:
            write_durably(
                self._verified(name, revision), canonical_json({"fingerprint": fingerprint})
            )
        except OSError as error:
            raise volume_fault(error) from error

    def _verified(self, name: str, revision: str) -> Path:
        return self._staging / name / f"{revision}.verified"

    def seal(self, name: str, revision: str, identity: dict[str, Any]) -> None:
        """Declare a staged tree whole: from now on it may be published.

        Raises:
            VolumeFault: the volume refused.
        """
        staged = self._staging / name / revision
        document = canonical_json({**identity, "revision": revision})
        try:
            write_durably(staged / IDENTITY_FILE, document)
            sync_tree_folders(staged)
            folder = self._versions / name
            folder.mkdir(exist_ok=True)
            if (folder / revision).exists():
                self._discard(folder / revision)
            staged.rename(folder / revision)
            sync_path(folder)
            self._discard(self._staging / name)
        except OSError as error:
            raise volume_fault(error) from error

    def sealed_identity(self, name: str, revision: str) -> dict[str, Any]:
        """Return what `seal` was told of a revision that is on disk, or nothing."""
        for folder in (self._versions / name / revision, self.model_dir / name):
            identity = read_json(folder / IDENTITY_FILE)
            if identity.get("revision") == revision:
                return identity
        return {}

    def publish(self, name: str, revision: str) -> Path:
        """Put a sealed revision where the server sees it; the replaced one is kept beside.

        Returns:
            The served folder. Publishing what is already published changes nothing.

        Raises:
            VolumeFault: the volume refused, or a foreign folder is in the way.
        """
        served, sealed = self.model_dir / name, self._versions / name / revision
        try:
            current = read_json(served / IDENTITY_FILE).get("revision")
            if current == revision and not sealed.exists():
                return served
            if current is None and served.exists():
                raise VolumeFault(Reason.FOLDER_NOT_OURS, f"{served} was not made by the puller")
            if current is None:
                sealed.rename(served)
            else:
                self._swap(sealed, served, current)
            sync_path(self.model_dir)
            sync_path(sealed.parent)
        except OSError as error:
            raise volume_fault(error) from error
        return served

    def _swap(self, sealed: Path, served: Path, current: str) -> None:
        exchange(sealed, served, self._trash)
        old = sealed.with_name(current)
        if old == sealed:  # fetched again: what was mended under the same URI replaces it
            self._discard(sealed)
            return
        if old.exists():
            self._discard(old)
        sealed.rename(old)

    def withdraw(self, name: str) -> None:
        """Take what is published out of the server's sight; it stays as a sealed version.

        Raises:
            VolumeFault: the volume refused.
        """
        served = self.model_dir / name
        try:
            revision = read_json(served / IDENTITY_FILE).get("revision")
            if revision is None:
                return
            folder = self._versions / name
            folder.mkdir(exist_ok=True)
            if (folder / revision).exists():
                self._discard(folder / revision)
            served.rename(folder / revision)
            sync_path(self.model_dir)
        except OSError as error:
            raise volume_fault(error) from error

    # -- the way out --------------------------------------------------------------------

    def remove_version(self, name: str, revision: str) -> None:
        """Delete one sealed version.

        Raises:
            VolumeFault: the volume refused.
        """
        self._remove(self._versions / name / revision)
        with contextlib.suppress(OSError):  # other versions are kept
            (self._versions / name).rmdir()

    def remove_staging(self, name: str) -> None:
        """Delete what a download has left.

        Raises:
            VolumeFault: the volume refused.
        """
        self._remove(self._staging / name)

    def remove(self, name: str) -> None:
        """Delete all of a name. The served tree vanishes in one step; the marker goes last.

        Raises:
            VolumeFault: the volume refused.
        """
        if read_json(self.model_dir / name / IDENTITY_FILE).get("revision") is not None:
            self._remove(self.model_dir / name)
        self._remove(self._versions / name)
        self.remove_staging(name)
        self._marker(name).unlink(missing_ok=True)

    def _remove(self, path: Path) -> None:
        try:
            if path.exists():
                self._discard(path)
        except OSError as error:
            raise volume_fault(error) from error

    def _discard(self, path: Path) -> None:
        doomed = self._trash / uuid.uuid4().hex
        path.rename(doomed)
        if doomed.is_dir():
            shutil.rmtree(doomed)
        else:
            doomed.unlink()

    def empty_trash(self) -> None:
        """Delete what an earlier life did not finish deleting."""
        for entry in list(os.scandir(self._trash)):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                Path(entry.path).unlink()

    # -- what is remembered -------------------------------------------------------------

    def _marker(self, name: str) -> Path:
        return self._markers / f"{name}.json"

    def forget_loaded(self, name: str) -> None:
        """Remember that the server has nothing of this name. Needs no room: disks are full."""
        self._marker(name).unlink(missing_ok=True)

    def mark_loaded(self, name: str, model_id: str, revision: str) -> None:
        """Remember which revision the server confirmed.

        Raises:
            VolumeFault: the volume refused.
        """
        document = canonical_json({"id": model_id, "name": name, "loaded": revision})
        try:
            write_durably(self._marker(name), document)
        except OSError as error:
            raise volume_fault(error) from error

    def read_held(self) -> str | None:
        """Return the last good configuration, if one was kept."""
        try:
            return self._held.read_text()
        except (OSError, UnicodeDecodeError):
            return None

    def write_held(self, text: str) -> None:
        """Keep the last good configuration.

        Raises:
            VolumeFault: the volume refused.
        """
        try:
            write_durably(self._held, text)
        except OSError as error:
            raise volume_fault(error) from error
