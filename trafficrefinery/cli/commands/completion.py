"""`trafficrefinery completion`: scripts that complete commands and options in a shell."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None)
_ZSH_LOADED = """
if [[ -n ${compstate-} ]]; then
  _trafficrefinery_completion "$@"
fi
"""
"""Zsh loads the file at the first Tab, and expects the completions of that one as well."""


@app.command(epilog="Example: trafficrefinery completion bash > trafficrefinery.bash")
def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="The shell to print the script for.")],
) -> None:
    """Print a script that completes commands and options; `make install` puts it where the shell finds it.

    For one session of bash: `source <(trafficrefinery completion bash)`.
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # imported there, not declared

    from trafficrefinery.cli.main import COMPLETE, PROGRAM

    script = get_completion_script(prog_name=PROGRAM, complete_var=COMPLETE, shell=shell)
    typer.echo(script + _ZSH_LOADED if shell == "zsh" else script)
