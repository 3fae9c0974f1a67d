"""Messages are sent beside a rollout, by a real process; nothing waits for a channel, and nothing is told twice."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hedgerow.rollout import lease, messenger, sender, store
from hedgerow.rollout.events import Closed, Event, HostFinished, Notified, Opened, Outcome, Resumed, Stopped, Telling
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.messenger import GRACE_S, Messenger
from hedgerow.rollout.notify import Errand
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import parse


class Hook:
    """A webhook that answers after it is let go; counts what it got."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.go = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.got.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
                outer.go.wait(30)
                self.send_response(204)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.httpd.server_port}/hook"
        threading.Thread(target=self.httpd.serve_forever, kwargs={"poll_interval": 0.01}).start()

    def until(self, number: int) -> None:
        deadline = time.monotonic() + 20
        while len(self.got) < number and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(self.got) == number

    def close(self) -> None:
        self.go.set()
        self.httpd.shutdown()
        self.httpd.server_close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.close()


class Told:
    """A rollout that tells ``url``, and the processes that it began."""

    def __init__(self, folder: Path, release: Release, url: str) -> None:
        self.said: list[str] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.journal = Journal(folder)
        policy = parse({"notify": [{"webhook": url, "timeout_s": 20}]}, where="test")
        self.plan = Plan(release=release, policy=policy, waves=[["a"], ["b"]])
        self.journal.append(Opened(at="t", plan=self.plan, by="ada"))

    def messenger(self) -> Messenger:
        return Messenger(self.journal, self.said.append, send=self.send)

    def send(self, journal: Journal, task: Errand) -> subprocess.Popen[bytes]:
        process = sender.start(journal, task)
        self.processes.append(process)
        return process

    def happened(self, *kinds: type[Event]) -> list[Event]:
        return [event for event in self.journal.events() if isinstance(event, kinds)]

    def ended(self) -> None:
        for process in self.processes:
            process.wait(20)


@pytest.fixture
def rollout(folder: Path, release: Release) -> Iterator[Callable[[str], Told]]:
    lease.take(folder.parent, folder.name, pid=os.getpid(), by="ada", since="now")
    made: list[Told] = []

    def make(url: str) -> Told:
        made.append(Told(folder, release, url))
        return made[-1]

    yield make
    for each in made:
        for process in each.processes:
            process.kill()
            process.wait()


def test_nobody_waits_for_a_channel_that_hangs(rollout, hook: Hook) -> None:
    there = rollout(hook.url)
    began = time.monotonic()
    there.messenger().tell("waiting")
    assert time.monotonic() - began < 10
    hook.until(1)
    # The wait is over, and its process with it; what the channel answers then is journaled all the same.
    hook.go.set()
    there.ended()
    [begun, told] = there.happened(Telling, Notified)
    assert (begun.about, begun.through) == ("waiting", ["webhook 127.0.0.1"])
    assert (told.about, told.failed, told.known, told.message) == ("waiting", None, True, begun.message)


def test_the_end_gives_it_a_bounded_time_and_says_that_nothing_is_known(rollout, hook: Hook) -> None:
    there = rollout(hook.url)
    there.messenger().tell("waiting")
    hook.until(1)
    there.journal.append(Stopped(at="t", reason="smoke"))
    began = time.monotonic()
    there.messenger().tell_end()
    assert time.monotonic() - began < GRACE_S + 10
    store.close(there.journal, pid=os.getpid())
    # Both were given up by the journal, not by their sender: they get there.
    hook.until(2)
    hook.go.set()
    there.ended()
    told = there.happened(Notified)
    assert [(each.about, each.known) for each in told] == [("waiting", False), ("stopped", False)]
    assert "had not answered when the rollout ended" in there.said[0]
    assert isinstance(there.journal.events()[-1], Closed)
    assert len(hook.got) == 2


def test_what_answers_at_once_is_in_the_journal_before_its_end(rollout, hook: Hook) -> None:
    hook.go.set()
    there = rollout(hook.url)
    there.journal.append(Stopped(at="t", reason="smoke"))
    there.messenger().tell_end()
    [told] = there.happened(Notified)
    assert (told.about, told.failed, told.known) == ("stopped", None, True)
    assert there.said == []


def test_a_run_that_was_cut_off_at_its_very_end_tells_it_once(rollout, hook: Hook) -> None:
    hook.go.set()
    there = rollout(hook.url)
    there.journal.append(Stopped(at="t", reason="smoke"))
    there.messenger().tell_end()
    there.journal.append(Resumed(at="t", plan=there.plan, by="ada"))
    there.messenger().tell_end()
    assert len(hook.got) == 1
    there.journal.append(HostFinished(at="t", host="a", outcome=Outcome.REFUSED, reason="full"))
    there.messenger().tell_end()
    assert len(hook.got) == 2


def test_what_did_not_get_there_is_said_in_a_wait(rollout) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        there = rollout(f"http://127.0.0.1:{nobody.getsockname()[1]}/hook")
    there.plan.policy.notify[0] = parse(
        {"notify": [{"webhook": there.plan.policy.notify[0].webhook, "attempts": 1}]}, where="test"
    ).notify[0]
    there.journal.append(Resumed(at="t", plan=there.plan, by="ada"))
    messages = there.messenger()
    messages.tell("waiting")
    messages.collect()
    assert there.said == []
    there.ended()
    messages.collect()
    messages.collect()
    assert there.said == [
        "told about waiting through webhook 127.0.0.1, which failed: no connection: Connection refused (1 try)"
    ]


def test_nobody_who_wants_to_know_costs_no_process(rollout, hook: Hook) -> None:
    there = rollout(hook.url)
    there.journal.append(
        Resumed(at="t", plan=Plan(release=there.plan.release, policy=parse({}, where="t"), waves=[["a"]]), by="ada")
    )
    there.messenger().tell_end()
    assert there.processes == []
    assert there.happened(Telling, Notified) == []


def test_each_channel_of_one_name_has_its_own_answer() -> None:
    begun = Telling(at="t", about="complete", through=["webhook x", "webhook x"], message="m")
    one = Notified(at="t", about="complete", through="webhook x", message="m")
    assert messenger.unanswered([begun]) == [(begun, "webhook x")] * 2
    assert messenger.unanswered([begun, one]) == [(begun, "webhook x")]
    assert messenger.unanswered([begun, one, one]) == []
    # Of older journals, which have no keys.
    assert messenger.unanswered([Notified(at="t", about="complete", through="webhook x")]) == []
