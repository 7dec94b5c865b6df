"""What a file of `link_types` or of `tunnels` describes, and how the packet loop chooses among them.

To add a link type or a tunnel, add a file to that folder: the parser, the programs of live capture, the configuration,
the counters, blanking and the reference come from what it describes.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from trafficrefinery.jit import helper

from .bpf import TunnelProgram
from .layers import ETHERNET, IP_BY_VERSION, NOTHING

_ETHERNET_BYTES, _ANY = 14, 1 << 31

Reader = Any
"""A compiled function, which has no static type. It returns where the next header is, and its kind (see `layers`): CUT
where its own header is not whole, and a negative reason, such as -NOT_IP, where nothing can be read further."""


class LinkType(NamedTuple):
    """A LINKTYPE_ number of the pcap format (https://www.tcpdump.org/linktypes.html).

    Args:
        name: in the reference.
        header_bytes: before what follows, in headers that always have the same length.
        then: the kind of what follows such a header.
        type_at: where such a header has the EtherType of what follows, in place of `then`.
        read: for other headers: a compiled function (buffer, i, end).
        dlt: libpcap's own number on Linux, where it has another.
    """

    number: int
    name: str
    header_bytes: int = 0
    then: int = NOTHING
    type_at: int | None = None
    read: Reader = None
    dlt: int | None = None

    @property
    def most_header_bytes(self) -> int:
        """Before IP, without tags; more than any frame where that is not certain."""
        if self.read is None and (self.type_at is not None or self.then in (ETHERNET, IP_BY_VERSION)):
            return self.header_bytes + (_ETHERNET_BYTES if self.then == ETHERNET else 0)
        return _ANY


class OverUdp(NamedTuple):
    """How a tunnel uses UDP.

    Args:
        ports: usual destination ports.
        read: a compiled function (buffer, i, end, wire_end) of the payload; kind NOTHING for what is no such tunnel.
        write_bpf: writes what `read` does for the kernel, with X at the UDP header. Without it, frames are shared out
            to workers by their outer addresses, and the DNS process takes all datagrams of the tunnel.
        has_room: whether the program of the DNS process, which has to be small, has room for it.
        either_port: the source port tells as well.
        other_ports: further ports; it is looked into there only if the configuration names them.
        is_one: for ports of others: a compiled function (buffer, i, end, wire_end, port) that says whether a datagram
            which is not looked into surely is of this tunnel.
        control_ports: of messages that go with the tunnel, and that privacy hides as well.
    """

    ports: tuple[int, ...]
    read: Reader
    write_bpf: Callable[[TunnelProgram], None] | None = None
    has_room: bool = False
    either_port: bool = False
    other_ports: tuple[int, ...] = ()
    is_one: Reader = None
    control_ports: tuple[int, ...] = ()


class OverIp(NamedTuple):
    """How a tunnel uses IP.

    Args:
        protocols: numbers of IP.
        read: a compiled function (buffer, i, end, wire_end) of what follows the IP header.
        write_bpf, has_room: as of `OverUdp`, with X behind the IP header.
        is_one: where several have a protocol: a compiled function (buffer, i, end).
    """

    protocols: tuple[int, ...]
    read: Reader
    write_bpf: Callable[[TunnelProgram], None] | None = None
    has_room: bool = False
    is_one: Reader = None


class Tunnel(NamedTuple):
    """What `Decapsulate` may name.

    Args:
        name: there, and in the counter of packets that are not looked into.
        text: in the reference.
        included_in: another tunnel, whose name stands for this one as well.
    """

    name: str
    text: str
    udp: OverUdp | None = None
    ip: OverIp | None = None
    included_in: str = ""


def described(package: str, attribute: str) -> tuple[Any, ...]:
    """What the modules of a folder describe, in the order of their names.

    Raises:
        ValueError: two of them describe the same.
    """
    found: dict[Any, Any] = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(sys.modules[package].__path__)):
        for item in getattr(importlib.import_module(f"{package}.{name}"), attribute):
            if item[0] in found:
                raise ValueError(f"{package}.{name}: {attribute} has {item[0]}, which another module describes")
            found[item[0]] = item
    return tuple(found.values())


def choice(parameters: str, results: Mapping[str, Collection[int]], otherwise: str, names: Mapping[str, Any]) -> Reader:
    """A compiled function that chooses by its first parameter: there is no table of functions that costs nothing.

    Args:
        results: an expression, and the numbers that it is the result for.
        names: that the expressions use.
    """
    first = parameters.partition(",")[0]
    tests = {result: " or ".join(f"{first} == {number}" for number in numbers) for result, numbers in results.items()}
    lines = [f"    if {test}:\n        return {result}" for result, test in tests.items() if test]
    module = {"__name__": __name__, **names}
    exec("\n".join([f"def chosen({parameters}):", *lines, f"    return {otherwise}"]), module)
    return helper(module["chosen"])
