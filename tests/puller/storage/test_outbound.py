"""Proxies and private authorities, by one rule for every scheme, through a real tinyproxy.

The store's name resolves for the proxy alone, which has a file of hosts of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from puller.storage.servers import RawServer, Request, s3_page
from trainedmodel_contract.reasons import Reason
from trainedmodel_contract.uri import parse_uri
from trainedmodel_devkit.ports import free_port
from trainedmodel_puller.errors import SourceFault
from trainedmodel_puller.storage.base import Listing
from trainedmodel_puller.storage.registry import StorageRegistry
from trainedmodel_puller.storage.settings import StorageSettings

NAME = "store.models.example"
WAY = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
TRUST = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")
COMMIT = "c" * 40
AZURE_PAGE = b"""<?xml version="1.0"?><EnumerationResults><Blobs><Blob><Name>m/weights</Name>
<Properties><Last-Modified>Thu, 01 Jan 2026 00:00:00 GMT</Last-Modified><Etag>1</Etag>
<Content-Length>5</Content-Length><Content-Type>x</Content-Type></Properties></Blob></Blobs>
<NextMarker/></EnumerationResults>"""


@dataclass(frozen=True)
class Authority:
    """A private authority, and a certificate of its for the store's name."""

    ca: Path
    certificate: Path
    key: Path

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder = tmp_path_factory.mktemp("authority")
    new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    made = Authority(folder / "ca.pem", folder / "store.pem", folder / "store.key")
    commands = [
        [*new, "-x509", "-subj", "/CN=private", "-keyout", "ca.key", "-out", "ca.pem"],
        [*new[:-2], "-subj", "/CN=store", "-keyout", "store.key", "-out", "store.csr"],
        [
            *("openssl", "x509", "-req", "-in", "store.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-days", "1", "-out", "store.pem", "-extfile", "names"),
        ],
    ]
    (folder / "names").write_text(f"subjectAltName=DNS:{NAME},IP:127.0.0.1\n")
    for command in commands:
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return made


