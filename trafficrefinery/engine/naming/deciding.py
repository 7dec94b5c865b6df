"""Which service a flow belongs to: by the names in its packets, by DNS answers, by prefixes; and who is the client."""

from __future__ import annotations

import numpy as np

from trafficrefinery.api import OPEN
from trafficrefinery.engine.connection import HOW, OPENED_BY_A, SYN_A, SYN_B
from trafficrefinery.engine.first_packets import (
    begin_kept,
    first_kept,
    give_up,
    is_quiet,
    keep_packet,
    next_kept,
    no_name_comes,
    settle,
)
from trafficrefinery.engine.flow_cache import (
    CLIENT_IS_A,
    FIRST_PACKETS,
    FIXED,
    GIVEN_UP,
    KEPT_PACKETS,
    NAME_DONE,
    NO_SERVICE_YET,
    NONE_NS,
    STATE_SLOT,
    give,
    take,
)
from trafficrefinery.engine.flows import collect, feed, leave_trail, tell_end
from trafficrefinery.engine.partition import (
    BOOL,
    BY_HOST_MAC,
    BY_SERVICE,
    DNS_OVER_TLS,
    DOH_FLOWS,
    GO_ON,
    KEPT,
    LATE,
    NOT_CLIENT,
    NOT_FIXED,
    NOT_REPORTED,
    PACKET_BYTES,
    READ_NAME,
    ROWS_SPLIT,
    WAITING,
    addresses_of,
    header_of,
    interval_of,
    kept_of,
    kept_raw_of,
    networks_of,
    prefixes_of,
    profile_of,
    profiles_of,
    service_of,
)
from trafficrefinery.jit import call_at, helper, table_at
from trafficrefinery.packets.parser import ATTRIBUTED
from trafficrefinery.services import lookup_address, lookup_prefix
from trafficrefinery.services.sources import BY_DNS, BY_NOTHING, BY_PREFIX
from trafficrefinery.services.special_names import RESOLVER

from .handshakes import NOTHING, OF_NO_SERVICE, SIDE, TOLD, begins_anew, look_for_name


@helper
def undecided(p, slot, r, buffer):
    """A packet of a flow whose service may still be found or change.

    Returns:
        READ_NAME: Python has to read a name from the packet first; KEPT: it waits in the pool; else GO_ON.
    """
    h = header_of(p, slot)
    c = p.control
    if h.service >= 0 and h.open_start_ns != NONE_NS and interval_of(p, h, r) > h.open_start_ns:
        collect(p, slot)  # the row has the service that the flow had then
        if h.marks & FIXED and not wakes(p, slot, r, buffer):
            return GO_ON
    asks = c.resume == 0 and c.read_names != 0 and h.marks & NAME_DONE == 0
    if asks and wants_name(p, h, r, buffer):
        return READ_NAME
    if c.resume != 0:
        c.resume = 0
        if c.resume_done:
            h.marks |= NAME_DONE
        if c.resume_service >= 0:
            assign(p, slot, r, c.resume_service, c.resume_by, c.resume_name, r.source_is_a == 0, buffer)
            settle(p, slot)
            return GO_ON
        if c.resume_service == OF_NO_SERVICE:
            disown(p, slot, r, buffer)
            return GO_ON
    if h.matched_by < BY_DNS:
        match_address(p, slot, r, buffer)
        if h.service >= 0 and h.open_start_ns != NONE_NS and interval_of(p, h, r) > h.open_start_ns:
            collect(p, slot)  # of the packets before, whose service was found only now
    if c.read_names == 0:
        settle(p, slot)
    known = h.service >= 0
    if h.packets == GIVEN_UP:
        if is_quiet(p, h):
            settle(p, slot)
        return GO_ON
    h.packets += np.uint8(1)
    h.first_ip_bytes += np.uint64(r.ip_bytes)
    if not known:
        p.counters[WAITING] += 1
    keep_packet(p, slot, r, buffer)
    goes_on = h.hello & SIDE != 0 and not no_name_comes(p, h)
    if h.packets >= (KEPT_PACKETS if goes_on else FIRST_PACKETS):
        give_up(p, slot)
        if is_quiet(p, h):
            settle(p, slot)
    return GO_ON if known else KEPT


