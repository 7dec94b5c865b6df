"""Models at work: bundles that hold data only, and what they tell of the sessions of an interval."""

from .bundle import Bundle, BundleError, check, load_bundle
from .predictor import INFERENCE_SCHEMA, Predictor, feature_matrix, inference_lines

__all__ = [
    "INFERENCE_SCHEMA",
    "Bundle",
    "BundleError",
    "Predictor",
    "check",
    "feature_matrix",
    "inference_lines",
    "load_bundle",
]
