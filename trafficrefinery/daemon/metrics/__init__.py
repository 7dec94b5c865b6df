"""What the daemon measures of itself, for Prometheus."""

from .collector import registry_of
from .health import not_ready
from .page import exposed_name, metrics_page
from .reading import Running
from .table import COUNTED, METRICS

__all__ = ["COUNTED", "METRICS", "Running", "exposed_name", "metrics_page", "not_ready", "registry_of"]
