"""What a device does without any controller: its agent, its deadline, its drain."""

from __future__ import annotations

import time

import pytest
import rollout_fleet as fleets

from hedgerow.identity.profiles import Profile

pytestmark = [pytest.mark.fleet, pytest.mark.slow, pytest.mark.usefixtures("sound")]


@pytest.fixture(scope="module")
def pi(woods) -> str:
    return str(woods.pis[-1])


@pytest.fixture(scope="module")
def better(woods) -> str:
    return str(woods.release())


def test_the_agent_beats_and_the_model_answers_it(woods, pi) -> None:
    with woods.client(pi) as client:
        agent = client._send("GET", "/health/report").json()["agent"]
    assert agent["failures"] == 0
    assert agent["last_answer"] is not None


def test_an_unconfirmed_version_whose_server_fails_goes_back_before_its_deadline(woods, pi, better, wait) -> None:
    """Ten minutes are left to its deadline; the agent's patience here is 20 s."""
    before = woods.served_by(pi)
    started = time.monotonic()
    assert woods.device(pi, "activate", better, "--confirm-within", "600")["changed"]
    woods.on(pi, "systemctl stop hedgerow-server")
    try:
        home = f"/var/lib/hedgerow/models/{woods.model}"
        version = str(before).partition("@")[2]
        wait(lambda: woods.on(pi, f"readlink {home}/current").strip().endswith(version))
    finally:
        woods.on(pi, "systemctl start hedgerow-server")
    assert time.monotonic() - started < 300
    wait(lambda: woods.served_by(pi) == before)
    last = woods.events(pi)[-1]
    assert (last["event"], last["model"]) == ("reverted", better)
    assert "own watchdog" in last["reason"]


def test_a_confirmed_version_whose_server_fails_is_reported_and_stays(woods, pi, better, wait) -> None:
    woods.device(pi, "activate", better)
    woods.device(pi, "confirm", better)
    woods.on(pi, "systemctl stop hedgerow-server")
    try:
        wait(lambda: woods.events(pi)[-1]["event"] == "fails its watchdog")
    finally:
        woods.on(pi, "systemctl start hedgerow-server")
    wait(lambda: woods.served_by(pi) == better)
    wait(lambda: "watchdog_failing" not in woods.health(pi))
    assert woods.events(pi)[-1]["event"] == "answers again"
    woods.device(pi, "revert", "--reason", "'the test is over'")


def test_whom_nobody_confirms_goes_back_by_its_deadline_and_no_answer_is_missing(woods, pi, better, wait) -> None:
    before = woods.served_by(pi)
    with fleets.Callers(woods, [pi]) as callers:
        woods.device(pi, "activate", better, "--confirm-within", "5")
        wait(lambda: woods.events(pi)[-1]["event"] == "reverted")
    callers.none_failed()
    assert woods.served_by(pi) == before
    assert "nobody confirmed" in woods.events(pi)[-1]["reason"]


def test_the_log_survives_a_power_cut(woods, pi, wait) -> None:
    told = woods.events(pi)
    assert told
    woods.power(pi, "cycle")
    wait(lambda: woods.served_by(pi) is not None)
    assert woods.events(pi)[: len(told)] == told


def test_a_drain_refuses_new_requests_politely_and_ends_by_itself(woods, pi, wait) -> None:
    asked = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [0.0]}]}
    with woods.client(pi, Profile.CLIENT) as client:
        woods.device(pi, "drain", "--within", "20")
        refused = client._send("POST", f"/v2/models/{woods.model}/infer", accept_errors=True, json=asked)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert client._send("GET", "/health/ready", accept_errors=True).status_code == 503
        assert "draining" in woods.health(pi)
        wait(lambda: client._send("GET", "/health/ready", accept_errors=True).status_code == 200)
        client.post(f"/v2/models/{woods.model}/infer", asked)
