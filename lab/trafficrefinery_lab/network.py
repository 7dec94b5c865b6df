"""The hosts of the lab and their links.

::

    client 1 ──┐ access links                path element
    client 2 ──┼───── router ───────────────── path ───────── servers
    client N ──┘ `- shaped and captured here  (delay, loss)   (nginx, QUIC, DNS)
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from trafficrefinery.errors import TrafficRefineryError

from .namespaces import Namespace, command_path

ACCESS, WAN = "c", "wan"
"""Names of the router's interfaces: an access link's has the client's number behind it."""
PATH_LEFT, PATH_RIGHT = "left", "right"
"""Interfaces of the path element: towards the servers, and towards the router."""
MOST_CLIENTS = 200
_FIRST_HOST = 11
_OFFLOADS = ("rx", "tx", "sg", "tso", "gso", "gro")


class Addresses(NamedTuple):
    """Of one host, by version of IP."""

    ipv4: str
    ipv6: str

    def of(self, family: int) -> str:
        return self.ipv4 if family == 4 else self.ipv6


def client_addresses(number: int) -> Addresses:
    """Of client 0, 1, ..."""
    return Addresses(f"192.168.20.{_FIRST_HOST + number}", f"2001:db8:20::{_FIRST_HOST + number:x}")


def client_number(address: bytes) -> int:
    """The client that has an IPv4 or IPv6 address, in network order."""
    return address[-1] - _FIRST_HOST


def server_addresses(number: int) -> Addresses:
    """Of a host on the servers' side."""
    return Addresses(f"203.0.113.{number}", f"2001:db8:113::{number:x}")


class Network:
    """All namespaces, and the veth pairs between them."""

    def __init__(self, clients: int, servers: list[int]) -> None:
        self.closing = contextlib.ExitStack()
        try:
            self.router, self.path, self.servers = (self._namespace() for _ in range(3))
            self.router.set(ipv4__ip_forward="1", ipv6__conf__all__forwarding="1")
            self.clients = [self._client(number) for number in range(clients)]
            self._cable(self.router, WAN, self.path, PATH_RIGHT, 0x3001)
            self._cable(self.servers, "eth0", self.path, PATH_LEFT, 0x3002)
            self.router.ip(f"address add 203.0.113.1/24 dev {WAN}", f"address add 2001:db8:113::1/64 dev {WAN} nodad")
            self._address_servers(servers)
        except BaseException:
            self.close()
            raise

    def _namespace(self) -> Namespace:
        made = Namespace()
        self.closing.callback(made.close)
        made.set(ipv6__conf__default__accept_dad="0")
        with contextlib.suppress(OSError):  # a kernel without this algorithm
            made.set(ipv4__tcp_congestion_control="cubic")
        made.ip("link set lo up")
        return made

    def _client(self, number: int) -> Namespace:
        client, link, address = self._namespace(), f"{ACCESS}{number}", client_addresses(number)
        self._cable(self.router, link, client, "eth0", 0x2000 + number)
        self.router.ip(
            f"address add 192.168.20.1/32 dev {link}", f"address add fe80::1/64 dev {link} nodad",
            f"route add {address.ipv4} dev {link}", f"route add {address.ipv6} dev {link}",
        )  # fmt: skip
        client.ip(
            f"address add {address.ipv4}/32 dev eth0", f"address add {address.ipv6}/128 dev eth0 nodad",
            "route add 192.168.20.1 dev eth0", "route add 0.0.0.0/0 via 192.168.20.1",
            "route add ::/0 via fe80::1 dev eth0",
        )  # fmt: skip
        return client

    def _address_servers(self, numbers: list[int]) -> None:
        addresses = [server_addresses(number) for number in numbers]
        self.servers.ip(
            *(f"address add {each.ipv4}/24 dev eth0" for each in addresses),
            *(f"address add {each.ipv6}/64 dev eth0 nodad" for each in addresses),
            "route add 0.0.0.0/0 via 203.0.113.1", "route add ::/0 via 2001:db8:113::1",
        )  # fmt: skip

    def _cable(self, left: Namespace, left_name: str, right: Namespace, right_name: str, number: int) -> None:
        """A veth pair without offloads: what is captured is what a real wire would carry."""
        ethtool = command_path("ethtool", "ethtool")
        left.ip(f"link add {left_name} mtu 1500 type veth peer name {right_name} mtu 1500 netns {right.path}")
        for namespace, name, base in ((left, left_name, 0x10000), (right, right_name, 0x20000)):
            mac = (0x020000000000 + base + number).to_bytes(6, "big").hex(":")
            namespace.ip(f"link set {name} address {mac} up")
            namespace.run(ethtool, "-K", name, *(word for offload in _OFFLOADS for word in (offload, "off")))

    def close(self) -> None:
        with contextlib.suppress(TrafficRefineryError):
            self.closing.close()
