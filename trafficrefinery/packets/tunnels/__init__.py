"""Tunnels over IP and UDP: what is inside, where the configuration names their kind.

Each is described in a module of this folder. Which are looked into, and at which UDP ports, is a table of numbers that
`tunnel_table` makes. Functions of the packet path, but for `may_be_tunnel`, are called from its rare branches and are
not inlined there.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.jit import helper, inlined
from trafficrefinery.packets.describing import OverIp, OverUdp, Reader, Tunnel, choice, described
from trafficrefinery.packets.layers import (
    CUT,
    ENCRYPTED,
    NOT_IP,
    NOT_TCP_OR_UDP,
    NOTHING,
    TUNNEL,
    cut_or_malformed,
    u16,
)

TUNNELS: dict[str, Tunnel] = {tunnel.name: tunnel for tunnel in described(__name__, "TUNNELS")}
"""What `Decapsulate` may name."""
USUAL_PORTS = {name: tunnel.udp.ports if tunnel.udp is not None else () for name, tunnel in TUNNELS.items()}
"""UDP ports of each; none of what is not over UDP."""
MOST_PORTS = 16
"""That `Decapsulate` may name besides."""
UNREAD = ("amsdu_not_split", *(f"{name}_not_decapsulated" for name in TUNNELS))
"""Counters of packets with something inside that was not read: the further packets of an aggregated 802.11 frame, or a
tunnel that `Decapsulate` does not name. A PACKET's `unread` is the number in this list plus one, or 0."""
NUMBERS = {name: number for number, name in enumerate(TUNNELS, 2)}

_UDP: dict[int, OverUdp] = {NUMBERS[t.name]: t.udp for t in TUNNELS.values() if t.udp is not None}
_IP: dict[int, OverIp] = {NUMBERS[t.name]: t.ip for t in TUNNELS.values() if t.ip is not None}
_EITHER_PORT = sum(1 << number for number, udp in _UDP.items() if udp.either_port)
_KINDS, _LOWEST, _SPAN, _ENDINGS, _PORTS, _FIRST = range(6)
_KNOWN_PORTS = {port: number for number, udp in _UDP.items() for port in (*udp.other_ports, *udp.ports)}
_PORT_OF_HOSTS = next((port for port in _KNOWN_PORTS if port >= 32768), -1)
"""One that hosts choose as well, such as TZSP's: it is looked for by itself, which does not slow down other packets."""
TABLE_NUMBERS = _FIRST + MOST_PORTS + len(_KNOWN_PORTS) + 1
"""Of a tunnel table (int64): a bit for each kind that is looked into; the lowest port, and how far the highest is from
it, and the set of the lower six bits of ports, but for `_PORT_OF_HOSTS`; how many ports there are; and of each port,
which is 65,536 * kind + port, negative when it is not looked into."""


def ports_read(decapsulate: Iterable[str]) -> dict[int, str]:
    """UDP ports, and the tunnels that are looked into there: usual ones of kinds that are named, and `KIND:PORT`."""
    entries = [entry.partition(":") for entry in decapsulate]
    usual = {port: name for name, _, configured in entries if not configured for port in USUAL_PORTS[name]}
    return usual | {int(configured): name for name, _, configured in entries if configured}


def kinds_read(decapsulate: Iterable[str]) -> set[str]:
    """Tunnels that are named without a port, and those that they include."""
    named = {entry for entry in decapsulate if ":" not in entry}
    return named | {name for name, tunnel in TUNNELS.items() if tunnel.included_in in named}


def tunnel_table(decapsulate: Iterable[str]) -> NDArray[np.int64]:
    """The table for `Decapsulate`: names of kinds, which stand for their usual ports, and `KIND:PORT`."""
    decapsulate = tuple(decapsulate)
    table = np.zeros(TABLE_NUMBERS, np.int64)
    table[_KINDS] = sum(1 << NUMBERS[name] for name in kinds_read(decapsulate))
    read = ports_read(decapsulate)
    entries = [(NUMBERS[name] << 16) + port for port, name in read.items()]
    entries += [-((number << 16) + port) for port, number in _KNOWN_PORTS.items() if port not in read]
    ports = sorted({*_KNOWN_PORTS, *read} - {_PORT_OF_HOSTS})
    table[_LOWEST], table[_SPAN] = ports[0], ports[-1] - ports[0]
    for port in ports:
        table[_ENDINGS] |= np.uint64(1 << (port & 63)).astype(np.int64)
    table[_PORTS] = len(entries)
    table[_FIRST : _FIRST + len(entries)] = entries
    return table


