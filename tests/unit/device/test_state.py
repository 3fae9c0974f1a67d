from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from hedgerow.device import state
from hedgerow.emulator import eeprom as images


def test_reads_this_machine_as_json() -> None:
    read = state.read()
    assert json.loads(json.dumps(read)) == read
    assert read["architecture"]
    assert read["python"].startswith("3.")


def test_name_servers_are_those_of_resolv_conf_without_scopes() -> None:
    text = "# a comment\nnameserver 192.0.2.1\nnameserver\tfe80::1%eth0\nsearch example\nnameserver nonsense\n"
    assert state.parse_nameservers(text) == ["192.0.2.1", "fe80::1"]
    assert state.parse_nameservers("") == []


def test_packages_are_those_that_are_installed() -> None:
    packages, holds = state.parse_packages(
        "dkms\tinstall ok installed\t3.2.2-1~deb13u1\n"
        "h10-hailort\thold ok installed\t5.1.1\n"
        "old\tdeinstall ok config-files\t1.0\n"
        "broken\tinstall ok half-configured\t2.0\n"
    )
    assert packages == {"dkms": "3.2.2-1~deb13u1", "h10-hailort": "5.1.1"}
    assert holds == ["h10-hailort"]


@pytest.mark.parametrize(
    "status, interrupted",
    [
        ("install ok installed", False),
        ("deinstall ok config-files", False),
        ("install ok half-configured", False),
        ("install reinstreq half-installed", True),
        ("hold reinstreq unpacked", True),
    ],
)
def test_what_a_power_cut_leaves_of_an_installation_is_seen(status, interrupted) -> None:
    assert state.is_interrupted(f"bash\tinstall ok installed\t5\nnginx\t{status}\t1.26\n") is interrupted


def test_units_join_both_listings() -> None:
    units = state.parse_units(
        "a.service enabled enabled\nb.timer disabled enabled\nc@.service static -\n",
        "a.service loaded active running The A\nd.mount loaded active mounted\n"
        "gone.service not-found inactive dead gone.service\nb.timer loaded failed failed B\n",
    )
    assert units == {
        "a.service": {"enabled": "enabled", "active": "active"},
        "b.timer": {"enabled": "disabled", "active": "failed"},
        "c@.service": {"enabled": "static", "active": "inactive"},
        "d.mount": {"enabled": "transient", "active": "active"},
    }


def test_services_that_run_have_a_time() -> None:
    units = state.parse_units(
        "a.service enabled enabled\nb.service enabled enabled\nc.service enabled enabled\n",
        "a.service loaded active running A\nb.service loaded failed failed B\nc.service loaded active exited C\n",
        "Id=a.service\nActiveEnterTimestamp=@1795234824\n\nId=b.service\nActiveEnterTimestamp=@1\n\n"
        "Id=c.service\nActiveEnterTimestamp=\n\nId=unknown.service\nActiveEnterTimestamp=@2\n",
    )
    assert {name: unit.get("since") for name, unit in units.items()} == {
        "a.service": 1795234824,
        "b.service": None,
        "c.service": None,
    }


def test_processes_of_services() -> None:
    text = "MainPID=12\nId=a.service\n\nMainPID=0\nId=b.service\n\nId=c.service\n"
    assert state.parse_main_pids(text) == {"a.service": 12}
    assert state.parse_main_pids("") == {}


def test_os_release_keys() -> None:
    text = 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nVERSION_CODENAME=trixie\nHOME_URL="x"\n'
    assert state.parse_os_release(text) == {
        "pretty_name": "Debian GNU/Linux 13 (trixie)",
        "version_codename": "trixie",
    }


@pytest.mark.parametrize(
    "name, text, expected",
    [
        (
            "raspi.sources",
            "# shipped\nTypes: deb\nURIs: http://mirror.example/debian/\nSuites: trixie\nComponents: main\n",
            [{"uris": ["http://mirror.example/debian/"], "suites": ["trixie"], "components": ["main"]}],
        ),
        (
            "two.sources",
            (
                "Types: deb deb-src\nURIs: http://a.example\nSuites: trixie\n trixie-updates\n\n"
                "Enabled: no\nTypes: deb\nURIs: http://b.example\nSuites: x\n"
            ),
            [{"uris": ["http://a.example"], "suites": ["trixie", "trixie-updates"], "components": []}],
        ),
        (
            "old.list",
            "deb [signed-by=/k.pgp arch=arm64] http://a.example trixie main contrib # why\n# deb http://b.example x\n",
            [{"uris": ["http://a.example"], "suites": ["trixie"], "components": ["main", "contrib"]}],
        ),
    ],
)
def test_apt_sources(name: str, text: str, expected: list[dict[str, list[str]]]) -> None:
    assert state.parse_sources(name, text) == expected


