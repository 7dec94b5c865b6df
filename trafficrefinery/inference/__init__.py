"""Models at work: bundles that hold data only, and what they tell of the sessions of an interval."""

from .bundle import Bundle, BundleError, bundled_models, check, find_bundle, load_bundle
from .predictor import INFERENCE_SCHEMA, Predictor, feature_matrix, inference_lines

__all__ = [
    "INFERENCE_SCHEMA",
    "Bundle",
    "BundleError",
    "Predictor",
    "bundled_models",
    "check",
    "feature_matrix",
    "find_bundle",
    "inference_lines",
    "load_bundle",
]
