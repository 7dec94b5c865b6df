"""Training and evaluation of models that answer a target from session features."""

from .pipeline import Trained, TrainOptions, train

__all__ = ["TrainOptions", "Trained", "train"]
