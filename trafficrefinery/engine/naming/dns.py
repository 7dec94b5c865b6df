"""DNS messages in the packet loop: noted as they come by, and applied before the packets behind them."""

from __future__ import annotations

from typing import Any

import numpy as np

from trafficrefinery.engine.partition import (
    ALL_DNS,
    DNS_MALFORMED,
    DNS_MESSAGES,
    DNS_ONE_SIDED,
    DNS_OVER_BUDGET,
    DNS_UNASKED,
    addresses_of,
    answers_of,
    names_of,
)
from trafficrefinery.jit import borrowed, helper, inlined, kernel, table_at
from trafficrefinery.packets.parser import PACKET, u8, u16
from trafficrefinery.services.dns.answers import (
    APPLY,
    ASK,
    IGNORED,
    MALFORMED,
    PIECE,
    QUERY,
    UNASKED,
    apply_answers,
    decide_answers,
    retake_message,
    take_message,
)
from trafficrefinery.services.dns.answers import NOTHING as SAYS_NOTHING
from trafficrefinery.services.dns.compiled_messages import MAX_ADDRESSES
from trafficrefinery.services.dns.packets import afford_message, take_packet
from trafficrefinery.services.name_table import remember


@inlined
def tells_names(buffer, r, mode):
    """Whether a packet of port 53 is worth a look: a response with answers, or a piece of a server's TCP stream."""
    if r.fragment == 2:
        return False
    if r.protocol == 6:
        return (r.src_port == 53 or mode == ALL_DNS) and (r.captured_payload > 0 or r.tcp_flags & 2 != 0)
    if r.captured_payload < 12:
        return False
    i = r.payload_offset
    return mode == ALL_DNS or (r.src_port == 53 and u8(buffer, i + 2) & 0x80 != 0 and u16(buffer, i + 6) > 0)


@helper
def note_dns(p, buffer, r, mine, now_ns):
    """Read a packet of port 53; True when what it teaches waits for the packets before it, see `dns.answers.APPLY`."""
    a = answers_of(p)
    a.is_mine = 1 if mine else 0
    a.status = take_packet(a, names_of(p), p.dns_budget, buffer, r, now_ns)
    count_dns(p)
    if a.status < APPLY:
        return False
    table_at(p.event, p.event_count, PACKET)[0] = r
    return True


@helper
def count_dns(p):
    """Count a message in the worker whose packet it is: each of a replay's workers reads all of them."""
    a = answers_of(p)
    if a.is_mine == 0:
        return
    if a.status != IGNORED and a.status != PIECE:
        p.counters[DNS_MESSAGES] += 1
        if a.status == MALFORMED or (
            a.message.complete == 0
            and (a.status == SAYS_NOTHING or a.status == APPLY or a.status == ASK)
            and a.budget_refused == 0
        ):
            p.counters[DNS_MALFORMED] += 1
        if a.status == UNASKED:
            p.counters[DNS_UNASKED] += 1
        elif a.status != QUERY and a.status != MALFORMED and a.is_asked == 0:
            p.counters[DNS_ONE_SIDED] += 1
    if a.budget_refused != 0:
        p.counters[DNS_OVER_BUDGET] += 1


@helper
def finish_dns(p):
    """Let what was read take effect. False: Python is needed, as a table has to grow or a log is full."""
    a = answers_of(p)
    t = names_of(p)
    now_ns = p.control.watermark_ns
    while True:
        if a.learned_count - a.learned_total < MAX_ADDRESSES:
            return False
        a.budget_refused = 0
        done = apply_answers(a, t, addresses_of(p), p.dns_budget, now_ns)
        if a.budget_refused != 0 and a.is_mine != 0:
            p.counters[DNS_OVER_BUDGET] += 1
        if not done:
            return False
        status = np.int64(SAYS_NOTHING)
        while status != APPLY:
            if a.retry < 0:
                return True
            early = np.int64(a.retry)
            a.retry = -1
            status = np.int64(retake_message(a, t, early, now_ns, False))


@kernel
def take_dns_message(partition: Any, payload: Any, now_ns: int) -> int:
    """Read a message that was put together, in the place of the event's packet; what it is worth."""
    p = borrowed(partition)[0]
    payload = borrowed(payload)
    a = answers_of(p)
    t = names_of(p)
    r = table_at(p.event, p.event_count, PACKET)[0]
    a.budget_refused = 0
    a.status = afford_message(
        a, t, p.dns_budget, take_message(a, t, payload, 0, len(payload), r, now_ns), len(payload), now_ns
    )
    count_dns(p)
    return int(a.status)


@kernel
def answer_dns(partition: Any, service: int, now_ns: int, may_ask: bool) -> int:
    """Go on with the message at hand: the name it asks about is of this service by expressions; what it is worth."""
    p = borrowed(partition)[0]
    a = answers_of(p)
    t = names_of(p)
    remember(t, a.message.name_hash[a.unknown], service)
    a.status = decide_answers(a, t, now_ns, may_ask)
    return int(a.status)


@kernel
def apply_dns(partition: Any) -> bool:
    """See `finish_dns`."""
    return bool(finish_dns(borrowed(partition)[0]))
