"""THE loop: frames in, rows of features out.

A packet goes through four passes: parse and hash; find the header by the index; find the state by the header; update.
Each pass asks for the cache lines of the next, a batch of packets ahead, so that memory works while others are updated.

The loop returns to Python when something needs it (a set of event bits), and goes on where it stopped. What the rows
say never depends on when that happens: intervals are closed by the watermark (latest time in the whole trace), which
each packet carries.

Feature classes are called by address, once a packet for all classes of a flow's profile: see `fuse`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trafficrefinery.api import DOWN, ENDED_EVICTED, ENDED_IDLE, OPEN, UP
from trafficrefinery.jit import (  # fmt: skip
    borrowed,
    call_at,
    data_address,
    helper,
    inlined,
    kernel,
    prefetch,
    prefetch_at,
    table_at,
)
from trafficrefinery.packets.tunnels import TABLE_NUMBERS, may_be_tunnel
from trafficrefinery.packets.wire import (  # fmt: skip
    ATTRIBUTED,
    CACHE_FULL,
    CLIENT_SEEN,
    FRAGMENT_WITHOUT_FIRST,
    NO_SERVICE,
    PACKET,
    REASONS,
    ROW_HEADER,
    SERVER_SEEN,
    UNREAD,
    parse,
    u8,
    u16,
    u32,
)
from trafficrefinery.services import AddressTables, PrefixTables, lookup_address, lookup_prefix
from trafficrefinery.services.addresses import ADDRESS_ENTRY
from trafficrefinery.services.budget import BUDGET
from trafficrefinery.services.dns_answers import (
    ANSWERS,
    APPLY,
    ASK,
    IGNORED,
    MALFORMED,
    PIECE,
    QUERY,
    UNASKED,
    apply_answers,
    decide_answers,
    take_message,
)
from trafficrefinery.services.dns_answers import NOTHING as SAYS_NOTHING
from trafficrefinery.services.dns_packets import afford_message, take_packet
from trafficrefinery.services.dns_wire import MAX_ADDRESSES
from trafficrefinery.services.name_table import NAME_TABLES, remember
from trafficrefinery.services.special_names import RESOLVER

from .connection import (
    EARLIER_A,
    EARLIER_B,
    OPENED_BY_A,
    SEEN_A,
    SEEN_B,
    SYN_A,
    SYN_B,
    advance,
    begin_connection,
    begins_another,
    note_segment,
)
from .flow_cache import (  # fmt: skip
    BY_DNS,
    BY_NOTHING,
    BY_PREFIX,
    CLIENT_IS_A,
    FIRST_PACKETS,
    FIXED,
    GIVEN_UP,
    HEADER,
    KEPT_PACKETS,
    MANY_PACKETS,
    NAME_DONE,
    NO_SERVICE_YET,
    NONE_NS,
    ONE_PACKET,
    REPORTED,
    SLOTS,
    STATE_SLOT,
    USED,
    find,
    flow_hash,
    give,
    guess,
    insert,
    mix,
    partition_of,
    prefetch_index,
    protocol_of,
    remove,
    same_flow,
    set_ends,
    state_of,
    take,
)
from .handshakes import NAME_COUNTERS, NAMING, NO_NAMES, NOTHING, SIDE, TOLD, begin_search, end_search, look_for_name

BATCH = 16
"""Packets between two passes: enough to overlap memory latencies, few enough to stay in the first-level cache."""
RING = 4 * BATCH
RING_MASK = RING - 1
ROW_MARGIN = BATCH * (KEPT_PACKETS + 3)
"""Rows that one batch can make at most: each packet may close its flow's interval, or replay its first packets."""

# Events, as bits: why `process` returned.
END, BOUNDARY, CLOSE, DNS, NAME, FLUSH, GROW, BEHIND = 0, 1, 2, 4, 8, 16, 32, 64

# Partition.control
(
    PARSED, FOUND, ASKED, UPDATED, BATCH_POS, FRAME_POS, STOP, WATERMARK, NEXT_BOUNDARY, NEXT_CLOSE, BOUNDARY_TS,
    ORIGIN, GRACE, IDLE, MY_PARTITION, PARTITIONS, MAC, DIRECTION_MODE, READ_DNS, READ_NAMES,
    FRAMES_BEFORE, REFUSE_AT_CAP, RESUME, RESUME_SERVICE, RESUME_NAME, RESUME_BY, RESUME_DONE, SWEEP_POS, SWEEP_TOP,
    SWEEP_NOW, FINISHING, POOL_FREE, POOL_HAND, EVICT_HAND, POOL_RAW, GROW_AT, MAX_BEHIND,
    SHORT_LIMIT, MOST_BEHIND,
) = range(39)  # fmt: skip
CONTROLS = 39

