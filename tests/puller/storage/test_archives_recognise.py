from __future__ import annotations

import bz2
import gzip
import os
import pickle
import random
from pathlib import Path

import pytest
from backports import zstd
from puller.storage.test_archives import KINDS, file, folder, pack, tar_bytes, zip_bytes
from trainedmodel_contract.reasons import Reason
from trainedmodel_puller.errors import VolumeFault
from trainedmodel_puller.storage.archives import ArchiveKind, recognise


def _recognise(tmp_path: Path, data: bytes) -> ArchiveKind | None:
    path = tmp_path / "model.tar.gz"  # the name says nothing
    path.write_bytes(data)
    return recognise(path)


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_is_known_whatever_its_name(kind: ArchiveKind, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(pack(kind, [file("1/model.onnx")]))
    assert recognise(path) is kind


PICKLE = pickle.dumps({"weights": list(range(10_000))})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"P",
        PICKLE,
        gzip.compress(PICKLE),
        gzip.compress(b""),
        gzip.compress(PICKLE)[:100],
        b"\x1f\x8b" + bytes(1000),
        zstd.compress(PICKLE),
        b"\x28\xb5\x2f\xfd" + b"x" * 1000,
        bz2.compress(tar_bytes([file("a")])),
        bytes(10_240),
        tar_bytes([file("a")])[:511],
        tar_bytes([file("a")]).replace(b"000644", b"000645", 1),
        gzip.compress(gzip.compress(tar_bytes([file("a")]))),
        b"TFL3" + zip_bytes([file("labels.txt")]),
    ],
    ids=range(15),
)
def test_what_is_only_compressed_or_nearly_an_archive_stays_a_file(
    data: bytes, tmp_path: Path
) -> None:
    assert _recognise(tmp_path, data) is None


def test_no_noise_is_taken_for_an_archive(tmp_path: Path) -> None:
    jitter = random.Random(1)
    for _ in range(200):
        assert _recognise(tmp_path, jitter.randbytes(jitter.randrange(2000))) is None


@pytest.mark.parametrize(
    "names",
    [
        ["model/data.pkl", "model/data/0", "model/version"],
        ["m/data.pkl", "m/code/__torch__.py", "m/constants.pkl"],
        ["archive/.data/extern_modules", "archive/.data/version", "archive/x.py"],
        ["m/archive_format", "m/archive_version", "m/models/model.json"],
        ["arr_0.npy", "arr_1.npy"],
        ["metadata.json", "config.json", "model.weights.h5"],
        ["META-INF/MANIFEST.MF", "Model.class"],
        ["schema.json", "140234.npy", "140236.npz"],
        ["schema.json"],
        ["data", "policy.pth", "_stable_baselines3_version"],
        ["model.ini", "domains/d000.txt", "trees/t00_000.bin"],
        ["pkg/__init__.py", "pkg-1.0.dist-info/WHEEL"],
    ],
)
def test_a_zip_that_is_one_librarys_model_file_stays_a_file(
    names: list[str], tmp_path: Path
) -> None:
    assert _recognise(tmp_path, zip_bytes([file(name) for name in names])) is None
    # the same within a larger upload is an upload
    upload = [file("README.md"), *(file(f"files/{name}") for name in names)]
    if not names[0].endswith(".npy"):
        assert _recognise(tmp_path, zip_bytes(upload)) is ArchiveKind.ZIP


@pytest.mark.parametrize(
    "names",
    [
        ["MAR-INF/MANIFEST.json", "model.pt", "META-INF/MANIFEST.MF"],
        ["1/model.onnx", "config.pbtxt"],
        ["a/data.pkl", "b/version"],
        ["data.pkl", "version"],
        ["config.json", "metadata.json", "model.safetensors"],
        ["schema.json", "model.npy"],
        ["saved_model.pb", "variables/variables.index"],
        ["MLmodel", "model.pkl"],
    ],
)
def test_a_zipped_folder_is_an_archive(names: list[str], tmp_path: Path) -> None:
    assert _recognise(tmp_path, zip_bytes([file(name) for name in names])) is ArchiveKind.ZIP


def test_a_zipped_folder_of_arrays_is_an_archive_when_it_says_folder(tmp_path: Path) -> None:
    data = zip_bytes([folder("arrays"), file("arrays/a.npy")])
    assert _recognise(tmp_path, data) is ArchiveKind.ZIP


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not ArchiveKind.ZIP])
@pytest.mark.parametrize(
    "names",
    [["sys_info", "pickle", "storages"], ["./model_weights.ckpt", "./model_config.yaml"]],
)
def test_a_tar_that_is_one_librarys_model_file_stays_a_file(
    kind: ArchiveKind, names: list[str], tmp_path: Path
) -> None:
    assert _recognise(tmp_path, pack(kind, [file(name) for name in names])) is None


def test_a_plain_tars_later_names_are_seen_behind_large_files(tmp_path: Path) -> None:
    members = [file("model_weights.ckpt", bytes(20 << 20)), file("model_config.yaml")]
    assert _recognise(tmp_path, tar_bytes(members)) is None


def test_a_broken_archive_is_one_so_that_it_is_told(tmp_path: Path) -> None:
    whole = zip_bytes([file("a", os.urandom(1000))])
    assert _recognise(tmp_path, whole[:500]) is ArchiveKind.ZIP
    whole = pack(ArchiveKind.TAR_GZ, [file("a", os.urandom(100_000))])
    assert _recognise(tmp_path, whole[:50_000]) is ArchiveKind.TAR_GZ


def test_a_zst_of_too_large_a_window_is_one_so_that_it_is_told(tmp_path: Path) -> None:
    packer = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 31})
    data = packer.compress(tar_bytes([file("a")])) + packer.flush()
    assert _recognise(tmp_path, data) is ArchiveKind.TAR_ZST


def test_a_file_that_cannot_be_read_is_the_volumes_fault(tmp_path: Path) -> None:
    with pytest.raises(VolumeFault) as caught:
        recognise(tmp_path / "none")
    assert caught.value.reason is Reason.VOLUME_ERROR