class Proxy:
    """tinyproxy, with a file of hosts that nobody else sees."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "proxy.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n127.0.0.1 {NAME}\n")
        (folder / "proxy.conf").write_text(
            f"Port {self.port}\nListen 127.0.0.1\nAllow 127.0.0.1\nTimeout 20\n"
            f'LogFile "{self._log}"\nLogLevel Connect\nMaxClients 50\n'
        )
        self._log.touch(0o666)
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        script = 'mount --bind "$1" /etc/hosts && exec tinyproxy -d -c "$2"'
        self._process = subprocess.Popen(
            [
                *("unshare", "--mount", *user, "sh", "-c", script, "sh"),
                *(str(folder / "hosts"), str(folder / "proxy.conf")),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert self._process.poll() is None, "tinyproxy has ended"
                assert time.monotonic() < deadline, "tinyproxy does not listen"
                time.sleep(0.05)
            else:
                break

    def seen(self, word: str) -> bool:
        """Say whether the proxy was asked for something with this word."""
        return any(word in line for line in self._log.read_text().splitlines() if "Request" in line)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    assert shutil.which("tinyproxy"), "the Debian package tinyproxy is missing"
    running = Proxy(tmp_path)
    yield running
    running.close()


@pytest.fixture(autouse=True)
def _no_ambient_way(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*WAY, *TRUST):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


async def answer(request: Request) -> None:
    """Answer as a store of whatever kind is asked for, with one object of five bytes."""
    target = request.target.removeprefix("http://" + NAME)
    more: dict[str, Any] = {"ETag": '"1"', "Last_Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
    if "comp=list" in target:
        await request.answer(200, AZURE_PAGE, **more)
    elif "list-type=2" in target:
        await request.answer(200, s3_page(("m/weights", 5)), **more)
    elif "/revision/" in target:
        await request.answer(200, json.dumps({"sha": COMMIT}).encode(), **more)
    elif "/tree/" in target:
        entries = [{"type": "file", "path": "weights", "size": 5, "oid": COMMIT}]
        await request.answer(200, json.dumps(entries).encode(), **more)
    else:
        await request.answer(200, b"model", Accept_Ranges="bytes", **more)


def uri_and_place(kind: str, url: str) -> tuple[str, dict[str, str]]:
    """Return what to fetch, and the variables that say where its store is."""
    match kind:
        case "s3":
            where = {"AWS_ENDPOINT_URL": url, "AWS_REGION": "us-east-1"}
            return "s3://b/m", {**where, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
        case "gs":
            return "gs://b/m", {"GOOGLE_BASE_URL": url}
        case "az":
            return "az://b/m", {"AZURE_STORAGE_ENDPOINT": url, "AZURE_STORAGE_ACCOUNT_NAME": "a"}
        case "hf":
            return "hf://org/m", {"HF_ENDPOINT": url}
        case _:
            return f"{url}/m/weights", {}


async def listed(uri: str, settings: StorageSettings, profile: str | None = None) -> Listing:
    place = parse_uri(uri)
    async with StorageRegistry(settings) as registry:
        return await registry.for_uri(place, profile).list(place)


async def handshakes_end() -> None:
    """Wait until the server has noticed that a client broke its handshake off."""
    for _ in range(500):
        if not any("_accept_connection" in repr(task) for task in asyncio.all_tasks()):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("a handshake is still under way")


KINDS = pytest.mark.parametrize("kind", ["http", "hf", "s3", "gs", "az"])
SETTINGS = StorageSettings(answer_timeout_s=10)


@KINDS
@pytest.mark.parametrize("trust", TRUST[:3])
async def test_https_through_a_proxy_with_a_private_authority(
    kind: str, trust: str, authority: Authority, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with RawServer(answer, tls=authority.server()) as server:
        uri, where = uri_and_place(kind, f"https://{NAME}:{server.port}")
        variables = {**where, "HTTPS_PROXY": proxy.url, trust: str(authority.ca)}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert (await listed(uri, SETTINGS)).total_bytes == 5
    assert proxy.seen(f"CONNECT {NAME}")


@KINDS
async def test_a_profile_has_a_proxy_and_an_authority_of_its_own(
    kind: str, authority: Authority, proxy: Proxy, tmp_path: Path
) -> None:
    """The certificate itself is in the profile, as it is in a mounted Secret."""
    async with RawServer(answer, tls=authority.server()) as server:
        uri, where = uri_and_place(kind, f"https://{NAME}:{server.port}")
        folder = tmp_path / "profiles" / "p"
        folder.mkdir(parents=True)
        values = {**where, "HTTPS_PROXY": proxy.url, "SSL_CERT_FILE": authority.ca.read_text()}
        if kind == "hf":
            values["HF_TOKEN"] = "token"
        for name, value in values.items():
            (folder / name).write_text(value)
        settings = StorageSettings(answer_timeout_s=10, profiles_dir=tmp_path / "profiles")
        assert (await listed(uri, settings, "p")).total_bytes == 5
    assert proxy.seen(f"CONNECT {NAME}")


@KINDS
async def test_an_authority_that_nobody_named_is_not_trusted(
    kind: str, authority: Authority, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with RawServer(answer, tls=authority.server()) as server:
        uri, where = uri_and_place(kind, f"https://{NAME}:{server.port}")
        for name, value in {**where, "HTTPS_PROXY": proxy.url}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SourceFault, match="TLS certificate was not accepted"):
            await listed(uri, SETTINGS)
        await handshakes_end()


@KINDS
@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
async def test_plain_http_through_a_proxy(
    kind: str, name: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with RawServer(answer) as server:
        uri, where = uri_and_place(kind, f"http://{NAME}:{server.port}")
        for variable, value in {**where, name: proxy.url}.items():
            monkeypatch.setenv(variable, value)
        assert (await listed(uri, SETTINGS)).total_bytes == 5
    assert proxy.seen(NAME)


@KINDS
@pytest.mark.parametrize("excluded", ["127.0.0.1", "127.0.0.0/8", "*", "port"])
async def test_what_is_excluded_is_connected_to_directly(
    kind: str, excluded: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with RawServer(answer) as server:
        uri, where = uri_and_place(kind, f"http://127.0.0.1:{server.port}")
        entry = f"127.0.0.1:{server.port}" if excluded == "port" else excluded
        for name, value in {**where, "HTTP_PROXY": proxy.url, "NO_PROXY": entry}.items():
            monkeypatch.setenv(name, value)
        assert (await listed(uri, SETTINGS)).total_bytes == 5
    assert not proxy.seen("127.0.0.1")


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "2852039166", "0xa9fea9fe", "169.254.43518", "[fd00:ec2::254]"]
)
async def test_a_proxy_is_never_asked_for_an_address_of_the_node_however_it_is_spelt(
    host: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    with pytest.raises(SourceFault) as caught:
        await listed(f"http://{host}/latest/meta-data", SETTINGS)
    assert caught.value.reason is Reason.ACCESS_DENIED
    assert not proxy.seen("meta-data")


@KINDS
async def test_a_proxy_that_is_not_there_is_told(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, where = uri_and_place(kind, f"http://{NAME}")
    for name, value in {**where, "HTTP_PROXY": "http://user:SECRET@127.0.0.1:9"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SourceFault) as caught:
        await listed(uri, SETTINGS)
    assert caught.value.reason is Reason.SOURCE_UNREACHABLE
    assert "SECRET" not in str(caught.value)


@KINDS
async def test_a_proxy_that_none_can_use_is_told_by_its_variable(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, where = uri_and_place(kind, f"http://{NAME}")
    for name, value in {**where, "HTTP_PROXY": "socks5://user:SECRET@p.example"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SourceFault, match="HTTP_PROXY must be an address") as caught:
        await listed(uri, SETTINGS)
    assert "SECRET" not in str(caught.value)


@KINDS
async def test_certificates_that_are_not_there_are_told_by_their_variable(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, where = uri_and_place(kind, f"https://{NAME}")
    (tmp_path / "empty.pem").write_text("nothing")
    for path, words in (("gone.pem", "is not readable"), ("empty.pem", "has no certificate")):
        variables = {**where, "REQUESTS_CA_BUNDLE": str(tmp_path / path)}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SourceFault, match=words) as caught:
            await listed(uri, SETTINGS)
        assert "REQUESTS_CA_BUNDLE" in caught.value.message
