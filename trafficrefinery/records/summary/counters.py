"""The words for each counter: what it counts, what follows from it, and what to do. A counter has them here or nowhere.

Each of `engine.counters.COUNTERS` needs a line here; a test fails without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from trafficrefinery.packets.tunnels import TUNNELS
from trafficrefinery.services.sources import FLOW_SOURCES

from .findings import ERROR, NOTE, WARNING, Finding


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
    "dns_messages", "dns_addresses", "dns_matched", "quic_attempts", "hello_segments", "ech_offered",
    "sessions_started", "sessions_ended", "sessions_open",
    # of these, the readers of traces, or the counters by kind, say more
    "out_of_order", "clock_set_back", "tunnel_not_decapsulated",
})  # fmt: skip
"""Counters that are not zero in ordinary traffic: the summary has the numbers, and nothing to say of them."""
_TUNNEL = "_not_decapsulated"

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
    "encrypted": Words(NOTE, "{} [packet is|packets are] encrypted below IP, and in no record"),
    "amsdu_not_split": Words(NOTE, "{} aggregated 802.11 [frame|frames] [was|were] read to the first packet only"),
    "rows_split": Words(
        NOTE,
        "{} [flow has|flows have] two records in one interval: the name came after more packets than are kept",
        of="flows_new",
    ),
    "short_flows_capped": Words(
        WARNING,
        "{} [record|records] of flows with one or two packets [was|were] left out as too many of an interval",
        "look for a scan or a flood in the traffic",
        of="",
    ),
    "feature_class_errors": Words(
        ERROR,
        "{} [call|calls] of feature classes ended at a wrong index, so that the features there are wrong",
        "mend the class; `trafficrefinery features check` shows the line",
        of="",
    ),
    **{source.over_budget[0]: Words(WARNING, source.over_budget[2], of="") for source in FLOW_SOURCES.values()},
    "hellos_unfinished": Words(
        NOTE, "{} [flow has|flows have] a ClientHello that began and did not go on, and no name from it", of="flows_new"
    ),
    "hellos_truncated": Words(
        WARNING,
        "{} [flow has|flows have] a ClientHello that is cut off by the snap length, and no name from it",
        "capture with a longer snap length (tcpdump -s 0)",
        of="flows_new",
    ),
    "quic_unknown_versions": Words(
        NOTE, "{} [flow begins|flows begin] with a version of QUIC that is not read, and [has|have] no name from it",
        of="flows_new",
    ),
    "quic_unread": Words(
        NOTE, "{} QUIC [flow|flows] sent many packets that no key opens, and may lack a name",
        of="flows_new",
    ),
    "ech_public_names": Words(
        NOTE,
        "{} [flow hides its name|flows hide their names] by Encrypted Client Hello; no public name is taken for it",
        of="flows_new",
    ),
    "hellos_not_found": Words(
        NOTE, "{} [flow has|flows have] a ClientHello that is too long or damaged, and no name from it", of="flows_new"
    ),
    "hellos_evicted": Words(
        WARNING, "{} [handshake was|handshakes were] given up for newer ones before a name was read", of=""
    ),
    "names_refused": Words(WARNING, "{} [name|names] of services [was|were] not kept, as there were too many", of=""),
    "addresses_replaced": Words(
        WARNING,
        "{} [address|addresses] from DNS gave way to newer ones although [it|they] still held",
        "raise ServiceMap.MaxAddresses",
        of="",
    ),
    "dns_streams_evicted": Words(
        NOTE, "{} DNS [connection|connections] over TCP [was|were] given up for newer ones", of=""
    ),
    "dns_malformed": Words(NOTE, "{} DNS [message|messages] could not be read to the end", of="dns_messages"),
    "dns_unasked": Words(
        NOTE, "{} DNS [answer was|answers were] not used, as nobody was seen to ask", of="dns_messages"
    ),
    "dns_one_sided": Words(
        NOTE, "{} DNS [answer was|answers were] taken without a query, as none of [its|their] ends is seen to ask",
        of="dns_messages",
    ),
    "dns_retried": Words(
        NOTE, "{} DNS [answer|answers] came before the query or the alias that [it follows|they follow] from",
        of="dns_messages",
    ),
    "dns_forgotten": Words(
        NOTE, "{} DNS [query, alias or answer was|queries, aliases and answers were] forgotten for newer ones", of=""
    ),
    "dns_over_budget": Words(WARNING, "{} DNS [message was|messages were] not read: too many at once", of=""),
    "dot_flows": Words(NOTE, "{} [flow asks|flows ask] by DNS over TLS, which cannot be read", of="flows_new"),
    "doq_flows": Words(NOTE, "{} [flow asks|flows ask] by DNS over QUIC, which cannot be read", of="flows_new"),
    "doh_flows": Words(NOTE, "{} [flow asks|flows ask] by DNS over HTTPS, which cannot be read", of="flows_new"),
    "sessions_refused": Words(
        WARNING, "{} [session|sessions] found too many open, and [is|are] missing", "raise Sessions.MaxSessions", of=""
    ),
}  # fmt: skip


def words_of(name: str) -> Words | None:
    """The words for a counter; None for one that nobody described."""
    if name.endswith(_TUNNEL) and name not in WORDS:
        kind = name.removesuffix(_TUNNEL)
        message = f"{{}} [packet is in a tunnel|packets are in tunnels] ({kind}) that [was|were] not looked into"
        udp = TUNNELS[kind].udp if kind in TUNNELS else None
        others = "".join(f', or "{kind}:{port}" for port {port}' for port in (udp.other_ports if udp else ()))
        return Words(WARNING, message, f'add "{kind}" to Decapsulate{others}')
    return WORDS.get(name)


def findings_of(counters: Mapping[str, int]) -> list[Finding]:
    """What the counters of a run tell that a user has to know."""
    found = []
    for name, count in counters.items():
        if name in EXPECTED or not count:
            continue
        words = words_of(name) or Words(NOTE, f"{name.replace('_', ' ')}: {{}}", of="")
        found.append(Finding(name, words.severity, count, counters.get(words.of, 0), words.template, words.remedy))
    return found
