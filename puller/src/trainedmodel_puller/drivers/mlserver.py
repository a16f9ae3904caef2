"""MLServer: quirks measured on 1.7.1.

- A load always reads settings and artefacts again; the old model serves until the new one is up.
  Nothing needs touching.
- The index without a body is 422; UNKNOWN means loading, or a load that returned false: both are
  "not sure", and the model's own readiness decides.
- Unload of what is not loaded is 404. Unload is synchronous.
- With `parallel_workers=0` a blocking load silences all endpoints (60 s seen): in doubt, not down.
- The name in `model-settings.json` is what counts: with another name there, loading by the served
  name is 404. So `prepare` writes the served name into it, and writes the whole file for frameworks
  whose runtime is known and whose artefact can be told.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from trainedmodel_contract.entry import Entry
from trainedmodel_contract.reasons import Reason

from trainedmodel_puller.drivers.v2 import RepositoryServer
from trainedmodel_puller.durable import replace_file
from trainedmodel_puller.errors import ServerFault

SETTINGS: Final = "model-settings.json"

#: Framework to MLServer's runtime class and the endings of the artefacts that it reads.
RUNTIMES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "sklearn": ("mlserver_sklearn.SKLearnModel", (".joblib", ".pickle", ".pkl")),
    "xgboost": ("mlserver_xgboost.XGBoostModel", (".json", ".ubj", ".bst")),
    "lightgbm": ("mlserver_lightgbm.LightGBMModel", (".txt", ".bst")),
    "catboost": ("mlserver_catboost.CatboostModel", (".cbm",)),
    "mlflow": ("mlserver_mlflow.MLflowRuntime", ()),
    "huggingface": ("mlserver_huggingface.HuggingFaceRuntime", ()),
}


class MLServer(RepositoryServer):
    """One MLServer."""

    kind = "mlserver"

    def prepare(self, tree: Path, entry: Entry) -> bool:
        """Give the tree a `model-settings.json` with the served name.

        Raises:
            ServerFault: InvalidLayout; there is none and none can be made.
        """
        path = tree / SETTINGS
        settings = _read_settings(path) if path.is_file() else _make_settings(tree, entry)
        if settings.get("name") != entry.name:
            settings["name"] = entry.name
        replace_file(path, json.dumps(settings, indent=2) + "\n", durable=False)
        return True


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ServerFault(Reason.INVALID_LAYOUT, f"{SETTINGS} is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ServerFault(Reason.INVALID_LAYOUT, f"{SETTINGS} must be a JSON object")
    return settings


def _make_settings(tree: Path, entry: Entry) -> dict[str, Any]:
    runtime = RUNTIMES.get(entry.framework)
    if runtime is None:
        known = ", ".join(sorted(RUNTIMES))
        raise ServerFault(
            Reason.INVALID_LAYOUT,
            f"no {SETTINGS} at the top of the source, and none can be made for framework "
            f"{entry.framework!r} (known: {known})",
        )
    implementation, endings = runtime
    artefacts = sorted(path.name for path in tree.iterdir() if path.suffix in endings)
    if endings and len(artefacts) != 1:
        found = ", ".join(artefacts) or "none"
        raise ServerFault(
            Reason.INVALID_LAYOUT,
            f"no {SETTINGS} at the top of the source, and not exactly one "
            f"{'/'.join(endings)} file to make one for (found: {found})",
        )
    uri = f"./{artefacts[0]}" if artefacts else "."
    return {"implementation": implementation, "parameters": {"uri": uri}}
