"""Settings of a puller that runs inside a test's process."""

from __future__ import annotations

from pathlib import Path

from trainedmodel_puller.settings import Settings
from trainedmodel_puller.storage.settings import StorageSettings


def settings(root: Path, port: int, *, has_watch: bool = True) -> Settings:
    """Return settings with all folders below `root`, for a server that is not asked."""
    return Settings(
        config_dir=root / "config",
        model_dir=root / "volume" / "models",
        state_dir=root / "volume" / "state",
        server="none",
        server_url="",
        port=port,
        period_s=0.2,
        max_downloads=4,
        max_connections=8,
        max_loads=0,
        load_timeout_s=10,
        stall_timeout_s=5,
        storage=StorageSettings(file_roots=(root / "source",)),
        identity=None,
        has_watch=has_watch,
    )
