"""Models at work: bundles that hold data only, and what they tell of the sessions of an interval."""

from .bundle import Bundle, BundleError, check, load_bundle
from .predictor import Predictor, feature_matrix

__all__ = [
    "Bundle",
    "BundleError",
    "Predictor",
    "check",
    "feature_matrix",
    "load_bundle",
]
