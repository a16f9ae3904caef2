"""A volume on which others wrote: whatever stands where our files should, nobody ends.

Garbage is written, as bytes or as something that is no file, in the place of each file that the
puller keeps for itself, and of the folders around them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.puller.volume_steps import load, lora_volume, make_volume, seal, served, stage
from trainedmodel_puller.control.config_reader import read_folder, read_signature
from trainedmodel_puller.core.snapshot import Unreadable
from trainedmodel_puller.errors import VolumeFault
from trainedmodel_puller.volume.volume import Volume

pytestmark = pytest.mark.slow

#: Each file of ours, and each folder around one.
PLACES = (
    "models/m/.trainedmodel.json",
    "models/m",
    "state/versions/m/2/.trainedmodel.json",
    "state/versions/m/2",
    "state/versions/m",
    "state/markers/m.json",
    "state/staging/m@3",
    "state/staging/m@3.verified",
    "state/trash/x",
    "state/held.json",
)


def a_file(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def a_folder(path: Path, content: bytes) -> None:
    path.mkdir()
    (path / "x").write_bytes(content)


def a_pipe(path: Path, _: bytes) -> None:
    os.mkfifo(path)


def a_socket(path: Path, _: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):
        made.bind(path.name)


def a_device(path: Path, _: bytes) -> None:
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero has no end


def a_link_to_itself(path: Path, _: bytes) -> None:
    path.symlink_to(path.name)


def a_link_to_nothing(path: Path, _: bytes) -> None:
    path.symlink_to("nothing")


def a_link_outside(path: Path, _: bytes) -> None:
    """A link to a neighbour of the volume, in the test's own folder."""
    top = next(each for each in path.parents if (each / "neighbour").is_dir())
    path.symlink_to(top / "neighbour")


MAKERS: tuple[Callable[[Path, bytes], None], ...] = (
    a_file,
    a_folder,
    a_pipe,
    a_socket,
    a_device,
    a_link_to_itself,
    a_link_to_nothing,
    a_link_outside,
)
DEEP = b"[" * 1000 + b"]" * 1000
CORPUS = (
    b"",
    b"{}",
    DEEP,
    b'{"revision": ' + DEEP + b"}",
    b'{"revision": "../../../../models/evil", "id": "tm"}',
    b'{"revision": "/nowhere"}',
    b'{"revision": "1", "id": {}, "entry": [], "files": {"../../../x": 1}, "bytes": -1}',
    b'{"revision": "1", "id": "\\ud800", "bytes": ' + b"9" * 4000 + b"}",
    b'{"revision": "2", "bytes": true, "entry": {"memory": 1e999}}',
    b'{"loaded": [], "trying": {}, "id": 5}',
    b'{"loaded": "../../x", "trying": "1"}',
    b'{"fingerprint": "f3"}',
    b"\xff\xfe{\x00}\x00",
)
GARBAGE = st.binary(max_size=40) | st.sampled_from(CORPUS)


@contextlib.contextmanager
def a_volume(make: Callable[[Path], Volume]) -> Iterator[tuple[Path, Volume]]:
    """Make a volume with something in each place."""
    root = Path(tempfile.mkdtemp(prefix="trainedmodel-test-"))
    try:
        volume = make(root)
        load(volume, "1")
        seal(volume, "2")
        stage(volume, "3")
        (root / "neighbour" / "sub").mkdir(parents=True)
        for file in ("precious", "sub/precious", "weights"):
            (root / "neighbour" / file).write_text("somebody's")
        yield root, volume
    finally:
        shutil.rmtree(root)


def put(path: Path, make: Callable[[Path, bytes], None], content: bytes) -> None:
    if not path.parent.is_dir():
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    make(path, content)


def outside(root: Path) -> dict[str, str]:
    """Return what lies where the puller has no business."""
    files = sorted(path for path in (root / "neighbour").rglob("*") if path.is_file())
    top = {path.name: "" for path in root.iterdir()}
    return top | {str(path.relative_to(root)): path.read_text() for path in files}


