"""All that the loop of one worker reads and writes, as one record, and the names of its numbers."""

from __future__ import annotations

import numpy as np

from trafficrefinery.api import DOWN, UP
from trafficrefinery.jit import helper, inlined, table_at
from trafficrefinery.packets.parser import PACKET, REASONS
from trafficrefinery.packets.tunnels import TABLE_NUMBERS, UNREAD
from trafficrefinery.services import AddressTables, PrefixTables
from trafficrefinery.services.addresses import ADDRESS_ENTRY
from trafficrefinery.services.budget import BUDGET
from trafficrefinery.services.dns.answers import ANSWERS
from trafficrefinery.services.name_table import NAME_TABLES

from .flow_cache import CLIENT_IS_A, FIXED, HEADER, KEPT_PACKETS, REPORTED, SLOTS
from .naming.handshakes import NAME_COUNTERS, NAMING

BATCH = 16
"""Packets between two passes: enough to overlap memory latencies, few enough to stay in the first-level cache."""
RING = 4 * BATCH
RING_MASK = RING - 1
ROW_MARGIN = BATCH * (KEPT_PACKETS + 3)
"""Rows that one batch can make at most: each packet may close its flow's interval, or replay its first packets."""

# Events, as bits: why `process` returned.
END, BOUNDARY, CLOSE, DNS, NAME, FLUSH, GROW, BEHIND = 0, 1, 2, 4, 8, 16, 32, 64

CONTROL = np.dtype(
    [
        ("parsed", "i8"),  # packets of the batch ring that were parsed, and so on for each pass
        ("found", "i8"),
        ("asked", "i8"),
        ("updated", "i8"),
        ("batch_pos", "i8"),  # where the packet to be parsed next goes
        ("frame_pos", "i8"),  # the next frame of the block
        ("stop_frame", "i8"),  # behind the last frame of the block
        ("watermark_ns", "i8"),  # latest time of the whole trace
        ("next_boundary_ns", "i8"),  # when the next interval begins
        ("next_close_ns", "i8"),  # when the next interval is complete
        ("boundary_ns", "i8"),  # time of the packet that crossed the boundary
        ("origin_ns", "i8"),  # from where intervals are counted
        ("grace_ns", "i8"),  # how late a packet may come
        ("idle_ns", "i8"),  # after which a flow ends
        ("my_partition", "i8"),  # number of this worker
        ("partitions", "i8"),  # number of workers
        ("mac", "i8"),  # of the host or router that tells directions
        ("direction_mode", "i8"),  # BY_SERVICE, BY_HOST_MAC, BY_ROUTER_MAC
        ("read_dns", "i8"),  # NO_DNS, DNS_RESPONSES, ALL_DNS
        ("read_names", "i8"),  # a bit for each source of names that is read, see `services.sources`
        ("frames_before", "i8"),  # frames of the trace before this block
        ("refuse_at_cap", "i8"),  # 1: a full cache takes no more flows
        ("resume", "i8"),  # 1: the name in the packet at hand was read; what it says, is in the next four
        ("resume_service", "i8"),
        ("resume_name", "i8"),
        ("resume_by", "i8"),
        ("resume_done", "i8"),
        ("sweep_pos", "i8"),  # the next header to be looked at
        ("sweep_top", "i8"),  # behind the last one
        ("sweep_now_ns", "i8"),
        ("finishing", "i8"),  # 1: the trace is over
        ("pool_free", "i8"),  # free entries of the pool of first packets
        ("pool_hand", "i8"),  # the entry that gives way next
        ("evict_hand", "i8"),  # where the search for an idle flow goes on
        ("pool_raw_bytes", "i8"),  # kept of each of the first packets
        ("grow_at_flows", "i8"),  # at which the index has to grow
        ("max_behind_ns", "i8"),  # behind the watermark, beyond which Python is asked
        ("short_rows_limit", "i8"),  # rows of short flows of a service in an interval; below 0: no limit
        ("most_behind_ns", "i8"),  # by which a packet was older than the watermark
        ("shift_ns", "i8"),  # what the times here are later than those of the trace: its clock was set back
    ]
)
"""The settings of the loop, and its position in the block, the batch, the pool and the sweep."""

