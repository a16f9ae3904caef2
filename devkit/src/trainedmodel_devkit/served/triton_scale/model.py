"""A model for Triton's Python backend that multiplies its input by a number; served for tests."""

import json
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as backend


class TritonPythonModel:
    def initialize(self, args):
        folder = Path(args["model_repository"]) / args["model_version"]
        weights = json.loads((folder / "weights.json").read_text())
        time.sleep(weights.get("load_delay_s", 0))
        if weights.get("broken"):
            raise ValueError("these weights are broken on purpose")
        self._factor = float(weights["k"])

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        x = backend.get_input_tensor_by_name(request, "x").as_numpy()
        y = backend.Tensor("y", (x * self._factor).astype(np.float32))
        return backend.InferenceResponse([y])
