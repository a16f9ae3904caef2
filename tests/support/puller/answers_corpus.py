"""Answers that a model server might give: what each really says, and what none should.

The first are of real servers. `NONSENSE` grew out of answers that once came through as an error of
ours; it is kept so that they stay found.
"""

from __future__ import annotations

import json
from typing import Any

#: By kind: documents of the right shape, to be taken apart.
RIGHT: dict[str, list[Any]] = {
    "triton": [[{"name": "m", "version": "1", "state": "READY"}], {"error": "no"}],
    "mlserver": [[{"name": "m", "state": "READY", "reason": ""}], {"error": "no"}],
    "kserve": [{"models": ["m", "n"]}, [{"name": "m", "state": "READY"}]],
    "torchserve": [
        {"models": [{"modelName": "m", "modelUrl": "/models/m/r"}], "nextPageToken": "2"},
        [
            {
                "modelName": "m",
                "modelVersion": "r",
                "modelUrl": "/models/m/r",
                "workers": [{"status": "READY"}],
                "jobQueueStatus": {"pendingRequests": 0},
            }
        ],
    ],
    "mms": [
        {"models": [{"modelName": "m", "modelUrl": "m/r"}], "nextPageToken": "2"},
        [
            {
                "modelUrl": "m/old",
                "minWorkers": 1,
                "batchSize": 1,
                "workers": [{"status": "READY"}],
            }
        ],
    ],
    "llama": [
        {
            "data": [
                {"id": "m", "status": {"value": "loaded", "args": ["--port", "1"]}},
                {"id": "m..probe", "status": {"value": "unloaded", "failed": True, "exit_code": 1}},
            ]
        },
        {"max_instances": 4},
    ],
    "vllm": [
        {
            "data": [
                {"id": "base", "root": "/base", "parent": None},
                {"id": "m", "root": "/models/m/old", "parent": "base"},
                {"id": "m..probe-1", "root": "/models/m/r", "parent": "base"},
            ]
        }
    ],
    "sglang": [
        {"data": [{"id": "m", "root": "/models/m/r", "parent": "base"}], "max_loaded_loras": 4},
        {"error_message": "not enabled", "success": False},
    ],
    "tfs": [
        {
            "model_version_status": [
                {
                    "version": "1",
                    "state": "AVAILABLE",
                    "status": {"error_code": "OK", "error_message": ""},
                }
            ]
        }
    ],
    "ovms": [
        {
            "m": {
                "model_version_status": [
                    {"version": "1", "state": "LOADING", "status": {"error_code": "UNKNOWN"}}
                ]
            }
        }
    ],
}

#: What is put in the place of a part of a document.
ODD: list[Any] = [
    *(None, True, 0, -1, 10**30, float("inf"), float("nan"), "", "x", [], {}, [[]], [1], [None]),
    *("\ud800", "../../x", "m/../n", "m?x=1", "\x00", "\x1b[31m", "a b", "%zz", "x" * 5000),
    {"name": []},
    {"name": {}, "state": {}},
    [{"name": "m", "state": ["READY"]}],
]

NONSENSE: list[bytes] = [
    b"",
    b"null",
    b"{",
    b"[" * 100_000,
    b'{"error":' * 50_000,
    b'{"a":' * 900 + b"1" + b"}" * 900,
    b"\xff\xfe\x00",
    b"\xef\xbb\xbf[]",
    b"Infinity",
    b'{"max_instances": Infinity, "max_loaded_loras": -Infinity}',
    b'{"error": {"message": {"message": []}}}',
    b'{"error_message": "\\ud800"}',
    b'{"error": "\\u001b[31mred\\u0007"}',
    b'{"data": [{"id": "m", "status": {"value": []}}]}',
    b'{"data": "x"}',
    b'{"models": [{"modelName": "m", "modelUrl": "m/r"}], "nextPageToken": {}}',
    b'{"models": ["\\ud800", "../x", 1, null, {}]}',
    b'[{"modelUrl": "m/r", "workers": [1]}]',
    b'[{"modelUrl": [], "workers": [{"status": []}], "minWorkers": "x"}]',
    b'{"model_version_status": [{"version": 1e999, "state": [], "status": {}}]}',
    b'{"model_version_status": [{"version": "1", "state": "END", "status": '
    b'{"error_code": "X", "error_message": "\\ud800"}}]}',
    b'{"m": "model_version_status"}',
    b'"m"',
    b'vllm:lora_requests_info{running_lora_adapters="m"} soon\n',
    b'vllm:lora_requests_info{running_lora_adapters="m"} nan\n' * 3,
    b"Traceback (most recent call last):\n" * 1000,
    json.dumps("9" * 10_000).encode(),
    b"9" * 10_000,
]
