"""`trafficrefinery plot`: pictures of sessions and of models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trafficrefinery.cli.ui.lines import say

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Plot sessions and models.",
    epilog="Example: trafficrefinery plot session out/sessions.parquet --model lab -o session.png",
)


@app.command(epilog="Example: trafficrefinery plot session out/records.jsonl -c video.json --model lab -o a.png")
def session(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="RECORDS...", help="Records, or a table of session-intervals, as for `infer`."),
    ],
    model: Annotated[
        list[str], typer.Option(metavar="BUNDLE", help="Model directory, or the name of a bundled model; repeatable.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Page (.html) or picture (.png, .svg) to write.")],
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="Configuration with which the records were written.")
    ] = None,
    session: Annotated[str | None, typer.Option(help="Name or id of the session; default: the longest.")] = None,
) -> None:
    """Plot a session over time: what was inferred and its confidence, segments and throughput."""
    from trafficrefinery.cli.reports.session import Answered, one_session, session_page, write_session
    from trafficrefinery.cli.ui.models import model_folder
    from trafficrefinery.models.inference import Predictor, load_bundle
    from trafficrefinery.models.written_records import infer_table, read_sessions

    bundles = [load_bundle(model_folder(one)) for one in model]
    chosen, name = one_session(read_sessions(files, config), session)
    facts = [("records", ", ".join(map(str, files))), ("models", ", ".join(one.label for one in bundles))]
    if config is not None:
        facts.append(("configuration", str(config)))
    predictor = Predictor(bundles)
    page = session_page(Answered(chosen, infer_table(predictor, chosen), predictor.targets), name, facts)
    write_session(page, out)
    say(f"session {name}: {out}")


@app.command(epilog="Example: trafficrefinery plot model lab -o pictures")
def model(
    bundle: Annotated[
        str, typer.Argument(metavar="BUNDLE", help="Model bundle, or a directory written by `evaluate`.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Directory for the plots.")],
    svg: Annotated[bool, typer.Option("--svg", help="Write SVG instead of PNG.")] = False,
) -> None:
    """Plot the scores of a model: confusion, reliability, scores by label, feature sets.

    `trafficrefinery report evaluate BUNDLE` makes a page of them.
    """
    from trafficrefinery.cli.reports.evaluation import page_of
    from trafficrefinery.cli.reports.page import write_pictures
    from trafficrefinery.cli.ui.models import model_folder

    pictures = page_of(model_folder(bundle, "BUNDLE")).pictures()
    for path in write_pictures(pictures, out, "svg" if svg else "png"):
        say(str(path))
