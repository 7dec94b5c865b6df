"""An assembler for classic BPF, the instruction set of socket filters."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable
from typing import NamedTuple

from .layers import IPV4, IPV6, QINQ, VLAN

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

_TYPES = (IPV4, IPV6, VLAN, QINQ)
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

    def jump_if_any(self, values: Iterable[int], label: int) -> None:
        """If A is one of several values."""
        for value in values:
            self.jump_if(IF_EQUAL, value, label)

    def jump_if_type_at(self, offset: int, label: int) -> None:
        """If the EtherType of IP or of a VLAN tag is at X + offset."""
        self.load(2, offset)
        self.jump_if_any(_TYPES, label)

    def skip_if(self, memory: int, bits: int, count: int) -> None:
        """X += count where any of some bits is set in scratch memory; A is lost."""
        absent = self.label()
        self.emit(LD_MEMORY, memory)
        self.jump_unless(IF_BITS, bits, absent)
        self.skip(count)
        self.place(absent)

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


class TunnelProgram:
    """A program where it looks into a tunnel, as what describes the tunnel writes it.

    Attributes:
        program: X is at a UDP header, or behind an IP header.
        kinds: names of tunnels that are looked into.
        is_short: whether the program has to be small.
        outer: a label for what is no tunnel that can be looked into: it counts as the packet around it.
    """

    def __init__(self, program: Program, kinds: Collection[str], *, is_short: bool) -> None:
        self.program, self.kinds, self.is_short = program, kinds, is_short
        self.outer = self._following = self._fits = 0

    def place(self, outer: int, following: int) -> None:
        """Where to go on: `following` has the next kind in A."""
        self.outer, self._following, self._fits = outer, following, self.program.label()

    def accept(self) -> None:
        """Take the whole frame, in a filter: what is inside is read elsewhere."""
        self.program.emit(RETURN, WHOLE_FRAME)

    def then(self, kind: int, count: int = 0) -> None:
        """A header of some kind follows, `count` bytes behind X."""
        if count:
            self.program.skip(count)
        self.program.emit(LD_IMMEDIATE, kind)
        self.then_kind_in_a()

    def then_kind_in_a(self) -> None:
        """A header of the kind in A follows at X."""
        self.program.jump(self._following)

    def then_in_datagram(self, kind: int, count: int = 0) -> None:
        """The same in a UDP datagram, which must not end before that."""
        if count:
            self.program.skip(count)
        self.program.emit(LD_IMMEDIATE, kind)
        self.program.emit(ST, KIND)
        self.then_if_it_fits()

    def then_if_it_fits(self) -> None:
        """A header of the kind in scratch memory KIND follows at X, if the datagram does not end before that."""
        self.program.jump(self._fits)

    def write_end(self) -> None:
        p = self.program
        p.place(self._fits)
        p.emit(LD_MEMORY, END)
        p.jump_unless(IF_GREATER_X, 0, self.outer)
        p.emit(LD_MEMORY, KIND)
        p.jump(self._following)
