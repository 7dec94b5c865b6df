"""The WSGI application: `/metrics`, `/healthz`, `/readyz`, and JSON under `/api/v1/`."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from threading import BoundedSemaphore, Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import orjson
from prometheus_client import make_wsgi_app
from prometheus_client.exposition import choose_encoder, gzip_accepted

from trafficrefinery.config.text import quoted
from trafficrefinery.daemon.metrics import Running, not_ready, registry_of
from trafficrefinery.errors import did_you_mean
from trafficrefinery.jit.lazy import Late
from trafficrefinery.records.inferences import inference_items

from . import flows
from .hosts import is_own_host
from .latest import Latest

if TYPE_CHECKING:
    import pyarrow as pa
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from trafficrefinery.engine.plan import Plan
else:
    pa = Late("pyarrow")

DEFAULT_LIMIT, MAX_LIMIT = 100, 1000
QUERIES_AT_ONCE = 2
"""Of the listener's THREADS; the others answer scrapes."""
SHARED_S = 0.1
"""Scrapes that are so close together get the same answer: a client that asks for many costs no more than one."""
_PAGE = ("limit", "offset")
_API = "/api/v1/"
_JSON = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
Body = dict[str, Any]  # a JSON object
Parameters = dict[str, str]
Headers = list[tuple[str, str]]
Answer = tuple[str, Headers, bytes]


class _RefusedError(Exception):
    """A request that gets an error."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


def _bad(message: str) -> _RefusedError:
    return _RefusedError("400 Bad Request", message)


def _not_found(message: str) -> _RefusedError:
    return _RefusedError("404 Not Found", message)


def query_app(
    running: Callable[[], Running],
    latest: Latest,
    interface_drops: Callable[[], Mapping[str, Mapping[str, int]]] = dict,
    inferred: Latest | None = None,
) -> WSGIApplication:
    """The application of a daemon; see `metrics.registry_of` for the arguments.

    Args:
        inferred: inference records of the last interval.
    """
    return _QueryApp(running, latest, inferred or Latest(), make_wsgi_app(registry_of(running, interface_drops)))


class _QueryApp:
    def __init__(
        self, running: Callable[[], Running], latest: Latest, inferred: Latest, metrics: WSGIApplication
    ) -> None:
        self._running, self._latest, self._inferred, self._metrics = running, latest, inferred, metrics
        self._queries = BoundedSemaphore(QUERIES_AT_ONCE)
        self._scraping = Lock()
        self._scraped: dict[tuple[str, bool], tuple[float, Answer]] = {}  # by format: when, and what
        self._routes: dict[str, tuple[Callable[[Parameters], Body], tuple[str, ...]]] = {
            "/": (self._index, ()),
            "/healthz": (lambda _: {"status": "ok"}, ()),
            "/readyz": (self._readyz, ()),
            f"{_API}services": (self._services, _PAGE),
            f"{_API}flows": (self._flows, ("service", "client", "server", *_PAGE)),
            f"{_API}inferences": (self._inferences, ("service", "client", *_PAGE)),
            f"{_API}devices": (self._devices, _PAGE),
            f"{_API}intervals": (self._intervals, _PAGE),
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        status, headers, body = self._response(environ)
        start_response(status, [*headers, ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _response(self, environ: WSGIEnvironment) -> Answer:
        path = environ.get("PATH_INFO", "").encode("latin-1").decode(errors="replace")
        status, headers = "200 OK", list(_JSON)
        try:
            if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
                headers.append(("Allow", "GET, HEAD"))
                raise _RefusedError("405 Method Not Allowed", "only GET and HEAD")
            if path == "/metrics":
                return self._scrape(environ)
            if path.startswith(_API):
                self._check_host(environ)
                body = self._query(path, environ.get("QUERY_STRING", ""))
            else:
                body = self._answer(path, environ.get("QUERY_STRING", ""))
            if path == "/readyz" and body["reasons"]:
                status = "503 Service Unavailable"
        except _RefusedError as error:
            status, body = error.status, {"error": str(error)}
        return status, headers, orjson.dumps(body, option=orjson.OPT_APPEND_NEWLINE)

    def _check_host(self, environ: WSGIEnvironment) -> None:
        """What a page in a browser asks for under its own name must show no addresses (DNS rebinding)."""
        host = environ.get("HTTP_HOST")
        if host is None and environ.get("SERVER_PROTOCOL") == "HTTP/1.1":
            raise _bad("the request has no Host")  # RFC 9112 section 3.2; browsers always send one
        if host is not None and not is_own_host(host, self._running().plan.config.metrics):
            raise _RefusedError(
                "403 Forbidden",
                f"Host {quoted(host)} is neither an address of this machine nor a name in Metrics.HostNames; "
                "ask by address, or add the name",
            )

    def _scrape(self, environ: WSGIEnvironment) -> Answer:
        if environ.get("QUERY_STRING"):  # some metrics only
            with self._turn():
                return _called(self._metrics, environ)
        _, form = choose_encoder(environ.get("HTTP_ACCEPT", ""))
        key = form, gzip_accepted(environ.get("HTTP_ACCEPT_ENCODING", ""))
        with self._scraping:
            made_s, answer = self._scraped.get(key, (0.0, None))
            if answer is None or time.monotonic() - made_s > SHARED_S:
                answer = _called(self._metrics, environ)
                self._scraped[key] = time.monotonic(), answer
        return answer

    def _query(self, path: str, query: str) -> Body:
        with self._turn():
            return self._answer(path, query)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Scrapes do not wait for queries, which take longer: some threads are left to them."""
        if not self._queries.acquire(blocking=False):
            raise _RefusedError("503 Service Unavailable", "too many queries at once; ask again")
        try:
            yield
        finally:
            self._queries.release()

    def _answer(self, path: str, query: str) -> Body:
        device = path.removeprefix(f"{_API}devices/")
        if device != path:
            return self._device(device, _parameters(query, _PAGE))
        if path not in self._routes:
            raise _not_found(f"no {quoted(path)}{did_you_mean(path, self._routes)}")
        handler, allowed = self._routes[path]
        return handler(_parameters(query, allowed))

    def _index(self, _: Parameters) -> Body:
        return {"paths": ["/metrics", *(path for path in self._routes if path != "/"), f"{_API}devices/{{ip}}"]}

    def _readyz(self, _: Parameters) -> Body:
        board, plan = self._running()
        reasons = not_ready(board, plan.config.daemon.hang_timeout_ns, time.monotonic_ns())
        return {"status": "not ready" if reasons else "ready", "reasons": reasons}

    def _services(self, parameters: Parameters) -> Body:
        board, plan = self._running()
        packets, octets = (board.workers[f"service_{unit}"].sum(axis=0).tolist() for unit in ("packets", "bytes"))
        items = [
            {
                "service": service.name,
                "interval_s": service.interval_ns / 1e9,
                "collect": [cls.__name__ for cls in plan.profiles[plan.service_profile[number]].classes],
                "packets_total": packets[number],
                "bytes_total": octets[number],
                "flows_active": int(board.services["flows_active"][number]),
                "bits_per_s": float(board.services["bits_per_s"][number]),
                "records_total": int(board.services["records_total"][number]),
                "names": int(board.services["names"][number]),
            }
            for number, service in enumerate(plan.config.services)
        ]
        return _page(items, parameters)

    def _wanted(self, parameters: Parameters, plan: Plan) -> dict[str, str]:
        wanted = {}
        if "service" in parameters:
            wanted["service"] = name = parameters["service"]
            known = [service.name for service in plan.config.services]
            if name not in known:
                raise _bad(f"service: no service {quoted(name)} in the configuration{did_you_mean(name, known)}")
        for side in ("client", "server"):
            if side in parameters:
                wanted[f"{side}_ip"] = _address(parameters[side], side)
        return wanted

    def _flows(self, parameters: Parameters) -> Body:
        plan, table = self._running().plan, self._latest.interval.table
        return _flow_page(table, flows.matching(table, self._wanted(parameters, plan)), plan, parameters)

    def _inferences(self, parameters: Parameters) -> Body:
        table = self._inferred.interval.table
        rows = flows.matching(table, self._wanted(parameters, self._running().plan))
        offset, limit = _bounds(parameters)
        items = inference_items(table.take(rows.slice(offset, limit)))
        return {"total": len(rows), "limit": limit, "offset": offset, "items": items}

    def _devices(self, parameters: Parameters) -> Body:
        return _page(flows.devices(self._latest.interval.table), parameters)

    def _device(self, text: str, parameters: Parameters) -> Body:
        device = _address(text, "device")
        table = self._latest.interval.table
        rows = flows.matching(table, {"client_ip": device})
        if not len(rows):
            raise _not_found(f"{device} has no flow of a service in the last closed interval")
        page = _flow_page(table, rows, self._running().plan, parameters)
        return {"client_ip": device, "services": flows.services_of(table, rows), **page}

    def _intervals(self, parameters: Parameters) -> Body:
        return _page(self._latest.interval.summaries, parameters)


