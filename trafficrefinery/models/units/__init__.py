"""Rows of flows and of clients for models, interval by interval, from records."""

from .client_view import ClientView
from .flow_view import FlowView

__all__ = ["ClientView", "FlowView"]
