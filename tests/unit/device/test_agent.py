"""The agent over real links, notes and locks; the question and the server are doubles."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hedgerow import filelock
from hedgerow.device import activation as activations
from hedgerow.device import events, heartbeat, links
from hedgerow.device.activation import LOCK, Activation
from hedgerow.device.agent import BEAT_S, LOOK_S, Agent
from hedgerow.device.config import DeviceConfig
from hedgerow.device.control import ServerDownError, Status
from hedgerow.device.restarting import RuntimeSlot, Service
from hedgerow.device.transition import Pending
from hedgerow.device.watchdog import AgentConfig, Answer, Look
from hedgerow.errors import DeviceError
from hedgerow.registry.reference import Reference

START = datetime(2026, 11, 21, 12, tzinfo=UTC)
GOOD, BAD = Look(Answer.ANSWERED), Look(Answer.FAILED, "it said 'no'")


class Server:
    """Serves whatever it is told to; ``down`` refuses to answer."""

    def __init__(self) -> None:
        self.serving: Reference | None = Reference("assistant", "2.0.0")
        self.prepared: Reference | None = None
        self.down = False
        self.runtime: Callable[[], str | None] = lambda: None

    def status(self) -> Status:
        if self.down:
            raise ServerDownError("nobody answers")
        return Status(self.serving, self.prepared, runtime=self.runtime())

    def prepare(self, name: str, version: str) -> dict[str, Any]:
        self.prepared = Reference(name, version)
        return {}

    def switch(self, name: str, version: str) -> dict[str, Any]:
        self.serving, self.prepared = Reference(name, version), None
        return {}

    def discard(self, name: str, version: str) -> None:
        self.prepared = None


class Device:
    """2.0.0 was activated over 1.0.0 and waits for its confirmation."""

    def __init__(self, root: Path) -> None:
        self.config = DeviceConfig(
            fleet="f", site="s", host="h", serial="0", registry_url="https://r", serving_model="assistant",
            models_dir=root / "models", activation_dir=root / "activation", agent=AgentConfig(),
        )  # fmt: skip
        self.home = self.config.models_dir / "assistant"
        for version in ("1.0.0", "2.0.0"):
            (self.home / version).mkdir(parents=True)
        self.config.activation_dir.mkdir()
        links.point(self.home, links.CURRENT, "2.0.0")
        links.point(self.home, links.PREVIOUS, "1.0.0")
        self.pend("1.0.0")
        self.server, self.looks, self.asked, self.passed_s = Server(), [GOOD], 0, 0.0
        self.beats = root / "run/heartbeat.json"
        self.agent = Agent(
            self.config, self, Activation(self.config.models_dir, self.config.activation_dir, self.server),
            beats=self.beats, now=lambda: START + timedelta(seconds=self.passed_s), clock=lambda: self.passed_s,
        )  # fmt: skip

    def pend(self, before: str | None, **change: Any) -> None:
        values = {
            "name": "assistant", "from_": before, "to": "2.0.0", "since": START,
            "deadline": START + timedelta(minutes=10), "boot_id": "b", "deadline_boottime_s": 1e9,
        }  # fmt: skip
        links.write_pending(self.config.activation_dir, Pending(**values | change))

    def look(self) -> Look:
        """The question: the looks that a test has set, the last one for ever."""
        self.asked += 1
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.agent.step()
            self.passed_s += 1

    @property
    def current(self) -> str | None:
        return links.target(self.home, links.CURRENT)

    @property
    def log(self) -> list[tuple[str, str]]:
        return [(line["event"], line["model"]) for line in events.read(self.config.activation_dir)]

    @property
    def beat(self) -> heartbeat.Heartbeat:
        found = heartbeat.read(self.beats)
        assert found is not None
        return found


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_a_pending_version_that_fails_goes_back_long_before_its_deadline(device: Device) -> None:
    device.looks = [BAD]
    device.run(11)
    assert (device.current, device.server.serving) == ("1.0.0", Reference("assistant", "1.0.0"))
    assert links.read_pending(device.config.activation_dir) is None
    reverted = events.read(device.config.activation_dir)[-1]
    assert (reverted["event"], reverted["model"]) == ("reverted", "assistant@2.0.0")
    assert "own watchdog: 3 canonical questions in a row failed: it said 'no'" in reverted["reason"]


def test_after_the_revert_it_watches_the_version_before(device: Device) -> None:
    device.looks = [BAD, BAD, BAD, GOOD]
    device.run(20)
    assert device.log == [("fails its watchdog", "assistant@2.0.0"), ("reverted", "assistant@2.0.0")]
    assert (device.beat.failures, device.beat.failing) == (0, None)


def test_a_version_that_answers_is_left_to_whoever_confirms_it(device: Device) -> None:
    device.looks = [BAD, BAD, GOOD]
    device.run(600)
    assert (device.current, device.log) == ("2.0.0", [])
    assert links.read_pending(device.config.activation_dir) is not None


def test_a_confirmed_version_is_reported_and_never_reverted(device: Device) -> None:
    links.remove_pending(device.config.activation_dir)
    device.looks = [BAD]
    device.run(3600)
    assert device.current == "2.0.0"
    assert device.log == [("fails its watchdog", "assistant")]
    assert device.beat.failures > 3
    assert "it said 'no'" in str(device.beat.failing)
    device.looks = [GOOD]
    device.run(120)
    assert device.log[1:] == [("answers again", "assistant")]
    assert device.beat.failing is None


def test_what_failed_before_its_confirmation_is_not_held_against_it_afterwards(device: Device) -> None:
    device.looks = [BAD]
    device.run(6)
    links.remove_pending(device.config.activation_dir)
    device.looks = [GOOD]
    device.run(1)
    assert (device.beat.failures, device.current) == (0, "2.0.0")


def test_a_first_activation_is_kept_however_it_answers(device: Device) -> None:
    device.pend(None)
    device.looks = [BAD]
    device.run(60)
    assert device.current == "2.0.0"
    assert device.log == [("fails its watchdog", "assistant@2.0.0")]


def test_what_is_on_its_way_back_is_not_reverted_twice(device: Device) -> None:
    device.pend("1.0.0", reverting="somebody wanted it")
    device.looks = [BAD]
    device.run(60)
    assert device.current == "2.0.0"  # whoever reverts has the lock, or the next command recovers it


def test_a_damaged_note_reverts_nothing(device: Device) -> None:
    (device.config.activation_dir / links.PENDING).write_bytes(b"{")
    device.looks = [BAD]
    device.run(60)
    assert device.current == "2.0.0"


def test_whoever_holds_the_lock_decides(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A confirmation that came while the agent waited for the lock counts: there is nothing to give up any more."""
    device.looks = [BAD]
    device.run(10)
    lock = device.config.activation_dir / LOCK
    waiting = threading.Event()
    exclusive = filelock.exclusive

    def seen(*arguments: Any, **options: Any) -> Any:
        waiting.set()
        return exclusive(*arguments, **options)

    with exclusive(lock, wait_s=0, work="confirming"):
        monkeypatch.setattr(activations.filelock, "exclusive", seen)
        thread = threading.Thread(target=device.agent.step)
        thread.start()
        assert waiting.wait(10)
        links.remove_pending(device.config.activation_dir)
    thread.join(10)
    assert (device.current, [event for event, _ in device.log]) == ("2.0.0", ["fails its watchdog"])


