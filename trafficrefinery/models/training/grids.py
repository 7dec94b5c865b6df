"""A user's own hyper-parameters to choose from."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

from trafficrefinery.errors import UsageError, did_you_mean
from trafficrefinery.system.files import read_json

from .estimators import BOOSTED, FORESTS, Candidate

_MOST = 200
_KINDS: Mapping[str, tuple[Any, Candidate]] = {
    "forest": (RandomForestClassifier, FORESTS[0]), "boosted": (HistGradientBoostingClassifier, BOOSTED[0]),
}  # fmt: skip
_OURS = frozenset({
    "random_state", "n_jobs", "verbose", "warm_start", "bootstrap", "oob_score", "criterion", "class_weight",
    "monotonic_cst", "early_stopping", "loss", "categorical_features", "interaction_cst",
})  # fmt: skip
"""What training sets itself, or what trees as arrays cannot keep."""

Grid = tuple[str, Sequence[Mapping[str, Sequence[Any]]]]
"""Where it comes from, and the values of each hyper-parameter."""


def grid_in(file: Path | None, given: Sequence[str]) -> Grid:
    """What `--grid` and `--param` of `train` say.

    Raises:
        UsageError: the file cannot be read, or both are given.
    """
    if file is None:
        return "--param", [_parameters(given)]
    if given:
        raise UsageError("--grid: --param is given as well; write its values into the file")
    try:
        content = read_json(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"--grid: {file}: cannot be read: {error}") from error
    grids = content if isinstance(content, list) else [content]
    for grid in grids:
        if not isinstance(grid, dict) or not all(isinstance(values, list) and values for values in grid.values()):
            raise UsageError(f'--grid: {file}: is not of the form {{"max_depth": [8, 14], ...}}, or a list of these')
    return f"--grid: {file}", grids


def _parameters(given: Sequence[str]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for one in given:
        name, equals, values = one.partition("=")
        if not equals or not values:
            raise UsageError(f'--param: "{one}" is not of the form max_depth=8,14')
        if name in found:
            raise UsageError(f"--param: {name} is given twice; write {name}=VALUE,VALUE")
        found[name] = [_value(text.strip()) for text in values.split(",")]
    return found


def _value(text: str) -> Any:
    """A number, true, false or null as JSON has them, else text."""
    try:
        return json.loads(text)
    except ValueError:
        return None if text == "None" else text


def grid_of(grid: Grid, model: str) -> tuple[Candidate, ...]:
    """All combinations, for each kind of model; what is not named is as it is without a grid.

    Args:
        model: `forest`, `boosted`, or `best` for whichever of them has the parameters.

    Raises:
        UsageError: there is no such parameter, it cannot have that value, or there are too many combinations.
    """
    where, parts = grid
    found: list[Candidate] = []
    for values in parts:
        kinds = [kind for kind in _KINDS if model in (kind, "best")]
        fitting = [kind for kind in kinds if all(name in _known(kind) for name in values)]
        if not fitting:
            known = sorted(set().union(*map(_known, kinds)))
            wrong = next((name for name in values if name not in known), None)
            if wrong is None:
                raise UsageError(f"{where}: no kind of model has all of {', '.join(values)}; write a grid for each")
            raise UsageError(
                f'{where}: no parameter "{wrong}"{did_you_mean(wrong, known)}; there are {", ".join(known)}'
            )
        for kind, combination in itertools.product(fitting, itertools.product(*values.values())):
            found.append(_candidate(where, kind, dict(zip(values, combination, strict=True))))
            if len(found) > _MOST:
                raise UsageError(f"{where}: has more than {_MOST} combinations; take fewer values")
    return tuple(dict.fromkeys(found))


def _known(kind: str) -> set[str]:
    return {"spread", *_KINDS[kind][0]().get_params()} - _OURS


def _candidate(where: str, kind: str, chosen: dict[str, Any]) -> Candidate:
    made, usual = _KINDS[kind]
    spread = chosen.pop("spread", usual.spread)
    if not isinstance(spread, int | float) or isinstance(spread, bool) or not 0 <= spread <= 2:
        raise UsageError(f"{where}: spread: {spread!r} is not a number between 0 and 2")
    parameters = {**dict(usual.parameters), **chosen}
    try:
        made(**parameters)._validate_params()  # noqa: SLF001 (else a fit has to fail first)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{where}: {error}") from error
    return Candidate(kind, tuple(parameters.items()), float(spread))