def _called(app: WSGIApplication, environ: WSGIEnvironment) -> Answer:
    """What another application answers to a GET."""
    told: list[tuple[str, Headers]] = []

    def start_response(status: str, headers: Headers, _: object = None) -> Callable[[bytes], object]:
        told.append((status, headers))
        return lambda _: None

    body = b"".join(app({**environ, "REQUEST_METHOD": "GET"}, start_response))
    status, headers = told[0]
    return status, [header for header in headers if header[0].lower() != "content-length"], body


def _parameters(query: str, allowed: tuple[str, ...]) -> Parameters:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="replace", max_num_fields=20)
    except ValueError:
        raise _bad("too many parameters") from None
    parameters = dict(pairs)
    for name in parameters:
        if name not in allowed:
            takes = f"takes {', '.join(allowed)}" if allowed else "takes none"
            raise _bad(f"no parameter {quoted(name)}; this {takes}")
    if len(pairs) > len(parameters):
        raise _bad("a parameter stands twice")
    return parameters


def _bounds(parameters: Parameters) -> tuple[int, int]:
    """Offset and limit."""
    found = []
    for name, default, least, most in (("offset", 0, 0, 10**9), ("limit", DEFAULT_LIMIT, 1, MAX_LIMIT)):
        text = parameters.get(name, str(default))
        if not re.fullmatch("[0-9]{1,10}", text) or not least <= int(text) <= most:
            raise _bad(f"{name}: {quoted(text)} is not a whole number from {least} to {most:,}")
        found.append(int(text))
    return found[0], found[1]


def _address(text: str, name: str) -> str:
    found = flows.address(text)
    if found is None:
        raise _bad(f"{name}: {quoted(text)} is not an IPv4 or IPv6 address")
    return found


def _page(items: list[Body], parameters: Parameters) -> Body:
    offset, limit = _bounds(parameters)
    return {"total": len(items), "limit": limit, "offset": offset, "items": items[offset : offset + limit]}


def _flow_page(table: pa.Table, rows: pa.Array, plan: Plan, parameters: Parameters) -> Body:
    offset, limit = _bounds(parameters)
    items = flows.records_of(table.take(rows.slice(offset, limit)), plan)
    return {"total": len(rows), "limit": limit, "offset": offset, "items": items}
