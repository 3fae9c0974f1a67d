"""Queries against a small HTTP server in this process that speaks Prometheus' API."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import UsageError
from hedgerow.rollout.gate import prometheus
from hedgerow.rollout.gate.prometheus import Queries, quoted, render
from hedgerow.rollout.policy.gate import Prometheus

HOST = {"host": "pi-1"}


class Server(ThreadingHTTPServer):
    """Answers ``/api/v1/query``; ``replies`` are taken in turn, the last one again and again."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list[tuple[int, str]] = [(200, vector("1"))]
        self.queries: list[str] = []
        self.slow_s = 0.0
        self.over = threading.Event()
        self.scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        assert parts.path == "/prefix/api/v1/query"
        self.server.queries += parse_qs(parts.query)["query"]
        self.server.over.wait(self.server.slow_s)
        status, text = self.server.replies[0] if len(self.server.replies) == 1 else self.server.replies.pop(0)
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments: object) -> None:
        pass


def reply(kind: str, result: object) -> str:
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": result}})


def vector(*values: str) -> str:
    return reply("vector", [{"metric": {"instance": str(each)}, "value": [1, each]} for each in values])


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.over.set()
        made.shutdown()
        thread.join()


@pytest.fixture
def queries(server: Server) -> Iterator[Callable[..., Queries]]:
    made: list[Queries] = []

    def make(**rules) -> Queries:
        given = {"url": f"{server.url}/prefix", "queries": {"load": "load{instance=$host}"}} | rules
        made.append(Queries(Prometheus(**given), HOST, now=lambda: 0.0))
        return made[-1]

    yield make
    for each in made:
        each.__exit__(None, None, None)


def test_a_query_about_a_host(server: Server, queries) -> None:
    server.replies = [(200, vector("0.25"))]
    assert queries().ask().values == {"load": 0.25}
    assert server.queries == ['load{instance="pi-1"}']


def test_an_answer_is_used_again_for_a_while(server: Server) -> None:
    now = [0.0]
    rules = Prometheus(url=f"{server.url}/prefix/", queries={"a": "a", "b": "b"})
    with Queries(rules, HOST, now=lambda: now[0]) as asked:
        for second, rounds in ((0, 1), (4.9, 1), (5, 2)):
            now[0] = second
            assert asked.ask().values == {"a": 1, "b": 1}
            assert server.queries == ["a", "b"] * rounds


@pytest.mark.parametrize(
    "text, value, why",
    [
        (reply("scalar", [1, "2.5"]), 2.5, None),
        (vector("+Inf"), float("inf"), None),
        (vector(), None, "it gives no sample"),
        (vector("1", "2"), None, "it gives 2 samples, not one"),
        (vector("NaN"), None, "it gives NaN"),
        (reply("matrix", []), None, "it gives a matrix, not a number"),
        (reply("vector", [{"value": ["x"]}]), None, "cannot be read"),
    ],
)
def test_one_number_or_why_not(server: Server, queries, text: str, value: float | None, why: str | None) -> None:
    server.replies = [(200, text)]
    answers = queries().ask()
    assert answers.values.get("load") == value
    assert answers.outage == ""
    assert why is None or why in answers.unanswered["load"]


def test_a_wrong_query_is_no_outage(server: Server, queries) -> None:
    server.replies = [(400, json.dumps({"status": "error", "errorType": "bad_data", "error": "parse error at char 3"}))]
    answers = queries().ask()
    assert (answers.outage, answers.unanswered) == ("", {"load": "Prometheus refuses it: parse error at char 3"})
    assert len(server.queries) == 1


@pytest.mark.parametrize("fault", [(503, "starting"), (429, "slow down"), (200, "<html>a proxy's page")])
def test_an_outage_is_said(server: Server, queries, fault: tuple[int, str]) -> None:
    server.replies = [fault]
    answers = queries(attempts=3).ask()
    assert answers.outage.startswith(f"Prometheus at {server.url}/prefix: HTTP {fault[0]}")
    assert answers.values == {}
    assert len(server.queries) == (3 if fault[0] != 200 else 1)


def test_an_outage_that_passes_is_tried_again(server: Server, queries) -> None:
    server.replies = [(503, "starting"), (200, vector("7"))]
    assert queries().ask().values == {"load": 7}


def test_after_an_outage_it_is_asked_again_at_once(server: Server, queries) -> None:
    server.replies = [(503, ""), (503, ""), (200, vector("7"))]
    asked = queries()
    assert asked.ask().outage
    assert asked.ask().values == {"load": 7}


def test_a_server_that_is_away_or_hangs(server: Server, queries) -> None:
    assert "refused" in queries(url="http://127.0.0.1:9").ask().outage
    server.slow_s = 30
    begun = time.monotonic()
    assert queries(timeout_s=0.05, attempts=2).ask().outage
    assert time.monotonic() - begun < 10


def test_tls_is_verified_by_the_policys_own_authority(server: Server, fleet_ca, tmp_path) -> None:
    from hedgerow.identity.profiles import Profile

    fleet_ca.issue_client(Profile.MONITOR, "prometheus")
    certificate, key = (fleet_ca.folder / "clients" / f"prometheus.{kind}" for kind in ("crt", "key"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(fleet_ca.folder / "ca.crt")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.scheme = "https"
    rules = Prometheus(
        url=f"{server.url}/prefix",
        queries={"up": "up"},
        ca=str(fleet_ca.folder / "ca.crt"),
        certificate=str(certificate),
        key=str(key),
        attempts=1,
    )
    with Queries(rules, HOST) as asked:
        # A client's certificate has no address in it, so that no server can show it for one.
        assert "certificate verify failed" in asked.ask().outage
    with pytest.raises(UsageError, match="a certificate cannot be read"):
        Queries(Prometheus(url=server.url, queries={"up": "up"}, ca=str(tmp_path / "none.crt")), HOST)


def test_places_and_what_stands_for_them() -> None:
    labels = {"host": 'pi"1.x\\', "site": "orchard"}
    assert render("up{h=$host, s=$site}", labels, name="up") == 'up{h="pi\\"1.x\\\\", s="orchard"}'
    assert render("up{h=~$host_re}", {"host": "pi.1"}, name="up") == 'up{h=~"pi\\\\.1"}'
    assert render('up{h=~"x$"}', labels, name="up") == 'up{h=~"x$"}'
    with pytest.raises(UsageError, match=r"query up has \$address, which is none of \$host, \$site"):
        render("up{h=$address}", labels, name="up")


@given(st.text())
def test_no_name_ends_the_string_it_stands_in(text: str) -> None:
    literal = quoted(text)
    assert literal.isprintable()
    # Go's escapes that we write are JSON's, but for the long one.
    if not any(ord(each) > 0xFFFF and not each.isprintable() for each in text):
        assert json.loads(literal) == text


def test_answers_come_no_more_often_than_prometheus_scrapes() -> None:
    assert prometheus.KEEP_S >= 5
