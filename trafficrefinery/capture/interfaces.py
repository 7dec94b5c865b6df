"""Network interfaces as the kernel tells of them: link type, MTU, losses of the interface, receive offloads.

All by netlink and ioctl, which answer for the network namespace of the caller; /sys may belong to another one.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from typing import NamedTuple

from trafficrefinery.errors import UsageError, did_you_mean

_RTM_GETLINK, _NLM_F_REQUEST, _NLMSG_ERROR = 18, 1, 2
_IFLA_IFNAME, _IFLA_MTU, _IFLA_STATS64 = 3, 4, 23
_RX_DROPPED, _RX_MISSED_ERRORS = 6, 15  # in rtnl_link_stats64
_IFF_UP, _IFF_RUNNING, _IFF_LOWER_UP = 0x1, 0x40, 0x10000

_SIOCGIFFLAGS, _SIOCETHTOOL = 0x8913, 0x8946
_ETHTOOL_GSTRINGS, _ETHTOOL_GSSET_INFO, _ETHTOOL_GFEATURES, _ETHTOOL_GCHANNELS = 0x1B, 0x37, 0x3A, 0x3C
_ETH_SS_FEATURES, _STRING_BYTES = 4, 32
MERGING = ("rx-gro", "rx-lro", "rx-gro-hw", "rx-gro-list", "rx-udp-gro-forwarding")
TAKING_TAGS = ("rx-vlan-hw-parse", "rx-vlan-stag-hw-parse")


class Link(NamedTuple):
    """One interface."""

    name: str
    number: int  # its index in the kernel
    hardware_type: int  # ARPHRD_ number
    mtu_bytes: int
    is_up: bool  # by its administrator, and with a carrier
    rx_dropped: int  # packets since it came to be
    rx_missed_errors: int


def find_link(name: str) -> Link:
    """Ask for an interface.

    Raises:
        UsageError: there is none of that name.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        attribute = name.encode() + b"\0"
        body = bytes(16) + struct.pack("HH", 4 + len(attribute), _IFLA_IFNAME) + attribute + bytes(-len(attribute) % 4)
        netlink.send(struct.pack("IHHII", 16 + len(body), _RTM_GETLINK, _NLM_F_REQUEST, 1, 0) + body)
        answer = netlink.recv(65536)
    (kind,) = struct.unpack_from("H", answer, 4)
    if kind == _NLMSG_ERROR:
        raise no_such_interface(name)
    hardware_type, index, flags = struct.unpack_from("2xHiI", answer, 16)
    mtu_bytes, drops, missed = 0, 0, 0
    at = 32
    while at + 4 <= len(answer):
        attribute_bytes, code = struct.unpack_from("HH", answer, at)
        if code == _IFLA_MTU:
            (mtu_bytes,) = struct.unpack_from("I", answer, at + 4)
        elif code == _IFLA_STATS64:
            counts = struct.unpack_from(f"{_RX_MISSED_ERRORS + 1}Q", answer, at + 4)
            drops, missed = counts[_RX_DROPPED], counts[_RX_MISSED_ERRORS]
        at += max(attribute_bytes + 3 & ~3, 4)
    is_up = bool(flags & _IFF_UP and flags & _IFF_LOWER_UP)
    return Link(name, index, hardware_type, mtu_bytes, is_up, drops, missed)


def no_such_interface(name: str) -> UsageError:
    """What to say of a name that no interface has."""
    names = [known for _, known in socket.if_nameindex()]
    near = did_you_mean(name, names) or f"; there are {', '.join(names)}"
    return UsageError(f'Capture.Interfaces: there is no interface "{name}"{near}')


def interface_drops(name: str) -> dict[str, int]:
    """Packets that the interface itself lost since it came to be; empty when it is gone."""
    try:
        link = find_link(name)
    except UsageError:
        return {}
    return {"rx_missed_errors": link.rx_missed_errors, "rx_dropped": link.rx_dropped}


def receive_offloads(name: str, wanted: tuple[str, ...] = MERGING) -> list[str]:
    """Those offloads that are on and change frames before they are captured, as `ethtool` names them.

    Frames that are merged so were never on the wire: packet counts and sizes are wrong.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            return _active_features(control, name, wanted)
        except OSError:  # no ethtool for this kind of interface
            return []


def receive_queues(name: str) -> int:
    """How many queues an interface receives on; 1 when its driver does not say."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            numbers = struct.unpack("9I", ethtool(control, name, struct.pack("9I", _ETHTOOL_GCHANNELS, *[0] * 8)))
        except OSError:
            return 1
    return max(1, int(numbers[5]) + int(numbers[8]))  # those for receiving alone, and for both


def ethtool(control: socket.socket, name: str, request: bytes) -> bytes:
    """One request of ethtool; the answer has its size. Raises OSError when the driver has no answer."""
    data = ctypes.create_string_buffer(request, len(request))
    fcntl.ioctl(control, _SIOCETHTOOL, struct.pack("16sP16x", name.encode(), ctypes.addressof(data)))
    return data.raw


def _active_features(control: socket.socket, name: str, wanted: tuple[str, ...]) -> list[str]:
    answer = ethtool(control, name, struct.pack("IIQI", _ETHTOOL_GSSET_INFO, 0, 1 << _ETH_SS_FEATURES, 0))
    (count,) = struct.unpack_from("I", answer, 16)
    strings = ethtool(
        control, name, struct.pack("III", _ETHTOOL_GSTRINGS, _ETH_SS_FEATURES, count) + bytes(count * _STRING_BYTES)
    )
    words = -(-count // 32)
    masks = ethtool(control, name, struct.pack("II", _ETHTOOL_GFEATURES, words) + bytes(16 * words))
    active = []
    for number in range(count):
        feature = strings[12 + number * _STRING_BYTES :][:_STRING_BYTES].split(b"\0")[0].decode()
        (mask,) = struct.unpack_from("I", masks, 8 + 16 * (number // 32) + 8)
        if feature in wanted and mask >> number % 32 & 1:
            active.append(feature)
    return active


def interface_runs(control: socket.socket, name: str) -> bool | None:
    """Whether an interface is up with a carrier, which the kernel notes within a second; None when it is gone."""
    try:
        answer = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16s24x", name.encode()))
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENXIO):
            return None
        raise
    (flags,) = struct.unpack_from("H", answer, 16)
    return bool(flags & _IFF_UP and flags & _IFF_RUNNING)


def available_memory_bytes() -> int:
    """What can be taken without swapping."""
    with open("/proc/meminfo") as lines:  # noqa: PTH123 (a kernel's table, not a file of ours)
        for line in lines:
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                return int(rest.split()[0]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
