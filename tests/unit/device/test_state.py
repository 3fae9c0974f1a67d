from __future__ import annotations

import json

import pytest

from hedgerow.device import state


def test_reads_this_machine_as_json() -> None:
    read = state.read()
    assert json.loads(json.dumps(read)) == read
    assert read["architecture"]
    assert read["python"].startswith("3.")


def test_packages_are_those_that_are_installed() -> None:
    packages, holds = state.parse_packages(
        "dkms\tinstall ok installed\t3.2.2-1~deb13u1\n"
        "h10-hailort\thold ok installed\t5.1.1\n"
        "old\tdeinstall ok config-files\t1.0\n"
        "broken\tinstall ok half-configured\t2.0\n"
    )
    assert packages == {"dkms": "3.2.2-1~deb13u1", "h10-hailort": "5.1.1"}
    assert holds == ["h10-hailort"]


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
