"""The report against a real API server: what is stored, what is refused, what a check costs."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from trainedmodel_contract import modelreport, names
from trainedmodel_contract.modelreport import ReportedModel
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_puller.core.bounds import Budget, bound_models
from trainedmodel_puller.reporting.report_client import (
    ApiUnavailable,
    ReportClient,
    ReportConflict,
    ReportGone,
    ReportRefused,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

_numbers = itertools.count()


@pytest.fixture(scope="module")
def control_plane() -> Iterator[ControlPlane]:
    with ControlPlane() as running:
        running.install_crds()
        yield running


@pytest.fixture
async def client(
    control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ReportClient]:
    config = yaml.safe_load(control_plane.kubeconfig.read_text())
    address = urlsplit(config["clusters"][0]["cluster"]["server"])
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", str(address.hostname))
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(address.port))
    (tmp_path / "token").write_text(config["users"][0]["user"]["token"])
    (tmp_path / "ca.crt").write_bytes(control_plane.ca_file.read_bytes())
    made = ReportClient("default", tmp_path)
    yield made
    await made.close()


def document(models: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": modelreport.KIND,
        "metadata": {"name": f"pod-{os.getpid()}-{next(_numbers)}"},
        "models": models,
    }


def settled(count: int, length: int = 20) -> dict[str, Any]:
    one = {"state": "Loaded", "revision": "9f3ac1d20b7e4455"}
    return {f"m{n:06d}".ljust(length, "x"): one for n in range(count)}


def at(document: dict[str, Any], version: str, **content: Any) -> dict[str, Any]:
    """Return a document as the next write of the report that has this version."""
    metadata = {**document["metadata"], "resourceVersion": version}
    return {**document, "metadata": metadata, **content}


async def test_the_proxies_of_stores_are_not_for_the_api_server(
    client: ReportClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8")
    await client.create(document(settled(1)))


async def test_what_is_written_is_read_again_and_each_write_has_its_version(
    client: ReportClient,
) -> None:
    sent = document(settled(3))
    name = sent["metadata"]["name"]
    assert await client.read(name) is None
    first = await client.create(sent)
    models = {**settled(3), "b": {"state": "Failed"}}
    second = await client.replace(at(sent, first, models=models))
    assert second != first
    stored = await client.read(name)
    assert stored is not None
    assert stored["metadata"]["resourceVersion"] == second
    assert stored["models"] == models


async def test_a_read_changes_nothing_and_shows_nothing_of_how_it_is_done(
    client: ReportClient, control_plane: ControlPlane
) -> None:
    sent = document(settled(1))
    sent["metadata"]["finalizers"] = ["example.com/kept"]
    name = sent["metadata"]["name"]
    await client.create(sent)

    def stored() -> Any:
        return json.loads(control_plane.kubectl("get", "modelreport", name, "-o", "json"))

    before = stored()
    read = await client.read(name)
    assert read is not None
    assert "deletionTimestamp" not in read["metadata"]
    assert read["metadata"]["finalizers"] == ["example.com/kept"]
    assert stored() == before
    control_plane.kubectl("delete", "modelreport", name, "--wait=false")
    control_plane.kubectl(
        "patch", "modelreport", name, "--type=merge", "-p", '{"metadata":{"finalizers":null}}'
    )


async def test_what_somebody_wrote_in_between_is_a_conflict(client: ReportClient) -> None:
    sent = document({})
    first = await client.create(sent)
    with pytest.raises(ReportConflict):
        await client.create(sent)
    await client.replace(at(sent, first, models=settled(1)))
    with pytest.raises(ReportConflict):
        await client.replace(at(sent, first, models=settled(2)))


async def test_no_field_is_recorded_a_second_time(client: ReportClient) -> None:
    sent = document({})
    name = sent["metadata"]["name"]
    version = await client.create(sent)
    for n in (500, 1000):
        version = await client.replace(at(sent, version, models=settled(n)))
    stored = await client.read(name)
    assert stored is not None
    assert "managedFields" not in stored["metadata"]


async def test_ten_thousand_failed_models_are_stored_in_less_than_a_megabyte(
    client: ReportClient,
) -> None:
    failed = ReportedModel(
        state="Failed", revision="9f3ac1d20b7e4455", reason="SourceError", message="<" * 300
    )
    models = {f"m{n:06d}".ljust(40, "x"): failed for n in range(10_000)}
    bounded = bound_models(models, Budget())
    sent = document({})
    name = sent["metadata"]["name"]
    version = await client.create(sent)
    told = {key: model.to_dict() for key, model in bounded.models.items()}
    await client.replace(at(sent, version, models=told))
    stored = await client.read(name)
    assert stored is not None
    assert stored["models"] == told
    assert len(json.dumps(stored, separators=(",", ":"))) < 1_000_000


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
@pytest.mark.parametrize("length", [20, 300])
async def test_what_is_too_large_for_etcd_or_the_api_server_is_known_as_such(
    client: ReportClient, length: int
) -> None:
    sent = document({})
    version = await client.create(sent)
    models = {key: {**model, "message": "<" * length} for key, model in settled(10_000).items()}
    with pytest.raises(ReportRefused) as refused:
        await client.replace(at(sent, version, models=models))
    assert refused.value.is_too_large


async def test_what_breaks_the_schema_is_refused_and_no_matter_of_size(
    client: ReportClient,
) -> None:
    sent = document({})
    version = await client.create(sent)
    with pytest.raises(ReportRefused, match="Too long") as refused:
        await client.replace(at(sent, version, models={"a": {"state": "x" * 40}}))
    assert not refused.value.is_too_large


async def test_a_report_that_is_gone_and_an_api_server_that_is_away_are_told_apart(
    client: ReportClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ReportGone):
        await client.replace(at(document({}), "1"))
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    away = ReportClient("default", tmp_path)
    try:
        with pytest.raises(ApiUnavailable):
            await away.read("nobody")
    finally:
        await away.close()
        await asyncio.sleep(0)