# Partition.counters: packets by reason, then others. At any time, packets = all reasons + waiting_for_service.
# What each of the others counts stands beside it; metrics, intervals and `top` show all of them, see `counting`.
COUNTER_HELP = {
    **NAME_COUNTERS,
    "packets": "Packets taken from the capture ring.",
    "wire_bytes": "Bytes on the wire of the packets taken from the capture ring.",
    "late_packets": "Packets older than the open interval, in which they were counted.",
    "flows_new": "Flows that began.",
    "flows_evicted_idle": "Flows that ended because they were idle.",
    "flows_evicted_at_capacity": "Flows that ended because the cache was full.",
    "waiting_for_service": "Packets of flows whose service is not yet decided.",
    "fragments_forgotten": "First fragments given up because too many were open.",
    "first_packets_given_up": "Flows decided early because too many waited for their service.",
    "rows_split": "Flows with two records in one interval: a name came after more packets than are kept.",
    "out_of_order": "Packets that came later than Grace allows.",
    "clock_set_back": "Times that the clock of the packets was set back, which restarts the intervals.",
    "feature_class_errors": "Calls of a feature class that ended with an error.",
    "dns_messages": "DNS messages that were read.",
    "dns_malformed": "DNS messages that could not be read to their end.",
    "dns_unasked": "DNS answers to no query that was seen; they name no flows.",
    "dns_one_sided": "DNS answers that were taken without a query, as none are seen.",
    "dns_over_budget": "DNS packets that were not read in full because too many were unusual.",
    "dot_flows": "Flows of DNS over TLS, whose names are not seen.",
    "doq_flows": "Flows of DNS over QUIC, whose names are not seen.",
    "doh_flows": "Flows of DNS over HTTPS, whose names are not seen.",
    "short_flows_capped": "Records of flows with one or two packets in an interval that were left out as too many.",
    **{name: f"Packets whose content was not read further ({name.replace('_', ' ')})." for name in UNREAD},
}
COUNTERS = (*REASONS, *COUNTER_HELP)
(
    PACKETS, WIRE_BYTES, LATE, FLOWS_NEW, EVICTED_IDLE, EVICTED_CAP, WAITING, FRAGMENTS_FORGOTTEN, POOL_GIVEN_UP,
    ROWS_SPLIT, OUT_OF_ORDER, CLOCK_SET_BACK, CLASS_ERRORS,
    DNS_MESSAGES, DNS_MALFORMED, DNS_UNASKED, DNS_ONE_SIDED, DNS_OVER_BUDGET, DOT_FLOWS, DOQ_FLOWS, DOH_FLOWS,
    SHORT_CAPPED,
) = range(len(REASONS) + len(NAME_COUNTERS), len(COUNTERS) - len(UNREAD))  # fmt: skip
BEFORE_UNREAD = len(COUNTERS) - len(UNREAD) - 1
"""Where the counter of a packet's `unread` is, which begins with 1."""

NOT_CLIENT, NOT_REPORTED = 255 - CLIENT_IS_A, 255 - REPORTED
GO_ON, READ_NAME, KEPT = 0, 1, 2
DNS_OVER_TLS = 853  # and over QUIC: RFC 7858, RFC 9250
BY_SERVICE, BY_HOST_MAC, BY_ROUTER_MAC = 0, 1, 2
NO_DNS, DNS_RESPONSES, ALL_DNS = 0, 1, 2

FRAGMENT = np.dtype(
    [("a_hi", "u8"), ("a_lo", "u8"), ("b_hi", "u8"), ("b_lo", "u8"), ("ts_ns", "i8"), ("id", "u4"), ("a_port", "u2"),
     ("b_port", "u2"), ("protocol", "u1"), ("source_is_a", "u1")], align=True,
)  # fmt: skip
FRAGMENT_SETS, FRAGMENT_WAYS = 2048, 4
FRAGMENT_TIMEOUT_NS = 60_000_000_000  # RFC 8200 section 4.5

PROFILE = np.dtype(
    [
        ("interval_ns", "i8"),
        ("start", "i8"),  # addresses of the step's functions, see fuse.ProfileStep
        ("add_packet", "i8"),
        ("collect", "i8"),
        ("end_flow", "i8"),
        ("errors", "i8"),
        ("state", "i8"),  # address and size of the states
        ("state_bytes", "i8"),
        ("row", "i8"),  # address and size of the rows
        ("row_bytes", "i8"),
        ("rows", "i8"),  # rows filled
        ("row_limit", "i8"),  # beyond it, they have to be taken before the next batch
        ("slots", SLOTS),  # of the states
        ("ahead", "i8", (2, 16)),  # offsets in a state to prefetch, for each direction
        ("ahead_count", "i8"),
    ],
    align=True,
)
SERVICE = np.dtype(
    [
        ("profile", "u8"),
        ("packets", "i8"),
        ("ip_bytes", "i8"),
        ("short_starts", "i8", (2,)),  # of two intervals, one after the other: the rows of both may come in turns
        ("short_rows", "i8", (2,)),  # rows of short flows in each
    ]
)

_ADDRESSES = (
    # Tables by address and length, see jit.address_of; the worker places them.
    "profiles", "services", "index", "headers", "batch", "event", "fragments",
    "pool_packets", "pool_raw", "pool_owner", "pool_next", "pool_free",
    "prefix_hi", "prefix_lo", "prefix_service", "prefix_wildcard",
    "network_hi", "network_lo", "network_service", "network_wildcard",
    "service_ports", "trail", "address_entries", "address_seed", "address_state",
    "name_tables", "answers",
)  # fmt: skip


PARTITION = np.dtype(
    [
        ("control", "i8", (CONTROLS,)),
        ("tunnels", "i8", (TABLE_NUMBERS,)),
        ("counters", "i8", (len(COUNTERS),)),
        ("seed", "u8"),
        ("slots", SLOTS),  # of headers
        ("naming", NAMING),
        ("dns_budget", BUDGET),
        *((member, "i8") for name in _ADDRESSES for member in (name, f"{name}_count")),
    ],
    align=True,
)
"""All that one worker's loop reads and writes, as one record: numbers here, tables by address and length."""

_PACKET_BYTES, _HEADER_BYTES = PACKET.itemsize, HEADER.itemsize
_SECOND_LINE = 64  # of a header
_U8, _U1, _I8, _I4, _I2, _BOOL = (np.dtype(code) for code in ("u8", "u1", "i8", "i4", "i2", "?"))


