"""OpenVINO Model Server: read in its documentation, never run here.

Its tests are on a stand-in that says what the documentation says. It must run with `--config_path`
on the file that `--server-config` names (by default `<model-dir>/config.json`), with a
`--rest_port`, and with `--file_system_poll_wait_seconds 0`, since the file is applied by a call.

- `POST /v1/config/reload` applies the file and answers when that is done: 201, or 200 if there was
  nothing to do. It answers with an error if *any* model could not be loaded, so what counts is what
  each model says of itself.
- A version that failed stays LOADING, with an error code.
- `GET /v1/config` tells of all models at once; those that went are END or not there.
- A file that breaks its schema changes nothing. Other keys of the file (pipelines, loaders, options
  of other models) are kept.
- Changing a model's configuration may load all its versions again, by the documentation; whether
  the list of versions alone counts as such a change was not seen.
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
            raise ConfigError("a model is there twice")
        return rows

    def edit(self, text: str, name: str, base_path: str, versions: Sequence[int]) -> str:
        """Return the text with one model's row put in, replaced, or (no versions) taken out."""
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
        """Want a model at the top or in a single numbered folder."""
        return refuse_versioned(shape, _is_model, _WANTED)

    def prepare(self, tree: Path, entry: Entry) -> bool:
        """Bring a model to the top of the tree, out of a numbered folder if need be.

        Raises:
            ServerFault: InvalidLayout; there is none.
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
        return f"ovms did not take {self._file.name} ({status}): {words(body)}"


def _read(text: str) -> dict[str, Any]:
    try:
        document = parsed(text)
    except ValueError as error:
        raise ConfigError(f"it is no JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get(_LIST), list):
        raise ConfigError(f"it has no {_LIST}")
    for item in document[_LIST]:
        config = item.get("config") if isinstance(item, dict) else None
        if not isinstance(config, dict) or not all(
            isinstance(config.get(key), str) for key in ("name", "base_path")
        ):
            raise ConfigError(f"a row of {_LIST} has no config with a name and a base_path")
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
