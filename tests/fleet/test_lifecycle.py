"""Boards that are exchanged, adopted and leave: the playbooks on a fleet of their own, in the order of a fleet's life.

Minutes, because hosts converge from nothing: `make test-lifecycle`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hedgerow import inventory as inventories
from hedgerow import paths
from hedgerow.emulator import checks
from hedgerow.emulator.fleet import EmulatedFleet
from hedgerow.lifecycle import record

pytestmark = [
    pytest.mark.fleet,
    pytest.mark.skipif(os.geteuid() != 0, reason="emulated hosts are root's containers: run with sudo"),
    pytest.mark.skipif("HEDGEROW_TEST_LIFECYCLE" not in os.environ, reason="takes minutes: make test-lifecycle"),
]

REPOSITORY = Path(__file__).parents[2]
NAME, PI, GATEWAY = "test-lifecycle", "pi-orchard-1", "gw-orchard"
OLD, NEW = "e0d1c2b3a4951791", "e0d1c2b3a4951792"
HOSTS = """\
pis:
  hosts:
    pi-orchard-1: {{ansible_host: 10.181.0.11, pi_serial: {serial}, hat: none}}
gateways:
  hosts:
    gw-orchard: {{ansible_host: 10.181.0.10, pi_serial: e0d1c2b3a4951790}}
site_orchard:
  hosts: {{gw-orchard: , pi-orchard-1: }}
"""


# A unit with a port of ours and one of its own, a person with a key, a firewall and a command line of its own.
USED = """\
set -e
useradd --create-home --shell /bin/bash ada
install -d -m 0700 -o ada /home/ada/.ssh
echo 'ssh-ed25519 AAAA ada' > /home/ada/.ssh/authorized_keys
echo '# ours' >> /etc/nftables.conf
sed -i 's/$/ isolcpus=3/' /boot/firmware/cmdline.txt
cat > /etc/systemd/system/mine.service <<'UNIT'
[Service]
ExecStart=/bin/sh -c 'python3 -m http.server 1880 & exec python3 -m http.server 8443'
[Install]
WantedBy=multi-user.target
UNIT
systemctl enable --now mine.service
for try in $(seq 50); do ss -ltn | grep -q :8443 && ss -ltn | grep -q :1880 && exit 0; sleep 0.1; done
exit 1
"""


class Life:
    """A fleet of one Pi and its gateway, and its controller."""

    def __init__(self, folder: Path, controller_of: Callable[..., Any]) -> None:
        self.path = folder / "inventory"
        self._bundles = folder / "bundles"
        self._bundles.mkdir()
        self._controller_of = controller_of
        shutil.copytree(REPOSITORY / "inventory" / "emulated", self.path)
        for file in self.path.rglob("*.yml"):
            file.write_text(
                file.read_text().replace("10.77.0.", "10.181.0.").replace("fleet: meadow", f"fleet: {NAME}")
            )
        self.write(HOSTS.format(serial=OLD))

    def write(self, hosts: str) -> None:
        (self.path / "hosts.yml").write_text(hosts)

    @property
    def controller(self) -> Any:
        return self._controller_of(self.path, self._bundles)

    @property
    def fleet(self) -> EmulatedFleet:
        return EmulatedFleet(inventories.load(self.path))

    def play(self, playbook: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.controller.play(playbook, *arguments)

    def ok(self, playbook: str, *arguments: str) -> str:
        done = self.play(playbook, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def refused(self, playbook: str, *arguments: str) -> str:
        done = self.play(playbook, *arguments)
        assert done.returncode != 0, done.stdout
        return " ".join(done.stdout.split())

    def exists(self, host: str, path: str) -> bool:
        return self.fleet.exec(host, ["test", "-e", path]).returncode == 0

    def events(self) -> list[record.Event]:
        return record.read(paths.fleet_dir(NAME))


def changed(stdout: str, host: str) -> int:
    """The last play recap's figure."""
    return int(re.findall(rf"^{host} .*changed=(\d+)", stdout, re.MULTILINE)[-1])


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory, controller_of: Callable[..., Any]) -> Iterator[Life]:
    """A gateway that is converged, with a model to fetch, and a Pi that somebody has been using."""
    checks.require()
    life = Life(tmp_path_factory.mktemp("life"), controller_of)
    shutil.rmtree(paths.fleet_dir(NAME), ignore_errors=True)
    try:
        life.fleet.up(recreate=True)
        for words in (["ca", "init"], ["registry", "init", "--unattended"], ["runtime", "build"]):
            done = life.controller.hedgerow(*words)
            assert done.returncode == 0, done.stdout + done.stderr
        contact = ("pyinfra", "-y", "--limit", GATEWAY, f"@first-contact/{life.path}", "deploy/bootstrap.py")
        done = life.controller._run(*contact)
        assert done.returncode == 0, done.stdout + done.stderr
        life.ok("site.yml", "--limit", GATEWAY)
        life.controller.publish("1.0.1")
        done = life.fleet.exec(PI, ["sh", "-c", USED])
        assert done.returncode == 0, done.stderr
        yield life
    finally:
        life.fleet.down()
        shutil.rmtree(paths.fleet_dir(NAME), ignore_errors=True)


