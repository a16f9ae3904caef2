"""A volume with a limit on a disk that has far more room: the puller stays below it by itself.

A witness measures the volume with `du`, as a kubelet does, all the time. The limit is one that
nothing enforces: whoever passes it is evicted later.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import subprocess
import tarfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.puller.faulted import Make, puller_factory, write_model
from support.puller.faulty_server import FaultyStore
from support.puller.forked import ForkedPuller, Zygote
from trainedmodel_operator.core.injection.volume_limit import memory_for_models

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

MIB = 1024 * 1024
LIMIT = 64 * MIB
#: A sixteenth of the limit is left alone.
USABLE = LIMIT - LIMIT // 16


class Witness:
    """Measures a folder without rest; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.most = 0
        self.looks = 0

    def __enter__(self) -> Witness:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._ending.wait(0.05):
            self.most = max(self.most, allocated(self._folder))
            self.looks += 1


def allocated(folder: Path) -> int:
    """Return what du says; what vanishes while it looks is no fault."""
    done = subprocess.run(
        ["du", "--summarize", "--block-size=1", folder],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return int(done.stdout.split()[0]) if done.stdout else 0


@pytest.fixture
def limited(zygote: Zygote, tmp_path: Path) -> Iterator[Make]:
    """Make pullers whose volume, `<root>/p0/volume`, has a limit; what is passed is noticed."""
    volume = tmp_path / "p0" / "volume"
    volume.mkdir(parents=True)
    flags = ("--volume-limit", "64Mi", "--volume-dir", str(volume), "--period", "0.2")
    with puller_factory(zygote, tmp_path) as factory, Witness(volume) as witness:

        def make(*more: str) -> ForkedPuller:
            return factory(*flags, *more, at=tmp_path / "p0")

        yield make
    assert witness.looks > 3
    assert witness.most <= LIMIT, f"{witness.most / MIB:.1f} MiB: the pod would be evicted"


def test_what_would_pass_the_limit_is_blocked_with_numbers_and_comes_when_there_is_room(
    limited: Make, tmp_path: Path
) -> None:
    puller = limited()
    puller.put("first", write_model(tmp_path, "first", bytes(30 * MIB)))
    puller.wait("first", state="Loaded", timeout_s=30)
    puller.put("large", write_model(tmp_path, "large", bytes(40 * MIB)))
    blocked = puller.wait("large", state="Blocked", reason="InsufficientDisk", timeout_s=30)
    assert blocked["message"].startswith("needs 40.0 MiB, ")
    assert blocked["message"].endswith(" free (the volume is limited to 64.0 MiB)")
    puller.put("small", write_model(tmp_path, "small"))
    puller.wait("small", state="Loaded", timeout_s=30)
    assert puller.model("large")["state"] == "Blocked"
    puller.remove("first")
    puller.wait("large", state="Loaded", timeout_s=60)
    never = puller.put("never", write_model(tmp_path, "never", bytes(70 * MIB)))
    puller.wait("never", state="Blocked", reason="InsufficientDisk", revision=never, timeout_s=30)


def test_kept_versions_make_room_below_the_limit(limited: Make, tmp_path: Path) -> None:
    puller = limited()
    puller.put("m", write_model(tmp_path, "old", bytes(24 * MIB)))
    puller.wait("m", state="Loaded", timeout_s=30)
    new = puller.put("m", write_model(tmp_path, "new", bytes(24 * MIB)))
    puller.wait("m", state="Loaded", revision=new, timeout_s=30)
    assert allocated(puller.state) > 24 * MIB, "the old one is kept"
    puller.put("other", write_model(tmp_path, "other", bytes(24 * MIB)))
    puller.wait("other", state="Loaded", timeout_s=60)
    reasons = {line["trigger"] for line in puller.events("versions_removed")}
    assert reasons == {"space for another model"}


def test_no_more_kept_versions_go_than_are_needed_though_nobody_measures_at_once(
    limited: Make, tmp_path: Path
) -> None:
    puller = limited("--keep-versions", "6")
    kept = [puller.put("m", write_model(tmp_path, "m0", bytes(7 * MIB)))]
    for number in range(1, 7):
        puller.wait("m", state="Loaded", revision=kept[-1], timeout_s=30)
        kept.append(puller.put("m", write_model(tmp_path, f"m{number}", bytes(7 * MIB))))
    puller.wait("m", state="Loaded", revision=kept[-1], timeout_s=30)
    puller.put("other", write_model(tmp_path, "other", bytes(20 * MIB)))
    puller.wait("other", state="Loaded", timeout_s=60)
    gone = [
        revision for line in puller.events("versions_removed") for revision in line["revisions"]
    ]
    assert sorted(gone) == sorted(kept[:2]), "11 MiB are free, and two versions are enough"


def test_many_small_models_at_once_stop_at_the_limit(limited: Make, tmp_path: Path) -> None:
    """Each is let in on its own, faster than anybody measures."""
    puller = limited()
    size = 700 * 1024
    for number in range(120):
        puller.put(f"m{number}", write_model(tmp_path, f"m{number}", bytes(size)))

    def states() -> list[str]:
        return [str(puller.model(f"m{number}").get("state")) for number in range(120)]

    most = USABLE // size

    def is_full() -> bool:
        found = states()
        # each takes a little beside its content, as does the volume
        return set(found) == {"Loaded", "Blocked"} and found.count("Loaded") >= most - 4

    puller.until(is_full, "what has room to be loaded, the rest to be blocked", 60)
    time.sleep(2)
    loaded = states().count("Loaded")
    assert loaded <= most, f"{loaded} loaded, {most} have room"


def test_a_download_of_unknown_size_is_stopped_below_the_limit_and_leaves_nothing(
    limited: Make, tmp_path: Path
) -> None:
    with FaultyStore() as web:
        puller = limited()
        puller.put("m", web.put("endless.bin", bytes(120 * MIB), is_sized=False))
        blocked = puller.wait("m", state="Blocked", reason="InsufficientDisk", timeout_s=60)
        assert "larger than its listed size" in blocked["message"]
        assert "limited to 64.0 MiB" in blocked["message"]
        staging = puller.state / "staging"
        puller.until(lambda: list(staging.iterdir()) == [], "what it wrote to go", 20)
        puller.put("good", web.put("good.bin", bytes(20 * MIB)))
        puller.wait("good", state="Loaded", timeout_s=60)


def test_archives_that_say_less_than_they_hold_are_stopped_below_the_limit(
    limited: Make, tmp_path: Path
) -> None:
    """Each would fit alone; nobody knows of any of them how much comes out of it."""
    puller = limited()
    for name in "abc":
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for part in range(40):
                entry = tarfile.TarInfo(f"weights-{part}.bin")
                entry.size = MIB
                archive.addfile(entry, io.BytesIO(name.encode() * MIB))
        content = packed.getvalue()
        folder = tmp_path / "source" / name
        folder.mkdir(parents=True)
        # Of two gzip members the last one's length is all that the file says of its content.
        members = gzip.compress(content[:-512], 1) + gzip.compress(content[-512:], 1)
        (folder / "m.tar.gz").write_bytes(members)
    for name in "abc":
        puller.put(name, f"file://{tmp_path}/source/{name}/m.tar.gz")

    def settled() -> bool:
        found = [puller.model(name).get("state") for name in "abc"]
        return found.count("Loaded") == 1 and found.count("Blocked") == 2

    puller.until(settled, "one to be loaded, two to be blocked", 60)
    time.sleep(2)
    assert settled()


def test_what_others_put_into_the_volume_counts_too(limited: Make, tmp_path: Path) -> None:
    puller = limited()
    foreign = puller.models.parent / "cache-of-the-server"
    foreign.mkdir()
    (foreign / "blob").write_bytes(bytes(40 * MIB))
    puller.kill()
    puller.start()  # it measures before it lets anything in
    puller.put("m", write_model(tmp_path, "m", bytes(30 * MIB)))
    puller.wait("m", state="Blocked", reason="InsufficientDisk", timeout_s=30)
    (foreign / "blob").unlink()
    puller.wait("m", state="Loaded", timeout_s=60)


def test_a_restart_in_the_middle_of_a_download_counts_what_is_there(
    limited: Make, tmp_path: Path
) -> None:
    with FaultyStore() as web:
        puller = limited()
        puller.put("large", web.put("large.bin", bytes(40 * MIB), rate=8 * MIB))
        puller.until(
            lambda: allocated(puller.state / "staging") > 8 * MIB, "a part of it to come", 30
        )
        puller.kill()
        puller.put("other", write_model(tmp_path, "other", bytes(30 * MIB)))
        puller.start()
        puller.until(
            lambda: (
                {puller.model(name).get("state") for name in ("large", "other")}
                == {
                    "Loaded",
                    "Blocked",
                }
            ),
            "one of them to be loaded",
            60,
        )


# -- a volume in memory -----------------------------------------------------------------------


@contextlib.contextmanager
def memory_group(limit: int) -> Iterator[Path]:
    """Make a control group whose processes may use so much memory (root; either hierarchy)."""
    root = Path("/sys/fs/cgroup")
    is_unified = (root / "cgroup.controllers").exists()
    group = (root if is_unified else root / "memory") / f"puller-{uuid.uuid4().hex[:8]}"
    try:
        group.mkdir()
        name = "memory.max" if is_unified else "memory.limit_in_bytes"
        (group / name).write_text(str(limit))
    except OSError as error:
        pytest.skip(f"no control group of memory can be made here: {error}")
    try:
        yield group
    finally:
        deadline = time.monotonic() + 20
        while (group / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        group.rmdir()


def test_a_volume_in_memory_is_filled_only_as_far_as_the_memory_of_the_puller_goes(
    zygote: Zygote, tmp_path: Path
) -> None:
    """What the webhook tells the puller keeps it from being killed by its own models."""
    memory = 320 * MIB
    room = memory_for_models(str(memory))
    root = tmp_path / "p0"
    (root / "volume").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", root / "volume"], check=True)
    try:
        with memory_group(memory) as group, puller_factory(zygote, tmp_path) as factory:
            puller = factory(f"--volume-limit={room}", at=root)
            assert puller.process is not None
            (group / "cgroup.procs").write_text(str(puller.process.pid))
            names = [f"m{number}" for number in range(6)]
            for name in names:
                puller.put(name, write_model(tmp_path, name, bytes(60 * MIB)))

            def states() -> list[str]:
                assert not puller.has_died, "killed: its memory was full of models"
                return [str(puller.model(name).get("state")) for name in names]

            puller.until(lambda: set(states()) == {"Loaded", "Blocked"}, "all to settle", 60)
            assert states().count("Loaded") == 2
    finally:
        subprocess.run(["umount", "-l", root / "volume"], check=True)
