"""The fault proxy before the real API server: what it passes on, and what goes wrong on order."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from trainedmodel_devkit.controlplane import ControlPlane
from trainedmodel_devkit.faultproxy import FaultProxy, answering, delaying, is_write

pytestmark = pytest.mark.integration

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[FaultProxy]:
    with FaultProxy(control_plane) as running:
        yield running


def asked(control_plane: ControlPlane, proxy: FaultProxy, path: str, timeout_s: float = 10) -> Any:
    headers = {"Authorization": f"Bearer {control_plane.token}", "User-Agent": "the-test"}
    request = urllib.request.Request(f"{proxy.url}{path}", headers=headers)
    context = ssl.create_default_context(cafile=str(control_plane.ca_file))
    return urllib.request.urlopen(request, timeout=timeout_s, context=context)


def kubectl(control_plane: ControlPlane, config: Path, *args: str) -> str:
    return control_plane.kubectl(f"--kubeconfig={config}", *args)


class Watch:
    """A watch of ConfigMaps through the proxy, read by a thread."""

    def __init__(self, control_plane: ControlPlane, proxy: FaultProxy) -> None:
        path = f"{CONFIG_MAPS}?watch=true&resourceVersion=0&timeoutSeconds=60"
        self.answer = asked(control_plane, proxy, path)
        self.events: list[Any] = []
        self.ended = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with self.answer, contextlib.suppress(OSError, http.client.HTTPException):
            for line in self.answer:
                self.events.append(json.loads(line))
        self.ended.set()

    def saw(self, name: str, timeout_s: float = 10) -> bool:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if any(one["object"].get("metadata", {}).get("name") == name for one in self.events):
                return True
            time.sleep(0.02)
        return False


Begin = Callable[[], Watch]


@pytest.fixture
def watch(control_plane: ControlPlane, proxy: FaultProxy) -> Iterator[Begin]:
    """Begin a watch; all of them have ended when the test has."""
    begun: list[Watch] = []

    def begin() -> Watch:
        begun.append(Watch(control_plane, proxy))
        assert begun[-1].saw("kube-root-ca.crt")
        return begun[-1]

    yield begin
    proxy.cut_watches()
    assert all(one.ended.wait(10) for one in begun)


def test_what_is_passed_on_is_the_real_thing_and_is_counted(
    control_plane: ControlPlane, proxy: FaultProxy, tmp_path: Path
) -> None:
    config = proxy.kubeconfig(control_plane.kubeconfig, tmp_path)
    assert yaml.safe_load(config.read_text())["clusters"][0]["cluster"]["server"] == proxy.url
    kubectl(control_plane, config, "create", "configmap", "passed-on", "--from-literal=a=1")
    assert control_plane.kubectl("get", "cm", "passed-on", "-o", "jsonpath={.data.a}") == "1"
    assert proxy.count(verb="create", kind="configmaps", user_agent="kubectl") == 1
    assert proxy.requests[-1].status == 201
    asked(control_plane, proxy, f"{CONFIG_MAPS}/passed-on").close()
    assert proxy.count(verb="get", kind="configmaps", user_agent="the-test") == 1
    assert proxy.requests[-1].name == "passed-on"
    assert proxy.requests[-1].namespace == "default"


def test_every_third_write_is_answered_429_and_reads_are_not(
    control_plane: ControlPlane, proxy: FaultProxy, tmp_path: Path
) -> None:
    config = proxy.kubeconfig(control_plane.kubeconfig, tmp_path)
    fault = answering(429, retry_after="0")
    with proxy.failing(fault, where=is_write, every=3):
        for number in range(6):
            kubectl(control_plane, config, "create", "configmap", f"third-{number}")
    # kubectl obeys and sends again: each refused create is followed by one that succeeds
    codes = [one.status for one in proxy.requests if one.verb == "create"]
    assert codes == [429, 201, 201] * 3
    assert all(one.status == 200 for one in proxy.requests if one.verb == "get")


def test_an_answer_is_refused_or_late_only_while_it_is_ordered(
    control_plane: ControlPlane, proxy: FaultProxy
) -> None:
    with (
        proxy.failing(answering(503)),
        pytest.raises(urllib.error.HTTPError, match="503") as caught,
    ):
        asked(control_plane, proxy, CONFIG_MAPS)
    caught.value.close()
    with proxy.failing(delaying(0.5)):
        began = time.monotonic()
        asked(control_plane, proxy, CONFIG_MAPS).close()
        assert time.monotonic() - began >= 0.5
    asked(control_plane, proxy, CONFIG_MAPS).close()
    assert [one.status for one in proxy.requests] == [503, 200, 200]


def test_connections_are_refused_and_let_in_again(
    control_plane: ControlPlane, proxy: FaultProxy, watch: Begin
) -> None:
    stream = watch()
    with proxy.refusing_connections():
        assert stream.ended.wait(10), "who was there has been hung up on"
        with pytest.raises(urllib.error.URLError, match="refused"):
            asked(control_plane, proxy, CONFIG_MAPS)
    asked(control_plane, proxy, CONFIG_MAPS).close()


def test_a_watch_is_passed_on_as_it_comes_and_can_be_cut(
    control_plane: ControlPlane, proxy: FaultProxy, watch: Begin
) -> None:
    stream = watch()
    control_plane.kubectl("create", "configmap", "streamed")
    assert stream.saw("streamed", 5), "not kept back until the stream ends"
    assert [one.verb for one in proxy.watches("configmaps")] == ["watch"]
    assert proxy.cut_watches() == 1
    assert stream.ended.wait(10)


def test_a_frozen_watch_is_silent_and_open_and_a_new_one_is_passed_on(
    control_plane: ControlPlane, proxy: FaultProxy, watch: Begin
) -> None:
    frozen = watch()
    assert proxy.freeze_watches() == 1
    control_plane.kubectl("create", "configmap", "unheard")
    assert watch().saw("unheard")
    assert not frozen.saw("unheard", 0.5)
    assert not frozen.ended.is_set()
    assert len(proxy.watches()) == 1


@pytest.mark.parametrize("code", [410, 500, 504])
def test_an_error_can_be_put_into_a_stream(proxy: FaultProxy, watch: Begin, code: int) -> None:
    stream = watch()
    assert proxy.inject(code, "pods") == 0
    assert proxy.inject(code, "configmaps") == 1
    assert stream.ended.wait(10)
    assert (stream.events[-1]["type"], stream.events[-1]["object"]["code"]) == ("ERROR", code)
