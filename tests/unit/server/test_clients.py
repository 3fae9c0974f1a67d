"""What each client may ask: the rule by itself, and by every door that shows a certificate."""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import ssl

import numpy as np
import pytest
import server_support as support
import tritonclient.grpc as triton
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException

from hedgerow.identity.profiles import Profile
from hedgerow.server import config
from hedgerow.server.clients import _KNOWN, Clients, PerClient
from hedgerow.server.errors import RateLimited

NAME = f"{support.HOST}.{support.SITE}.{support.FLEET}"
ROW = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 1.0]}]}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def taken(clients: Clients, client: str = "app") -> bool:
    """Whether a request was let in; it ends at once."""
    try:
        with clients.admit(client):
            return True
    except RateLimited:
        return False


# ── the rule ────────────────────────────────────────────────────────────────


def test_a_burst_and_then_the_rate() -> None:
    clock = Clock()
    clients = Clients(PerClient(per_second=2, burst=3), clock=clock)
    assert [taken(clients) for _ in range(5)] == [True, True, True, False, False]
    clock.now += 0.5
    assert [taken(clients) for _ in range(2)] == [True, False]
    clock.now += 100
    assert [taken(clients) for _ in range(4)] == [True, True, True, False]


@given(
    st.floats(0.1, 50),
    st.integers(1, 8),
    st.lists(st.floats(0, 3), min_size=1, max_size=60),
)
def test_in_no_stretch_of_time_more_than_burst_and_rate(rate: float, burst: int, gaps: list[float]) -> None:
    clock = Clock()
    clients = Clients(PerClient(per_second=rate, burst=burst), clock=clock)
    times = []
    for gap in gaps:
        clock.now += gap
        if taken(clients):
            times.append(clock.now)
    assert times
    for first in range(len(times)):
        for last in range(first, len(times)):
            assert last - first + 1 <= burst + (times[last] - times[first]) * rate + 1e-6


@given(st.floats(0.1, 50), st.integers(1, 8), st.integers(1, 30))
def test_whoever_comes_back_when_told_is_let_in(rate: float, burst: int, requests: int) -> None:
    clock = Clock()
    clients = Clients(PerClient(per_second=rate, burst=burst), clock=clock)
    for _ in range(requests):
        try:
            clients.look("app")
        except RateLimited as error:
            clock.now += error.retry_after_s
        assert taken(clients)


def test_so_many_at_once() -> None:
    clients = Clients(PerClient(at_once=2))
    with clients.admit("app"), clients.admit("app"):
        with pytest.raises(RateLimited, match="app has 2 requests here already; 2 may be at once") as caught:
            clients.look("app")
        assert caught.value.retry_after_s == 1
        assert not taken(clients)
        assert taken(clients, "other")
    assert taken(clients)


def test_one_that_fails_has_ended_too() -> None:
    clients = Clients(PerClient(at_once=1))
    with pytest.raises(ZeroDivisionError), clients.admit("app"):
        raise ZeroDivisionError
    assert taken(clients)


def test_looking_counts_nothing_and_one_clients_requests_are_not_anothers() -> None:
    clients = Clients(PerClient(per_second=1, burst=1), clock=Clock())
    for _ in range(3):
        clients.look("app")
    assert taken(clients)
    assert not taken(clients)
    assert taken(clients, "other")


@pytest.mark.parametrize("rules, client", [(PerClient(), "app"), (PerClient(per_second=0.01, burst=1, at_once=1), "")])
def test_without_limits_and_without_a_name_nobody_is_held(rules: PerClient, client: str) -> None:
    clients = Clients(rules)
    with clients.admit(client), clients.admit(client):
        clients.look(client)


def test_those_that_do_nothing_are_forgotten_and_no_others() -> None:
    clock = Clock()
    clients = Clients(PerClient(per_second=1, burst=2, at_once=5), clock=clock)
    with clients.admit("stays"):
        clock.now += 10
        assert all(taken(clients, f"old-{index}") for index in range(_KNOWN))
        assert len(clients._known) == _KNOWN + 1
        assert [taken(clients, "busy") for _ in range(3)] == [True, True, False]
        clock.now += 1.5
        assert taken(clients, "new")
        assert set(clients._known) == {"stays", "busy", "new"}
        assert [taken(clients, "busy") for _ in range(2)] == [True, False]


@pytest.mark.parametrize(
    "text, said",
    [
        ("{per_second: 0}", "per_second"),
        ("{burst: 0}", "burst"),
        ("{at_once: 0}", "at_once"),
        ("{per_minute: 3}", "per_minute"),
    ],
)
def test_a_wrong_limit_is_named(text: str, said: str) -> None:
    head = "host: pi-1\nserial: '10000000aabbccdd'\nfleet: copse\nsite: north\nmodel: m\n"
    with pytest.raises(config.UsageError, match=said):
        config.decode(f"{head}limits: {{client: {text}}}\n".encode(), where="server.yml")


# ── at the doors ────────────────────────────────────────────────────────────


