"""The rules for names and links of an archive. Pure.

Names have the rules of a listing's names (`storage.paths`), and nothing is repaired. Links are
checked after all other entries, by resolving them as the kernel would: a target without `..` may
still leave the folder through another link.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from graphlib import CycleError, TopologicalSorter
from typing import Final

from trainedmodel_puller.storage.archives.common import archive_fault, entry_fault
from trainedmodel_puller.storage.paths import RESERVED_NAME, path_fault

#: PATH_MAX is 4096, with the folder in front.
_MAX_PATH_BYTES: Final = 2048
#: What removes, copies or walks a tree often recurses; Python gives up at a thousand levels.
_MAX_DEPTH: Final = 100
MAX_TARGET_BYTES: Final = 1024
MAX_LINKS: Final = 10_000
#: Circles are looked for in all pairs of links to folders.
_MAX_FOLDER_LINKS: Final = 500
#: The kernel follows 40 links for one name.
_MAX_HOPS: Final = 40
_MAX_STEPS: Final = 2000
_MACOS_FOLDER: Final = "__MACOSX"
_PACK_AGAIN: Final = "pack the archive again, from inside the model's folder: tar -C FOLDER -cf X ."


class Found(Enum):
    """The kind of a path, without following links."""

    NOTHING = "nothing"
    FILE = "file"
    FOLDER = "folder"


def entry_path(name: str) -> str | None:
    """Return where an entry belongs below the folder; None if it is left out.

    `./` in front and a slash behind are how tar writes names; both are taken off.

    Raises:
        SourceFault: the name cannot safely be a file's.
    """
    path = name
    while path.startswith("./"):
        path = path[2:]
    path = path.removesuffix("/")
    if path in {"", "."} and name.startswith("."):
        return None
    fault = path_fault(path)
    if fault is None and len(path.encode()) > _MAX_PATH_BYTES:
        fault = f"has a name of more than {_MAX_PATH_BYTES} bytes"
    if fault is None and path.count("/") >= _MAX_DEPTH:
        fault = f"lies more than {_MAX_DEPTH} folders deep"
    if fault is not None:
        raise entry_fault(name, f"{fault}; {_PACK_AGAIN}")
    return None if _is_left_out(path) else path


def _is_left_out(path: str) -> bool:
    top = path.partition("/")[0]
    last = path.rpartition("/")[2]
    is_litter = top == _MACOS_FOLDER or last.startswith("._") or last == ".DS_Store"
    return is_litter or top == RESERVED_NAME


def check_target(name: str, target: str) -> None:
    """Check what a link says, before it is known where it leads.

    Raises:
        SourceFault: no link may say that.
    """
    if target.startswith("/"):
        raise _leaves(name, target)
    if not target or len(target.encode(errors="surrogateescape")) > MAX_TARGET_BYTES:
        raise entry_fault(name, f"is a link whose target has not 1 to {MAX_TARGET_BYTES} bytes")
    names = "/".join(part for part in target.split("/") if part not in {"", ".", ".."})
    if names and (fault := path_fault(names)):
        raise entry_fault(name, f"is a link whose target {fault}")


def resolve(path: str, links: Mapping[str, str], look: Callable[[str], Found]) -> str:
    """Return the path that a link leads to in the end, as the kernel would find it.

    Args:
        path: The link's own.
        links: All links by their paths, with what they say.
        look: Tells what lies at a path that is no link and has none above it.

    Raises:
        SourceFault: it leads outside, in a circle, or to nothing.
    """
    pending = path.split("/")[::-1]
    at: list[str] = []
    hops = steps = 0
    while pending:
        steps += 1
        segment = pending.pop()
        if segment in {"", "."}:
            continue
        if segment == "..":
            if not at:
                raise _leaves(path, links[path])
            at.pop()
            continue
        here = "/".join([*at, segment])
        target = links.get(here)
        if target is None:
            found = look(here)
            if found is Found.NOTHING or (found is Found.FILE and pending):
                raise _dangles(path, links[path])
            at.append(segment)
            continue
        hops += 1
        if hops > _MAX_HOPS or steps > _MAX_STEPS:
            raise _circles(path, links[path])
        if target.startswith("/"):
            raise _leaves(path, target)
        pending.extend(target.split("/")[::-1])
    return "/".join(at)


def check_circles(jumps: Mapping[str, str]) -> None:
    """Check that a walk of the folder that follows links ends.

    Args:
        jumps: Where each link to a folder leads in the end, by the link's path.

    Raises:
        SourceFault: a link leads to a folder that it lies in, if only by way of others.
    """
    if len(jumps) > _MAX_FOLDER_LINKS:
        raise archive_fault(
            f"has more than {_MAX_FOLDER_LINKS} links to folders; pack it with tar --dereference"
        )
    met = {
        link: [other for other in jumps if not folder or other.startswith(f"{folder}/")]
        for link, folder in jumps.items()
    }
    try:
        TopologicalSorter(met).prepare()
    except CycleError as error:
        link = error.args[1][0]
        raise _circles(link, jumps[link] or ".") from None


def _leaves(name: str, target: str) -> Exception:
    return entry_fault(
        name,
        f"is a link to {target!a:.200}, which leaves the model's folder;"
        " pack the file itself: tar --dereference",
    )


def _dangles(name: str, target: str) -> Exception:
    return entry_fault(
        name,
        f"is a link to {target!a:.200}, which is not in the archive; model servers fail on such"
        " links: add the target, or leave the link out",
    )


def _circles(name: str, target: str) -> Exception:
    return entry_fault(
        name, f"is a link to {target!a:.200}, which is part of a loop of links; leave the link out"
    )
