"""Trees: whole, verified folders of one revision, where they lie, and how they get out of sight.

Which revision a tree holds is written inside it (`.trainedmodel.json`), because a name outside
could be wrong after a kill between two renames. Where the server wants its trees is its driver's
to say (`drivers.base.Layout`), and each layout is one class here:

    InPlace       <model-dir>/<name>/            replaced by exchange, the old one moves beside
    PerRevision   <model-dir>/<name>/<folder>/   added beside the old one, which stays until removed

A folder in the served place without such a file is not ours and stays as it is. One exception:
KServe's agent leaves `SUCCESS.<hash>` in the folders that it makes, and those are taken over.

All of it blocks, and raises OSError. Moves are not forced to the disk: what a machine's crash takes
back is a move whose outcome no server has seen, for the server went down with the machine.
"""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.core.state import Tree
from trainedmodel_puller.durable import exchange, read_json
from trainedmodel_puller.errors import VolumeFault

#: Inside each tree: which TrainedModel and revision it is, and what its source looked like.
IDENTITY_FILE: Final = ".trainedmodel.json"
#: What KServe's agent leaves in a folder when it has fetched all of it.
KSERVE_MARKER: Final = "SUCCESS."


def make_model_dir(folder: Path) -> None:
    """Make the served folder, if it is not there, as open as the volume's own.

    In KServe's pods the storage initializer, another user, writes into it as well; a pod's empty
    volume is open to all of the pod's containers, and what shall not write mounts it read-only.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    folder.chmod(stat.S_IMODE(folder.parent.stat().st_mode))


def read_identity(tree: Path | str) -> dict[str, Any]:
    """Return what a tree says of itself; empty if it is none of ours."""
    return read_json(os.path.join(tree, IDENTITY_FILE))


def revision_of(tree: Path | str) -> str | None:
    """Return the revision of a tree, if it is one of ours."""
    revision = read_identity(tree).get("revision")
    return revision if isinstance(revision, str) else None


def describe_tree(path: Path, identity: dict[str, Any]) -> Tree:
    """Return what decisions need to know of a tree."""
    try:
        retired = path.stat().st_mtime
    except OSError:
        retired = 0.0
    return Tree(count_of(identity, "bytes"), retired)


def count_of(document: Any, key: str) -> int:
    """Return a whole number out of JSON that may be anything; 0 if it is not there."""
    value = document.get(key) if isinstance(document, dict) else None
    return value if isinstance(value, int) else 0


def is_intact(tree: Path, fingerprint: str) -> bool:
    """Tell whether a tree is of this content of its source, and nobody took a file out of it.

    Files that its server has added do not count.
    """
    identity = read_identity(tree)
    files = identity.get("files")
    if identity.get("fingerprint") != fingerprint:
        return False
    try:
        return not isinstance(files, dict) or all(
            os.stat(tree / path).st_size == size for path, size in files.items()
        )
    except OSError:
        return False


def is_kserves(folder: Path) -> bool:
    """Tell whether KServe's agent made a folder, and finished it."""
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.startswith(KSERVE_MARKER) for entry in entries)
    except OSError:
        return False


