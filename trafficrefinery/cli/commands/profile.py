"""`trafficrefinery profile`: what a configuration costs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trafficrefinery.cli.ui.lines import say
from trafficrefinery.cli.ui.many_traces import Columns, Each, many, refuse, work_on_each
from trafficrefinery.cli.ui.progress import Bar
from trafficrefinery.cli.ui.summary import print_findings
from trafficrefinery.cli.ui.work import Cluster
from trafficrefinery.errors import UsageError

if TYPE_CHECKING:
    from trafficrefinery.replaying.batch import TraceSettings

app = typer.Typer(add_completion=False, rich_markup_mode=None)
_SAMPLE = "sample.pcap"
_EACH_COLUMNS: Columns = {
    "packets": lambda told: f"{told['packets']:,}",
    "flows": lambda told: f"{told['flows']:,}",
    "state B/flow": lambda told: f"{told['state_bytes']:,.0f}",
    "ns/packet": lambda told: f"{told['ns_per_packet']:.0f}",
    "JSON B/record": lambda told: f"{told['record_bytes']:,.0f}",
}


@app.command(epilog="Example: trafficrefinery profile monday.pcap.zst -c configs/video.json -o costs --link 10Gbit/s")
def profile(  # noqa: PLR0913, PLR0917 (each is an option)
    config: Annotated[Path, typer.Option("-c", "--config", help="Configuration file, as for `run`.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Directory for the report; created if missing.")],
    traces: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PCAP]...", help="pcap or pcapng, also .gz or .zst. Or directories, 'patterns*'."),
    ] = None,
    interface: Annotated[
        str | None, typer.Option("-i", "--interface", help="Interface to record from first, instead of reading traces.")
    ] = None,
    duration: Annotated[str | None, typer.Option(help="How long to record, such as 60s; needs --interface.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="BUNDLE", help="Model directory, or the name of a bundled model; repeatable."),
    ] = None,
    link: Annotated[str, typer.Option(metavar="RATE", help="Link rate to project the costs to.")] = "10Gbit/s",
    repetitions: Annotated[
        int | None,
        typer.Option(
            min=3,
            max=1000,
            help="How often each class is measured; default: 5 to 25, depending on the length of the trace.",
        ),
    ] = None,
    each: Each = False,
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="Traces processed at the same time, which disturbs the measurements.")
    ] = 1,
    cluster: Cluster = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not show progress or tables.")] = False,
) -> None:
    """Measure what each feature class costs, alone and all together: state, processing, storage, inference.

    Writes report.html, costs.json, costs.parquet and plots/. Processing is measured on the first million packets.
    Several PCAPs are merged by time, as one trace. With directories, patterns in quotes, --each or --cluster, each is
    a trace of its own with its report in OUT/NAME; finished traces are skipped when the command is
    repeated. Traces in directories and below them are recognised by their content.
    """
    from trafficrefinery.cli.ui.models import model_folder
    from trafficrefinery.config import load_config
    from trafficrefinery.system.writing import make_directory

    if bool(traces) == (interface is not None):
        raise UsageError("name traces, or an interface with --interface; not both")
    seconds = _seconds(duration, interface)
    settings = load_config(config)
    models = tuple(model_folder(one) for one in model or ())
    from trafficrefinery.cli.reports.page import write_report
    from trafficrefinery.cli.reports.profile import page_of
    from trafficrefinery.cli.reports.terminal import print_page
    from trafficrefinery.costs.profiling.live import record_live
    from trafficrefinery.costs.profiling.profile import ProfileOptions
    from trafficrefinery.costs.profiling.profile import profile_and_summary as measure
    from trafficrefinery.costs.profiling.projecting import parse_link
    from trafficrefinery.costs.profiling.writing import write_costs

    options = ProfileOptions(models, parse_link(link), repetitions)
    if interface is not None:
        refuse({"--each": each, "--cluster": cluster is not None})
    elif many(traces or (), each, cluster):
        from trafficrefinery.replaying.batch import TraceSettings

        where = workers, cluster
        each_settings = TraceSettings.of(settings, options, out)
        work_on_each(traces or (), "profile", _profile_one, each_settings, where, _EACH_COLUMNS, quiet)
        return
    with Bar(quiet) as bar:
        make_directory(out)
        if interface is None:
            costs, found = measure(settings, traces or (), out, options, bar)
        else:
            with tempfile.TemporaryDirectory(dir=out, prefix=".sample-") as folder:
                sample = Path(folder) / _SAMPLE
                recorded = record_live(settings, interface, seconds, sample, bar)
                costs, found = measure(settings, [sample], out, options, bar, recorded)
        write_costs(costs, out)
        page = page_of(out)
        written = write_report(page, out)
    if not quiet:
        print_page(page)
        say(f"report: {written}")
        print_findings(found.findings)
    for damage in costs["trace"]["damage"]:
        say(f"error: {damage}", err=True)
    if costs["trace"]["damage"]:
        raise typer.Exit(1)


def _seconds(duration: str | None, interface: str | None) -> float:
    from trafficrefinery.config.units import parse_duration_ns

    if duration is not None and interface is None:
        raise UsageError("--duration: needs --interface")
    try:
        return parse_duration_ns(duration or "60s") / 1e9
    except ValueError as error:
        raise UsageError(f"--duration: {error}") from None


def _profile_one(trace: str, folder: Path, settings: TraceSettings) -> dict[str, Any]:
    """Profile one of many traces; see `replaying.batch`."""
    from trafficrefinery.cli.reports.page import write_report
    from trafficrefinery.cli.reports.profile import page_of
    from trafficrefinery.costs.profiling.profile import profile_and_summary
    from trafficrefinery.costs.profiling.writing import write_costs
    from trafficrefinery.records.summary import TraceFindings

    costs, found = profile_and_summary(settings.config, [trace], folder, settings.options)
    write_costs(costs, folder)
    write_report(page_of(folder), folder)
    records = costs["storage"]["all_classes"]["bytes_per_record"]
    return {
        "packets": costs["trace"]["packets"], "flows": costs["trace"]["flows"],
        "state_bytes": max(one["state_bytes"] for one in costs["steps"].values()),
        "ns_per_packet": costs["end_to_end"]["measured_ns"], "record_bytes": records["jsonl"],
        "damage": costs["trace"]["damage"], **TraceFindings.as_json(found),
    }  # fmt: skip
