"""What a Pi must be after the whole site was converged; what one role promises stands in `test_<role>.py`."""

from __future__ import annotations

import re

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

UNITS = ("hedgerow-server.service", "hedgerow-exporter.service", "hedgerow-deadline.timer",
         "hedgerow-agent.service", "prometheus-node-exporter.service")  # fmt: skip
# sshd, server (and its gRPC), exporters (docs/contracts.md). Name resolution of the network itself is not ours.
PORTS = {22, 8443, 8444, 9100, 9101}


@pytest.fixture(scope="module")
def root(pi):
    return pi.root


@pytest.mark.parametrize("unit", UNITS)
def test_unit_runs_and_will_after_a_reboot(pi, unit):
    assert pi.service(unit).is_running
    assert pi.service(unit).is_enabled


def test_only_the_contract_s_ports_are_open(pi):
    assert pi.ports_outside() == PORTS


@pytest.mark.parametrize(
    "path, mode, owner",
    [
        ("/var/lib/hedgerow/identity", "700", "root"),
        ("/var/lib/hedgerow/identity/device.key", "600", "root"),
        ("/etc/hedgerow/device.yml", "644", "root"),
        ("/run/hedgerow/server.sock", "660", "hedgerow-server"),
    ],
)
def test_owner_and_mode(root, path, mode, owner):
    assert root(f"stat -c '%a %U' {path}").split() == [mode, owner]


def test_the_server_wants_a_certificate(pi):
    done = pi.run("curl --silent --insecure --max-time 5 https://127.0.0.1:8443/health/live")
    assert done.rc != 0, "it answered a caller without a certificate"


def test_plain_http_is_for_this_host_alone(pi):
    assert pi.run("curl --silent --fail http://127.0.0.1:8000/health/live").rc == 0
    assert pi.run(f"curl --silent --max-time 5 http://{pi.entry.address}:8000/health/live").rc != 0
    for address, answers in (("127.0.0.1", True), (pi.entry.address, False)):
        connected = pi.run(f"timeout 5 bash -c '</dev/tcp/{address}/8001'").rc == 0
        assert connected is answers, f"plain gRPC on {address}"


def test_a_device_certificate_can_do_nothing_on_a_device(pi, root, fleet):
    """Asked of the Pi itself: the firewall lets no other Pi come near (`tests/fleet/test_firewall.py`)."""
    identity = "/var/lib/hedgerow/identity"
    name = f"{pi.name}.{pi.entry.site}.{fleet.fleet}"
    for path in ("/health/report", "/v1/models", "/metrics", "/v2/repository/index"):
        code = root(
            f"curl --silent --output /dev/null --write-out '%{{http_code}}' --cert {identity}/device.crt "
            f"--key {identity}/device.key --cacert {identity}/ca.crt --resolve {name}:8443:{pi.entry.address} "
            f"https://{name}:8443{path}"
        )
        assert code == "403", path


def test_nothing_restarted_by_itself(root):
    shown = root("systemctl show -p NRestarts --value hedgerow-server hedgerow-exporter hedgerow-agent")
    assert shown.split() == ["0", "0", "0"]


def test_journal_has_a_cap_and_survives_a_reboot(root):
    shown = root("systemd-analyze cat-config systemd/journald.conf")
    assert re.findall(r"^Storage=(\S+)", shown, re.MULTILINE)[-1] == "persistent"
    assert re.findall(r"^SystemMaxUse=(\S+)", shown, re.MULTILINE)


def test_the_wrong_npu_stack_is_blocked(root):
    assert re.search(
        r"^Package:.*\bhailo-all\b.*\n(?:.*\n)*?Pin-Priority: -1",
        root("cat /etc/apt/preferences.d/50-hedgerow.pref"),
        re.MULTILINE,
    )


def test_boot_configuration_is_one_line_with_its_tokens(root):
    lines = root("cat /boot/firmware/cmdline.txt").splitlines()
    assert len(lines) == 1
    assert {"cgroup_enable=memory", "psi=1"} <= set(lines[0].split())
    assert root("cat /boot/firmware/config.txt").rstrip().splitlines()
