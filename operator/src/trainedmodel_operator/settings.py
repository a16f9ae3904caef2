"""Settings: what can be said on the command line, with units, defaults and the reasons for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LogFormat = Literal["json", "console"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How one operator runs.

    Attributes:
        namespaces: Exact names of the namespaces to serve; none: all of them.
        metrics_port: Where Prometheus reads the metrics; 0: nowhere.
        health_port: Where the kubelet asks whether the process is alive; 0: nowhere.
        log_format: JSON for machines (one object a line), or text for people.
        log_level: The least level that is written.
        resync_s: Seconds between two looks at everything. 60 is how long an event that was lost, or
            an edit by hand, may go unnoticed; a resync of 10,000 models costs the API server about
            half a second.
    """

    namespaces: tuple[str, ...] = ()
    metrics_port: int = 9190
    health_port: int = 8080
    log_format: LogFormat = "json"
    log_level: str = "info"
    resync_s: float = 60.0
