"""P7, enumerated: a puller killed before each single step of each way, on a real model server.

A step is a change of the world outside the process: a file opened for writing, renamed or removed,
a folder made, two folders exchanged, a connection to the server opened. For each way (first load,
update, rollback, removal) the puller is killed before its first step, its second, and so on until
a run needs no more steps than that; each time an unharmed puller must then bring about what is
desired, with nothing left over, and what was served before is served all the time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.puller.forked import ForkedPuller, Zygote
from support.puller.killed import enumerate_kills, is_done, live, want
from support.puller.processes import get, infer
from trainedmodel_devkit.models import write_scale_mlserver
from trainedmodel_devkit.servers import MLServer, RunningServer, serve

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills")
    for k in (2, 3):
        write_scale_mlserver(folder / "source" / f"k{k}", k)
    return folder


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[RunningServer]:
    with serve(MLServer(), root / "volume" / "models") as started:
        yield started


@pytest.fixture
def puller(zygote: Zygote, root: Path, server: RunningServer) -> Iterator[ForkedPuller]:
    flags = ("--file-root", str(root / "source"), "--period", "0.2", "--no-watch")
    made = ForkedPuller(zygote, root, server="mlserver", server_url=server.url, flags=flags)
    yield made
    made.kill()


def shown_scale(puller: ForkedPuller) -> float | None:
    """Return what the served folder's files are of; they must be whole and of one revision."""
    folder = puller.models / "m"
    if not folder.exists():
        return None
    identity = json.loads((folder / ".trainedmodel.json").read_text())
    scale = float(json.loads(next(folder.rglob("weights.json")).read_text())["k"])
    assert identity["storageUri"].endswith(f"k{scale:.0f}"), "files of two revisions"
    assert list(folder.rglob("*.py")), "a part of the files"
    return scale


def is_loaded(server: RunningServer) -> bool:
    return get(f"{server.url}/v2/models/m/ready")[0] == 200


#: What was desired before, what is desired now, and what the server may answer meanwhile.
WAYS: dict[str, tuple[list[int | None], int | None, set[float | None]]] = {
    "first load": ([None], 2, {None, 2.0}),
    "update": ([2], 3, {2.0, 3.0}),
    "rollback": ([2, 3], 2, {2.0, 3.0}),
    "removal": ([2], None, {2.0, None}),
}


@pytest.mark.parametrize("way", WAYS)
def test_p7_a_kill_before_any_step_converges_and_takes_nothing_down(
    way: str, puller: ForkedPuller, server: RunningServer, root: Path
) -> None:
    before, after, allowed = WAYS[way]
    uris = {k: f"file://{root}/source/k{k}" for k in (2, 3)}

    def check(where: str, is_end: bool) -> None:
        answered = infer(server.url, "m", 1.0)
        if is_end:
            assert answered == (None if after is None else float(after)), where
            assert is_loaded(server) == (after is not None), where
        else:
            assert answered in allowed, f"after a kill before step {where}"
            assert shown_scale(puller) in allowed, f"after a kill before step {where}"

    ways = [None if k is None else uris[k] for k in before]
    enumerate_kills(puller, ways, None if after is None else uris[after], check, remove)


def remove(puller: ForkedPuller) -> None:
    """Have an unharmed puller remove the model: of it and of what was killed nothing is left."""
    live(puller, want(puller, None))
    assert puller.files() == []


def test_the_killer_counts_the_steps_that_it_promises(
    puller: ForkedPuller, server: RunningServer, root: Path
) -> None:
    revision = want(puller, f"file://{root}/source/k2")
    puller.steps.unlink(missing_ok=True)
    puller.start(kill_at=None)
    puller.until(lambda: is_done(puller, revision), "the load", 30)
    puller.kill()
    told = puller.steps.read_text()
    for what in ("open", "os.rename", "os.mkdir", "socket.connect", ".verified", "markers"):
        assert what in told, f"no step of {what}"
    remove(puller)