@inlined
def index_of(p):
    return table_at(p.index, p.index_count, _U8)


@inlined
def headers_of(p):
    return table_at(p.headers, p.headers_count, HEADER)


@inlined
def batch_of(p):
    return table_at(p.batch, p.batch_count, PACKET)


@inlined
def profiles_of(p):
    return table_at(p.profiles, p.profiles_count, PROFILE)


@inlined
def services_of(p):
    return table_at(p.services, p.services_count, SERVICE)


@inlined
def header_of(p, slot):
    """A flow's header. Indices are unsigned, here and below: for signed ones Numba adds a test for negative ones."""
    return headers_of(p)[np.uint64(slot)]


@inlined
def service_of(p, number):
    return services_of(p)[np.uint64(number)]


@inlined
def profile_of(p, h):
    """The profile of a flow with a service."""
    return profiles_of(p)[service_of(p, h.service).profile]


@helper
def kept_of(p):
    """The first packets of flows whose service is not settled: FIRST_PACKETS for each entry of the pool."""
    return table_at(p.pool_packets, p.pool_packets_count, PACKET)


@helper
def kept_raw_of(p):
    """Their raw bytes; none when no class reads them."""
    return table_at(p.pool_raw, p.pool_raw_count, _U1)


@helper
def prefixes_of(p):
    return PrefixTables(
        table_at(p.prefix_hi, p.prefix_hi_count, _U8), table_at(p.prefix_lo, p.prefix_lo_count, _U8),
        table_at(p.prefix_service, p.prefix_service_count, _I4),
        table_at(p.prefix_wildcard, p.prefix_wildcard_count, _BOOL),
    )  # fmt: skip


@helper
def networks_of(p):
    return PrefixTables(
        table_at(p.network_hi, p.network_hi_count, _U8), table_at(p.network_lo, p.network_lo_count, _U8),
        table_at(p.network_service, p.network_service_count, _I4),
        table_at(p.network_wildcard, p.network_wildcard_count, _BOOL),
    )  # fmt: skip


@helper
def addresses_of(p):
    return AddressTables(
        table_at(p.address_entries, p.address_entries_count, ADDRESS_ENTRY),
        table_at(p.address_seed, p.address_seed_count, _U8), table_at(p.address_state, p.address_state_count, _I8),
    )  # fmt: skip


@helper
def answers_of(p):
    return table_at(p.answers, p.answers_count, ANSWERS)[0]


@helper
def names_of(p):
    return table_at(p.name_tables, p.name_tables_count, NAME_TABLES)[0]


@kernel
def process(partition: Any, buffer: Any, frames: Any) -> int:
    """Process the frames of a block from `control[FRAME_POS]` on; returns event bits, END at the end of the block.

    Args:
        partition: one record of `partition_dtype`.
    """
    p = borrowed(partition)[0]
    buffer = borrowed(buffer)
    frames = borrowed(frames)
    c = p.control
    while True:
        for profile in range(p.profiles_count):
            if profiles_of(p)[profile].rows > profiles_of(p)[profile].row_limit:
                return FLUSH
        if p.slots.in_use > c[GROW_AT]:
            return GROW
        if c[STOP] == 0 and c[PARSED] - c[UPDATED] <= RING - BATCH:
            parse_batch(p, buffer, frames)
        if move_on(p, buffer, c[STOP] != 0 or c[FRAME_POS] >= len(frames)):
            return NAME
        if c[UPDATED] == c[PARSED]:
            if c[STOP] & DNS and answers_of(p).status == APPLY and finish_dns(p):
                c[STOP] -= DNS
            if c[STOP] != 0:
                stop: int = c[STOP]
                c[STOP] = 0
                return stop
            if c[FRAME_POS] >= len(frames):
                c[FRAME_POS] = 0
                return END


@inlined
def parse_batch(p, buffer, frames):
    c = p.control
    counters = p.counters
    batch = batch_of(p)
    index = index_of(p)
    partitions = c[PARTITIONS]
    parsed = c[PARSED]
    full = parsed + BATCH
    i = c[FRAME_POS]
    watermark = c[WATERMARK]
    while parsed < full and i < len(frames) and c[STOP] == 0:
        frame = frames[np.uint64(i)]
        if frame.ts_ns >= watermark:
            if frame.ts_ns >= c[NEXT_BOUNDARY]:  # an interval's summary holds whole packets: stop before this one
                c[BOUNDARY_TS] = frame.ts_ns
                c[STOP] = BOUNDARY
                break
            watermark = frame.ts_ns
            if watermark >= c[NEXT_CLOSE]:
                c[STOP] |= CLOSE
        elif frame.ts_ns < watermark - c[GRACE]:
            if frame.ts_ns < watermark - c[MAX_BEHIND]:  # is the clock set back, or is the time a stray?
                c[STOP] = BEHIND
                break
            if c[MY_PARTITION] == 0:
                counters[OUT_OF_ORDER] += 1
            c[MOST_BEHIND] = max(c[MOST_BEHIND], watermark - frame.ts_ns)
        i += 1
        if partitions > 1 and of_another(buffer, frame, p.tunnels, c[MY_PARTITION], partitions):
            continue
        r = batch[parsed & RING_MASK]
        reason = parse(buffer, frame, p.tunnels, c[MAC], r)
        if reason != ATTRIBUTED:
            if c[MY_PARTITION] == 0:
                counters[PACKETS] += 1
                counters[WIRE_BYTES] += np.int64(frame.wire_bytes)
                counters[reason] += 1
                if r.unread != 0:
                    counters[BEFORE_UNREAD + np.int64(r.unread)] += 1
            continue
        mine = partitions == 1 or partition_of(r.a_hi, r.a_lo, r.b_hi, r.b_lo, partitions) == c[MY_PARTITION]
        if mine:
            counters[PACKETS] += 1
            counters[WIRE_BYTES] += np.int64(frame.wire_bytes)
            if r.unread != 0:
                counters[BEFORE_UNREAD + np.int64(r.unread)] += 1
            if r.fragment != 0 and not know_fragment(p, r, watermark):
                counters[FRAGMENT_WITHOUT_FIRST] += 1
                continue
        if c[READ_DNS] != NO_DNS and (r.src_port == 53 or r.dst_port == 53) and note_dns(p, buffer, r, mine, watermark):
            c[STOP] |= DNS
        if mine:
            r.watermark_ns = watermark
            r.frame_number = c[FRAMES_BEFORE] + i - 1
            r.hash = flow_hash(r, p.seed)
            prefetch_index(index, r.hash)
            parsed += 1
    c[WATERMARK] = watermark
    c[FRAME_POS] = i
    c[PARSED] = parsed


