"""Milliseconds of one plan for 10,000 models, as JSON: the best of several, by situation."""

from __future__ import annotations

import json
import time

from trainedmodel_contract.entry import Entry
from trainedmodel_puller.core.plan import plan
from trainedmodel_puller.core.state import (
    DesiredState,
    DiskModel,
    Limits,
    ObservedState,
    ServerState,
    ServerView,
    Tree,
    WantedModel,
)

COUNT = 10_000


def main() -> None:
    """Measure."""
    names = [f"m{i}" for i in range(COUNT)]
    entries = {name: Entry(name=name, storage_uri=f"s3://b/{name}", revision="1") for name in names}
    desired = DesiredState(
        {name: WantedModel(name, entries[name]) for name in names}, is_known=True
    )
    held = DiskModel(trees={"1": Tree()}, published=frozenset({"1"}), loaded="1")
    kept = DiskModel(trees={"0": Tree(), "1": Tree()}, published=frozenset({"1"}), loaded="1")
    ready = ServerView(True, dict.fromkeys(names, ServerState.READY))
    cases = {
        "all settled": ObservedState(dict.fromkeys(names, held), ready),
        "none there yet": ObservedState({}, ServerView(True)),
        "server restarted": ObservedState(dict.fromkeys(names, held), ServerView(True)),
        "each with a kept revision": ObservedState(dict.fromkeys(names, kept), ready),
    }
    found = {}
    for case, observed in cases.items():
        times = []
        for _ in range(7):
            began = time.perf_counter()
            plan(desired, observed, Limits(), 1000.0)
            times.append(time.perf_counter() - began)
        found[case] = sorted(times)[len(times) // 2] * 1000
    print(json.dumps(found))


if __name__ == "__main__":
    main()