class Trash:
    """Where things are deleted: out of sight in one rename, then piece by piece."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def discard(self, path: Path) -> None:
        """Delete a folder or file."""
        doomed = self.folder / uuid.uuid4().hex
        path.rename(doomed)
        if doomed.is_dir():
            shutil.rmtree(doomed)
        else:
            doomed.unlink()

    def empty(self) -> None:
        """Delete what an earlier life did not finish deleting."""
        with os.scandir(self.folder) as entries:
            for entry in list(entries):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    Path(entry.path).unlink()


class ServedFolder(Protocol):
    """The place that the server sees, in one layout."""

    model_dir: Path

    def trees(self, name: str) -> dict[str, Path]:
        """Return the published trees of a name, by revision."""
        ...

    def place(self, name: str, revision: str) -> Path:
        """Return where a tree is published; looks at nothing."""
        ...

    def is_foreign(self, name: str) -> bool:
        """Tell whether something that is not ours has the place of a name."""
        ...

    def publish_first(self, name: str, revision: str, tree: Path) -> bool:
        """Bring a tree into sight if nothing has its name yet; tell whether that was so."""
        ...

    def publish(self, name: str, revision: str, beside: Path) -> Path:
        """Bring a tree into sight from `beside`, the folder of trees out of sight.

        Raises:
            VolumeFault: FolderNotOurs; something foreign is in its place.
        """
        ...

    def withdraw(self, name: str, revision: str, beside: Path) -> None:
        """Bring a tree out of sight, into `beside`."""
        ...

    def remove(self, name: str) -> None:
        """Delete what is ours of a name."""
        ...

    def listed(self) -> dict[str, frozenset[str]]:
        """Return a cheap sight of everything, by name; to be compared with `expected`."""
        ...

    def expected(self, published: frozenset[str]) -> frozenset[str]:
        """Return what `listed` shows of a name when just these revisions are published."""
        ...


class InPlace:
    """One folder a name; an update is one exchange."""

    def __init__(self, model_dir: Path, trash: Trash) -> None:
        self.model_dir = model_dir
        self._trash = trash

    def trees(self, name: str) -> dict[str, Path]:
        """Return the one published tree of a name, if there is one."""
        served = self.model_dir / name
        revision = revision_of(served)
        return {} if revision is None else {revision: served}

    def place(self, name: str, revision: str) -> Path:
        """Return the folder of the name."""
        return self.model_dir / name

    def is_foreign(self, name: str) -> bool:
        """Tell whether the folder of a name is there without an identity."""
        served = self.model_dir / name
        return revision_of(served) is None and served.exists()

    def publish_first(self, name: str, revision: str, tree: Path) -> bool:
        """Move a tree to the name's folder, if there is none."""
        served = self.place(name, revision)
        if os.path.lexists(served):
            return False
        tree.rename(served)
        return True

    def publish(self, name: str, revision: str, beside: Path) -> Path:
        """Swap a tree into place; the replaced one moves beside."""
        served, sealed = self.model_dir / name, beside / revision
        current = revision_of(served)
        if current == revision and not sealed.exists():
            return served
        if current is not None:
            self._swap(sealed, served, current)
        elif not served.exists():
            sealed.rename(served)
        elif is_kserves(served):
            exchange(sealed, served, self._trash.folder)
            self._trash.discard(sealed)
        else:
            raise VolumeFault(Reason.FOLDER_NOT_OURS, f"{served} was not made by the puller")
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
        """Move the published tree of this revision out of sight."""
        served = self.model_dir / name
        if revision_of(served) != revision:
            return
        if (beside / revision).exists():
            self._trash.discard(beside / revision)
        served.rename(beside / revision)

    def remove(self, name: str) -> None:
        """Delete the published tree: it vanishes in one step."""
        if revision_of(self.model_dir / name) is not None:
            self._trash.discard(self.model_dir / name)

    def listed(self) -> dict[str, frozenset[str]]:
        """Return the names of the folders: one look, for each pass."""
        with os.scandir(self.model_dir) as entries:
            return {entry.name: frozenset({""}) for entry in entries}

    def expected(self, published: frozenset[str]) -> frozenset[str]:
        """Return that a name is there, or is not."""
        return frozenset({""}) if published else frozenset()


class PerRevision:
    """One folder a revision; what is published is not moved or written again until it goes."""

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
            revision = revision_of(path)
            if revision is not None and self._folder_name(revision) == child:
                yield revision, path

    def _children(self, name: str) -> list[str]:
        try:
            with os.scandir(self.model_dir / name) as entries:
                return [entry.name for entry in entries]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def place(self, name: str, revision: str) -> Path:
        """Return the folder of the revision."""
        return self.model_dir / name / self._folder_name(revision)

    def is_foreign(self, name: str) -> bool:
        """Tell whether there is something, and none of it ours."""
        folder = self.model_dir / name
        if not folder.is_dir():
            return folder.exists()
        return bool(self._children(name)) and not self.trees(name)

    def publish_first(self, name: str, revision: str, tree: Path) -> bool:
        """Move a tree into the name's folder, if there is none."""
        try:
            (self.model_dir / name).mkdir()
        except FileExistsError:
            return False
        tree.rename(self.place(name, revision))
        return True

    def publish(self, name: str, revision: str, beside: Path) -> Path:
        """Move a tree into sight, beside the others of its name."""
        folder, sealed = self.model_dir / name, beside / revision
        served = self.place(name, revision)
        if self.is_foreign(name):
            raise VolumeFault(Reason.FOLDER_NOT_OURS, f"{folder} was not made by the puller")
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
        """Leave it where it is: a server may be using it, and it is in nobody's way."""

    def remove(self, name: str) -> None:
        """Delete the published trees, and the folder around them if nothing else is in it."""
        for _, path in list(self._trees(name)):
            self._trash.discard(path)
        folder = self.model_dir / name
        if folder.is_dir() and not self._children(name):
            folder.rmdir()

    def listed(self) -> dict[str, frozenset[str]]:
        """Return the folders of each name."""
        with os.scandir(self.model_dir) as entries:
            names = [entry.name for entry in entries]
        return {name: frozenset(self._children(name)) for name in names}

    def expected(self, published: frozenset[str]) -> frozenset[str]:
        """Return the folders of the published revisions."""
        return frozenset(self._folder_name(revision) for revision in published)
