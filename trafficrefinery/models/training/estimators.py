"""The models that are tried, and how one is fitted."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from threadpoolctl import threadpool_limits

from trafficrefinery.models.inference.forest import Forest
from trafficrefinery.models.targets import Target
from trafficrefinery.records.inferences import QUANTILES

from .flatten import flatten_boosted, flatten_forest, side_by_side


class Problem(NamedTuple):
    """What is to be learnt: features, and numbers of labels (int64) or quantities (float64).

    Args:
        sized: bool (columns), those that grow with the size of the content.
        groups: rows with the same number are never on both sides of a split.
        sessions: of each row.
    """

    x: NDArray[np.float32]
    y: NDArray[Any]
    sized: NDArray[np.bool_]
    groups: NDArray[np.int64]
    sessions: NDArray[np.int64]
    seed: int

    @property
    def classes(self) -> NDArray[np.int64]:
        """The numbers of labels, ascending; none of a quantity."""
        return np.unique(self.y) if self.y.dtype.kind == "i" else np.array([], np.int64)

    def take(self, rows: NDArray[np.intp]) -> Problem:
        """Some of its rows."""
        return self._replace(x=self.x[rows], y=self.y[rows], groups=self.groups[rows], sessions=self.sessions[rows])

    def varied(self, spread: float) -> Problem:
        """With copies of each session, as if its content took a little more or less for the same label.

        What a resolution takes differs from video to video more than a few dozen videos show: forests that see each
        session at one bitrate only learn bitrates of videos by heart. Factors are log-normal with this deviation.
        """
        if not spread:
            return self
        rng = np.random.default_rng(self.seed)
        names, number = np.unique(self.sessions, return_inverse=True)
        parts = [self.x]
        copies = int(np.clip(_MOST_VARIED // len(self.y), 1, _COPIES))
        for _ in range(copies):
            factors = np.exp(rng.normal(0.0, spread, len(names))).astype(np.float32)[number, None]
            parts.append(np.where(self.sized, self.x * factors, self.x))
        again = np.tile(np.arange(len(self.y)), copies + 1)
        return self.take(again)._replace(x=np.concatenate(parts))


_COPIES, _MOST_VARIED = 3, 200_000  # rows in all copies; many rows differ enough by themselves
_MOST_DRAWN = 10_000
_CHECKED_ROWS = 5_000


class Candidate(NamedTuple):
    """A kind of model, `forest` or `boosted`, with its hyper-parameters as scikit-learn names them.

    Args:
        spread: see `Problem.varied`.
    """

    kind: str
    parameters: tuple[tuple[str, Any], ...]
    spread: float = 0.0

    def of(self, target: Target) -> Candidate:
        """As it is tried for a target."""
        return self if target.sizes_vary else self._replace(spread=0.0)

    def drawn(self, rows: int) -> float | int | None:
        """The rows, or their share, that each tree of a forest sees: some thousand at most unless it says a number."""
        share = dict(self.parameters).get("max_samples", 1.0)
        if not isinstance(share, float) or share * rows <= _MOST_DRAWN:
            return dict(self.parameters).get("max_samples")
        return _MOST_DRAWN

    @property
    def link(self) -> str:
        """What the sums of its leaves are, see `Calibration`."""
        return "shares" if self.kind == "forest" else "logits"

    def __str__(self) -> str:
        given = ", ".join(f"{name} {value}" for name, value in self.parameters)
        return f"{'random forest' if self.kind == 'forest' else 'gradient boosting'} ({given}, spread {self.spread})"


def _candidate(kind: str, spread: float = 0.0, **parameters: Any) -> Candidate:
    return Candidate(kind, tuple(parameters.items()), spread)


FORESTS = tuple(
    _candidate(
        "forest", spread, n_estimators=60, max_depth=14, min_samples_leaf=leaf, max_features=0.3, max_samples=0.4
    )
    for spread, leaf in ((0.2, 10), (0.3, 20))
)
BOOSTED = tuple(
    _candidate("boosted", spread, max_iter=100, learning_rate=0.05, max_leaf_nodes=8, min_samples_leaf=50,
               l2_regularization=5.0)
    for spread in (0.2, 0.1)
)  # fmt: skip
REGRESSIONS = (
    _candidate("forest", n_estimators=100, max_depth=8, min_samples_leaf=3, max_features=0.4),
    _candidate("forest", n_estimators=100, max_depth=8, min_samples_leaf=8, max_features=0.4),
    _candidate("boosted", max_iter=80, learning_rate=0.06, max_leaf_nodes=6, min_samples_leaf=10),
)


class Fitted(NamedTuple):
    """A fitted model; `classes` are the numbers of the labels of its outputs."""

    forest: Forest
    classes: NDArray[np.int64]


def fit_classes(candidate: Candidate, problem: Problem, threads: int = 1) -> Fitted:
    """Fit a classifier; what a label weighs in all is the root of its share of the rows."""
    parameters = dict(candidate.parameters)
    x, y, seed = (varied := problem.varied(candidate.spread)).x, varied.y, problem.seed
    counts = dict(zip(*np.unique(y, return_counts=True), strict=True))
    weights = np.array([counts[one] for one in y.tolist()], np.float64) ** -0.5
    weights /= weights.mean()
    if candidate.kind == "forest":
        parameters["max_samples"] = candidate.drawn(len(x))
        model: Any = RandomForestClassifier(**parameters, random_state=seed, n_jobs=threads).fit(x, y, weights)
        forest = flatten_forest(model)
    else:
        model = HistGradientBoostingClassifier(**parameters, early_stopping=False, random_state=seed)
        with threadpool_limits(threads):
            model.fit(x, y, weights)
        forest = flatten_boosted(model)
    some = x[:: max(len(x) // _CHECKED_ROWS, 1)]
    _check_same(model.predict_proba(some), forest, some, candidate)
    return Fitted(forest, model.classes_)


def fit_quantity(candidate: Candidate, problem: Problem, threads: int = 1) -> Fitted:
    """Fit a regression: its three outputs are quantiles of gradient boosting, or thrice the forest's mean."""
    parameters = dict(candidate.parameters)
    x, y, seed = problem.x, problem.y, problem.seed
    if candidate.kind == "forest":
        parameters["max_samples"] = candidate.drawn(len(x))
        model = RandomForestRegressor(**parameters, criterion="absolute_error", random_state=seed, n_jobs=threads).fit(
            x, y
        )
        forests = [flatten_forest(model)] * len(QUANTILES)
    else:
        with threadpool_limits(threads):
            forests = [
                flatten_boosted(
                    HistGradientBoostingRegressor(
                        **parameters, loss="quantile", quantile=quantile, early_stopping=False, random_state=seed
                    ).fit(x, y)
                )
                for quantile in QUANTILES
            ]
    return Fitted(side_by_side(forests), np.array([], np.int64))


def _check_same(expected: NDArray[np.float64], forest: Forest, x: NDArray[np.float32], candidate: Candidate) -> None:
    """What was flattened gives what the library gives."""
    made = forest.sums(x)
    if candidate.kind == "boosted":
        made = np.exp(made - made.max(axis=1, keepdims=True))
        made /= made.sum(axis=1, keepdims=True)
    if not np.allclose(made, expected, atol=1e-4):
        worst = float(np.abs(made - expected).max())
        raise RuntimeError(f"{candidate}: the flat trees differ from scikit-learn's by {worst:g}; report this")