@inlined
def of_another(buffer, frame, tunnels, partition, partitions):
    """Whether a plain Ethernet/IPv4 frame surely belongs to another worker and tells no names: without parsing it."""
    i = np.int64(frame.offset)
    if frame.link_type != 1 or np.int64(frame.captured_bytes) < 38 or u16(buffer, i + 12) != 0x0800:
        return False
    if frame.stripped_tag != 0:
        return False
    protocol = u8(buffer, i + 23)
    if protocol != 6 and protocol != 17:  # a tunnel, or counted by the first worker
        return False
    ports, total = i + 34, u16(buffer, i + 16)
    source_port, destination_port = u16(buffer, ports), u16(buffer, ports + 2)
    if u8(buffer, i + 14) != 0x45 or source_port == 53 or destination_port == 53:
        return False
    # Malformed ones are counted by the first worker; a length that is not that of the packet may make them so.
    if total < 28 or total + 14 > np.int64(frame.wire_bytes):
        return False
    if protocol == 17:
        if may_be_tunnel(tunnels, source_port, destination_port):
            return False
    else:
        if total < 40 or np.int64(frame.captured_bytes) < 50:
            return False
        header = (u8(buffer, i + 46) >> 4) * 4
        if header < 20 or total < 20 + header:
            return False
    mapped = np.uint64(0xFFFF00000000)
    zero = np.uint64(0)
    a = mapped | np.uint64(u32(buffer, i + 26))
    b = mapped | np.uint64(u32(buffer, i + 30))
    return partition_of(zero, a, zero, b, partitions) != partition


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
    """Read a packet of port 53; True when what it teaches waits for the packets before it, see `answers.APPLY`."""
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
    if a.learned_count - a.learned_total < MAX_ADDRESSES:
        return False
    a.budget_refused = 0
    done = apply_answers(a, names_of(p), addresses_of(p), p.dns_budget, p.control[WATERMARK])
    if a.budget_refused != 0 and a.is_mine != 0:
        p.counters[DNS_OVER_BUDGET] += 1
    return done


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


@helper
def know_fragment(p, r, watermark):
    """Remember the ports of a first fragment; give them to a later one. False for a later one without a first.

    A fragment is too old by the watermark, which never goes back: what gives way to another one as too old matches no
    later packet either, whatever its time is.
    """
    # Hosts count their fragments from small numbers: the addresses must tell them apart as well as the id does.
    ends = (r.a_lo ^ r.a_hi) * np.uint64(0x9E3779B97F4A7C15) ^ (r.b_lo ^ r.b_hi) * np.uint64(0xC2B2AE3D27D4EB4F)
    first = np.int64(mix(ends ^ np.uint64(r.fragment_id)) % np.uint64(FRAGMENT_SETS)) * FRAGMENT_WAYS
    oldest = first
    again = False
    one_host = r.a_hi == r.b_hi and r.a_lo == r.b_lo  # which end sent is told by the ports alone
    fragments = table_at(p.fragments, p.fragments_count, FRAGMENT)
    for way in range(first, first + FRAGMENT_WAYS):
        f = fragments[way]
        if (
            f.id == r.fragment_id and f.a_lo == r.a_lo and f.b_lo == r.b_lo and f.a_hi == r.a_hi and f.b_hi == r.b_hi
            and f.protocol == r.protocol and (one_host or f.source_is_a == r.source_is_a)
            and watermark - f.ts_ns <= FRAGMENT_TIMEOUT_NS
        ):  # fmt: skip
            if r.fragment == 1:
                oldest = np.int64(way)
                again = True
                break
            r.source_is_a = f.source_is_a
            r.a_port = f.a_port
            r.b_port = f.b_port
            r.src_port = f.a_port if r.source_is_a else f.b_port
            r.dst_port = f.b_port if r.source_is_a else f.a_port
            return True
        if f.ts_ns < fragments[oldest].ts_ns:
            oldest = np.int64(way)
    if r.fragment == 2:
        return False
    f = fragments[oldest]
    if f.ts_ns != 0 and watermark - f.ts_ns <= FRAGMENT_TIMEOUT_NS and not again:
        p.counters[FRAGMENTS_FORGOTTEN] += 1
    set_ends(f, r)
    f.protocol = r.protocol
    f.id = r.fragment_id
    f.source_is_a = r.source_is_a
    f.ts_ns = r.ts_ns
    return True


