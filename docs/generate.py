"""Writes the reference pages of the site from the code, and copies the results that it links to.

Run by `make docs` before the site is built. The pages are in docs/reference and docs/results; neither is kept.
"""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own

from trafficrefinery.cli.added_commands import commands_of
from trafficrefinery.cli.main import COMMANDS, PROGRAM, load_command
from trafficrefinery.cli.ui import describe
from trafficrefinery.config import config_schema
from trafficrefinery.config.units import DURATION_PATTERN, RATE_PATTERN, SIZE_OR_SHARE_PATTERN, SIZE_PATTERN
from trafficrefinery.daemon.metrics.table import METRICS, PREFIX
from trafficrefinery.engine.counters import COUNTED_BESIDE
from trafficrefinery.engine.feature_classes.registry import Registry
from trafficrefinery.engine.partition import COUNTER_HELP
from trafficrefinery.models.sessions import SessionRegistry
from trafficrefinery.packets.link_types import LINK_TYPES
from trafficrefinery.packets.parser import REASONS, ROW_HEADER
from trafficrefinery.packets.tunnels import TUNNELS
from trafficrefinery.records.inferences import inference_schema
from trafficrefinery.records.schema import FLOW_FIELDS, flow_columns
from trafficrefinery.services.sources import SOURCES

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent

Schema = Mapping[str, Any]  # Any: JSON values

_UNITS = {
    DURATION_PATTERN: "duration",
    SIZE_PATTERN: "size",
    RATE_PATTERN: "rate",
    SIZE_OR_SHARE_PATTERN: "size or percentage",
}

INFERENCE_FIELDS = {
    "schema": "Version of the schema.",
    "kind": "`inference`.",
    "ts_start": "Start of the interval, seconds since the epoch.",
    "ts_end": "End of the interval, seconds since the epoch.",
    "service": "Name of the service.",
    "client_ip": "Address of the client.",
    "unit": "What the answer is about: `session`, `flow` or `client`.",
    "session_id": "16 hexadecimal digits, the same in all intervals of a session. In records of sessions only.",
    "flow_id": "As in the flow's records; with the four fields that follow in records of flows only.",
    "protocol": "`tcp` or `udp`.",
    "client_port": "Port of the client.",
    "server_ip": "Address of the server.",
    "server_port": "Port of the server.",
    "target": "What was asked, such as `resolution` or `startup`.",
    "value": "The answer: the label, or the number of a quantity; null if the model abstains. "
    "In Parquet, numbers are in the column `quantity`.",
    "measured_in": "Unit of a quantity (`s`), or what stands behind a label (the `p` of 720p).",
    "confidence": "Probability of the most likely label; null for a quantity.",
    "probabilities": "Probability of each label of the target.",
    "quantiles": "The 10th, 50th and 90th percentile of a quantity.",
    "applies": "False where the model is known not to be made for what is seen; null where nothing is known of that.",
    "playing": "Whether the session is playing: false if nothing is played, null if that is unknown.",
    "why": "The reason if there is no answer: `confidence` (no label is likely enough), `unobserved` (none of its "
    "features was observed), `service` (the service has no model), `not playing` (nothing is played).",
    "drift": "Share of the features that lie outside the range of the training data.",
    "model": "Name of the model.",
}
INTERVAL_FIELDS = {
    "schema, kind, sensor": "As in a flow record; `kind` is `interval`.",
    "ts_start, ts_end": "The interval, seconds since the epoch.",
    "flows_active": "Flows in the cache at the end of the interval.",
    "workers": "The same counters for each worker.",
    "loss_free": "Whether nothing was lost; see [Operations](../operations.md#what-loss_free-means). Daemon only.",
    "received": "Packets that the kernel put into the rings. Interfaces only.",
    "kernel_drops": "Packets that the kernel dropped because a ring was full. Interfaces only.",
    "ring_freezes": "Times that a ring was full. Interfaces only.",
    "oversized": "Frames larger than the link allows: merged by a receive offload. Interfaces only.",
    "duplicates": "Frames that a mirror port showed twice; see `Capture.Duplicates`. Daemon only.",
    "names": "The same counters of names for the process that reads DNS. Interfaces only.",
    "worker_restarts, dropped_rows": "Workers that were restarted; rows that were dropped. Daemon only.",
    "interfaces": "Packets that each interface dropped, by kind, as its driver counts them. Daemon only.",
    "interface_away": "Whether an interface was gone or down. Daemon only.",
}


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """A table in Markdown, with an empty line before it."""
    header = list(header)
    yield from ("", f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}")
    for row in rows:
        cells = (re.sub(r"(`[^`]*`)|\|", lambda found: found[1] or r"\|", " ".join(cell.split())) for cell in row)
        yield f"| {' | '.join(cells)} |"  # a bar in code is one for MkDocs; another ends the cell


