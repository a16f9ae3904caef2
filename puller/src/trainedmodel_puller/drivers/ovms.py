"""OpenVINO Model Server: experimental, written from its documentation.

No test has run the real server. The tests use a stand-in that follows the documentation. The server
must run with `--config_path` on the file of `--server-config` (by default
`<model-dir>/config.json`), with a `--rest_port`, and with `--file_system_poll_wait_seconds 0`,
because the driver applies the file by a call.

- `POST /v1/config/reload` applies the file, and answers when that is done: 201, or 200 if nothing
  changed. It answers with an error if *any* model could not be loaded, so the status of each model
  decides.
- A version that failed stays LOADING, with an error code.
- `GET /v1/config` has the status of all models. Unloaded models are END or missing.
- A file that violates its schema changes nothing. Other keys of the file (pipelines, loaders,
  options of other models) are kept.
- By the documentation, a changed configuration of a model may load all its versions again. It is
  not known whether a changed list of versions does so.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

from trainedmodel_contract.entry import Entry

from trainedmodel_puller.core.layouts import refuse_versioned
from trainedmodel_puller.core.shape import Shape
from trainedmodel_puller.drivers.client import JsonShape, parsed, words
from trainedmodel_puller.drivers.config_format import ConfigError, Row
from trainedmodel_puller.drivers.model_config import ConfigServer
from trainedmodel_puller.drivers.version_folder import lift_version
from trainedmodel_puller.drivers.version_status import Statuses, read_statuses

_LIST: Final = "model_config_list"
_ENDINGS: Final = frozenset({".onnx", ".pb", ".pdmodel", ".tflite"})
_WANTED: Final = "an .xml with its .bin, or an .onnx, .pb, .pdmodel, .tflite"


class OvmsConfigText:
    """Reads and edits `config.json`."""

    empty = '{\n  "model_config_list": []\n}\n'

    def rows(self, text: str) -> dict[str, Row]:
        """Return the models by name."""
        listed = [item["config"] for item in _read(text)[_LIST]]
        rows = {config["name"]: Row(config["base_path"], _versions(config)) for config in listed}
        if len(rows) != len(listed):
            raise ConfigError("it lists a model twice")
        return rows

    def edit(self, text: str, name: str, base_path: str, versions: Sequence[int]) -> str:
        """Return the text with one model's row added or replaced, or removed without versions."""
        document = _read(text)
        listed = document[_LIST]
        policy = {"specific": {"versions": list(versions)}}
        made = {"name": name, "base_path": base_path, "model_version_policy": policy}
        places = [at for at, item in enumerate(listed) if item["config"]["name"] == name]
        at = places[0] if places else len(listed)
        listed[at : at + 1] = [{"config": made}] if versions else []
        return json.dumps(document, indent=2) + "\n"


class OpenVinoModelServer(ConfigServer):
    """One OpenVINO Model Server, over its REST address."""

    kind = "ovms"
    file_name = "config.json"
    format = OvmsConfigText()
    ping_path = "/v1/config"

    def check_layout(self, shape: Shape, entry: Entry) -> str | None:
        """Require a model at the top or in a single numbered folder."""
        return refuse_versioned(shape, _is_model, _WANTED)

    def prepare(self, tree: Path, entry: Entry) -> bool:
        """Move the model of a numbered folder to the top of the tree.

        Raises:
            ServerFault: InvalidLayout; there is no model.
        """
        return lift_version(tree, _is_model, _WANTED)

    async def _look(self, names: Collection[str]) -> dict[str, Statuses]:
        def read(document: Any) -> dict[str, Statuses]:
            if not isinstance(document, dict):
                raise TypeError("not an object")
            return {name: read_statuses(document[name]) for name in names if name in document}

        return await self._client.get_json("/v1/config", JsonShape("model status", read))

    async def _apply(self) -> str | None:
        status, body = await self._client.call("POST", "/v1/config/reload", self._action_timeout_s)
        if status in {200, 201}:
            return None
        return f"ovms refused {self._file.name} ({status}): {words(body)}"


def _read(text: str) -> dict[str, Any]:
    try:
        document = parsed(text)
    except ValueError as error:
        raise ConfigError(f"it is not JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get(_LIST), list):
        raise ConfigError(f"it has no list {_LIST}")
    for item in document[_LIST]:
        config = item.get("config") if isinstance(item, dict) else None
        if not isinstance(config, dict) or not all(
            isinstance(config.get(key), str) for key in ("name", "base_path")
        ):
            raise ConfigError(f"a row of {_LIST} has no config with name and base_path")
    return document


def _versions(config: dict[str, Any]) -> tuple[int, ...]:
    policy = config.get("model_version_policy")
    specific = policy.get("specific") if isinstance(policy, dict) else None
    listed = specific.get("versions") if isinstance(specific, dict) else None
    is_list = isinstance(listed, list) and all(isinstance(version, int) for version in listed)
    return tuple(listed) if listed is not None and is_list else ()


def _is_model(name: str, beside: frozenset[str]) -> bool:
    stem, dot, ending = name.rpartition(".")
    if ending == "xml":
        return f"{stem}.bin" in beside
    return bool(dot) and f".{ending}" in _ENDINGS
