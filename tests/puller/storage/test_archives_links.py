"""Links, by example and by chance: none ever leads outside, in a circle, or to nothing."""

from __future__ import annotations

import asyncio
import os
import tempfile
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from puller.storage.test_archives import (
    LIMITS,
    Member,
    contents,
    file,
    folder,
    hard_link,
    link,
    pack,
    refusal,
    tar_bytes,
    unpacked,
    zip_bytes,
)
from support.examples import examples
from trainedmodel_contract.reasons import Reason
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.archives import ArchiveKind, unpack

TAR, ZIP = ArchiveKind.TAR, ArchiveKind.ZIP
LEAVES, DANGLES, CIRCLE = "leaves the model's folder", "not in the archive", "a loop of links"

REFUSED: list[tuple[list[Member], str]] = [
    ([link("l", "/etc/passwd")], LEAVES),
    ([link("l", "../archive")], LEAVES),
    ([link("a/l", "../../archive")], LEAVES),
    ([folder("a"), link("l", "a/../../archive")], LEAVES),
    # each alone stays inside by its text
    ([folder("a/b"), link("s", "a/b"), link("l", "s/../../../archive")], LEAVES),
    ([link("x/y/up", ".."), file("x/f"), link("l", "x/y/up/../../archive")], LEAVES),
    ([link("one", "two"), link("two", "three"), link("three", "..")], LEAVES),
    ([link("l", "none")], DANGLES),
    ([link("l", "f/x")], DANGLES),
    ([link("l", "f/")], DANGLES),
    ([link("l", "f/../f")], DANGLES),
    ([link("l", "._litter"), file("._litter")], DANGLES),
    ([link("l", ".trainedmodel.json"), file(".trainedmodel.json")], DANGLES),
    ([link("l", "l")], CIRCLE),
    ([link("l", "k"), link("k", "l")], CIRCLE),
    ([link("l", ".")], CIRCLE),
    ([link("a/l", "..")], CIRCLE),
    ([link("a/l", "../a")], CIRCLE),
    ([folder("a"), folder("b"), link("a/l", "../b"), link("b/l", "../a")], CIRCLE),
    ([folder("a/x"), folder("b/x"), link("a/x/l", "../../b"), link("b/x/l", "../../a")], CIRCLE),
    ([link("l", "x" * 2000)], "1024 bytes"),
    ([link("l", "a\nb")], "control character"),
    ([link("l", "x" * 256)], "255 bytes"),
]


@pytest.mark.parametrize("kind", [TAR, ZIP])
@pytest.mark.parametrize(("members", "words"), REFUSED, ids=range(len(REFUSED)))
async def test_p9_a_link_that_leads_astray_is_refused_and_never_made(
    kind: ArchiveKind, members: list[Member], words: str, tmp_path: Path
) -> None:
    message = await refusal(tmp_path, kind, pack(kind, [file("f"), *members]))
    assert words in message or (kind is ZIP and "link of more than 1024 bytes" in message)
    assert "archive's entry" in message
    assert not [path for path in (tmp_path / "to").rglob("*") if path.is_symlink()]


@pytest.mark.parametrize("kind", [TAR, ZIP])
async def test_links_that_stay_inside_are_kept_as_they_are(
    kind: ArchiveKind, tmp_path: Path
) -> None:
    members = [
        link("first", "snapshots/v1/model.bin"),  # before what it leads to
        file("blobs/ab12", b"weights"),
        link("snapshots/v1/model.bin", "../../blobs/ab12"),
        link("refs", "snapshots"),
        link("main", "refs/v1/./"),
        link("around", "main/../../blobs/ab12"),
    ]
    tree = await unpacked(tmp_path, kind, pack(kind, members))
    to = tmp_path / "to"
    assert (to / "main").readlink() == Path("refs/v1")
    assert os.readlink(to / "around") == "main/../../blobs/ab12"
    for name in ("first", "around", "main/model.bin", "refs/v1/model.bin"):
        assert (to / name).read_bytes() == b"weights"
    assert (tree.files, tree.bytes) == (6, 7)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", [TAR, ZIP])
async def test_p9_nothing_is_written_through_a_link(kind: ArchiveKind, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "victim").write_text("as it was")
    for members in (
        [link("out", "../outside"), file("out/x")],
        [link("out", str(tmp_path / "outside")), file("out/x")],
        [link("x", "../victim"), file("x", b"forged")],
        [link("here", "a"), folder("a"), link("a/out", "../../outside"), file("here/out/x")],
    ):
        await refusal(tmp_path, kind, pack(kind, members))
        for path in sorted((tmp_path / "to").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    assert not list((tmp_path / "outside").iterdir())
    assert (tmp_path / "victim").read_text() == "as it was"


async def test_p9_a_link_that_lies_in_the_folder_already_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "a").symlink_to(tmp_path / "outside")
    (tmp_path / "to" / "b").symlink_to(tmp_path / "outside" / "x")
    await refusal(tmp_path, TAR, tar_bytes([file("a/x")]))
    await refusal(tmp_path, TAR, tar_bytes([file("b")]))
    assert not list((tmp_path / "outside").iterdir())


