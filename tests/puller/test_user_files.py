"""Files of users that drivers read: whatever they hold, a tree is fitted or refused with words."""

from __future__ import annotations

import errno
import json
import os
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.puller.driver_builders import entry, server_settings
from trainedmodel_contract.modelreport import MAX_MESSAGE
from trainedmodel_puller.drivers.base import ModelServer
from trainedmodel_puller.drivers.factory import SERVER_KINDS, make_server
from trainedmodel_puller.drivers.mlserver import MLServer
from trainedmodel_puller.drivers.torchserve import TorchServe
from trainedmodel_puller.drivers.triton import Triton
from trainedmodel_puller.drivers.userfiles import MOST_BYTES
from trainedmodel_puller.drivers.vllm import VLLM
from trainedmodel_puller.errors import ServerFault, VolumeFault
from trainedmodel_puller.fetch.fetcher import Fetcher

#: A tree for each kind that is fine but for the one file that a driver reads in it.
READ = {
    "mlserver": ("model-settings.json", []),
    "triton": ("config.pbtxt", ["1/model.py"]),
    "torchserve": ("MAR-INF/MANIFEST.json", ["handler.py"]),
    "mms": ("MAR-INF/MANIFEST.json", ["handler.py"]),
    "vllm": ("adapter_config.json", ["adapter_model.bin"]),
    "sglang": ("adapter_config.json", ["adapter_model.bin"]),
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "parameters", "version", "model", "handler", "uri"])
            | st.text(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
contents = st.one_of(
    st.binary(max_size=200),
    json_values.map(lambda value: json.dumps(value).encode()),
    json_values.map(lambda value: b"\xef\xbb\xbf" + json.dumps(value).encode()),
    json_values.map(
        lambda value: json.dumps(value, ensure_ascii=False).encode("utf-16", "replace")
    ),
    st.integers(1, 100_000).map(lambda depth: b"[" * depth),
    st.integers(1, 3000).map(lambda depth: b'{"a":' * depth + b"1" + b"}" * depth),
    st.just(b'{"n": ' + b"9" * 5000 + b"}"),
    st.just(b'{"handler": "x", "model": {"handler": "\\ud800.py:h"}}'),
    st.just(b"x" * (MOST_BYTES + 1)),
)


def driver(kind: str) -> ModelServer:
    return make_server(kind, server_settings("http://127.0.0.1:1", folder=Path("/nowhere")))


def make_tree(root: Path, kind: str) -> Path:
    path, others = READ[kind]
    for name in (path, *others):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    for name in others:
        (root / name).write_bytes(b"x")
    return root / path


def fitted_or_refused(made: ModelServer, tree: Path) -> str | None:
    fault = None
    try:
        made.prepare(tree, entry("sklearn"))
    except ServerFault as raised:
        fault = raised
    if fault is None:
        return None
    assert fault.reason == "InvalidLayout"
    assert fault.message.isprintable()
    assert len(fault.message) <= MAX_MESSAGE
    return fault.message


@pytest.mark.parametrize("kind", READ)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(60))
@given(content=contents)
def test_whatever_is_in_the_file_is_never_a_fault_of_ours(
    kind: str, content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tree = tmp_path_factory.mktemp("tree")
    make_tree(tree, kind).write_bytes(content)
    fitted_or_refused(driver(kind), tree)


def _folder(path: Path) -> None:
    path.mkdir()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _link_out(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def _link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def _dangling(path: Path) -> None:
    path.symlink_to("not-there")


def _in_the_way(path: Path) -> None:
    path.write_bytes(b"{}")
    (path.parent / f".{path.name}.trainedmodel-new").mkdir()
    (path.parent / f".{path.name}.tmp").mkdir()


@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize(
    "put", [_folder, _pipe, _link_out, _link_to_itself, _dangling, _in_the_way]
)
def test_whatever_has_the_name_of_the_file_is_never_a_fault_of_ours(
    kind: str, put: object, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    put(make_tree(tree, kind))  # type: ignore[operator]
    fitted_or_refused(driver(kind), tree)
    assert Path("/etc/passwd").stat().st_size > 0


@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize("put", [_folder, _pipe, _link_out])
def test_a_refusal_names_the_file_that_is_none(kind: str, put: object, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    path = make_tree(tree, kind)
    put(path)  # type: ignore[operator]
    if kind == "triton" and put is not _link_out:
        return  # without its configuration the model may still be one
    why = fitted_or_refused(driver(kind), tree)
    assert why is not None
    assert path.name in why or path.parent.name in why


@pytest.mark.parametrize("kind", SERVER_KINDS)
def test_names_of_any_bytes_are_never_a_fault_of_ours(kind: str, tmp_path: Path) -> None:
    jitter = random.Random(3)
    known = ["1", "model.bst", "MAR-INF", "a.gguf", "saved_model.pb", "config.pbtxt", "configs"]
    for turn in range(40):
        tree = tmp_path / str(turn)
        tree.mkdir()
        for _ in range(jitter.randrange(6)):
            names = [
                os.fsencode(jitter.choice(known))
                if jitter.random() < 0.5
                else bytes(b for b in jitter.randbytes(8) if b not in b"/\0") or b"\xff"
                for _ in range(jitter.randint(1, 3))
            ]
            try:
                folder = os.path.join(os.fsencode(tree), *names[:-1])
                os.makedirs(folder, exist_ok=True)
                Path(os.fsdecode(os.path.join(folder, names[-1]))).write_bytes(b"\xff\xfe{")
            except OSError:
                continue  # a file where a folder is wanted
        fitted_or_refused(driver(kind), tree)


def test_a_latin_1_letter_in_a_comment_stays_byte_for_byte(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    config = tmp_path / "config.pbtxt"
    config.write_bytes(b'# Gr\xf6\xdfe\r\nname: "x"\r\nbackend: "python"\r\n')
    Triton(server_settings()).prepare(tmp_path, entry())
    assert config.read_bytes() == b'# Gr\xf6\xdfe\r\n\r\nbackend: "python"\r\n'


def test_settings_of_a_windows_editor_are_written_as_the_server_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "model-settings.json"
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_bytes('{"implementation": "x.Größe"}'.encode(encoding))
        MLServer(server_settings()).prepare(tmp_path, entry())
        assert json.loads(path.read_text("ascii"))["implementation"] == "x.Größe"


def test_a_replaced_file_never_writes_into_one_that_others_share(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    shared = tmp_path / "shared"
    shared.write_text("theirs")
    (tree / "model-settings.json").write_text("{}")
    (tree / ".model-settings.json.trainedmodel-new").hardlink_to(shared)
    (tree / ".model-settings.json.tmp").hardlink_to(shared)
    MLServer(server_settings()).prepare(tree, entry())
    assert shared.read_text() == "theirs"


class TestIdentitiesInATree:
    """A tree is one model, the one that it is served as."""

    def test_nested_settings_are_no_other_model(self, tmp_path: Path) -> None:
        (tmp_path / "model-settings.json").write_text('{"implementation": "x.Y"}')
        for folder in ("old", "old/older", ".hidden", "a/model-settings.json"):
            (tmp_path / folder).mkdir(parents=True)
            (tmp_path / folder / "model-settings.json").write_text('{"name": "other"}')
        (tmp_path / "old" / "model-settings.json.nested").write_text("kept")
        made = MLServer(server_settings())
        for _ in range(2):  # a kill may have come in between
            made.prepare(tmp_path, entry())
            found = [
                str(path.relative_to(tmp_path)) for path in tmp_path.rglob("model-settings.json")
            ]
            assert found == ["model-settings.json"]
        assert (tmp_path / "old" / "model-settings.json.nested").read_text() == "kept"

    def test_a_version_in_the_settings_is_taken_out(self, tmp_path: Path) -> None:
        path = tmp_path / "model-settings.json"
        settings = {"implementation": "x.Y", "parameters": {"uri": "./m", "version": "v3"}}
        path.write_text(json.dumps(settings))
        MLServer(server_settings()).prepare(tmp_path, entry())
        assert json.loads(path.read_text())["parameters"] == {"uri": "./m"}

    def test_the_configurations_beside_config_pbtxt_lose_their_name_too(
        self, tmp_path: Path
    ) -> None:
        for path in ("1/model.py", "configs/gpu.pbtxt"):
            (tmp_path / path).parent.mkdir()
            (tmp_path / path).write_text('name: "other"\nbackend: "python"\n')
        Triton(server_settings()).prepare(tmp_path, entry())
        assert (tmp_path / "configs" / "gpu.pbtxt").read_text() == '\nbackend: "python"\n'

    @pytest.mark.parametrize("field", ["handler", "serializedFile", "modelFile"])
    @pytest.mark.parametrize("path", ["../b/x.py", "/models/b/x.py"])
    def test_a_manifest_names_no_file_of_another_model(
        self, field: str, path: str, tmp_path: Path
    ) -> None:
        (tmp_path / "MAR-INF").mkdir()
        (tmp_path / "handler.py").touch()
        model = {"handler": "handler.py", field: path}
        (tmp_path / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"model": model}))
        with pytest.raises(ServerFault, match="outside of the source"):
            TorchServe(server_settings()).prepare(tmp_path, entry())

    def test_an_adapters_configuration_is_never_rewritten(self, tmp_path: Path) -> None:
        (tmp_path / "adapter_config.json").write_bytes(b'\xef\xbb\xbf{"name": "other"}')
        (tmp_path / "adapter_model.bin").touch()
        assert VLLM(server_settings()).prepare(tmp_path, entry()) is False


def test_an_ensemble_gets_the_empty_version_folder_that_its_source_lost(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text('platform: "ensemble"\n')
    made = Triton(server_settings())
    for _ in range(2):
        made.prepare(tmp_path, entry())
        assert (tmp_path / "1").is_dir()


def test_what_is_no_ensemble_gets_no_version_folder(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text('backend: "onnxruntime"\n')
    with pytest.raises(ServerFault, match=r"found: config\.pbtxt"):
        Triton(server_settings()).prepare(tmp_path, entry())
    assert not (tmp_path / "1").exists()


def test_a_full_volume_while_a_tree_is_fitted_is_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users' files are the driver's to judge; what the volume refuses is the volume's fault."""
    (tmp_path / "model.joblib").touch()
    made = driver("mlserver")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    fetcher = object.__new__(Fetcher)
    fetcher._server = made
    job = SimpleNamespace(entry=entry("sklearn"))
    with pytest.raises(VolumeFault) as caught:
        fetcher._fit(job, tmp_path, {})  # type: ignore[arg-type]
    assert caught.value.reason == "InsufficientDisk"
