"""Finds functions, classes and methods that nothing uses but tests: `make lint` runs it.

Vulture reads the names; what is used in a way that it cannot see is in ALLOWED, with the reason.
"""

from __future__ import annotations

import sys
from pathlib import Path

from vulture import Vulture

ROOT = Path(__file__).resolve().parent.parent
CHECKED = ("trafficrefinery", "lab/trafficrefinery_lab")
USERS = ("features", "benchmarks", "samples", "docs")
KINDS = {"class", "function", "method", "property", "import", "unreachable_code"}
ALLOWED = {
    "called by Python": {"__dir__", "__getattr__"},
    "called by Typer and its parser": {"_group", "_root", "completion", "import_", "infer", "resolve_command"},
    "called by pydantic": {
        "_blocks_fit",
        "_mac_fits_mode",
        "_mode_has_mac",
        "_not_empty",
        "_with_those_of_the_package",
        "field_title_should_be_set",
    },
    "called by waitress": {"maintenance"},
    "called by asyncio and aioquic": {"datagram_received", "quic_event_received"},
    "called by pickle": {"find_class", "persistent_load"},
    "loaded by their names in the registry of plugins": {"JetStream", "StandardOutput"},
    "what a callback takes, for the type checker": {"__call__"},
    "called by Numba": {"define_pipelines", "get_pointer_to_function", "run_pass", "set_env"},
    "called by ast.NodeTransformer": {"visit_AnnAssign"},
    "named in generated code": {"plain_step", "put_list", "raw_byte"},
    "called by the service of tests, as systemd's watchdog is set for it": {"watchdog_interval_s"},
}


def unused(checked: tuple[str, ...], users: tuple[str, ...]) -> dict[str, str]:
    """Name of what nothing uses: where it is defined."""
    vulture = Vulture()
    vulture.scavenge([str(ROOT / folder) for folder in (*checked, *users)])
    inside = tuple(f"{ROOT / folder}/" for folder in checked)
    return {
        item.name: f"{item.filename.relative_to(ROOT)}:{item.first_lineno}: unused {item.typ} {item.name}"
        for item in vulture.get_unused_code()
        if item.typ in KINDS and str(item.filename).startswith(inside)
    }


def main() -> int:
    """Print what is unused and not allowed, and what is allowed without need; 1 if there is any."""
    found, allowed = unused(CHECKED, USERS), set().union(*ALLOWED.values())
    lines = [where for name, where in found.items() if name not in allowed]
    lines += [
        f".ci/dead_code.py: ALLOWED names {name}, which is used or gone" for name in sorted(allowed - found.keys())
    ]
    print("\n".join(lines) or "no dead code")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
