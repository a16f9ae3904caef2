"""The rules for object names that become file names.

A listing is untrusted input: a name that leads out of the folder, or two names for the same path,
stop the model before a byte is written (P9). Nothing is renamed or repaired: a model with half its
files under other names is worse than one with a clear error.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Final

from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.base import Listing, SourceObject

#: The puller's own file in a published folder; a source's file of that name is never fetched.
RESERVED_NAME: Final = ".trainedmodel.json"
_CONTROL: Final = frozenset({"Cc", "Cs"})
_MAX_SEGMENT_BYTES: Final = 255


def make_listing(
    found: Iterable[SourceObject],
    *,
    is_single: bool,
    where: object,
    folders: Iterable[str] = (),
) -> Listing:
    """Check and sort what a store listed.

    Args:
        found: The objects.
        is_single: The URI names one object.
        where: What was listed, for people.
        folders: Folders that the store knows as such; those that hold something are left out.

    Raises:
        SourceFault: nothing is left to fetch (ObjectNotFound), or a name is unusable (UnsafePath).
    """
    objects = sorted(
        (item for item in found if item.path != RESERVED_NAME), key=lambda item: item.path
    )
    if not objects:
        raise SourceFault(Reason.OBJECT_NOT_FOUND, f"no object at {where}, and none below it")
    names: set[str] = set()
    for item in objects:
        if fault := path_fault(item.path):
            raise SourceFault(Reason.UNSAFE_PATH, f"object name {item.path!a:.200} {fault}")
        if item.path in names:
            raise SourceFault(Reason.UNSAFE_PATH, f"object name {item.path!a:.200} is listed twice")
        names.add(item.path)
    parents = {folder for item in objects for folder in parent_folders(item.path)}
    known = {folder for folder in folders if folder not in {"", RESERVED_NAME}}
    for folder in known:
        if fault := path_fault(folder):
            raise SourceFault(Reason.UNSAFE_PATH, f"folder name {folder!a:.200} {fault}")
    above = {outer for folder in known for outer in parent_folders(folder)}
    for both in sorted(names & (parents | known | above)):
        raise SourceFault(Reason.UNSAFE_PATH, f"{both!a:.200} is an object and also a folder")
    return Listing(tuple(objects), is_single, tuple(sorted(known - parents - above)))


def path_fault(path: str) -> str | None:
    """Return the fault of a relative path, or None."""
    if path.startswith("/"):
        return "is absolute"
    segments = path.split("/")
    if "" in segments:
        return "has an empty segment"
    if "." in segments or ".." in segments:
        return "has '.' or '..' as a segment"
    if any(unicodedata.category(char) in _CONTROL for char in path):
        return "has a control character, or bytes that are not UTF-8"
    if any(len(segment.encode()) > _MAX_SEGMENT_BYTES for segment in segments):
        return f"has a segment of more than {_MAX_SEGMENT_BYTES} bytes"
    return None


def parent_folders(path: str) -> Iterable[str]:
    """Yield `a`, `a/b` for `a/b/c`."""
    at = path.find("/")
    while at >= 0:
        yield path[:at]
        at = path.find("/", at + 1)
