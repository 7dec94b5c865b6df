"""Timestamps that a network card makes, where it can and its clock agrees with the time of day."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import time

from trafficrefinery.capture.interfaces import ethtool

_SIOCSHWTSTAMP, _SIOCGHWTSTAMP, _ETHTOOL_GET_TS_INFO = 0x89B0, 0x89B1, 0x41
_TX_OFF, _RX_ALL = 0, 1  # HWTSTAMP_ of linux/net_tstamp.h
_RECEIVES, _RAW = 1 << 2, 1 << 6  # SOF_TIMESTAMPING_RX_HARDWARE, _RAW_HARDWARE
MAX_DIFFERENCE_NS = 100_000_000
"""A card's clock that nobody sets starts in 1970 or counts leap seconds: intervals would end at the wrong time."""


def start_card_clock(control: socket.socket, name: str) -> bool:
    """Have the card stamp all frames that it receives; False where it does not, or its clock is not set."""
    try:
        info = ethtool(control, name, struct.pack("I", _ETHTOOL_GET_TS_INFO) + bytes(40))
        abilities, clock = struct.unpack_from("Ii", info, 4)
        (filters,) = struct.unpack_from("I", info, 28)
        if abilities & (_RECEIVES | _RAW) != _RECEIVES | _RAW or not filters >> _RX_ALL & 1 or clock < 0:
            return False
        return abs(_card_time_ns(clock) - time.time_ns()) < MAX_DIFFERENCE_NS and _stamp_all(control, name)
    except OSError:
        return False


def _card_time_ns(number: int) -> int:
    fd = os.open(f"/dev/ptp{number}", os.O_RDONLY)
    try:
        return time.clock_gettime_ns(~fd << 3 | 3)  # FD_TO_CLOCKID of the kernel's headers
    finally:
        os.close(fd)


def _stamp_all(control: socket.socket, name: str) -> bool:
    """What the card does for others, such as stamping what it sends for ptp4l, it goes on doing."""
    settings = struct.pack("iii", 0, _TX_OFF, 0)
    try:
        settings = _ioctl(control, _SIOCGHWTSTAMP, name, settings)
    except OSError:  # the driver is too old to tell
        return False
    flags, sending, receiving = struct.unpack("iii", settings)
    if receiving != _RX_ALL:
        settings = _ioctl(control, _SIOCSHWTSTAMP, name, struct.pack("iii", flags, sending, _RX_ALL))
    return bool(struct.unpack("iii", settings)[2] == _RX_ALL)


def _ioctl(control: socket.socket, request: int, name: str, settings: bytes) -> bytes:
    data = ctypes.create_string_buffer(settings, len(settings))
    fcntl.ioctl(control, request, struct.pack("16sP16x", name.encode(), ctypes.addressof(data)))
    return data.raw