def survey(life: Life) -> tuple[int, dict[str, list[str]]]:
    """Exit code, and what stands under each weight."""
    done = life.controller.hedgerow("host", "survey", PI, "--json")
    found: dict[str, list[str]] = {}
    for one in json.loads(done.stdout)["findings"]:
        found.setdefault(one["weight"], []).append(one["what"])
    return done.returncode, found


def written_since(life: Life, marker: str) -> list[str]:
    """Files on the Pi that are newer than ``marker``, but for what every login writes."""
    kept = " ".join(
        f"-path {path} -prune -o" for path in ("/proc", "/sys", "/run", "/dev", "/hardware", "/tmp", "/var/log")
    )
    done = life.fleet.exec(PI, ["sh", "-c", f"find / {kept} -newer {marker} -type f -print"])
    by_every_login = ("lastlog", ".sudo_as_admin_successful")
    return [line for line in done.stdout.splitlines() if not any(word in line for word in by_every_login)]


def test_a_look_tells_what_adopting_would_break_and_changes_nothing(life: Life) -> None:
    life.fleet.exec(PI, ["sh", "-c", "sleep 1; touch /srv/marker; sleep 1"])  # file times have whole seconds to differ
    code, found = survey(life)
    assert code == 3
    assert [what for what in found["blocks"] if "8443" in what]
    assert [what for what in found["loses"] if "1880" in what]
    assert "/etc/nftables.conf was changed by hand" in found["loses"]
    assert [what for what in found["loses"] if what.startswith("ada can log in (1 keys)")]
    assert "mine.service is somebody's own unit" in found["keeps"]
    assert [what for what in found["keeps"] if "isolcpus=3" in what]
    said = life.ok("adopt.yml", "--limit", PI)
    assert "/etc/nftables.conf was changed by hand" in said
    assert written_since(life, "/srv/marker") == []


def test_a_host_with_a_port_of_ours_is_not_adopted(life: Life) -> None:
    said = life.refused("adopt.yml", "--limit", PI, "-e", f"adopt={PI}")
    assert "is not adopted while something blocks" in said
    assert written_since(life, "/srv/marker") == []
    assert not life.exists(PI, "/etc/sudoers.d/50-hedgerow-admin")


def test_named_and_unblocked_it_is_converged_and_serves(life: Life) -> None:
    life.fleet.exec(PI, ["systemctl", "disable", "--now", "mine.service"])
    assert "blocks" not in survey(life)[1]
    life.ok("adopt.yml", "--limit", PI, "-e", f"adopt={PI}")
    assert isinstance(life.events()[-1], record.Adopted)
    assert "isolcpus=3" in life.fleet.exec(PI, ["cat", "/boot/firmware/cmdline.txt"]).stdout
    life.ok("rollout.yml", "-e", "bundle=assistant@1.0.1")
    assert life.controller.serves() == {PI: "assistant@1.0.1"}


def test_an_exchange_needs_both_serials_and_a_new_one_in_the_inventory(life: Life) -> None:
    limited = ("replace_board.yml", "--limit", PI)
    assert "both serials must be typed" in life.refused(*limited)
    assert "one board is exchanged at a time" in life.refused(
        "replace_board.yml", "-e", f"old_serial={OLD}", "-e", f"new_serial={NEW}"
    )
    assert f"the inventory says that {PI} is {OLD}" in life.refused(
        *limited, "-e", f"old_serial={OLD}", "-e", f"new_serial={NEW}"
    )
    life.write(HOSTS.format(serial=NEW))
    assert "never was pi-orchard-1" in life.refused(
        *limited, "-e", "old_serial=e0d1c2b3a4959999", "-e", f"new_serial={NEW}"
    )
    assert [event for event in life.events() if not isinstance(event, record.Adopted)] == []


