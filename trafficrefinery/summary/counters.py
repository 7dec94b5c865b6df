"""The words for each counter: what it counts, what follows from it, and what to do. A counter has them here or nowhere.

A counter that is added to `wire.REASONS` or `kernel.COUNTERS` needs a line here; a test fails without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from trafficrefinery.summary.findings import NOTE, WARNING, Finding


class Words(NamedTuple):
    """What the summary says of a counter that is not zero.

    Args:
        template: see `Finding`.
        of: the counter that a share is of, if there is one.
    """

    severity: str
    template: str
    remedy: str = ""
    of: str = "packets"


EXPECTED = frozenset({
    "attributed", "not_ip", "not_tcp_or_udp", "no_service", "packets", "wire_bytes", "flows_new", "flows_evicted_idle",
})  # fmt: skip
"""Counters that are not zero in ordinary traffic: the summary has the numbers, and nothing to say of them."""

WORDS: Mapping[str, Words] = {
    "malformed": Words(
        NOTE, "{} [packet has|packets have] headers that contradict themselves, and [is|are] in no record"
    ),
    "truncated": Words(
        WARNING,
        "{} [packet is|packets are] cut off inside the headers, and [is|are] in no record",
        "capture with a longer snap length (tcpdump -s 0)",
    ),
    "unsupported_link_type": Words(
        WARNING,
        "{} [packet has|packets have] a link type that is not read, and [is|are] in no record",
        "capture on an Ethernet interface, or convert the trace",
    ),
    "fragment_without_first": Words(
        NOTE,
        "{} [packet is a fragment|packets are fragments] whose first fragment was not seen, and [is|are] in no record",
    ),
    "flow_cache_full": Words(
        WARNING,
        "{} [packet|packets] of new flows found the flow cache full, and [is|are] in no record",
        'raise FlowCache.MaxFlows, or set FlowCache.AtCapacity to "evict-oldest"',
    ),
    "bad_time": Words(
        WARNING,
        "{} [packet has|packets have] a stray time, far from those of all other flows, and [is|are] in no record",
        "look at the clock of the capturing machine",
    ),
    "late_packets": Words(
        WARNING,
        "{} [packet is|packets are] older than the open interval, and [counts|count] in that one",
        "sort the trace (reordercap IN OUT), or set a longer Grace",
    ),
    "flows_evicted_at_capacity": Words(
        WARNING,
        "{} [flow was|flows were] ended early because the flow cache was full; further packets count as a new flow",
        "raise FlowCache.MaxFlows",
        of="flows_new",
    ),
    "waiting_for_service": Words(WARNING, "{} [packet was|packets were] still waiting for the service of a flow"),
    "fragments_forgotten": Words(
        NOTE,
        "{} first [fragment was|fragments were] given up because too many were open; the rest of them is in no record",
        of="",
    ),
    "first_packets_given_up": Words(
        NOTE,
        "{} [flow was|flows were] decided early, because too many waited for their service",
        of="flows_new",
    ),
}  # fmt: skip


def findings_of(counters: Mapping[str, int]) -> list[Finding]:
    """What the counters of a run tell that a user has to know."""
    found = []
    for name, count in counters.items():
        if name in EXPECTED or not count:
            continue
        words = WORDS.get(name) or Words(NOTE, f"{name.replace('_', ' ')}: {{}}", of="")
        found.append(Finding(name, words.severity, count, counters.get(words.of, 0), words.template, words.remedy))
    return found
