"""The server names of flows against those that tshark shows: TLS, QUIC and Google's QUIC, trace by trace.

    python benchmarks/names_tshark.py ../shared/data/ndpi

Each trace is replayed with a service for any name. A flow's name is compared with the names of the ClientHellos and
CHLOs that tshark finds from its client. Differences are listed with the reason, where one is known; exit status 1 when
one has none.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from measure import stamp
from replays import replayed

from trafficrefinery.config import parse_config
from trafficrefinery.engine.naming.handshakes import NAME_COUNTERS
from trafficrefinery.engine.plan import Plan

CONFIG = {
    "Decapsulate": ["gre", "vxlan", "gtpu"],
    "Services": [{"Name": "Named", "Filter": {"DomainsRegex": ["."]}, "Collect": ["PacketCounters"]}],
}
NAMES = ("tls.handshake.extensions_server_name", "gquic.tag.sni")
ENDS = ("ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "tcp.srcport", "tcp.dstport", "udp.srcport", "udp.dstport")
_TUNNEL = "a tunnel that this configuration does not look into, or tshark alone does"
_KEEP_ALIVE = "the hello overlaps two bytes that came with the ACK before it"
REASONS: dict[tuple[str, str], str] = {
    ("4in6tunnel.pcap", "www.bing.com"): _TUNNEL,
    ("6in4tunnel.pcap", "www.facebook.com"): _TUNNEL,
    ("6in4tunnel.pcap", "mail.tomasu.net"): _TUNNEL,
    ("capwap_data.pcapng", "alt2-mtalk.google.com"): _TUNNEL,
    ("dlt_ppp.pcap", "server4"): "link type PPP",
    ("rdp2.pcap", "win-8qso0d3okbi.hardening.com"): "DTLS",
    ("ookla.pcap", "spd-pub-mi-01-01.fastwebnet.it"): "tshark takes port 8080 for HTTP",
    ("rdp.pcap", "192.168.2.142"): "tshark takes port 3389 for TPKT only",
    ("tls_missing_ch_frag.pcap", "r1---sn-5f5nxgvh5o-hjul.googlevideo.com"): "the rest of the hello was not captured",
    ("heuristic_tcp_ack_payload.pcap", "portal.mail.ru"): _KEEP_ALIVE,
    ("heuristic_tcp_ack_payload.pcap", "bitrix.info"): _KEEP_ALIVE,
    ("heuristic_tcp_ack_payload.pcap", "ru.pinterest.com"): _KEEP_ALIVE,
    ("heuristic_tcp_ack_payload.pcap", "firefox.settings.services.mozilla.com"): _KEEP_ALIVE,
    ("heuristic_tcp_ack_payload.pcap", "moevideo.biz"): _KEEP_ALIVE,
}
"""By file and name; a difference without a reason is a fault."""


class Difference(NamedTuple):
    """A flow whose name differs: `ours` and `theirs` are None where there is none."""

    file: str
    ours: str | None
    theirs: str | None
    flow: Any


def their_names(tshark: str, path: Path) -> dict[Any, list[str]]:
    """The names that tshark shows, by protocol and ends of the client's packets."""
    fields = [part for name in (*NAMES, *ENDS) for part in ("-e", name)]
    command = [tshark, "-r", str(path), "-T", "fields", "-E", "separator=|", *fields, "-Y", " || ".join(NAMES)]
    lines = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace").stdout.splitlines()
    found: dict[Any, list[str]] = defaultdict(list)
    for line in lines:
        tls, google, *ends = line.split("|")
        s4, d4, s6, d6, tcp_s, tcp_d, udp_s, udp_d = (value.split(",")[-1] for value in ends)
        is_tcp = bool(tcp_s) and not google
        ports = (tcp_s, tcp_d) if is_tcp else (udp_s, udp_d)
        flow = "tcp" if is_tcp else "udp", s6 or s4, int(ports[0] or 0), d6 or d4, int(ports[1] or 0)
        found[flow] += [name.lower().rstrip(".") for name in (tls or google).split(",") if name]
    return found


def our_names(plan: Plan, path: Path) -> tuple[dict[Any, list[str]], dict[str, int]]:
    """The names of flows in a replay, by protocol and ends, and the worker's counters."""
    records, counters = replayed(plan, path)
    found: dict[Any, list[str]] = defaultdict(list)
    for record in records:
        if record["matched_by"] in ("sni", "quic_sni"):
            ends = (record[f"{end}_{what}"] for end in ("client", "server") for what in ("ip", "port"))
            flow = record["protocol"], *ends
            if record["domain"] not in found[flow]:
                found[flow].append(record["domain"])
    return found, counters


def compare(file: str, ours: dict[Any, list[str]], theirs: dict[Any, list[str]]) -> tuple[int, list[Difference]]:
    """Flows with equal names, and the differences. Of several hellos on one 5-tuple, all of ours must be theirs."""
    equal, differences = 0, []
    for flow in sorted({*ours, *theirs}):
        mine, other = ours.get(flow, []), theirs.get(flow, [])
        if mine and set(mine) <= set(other):
            equal += 1
        elif not mine:
            differences.append(Difference(file, None, other[0], flow))
        else:
            differences.append(Difference(file, mine[0], other[0] if other else None, flow))
    return equal, differences


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    tshark = shutil.which("tshark")
    if tshark is None:
        sys.exit("tshark is not installed")
    plan = Plan.of(parse_config(CONFIG))
    totals: Counter[str] = Counter()
    counted: Counter[str] = Counter()
    differences: list[Difference] = []
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".pcap", ".pcapng", ".cap")):
        ours, counters = our_names(plan, path)
        equal, others = compare(path.name, ours, their_names(tshark, path))
        counted.update(counters)
        differences += others
        totals["traces"] += 1
        totals["equal"] += equal
        totals["wrong"] += sum(bool(d.ours and d.theirs) for d in others)
        totals["ours alone"] += sum(d.theirs is None for d in others)
        totals["theirs alone"] += sum(d.ours is None for d in others)
    unexplained = [d for d in differences if (d.file, d.ours or d.theirs) not in REASONS]
    for d in differences:
        reason = REASONS.get((d.file, d.ours or d.theirs or ""), "?")
        print(f"{d.file}: {d.flow}: ours {d.ours}, theirs {d.theirs}: {reason}")
    print(f"{stamp()}\n")
    print(", ".join(f"{name} {count}" for name, count in totals.items()))
    print(", ".join(f"{name} {counted[name]}" for name in NAME_COUNTERS if counted[name]))
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
