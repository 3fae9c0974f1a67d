"""What role `applications` promises of a Pi that the inventory names some for."""

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

ASK = """python3 -c '
import socket, sys
line = socket.socket(socket.AF_UNIX)
line.connect("/run/hedgerow-applications/switch.sock")
line.sendall(sys.argv[1].encode() + b"\\n")
print(line.makefile().read())
' '{}'"""


@pytest.fixture
def names(pi) -> list[str]:
    found = pi.var("applications", [])
    if not found:
        pytest.skip("the inventory names none for it")
    return list(found)


def test_somebody_listens_for_who_has_one_started(pi, names):
    assert pi.service("hedgerow-applications.socket").is_running
    assert pi.service("hedgerow-applications.socket").is_enabled
    assert pi.root("stat -c '%a %U' /run/hedgerow-applications/switch.sock") == "600 root\n"
    answer = json.loads(pi.root(ASK.format('{"look": true}')))
    assert [each["name"] for each in answer["applications"]] == sorted(names)
    refused = json.loads(pi.root(ASK.format('{"start": "../kiosk", "version": "1.0.0"}')))
    assert (refused["done"], "no application" in refused["said"]) == (False, True)


def test_nobody_but_root_may_change_what_is_placed(pi, names):
    for name in names:
        assert pi.root(f"stat -c '%a %U %G' /opt/hedgerow/applications/{name}") == "755 root root\n"
    assert pi.root("find /opt/hedgerow/applications -xdev -perm /022 ! -type l -print -quit") == ""
    assert pi.root("find /opt/hedgerow/applications ! -user root -print -quit") == ""


def test_the_device_knows_them(pi, names):
    assert pi.root("grep -A9 '^applications:' /etc/hedgerow/device.yml").count("- ") >= len(names)


def test_the_switch_is_sandboxed(pi, names):
    assert names
    pi.root("systemd-analyze security --threshold=40 hedgerow-applications@probe.service")
