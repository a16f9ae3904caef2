"""One fault, one wording, try after try; and a bucket in another region says where it is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from puller.storage.servers import RawServer, Request, point_s3
from trainedmodel_contract.entry import Entry
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import parse_uri
from trainedmodel_devkit.stores import S3Store
from trainedmodel_puller.core.state import Stage
from trainedmodel_puller.core.wording import steady
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.live_state import LiveState
from trainedmodel_puller.storage.registry import StorageRegistry

WORDS = st.text(st.characters(categories=["L"]), min_size=1, max_size=12)


async def faults(uri: str, tries: int = 3) -> list[SourceFault]:
    """List a source several times, each with clients of its own; return what went wrong."""
    found = []
    for _ in range(tries):
        async with StorageRegistry() as registry:
            place = parse_uri(uri)
            with pytest.raises(SourceFault) as caught:
                await registry.for_uri(place).list(place)
            found.append(caught.value)
    return found


@pytest.mark.parametrize("uri", ["s3://models/folder", "s3://models/folder/weights.bin"])
async def test_a_bucket_in_another_region_says_in_which_it_is(
    uri: str, s3_env: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder is listed, an object is asked for with HEAD: both are refused by the real store."""
    s3_env.put("models", "folder/weights.bin", b"w")
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    found = await faults(uri)
    assert {fault.message for fault in found} == {
        f"{uri}: the bucket is in region us-east-1: set AWS_REGION to us-east-1, "
        "in the credential profile or in the puller's environment"
    }
    assert found[0].reason is Reason.SOURCE_ERROR


@pytest.mark.parametrize("tells", [True, False])
async def test_a_redirect_to_nowhere_is_told_as_another_region(
    tells: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As AWS answers: 301 without an address, the region in a header of a HEAD at most."""

    async def respond(request: Request) -> None:
        await request.answer(301, x_amz_bucket_region="eu-west-1" if tells else "")

    async with RawServer(respond) as server:
        point_s3(monkeypatch, server)
        found = await faults("s3://models/folder")
    place = "in region eu-west-1" if tells else "in another region"
    assert all(f"the bucket is {place}: set AWS_REGION" in fault.message for fault in found)
    assert len({fault.message for fault in found}) == 1


@pytest.mark.parametrize("status", [400, 403])
async def test_a_refused_head_is_explained_by_the_store_s_own_words(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = b"<Error><Code>KeyTooOld</Code><Message>The key has expired.</Message></Error>"

    async def respond(request: Request) -> None:
        await request.answer(status, body)

    async with RawServer(respond) as server:
        point_s3(monkeypatch, server)
        found = await faults("s3://models/weights.bin")
    assert {fault.message.split(" (", 1)[1] for fault in found} == {
        "KeyTooOld: The key has expired.)"
    }


async def test_the_same_trouble_of_a_real_store_reads_the_same_each_time(
    s3_env: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_env.put("models", "folder/weights.bin", b"w")
    uris = ["s3://nosuchbucket/m", "s3://nosuchbucket/m.bin"]
    for uri in uris:
        assert len({fault.message for fault in await faults(uri)}) == 1
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    found = await faults("s3://models/folder")
    assert len({fault.message for fault in found}) == 1
    assert found[0].reason is Reason.ACCESS_DENIED
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert len({fault.message for fault in await faults("s3://models/folder")}) == 1


@given(WORDS, WORDS, st.floats(0.000001, 999), st.sampled_from(["ns", "µs", "ms", "s"]))
def test_durations_are_cut(before: str, after: str, took: float, unit: str) -> None:
    def said(seconds: float) -> str:
        return steady(f"{before} performing GET in {seconds:.6f}{unit} - {after}")

    assert said(took) == said(took + 1) == f"{before} performing GET - {after}"


@given(WORDS, st.uuids(), st.sampled_from(["RequestId:{}", "request id: {}", "(Request ID: {})"]))
def test_identifiers_of_requests_are_cut(before: str, name: object, form: str) -> None:
    assert steady(f"{before} {form.format(name)}") == before


@given(st.text(), st.integers(0, 2**47), st.integers(0, 2**47))
def test_addresses_of_objects_are_cut(before: str, one: int, other: int) -> None:
    first, second = (steady(f"{before} <Thing at {where:#x}>") for where in (one, other))
    assert first == second


@pytest.mark.parametrize(
    "message",
    [
        "s3://b/0d3f2c1e-8a34-4c58-9a5f-0b1b2c3d4e5f/m: the store has sent nothing of 'w' for 30 s",
        "s3://b/m: does not have the digest sha256:" + "ab" * 32,
        "needs 4.1 GiB, 2.0 GiB free",
        "the store did not finish its listing within 300 s",
    ],
)
def test_what_a_person_needs_stays(message: str) -> None:
    assert steady(message) == message


def test_no_failure_is_told_with_words_that_change_from_try_to_try() -> None:
    state = LiveState(jitter=lambda: 0.0)
    entry = Entry(name="m", storage_uri="s3://b/m", revision="r1")
    words = ["it failed in 2.118476ms", "it failed in 901.5µs, after 1 retries, max_retries: 1"]
    told = {
        state.fail(("m", "r1"), Stage.LOAD, entry, SourceFault(Reason.SOURCE_ERROR, each)).message
        for each in words
    }
    assert told == {"it failed"}
    assert not re.search(r"\d", told.pop())
