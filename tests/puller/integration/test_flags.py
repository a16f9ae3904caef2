"""Flags that change what the process answers or refuses: `--ready-when`, `--allow-uri`."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from support.puller.faulted import InstantProcess, Make, write_instant, write_model
from support.puller.faulty_server import FaultyStore
from support.puller.forked import ForkedPuller
from support.puller.processes import get
from trainedmodel_puller.cli.command import main

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


def ready(puller: ForkedPuller) -> int:
    return get(f"{puller.url}/readyz")[0]


def test_each_moment_of_readiness_comes_when_it_says(make: Make, tmp_path: Path) -> None:
    """The server comes late, one model breaks, and then is mended."""
    with InstantProcess() as server:
        server.kill()
        kinds = {"server": "triton", "server_url": server.url}
        pullers = {}
        for when in ("settled", "all", "server"):
            puller = make("--ready-when", when, "--period", "0.2", **kinds)
            puller.kill()
            puller.put(f"{when}-good", write_instant(tmp_path, "m"))
            puller.put(f"{when}-bad", f"file://{tmp_path}/source/late")
            puller.start()
            puller.wait(f"{when}-bad", state="Failed")
            pullers[when] = puller

        def answers() -> dict[str, int]:
            return {when: ready(puller) for when, puller in pullers.items()}

        assert answers() == {"settled": 503, "all": 503, "server": 503}
        server.start()
        expected = {"settled": 200, "all": 503, "server": 200}
        pullers["all"].until(lambda: answers() == expected, f"{expected}")
        write_instant(tmp_path, "late")
        pullers["all"].until(lambda: ready(pullers["all"]) == 200, "all to be ready", 20)
        server.kill()
        pullers["server"].until(lambda: ready(pullers["server"]) == 503, "the loss to show")
        assert answers() == {"settled": 200, "all": 200, "server": 503}


def test_only_allowed_addresses_are_fetched_and_the_rest_says_why(
    make: Make, tmp_path: Path
) -> None:
    with FaultyStore() as web:
        allowed = web.put("models/good.bin", b"good")
        others = {
            "beside": web.put("models-of-others/m.bin", b"x"),
            "above": web.put("m.bin", b"x"),
            "elsewhere": write_model(tmp_path, "elsewhere"),
        }
        puller = make("--allow-uri", web.url("models/"), "--allow-uri", "s3://models/")
        puller.put("good", allowed)
        for name, uri in others.items():
            puller.put(name, uri)
        puller.wait("good", state="Loaded")
        for name, uri in others.items():
            failed = puller.wait(name, state="Failed", reason="UriNotAllowed")
            assert "--allow-uri" in failed["message"], uri
        assert web.objects["m.bin"].gets == 0
        assert not (puller.models / "elsewhere").exists()


def test_with_auto_the_model_folder_is_there_before_any_server_is(make: Make) -> None:
    """The server's container may wait for that folder, to have it mounted."""
    puller = make(server="auto", server_url="http://127.0.0.1:1")
    puller.kill()
    puller.models.rmdir()
    puller.start()
    puller.until(lambda: get(f"{puller.url}/healthz")[0] == 200, "a sign of life")
    assert puller.models.is_dir()


def test_a_volume_that_leaves_out_a_folder_is_refused_with_both(tmp_path: Path) -> None:
    flags = ["--model-dir", f"{tmp_path}/a/models", "--volume-dir", f"{tmp_path}/a"]
    refused = CliRunner().invoke(main, [*flags, "--state-dir", f"{tmp_path}/b/state"])
    assert refused.exit_code == 1
    assert (
        f"--state-dir {tmp_path}/b/state is not below --volume-dir {tmp_path}/a" in refused.output
    )
    assert CliRunner().invoke(main, ["--volume-limit", "lots"]).exit_code == 2
