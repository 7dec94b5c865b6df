"""Which representation is worth its cost: model performance and measured systems cost, of many representations."""

from .explore import Explored, explore
from .options import Options

__all__ = ["Explored", "Options", "explore"]
