"""`trafficrefinery features`: find, describe, scaffold and verify feature classes and session features."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trafficrefinery.cli.ui.lines import say
from trafficrefinery.errors import FeatureError, UsageError, did_you_mean

if TYPE_CHECKING:
    from trafficrefinery.costs.checks import Report
    from trafficrefinery.costs.checks.session_features import SessionReport
    from trafficrefinery.engine.feature_classes.registry import ClassFiles, Registry
    from trafficrefinery.models.sessions import SessionRegistry

    AnyRegistry = ClassFiles[Any]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Find, describe, scaffold and verify feature classes and session features.",
    epilog="Example: trafficrefinery features new MyFeature",
)

Paths = Annotated[
    list[Path] | None,
    typer.Option("-p", "--path", help="Further directory or file of feature classes, as FeaturePaths names them."),
]


@app.command("list", epilog="Example: trafficrefinery features list --path my_features")
def list_(path: Paths = None) -> None:
    """List all feature classes and session features: subject, bytes of state, number of outputs, and file."""
    from trafficrefinery.api import state_dtype
    from trafficrefinery.cli.ui.describe import output_count, subject, summary
    from trafficrefinery.cli.ui.tables import print_table

    rows = [
        (cls.__name__, subject(cls), summary(cls), str(state_dtype(cls).itemsize), str(output_count(cls)), _shown(file))
        for registry in _registries(path or [])
        for cls, file in registry.found()
    ]
    print_table(("class", "of a", "is about", "state bytes", "outputs", "file"), rows)


@app.command(epilog="Example: trafficrefinery features show VideoSegments")
def show(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A feature class or session feature.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them, in place of one.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="As a page in Markdown; of all, the feature classes only.")
    ] = False,
    path: Paths = None,
) -> None:
    """Describe a feature class or session feature: definition, parameters, state, and outputs with their units."""
    from trafficrefinery.cli.ui.describe import as_page, as_text, sessions_page

    if (name is None) != every:
        raise UsageError("features show: give the name of a class, or --all")
    of_flows, of_sessions = _registries(path or [])
    wanted = None if name is None else _known((of_flows, of_sessions), name)[1]
    flows = of_flows.found(wanted)
    sessions = of_sessions.found(wanted)
    if markdown:
        typer.echo(as_page(flows) if flows else sessions_page(sessions), nl=False)
    else:
        texts = [as_text(*one) for one in flows] + [as_text(*one) for one in sessions]
        typer.echo("\n\n\n".join(texts))


@app.command(epilog="Example: trafficrefinery features sessions")
def sessions(
    markdown: Annotated[bool, typer.Option("--markdown", help="As a page in Markdown.")] = False, path: Paths = None
) -> None:
    """List the features of video sessions: column, unit and meaning."""
    from trafficrefinery.cli.ui.describe import sessions_page
    from trafficrefinery.cli.ui.tables import print_table
    from trafficrefinery.models.sessions import SessionRegistry

    registry = SessionRegistry(path or ())
    if markdown:
        typer.echo(sessions_page(registry.found()), nl=False)
    else:
        print_table(("column", "type", "unit, meaning"), [(one.name, one.kind, one.doc) for one in registry.fields()])


@app.command(epilog="Example: trafficrefinery features new BurstSizes -o my_features")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the class, such as BurstSizes.")],
    session: Annotated[
        bool, typer.Option("--session", help="A session feature, made from the flows of a session.")
    ] = False,
    out: Annotated[Path, typer.Option("-o", "--out", help="Directory for the file; made when missing.")] = Path(),
) -> None:
    """Write a working template of a feature class or a session feature."""
    from trafficrefinery.cli.ui.scaffold import file_name, scaffold
    from trafficrefinery.system.writing import make_directory, write_file

    if re.fullmatch(r"[A-Z][A-Za-z0-9]*", name) is None:
        raise UsageError(f'features new: "{name}" is not a class name; write it as in BurstSizes')
    if any(name in registry.names() for registry in _registries([])):
        raise UsageError(f'features new: there is a class "{name}" already; see `trafficrefinery features show {name}`')
    file = out / file_name(name)
    if file.exists():
        raise UsageError(f"{file}: is there already; choose another name, or another directory with --out")
    make_directory(out)
    write_file(file, scaffold(name, session=session))
    say(f"wrote {file}: change it, and then")
    say(f"  trafficrefinery features check {file}")
    if session:
        say(f'and in the configuration "FeaturePaths": ["{out}"]; its `needs` have to be in "Collect".')
    else:
        say(f'and in the configuration "FeaturePaths": ["{out}"], and "Collect": ["{name}"] of a service.')


@app.command(epilog="Example: trafficrefinery features check my_features/burst_sizes.py")
def check(
    target: Annotated[str, typer.Argument(metavar="PATH|NAME", help="A file, a directory, or a class.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="PARAMETER=VALUE", help="Check with this value; JSON.")
    ] = None,
    path: Paths = None,
) -> None:
    """Run a class on generated traffic, and report what is wrong with it, or what it costs.

    A feature class runs interpreted, compiled, and compiled with checked bounds; with the flows together and one after
    the other. A session feature runs with the sessions together and one after the other, and without flows.
    """
    from trafficrefinery.costs.checks import check_class
    from trafficrefinery.costs.checks.session_features import check_session_feature
    from trafficrefinery.engine.feature_classes.registry import Registry

    params = dict(_setting(item) for item in settings or ())
    failed = False
    try:
        targets = _targets(target, path or [])
    except FeatureError as error:
        targets, failed = [], True
        say(f"error: {error}", err=True)
    for registry, name in targets:
        file = registry.file_of(name)
        assert file is not None, "all classes here are from files"
        try:
            with _busy(name):
                if isinstance(registry, Registry):
                    rows = _rows(check_class(file, name, params))
                else:
                    rows = _session_rows(check_session_feature(file, name, params, [*(path or []), file.parent]))
            _print_report(name, file, rows)
        except FeatureError as error:
            failed = True
            say(f"error: {error}", err=True)
    if failed:
        raise typer.Exit(1)


def _registries(path: list[Path]) -> tuple[Registry, SessionRegistry]:
    """Feature classes and session features."""
    from trafficrefinery.engine.feature_classes.registry import Registry
    from trafficrefinery.models.sessions import SessionRegistry

    return Registry(path), SessionRegistry(path)


def _targets(target: str, path: list[Path]) -> list[tuple[AnyRegistry, str]]:
    """The classes that are meant: of a file or directory, or one by its name."""
    from trafficrefinery.engine.feature_classes.registry import Registry
    from trafficrefinery.models.sessions import SessionRegistry

    place = Path(target)
    if place.exists():
        beside = Registry([*path, place.parent if place.is_file() else place])  # what a session feature needs
        registries: tuple[AnyRegistry, ...] = (
            Registry([place]),
            SessionRegistry([place], dict.fromkeys(beside.names(), ())),
        )
        found = [
            (registry, name)
            for registry in registries
            for name in registry.names()
            if _is_within(registry.file_of(name), place.resolve())
        ]
        if not found:
            what = "a class derives from FeatureClass or SessionFeature"
            raise FeatureError(target, f"no feature class and no session feature in it; {what}")
        return found
    if place.suffix == ".py" or len(place.parts) > 1:
        raise UsageError(f"{target}: no such file or directory")
    return [_known(_registries(path), target)]


def _is_within(file: Path | None, place: Path) -> bool:
    return file is not None and file.resolve().is_relative_to(place)


def _known(registries: Sequence[AnyRegistry], name: str) -> tuple[AnyRegistry, str]:
    from trafficrefinery.config.fields import CLASS_ALIASES

    name = CLASS_ALIASES.get(name, name)
    for registry in registries:
        if name in registry.names():
            return registry, name
    names = [one for registry in registries for one in registry.names()]
    hint = did_you_mean(name, names) or f"; there are {', '.join(names)}"
    raise UsageError(f'no feature class "{name}"{hint}')


def _setting(item: str) -> tuple[str, Any]:
    name, equals, value = item.partition("=")
    if not equals:
        raise UsageError(f'--set: "{item}" is no PARAMETER=VALUE, such as Quantiles=true')
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


@contextlib.contextmanager
def _busy(name: str) -> Iterator[None]:
    """A sign of life on a terminal: compiling takes seconds."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(f"compiling and running {name}"):
        yield


