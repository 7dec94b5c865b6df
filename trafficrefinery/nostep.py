"""The functions that `fuse` generates for a configuration, here for no feature class at all.

`kernel` is written against them; a generated step module holds its own in their place.
"""

from __future__ import annotations

from trafficrefinery.jit import helper


@helper
def add_packet(p, profile, slot, r, buffer):  # type: ignore[no-untyped-def]  # compiled
    """Give a packet to the classes of a profile."""


@helper
def start_state(p, profile, slot):  # type: ignore[no-untyped-def]
    """Make a slot the state of a new flow."""


@helper
def prefetch_state(p, profile, slot):  # type: ignore[no-untyped-def]
    """Ask for the first cache lines of each class's state."""


@helper
def collect_row(p, profile, slot, row, header, interval_s):  # type: ignore[no-untyped-def]
    """Collect the features of an interval into an output row, and clear the state for the next."""


@helper
def take_state(p, profile):  # type: ignore[no-untyped-def]
    """A free state slot, or -1."""
    return 0


@helper
def give_state(p, profile, slot):  # type: ignore[no-untyped-def]
    """Return a state slot."""
