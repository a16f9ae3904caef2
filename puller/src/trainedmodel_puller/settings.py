"""The settings of one puller.

`cli.flags` declares the flags and environment variables that they are made from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainedmodel_puller.storage.settings import StorageSettings


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """The pod of this puller; its report has the pod's name.

    Attributes:
        service: Name of the service (spec.inferenceService of its models).
        account_dir: Folder with the service account's `token` and `ca.crt`.
    """

    pod_name: str
    pod_uid: str
    namespace: str
    service: str
    account_dir: Path


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one puller; the help of each flag in `cli.flags` documents its field.

    Attributes:
        port: The puller's own port; 9081 belongs to the agent of KServe in the same pod.
        storage: Settings of the storage back ends.
        identity: None outside Kubernetes: no report is written there.
    """

    config_dir: Path
    model_dir: Path
    state_dir: Path
    server: str
    server_url: str | None
    port: int
    period_s: float
    max_downloads: int
    max_connections: int
    max_loads: int
    load_timeout_s: float
    stall_timeout_s: float
    storage: StorageSettings
    identity: PodIdentity | None
    has_watch: bool = True
    memory_budget: int = 0
    keep_versions: int = 1
    keep_bytes: int = 10 * 2**30
    max_unpacked_bytes: int = 2**40
    volume_limit: int = 0
    volume_dir: Path | None = None
    server_model_dir: Path | None = None
    server_config: Path | None = None
    ready_when: str = "settled"

    @property
    def limited_folders(self) -> tuple[Path, ...]:
        """Folders that count against the volume's limit."""
        return (self.model_dir, self.state_dir) if self.volume_dir is None else (self.volume_dir,)
