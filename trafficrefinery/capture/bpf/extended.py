"""Extended BPF: an assembler, and classic programs as a part of an extended one.

XDP runs before there is a socket whose filter could be asked, so it takes extended BPF alone. What the project and
libpcap write is classic; each of its instructions is one or a few extended ones (Documentation/networking/filter.rst).
"""

from __future__ import annotations

import struct
import sys

from trafficrefinery.packets import bpf

# The instruction set of include/uapi/linux/bpf.h.
LD_MAP, LDX, ST, STX, ALU32, ALU64 = 0x18, 0x61, 0x62, 0x63, 0x04, 0x07
HALF, BYTE, DOUBLE = 0x08, 0x10, 0x18
REGISTER, MOVE, TO_BIG_ENDIAN = 0x08, 0xB0, 0xDC
JUMP, CALL, EXIT = 0x05, 0x85, 0x95
IF_EQUAL, IF_NOT_EQUAL, IF_GREATER, IF_LESS = 0x15, 0x55, 0x25, 0xA5
_NARROW = 0x01  # added to a jump: it compares 32 bits
_DIVIDE, _REMAINDER, _AND, _SHIFT_LEFT = 0x30, 0x90, 0x50, 0x60
_LDX_HEADER_LENGTH = 0xB1  # X = 4 * (the low half of a byte)
_MAP_FD, _MAP_VALUE, _ATOMIC, _ADD = 1, 2, 0xDB, 0
LOAD_BYTES, LENGTH = 189, 188  # bpf_xdp_load_bytes, bpf_xdp_get_buff_len: Linux 5.18

CONTEXT, X, A, SAVED, FRAME = 6, 7, 8, 9, 10
"""Registers that calls leave alone: struct xdp_md, those of classic BPF, one for the caller; and that of the stack."""
LOADED = -8
"""Where on the stack a load puts its bytes."""
_MEMORY = -72  # where on the stack the 16 words are of classic BPF
_SIZES = {0x00: 4, 0x08: 2, 0x10: 1}


