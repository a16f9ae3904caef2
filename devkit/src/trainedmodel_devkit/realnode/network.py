"""The addresses of one node, and the pair of network devices that joins it to this machine.

Several nodes may run side by side: the number of each is taken by making the device of that name,
which the kernel lets only one do.
"""

import ipaddress
import json
import subprocess
from dataclasses import dataclass
from typing import Any

from trainedmodel_devkit.errors import CommandFailed, StartFailed

_PREFIX = "10.201"
_NUMBERS = range(0, 254, 2)


@dataclass(frozen=True)
class Addresses:
    """Who has which address, by the node's number."""

    number: int

    @property
    def machine(self) -> str:
        """The machine's end of the pair: API server and stores listen here."""
        return f"{_PREFIX}.{self.number + 1}.1"

    @property
    def node(self) -> str:
        """The node's end, its InternalIP."""
        return f"{_PREFIX}.{self.number + 1}.2"

    @property
    def pods(self) -> str:
        """The subnet of the pods."""
        return f"{_PREFIX}.{self.number}.0/24"

    @property
    def machine_device(self) -> str:
        """The device that stays in the machine's network."""
        return f"tmnode{self.number}"

    @property
    def node_device(self) -> str:
        """The device that moves into the box."""
        return f"tmnode{self.number}n"

    def cni_config(self) -> dict[str, Any]:
        """Render the list of CNI plugins: a bridge, addresses from a file, port mappings.

        Nothing is masqueraded here: the machine has a route to the pods.
        """
        bridge = {
            "type": "bridge",
            "bridge": "pods",
            "isGateway": True,
            "ipMasq": False,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": self.pods}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
        portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
        return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge, portmap]}


def make_link() -> Addresses:
    """Make the pair of devices with the first free number; both ends are on this machine still.

    Raises:
        StartFailed: no number is free.
    """
    taken = _routed()
    for number in _NUMBERS:
        addresses = Addresses(number)
        if any(ipaddress.ip_network(addresses.pods).overlaps(one) for one in taken):
            continue
        pair = ("type", "veth", "peer", "name", addresses.node_device)
        try:
            _ip("link", "add", addresses.machine_device, *pair)
        except CommandFailed:
            continue
        _ip("address", "add", f"{addresses.machine}/30", "dev", addresses.machine_device)
        _ip("link", "set", addresses.machine_device, "up")
        return addresses
    raise StartFailed(f"no free subnet below {_PREFIX}.0.0/16")


def attach_link(addresses: Addresses, pid: int) -> None:
    """Move the node's end into the network of a process, and route the pods there."""
    _ip("link", "set", addresses.node_device, "netns", str(pid))
    inside = ("nsenter", "--target", str(pid), "--net", "ip")
    _run(*inside, "link", "set", "lo", "up")
    _run(*inside, "address", "add", f"{addresses.node}/30", "dev", addresses.node_device)
    _run(*inside, "link", "set", addresses.node_device, "up")
    _run(*inside, "route", "add", "default", "via", addresses.machine)
    _ip("route", "add", addresses.pods, "via", addresses.node)


def remove_link(addresses: Addresses) -> None:
    """Remove the pair and with it its routes; nothing happens if it has gone with its box."""
    command = ["ip", "link", "delete", addresses.machine_device]
    subprocess.run(command, capture_output=True, check=False)


def _routed() -> list[ipaddress.IPv4Network]:
    routes = json.loads(_ip("-json", "-4", "route", "show"))
    found = [one["dst"] for one in routes if one["dst"] != "default"]
    return [ipaddress.IPv4Network(one) for one in found]


def _ip(*words: str) -> str:
    return _run("ip", *words)


def _run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise CommandFailed(f"{' '.join(command)}: {result.stderr.strip()}")
    return result.stdout
