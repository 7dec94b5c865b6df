"""Training of small models, so that it takes no time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from trafficrefinery.models.training import pipeline as training
from trafficrefinery.models.training.estimators import Candidate

SMALL = Candidate("forest", (("n_estimators", 8), ("max_depth", 6), ("min_samples_leaf", 3)))


@contextmanager
def small_models(candidate: Candidate = SMALL) -> Iterator[None]:
    """Of labels and of quantities, nothing but this candidate is tried."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(training.MODELS, "forest", (candidate,))
        patch.setattr(training, "REGRESSIONS", (candidate,))
        yield
