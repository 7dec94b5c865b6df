"""The query interface: what it answers, to whom, and that nobody can hold it up."""

from __future__ import annotations

import contextlib
import gc
import http.client
import json
import resource
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote, urlencode

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support import boards
from support.monitoring_tools import required
from trafficrefinery.daemon.query import listener
from trafficrefinery.daemon.query.app import QUERIES_AT_ONCE, query_app
from trafficrefinery.daemon.query.latest import Latest, interval_channel, publish
from trafficrefinery.daemon.query.listener import bind, serve
from trafficrefinery.daemon.status import STARTING
from trafficrefinery.engine.partition import COUNTERS
from trafficrefinery.errors import UsageError
from trafficrefinery.records.schema import SCHEMA

FLOWS = 250
PLAN = boards.plan()


def latest_of(table, summaries=()):
    sending, receiving = interval_channel()
    latest = Latest()
    with sending, receiving:
        assert publish(sending, table, list(summaries))
        assert latest.receive(receiving)
    return latest


@pytest.fixture(scope="module")
def app():
    running = boards.running(PLAN)
    return query_app(lambda: running, latest_of(boards.flow_table(PLAN, FLOWS), [boards.summary()]))


@pytest.fixture(scope="module")
def url(app):
    server = serve(bind("127.0.0.1:0"), app)
    yield f"http://127.0.0.1:{server.port}"
    server.close()


def call(app, path, query="", method="GET", **more):
    told = {}

    def start_response(status, headers):
        told.update(status=int(status.split()[0]), headers=dict(headers))

    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query, **more}
    return b"".join(app(environ, start_response)), told


def ask(app, path, status=200, **parameters):
    body, told = call(app, path, urlencode(parameters))
    assert told["status"] == status, body
    assert told["headers"]["Content-Type"] == "application/json"
    assert told["headers"]["Cache-Control"] == "no-store"
    return json.loads(body)


# What it answers


def test_flows_are_the_records_of_the_last_interval(app):
    page = ask(app, "/api/v1/flows", limit=2, offset=1)
    assert (page["total"], page["limit"], page["offset"]) == (FLOWS, 2, 1)
    first, second = page["items"]
    assert first["service"] == boards.SERVICES[1]
    assert list(first["features"]) == ["PacketCounters", "TCPCounters"]
    assert list(second["features"]) == ["PacketCounters"]
    assert second["features"]["PacketCounters"]["packets_up"] == 2
    assert {name: first[name] for name in ("schema", "kind", "client_ip", "client_port", "flow_id", "ts_end")} == {
        "schema": SCHEMA, "kind": "flow", "client_ip": "10.0.0.1", "client_port": 1, "flow_id": f"{1:016x}",
        "ts_end": boards.END_S,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"service": "Netflix"}, lambda i: i % 2 == 0),
        ({"client": "10.0.0.3"}, lambda i: i % 5 == 3 and i % 7),
        ({"client": "2001:DB8:0::1"}, lambda i: i % 7 == 0),
        ({"client": "::ffff:10.0.0.3"}, lambda i: i % 5 == 3 and i % 7),
        ({"server": "192.0.2.1", "service": "Netflix"}, lambda i: i % 3 == 1 and i % 2 == 0),
        ({"client": "10.9.9.9"}, lambda i: False),
    ],
)
def test_flows_are_chosen_by_service_client_and_server(app, parameters, expected):
    page = ask(app, "/api/v1/flows", limit=1000, **parameters)
    numbers = [int(item["flow_id"], 16) for item in page["items"]]
    assert numbers == [i for i in range(FLOWS) if expected(i)]
    assert page["total"] == len(numbers)


def test_pages_together_are_all_flows_each_once(app):
    pages = [ask(app, "/api/v1/flows", limit=40, offset=offset)["items"] for offset in range(0, FLOWS + 40, 40)]
    assert [int(item["flow_id"], 16) for page in pages for item in page] == list(range(FLOWS))
    assert len(ask(app, "/api/v1/flows")["items"]) == 100


