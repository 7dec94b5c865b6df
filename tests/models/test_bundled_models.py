"""The models that come with the package."""

from __future__ import annotations

import json

import pytest

from trafficrefinery.config import load_config
from trafficrefinery.config.paths import configs_dir, models_dir
from trafficrefinery.engine.plan import Plan
from trafficrefinery.models.inference import check, load_bundle

NAMES = ("lab", "lab-startup", "youtube")


def test_these_models_come_with_the_package():
    assert sorted(path.name for path in models_dir().iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_model_loads_and_fits_the_configuration_for_video(name):
    bundle = load_bundle(models_dir() / name)
    assert bundle.name == name
    check(bundle, Plan.of(load_config(configs_dir() / "video.json")))


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_model_says_what_it_was_made_from_and_how_good_it_is(name):
    metrics = json.loads((models_dir() / name / "metrics.json").read_text())
    assert metrics.keys() >= {"model", "group"}
    card = (models_dir() / name / "card.md").read_text()
    for part in (
        "An example of the method",
        "a rule on",
        "left out of the training",
        "95 %, by video_id",
        "Made from",
        "Figures, out of fold, no video_id in two folds",
        "Limits",
    ):
        assert part in card
