"""What the server takes up by a restart: its runtime and its configuration, tried, switched to, and gone back from."""

from __future__ import annotations

import json
import shutil
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hedgerow.device import events, links, switch
from hedgerow.device.change import configuration_version
from hedgerow.device.restarting import CONFIRMED

MODEL = "assistant@1.0.0"
OLD_RUNTIME, NEW_RUNTIME = "0.1.0+aaaaaaaaaaaa", "0.1.0+bbbbbbbbbbbb"
LATE = 3601.0  # the deadlines below are an hour
IDENTITY = "fleet: meadow-faults\nsite: orchard\nhost: pi\nserial: '2222222222222222'\nmodel: assistant\n"
OLD_TEXT, NEW_TEXT = IDENTITY, IDENTITY + "threads: 2\n"
OLD_CONFIGURATION, NEW_CONFIGURATION = (configuration_version(text.encode()) for text in (OLD_TEXT, NEW_TEXT))


@dataclass
class Switch:
    """The device's switch, really spoken to; systemd is ``server``. ``broken`` names what no server starts with."""

    server: object
    root: Path
    broken: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def run(self, command) -> str | None:
        self.asked.append(" ".join(command))
        if "restart" not in command:
            return None
        self.server.restart()
        bad = {self.server.runtime, self.server.configuration} & self.broken
        if bad:
            # Down, and systemd tries again and again with what the links name.
            self.server.deaf = "status"
            return f"Job for hedgerow-server.service failed with {bad}"
        self.server.deaf = None
        return None

    def answer(self, line: str) -> bytes:
        return json.dumps(switch.answer(line, root=self.root, run=self.run)).encode()


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(self.server.double.answer(self.rfile.readline().decode()))


