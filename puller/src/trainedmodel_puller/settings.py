"""The settings of one puller, with units.

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
    """Settings of one puller.

    Attributes:
        config_dir: Folder of the mounted entries.
        model_dir: Folder that the model server serves from.
        state_dir: The puller's own folder, on the same file system as `model_dir`.
        server: Kind of model server, or `auto`.
        server_url: URL of the server; None means the default address of its kind.
        server_model_dir: `model_dir` as the server sees it; None means the same.
        server_config: Configuration file of servers that take one.
        port: The puller's own HTTP port; 9081 belongs to the agent of KServe in the same pod.
        period_s: Seconds between two passes that no event triggers.
        max_downloads: Concurrent downloads of models.
        max_connections: Concurrent connections to stores, over all models.
        max_loads: Concurrent loads; 0 means the limit of the server's kind.
        memory_budget: Bytes that all models may declare; 0 means no limit.
        keep_versions: Replaced revisions kept for each model, for a rollback.
        keep_bytes: Bytes of the kept revisions, over all models.
        max_unpacked_bytes: Bytes that one archive may unpack to.
        volume_limit: Bytes that the volume may hold, independent of its disk; 0 means no limit.
        volume_dir: Root of the volume, all of which counts against the limit; None means
            `model_dir` and `state_dir` alone.
        load_timeout_s: Seconds until a load is reported as failed.
        stall_timeout_s: Seconds without data from a store until a transfer fails.
        storage: Settings of the storage back ends.
        identity: None outside Kubernetes: no report is written there.
        has_watch: Whether changes of `config_dir` wake the loop.
        ready_when: Condition for `/readyz`: `settled`, `all` or `server`.
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
