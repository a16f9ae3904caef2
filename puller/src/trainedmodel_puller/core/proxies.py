"""The rule that selects the proxy of a request, for all schemes. Pure.

`HTTPS_PROXY` is for https addresses, `HTTP_PROXY` for http, `ALL_PROXY` for either without one.
`NO_PROXY` has entries separated by commas. A name matches itself and all names below it (a leading
dot changes nothing), an address matches itself, a network (10.0.0.0/8) matches its addresses, and
`*` matches everything. A port after an entry limits it to that port. Names are compared as written,
without a lookup.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

PROXY_VARIABLES: Final = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
#: Variables that name certificates to trust, whatever the scheme.
TRUST_VARIABLES: Final = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
#: All of them: what a credential profile may hold beside credentials.
WAY_VARIABLES: Final = frozenset({*PROXY_VARIABLES, *TRUST_VARIABLES})
#: Metadata and token services of the node are never behind a proxy.
NODE_NETWORKS: Final = "169.254.0.0/16,fd00:ec2::/32"
_PORTS: Final = {"http": 80, "https": 443}


class ProxyError(ValueError):
    """The value of a proxy variable is not valid; the message names it, without a password."""


def proxy_for(scheme: str, host: str, port: int | None, variables: Mapping[str, str]) -> str | None:
    """Return the proxy for an address, or None if it is connected to directly.

    Args:
        scheme: `http` or `https`.
        host: Name or address, without brackets.
        port: None for the scheme's own.
        variables: See the module; upper case.

    Raises:
        ProxyError: the variable that counts is no address of a proxy.
    """
    name = next((n for n in (f"{scheme.upper()}_PROXY", "ALL_PROXY") if variables.get(n)), None)
    excluded = variables.get("NO_PROXY", "")
    if name is None or is_excluded(host, port or _PORTS.get(scheme, 0), excluded):
        return None
    text = variables[name].strip()
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in _PORTS and parts.hostname and (parts.port or True)
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ProxyError(f"{name} must be an address like http://proxy.example.com:3128")
    return url


def is_excluded(host: str, port: int, excluded: str) -> bool:
    """Return whether `NO_PROXY` has a host."""
    host = host.strip("[]").rstrip(".").lower()
    address = _address(host)
    return any(_covers(entry.strip().lower(), host, address, port) for entry in excluded.split(","))


def _covers(
    entry: str,
    host: str,
    address: ipaddress.IPv4Address | ipaddress.IPv6Address | None,
    port: int,
) -> bool:
    if entry == "*":
        return True
    if _address(entry.strip("[]")) is None and "/" not in entry:
        entry, mark, wanted = entry.rpartition(":") if ":" in entry else (entry, "", "")
        if mark and wanted != str(port):
            return False
        entry = entry.strip("[]")
    if address is not None:
        try:
            return address in ipaddress.ip_network(entry.strip("[]"), strict=False)
        except ValueError:
            return False
    entry = entry.strip(".")
    return bool(entry) and (host == entry or host.endswith(f".{entry}"))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.split("%", 1)[0])
    except ValueError:
        return None
