"""The model servers are real: they load, predict, fail and stop as the programs in a cluster do."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from trainedmodel_devkit import models
from trainedmodel_devkit.errors import PredictionFailed
from trainedmodel_devkit.servers import MLServer, RunningServer, ServerLauncher, Triton, serve
from trainedmodel_devkit.servers.base import shared_memory

pytestmark = [pytest.mark.integration, pytest.mark.timeout(90)]

LAUNCHERS: dict[str, Callable[[], ServerLauncher]] = {"mlserver": MLServer, "triton": Triton}
WRITERS = {"mlserver": models.write_scale_mlserver, "triton": models.write_scale_triton}


@pytest.fixture(scope="module", params=LAUNCHERS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    with serve(LAUNCHERS[request.param](), tmp_path_factory.mktemp(request.param)) as running:
        yield running


async def load(server: RunningServer, name: str, verb: str = "load") -> tuple[int, str]:
    url = f"{server.url}/v2/repository/models/{name}/{verb}"
    async with aiohttp.ClientSession() as session, session.post(url, json={}) as answer:
        return answer.status, await answer.text()


async def test_a_model_is_loaded_asked_and_unloaded(server: RunningServer) -> None:
    WRITERS[server.kind](server.model_dir / "scale", 3)

    assert (await load(server, "scale"))[0] == 200
    assert await models.predict(server.url, "scale", [1, 2.5]) == [3, 7.5]
    assert (await load(server, "scale", "unload"))[0] == 200
    with pytest.raises(PredictionFailed):
        await models.predict(server.url, "scale", [1])


async def test_a_broken_model_says_why_it_does_not_load(server: RunningServer) -> None:
    WRITERS[server.kind](server.model_dir / "broken", 1, broken=True)

    status, text = await load(server, "broken")

    assert status >= 400
    assert "ValueError: these weights are broken on purpose" in text


async def test_an_update_changes_the_answer(server: RunningServer) -> None:
    for k in (2, 5):
        WRITERS[server.kind](server.model_dir / "changing", k)
        assert (await load(server, "changing"))[0] == 200
        assert await models.predict(server.url, "changing", [10]) == [10 * k]


def regions(server: RunningServer) -> list[Path]:
    """List the shared memory of one server: others may run beside it."""
    port = int(server.url.rpartition(":")[2])
    return list(Path("/dev/shm").glob(f"{shared_memory(port)}*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_server_that_was_stopped_or_killed_leaves_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    with serve(Triton(), tmp_path) as running:
        pid = running.process.pid
        assert pid is not None
        models.write_scale_triton(tmp_path / "scale", 3)
        assert (await load(running, "scale"))[0] == 200
        assert regions(running) != []
        running.process.kill(number)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert regions(running) == []


async def test_the_variants_of_a_classifier_disagree(tmp_path: Path) -> None:
    samples = {"iris": models.IRIS_SETOSA, "wine": models.WINE_FIRST}
    for variant in (1, 2):
        models.write_iris(tmp_path / f"iris-{variant}", variant)
        models.write_wine(tmp_path / f"wine-{variant}", variant)
    with serve(MLServer(), tmp_path) as running:
        for dataset, sample in samples.items():
            answers = []
            for variant in (1, 2):
                assert (await load(running, f"{dataset}-{variant}"))[0] == 200
                answers += await models.predict(running.url, f"{dataset}-{variant}", [sample])
            assert answers == [0, 1]
