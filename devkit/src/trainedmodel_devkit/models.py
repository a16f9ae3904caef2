"""Real tiny models in the layouts that the servers read, and the way to ask them.

A model folder's name is the model's name: no file inside repeats it, so one tree can be published
under many names.
"""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

from trainedmodel_devkit.cache import building, cache_folder, locked
from trainedmodel_devkit.errors import BuildFailed, PredictionFailed
from trainedmodel_devkit.progress import step
from trainedmodel_devkit.servers.mlserver import MLServer

_SERVED = Path(__file__).parent / "served"

IRIS_SETOSA = (5.1, 3.5, 1.4, 0.2)
"""A flower that variant 1 of iris says is class 0, variant 2 class 1, variant 3 class 2."""
WINE_FIRST = (14.23, 1.71, 2.43, 15.6, 127.0, 2.8, 3.06, 0.28, 2.29, 5.64, 1.04, 3.92, 1065.0)
"""A wine that variant 1 of wine says is class 0, variant 2 class 1, variant 3 class 2."""


def write_iris(folder: Path, variant: int = 1) -> Path:
    """Write an iris classifier (logistic regression) for MLServer into `folder`."""
    return _write_sklearn(folder, "iris", variant)


def write_wine(folder: Path, variant: int = 1) -> Path:
    """Write a wine classifier (random forest) for MLServer into `folder`."""
    return _write_sklearn(folder, "wine", variant)


def train_all() -> None:
    """Train the variants that the demo shows, so that nothing has to be trained later."""
    for dataset in ("iris", "wine"):
        for variant in (1, 2):
            _trained(dataset, variant)


def write_scale_mlserver(
    folder: Path, k: float, *, broken: bool = False, load_delay_s: float = 0
) -> Path:
    """Write a model for MLServer that multiplies by `k`; `broken` makes its load fail."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_SERVED / "mlserver_scale" / "scale_runtime.py", folder / "scale_runtime.py")
    _write_weights(folder, k, broken, load_delay_s)
    _write_json(folder / "model-settings.json", {"implementation": "scale_runtime.Scale"})
    return folder


def write_scale_triton(
    folder: Path, k: float, *, broken: bool = False, load_delay_s: float = 0
) -> Path:
    """Write a model for Triton that multiplies by `k`; `broken` makes its load fail."""
    version = folder / "1"
    version.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_SERVED / "triton_scale" / "config.pbtxt", folder / "config.pbtxt")
    shutil.copyfile(_SERVED / "triton_scale" / "model.py", version / "model.py")
    _write_weights(version, k, broken, load_delay_s)
    return folder


async def predict(
    server_url: str,
    model: str,
    inputs: Sequence[float] | Sequence[Sequence[float]],
    *,
    session: aiohttp.ClientSession | None = None,
    timeout_s: float = 30,
) -> list[float]:
    """Ask a model by the v2 inference protocol and return its first output.

    A flat sequence is one vector (the scale models), a nested one a table with a row for each
    example (scikit-learn).

    Raises:
        PredictionFailed: the server answered with an error.
    """
    if session is None:
        async with aiohttp.ClientSession() as own:
            return await predict(server_url, model, inputs, session=own, timeout_s=timeout_s)
    rows = [list(row) for row in inputs if isinstance(row, Sequence)]
    shape = [len(rows), len(rows[0])] if rows else [len(inputs)]
    values = [value for row in rows for value in row] if rows else list(inputs)
    body = {"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": values}]}
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with session.post(
        f"{server_url}/v2/models/{model}/infer", json=body, timeout=timeout
    ) as answer:
        text = await answer.text()
        if not answer.ok:
            raise PredictionFailed(answer.status, text[:500])
        return list(json.loads(text)["outputs"][0]["data"])


def _write_sklearn(folder: Path, dataset: str, variant: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_trained(dataset, variant), folder / "model.joblib")
    settings = {
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": "./model.joblib"},
    }
    _write_json(folder / "model-settings.json", settings)
    return folder


def _trained(dataset: str, variant: int) -> Path:
    """Return the trained model, from the cache if this script has trained it before."""
    server = MLServer()
    server.ensure()
    script = _SERVED / "train.py"
    key = hashlib.sha256(script.read_bytes() + str(server.python).encode()).hexdigest()[:12]
    target = cache_folder() / "models" / f"{dataset}-{variant}-{key}.joblib"
    if target.exists():
        return target
    with locked(f"models/{target.name}"):
        if not target.exists():
            with step(f"training {dataset}, variant {variant}", 4), building(target) as draft:
                command = [str(word) for word in (server.python, script, dataset, variant, draft)]
                result = subprocess.run(command, capture_output=True, text=True, check=False)
                if result.returncode != 0:
                    raise BuildFailed(f"training {dataset}:\n{result.stderr[-4000:]}")
    return target


def _write_weights(folder: Path, k: float, broken: bool, load_delay_s: float) -> None:
    _write_json(folder / "weights.json", {"k": k, "broken": broken, "load_delay_s": load_delay_s})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