class _Listener(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    double: Switch

    def handle_error(self, request, client_address) -> None:
        """A client that was killed is what these tests are about."""


@pytest.fixture
def switched(device, server) -> Iterator[Switch]:
    """The switch of a device that runs an old runtime with an old configuration, with the new ones beside them."""
    config = device.config
    for version in (OLD_RUNTIME, NEW_RUNTIME):
        program = config.runtime_dir / version / "bin"
        program.mkdir(parents=True)
        for name in ("python", "hedgerow-device"):
            (program / name).write_text(f"#!/bin/sh\n[ ! -e {program}/broken ] || {{ echo no module; exit 1; }}\n")
            (program / name).chmod(0o755)
        (config.runtime_dir / version / switch.MARKER).write_text("{}")
    for version, text in ((OLD_CONFIGURATION, OLD_TEXT), (NEW_CONFIGURATION, NEW_TEXT)):
        (config.configuration_dir / version).mkdir()
        (config.configuration_dir / version / "server.yml").write_text(text)
    links.point(config.runtime_dir, links.CURRENT, OLD_RUNTIME)
    links.point(config.runtime_dir, CONFIRMED, OLD_RUNTIME)
    links.point(config.configuration_dir, links.CURRENT, OLD_CONFIGURATION)
    double = Switch(server, config.runtime_dir)
    config.switch_socket.unlink(missing_ok=True)
    listener = _Listener(str(config.switch_socket), _Handler)
    listener.double = double
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield double
    listener.shutdown()
    listener.server_close()
    thread.join()
    config.switch_socket.unlink(missing_ok=True)


@dataclass(frozen=True)
class Thing:
    """One of the two, as a test looks at it."""

    kind: str
    old: str
    new: str

    @property
    def change(self) -> str:
        return f"{self.kind}:{self.new}"

    @property
    def activate(self) -> tuple[str, ...]:
        return ("activate", self.change, "--confirm-within", "3600")

    def home(self, device) -> Path:
        return getattr(device.config, f"{self.kind}_dir")

    def links(self, device) -> tuple[str | None, str | None]:
        home = self.home(device)
        return links.target(home, links.CURRENT), links.target(home, links.PREVIOUS)

    def runs(self, server) -> str | None:
        return getattr(server, self.kind)


THINGS = [
    Thing("runtime", OLD_RUNTIME, NEW_RUNTIME),
    Thing("configuration", OLD_CONFIGURATION, NEW_CONFIGURATION),
]
each = pytest.mark.parametrize("thing", THINGS, ids=lambda thing: thing.kind)


@pytest.fixture
def served(command, switched, server):
    """A model is served and confirmed, by a server that knows what it was started with."""
    assert command("activate", MODEL).code == 0
    assert command("confirm", MODEL).code == 0
    server.restart()
    server.starts = 0


def confirmed(device) -> str | None:
    return links.target(device.config.runtime_dir, CONFIRMED)


@each
@pytest.mark.usefixtures("served")
def test_activated_confirmed_and_reverted(thing, command, device, server):
    done = command(*thing.activate)
    assert done.code == 0, done.stderr
    assert (done.json["changed"], done.json["change"], done.json["before"]) == (
        True, thing.change, f"{thing.kind}:{thing.old}",
    )  # fmt: skip
    assert done.json["load_s"] is not None
    assert (thing.links(device), thing.runs(server), server.starts) == ((thing.new, thing.old), thing.new, 1)
    assert device.pending.kind == thing.kind
    assert command(*thing.activate).json["changed"] is False
    assert server.starts == 1, "started again for nothing"
    assert confirmed(device) == OLD_RUNTIME, "an unconfirmed runtime must not judge itself"
    assert command("confirm", thing.change).json["changed"] is True
    assert device.pending is None
    assert confirmed(device) == (NEW_RUNTIME if thing.kind == "runtime" else OLD_RUNTIME)
    back = command("revert", "--kind", thing.kind, "--reason", "slow")
    assert (back.code, back.json["change"]) == (0, f"{thing.kind}:{thing.old}"), back.stderr
    assert (thing.links(device), thing.runs(server)) == ((thing.old, None), thing.old)
    assert confirmed(device) == OLD_RUNTIME
    assert server.serving == "1.0.0"
    assert command("revert", "--kind", thing.kind).code == 3


@each
@pytest.mark.usefixtures("served")
def test_a_server_that_does_not_start_with_it_is_brought_back_at_once(thing, command, device, server, switched):
    switched.broken.add(thing.new)
    done = command(*thing.activate)
    assert done.code == 1
    assert "the server did not start" in done.error["what"]
    assert (thing.links(device), thing.runs(server), device.pending) == ((thing.old, None), thing.old, None)
    assert server.serving == "1.0.0"
    assert "its activation failed" in events.read(device.config.activation_dir)[-1]["reason"]


@each
@pytest.mark.usefixtures("served")
def test_a_server_that_comes_up_without_its_model_is_brought_back(thing, command, device, server, monkeypatch):
    restart = type(server).restart

    def without_model(self) -> None:
        restart(self)
        if thing.runs(self) == thing.new:
            self.serving = None

    monkeypatch.setattr(type(server), "restart", without_model)
    done = command(*thing.activate)
    assert done.code == 1
    assert "serves no model, not assistant@1.0.0" in done.error["what"]
    assert (thing.links(device), thing.runs(server), server.serving) == ((thing.old, None), thing.old, "1.0.0")


@each
@pytest.mark.usefixtures("served")
def test_nobody_confirms_and_nothing_of_the_new_one_can_be_started(thing, command, device, server, switched):
    assert command(*thing.activate).code == 0
    switched.broken.add(thing.new)
    server.deaf = "status"
    shutil.rmtree(thing.home(device) / thing.new / "bin", ignore_errors=True)
    early = command("revert", "--if-overdue")
    assert (early.code, early.json["changed"]) == (0, False), early.stderr
    assert server.starts == 1, "a look at the deadline restarted the server"
    late = command("revert", "--if-overdue", boottime_offset_s=LATE)
    assert (late.code, late.json["changed"]) == (0, True), late.stderr
    assert (thing.links(device), thing.runs(server), device.pending) == ((thing.old, None), thing.old, None)
    assert (server.serving, server.deaf, confirmed(device)) == ("1.0.0", None, OLD_RUNTIME)


@each
@pytest.mark.usefixtures("served")
def test_without_its_switch_nothing_changes_and_it_says_what_to_type(thing, command, device, server):
    device.config.switch_socket.rename(device.config.switch_socket.with_suffix(".gone"))
    done = command(*thing.activate)
    device.config.switch_socket.with_suffix(".gone").rename(device.config.switch_socket)
    assert done.code == 1
    assert "hedgerow-switch.socket" in done.error["next"]
    assert (thing.links(device)[0], thing.runs(server)) == (thing.old, thing.old)
    assert command("revert", "--if-overdue").code == 0
    assert (thing.links(device), device.pending) == ((thing.old, None), None)


@each
@pytest.mark.usefixtures("served")
def test_one_thing_changes_at_a_time(thing, command, registry, make_bundle, device):
    registry.publish(make_bundle("1.1.0"))
    assert command(*thing.activate).code == 0
    refused = command("activate", "assistant@1.1.0")
    assert (refused.code, f"{thing.change} waits to be confirmed" in refused.error["what"]) == (3, True)
    assert command("revert", "--kind", "model").code == 3
    assert command("revert").json["change"] == f"{thing.kind}:{thing.old}"
    assert command("activate", "assistant@1.1.0").code == 0
    refused = command(*thing.activate)
    assert (refused.code, "assistant@1.1.0 waits to be confirmed" in refused.error["what"]) == (3, True)
    assert thing.links(device)[0] == thing.old


@pytest.mark.usefixtures("served")
def test_a_runtime_that_imports_nothing_is_never_switched_to(command, device, server):
    (device.config.runtime_dir / NEW_RUNTIME / "bin/broken").touch()
    done = command(*THINGS[0].activate)
    assert (done.code, "no module" in done.error["what"]) == (1, True)
    assert (THINGS[0].links(device), device.pending, server.starts) == ((OLD_RUNTIME, None), None, 0)


@pytest.mark.usefixtures("served")
def test_without_a_way_back_nothing_is_begun(command, device, server):
    (device.config.runtime_dir / OLD_RUNTIME / switch.MARKER).unlink()
    done = command(*THINGS[0].activate)
    assert (done.code, "could not be gone back to" in done.error["what"]) == (3, True)
    (device.config.configuration_dir / OLD_CONFIGURATION / "server.yml").write_text("was edited by hand\n")
    assert command(*THINGS[1].activate).code == 3
    assert (device.pending, server.starts) == (None, 0)


@pytest.mark.usefixtures("served")
def test_what_is_not_here_is_not_activated(command):
    for change, says in (("runtime:9.9.9", "is not on this device"), ("configuration:000000000000", "is not whole")):
        for verb in ("stage", "activate"):
            if (verb, change[0]) != ("stage", "c"):
                done = command(verb, change)
                assert (done.code, says in done.error["what"]) == (2, True), (verb, change)


@pytest.mark.usefixtures("served")
def test_a_configuration_is_staged_from_standard_input(command, device):
    text = IDENTITY + "threads: 3\n"
    version = configuration_version(text.encode())
    done = command("stage", f"configuration:{version}", stdin=text)
    assert (done.code, done.json["changed"], done.json["new_bytes"]) == (0, True, len(text)), done.stderr
    file = device.config.configuration_dir / version / "server.yml"
    pattern = (device.config.configuration_dir / OLD_CONFIGURATION / "server.yml").stat()
    assert (file.read_text(), file.stat().st_mode, file.stat().st_gid) == (text, pattern.st_mode, pattern.st_gid)
    assert command("stage", f"configuration:{version}", stdin=text).json["changed"] is False
    assert command("stage", f"configuration:{version}", "--here").code == 0
    file.write_text("was edited by hand\n")
    assert command("stage", f"configuration:{version}", "--here").code == 1
    assert command("stage", f"configuration:{version}", stdin=text).json["changed"] is True
    assert command("activate", f"configuration:{version}").code == 0


@pytest.mark.parametrize(
    "text, code, says",
    [
        (IDENTITY + "threads: many\n", 2, "threads"),
        (IDENTITY + "treads: 2\n", 2, "treads"),
        (IDENTITY.replace("host: pi", "host: another"), 3, "its host is another, this device's is pi"),
        (IDENTITY.replace("model: assistant", "model: other"), 3, "its model is other"),
    ],
)
@pytest.mark.usefixtures("served")
def test_a_configuration_that_the_server_would_refuse_is_not_staged(text, code, says, command, device):
    version = configuration_version(text.encode())
    done = command("stage", f"configuration:{version}", stdin=text)
    assert (done.code, says in done.error["what"]) == (code, True), done.stderr
    assert not (device.config.configuration_dir / version).exists()


@pytest.mark.usefixtures("served")
def test_another_text_than_was_named_is_not_staged(command):
    done = command("stage", "configuration:000000000000", stdin=NEW_TEXT)
    assert (done.code, f"configuration:{NEW_CONFIGURATION}" in done.error["what"]) == (2, True)


# -- kill -9 -------------------------------------------------------------------

CASES = {
    "upgrade": ([], "activate", 0.0),
    "confirm": (["activate"], "confirm", 0.0),
    "revert of a pending one": (["activate"], "revert", 0.0),
    "revert of a confirmed one": (["activate", "confirm"], "revert", 0.0),
    "deadline": (["activate"], "deadline", LATE),
}


def words(verb: str, thing: Thing) -> tuple[str, ...]:
    return {
        "activate": thing.activate,
        "confirm": ("confirm", thing.change),
        "revert": ("revert", "--kind", thing.kind, "--reason", "slow"),
        "deadline": ("revert", "--if-overdue"),
    }[verb]


class Snapshot:
    """The device as it was before the command, to go back to before every kill."""

    FOLDERS = ("runtime", "configuration", "activation")

    def __init__(self, device, server) -> None:
        self.device, self.server = device, server
        for name in self.FOLDERS:
            shutil.copytree(device.root / name, device.root / "kept" / name, symlinks=True)

    def restore(self) -> None:
        for name in self.FOLDERS:
            shutil.rmtree(self.device.root / name)
            shutil.copytree(self.device.root / "kept" / name, self.device.root / name, symlinks=True)
        self.server.restart()
        self.server.deaf = None


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [False, True], ids=["server stays up", "board boots anew"])
@pytest.mark.parametrize("case", CASES)
@each
@pytest.mark.usefixtures("served")
def test_killed_at_every_step(thing, case, restarts, command, device, server):  # noqa: PLR0917
    before, verb, offset = CASES[case]
    argv = words(verb, thing)
    for word in before:
        assert command(*words(word, thing)).code == 0
    kept = Snapshot(device, server)
    whole = command(*argv, boottime_offset_s=offset)
    assert whole.code == 0, whole.stderr
    after = (thing.links(device), confirmed(device))
    assert whole.steps > 3, "nothing was counted, so nothing would be killed"
    for step in range(1, whole.steps + 1):
        kept.restore()
        killed = command(*argv, boottime_offset_s=offset, kill_at=step)
        assert killed.code == -9, (step, killed)
        if restarts:
            server.restart()
        current = thing.links(device)[0]
        assert current in {thing.old, thing.new}
        if verb == "activate" and current == thing.new:
            assert device.pending is not None, f"in service without a deadline after a kill at step {step}"
        again = command(*argv, boottime_offset_s=offset)
        if verb == "revert" and again.code == 3:
            assert "to go back to" in again.error["what"]
        else:
            assert again.code == 0, (step, again.stderr)
        assert (thing.links(device), confirmed(device)) == after, step
        assert (thing.runs(server), server.serving) == (after[0][0], "1.0.0"), step
        assert (device.pending is not None) == (verb == "activate"), step


@pytest.mark.slow
@each
@pytest.mark.usefixtures("served")
def test_killed_upgrades_end_by_their_deadline(thing, command, device, server):
    """Nobody types anything: the timer alone must bring an unconfirmed version back."""
    kept = Snapshot(device, server)
    steps = command(*thing.activate).steps
    reverted = 0
    for step in range(1, steps + 1):
        kept.restore()
        command(*thing.activate, kill_at=step)
        reverted += thing.links(device)[0] == thing.new
        timer = command("revert", "--if-overdue", boottime_offset_s=LATE)
        assert timer.code == 0, timer.stderr
        assert (thing.links(device), device.pending) == ((thing.old, None), None), step
        assert (thing.runs(server), server.serving, confirmed(device)) == (thing.old, "1.0.0", OLD_RUNTIME), step
    assert reverted > 0, "no kill came after the switch"


@pytest.mark.usefixtures("switched")
def test_a_report_without_a_server_says_what_it_would_start_with(command, device):
    device.config.control_socket.unlink(missing_ok=True)
    report = command("report").json
    assert (report["runtime"], report["configuration"]) == (OLD_RUNTIME, OLD_CONFIGURATION)