@inlined
def move_on(p, buffer, drain):
    """Take the packets that are parsed a step further each; at most a batch of them is updated.

    The header of a packet is asked for a batch before its state is, and that a batch before the update: so requests to
    memory come one by one between the updates, which go on meanwhile. `drain`: wait for nothing.

    Returns:
        True: the name in the packet at BATCH_POS must be read first.
    """
    c = p.control
    headers = headers_of(p)
    batch = batch_of(p)
    index = index_of(p)
    profiles = profiles_of(p)
    lag = 0 if drain else BATCH
    parsed = c[PARSED]
    found = c[FOUND]
    asked = c[ASKED]
    updated = c[UPDATED]
    full = updated + BATCH
    reads_name = False
    while updated < full and (found < parsed or asked < found - lag or updated < asked - lag):
        if found < parsed:
            r = batch[found & RING_MASK]
            r.slot = guess(index, r.hash)
            if r.slot >= 0:
                prefetch(headers, r.slot)
            found += 1
        if asked < found - lag:
            ask_for_state(p, headers, profiles, batch[asked & RING_MASK])
            asked += 1
        if updated < asked - lag:
            if update(p, headers, batch, updated & RING_MASK, buffer):
                c[BATCH_POS] = updated & RING_MASK
                reads_name = True
                break
            updated += 1
    c[FOUND] = found
    c[ASKED] = asked
    c[UPDATED] = updated
    return reads_name


@inlined
def ask_for_state(p, headers, profiles, r):
    """Prefetch what the packet will touch of its flow's state."""
    if r.slot >= 0:
        h = headers[np.uint64(r.slot)]
        if h.marks & FIXED == 0:
            prefetch_at(p.headers + r.slot * _HEADER_BYTES + _SECOND_LINE)
        if h.service >= 0:
            profile = profiles[service_of(p, h.service).profile]
            state = state_of(profile, h)
            direction = direction_of(h, r)
            for line in range(profile.ahead_count):
                prefetch_at(state + profile.ahead[direction, line])


@inlined
def update(p, headers, batch, i, buffer):
    """Give a packet to its flow. True: its name must be read first."""
    c = p.control
    r = batch[i]
    slot = r.slot
    if slot < 0 or headers[np.uint64(slot)].marks & USED == 0 or not same_flow(headers[np.uint64(slot)], r):
        slot = find(index_of(p), headers, r)
        if slot < 0:
            slot = new_flow(p, r)
            if slot < 0:
                p.counters[CACHE_FULL] += 1
                return False
        r.slot = slot
    h = headers[np.uint64(slot)]
    seen = max(r.ts_ns, r.watermark_ns - c[GRACE])
    if seen - h.last_ns > c[IDLE]:  # the packets decide what is a new flow, not the sweep
        end_flow(p, slot, ENDED_IDLE)
        start_flow(p, slot, r)
        p.counters[EVICTED_IDLE] += 1
    h.last_ns = max(h.last_ns, seen)
    ended = OPEN
    if r.tcp_flags & 7 != 0 or h.marks & (SEEN_A if r.source_is_a else SEEN_B) == 0:  # SYN, FIN, RST
        ended = live_on(p, slot, r)
    if r.tcp_flags != 0:
        advance(h, r)
    what = GO_ON
    if h.marks & FIXED == 0:
        what = undecided(p, slot, r, buffer)
        if what == READ_NAME:
            return True
    if what == GO_ON:
        if h.service < 0:
            p.counters[NO_SERVICE] += 1
        else:
            feed(p, slot, p.batch + i * _PACKET_BYTES, buffer)
    if ended != OPEN:
        h.end = np.uint8(ended)
        if what == GO_ON and h.service >= 0:
            tell_end(p, slot, ended)
    return False


@helper
def live_on(p, slot, r):
    """Note what a packet says of the life of its TCP connection; one that opens another one begins a new flow.

    Returns:
        How the flow ends with this packet, or OPEN.
    """
    h = header_of(p, slot)
    if r.tcp_flags & 2 and h.marks & (SEEN_A | SEEN_B) and begins_another(h, r):
        end_flow(p, slot, OPEN)
        base_a = h.base_a
        base_b = h.base_b
        known = h.handshake
        start_flow(p, slot, r)
        h.earlier_a = base_a
        h.earlier_b = base_b
        h.handshake |= np.uint8((EARLIER_A if known & SYN_A else 0) | (EARLIER_B if known & SYN_B else 0))
    elif h.service >= 0 and h.open_start_ns != NONE_NS and interval_of(p, h, r) > h.open_start_ns:
        collect(p, slot)  # the row does not know what comes after it
    return note_segment(h, r)


@inlined
def direction_of(h, r):
    """UP from the client, else DOWN."""
    return UP if (h.marks & CLIENT_IS_A != 0) == (r.source_is_a != 0) else DOWN


@helper
def feed(p, slot, packet_address, buffer):
    """Give a packet to the feature classes of its flow, in the interval in which it counts."""
    h = header_of(p, slot)
    r = table_at(packet_address, 1, PACKET)[0]
    profile = profile_of(p, h)
    start = h.open_start_ns
    end = start + profile.interval_ns
    if r.ts_ns < start or r.ts_ns >= end or r.watermark_ns >= end + p.control[GRACE]:
        start = turn_interval(p, slot, r)
    if h.state_word < MANY_PACKETS:
        h.state_word += ONE_PACKET
    r.interval_start_ns = start
    r.direction = direction_of(h, r)
    p.counters[ATTRIBUTED] += 1
    service = service_of(p, h.service)
    service.packets += 1
    service.ip_bytes += np.int64(r.ip_bytes)
    if p.trail_count > 0:
        leave_trail(p, r, h)
    state = state_of(profile, h)
    call_at(profile.add_packet, (state, packet_address, data_address(buffer), len(buffer), profile.errors))


