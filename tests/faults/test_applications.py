"""Applications: staged, started in place of the version before, gone back from, and killed at every step."""

from __future__ import annotations

import json
import platform
import shutil
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from tests.support import oci

from hedgerow.device import application_switch, events, links
from hedgerow.device.application_switch import Places
from hedgerow.models import pack_application
from hedgerow.models.describing import Description
from hedgerow.models.pack_application import ApplicationRequest
from hedgerow.registry.manifest import Port

LATE = 3601.0  # the deadlines below are an hour
UNIT = "[Service]\nExecStart=/run/application/run\nDynamicUser=yes\nNoNewPrivileges=yes\n"
OLD, NEW = "kiosk@1.0.0", "kiosk@1.1.0"


@dataclass
class Systemd:
    """systemd, as far as applications use it: ``runs`` is the version whose program runs; a boot starts ``current``."""

    root: Path
    broken: set[str] = field(default_factory=set)
    """Versions that end as soon as they are started."""
    silent: set[str] = field(default_factory=set)
    """Versions that listen at no port."""
    runs: str | None = None
    starts: int = 0

    def boot(self) -> None:
        self.runs = links.target(self.root / "kiosk", links.CURRENT)

    def run(self, command) -> tuple[int, str]:
        words = [word for word in command[1:] if not word.startswith("--")]
        if words[0] == "restart":
            self.starts += 1
            self.boot()
            return (1, "Job for it failed.") if self.runs in self.broken else (0, "")
        if words[0] == "stop":
            self.runs = None
        up = self.runs is not None and self.runs not in self.broken
        if words[0] == "is-active":
            return (0 if up else 3), ""
        if words[0] == "show":
            state = "active\nSubState=running\nResult=success" if up else "failed\nSubState=failed\nResult=exit-code"
            return 0, f"Id={words[-1]}\nActiveState={state}\nNRestarts=0\n"
        return 0, ""