def _rows(report: Report) -> list[tuple[str, str]]:
    ran = f"{report.packets:,} packets of {report.flows} flows, {report.rows} rows"
    return [
        ("state", f"{report.state_bytes:,} bytes a flow"),
        ("output", f"{report.output_bytes:,} bytes a row, {report.output_field_count} fields"),
        ("add_packet", f"{report.add_packet_ns:.1f} ns a packet"),
        ("collect_features", f"{report.collect_ns:.0f} ns a row"),
        ("traffic", f"{ran}: the same in all ways"),
        ("examples", f"{report.examples} in the documentation, all right" if report.examples else "none"),
        *(("note", note) for note in report.notes),
    ]


def _session_rows(report: SessionReport) -> list[tuple[str, str]]:
    ran = f"{report.flows} flows of {report.sessions} sessions in {report.intervals} intervals"
    return [
        ("state", f"{report.state_bytes:,} bytes a session"),
        ("output", f"{report.output_field_count} fields"),
        ("time", f"{report.session_us:.1f} µs a session and interval, with {report.together:,} sessions together"),
        ("traffic", f"{ran}: the same together and one by one"),
        *(("note", note) for note in report.notes),
    ]


def _print_report(name: str, file: Path, rows: list[tuple[str, str]]) -> None:
    from trafficrefinery.cli.ui.tables import aligned

    say(f"{name}  {_shown(file)}")
    for line in aligned(rows, "  "):
        say(line)


def _shown(file: Path | None) -> str:
    """A file as one would type it."""
    if file is None:
        return ""
    with contextlib.suppress(ValueError):
        return str(file.relative_to(Path.cwd()))
    return str(file)
