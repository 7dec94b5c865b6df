"""The system call bpf(2): maps, programs, and links, each a file descriptor that lives as long as somebody has it.

Two numbers of a register, a structure and an answer: less than what a binding of libbpf would be, which wants a program
as an object file of a C compiler (for libxdp, so does the dispatcher).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

_CALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
_MAP_CREATE, _MAP_UPDATE, _PROG_LOAD, _LINK_CREATE = 0, 2, 5, 28  # enum bpf_cmd
ARRAY, SOCKETS, RING = 2, 17, 27  # enum bpf_map_type
_PROGRAM_TYPE, _ATTACH_TYPE, _MAPPABLE = 6, 37, 1 << 10  # BPF_PROG_TYPE_XDP, BPF_XDP, BPF_F_MMAPABLE
NATIVE, GENERIC = 1 << 2, 1 << 1  # XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE
_ATTRIBUTE_BYTES, _LOG_BYTES = 128, 1 << 16
_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, form: str, *values: int) -> int:
    attribute = ctypes.create_string_buffer(struct.pack(f"={form}", *values), _ATTRIBUTE_BYTES)
    number = _CALL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"the number of bpf(2) on {platform.machine()} is not known")
    found: int = _libc.syscall(number, command, attribute, _ATTRIBUTE_BYTES)
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found


def make_map(kind: int, key_bytes: int, value_bytes: int, entries: int) -> int:
    """A map; an array can be mapped into memory. Raises OSError."""
    return _bpf(_MAP_CREATE, "5I", kind, key_bytes, value_bytes, entries, _MAPPABLE if kind == ARRAY else 0)


def set_in_map(fd: int, key: int, value: int) -> None:
    """Both are numbers of 4 bytes. Raises OSError."""
    numbers = (ctypes.c_uint32 * 2)(key, value)
    address = ctypes.addressof(numbers)
    _bpf(_MAP_UPDATE, "I4xQQQ", fd, address, address + 4, 0)


def load_program(instructions: bytes) -> int:
    """An XDP program. Raises OSError: the kernel's reason is the last line that the verifier wrote, if it wrote any."""
    code, licence = ctypes.create_string_buffer(instructions, len(instructions)), ctypes.create_string_buffer(b"GPL")
    count, addresses = len(instructions) // 8, (ctypes.addressof(code), ctypes.addressof(licence))
    try:
        return _bpf(_PROG_LOAD, "IIQQ", _PROGRAM_TYPE, count, *addresses)
    except OSError as error:
        log = ctypes.create_string_buffer(_LOG_BYTES)
        try:
            return _bpf(_PROG_LOAD, "IIQQIIQ", _PROGRAM_TYPE, count, *addresses, 1, len(log), ctypes.addressof(log))
        except OSError:
            said = log.value.decode(errors="replace").strip().splitlines()[-3:]
            raise OSError(error.errno, "; ".join([os.strerror(error.errno or 0), *said])) from None


def attach(program: int, interface: int, mode: int) -> int:
    """A link: the program is detached when its last descriptor is closed. Raises OSError."""
    return _bpf(_LINK_CREATE, "4I", program, interface, _ATTACH_TYPE, mode)