def test_a_device_has_its_flows_and_its_totals_by_service(app):
    mine = [i for i in range(FLOWS) if i % 5 == 2 and i % 7]
    device = ask(app, "/api/v1/devices/10.0.0.2", limit=3)
    assert (device["client_ip"], device["total"], len(device["items"])) == ("10.0.0.2", len(mine), 3)
    for totals in device["services"]:
        flows = [i for i in mine if boards.SERVICES[i % 2] == totals["service"]]
        assert totals == {
            "service": totals["service"], "flows": len(flows), "bytes_up": 10 * sum(flows),
            "bytes_down": 1000 * len(flows),
        }  # fmt: skip
    assert [totals["service"] for totals in device["services"]] == sorted(boards.SERVICES)


@pytest.mark.parametrize("text", ["2001:db8::1", "2001:0DB8:0:0::0001", quote("2001:db8::1", safe="")])
def test_an_address_is_the_same_device_however_it_is_written(url, text):
    with urllib.request.urlopen(f"{url}/api/v1/devices/{text}") as answer:
        assert json.load(answer)["client_ip"] == "2001:db8::1"


def test_devices_come_with_the_most_bytes_first(app):
    items = ask(app, "/api/v1/devices")["items"]
    assert len(items) == 6
    octets = [item["bytes_up"] + item["bytes_down"] for item in items]
    assert octets == sorted(octets, reverse=True)
    assert sum(item["flows"] for item in items) == FLOWS
    assert items[0]["services"] == sorted(boards.SERVICES)


def test_devices_without_packet_counters_have_no_bytes_and_come_by_flows():
    table = boards.flow_table(PLAN, 20)
    columns = [name for name in table.column_names if not name.startswith("PacketCounters")]
    running = boards.running(PLAN)
    items = ask(query_app(lambda: running, latest_of(table.select(columns))), "/api/v1/devices")["items"]
    assert {item["bytes_up"] for item in items} == {None}
    assert [item["flows"] for item in items] == sorted((item["flows"] for item in items), reverse=True)


def test_services_are_those_of_the_configuration_with_their_figures(app):
    first, second = ask(app, "/api/v1/services")["items"]
    assert first == {
        "service": "Netflix", "interval_s": 10.0, "collect": ["PacketCounters"], "packets_total": 11,
        "bytes_total": 10000, "flows_active": 40, "bits_per_s": 8e6, "records_total": 50, "names": 60,
    }  # fmt: skip
    assert second["service"] == boards.SERVICES[1]


def test_intervals_are_the_last_summaries(app):
    assert ask(app, "/api/v1/intervals")["items"] == [boards.summary()]


def test_before_the_first_interval_all_pages_are_empty():
    running = boards.running(PLAN)
    app = query_app(lambda: running, Latest())
    for path in ("flows", "devices", "intervals"):
        assert ask(app, f"/api/v1/{path}") == {"total": 0, "limit": 100, "offset": 0, "items": []}
    ask(app, "/api/v1/flows", service="Netflix", client="10.0.0.1")
    ask(app, "/api/v1/devices/10.0.0.1", 404)


def test_readiness_is_503_with_the_reasons_until_all_workers_are_ready():
    running = boards.running(PLAN)
    app = query_app(lambda: running, Latest())
    assert ask(app, "/readyz") == {"status": "ready", "reasons": []}
    running.board.workers[0]["state"] = STARTING
    assert ask(app, "/readyz", 503) == {"status": "not ready", "reasons": ["worker0: starting"]}
    assert ask(app, "/healthz") == {"status": "ok"}


# Bad requests


