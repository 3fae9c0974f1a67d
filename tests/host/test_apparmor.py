"""What role `apparmor` promises of any converged host: on a kernel with AppArmor every service of ours is confined."""

from __future__ import annotations

import re

import pytest

from hedgerow.converge import apparmor
from hedgerow.device.confinement import UNITS

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


def wanted(host):
    """Profile → mode, as the inventory says."""
    kind = "gateway" if host.entry.is_gateway else "pi"
    kinds = (kind, "vision") if kind == "pi" and host.var("vision_cameras") else (kind,)
    overrides = [host.var(f"apparmor_profile_modes{level}", {}) for level in ("", "_group", "_host")]
    return apparmor.modes(kinds, host.var("apparmor_mode", "enforce"), *overrides)


def enabled(host):
    return host.run("cat /sys/module/apparmor/parameters/enabled").stdout.strip() == "Y"


def labels(host):
    """Unit → labels of all its processes."""
    found = {}
    for profile in wanted(host):
        unit = UNITS[profile]
        if unit is not None:
            processes = f"cat /sys/fs/cgroup/system.slice/{unit}/cgroup.procs 2>/dev/null"
            said = host.root(f"for pid in $({processes}); do cat /proc/$pid/attr/current; done")
            found[unit] = (profile, set(said.splitlines()))
    return found


def test_its_profiles_are_placed_and_no_others_of_ours(host):
    assert set(host.root("ls /etc/apparmor.d").split()) & {*apparmor.PROFILES, "hedgerow-old"} == set(wanted(host))


def test_they_parse_here(host):
    for profile in wanted(host):
        assert host.root(f"apparmor_parser -Q -K /etc/apparmor.d/{profile}") == ""


def test_their_mode_is_the_inventory_s(host):
    for profile, mode in wanted(host).items():
        head = re.search(r"(?m)^profile .*\{$", host.root(f"cat /etc/apparmor.d/{profile}"))
        assert ("complain" in head[0]) is (mode == "complain")


def test_units_name_their_profile_where_the_kernel_confines(host):
    """On another kernel `AppArmorProfile=` would be a promise that nobody keeps."""
    for profile in wanted(host):
        unit = UNITS[profile]
        if unit is not None:
            said = host.root(f"systemctl show -p AppArmorProfile --value {unit}").strip()
            assert said == (profile if enabled(host) else ""), unit


def test_the_kernel_has_them_in_their_mode(host):
    host.not_in_a_container("it shares a kernel without AppArmor, or may not load profiles into its machine's")
    loaded = dict(re.findall(r"(?m)^(\S+) \((\w+)\)$", host.root("cat /sys/kernel/security/apparmor/profiles")))
    assert {name: loaded.get(name) for name in wanted(host)} == wanted(host)


def test_every_process_of_ours_is_confined(host):
    """Not loaded: confined. A unit that runs without its profile looks healthy."""
    host.not_in_a_container("it shares a kernel without AppArmor, or may not load profiles into its machine's")
    modes, found = wanted(host), labels(host)
    assert any(said for _, said in found.values()), "nothing of ours runs"
    for unit, (profile, said) in found.items():
        assert said <= {f"{profile} ({modes[profile]})"}, unit


def test_a_board_boots_with_apparmor(host):
    host.only_on_a_board("the kernel command line of emulated hosts is not firmware's")
    assert "apparmor" in host.root("cat /sys/kernel/security/lsm").split(",")
