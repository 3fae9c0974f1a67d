"""The published description of the REST interface: whole, valid, and fuzzed by it."""

from __future__ import annotations

import http.client
from types import SimpleNamespace
from typing import Any

import pytest
import schemathesis
import server_support as support
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from starlette.routing import Match

from hedgerow.server import access, backends, run
from hedgerow.server.config import Limits
from hedgerow.server.models import Slot
from hedgerow.server.protocols import openapi

LIMITS = Limits(body_bytes=1 << 20, max_tokens=64)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Serves ``add`` and ``assistant``, which says three words."""
    folder = support.write_add(tmp_path_factory.mktemp("add"), 1.0)

    def prepare(plane: Any) -> None:
        for name, backend in (
            ("add", backends.load(folder, threads=1)),
            ("assistant", support.Script(["one ", "two ", "three"])),
        ):
            plane._slots[name] = Slot(name, support.served(backend, name))

    running = support.InProcess(prepare, folder, LIMITS)
    yield running
    running.close()


@pytest.fixture(scope="module")
def api(server):
    return schemathesis.openapi.from_url(f"{server.url}{openapi.PATH}")


def asked(server: Any, path: str) -> tuple[int, Any]:
    return support.ask(http.client.HTTPConnection("127.0.0.1", server.port, timeout=support.PATIENCE_S), path)


def test_every_route_is_described(server) -> None:
    routes = run._public_routes(server.plane, SimpleNamespace(), LIMITS)
    described = openapi.document(routes)["paths"]
    found = {(method, path) for path, operations in described.items() for method in operations}
    assert found == set(openapi.operations(routes)) == set(openapi.OPERATIONS)


def test_no_route_hides_another(server) -> None:
    routes = run._public_routes(server.plane, SimpleNamespace(), LIMITS)
    for method, path in openapi.operations(routes):
        scope = {"type": "http", "method": method.upper(), "path": path, "root_path": ""}
        first = next(route for route in routes if route.matches(scope)[0] is Match.FULL)
        assert first.path == path


def test_it_is_published_and_valid(server, api) -> None:
    status, found = asked(server, openapi.PATH)
    assert status == 200
    api.validate()
    assert found["paths"]["/v2/models/{model}/infer"]["post"]["requestBody"]["required"]


def test_those_who_may_infer_and_those_who_may_look_may_read_it() -> None:
    assert access.rights_for(openapi.PATH) == access.rights_for("/health/live")


# ── whatever it allows, and some that it does not ───────────────────────────


@pytest.mark.parametrize("method, path", list(openapi.OPERATIONS))
def test_nothing_that_a_caller_sends_is_the_servers_failure(server, api, method: str, path: str) -> None:
    operation = api[path][method.upper()]
    modes = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
    cases = st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in modes))
    there = "assistant" if path.startswith("/v1") or "generate" in path else "add"

    @settings(max_examples=20, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(cases, st.booleans())
    def ask(case: Any, exists: Any) -> None:
        # Often a model that is there: else all would end in "no such model".
        if exists and "model" in case.path_parameters:
            case.path_parameters["model"] = there
        if exists and isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = there
        case.call_and_validate(checks=[not_a_server_error], timeout=support.PATIENCE_S)

    ask()
    assert asked(server, "/health/live")[0] == 200