def _names(of: dict[int, OverUdp] | dict[int, OverIp], attribute: str) -> dict[str, Reader]:
    """Compiled functions under the names that they have in choices."""
    found = {f"{attribute}_{number}": getattr(over, attribute) for number, over in of.items()}
    return {name: function for name, function in found.items() if function is not None}


def _reader(of: dict[int, OverUdp] | dict[int, OverIp]) -> Reader:
    """The function (number, buffer, i, end, wire_end) that reads any tunnel over UDP, or over IP."""
    results = {f"read_{number}(buffer, i, end, wire_end)": [number] for number in of}
    return choice("number, buffer, i, end, wire_end", results, f"(i, {NOTHING})", _names(of, "read"))


def _ip_numbers() -> Reader:
    """The function (protocol, buffer, i, end) that says which tunnel is behind an IP header; 0 for none."""
    results: dict[str, list[int]] = {}
    for protocol in sorted({protocol for ip in _IP.values() for protocol in ip.protocols}):
        result = "0"
        # Those that have to be asked are asked first.
        for number, ip in sorted(_IP.items(), key=lambda item: item[1].is_one is not None):
            if protocol in ip.protocols:
                asked = f"({number} if is_one_{number}(buffer, i, end) else {result})"
                result = str(number) if ip.is_one is None else asked
        results.setdefault(result, []).append(protocol)
    return choice("protocol, buffer, i, end", results, "0", _names(_IP, "is_one"))


def _udp_doubts() -> Reader:
    """The function (number, buffer, i, end, wire_end, port) that decides for a datagram that may be of others."""
    asked = [number for number, udp in _UDP.items() if udp.is_one is not None]
    results = {f"is_one_{number}(buffer, i, end, wire_end, port)": [number] for number in asked}
    return choice("number, buffer, i, end, wire_end, port", results, "True", _names(_UDP, "is_one"))


_read_udp, _read_ip, _ip_number, _is_surely = _reader(_UDP), _reader(_IP), _ip_numbers(), _udp_doubts()


@inlined
def may_be_tunnel(tunnels, source_port, destination_port):
    """False for nearly all pairs of ports that no tunnel has."""
    lowest, span, endings = tunnels[_LOWEST], tunnels[_SPAN], tunnels[_ENDINGS]
    is_source = (np.uint64(source_port - lowest) <= np.uint64(span)) & ((endings >> (source_port & 63)) & 1)
    is_destination = (np.uint64(destination_port - lowest) <= np.uint64(span)) & (
        (endings >> (destination_port & 63)) & 1
    )
    return (is_source | is_destination | (destination_port == _PORT_OF_HOSTS)) != 0  # one branch


@helper
def _port_entry(tunnels, port):
    for i in range(_FIRST, _FIRST + min(tunnels[_PORTS], TABLE_NUMBERS - _FIRST)):
        if abs(tunnels[i]) & 0xFFFF == port:
            return tunnels[i]
    return 0


@helper
def udp_tunnel(buffer, i, end, wire_end, tunnels, r):
    """What is in the payload of a UDP header at `i`: offset and kind; NOTHING when it is no tunnel to look into.

    The destination port tells; of some tunnels the source port does as well.
    """
    entry = _port_entry(tunnels, u16(buffer, i + 2))
    if entry == 0:
        entry = _port_entry(tunnels, u16(buffer, i))
        if not (_EITHER_PORT >> (abs(entry) >> 16)) & 1:
            return i, NOTHING
    number = abs(entry) >> 16
    i += 8
    inner, kind = i, NOTHING
    if entry > 0 or _is_surely(number, buffer, i, end, wire_end, -entry & 0xFFFF):
        inner, kind = _read_udp(number, buffer, i, end, wire_end)
    fits = kind > NOTHING and kind != CUT and inner < end
    if fits and entry > 0:
        return inner, kind
    r.tunnel_port = number
    r.unread = number if fits else 0
    return i, NOTHING


@helper
def ip_tunnel(buffer, i, end, wire_end, protocol, tunnels, r):
    """What is in an IP packet that is neither TCP nor UDP: (reason, offset, kind)."""
    if protocol == 50:
        return ENCRYPTED, i, NOTHING
    number = _ip_number(protocol, buffer, i, end)
    if number == 0:
        return NOT_TCP_OR_UDP, i, NOTHING
    inner, kind = i, -TUNNEL
    if tunnels[_KINDS] >> number & 1:
        inner, kind = _read_ip(number, buffer, i, end, wire_end)
    if kind > NOTHING and kind != CUT:
        return NOT_IP, inner, kind
    if kind == -TUNNEL:
        r.unread = number
    if kind == CUT:
        return cut_or_malformed(end, wire_end), i, NOTHING
    return NOT_IP if kind == NOTHING else -kind, i, NOTHING
