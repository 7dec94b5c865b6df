"""Two more commands of bpf(2), which only tests need."""

from __future__ import annotations

import ctypes
import os
import platform
import struct

from trafficrefinery.capture.bpf import calls

_MAP_DELETE, _TEST_RUN = 3, 10  # enum bpf_cmd
_ATTRIBUTE_BYTES = 128


def _bpf(command: int, attribute: bytes) -> bytes:
    """The attribute as the kernel leaves it. Raises OSError."""
    buffer = ctypes.create_string_buffer(attribute, _ATTRIBUTE_BYTES)
    number = calls._CALL[platform.machine()]
    if ctypes.CDLL(None, use_errno=True).syscall(number, command, buffer, _ATTRIBUTE_BYTES) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return buffer.raw


def delete_from_map(fd: int, key: int) -> None:
    """The key is a number of 4 bytes. Raises OSError."""
    number = ctypes.c_uint32(key)
    _bpf(_MAP_DELETE, struct.pack("=I4xQ", fd, ctypes.addressof(number)))


def run_once(program: int, frame: bytes) -> int:
    """What a program returns for a frame (BPF_PROG_TEST_RUN). Raises OSError."""
    data = ctypes.create_string_buffer(frame, len(frame))
    left = _bpf(_TEST_RUN, struct.pack("=IIIIQQII", program, 0, len(frame), 0, ctypes.addressof(data), 0, 1, 0))
    return int(struct.unpack_from("I", left, 4)[0])
