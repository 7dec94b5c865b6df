"""An assembler for classic BPF, the instruction set of socket filters."""

from __future__ import annotations

import struct
from typing import NamedTuple

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

_IPV6_OPTIONS, _IPV6_FRAGMENT, _AUTHENTICATION = (0, 43, 60, 135), 44, 51

WHOLE_FRAME = 0x40000
"""What a socket filter returns to accept a frame: the bytes of it that are wanted, at most."""
NOTHING = struct.pack("HBBI", RETURN, 0, 0, 0)
"""The program that accepts no frame."""


class _Instruction(NamedTuple):
    code: int
    value: int = 0
    label: int = 0  # where a jump goes
    unless: bool = False  # it goes there when its condition does not hold


_FARTHEST = 255  # instructions that a conditional jump can skip


class Program:
    """Instructions with labels; X is the offset of the header that is being read."""

    def __init__(self) -> None:
        self._code: list[_Instruction] = []
        self._labels: dict[int, int] = {}  # label: instruction
        self._names = 0

    def label(self) -> int:
        """A new one."""
        self._names += 1
        return self._names

    def place(self, label: int) -> None:
        self._labels[label] = len(self._code)

    def emit(self, code: int, value: int = 0) -> None:
        self._code.append(_Instruction(code, value))

    def jump(self, label: int) -> None:
        self._code.append(_Instruction(JUMP, 0, label))

    def jump_if(self, test: int, value: int, label: int) -> None:
        self._code.append(_Instruction(test, value, label))

    def jump_unless(self, test: int, value: int, label: int) -> None:
        self._code.append(_Instruction(test, value, label, unless=True))

    def load(self, count: int, offset: int) -> None:
        """A = the big-endian number at X + offset."""
        self.emit(_LD_BY_X[count], offset)

    def advance(self, count: int) -> None:
        """X += count; A stays."""
        self.emit(ST, ONE)
        self.skip(count)
        self.emit(LD_MEMORY, ONE)

    def skip(self, count: int) -> None:
        """X += count; A is lost."""
        self.emit(TXA)
        self.emit(ADD, count)
        self.emit(TAX)

    def advance_by_a(self) -> None:
        self.emit(ADD_X)
        self.emit(TAX)

    def assembled(self) -> bytes:
        far: set[int] = set()  # conditional jumps that reach no further than a plain one behind them
        while True:
            places = [0]
            for number in range(len(self._code)):
                places.append(places[-1] + (2 if number in far else 1))
            distances = {
                number: places[self._labels[instruction.label]] - places[number] - 1
                for number, instruction in enumerate(self._code)
                if instruction.label
            }
            assert min(distances.values()) >= 0, "the kernel takes no loops"
            more = {
                number
                for number, distance in distances.items()
                if distance > _FARTHEST and self._code[number].code != JUMP
            }
            if more <= far:
                break
            far |= more
        out = bytearray()
        for number, (code, value, label, unless) in enumerate(self._code):
            distance = distances.get(number, 0)
            if not label:
                out += struct.pack("HBBI", code, 0, 0, value)
            elif code == JUMP:
                out += struct.pack("HBBI", code, 0, 0, distance)
            elif number in far:
                out += struct.pack("HBBI", code, int(unless), int(not unless), value)
                out += struct.pack("HBBI", JUMP, 0, 0, distance - 1)
            else:
                out += struct.pack("HBBI", code, 0 if unless else distance, distance if unless else 0, value)
        return bytes(out)

    def behind_authentication(self) -> None:
        """X behind an authentication header (RFC 4302), A the protocol there, if A is its number."""
        other = self.label()
        self.jump_unless(IF_EQUAL, _AUTHENTICATION, other)
        self.load(1, 0)
        self.emit(ST, TWO)
        self.load(1, 1)
        self.emit(ADD, 2)
        self.emit(LSH, 2)
        self.advance_by_a()
        self.emit(LD_MEMORY, TWO)
        self.place(other)

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
        self.behind_authentication()

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
        self.behind_authentication()