@inlined
def leave_trail(p, r, h):
    """Note the service of a frame, for who asks afterwards which packets it got."""
    table_at(p.trail, p.trail_count, _I2)[r.frame_number] = h.service


@helper
def interval_of(p, h, r):
    """Start of the interval in which a packet counts: its own; or the flow's open one, or the oldest that the
    watermark has not closed, when the packet is late."""
    c = p.control
    length = profile_of(p, h).interval_ns
    start = r.ts_ns - (r.ts_ns - c[ORIGIN]) % length
    newest_closed = r.watermark_ns - c[GRACE]
    start = max(start, newest_closed - (newest_closed - c[ORIGIN]) % length)
    return max(start, h.open_start_ns)


@helper
def turn_interval(p, slot, r):
    """The slow part of `feed`: collect the interval that has ended, open the packet's."""
    h = header_of(p, slot)
    start = interval_of(p, h, r)
    if start > r.ts_ns:
        p.counters[LATE] += 1
        h.late_packets += np.uint16(1)
    if h.open_start_ns != NONE_NS and start > h.open_start_ns:
        collect(p, slot)
    h.open_start_ns = start
    h.state_word &= STATE_SLOT
    return start


@helper
def collect(p, slot):
    """Write the row of a flow's open interval. What is written keeps its service; what follows may get another."""
    h = header_of(p, slot)
    profile = profile_of(p, h)
    if h.end == OPEN and h.last_ns + p.control[IDLE] < h.open_start_ns + profile.interval_ns:
        tell_end(p, slot, ENDED_IDLE)  # it was idle for long enough before the interval was over
    row = profile.row + profile.rows * profile.row_bytes
    is_kept = p.control[SHORT_LIMIT] < 0 or has_room(p, h, profile.interval_ns)
    if is_kept:
        profile.rows += 1
    else:
        p.counters[SHORT_CAPPED] += 1  # the row is overwritten by the next
    fill_row(table_at(row, 1, ROW_HEADER)[0], h)
    state = state_of(profile, h)
    call_at(profile.collect, (state, row, profile.interval_ns * 1e-9, profile.errors))
    h.open_start_ns = NONE_NS
    if is_kept:
        h.marks |= REPORTED
    vacate(p, slot)
    begin_kept(h)
    if no_name_comes(p, h):
        h.marks |= FIXED


@helper
def has_room(p, h, interval_ns):
    """Whether a flow's open interval gets its row. Of flows with one or two packets, which a scan or a flood of spoofed
    addresses makes (and a lookup), a service has so many rows in an interval."""
    if h.state_word >= MANY_PACKETS:
        return True
    service = service_of(p, h.service)
    start = h.open_start_ns
    which = (start - p.control[ORIGIN]) // interval_ns & 1
    if start > service.short_starts[which]:
        service.short_starts[which] = start
        service.short_rows[which] = 0
    service.short_rows[which] += 1
    return service.short_rows[which] <= p.control[SHORT_LIMIT]


@helper
def fill_row(row, h):
    """What a row says of its flow."""
    row.start_ns = h.open_start_ns
    row.first_ns = h.first_ns
    set_ends(row, h)
    row.protocol = protocol_of(h)
    row.service = h.service
    row.name_id = h.name_id
    row.matched_by = h.matched_by
    row.client_is_a = 1 if h.marks & CLIENT_IS_A else 0
    row.is_first = 0 if h.marks & REPORTED else 1
    row.end = h.end
    client = SEEN_A if row.client_is_a else SEEN_B
    server = SEEN_B if row.client_is_a else SEEN_A
    row.sides = (CLIENT_SEEN if h.marks & client else 0) | (SERVER_SEEN if h.marks & server else 0)


@helper
def new_flow(p, r):
    """A slot for the packet's flow, in the index; -1 when the cache is full and the policy is to refuse."""
    slots = p.slots
    slot = take(slots)
    if slot < 0:
        if p.control[REFUSE_AT_CAP] != 0:
            return -1
        drop_flow(p, longest_idle(p), ENDED_EVICTED)
        p.counters[EVICTED_CAP] += 1
        slot = take(slots)
    start_flow(p, slot, r)
    insert(index_of(p), r.hash, slot)
    return slot


@helper
def longest_idle(p):
    """The flow that was idle for longest among the next 64 in use: a bounded approximation of LRU."""
    headers = headers_of(p)
    top = p.slots.peak
    best = -1
    looked = 0
    hand = p.control[EVICT_HAND]
    while looked < 64 or best < 0:
        hand = hand + 1 if hand + 1 < top else 0
        looked += 1
        if headers[hand].marks & USED and (best < 0 or headers[hand].last_ns < headers[best].last_ns):
            best = hand
    p.control[EVICT_HAND] = hand
    return best


@helper
def start_flow(p, slot, r):
    h = header_of(p, slot)
    set_ends(h, r)
    h.transport = r.protocol if r.protocol == 17 else 0
    h.hash = r.hash
    h.first_ns = r.ts_ns
    h.last_ns = max(r.ts_ns, r.watermark_ns - p.control[GRACE])
    h.open_start_ns = NONE_NS
    h.state_word = 0
    h.pool_slot = -1
    h.marks = USED
    h.matched_by = BY_NOTHING
    h.service = NO_SERVICE_YET
    h.name_id = -1
    begin_kept(h)
    begin_search(h)
    begin_connection(h, r)
    p.counters[FLOWS_NEW] += 1
    if r.src_port == DNS_OVER_TLS or r.dst_port == DNS_OVER_TLS:
        p.counters[DOT_FLOWS if r.protocol == 6 else DOQ_FLOWS] += 1