def test_a_lock_that_is_not_given_up_is_tried_again(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "LOCK_WAIT_S", 0.0)
    device.looks = [BAD]
    with filelock.exclusive(device.config.activation_dir / LOCK, wait_s=0, work="hanging"):
        device.run(13)
        assert device.current == "2.0.0"
    device.run(5)
    assert device.current == "1.0.0"


def test_a_server_that_is_down_is_no_obstacle(device: Device) -> None:
    device.server.down = True
    device.looks = [Look(Answer.UNREADY, "nobody answers")]
    device.run(int(device.config.agent.patience_s) + 10)
    assert device.current == "1.0.0"
    assert "will load it when it starts" in events.read(device.config.activation_dir)[-1]["reason"]


def test_beats_go_on_between_questions_and_tell_the_last_good_answer(device: Device) -> None:
    links.remove_pending(device.config.activation_dir)
    device.run(1)
    assert device.beat == heartbeat.Heartbeat(START, START, 0, None)
    device.looks = [BAD]
    device.run(60)
    assert (device.asked, device.beat.last_answer) == (2, START)
    assert START + timedelta(seconds=60 - BEAT_S) <= device.beat.at <= START + timedelta(seconds=60)


def test_a_disk_that_takes_no_line_stops_nothing(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(events, "append", full)
    monkeypatch.setattr(heartbeat, "write", full)
    device.looks = [BAD]
    device.run(11)
    assert device.current == "1.0.0"


def test_applications_are_looked_at_whatever_their_switch_does(device: Device) -> None:
    looked: list[int] = []

    def look() -> None:
        looked.append(device.passed_s)
        if len(looked) == 2:
            raise DeviceError("nobody starts applications")

    activation = Activation(device.config.models_dir, device.config.activation_dir, device.server)
    device.agent = Agent(
        device.config,
        device,
        activation,
        beats=device.beats,
        now=lambda: START,
        clock=lambda: device.passed_s,
        look=look,
    )
    device.looks = [GOOD]
    device.run(18)
    assert [later - earlier for earlier, later in pairwise(looked)] == [LOOK_S] * (len(looked) - 1)
    assert len(looked) >= 3
    assert device.beat is not None


def test_an_unreadable_beat_is_none(tmp_path: Path) -> None:
    assert heartbeat.read(tmp_path / "no") is None
    (tmp_path / "torn").write_bytes(b'{"at": "2026-')
    assert heartbeat.read(tmp_path / "torn") is None


class Switch:
    """Restarts the server double with the runtime that ``current`` names, which it points by itself."""

    def __init__(self, home: Path, server: Server) -> None:
        self.home, self.server, self.restarts = home, server, 0

    def restart(self) -> None:
        self.restarts += 1
        self.server.down = False

    def point(self, link: str, version: str | None) -> None:
        links.point(self.home, link, version)


def test_an_unconfirmed_runtime_that_fails_is_taken_back_by_the_one_before(device: Device) -> None:
    home = device.config.models_dir.parent / "runtime"
    for version in ("old", "new"):
        (home / version).mkdir(parents=True)
    switch = Switch(home, device.server)
    for link, version in (("current", "new"), ("previous", "old"), ("confirmed", "old")):
        switch.point(link, version)
    service = Service(device.server, switch, device.home, monotonic=lambda: 0.0, sleep=lambda _: None)
    device.server.runtime = lambda: links.target(home, "current")
    slot = RuntimeSlot(home, service, configuration=Path("/nowhere"))
    config = msgspec.structs.replace(device.config, runtime_dir=home)
    activation = Activation(config.models_dir, config.activation_dir, device.server, others=(slot,))
    device.agent = Agent(
        config, device, activation, beats=device.beats, now=lambda: START, clock=lambda: device.passed_s
    )
    device.pend("old", kind="runtime", name="runtime", to="new")
    device.server.down = True
    device.looks = [BAD, BAD, BAD, GOOD]
    device.run(30)
    assert (links.target(home, "current"), links.target(home, "confirmed"), switch.restarts) == ("old", "old", 1)
    assert links.read_pending(config.activation_dir) is None
    assert device.log == [("fails its watchdog", "runtime:new"), ("reverted", "runtime:new")]
    assert device.current == "2.0.0", "a model has changed"
