from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hedgerow.converge import apparmor
from hedgerow.device.confinement import UNITS
from hedgerow.errors import UsageError

SOURCE = """\
# A service.
abi <abi/4.0>,
include <tunables/global>

profile hedgerow-x /usr/bin/x flags=(attach_disconnected) {
  include <abstractions/base>
  include <hedgerow/names>
  /etc/x r,

  include if exists <local/hedgerow-x>
}
"""
SERVER, DEVICE = "hedgerow-server", "hedgerow-device"
PI = ("pi",)


@pytest.fixture
def fragments(tmp_path: Path) -> str:
    (tmp_path / "hedgerow").mkdir()
    (tmp_path / "hedgerow/names").write_text("  /etc/hosts r,\n")
    return str(tmp_path)


def facts(profiles: dict[str, str] | None = None, **labels: str) -> dict[str, Any]:
    """A host with these profiles in its kernel (all of a Pi, enforced, unless told) and units that run so."""
    profiles = dict.fromkeys(apparmor.modes(PI, "enforce"), "enforce") if profiles is None else profiles
    units = {
        f"{name.replace('_', '-')}.service": {"active": "active", "confined": label} for name, label in labels.items()
    }
    return {
        "time": 1000.0,
        "units": units,
        "apparmor": {
            "enabled": True,
            "profiles": profiles,
            "loaded": dict.fromkeys(profiles, 100.0),
            "files": list(profiles),
        },
    }


def test_a_host_has_the_profiles_of_what_runs_on_it() -> None:
    assert set(apparmor.modes(PI, "enforce")) == set(apparmor.PROFILES) - {
        "hedgerow-nginx",
        "hedgerow-renewal",
        "hedgerow-vision",
    }
    assert set(apparmor.modes(("gateway",), "enforce")) == {"hedgerow-node-exporter", "hedgerow-nginx"}
    renews = {"hedgerow-node-exporter", "hedgerow-nginx", "hedgerow-renewal"}
    assert set(apparmor.modes(("gateway", "renewal"), "enforce")) == renews
    assert set(apparmor.PROFILES) == set(UNITS)


def test_the_host_s_word_beats_the_group_s_and_that_the_fleet_s() -> None:
    found = apparmor.modes(PI, "enforce", {SERVER: "complain", DEVICE: "complain"}, {DEVICE: "enforce"}, {})
    assert (found[SERVER], found[DEVICE]) == ("complain", "enforce")
    assert apparmor.modes(PI, "complain", {}, {}, {SERVER: "enforce"})[DEVICE] == "complain"


def test_a_group_may_name_a_profile_that_a_host_has_not() -> None:
    assert "hedgerow-nginx" not in apparmor.modes(PI, "enforce", {"hedgerow-nginx": "complain"})


