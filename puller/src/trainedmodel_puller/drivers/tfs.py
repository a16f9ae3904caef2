"""TensorFlow Serving: experimental, written from its documentation, sources and protos.

No test has run the real server, because no package has its binary. The written configuration is
checked against its real protos. Everything else is tested on a stand-in that follows the sources.

The server must run with these flags:

- `--model_config_file` on the file of `--server-config` (by default `<model-dir>/models.config`).
- `--model_config_file_poll_wait_seconds=1`.
- `--max_num_load_retries=0`. Otherwise a broken model is reported only after five tries of a minute
  each.

The driver does not use the gRPC call for a new configuration: it would need the protos and a gRPC
client.

- The server reads the file every second. It applies each content as a whole and waits for the loads
  in it. So a slow load delays later ones.
- An empty file counts as no configuration and changes nothing. An empty list unloads everything.
- `GET /v1/models/N` has all versions since the start, also those that failed or were unloaded
  (END). So a failure from before the load counts only after the file was read again. The server
  loads a failed version again only if it left the file and came back. The file is read every
  second, so the version stays out for two and a half.
- There is no list of models and no health path. The ping reads a model that does not exist, and 404
  proves that the server runs.
- If the listed version does not exist below the base path, the server only logs it. The load times
  out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from trainedmodel_contract.entry import Entry

from trainedmodel_puller.core.layouts import refuse_versioned
from trainedmodel_puller.core.shape import Shape
from trainedmodel_puller.drivers.model_config import ConfigServer
from trainedmodel_puller.drivers.tfs_config import TfsConfigText
from trainedmodel_puller.drivers.version_folder import lift_version
from trainedmodel_puller.drivers.version_status import VersionStatus

_SAVED: Final = frozenset({"saved_model.pb", "saved_model.pbtxt"})
_WANTED: Final = "saved_model.pb (or .pbtxt), or a .tflite model"


class TensorFlowServing(ConfigServer):
    """One TensorFlow Serving, over its REST address."""

    kind = "tfs"
    file_name = "models.config"
    format = TfsConfigText()
    ping_path = "/v1/models/trainedmodel-nobody"
    #: The period at which it reads the file, and a reserve for its other loads.
    stale_s = 10.0
    notice_s = 2.5

    def check_layout(self, shape: Shape, entry: Entry) -> str | None:
        """Require a model at the top or in a single numbered folder."""
        return refuse_versioned(shape, _is_model, _WANTED)

    def prepare(self, tree: Path, entry: Entry) -> bool:
        """Move the SavedModel of a numbered folder to the top of the tree.

        Raises:
            ServerFault: InvalidLayout; there is no model.
        """
        return lift_version(tree, _is_model, _WANTED)

    def _is_alive(self, status: int) -> bool:
        return status in {200, 404}

    def _too_late(self, status: VersionStatus | None) -> str:
        said = super()._too_late(status)
        if status is not None:
            return said
        return (
            f"{said}: run it with --model_config_file={self._file.name} and "
            "--model_config_file_poll_wait_seconds=1, and set --server-model-dir "
            f"({self._served_dir}) to the model folder as the server sees it"
        )


def _is_model(name: str, _beside: frozenset[str]) -> bool:
    return name in _SAVED or name.endswith(".tflite")
