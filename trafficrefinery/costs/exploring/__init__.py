"""Which representation is worth its cost: model performance and measured systems cost, of many representations."""

from .options import Options
from .pipeline import Explored, explore

__all__ = ["Explored", "Options", "explore"]
