"""`MAR-INF/MANIFEST.json`, which Multi Model Server and TorchServe require in a folder.

If a source has a manifest, only its name and version are changed. If it has none, the manifest is
made, but only if nothing must be guessed: the source needs a `handler.py` at the top (or the
parameter `handler`, for TorchServe's own handlers and other file names), and at most one file of
weights.

The version in the manifest is set to the revision. TorchServe distinguishes the versions of one
name by it, and loads a second version beside the first. So its updates have no gap.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any, Final

from trainedmodel_contract.entry import Entry

from trainedmodel_puller.core.layouts import HANDLER, MANIFEST, refuse_manifest, weights_of
from trainedmodel_puller.core.shape import Shape
from trainedmodel_puller.drivers.userfiles import (
    read_user_json,
    refused,
    shape_of,
    write_user_json,
)

#: Fields of a manifest that name files of the model.
_FILES: Final = ("handler", "serializedFile", "modelFile")


def check_manifest(shape: Shape, entry: Entry) -> str | None:
    """Return why a source has no manifest and none can be made; None if there is one."""
    return refuse_manifest(shape, entry.parameters or {})


def fit_manifest(tree: Path, entry: Entry) -> None:
    """Fit the manifest to an entry (blocking). A second call changes nothing.

    Raises:
        ServerFault: InvalidLayout; there is none and none can be made, or it names no handler.
    """
    shape = shape_of(tree)
    message = check_manifest(shape, entry)
    if message is not None:
        raise refused(message)
    found = read_user_json(tree, MANIFEST)
    manifest = _make(shape, entry) if found is None else found
    model = manifest.get("model")
    handler = model.get("handler") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(handler, str):
        raise refused(f"{MANIFEST} must have the field model.handler")
    for field in _FILES:
        path = PurePosixPath(str(model.get(field, "")))
        if path.is_absolute() or ".." in path.parts:
            raise refused(
                f"model.{field} in {MANIFEST} is {str(path)!a:.100}, which is outside of the source"
            )
    module = handler.partition(":")[0]
    if module.endswith(".py") and not _is_file(tree, module):
        raise refused(
            shape.refusal(f"{MANIFEST} names the handler {module!a:.100}, which does not exist")
        )
    model["modelName"] = entry.name
    model["modelVersion"] = entry.revision
    (tree / MANIFEST).parent.mkdir(exist_ok=True)
    write_user_json(tree, MANIFEST, manifest)


def _is_file(tree: Path, name: str) -> bool:
    try:
        return (tree / name).is_file()
    except (OSError, ValueError):  # an impossible file name
        return False


def _make(shape: Shape, entry: Entry) -> dict[str, Any]:
    model: dict[str, Any] = {"handler": (entry.parameters or {}).get("handler") or HANDLER}
    weights = weights_of(shape)
    if weights:
        model["serializedFile"] = weights[0]
    return {"runtime": "python", "model": model}