@helper
def end_flow(p, slot, end):
    """Write what a flow still holds and free its state; its header and index entry stay.

    Args:
        end: how it ends, where its packets did not tell before: an index of `connection.ENDS`.
    """
    h = header_of(p, slot)
    if h.service >= 0:
        if end == ENDED_EVICTED and h.end == OPEN:
            tell_end(p, slot, end)
        if h.open_start_ns != NONE_NS:
            collect(p, slot)
        if h.end == OPEN:
            tell_end(p, slot, end)
        give(profile_of(p, h).slots, np.int64(h.state_word) & STATE_SLOT)
    end_search(p.counters, h)
    stop_keeping(p, slot)


@helper
def tell_end(p, slot, end):
    """Tell the classes of a flow that it has ended, and how."""
    h = header_of(p, slot)
    h.end = np.uint8(end)
    profile = profile_of(p, h)
    state = state_of(profile, h)
    call_at(profile.end_flow, (state, np.int64(h.end), profile.errors))


@helper
def drop_flow(p, slot, end):
    h = header_of(p, slot)
    end_flow(p, slot, end)
    remove(index_of(p), h.hash, slot)
    h.marks = 0
    give(p.slots, slot)


@helper
def settle(p, slot):
    """From now on the flow keeps its service, or has none: its first packets are needed no more."""
    give_up(p, slot)
    header_of(p, slot).marks |= FIXED


@helper
def give_up(p, slot):
    """What was kept of a flow's packets stays with the service that it has, or has none; a name may still come.

    For packets to say, as its entries of the pool are free from then on; see `vacate`.
    """
    entry = np.int64(header_of(p, slot).pool_slot)
    stop_keeping(p, slot)
    while entry >= 0:
        free_entry(p, entry)
        entry = np.int64(table_at(p.pool_next, p.pool_next_count, _I4)[entry])


@helper
def stop_keeping(p, slot):
    """As `give_up` does, but the entries of the pool are vacated alone."""
    h = header_of(p, slot)
    if h.pool_slot >= 0 and h.service < 0:
        p.counters[WAITING] -= np.int64(h.packets)
        p.counters[NO_SERVICE] += np.int64(h.packets)
    vacate(p, slot)
    h.packets = GIVEN_UP


@inlined
def begin_kept(h):
    """From here on packets can change to another service with their flow."""
    h.packets = 0
    h.first_ip_bytes = 0
    h.late_packets = 0


@helper
def vacate(p, slot):
    """Take a flow's entries of the pool from it; they are not free before `find_entry` comes by.

    When an interval is closed and when an idle flow is dropped depends on where blocks end. What is free must not, as
    which flows are given up when the pool is full follows from it.
    """
    h = header_of(p, slot)
    entry = np.int64(h.pool_slot)
    h.pool_slot = -1
    while entry >= 0:  # what follows an entry can still be read by who is feeding its packets
        table_at(p.pool_owner, p.pool_owner_count, _I8)[entry] = -1
        entry = np.int64(table_at(p.pool_next, p.pool_next_count, _I4)[entry])


@helper
def free_entry(p, entry):
    """Return an entry that no flow owns."""
    table_at(p.pool_free, p.pool_free_count, _I4)[p.control[POOL_FREE]] = entry
    p.control[POOL_FREE] += 1


