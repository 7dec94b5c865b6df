"""One listener for metrics and queries. A client that is slow, or says nothing, holds up nobody else.

The server buffers requests and responses outside its few threads; connections are bounded in number and in age. When
all are taken, a new one gets the place of the oldest that has not yet sent a whole request.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer
from waitress.task import WSGITask

from trafficrefinery.config.daemon import split_listen
from trafficrefinery.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

THREADS = 4
CONNECTIONS = 512
"""At most; far below the limit of 1,024 open files that a shell sets, and little to poll."""
MAX_AGE_S = 10
"""A connection carries one request; what is not done with it by then is given up."""
_ACCEPTED_AT_ONCE = 128
_BACKLOG = 4096
"""Connections that the kernel keeps until they are accepted; it allows net.core.somaxconn, 4,096 by default."""
_NO_LIMIT = 1 << 40
_REASONS = {
    errno.EADDRINUSE: "another program listens there; choose another port",
    errno.EADDRNOTAVAIL: "this machine has no such address; choose one of `ip address`, or 127.0.0.1",
    errno.EACCES: "ports below 1024 need CAP_NET_BIND_SERVICE; choose a port from 1024 on",
}


def bind(listen: str, file: str = "") -> socket.socket:
    """Take the address and port, so that it is known at start-up whether they can be had; connections wait until then.

    Raises:
        ConfigError: they cannot be had; `file` is that of the configuration.
    """
    host, port = split_listen(listen)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(_BACKLOG)  # without it, another program could take the port as well
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise ConfigError(file, "Metrics.Listen", f"{listen}: {_reason(error)}") from error
    return listening


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return 'no machine has this name; write an address, such as "127.0.0.1:9464"'
    return _REASONS.get(error.errno or 0, os.strerror(error.errno or 0))


class _Task(WSGITask):  # type: ignore[misc]  # waitress carries no types
    """One request of a connection, after which it ends.

    Otherwise a client could send hundreds of requests at once and read none of the responses, which would pile up.
    """

    def build_response_header(self) -> bytes:
        self.set_close_on_finish()
        header: bytes = super().build_response_header()
        return header


class _Channel(HTTPChannel):  # type: ignore[misc]
    task_class = _Task

    def received(self, data: bytes) -> bool:
        """Read one request; what comes behind it is not even looked at."""
        with self.requests_lock:
            while data and not (self.requests or self.will_close or self.close_when_flushed):
                request: Any = self.request or self.parser_class(self.adj)
                self.request: Any = request
                data = data[request.received(data) :]
                if not request.completed:
                    break
                self.request = None
                if not request.empty:
                    self.requests.append(request)
                    self.server.add_task(self)
        return True


class _Server(TcpWSGIServer):  # type: ignore[misc]
    channel_class = _Channel

    def handle_accept(self) -> None:
        """Accept all that wait, where the base accepts one for each look at every connection."""
        for _ in range(_ACCEPTED_AT_ONCE):
            before = len(self.active_channels)
            if before >= CONNECTIONS:
                self._give_up_one()
                before -= 1
            super().handle_accept()
            if len(self.active_channels) <= before:
                return

    def _give_up_one(self) -> None:
        """The oldest connection without a whole request; if all have one, the oldest."""
        channels = list(self.active_channels.values())  # in the order in which they came
        silent = (one for one in channels if not one.requests and not one.total_outbufs_len)
        next(silent, channels[0]).handle_close()

    def maintenance(self, now: float) -> None:
        """Every second: give up connections by age, where the base looks at their last sign of life."""
        for channel in self.active_channels.values():
            if channel.creation_time < now - MAX_AGE_S:
                channel.will_close = True


class Listener:
    """Answers requests until it is closed.

    Attributes:
        port: that it listens on.
    """

    def __init__(self, listening: socket.socket, app: WSGIApplication) -> None:
        self.port: int = listening.getsockname()[1]
        for name in ("waitress", "waitress.queue"):  # what a client does is not worth a line in the log
            logging.getLogger(name).setLevel(logging.ERROR)
        settings = Adjustments(
            sockets=[listening],
            threads=THREADS,
            connection_limit=_NO_LIMIT,  # where the base would stop to accept
            backlog=_BACKLOG,
            cleanup_interval=1,
            max_request_header_size=1 << 14,
            max_request_body_size=1 << 14,
            outbuf_overflow=_NO_LIMIT,  # responses are bounded, and stay in memory
            outbuf_high_watermark=_NO_LIMIT,  # so that no thread waits for a client
            asyncore_use_poll=True,
            log_socket_errors=False,
            ident=None,
        )
        self._channels: dict[int, Any] = {}  # the server's own objects
        self._server = _Server(
            app,
            self._channels,
            _sock=listening,
            bind_socket=False,
            adj=settings,
            sockinfo=(listening.family, listening.type, listening.proto, listening.getsockname()),
        )
        self._thread = threading.Thread(target=self._server.run, name="listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End at once; the port is free. Once more does nothing."""
        if not self._thread.is_alive():
            return
        self._server.trigger.pull_trigger(lambda: wasyncore.close_all(self._channels))
        self._thread.join()
        self._server.task_dispatcher.shutdown()


def serve(listening: socket.socket, app: WSGIApplication) -> Listener:
    """Answer on a socket of `bind`, in threads of this process."""
    return Listener(listening, app)
