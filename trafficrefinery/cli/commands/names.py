"""`trafficrefinery names`: the names in a trace, and the service of each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trafficrefinery.cli.ui.lines import say
from trafficrefinery.cli.ui.progress import Bar
from trafficrefinery.cli.ui.summary import print_findings, report_damage

if TYPE_CHECKING:
    from trafficrefinery.replaying.names import TraceName

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_ADDRESSES = 2  # that the table shows


@app.command(epilog="Example: trafficrefinery names monday.pcap.zst -c configs/video.json")
def names(
    traces: Annotated[
        list[str], typer.Argument(metavar="PCAP...", help="pcap or pcapng, also .gz or .zst; - is stdin.")
    ],
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="Configuration whose services the names get.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with all addresses.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """List the DNS, TLS and QUIC names in traces, with their traffic; names without a service come first.

    Seen: query and answer (DNS), alias (of a name that was asked for), and where the server name of a flow was read,
    such as sni (TLS) or quic; ech marks a public name of Encrypted Client Hello, which no service is decided by; doh,
    dot and doq mark a resolver that is asked over HTTPS, TLS or QUIC. Flows, packets and bytes are of connections to
    that server name, or else to an address that answered to it.
    """
    from trafficrefinery.config import load_config

    settings = load_config(config) if config else None

    with Bar(quiet) as bar:
        from trafficrefinery.records.summary import Reading, make
        from trafficrefinery.replaying.names import read_names

        seen: list[tuple[Reading, dict[str, int]]] = []
        found, damage = read_names(traces, settings, bar, lambda *told: seen.append(told))
        reading, counters = seen[0]
        summary = make("names", settings, reading, damage=damage, counted=counters)
    if as_json:
        for name in found:
            typer.echo(json.dumps(_as_object(name)))
    else:
        _print(found, with_services=settings is not None)
    print_findings(summary.findings, err=as_json)
    report_damage(damage)


def _as_object(name: TraceName) -> dict[str, Any]:
    return {
        "name": name.name, "service": name.service, "service_by": name.service_by, "seen": sorted(name.seen),
        "queries": name.queries, "addresses": list(name.addresses), "flows": name.flows, "packets": name.packets,
        "bytes": name.ip_bytes,
    }  # fmt: skip


def _print(found: Sequence[TraceName], *, with_services: bool) -> None:
    from trafficrefinery.cli.ui.tables import print_table
    from trafficrefinery.services.sources import STRONGEST_FIRST

    service = ["service"] if with_services else []
    columns = [*service, "name", "seen", "queries", "flows", "packets", "bytes", "addresses"]
    if found:
        print_table(columns, [_row(name, with_services=with_services) for name in found])
    asked = sum("query" in name.seen for name in found)
    told = [f"{sum(source.seen in name.seen for name in found)} {source.title}" for _, source in STRONGEST_FIRST]
    said = f"{asked} DNS query names, {', '.join(told[:-1])} and {told[-1]} server names"
    if with_services:
        said += f"; {sum(name.service is None for name in found)} of {len(found)} names belong to no service"
    say(said)


def _row(name: TraceName, *, with_services: bool) -> list[str]:
    service = [_service(name)] if with_services else []
    numbers = (f"{number:,}" for number in (name.queries, name.flows, name.packets, name.ip_bytes))
    return [*service, name.name, " ".join(sorted(name.seen)), *numbers, _addresses(name)]


def _addresses(name: TraceName) -> str:
    more = len(name.addresses) - _ADDRESSES
    shown = ", ".join(list(name.addresses)[:_ADDRESSES])
    return f"{shown} and {more} more" if more > 0 else shown


def _service(name: TraceName) -> str:
    if name.service is None:
        return "-"
    return name.service if name.service_by == "name" else f"{name.service} (by {name.service_by})"
