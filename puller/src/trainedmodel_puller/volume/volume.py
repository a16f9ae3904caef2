"""The model volume: its folders, and the moves of trees between them.

    <model-dir>/                       what the server sees; only whole trees, only by rename (P4)
    <state-dir>/staging/               being downloaded, unpacked, fitted (`staging`)
    <state-dir>/versions/<name>/<rev>/ whole and verified: ready to be published, or replaced and
                                       kept for a rollback
    <state-dir>/markers/<name>.json    which revision the server last confirmed
    <state-dir>/trash/                 being deleted
    <state-dir>/held.json              the last good configuration (P1)

Both folders are on one file system, so that each move is one rename; `layouts` arranges the trees
in the served one. Everything here blocks and runs in threads, one operation at a time for each
name, and raises OSError. Callers on the event loop use `async_volume`, which turns it into faults.
After an error within an operation, the next operation of the name continues from the files on the
disk, as after a kill.

Recovery from a kill -9, step by step (P7): a half-filled staging folder is resumed or refilled; a
half-unpacked archive is unpacked again; a sealed version is published by the next load; a tree
under the name of another revision (killed between the renames of a swap) is renamed by `scan`; a
published tree whose marker has another revision is loaded again; an unloaded name whose marker
still exists is unloaded again, which is no error; the trash is emptied at start, as far as
possible.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainedmodel_contract import names
from trainedmodel_contract.canonical import canonical_json

from trainedmodel_puller.core.state import DiskModel, Layout
from trainedmodel_puller.errors import SettingsError
from trainedmodel_puller.volume.durable import replace_file, sync_tree, words_of, write_file
from trainedmodel_puller.volume.folders import refuse, refuses_writes, try_move
from trainedmodel_puller.volume.identity import (
    IDENTITY_FILE,
    count_of,
    describe_tree,
    is_intact,
    is_kserves,
    is_real_folder,
    read_identity,
    revision_of,
)
from trainedmodel_puller.volume.last_good_config import LastGoodConfigFile
from trainedmodel_puller.volume.layouts import InPlace, PerRevision, ServedFolder, make_model_dir
from trainedmodel_puller.volume.markers import Markers
from trainedmodel_puller.volume.staging import Begun, StagingArea
from trainedmodel_puller.volume.trash import Trash


class Volume:
    """The folders of one puller.

    Args:
        model_dir: Folder that the model server serves from.
        state_dir: The puller's own folder; on the same file system, outside `model_dir`.
        layout: Arrangement of the trees in `model_dir`.
        folder_name: Folder of a revision, for the layout per revision.
    """

    def __init__(
        self,
        model_dir: Path,
        state_dir: Path,
        layout: Layout = Layout.IN_PLACE,
        folder_name: Callable[[str], str] = str,
    ) -> None:
        self.model_dir = model_dir
        self.state_dir = state_dir
        self._versions = state_dir / "versions"
        self.markers = Markers(state_dir / "markers")
        self.trash = Trash(state_dir / "trash")
        self._staging = StagingArea(state_dir / "staging", self.trash)
        self.held = LastGoodConfigFile(state_dir / "held.json")
        self.served: ServedFolder = (
            InPlace(model_dir, self.trash)
            if layout is Layout.IN_PLACE
            else PerRevision(model_dir, self.trash, folder_name)
        )

    def make_folders(self) -> None:
        """Create the missing folders.

        Raises:
            SettingsError: they cannot be created there; names the flag and the fix.
        """
        model_dir, state_dir = os.path.realpath(self.model_dir), os.path.realpath(self.state_dir)
        if Path(state_dir).is_relative_to(model_dir):
            raise SettingsError(
                "--state-dir must not lie inside --model-dir, which the model server reads: "
                "put it beside"
            )
        try:
            make_model_dir(self.model_dir)
            for folder in self._own_folders():
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._refuse(error)
            raise

    def prepare(self) -> str | None:
        """Make the folders, empty the trash of an earlier run, and check that all are usable.

        The trash is emptied before the check, because it may fill the volume.

        Returns:
            The error, if the volume is full or read-only. The models on it are still served.

        Raises:
            SettingsError: the folders cannot be used; names the flag and the fix.
        """
        self.make_folders()
        self.trash.empty()
        try:
            try_move(self.trash.folder, self.model_dir, self._own_folders())
        except OSError as error:
            self._refuse(error)
            if refuses_writes(error):
                return words_of(error)
            raise
        return None

    def _refuse(self, error: OSError) -> None:
        refuse(error, self.model_dir, self.state_dir)

    def _own_folders(self) -> tuple[Path, ...]:
        # the trash first: a full volume may have room for no other folder before it is emptied
        return (self.trash.folder, self._staging.folder, self._versions, self.markers.folder)

    # -- what is there ------------------------------------------------------------------

    def exists(self) -> bool:
        """Return whether a puller has prepared this volume."""
        return all(folder.is_dir() for folder in (self.model_dir, *self._own_folders()))

    def scan(self, *, mend: bool = True) -> dict[str, DiskModel]:
        """Read all names at start, and rename the trees that a kill left under a wrong name.

        A name that cannot be read is in doubt, and does not prevent the start.
        """
        with os.scandir(self._versions) as entries:
            versions = [entry.name for entry in entries]
        for name in versions if mend else ():
            with contextlib.suppress(OSError):  # a misnamed tree is ignored until it is renamed
                self._mend_versions(name)
        with os.scandir(self.model_dir) as entries:
            served = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        found = {*versions, *served, *self._staging.names(), *self.markers.names()}
        return {name: self._look_at(name) for name in sorted(found) if names.is_model_name(name)}

    def _look_at(self, name: str) -> DiskModel:
        try:
            return self.scan_one(name)
        except OSError as error:
            return DiskModel(doubt=words_of(error))

    def scan_one(self, name: str) -> DiskModel:
        """Read the files of one name; changes nothing."""
        marker = self.markers.read(name)
        published = self.served.trees(name)
        paths = {**self._sealed_versions(name), **published}
        identities = {revision: read_identity(path) for revision, path in paths.items()}
        loaded = marker.get("loaded")
        told = next(iter(identities.values()), {})
        is_foreign = not published and self.served.is_foreign(name)
        return DiskModel(
            id=marker.get("id") or (str(told["id"]) if told.get("id") else None),
            trees={
                revision: describe_tree(paths[revision], identities[revision]) for revision in paths
            },
            published=frozenset(published),
            loaded=loaded,
            trying=marker.get("trying"),
            memory=count_of(identities.get(loaded or "", {}).get("entry"), "memory"),
            is_staged=bool(self._staging.leftovers(name)),
            is_foreign=is_foreign,
            is_adoptable=is_foreign and is_kserves(self.model_dir / name),
        )

    def _sealed_versions(self, name: str) -> dict[str, Path]:
        found = self._beside(name)
        return {path.name: path for path in found if revision_of(path) == path.name}

    def _beside(self, name: str) -> list[Path]:
        folder = os.path.join(self._versions, name)
        if os.path.islink(folder):
            return []  # its target does not belong to the puller
        try:
            with os.scandir(folder) as entries:
                return [Path(entry.path) for entry in entries]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _versions_of(self, name: str) -> Path:
        """Return the folder of a name's trees, made if it is missing, or is something else."""
        folder = self._versions / name
        if os.path.lexists(folder) and not is_real_folder(folder):
            self.trash.discard(folder)
        folder.mkdir(exist_ok=True)
        return folder

    def _mend_versions(self, name: str) -> None:
        """Rename the trees that a kill within a swap left under a wrong name."""
        for path in self._beside(name):
            revision = revision_of(path)
            if revision == path.name:
                continue
            if revision is None or os.path.lexists(path.with_name(revision)):
                self.trash.discard(path)
            else:
                path.rename(path.with_name(revision))

    def finds(self, name: str, revision: str) -> bool:
        """Return whether a revision is on disk, also if a kill left it under a wrong name."""
        self._mend_versions(name)
        return self.tree(name, revision) is not None

    def tree(self, name: str, revision: str) -> Path | None:
        """Return the current path of a revision's tree."""
        published = self.served.trees(name).get(revision)
        return published or self._sealed_versions(name).get(revision)

    def identity(self, name: str, revision: str) -> dict[str, Any]:
        """Return the identity of a revision that is on disk; empty if it is not."""
        tree = self.tree(name, revision)
        return {} if tree is None else read_identity(tree)

    def free_bytes(self) -> int:
        """Return the bytes that may still be written."""
        return shutil.disk_usage(self.state_dir).free

    # -- the way in ---------------------------------------------------------------------

    def begin(self, name: str, revision: str, fingerprint: str) -> Begun:
        """Prepare the staging folder of a download, and report the parts that are already there."""
        folder = self._staging.tree(name, revision)
        free = self.free_bytes()
        tree = self.tree(name, revision)
        if tree is not None and is_intact(tree, fingerprint):
            return Begun(folder, is_sealed=True, free_bytes=free)
        is_whole = self._staging.begin(name, revision, fingerprint)
        staged = self._staging.allocated_bytes(name, revision)
        return Begun(folder, is_whole=is_whole, staged_bytes=staged, free_bytes=free)

    def staged(self, name: str, revision: str) -> Path:
        """Return the folder that a revision is downloaded to."""
        return self._staging.tree(name, revision)

    def begin_small(self, name: str, revision: str) -> Path:
        """Return an empty folder, to be filled and fitted in one step, drafted and committed."""
        return self._staging.begin_small(name, revision)

    def keep_as_download(self, name: str, revision: str) -> None:
        """Turn the folder of `begin_small` into a finished download, which is not fitted yet."""
        self._staging.keep_as_download(name, revision)

    def begin_unpacking(self, name: str, revision: str) -> Path:
        """Return an empty folder to unpack the staged archive into."""
        return self._staging.begin_unpacking(name, revision)

    def end_unpacking(self, name: str, revision: str) -> None:
        """Replace the staged archive by its unpacked content."""
        self._staging.end_unpacking(name, revision)

    def begin_fitting(self, name: str, revision: str, fingerprint: str, *, is_large: bool) -> Path:
        """Return the staged tree, whole and verified, to be fitted to its server and sealed."""
        return self._staging.begin_fitting(name, revision, fingerprint, is_large=is_large)

    def seal(
        self, name: str, revision: str, identity: dict[str, Any], *, is_synced: bool = False
    ) -> bool:
        """Force a staged tree to the disk, write its identity, and commit it.

        The tree is on the disk before its identity is; `is_synced` tells that its files are
        already. Returns as `commit` does.
        """
        tree = self._staging.fitted(name, revision)
        sync_tree(tree, with_files=not is_synced)
        replace_file(tree / IDENTITY_FILE, _document(identity, revision), durable=True)
        return self.commit(name, revision, tree)

    def draft(self, tree: Path, revision: str, identity: dict[str, Any]) -> None:
        """Write the identity of a staged tree, without a sync; a group commit forces it to disk.

        A staged tree never counts as sealed, even with an identity, until `commit` moves it.
        """
        write_file(tree / IDENTITY_FILE, _document(identity, revision), durable=False)

    def commit(self, name: str, revision: str, tree: Path) -> bool:
        """Move a tree that is on the disk out of staging, and publish it if its name is free.

        Returns whether it is published; if not, it may be published from now on.
        """
        if not is_real_folder(tree):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(tree))
        sealed = self._versions / name / revision
        if os.path.lexists(sealed):  # the tree that this one replaces
            self.trash.discard(self._versions_of(name) / revision)
        is_published = self.served.publish_first(name, revision, tree)
        if not is_published:
            tree.rename(self._versions_of(name) / revision)
        self._staging.forget(name, revision)
        return is_published

    def publish(self, name: str, revision: str) -> Path:
        """Move a sealed revision into the served folder; a replaced one is kept outside of it.

        Returns:
            The served tree. Publishing a published revision changes nothing.

        Raises:
            VolumeFault: FolderNotOurs; a foreign folder has the name.
        """
        self._mend_versions(name)
        self.markers.try_another(name, revision)
        return self.served.publish(name, revision, self._versions_of(name))

    def withdraw(self, name: str, revision: str) -> None:
        """Move a revision out of the served folder, if the layout allows that; keep it."""
        self._mend_versions(name)
        self.served.withdraw(name, revision, self._versions_of(name))

    # -- the way out --------------------------------------------------------------------

    def remove_versions(self, name: str, revisions: frozenset[str]) -> None:
        """Delete trees of a name, served or kept; the served tree of an in-place server stays."""
        self._mend_versions(name)
        removable = self.served.removable(name)
        for revision in revisions:
            tree = self._versions_of(name) / revision
            if os.path.lexists(tree):
                self.trash.discard(tree)
            elif revision in removable:
                self.trash.discard(removable[revision])

    def remove_staging(self, name: str) -> None:
        """Delete the staged files of a name."""
        self._staging.remove(name)

    def remove(self, name: str) -> None:
        """Delete all of a name. The served trees go first, the marker last."""
        self.served.remove(name)
        if os.path.lexists(self._versions / name):
            self.trash.discard(self._versions / name)
        self._staging.remove(name)
        self.markers.forget(name)

    # -- what is remembered -------------------------------------------------------------

    def forget_loaded(self, name: str) -> None:
        """Record that the server has nothing of this name. Needs no space, for full disks."""
        self.markers.forget(name)

    def mark_loaded(self, name: str, model_id: str, revision: str) -> None:
        """Record the revision that the server confirmed; the others are retired from now on."""
        before = self.markers.write(name, model_id, revision)
        if before is None or before == revision:
            return
        with contextlib.suppress(OSError):  # the time only decides the order of eviction
            replaced = self.served.trees(name).get(before)
            if replaced is not None:
                os.utime(replaced)


def _document(identity: dict[str, Any], revision: str) -> str:
    return canonical_json({**identity, "revision": revision})