def test_another_board_takes_the_name_and_serves_what_the_old_one_served(life: Life) -> None:
    life.write(HOSTS.format(serial=NEW))
    fleet = life.fleet
    with fleet.podman.session():
        fleet.hosts[PI].remove()
    fleet.up()  # another board at the address: new host key, nothing on it
    serials = ("-e", f"old_serial={OLD}", "-e", f"new_serial={NEW}")
    predicted = life.ok("replace_board.yml", "--limit", PI, *serials, "--check")
    assert "assistant@1.0.1, because rollout" in predicted
    before = life.events()

    life.ok("replace_board.yml", "--limit", PI, *serials)
    assert life.controller.serves() == {PI: "assistant@1.0.1"}
    begun, finished = life.events()[len(before) :]
    assert isinstance(begun, record.Replacing)
    assert isinstance(finished, record.Replaced)
    assert (finished.old_serial, finished.new_serial, finished.restored) == (OLD, NEW, "assistant@1.0.1")

    # The old board, should it turn up, gets nothing.
    listed = json.loads(life.controller.hedgerow("ca", "list", "--all", "--json").stdout)
    assert {entry["revoked"] for entry in listed if entry["name"] == OLD} == {True}
    assert {entry["revoked"] for entry in listed if entry["name"] == NEW} == {False}

    again = life.ok("replace_board.yml", "--limit", PI, *serials)
    assert "assistant@1.0.1" in again
    assert len(life.events()) == len(before) + 2


def test_the_last_gateway_does_not_leave_first(life: Life) -> None:
    said = life.refused("decommission.yml", "-e", f"decommission={GATEWAY}")
    assert f"{GATEWAY} serves the registry to {PI}" in said


def test_a_name_must_be_typed_whole(life: Life) -> None:
    for words in ([], ["-e", "decommission=pis"], ["-e", "decommission=pi-orchard-9"]):
        assert "Type the name of the one host that leaves" in life.refused("decommission.yml", *words)


def test_a_host_leaves_with_nothing_of_the_fleet_on_it(life: Life) -> None:
    key = "/var/lib/hedgerow/identity/device.key"
    predicted = life.ok("decommission.yml", "-e", f"decommission={PI}", "--check", "--diff")
    assert "remove /var/lib/hedgerow/identity" in predicted
    assert life.exists(PI, key)
    assert not [event for event in life.events() if isinstance(event, record.Decommissioned)]

    said = life.ok("decommission.yml", "-e", f"decommission={PI}", "-e", "reason=sold")
    lines = [line for line in said.splitlines() if f"{life.path}/hosts.yml:" in line]
    assert len(lines) == 2
    for path in (
        "/var/lib/hedgerow/identity", "/var/lib/hedgerow/trust", "/var/lib/hedgerow/models", "/opt/hedgerow",
        "/etc/sudoers.d/50-hedgerow-admin", "/home/hedgerow-admin/.ssh/authorized_keys",
    ):  # fmt: skip
        assert not life.exists(PI, path), path
    active = life.fleet.exec(PI, ["systemctl", "is-active", "hedgerow-server.service"]).stdout.strip()
    assert active != "active"
    left = life.events()[-1]
    assert isinstance(left, record.Decommissioned)
    assert (left.serial, left.reason, left.wiped, left.left) == (NEW, "sold", True, [])


def test_it_cannot_be_logged_in_to_or_enrolled_any_more_and_a_second_run_changes_nothing(life: Life) -> None:
    again = life.ok("decommission.yml", "-e", f"decommission={PI}")
    assert changed(again, PI) == 0
    done = life.play("site.yml", "--limit", PI)
    assert done.returncode != 0
    assert "unreachable=1" in done.stdout
    refused = life.controller.hedgerow("ca", "revoke", PI, "--reason", "again", "--json")
    assert json.loads(refused.stdout)["changed"] is False


def test_a_dead_gateway_leaves_on_paper_and_what_is_on_it_is_said(life: Life) -> None:
    life.fleet.power(GATEWAY, "off")
    life.write(
        re.sub(r"pis:\n.*\n.*\n", "", HOSTS.format(serial=NEW)).replace(
            "{gw-orchard: , pi-orchard-1: }", "{gw-orchard: }"
        )
    )
    said = life.ok("decommission.yml", "-e", f"decommission={GATEWAY}")
    assert "does not answer, so its key, models and access are still on it" in said
    left = life.events()[-1]
    assert isinstance(left, record.Decommissioned)
    assert (left.host, left.wiped) == (GATEWAY, False)
    listed = json.loads(life.controller.hedgerow("ca", "list", "--all", "--json").stdout)
    assert all(entry["revoked"] for entry in listed if entry["profile"] in {"device", "gateway"})
    # It turned up: the same command does the rest.
    life.fleet.power(GATEWAY, "on")
    life.ok("decommission.yml", "-e", f"decommission={GATEWAY}")
    assert not life.exists(GATEWAY, "/var/lib/hedgerow/identity")
    assert life.events()[-1].wiped
