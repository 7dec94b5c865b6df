"""`Decapsulate`: the tunnels that are looked into."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from trafficrefinery.errors import did_you_mean
from trafficrefinery.packets.tunnels import MOST_PORTS, TUNNELS, USUAL_PORTS

from .fields import once_each
from .text import quoted

_PATTERN = f"^({'|'.join(TUNNELS)}|({'|'.join(name for name, ports in USUAL_PORTS.items() if ports)}):[0-9]{{1,5}})$"


def _check_tunnel(entry: str) -> str:
    name, colon, port = entry.partition(":")
    if name not in TUNNELS:
        near = did_you_mean(name, TUNNELS)
        raise ValueError(f"must be one of {', '.join(map(quoted, TUNNELS))}, not {quoted(entry)}{near}")
    if colon and not USUAL_PORTS[name]:
        raise ValueError(f'"{name}" has no UDP port; write {quoted(name)}, not {quoted(entry)}')
    if colon and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{quoted(entry)} names no UDP port, such as {quoted(f'{name}:{USUAL_PORTS[name][0]}')}")
    return f"{name}:{int(port)}" if colon else name


def _check_ports(entries: tuple[str, ...]) -> tuple[str, ...]:
    once_each(entries)
    pairs = [(port, name) for name, _, port in (entry.partition(":") for entry in entries) if port]
    owners = dict(pairs)
    for port, name in pairs:
        if owners[port] != name:
            raise ValueError(f'UDP port {port} cannot be both of "{name}" and of "{owners[port]}"')
    if len(pairs) > MOST_PORTS:
        raise ValueError(f"names {len(pairs)} UDP ports; at most {MOST_PORTS} are possible")
    return entries


Tunnel = Annotated[str, AfterValidator(_check_tunnel), WithJsonSchema({"type": "string", "pattern": _PATTERN})]
Decapsulation = Annotated[tuple[Tunnel, ...], AfterValidator(_check_ports)]
DESCRIPTION = (
    "Tunnels to decapsulate: their inner packets are counted instead of the outer ones. UDP tunnels are found at their "
    'usual ports (`"vxlan"`), and at others that are named (`"vxlan:8472"`). '
    + "; ".join(f"`{name}`: {tunnel.text}" for name, tunnel in TUNNELS.items())
    + "."
)
