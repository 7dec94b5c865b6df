"""What a configuration costs, as tables and lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.table import Table

from trafficrefinery.costs.profiling.figures import human_bytes
from trafficrefinery.costs.profiling.writing import nanoseconds, number

_FORMS = {"jsonl": "JSON lines", "jsonl.zst": "JSON lines, zstd", "parquet": "Parquet"}


def tables_of(costs: Mapping[str, Any]) -> Iterator[Table | str]:
    """All parts, in the order of the report."""
    yield _classes(costs)
    yield from _together(costs)
    yield _state(costs)
    yield _storage(costs)
    if costs["models"]:
        yield _models(costs)
    if costs["projection"]:
        yield from _projection(costs["projection"])


def _table(*titles: str) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for at, title in enumerate(titles):
        table.add_column(title, justify="right" if at else "left", no_wrap=True)
    return table


def _classes(costs: Mapping[str, Any]) -> Table:
    table = _table(
        "class", "state\nB/flow", "ns/pkt\nmean", "\nmedian", "\n5 – 95 %", "\nmin – max", "\nnoise",
        "collect\nns/flow", "record:\nJSON", "B\nzstd", "\nParquet",
    )  # fmt: skip
    rows = [(name, one, one["storage"]) for name, one in costs["classes"].items()]
    single = len(costs["steps"]) == 1
    for name, one in costs["steps"].items():
        rows.append(("all together" if single else name, one, costs["storage"]["all_classes"] if single else None))
    for at, (name, one, stored) in enumerate(rows):
        batch = one["ns_per_packet_by_batch"]
        sizes = [number(stored["bytes_per_record"][form]) if stored else "" for form in _FORMS]
        if at == len(costs["classes"]):
            table.add_section()
        table.add_row(
            name, number(one["state_bytes"]), nanoseconds(one["ns_per_packet"]["value"]), nanoseconds(batch["median"]),
            *(" – ".join(nanoseconds(batch[end]) for end in ends) for ends in (("p5", "p95"), ("min", "max"))),
            _share(one["ns_per_packet"]["noise"]), nanoseconds(one["collect_ns_per_flow"]["value"]), *sizes,
        )  # fmt: skip
    return table


def _share(value: float) -> str:
    return f"±{100 * value:.0f} %"


def _together(costs: Mapping[str, Any]) -> Iterator[str]:
    end = costs["end_to_end"]
    shared = {name: nanoseconds(part["value"] if isinstance(part, Mapping) else part)
              for name, part in costs["shared"].items()}  # fmt: skip
    yield (
        f"shared: {shared['total_ns']} ns a packet (parse {shared['parse_ns']}, flow cache {shared['lookup_ns']}, "
        f"names {shared['names_ns']}, call {shared['call_ns']}); a flow's first: {shared['first_packet_ns']} more"
    )
    apart, verdict = 100 * (end["predicted_to_measured"] - 1), "within" if end["within_margin"] else "beyond"
    yield (
        f"together: {nanoseconds(end['measured_ns'])} ns a packet measured ({_share(end['noise'])}), "
        f"{nanoseconds(end['predicted_ns'])} from the parts: {apart:+.1f} %, {verdict} the {100 * end['margin']:.0f} % "
        "to be expected"
    )
    if costs["configuration"]["not_measured"]:
        yield f"no packet in the trace for {', '.join(costs['configuration']['not_measured'])}"


def _state(costs: Mapping[str, Any]) -> Table:
    table = _table("service", "B/flow", "flows at peak", "state at peak", "session median", "95 %", "max")
    for name, one in costs["services"].items():
        session = one["state_bytes_of_session"]
        table.add_row(
            name, number(one["state_bytes_per_flow"]), number(one["peak_flows"]), human_bytes(one["peak_state_bytes"]),
            human_bytes(session["median"]), human_bytes(session["p95"]), human_bytes(session["max"]),
        )  # fmt: skip
    return table


def _storage(costs: Mapping[str, Any]) -> Table:
    stored = costs["storage"]
    traffic, flows = stored["traffic"], stored["netflow"]
    table = _table("storage", "bytes", "an hour")

    def add(name: str, size: float, hour: float | None) -> None:
        table.add_row(name, human_bytes(size), "–" if hour is None else human_bytes(hour))

    add("pcap, whole packets", traffic["pcap_bytes"], traffic["pcap_bytes_per_hour"])
    if traffic["captured_bytes"] < traffic["pcap_bytes"]:
        add("pcap, cut as in the trace", traffic["captured_bytes"], traffic["captured_bytes_per_hour"])
    add("pcap, headers only", traffic["headers_bytes"], traffic["headers_bytes_per_hour"])
    if flows["absent"]:
        table.add_row(f"NetFlow: absent, {flows['absent']}")
    else:
        lost = f", {flows['lost']:,} lost" if flows["lost"] else ""
        add(f"NetFlow ({flows['records']:,} records{lost})", flows["bytes"], flows["bytes_per_hour"])
    for form, name in _FORMS.items():
        whole = stored["all_classes"]
        add(f"{name} ({whole['records']:,} records)", whole["bytes"][form], whole["bytes_per_hour"][form])
    return table


def _models(costs: Mapping[str, Any]) -> Table:
    table = _table("model", "session-intervals", "µs each", "of 1,000", "trees", "latency ms", "training")
    for one in costs["models"]:
        training = "absent" if one["training_s"] is None else f"{number(one['training_s'])} s"
        table.add_row(
            one["label"], number(one["session_intervals"]), number(one["one_us"]["value"]),
            number(one["many_us"]["value"]), human_bytes(one["model_bytes"]), number(one["latency_ms"]["median"]),
            training,
        )  # fmt: skip
    return table


def _projection(found: Mapping[str, Any]) -> Iterator[str]:
    stored = found["gb_per_day"]
    yield (
        f"at {found['link']} of this traffic mix: {number(found['cores'])} cores, {number(found['memory_gib'])} GiB, "
        f"{number(stored['jsonl.zst'])} GB a day (zstd JSON lines)"
    )
    for assumption in found["assumptions"]:
        yield f"  – {assumption}"
