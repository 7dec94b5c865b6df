"""tcpdump's filter expressions, compiled by libpcap to programs that the kernel runs on each frame."""

from __future__ import annotations

import ctypes
import ctypes.util
import re
from functools import cache
from typing import Any

from trafficrefinery.errors import UsageError

# libpcap's own link types, which differ from those in files for raw IP.
_DLT = {1: 1, 101: 12}
_SNAP_BYTES, _NETMASK_UNKNOWN, _MESSAGE_BYTES = 262_144, 0xFFFF_FFFF, 256
_INSTRUCTION_BYTES = 8


class _Compiled(ctypes.Structure):
    """struct bpf_program"""

    _fields_ = (("count", ctypes.c_uint), ("instructions", ctypes.c_void_p))


@cache
def _libpcap() -> Any:  # ctypes knows no types of a library
    for name in (ctypes.util.find_library("pcap"), "libpcap.so.0.8", "libpcap.so.1", "libpcap.so"):
        if name is not None:
            try:
                library = ctypes.CDLL(name)
            except OSError:
                continue
            for function in (library.pcap_open_dead, library.pcap_create):
                function.restype = ctypes.c_void_p
            library.pcap_geterr.restype = ctypes.c_char_p
            return library
    raise UsageError("Capture.Filter: libpcap is missing, which reads it; install it (Debian: libpcap0.8)")


def compile_filter(expression: str, link_type: int = 1, interface: str | None = None) -> bytes:
    """The classic BPF program of an expression; it returns 0 for frames that are not wanted.

    Args:
        expression: as of tcpdump.
        link_type: LINKTYPE_ number of the frames, 1 or 101.
        interface: where the program will run. `vlan` asks for it: the kernel takes the outer tag out of a frame, and
            libpcap compiles for that only what a socket on an interface asks for.

    Raises:
        UsageError: with libpcap's words.
    """
    library = _libpcap()
    live = interface is not None and re.search(r"\bvlan\b", expression)
    handle = _live_handle(library, interface or "") if live else library.pcap_open_dead(_DLT[link_type], _SNAP_BYTES)
    handle = ctypes.c_void_p(handle)
    try:
        program = _Compiled()
        arguments = expression.encode(), ctypes.c_int(1), ctypes.c_uint(_NETMASK_UNKNOWN)
        if library.pcap_compile(handle, ctypes.byref(program), *arguments) != 0:
            message = library.pcap_geterr(handle).decode(errors="replace")
            raise UsageError(
                f'Capture.Filter: "{expression}" is not a filter expression: {message}; see pcap-filter(7)'
            )
        code = ctypes.string_at(program.instructions, program.count * _INSTRUCTION_BYTES)
        library.pcap_freecode(ctypes.byref(program))
        return code
    finally:
        library.pcap_close(handle)


def _live_handle(library: Any, interface: str) -> int:
    message = ctypes.create_string_buffer(_MESSAGE_BYTES)
    handle = library.pcap_create(interface.encode(), message)
    if not handle:
        raise UsageError(f'Capture.Filter: "vlan" cannot be compiled for {interface}: {message.value.decode()}')
    if library.pcap_activate(ctypes.c_void_p(handle)) < 0:
        reason = library.pcap_geterr(ctypes.c_void_p(handle)).decode(errors="replace")
        library.pcap_close(ctypes.c_void_p(handle))
        raise UsageError(
            f'Capture.Filter: "vlan" cannot be compiled for {interface} ({reason}); is it up? Try `ip link set '
            f"{interface} up`"
        )
    return int(handle)
