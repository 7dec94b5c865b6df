"""`trafficrefinery config`: check and show configurations."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from trafficrefinery.cli.ui.lines import say
from trafficrefinery.cli.ui.tables import print_table
from trafficrefinery.config import Config, config_schema, format_duration, load_config

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Check and show configurations.",
    epilog="Example: trafficrefinery config check configs/video.json",
)

ConfigFile = Annotated[Path, typer.Argument(metavar="FILE", help="A configuration, also of the original system.")]
_COLUMNS = ("service", "interval", "domains", "regex", "prefixes", "collect")


@app.command(epilog="Example: trafficrefinery config check configs/video.json")
def check(
    file: ConfigFile,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Compile what `run` needs, too; its first start then does not wait.")
    ] = False,
) -> None:
    """Validate FILE and say what it has, and what would prevent `run` from starting.

    Per service: interval, number of filters of each kind, feature classes. Key files, filter expressions, CPUs and
    models are looked at as `run` does at its start, for the user who runs this. Interfaces that do not exist, folders
    that cannot be written to and a port in use are warnings, as they may be there later; keys that are ignored or have
    no effect are notes.
    """
    config = load_config(file)
    from trafficrefinery.daemon import checks
    from trafficrefinery.records.summary import effects

    checks.refuse(config)
    checks.load_models_of(config)
    interval = format_duration(config.interval_ns)
    services = f"{len(config.services)} service{'s' if len(config.services) > 1 else ''}"
    say(f"{file}: valid, {services}, interval {interval}, direction {_direction(config)}")
    for line in config.description.splitlines():
        say(line)
    print_table(_COLUMNS, _rows(config))
    for warned in checks.warnings(config):
        say(f"warning: {warned.key}: {warned.message}")
    for key, option in checks.given_otherwise(config):
        say(f"note: {key}: is not set; `run` needs it, or {option}")
    for note in config.ignored:
        say(f"note: {note}")
    for unused in effects.without_effect(config, effects.RUN):
        say(f"note: {unused.key}: has no effect, as {unused.why}")
    if config.capture.source == "afxdp":
        say(
            'note: Capture.Source: "afxdp" takes packets away from this machine\'s own programs, but for those that '
            "Capture.Filter leaves out"
        )
    _tell_of_rings(config)
    if compile_:
        _compile(config)


def _compile(config: Config) -> None:
    from trafficrefinery.cli.ui.progress import Bar
    from trafficrefinery.daemon.compile_ahead import compile_ahead
    from trafficrefinery.replaying.job import compiler_reported

    with Bar(quiet=False) as bar, compiler_reported(bar):
        took_s = compile_ahead(config)
    say(f"compiled in {took_s:.0f} s" if took_s else "nothing was left to compile")


def _tell_of_rings(config: Config) -> None:
    """How long the rings of a live configuration hold."""
    from trafficrefinery.daemon.workers import ring_size

    if config.capture.source == "pcap" or not config.capture.interfaces:
        return
    workers = config.capture.workers or len(config.capture.cpus or sorted(os.sched_getaffinity(0))[1:] or (0,))
    small = ring_size.warning(config, workers)
    say(f"warning: {small}" if small else f"note: {ring_size.told(config, workers)}")


@app.command(epilog="Example: trafficrefinery config show configs/all.json")
def show(file: ConfigFile) -> None:
    """Print FILE with every key and default.

    Files of the original system are printed in the form of this one.
    """
    typer.echo(json.dumps(load_config(file).to_dict(), indent=2, ensure_ascii=False))


@app.command(epilog="Example: trafficrefinery config schema > trafficrefinery.schema.json")
def schema() -> None:
    """Print the JSON schema.

    For editors that complete and check configurations. It has the parameters of the built-in feature classes.
    """
    from trafficrefinery.engine.feature_classes.registry import Registry

    typer.echo(json.dumps(config_schema(Registry().schemas()), indent=2, ensure_ascii=False))


def _direction(config: Config) -> str:
    mode, mac = config.direction.mode, config.direction.mac
    return f"{mode} {mac}" if mac else mode


def _rows(config: Config) -> list[tuple[str, ...]]:
    return [
        (
            service.name,
            format_duration(service.interval_ns),
            str(len(service.filter.domains)),
            str(len(service.filter.domains_regex)),
            str(len(service.filter.prefixes)),
            ", ".join(map(str, service.collect)),
        )
        for service in config.services
    ]
