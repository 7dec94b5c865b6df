"""IP prefixes to services: disjoint ranges of 128-bit addresses, searched by halving.

Addresses are pairs of uint64 (upper, lower half); IPv4 is mapped into ::ffff:0:0/96.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficrefinery.jit import helper, kernel
from trafficrefinery.jit.memory import table_of

Prefix = str | ipaddress.IPv4Network | ipaddress.IPv6Network

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_EVERYTHING = (_MAPPED, ipaddress.IPv6Network("::/0"))
_LOW = 0xFFFF_FFFF_FFFF_FFFF


class PrefixTables(NamedTuple):
    """Disjoint ranges that cover all addresses from the first start on, sorted; each reaches up to the next start."""

    start_hi: NDArray[np.uint64]
    start_lo: NDArray[np.uint64]
    service: NDArray[np.int32]  # -1: no prefix
    wildcard: NDArray[np.bool_]  # the prefix is everything: 0.0.0.0/0 or ::/0


@helper
def lookup_prefix(tables: PrefixTables, hi: np.uint64, lo: np.uint64) -> tuple[int, bool]:
    """The service of the longest prefix that an address is in, or -1, and whether that prefix is everything."""
    low, high = 0, len(tables.start_hi)
    while low < high:
        middle = (low + high) >> 1
        start_hi = tables.start_hi[middle]
        if start_hi < hi or (start_hi == hi and tables.start_lo[middle] <= lo):
            low = middle + 1
        else:
            high = middle
    if low == 0:
        return -1, False
    return int(tables.service[low - 1]), bool(tables.wildcard[low - 1])


@kernel
def _find(tables: PrefixTables, hi: np.uint64, lo: np.uint64) -> tuple[int, bool]:
    return lookup_prefix(tables, hi, lo)


class PrefixTable:
    """Which service an address belongs to by IP prefix; the longest prefix wins. ::/0 does not cover IPv4.

    Args:
        prefixes: of each service, as text (`192.0.2.0/24`, `2001:db8::/32`, or a single address) or network.
        names: of the services, for messages.

    Raises:
        ValueError: for what is no prefix, and for the same prefix in two services.
    """

    def __init__(self, prefixes: Sequence[Sequence[Prefix]], names: Sequence[str] = ()) -> None:
        owner: dict[ipaddress.IPv6Network, int] = {}
        for service, networks in enumerate(prefixes):
            for prefix in networks:
                first = owner.setdefault(_mapped(prefix), service)
                if first != service:
                    both = " and ".join(f'"{names[index]}"' if names else str(index) for index in (first, service))
                    raise ValueError(f"prefix {prefix} is in two services, {both}")
        if owner:
            owner.setdefault(_MAPPED, -1)
        ranges = _ranges(owner)
        self.tables = PrefixTables(
            table_of([start >> 64 for start, _ in ranges], np.uint64),
            table_of([start & _LOW for start, _ in ranges], np.uint64),
            table_of([-1 if network is None else owner[network] for _, network in ranges], np.int32),
            table_of([network in _EVERYTHING and owner[network] >= 0 for _, network in ranges], np.bool_),
        )

    def find(self, hi: int, lo: int) -> tuple[int, bool]:
        """The service of an address, or -1, and whether only a prefix for everything covers it."""
        service, wildcard = _find(self.tables, np.uint64(hi), np.uint64(lo))
        return int(service), bool(wildcard)


def _mapped(prefix: Prefix) -> ipaddress.IPv6Network:
    network = ipaddress.ip_network(prefix, strict=False)
    if isinstance(network, ipaddress.IPv6Network):
        return network
    base = int(_MAPPED.network_address) | int(network.network_address)
    return ipaddress.IPv6Network((base, 96 + network.prefixlen))


def _ranges(networks: dict[ipaddress.IPv6Network, int]) -> list[tuple[int, ipaddress.IPv6Network | None]]:
    """Starts of the ranges, with the longest prefix that covers each. Of equal starts, the last one counts."""
    ranges: list[tuple[int, ipaddress.IPv6Network | None]] = []
    around: list[ipaddress.IPv6Network] = []  # the prefixes that are open, the innermost last

    def close_before(start: int) -> None:
        while around and int(around[-1].broadcast_address) < start:
            end = int(around.pop().broadcast_address) + 1
            if end < 1 << 128:
                ranges.append((end, around[-1] if around else None))

    for network in sorted(networks, key=lambda network: (int(network.network_address), network.prefixlen)):
        start = int(network.network_address)
        close_before(start)
        ranges.append((start, network))
        around.append(network)
    close_before(1 << 128)
    return ranges
