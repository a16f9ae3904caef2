"""Identities: the TrainedModel and the revision of a tree, as the tree's own file states them.

The identity is a file inside the tree (`.trainedmodel.json`), because a name outside could be wrong
after a kill between two renames. A folder without such a file does not belong to the puller. The
same holds for every link, and for a folder of another user that the puller may not read. A read
that fails for any other reason proves nothing: it raises, and the name is in doubt.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import Any, Final

from trainedmodel_puller.core.state import Tree
from trainedmodel_puller.volume.durable import read_json

#: Inside each tree: which TrainedModel and revision it is, and what its source looked like.
IDENTITY_FILE: Final = ".trainedmodel.json"


#: What KServe's agent leaves in a folder when it has fetched all of it.
KSERVE_MARKER: Final = "SUCCESS."


#: What entries may have for a revision; it becomes the name of a folder.
_REVISION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


#: Errors that say that a folder is not there.
NO_FOLDER: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


_LARGEST: Final = 2**63 - 1


def read_identity(tree: Path | str) -> dict[str, Any]:
    """Return the identity of a tree; empty if it is malformed, or the tree is not the puller's."""
    if os.path.islink(tree):
        return {}
    document = read_json(os.path.join(tree, IDENTITY_FILE))
    revision = document.get("revision")
    is_ours = isinstance(revision, str) and _REVISION.fullmatch(revision) is not None
    return document if is_ours else {}


def revision_of(tree: Path | str) -> str | None:
    """Return the revision of a tree, if the puller made it."""
    revision: str | None = read_identity(tree).get("revision")
    return revision


def served_revision(tree: Path) -> str | None:
    """Return the revision of a tree in the served folder, if the puller made it."""
    try:
        return revision_of(tree)
    except PermissionError:
        if is_another_users(tree):
            return None
        raise


def is_another_users(path: Path) -> bool:
    """Return whether another user owns a folder, whose unreadable files are not the puller's."""
    try:
        return os.lstat(path).st_uid != os.geteuid()
    except OSError:
        return False


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
    return value if isinstance(value, int) and 0 <= value <= _LARGEST else 0


def is_intact(tree: Path, fingerprint: str) -> bool:
    """Return whether a tree has this content of its source, and no file of it is missing.

    Files that its server has added are ignored.
    """
    identity = read_identity(tree)
    files = identity.get("files")
    if identity.get("fingerprint") != fingerprint:
        return False
    try:
        return not isinstance(files, dict) or all(
            os.stat(tree / path).st_size == size for path, size in files.items()
        )
    except (FileNotFoundError, NotADirectoryError):
        return False


def is_real_folder(path: Path | str) -> bool:
    """Return whether a path is a folder and no link, whose target would not be the puller's."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def is_kserves(folder: Path) -> bool:
    """Return whether KServe's agent made a folder, and finished it."""
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.startswith(KSERVE_MARKER) for entry in entries)
    except PermissionError:
        return False
    except OSError as error:
        if error.errno in NO_FOLDER:
            return False
        raise
