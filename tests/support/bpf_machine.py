"""Classic BPF as the kernel runs it, for one frame; what lies outside the frame ends the program with 0."""

from __future__ import annotations

import struct
from functools import cache

PROTOCOL, PACKET_TYPE = 0xFFFFF000, 0xFFFFF004
MASK = 0xFFFFFFFF


@cache
def decoded(program: bytes) -> list[tuple[int, int, int, int]]:
    return list(struct.iter_unpack("HBBI", program))


def run(program: bytes, data: bytes, *, protocol: int = 0, packet_type: int = 0) -> int:
    code = decoded(program)
    a = x = at = 0
    memory: dict[int, int] = {}
    while True:
        op, if_true, if_false, k = code[at]
        at += 1
        kind = op & 7
        if kind == 6:
            return a if op == 0x16 else k
        if kind == 5:
            if op == 0x05:
                at += k
            else:
                other = x if op & 8 else k
                holds = {0x10: a == other, 0x20: a > other, 0x30: a >= other, 0x40: a & other != 0}[op & 0xF0]
                at += if_true if holds else if_false
        elif op == 0x20 and k in (PROTOCOL, PACKET_TYPE):
            a = protocol if k == PROTOCOL else packet_type
        elif kind == 0 and op & 0xE0 in (0x20, 0x40):
            start, size = k + (x if op & 0xE0 == 0x40 else 0), {0: 4, 8: 2, 16: 1}[op & 0x18]
            if start + size > len(data):
                return 0
            a = int.from_bytes(data[start : start + size])
        elif op == 0xB1:  # X = 4 * (the low half of a byte)
            if k >= len(data):
                return 0
            x = 4 * (data[k] & 15)
        elif op in (0x00, 0x01, 0x60, 0x61, 0x80):
            value = {0x00: k, 0x01: k, 0x80: len(data)}[op] if op in (0x00, 0x01, 0x80) else memory[k]
            a, x = (a, value) if kind == 1 else (value, x)
        elif op in (0x02, 0x03):
            memory[k] = a if op == 0x02 else x
        elif op in (0x07, 0x87):
            a, x = (a, a) if op == 0x07 else (x, x)
        elif kind == 4:
            other = x if op & 8 else k
            if op & 0xF0 in (0x30, 0x90) and other == 0:
                return 0
            a = {
                0x30: a // (other or 1), 0x90: a % (other or 1),
                0x00: a + other, 0x10: a - other, 0x20: a * other, 0x40: a | other, 0x50: a & other,
                0x60: a << other if op & 0xF0 == 0x60 else 0, 0x70: a >> min(other, 32), 0xA0: a ^ other,
            }[op & 0xF0] & MASK  # fmt: skip
        else:
            raise AssertionError(f"no such instruction: {op:#x}")
