"""The picture that `top` shows: two scrapes to tables of at most 80 columns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from trafficrefinery.records.inferences import NOT_PLAYING

from .lines import cell
from .scrape import Scrape

WORKERS, SERVICES, ITEMS = 8, 10, 5
"""Rows at most."""
_NONE = "–"
_MIB = 1 << 20


_USUAL = re.compile(
    r"(un)?attributed_packets|(packets|bytes|records|intervals|received_packets)|worker_cpu_seconds|flows_created"
    r"|(service|sink|process|config|sessions|inferences|build)_.*|inferences|python_.*"
    r"|(worker_)?dns_(packets|messages|addresses|matched)|quic_attempts|hello_segments|ech_offered|kernel_drops|interface_drops|(dropped|refused)_rows|dns_drops"
)
"""Counters without `_total` that are no news when they are above zero, or stand elsewhere in the picture."""


def is_noticed(name: str) -> bool:
    """Whether a counter stands by itself in the picture as soon as it is not zero; so does one that is new."""
    return name.endswith("_total") and not _USUAL.fullmatch(name.removesuffix("_total"))


class View:
    """The difference of two scrapes; without a former one there are no rates yet."""

    def __init__(self, scrape: Scrape, former: Scrape | None) -> None:
        self._now, self._former = scrape, former

    def rate(self, name: str, **labels: str) -> float | None:
        """Of a counter, each second; None when a process began anew in between."""
        if self._former is None:
            return None
        new, old = self._now.of(name, **labels), self._former.of(name, **labels)
        if new is None or old is None or new < old:
            return None
        return (new - old) / (self._now.at_s - self._former.at_s)

    def picture(self, url: str, notice: str = "") -> RenderableType:
        """All of it; `notice` stands in place of the daemon's state."""
        parts = [self._head(url, notice), self._workers(), self._losses(), self._services()]
        if self._now.sessions:
            parts.append(self._sessions())
        if self._now.devices:
            parts.append(self._devices())
        parts.append(self._sinks())
        return Group(parts[0], *(Padding(part, (0, 0, 1, 0)) for part in parts[1:-1]), parts[-1])

    def _head(self, url: str, notice: str) -> RenderableType:
        build = dict(next(iter(self._now.values["build_info"])))
        line = Table.grid(expand=True)
        line.add_column()
        line.add_column(justify="right")
        ready = bool(self._now.of("ready"))
        state = cell(notice, "bold red") if notice else Text(*(("ready", "green") if ready else ("not ready", "red")))
        left = Text.assemble(("Traffic Refinery ", "bold"), cell(build.get("version", "")), "  ", cell(url, "dim"))
        line.add_row(left, state)
        return line

    def _workers(self) -> Table:
        table = _table("worker", "packets/s", "bit/s", "drops/s", "flows", "memory", "CPU", "ns/packet")
        workers = self._now.known("packets_total", "worker")
        for worker in workers[:WORKERS]:
            table.add_row(*self._worker(worker, worker=worker))
        _tell_more(table, len(workers) - WORKERS)
        if len(workers) > 1:
            table.add_row(*self._worker("all"), style="bold")
        return table

    def _worker(self, title: str, **labels: str) -> Iterator[RenderableType]:
        packets, cpu = self.rate("packets_total", **labels), self.rate("worker_cpu_seconds_total", **labels)
        yield cell(title)
        yield amount(packets)
        yield amount(_bits(self.rate("bytes_total", **labels)))
        yield _alarming(self.rate("kernel_drops_total", **labels))
        yield amount(self._now.of("flows_active", **labels))
        yield octets(self._now.of("flow_memory_bytes", **labels))
        yield _NONE if cpu is None else f"{cpu:.0%}"
        yield f"{cpu / packets * 1e9:,.0f}" if cpu and packets else _NONE

    def _losses(self) -> Text:
        """What was lost, what was not attributed and why, and what else is to be known, as one line each."""
        text = Text()
        lost = {
            "kernel": self._now.of("kernel_drops_total"),
            "interface": self._now.of("interface_drops_total"),
            "rows": _sum(self._now.of("dropped_rows_total"), self._now.of("refused_rows_total")),
            "DNS": self._now.of("dns_drops_total"),
        }
        text.append(" lost since the start  ", "dim")
        shown = [
            Text(f"{name} {amount(value)}", "red" if value else "") for name, value in lost.items() if value is not None
        ]
        text.append(Text(" · ").join(shown))
        rates = {
            reason: self.rate("unattributed_packets_total", reason=reason)
            for reason in self._now.known("unattributed_packets_total", "reason")
        }
        told = sorted(((reason, rate) for reason, rate in rates.items() if rate), key=lambda pair: -pair[1])
        if told:
            text.append("\n not attributed, each second  ", "dim")
            text.append(" · ".join(f"{reason.replace('_', ' ')} {amount(rate)}" for reason, rate in told[:3]))
        noticed = [name for name in self._now.values if is_noticed(name) and self._now.of(name)]
        noticed.sort(key=lambda name: -(self.rate(name) or 0))  # what still goes on first
        listed = [f"{name.removesuffix('_total').replace('_', ' ')} {amount(self._now.of(name))}" for name in noticed]
        if listed:
            text.append("\n noticed since the start  ", "dim")
            text.append(_in_one_line(listed, 54))
        return text

    def _services(self) -> Table:
        table = _table("service", "packets/s", "bit/s", "flows", "names", "records/s")
        services = self._now.known("service_packets_total", "service")
        busiest = sorted(services, key=lambda name: -(self.rate("service_bytes_total", service=name) or 0))
        for name in busiest[:SERVICES]:
            table.add_row(
                cell(name),
                amount(self.rate("service_packets_total", service=name)),
                amount(_bits(self.rate("service_bytes_total", service=name))),
                amount(self._now.of("service_flows_active", service=name)),
                amount(self._now.of("service_names", service=name)),
                amount(self.rate("service_records_total", service=name)),
            )
        _tell_more(table, len(services) - SERVICES)
        return table

    def _sessions(self) -> Table:
        """The inferences of the last interval, up to what fits the screen; a flow is shown with its client's port."""
        table = _table("client", "service", "target", "inferred", "confidence")
        shown = self._now.sessions[:ITEMS]
        for one in shown:
            value, unit = one["value"], one["measured_in"] or ""
            shown_value = f"{value:.1f} {unit}" if isinstance(value, float) else f"{value}{unit}"
            confidence = one["confidence"]
            port = f" {one['client_port']}" if one.get("client_port") else ""
            table.add_row(
                cell(f"{one['client_ip']}{port}"), cell(one["service"]),
                cell(one["target"]), cell(shown_value) if value is not None
                else cell(NOT_PLAYING) if one.get("why") == NOT_PLAYING else _NONE,
                _NONE if confidence is None else f"{confidence:.0%}",
            )  # fmt: skip
        told = (self._now.of(f"inferred_sessions{which}") or 0 for which in ("", "_abstained", "_not_playing"))
        _tell_more(table, int(sum(told)) - len(shown))
        return table

    def _devices(self) -> Table:
        table = _table("device", "flows", "up", "down", "services in the last interval")
        table.columns[0].ratio, table.columns[-1].ratio, table.columns[-1].justify = None, 1, "left"
        for item in self._now.devices[:ITEMS]:
            table.add_row(
                cell(item["client_ip"]), amount(item["flows"]), octets(item["bytes_up"]), octets(item["bytes_down"]),
                cell(", ".join(item["services"])),
            )  # fmt: skip
        return table

    def _sinks(self) -> Table:
        table = _table("sink", "records/s", "dropped", "waiting", "")
        for sink in self._now.known("sink_records_total", "sink"):
            failing = self._now.of("sink_failing", sink=sink)
            table.add_row(
                cell(sink),
                amount(self.rate("sink_records_total", sink=sink)),
                _alarming(self._now.of("sink_dropped_records_total", sink=sink)),
                octets(self._now.of("sink_waiting_bytes", sink=sink)),
                Text("failing", "red") if failing else Text("writing", "green"),
            )
        return table