def code(text: str) -> str:
    """Text as code; nothing for nothing."""
    return f"`{text}`" if text else ""


def plain(text: str) -> str:
    """Text in which nothing is markup."""
    return html.escape(text, quote=False).replace("*", r"\*")


def configuration() -> Iterator[str]:
    """Every key, from the JSON schema that the pydantic models give."""
    schema = config_schema(Registry().schemas())
    yield "# Configuration"
    yield ""
    yield "A configuration is a JSON file; comments (`//`, `/* */`) and trailing commas are allowed. Durations, sizes"
    yield 'and rates are strings with a unit: `"10s"`, `"256MiB"`, `"10Gbit"`. `trafficrefinery config show FILE`'
    yield "prints a file with every default; `config schema` prints the JSON schema, which editors can use."
    yield from section("", schema, schema["$defs"])


def section(path: str, schema: Schema, sections: Mapping[str, Schema]) -> Iterator[str]:
    """A section of the configuration and those inside it; `path` is where it stands in a file."""
    title = f"## {path} {{ #{anchor(path)} }}" if path else "## Top level"
    yield from ("", title, "", schema.get("description", ""))
    required = schema.get("required", [])
    rows, inner = [], []
    for name, key in schema["properties"].items():
        referred = sections.get((key.get("$ref") or key.get("items", {}).get("$ref", "")).rpartition("/")[2])
        if "properties" in key:  # a section as well, which stands where it is used
            referred = key
        text = key.get("description", "")
        place = f"{path}.{name}".strip(".")
        if referred is not None:
            inner.append((place, referred))
            text = text or referred.get("description", "")
        default = code(json.dumps(key["default"])) if "default" in key and referred is None else ""
        rows.append((code(name), kind(key, place), "required" if name in required else default, text))
    yield from table(("key", "type", "default", "description"), rows)
    for place, referred in inner:
        yield from section(place, referred, sections)


def anchor(path: str) -> str:
    """Where the section of a key is on the page."""
    return path.lower().replace(".", "-")


def kind(key: Schema, place: str) -> str:
    """The type of a value in words, with what is allowed."""
    if key.get("maxProperties") == 1:  # {"VideoSegments": {...}}
        return "object with parameters"
    if "$ref" in key or "properties" in key:
        return f"[section](#{anchor(place)})"
    if "anyOf" in key:
        return " or ".join(dict.fromkeys(kind(one, place) for one in key["anyOf"]))
    if "enum" in key:
        return "one of " + ", ".join(code(json.dumps(one)) for one in key["enum"])
    if key.get("type") == "array":
        return f"list of: {kind(key['items'], place)}"
    return scalar(key)


def scalar(key: Schema) -> str:
    """The type of a number or a string. The pattern of a string shows whether it is a duration, a size or a rate."""
    low, high = key.get("minimum"), key.get("maximum")
    limits = f" ({low:,} to {high:,})" if high is not None else f" (at least {low:,})" if low is not None else ""
    types = [key["type"]] if isinstance(key["type"], str) else key["type"]
    words = _UNITS.get(key.get("pattern", ""), " or ".join(types) + limits)
    example = "" if "default" in key else "".join(map(json.dumps, key.get("examples", [])[:1]))
    return f"{words} (such as {code(example)})" if example else words


FLOWS = """
What is one flow: the packets of a protocol between two addresses and ports. The next packet begins another flow when

- the flow was silent for longer than `FlowCache.IdleTimeout`;
- it is a TCP SYN with another number than that of the connection, after a FIN or RST, or outside of the window. The
  same number again is a retransmission, also after a RST: a SYN that is refused, sent again and accepted is one flow;
- it is a SYN-ACK that acknowledges another SYN, or has another number of its own after a FIN or RST, or outside of the
  window. Until the client has sent data, a SYN may be answered with several numbers, as with SYN cookies.

For UDP, only the first rule holds: a QUIC connection that follows another one on the same ports within `IdleTimeout`
is counted in the flow of the first, with its name. (A new connection ID in an Initial proves nothing: it also changes
with a Retry.)

How a flow has ended, `end`, is what its packets showed last:

| `end` | meaning |
| --- | --- |
| `fin` | Each end that was seen has sent a FIN. |
| `rst` | A RST with a fitting number was seen, and after it not every end that was seen has sent something else. |
| `idle` | The flow was silent for `IdleTimeout` before the interval of the record was over. |
| `evicted` | The flow cache was full. |
| `open` | None of these so far. |

A record is written when its interval is over. Where `IdleTimeout` is not shorter than the interval, as by default,
there is no `idle`: the last record of such a flow says `open`. The rest of the interval in which a trace ends counts
as silence.
""".splitlines()
"""Where flows begin and end, for the page of records."""


