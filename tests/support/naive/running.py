"""Built-in feature classes in tests: load one by the name of its file, and run it over the intervals of a flow."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import numpy as np

from trafficrefinery.api import ENDED_RST, RST, TCP
from trafficrefinery.api.testing import new_state, plain
from trafficrefinery.config.paths import features_dir


def load(stem: str) -> Any:
    """The module of `features/<stem>.py`; `stem` is also its name in `sys.modules`, where annotations are looked up."""
    name = f"builtin_features_{stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, features_dir() / f"{stem}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def run(cls: Any, intervals: list[list[Any]], interval_s: float = 10.0) -> list[dict[str, Any]]:
    """Outputs of one flow, interval after interval, each as a dictionary. Each RST counts."""
    state = new_state(cls)
    outputs = []
    with np.errstate(all="ignore"):
        for packets in intervals:
            for pkt in packets:
                state.add_packet(pkt)
                if pkt.protocol == TCP and pkt.tcp_flags & RST:
                    state.end_flow(ENDED_RST)
            outputs.append(plain(state.collect_features(interval_s))._asdict())
            state.clear()
    return outputs