def test_profiles_with_their_modes() -> None:
    text = "hedgerow-server (enforce)\n/usr/bin/man//filter (complain)\n"
    assert state.parse_profiles(text) == {"hedgerow-server": "enforce", "/usr/bin/man//filter": "complain"}


def test_an_eeprom_image_tells_its_build_its_manufacturing_version_and_its_configuration() -> None:
    assert state.parse_image(images.image("2026-05-26", mfg_version=1)) == {
        "timestamp": 1779807685,
        "mfg_version": 1,
        "config": images.FACTORY_CONFIG,
    }
    assert state.parse_image(b"") == {"timestamp": None, "mfg_version": None, "config": None}


def test_assignments_of_a_defaults_file() -> None:
    text = '# a comment\nFIRMWARE_RELEASE_STATUS="default"\n#BOOTFS=/boot\nEEPROM_CONFIG_HOOK=\n'
    assert state.parse_defaults(text) == {"FIRMWARE_RELEASE_STATUS": "default", "EEPROM_CONFIG_HOOK": ""}


def test_images_by_channel_are_the_newest_of_each(tmp_path: Path) -> None:
    for channel, date in (("default", "2025-05-08"), ("default", "2026-05-26"), ("own", "2025-03-10")):
        (tmp_path / channel).mkdir(exist_ok=True)
        (tmp_path / channel / f"pieeprom-{date}.bin").write_bytes(images.image(date))
    (tmp_path / "empty").mkdir()
    found = state._eeprom_images(tmp_path)
    assert found.keys() == {"default", "own"}
    assert found["default"] == {
        "path": f"{tmp_path}/default/pieeprom-2026-05-26.bin",
        "timestamp": 1779807685,
        "mfg_version": None,
    }


def test_a_kept_trial_s_files_are_not_newer_than_their_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config.txt"
    file.write_text("a=1\n")
    monkeypatch.setattr(state, "TRIAL", tmp_path)
    monkeypatch.setattr(state, "_boot_id", lambda: "this")
    os.utime(file, (time.time() + 60, time.time() + 60))
    assert state._changed_since_boot(file) == ["config.txt"]
    digest = hashlib.sha256(b"a=1\n").hexdigest()
    result = {"boot_id": "this", "sha256": {"config.txt": digest}}
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert state._changed_since_boot(file) == []
    (tmp_path / "result.json").write_text(json.dumps(result | {"boot_id": "another"}))
    assert state._changed_since_boot(file) == ["config.txt"]


def test_proxies_of_apt_have_no_password_and_direct_is_none() -> None:
    text = (
        'Acquire::http::Proxy "http://user:secret@proxy.example:3142/";\n'
        '  Acquire::https::Proxy::deb.example "DIRECT";\n'
        '// Acquire::http::Proxy "http://commented.example/";\n'
        'Acquire::https::Proxy "http://proxy.example:3142/";\n'
    )
    assert state.parse_proxies(text) == ["http://proxy.example:3142/"]


def test_the_ssh_client_is_found_above_a_sudo_that_hides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """sudo hands its children a clean environment; its own still says where the connection comes from."""
    processes = {
        "/proc/30/environ": "PATH=/bin\0SUDO_USER=admin\0",
        "/proc/30/stat": "30 (python3) S 20 1",
        "/proc/20/environ": "LANG=C\0SSH_CONNECTION=fe80::1%eth0 50000 fe80::2%eth0 22\0",
        "/proc/20/stat": "20 (a) strange) name) S 10 1",
        "/proc/9/environ": "",
        "/proc/9/stat": "9 (x) S 1 1",
    }
    monkeypatch.setattr(state, "_text", lambda path, **_: processes.get(str(path), ""))
    assert state._ssh_client(30) == "fe80::1"
    assert state._ssh_client(9) is None


@pytest.mark.parametrize(
    "text, found",
    [
        ("", None),
        ("[]", None),
        ("{", None),
        ('{"name": "a"}', None),
        ('{"name": "a", "to": "1.0.0"}', {"kind": "model", "name": "a", "to": "1.0.0"}),
        ('{"kind": "runtime", "name": "runtime", "to": "2"}', {"kind": "runtime", "name": "runtime", "to": "2"}),
    ],
)
def test_what_waits_for_a_confirmation(text, found):
    assert state.parse_pending(text) == found