@helper
def wakes(p, slot, r, buffer):
    """Whether a datagram of a flow that is settled may bring a name all the same; the flow is not settled any more."""
    h = header_of(p, slot)
    if not begins_anew(h, r, buffer, p.control.read_names):
        return False
    if h.service >= 0 and h.open_start_ns != NONE_NS:
        if interval_of(p, h, r) > h.open_start_ns:
            collect(p, slot)
        else:
            h.packets = GIVEN_UP
    h.marks &= NOT_FIXED
    return True


@helper
def wants_name(p, h, r, buffer):
    """Whether Python has to read, or look up, a name from the packet. One that can be decided here is taken here."""
    c = p.control
    what = look_for_name(p.naming, p.counters, h, r, buffer, c.read_names)
    if what == TOLD:
        c.resume = 1
        c.resume_done = 1
        c.resume_service = p.naming.service
        c.resume_name = p.naming.name_id
        c.resume_by = p.naming.by
        if p.naming.kinds & RESOLVER != 0 and r.src_port != DNS_OVER_TLS and r.dst_port != DNS_OVER_TLS:
            p.counters[DOH_FLOWS] += 1
    return what != NOTHING and what != TOLD


@helper
def match_address(p, slot, r, buffer):
    """Find the service by what is known of the two addresses: DNS answers, else prefixes."""
    h = header_of(p, slot)
    a = lookup_address(addresses_of(p), h.b_hi, h.b_lo, h.a_hi, h.a_lo, r.ts_ns)  # a is the server, asked for by b
    b = lookup_address(addresses_of(p), h.a_hi, h.a_lo, h.b_hi, h.b_lo, r.ts_ns)
    if a >= 0 or b >= 0:
        server_is_a = a >= 0
        if a >= 0 and b >= 0:
            server_is_a = not client_is_a_by_rule(p, slot, r)
        found = addresses_of(p).entries[a if server_is_a else b]
        assign(p, slot, r, np.int64(found.service), BY_DNS, np.int64(found.name_id), server_is_a, buffer)
    elif h.packets == 0 and h.matched_by == BY_NOTHING and p.prefix_hi_count > 0:
        match_prefix(p, slot, r, buffer)


@helper
def match_prefix(p, slot, r, buffer):
    h = header_of(p, slot)
    a, a_all = lookup_prefix(prefixes_of(p), h.a_hi, h.a_lo)
    b, b_all = lookup_prefix(prefixes_of(p), h.b_hi, h.b_lo)
    if a < 0 and b < 0:
        return
    server_is_a = a >= 0
    if a >= 0 and b >= 0:
        server_is_a = b_all if a_all != b_all else not client_is_a_by_rule(p, slot, r)  # a real match before all
    assign(p, slot, r, a if server_is_a else b, BY_PREFIX, -1, server_is_a, buffer)


@helper
def client_is_a_by_rule(p, slot, r):
    """Which end is the client, when both match: by MAC address, networks, SYN, ports, or who sent first."""
    return client_by_mac(p, r, client_by_rule(p, slot))


@helper
def client_by_rule(p, slot):
    """Without a SYN ports tell more than networks do: who sent the first packet that was seen means little."""
    h = header_of(p, slot)
    if h.handshake & (SYN_A | SYN_B) == 0 and h.a_port != h.b_port:
        ports = table_at(p.service_ports, p.service_ports_count, BOOL)
        if ports[min(h.a_port, h.b_port)]:
            return h.a_port > h.b_port
    a, _ = lookup_prefix(networks_of(p), h.a_hi, h.a_lo)
    b, _ = lookup_prefix(networks_of(p), h.b_hi, h.b_lo)
    if (a >= 0) != (b >= 0):
        return a >= 0
    return h.marks & OPENED_BY_A != 0


@helper
def client_by_mac(p, r, otherwise):
    """Whether the client is end a by the configured MAC address of the host or of its router."""
    if p.control.direction_mode == BY_SERVICE:
        return otherwise
    if r.mac_side == 0 or r.mac_side == 3:
        return otherwise
    sent_by_it = r.mac_side == 1
    client_sent = sent_by_it if p.control.direction_mode == BY_HOST_MAC else not sent_by_it
    return (r.source_is_a != 0) == client_sent


