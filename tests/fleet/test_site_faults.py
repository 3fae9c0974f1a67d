"""What goes wrong on a converged fleet, and what is said: hosts off, disks full, ports taken, forgeries."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import stages

from hedgerow import paths

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

DEVICE = "/opt/hedgerow/runtime/current/bin/hedgerow-device"
MODELS = "/var/lib/hedgerow/models"
MIRROR = "/srv/hedgerow/registry"
REFUSED = 3


@pytest.fixture(scope="module")
def site(controller):
    """A fleet on which every Pi serves 0.1.1 and has nothing else."""
    bundle = controller.publish("0.1.1")
    policy = {"soak": {"passes": 1, "interval_s": 0.5}, "gate": {"without": ["slower"]}}
    extra = json.dumps({"bundle": bundle, "rollout_policy": policy})
    done = controller.play("rollout.yml", "-e", extra)
    assert done.returncode == 0, done.stdout + done.stderr
    return controller


@pytest.fixture
def pi(site):
    return site.pis[-1]


@pytest.fixture
def gateway(site):
    return next(iter(site.inventory.gateways)).name


def recap(done, host: str) -> dict[str, int]:
    line = next(line for line in done.stdout.splitlines() if re.match(rf"{host}\s+: ok=", line))
    return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", line)}


def test_a_pi_that_is_off_does_not_keep_the_others_from_converging(site, pi, wait) -> None:
    assert site.hedgerow("emulate", "power", pi, "off").returncode == 0
    try:
        done = site.play("site.yml")
        assert done.returncode == 4, "Ansible's code for unreachable hosts"
        assert recap(done, pi)["unreachable"] == 1
        others = set(site.inventory.hosts) - {pi}
        assert all(recap(done, host)["unreachable"] == recap(done, host)["failed"] == 0 for host in others)
    finally:
        assert site.hedgerow("emulate", "power", pi, "on").returncode == 0
    wait(lambda: site.table()[pi]["health"] != "unreachable" and site.on(pi, "true").returncode == 0)
    again = site.play("site.yml", "--limit", pi)
    assert again.returncode == 0, again.stdout
    assert recap(again, pi)["failed"] == 0


@pytest.mark.parametrize(
    "playbook, arguments",
    [
        ("site.yml", ()),
        ("site.yml", ("--tags", "boot_config")),
        ("publish.yml", ()),
        ("rollout.yml", ("-e", "bundle=assistant@0.1.1")),
        ("rotate_identity.yml", ()),
    ],
)
def test_check_mode_touches_nothing(site, playbook, arguments) -> None:
    before = [site.on(host, f"{DEVICE} report --json").stdout for host in site.pis]
    done = site.play(playbook, "--check", "--diff", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    after = [site.on(host, f"{DEVICE} report --json").stdout for host in site.pis]
    assert [json.loads(text)["model"] for text in after] == [json.loads(text)["model"] for text in before]


def test_limit_keeps_to_its_hosts(site, pi) -> None:
    done = site.play("site.yml", "--limit", pi)
    assert done.returncode == 0
    assert re.findall(r"^(\S+)\s+: ok=", done.stdout, re.MULTILINE) == [pi]


def test_a_registry_that_somebody_else_signed_is_refused(site, pi, gateway, tmp_path) -> None:
    bundle = site.publish("0.1.2")
    real = paths.stage_dir(site.inventory.fleet, site.inventory.registry_stage) / "registry"
    forged = stages.found(tmp_path / "stage", fresh=True)
    forged.publish(site.folder / "0.1.2")
    _replace(site, gateway, forged.root / "metadata")
    try:
        done = site.on(pi, f"{DEVICE} activate {bundle} --json")
        assert done.returncode == REFUSED, done.stdout + done.stderr
        assert "signatures do not hold" in done.stderr
        assert site.serves()[pi] == "assistant@0.1.1"
        assert site.on(pi, f"ls -A {MODELS}/assistant").stdout.count("0.1.2") == 0
    finally:
        _replace(site, gateway, real / "metadata")
    assert site.on(pi, f"{DEVICE} stage {bundle}").returncode == 0
    assert site.on(pi, f"rm -r {MODELS}/assistant/0.1.2").returncode == 0


def test_a_truncated_file_on_the_gateway_is_refused(site, pi, gateway) -> None:
    bundle = site.publish("0.1.3")
    # To one byte: the device's plan may ask for a patch in the middle of any of them.
    assert site.on(gateway, f"find {MIRROR}/targets/packs -type f -exec truncate -s 1 {{}} +").returncode == 0
    done = site.on(pi, f"{DEVICE} activate {bundle}")
    assert done.returncode == 1
    assert re.search("truncated|ends before", done.stderr), done.stderr
    assert "0.1.3" not in site.on(pi, f"ls -A {MODELS}/assistant").stdout
    assert site.serves()[pi] == "assistant@0.1.1"
    assert site.play("publish.yml").returncode == 0, "publishing again mends the mirror"
    assert site.on(pi, f"{DEVICE} stage {bundle}").returncode == 0


def test_a_full_disk_is_told_before_and_leaves_nothing(site, pi) -> None:
    bundle = site.publish("0.1.4")
    assert site.on(pi, f"mount -t tmpfs -o size=1m tmpfs {MODELS}").returncode == 0
    try:
        done = site.on(pi, f"{DEVICE} stage {bundle}")
        assert done.returncode == 1
        assert re.search(r"needs \d+ MB.* \d+ MB are free", done.stderr), done.stderr
        assert site.on(pi, f"find {MODELS} -name manifest.json -o -name '*.onnx'").stdout == ""
    finally:
        assert site.on(pi, f"umount {MODELS}").returncode == 0
    assert site.serves()[pi] == "assistant@0.1.1"


def test_a_taken_port_is_named_and_the_host_shown_as_failing(site, pi, wait) -> None:
    taker = (
        "import socket, time\n"
        "s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        "s.bind(('0.0.0.0', 8443)); s.listen(); time.sleep(120)\n"
    )
    site.on(pi, "systemctl stop hedgerow-server")
    assert site.on(pi, "cat > /run/taker.py", stdin=taker.encode()).returncode == 0
    assert site.on(pi, "systemd-run --unit taker python3 /run/taker.py").returncode == 0
    try:
        wait(lambda: "8443" in site.on(pi, "ss -Hltn sport = :8443").stdout)
        site.on(pi, "systemctl start hedgerow-server")
        said = "journalctl -u hedgerow-server -n 30 -o cat"
        wait(lambda: "port 8443 is taken" in site.on(pi, said).stdout)
        assert site.table()[pi]["health"] not in {"ok", "degraded"}
        others = set(site.pis) - {pi}
        assert all(site.table()[host]["health"] in {"ok", "degraded"} for host in others)
    finally:
        site.on(pi, "systemctl stop taker")
    _start_anew(site, pi, wait)


def test_a_server_that_is_killed_comes_back_with_what_is_current(site, pi, wait) -> None:
    assert site.on(pi, "systemctl kill -s KILL hedgerow-server").returncode == 0
    wait(lambda: site.serves()[pi] == "assistant@0.1.1")
    _start_anew(site, pi, wait)


def _start_anew(site, pi: str, wait) -> None:
    """The server as after a boot: what a test did to it must not stand in its count of restarts."""
    unit = "hedgerow-server"
    site.on(pi, f"systemctl stop {unit}; systemctl reset-failed {unit}; systemctl start {unit}")
    wait(lambda: site.serves()[pi] == "assistant@0.1.1")


def _replace(site, gateway: str, metadata: Path) -> None:
    """Put another registry's metadata on the gateway, as somebody who broke into it would."""
    assert site.on(gateway, f"rm -f {MIRROR}/metadata/*.json").returncode == 0
    for file in sorted(metadata.glob("*.json")):
        done = site.on(gateway, f"cat > {MIRROR}/metadata/{file.name}", stdin=file.read_bytes())
        assert done.returncode == 0, done.stderr