# Partition.counters: packets by reason, then others. At any time, packets = all reasons + waiting_for_service.
# What each of the others counts stands beside it; metrics, intervals and `top` show all of them, see `counters`.
COUNTER_HELP = {
    **NAME_COUNTERS,
    "packets": "Packets taken from the capture ring.",
    "wire_bytes": "Bytes on the wire of the packets taken from the capture ring.",
    "late_packets": "Packets older than the open interval, in which they were counted.",
    "flows_new": "Flows that began.",
    "flows_evicted_idle": "Flows that ended because they were idle.",
    "flows_evicted_at_capacity": "Flows that ended because the cache was full.",
    "waiting_for_service": "Packets of flows whose service is not yet decided.",
    "fragments_forgotten": "First fragments forgotten because too many were waiting.",
    "first_packets_given_up": "Flows whose service was decided early because too many flows were waiting.",
    "rows_split": "Flows with two records in one interval: a name came after more packets than are kept.",
    "out_of_order": "Packets that came later than Grace allows.",
    "clock_set_back": "Times that packet timestamps went back, which restarts the intervals.",
    "feature_class_errors": "Calls of a feature class that ended with an error.",
    "dns_messages": "DNS messages that were read.",
    "dns_malformed": "DNS messages that could not be read to their end.",
    "dns_unasked": "DNS answers without a matching query; they are not used for names.",
    "dns_one_sided": "DNS answers used without a query because none is seen of their client or to their resolver.",
    "dns_over_budget": "DNS packets not read in full because too many were unusual.",
    "dot_flows": "Flows of DNS over TLS, whose names are not seen.",
    "doq_flows": "Flows of DNS over QUIC, whose names are not seen.",
    "doh_flows": "Flows of DNS over HTTPS, whose names are not seen.",
    "short_flows_capped": "Records left out because too many flows had only one or two packets in an interval.",
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

NOT_CLIENT, NOT_REPORTED, NOT_FIXED = 255 - CLIENT_IS_A, 255 - REPORTED, 255 - FIXED
GO_ON, READ_NAME, KEPT = 0, 1, 2
DNS_OVER_TLS = 853  # and over QUIC: RFC 7858, RFC 9250
BY_SERVICE, BY_HOST_MAC, BY_ROUTER_MAC = 0, 1, 2
NO_DNS, DNS_RESPONSES, ALL_DNS = 0, 1, 2


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
        ("control", CONTROL),
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

PACKET_BYTES, HEADER_BYTES = PACKET.itemsize, HEADER.itemsize
SECOND_LINE = 64  # of a header
U8, U1, I8, I4, I2, BOOL = (np.dtype(code) for code in ("u8", "u1", "i8", "i4", "i2", "?"))


def _table(name, dtype, compiled=inlined):
    """The function (p) that returns a table of the partition."""
    count = f"{name}_count"

    def table_of(p):
        return table_at(getattr(p, name), getattr(p, count), dtype)

    return compiled(table_of)


index_of, headers_of, batch_of = _table("index", U8), _table("headers", HEADER), _table("batch", PACKET)
profiles_of, services_of = _table("profiles", PROFILE), _table("services", SERVICE)
# The first packets of flows whose service is not settled, FIRST_PACKETS for each entry of the pool. Their raw bytes
# are there if a class reads them.
kept_of, kept_raw_of = _table("pool_packets", PACKET, helper), _table("pool_raw", U1, helper)
# Of each entry of the pool: the slot of the flow that owns it, and the next entry of the same flow; -1 for none.
pool_owner_of, pool_next_of = _table("pool_owner", I8, helper), _table("pool_next", I4, helper)
pool_free_of = _table("pool_free", I4, helper)  # the free entries, `control.pool_free` of them


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
def prefixes_of(p):
    return PrefixTables(
        table_at(p.prefix_hi, p.prefix_hi_count, U8), table_at(p.prefix_lo, p.prefix_lo_count, U8),
        table_at(p.prefix_service, p.prefix_service_count, I4),
        table_at(p.prefix_wildcard, p.prefix_wildcard_count, BOOL),
    )  # fmt: skip


@helper
def networks_of(p):
    return PrefixTables(
        table_at(p.network_hi, p.network_hi_count, U8), table_at(p.network_lo, p.network_lo_count, U8),
        table_at(p.network_service, p.network_service_count, I4),
        table_at(p.network_wildcard, p.network_wildcard_count, BOOL),
    )  # fmt: skip


@helper
def addresses_of(p):
    return AddressTables(
        table_at(p.address_entries, p.address_entries_count, ADDRESS_ENTRY),
        table_at(p.address_seed, p.address_seed_count, U8), table_at(p.address_state, p.address_state_count, I8),
    )  # fmt: skip


@helper
def answers_of(p):
    return table_at(p.answers, p.answers_count, ANSWERS)[0]


@helper
def names_of(p):
    return table_at(p.name_tables, p.name_tables_count, NAME_TABLES)[0]


@inlined
def direction_of(h, r):
    """UP from the client, else DOWN."""
    return UP if (h.marks & CLIENT_IS_A != 0) == (r.source_is_a != 0) else DOWN


@helper
def interval_of(p, h, r):
    """Start of the interval in which a packet counts: its own; or the flow's open one, or the oldest that the
    watermark has not closed, when the packet is late."""
    c = p.control
    length = profile_of(p, h).interval_ns
    start = r.ts_ns - (r.ts_ns - c.origin_ns) % length
    newest_closed = r.watermark_ns - c.grace_ns
    start = max(start, newest_closed - (newest_closed - c.origin_ns) % length)
    return max(start, h.open_start_ns)
