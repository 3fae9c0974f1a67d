"""pyinfra sees the inventory that Ansible sees."""

from __future__ import annotations

import pytest
from pyinfra.api import Config, Inventory, State
from pyinfra.api.exceptions import ConnectError, InventoryError

from hedgerow import first_contact, paths
from hedgerow.connector import FirstContactConnector, FleetConnector
from hedgerow.errors import RefusedError

EMULATED = paths.repository_root() / "inventory" / "emulated"


@pytest.fixture(autouse=True)
def _own_var(tmp_path, monkeypatch):
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path / "var"))


@pytest.fixture
def pyinfra_host():
    """A host as pyinfra makes it from the command line: through the entry points of pyproject.toml."""

    def make(connector, **data):
        inventory = Inventory(([f"@{connector}/{EMULATED}"], {}), override_data=data)
        State(inventory, Config())
        return inventory.get_host("pi-orchard-1")

    return make


@pytest.mark.parametrize("name, connector", [("fleet", FleetConnector), ("first-contact", FirstContactConnector)])
def test_both_are_declared(pyinfra_host, name, connector):
    assert isinstance(pyinfra_host(name).connector, connector)


def test_groups_and_literal_values(pyinfra_host):
    host = pyinfra_host("fleet")
    assert set(host.groups) == {"pis", "site_orchard"}
    assert (host.data.hat, host.data.site, host.data.admin_user) == ("hat-plus-2", "orchard", "hedgerow-admin")
    assert host.data.inventory_host.serial == "e0d1c2b3a4950011"
    assert not [key for key in host.host_data if key.startswith("ansible_")]


def test_only_pinned_keys_and_the_fleets_own(pyinfra_host):
    data = pyinfra_host("fleet").connector.data
    assert data["ssh_strict_host_key_checking"] == "yes"
    assert data["ssh_known_hosts_file"].endswith("var/fleets/meadow/ssh/known_hosts")
    assert data["ssh_key"].endswith("var/fleets/meadow/ssh/id_ed25519")
    assert (data["ssh_look_for_keys"], data["ssh_allow_agent"]) == (False, False)


def test_before_first_contact_the_next_command_is_named(pyinfra_host):
    with pytest.raises(ConnectError, match=r"@first-contact/.* deploy/bootstrap.py"):
        pyinfra_host("fleet").connector.connect()


def test_a_host_that_is_not_trusted_is_not_logged_in_to(pyinfra_host, monkeypatch):
    def refuse(*_, accept_new):
        raise RefusedError(f"another key, accept_new={accept_new}")

    monkeypatch.setattr(first_contact, "pin", refuse)
    connector = pyinfra_host("first-contact").connector
    monkeypatch.setattr(connector, "_connect", lambda: pytest.fail("logged in"))
    with pytest.raises(ConnectError, match="accept_new=False"):
        connector.connect()


def test_a_wrong_path_is_an_inventory_error():
    with pytest.raises(InventoryError, match="does not exist"):
        list(FleetConnector.make_names_data("nowhere"))
    with pytest.raises(InventoryError, match="name an inventory"):
        list(FleetConnector.make_names_data(None))
