"""The addresses that `http(s)://` may connect to.

The author of a TrainedModel writes its URI, and the server at that URI chooses redirects. Neither
may make the puller read the node's metadata service. Names are checked inside the client's
resolver, so the checked address is the one that is connected to, and a name that resolves to
another address a moment later has no effect.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from typing import Final

from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
#: IPv6 prefixes that carry an IPv4 address in their last 32 bits.
_CARRIERS: Final = (
    ipaddress.IPv6Network("::/96"),
    ipaddress.IPv6Network("::ffff:0:0/96"),
    ipaddress.IPv6Network("64:ff9b::/96"),
)


class DeniedAddressError(OSError):
    """A URI names a denied address, or a name that resolves to one."""


class AddressRule:
    """The denied addresses."""

    def __init__(self, denied_networks: Iterable[str]) -> None:
        self._denied = tuple(ipaddress.ip_network(network) for network in denied_networks)

    def check_host(self, host: str) -> None:
        """Check a host that may be an address; a name passes, the resolver checks it later.

        An address may be spelt in ways that only the system's resolver or a proxy understands:
        `2852039166`, `0xa9fea9fe` and `169.254.43518` are all 169.254.169.254.
        """
        text = host.strip("[]").split("%", 1)[0].rstrip(".")
        try:
            address: IPAddress = ipaddress.ip_address(text)
        except ValueError:
            try:
                address = ipaddress.IPv4Address(socket.inet_aton(text))
            except (OSError, ValueError):
                return
        self.check(address)

    def check(self, address: IPAddress) -> None:
        """Check one address.

        Raises:
            DeniedAddressError: it lies in a denied network, as itself or carried in IPv6.
        """
        for form in _forms(address):
            if any(form.version == net.version and form in net for net in self._denied):
                raise DeniedAddressError(
                    f"{address} is not an address that models may be fetched from"
                )


class CheckedResolver(AbstractResolver):
    """Resolves names like the system, and refuses a name with any denied address."""

    def __init__(self, rule: AddressRule) -> None:
        self._rule = rule
        self._system = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Resolve one name."""
        found = await self._system.resolve(host, port, family)
        for result in found:
            self._rule.check_host(result["host"])
        return found

    async def close(self) -> None:
        """Close the system's resolver."""
        await self._system.close()


def _forms(address: IPAddress) -> list[IPAddress]:
    forms: list[IPAddress] = [address]
    if isinstance(address, ipaddress.IPv6Address) and any(address in net for net in _CARRIERS):
        forms.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return forms
