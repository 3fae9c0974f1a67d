"""Messages to a real server on this machine and to real commands."""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hedgerow.errors import UsageError
from hedgerow.rollout import notify
from hedgerow.rollout.events import Closed, HostFinished, HostStarted, Notified, Opened, Outcome, State, Stopped, replay
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import Policy, parse
from hedgerow.rollout.policy.notify import About

SECRET = "Bearer of-nobodys-business"


class Server:
    """Answers with ``codes`` in turn, then 204; keeps what it was sent."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.got: list[tuple[dict[str, str], dict[str, object]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.got.append((dict(self.headers), json.loads(body)))
                code = outer.codes.pop(0) if outer.codes else 204
                self.send_response(code)
                if code == 302:
                    self.send_header("Location", outer.url + "elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.httpd.server_port}/hook/secret-path"
        self.thread = threading.Thread(target=self.httpd.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.httpd.shutdown()
        self.thread.join()
        self.httpd.server_close()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


@pytest.fixture
def state(release: Release) -> State:
    plan = Plan(release=release, policy=Policy(), waves=[["a"], ["b"]])
    made = replay(
        [
            Opened(at="t", plan=plan, by="ada"),
            HostStarted(at="t", host="a", before="assistant@1.0.0"),
            HostFinished(at="t", host="a", outcome=Outcome.REVERTED, reason="wrong answer"),
            Stopped(at="t", reason="1 host(s) failed", undo=True),
        ]
    )
    assert made is not None
    return made


def policy(**channel: object) -> Policy:
    return parse({"notify": [channel]}, where="test")


def send(policy: Policy, state: State, about: About, *, rollout: str = "", **more: Any) -> list[Notified]:
    task = notify.errand(policy, state, about, rollout=rollout)
    return [] if task is None else list(notify.deliver(task, **more))


def test_a_webhook_gets_the_counts_the_reason_and_its_secret(server: Server, state: State) -> None:
    told = send(
        policy(webhook=server.url, secret_env="HOOK"), state, "stopped", rollout="r-1", environ={"HOOK": SECRET}
    )
    headers, body = server.got[0]
    assert headers["Authorization"] == SECRET
    assert (body["about"], body["rollout"], body["stopped"]) == ("stopped", "r-1", "1 host(s) failed")
    assert body["counts"] == {"not_started": 1, "reverted": 1}
    assert [(each.through, each.failed) for each in told] == [("webhook 127.0.0.1", None)]
    assert SECRET not in repr(told)
    assert "secret-path" not in repr(told)


def test_only_what_can_pass_is_tried_again_and_is_the_same_message(server: Server, state: State) -> None:
    server.codes = [503, 429]
    pauses: list[float] = []
    told = send(policy(webhook=server.url), state, "stopped", sleep=pauses.append)
    assert told[0].failed is None
    assert pauses == [1.0, 2.0]
    assert len({headers["Idempotency-Key"] for headers, _ in server.got}) == 1
    server.codes = [404]
    told = send(policy(webhook=server.url), state, "stopped", sleep=pauses.append)
    assert told[0].failed == "it answered 404 (1 try)"
    assert len(server.got) == 4


def test_a_secret_does_not_follow_a_redirect(server: Server, state: State) -> None:
    server.codes = [302]
    told = send(policy(webhook=server.url, secret_env="HOOK"), state, "stopped", environ={"HOOK": SECRET})
    assert told[0].failed is not None
    assert "302" in told[0].failed
    assert len(server.got) == 1


def test_a_server_that_is_gone_is_a_reason_and_no_error(server: Server, state: State) -> None:
    url = server.url.replace(str(server.httpd.server_port), "1")
    told = send(policy(webhook=url, attempts=2), state, "stopped", sleep=lambda _: None)
    assert told[0].failed == "no connection: Connection refused (2 tries)"


def test_an_unset_secret_sends_nothing(server: Server, state: State) -> None:
    told = send(policy(webhook=server.url, secret_env="HOOK"), state, "stopped", environ={})
    assert told[0].failed == "the environment has no HOOK"
    assert server.got == []


def test_a_url_may_itself_be_the_secret(server: Server, state: State) -> None:
    told = send(policy(webhook_env="URL"), state, "stopped", environ={"URL": server.url})
    assert (told[0].failed, len(server.got)) == (None, 1)
    told = send(policy(webhook_env="URL"), state, "stopped", environ={"URL": "file:///etc/passwd"})
    assert told[0].failed == "what URL holds is no URL for a webhook"


def test_a_command_reads_the_message(tmp_path: Path, state: State) -> None:
    copy = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.stdin.read())"
    told = send(policy(command=[sys.executable, "-c", copy, str(tmp_path / "got")]), state, "stopped")
    assert told[0].failed is None
    assert json.loads((tmp_path / "got").read_text())["bundle"] == "assistant@1.1.0"


def test_a_command_that_fails_or_hangs_is_a_reason(state: State) -> None:
    failing = policy(command=[sys.executable, "-c", "import sys; sys.exit('no route to the pager')"])
    assert send(failing, state, "stopped")[0].failed == "it ended with 1: no route to the pager"
    hanging = policy(command=["/bin/sh", "-c", "sleep 60 & wait"], timeout_s=0.2)
    assert send(hanging, state, "stopped")[0].failed == "it took longer than 0.2 s"
    missing = policy(command=["/nowhere/at/all"])
    assert send(missing, state, "stopped")[0].failed == "it does not start: No such file or directory"


def test_a_channel_is_told_of_nothing_else(server: Server, state: State) -> None:
    assert send(policy(webhook=server.url, on=["complete"]), state, "stopped") == []
    assert server.got == []


def test_what_a_rollout_comes_to(state: State, release: Release) -> None:
    assert notify.ending(state) == "stopped"
    opened = replay([Opened(at="t", plan=state.plan, by="ada")])
    assert opened is not None
    assert notify.ending(opened) == "partial"
    opened.apply(Closed(at="t"))
    assert notify.ending(opened) == "partial"


@pytest.mark.parametrize(
    "channel",
    [
        {},
        {"webhook": "https://hooks.example.net/x", "command": ["mail"]},
        {"webhook": "http://hooks.example.net/x", "secret_env": "HOOK"},
        {"webhook": "https://ada:pw@hooks.example.net/x"},
        {"command": ["mail"], "secret_env": "HOOK"},
    ],
)
def test_a_channel_that_cannot_be_right_is_refused(channel: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="notify"):
        policy(**channel)
