"""Training and evaluation of the models that tell resolutions and startup delays from session features."""

from .pipeline import Options, Trained, train

__all__ = ["Options", "Trained", "train"]
