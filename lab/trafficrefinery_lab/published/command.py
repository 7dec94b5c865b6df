"""`trafficrefinery dataset import`: published tables of session-intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trafficrefinery.cli.ui.lines import say
from trafficrefinery.cli.ui.work import number_list

app = typer.Typer(add_completion=False, rich_markup_mode=None)

Resolutions = Annotated[
    str | None, typer.Option(metavar="240,360,...", help="Valid resolutions, instead of the usual ones.")
]


@app.command(epilog="Example: trafficrefinery dataset import video_dataset.pkl -o video.parquet")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Pickled pandas DataFrame, also of Python 2, CSV or Parquet; plain or compressed."
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Parquet file to write.")],
    resolutions: Resolutions = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not show the summary.")] = False,
) -> None:
    """Turn a published table of session-intervals into a dataset.

    Code in the file is never executed. Rows without a valid resolution are left out, and so are columns that identify
    a session, come from the label, tell the date, or are broken; the manifest says why for each.
    """
    from trafficrefinery_lab.published.importing import RESOLUTIONS, import_published

    made = import_published(file, out, number_list(resolutions or "", "--resolutions") or RESOLUTIONS)
    if quiet:
        return
    labels = "" if made.labelled else ", without labels"
    say(f"{made.rows:,} session-intervals{labels}; {made.invalid:,} left out, whose resolution is not valid")
    reasons: dict[str, list[str]] = {}
    for name, reason in made.dropped.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in sorted(reasons.items()):
        say(f"{len(names)} columns dropped: {reason} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})")
    say(f"data: {out}")
    say(f"manifest: {made.manifest}")
