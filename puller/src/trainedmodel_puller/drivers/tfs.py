"""TensorFlow Serving: read in its documentation, sources and protos, never run here.

There is no package of its binary. The configuration that is written is checked against its real
protos; all else is tested on a stand-in that says what its sources say.

It must run with `--model_config_file` on the file that `--server-config` names (by default
`<model-dir>/models.config`), `--model_config_file_poll_wait_seconds=1`, and, so that a broken model
is known to be broken at once and not after five tries a minute each, `--max_num_load_retries=0`.
Its gRPC call for a new configuration is not used: that would take its protos and a gRPC client.

- The file is read every second. It is applied as a whole, one after the other, and waits for the
  models that it loads: a slow load delays the ones after it.
- An empty file is no configuration and changes nothing; an empty list unloads everything.
- `GET /v1/models/N` tells of all versions it ever had, those that failed or went too (END): a
  failure that was there before is not believed until the file was read again. A version that
  failed is tried again only if it left the file and came back, and the file is read every second:
  it stays out for two and a half.
- It has no list of its models, and no health: a model that nobody has is asked for, and 404 is a
  sign of life.
- A base path whose asked-for version does not exist is only logged: the load times out.
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
    #: The period of its reading the file, and a reserve for what else it loads.
    stale_s = 10.0
    notice_s = 2.5

    def check_layout(self, shape: Shape, entry: Entry) -> str | None:
        """Want a model at the top or in a single numbered folder."""
        return refuse_versioned(shape, _is_model, _WANTED)

    def prepare(self, tree: Path, entry: Entry) -> bool:
        """Bring a SavedModel to the top of the tree, out of a numbered folder if need be.

        Raises:
            ServerFault: InvalidLayout; there is none.
        """
        return lift_version(tree, _is_model, _WANTED)

    def _is_alive(self, status: int) -> bool:
        return status in {200, 404}

    def _too_late(self, status: VersionStatus | None) -> str:
        said = super()._too_late(status)
        if status is not None:
            return said
        return (
            f"{said}: it must run with --model_config_file={self._file.name} and "
            "--model_config_file_poll_wait_seconds=1, and see the model folder where "
            f"--server-model-dir says ({self._served_dir})"
        )


def _is_model(name: str, _beside: frozenset[str]) -> bool:
    return name in _SAVED or name.endswith(".tflite")
