"""One way to run classes, in a process of its own, since `TRAFFICREFINERY_JIT` holds for a process.

`python -m trafficrefinery.costs.checks.run_mode JSON`, with `classes` (file, name and parameters of each), `once` and
`out` in the JSON, writes what came out to the file `out`, for `trafficrefinery.costs.checks` to compare; or prints what
went wrong and ends with WRONG. With `once` true they run once only, which gives rows.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from trafficrefinery.api import FeatureClass
from trafficrefinery.costs.measure import check_loop
from trafficrefinery.costs.measure.check_runs import script, split, whole
from trafficrefinery.costs.measure.class_costs import costs
from trafficrefinery.costs.measure.generated_traffic import INTERVAL_NS
from trafficrefinery.engine.feature_classes.fuse import Profile
from trafficrefinery.engine.feature_classes.registry import load_file, specialise
from trafficrefinery.errors import FeatureError
from trafficrefinery.jit import COMPILED, MODE
from trafficrefinery.system.processes import end_with_parent

WRONG = 3
"""Exit status when the class is wrong; then a line of JSON is printed: `where` (FILE:LINE or null) and `message`."""
CPU_LIMIT_S = 240
"""For everything, the compiler included."""
INTERPRETED_LIMIT_S = 60


def _results(task: dict[str, Any]) -> dict[str, Any]:  # arrays and numbers
    classes: list[type[FeatureClass]] = [
        specialise(getattr(load_file(Path(file)), name), params) for file, name, params in task["classes"]
    ]
    profile = Profile(tuple(classes), INTERVAL_NS)
    told = script()
    runs = {"whole": whole(profile, told)}
    if not task["once"]:
        runs |= {"again": whole(profile, told), "split": split(profile, told)}
    arrays = {f"{name}_{kind}": getattr(run, kind) for name, run in runs.items() for kind in ("rows", "states")}
    found = costs(profile, told) if MODE == "on" and not task["once"] else {}
    begins = np.flatnonzero(told.actions[: told.closing] & (check_loop.START | check_loop.COLLECT))
    of_row = {name: np.asarray(told.packets[name])[begins] for name in ("interval_start_ns", "protocol")}
    return {**arrays, **found, **of_row, "flow": told.flows[begins], "packets": told.closing,
            "flows": int(told.flows.max()) + 1}  # fmt: skip


def _too_long(*_: object) -> None:
    raise TimeoutError(f"it did not get through in {INTERPRETED_LIMIT_S} s")


def main(argument: str) -> int:
    end_with_parent()
    task = json.loads(argument)
    if COMPILED:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S))
    else:
        signal.signal(signal.SIGVTALRM, _too_long)
        signal.setitimer(signal.ITIMER_VIRTUAL, INTERPRETED_LIMIT_S)
    try:
        results = _results(task)
    except FeatureError as error:
        return _wrong(error.where, error.message)
    except Exception as error:  # noqa: BLE001 (whatever a compiled class raises; where, it does not say)
        return _wrong(None, f"{type(error).__name__}: {error}")
    with Path(task["out"]).open("wb") as out:
        np.savez(out, **results)
    return 0


def _wrong(where: str | None, message: str) -> int:
    sys.stdout.write(json.dumps({"where": where, "message": message}) + "\n")
    return WRONG


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