@helper
def kept_at(p, entry, i):
    """Where the packet number `i` of a flow is, whose first entry of the pool is `entry`."""
    for _ in range(i // FIRST_PACKETS):
        entry = np.int64(table_at(p.pool_next, p.pool_next_count, _I4)[entry])
    return entry * FIRST_PACKETS + i % FIRST_PACKETS


@inlined
def no_name_comes(p, h):
    """Whether no packet can bring the flow a name any more."""
    return h.marks & NAME_DONE != 0 or p.control[READ_NAMES] == NO_NAMES


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
        if h.marks & FIXED:
            return GO_ON
    asks = c[RESUME] == 0 and c[READ_NAMES] != NO_NAMES and h.marks & NAME_DONE == 0
    if asks and wants_name(p, h, r, buffer):
        return READ_NAME
    if c[RESUME] != 0:
        c[RESUME] = 0
        if c[RESUME_DONE]:
            h.marks |= NAME_DONE
        if c[RESUME_SERVICE] >= 0:
            assign(p, slot, r, c[RESUME_SERVICE], c[RESUME_BY], c[RESUME_NAME], r.source_is_a == 0, buffer)
            settle(p, slot)
            return GO_ON
    if h.matched_by < BY_DNS:
        match_address(p, slot, r, buffer)
    if c[READ_NAMES] == NO_NAMES:
        settle(p, slot)
    known = h.service >= 0
    if h.packets == GIVEN_UP:
        if no_name_comes(p, h):
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
        if no_name_comes(p, h):
            settle(p, slot)
    return GO_ON if known else KEPT


@helper
def wants_name(p, h, r, buffer):
    """Whether Python has to read, or look up, a name from the packet. One that can be decided here is taken here."""
    c = p.control
    what = look_for_name(p.naming, p.counters, h, r, buffer, c[READ_NAMES])
    if what == TOLD:
        c[RESUME] = 1
        c[RESUME_DONE] = 1
        c[RESUME_SERVICE] = p.naming.service
        c[RESUME_NAME] = p.naming.name_id
        c[RESUME_BY] = p.naming.by
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
    if h.handshake & (SYN_A | SYN_B) == 0:
        ports = table_at(p.service_ports, p.service_ports_count, _BOOL)
        if ports[h.a_port] != ports[h.b_port] and (h.a_port > h.b_port) == ports[h.b_port]:
            return ports[h.b_port]
    a, _ = lookup_prefix(networks_of(p), h.a_hi, h.a_lo)
    b, _ = lookup_prefix(networks_of(p), h.b_hi, h.b_lo)
    if (a >= 0) != (b >= 0):
        return a >= 0
    return h.marks & OPENED_BY_A != 0


@helper
def client_by_mac(p, r, otherwise):
    """Whether the client is end a by the configured MAC address of the host or of its router."""
    if p.control[DIRECTION_MODE] == BY_SERVICE:
        return otherwise
    if r.mac_side == 0 or r.mac_side == 3:
        return otherwise
    sent_by_it = r.mac_side == 1
    client_sent = sent_by_it if p.control[DIRECTION_MODE] == BY_HOST_MAC else not sent_by_it
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
        if p.trail_count > 0 and h.pool_slot >= 0:
            entry = np.int64(h.pool_slot)
            for i in range(np.int64(h.packets)):
                leave_trail(p, kept_of(p)[kept_at(p, entry, i)], h)
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
        entry = np.int64(h.pool_slot)
        for i in range(np.int64(h.packets)):
            at = kept_at(p, entry, i)
            kept = kept_of(p)[at]
            kept.watermark_ns = r.watermark_ns
            feed(p, slot, p.pool_packets + at * _PACKET_BYTES, kept_raw_of(p))
        if h.pool_slot < 0:  # some of them are in a row already
            h.packets = GIVEN_UP
    if h.end != OPEN:
        tell_end(p, slot, h.end)


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


@helper
def keep_packet(p, slot, r, buffer):
    """Keep one of a flow's first packets; when the pool is full, the flow that came first gives way."""
    h = header_of(p, slot)
    c = p.control
    i = np.int64(h.packets) - 1
    if h.pool_slot < 0 or i % FIRST_PACKETS == 0:
        taken = take_entry(p, slot, r.watermark_ns)
        if h.pool_slot < 0:
            h.pool_slot = taken
        else:
            table_at(p.pool_next, p.pool_next_count, _I4)[kept_at(p, np.int64(h.pool_slot), i - 1) // FIRST_PACKETS] = (
                taken
            )
    at = kept_at(p, np.int64(h.pool_slot), i)
    kept_of(p)[at] = r
    if c[POOL_RAW] > 0:
        kept = kept_of(p)[at]
        kept.raw_offset = at * c[POOL_RAW]
        kept.payload_offset += kept.raw_offset - r.raw_offset
        raw = kept_raw_of(p)
        for byte in range(np.int64(r.raw_bytes)):
            raw[kept.raw_offset + byte] = u8(buffer, r.raw_offset + byte)


@helper
def take_entry(p, slot, now_ns):
    """An entry of the pool for a flow."""
    c = p.control
    if c[POOL_FREE] == 0:
        find_entry(p, slot, now_ns - c[GRACE])
    c[POOL_FREE] -= 1
    taken = np.int64(table_at(p.pool_free, p.pool_free_count, _I4)[c[POOL_FREE]])
    table_at(p.pool_owner, p.pool_owner_count, _I8)[taken] = slot
    table_at(p.pool_next, p.pool_next_count, _I4)[taken] = -1
    return taken


@helper
def find_entry(p, slot, now_ns):
    """Free the next entry in turn; the flow that still keeps packets there gives way.

    One that is over by time is not counted, as it keeps none any more where a sweep has seen it.
    """
    c = p.control
    owner = table_at(p.pool_owner, p.pool_owner_count, _I8)
    while c[POOL_FREE] == 0:
        entry = c[POOL_HAND]
        c[POOL_HAND] = entry + 1 if entry + 1 < len(owner) else 0
        holder = owner[entry]
        if holder == slot:
            continue
        if holder < 0:
            free_entry(p, entry)
        elif is_over(p, holder, now_ns):
            stop_keeping(p, holder)
            free_entry(p, entry)
        else:
            give_up(p, holder)
            p.counters[POOL_GIVEN_UP] += 1


@inlined
def is_over(p, slot, now_ns):
    """Whether the open interval of a flow is to be closed, or the flow is idle: `sweep` asks the same."""
    h = header_of(p, slot)
    return now_ns - h.last_ns > p.control[IDLE] or (
        h.service >= 0 and h.open_start_ns != NONE_NS and h.open_start_ns + profile_of(p, h).interval_ns <= now_ns
    )


@kernel
def sweep(partition: Any, budget: int) -> int:
    """Look at the next `budget` headers: write rows of closed intervals, drop idle flows.

    Returns:
        END when all were looked at, FLUSH when the rows must be taken first, else CLOSE: call again.
    """
    p = borrowed(partition)[0]
    c = p.control
    headers = headers_of(p)
    now = c[SWEEP_NOW]
    stop = min(c[SWEEP_POS] + budget, c[SWEEP_TOP])
    while c[SWEEP_POS] < stop:
        slot = c[SWEEP_POS]
        h = headers[slot]
        if h.marks & USED:
            if h.service >= 0:
                profile = profile_of(p, h)
                if profile.rows > profile.row_limit:
                    return FLUSH
                if h.open_start_ns != NONE_NS and h.open_start_ns + profile.interval_ns <= now:
                    collect(p, slot)
            if now - h.last_ns > c[IDLE]:
                drop_flow(p, slot, OPEN if c[FINISHING] else ENDED_IDLE)
                if c[FINISHING] == 0:
                    p.counters[EVICTED_IDLE] += 1
        c[SWEEP_POS] += 1
    return END if c[SWEEP_POS] >= c[SWEEP_TOP] else CLOSE
