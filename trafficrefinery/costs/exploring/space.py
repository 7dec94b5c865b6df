"""What can vary: columns and with them feature classes, interval, packets of each flow, and the size of the model."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from trafficrefinery.models.inference.requirements import classes_behind
from trafficrefinery.models.sessions.provenance import Provenance
from trafficrefinery.models.training.dataset import STARTUP_COLUMNS
from trafficrefinery.models.training.estimators import Candidate

SIZES = ((10, 6), (40, 12))
"""Trees of a model, and their depth."""
_MOST_ROWS = 4_000
Parameters = dict[str, Any]  # Any: a number, bool or None, as Optuna's categories


class Sampling(NamedTuple):
    """Which packets features are made from: one table each.

    Args:
        first_packets: of each flow and interval; None: all.
    """

    interval_s: float
    first_packets: int | None = None

    def __str__(self) -> str:
        limit = "" if self.first_packets is None else f", first {self.first_packets} packets"
        return f"{self.interval_s:g} s{limit}"


class Representation(NamedTuple):
    """What a model sees, and how large it is."""

    source: Sampling
    columns: tuple[str, ...]
    trees: int
    tree_depth: int

    @property
    def told_all_along(self) -> tuple[str, ...]:
        """Columns without those of a session's start, which models of the startup delay alone may see."""
        return tuple(name for name in self.columns if not name.startswith(STARTUP_COLUMNS))

    @property
    def key(self) -> str:
        """The same for the same representation, in every run."""
        return json.dumps([*self.source, self.trees, self.tree_depth, *self.columns])

    def candidate(self, rows: int) -> Candidate:
        """The model to be fitted; each of its trees sees some thousand rows at most."""
        share = min(1.0, _MOST_ROWS / max(rows, 1))
        return Candidate("forest", (
            ("n_estimators", self.trees), ("max_depth", self.tree_depth), ("min_samples_leaf", 5),
            ("max_features", 0.3), ("max_samples", share),
        ))  # fmt: skip


class Space:
    """The representations that there are.

    Columns that are made from the same feature classes are a part: they come at the same cost.

    Args:
        columns: that a model may see.
        collected: feature classes that there are.
        rankings: of each source, its columns that tell labels, the one that tells most of them first.
        made_by: what each column is made by.
        base: feature classes that are collected in every representation, as far as they are collected at all.
    """

    def __init__(
        self, columns: Sequence[str], collected: Sequence[str], rankings: Mapping[Sampling, Sequence[str]],
        made_by: Mapping[str, Provenance], base: Sequence[str], single_columns: bool = True,
    ) -> None:  # fmt: skip
        self.collected = tuple(collected)
        self.sources = tuple(rankings)
        self.rankings = {source: tuple(ranking) for source, ranking in rankings.items()}
        self.single_columns = single_columns
        self._made_by, self._base = made_by, base
        self.parts: dict[tuple[str, ...], tuple[str, ...]] = {}
        for name in columns:
            needs = self.classes((name,))
            self.parts[needs] = (*self.parts.get(needs, ()), name)
        self.columns = tuple(columns)

    def classes(self, columns: tuple[str, ...]) -> tuple[str, ...]:
        """The feature classes to be collected for some columns: those that they and that units are made from; one at
        least."""
        needed = {*classes_behind(columns, self._made_by), *self._base}
        return tuple(name for name in self.collected if name in needed) or self.collected[:1]

    def categories(self) -> dict[str, tuple[Any, ...]]:
        """What each parameter may be."""
        found: dict[str, tuple[Any, ...]] = {
            "source": tuple(range(len(self.sources))), "size": tuple(range(len(SIZES))),
        }  # fmt: skip
        found |= {f"part {number}": (False, True) for number in range(len(self.parts))}
        if self.single_columns:
            found |= {f"column {name}": (False, True) for name in self.columns}
        return {name: values for name, values in found.items() if len(values) > 1}

    @property
    def size(self) -> int:
        """How many representations there are, or a little more: without a column for resolutions, some are the same."""
        subsets = len(self.columns) if self.single_columns else len(self.parts)
        return len(self.sources) * len(SIZES) * ((1 << subsets) - 1)

    def __iter__(self) -> Iterator[Representation]:
        """All of them, the smallest first; without a column for resolutions, some are the same."""
        units: list[tuple[str, ...]] = (
            [(name,) for name in self.columns] if self.single_columns else list(self.parts.values())
        )
        for count in range(1, len(units) + 1):
            for chosen in itertools.combinations(units, count):
                columns = {name for unit in chosen for name in unit}
                for source, size in itertools.product(self.sources, SIZES):
                    yield self._made(source, columns, size)

    def decode(self, parameters: Parameters) -> Representation:
        """The representation that parameters mean; without a column for resolutions, it has the most telling one."""
        source = self.sources[parameters.get("source", 0)]
        columns = {
            name
            for number, part in enumerate(self.parts.values()) if parameters.get(f"part {number}", True)
            for name in part if parameters.get(f"column {name}", True)
        }  # fmt: skip
        return self._made(source, columns, SIZES[parameters.get("size", 0)])

    def encode(self, representation: Representation) -> Parameters:
        """Parameters that mean a representation."""
        chosen = set(representation.columns)
        made: Parameters = {
            "source": self.sources.index(representation.source),
            "size": SIZES.index((representation.trees, representation.tree_depth)),
        }
        made |= {f"part {number}": bool(chosen & set(part)) for number, part in enumerate(self.parts.values())}
        made |= {f"column {name}": name in chosen for name in self.columns}
        return {name: made[name] for name in self.categories()}

    def ranked(self, source: Sampling, count: int, size: tuple[int, int]) -> Representation:
        """The most telling columns."""
        return self._made(source, set(self.rankings[source][:count]), size)

    def drawn(self, rng: np.random.Generator) -> Representation:
        """One at random."""
        return self.decode({
            name: values[int(rng.integers(len(values)))] for name, values in self.categories().items()
        })  # fmt: skip

    def seeds(self, count: int) -> list[Representation]:
        """Where a search begins: whole parts together and alone, and the most telling columns of each source."""
        parts, main, large = list(self.parts.values()), self._main(), SIZES[-1]
        chosen = [parts, *([part] for part in parts), *([one for one in parts if one is not part] for part in parts)]
        whole = [self._made(main, {name for part in some for name in part}, large) for some in chosen if some]
        counts = [one for one in (40, 20, 10, 5) if one < len(self.columns)]
        ranked = (
            [self.ranked(source, one, large) for one in counts for source in (main, *self.sources)]
            if self.single_columns
            else [self._made(source, set(self.columns), large) for source in self.sources]
        )
        mixed = [one for pair in itertools.zip_longest(whole, ranked) for one in pair if one is not None]
        return list(dict.fromkeys(mixed))[:count]

    def _main(self) -> Sampling:
        """The one nearest to ten seconds with all packets."""
        return min(self.sources, key=lambda one: (one.first_packets is not None, abs(one.interval_s - 10)))

    def _made(self, source: Sampling, columns: set[str], size: tuple[int, int]) -> Representation:
        made = Representation(source, tuple(name for name in self.columns if name in columns), *size)
        if made.told_all_along:
            return made
        return self._made(source, columns | set(self.rankings[source][:1]), size)
