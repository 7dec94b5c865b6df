"""The report of `profile`: what a configuration costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from . import profile_figures as figures
from .numbers import NONE, human_bytes, nanoseconds, noise, number
from .page import Block, Bullets, Note, Page, PageSection, PageTable, Picture, read_result

Draw = Callable[[Mapping[str, Any]], Figure]


def page_of(folder: Path) -> Page:
    """What the features of a configuration cost, from the directory of `profile`.

    Raises:
        UsageError: there is no `costs.json`, or it cannot be read.
    """
    costs = read_result(folder / "costs.json", "trafficrefinery profile")
    source = f"{', '.join(costs['trace']['names'])} · {costs['configuration']['file']}"
    return Page(
        "What these features cost", source, costs["started"], list(_sections(costs)), _tiles(costs),
        _facts(costs), costs["machine"]["trafficrefinery"],
    )  # fmt: skip


def _tiles(costs: Mapping[str, Any]) -> list[tuple[str, str]]:
    measured_ns, steps = costs["end_to_end"]["measured_ns"], costs["steps"].values()
    record_bytes = costs["storage"]["all_classes"]["bytes_per_record"]["jsonl.zst"]
    most = ", at most" if len(steps) > 1 else ""
    tiles = [
        (f"{nanoseconds(measured_ns)} ns", "per packet, everything together"),
        (f"{number(1000 / measured_ns)} Mpps", "on one core"),
        (human_bytes(max(one["state_bytes"] for one in steps)), f"state of a flow{most}"),
        (human_bytes(record_bytes), "per record, as zstd JSON lines"),
    ]
    if costs["projection"]:
        tiles.append((f"{number(costs['projection']['cores'])} cores", f"at {costs['projection']['link']}"))
    return tiles


def _sections(costs: Mapping[str, Any]) -> Iterator[PageSection]:
    yield PageSection("Feature classes, each alone", _classes(costs))
    yield PageSection("Everything together", _together(costs))
    yield PageSection("State", _state(costs))
    yield PageSection("Storage", _storage(costs))
    if costs["models"]:
        yield PageSection("Inference", _models(costs["models"]))
    if costs["projection"]:
        yield PageSection(f"At {costs['projection']['link']} of this traffic mix", _projection(costs["projection"]))


def _picture(
    draw: Callable[[Mapping[str, Any]], Figure], title: str, caption: str, costs: Mapping[str, Any]
) -> Picture:
    return Picture(draw.__name__, title, caption, partial(draw, costs))


def _classes(costs: Mapping[str, Any]) -> list[Block]:
    titles = ("class", "state\nB/flow", "ns/packet\nmean", "median", "5 – 95 %", "min – max", "noise",
              "collect\nns/flow", "record\nJSON B", "zstd", "Parquet")  # fmt: skip
    rows = [_class(name, one, one["storage"]) for name, one in costs["classes"].items()]
    single = len(costs["steps"]) == 1
    for name, one in costs["steps"].items():
        rows.append(_class("all together", one, costs["storage"]["all_classes"]) if single else _class(name, one, None))
    blocks: list[Block] = [PageTable(titles, rows, sums=len(costs["steps"]))]
    blocks.append(Note(
        "Net of the costs of a class that does nothing; CPU time, in batches of 1,024 packets. Noise: half the range "
        f"between the quartiles of {costs['repetitions']} repetitions; of each batch, the fastest repetition counts. "
        "Each record also has the columns that all records have, so that the bytes of the classes do not add up to "
        "those of all together."
    ))  # fmt: skip
    if costs["configuration"]["not_measured"]:
        missing = ", ".join(costs["configuration"]["not_measured"])
        blocks.append(f"Not measured, because the trace has no packet of their services: {missing}.")
    caption = (
        "Each class alone, net of what is shared: the bar goes from the first to the third quartile of the batches, "
        "the line from the 5th to the 95th percentile; the stroke is the median, dot and number are the mean (paper, "
        "Figure 6b)."
    )
    return [*blocks, _picture(figures.processing, "Processing", caption, costs)]


def _class(name: str, one: Mapping[str, Any], stored: Mapping[str, Any] | None) -> list[str]:
    batch = one["ns_per_packet_by_batch"]
    ranges = [" – ".join(nanoseconds(batch[end]) for end in ends) for ends in (("p5", "p95"), ("min", "max"))]
    return [
        name, number(one["state_bytes"]), nanoseconds(one["ns_per_packet"]["value"]), nanoseconds(batch["median"]),
        *ranges, noise(one["ns_per_packet"]["noise"]), nanoseconds(one["collect_ns_per_flow"]["value"]),
        *(number(stored["bytes_per_record"][form]) if stored else "" for form in figures.FORMS),
    ]  # fmt: skip


def _together(costs: Mapping[str, Any]) -> list[Block]:
    end, shared = costs["end_to_end"], costs["shared"]
    apart, within = 100 * (end["predicted_to_measured"] - 1), "within" if end["within_margin"] else "beyond"
    names = {
        "parse_ns": "parse headers", "lookup_ns": "hash, flow cache, service, intervals, rows",
        "names_ns": "read names (DNS, TLS, QUIC)", "call_ns": "call of the feature classes",
        "total_ns": "all that is shared",
    }  # fmt: skip
    rows = []
    for key, name in names.items():
        part = shared[key] if isinstance(shared[key], Mapping) else {"value": shared[key], "noise": None}
        rows.append([name, nanoseconds(part["value"]), "" if part["noise"] is None else noise(part["noise"])])
    verdict = (
        f"Measured together: {nanoseconds(end['measured_ns'])} ns per packet ({noise(end['noise'])}). The parts add up "
        f"to {nanoseconds(end['predicted_ns'])} ns: {apart:+.1f} %, {within} the {100 * end['margin']:.0f} % to be "
        "expected."
    )
    caption = (
        "Nanoseconds of one packet of the trace: what all classes share, and what each class adds, measured alone; and "
        "everything together."
    )
    return [
        verdict,
        PageTable(("shared", "ns/packet", "noise"), rows, sums=1),
        f"The first packet of a flow takes {nanoseconds(shared['first_packet_ns']['value'])} ns more.",
        _picture(figures.time, "Where the time goes", caption, costs),
    ]  # fmt: skip


def _state(costs: Mapping[str, Any]) -> list[Block]:
    titles = (
        "service",
        "B/flow\ndeclared",
        "flows\nat the peak",
        "state\nat the peak",
        "session\nmedian",
        "95 %",
        "max",
    )
    rows = []
    for name, one in costs["services"].items():
        session = [human_bytes(one["state_bytes_of_session"][part]) for part in ("median", "p95", "max")]
        rows.append([name, number(one["state_bytes_per_flow"]), number(one["peak_flows"]),
                     human_bytes(one["peak_state_bytes"]), *session])  # fmt: skip
    cache = costs["flow_cache"]
    return [
        PageTable(titles, rows),
        Note(
            "At the ends of intervals, before anything is collected. Beside its state, each flow has a header of "
            f"{cache['header_bytes_per_flow']} bytes, with or without a service; the cache held at most "
            f"{number(cache['all_flows_peak'])} flows. Headers and states declared at the peak: "
            f"{human_bytes(cache['peak_declared_bytes'])}; the flow cache then took "
            f"{human_bytes(cache['peak_resident_bytes'])} of memory, which comes in pages of up to 2 MiB, some of them "
            "ahead of use."
        ),
        _picture(figures.state, "State of a session", "All flows of a client and a service that are in the flow "
                 "cache at the end of an interval (paper, Figure 6a).", costs),
        _picture(figures.memory, "State over time", "All flows of a service, at the end of each interval.", costs),
    ]  # fmt: skip


def _storage(costs: Mapping[str, Any]) -> list[Block]:
    stored = costs["storage"]
    traffic, flows, whole = stored["traffic"], stored["netflow"], stored["all_classes"]
    named = [("pcap, whole packets", "pcap"), ("pcap, headers only", "headers")]
    if traffic["captured_bytes"] < traffic["pcap_bytes"]:
        named.insert(1, ("pcap, packets cut as in this trace", "captured"))
    rows = [_stored(name, traffic[f"{key}_bytes"], traffic[f"{key}_bytes_per_hour"]) for name, key in named]
    if flows["absent"]:
        rows.append([f"NetFlow: absent, {flows['absent']}", NONE, NONE])
    else:
        lost = f", {number(flows['lost'])} lost" if flows["lost"] else ""
        name = f"NetFlow 9, active time-out {flows['active_timeout_s']} s, {number(flows['records'])} records{lost}"
        rows.append(_stored(name, flows["bytes"], flows["bytes_per_hour"]))
    for form, label in figures.FORMS.items():
        name = f"{label}, all classes, {number(whole['records'])} records"
        rows.append(_stored(name, whole["bytes"][form], whole["bytes_per_hour"][form]))
    blocks: list[Block] = [PageTable(("what", "bytes", "per hour"), rows, sums=len(figures.FORMS))]
    if traffic["pcap_bytes_per_hour"]:
        caption = "Bytes per hour of this traffic, on a logarithmic scale (paper, Figures 2b and 6c)."
        blocks.append(_picture(figures.storage, "Storage", caption, costs))
    return blocks


def _stored(name: str, size: float, per_hour: float | None) -> list[str]:
    return [name, human_bytes(size), human_bytes(per_hour)]


def _models(models: Sequence[Mapping[str, Any]]) -> list[Block]:
    titles = ("model", "intervals", "µs each,\nas they come", "µs each,\n1,000 at once", "trees", "bundle",
              "latency ms\nmedian", "max", "training")  # fmt: skip
    rows = []
    for one in models:
        training = "absent" if one["training_s"] is None else f"{number(one['training_s'])} s"
        rows.append([
            one["label"], number(one["session_intervals"]), number(one["one_us"]["value"]),
            number(one["many_us"]["value"]), human_bytes(one["model_bytes"]), human_bytes(one["bundle_bytes"]),
            number(one["latency_ms"]["median"]), number(one["latency_ms"]["max"]), training,
        ])  # fmt: skip
    return [
        PageTable(titles, rows),
        Note(
            "Latency: CPU time from the records of an interval to its predictions as JSON lines. The end of the "
            f"interval and the time for late packets (Grace, {number(models[0]['waiting_s'])} s) come before."
        ),
    ]


def _projection(found: Mapping[str, Any]) -> list[Block]:
    stored = found["gb_per_day"]
    exported = f", {number(stored['netflow'])} GB as NetFlow" if "netflow" in stored else ""
    needs = (
        f"{number(found['cores'])} cores, {number(found['memory_gib'])} GiB, {number(stored['jsonl.zst'])} GB per day "
        f"as zstd JSON lines ({number(stored['parquet'])} GB as Parquet, {number(stored['jsonl'])} GB as JSON lines, "
        f"{number(stored['pcap'] / 1000)} TB as pcap{exported}), for {number(found['packets_per_s'] / 1e6)} million "
        f"packets/s and {number(found['flows'])} flows at once. It assumes:"
    )
    return [needs, Bullets(found["assumptions"])]


def _facts(costs: Mapping[str, Any]) -> list[tuple[str, str]]:
    trace, machine, load = costs["trace"], costs["machine"], (costs["load_before"][0], costs["load_after"][0])
    lost = "" if trace["lost_packets"] is None else f"; {number(trace['lost_packets'])} packets lost in the capture"
    part = "" if trace["measured_packets"] == trace["packets"] else ", the first ones"
    content = (
        f"{number(trace['packets'])} packets, {number(trace['seconds'])} s, {number(trace['flows'])} flows, "
        f"{number(trace['attributed'])} packets of services, {number(trace['records'])} records{lost}"
    )
    measured = f"{number(trace['measured_packets'])} packets{part}, {costs['repetitions']} repetitions"
    computer = (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, Linux {machine['kernel']}; load "
        f"{load[0]:.1f} before, {load[1]:.1f} after"
    )
    versions = {"Python": "python", "NumPy": "numpy", "Numba": "numba", "polars": "polars", "pyarrow": "pyarrow"}
    return [
        ("trace", content),
        *((name, f"SHA-256 {digest}") for name, digest in zip(trace["names"], trace["sha256"], strict=True)),
        ("processing", f"{measured}; in memory, one worker"), ("machine", computer),
        ("versions", ", ".join(f"{name} {machine[key]}" for name, key in versions.items())),
        *(("damage", one) for one in trace["damage"]),
    ]  # fmt: skip
