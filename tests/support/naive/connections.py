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
    sent_since_rst: bool = False
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
        """Whether a packet is the SYN of another connection, or the answer to one that was not seen."""
        if not p.tcp_flags & SYN:
            return False
        me, peer = self.sides[p.source], self.sides[p.destination]
        repeats = p.seq == me.isn and (not p.tcp_flags & ACK or self.answers(p, peer))
        if repeats or p.seq == me.earlier_isn:
            return False
        start, closed = (p.seq + 1) % 2**32, self.closed()
        is_late = me.isn is None and bool(me.first) and 0 <= ahead(me.first or 0, start) <= REORDERED_BYTES
        if p.tcp_flags & ACK:
            return self.answers_another(p, closed, is_late)
        if closed:
            return True
        if is_late or (me.isn is None and not me.first):
            return False
        if me.isn is None and not me.seen:
            return True
        if me.isn is not None and not peer.seen and (not peer.first or me.next_seq == me.first):
            return True
        expected = self.sent_by_opener() if p.source == self.opener else me.first
        return not 0 <= ahead(p.seq, expected) < self.window(me, peer)

    def answers_another(self, p: Any, closed: bool, is_late: bool) -> bool:
        """Whether a SYN-ACK that does not repeat the connection's own is another connection's."""
        me, peer = self.sides[p.source], self.sides[p.destination]
        has_number = me.isn is not None or bool(me.first)
        earlier = None if peer.earlier_isn is None else (peer.earlier_isn + 1) % 2**32
        if me.earlier_isn is None and p.ack == earlier and p.ack != peer.first:
            return False
        if not self.answers(p, peer):
            return closed or has_number
        if me.isn is None:
            return has_number and not is_late and (closed or peer.isn is None)
        if closed:
            return True
        if p.ack == self.sent_by_opener():
            return False
        return ahead(p.seq, me.isn) < 0 or not self.is_near(p.source, p.seq, self.window(me, peer))

    def answers(self, p: Any, peer: Side) -> bool:
        """Whether a SYN-ACK may acknowledge the SYN of the peer, with which data may have been sent."""
        if peer.isn is None:
            return not peer.first or abs(ahead(p.ack, peer.first)) <= REORDERED_BYTES
        behind = ahead(p.ack, peer.isn + 1)
        if p.destination == self.opener:
            return behind >= 0 >= ahead(p.ack, self.sent_by_opener())
        return 0 <= behind <= REORDERED_BYTES

    def sent_by_opener(self) -> int:
        opener = self.sides[self.opener]
        return opener.next_seq or opener.first or 0

    def window(self, me: Side, peer: Side) -> int:
        if peer.isn is None:
            return UNKNOWN_WINDOW_BYTES
        if me.scale is None or peer.scale is None:
            return 65_535
        return 65_535 << peer.scale

    def note(self, p: Any) -> str | None:
        """Take a packet of the connection; how the connection ends with it, if it does."""
        me, peer = self.sides[p.source], self.sides[p.destination]
        if self.opener is None:
            self.opener = p.destination if p.tcp_flags & SYN and p.tcp_flags & ACK else p.source
        seen, me.seen = me.seen, True
        if not p.tcp_flags:
            return None
        belongs = p.tcp_flags & (FIN | RST) and self.fits(p, seen)
        self.note_numbers(p, me, peer, seen)
        how = self.note_end(p, me) if belongs else None
        if not p.tcp_flags & RST and (p.tcp_flags & ACK or peer.seen):
            me.sent_since_rst = True
            if self.how == "rst" and all(side.sent_since_rst for side in self.seen()):
                self.how = "fin" if all(side.fin for side in self.seen()) else None  # it was not the end
        return how

    def seen(self) -> list[Side]:
        return [side for side in self.sides.values() if side.seen]

    def note_numbers(self, p: Any, me: Side, peer: Side, seen: bool) -> None:
        """Note where the sides are in their streams."""
        answer = p.tcp_flags & SYN and p.tcp_flags & ACK
        start = (p.seq + bool(p.tcp_flags & SYN)) % 2**32
        is_new_syn = p.tcp_flags & SYN and me.isn is None and p.seq != me.earlier_isn
        begins = is_new_syn or (me.isn is None and not (seen and me.first) and not p.tcp_flags & RST)
        if begins:
            me.first = start
        if is_new_syn:
            me.isn = p.seq
            me.scale = p.window_scale if p.window_scale >= 0 else None
            opener = self.opener if not answer and peer.isn is not None else p.destination if answer else p.source
            if opener != self.opener:
                self.step = (self.sides[self.opener].next_seq or 0) // STEP_BYTES
                self.opener = opener
                for side in self.sides.values():
                    side.next_seq = None
        if p.tcp_flags & ACK and not peer.first:
            peer.first = p.ack
            if p.source == self.opener:
                self.step = p.ack // STEP_BYTES
        has_data = not p.tcp_flags & (SYN | RST)
        end = p.seq + p.payload_bytes
        if p.source == self.opener:
            me.next_seq = me.next_seq or (start + p.payload_bytes * bool(is_new_syn)) % 2**32
            if has_data and 0 < ahead(end, me.next_seq) <= LARGEST_WINDOW_BYTES:
                me.next_seq = end % 2**32
            return
        if begins or not seen:
            self.step = start // STEP_BYTES
        if has_data and 0 < (end // STEP_BYTES - self.step) % 128 <= LARGEST_WINDOW_BYTES // STEP_BYTES:
            self.step = end // STEP_BYTES % 128

    def note_end(self, p: Any, me: Side) -> str | None:
        """Note a FIN or RST of this connection."""
        me.fin |= bool(p.tcp_flags & FIN)
        if p.tcp_flags & RST and self.how in (None, "rst"):
            for side in self.sides.values():
                side.sent_since_rst = False
            return "rst"
        if p.tcp_flags & FIN and self.how is None and all(side.fin for side in self.seen()):
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
            return -window <= ahead(seq, self.sent_by_opener()) <= window
        return -window <= ahead(seq, self.step * STEP_BYTES) < window + STEP_BYTES

    def next(self) -> dict[Any, Side]:
        """The sides of the connection that follows on the same addresses and ports."""
        return {end: Side(earlier_isn=side.isn) for end, side in self.sides.items()}
