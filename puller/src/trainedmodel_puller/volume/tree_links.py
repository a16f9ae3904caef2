"""Hard links between the trees of models that have the same source.

Sealed trees are never written into, and drivers replace files instead of writing into them, so
several trees may share an inode. The tree's identity lists the files that a driver has changed,
added or removed while it fitted the tree to its server: they differ from the source and are never
shared.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trainedmodel_puller.volume.identity import IDENTITY_FILE

#: Inode, modification time in ns and size of each file, by its posix path in the tree.
FileStats = dict[str, tuple[int, int, int]]

#: A driver that changes more files than this has made another tree of it; nothing is shared then.
_MOST_CHANGES: Final = 1000


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes of a tree's files by fitting it to its server.

    Attributes:
        lost: Paths of the source that were changed or removed.
        added: Paths that the source does not have.
    """

    lost: frozenset[str]
    added: frozenset[str]

    def to_dict(self) -> dict[str, Any]:
        """Render for a tree's identity."""
        return {"changed": sorted(self.lost), "added": sorted(self.added)}

    @classmethod
    def of(cls, identity: Mapping[str, Any]) -> Changes | None:
        """Read what a tree's identity says; None if it does not, so that nothing is shared."""
        changed, added = identity.get("changed"), identity.get("added")
        if not isinstance(changed, list) or not isinstance(added, list):
            return None
        return cls(frozenset(map(str, changed)), frozenset(map(str, added)))


def stat_files(tree: Path) -> FileStats:
    """Look at each regular file of a tree; blocks."""
    found: FileStats = {}
    prefix = len(str(tree)) + 1
    for folder, _, files in os.walk(tree):
        for name in files:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            found[path[prefix:]] = (status.st_ino, status.st_mtime_ns, status.st_size)
    return found


def note_changes(before: FileStats, after: FileStats) -> Changes | None:
    """Compare two looks at a tree; None if there is too much to note."""
    lost = frozenset(path for path, told in before.items() if after.get(path) != told)
    added = frozenset(after.keys() - before.keys())
    return Changes(lost, added) if len(lost) + len(added) <= _MOST_CHANGES else None


def link_tree(source: Path, target: Path, but: Collection[str]) -> bool:
    """Make `target` a tree of hard links to the files of `source`, but for some; blocks.

    Returns:
        False if the file system refuses links; the caller must then make `target` again.
    """
    left_out = {*but, IDENTITY_FILE}
    try:
        _link_folder(source, target, "", left_out)
    except OSError:
        return False
    return True


def _link_folder(source: Path, target: Path, prefix: str, left_out: Collection[str]) -> None:
    target.mkdir(exist_ok=True)
    with os.scandir(source) as entries:
        for entry in entries:
            path = prefix + entry.name
            if path in left_out:
                continue
            copy = target / entry.name
            if entry.is_symlink():
                copy.symlink_to(os.readlink(entry.path))
            elif entry.is_dir():
                _link_folder(Path(entry.path), copy, f"{path}/", left_out)
            else:
                os.link(entry.path, copy)
