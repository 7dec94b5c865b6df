"""Whether the `Host` of a request is one of this listener.

A page in a browser can give its own name an address of this machine (DNS rebinding) and would then read what the
listener answers; but its requests carry that name. A request by address is from no such page.
"""

from __future__ import annotations

import ipaddress
import socket

from trafficrefinery.config.daemon import Metrics, split_listen


def is_own_host(host: str, metrics: Metrics) -> bool:
    """Whether a `Host` header, with or without a port, names loopback, the configured listener or names, or is an
    address of this machine."""
    name = host_name(host)
    listens = () if metrics.listen is None else (split_listen(metrics.listen)[0],)
    return name in {"localhost", *map(host_name, (*listens, *metrics.host_names))} or _is_own_address(name)


def host_name(host: str) -> str:
    """The name or address of `Host`, in small letters, without port, brackets and final dot."""
    host = host.strip()
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    if host.count(":") == 1:
        host = host.partition(":")[0]
    return host.removesuffix(".").lower()


def _is_own_address(name: str) -> bool:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    if address.is_loopback:
        return True
    if address.is_unspecified or address.is_multicast:
        return False
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((name, 0))  # the kernel binds to addresses of the machine only
        except OSError:
            return False
    return True