@pytest.mark.parametrize(
    ("path", "parameters", "status", "error"),
    [
        ("/api/v1/flows", {"limit": "1001"}, 400, 'limit: "1001" is not a whole number from 1 to 1,000'),
        ("/api/v1/flows", {"limit": "0"}, 400, 'limit: "0" is not a whole number from 1 to 1,000'),
        ("/api/v1/flows", {"limit": "٣"}, 400, 'limit: "٣" is not a whole number from 1 to 1,000'),
        ("/api/v1/flows", {"offset": "-1"}, 400, 'offset: "-1" is not a whole number from 0 to 1,000,000,000'),
        ("/api/v1/flows", {"client": "10.0.0"}, 400, 'client: "10.0.0" is not an IPv4 or IPv6 address'),
        ("/api/v1/flows", {"service": "Netflx"}, 400, 'service: no service "Netflx" in the configuration; did you mean "Netflix"?'),
        ("/api/v1/flows", {"sevrice": "x"}, 400, 'no parameter "sevrice"; this takes service, client, server, limit, offset'),
        ("/healthz", {"x": "1"}, 400, 'no parameter "x"; this takes none'),
        ("/api/v1/devices/nobody", {}, 400, 'device: "nobody" is not an IPv4 or IPv6 address'),
        ("/api/v1/devices/10.9.9.9", {}, 404, "10.9.9.9 has no flow of a service in the last closed interval"),
        ("/api/v1/flow", {}, 404, 'no "/api/v1/flow"; did you mean "/api/v1/flows"?'),
    ],
)  # fmt: skip
def test_a_bad_request_is_one_line_that_says_what_is_allowed(app, path, parameters, status, error):
    assert ask(app, path, status, **parameters) == {"error": error}


def test_a_parameter_that_stands_twice_is_refused(app):
    body, told = call(app, "/api/v1/flows", "limit=1&limit=2")
    assert (told["status"], json.loads(body)) == (400, {"error": "a parameter stands twice"})


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/metrics", "/api/v1/flows", "/nowhere"])
def test_only_get_and_head_are_answered(app, method, path):
    body, told = call(app, path, method=method)
    assert (told["status"], told["headers"]["Allow"]) == (405, "GET, HEAD")
    assert json.loads(body) == {"error": "only GET and HEAD"}


@pytest.mark.parametrize(
    "path", ["/", "/metrics", "/healthz", "/readyz", "/nowhere", "/api/v1/flows", "/api/v1/devices/10.0.0.2",
             "/api/v1/devices/x"],
)  # fmt: skip
def test_head_is_get_without_the_body(url, path):
    answers = []
    for method in ("GET", "HEAD"):
        connection = http.client.HTTPConnection(url.removeprefix("http://"))
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
        headers = {name: value for name, value in answer.getheaders() if name not in ("Date", "Content-Length")}
        answers.append((answer.status, headers))
        if path != "/metrics":  # whose values change
            answers[-1] += (answer.getheader("Content-Length"),)
        assert int(answer.getheader("Content-Length")) > 0
        assert bool(body) == (method == "GET")
        connection.close()
    assert answers[0] == answers[1]


def test_nothing_follows_the_header_of_an_answer_to_head(url):
    with connect(int(url.rpartition(":")[2])) as client:
        client.sendall(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        with client.makefile("rb") as answer:
            assert answer.read().endswith(b"\r\n\r\n")


# Whom it answers


API_PATHS = ["flows", "inferences", "devices", "devices/10.0.0.2", "services", "intervals"]


@pytest.fixture
def app_at():
    def made(listen="127.0.0.1:9464", names=()):
        plan = boards.plan(Metrics={"Listen": listen, "HostNames": list(names)})
        running = boards.running(plan)
        return query_app(lambda: running, latest_of(boards.flow_table(plan, FLOWS), [boards.summary()]))

    return made


@pytest.mark.parametrize("path", API_PATHS)
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9464", "127.0.0.1.evil.example", "localhost.evil.example", "203.0.113.9",
             "[2001:db8::9]:9464", "0.0.0.0", "[::]", "224.0.0.1", "", ":", "[", "a\xffb", "127.0.0.1@evil.example"],
)  # fmt: skip
def test_what_shows_addresses_is_not_answered_under_a_strange_host(app_at, path, host):
    app = app_at()
    body, told = call(app, f"/api/v1/{path}", HTTP_HOST=host)
    assert told["status"] == 403
    assert "Metrics.HostNames" in json.loads(body)["error"]


