"""What a representation costs: state, processing, storage, inference.

`record` parses traces once; `measure` tells what any set of feature classes costs on these packets.
"""

from __future__ import annotations

from trafficrefinery.costs.measure.measuring import Costs, measure
from trafficrefinery.costs.measure.recording import Packets, join, record

__all__ = ["Costs", "Packets", "join", "measure", "record"]