class Extended:
    """Instructions with labels."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int, object]] = []  # code, registers, offset, value, label
        self._labels: dict[object, int] = {}
        self._names = 0

    def label(self) -> object:
        """A new one."""
        self._names += 1
        return self._names

    def place(self, label: object) -> None:
        """The next instruction has this label."""
        self._labels[label] = len(self._code)

    def emit(self, code: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> None:
        """One instruction."""
        registers = target | source << 4 if sys.byteorder == "little" else target << 4 | source
        self._code.append((code, registers, offset, value & 0xFFFF_FFFF, None))

    def jump(self, label: object, code: int = JUMP, target: int = 0, value: int = 0, source: int = 0) -> None:
        """To a label; with a code, if that holds of a register and a value, or another register."""
        self.emit(code, target, source, 0, value)
        self._code[-1] = (*self._code[-1][:4], label)

    def move(self, target: int, value: int) -> None:
        """A register gets a number."""
        self.emit(ALU64 | MOVE, target, value=value)

    def copy(self, target: int, source: int, add: int = 0) -> None:
        """A register gets what another one has, and something more."""
        self.emit(ALU64 | MOVE | REGISTER, target, source)
        if add:
            self.emit(ALU64, target, value=add)

    def load_map(self, target: int, fd: int) -> None:
        """A register gets a map."""
        self.emit(LD_MAP, target, _MAP_FD, 0, fd)
        self.emit(0)

    def count(self, fd: int, offset: int) -> None:
        """Add one to a number in the value of an array map with one element."""
        self.emit(LD_MAP, 1, _MAP_VALUE, 0, fd)
        self.emit(0, value=offset)
        self.move(2, 1)
        self.emit(_ATOMIC, 1, 2, value=_ADD)

    def call(self, helper: int) -> None:
        """One of the kernel's functions: arguments in registers 1 to 5, the answer in 0."""
        self.emit(CALL, value=helper)

    def assembled(self) -> bytes:
        """The instructions as the kernel takes them."""
        out = bytearray()
        for number, (code, registers, offset, value, label) in enumerate(self._code):
            distance = offset if label is None else self._labels[label] - number - 1
            out += struct.pack("=BBhI", code, registers, distance, value)
        return bytes(out)

    def classic(self, program: bytes) -> None:
        """A classic program, with A as what it returns. It sees the frame from its Ethernet header on, tags in place.

        What it asks of a socket's packet is answered as for outgoing ones, which begin at their link header too.
        """
        code = list(struct.iter_unpack("HBBI", program))
        places: list[object] = [self.label() for _ in code]
        end, failed = self.label(), self.label()
        for number in sorted({k for op, _, _, k in code if op in (bpf.ST, bpf.STX, bpf.LD_MEMORY, bpf.LDX_MEMORY)}):
            self.emit(ST | DOUBLE, FRAME, offset=_MEMORY + 4 * (number & ~1))
        self.move(A, 0)
        self.move(X, 0)
        reached = {0}  # the kernel refuses what cannot be
        for place, (number, (op, if_true, if_false, k)) in zip(places, enumerate(code), strict=True):
            if number not in reached:
                continue
            self.place(place)
            kind = op & 7
            if kind == 5:
                reached |= {number + 1 + k} if op == JUMP else {number + 1 + if_true, number + 1 + if_false}
            elif kind != 6:
                reached.add(number + 1)
            if kind == 6:
                if op == bpf.RETURN:
                    self.emit(ALU32 | MOVE, A, value=k)
                self.jump(end)
            elif kind == 5:
                self._jump(op, k, places[number + 1 + (k if op == JUMP else if_true)], places[number + 1 + if_false])
            elif kind == 4:
                self._arithmetic(op, k, failed)
            else:
                self._other(op, k, failed)
        if any(label == failed for *_, label in self._code):
            self.place(failed)
            self.move(A, 0)
        self.place(end)

    def _jump(self, op: int, k: int, then: object, otherwise: object) -> None:
        if op == JUMP:
            self.jump(then)
            return
        self.jump(then, op + _NARROW, A, 0 if op & REGISTER else k, X if op & REGISTER else 0)
        self.jump(otherwise)

    def _arithmetic(self, op: int, k: int, failed: object) -> None:
        if op & 0xF0 in (_DIVIDE, _REMAINDER) and op & REGISTER:  # by 0 ends a classic program
            self.jump(failed, IF_EQUAL + _NARROW, X)
        self.emit(op, A, X if op & REGISTER else 0, 0, 0 if op & REGISTER else k)

    def _other(self, op: int, k: int, failed: object) -> None:
        memory = _MEMORY + 4 * k
        target = X if op & 7 == 1 else A
        if op in (bpf.LD_IMMEDIATE, bpf.LDX_IMMEDIATE):
            self.emit(ALU32 | MOVE, target, value=k)
        elif op in (bpf.LD_MEMORY, bpf.LDX_MEMORY):
            self.emit(LDX, target, FRAME, memory)
        elif op in (bpf.ST, bpf.STX):
            self.emit(STX, FRAME, A if op == bpf.ST else X, memory)
        elif op in (bpf.TAX, bpf.TXA):
            self.emit(ALU32 | MOVE | REGISTER, *((X, A) if op == bpf.TAX else (A, X)))
        elif op in (bpf.LD_LEN, bpf.LD_LEN | 1):
            self.copy(1, CONTEXT)
            self.call(LENGTH)
            self.emit(ALU32 | MOVE | REGISTER, target, 0)
        elif op == bpf.LD_WORD_AT and k == bpf.PACKET_TYPE:
            self.emit(ALU32 | MOVE, A, value=bpf.OUTGOING)
        elif op == bpf.LD_WORD_AT and k == bpf.PROTOCOL:
            self._load(2, 12, failed, indexed=False)
        elif op == _LDX_HEADER_LENGTH:
            self.copy(SAVED, A)
            self._load(1, k, failed, indexed=False)
            self.emit(ALU32 | _AND, A, value=15)
            self.emit(ALU32 | _SHIFT_LEFT, A, value=2)
            self.copy(X, A)
            self.copy(A, SAVED)
        else:
            self._load(_SIZES[op & 0x18], k, failed, indexed=op & 0xE0 == 0x40)

    def _load(self, size: int, k: int, failed: object, *, indexed: bool) -> None:
        """A = the big-endian number at k, or at X + k."""
        self.copy(1, CONTEXT)
        self.emit(ALU32 | MOVE, 2, value=k)
        if indexed:
            self.emit(ALU32 | REGISTER, 2, X)
        self.copy(3, FRAME, LOADED)
        self.move(4, size)
        self.call(LOAD_BYTES)
        self.jump(failed, IF_NOT_EQUAL, 0)
        self.emit(LDX | {4: 0, 2: HALF, 1: BYTE}[size], A, FRAME, LOADED)
        if size > 1:
            self.emit(TO_BIG_ENDIAN, A, value=8 * size)
