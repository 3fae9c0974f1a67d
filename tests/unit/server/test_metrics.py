"""The published list of metrics against what /metrics gives; labels that callers cannot fill; errors by cause."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import httpx
import pytest
import server_support as support
from prometheus_client.parser import text_string_to_metric_families
from server_support import Script, served

from hedgerow.server import backends
from hedgerow.server.config import Limits
from hedgerow.server.errors import Cause
from hedgerow.server.metrics import Metrics
from hedgerow.server.models import Slot
from hedgerow.server.telemetry.finished import PROMPT_SIZES

DOCS = Path(__file__).parents[3] / "docs" / "telemetry.md"
# | `hedgerow_server_x_total` | counter | `model`, `code` | what |
ROW = re.compile(r"^\| `(?P<name>[a-z_]+)` \| (?P<kind>\w+) \|(?P<labels>[^|]*)\|", re.MULTILINE)
HELLO = [{"role": "user", "content": "hello"}]


def published() -> dict[str, tuple[str, frozenset[str]]]:
    """Name → kind and labels, of the table in the documentation."""
    section = DOCS.read_text(encoding="utf-8").partition("## Metrics")[2].partition("\n## ")[0]
    return {
        row["name"]: (row["kind"], frozenset(re.findall(r"`(\w+)`", row["labels"]))) for row in ROW.finditer(section)
    }


def made() -> dict[str, tuple[str, frozenset[str]]]:
    """The same, of a registry: metrics with labels have no samples before they are used."""
    metrics = Metrics(lambda: 0)
    metrics.started(runtime="0.1.0", configuration="c", restarts=lambda: 3)
    found = {}
    for collector in list(metrics.registry._collector_to_names):
        labels = frozenset(getattr(collector, "_labelnames", ()))
        for family in collector.collect():
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found[name] = (family.type, labels)
    return found


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("add")
    support.write_add(folder, 1.0)
    scripts = {
        "assistant": Script(["Hi", " there", "."]),
        "broken": Script(["a"], fails_at=0),
        "gated": Script(["a", "b", "c"], gate=threading.Semaphore(0)),
    }

    def prepare(plane) -> None:
        plane._slots["add"] = Slot("add", served(backends.load(folder, threads=1), "add"))
        for name, script in scripts.items():
            plane._slots[name] = Slot(name, served(script, name))

    server = support.InProcess(prepare, folder, Limits(max_tokens=8))
    with httpx.Client(base_url=server.url, timeout=support.PATIENCE_S) as client:
        client.server, client.gate = server, scripts["gated"].gate
        yield client
    server.close()


def sample(client, name: str, **labels: str) -> float:
    return client.server.plane.metrics.registry.get_sample_value(name, labels) or 0.0


def chat(client, model: str = "assistant", **more) -> httpx.Response:
    return client.post("/v1/chat/completions", json={"model": model, "messages": HELLO, **more})


def add(client, data) -> httpx.Response:
    tensor = {"name": "x", "shape": [1, len(data)], "datatype": "FP32", "data": data}
    return client.post("/v2/models/add/infer", json={"inputs": [tensor]})


def test_the_published_list_is_what_there_is() -> None:
    assert published() == made()


def test_what_is_scraped_is_on_the_list(client) -> None:
    chat(client)
    add(client, [1, 2])
    text = client.get("/metrics").text
    families = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in text_string_to_metric_families(text)
    }
    # prometheus_client tells when each counter and histogram began
    families = {name for name in families if not name.endswith("_created")}
    assert families <= set(published())
    assert "hedgerow_server_queue_duration_seconds" in families


def test_causes_are_published() -> None:
    section = DOCS.read_text(encoding="utf-8").partition("### Causes")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == {cause.value for cause in Cause}


def test_prompt_sizes_are_published() -> None:
    assert all(f"`{size}`" in DOCS.read_text(encoding="utf-8") for size in PROMPT_SIZES)


def test_a_generation(client) -> None:
    labels = {"model": "assistant", "prompt_size": "up_to_128"}
    before = sample(client, "hedgerow_server_time_to_first_token_seconds_count", **labels)
    waited = sample(client, "hedgerow_server_queue_duration_seconds_count", model="assistant")
    assert chat(client).status_code == 200
    assert sample(client, "hedgerow_server_time_to_first_token_seconds_count", **labels) == before + 1
    assert sample(client, "hedgerow_server_queue_duration_seconds_count", model="assistant") == waited + 1


def test_the_rate_is_that_of_what_follows_the_first_token(client) -> None:
    asked = {"model": "gated", "messages": HELLO, "stream": True}
    client.gate.release()
    with client.stream("POST", "/v1/chat/completions", json=asked) as answer:
        lines = answer.iter_lines()
        assert '"a"' in next(line for line in lines if '"content"' in line and '""' not in line)
        client.gate.release(3)
        assert [line for line in lines if line][-1] == "data: [DONE]"
    labels = {"model": "gated", "prompt_size": "up_to_128"}
    assert sample(client, "hedgerow_server_tokens_per_second_count", **labels) == 1


def test_a_tensor_request(client) -> None:
    labels = {"model": "add", "protocol": "oip", "prompt_size": "tensors"}
    before = sample(client, "hedgerow_server_request_duration_seconds_count", **labels)
    waited = sample(client, "hedgerow_server_queue_duration_seconds_count", model="add")
    assert add(client, [1, 2]).status_code == 200
    assert sample(client, "hedgerow_server_request_duration_seconds_count", **labels) == before + 1
    assert sample(client, "hedgerow_server_queue_duration_seconds_count", model="add") == waited + 1


@pytest.mark.parametrize(
    "ask,model,protocol,cause",
    [
        (lambda client: chat(client, "broken"), "broken", "openai", "runtime"),
        (lambda client: chat(client, "nobody"), "unknown", "openai", "not_found"),
        (lambda client: add(client, [1, 2, 3]), "add", "oip", "bad_request"),
        # These never come to a model's name.
        (lambda client: client.post("/v1/chat/completions", content=b"{"), "", "openai", "bad_request"),
        (lambda client: client.post("/v2/health/live"), "", "oip", "method"),
        (lambda client: client.post("/nowhere"), "", "http", "not_found"),
    ],
)
def test_errors_by_cause(client, ask, model, protocol, cause) -> None:
    labels = {"model": model, "protocol": protocol, "cause": cause}
    before = sample(client, "hedgerow_server_errors_total", **labels)
    assert ask(client).status_code >= 400
    assert sample(client, "hedgerow_server_errors_total", **labels) == before + 1


def test_a_probe_that_is_told_no_is_no_error(client) -> None:
    before = client.get("/metrics").text.count("hedgerow_server_errors_total{")
    assert client.get("/v2/models/nobody/ready").status_code == 404
    assert client.get("/nowhere").status_code == 404
    assert client.get("/metrics").text.count("hedgerow_server_errors_total{") == before


def test_callers_cannot_fill_labels(client) -> None:
    def ask(number: int) -> None:
        chat(client, f"m-{number}")
        client.post(f"/v2/models/m-{number}/infer", json={"inputs": []})
        client.post(f"/v2/models/add/versions/{number}/infer", json={"inputs": []})
        client.post(f"/p-{number}", headers={"x-request-id": f"r-{number}", "user-agent": f"u-{number}"})

    def series() -> int:
        return sum(line.startswith("hedgerow_server_") for line in client.get("/metrics").text.splitlines())

    ask(0)
    before = series()
    for number in range(1, 30):
        ask(number)
    assert series() == before


def test_restarts_are_absent_where_they_are_not_known() -> None:
    metrics = Metrics(lambda: 0)
    assert metrics.registry.get_sample_value("hedgerow_server_restarts_total") is None
    metrics.started(runtime="0.1.0", configuration=None, restarts=lambda: 2)
    assert metrics.registry.get_sample_value("hedgerow_server_restarts_total") == 2
