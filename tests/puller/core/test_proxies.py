"""Which proxy a request goes through."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainedmodel_puller.core.proxies import ProxyError, is_excluded, proxy_for

LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=8)
NAME = st.lists(LABEL, min_size=1, max_size=4).map(lambda labels: ".".join(["a", *labels]))
VARIABLES = {"HTTPS_PROXY": "http://s.example:3128", "HTTP_PROXY": "h.example:8080"}


@given(NAME, LABEL, st.integers(1, 65535), st.sampled_from(["", "."]), st.booleans())
def test_a_name_excludes_itself_and_all_below_and_no_other(
    name: str, below: str, port: int, dot: str, has_port: bool
) -> None:
    entry = f"x.example, {dot}{name}" + (f":{port}" if has_port else "")
    assert is_excluded(name, port, entry)
    assert is_excluded(f"{below}.{name}".upper(), port, entry)
    assert not is_excluded(f"{below}{name}", port, entry)
    assert is_excluded(name, port % 65535 + 1, entry) is not has_port


@given(st.ip_addresses(), st.integers(0, 32))
def test_a_network_excludes_its_addresses(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, prefix: int
) -> None:
    entry = str(ipaddress.ip_network(f"{address}/{prefix}", strict=False))
    assert is_excluded(str(address), 443, f"other, {entry}")
    assert is_excluded(str(address), 443, str(address))
    assert not is_excluded("a.example", 443, entry)


@given(NAME, st.integers(1, 65535))
def test_a_star_excludes_everything_and_nothing_excludes_nothing(name: str, port: int) -> None:
    assert is_excluded(name, port, "*")
    assert not is_excluded(name, port, "")
    assert not is_excluded(name, port, " , ,")


@given(st.text(), NAME, st.integers(1, 65535))
def test_no_list_of_exclusions_is_an_error(entries: str, name: str, port: int) -> None:
    is_excluded(name, port, entries)


@pytest.mark.parametrize(
    ("scheme", "more", "proxy"),
    [
        ("https", {}, "http://s.example:3128"),
        ("http", {}, "http://h.example:8080"),
        ("https", {"HTTPS_PROXY": "", "ALL_PROXY": "http://all.example"}, "http://all.example"),
        ("https", {"ALL_PROXY": "http://all.example"}, "http://s.example:3128"),
        ("https", {"NO_PROXY": "store.example"}, None),
        ("https", {"HTTPS_PROXY": ""}, None),
    ],
)
def test_each_scheme_has_its_proxy(scheme: str, more: dict[str, str], proxy: str | None) -> None:
    assert proxy_for(scheme, "store.example", None, {**VARIABLES, **more}) == proxy


@pytest.mark.parametrize("text", ["socks5://p.example:1", "http://", "http://p.example:port"])
def test_what_is_no_proxy_is_told_without_its_password(text: str) -> None:
    with pytest.raises(ProxyError) as caught:
        proxy_for("https", "store.example", None, {"HTTPS_PROXY": text})
    assert str(caught.value) == "HTTPS_PROXY must be an address like http://proxy.example.com:3128"
