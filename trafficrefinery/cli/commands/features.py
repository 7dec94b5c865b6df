"""`trafficrefinery features`: find, describe, scaffold and verify feature classes."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trafficrefinery.errors import FeatureError, OutputError, UsageError, did_you_mean

if TYPE_CHECKING:
    from trafficrefinery.costs.checks import Report
    from trafficrefinery.engine.registry import Registry

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Find, describe, scaffold and verify feature classes.",
    epilog="Example: trafficrefinery features new MyFeature",
)

Paths = Annotated[
    list[Path] | None,
    typer.Option("-p", "--path", help="Further directory or file of feature classes, as FeaturePaths names them."),
]


@app.command("list", epilog="Example: trafficrefinery features list --path my_features")
def list_(path: Paths = None) -> None:
    """List all feature classes: what each is about, bytes of state a flow, number of outputs, and file."""
    from trafficrefinery.api import state_dtype
    from trafficrefinery.cli.ui.describe import summary
    from trafficrefinery.cli.ui.tables import print_table
    from trafficrefinery.engine.feature_fields import output_fields
    from trafficrefinery.engine.registry import Registry

    registry = Registry(path or ())
    rows = []
    for name in registry.names():
        cls = registry.get(name)
        size, outputs = str(state_dtype(cls).itemsize), str(len(output_fields(cls)))
        rows.append((name, summary(cls), size, outputs, _shown(registry.file_of(name))))
    print_table(("class", "is about", "state bytes", "outputs", "file"), rows)


@app.command(epilog="Example: trafficrefinery features show VideoSegments")
def show(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A feature class.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All classes, in place of one.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As a page in Markdown.")] = False,
    path: Paths = None,
) -> None:
    """Describe a feature class: definition, parameters, state, and outputs with their units."""
    from trafficrefinery.cli.ui.describe import as_page, as_text
    from trafficrefinery.engine.registry import Registry

    if (name is None) != every:
        raise UsageError("features show: give the name of a class, or --all")
    registry = Registry(path or ())
    chosen = registry.names() if name is None else [_known(registry, name)]
    classes = [(registry.get(one), registry.file_of(one)) for one in chosen]
    if markdown:
        typer.echo(as_page(classes), nl=False)
    else:
        typer.echo("\n\n\n".join(as_text(cls, file) for cls, file in classes))


@app.command(epilog="Example: trafficrefinery features sessions")
def sessions(
    markdown: Annotated[bool, typer.Option("--markdown", help="As a page in Markdown.")] = False, path: Paths = None
) -> None:
    """List the features of video sessions: column, unit and meaning."""
    from trafficrefinery.cli.ui.describe_sessions import sessions_page
    from trafficrefinery.cli.ui.tables import print_table
    from trafficrefinery.models.sessions import SessionRegistry

    registry = SessionRegistry(path or ())
    if markdown:
        typer.echo(sessions_page(registry), nl=False)
    else:
        print_table(("column", "type", "unit, meaning"), [(one.name, one.kind, one.doc) for one in registry.fields()])


@app.command(epilog="Example: trafficrefinery features new BurstSizes -o my_features")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the class, such as BurstSizes.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Directory for the file; made when missing.")] = Path(),
) -> None:
    """Write a small feature class that works, to be changed."""
    from trafficrefinery.cli.ui.scaffold import file_name, scaffold
    from trafficrefinery.engine.registry import Registry

    if re.fullmatch(r"[A-Z][A-Za-z0-9]*", name) is None:
        raise UsageError(f'features new: "{name}" is no name of a class; write it as in BurstSizes')
    if name in Registry().names():
        raise UsageError(f'features new: there is a class "{name}" already; see `trafficrefinery features show {name}`')
    file = out / file_name(name)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with file.open("x") as opened:
            opened.write(scaffold(name))
    except FileExistsError as error:
        raise UsageError(f"{file}: is there already; choose another name, or another directory with --out") from error
    except OSError as error:
        raise OutputError(f"{file}: cannot be written: {error.strerror}") from error
    typer.echo(f"wrote {file}: change it, and then")
    typer.echo(f"  trafficrefinery features check {file}")
    typer.echo(f'and in the configuration "FeaturePaths": ["{out}"], and "Collect": ["{name}"] of a service.')


@app.command(epilog="Example: trafficrefinery features check my_features/burst_sizes.py")
def check(
    target: Annotated[str, typer.Argument(metavar="PATH|NAME", help="A file, a directory, or a class.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="PARAMETER=VALUE", help="Check with this value; JSON.")
    ] = None,
    path: Paths = None,
) -> None:
    """Run a feature class on generated traffic, and say what is wrong with it, or what it costs.

    It runs interpreted, compiled, and compiled with checked bounds; with the flows together and one after the other.
    """
    from trafficrefinery.costs.checks import check_class
    from trafficrefinery.engine.registry import Registry

    params = dict(_setting(item) for item in settings or ())
    failed = False
    try:
        registry, names = _targets(target, path or [], Registry)
        for name in names:
            file = registry.file_of(name)
            assert file is not None, "all classes here are from files"
            try:
                with _busy(name):
                    report = check_class(file, name, params)
                _print_report(report)
            except FeatureError as error:
                failed = True
                typer.echo(f"error: {error}", err=True)
    except FeatureError as error:
        failed = True
        typer.echo(f"error: {error}", err=True)
    if failed:
        raise typer.Exit(1)


def _targets(target: str, path: list[Path], registry_of: type[Registry]) -> tuple[Registry, list[str]]:
    """The classes that are meant: of a file or directory, or one by its name."""
    place = Path(target)
    if place.exists():
        registry = registry_of([place])
        names = [name for name in registry.names() if _is_within(registry.file_of(name), place.resolve())]
        if not names:
            raise FeatureError(target, "no feature class in it; a class derives from FeatureClass")
        return registry, names
    if place.suffix == ".py" or len(place.parts) > 1:
        raise UsageError(f"{target}: no such file or directory")
    registry = registry_of(path)
    return registry, [_known(registry, target)]


def _is_within(file: Path | None, place: Path) -> bool:
    return file is not None and file.resolve().is_relative_to(place)


def _known(registry: Registry, name: str) -> str:
    from trafficrefinery.config.parts import CLASS_ALIASES

    name = CLASS_ALIASES.get(name, name)
    if name not in registry.names():
        hint = did_you_mean(name, registry.names()) or f"; there are {', '.join(registry.names())}"
        raise UsageError(f'no feature class "{name}"{hint}')
    return name


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


def _print_report(report: Report) -> None:
    from trafficrefinery.cli.ui.tables import aligned

    typer.echo(f"{report.name}  {_shown(report.file)}")
    ran = f"{report.packets:,} packets of {report.flows} flows, {report.rows} rows"
    rows = [
        ("state", f"{report.state_bytes:,} bytes a flow"),
        ("output", f"{report.output_bytes:,} bytes a row, {report.output_field_count} fields"),
        ("add_packet", f"{report.add_packet_ns:.1f} ns a packet"),
        ("collect_features", f"{report.collect_ns:.0f} ns a row"),
        ("traffic", f"{ran}: the same in all ways"),
        ("examples", f"{report.examples} in the documentation, as they say"),
        *(("note", note) for note in report.notes),
    ]
    for line in aligned(rows, "  "):
        typer.echo(line)


def _shown(file: Path | None) -> str:
    """A file as one would type it."""
    if file is None:
        return ""
    with contextlib.suppress(ValueError):
        return str(file.relative_to(Path.cwd()))
    return str(file)