def records() -> Iterator[str]:
    """Fields of the records, with the types that the code gives them."""
    columns, _ = flow_columns({"flow": np.zeros(1, ROW_HEADER)}, 10**10, (), ("service",), "sensor")
    yield "# Records"
    yield ""
    yield "Records are JSON lines or Parquet. What was not observed is null; there is no NaN and no infinity."
    yield from ("", "## Flow records", "")
    yield "One record for each flow and interval. A flow without packets in an interval has no record for it."
    rows = [(code(name), type_name(series.dtype), meaning(FLOW_FIELDS, name)) for name, series in columns.items()]
    yield from table(("field", "type", "meaning"), rows)
    yield from (
        "| `features` | object | An object for each feature class. In Parquet: a column `Class.field` each. |",
        "",
    )
    yield "The fields of each feature class are on the page [Feature classes](features.md)."
    yield from FLOWS
    yield from ("", "What identified the service, `matched_by`, from the strongest evidence to the weakest:")
    yield from table(("`matched_by`", "evidence"), [(code(one.name), one.evidence) for one in reversed(SOURCES)])
    yield from ("", "## Inference records", "")
    yield "One record for each session, interval and target, if a model runs. A target that is answered once for each"
    yield "session, such as `startup`, has a record in the interval in which it is answered."
    fields = {field.name.partition(".")[0]: type_name(field.type) for field in inference_schema(["720"])}
    del fields["quantity"]
    fields["value"], fields["applies"] = "string or number", "boolean"
    fields["probabilities"] = "object; in Parquet a column for each label"
    fields["quantiles"] = "object; in Parquet a column for each"
    yield from table(
        ("field", "type", "meaning"),
        [(code(name), type_, meaning(INFERENCE_FIELDS, name)) for name, type_ in fields.items()],
    )
    yield from ("", "## Interval records", "")
    yield "One record for each interval, in `intervals.jsonl` (`replay`) or `intervals-TIME.jsonl` (`run`)."
    yield from table(
        ("field", "meaning"), [(", ".join(map(code, name.split(", "))), text) for name, text in INTERVAL_FIELDS.items()]
    )
    yield from ("", "Packets are counted by what became of them: " + ", ".join(map(code, REASONS)) + ".", "")
    yield "The other counters:"
    counters = COUNTER_HELP | {one.name: one.help for one in COUNTED_BESIDE}
    yield from table(("counter", "meaning"), [(code(name), text) for name, text in counters.items()])


def type_name(dtype: object) -> str:
    """The type of a column of polars or Arrow, in the words of JSON."""
    text = str(dtype).lower()
    if text.startswith(("int", "uint")):
        return "integer"
    return {"string": "string", "double": "number", "float64": "number", "float": "number"}.get(text, text)


def meaning(texts: Mapping[str, str], name: str) -> str:
    """What a field means; a field without a text ends the build."""
    if name not in texts:
        raise SystemExit(f'docs/generate.py: the field "{name}" has no description')
    return texts[name]


