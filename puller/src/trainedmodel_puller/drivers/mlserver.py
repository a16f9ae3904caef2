"""MLServer: quirks measured on 1.7.1.

- A load always reads settings and artefacts again. The old model serves until the new one is
  ready. Time stamps have no effect.
- The index without a body is 422. UNKNOWN means that the model is loading, or that its load
  returned false. In both cases the model's own readiness decides.
- Unload of a model that is not loaded is 404. Unload is synchronous.
- With `parallel_workers=0` a blocking load blocks all endpoints (60 s seen). Then the server is in
  doubt, not down.
- MLServer uses the name in `model-settings.json`. With another name there, a load by the served
  name is 404. So `prepare` writes the served name into it. It writes the whole file if the
  framework's runtime is known and one file is clearly the artefact.
- Each `model-settings.json` below the served folder is a model, at any depth, and the last one of a
  name wins. So `prepare` renames all but the one at the top: a tree is one model.
- With a version in the settings (`parameters.version`), an update loads a second version beside the
  old one and answers "not ready yet" to every request until it is loaded. Without a version the old
  model answers until the new one is ready. So `prepare` removes the version.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import structlog
from trainedmodel_contract.entry import Entry

from trainedmodel_puller.core.layouts import (
    MLSERVER_SETTINGS,
    RUNTIMES,
    choose_artefact,
    refuse_mlserver,
)
from trainedmodel_puller.core.shape import Shape, named
from trainedmodel_puller.drivers.userfiles import read_user_json, refused, write_user_json
from trainedmodel_puller.drivers.v2 import RepositoryServer

log: Final = structlog.get_logger()

#: Suffix for settings that MLServer would take for another model.
ASIDE: Final = ".nested"


class MLServer(RepositoryServer):
    """One MLServer."""

    kind = "mlserver"

    def check_layout(self, shape: Shape, entry: Entry) -> str | None:
        """Require settings, or a framework and one file that is clearly its model."""
        return refuse_mlserver(shape, entry.framework)

    def prepare(self, tree: Path, entry: Entry) -> bool:
        """Give the tree one `model-settings.json`, with the served name and without a version.

        Raises:
            ServerFault: InvalidLayout; there are no valid settings and none can be made.
        """
        shape = self._checked_shape(tree, entry)
        settings = read_user_json(tree, MLSERVER_SETTINGS)
        if settings is None:
            settings = _make_settings(shape, entry)
        parameters = settings.get("parameters")
        if parameters is not None and not isinstance(parameters, dict):
            raise refused(f"parameters in {MLSERVER_SETTINGS} must be a JSON object")
        settings["name"] = entry.name
        if parameters is not None:
            parameters.pop("version", None)
        write_user_json(tree, MLSERVER_SETTINGS, settings)
        renamed = _rename_nested(tree)
        if renamed:
            log.warning(
                "nested_settings_renamed",
                model=entry.name,
                files=named(renamed),
                detail="MLServer would serve each of them as another model",
            )
        return True

    def _refusal(self, status: int, body: bytes) -> str:
        said = super()._refusal(status, body)
        # MLServer reports unusable settings as an unknown model.
        hint = f": it cannot use {MLSERVER_SETTINGS}; see MLServer's log" if status == 404 else ""
        return f"{said}{hint}"


def _make_settings(shape: Shape, entry: Entry) -> dict[str, Any]:
    artefact = choose_artefact(shape.files, entry.framework)
    uri = "." if artefact is None or artefact == "." else f"./{artefact}"
    return {"implementation": RUNTIMES[entry.framework], "parameters": {"uri": uri}}


def _rename_nested(tree: Path) -> list[str]:
    """Rename all settings except those at the top; return their old paths in the tree."""
    renamed = []
    for folder, folders, files in os.walk(tree):
        if folder == str(tree):
            continue
        if MLSERVER_SETTINGS in files or MLSERVER_SETTINGS in folders:
            path = Path(folder, MLSERVER_SETTINGS)
            path.rename(_free_name(path))
            folders[:] = [name for name in os.listdir(folder) if _is_folder(folder, name)]
            renamed.append(str(path.relative_to(tree)))
    return sorted(renamed)


def _is_folder(folder: str, name: str) -> bool:
    path = os.path.join(folder, name)
    return os.path.isdir(path) and not os.path.islink(path)


def _free_name(path: Path) -> Path:
    name = f"{path.name}{ASIDE}"
    number = 1
    while os.path.lexists(path.with_name(name)):
        number += 1
        name = f"{path.name}{ASIDE}-{number}"
    return path.with_name(name)
