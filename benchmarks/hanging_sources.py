"""More than twenty sources that hang, each in its own way: what everybody else notices of them.

    python benchmarks/hanging_sources.py

One real puller in namespaces of its own: DNS that never answers (http and S3), connections, TLS
handshakes, headers, bodies and listings that hang or never end, redirects, mounted claims, a token
service, a hub. Beside them small models are added one by one.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.puller import hanging_sources


def main() -> int:
    """Measure, print, and say whether a limit was missed."""
    seen = hanging_sources.measure()
    rows = [
        ("a model of 1 MiB is Loaded, slowest", max(seen.loaded), 1.0),
        ("a model of 1 MiB is Loaded, median", statistics.median(seen.loaded), 1.0),
        ("/healthz, slowest", seen.healthz, 0.1),
        ("/status, slowest", seen.status, 1.0),
        ("from SIGTERM to the end", seen.ended, 5.0),
    ]
    table = Table(title=f"{seen.hanging} sources that hang")
    for column in ("what", "s", "limit"):
        table.add_column(column)
    for what, seconds, limit in rows:
        table.add_row(what, f"{seconds:.3f}", f"{limit:.1f}")
    Console().print(table)
    print(f"calls left behind at the end: {seen.left_behind:.0f}")
    return int(any(seconds > limit for _, seconds, limit in rows))


if __name__ == "__main__":
    sys.exit(main())
