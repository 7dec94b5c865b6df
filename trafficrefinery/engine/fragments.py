"""Later fragments go to the flow of their first one (RFC 791, RFC 8200 section 4.5)."""

from __future__ import annotations

import numpy as np

from trafficrefinery.jit import helper, table_at

from .flow_cache import mix, set_ends
from .partition import FRAGMENTS_FORGOTTEN

FRAGMENT = np.dtype(
    [("a_hi", "u8"), ("a_lo", "u8"), ("b_hi", "u8"), ("b_lo", "u8"), ("ts_ns", "i8"), ("id", "u4"), ("a_port", "u2"),
     ("b_port", "u2"), ("protocol", "u1"), ("source_is_a", "u1")], align=True,
)  # fmt: skip
FRAGMENT_SETS, FRAGMENT_WAYS = 2048, 4
FRAGMENT_TIMEOUT_NS = 60_000_000_000  # RFC 8200 section 4.5


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
    one_host = r.a_hi == r.b_hi and r.a_lo == r.b_lo  # then only the ports say which end sent
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
