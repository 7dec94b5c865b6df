"""What a representation costs: state, processing, storage, inference.

`record` parses traces once; `measure` tells what any set of feature classes costs on these packets.
"""

from __future__ import annotations

from trafficrefinery.profiling.measuring import Costs, measure
from trafficrefinery.profiling.recording import Packets, join, record

__all__ = ["Costs", "Packets", "join", "measure", "record"]