class _Listener(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    systemd: Systemd
    places: Places

    def handle_error(self, request, client_address) -> None:
        """A client that was killed is what these tests are about."""


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        systemd = self.server.systemd
        passed = iter(range(0, 10**6, 5))
        switch = application_switch.Switch(
            self.server.places,
            run=systemd.run,
            answers=lambda kind, number: systemd.runs not in systemd.silent,
            sleep=lambda _: None,
            monotonic=lambda: float(next(passed)),
        )
        self.wfile.write(json.dumps(switch.answer(self.rfile.readline().decode())).encode())


@pytest.fixture
def pack(tmp_path):
    def make(version: str, *, unit: str = UNIT) -> Path:
        folder = tmp_path / "source" / version
        folder.mkdir(parents=True)
        (folder / "kiosk.service").write_text(unit)
        (folder / "run").write_text(f"#!/bin/sh\n# {version}\n" * 500)
        said = Description("kiosk", version, "MIT")
        return pack_application.pack(
            ApplicationRequest(folder, said, (Port(8090),)), cache=tmp_path / "packed" / version
        )

    return make


@pytest.fixture
def systemd(device, registry, pack) -> Iterator[Systemd]:
    """A device that the inventory names the application for; two versions are published, and none is here."""
    for version in ("1.0.0", "1.1.0"):
        registry.publish(pack(version))
    root = device.root / "placed"
    (root / "kiosk").mkdir(parents=True)
    (device.root / "run").mkdir()
    (device.root / "applications").mkdir()
    port = device.config.control_socket.stem.rpartition("-")[2]
    device.config = msgspec.structs.replace(
        device.config,
        applications=("kiosk",),
        applications_dir=device.root / "applications",
        application_dir=root,
        application_socket=Path(f"/tmp/hedgerow-applications-{port}.sock"),
    )
    device.config_file.write_bytes(msgspec.yaml.encode(device.config, enc_hook=str))
    path = device.config.application_socket
    path.unlink(missing_ok=True)
    listener = _Listener(str(path), _Handler)
    listener.systemd = Systemd(root)
    listener.places = Places(device.config.applications_dir, root, device.root / "run")
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield listener.systemd
    listener.shutdown()
    listener.server_close()
    thread.join()
    path.unlink(missing_ok=True)


@pytest.fixture
def served(command, systemd, server):
    """A model is served, and the first version of the application runs, confirmed."""
    assert command("activate", "assistant@1.0.0").code == 0
    assert command("confirm", "assistant@1.0.0").code == 0
    done = command("activate", OLD)
    assert done.code == 0, done.stderr
    assert command("confirm", OLD).code == 0
    systemd.starts = 0
    server.asked.clear()
    return server


def both(device) -> tuple[str | None, str | None]:
    home = device.config.application_dir / "kiosk"
    return links.target(home, links.CURRENT), links.target(home, links.PREVIOUS)


ACTIVATE = ("activate", NEW, "--confirm-within", "3600")
REVERT = ("revert", "--kind", "application", "--name", "kiosk", "--reason", "slow")


@pytest.mark.usefixtures("systemd", "server")
def test_staged_by_the_same_trust_as_a_model(command, device, gateway):
    done = command("stage", OLD)
    assert (done.code, done.json["changed"], done.json["change"]) == (0, True, f"application:{OLD}"), done.stderr
    assert done.json["new_bytes"] > 0
    assert (device.config.applications_dir / "kiosk/1.0.0/application.tar").is_file()
    assert any("targets/applications/kiosk/1.0.0/manifest.json" in path for path in gateway.asked)
    assert command("stage", OLD, "--here").code == 0
    assert command("stage", f"application:{OLD}").json["changed"] is False
    assert both(device) == (None, None)
    gateway.alter["targets/applications/kiosk/1.1.0/manifest.json"] = lambda data: data.replace(b"8090", b"8091")
    assert command("stage", NEW).code == 3
    assert not (device.config.applications_dir / "kiosk/1.1.0").exists()


def test_activated_confirmed_and_reverted_while_the_model_is_served(served, command, device, systemd):
    done = command(*ACTIVATE)
    assert done.code == 0, done.stderr
    assert (done.json["changed"], done.json["change"], done.json["before"]) == (
        True, f"application:{NEW}", f"application:{OLD}",
    )  # fmt: skip
    assert (both(device), systemd.runs, systemd.starts) == (("1.1.0", "1.0.0"), "1.1.0", 1)
    assert (device.pending.kind, device.pending.name) == ("application", "kiosk")
    assert command(*ACTIVATE).json["changed"] is False
    assert systemd.starts == 1, "started again for nothing"
    assert command("confirm", NEW).json["changed"] is True
    back = command(*REVERT)
    assert (back.code, back.json["change"]) == (0, f"application:{OLD}"), back.stderr
    assert (both(device), systemd.runs, device.pending) == (("1.0.0", None), "1.0.0", None)
    refused = command(*REVERT)
    assert (refused.code, "to go back to" in refused.error["what"]) == (3, True)
    assert served.asked == [], "the model's server was asked for something"


@pytest.mark.parametrize("how, says", [("broken", "Job for it failed."), ("silent", "nobody answers at 8090/tcp")])
@pytest.mark.usefixtures("served")
def test_one_that_does_not_run_is_gone_back_from_at_once(how, says, command, device, systemd):
    getattr(systemd, how).add("1.1.0")
    done = command(*ACTIVATE)
    assert (done.code, says in done.error["what"]) == (1, True), done.stderr
    assert (both(device), systemd.runs, device.pending) == (("1.0.0", None), "1.0.0", None)
    assert "its activation failed" in events.read(device.config.activation_dir)[-1]["reason"]


@pytest.mark.usefixtures("server")
def test_a_first_one_that_does_not_run_goes_again(command, device, systemd):
    systemd.broken.add("1.0.0")
    assert command("activate", OLD).code == 1
    assert (both(device), systemd.runs, device.pending) == ((None, None), None, None)


@pytest.mark.usefixtures("server")
def test_a_first_one_that_nobody_confirms_goes_again(command, device, systemd):
    assert command("activate", OLD, "--confirm-within", "3600").code == 0
    assert command("revert", "--if-overdue").json["changed"] is False
    late = command("revert", "--if-overdue", boottime_offset_s=LATE)
    assert (late.code, late.json["changed"]) == (0, True), late.stderr
    assert (both(device), systemd.runs, device.pending) == ((None, None), None, None)
    assert command("activate", OLD).code == 0
    assert command(*REVERT).json["change"] is None
    assert systemd.runs is None


@pytest.mark.usefixtures("served")
def test_one_thing_changes_at_a_time(command, registry, make_bundle):
    registry.publish(make_bundle("1.1.0"))
    assert command(*ACTIVATE).code == 0
    refused = command("activate", "assistant@1.1.0")
    assert (refused.code, f"application:{NEW} waits to be confirmed" in refused.error["what"]) == (3, True)
    assert command("revert", "--kind", "model").code == 3
    assert command("revert", "--kind", "application", "--name", "other").code == 3
    assert command(*REVERT).code == 0


@pytest.mark.usefixtures("served")
def test_an_oci_image_comes_and_goes_as_a_folder_does(command, device, systemd, registry, tmp_path):
    ours, other = ("amd64", "arm64") if platform.machine() == "x86_64" else ("arm64", "amd64")
    layers = [oci.RUN, oci.entry("etc/gone")], [oci.entry("etc/.wh.gone", ""), oci.link("bin/run", "/app/run")]
    for version, machine in (("1.1.0-oci", ours), ("1.1.0-other", other)):
        archive = oci.image(tmp_path / "kiosk.tar", *layers, architecture=machine)
        said = Description("kiosk", version, "MIT")
        request = ApplicationRequest(archive, said, (Port(8090),), platform=f"linux/{machine}")
        registry.publish(pack_application.pack(request, cache=tmp_path / "packed"))
    refused = command("stage", "kiosk@1.1.0-other")
    assert (refused.code, "rule: machine" in refused.error["what"]) == (3, True)
    new = "kiosk@1.1.0-oci"
    assert command("stage", new).code == 0
    done = command("activate", new, "--confirm-within", "3600")
    assert done.code == 0, done.stderr
    assert (both(device), systemd.runs) == (("1.1.0-oci", "1.0.0"), "1.1.0-oci")
    home = device.config.application_dir / "kiosk/1.1.0-oci"
    assert ((home / "files/bin/run").read_text(), (home / "files/etc/gone").exists()) == ("#!/bin/sh\n", False)
    assert f"RootDirectory={home}/files\n" in (home / "hedgerow-application-kiosk.service").read_text()
    assert command(*REVERT).code == 0
    assert (both(device), systemd.runs) == (("1.0.0", None), "1.0.0")


@pytest.mark.usefixtures("served")
def test_what_this_device_does_not_run_is_refused_before_anything_comes(command, device, gateway):
    gateway.asked.clear()
    for verb in ("stage", "activate"):
        refused = command(verb, "application:other@1.0.0")
        assert refused.code in {1, 3}
        assert "runs no application other" in refused.error["what"]
        assert "applications: [other]" in refused.error["next"]
    assert gateway.asked == []
    assert command("revert", "--kind", "application").code == 2
    assert command("revert", "--name", "kiosk").code == 2


@pytest.mark.usefixtures("served")
def test_without_its_switch_nothing_changes_and_it_says_what_to_type(command, device, systemd):
    path = device.config.application_socket
    path.rename(path.with_suffix(".gone"))
    done = command(*ACTIVATE)
    path.with_suffix(".gone").rename(path)
    assert (done.code, "hedgerow-applications.socket" in done.error["next"]) == (1, True)
    assert (both(device), systemd.runs, device.pending) == (("1.0.0", None), "1.0.0", None)


@pytest.mark.usefixtures("served")
def test_bytes_that_were_altered_on_the_card_are_fetched_again_or_not_started(command, device, systemd, gateway):
    assert command("stage", NEW).code == 0
    archive = device.config.applications_dir / "kiosk/1.1.0/application.tar"
    archive.write_bytes(archive.read_bytes().replace(b"1.1.0", b"6.6.6"))
    assert command("stage", NEW, "--here").code == 1
    assert command(*ACTIVATE).code == 0
    placed = device.config.application_dir / "kiosk/1.1.0/files/run"
    assert (b"6.6.6" in placed.read_bytes(), systemd.runs) == (False, "1.1.0")


# -- kill -9 -------------------------------------------------------------------

CASES = {
    "upgrade": ([], ACTIVATE, 0.0),
    "confirm": ([ACTIVATE], ("confirm", NEW), 0.0),
    "revert of a pending one": ([ACTIVATE], REVERT, 0.0),
    "revert of a confirmed one": ([ACTIVATE, ("confirm", NEW)], REVERT, 0.0),
    "deadline": ([ACTIVATE], ("revert", "--if-overdue"), LATE),
}


class Snapshot:
    """The device as it was before the command, to go back to before every kill."""

    FOLDERS = ("placed", "activation", "run")

    def __init__(self, device, systemd) -> None:
        self.device, self.systemd = device, systemd
        for name in self.FOLDERS:
            shutil.copytree(device.root / name, device.root / "kept" / name, symlinks=True)

    def restore(self) -> None:
        for name in self.FOLDERS:
            shutil.rmtree(self.device.root / name)
            shutil.copytree(self.device.root / "kept" / name, self.device.root / name, symlinks=True)
        self.systemd.boot()


@pytest.mark.slow
@pytest.mark.parametrize("boots", [False, True], ids=["it runs on", "board boots anew"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("served")
def test_killed_at_every_step(case, boots, command, device, systemd):
    before, argv, offset = CASES[case]
    assert command("stage", NEW).code == 0
    for words in before:
        assert command(*words).code == 0
    kept = Snapshot(device, systemd)
    whole = command(*argv, boottime_offset_s=offset)
    assert whole.code == 0, whole.stderr
    after = both(device)
    assert whole.steps > 3, "nothing was counted, so nothing would be killed"
    for step in range(1, whole.steps + 1):
        kept.restore()
        killed = command(*argv, boottime_offset_s=offset, kill_at=step)
        assert killed.code == -9, (step, killed)
        if boots:
            shutil.rmtree(device.root / "run")
            (device.root / "run").mkdir()
            systemd.boot()
        current = both(device)[0]
        assert current in {"1.0.0", "1.1.0"}
        if argv is ACTIVATE and current == "1.1.0":
            assert device.pending is not None, f"in service without a deadline after a kill at step {step}"
        again = command(*argv, boottime_offset_s=offset)
        if argv is REVERT and again.code == 3:
            assert "to go back to" in again.error["what"]
        else:
            assert again.code == 0, (step, again.stderr)
        assert (both(device), systemd.runs) == (after, after[0]), step
        assert (device.pending is not None) == (argv is ACTIVATE), step


@pytest.mark.slow
@pytest.mark.usefixtures("served")
def test_killed_upgrades_end_by_their_deadline(command, device, systemd):
    """Nobody types anything: the timer alone must bring an unconfirmed version back."""
    assert command("stage", NEW).code == 0
    kept = Snapshot(device, systemd)
    steps = command(*ACTIVATE).steps
    reverted = 0
    for step in range(1, steps + 1):
        kept.restore()
        command(*ACTIVATE, kill_at=step)
        reverted += both(device)[0] == "1.1.0"
        timer = command("revert", "--if-overdue", boottime_offset_s=LATE)
        assert timer.code == 0, timer.stderr
        assert (both(device), device.pending, systemd.runs) == (("1.0.0", None), None, "1.0.0"), step
    assert reverted > 0, "no kill came after the switch"
