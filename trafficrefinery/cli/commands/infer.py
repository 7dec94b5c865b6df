"""`trafficrefinery infer`: models on records, or on tables of sessions, flows or clients."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from trafficrefinery.errors import UsageError

app = typer.Typer(add_completion=False, rich_markup_mode=None)
_SUFFIXES = (".jsonl", ".parquet")


@app.command(epilog="Example: trafficrefinery infer out/records.jsonl -c configs/video.json --model my_model")
def infer(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="RECORDS...",
            help="Records of `replay` or `run`, in the order of time; or a table of sessions, flows or "
            "clients: `replay --sessions`, `dataset build` or `import`. JSON lines, also zstd, or Parquet.",
        ),
    ],
    model: Annotated[
        list[str],
        typer.Option(metavar="BUNDLE", help="Model directory, or the name of a bundled model; repeatable."),
    ],
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="Configuration with which the records were written.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="File to write, .jsonl or .parquet; default: standard output.")
    ] = None,
) -> None:
    """Run models on sessions, flows or clients, and write a record for each unit, interval and target."""
    from trafficrefinery.cli.ui.models import model_folder
    from trafficrefinery.models.written_records import infer_files

    if out is not None and out.suffix not in _SUFFIXES:
        raise UsageError(f"--out: {out} ends in neither {' nor '.join(_SUFFIXES)}")
    models = [model_folder(one) for one in model]
    sys.stdout.flush()
    infer_files(files, models, config, out)