@pytest.mark.parametrize("path", API_PATHS)
@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:9464", "localhost.", "127.0.0.1", "127.0.0.1:9464", "127.9.9.9", "[::1]:9464",
     "[::1]", "sensor1:1", "SENSOR1.example", "127.0.0.1:80"],
)  # fmt: skip
def test_names_of_loopback_and_configured_ones_are_answered(app_at, path, host):
    app = app_at(names=["sensor1", "sensor1.example"])
    assert call(app, f"/api/v1/{path}", HTTP_HOST=host)[1]["status"] == 200


def test_the_host_of_the_listener_and_addresses_of_the_machine_are_answered(app_at):
    assert call(app_at("sensor1:9464"), "/api/v1/flows", HTTP_HOST="sensor1:9464")[1]["status"] == 200
    assert call(app_at("0.0.0.0:9464"), "/api/v1/flows", HTTP_HOST="0.0.0.0:9464")[1]["status"] == 200
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        with contextlib.suppress(OSError):
            probe.connect(("192.0.2.1", 9))
        own = probe.getsockname()[0]
    if own != "0.0.0.0":
        assert call(app_at(), "/api/v1/flows", HTTP_HOST=own)[1]["status"] == 200


@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz"])
def test_what_shows_no_addresses_is_answered_under_any_host(app, path):
    assert call(app, path, HTTP_HOST="evil.example")[1]["status"] == 200


def test_a_query_beside_others_that_take_long_is_refused_and_a_scrape_is_not(app):
    held = [app._queries.acquire(blocking=False) for _ in range(QUERIES_AT_ONCE)]
    try:
        body, told = call(app, "/api/v1/flows")
        assert (told["status"], json.loads(body)) == (503, {"error": "too many queries at once; ask again"})
        assert call(app, "/metrics")[1]["status"] == call(app, "/healthz")[1]["status"] == 200
    finally:
        for _ in held:
            app._queries.release()
    assert call(app, "/api/v1/flows")[1]["status"] == 200


def test_only_old_programs_may_leave_the_host_out(app):
    assert call(app, "/api/v1/flows", SERVER_PROTOCOL="HTTP/1.0")[1]["status"] == 200
    body, told = call(app, "/api/v1/flows", SERVER_PROTOCOL="HTTP/1.1")
    assert (told["status"], json.loads(body)) == (400, {"error": "the request has no Host"})


TEXT = st.text(st.characters(codec="latin-1"), max_size=30)
PATHS = st.one_of(
    TEXT.map(lambda text: f"/{text}"),
    st.sampled_from(["/", "/readyz", *(f"/api/v1/{name}" for name in ("services", "flows", "devices", "intervals"))]),
    TEXT.map(lambda text: f"/api/v1/devices/{text}"),
)
QUERIES = st.one_of(
    TEXT,
    st.dictionaries(
        st.sampled_from(["limit", "offset", "service", "client", "server"]),
        st.one_of(st.text(max_size=10), st.integers().map(str), st.ip_addresses().map(str)),
    ).map(lambda pairs: urlencode(pairs, errors="replace")),
)


@given(PATHS, QUERIES)
@example("/api/v1/devices/", "limit=%FF")
@example("/\xff\xed\xa0\x80", "&&=;%00=%00")
@example("/api/v1/devices/1\0", "")
def test_any_address_gets_json_and_one_of_three_answers(app, path, query):
    body, told = call(app, path, query)
    assert told["status"] in ((200, 400, 404) if path != "/metrics" else (200,))
    answer = json.loads(body)
    assert told["status"] == 200 or (list(answer) == ["error"] and len(answer["error"].splitlines()) == 1)


# From the aggregator


@pytest.fixture
def ends():
    sending, receiving = interval_channel()
    with sending, receiving:
        yield sending, receiving


def test_an_interval_that_nobody_took_is_not_followed_by_another(ends):
    sending, receiving = ends
    latest = Latest()
    first, second = boards.flow_table(PLAN, 1), boards.flow_table(PLAN, 2, boards.END_S + 10)
    assert publish(sending, first, [])
    assert not publish(sending, second, [])
    assert latest.receive(receiving)
    assert not latest.receive(receiving)
    assert latest.interval.table.num_rows == 1
    assert publish(sending, second, [])
    assert latest.receive(receiving)
    assert latest.interval.table.num_rows == 2


