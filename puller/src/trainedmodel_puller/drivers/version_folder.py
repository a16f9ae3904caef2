"""Trees of servers that want versions as numbered folders: the source's own number is taken away.

Sources are often laid out as a server reads them, `1/saved_model.pb`. Here a revision's folder is
the version, so what lies in a single numbered folder moves up.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.errors import ServerFault

#: What the numbered folder is called from the moment on that its content moves.
_MOVING: Final = ".trainedmodel-moving"


def lift_version(tree: Path, is_model: Callable[[Path], bool], layout: str) -> bool:
    """Move the content of a single numbered folder up, unless the model is at the top (blocking).

    A kill may come between any two steps: the folder's new name says that they were begun.

    Args:
        tree: The revision's files.
        is_model: Tells of one path whether a server would load it.
        layout: What the top must hold, for people.

    Returns:
        Whether anything was moved.

    Raises:
        ServerFault: InvalidLayout; no model at the top nor in one numbered folder.
    """
    moving = tree / _MOVING
    if not moving.exists() and not any(map(is_model, tree.iterdir())):
        numbered = [path for path in tree.iterdir() if path.is_dir() and path.name.isdecimal()]
        if len(numbered) != 1 or not any(map(is_model, numbered[0].iterdir())):
            names = ", ".join(sorted(path.name for path in tree.iterdir())) or "nothing"
            raise ServerFault(
                Reason.INVALID_LAYOUT,
                f"the top of the source, or a single numbered folder in it, must hold {layout}; "
                f"found: {names:.200}",
            )
        _refuse_twins(tree, numbered[0])
        numbered[0].rename(moving)
    if not moving.exists():
        return False
    for path in sorted(moving.iterdir()):
        path.rename(tree / path.name)
    moving.rmdir()
    return True


def _refuse_twins(tree: Path, folder: Path) -> None:
    twins = sorted(path.name for path in folder.iterdir() if (tree / path.name).exists())
    if twins:
        raise ServerFault(
            Reason.INVALID_LAYOUT,
            f"{', '.join(twins):.200} is both at the top of the source and in {folder.name}/: "
            "remove one of them",
        )