def metrics() -> Iterator[str]:
    """Every metric of the table of metrics, and the alert rules."""
    yield "# Metrics"
    yield ""
    yield "The listener of the daemon (`Metrics.Listen`) serves these at `/metrics` in the format of Prometheus. Labels"
    yield "take their values from the configuration and from fixed lists, never from traffic."
    rows = [(code(PREFIX + one.name), one.kind, ", ".join(map(code, one.labels)), one.help) for one in METRICS]
    yield from table(("metric", "type", "labels", "meaning"), rows)
    yield from ("", "## Alert rules", "", "The rules in `systemd/monitoring/alerts.yml`:")
    groups = yaml.safe_load((ROOT / "systemd/monitoring/alerts.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    alerts = [(code(one["alert"]), one["labels"]["severity"], alert_text(one["annotations"])) for one in rules]
    yield from table(("alert", "severity", "what it means, what to do"), alerts)


def alert_text(annotations: Mapping[str, str]) -> str:
    """Summary and description, with the names of labels in place of their values, and N in place of numbers."""
    summary = re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"*\1*", annotations["summary"])
    return re.sub(r"\{\{.*?\}\}", "N", summary) + ". " + annotations["description"]


def features() -> Iterator[str]:
    """The page of `features show --all --markdown`, without links to files that are not part of the site."""
    return linked_nowhere(describe.as_page(Registry().found()), "features")


def session_features() -> Iterator[str]:
    """The page of `features sessions --markdown`."""
    return linked_nowhere(describe.sessions_page(SessionRegistry().found()), "features/sessions")


def linked_nowhere(page: str, folder: str) -> Iterator[str]:
    """A page with the names of source files in place of links to them."""
    page = re.sub(r"^Generated by .*\n\n", "", page, flags=re.MULTILINE)
    yield re.sub(r"\[(\w+\.py)\]\(\1\)", rf"`{folder}/\1`", page)


def commands() -> Iterator[str]:
    """Every command with its arguments and options, from the parser of the command line."""
    yield "# Commands"
    yield ""
    yield "Exit status: 0 on success, 2 for a wrong option or configuration, 1 for a failure at run time. Results go"
    yield "to files or standard output, messages to standard error. `--traceback` shows where an"
    yield "unexpected error came from."
    yield "Every command is a subcommand of `trafficrefinery`, and has `--help`."
    for name in [*COMMANDS, *commands_of("")]:
        command = load_command(name)
        if not hasattr(command, "commands"):
            yield from command_section(name, command, "##")
            continue
        yield from ("", f"## {name}", "", command.help or "")
        for sub, one in command.commands.items():
            if one.hidden:
                continue
            yield from command_section(f"{name} {sub}", one, "###")


def command_section(name: str, command: Any, level: str) -> Iterator[str]:
    """One command: usage, description, arguments, options, example."""
    context = command.make_context(f"{PROGRAM} {name}", [], resilient_parsing=True)
    yield from ("", f"{level} {name}", "", "```text", command.get_usage(context).removeprefix("Usage: "), "```", "")
    yield plain(command.help or "")
    shown = [one.get_help_record(context) for one in command.params]
    rows = [(code(names), plain(text)) for names, text in filter(None, shown)]
    if rows:
        yield from table(("argument or option", "meaning"), rows)
    if command.epilog:
        example = command.epilog.removeprefix("Example: ")
        yield from ("", "```sh", example, "```")


def encapsulations() -> Iterator[str]:
    """Link types that are read, and tunnels that `Decapsulate` may name."""
    yield from ("# Link types and tunnels", "", "## Link types", "")
    yield "Frames of these link types of the [pcap format](https://www.tcpdump.org/linktypes.html) are read."
    yield from table(("number", "link type"), [(str(link.number), link.name) for link in LINK_TYPES.values()])
    yield from ("", "## Tunnels", "")
    yield "`Decapsulate` names the tunnels whose inner packets are counted. Packets of others count as they are, and in"
    yield "the counter of their tunnel, such as `gre_not_decapsulated`."
    rows = [
        (code(tunnel.name), tunnel.text, numbers(tunnel.udp.ports if tunnel.udp else ()),
         numbers(tunnel.ip.protocols if tunnel.ip else ()))
        for tunnel in TUNNELS.values()
    ]  # fmt: skip
    yield from table(("name", "tunnel", "UDP ports", "IP protocols"), rows)


def numbers(several: Iterable[int]) -> str:
    """As a list in a cell."""
    return ", ".join(map(str, several))


PAGES = {
    "configuration": configuration,
    "records": records,
    "metrics": metrics,
    "features": features,
    "session-features": session_features,
    "commands": commands,
    "encapsulations": encapsulations,
}
COPIES = {
    "benchmarks/results": ("*.md", "results"),
    "benchmarks/data": ("*.md", "results/data"),
    "benchmarks/paper": ("*.png", "results/paper"),
}


def main() -> None:
    """Write all generated pages anew."""
    for folder in ("reference", "results"):
        shutil.rmtree(DOCS / folder, ignore_errors=True)
        (DOCS / folder).mkdir()
    for name, page in PAGES.items():
        (DOCS / "reference" / f"{name}.md").write_text("\n".join(page()) + "\n")
    for source, (pattern, target) in COPIES.items():
        (DOCS / target).mkdir(exist_ok=True)
        for file in sorted((ROOT / source).glob(pattern)):
            shutil.copy(file, DOCS / target)
    shutil.copy(ROOT / "benchmarks/paper/README.md", DOCS / "results/paper/index.md")


if __name__ == "__main__":
    main()
