"""Python environments of the model servers, installed once into the cache from pinned requirements.

A server's environment never mixes with the project's own (MLServer and Triton want other versions
of numpy). Its name carries a hash of the requirements file and the interpreter's version, so a
changed pin is a new environment; one that was not finished is made anew.
"""

import hashlib
import os
import platform
import shutil
import sys
from pathlib import Path

from trainedmodel_devkit.cache import cache_folder, locked
from trainedmodel_devkit.errors import BuildFailed, MissingTool
from trainedmodel_devkit.processes import run_to_end
from trainedmodel_devkit.progress import step

_FINISHED = ".finished"


def checkout() -> Path:
    """Return the root folder of the checkout that this package runs from.

    Raises:
        MissingTool: the package was installed elsewhere.
    """
    root = Path(__file__).resolve().parents[3]
    if not (root / "requirements").is_dir():
        raise MissingTool(
            "the development kit runs from a checkout only: make setup installs it from there"
        )
    return root


def ensure_environment(name: str, *, expected_s: float, with_dependencies: bool = True) -> Path:
    """Return the environment of `requirements/<name>.txt`, installed at first use."""
    requirements = checkout() / "requirements" / f"{name}.txt"
    content = (
        requirements.read_bytes() + platform.python_version().encode() + sys.base_prefix.encode()
    )
    target = cache_folder() / "environments" / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"
    if (target / _FINISHED).exists():
        return target
    with locked(f"environments/{target.name}"):
        if not (target / _FINISHED).exists():
            with step(f"installing {name}", expected_s):
                _install(requirements, target, with_dependencies)
    return target


def _install(requirements: Path, target: Path, with_dependencies: bool) -> None:
    # An environment cannot be renamed into place (its scripts name their interpreter by path), so
    # the last thing written is a mark, and what has no mark is thrown away.
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    options = ["--require-hashes", "-r", str(requirements)]
    if not with_dependencies:
        options.insert(0, "--no-deps")
    python = str(target / "bin" / "python")
    if uv := _uv():
        _run([uv, "venv", "--quiet", "--python", sys.executable, str(target)])
        _run([uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, *options])
    else:
        _run([sys.executable, "-m", "venv", str(target)])
        _run([python, "-m", "pip", "install", "--quiet", *options])
    (target / _FINISHED).touch()


def _uv() -> str | None:
    own = checkout() / ".tools" / "bin" / "uv"
    return str(own) if os.access(own, os.X_OK) else shutil.which("uv")


def _run(command: list[str]) -> None:
    result = run_to_end(command)
    if result.returncode != 0:
        raise BuildFailed(f"{' '.join(command)}:\n{result.stderr[-4000:]}")
