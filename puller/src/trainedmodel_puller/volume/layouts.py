"""Layouts of the served folder: how trees are published there, replaced and removed.

A tree is a whole, verified folder of one revision. Its revision is written inside it
(`.trainedmodel.json`), because a name outside could be wrong after a kill between two renames. The
driver chooses the layout (`core.state.Layout`), and each layout is one class here:

    InPlace       <model-dir>/<name>/            replaced by exchange, the old one moves beside
    PerRevision   <model-dir>/<name>/<folder>/   added beside the old one, which stays until removed

A folder in the served folder without such a file does not belong to the puller, and is not changed.
The same holds for every link, and for a folder of another user that the puller may not read. One
exception: KServe's agent leaves `SUCCESS.<hash>` in the folders that it makes, and those are
adopted. A read that fails for any other reason proves nothing: it raises, and the name is in doubt.

All of it blocks, and raises OSError. Moves are not forced to the disk: a crash of the machine may
undo a move, but the model server went down with the machine.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.errors import VolumeFault
from trainedmodel_puller.volume.durable import exchange
from trainedmodel_puller.volume.identity import (
    NO_FOLDER,
    is_another_users,
    is_kserves,
    served_revision,
)
from trainedmodel_puller.volume.trash import Trash


def make_model_dir(folder: Path) -> None:
    """Make the served folder, if it is missing, with the open mode of the volume's own folder.

    In KServe's pods the storage initializer, another user, writes into it as well. A pod's empty
    volume is open to all of the pod's containers, and a container that must not write mounts it
    read-only.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    folder.chmod(stat.S_IMODE(folder.parent.stat().st_mode))


class ServedFolder(Protocol):
    """The folder that the server reads, in one layout."""

    model_dir: Path

    def trees(self, name: str) -> dict[str, Path]:
        """Return the published trees of a name, by revision."""
        ...

    def place(self, name: str, revision: str) -> Path:
        """Return where a tree is published; looks at nothing."""
        ...

    def is_foreign(self, name: str) -> bool:
        """Return whether a file or folder that is not the puller's has a name."""
        ...

    def publish_first(self, name: str, revision: str, tree: Path) -> bool:
        """Publish a tree if nothing has its name yet; return whether it did."""
        ...

    def publish(self, name: str, revision: str, beside: Path) -> Path:
        """Publish a tree from `beside`, the folder of unpublished trees.

        Raises:
            VolumeFault: FolderNotOurs; a foreign folder has its name.
        """
        ...

    def withdraw(self, name: str, revision: str, beside: Path) -> None:
        """Move a published tree into `beside`."""
        ...

    def remove(self, name: str) -> None:
        """Delete the puller's files of a name."""
        ...

    def removable(self, name: str) -> dict[str, Path]:
        """Return, by revision, the published trees that may be removed while the name is served."""
        ...

    def listed(self) -> dict[str, frozenset[str]]:
        """Return a cheap listing of all names, for comparison with `expected`."""
        ...

    def expected(self, published: frozenset[str]) -> frozenset[str]:
        """Return the listing of a name with exactly these published revisions."""
        ...


class InPlace:
    """One folder for each name; an update is one exchange."""

    def __init__(self, model_dir: Path, trash: Trash) -> None:
        self.model_dir = model_dir
        self._trash = trash

    def trees(self, name: str) -> dict[str, Path]:
        """Return the one published tree of a name, if there is one."""
        served = self.model_dir / name
        revision = served_revision(served)
        return {} if revision is None else {revision: served}

    def place(self, name: str, revision: str) -> Path:
        """Return the folder of the name."""
        return self.model_dir / name

    def is_foreign(self, name: str) -> bool:
        """Return whether the folder of a name is there without an identity."""
        served = self.model_dir / name
        return served_revision(served) is None and os.path.lexists(served)

    def publish_first(self, name: str, revision: str, tree: Path) -> bool:
        """Move a tree to the name's folder, if there is none."""
        served = self.place(name, revision)
        if os.path.lexists(served):
            return False
        tree.rename(served)
        return True

    def publish(self, name: str, revision: str, beside: Path) -> Path:
        """Swap a tree into place; the replaced one moves into `beside`."""
        served, sealed = self.model_dir / name, beside / revision
        current = served_revision(served)
        if current == revision and not sealed.exists():
            return served
        if current is not None:
            self._swap(sealed, served, current)
        elif not os.path.lexists(served):
            sealed.rename(served)
        elif is_kserves(served):
            exchange(sealed, served, self._trash.folder)
            self._trash.discard(sealed)
        else:
            raise VolumeFault(
                Reason.FOLDER_NOT_OURS,
                f"{served} was not made by the puller: remove or rename it",
            )
        return served

    def _swap(self, sealed: Path, served: Path, current: str) -> None:
        exchange(sealed, served, self._trash.folder)
        old = sealed.with_name(current)
        if old == sealed:  # fetched again: what was mended under the same URI replaces it
            self._trash.discard(sealed)
            return
        if old.exists():
            self._trash.discard(old)
        os.utime(sealed)  # from now on it is not wanted any more
        sealed.rename(old)

    def withdraw(self, name: str, revision: str, beside: Path) -> None:
        """Move the published tree of this revision into `beside`."""
        served = self.model_dir / name
        if served_revision(served) != revision:
            return
        if (beside / revision).exists():
            self._trash.discard(beside / revision)
        served.rename(beside / revision)

    def remove(self, name: str) -> None:
        """Delete the published tree: it vanishes in one step."""
        if served_revision(self.model_dir / name) is not None:
            self._trash.discard(self.model_dir / name)

    def removable(self, name: str) -> dict[str, Path]:
        """Return none: the only published tree is served."""
        return {}

    def listed(self) -> dict[str, frozenset[str]]:
        """Return the names of the folders: one look, for each pass."""
        with os.scandir(self.model_dir) as entries:
            return {entry.name: frozenset({""}) for entry in entries}

    def expected(self, published: frozenset[str]) -> frozenset[str]:
        """Return that a name is there, or is not."""
        return frozenset({""}) if published else frozenset()


