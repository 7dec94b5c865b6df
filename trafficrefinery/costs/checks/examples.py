"""The doctests of a feature class: examples that its documentation shows."""

from __future__ import annotations

import doctest
from typing import Any

from trafficrefinery import api
from trafficrefinery.api import FeatureClass
from trafficrefinery.api.testing import feed, packet
from trafficrefinery.errors import FeatureError


def run_examples(cls: type[FeatureClass]) -> int:
    """Run the doctests of a class, with `feed`, `packet` and all of `api` in scope; returns how many there are.

    Raises:
        FeatureError: one shows something else; FILE:LINE, what it should and what it does show.
    """
    scope: dict[str, Any] = {name: getattr(api, name) for name in api.__all__}
    scope |= {"feed": feed, "packet": packet, cls.__name__: cls}
    file = cls.add_packet.__code__.co_filename
    count = 0
    for test in doctest.DocTestFinder(recurse=False).find(cls, cls.__name__, globs=scope):
        runner = doctest.DebugRunner(verbose=False)
        try:
            runner.run(test, out=lambda _: None)
        except doctest.DocTestFailure as failure:
            shown, wanted = (" ".join(text.split()) for text in (failure.got, failure.example.want))
            raise FeatureError(
                _where(file, failure), f"{_source(failure)}: shows {shown}, should be {wanted}"
            ) from None
        except doctest.UnexpectedException as failure:
            kind, error, _ = failure.exc_info
            raise FeatureError(_where(file, failure), f"{_source(failure)}: {kind.__name__}: {error}") from error
        count += len(test.examples)
    return count


def _where(file: str, failure: doctest.DocTestFailure | doctest.UnexpectedException) -> str:
    return f"{file}:{(failure.test.lineno or 0) + failure.example.lineno + 1}"


def _source(failure: doctest.DocTestFailure | doctest.UnexpectedException) -> str:
    return " ".join(failure.example.source.split())
