"""A model for Multi Model Server and TorchServe that multiplies by a number; served for tests."""

import json
import time
from pathlib import Path

_factor = None


def handle(data, context):
    global _factor  # noqa: PLW0603 - the servers' own way: one process for each model
    if _factor is None:
        folder = Path(context.system_properties.get("model_dir"))
        weights = json.loads((folder / "weights.json").read_text())
        time.sleep(weights.get("load_delay_s", 0))
        if weights.get("broken"):
            raise ValueError("these weights are broken on purpose")
        _factor = float(weights["k"])
    if data is None:
        return None
    return [json.dumps({"y": _factor * _input(row)}) for row in data]


def _input(row):
    body = row.get("body") or row.get("data")
    if isinstance(body, bytes | bytearray):
        body = json.loads(body.decode())
    return float(body["x"])
