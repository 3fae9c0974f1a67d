"""pyinfra reads the same inventory as Ansible: ``pyinfra @fleet/inventory/emulated deploy/sweep.py``.

Two connectors, declared as entry points in ``pyproject.toml``:

- ``@fleet/<inventory>`` logs in as the admin user with the fleet's key, and talks only to hosts whose key is pinned.
- ``@first-contact/<inventory>`` is for ``deploy/bootstrap.py`` alone. It pins host keys first (``first_contact``), then
  logs in as the admin user where there is one already, else as the image's first user. That the more trusting way has
  a name of its own keeps it out of everyday commands.

Every host's ``host.data`` has the inventory's literal values by their own names, and the typed ones as
``inventory_host`` and ``fleet_inventory``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paramiko import AuthenticationException, SSHException
from pyinfra import logger
from pyinfra.api import StringCommand
from pyinfra.api.exceptions import ConnectError, InventoryError
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.connectors.sshuserclient import client as ssh_client

from hedgerow import first_contact
from hedgerow.errors import HedgerowError
from hedgerow.inventory import Host, Inventory, load


class FleetConnector(SSHConnector):  # type: ignore[misc] # pyinfra publishes no types for it
    """Hosts of an inventory, over SSH, as the admin user."""

    handles_execution = True

    @staticmethod
    def make_names_data(name: str | None = None) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
        if not name:
            raise InventoryError("name an inventory: @fleet/inventory/emulated")
        try:
            inventory = load(Path(name))
        except HedgerowError as error:
            raise InventoryError(str(error)) from error
        for host in inventory.hosts.values():
            yield host.name, host_data(inventory, host), list(host.groups)

    def connect(self) -> None:
        inventory: Inventory = self.host.data.fleet_inventory
        if not Path(self.data["ssh_key"]).is_file() or not inventory.known_hosts.is_file():
            first = f"pyinfra -y @first-contact/{_typed(inventory.path)} deploy/bootstrap.py"
            raise ConnectError(f"fleet {inventory.fleet} has no first contact yet; next: {first}")
        super().connect()


class FirstContactConnector(FleetConnector):
    """The same hosts, met for the first time."""

    def connect(self) -> None:
        data = self.host.data
        inventory: Inventory = data.fleet_inventory
        host: Host = data.inventory_host
        try:
            first_contact.ensure_admin_key(inventory)
            verdict, key = first_contact.pin(inventory, host, accept_new=bool(data.get("accept_new_host_keys")))
        except HedgerowError as error:
            raise ConnectError(str(error)) from error
        logger.info(f"{self.host.print_prefix}host key {key.fingerprint} {verdict.value}")
        # pyinfra reads known_hosts once; it has just grown.
        ssh_client.get_host_keys.cache.clear()
        if self._admin_logs_in():
            return
        user, key_file = first_contact.first_login(inventory, host)
        self.data["ssh_user"] = data.get("bootstrap_user", user)
        self.data["ssh_key"] = str(key_file) if key_file else None
        self.data["ssh_look_for_keys"] = self.data["ssh_allow_agent"] = key_file is None
        SSHConnector.connect(self)
        if not self._may_become_root() and not sys.stdin.isatty():
            # Images since April 2026 want a password for sudo.
            what = f"{self.data['ssh_user']} needs a password to become root"
            raise ConnectError(f"{what}; next: run this on a terminal, where pyinfra asks for it")

    def _admin_logs_in(self) -> bool:
        """Whether the admin user is there, with its key and its sudo right: a first contact may have been cut off."""
        try:
            self._connect()
        except ConnectError as error:
            if isinstance(error.__context__, AuthenticationException):
                return False  # no such user yet, or not with this key
            raise
        except (OSError, EOFError, SSHException) as error:
            raise ConnectError(f"SSH error ({error})") from error
        return self._may_become_root()

    def _may_become_root(self) -> bool:
        # Silent: pyinfra asks for a password as soon as it reads sudo's words.
        done, _ = self.run_shell_command(StringCommand("sudo -n true 2>/dev/null"))
        return bool(done)


def host_data(inventory: Inventory, host: Host) -> dict[str, Any]:
    """Return what pyinfra knows of ``host``: how to reach it, and the inventory's values."""
    literal = {key: value for key, value in host.vars.items() if not key.startswith("ansible_")}
    return {
        **literal,
        "inventory_host": host,
        "fleet_inventory": inventory,
        "ssh_hostname": host.address,
        "ssh_port": host.port,
        "ssh_user": inventory.admin_user,
        "ssh_key": str(inventory.ssh_key),
        "ssh_allow_agent": False,
        "ssh_look_for_keys": False,
        "ssh_known_hosts_file": str(inventory.known_hosts),
        "ssh_strict_host_key_checking": "yes",
    }


def _typed(path: Path) -> str:
    """The path as the operator would type it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
