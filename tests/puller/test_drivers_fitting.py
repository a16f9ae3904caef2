"""What all drivers promise of fitting a tree: it says whether it changed anything, and is done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.puller.driver_builders import entry, server_settings
from trainedmodel_puller.drivers.base import ModelServer
from trainedmodel_puller.drivers.factory import SERVER_KINDS, make_server
from trainedmodel_puller.volume.tree_links import stat_files

_ADAPTER = {"adapter_config.json": "{}", "adapter_model.safetensors": "x"}
#: Trees by what fitting has to do to them: nothing, or something.
TREES: dict[str, list[dict[str, str]]] = {
    "mlserver": [
        {"model-settings.json": json.dumps({"name": "served", "implementation": "x.Y"})},
        {"model.joblib": "x"},
    ],
    "triton": [
        {"1/model.onnx": "x"},
        {"1/model.onnx": "x", "config.pbtxt": 'backend: "onnx"\n'},
        {"1/model.onnx": "x", "config.pbtxt": 'name: "other"\nbackend: "onnx"\n'},
    ],
    "kserve": [{"model.joblib": "x"}],
    "torchserve": [{"handler.py": "", "model.pt": "x"}],
    "mms": [{"handler.py": "", "model.pt": "x"}],
    "llama": [{"model.gguf": "x"}, {"tiny-q4.gguf": "x"}],
    "vllm": [_ADAPTER],
    "sglang": [_ADAPTER],
    "tfs": [{"saved_model.pb": "x"}, {"1/saved_model.pb": "x", "1/variables/variables.index": "x"}],
    "ovms": [{"model.onnx": "x"}, {"1/model.xml": "x", "1/model.bin": "x"}],
    "none": [{"anything": "x"}],
}
CASES = [
    pytest.param(kind, tree, id=f"{kind}-{number}")
    for kind in SERVER_KINDS
    for number, tree in enumerate(TREES[kind])
]


def make_tree(root: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def driver(kind: str, root: Path) -> ModelServer:
    return make_server(kind, server_settings("http://127.0.0.1:1", folder=root))


@pytest.mark.parametrize(("kind", "files"), CASES)
def test_a_driver_that_says_it_changed_nothing_has_changed_nothing(
    kind: str, files: dict[str, str], tmp_path: Path
) -> None:
    """Whoever believes it does not look at the files again, and shares them with other models."""
    tree = make_tree(tmp_path / "tree", files)
    before = stat_files(tree)
    has_changed = driver(kind, tmp_path).prepare(tree, entry("sklearn"))
    assert has_changed or stat_files(tree) == before


@pytest.mark.parametrize(("kind", "files"), CASES)
def test_fitting_a_fitted_tree_ends_the_same_way(
    kind: str, files: dict[str, str], tmp_path: Path
) -> None:
    tree = make_tree(tmp_path / "tree", files)
    made = driver(kind, tmp_path)
    made.prepare(tree, entry("sklearn"))
    once = {path: (tree / path).read_bytes() for path in stat_files(tree)}
    made.prepare(tree, entry("sklearn"))
    assert {path: (tree / path).read_bytes() for path in stat_files(tree)} == once


@pytest.mark.parametrize("kind", ["triton", "llama", "tfs", "ovms", "vllm", "none"])
def test_most_trees_need_nothing_and_are_not_looked_at_twice(kind: str, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", TREES[kind][0])
    assert driver(kind, tmp_path).prepare(tree, entry()) is False