def test_nothing_is_handed_over_when_nobody_receives_any_more(ends):
    sending, receiving = ends
    receiving.close()
    assert not publish(sending, boards.flow_table(PLAN, 1), [])


def test_an_aggregator_that_is_gone_is_nothing_to_receive(ends):
    sending, receiving = ends
    sending.close()
    assert not Latest().receive(receiving)


def test_an_interval_without_records_has_its_summaries(ends):
    sending, receiving = ends
    latest = Latest()
    assert publish(sending, None, [boards.summary()])
    assert latest.receive(receiving)
    assert latest.interval.summaries == [boards.summary()]
    assert latest.interval.table.num_rows == 0
    assert {"service", "client_ip", "server_ip"} <= set(latest.interval.table.column_names)


def test_a_service_with_a_longer_interval_keeps_its_records_until_its_next_end(ends):
    sending, receiving = ends
    latest = Latest()

    def shown(end_s, *tables):
        assert publish(sending, pa.concat_tables(tables) if tables else None, [boards.summary(end_s)])
        assert latest.receive(receiving)
        return sorted(
            set(zip(*(latest.interval.table[name].to_pylist() for name in ("service", "ts_end")), strict=True))
        )

    start, (fast, slow) = boards.END_S, boards.SERVICES
    every_10, every_30 = (
        lambda end_s, length=length, name=name: boards.flow_table(PLAN, 3, end_s, length, name)
        for length, name in ((10, fast), (30, slow))
    )
    assert shown(start, every_10(start), every_30(start)) == [(fast, start), (slow, start)]
    assert shown(start + 10, every_10(start + 10)) == [(fast, start + 10), (slow, start)]
    assert shown(start + 20) == [(slow, start)]
    assert shown(start + 30, every_10(start + 30)) == [(fast, start + 30)]


def test_a_reload_that_changes_the_columns_keeps_what_is_still_current(ends):
    sending, receiving = ends
    latest = Latest()
    old = boards.flow_table(PLAN, 3, boards.END_S, 60, boards.SERVICES[1])
    new = boards.flow_table(PLAN, 2, boards.END_S + 10, 10, boards.SERVICES[0]).drop_columns(
        ["PacketCounters.bytes_up"]
    )
    for table in (old, new):
        assert publish(sending, table, [])
        assert latest.receive(receiving)
    assert latest.interval.table["PacketCounters.bytes_up"].to_pylist() == [0, 10, 20, None, None]


def test_intervals_that_were_replaced_leave_no_descriptor_and_no_mapping(ends):
    sending, receiving = ends
    latest = Latest()

    def held():
        gc.collect()
        mappings = Path("/proc/self/maps").read_text().count("trafficrefinery-interval")
        return len(list(Path("/proc/self/fd").iterdir())), mappings

    def one():
        assert publish(sending, boards.flow_table(PLAN, 100), [boards.summary()])
        assert latest.receive(receiving)

    one()
    before = held()
    for _ in range(20):
        one()
    assert held() == before


# The listener


def test_the_listener_answers_with_json_and_ends_the_connection(url):
    with urllib.request.urlopen(f"{url}/api/v1/flows?limit=1") as answer:
        assert json.load(answer)["total"] == FLOWS
        assert answer.headers["Connection"] == "close"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{url}/nowhere")
    assert (caught.value.code, json.load(caught.value)) == (404, {"error": 'no "/nowhere"'})


def connect(port):
    return contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=60))


def test_clients_that_are_slow_or_silent_hold_up_nobody(app, monkeypatch):
    monkeypatch.setattr(listener, "MAX_AGE_S", 600)  # none of them is given up meanwhile
    server = serve(bind("127.0.0.1:0"), app)
    with contextlib.ExitStack() as held:
        for number in range(100):
            slow = held.enter_context(connect(server.port))
            if number % 3 == 1:
                slow.send(b"GET /metrics HT")
            elif number % 3 == 2:
                slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
                slow.send(b"GET /api/v1/flows?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/healthz", timeout=60) as answer:
            assert answer.status == 200
    server.close()


SCRAPE_S = 1.0
MANY = 2000


