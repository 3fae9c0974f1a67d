from __future__ import annotations

from pathlib import Path

import pytest

from hedgerow.device import restart


def test_the_boot_id_is_read_below_the_hardware_root(tmp_path: Path) -> None:
    (tmp_path / "proc/sys/kernel/random").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/random/boot_id").write_text("emulated\n")
    (tmp_path / "hardware-root").write_text(f"{tmp_path}\n")
    assert restart.boot_id(tmp_path / "hardware-root") == "emulated"
    assert restart.boot_id(tmp_path / "none") == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_failed_units() -> None:
    assert restart.failed_units("b.service loaded failed failed B\na.timer loaded failed failed A\n") == [
        "a.timer",
        "b.service",
    ]
    assert restart.failed_units("") == []


def test_a_reboot_that_cannot_be_asked_for_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    done = restart.subprocess.CompletedProcess([], 1, "", "Failed to connect to bus")
    monkeypatch.setattr(restart.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(restart.RestartError, match="Failed to connect to bus"):
        restart.reboot()


def test_a_reboot_returns_what_was_before_and_goes_through_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(argv: list[str], **_options: object) -> object:
        asked.append(list(argv))
        return restart.subprocess.CompletedProcess(argv, 0, "running\n" if "is-system-running" in argv else "", "")

    monkeypatch.setattr(restart.subprocess, "run", run)
    before = restart.reboot(delay_s=3)
    assert before["system"] == "running"
    assert before["server"] is None
    assert asked[-1][-2:] == ["systemctl", "reboot"]
    assert "--on-active=3" in asked[-1]