def live_on(root: Path, volume: Volume) -> None:
    """Start anew on the volume, then do all there is with the model: only the volume may refuse."""
    volume.prepare()
    volume.held.read()
    volume.scan()
    volume.served.listed()
    for step in (
        lambda: stage(volume, "3"),
        lambda: volume.begin_fitting("m", "3", "f3", is_large=True),
        lambda: volume.seal("m", "3", {"id": "tm", "fingerprint": "f3"}),
        lambda: volume.publish("m", "3"),
        lambda: volume.mark_loaded("m", "tm", "3"),
        lambda: volume.remove_versions("m", frozenset({"1", "2"})),
        lambda: volume.forget_loaded("m"),
        lambda: volume.remove("m"),
    ):
        with contextlib.suppress(OSError, VolumeFault):
            step()
    volume.scan()


@pytest.mark.parametrize("make", [make_volume, lora_volume])
@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.timeout(60)
def test_whatever_stands_in_a_place_of_ours_ends_nobody(
    make: Callable[[Path], Volume], maker: Callable[[Path, bytes], None]
) -> None:
    for place in PLACES:
        for content in CORPUS if maker is a_file else CORPUS[:1]:
            with a_volume(make) as (root, volume):
                put(root / place, maker, content)
                before = outside(root)
                live_on(root, volume)
                assert outside(root) == before, f"{place} led outside"


@settings(max_examples=examples(30))
@given(st.dictionaries(st.sampled_from(PLACES), GARBAGE, max_size=4))
@example({"state/versions/m/2/.trainedmodel.json": CORPUS[4]})
def test_garbage_in_several_places_ends_nobody(places: dict[str, bytes]) -> None:
    with a_volume(make_volume) as (root, volume):
        for place, content in places.items():
            put(root / place, a_file, content)
        before = outside(root)
        live_on(root, volume)
        assert outside(root) == before


def test_a_link_in_the_served_folder_is_not_ours(tmp_path: Path) -> None:
    volume = make_volume(tmp_path / "vol")
    load(volume, "1", name="other")
    (volume.model_dir / "m").symlink_to("other")
    assert volume.scan_one("m").is_foreign
    seal(volume, "2")
    with pytest.raises(VolumeFault, match="FolderNotOurs"):
        volume.publish("m", "2")
    volume.remove("m")
    assert served(volume, "other") == {"1"}
    assert (volume.model_dir / "m").is_symlink()


def test_what_a_tree_says_of_itself_leads_nowhere(tmp_path: Path) -> None:
    volume = make_volume(tmp_path / "vol")
    load(volume, "1")
    seal(volume, "2")
    tree = volume.state_dir / "versions" / "m" / "2"
    (tree / ".trainedmodel.json").write_text('{"revision": "../../../models/evil"}')
    volume.scan()
    assert {path.name for path in volume.model_dir.iterdir()} == {"m"}


# -- the configuration folder -----------------------------------------------------------------


def test_one_strange_file_of_the_configuration_hurts_no_other(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    (tmp_path / "good.json").write_text("good")
    for number, maker in enumerate(MAKERS[1:]):
        if maker is not a_link_outside:
            maker(tmp_path / f"strange{number}.json", b"")
    with open(folder + b"/latin-\xe9.json", "wb"):
        pass
    (tmp_path / "large.json").write_bytes(bytes(3 * 1024 * 1024))
    files, why = read_folder(tmp_path)
    assert files is not None, why
    assert files["good.json"] == b"good"
    assert isinstance(files["large.json"], Unreadable)
    itself = next(key for key in files if key.startswith("strange"))
    assert "links" in str(files[itself]), "a link to itself is told"
    assert "latin-\udce9.json" in files
    assert len(files) == 4
    assert read_signature(tmp_path) == read_signature(tmp_path) is not None


@pytest.mark.parametrize("name", ["large.json", "itself.json"])
def test_an_entry_that_becomes_unreadable_is_not_taken_for_gone(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "large.json":
        path.write_bytes(bytes(3 * 1024 * 1024))
    else:
        path.symlink_to(name)
    files, _ = read_folder(tmp_path)
    assert files is not None
    assert isinstance(files[name], Unreadable)