class PerRevision:
    """One folder for each revision; a published tree is not moved or written until its removal."""

    def __init__(self, model_dir: Path, trash: Trash, folder_name: Callable[[str], str]) -> None:
        self.model_dir = model_dir
        self._trash = trash
        self._folder_name = folder_name

    def trees(self, name: str) -> dict[str, Path]:
        """Return the published trees of a name, by revision."""
        return dict(self._trees(name))

    def _trees(self, name: str) -> Iterator[tuple[str, Path]]:
        for child in self._children(name):
            path = self.model_dir / name / child
            revision = served_revision(path)
            if revision is not None and self._folder_name(revision) == child:
                yield revision, path

    def _children(self, name: str) -> list[str]:
        """Return the names in a model's folder; none if it cannot belong to the puller."""
        folder = self.model_dir / name
        if os.path.islink(folder):
            return []
        try:
            with os.scandir(folder) as entries:
                return [entry.name for entry in entries]
        except PermissionError:
            if is_another_users(folder):
                return []
            raise
        except OSError as error:
            if error.errno in NO_FOLDER:
                return []
            raise

    def place(self, name: str, revision: str) -> Path:
        """Return the folder of the revision."""
        return self.model_dir / name / self._folder_name(revision)

    def is_foreign(self, name: str) -> bool:
        """Return whether a name has files, and none of them are the puller's."""
        folder = self.model_dir / name
        try:
            mode = os.lstat(folder).st_mode
        except FileNotFoundError:
            return False
        if self.trees(name):
            return False
        is_closed = is_another_users(folder) and not os.access(folder, os.R_OK | os.X_OK)
        return not stat.S_ISDIR(mode) or is_closed or bool(self._children(name))

    def publish_first(self, name: str, revision: str, tree: Path) -> bool:
        """Move a tree into the name's folder, if there is none."""
        try:
            (self.model_dir / name).mkdir()
        except FileExistsError:
            return False
        tree.rename(self.place(name, revision))
        return True

    def publish(self, name: str, revision: str, beside: Path) -> Path:
        """Move a tree into the name's folder, beside the others."""
        folder, sealed = self.model_dir / name, beside / revision
        served = self.place(name, revision)
        if self.is_foreign(name):
            raise VolumeFault(
                Reason.FOLDER_NOT_OURS,
                f"{folder} was not made by the puller: remove or rename it",
            )
        if not sealed.exists():
            return served
        folder.mkdir(exist_ok=True)
        if served.exists():  # fetched again: what was mended under the same URI replaces it
            exchange(sealed, served, self._trash.folder)
            self._trash.discard(sealed)
        else:
            sealed.rename(served)
        return served

    def withdraw(self, name: str, revision: str, beside: Path) -> None:
        """Do nothing: a server may be using the tree, and it blocks no other one."""

    def remove(self, name: str) -> None:
        """Delete the published trees, and the folder around them if nothing else is in it."""
        for _, path in list(self._trees(name)):
            self._trash.discard(path)
        folder = self.model_dir / name
        if folder.is_dir() and not folder.is_symlink() and not self._children(name):
            folder.rmdir()

    def removable(self, name: str) -> dict[str, Path]:
        """Return all of them: the server has released those that are no longer wanted."""
        return self.trees(name)

    def listed(self) -> dict[str, frozenset[str]]:
        """Return the folders of each name."""
        with os.scandir(self.model_dir) as entries:
            names = [entry.name for entry in entries]
        return {name: self._shown(name) for name in names}

    def _shown(self, name: str) -> frozenset[str]:
        try:
            return frozenset(self._children(name))
        except OSError:
            return frozenset({""})  # as nothing is expected to be: it is looked at, and told

    def expected(self, published: frozenset[str]) -> frozenset[str]:
        """Return the folders of the published revisions."""
        return frozenset(self._folder_name(revision) for revision in published)
