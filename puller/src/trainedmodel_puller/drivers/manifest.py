"""`MAR-INF/MANIFEST.json`: what a folder must hold for Multi Model Server and TorchServe.

A source that has one keeps it as it is, but for the version (below). For one that has none it is
made, if there is nothing to guess: a `handler.py` at the top (or the parameter `handler`, for
TorchServe's own handlers and other file names), and at most one file of weights.

The version in it is set to the revision: TorchServe tells the versions of one name apart by it, and
takes a second one beside the first, which is what makes its updates gapless.
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
    """Say why a source has no manifest, and none can be made."""
    return refuse_manifest(shape, entry.parameters or {})


def fit_manifest(tree: Path, entry: Entry) -> None:
    """Make the manifest right for an entry (blocking); doing it again changes nothing.

    Raises:
        ServerFault: InvalidLayout; there is none and none can be made, or it names no handler.
    """
    shape = shape_of(tree)
    why = check_manifest(shape, entry)
    if why is not None:
        raise refused(why)
    found = read_user_json(tree, MANIFEST)
    manifest = _make(shape, entry) if found is None else found
    model = manifest.get("model")
    handler = model.get("handler") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(handler, str):
        raise refused(f"{MANIFEST} has no model.handler")
    for field in _FILES:
        path = PurePosixPath(str(model.get(field, "")))
        if path.is_absolute() or ".." in path.parts:
            raise refused(
                f"model.{field} in {MANIFEST} is {str(path)!a:.100}, which is outside of the source"
            )
    module = handler.partition(":")[0]
    if module.endswith(".py") and not _is_file(tree, module):
        raise refused(
            shape.refusal(f"{MANIFEST} names the handler {module!a:.100}, which is not there")
        )
    model["modelName"] = entry.name
    model["modelVersion"] = entry.revision
    (tree / MANIFEST).parent.mkdir(exist_ok=True)
    write_user_json(tree, MANIFEST, manifest)


def _is_file(tree: Path, name: str) -> bool:
    try:
        return (tree / name).is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _make(shape: Shape, entry: Entry) -> dict[str, Any]:
    model: dict[str, Any] = {"handler": (entry.parameters or {}).get("handler") or HANDLER}
    weights = weights_of(shape)
    if weights:
        model["serializedFile"] = weights[0]
    return {"runtime": "python", "model": model}
