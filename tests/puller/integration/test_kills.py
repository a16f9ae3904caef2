"""P7, enumerated: a puller killed before each single step of each way, on a real model server.

A step is a change of the world outside the process: a file opened for writing, renamed or removed,
a folder made, two folders exchanged, a connection to the server opened. For each way (first load,
update, rollback, removal) the puller is killed before its first step, its second, and so on until
a run needs no more steps than that; each time an unharmed puller must then bring about what is
desired, with nothing left over, and what was served before is served all the time.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked_puller import ForkedPuller, Zygote
from puller_process import get, infer
from trainedmodel_devkit.models import write_scale_mlserver
from trainedmodel_devkit.servers import MLServer, RunningServer, serve

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

#: More steps than any way has.
MOST_STEPS = 300


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills")
    (folder / "volume" / "models").mkdir(parents=True)
    for k in (2, 3):
        write_scale_mlserver(folder / "source" / f"k{k}", k)
    return folder


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[RunningServer]:
    launcher = MLServer()
    launcher.ensure()
    with serve(launcher, root / "volume" / "models") as started:
        yield started


@pytest.fixture
def puller(zygote: Zygote, root: Path, server: RunningServer) -> Iterator[ForkedPuller]:
    flags = ("--file-root", str(root / "source"), "--period", "0.2", "--no-watch")
    made = ForkedPuller(zygote, root, server="mlserver", server_url=server.url, flags=flags)
    yield made
    made.kill()


def want(puller: ForkedPuller, root: Path, k: int | None) -> str | None:
    """Desire the model that multiplies by k, or none; return its revision."""
    if k is None:
        with contextlib.suppress(FileNotFoundError):
            puller.remove("m")
        return None
    return puller.put("m", f"file://{root}/source/k{k}")


def is_done(puller: ForkedPuller, revision: str | None) -> bool:
    """Tell whether the puller has brought about what is desired, with nothing left to tidy."""
    status = puller.status()
    if status is None or not status.get("isSettled"):
        return False
    if revision is None:
        return "m" not in status["models"]
    model = status["models"].get("m", {})
    return (model.get("state"), model.get("revision")) == ("Loaded", revision) and not list(
        (puller.state / "staging").iterdir()
    )


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


def live(puller: ForkedPuller, revision: str | None) -> None:
    """Let an unharmed puller do its work."""
    puller.start()
    puller.until(lambda: is_done(puller, revision), f"{revision} to be all there is", 30)
    puller.kill()


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
    for step in range(MOST_STEPS):
        for k in before:
            live(puller, want(puller, root, k))
        revision = want(puller, root, after)
        puller.steps.unlink(missing_ok=True)
        puller.start(kill_at=step)
        deadline = time.monotonic() + 30
        while not puller.has_died and not is_done(puller, revision):
            assert time.monotonic() < deadline, puller.status()
            time.sleep(0.005)
        was_killed = puller.has_died
        puller.kill()
        where = puller.steps.read_text().splitlines()[-1]
        assert infer(server.url, "m", 1.0) in allowed, f"after a kill before step {where}"
        assert shown_scale(puller) in allowed, f"after a kill before step {where}"
        live(puller, revision)
        assert infer(server.url, "m", 1.0) == (None if after is None else float(after)), where
        assert is_loaded(server) == (after is not None), where
        assert _left_over(puller) == [], where
        live(puller, want(puller, root, None))
        assert puller.files() == [], where
        if not was_killed:
            break
    else:
        pytest.fail("the way never came to its end")
    assert step > 5, "so few steps cannot be all of it"


def _left_over(puller: ForkedPuller) -> list[Path]:
    folders = ("staging", "trash")
    return [path for folder in folders for path in (puller.state / folder).iterdir()]


def test_the_killer_counts_the_steps_that_it_promises(
    puller: ForkedPuller, server: RunningServer, root: Path
) -> None:
    revision = want(puller, root, 2)
    puller.steps.unlink(missing_ok=True)
    puller.start(kill_at=None)
    puller.until(lambda: is_done(puller, revision), "the load", 30)
    puller.kill()
    told = puller.steps.read_text()
    for what in ("open", "os.rename", "os.mkdir", "socket.connect", ".verified", "markers"):
        assert what in told, f"no step of {what}"
    live(puller, want(puller, root, None))
