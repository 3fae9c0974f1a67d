"""The device's part, on a folder instead of a root: nothing here needs a host."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from hedgerow.lifecycle import wipe


class Device:
    """A root file system with what a converged host has, and systemd's answers."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.commands: list[tuple[str, ...]] = []
        self.failing: set[str] = set()
        self.enabled = ["hedgerow-server.service", "hedgerow-deadline.timer", "prometheus-node-exporter.service"]
        self.shadow = "hedgerow-admin:*:20000:0:99999:7:::\n"
        state = self.state = root / "var/lib/hedgerow"
        for name, value in {
            "STATE": state,
            "KEY": state / "identity/device.key",
            "SECRETS": (state / "identity", state / "trust"),
            "CONTENT": (state / "models", state / "activation", root / "srv/hedgerow", root / "opt/hedgerow"),
            "CONFIGURATION": root / "etc/hedgerow",
            "SUDOERS": root / "etc/sudoers.d/50-hedgerow-admin",
        }.items():
            monkeypatch.setattr(wipe, name, value)
        self.home = root / "home/hedgerow-admin"
        monkeypatch.setattr(pwd, "getpwnam", lambda name: SimpleNamespace(pw_dir=str(self.home)))
        monkeypatch.setattr(
            wipe, "_is_expired", lambda user: ("usermod", user) in {(c[0], c[-1]) for c in self.commands}
        )
        monkeypatch.setattr(wipe.subprocess, "run", self.run)
        for path in (
            "var/lib/hedgerow/identity/device.key", "var/lib/hedgerow/identity/device.crt",
            "var/lib/hedgerow/trust/root.json", "var/lib/hedgerow/models/assistant/1.0.0/model.onnx",
            "var/lib/hedgerow/activation/events.jsonl", "var/lib/hedgerow/something-later/x",
            "etc/hedgerow/server.yml", "etc/hedgerow/hardware-root", "opt/hedgerow/runtime/1/x",
            "etc/sudoers.d/50-hedgerow-admin", "home/hedgerow-admin/.ssh/authorized_keys", "etc/hostname",
        ):  # fmt: skip
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("secret")

    def run(self, command: tuple[str, ...], **_: object) -> subprocess.CompletedProcess[str]:
        words = tuple(command)
        if words[:2] == ("systemctl", "list-unit-files"):
            return self.answer("".join(f"{unit} enabled enabled\n" for unit in self.enabled))
        if words[:2] == ("systemctl", "list-units"):
            return self.answer("".join(f"{unit} loaded active running\n" for unit in self.enabled))
        self.commands.append(words)
        if words[-1] in self.failing:
            return subprocess.CompletedProcess(words, 1, "", "Job failed.")
        if words[:3] == ("systemctl", "disable", "--now"):
            self.enabled.remove(words[-1])
        return self.answer("")

    @staticmethod
    def answer(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess((), 0, text, "")

    def files(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()}


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(tmp_path, monkeypatch)


def test_nothing_of_the_fleet_is_left(device: Device) -> None:
    answer = wipe.wipe("hedgerow-admin")
    assert (answer["changed"], answer["left"]) == (True, [])
    assert device.files() == {"etc/hedgerow/hardware-root", "etc/hostname"}
    assert ("usermod", "--lock", "--expiredate", "1", "hedgerow-admin") in device.commands
    assert device.commands[-1][-4:] == ("pkill", "-KILL", "-u", "hedgerow-admin")  # whoever is still logged in


def test_the_server_is_stopped_last_and_the_way_in_goes_last(device: Device) -> None:
    done = wipe.wipe("hedgerow-admin")["done"]
    stops = [line for line in done if line.startswith("stop")]
    assert stops[0] == "stop hedgerow-deadline.timer"
    assert stops[-1] == "stop hedgerow-server.service"
    assert done.index(f"remove {wipe.SECRETS[0]}") == len(stops)
    assert [line.split()[0] for line in done[-3:]] == ["remove", "lock", "remove"]
    assert done[-1] == f"remove {wipe.SUDOERS}"


def test_the_key_is_overwritten_before_it_is_removed(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(wipe, "_delete", lambda path: seen.append((path, wipe.KEY.read_bytes())))
    wipe.wipe("hedgerow-admin")
    path, content = seen[0]
    assert path == wipe.SECRETS[0]
    assert content != b"secret"
    assert len(content) == len(b"secret")


def test_every_key_is_overwritten_wherever_it_lies(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the layout of generations the name is a link; a new key may wait for its certificate beside it."""
    folder = wipe.KEY.parent
    (folder / "generations/3").mkdir(parents=True)
    keys = [folder / "generations/3/device.key", folder / "device.key.new"]
    for key in keys:
        key.write_text("secret")
    wipe.KEY.unlink()
    wipe.KEY.symlink_to("generations/3/device.key")
    seen: dict[Path, bytes] = {}
    monkeypatch.setattr(wipe, "_delete", lambda _: seen.update({key: key.read_bytes() for key in keys if key.exists()}))
    wipe.wipe("hedgerow-admin")
    assert set(seen) == set(keys)
    assert b"secret" not in seen.values()


def test_a_second_run_changes_nothing(device: Device) -> None:
    wipe.wipe("hedgerow-admin")
    again = wipe.wipe("hedgerow-admin")
    assert again == {"changed": False, "done": [], "left": []}


def test_a_dry_run_says_the_same_and_does_nothing(device: Device) -> None:
    before = device.files()
    said = wipe.wipe("hedgerow-admin", dry_run=True)
    assert device.files() == before
    assert device.commands == []
    assert said["done"] == wipe.wipe("hedgerow-admin")["done"]


def test_what_fails_is_said_and_stops_nothing(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    device.failing = {"prometheus-node-exporter.service"}
    real = wipe._delete

    def refuse(path: Path) -> None:
        if path.name == "trust":
            raise PermissionError(13, "Operation not permitted")
        real(path)

    monkeypatch.setattr(wipe, "_delete", refuse)
    answer = wipe.wipe("hedgerow-admin")
    assert len(answer["left"]) == 2
    assert "prometheus-node-exporter.service could not be stopped: Job failed." in answer["left"]
    assert not wipe.KEY.exists()
    assert not wipe.SUDOERS.exists()


def test_a_data_partition_is_emptied_and_named(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: path == device.state)
    answer = wipe.wipe("hedgerow-admin")
    assert "luksErase" in answer["left"][0]
    assert device.state.is_dir()
    assert list(device.state.iterdir()) == []
