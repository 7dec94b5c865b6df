"""What other distributions add to this program: the one registry of plugins, found by their entry points.

A distribution adds one with lines such as these in its `pyproject.toml`:

    [project.entry-points."trafficrefinery.sinks"]
    UnixSocket = "stranger_sinks:UnixSocket"

Each group has a name here; what a plugin of it has to be is described where the group is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, NamedTuple

from trafficrefinery.errors import PluginError

COMMANDS, REPORTS, SINKS = "trafficrefinery.commands", "trafficrefinery.reports", "trafficrefinery.sinks"
_OWN = "trafficrefinery"


class Plugin(NamedTuple):
    """An entry point that was found, and is not loaded yet.

    Args:
        owners: the distributions that have an entry of this name in its group; one, unless two are in conflict.
    """

    point: EntryPoint
    owners: tuple[str, ...]

    @property
    def name(self) -> str:
        """By which users name it."""
        return self.point.name

    def load(self, made: Callable[[Any], Any] = lambda loaded: loaded) -> Any:  # Any: what a group's plugins are
        """What the entry point names.

        Args:
            made: turns it into what the group needs; what this raises is an error of the plugin too.

        Raises:
            PluginError: its module cannot be imported, it is not what the group needs, or two distributions have it.
        """
        entry, owner = f'the entry "{self.name} = {self.point.value}" in {self.point.group}', self.owners[0]
        if len(self.owners) > 1:
            names = " and ".join(self.owners)
            raise PluginError(f'{names} both have an entry "{self.name}" in {self.point.group}; uninstall one of them')
        try:
            return made(self.point.load())
        except (Exception, SystemExit) as error:  # what other people's modules raise
            cause = f"{type(error).__name__}: {error}"
            raise PluginError(f"{owner}: {entry} cannot be loaded: {cause}; upgrade or uninstall {owner}") from error


@cache
def _installed(group: str) -> Mapping[str, Plugin]:
    found: dict[str, Plugin] = {}
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        others = found[point.name].owners if point.name in found else ()
        owner = point.dist.name if point.dist else "an unknown distribution"
        found[point.name] = Plugin(point, (*others, owner))
    return MappingProxyType(found)


def installed(group: str, built_in: Mapping[str, str] = MappingProxyType({})) -> dict[str, Plugin]:
    """The plugins of a group by name: first those of the package in their order, then the others', sorted.

    Args:
        built_in: name and `module:object` of those that the package has itself. Others do not replace them.
    """
    own = {name: Plugin(EntryPoint(name, value, group), (_OWN,)) for name, value in built_in.items()}
    return own | {name: plugin for name, plugin in _installed(group).items() if name not in own}


def forget() -> None:
    """Look again for what is installed when it is asked for next."""
    _installed.cache_clear()
