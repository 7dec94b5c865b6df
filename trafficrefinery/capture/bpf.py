"""An assembler for classic BPF, the instruction set of socket filters."""

from __future__ import annotations

import struct

# The instruction set of include/uapi/linux/bpf_common.h.
LD_IMMEDIATE, LD_WORD_AT, LD_HALF_AT, LD_LEN, LD_MEMORY = 0x00, 0x20, 0x28, 0x80, 0x60
LDX_IMMEDIATE, LDX_MEMORY, ST, STX = 0x01, 0x61, 0x02, 0x03
_LD_BY_X = {4: 0x40, 2: 0x48, 1: 0x50}
ADD, SUB, MUL, AND, LSH, RSH = 0x04, 0x14, 0x24, 0x54, 0x64, 0x74
ADD_X, SUB_X, XOR_X = 0x0C, 0x1C, 0xAC
JUMP, IF_EQUAL, IF_GREATER_X, IF_AT_LEAST, IF_BITS = 0x05, 0x15, 0x2D, 0x35, 0x45
RETURN, RETURN_A, TAX, TXA = 0x06, 0x16, 0x07, 0x87
PROTOCOL, PACKET_TYPE = 0xFFFFF000, 0xFFFFF004  # SKF_AD_OFF + SKF_AD_PROTOCOL, SKF_AD_PKTTYPE
OUTGOING = 4
# Scratch memory: the IP header that X was at, the end of its packet, three for arithmetic, the kind of what follows.
IP, END, ONE, TWO, THREE, KIND = range(6)

_IPV6_OPTIONS, _IPV6_FRAGMENT = (0, 43, 60, 135), 44

NOTHING = struct.pack("HBBI", RETURN, 0, 0, 0)
"""The program that accepts no frame."""


class Program:
    """Instructions with labels; X is the offset of the header that is being read."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int]] = []
        self._targets: dict[int, int] = {}  # instruction: label
        self._labels: dict[int, int] = {}  # label: instruction
        self._names = 0

    def label(self) -> int:
        """A new one."""
        self._names += 1
        return self._names

    def place(self, label: int) -> None:
        self._labels[label] = len(self._code)

    def emit(self, code: int, value: int = 0) -> None:
        self._code.append((code, 0, 0, value))

    def jump(self, label: int) -> None:
        self._targets[len(self._code)] = label
        self.emit(JUMP)

    def jump_if(self, test: int, value: int, label: int) -> None:
        """Conditional jumps reach 255 instructions, so each is a skip over a plain one."""
        self._code.append((test, 0, 1, value))
        self.jump(label)

    def jump_unless(self, test: int, value: int, label: int) -> None:
        self._code.append((test, 1, 0, value))
        self.jump(label)

    def load(self, count: int, offset: int) -> None:
        """A = the big-endian number at X + offset."""
        self.emit(_LD_BY_X[count], offset)

    def advance(self, count: int) -> None:
        """X += count; A stays."""
        self.emit(ST, ONE)
        self.emit(TXA)
        self.emit(ADD, count)
        self.emit(TAX)
        self.emit(LD_MEMORY, ONE)

    def advance_by_a(self) -> None:
        self.emit(ADD_X)
        self.emit(TAX)

    def assembled(self) -> bytes:
        for at, label in self._targets.items():
            distance = self._labels[label] - at - 1
            assert distance >= 0, "the kernel takes no loops"
            self._code[at] = (JUMP, 0, 0, distance)
        return b"".join(struct.pack("HBBI", *instruction) for instruction in self._code)

    def behind_ipv4(self, fragment: int) -> None:
        """X to the transport header, A its protocol; a fragment that is not the first has none."""
        whole, known = self.label(), self.label()
        self.load(2, 2)
        self.jump_unless(IF_EQUAL, 0, known)  # left empty by segmentation offload
        self.emit(LD_LEN)
        self.jump(whole)
        self.place(known)
        self.emit(ADD_X)
        self.place(whole)
        self.emit(ST, END)
        self.load(2, 6)
        self.jump_if(IF_BITS, 0x1FFF, fragment)
        self.load(1, 9)
        self.emit(ST, TWO)
        self.load(1, 0)
        self.emit(AND, 15)
        self.emit(LSH, 2)
        self.advance_by_a()
        self.emit(LD_MEMORY, TWO)

    def behind_ipv6(self, fragment: int, extensions: int) -> None:
        """The same, behind up to `extensions` headers."""
        done = self.label()
        self.load(2, 4)
        self.emit(ADD, 40)
        self.emit(ADD_X)
        self.emit(ST, END)
        self.load(1, 6)
        self.advance(40)
        for _ in range(extensions):
            options, following = self.label(), self.label()
            for kind in _IPV6_OPTIONS:
                self.jump_if(IF_EQUAL, kind, options)
            self.jump_unless(IF_EQUAL, _IPV6_FRAGMENT, done)
            self.load(2, 2)
            self.jump_if(IF_BITS, 0xFFF8, fragment)
            self.load(1, 0)
            self.advance(8)
            self.jump(following)
            self.place(options)
            self.load(1, 0)
            self.emit(ST, TWO)
            self.load(1, 1)
            self.emit(ADD, 1)
            self.emit(LSH, 3)
            self.advance_by_a()
            self.emit(LD_MEMORY, TWO)
            self.place(following)
        self.place(done)
