"""Models at work: bundles that hold data only, and what they tell of the sessions of an interval."""

from .bundle import Bundle, BundleError, load_bundle
from .predictor import Predictor, feature_matrix
from .requirements import check, check_table

__all__ = [
    "Bundle",
    "BundleError",
    "Predictor",
    "check",
    "check_table",
    "feature_matrix",
    "load_bundle",
]
