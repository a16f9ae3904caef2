"""The names of a source's files and folders, and their form in messages.

A shape is made from the paths of a listing, before the first byte is fetched, or from a tree on the
disk. Both give the same shape, so a refusal has the same words at both times. A path that ends with
a slash is a folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from trainedmodel_contract.modelreport import MAX_MESSAGE

#: Limits of the characters of a name, and of a list of names, in a message.
_MOST_OF_NAME: Final = 60
_MOST_OF_LIST: Final = 120
#: Characters that a name is shown with as it is; any other name is shown quoted and escaped.
_PLAIN: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-+@=/")


class Shape:
    """The names at the top of a source, and directly in each folder there.

    Attributes:
        files: Names of the files at the top.
        folders: Names of the folders at the top, each with the names of the files directly in it.
        inner: Names of the folders in each folder at the top.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        files: set[str] = set()
        folders: dict[str, set[str]] = {}
        inner: dict[str, set[str]] = {}
        for path in paths:
            top, slash, rest = path.partition("/")
            if not slash:
                files.add(top)
                continue
            inside = folders.setdefault(top, set())
            name, slash, _ = rest.partition("/")
            if slash:
                inner.setdefault(top, set()).add(name)
            elif name:
                inside.add(name)
        self.files = frozenset(files)
        self.folders: Mapping[str, frozenset[str]] = {
            name: frozenset(names) for name, names in folders.items()
        }
        self.inner: Mapping[str, frozenset[str]] = {
            name: frozenset(names) for name, names in inner.items()
        }

    def __repr__(self) -> str:
        return f"Shape({named(self.names())})"

    def has_file(self, path: str) -> bool:
        """Return whether there is a file at a path of one or two parts."""
        folder, slash, name = path.partition("/")
        return name in self.folders.get(folder, ()) if slash else path in self.files

    def has_folder(self, path: str) -> bool:
        """Return whether there is a folder at a path of one or two parts."""
        folder, slash, name = path.partition("/")
        return name in self.inner.get(folder, ()) if slash else path in self.folders

    def names(self) -> list[str]:
        """Return the names at the top, files first; those of folders end with a slash."""
        return [*sorted(self.files), *(f"{name}/" for name in sorted(self.folders))]

    def refusal(self, why: str, hint: str = "") -> str:
        """Return a message that says why, what lies at the top, and a hint; all fits a report."""
        room = MAX_MESSAGE - len(why) - len("; found: ") - len(hint)
        return f"{why}; found: {named(self.names(), room)}{hint}"


def named(names: Iterable[str], most: int = _MOST_OF_LIST) -> str:
    """Return a bounded list of names for people; whatever is in a name, it is safe to be shown."""
    listed = list(names)
    shown = ""
    for at, name in enumerate(listed):
        longer = f"{shown}, {_shown(name)}" if shown else _shown(name)
        left = len(listed) - at - 1
        rest = f" and {left} more" if left else ""
        if shown and len(longer) + len(rest) > most:
            return f"{shown} and {left + 1} more"
        shown = longer
    return shown or "nothing"


def _shown(name: str) -> str:
    plain = name if name and _PLAIN.issuperset(name) else ascii(name[: _MOST_OF_NAME + 1])
    return plain if len(plain) <= _MOST_OF_NAME else f"{plain[:_MOST_OF_NAME]}..."
