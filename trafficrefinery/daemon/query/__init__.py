"""What a running daemon answers over HTTP: metrics, health, and the flows of the last closed interval."""

from .app import query_app
from .latest import Latest, interval_channel, publish
from .listener import Listener, bind, serve, start_listener

__all__ = ["Latest", "Listener", "bind", "interval_channel", "publish", "query_app", "serve", "start_listener"]
