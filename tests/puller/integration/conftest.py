"""Real stores and real model servers for the puller's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.puller.faulted import InstantProcess, Make, puller_factory
from support.puller.faulty_server import FaultyStore
from support.puller.forked import Zygote
from support.puller.processes import Puller
from trainedmodel_devkit.fixtures import s3_store
from trainedmodel_devkit.models import write_scale_mlserver, write_scale_triton
from trainedmodel_devkit.servers import MLServer, Triton
from trainedmodel_devkit.stores import S3Store

WRITERS = {"mlserver": write_scale_mlserver, "triton": write_scale_triton}
LAUNCHERS = {"mlserver": MLServer, "triton": Triton}
BUCKET = "models"


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Store]:
    """An S3 server with scale models for each kind: <kind>/k2, <kind>/k3, ..., <kind>/broken."""
    folder = tmp_path_factory.mktemp("models")
    with s3_store() as running:
        for kind, write in WRITERS.items():
            for k in (2, 3, 5):
                running.put_tree(BUCKET, f"{kind}/k{k}", write(folder / kind / f"k{k}", k))
            broken = write(folder / kind / "broken", 2, broken=True)
            running.put_tree(BUCKET, f"{kind}/broken", broken)
            slow = write(folder / kind / "slow", 7, load_delay_s=2)
            running.put_tree(BUCKET, f"{kind}/slow", slow)
        running.put(BUCKET, "plain/weights.bin", b"w" * 1000)
        yield running


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    """A process that forks pullers."""
    with Zygote() as running:
        yield running


@pytest.fixture
def make(zygote: Zygote, tmp_path: Path) -> Iterator[Make]:
    """Make pullers that can be killed at any step; all end with the test."""
    with puller_factory(zygote, tmp_path) as factory:
        yield factory


@pytest.fixture
def server() -> Iterator[InstantProcess]:
    """A stand-in server that loads in no time; where it matters, tests have a real one instead."""
    with InstantProcess() as running:
        yield running


@pytest.fixture
def web() -> Iterator[FaultyStore]:
    """A web server that can be made to fail."""
    with FaultyStore() as running:
        yield running


@pytest.fixture
def files_puller(tmp_path: Path, store: S3Store) -> Iterator[Callable[..., Puller]]:
    """Make pullers without a model server (`--server none`); all end with the test."""
    made: list[Puller] = []

    def make(*flags: str, env: dict[str, str] | None = None) -> Puller:
        puller = Puller(tmp_path / f"p{len(made)}", env={**store.env(), **(env or {})}, flags=flags)
        made.append(puller)
        puller.start()
        return puller

    yield make
    for puller in made:
        puller.kill()
