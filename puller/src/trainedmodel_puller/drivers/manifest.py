"""`MAR-INF/MANIFEST.json`: what a folder must hold for Multi Model Server and TorchServe.

A source that has one keeps it as it is, but for the version (below). For one that has none it is
made, if there is nothing to guess: a `handler.py` at the top (or the parameter `handler`, for
TorchServe's own handlers and other file names), and at most one file of weights.

The version in it is set to the revision: TorchServe tells the versions of one name apart by it, and
takes a second one beside the first, which is what makes its updates gapless.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from trainedmodel_contract.entry import Entry
from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.durable import replace_file
from trainedmodel_puller.errors import ServerFault

MANIFEST: Final = "MAR-INF/MANIFEST.json"
HANDLER: Final = "handler.py"
#: Endings of files that a handler is told of as its weights.
WEIGHTS: Final = (".pt", ".pth", ".bin", ".safetensors", ".onnx", ".params")


def fit_manifest(tree: Path, entry: Entry) -> None:
    """Make the manifest right for an entry (blocking); doing it again changes nothing.

    Raises:
        ServerFault: InvalidLayout; there is none and none can be made, or it names no handler.
    """
    path = tree / MANIFEST
    manifest = _read(path) if path.is_file() else _make(tree, entry)
    model = manifest.get("model")
    handler = model.get("handler") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(handler, str):
        raise ServerFault(Reason.INVALID_LAYOUT, f"{MANIFEST} has no model.handler")
    module = handler.partition(":")[0]
    if module.endswith(".py") and not (tree / module).is_file():
        raise ServerFault(
            Reason.INVALID_LAYOUT, f"{MANIFEST} names the handler {module!r}, which is not there"
        )
    model["modelName"] = entry.name
    model["modelVersion"] = entry.revision
    path.parent.mkdir(exist_ok=True)
    replace_file(path, json.dumps(manifest, indent=2) + "\n", durable=False)


def _read(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ServerFault(Reason.INVALID_LAYOUT, f"{MANIFEST} is not JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise ServerFault(Reason.INVALID_LAYOUT, f"{MANIFEST} must be a JSON object")
    return manifest


def _make(tree: Path, entry: Entry) -> dict[str, Any]:
    handler = (entry.parameters or {}).get("handler")
    if handler is None and not (tree / HANDLER).is_file():
        raise ServerFault(
            Reason.INVALID_LAYOUT,
            f"no {MANIFEST} in the source, and no {HANDLER} at its top to make one for: publish "
            "the content of a model archive (.mar), add either file, or set the parameter handler",
        )
    weights = sorted(path.name for path in tree.iterdir() if path.suffix in WEIGHTS)
    if len(weights) > 1:
        raise ServerFault(
            Reason.INVALID_LAYOUT,
            f"no {MANIFEST} in the source, and more than one file of weights to make one for "
            f"(found: {', '.join(weights)}): add a {MANIFEST} with model.serializedFile",
        )
    model: dict[str, Any] = {"handler": handler or HANDLER}
    if weights:
        model["serializedFile"] = weights[0]
    return {"runtime": "python", "model": model}
