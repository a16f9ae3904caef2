"""The staging area: trees that are being downloaded, unpacked and fitted, before they are whole.

    <name>@<revision>/           the source's files; half written, may be resumed
    <name>@<revision>.journal    the ranges that have arrived (`storage.transfer.journal`)
    <name>@<revision>.unpacked/  the content of an archive; never resumed
    <name>@<revision>.verified   the tree is whole and verified; it may have been fitted since
    <name>@<revision>.fitting/   a small model's tree, which is cheap to fetch again; never resumed

It is one flat folder, because a folder for each model is the main cost with thousands of small
ones. No name and no revision contains `@`. All of it blocks, and raises OSError.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainedmodel_contract.canonical import canonical_json

from trainedmodel_puller.volume.durable import exchange, read_json, write_durably
from trainedmodel_puller.volume.identity import is_real_folder
from trainedmodel_puller.volume.trash import Trash

_JOURNAL: Final = ".journal"
_UNPACKED: Final = ".unpacked"
_VERIFIED: Final = ".verified"
_FITTING: Final = ".fitting"


@dataclass(frozen=True, slots=True)
class Begun:
    """The state of the volume at the beginning of a download.

    Attributes:
        folder: Folder for its files.
        is_sealed: It was fetched, and its source has not changed since.
        is_whole: It is whole and verified in `folder`, and only needs to be sealed.
        staged_bytes: Bytes that an earlier try has already staged.
        free_bytes: Free bytes of the volume.
    """

    folder: Path
    is_sealed: bool = False
    is_whole: bool = False
    staged_bytes: int = 0
    free_bytes: int = 0


class StagingArea:
    """One folder of staged trees."""

    def __init__(self, folder: Path, trash: Trash) -> None:
        self.folder = folder
        self._trash = trash

    def names(self) -> set[str]:
        """Return the model names that have staged files."""
        with os.scandir(self.folder) as entries:
            return {entry.name.partition("@")[0] for entry in entries}

    def leftovers(self, name: str) -> list[str]:
        """Return the names of a model's staged files and folders."""
        with os.scandir(self.folder) as entries:
            return [entry.name for entry in entries if entry.name.startswith(f"{name}@")]

    def tree(self, name: str, revision: str) -> Path:
        """Return the folder that a revision is downloaded to."""
        return self.folder / f"{name}@{revision}"

    def begin(self, name: str, revision: str, fingerprint: str) -> bool:
        """Delete unusable staged files; return whether the tree is whole already.

        Files of other revisions are deleted. So is a tree that was verified against another
        fingerprint of the source, because it may have been fitted to its server since.
        """
        tree = self.tree(name, revision)
        mark = read_json(f"{tree}{_VERIFIED}").get("fingerprint")
        is_folder = is_real_folder(tree)
        is_whole = mark == fingerprint and is_folder
        kept = {tree.name, tree.name + (_VERIFIED if is_whole else _JOURNAL)}
        if not is_folder or (mark is not None and not is_whole):
            kept = set()
        for leftover in self.leftovers(name):
            if leftover not in kept:
                self._trash.discard(self.folder / leftover)
        return is_whole

    def begin_unpacking(self, name: str, revision: str) -> Path:
        """Return an empty folder, beside the staged archive, to unpack it into."""
        folder = Path(f"{self.tree(name, revision)}{_UNPACKED}")
        if os.path.lexists(folder):
            self._trash.discard(folder)
        folder.mkdir()
        return folder

    def end_unpacking(self, name: str, revision: str) -> None:
        """Replace the staged archive by its unpacked content."""
        tree = self.tree(name, revision)
        unpacked = Path(f"{tree}{_UNPACKED}")
        exchange(unpacked, tree, self._trash.folder)
        self._trash.discard(unpacked)

    def begin_fitting(self, name: str, revision: str, fingerprint: str, *, is_large: bool) -> Path:
        """Return the tree, whole and verified, to be fitted to its server.

        From here on it differs from the source, so a download must not resume in it after a kill.
        A large tree, which is expensive to fetch, is marked as whole; a small one is moved aside.
        """
        tree = self.tree(name, revision)
        if is_large:
            write_durably(Path(f"{tree}{_VERIFIED}"), canonical_json({"fingerprint": fingerprint}))
            return tree
        return tree.rename(f"{tree}{_FITTING}")

    def begin_small(self, name: str, revision: str) -> Path:
        """Return an empty folder, to be filled and fitted in one step."""
        folder = self._aside(name, revision)
        try:
            folder.mkdir()
        except FileExistsError:
            self._trash.discard(folder)
            folder.mkdir()
        return folder

    def keep_as_download(self, name: str, revision: str) -> None:
        """Turn the folder of `begin_small` into a finished download, which is not fitted yet."""
        self._aside(name, revision).rename(self.tree(name, revision))

    def fitted(self, name: str, revision: str) -> Path:
        """Return the tree of `begin_fitting`."""
        aside = self._aside(name, revision)
        return aside if aside.exists() else self.tree(name, revision)

    def _aside(self, name: str, revision: str) -> Path:
        return self.folder / f"{name}@{revision}{_FITTING}"

    def forget(self, name: str, revision: str) -> None:
        """Delete the marks of a tree that has left staging."""
        for mark in (_JOURNAL, _VERIFIED):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.tree(name, revision)}{mark}")

    def remove(self, name: str) -> None:
        """Delete all staged files of a name."""
        for leftover in self.leftovers(name):
            self._trash.discard(self.folder / leftover)

    def allocated_bytes(self, name: str, revision: str) -> int:
        """Return the allocated bytes of a tree; large files have their full size from the start."""
        tree = self.tree(name, revision)
        paths = (os.path.join(at, file) for at, _, files in os.walk(tree) for file in files)
        return sum(os.lstat(path).st_blocks * 512 for path in paths)
