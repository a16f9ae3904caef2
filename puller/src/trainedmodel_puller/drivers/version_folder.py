"""Trees of servers that want versions as numbered folders: the source's own number is taken away.

Sources are often laid out as a server reads them, `1/saved_model.pb`. Here a revision's folder is
the version, so what lies in a single numbered folder moves up.
"""

from __future__ import annotations

from pathlib import Path

from trainedmodel_puller.core.layouts import (
    MOVING,
    IsModel,
    holds_model,
    numbered_folders,
    refuse_versioned,
)
from trainedmodel_puller.drivers.userfiles import refused, shape_of


def lift_version(tree: Path, is_model: IsModel, wanted: str) -> bool:
    """Move the content of a single numbered folder up, unless the model is at the top (blocking).

    A kill may come between any two steps: the folder's new name says that they were begun.

    Args:
        tree: The revision's files.
        is_model: Tells of a file whether a server would load it.
        wanted: What the top must hold, for people.

    Returns:
        Whether anything was moved.

    Raises:
        ServerFault: InvalidLayout; no model at the top nor in one numbered folder.
    """
    moving = tree / MOVING
    if not moving.is_dir():
        shape = shape_of(tree)
        why = refuse_versioned(shape, is_model, wanted)
        if why is not None:
            raise refused(why)
        if holds_model(shape.files, is_model):
            return False
        (tree / numbered_folders(shape)[0]).rename(moving)
    for path in sorted(moving.iterdir()):
        path.rename(tree / path.name)
    moving.rmdir()
    return True
