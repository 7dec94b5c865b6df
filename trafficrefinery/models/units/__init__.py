"""Rows of flows and of clients for models, interval by interval, from records."""

from .clients import ClientView
from .flows import FlowView

__all__ = ["ClientView", "FlowView"]
