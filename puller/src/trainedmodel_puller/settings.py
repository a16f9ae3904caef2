"""Everything that can be set, with its unit, default and reason.

Flags and environment variables are declared in `__main__`; this is what they become.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainedmodel_puller.storage.settings import StorageSettings


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """Who this puller is in Kubernetes: what its report is named after.

    Attributes:
        service: Name of the parent (spec.inferenceService of its models).
        account_dir: Folder with the service account's `token` and `ca.crt`.
    """

    pod_name: str
    pod_uid: str
    namespace: str
    service: str
    account_dir: Path


@dataclass(frozen=True, slots=True)
class Settings:
    """What one puller was told.

    Attributes:
        config_dir: Mounted entries.
        model_dir: What the model server serves from.
        state_dir: The puller's own folder, on the same file system as `model_dir`.
        server: Kind of model server, or `auto`.
        server_url: Where it listens; None means where its kind does by default.
        server_model_dir: `model_dir` as the server sees it; None means the same.
        server_config: Configuration file of servers that take one.
        port: The puller's own HTTP port; 9081 belongs to the agent of KServe in the same pod.
        period_s: How often everything is looked at without being woken.
        max_downloads: Models being downloaded at once.
        max_connections: Connections to stores at once, over all models.
        max_loads: Loads at once; 0 means as many as the server bears.
        memory_budget: Bytes that the models may declare together; 0 means any.
        keep_versions: Replaced revisions of a model kept for a rollback.
        keep_bytes: Bytes of them, over all models.
        max_unpacked_bytes: Bytes that one archive may unpack to.
        volume_limit: Bytes that the volume may hold, whatever its disk has; 0 means any.
        volume_dir: Root of the volume, all of which counts against the limit; None means
            `model_dir` and `state_dir` alone.
        load_timeout_s: How long a load may take before it is reported as failed.
        stall_timeout_s: How long a store may send nothing.
        storage: What the storage back ends may do.
        identity: None outside Kubernetes: nothing is reported there.
        has_watch: Whether changes of `config_dir` wake the loop.
        ready_when: When `/readyz` turns good: `settled`, `all` or `server`.
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
        """What counts against the volume's limit."""
        return (self.model_dir, self.state_dir) if self.volume_dir is None else (self.volume_dir,)
