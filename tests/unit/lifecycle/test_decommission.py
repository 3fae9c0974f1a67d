from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hedgerow import paths
from hedgerow.errors import RefusedError, UsageError
from hedgerow.inventory import Inventory, files, load
from hedgerow.lifecycle import decommission

PI, GATEWAY = "pi-orchard-3", "gw-orchard"


@pytest.fixture(scope="module")
def inventory() -> Inventory:
    return load(paths.repository_root() / "inventory/emulated")


def test_a_pi_may_leave(inventory: Inventory) -> None:
    assert decommission.judge(inventory, PI, PI, rollout=None).name == PI


@pytest.mark.parametrize("typed", ["", "pi-orchard-2", "pis", "PI-ORCHARD-3"])
def test_its_whole_name_must_be_typed(inventory: Inventory, typed: str) -> None:
    with pytest.raises(UsageError, match="was typed"):
        decommission.judge(inventory, PI, typed, rollout=None)


def test_a_host_that_is_not_there_is_named_with_those_that_are(inventory: Inventory) -> None:
    with pytest.raises(UsageError, match="no host pi-9") as error:
        decommission.judge(inventory, "pi-9", "pi-9", rollout=None)
    assert PI in str(error.value)


def test_nobody_leaves_under_a_rollout(inventory: Inventory) -> None:
    with pytest.raises(RefusedError, match="20261121"):
        decommission.judge(inventory, PI, PI, rollout="20261121-assistant")


def test_a_gateway_leaves_after_those_that_fetch_from_it(inventory: Inventory) -> None:
    with pytest.raises(RefusedError, match="pi-orchard-1, pi-orchard-2, pi-orchard-3"):
        decommission.judge(inventory, GATEWAY, GATEWAY, rollout=None)


@pytest.mark.parametrize("url", ["https://gw-orchard.orchard.meadow/", "https://10.77.0.10/", "https://gw-orchard:443"])
def test_a_gateway_is_known_by_address_and_names(inventory: Inventory, url: str) -> None:
    other = inventory.hosts[PI]
    hosts = {GATEWAY: inventory.hosts[GATEWAY], PI: type(other)(**_fields(other) | {"vars": {"registry_url": url}})}
    changed = type(inventory)(**_fields(inventory) | {"hosts": hosts})
    assert decommission.depending_on(changed, changed.hosts[GATEWAY]) == [PI]


def _fields(struct) -> dict:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def test_every_line_of_the_inventory_that_names_it_is_told(tmp_path: Path) -> None:
    shutil.copytree(paths.repository_root() / "inventory/emulated", tmp_path / "inventory", symlinks=False)
    (tmp_path / "inventory/host_vars").mkdir()
    (tmp_path / f"inventory/host_vars/{PI}.yml").write_text("cooling: passive\n")
    found = decommission.inventory_lines(files.read(tmp_path / "inventory"), PI)
    lines = (tmp_path / "inventory/hosts.yml").read_text().splitlines()
    expected = [number for number, line in enumerate(lines, start=1) if line.strip() == f"{PI}:"]
    assert [line.rpartition(":")[2] for line in found[:-1]] == [str(number) for number in expected]
    assert len(expected) == 2  # its group and its site
    assert found[-1].endswith(f"host_vars/{PI}.yml (the whole file)")


def test_a_dead_hosts_report_says_what_is_still_on_it(inventory: Inventory) -> None:
    host = inventory.hosts[PI]
    said = decommission.report(
        host, wiped=False, left=["it does not answer"], certificates_until="2026-12-01", lines=["hosts.yml:3"]
    )
    text = "\n".join(said)
    assert "it does not answer" in text
    assert "When it turns up" in text
    assert "until 2026-12-01" in text
    assert "are gone from it" not in text
    assert "hosts.yml:3" in text


def test_a_wiped_hosts_report_leaves_nothing_to_do_on_it(inventory: Inventory) -> None:
    said = "\n".join(
        decommission.report(inventory.hosts[PI], wiped=True, left=[], certificates_until=None, lines=["hosts.yml:3"])
    )
    assert "are gone from it" in said
    assert "Not done" not in said
    assert "revocation list" not in said
