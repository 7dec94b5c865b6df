"""What an exploration is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from trafficrefinery.models.targets import RESOLUTION
from trafficrefinery.system.tasks import HERE, Tasks

INTERVALS_S = (2.0, 4.0, 10.0, 30.0, 60.0)
"""Of the paper's study (section 5.3), and two longer ones."""


class ExploreOptions(NamedTuple):
    """How to explore, see `trafficrefinery explore --help`.

    Args:
        labels: of traces; default: `labels.csv` beside them.
        trace: that costs are measured on; default: the labelled traces, or generated packets.
        max_state_bytes: of one flow, of the recommended point.
        min_accuracy: of the recommended point.
        trials: representations that each way to search may try.
        single_columns: try subsets of columns too, and not of feature classes only.
        intervals_s: to be tried, with traces.
        first_packets: of each flow and interval, to be tried, with traces; None: all.
        groups: see `read_dataset`.
        target: name of a target with labels.
        also: further targets with labels of the same units, whose models are to run on the same representation.
        compare: with random search and with the ranking by mutual information.
    """

    labels: Path | None = None
    trace: Path | None = None
    max_state_bytes: int | None = None
    min_accuracy: float | None = None
    trials: int = 120
    single_columns: bool = True
    intervals_s: tuple[float, ...] | None = None
    first_packets: tuple[int | None, ...] | None = None
    groups: tuple[str, ...] = ()
    compare: bool = True
    tasks: Tasks = HERE
    seed: int = 1
    target: str = RESOLUTION.name
    also: tuple[str, ...] = ()
