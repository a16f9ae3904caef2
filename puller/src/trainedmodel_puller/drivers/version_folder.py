"""Trees of servers with numbered version folders: the number of the source is removed.

A source often has the layout that a server reads, `1/saved_model.pb`. In the served folder, the
folder of a revision is the version. So the content of a single numbered folder moves up.
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

    A kill may come between any two steps. The folder's new name marks the unfinished move.

    Args:
        tree: The revision's files.
        is_model: Returns whether a server would load a file.
        wanted: The required files, for the message.

    Returns:
        Whether anything was moved.

    Raises:
        ServerFault: InvalidLayout; no model at the top nor in one numbered folder.
    """
    moving = tree / MOVING
    if not moving.is_dir():
        shape = shape_of(tree)
        message = refuse_versioned(shape, is_model, wanted)
        if message is not None:
            raise refused(message)
        if holds_model(shape.files, is_model):
            return False
        (tree / numbered_folders(shape)[0]).rename(moving)
    for path in sorted(moving.iterdir()):
        path.rename(tree / path.name)
    moving.rmdir()
    return True
