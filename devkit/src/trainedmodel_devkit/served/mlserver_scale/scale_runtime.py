"""A model for MLServer that multiplies its input by a number; served for tests."""

import asyncio
import json
from pathlib import Path

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import get_model_uri


class Scale(MLModel):
    async def load(self) -> bool:
        folder = Path(await get_model_uri(self.settings))
        weights = json.loads((folder / "weights.json").read_text())
        await asyncio.sleep(weights.get("load_delay_s", 0))
        if weights.get("broken"):
            raise ValueError("these weights are broken on purpose")
        self._factor = float(weights["k"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = NumpyCodec.decode_input(payload.inputs[0])
        y = NumpyCodec.encode_output("y", x * self._factor)
        return InferenceResponse(model_name=self.name, outputs=[y])
