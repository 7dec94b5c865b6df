"""The life of a TCP connection, naive: all that its ends have sent, and the rules of RFC 9293 read aloud."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FIN, SYN, RST, ACK = 1, 2, 4, 16
REORDERED_BYTES = 65_536  # by which a SYN may come late
UNKNOWN_WINDOW_BYTES = 1_048_576
LARGEST_WINDOW_BYTES = 2**30
STEP_BYTES = 2**25  # to which it is known where the side is that did not open the connection


def ahead(x: int, y: int) -> int:
    """How far a sequence number lies behind another in the stream."""
    return (x - y + 2**31) % 2**32 - 2**31


@dataclass
class Side:
    """What is known of the stream of one end."""

    seen: bool = False
    isn: int | None = None  # of its SYN
    first: int | None = None  # first sequence number behind the SYN, seen or acknowledged
    scale: int | None = None
    fin: bool = False
    earlier_isn: int | None = None  # of the connection before
    next_seq: int | None = None


@dataclass
class Connection:
    """The connection of a flow; for UDP it only knows which ends were seen."""

    sides: dict[Any, Side] = field(default_factory=dict)  # by end
    opener: Any = None
    how: str | None = None
    step: int = 0  # where the side is that did not open the connection, in STEP_BYTES

    def peer(self, end: Any) -> Any:
        (other,) = (one for one in self.sides if one != end)
        return other

    def closed(self) -> bool:
        return any(side.fin for side in self.sides.values()) or self.how == "rst"

    def begins_another(self, p: Any) -> bool:
        """Whether a packet is the SYN of another connection."""
        if not p.tcp_flags & SYN:
            return False
        me, peer = self.sides[p.source], self.sides[p.destination]
        if p.seq in (me.isn, me.earlier_isn):
            return False
        start, closed = (p.seq + 1) % 2**32, self.closed()
        if p.tcp_flags & ACK:
            answers = peer.isn is not None and 0 <= ahead(p.ack, peer.isn + 1) <= REORDERED_BYTES
            if peer.isn is not None and not closed:
                opener = self.sides[self.opener]
                inside = 0 <= ahead(p.ack - 1, opener.next_seq or 0) < self.window(peer, me)
                return me.isn is not None and p.ack != (peer.isn + 1) % 2**32 and inside
            if peer.isn is not None and answers:
                return False
            if not me.seen:
                return closed
        if closed:
            return True
        if me.isn is None:
            if not me.seen and not me.first:
                return False
            if 0 <= ahead(me.first, start) <= REORDERED_BYTES:
                return False
            if not me.seen:
                return True
        elif not peer.seen and me.next_seq == me.first:
            return True
        expected = me.next_seq if p.source == self.opener else me.first
        return not 0 <= ahead(p.seq, expected) < self.window(me, peer)

    def window(self, me: Side, peer: Side) -> int:
        if peer.isn is None:
            return UNKNOWN_WINDOW_BYTES
        if me.scale is None or peer.scale is None:
            return 65_535
        return 65_535 << peer.scale

    def note(self, p: Any) -> str | None:
        """Take a packet of the connection; how the connection ends with it, if it does."""
        me, peer = self.sides[p.source], self.sides[p.destination]
        answer = p.tcp_flags & SYN and p.tcp_flags & ACK
        if self.opener is None:
            self.opener = p.destination if answer else p.source
        seen, me.seen = me.seen, True
        if not p.tcp_flags:
            return None
        belongs = p.tcp_flags & (FIN | RST) and self.fits(p, seen)
        start = (p.seq + bool(p.tcp_flags & SYN)) % 2**32
        if p.tcp_flags & SYN and me.isn is None and p.seq != me.earlier_isn:
            me.isn, me.first = p.seq, start
            me.scale = p.window_scale if p.window_scale >= 0 else None
            opener = self.opener if not answer and peer.isn is not None else p.destination if answer else p.source
            if opener != self.opener:
                self.step = (self.sides[self.opener].next_seq or 0) // STEP_BYTES
                self.opener = opener
                for side in self.sides.values():
                    side.next_seq = None
        elif not seen and me.isn is None:
            me.first = start
        if p.tcp_flags & ACK and not peer.seen:
            peer.first = p.ack
            if p.source == self.opener:
                self.step = p.ack // STEP_BYTES
        if p.source == self.opener:
            if me.next_seq is None:
                me.next_seq = start
            if (
                not p.tcp_flags & (SYN | RST)
                and 0 < ahead(p.seq + p.payload_bytes, me.next_seq) <= LARGEST_WINDOW_BYTES
            ):
                me.next_seq = (p.seq + p.payload_bytes) % 2**32
        else:
            new_syn = p.tcp_flags & SYN and me.isn == p.seq
            if not seen or new_syn:
                self.step = start // STEP_BYTES
            if not p.tcp_flags & (SYN | RST):
                reached = (p.seq + p.payload_bytes) // STEP_BYTES
                if 0 < (reached - self.step) % 128 <= LARGEST_WINDOW_BYTES // STEP_BYTES:
                    self.step = reached % 128
        if not belongs:
            return None
        if p.tcp_flags & FIN:
            me.fin = True
        if self.how is None:
            if p.tcp_flags & RST:
                return "rst"
            if p.tcp_flags & FIN and all(side.fin for side in self.sides.values() if side.seen):
                return "fin"
        return None

    def fits(self, p: Any, seen: bool) -> bool:
        """Whether a FIN or RST is one of this connection, as far as its numbers tell."""
        me, peer = self.sides[p.source], self.sides[p.destination]
        window = self.window(me, peer)
        if seen or (me.first and not p.tcp_flags & ACK):
            return self.is_near(p.source, p.seq, window)
        if not peer.seen:
            return True
        if p.tcp_flags & ACK:
            return self.is_near(p.destination, p.ack, window)
        return peer.isn is None

    def is_near(self, end: Any, seq: int, window: int) -> bool:
        """Whether a number lies within a window of where a side is in its stream."""
        if end == self.opener:
            reached = self.sides[end].next_seq or self.sides[end].first or 0
            return -window <= ahead(seq, reached) <= window
        return -window <= ahead(seq, self.step * STEP_BYTES) < window + STEP_BYTES

    def next(self) -> dict[Any, Side]:
        """The sides of the connection that follows on the same addresses and ports."""
        return {end: Side(earlier_isn=side.isn) for end, side in self.sides.items()}