async def test_links_are_limited_in_number(tmp_path: Path) -> None:
    members = [file("f"), *(link(str(number), "f") for number in range(10_001))]
    assert "more than 10000 links" in await refusal(tmp_path, TAR, tar_bytes(members))
    members = [folder("d"), file("f"), *(link(str(number), "d") for number in range(501))]
    (tmp_path / "to" / "f").unlink()
    assert "500 links to folders" in await refusal(tmp_path, TAR, tar_bytes(members))


async def test_many_links_to_one_folder_are_no_circle(tmp_path: Path) -> None:
    members = [file("d/f"), *(link(f"v{number}", "d") for number in range(400))]
    await unpacked(tmp_path, TAR, tar_bytes(members))
    assert len(contents(tmp_path / "to")) >= 1


# -- by chance --------------------------------------------------------------------------

SEGMENTS = st.sampled_from(["a", "b", "c", "..", ".", "", "to", "victim", "._a", "é", "a\\..\\b"])
TEXTS = st.one_of(
    st.lists(SEGMENTS, min_size=1, max_size=5).map("/".join),
    st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join),
    st.lists(st.sampled_from(["a", "b", ".."]), min_size=1, max_size=4).map("/".join),
    st.sampled_from(["/victim", "//a", "/", "../victim", ".trainedmodel.json", "x" * 300]),
)
HOSTILE = st.lists(
    st.one_of(
        st.builds(file, TEXTS, st.just(b"forged")),
        st.builds(folder, TEXTS),
        st.builds(link, TEXTS, TEXTS),
        st.builds(hard_link, TEXTS, TEXTS),
    ),
    max_size=8,
)
#: What links may lead to, and links of which about every fifth lot is fine.
BASE = [file("f"), file("a/f"), file("b/c/f"), file("b/d/f")]
PLACES = ["l", "m", "a/l", "a/m", "b/l", "b/c/l", "b/d/m"]
AIMS = ["f", "a", "a/f", "b", "b/c", "b/c/f", "b/d", "l", "m", "a/l", "b/l", "l/f", "m/c/f", "./c/"]
LINKS = st.lists(
    st.builds(
        lambda place, ups, aim: link(place, "../" * max(0, place.count("/") + ups) + aim),
        st.sampled_from(PLACES),
        st.sampled_from([0, 0, 0, 0, -1, 1]),
        st.sampled_from(AIMS),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda member: member.name,
)


@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore:Duplicate name")
@settings(max_examples=examples(400))
@given(members=st.one_of(HOSTILE, LINKS.map(BASE.__add__)), kind=st.sampled_from([TAR, ZIP]))
async def test_p9_no_archive_writes_outside_or_leaves_a_link_that_does(
    members: list[Member], kind: ArchiveKind
) -> None:
    with tempfile.TemporaryDirectory() as name:
        outer = Path(name)
        archive, to = outer / "archive", outer / "to"
        (outer / "victim").write_text("as it was")
        packable = [member for member in members if kind is TAR or member.type != b"1"]
        archive.write_bytes(zip_bytes(packable) if kind is ZIP else tar_bytes(packable))
        try:
            await unpack(archive, kind, to, LIMITS, lambda _: None, durable=False)
            reason = None
        except SourceFault as fault:
            reason = fault.reason
        event("unpacked" if reason is None else "refused")
        assert reason in {None, Reason.UNSAFE_ARCHIVE}
        await asyncio.to_thread(_check, outer, to, reason is not None)


def _check(outer: Path, to: Path, is_refused: bool) -> None:
    assert {path.name for path in outer.iterdir()} <= {"archive", "to", "victim"}
    assert (outer / "victim").read_text() == "as it was"
    assert (outer / "victim").stat().st_nlink == 1
    seen = 0
    # the kernel's own word for it, links followed: it must come to an end, and inside
    for folder_name, folders, files in os.walk(to, followlinks=True):
        for name in [*folders, *files]:
            seen += 1
            path = Path(folder_name) / name
            assert path.resolve(strict=True).is_relative_to(to.resolve())
            assert seen < 2000
            assert not (is_refused and path.is_symlink())
    if not is_refused:
        assert not (to / ".trainedmodel.json").exists()
        assert seen


@pytest.mark.timeout(120)
@settings(max_examples=examples(300))
@given(links=LINKS)
async def test_p9_a_link_is_refused_exactly_when_the_kernel_finds_fault_with_it(
    links: list[Member],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        outer = Path(name)
        archive, to, made = outer / "archive", outer / "to", outer / "made"
        archive.write_bytes(tar_bytes([*BASE, *links]))
        is_fine = await asyncio.to_thread(_kernel_says_fine, made, links)
        event("fine" if is_fine else "at fault")
        try:
            await unpack(archive, TAR, to, LIMITS, lambda _: None, durable=False)
            was_taken = True
        except SourceFault:
            was_taken = False
        assert was_taken == is_fine


def _kernel_says_fine(root: Path, links: list[Member]) -> bool:
    for member in BASE:
        (root / member.name).parent.mkdir(parents=True, exist_ok=True)
        (root / member.name).touch()
    for member in links:
        (root / member.name).symlink_to(member.target)
    for member in links:
        path = root / member.name
        if not path.exists() or not path.resolve().is_relative_to(root.resolve()):
            return False
    # a circle is walked for as long as names may be
    return all(
        Path(folder_name).relative_to(root).parts[12:] == ()
        for folder_name, _, _ in islice(os.walk(root, followlinks=True), 1000)
    )
