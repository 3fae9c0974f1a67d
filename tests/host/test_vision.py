"""What role `vision` promises of a converged Pi with cameras."""

from __future__ import annotations

import re
import time

import pytest
import yaml

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

UNIT = "hedgerow-vision.service"
PLACE = "/etc/hedgerow/vision"
SCORE = 2.5  # as tests/host/test_sandbox.py holds every unit to
IDENTITY = "/var/lib/hedgerow/identity"


@pytest.fixture(autouse=True)
def watches(request):
    """Pis with cameras; on others (the role is off by default) there is nothing to show here."""
    if "pi" in request.fixturenames:
        found = request.getfixturevalue("pi")
        if not found.file("/etc/hedgerow/vision.yml").exists:
            pytest.skip("the inventory has no cameras for it (vision_cameras)")


@pytest.fixture
def config(pi):
    return yaml.safe_load(pi.root("cat /etc/hedgerow/vision.yml"))


def test_it_runs_and_will_after_a_reboot(pi):
    assert pi.service(UNIT).is_running
    assert pi.service(UNIT).is_enabled
    assert pi.root(f"systemctl show -p NRestarts --value {UNIT}").strip() == "0"


def test_it_is_not_root_and_has_nothing_of_its_own(pi):
    pid = pi.root(f"systemctl show -p MainPID --value {UNIT}").strip()
    assert pi.root(f"stat -c %U /proc/{pid}") == "hedgerow-vision\n"
    assert pi.root(f"grep ^CapEff /proc/{pid}/status").split()[1].strip("0") == ""


def test_it_is_tight(pi):
    shown = pi.root(f"systemd-analyze security {UNIT} --no-pager")
    score = float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", shown)[1])
    assert score <= SCORE, shown


def test_the_nodes_of_its_cameras_alone_are_open_to_it(pi, config):
    wanted = {
        each["source"].get("device", "/dev/video0") for each in config["cameras"] if each["source"]["kind"] == "v4l2"
    }
    allowed = pi.root(f"systemctl show -p DevicePolicy -p DeviceAllow -p PrivateDevices {UNIT}")
    if wanted:
        assert "DevicePolicy=closed" in allowed
        assert set(re.findall(r"/dev/\S+", allowed)) == wanted
    else:
        assert "PrivateDevices=yes" in allowed


def test_secrets_are_root_s_and_stand_nowhere_else(pi, config):
    assert pi.root("stat -c '%a %U %G' /etc/hedgerow/vision.yml") == "640 root hedgerow-vision\n"
    named = [each["source"]["password_file"] for each in config["cameras"] if "password_file" in each["source"]]
    placed = pi.root(f"find {PLACE} -name '*.password' -printf '%f %m %u\\n'").splitlines()
    assert sorted(placed) == sorted(f"{path.rpartition('/')[2]} 600 root" for path in named)
    for line in placed:
        found = pi.as_root(f"grep -qrFf {PLACE}/{line.split()[0]} /etc/hedgerow/vision.yml /etc/systemd/system")
        assert found.rc == 1, "a password stands where others read it"
        assert pi.as_root(f"journalctl -u {UNIT} --no-pager | grep -qFf {PLACE}/{line.split()[0]}").rc == 1


def told(pi, name, **labels):
    """A sample as the process tells it on loopback; None where there is none."""
    text = pi.run("curl --silent --fail --max-time 10 http://127.0.0.1:9102/metrics").stdout
    for line in text.splitlines():
        if line.startswith(f"hedgerow_vision_{name}{{") and all(
            f'{key}="{value}"' in line for key, value in labels.items()
        ):
            return float(line.rpartition(" ")[2])
    return None


def test_frames_are_taken(pi, config):
    readable = [each["name"] for each in config["cameras"] if each["source"]["kind"] == "file"]
    if not readable:
        pytest.skip("whether its cameras are switched on is not for this test to say")
    before = sum(
        told(pi, "frames_total", camera=readable[0], result=each) for each in ("detected", "failed", "dropped")
    )
    deadline = time.monotonic() + 60
    while before == sum(
        told(pi, "frames_total", camera=readable[0], result=each) for each in ("detected", "failed", "dropped")
    ):
        assert time.monotonic() < deadline, "no frame came"
        time.sleep(1)
    assert told(pi, "camera_up", camera=readable[0]) == 1


def test_its_metrics_leave_by_the_device_exporter_alone(pi, config):
    assert 9102 not in pi.ports_outside()
    shown = pi.root("cat /etc/systemd/system/hedgerow-exporter.service")
    assert "exporter --config /etc/hedgerow/device.yml --vision\n" in shown
    # A device's own certificate may not read them: the port answers, and refuses by profile.
    name = f"{pi.name}.{pi.entry.site}.{pi.fleet.fleet}"
    done = pi.as_root(
        f"curl --silent --max-time 20 --resolve {name}:9101:127.0.0.1 --cacert {IDENTITY}/ca.crt "
        f"--cert {IDENTITY}/device.crt --key {IDENTITY}/device.key --write-out '%{{http_code}}' -o /dev/null "
        f"https://{name}:9101/metrics"
    )
    assert done.stdout == "403"


def test_the_gateway_scrapes_what_cameras_count(gateway, fleet):
    """As Prometheus does: from a gateway of the site, with its certificate."""
    scraped = 0
    for host in fleet.pis:
        if host.site != gateway.entry.site:
            continue
        name = f"{host.name}.{host.site}.{fleet.fleet}"
        text = gateway.as_root(
            f"curl --silent --fail --max-time 20 --resolve {name}:9101:{host.address} --cacert {IDENTITY}/ca.crt "
            f"--cert {IDENTITY}/device.crt --key {IDENTITY}/device.key https://{name}:9101/metrics"
        ).stdout
        if "hedgerow_device_vision_up" in text:
            scraped += 1
            assert "hedgerow_device_vision_up 1.0" in text
            assert "hedgerow_vision_frames_total{" in text
    if not scraped:
        pytest.skip("no Pi of the site has cameras (vision_cameras)")


def test_the_firewall_knows_its_cameras(pi, config):
    rules = pi.root("cat /etc/nftables.conf 2>/dev/null || :")
    if "table inet hedgerow" not in rules:
        pytest.skip("this host has no firewall of ours (hardening_firewall)")
    for each in config["cameras"]:
        if each["source"]["kind"] == "rtsp":
            assert f"camera-{each['name']}" in rules
