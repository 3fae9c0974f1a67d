"""A controller that is lost: its backup, restored on an empty one, manages the fleet without a device being touched."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from rollout_fleet import Callers

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


@pytest.fixture
def loses(spinney) -> Iterator[Path]:
    """Where the controller's folder goes when it is lost; it comes back if the test fails before the restore."""
    aside: Path = spinney.directory.with_name(f"{spinney.directory.name}.lost")
    yield aside
    if (spinney.directory / "ca").is_dir():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        shutil.rmtree(spinney.directory, ignore_errors=True)
        aside.rename(spinney.directory)


def test_a_lost_controller_is_restored_and_no_device_is_touched(spinney, loses, wait, tmp_path) -> None:
    served, certificates, servers = spinney.serves(), spinney.serial_numbers(), spinney.servers()
    key, backup, inventory = tmp_path / "backup.key", tmp_path / "spinney.age", tmp_path / "inventory"

    def of_backup(*arguments: object) -> dict[str, object]:
        done = spinney.controller._run("hedgerow", "backup", *map(str, arguments), "--json")
        found: dict[str, object] = json.loads(spinney.done(done))
        return found

    made = of_backup("key", "--output", key)
    spinney.done(spinney.hedgerow("backup", "create", "--output", str(backup), "--recipient", str(made["recipient"])))

    # Fleets go on without their controller: nobody who asks them notices.
    with Callers(spinney, spinney.pis) as callers:
        wait(lambda: all(callers.answered[host] > 5 for host in spinney.pis))
        spinney.directory.rename(loses)
        for refused in (spinney.hedgerow("ca", "show"), spinney.hedgerow("fleet", "table"), spinney.rotate()):
            assert refused.returncode != 0, refused.stdout
        assert not spinney.directory.exists(), "what was refused has left nothing that a restore would stumble over"

        of_backup("restore", backup, "--identity", key, "--inventory-to", inventory)
        there, restored = (
            json.loads(
                spinney.done(spinney.controller._run("hedgerow", "inventory", "show", "--json", "-i", str(each)))
            )
            for each in (spinney.inventory.path, inventory)
        )
        assert restored == there
        assert "the chain holds" in spinney.done(spinney.hedgerow("audit", "verify"))

        # Every host is known by the key that was pinned, answers to the certificates, and has nothing to be changed.
        rows = spinney.controller.table()
        assert {row["health"] for row in rows.values()} <= {"ok", "degraded"}, rows
        checked = spinney.done(spinney.controller.play("site.yml", "--check", "--tags", "device_identity"))
        assert set(re.findall(r"changed=(\d+)", checked)) == {"0"}, checked
        assert (spinney.serves(), spinney.serial_numbers(), spinney.servers()) == (served, certificates, servers)

        # And it goes on where it was: certificates by the same CA, and a release that devices take for newer.
        spinney.done(spinney.rotate())
        assert not set(certificates.values()) & set(spinney.serial_numbers().values())
        released = spinney.release()
        spinney.ready(released)
        wait(lambda: all(len(callers.numbers[host]) > 1 for host in spinney.pis))
    callers.none_failed()
    assert spinney.servers() == servers, "no server was started anew"
