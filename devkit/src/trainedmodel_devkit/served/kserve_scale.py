"""A KServe model server over models that multiply by a number; served for tests.

`kserve_scale.py MODEL_DIR PORT`. KServe parses the command line while it is imported, and binds
every interface: both are put right here.
"""

import json
import sys
import time
from pathlib import Path

import uvicorn

MODEL_DIR, PORT = Path(sys.argv[1]), int(sys.argv[2])
sys.argv = sys.argv[:1]

from kserve import InferOutput, InferResponse, Model, ModelRepository, ModelServer  # noqa: E402


class LocalConfig(uvicorn.Config):
    def __init__(self, *args, **settings):
        super().__init__(*args, **{**settings, "host": "127.0.0.1"})


class Scale(Model):
    def load(self):
        weights = json.loads((MODEL_DIR / self.name / "weights.json").read_text())
        time.sleep(weights.get("load_delay_s", 0))
        if weights.get("broken"):
            raise ValueError("these weights are broken on purpose")
        self._factor = float(weights["k"])
        self.ready = True
        return True

    def predict(self, payload, headers=None, response_headers=None):
        values = [self._factor * value for value in payload.inputs[0].data]
        output = InferOutput("y", [len(values)], "FP32", data=values)
        return InferResponse(payload.id or "unnamed", self.name, [output])


class Repository(ModelRepository):
    def load(self, name):
        return self.load_model(name)

    def load_model(self, name):
        model = Scale(name)
        model.load()
        self.update(model)
        return model.ready


if __name__ == "__main__":
    uvicorn.Config = LocalConfig
    repository = Repository(str(MODEL_DIR))
    ModelServer(registered_models=repository, http_port=PORT, enable_grpc=False).start([])
