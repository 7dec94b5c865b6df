"""Naive readings and examples of link types and tunnels that came later: a module for each, found by being here.

A module has what it needs of: `LINKS`, `TYPED` and `READERS` by link type, `PORTS`, `UDP_TUNNELS` and `IP_TUNNELS`, as
in `naive.shims`, and `WRAPPINGS`, as in `wrappings`.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any


def added(attribute: str) -> dict[Any, Any]:
    """What all modules have under a name."""
    found: dict[Any, Any] = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        found |= getattr(importlib.import_module(f"{__name__}.{name}"), attribute, {})
    return found
