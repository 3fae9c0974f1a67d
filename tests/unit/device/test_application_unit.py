"""The unit that an application runs with: what is taken of its own, what the device says, and what is refused."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from hedgerow.device import application_unit as units
from hedgerow.device.application_unit import Told, UnitError

UNIT = "[Unit]\nDescription=A kiosk\n\n[Service]\nExecStart=/run/application/bin/run --fast\n"
TOLD = Told("kiosk", Path("/opt/hedgerow/applications/kiosk/1.0.0/files"), (("tcp", 8090), ("udp", 8091)), 64)


def settings(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def test_its_own_words_stand_before_the_device_s() -> None:
    found = settings(units.render(UNIT + "Restart=always\nEnvironment=A=1 B=2\n", TOLD))
    assert found["Description"] == ["A kiosk"]
    assert found["ExecStart"] == ["/run/application/bin/run --fast"]
    assert found["Environment"] == ["A=1 B=2"]
    assert found["Restart"] == ["on-failure", "always"]
    assert found["MemoryMax"] == ["64M"]
    assert found["BindReadOnlyPaths"] == ["/opt/hedgerow/applications/kiosk/1.0.0/files:/run/application"]
    assert found["SocketBindAllow"] == ["tcp:8090", "udp:8091"]
    assert found["IPAddressAllow"] == ["localhost"]


def test_what_the_device_decides_is_the_device_s() -> None:
    text = (
        UNIT
        + "User=kiosk\nMemoryMax=8G\nProtectSystem=no\nIPAddressAllow=any\nCapabilityBoundingSet=~\nAfter=a.service\n"
    )
    found = settings(units.render(text, TOLD))
    assert "User" not in found
    assert (found["DynamicUser"], found["MemoryMax"], found["ProtectSystem"]) == (["yes"], ["64M"], ["strict"])
    assert (found["IPAddressAllow"], found["CapabilityBoundingSet"]) == (["localhost"], [""])
    assert found["After"] == ["network.target hedgerow-server.service"]


@pytest.mark.parametrize(
    "line, says",
    [
        ("Conflicts=hedgerow-server.service", "Conflicts="),
        ("Wants=x\nRequires=reboot.target", "Requires="),
        ("StartLimitAction=reboot", "StartLimitAction="),
        ("StateDirectory=hedgerow/identity", "StateDirectory="),
        ("ReadWritePaths=/etc", "ReadWritePaths="),
        ("BindPaths=/etc", "BindPaths="),
        ("EnvironmentFile=/etc/shadow", "EnvironmentFile="),
        ("LoadCredential=x:/etc/shadow", "LoadCredential="),
        ("AmbientCapabilities=CAP_NET_ADMIN", "AmbientCapabilities="),
        ("ExecStartPre=-+/bin/sh", "more rights"),
        ("ExecStartPre=@!!/bin/sh", "more rights"),
        ("ExecStartPre=/bin/true ; +/bin/sh", "several commands"),
        ("ExecStartPre=/bin/true \\\n  ; +/bin/sh", "goes on"),
        ("Type=forking", "Type=forking"),
        ("TimeoutStopSec=infinity", "longer than"),
        ("TimeoutStartSec=2min", "longer than"),
        ("Environment=A=\x1b[31m", "not printed"),
        ("just words", "no setting"),
        ("Environment=A \\", "goes on"),
    ],
)
def test_what_no_device_does_is_refused(line: str, says: str) -> None:
    with pytest.raises(UnitError, match=says):
        units.render(UNIT + line, TOLD)


def test_a_line_that_goes_on_swallows_nothing_of_the_device_s() -> None:
    found = settings(units.render(UNIT + "Environment=A=1 \\\n# a remark\n  B=2\n", TOLD))
    assert found["Environment"] == ["A=1  B=2"]
    assert found["Slice"] == ["hedgerow-applications.slice"]


def test_a_unit_that_starts_nothing_is_refused() -> None:
    with pytest.raises(UnitError, match="ExecStart"):
        units.check("[Service]\nType=simple\n")


ROOTED = Told("kiosk", TOLD.files, own_root=True)


def test_a_root_of_its_own_is_all_that_it_sees() -> None:
    found = settings(units.render(UNIT + "WorkingDirectory=/srv\nTemporaryFileSystem=/data\n", ROOTED))
    assert (found["RootDirectory"], found["MountAPIVFS"]) == ([str(TOLD.files)], ["yes"])
    assert (found["WorkingDirectory"], found["TemporaryFileSystem"]) == (
        ["/srv"], ["/data:mode=1777,nodev,nosuid,noexec"],
    )  # fmt: skip
    assert found["BindReadOnlyPaths"] == ["-/etc/hosts -/etc/resolv.conf"]
    # Without "+" these would be the device's paths, of which none is there.
    assert all(path.lstrip("-").startswith("+/") for path in found["NoExecPaths"][0].split())
    assert settings(units.render(UNIT, ROOTED))["WorkingDirectory"] == ["/"]
    beside = settings(units.render(UNIT, TOLD))
    inside = settings(units.render(UNIT, ROOTED))
    where = {"BindReadOnlyPaths", "WorkingDirectory", "InaccessiblePaths", "NoExecPaths", "ExecPaths", "ProtectHome"}
    ports = {"SocketBindAllow", "MemoryMax"}
    assert {key for key in beside if beside[key] != inside.get(key)} == where | ports
    assert set(inside) - set(beside) == {"RootDirectory", "MountAPIVFS"}


@pytest.mark.parametrize(
    "path",
    ["", "x", "/x/../y", "/..", "/x//y", "/a b", "/x:ro", "/%n", "/x/", "/é", "/dev", "/dev/shm", "/proc/1", "/sys",
     "/run", "/run/x", "/tmp", "/tmp/x", "/var/tmp", "/etc/hosts", "/etc/resolv.conf", "/"],
)  # fmt: skip
def test_a_volume_is_a_folder_of_its_own(path: str) -> None:
    with pytest.raises(UnitError, match="no folder that an application may have"):
        units.render(UNIT + f"TemporaryFileSystem={path}\n", ROOTED)
    with pytest.raises(UnitError, match="TemporaryFileSystem= is nothing"):
        units.render(UNIT + f"TemporaryFileSystem={path}\n", TOLD)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="judged by systemd itself")
def test_systemd_finds_it_tight_and_whole(tmp_path: Path) -> None:
    """As all units of ours: 2.5 at the most (``--threshold`` takes tenths)."""
    path = tmp_path / units.file_name("kiosk")
    path.write_text(units.render(UNIT.replace("/run/application/bin/run", "/bin/sh"), TOLD))
    for words in (["security", "--offline=true", "--threshold=25"], ["verify"]):
        done = subprocess.run(["systemd-analyze", *words, str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