class Client:
    """An application with a certificate of the fleet, over HTTPS and gRPC."""

    def __init__(self, device: support.Device, name: str) -> None:
        files = device.ca.issue_client(Profile.CLIENT, name)
        self._device = device
        self._context = ssl.create_default_context(cafile=device.ca.folder / "ca.crt")
        self._context.load_cert_chain(files.certificate, files.key)
        self._grpc = triton.InferenceServerClient(
            f"127.0.0.1:{device.grpcs}",
            ssl=True,
            root_certificates=str(device.ca.folder / "ca.crt"),
            private_key=str(files.key),
            certificate_chain=str(files.certificate),
            channel_args=[("grpc.ssl_target_name_override", NAME), ("grpc.use_local_subchannel_pool", 1)],
        )

    def ask(self, path: str, body=None) -> tuple[int, http.client.HTTPMessage, str]:
        connection = support.Secure(self._device.https, self._context)
        with contextlib.closing(connection):
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            connection.request("GET" if body is None else "POST", path, data)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()

    def close(self) -> None:
        self._grpc.close()

    def infer(self) -> int:
        return self.ask("/v2/models/assistant/infer", ROW)[0]

    def tensor(self) -> list[triton.InferInput]:
        given = triton.InferInput("x", [1, 2], "FP32")
        given.set_data_from_numpy(np.ones((1, 2), np.float32))
        return [given]

    def infer_grpc(self) -> None:
        self._grpc.infer("assistant", self.tensor())

    def stream(self, requests: int) -> list[str | None]:
        """What went wrong with each."""
        heard: queue.Queue[object] = queue.Queue()
        self._grpc.start_stream(lambda result, error: heard.put(error))
        for _ in range(requests):
            self._grpc.async_stream_infer("assistant", self.tensor())
        errors = [heard.get(timeout=support.PATIENCE_S) for _ in range(requests)]
        self._grpc.stop_stream(cancel_requests=True)
        return [None if error is None else str(error) for error in errors]


@pytest.fixture
def client(running):
    """``client(device, name)`` → that application, which hangs up at the end."""

    def make(device: support.Device, name: str) -> Client:
        running.append(made := Client(device, name))
        return made

    return make


@pytest.fixture
def device(tmp_path, unit_ca, running):
    """``device(**client)`` → a device that holds its clients to that."""

    def start(**client: float) -> support.Device:
        support.write_bundle(tmp_path / "models" / "assistant" / "1.0.0", "assistant", "1.0.0", 1.0)
        device = support.start_device(tmp_path, unit_ca, limits={"client": client})
        running.append(device.process)
        device.process.until(lambda: support.answers(device.http) == 200, "ready")
        return device

    return start


def errors_of(device: support.Device) -> dict[str, float]:
    """Errors by protocol of those that asked too much."""
    lines = device.plain("/metrics")[1].splitlines()
    found = {}
    for line in lines:
        if line.startswith("hedgerow_server_errors_total{") and 'cause="rate_limited"' in line:
            protocol = line.partition('protocol="')[2].partition('"')[0]
            found[protocol] = found.get(protocol, 0.0) + float(line.split()[-1])
    return found


def test_one_that_asks_too_much_is_sent_away_and_others_are_not(device, client) -> None:
    one = device(per_second=0.01, burst=3)
    loud, calm = client(one, "loud"), client(one, "calm")
    assert [loud.infer() for _ in range(3)] == [200, 200, 200]
    status, headers, text = loud.ask("/v2/models/assistant/infer", ROW)
    assert (status, json.loads(text)) == (429, {"error": "loud asks more than 0.01 times a second"})
    assert 90 <= int(headers["retry-after"]) <= 100
    # In each protocol's own shape, by whichever it comes; nothing of a body is needed for that.
    status, _, text = loud.ask("/v1/chat/completions", b"{" * 1000)
    assert (status, json.loads(text)["error"]["code"]) == (429, "rate_limit_exceeded")
    assert loud.ask("/v2/models/assistant/generate", {"text_input": "hello"})[0] == 429
    with pytest.raises(InferenceServerException, match="loud asks more than") as refused:
        loud.infer_grpc()
    assert refused.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
    assert [str(error) for error in loud.stream(2)] == ["loud asks more than 0.01 times a second"] * 2
    # What computes nothing is not counted, nor is anybody else.
    assert [loud.ask(path)[0] for path in ("/v2/models/assistant", "/v2/health/ready", "/v1/models")] == [200] * 3
    assert calm.infer() == 200
    calm.infer_grpc()
    assert device_answers(one) == [200] * 6
    assert errors_of(one) == {"oip": 2, "openai": 1, "grpc": 3}
    # It says nothing of the release: no more failures, and no faster answers.
    assert one.plain("/health/report")[1]["serving"]["errors"] == 0


def device_answers(device: support.Device) -> list[int]:
    """By the door on loopback, where nobody has a name."""
    return [device.plain("/v2/models/assistant/infer", ROW)[0] for _ in range(6)]


def test_a_stream_counts_each_of_its_requests(device, client) -> None:
    said = client(device(per_second=0.01, burst=3), "streams").stream(5)
    assert said[:3] == [None] * 3
    assert said[3:] == ["streams asks more than 0.01 times a second"] * 2


def test_a_large_body_is_not_read_for_it_and_the_connection_goes_on(device, client) -> None:
    one = device(per_second=0.01, burst=1)
    large = client(one, "large")
    assert large.infer() == 200
    connection = support.Secure(one.https, large._context)
    with contextlib.closing(connection):
        for _ in range(2):
            connection.request("POST", "/v2/models/assistant/infer", b"x" * (4 << 20))
            answer = connection.getresponse()
            assert answer.status == 429
            answer.read()
        connection.request("GET", "/v2/health/live")
        assert connection.getresponse().status == 200
