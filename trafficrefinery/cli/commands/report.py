"""`trafficrefinery report`: a page over a directory of results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trafficrefinery.cli.ui.lines import say
from trafficrefinery.errors import UsageError

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(epilog="Example: trafficrefinery report evaluate model -o model.html")
def report(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The report; without it, all are listed.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIRECTORY]", help="Directory of results, or a model.")
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Page; default: DIRECTORY/NAME.html.")] = None,
) -> None:
    """Write a page over a directory of results, or list the reports that there are.

    `profile`, `explore` and `evaluate` write theirs when they run. Other distributions can add reports.
    """
    from trafficrefinery.cli.reports import write_page
    from trafficrefinery.cli.reports.find import find_report, reports
    from trafficrefinery.cli.ui.models import model_folder
    from trafficrefinery.cli.ui.tables import print_table

    if name is None:
        print_table(("report", "content"), [(one, _summary(one)) for one in reports()])
        return
    page_of = find_report(name)
    if folder is None:
        raise UsageError(f"report {name}: name the directory of results")
    folder = model_folder(str(folder), "DIRECTORY")
    path = out or folder / f"{name}.html"
    write_page(page_of(folder), path)
    say(f"report: {path}")


def _summary(name: str) -> str:
    from trafficrefinery.cli.reports.find import find_report

    try:
        return (find_report(name).__doc__ or "").strip().partition("\n")[0]
    except UsageError:
        return "(This report cannot be loaded.)"