@pytest.mark.parametrize(
    "mode,override,text",
    [
        ("off", {}, "apparmor_mode 'off'"),
        ("enforce", {"hedgerow-sever": "complain"}, "hedgerow-sever"),
        ("enforce", {SERVER: "kill"}, "'kill'"),
    ],
)
def test_what_does_not_exist_is_refused(mode: str, override: dict[str, str], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        apparmor.modes(PI, mode, override)


def test_a_profile_is_one_file_with_abi_mode_and_the_inventory_s_rules(fragments: str) -> None:
    text = apparmor.render(
        SOURCE, abi="3.0", mode="complain", fragments=fragments, rules=["/srv/** r,", "@{run}/{x,y} w"]
    )
    assert text == (
        "# Written by Hedgerow (role apparmor); changes here are overwritten.\n"
        "# A service.\n"
        "abi <abi/3.0>,\n"
        "include <tunables/global>\n\n"
        "profile hedgerow-x /usr/bin/x flags=(attach_disconnected, complain) {\n"
        "  include <abstractions/base>\n"
        "  /etc/hosts r,\n"
        "  /etc/x r,\n\n"
        "  # From the inventory (apparmor_rules).\n"
        "  /srv/** r,\n"
        "  @{run}/{x,y} w,\n\n"
        "  include if exists <local/hedgerow-x>\n"
        "}\n"
    )


def test_from_complain_to_enforce_and_back_is_one_word_in_the_file(fragments: str) -> None:
    enforced, watched = (
        apparmor.render(SOURCE, abi="4.0", mode=mode, fragments=fragments) for mode in ("enforce", "complain")
    )
    assert "flags=(attach_disconnected) {" in enforced
    assert watched.replace(", complain", "") == enforced


@pytest.mark.parametrize("rule", ["/x r,\n/y w,", "/x r, /y w,", "} profile evil {"])
def test_a_rule_is_one_rule(fragments: str, rule: str) -> None:
    with pytest.raises(UsageError, match="is no single rule"):
        apparmor.render(SOURCE, abi="4.0", mode="enforce", fragments=fragments, rules=[rule])


@pytest.mark.parametrize("gone", ["abi <abi/4.0>,\n", " flags=(attach_disconnected)", "local/"])
def test_a_source_without_the_places_is_refused(fragments: str, gone: str) -> None:
    with pytest.raises(UsageError, match="one abi line"):
        apparmor.render(SOURCE.replace(gone, ""), abi="4.0", mode="enforce", fragments=fragments)


def test_rules_for_an_unknown_profile_are_refused(fragments: str) -> None:
    with pytest.raises(UsageError, match="hedgerow-sever"):
        apparmor.texts(fragments, {}, "4.0", {"hedgerow-sever": ["/x r,"]})


@pytest.mark.parametrize(
    "change,expected",
    [
        ({}, []),
        ({"changed": [f"/etc/apparmor.d/{SERVER}"]}, [SERVER]),
        ({"profiles": {SERVER: "complain"}}, [SERVER]),
        ({"profiles": {}}, [SERVER]),
        ({"settled": {f"/etc/apparmor.d/{SERVER}": 101.0}}, [SERVER]),  # written, and the run was cut off
        ({"settled": {f"/etc/apparmor.d/{SERVER}": 99.0}}, []),
        ({"settled": {f"/etc/apparmor.d/{SERVER}": 9999.0}}, []),  # from the future
        ({"enabled": False, "profiles": {}}, []),
    ],
)
def test_the_kernel_takes_what_it_has_not(change: dict[str, Any], expected: list[str]) -> None:
    host = facts(change.get("profiles", {SERVER: "enforce"}))
    host["apparmor"]["enabled"] = change.get("enabled", True)
    files = {"changed_paths": change.get("changed", []), "settled": change.get("settled", {})}
    assert apparmor.to_load(host, {SERVER: "enforce"}, files) == expected


def test_what_bears_our_name_and_is_not_wanted_goes() -> None:
    host = facts(
        {SERVER: "enforce", "hedgerow-old": "enforce", "hedgerow-old//child": "enforce", "/usr/bin/man": "enforce"}
    )
    host["apparmor"]["files"] = [SERVER, "hedgerow-older"]
    assert apparmor.not_ours(host, {SERVER: "enforce"}) == {
        "loaded": ["hedgerow-old"],
        "files": [{"absent": "/etc/apparmor.d/hedgerow-older"}],
    }


def test_confined_as_wanted_is_proven() -> None:
    host = facts(hedgerow_server="hedgerow-server (enforce)")
    assert apparmor.unproven(host, apparmor.modes(PI, "enforce")) == []


@pytest.mark.parametrize("label", ["unconfined", "hedgerow-server (complain)", "hedgerow-exporter (enforce)"])
def test_loaded_is_not_confined(label: str) -> None:
    """A unit that runs without its profile looks healthy, whatever the kernel has loaded."""
    found = apparmor.unproven(facts(hedgerow_server=label), apparmor.modes(PI, "enforce"))
    assert found == [f"hedgerow-server.service runs as {label}; hedgerow-server (enforce) is wanted"]


def test_a_profile_in_the_other_mode_is_no_proof() -> None:
    wanted = {SERVER: "enforce", DEVICE: "enforce"}
    assert apparmor.unproven(facts({SERVER: "complain"}), wanted) == [
        "profile hedgerow-server is in mode complain; enforce is wanted",
        "profile hedgerow-device is not loaded; enforce is wanted",
    ]