@pytest.fixture
def many_files():
    """Room for both ends of many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MANY + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"needs {wanted} open files; the limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def scrape_s(port, path="/metrics"):
    began_s = time.monotonic()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        assert answer.status == 200
        answer.read()
    return time.monotonic() - began_s


@pytest.mark.parametrize("kind", ["silent", "dripping", "not reading"])
def test_a_scrape_takes_less_than_a_second_beside_thousands_of_connections(app, many_files, kind):
    server = serve(bind("127.0.0.1:0"), app)
    scrape_s(server.port)
    first = {"silent": b"", "dripping": b"GET /metrics HT", "not reading":
             b"GET /api/v1/flows?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n"}[kind]  # fmt: skip
    slowest_s = 0.0
    with contextlib.ExitStack() as held:
        clients = []
        for number in range(MANY):
            clients.append(held.enter_context(connect(server.port)))
            if first:
                with contextlib.suppress(ConnectionError):
                    clients[-1].send(first)
            if number % 400 == 399:
                slowest_s = max(slowest_s, scrape_s(server.port))
        for _ in range(3):
            if kind == "dripping":
                for client in clients:
                    with contextlib.suppress(ConnectionError):
                        client.send(b"T")
            slowest_s = max(slowest_s, scrape_s(server.port))
    server.close()
    assert slowest_s < SCRAPE_S


@pytest.mark.parametrize("accept", ["", "Accept: application/openmetrics-text; n={}\r\n"])
def test_a_scrape_takes_less_than_a_second_beside_clients_that_ask_for_many(app, many_files, accept):
    """Each of them sends its requests at once, and reads none of the answers."""
    server = serve(bind("127.0.0.1:0"), app)
    scrape_s(server.port)
    with contextlib.ExitStack() as held:
        for number in range(300):
            client = held.enter_context(connect(server.port))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % accept.format(number).encode() * 20)
        slowest_s = max(scrape_s(server.port) for _ in range(3))
    server.close()
    assert slowest_s < SCRAPE_S


def test_a_scrape_that_names_metrics_is_a_query_of_which_few_are_answered_at_once(app):
    one = "name[]=trafficrefinery_ready"
    held = [app._queries.acquire(blocking=False) for _ in range(QUERIES_AT_ONCE)]
    assert call(app, "/metrics", one)[1]["status"] == 503
    for _ in held:
        app._queries.release()
    body, told = call(app, "/metrics", one)
    assert (told["status"], b"trafficrefinery_ready" in body, b"trafficrefinery_packets" in body) == (200, True, False)


def test_scrapes_soon_after_each_other_get_the_same_answer_in_the_form_that_each_wants(app, monkeypatch):
    asked = []
    metrics = app._metrics
    app._scraped.clear()
    monkeypatch.setattr(app, "_metrics", lambda environ, start: asked.append(1) or metrics(environ, start))
    monkeypatch.setattr("trafficrefinery.daemon.query.app.SHARED_S", 60.0)
    plain, zipped = call(app, "/metrics"), call(app, "/metrics", HTTP_ACCEPT_ENCODING="gzip")
    for _ in range(5):
        assert call(app, "/metrics") == plain
        assert call(app, "/metrics", HTTP_ACCEPT_ENCODING="gzip") == zipped
    assert len(asked) == 2
    monkeypatch.setattr("trafficrefinery.daemon.query.app.SHARED_S", -1.0)
    assert call(app, "/metrics")[1]["status"] == 200
    assert len(asked) == 3
    app._scraped.clear()


def test_when_all_connections_are_taken_the_oldest_that_asked_nothing_gives_way(app, monkeypatch):
    monkeypatch.setattr(listener, "MAX_AGE_S", 600)
    monkeypatch.setattr(listener, "CONNECTIONS", 20)
    server = serve(bind("127.0.0.1:0"), app)
    with contextlib.ExitStack() as held:
        silent = [held.enter_context(connect(server.port)) for _ in range(25)]
        assert scrape_s(server.port, "/healthz") < SCRAPE_S
        assert [one.recv(1) for one in silent[:5]] == [b""] * 5
        silent[-1].sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert silent[-1].recv(12) == b"HTTP/1.0 200"
    server.close()


def test_connections_that_are_old_are_given_up(app, monkeypatch):
    monkeypatch.setattr(listener, "MAX_AGE_S", 1)
    server = serve(bind("127.0.0.1:0"), app)
    with connect(server.port) as silent:
        assert silent.recv(1) == b""
    server.close()


def test_a_connection_carries_one_request_however_many_are_sent(url):
    with connect(int(url.rpartition(":")[2])) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
        with client.makefile("rb") as answers:
            text = answers.read()
    assert text.count(b"HTTP/1.1 200") == 1


@pytest.mark.parametrize(
    "request_bytes",
    [b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n"],
)
def test_what_is_no_request_is_refused_and_the_next_one_answered(url, request_bytes):
    port = int(url.rpartition(":")[2])
    with connect(port) as client, contextlib.suppress(ConnectionError):
        client.sendall(request_bytes)
        assert client.recv(100).split()[1][:1] in (b"4", b"2", b"5")
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200
    connection.close()


def test_the_address_is_taken_at_start_and_served_later(app):
    listening = bind("127.0.0.1:0")
    port = listening.getsockname()[1]
    with pytest.raises(UsageError):
        bind(f"127.0.0.1:{port}")
    with connect(port) as early:
        early.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        server = serve(listening, app)
        assert early.recv(12) == b"HTTP/1.1 200"
    server.close()
    bind(f"127.0.0.1:{port}").close()


def test_closing_ends_the_threads(app):
    before = threading.active_count()
    server = serve(bind("127.0.0.1:0"), app)
    assert threading.active_count() > before
    server.close()
    deadline = time.monotonic() + 60
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_ipv6_addresses_are_listened_on(app):
    server = serve(bind("[::1]:0"), app)
    with urllib.request.urlopen(f"http://[::1]:{server.port}/healthz") as answer:
        assert answer.status == 200
    server.close()


@pytest.mark.parametrize(
    ("listen", "message"),
    [
        ("192.0.2.1:9464", "192.0.2.1:9464: this machine has no such address; choose one of `ip address`, or 127.0.0.1"),
        ("no.such.host.invalid:9464", 'no.such.host.invalid:9464: no machine has this name; write an address, such as "127.0.0.1:9464"'),
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_had_is_one_line_that_names_the_key(listen, message):
    with pytest.raises(UsageError) as caught:
        bind(listen, "x.json")
    assert str(caught.value) == f"x.json: Metrics.Listen: {message}"


def test_a_port_in_use_is_one_line_that_names_the_key():
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(UsageError) as caught:
            serve(bind(listen), lambda environ, start_response: [])
    assert str(caught.value) == (f"Metrics.Listen: {listen}: another program listens there; choose another port")


# Prometheus


@pytest.fixture
def prometheus(url, tmp_path):
    """The address of a real server that scrapes the listener."""
    config = tmp_path / "prometheus.yml"
    target = url.removeprefix("http://")
    config.write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        f"scrape_configs: [{{job_name: trafficrefinery, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    arguments = [
        required("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(arguments, stderr=log, stdout=log) as process:
        yield f"http://127.0.0.1:{port}"
        process.kill()


def test_prometheus_scrapes_the_listener_and_answers_with_the_values(prometheus):
    def asked(expression):
        with urllib.request.urlopen(f"{prometheus}/api/v1/query?{urlencode({'query': expression})}") as answer:
            return json.load(answer)["data"]["result"]

    result = []
    deadline = time.monotonic() + 120
    while not result and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            result = asked("sum(trafficrefinery_packets_total)")
        time.sleep(0.1)
    assert result[0]["value"][1] == str(sum(1000 * (n + 1) + COUNTERS.index("packets") for n in range(boards.WORKERS)))
    (latency,) = asked("trafficrefinery_interval_latency_seconds_bucket{le='+Inf'}")
    assert latency["value"][1] == "55"
    (up,) = asked("up{job='trafficrefinery'}")
    assert up["value"][1] == "1"
    assert {found["metric"]["service"] for found in asked("trafficrefinery_service_names")} == set(boards.SERVICES)
