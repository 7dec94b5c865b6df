"""Traffic Refinery: packets to machine-learning features, per flow and per service, while they arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .replaying.notebook import Table, replay, replay_sessions

__version__ = "0.2.0.dev0"
__all__ = ["Table", "__version__", "replay", "replay_sessions"]
_NOTEBOOK = ("Table", "replay", "replay_sessions")


def __getattr__(name: str) -> Any:  # of several types
    """The notebook interface is imported when it is used: `trafficrefinery --help` needs no compiler."""
    if name in _NOTEBOOK:
        from .replaying import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_NOTEBOOK]
