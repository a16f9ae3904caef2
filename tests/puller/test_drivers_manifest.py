"""Manifests of Multi Model Server and TorchServe: written, kept, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.puller.driver_builders import entry, server_settings
from trainedmodel_puller.drivers.mms import MultiModelServer
from trainedmodel_puller.drivers.torchserve import TorchServe
from trainedmodel_puller.errors import ServerFault

MANIFEST = "MAR-INF/MANIFEST.json"


def manifest_of(tree: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((tree / MANIFEST).read_text())
    return document


def write_manifest(tree: Path, content: str) -> None:
    (tree / MANIFEST).parent.mkdir()
    (tree / MANIFEST).write_text(content)


class TestManifests:
    def test_name_and_version_become_those_of_the_entry_and_all_else_stays(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "handler.py").write_text("")
        model = {"modelName": "other", "modelVersion": "1.0", "handler": "handler.py:handle"}
        write_manifest(tmp_path, json.dumps({"runtime": "python", "x": [1], "model": model}))
        for _ in range(2):  # a kill may have come in between
            TorchServe(server_settings()).prepare(tmp_path, entry(revision="r-7"))
        assert manifest_of(tmp_path) == {
            "runtime": "python",
            "x": [1],
            "model": {**model, "modelName": "served", "modelVersion": "r-7"},
        }

    def test_a_manifest_that_other_names_share_is_not_written_into(self, tmp_path: Path) -> None:
        (tmp_path / "tree").mkdir()
        write_manifest(tmp_path / "tree", '{"model": {"handler": "image_classifier"}}')
        shared = tmp_path / "shared"
        shared.hardlink_to(tmp_path / "tree" / MANIFEST)
        before = shared.read_text()
        MultiModelServer(server_settings()).prepare(tmp_path / "tree", entry())
        assert shared.read_text() == before
        assert manifest_of(tmp_path / "tree")["model"]["modelName"] == "served"

    @pytest.mark.parametrize(
        ("files", "parameters", "model"),
        [
            (["handler.py"], None, {"handler": "handler.py"}),
            (["handler.py", "w.pt"], None, {"handler": "handler.py", "serializedFile": "w.pt"}),
            (
                ["net.pth", "index_to_name.json"],
                {"handler": "image_classifier"},
                {"handler": "image_classifier", "serializedFile": "net.pth"},
            ),
        ],
    )
    def test_one_is_made_where_nothing_must_be_guessed(
        self,
        tmp_path: Path,
        files: list[str],
        parameters: dict[str, str] | None,
        model: dict[str, str],
    ) -> None:
        for file in files:
            (tmp_path / file).write_bytes(b"")
        TorchServe(server_settings()).prepare(tmp_path, entry(parameters=parameters))
        assert manifest_of(tmp_path) == {
            "runtime": "python",
            "model": {**model, "modelName": "served", "modelVersion": "r"},
        }

    @pytest.mark.parametrize(
        ("files", "word"),
        [
            (["model.pt"], r"no handler\.py at its top"),
            (["handler.py", "a.pt", "b.bin"], r"found: a\.pt, b\.bin"),
        ],
    )
    def test_a_layout_that_cannot_be_registered_says_what_is_missing(
        self, tmp_path: Path, files: list[str], word: str
    ) -> None:
        for file in files:
            (tmp_path / file).write_bytes(b"")
        with pytest.raises(ServerFault, match=word) as caught:
            MultiModelServer(server_settings()).prepare(tmp_path, entry())
        assert caught.value.reason == "InvalidLayout"

    @pytest.mark.parametrize(
        ("content", "word"),
        [
            ("{", "not JSON"),
            ("[]", "JSON object"),
            ("{}", r"model\.handler"),
            ('{"model": []}', r"model\.handler"),
            ('{"model": {"handler": "gone.py:handle"}}', r"gone\.py"),
        ],
    )
    def test_a_manifest_that_is_none_is_named(
        self, tmp_path: Path, content: str, word: str
    ) -> None:
        write_manifest(tmp_path, content)
        with pytest.raises(ServerFault, match=word) as caught:
            TorchServe(server_settings()).prepare(tmp_path, entry())
        assert caught.value.reason == "InvalidLayout"