@helper
def assign(p, slot, r, service, by, name_id, server_is_a, buffer):
    """Give a flow its service, or a better one; its kept packets go to the classes of the new profile."""
    h = header_of(p, slot)
    client_is_a = client_by_mac(p, r, not server_is_a)
    number = service_of(p, service).profile
    profile = profiles_of(p)[number]
    whole = h.packets != GIVEN_UP  # all that the open interval holds can still change its service
    if h.service >= 0 and h.service != service and not whole:
        if h.open_start_ns != NONE_NS:
            p.counters[ROWS_SPLIT] += 1
            collect(p, slot)
        begin_kept(h)
        whole = True
    if h.service >= 0:
        move_totals(service_of(p, h.service), h, -1)
    same_end = (h.marks & CLIENT_IS_A != 0) == client_is_a
    if (
        h.service >= 0 and service_of(p, h.service).profile == number and (same_end or not whole)
    ):  # the same classes saw the same packets
        name_service(h, service, by, name_id)
        move_totals(service_of(p, service), h, 1)
        leave_trails(p, h)
        return
    if h.service >= 0:
        old = profile_of(p, h)
        give(old.slots, np.int64(h.state_word) & STATE_SLOT)
        p.counters[ATTRIBUTED] -= np.int64(h.packets)
        p.counters[LATE] -= np.int64(h.late_packets)
        h.late_packets = 0
    elif whole:
        p.counters[WAITING] -= np.int64(h.packets)
    state_slot = take(profile.slots)  # there are as many states as flows
    call_at(profile.start, (profile.state + state_slot * profile.state_bytes, profile.errors))
    name_service(h, service, by, name_id)
    h.state_word = state_slot
    h.open_start_ns = NONE_NS
    h.marks = h.marks | CLIENT_IS_A if client_is_a else h.marks & NOT_CLIENT
    if h.pool_slot >= 0:
        at = first_kept(h)
        for _ in range(np.int64(h.packets)):
            kept = kept_of(p)[at]
            kept.watermark_ns = r.watermark_ns
            feed(p, slot, p.pool_packets + at * PACKET_BYTES, kept_raw_of(p))
            at = next_kept(p, at)
        if h.pool_slot < 0:  # some of them are in a row already
            h.packets = GIVEN_UP
    h.end &= np.uint8(HOW)  # the new classes have not been notified
    if h.end != OPEN:
        tell_end(p, slot, np.int64(h.end))


@helper
def disown(p, slot, r, buffer):
    """A flow names a server that belongs to no service: DNS, which may know other names of a shared address, gives it
    none. Prefixes may, as they speak of the address itself."""
    h = header_of(p, slot)
    if h.matched_by == BY_DNS:
        leave_service(p, slot)
    if h.matched_by == BY_NOTHING and p.prefix_hi_count > 0:
        match_prefix(p, slot, r, buffer)
    settle(p, slot)


@helper
def leave_service(p, slot):
    """Take its service from a flow; its kept packets have none, rows that were written stay."""
    h = header_of(p, slot)
    if h.packets == GIVEN_UP:
        if h.open_start_ns != NONE_NS:
            p.counters[ROWS_SPLIT] += 1
            collect(p, slot)
        begin_kept(h)
    move_totals(service_of(p, h.service), h, -1)
    give(profile_of(p, h).slots, np.int64(h.state_word) & STATE_SLOT)
    p.counters[ATTRIBUTED] -= np.int64(h.packets)
    p.counters[LATE] -= np.int64(h.late_packets)
    p.counters[WAITING] += np.int64(h.packets)
    h.late_packets = 0
    name_service(h, NO_SERVICE_YET, BY_NOTHING, -1)
    h.open_start_ns = NONE_NS
    h.state_word = 0
    leave_trails(p, h)


@helper
def leave_trails(p, h):
    """Note the service of the kept packets of a flow."""
    if p.trail_count > 0 and h.pool_slot >= 0:
        at = first_kept(h)
        for _ in range(np.int64(h.packets)):
            leave_trail(p, kept_of(p)[at], h)
            at = next_kept(p, at)


@helper
def name_service(h, service, by, name_id):
    """Enter the service of a flow, and what told it. Its next row is the first of its flow in another service."""
    if h.service != service:
        h.marks &= NOT_REPORTED
    h.service = service
    h.matched_by = by
    h.name_id = name_id


@helper
def move_totals(service, h, sign):
    """The first packets of a flow count for another service now."""
    if h.packets == GIVEN_UP:
        return
    service.packets += sign * np.int64(h.packets)
    service.ip_bytes += sign * np.int64(h.first_ip_bytes)
