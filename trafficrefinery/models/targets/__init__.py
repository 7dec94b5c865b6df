"""What models answer: targets as data, the two built-in ones and those that a user defines."""

from .built_in import BUILT_IN, RESOLUTION, STARTUP
from .target import CLASSES, ORDINAL, QUANTITY, Target
from .units import UNITS, Unit, When

__all__ = ["BUILT_IN", "CLASSES", "ORDINAL", "QUANTITY", "RESOLUTION", "STARTUP", "UNITS", "Target", "Unit", "When"]
