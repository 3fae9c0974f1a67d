"""The application switch: what it does for commands that may not, and that it does nothing else."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hedgerow.device import application_switch
from hedgerow.device.application_files import MARKER
from hedgerow.device.application_switch import Places, Switch, listens

UNIT = b"[Service]\nExecStart=/run/application/run\n"
NAME = "hedgerow-application-kiosk.service"


@dataclass
class Systemd:
    """``systemctl``, as far as the switch uses it."""

    asked: list[str] = field(default_factory=list)
    active: bool = False
    restarts: int = 0
    refuses: str = ""

    def run(self, command) -> tuple[int, str]:
        words = [word for word in command[1:] if not word.startswith("--")]
        self.asked.append(" ".join(words))
        match words[0]:
            case "restart":
                self.active = not self.refuses
                return (1, self.refuses) if self.refuses else (0, "")
            case "stop":
                self.active = False
            case "is-active":
                return (0 if self.active else 3), ""
            case "show":
                state = "ActiveState=active\nSubState=running" if self.active else "ActiveState=failed\nSubState=failed"
                result = "success" if self.active else "exit-code"
                return 0, f"Id={NAME}\n{state}\nResult={result}\nNRestarts={self.restarts}\n"
        return 0, ""


def tar(**entries: tuple[bytes, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, (kind, text) in entries.items():
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o4755
            info.linkname, info.size = ("", len(text)) if kind == tarfile.REGTYPE else (text, 0)
            archive.addfile(info, io.BytesIO(text.encode()) if kind == tarfile.REGTYPE else None)
    return out.getvalue()


def bundle(places: Places, version: str, *, unit: bytes = UNIT, files: bytes | None = None, **changes: object) -> Path:
    folder = places.bundles / "kiosk" / version
    folder.mkdir(parents=True)
    content = {"kiosk.service": unit, "application.tar": files or tar(run=(tarfile.REGTYPE, version))}
    for name, data in content.items():
        (folder / name).write_bytes(data)
    manifest = {
        "kind": "application",
        "name": "kiosk",
        "version": version,
        "files": [{"path": name, "sha256": hashlib.sha256(data).hexdigest()} for name, data in content.items()],
        "requires": {"memory_mb": 64},
        "application": {"user": "dynamic", "unit": "kiosk.service", "ports": [{"number": 8090}]},
    }
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))
    return folder


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places(tmp_path / "bundles", tmp_path / "root", tmp_path / "run")
    (made.root / "kiosk").mkdir(parents=True)
    made.run.mkdir()
    return made


@pytest.fixture
def systemd() -> Systemd:
    return Systemd()


@pytest.fixture
def ask(places, systemd):
    passed = iter(range(10**6))
    switch = Switch(
        places, run=systemd.run, answers=lambda *_: True, sleep=lambda _: None, monotonic=lambda: float(next(passed))
    )

    def send(**request):
        return switch.answer(json.dumps(request))

    return send


@pytest.fixture
def placed(places, ask):
    for version in ("1.0.0", "1.1.0"):
        bundle(places, version)
        assert ask(place="kiosk", version=version)["said"] == ""
        if version == "1.0.0":
            ask(link="previous", name="kiosk", version=version)  # what no link names goes with the next
    return places.root / "kiosk"


def test_placed_whole_and_beside(placed, places):
    assert (placed / "1.0.0/files/run").read_text() == "1.0.0"
    assert (placed / "1.0.0/files/run").stat().st_mode & 0o7777 == 0o755, "setuid came through"
    assert json.loads((placed / "1.0.0" / MARKER).read_text()) == {"ports": [["tcp", 8090]]}
    unit = (placed / "1.1.0" / NAME).read_text()
    assert f"BindReadOnlyPaths={placed}/1.1.0/files:/run/application" in unit
    assert "SocketBindAllow=tcp:8090\n" in unit
    assert [path.name for path in placed.glob(".*")] == []


def test_started_in_place_of_the_old(ask, placed, systemd, places):
    assert ask(link="current", name="kiosk", version="1.0.0")["done"]
    (seen,) = ask(look=True)["applications"]
    assert (seen["version"], seen["started"]) == ("1.0.0", False), "what runs is said to be what does not"
    systemd.asked.clear()
    assert ask(start="kiosk", version="1.0.0")["done"]
    assert systemd.asked[:3] == ["daemon-reload", f"reset-failed {NAME}", f"restart {NAME}"]
    (seen,) = json.loads((places.run / "state.json").read_text())["applications"]
    assert (seen["version"], seen["started"], seen["active"], seen["silent"]) == ("1.0.0", True, True, [])
    assert ask(start="kiosk", version="1.1.0")["said"] == "current names 1.0.0, not 1.1.0"


def test_without_a_version_nothing_runs(ask, placed, systemd):
    ask(link="current", name="kiosk", version="1.0.0")
    ask(start="kiosk", version="1.0.0")
    assert ask(link="current", name="kiosk", version=None)["done"]
    assert not systemd.active
    (seen,) = ask(look=True)["applications"]
    assert (seen["version"], seen["started"]) == (None, True)


@pytest.mark.parametrize("version", ["1.2.0", "..", ".", "", "../kiosk/1.0.0", "/etc", "1.0.0/../1.1.0"])
def test_a_link_moves_to_nothing_that_was_not_placed(ask, placed, version):
    assert ask(link="current", name="kiosk", version=version)["done"] is False
    assert not (placed / "current").is_symlink()


@pytest.mark.parametrize("name", ["other", "..", "../kiosk", "", "kiosk/1.0.0", "Kiosk", ".", "kiosk\n"])
@pytest.mark.usefixtures("placed")
def test_it_knows_no_other_application(ask, name, systemd):
    systemd.asked.clear()
    for request in (
        {"place": name, "version": "1.0.0"},
        {"link": "current", "name": name, "version": "1.0.0"},
        {"start": name, "version": "1.0.0"},
    ):
        assert ask(**request)["said"] == f"this device runs no application {name}"
    assert {words.split()[0] for words in systemd.asked} == {"show"}


@pytest.mark.parametrize(
    "request_",
    [
        {}, {"look": False}, {"start": "kiosk"}, {"link": "confirmed", "name": "kiosk", "version": "1.0.0"},
        {"place": "kiosk", "version": 1}, {"restart": True}, {"stop": "kiosk"},
    ],
)  # fmt: skip
@pytest.mark.usefixtures("placed")
def test_what_it_does_not_know_it_does_not_do(ask, request_, systemd):
    systemd.asked.clear()
    assert ask(**request_)["said"] == "it asks for nothing that is done here"
    assert {words.split()[0] for words in systemd.asked} == {"show"}


def test_no_json_asks_for_nothing(places, systemd):
    for line in ("no JSON", "", "[]", "null"):
        assert Switch(places, run=systemd.run).answer(line)["done"] is False


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"unit": b"[Service]\nExecStart=+/bin/sh\n"}, "more rights"),
        ({"unit": b"[Service]\nExecStart=/bin/sh\nConflicts=hedgerow-server.service\n"}, "Conflicts="),
        ({"name": "other"}, "describes application other@1.2.0"),
        ({"kind": "model"}, "describes model"),
        ({"application": {"user": "10001", "image": "image.tar"}}, "it is an image as it was built"),
        ({"application": {"unit": "../kiosk.service"}}, "does not lie at the top"),
        ({"application": {"unit": "kiosk.service", "ports": [{"number": 22}]}}, "its port 22/tcp"),
        ({"application": {"unit": "kiosk.service", "ports": [{"number": 8090, "protocol": "tcp\nUser=root"}]}}, "port"),
        ({"files": []}, "not what the manifest says"),
        ({"files": tar(out=(tarfile.SYMTYPE, "/etc/passwd"))}, "refused"),
        ({"files": tar(out=(tarfile.SYMTYPE, "../../etc"))}, "refused"),
        ({"files": tar(**{"../out": (tarfile.REGTYPE, "x")})}, "refused"),
        ({"files": tar(null=(tarfile.CHRTYPE, ""))}, "no file, folder or link"),
        ({"files": tar(hard=(tarfile.LNKTYPE, "/etc/passwd"))}, "no file, folder or link"),
    ],
)
def test_what_is_not_safe_is_not_placed(places, ask, changes, says):
    files = changes.pop("files", None)
    folder = bundle(places, "1.2.0", files=files or None, **changes)
    if files == []:
        (folder / "application.tar").write_bytes(tar(run=(tarfile.REGTYPE, "another")))
    done = ask(place="kiosk", version="1.2.0")
    assert (done["done"], says in done["said"]) == (False, True), done["said"]
    assert not (places.root / "kiosk/1.2.0").exists()


def test_what_is_not_staged_is_not_placed(ask):
    assert "is not staged on this device" in ask(place="kiosk", version="9.9.9")["said"]


def test_one_that_was_cut_off_is_placed_anew(places, ask):
    (places.root / "kiosk/.1.0.0.new/files").mkdir(parents=True)
    bundle(places, "1.0.0")
    assert ask(place="kiosk", version="1.0.0")["done"]
    assert [path.name for path in (places.root / "kiosk").glob(".*")] == []


def test_what_no_link_names_makes_room(placed, places, ask):
    ask(link="current", name="kiosk", version="1.1.0")
    ask(link="previous", name="kiosk", version="1.0.0")
    for version in ("1.2.0", "1.3.0"):
        bundle(places, version)
        assert ask(place="kiosk", version=version)["done"]
    assert sorted(path.name for path in placed.iterdir() if not path.is_symlink()) == ["1.0.0", "1.1.0", "1.3.0"]


def test_one_that_ends_at_once_has_not_started(ask, placed, systemd):
    ask(link="current", name="kiosk", version="1.0.0")
    systemd.refuses = "Job for it failed."
    assert ask(start="kiosk", version="1.0.0")["said"] == "Job for it failed."
    systemd.refuses, systemd.restarts = "", 1
    assert ask(start="kiosk", version="1.0.0")["said"] == "it does not stay up: active/running"


def test_one_whose_port_nobody_answers_at_has_not_started(places, placed, systemd):
    passed = iter(range(10**6))
    switch = Switch(
        places,
        run=systemd.run,
        answers=lambda *_: False,
        sleep=lambda _: None,
        monotonic=lambda: float(next(passed)),
    )
    switch.answer(json.dumps({"link": "current", "name": "kiosk", "version": "1.0.0"}))
    done = switch.answer(json.dumps({"start": "kiosk", "version": "1.0.0"}))
    assert (
        done["said"] == f"nobody answers at 8090/tcp on loopback {application_switch.START_WITHIN_S} s after its start"
    )
    assert done["applications"][0]["silent"] == ["8090/tcp"]


def test_who_listens_on_loopback_is_found():
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        assert listens("tcp", number)
    assert not listens("tcp", number)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        number = bound.getsockname()[1]
        assert listens("udp", number)
    assert not listens("udp", number)
