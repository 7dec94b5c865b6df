"""Training and evaluation of the models that tell resolutions and startup delays from session features."""

from .pipeline import Trained, TrainOptions, train

__all__ = ["TrainOptions", "Trained", "train"]
