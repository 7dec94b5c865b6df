"""Which representation is worth its cost: model performance and measured systems cost, of many representations."""

from .options import ExploreOptions
from .pipeline import Explored, explore

__all__ = ["ExploreOptions", "Explored", "explore"]