def _table(*columns: str) -> Table:
    """The first column gets what the others leave."""
    table = Table(box=None, expand=True, padding=(0, 1), header_style="cyan")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True, overflow="ellipsis")
    table.columns[0].justify, table.columns[0].ratio, table.columns[0].header_style = "left", 1, "bold cyan"
    return table


def _tell_more(table: Table, more: int) -> None:
    if more > 0:
        table.add_row(Text(f"and {more:,} more", "dim"))


def _in_one_line(words: Sequence[str], columns: int) -> str:
    """As many of the words as there is room for, one at least, and how many more there are."""
    for count in range(len(words), 0, -1):
        more = [f"{len(words) - count} more"] if count < len(words) else []
        line = " · ".join([*words[:count], *more])
        if len(line) <= columns:
            break
    return line


def _sum(*values: float | None) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _bits(octets_per_s: float | None) -> float | None:
    return None if octets_per_s is None else octets_per_s * 8


def _alarming(value: float | None) -> Text:
    return Text(amount(value), "bold red" if value else "")


def amount(value: float | None) -> str:
    """Three digits and a prefix: 12, 1.23 k, 45.6 M."""
    return _NONE if value is None else _scaled(value, 1000, ("", " k", " M", " G", " T"))


def octets(value: float | None) -> str:
    """Bytes: 12 B, 1.5 KiB, 45.6 MiB."""
    return _NONE if value is None else _scaled(value, 1024, (" B", " KiB", " MiB", " GiB", " TiB"))


def _scaled(value: float, step: int, units: Sequence[str]) -> str:
    for unit in units[:-1]:
        if value < step - 0.5:
            return f"{_digits(value)}{unit}"
        value /= step
    return f"{_digits(value)}{units[-1]}"


def _digits(value: float) -> str:
    if value == int(value) or value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
