"""Memory of a process that unpacks: flat, whatever the archive holds or claims."""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
import zipfile
from pathlib import Path

import pytest
from backports import zstd

pytestmark = pytest.mark.slow

PROGRAM = """
import asyncio, json, sys
from pathlib import Path
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.archives import UnpackLimits, recognise, unpack

def peak():
    # not getrusage: that of a child begins with what its parent had when it forked
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))

async def main(path, folder):
    kind = recognise(path)
    try:
        tree = await unpack(path, kind, folder, UnpackLimits(4 << 30), lambda _: None)
        print(json.dumps({"peak": peak(), "bytes": tree.bytes, "fault": ""}))
    except SourceFault as fault:
        print(json.dumps({"peak": peak(), "bytes": 0, "fault": fault.message}))

asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
"""
LIMIT_KIB = 200 * 1024


async def _unpack(archive: Path, to: Path) -> tuple[int, int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(archive), str(to), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    found = json.loads(out)
    return found["peak"], found["bytes"], found["fault"]


@pytest.mark.scale
@pytest.mark.integration
@pytest.mark.timeout(180)
async def test_p11_a_zip_of_one_gib_needs_less_than_200_mib(tmp_path: Path) -> None:
    archive = tmp_path / "archive"

    def make() -> None:
        noise = os.urandom(1 << 20)
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
            for name, piece in (("zeros", bytes(1 << 20)), ("noise", noise)):
                with packed.open(name, "w") as into:
                    for _ in range(512):
                        into.write(piece)

    await asyncio.to_thread(make)
    peak, size, fault = await _unpack(archive, tmp_path / "to")
    assert (size, fault) == (1 << 30, "")
    assert peak < LIMIT_KIB
    await asyncio.to_thread(_remove, tmp_path)


def _remove(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()


@pytest.mark.timeout(120)
async def test_p11_a_directory_of_millions_of_entries_is_refused_unread(tmp_path: Path) -> None:
    # named empty entries that all share one place, and an end record that tells of few of them
    local = b"PK\x03\x04" + struct.pack("<5H3L2H", *(20, 0, 0, 0, 33, 0, 0, 0, 1, 0)) + b"a"
    item = b"PK\x01\x02" + struct.pack(
        "<2B5H3L5H2L", *(20, 3, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0o100644 << 16, 0)
    )
    count = 2_000_000
    directory = (item + b"a") * count
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2, 2, len(directory), len(local), 0)
    archive = tmp_path / "archive"
    archive.write_bytes(local + directory + end)
    del directory
    peak, _, fault = await _unpack(archive, tmp_path / "to")
    assert "in it twice" in fault or "more entries" in fault
    assert peak < LIMIT_KIB


@pytest.mark.timeout(120)
async def test_p11_long_names_and_many_of_them_stay_small(tmp_path: Path) -> None:
    from puller.storage.test_archives import file, folder, link, tar_bytes

    deep = "/".join(["n" * 190] * 10)
    members = [file("f"), folder(deep)]
    members += [link(f"{deep}/{number}", "../" * 10 + "f") for number in range(2_000)]
    archive = tmp_path / "archive"
    archive.write_bytes(zstd.compress(tar_bytes(members)))
    peak, size, fault = await _unpack(archive, tmp_path / "to")
    assert (size, fault) == (1, "")
    assert peak < LIMIT_KIB
