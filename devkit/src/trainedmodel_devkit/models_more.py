"""Real tiny models for the servers that do not speak the v2 protocol, and KServe's.

As in `models`, no file repeats the folder's name.
"""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

from trainedmodel_devkit.cache import building, cache_folder, locked
from trainedmodel_devkit.errors import BuildFailed
from trainedmodel_devkit.progress import step
from trainedmodel_devkit.servers.llama import Llama

_SERVED = Path(__file__).parent / "served"


def write_scale_java(
    folder: Path, k: float, *, broken: bool = False, load_delay_s: float = 0, bare: bool = False
) -> Path:
    """Write a model for MMS and TorchServe that multiplies by `k`.

    Args:
        folder: Where.
        k: Factor.
        broken: Its load fails.
        load_delay_s: How long its load takes.
        bare: Without a manifest, which the puller then makes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_SERVED / "java_scale" / "handler.py", folder / "handler.py")
    _write_weights(folder, k, broken, load_delay_s)
    if not bare:
        manifest = folder / "MAR-INF" / "MANIFEST.json"
        manifest.parent.mkdir(exist_ok=True)
        model = {"modelName": "scale", "modelVersion": "1.0", "handler": "handler.py:handle"}
        manifest.write_text(json.dumps({"runtime": "python", "model": model}, indent=2) + "\n")
    return folder


def write_scale_kserve(
    folder: Path, k: float, *, broken: bool = False, load_delay_s: float = 0
) -> Path:
    """Write what the KServe server of the tests reads: a factor."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_weights(folder, k, broken, load_delay_s)
    return folder


def write_gguf(folder: Path, seed: int, *, broken: bool = False) -> Path:
    """Write a random llama of 120 KB whose words depend on the seed; `broken` cuts the file off."""
    folder.mkdir(parents=True, exist_ok=True)
    content = _gguf(seed).read_bytes()
    (folder / f"tiny-{seed}.gguf").write_bytes(content[: len(content) // 2] if broken else content)
    return folder


def _gguf(seed: int) -> Path:
    """Return the model file, from the cache if this script has written it before."""
    server = Llama()
    server.ensure()
    script = _SERVED / "write_gguf.py"
    key = hashlib.sha256(script.read_bytes() + str(server.python).encode()).hexdigest()[:12]
    target = cache_folder() / "models" / f"tiny-{seed}-{key}.gguf"
    if target.exists():
        return target
    with locked(f"models/{target.name}"):
        if not target.exists():
            with step(f"writing a llama, seed {seed}", 1), building(target) as draft:
                command = [str(word) for word in (server.python, script, draft, seed)]
                result = subprocess.run(command, capture_output=True, text=True, check=False)
                if result.returncode != 0:
                    raise BuildFailed(f"writing a llama:\n{result.stderr[-4000:]}")
    return target


def _write_weights(folder: Path, k: float, broken: bool, load_delay_s: float) -> None:
    weights = {"k": k, "broken": broken, "load_delay_s": load_delay_s}
    (folder / "weights.json").write_text(json.dumps(weights, indent=2, sort_keys=True) + "\n")
