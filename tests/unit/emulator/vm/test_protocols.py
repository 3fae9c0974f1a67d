"""QMP and the guest agent, against servers that say what real ones say (captured from QEMU 7.2 and agent 10.0)."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hedgerow.emulator.vm.protocols import Agent, Monitor, Silent
from hedgerow.errors import DeviceError

GREETING = {"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}


@pytest.fixture
def serve(tmp_path):
    """Serve a Unix socket by a function: document in, documents out."""
    ends = []

    def start(answer: Callable[[dict], list[bytes]], *, first: bytes = b"", connections: int = 8) -> Path:
        path = tmp_path / "socket"
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        server.listen(1)

        def run() -> None:
            for _ in range(connections):
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                with peer, peer.makefile("rb") as lines:
                    peer.sendall(first)
                    for line in lines:
                        for piece in answer(json.loads(line.lstrip(b"\xff"))):
                            peer.sendall(piece)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        ends.append((server, thread))
        return path

    yield start
    for server, thread in ends:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(timeout=5)


def line(document: object) -> bytes:
    return json.dumps(document).encode() + b"\n"


def test_the_monitor_passes_events_by_while_it_waits_for_an_answer(serve):
    def answer(asked):
        if asked["execute"] == "query-status":
            return [line({"event": "RTC_CHANGE", "data": {}}), line({"return": {"status": "running"}})]
        return [line({"return": {}})]

    with Monitor(serve(answer, first=line(GREETING))) as monitor:
        assert monitor.execute("query-status") == {"status": "running"}


def test_a_refusal_of_qemu_is_told_in_its_words(serve):
    def answer(asked):
        if asked["execute"] == "qmp_capabilities":
            return [line({"return": {}})]
        return [line({"error": {"class": "GenericError", "desc": "No block device can accept snapshots"}})]

    with (
        Monitor(serve(answer, first=line(GREETING))) as monitor,
        pytest.raises(DeviceError, match="No block device can accept snapshots"),
    ):
        monitor.human("savevm x", timeout_s=5)


def test_events_end_with_qemu(serve):
    shutdown = {"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-reset"}}
    replies = iter([[line({"return": {}}), line(shutdown)]])
    path = serve(lambda _: next(replies), first=line(GREETING), connections=1)
    with Monitor(path) as monitor:
        events = monitor.events()
        assert next(events)["data"]["reason"] == "guest-reset"


def test_nobody_there_is_said(tmp_path):
    with pytest.raises(Silent, match="nothing listens"):
        Monitor(tmp_path / "none")


def agent_answers(asked: dict) -> list[bytes]:
    match asked["execute"]:
        case "guest-sync-delimited":
            # What an earlier client never read comes first.
            return [line({"return": {"pid": 1}}), b"\xff" + line({"return": asked["arguments"]["id"]})]
        case "guest-exec":
            assert base64.b64decode(asked["arguments"]["input-data"]) == b"in"
            return [line({"return": {"pid": 77}})]
        case "guest-exec-status":
            assert asked["arguments"] == {"pid": 77}
            out = base64.b64encode(b"said\n").decode()
            return [line({"return": {"exited": True, "exitcode": 3, "out-data": out}})]
        case other:
            return [line({"error": {"class": "CommandNotFound", "desc": f"no {other}"}})]


def test_a_program_in_the_guest_gives_its_words_and_its_exit_code(serve):
    done = Agent(serve(agent_answers)).run(["false"], stdin=b"in")
    assert (done.returncode, done.stdout, done.stderr) == (3, "said\n", "")


def test_a_program_that_was_killed_has_the_code_of_a_shell(serve):
    def answer(asked):
        if asked["execute"] == "guest-exec-status":
            return [line({"return": {"exited": True, "signal": 9}})]
        return agent_answers(asked)

    assert Agent(serve(answer)).run(["x"], stdin=b"in").returncode == 137


def test_a_program_that_does_not_end_is_left_after_its_time(serve):
    def answer(asked):
        if asked["execute"] == "guest-exec-status":
            return [line({"return": {"exited": False}})]
        return agent_answers(asked)

    with pytest.raises(Silent, match="still runs"):
        Agent(serve(answer)).run(["sleep", "9"], stdin=b"in", timeout_s=0)
