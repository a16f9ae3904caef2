"""The status of model versions, in the format of TensorFlow Serving and OpenVINO Model Server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainedmodel_puller.core.state import ServerState
from trainedmodel_puller.drivers.client import as_list


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """The status of one version: `AVAILABLE`, `LOADING`, `END`, ..., with its error."""

    state: str
    error_code: str
    message: str

    @property
    def is_available(self) -> bool:
        """Whether it serves."""
        return self.state == "AVAILABLE"

    @property
    def has_failed(self) -> bool:
        """Whether its load failed."""
        return not self.is_available and self.error_code not in {"", "OK", "0"}

    @property
    def is_gone(self) -> bool:
        """Whether the server has unloaded it."""
        return self.state == "END"


Statuses = Mapping[int, VersionStatus]


def read_statuses(document: Any) -> Statuses:
    """Read `model_version_status`, as both servers write it; `client.JsonShape` has the errors."""
    return {
        int(row["version"]): VersionStatus(
            str(row["state"]),
            str(row.get("status", {}).get("error_code", "")),
            str(row.get("status", {}).get("error_message", "")),
        )
        for row in as_list(document["model_version_status"])
    }


def state_of(statuses: Statuses) -> ServerState:
    """Return the state of a name from the states of all its versions."""
    said = {status.state for status in statuses.values() if not status.has_failed}
    if "AVAILABLE" in said:
        return ServerState.READY
    if said & {"START", "LOADING"}:
        return ServerState.LOADING
    return ServerState.UNLOADING if "UNLOADING" in said else ServerState.ABSENT
