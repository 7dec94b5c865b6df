"""What a process of the daemon may do beside reading and writing its own files, and how it gives that up.

The systemd unit starts it as a user of its own with three capabilities; by hand it is mostly started as root, who may
do everything. Packets of strangers are read by processes that keep nothing of that. (capabilities(7), prctl(2))
"""

from __future__ import annotations

import ctypes
import os
from enum import IntEnum
from pathlib import Path

from . import logs


class Capability(IntEnum):
    """Numbers of `linux/capability.h`."""

    DAC_OVERRIDE = 1
    NET_ADMIN = 12
    NET_RAW = 13
    IPC_LOCK = 14
    SYS_NICE = 23
    BPF = 39


FILES = (Capability.DAC_OVERRIDE,)
"""To write where a user lets root write: into folders of that user."""
CAPTURE = (Capability.NET_RAW, Capability.NET_ADMIN, Capability.IPC_LOCK)
"""To open sockets: an interface that was gone is opened anew, and so is what a reload names."""
SUPERVISOR = (*CAPTURE, *FILES, Capability.SYS_NICE)
"""What its processes may have: those that it starts get no more."""
XDP_SUPERVISOR = (*SUPERVISOR, Capability.BPF)
"""The same with AF_XDP, whose program is loaded again with an interface that was gone."""

_VERSION = 0x20080522  # of struct __user_cap_header_struct: sets of 64 bits
_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 23, 24, 38
_MASK = (1 << 32) - 1


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    """One half, of 32 capabilities."""

    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


_libc = ctypes.CDLL(None, use_errno=True)


def permitted() -> int:
    """The capabilities of this thread, as bits."""
    halves = (_Sets * 2)()
    _call(_libc.capget, halves)
    return int(halves[0].permitted) | int(halves[1].permitted) << 32


def keep_only(kept: tuple[Capability, ...]) -> None:
    """Give up all capabilities but these, for this process and what it starts; it gets none back.

    Threads that run already keep theirs, so this comes first in a process wherever that is possible.
    """
    wanted = sum(1 << one for one in kept)
    try:
        _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
        for number in range(last + 1):  # as long as it may: this needs CAP_SETPCAP
            if not wanted >> number & 1 and _libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) == 1:
                _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
        halves = (_Sets * 2)()
        _call(_libc.capget, halves)
        for half, shift in zip(halves, (0, 32), strict=True):
            mask = wanted >> shift & _MASK
            half.permitted &= mask
            half.effective = half.permitted
            half.inheritable &= mask
        _call(_libc.capset, halves)
    except OSError as error:
        logs.warning(f"capabilities could not be given up: {error.strerror}")


def _call(function: ctypes._NamedFuncPointer, halves: ctypes.Array[_Sets]) -> None:
    if function(ctypes.byref(_Header(_VERSION, 0)), halves) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
