"""The emulated hosts of an inventory, whatever they are: containers and virtual machines under the same commands."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Sequence

from hedgerow import paths
from hedgerow.emulator import values as live
from hedgerow.emulator.fleet import EmulatedFleet, HostStatus, Power
from hedgerow.emulator.fleet import remove_all as remove_all_containers
from hedgerow.emulator.vm.fleet import VirtualFleet, purge_cards
from hedgerow.emulator.vm.fleet import remove as remove_machines
from hedgerow.errors import RefusedError, UsageError
from hedgerow.inventory import Inventory


class EmulatedHosts:
    """Every emulated host of ``inventory``; ``say`` gets one line for each step of long work."""

    def __init__(self, inventory: Inventory, *, say: Callable[[str], None] = lambda _: None) -> None:
        self.name = inventory.fleet
        self._inventory = inventory.path
        self._machines = VirtualFleet(inventory, say=say)
        only_machines = bool(self._machines.hosts) and not any(
            host.emulated and not host.virtual_machine for host in inventory.hosts.values()
        )
        # Refuses an inventory without any emulated host; podman is needed only where there are containers.
        self._containers = None if only_machines else EmulatedFleet(inventory, say=say)
        own = set(self._machines.hosts) | set(self._containers.hosts if self._containers else ())
        self.hosts = [name for name in inventory.hosts if name in own]
        self.first_contact_key = self._machines.first_contact_key

    def build_images(self) -> tuple[bool, list[str]]:
        """Make the images that the hosts need; return whether any was missing, and their names."""
        results = [part.build_images() for part in self._parts()]
        return any(changed for changed, _ in results), [name for _, names in results for name in names]

    def up(self, hosts: Iterable[str] | None = None, *, recreate: bool = False) -> list[HostStatus]:
        """Boot ``hosts`` (default: all): containers first, for they are there in seconds."""
        rows = [row for part, names in self._shared_out(hosts) for row in part.up(names, recreate=recreate)]
        return self._ordered(rows)

    def down(self, *, purge_images: bool = False) -> list[str]:
        """Remove every host, network and state of this fleet; return what was removed."""
        # Machines first: containers go together with the whole folder of the fleet.
        removed = self._machines.down(purge_images=purge_images)
        if self._containers is not None:
            return removed + self._containers.down(purge_images=purge_images)
        if self._machines.folder.exists():
            shutil.rmtree(self._machines.folder)
            removed.append(str(self._machines.folder))
        return removed

    def status(self, hosts: Iterable[str] | None = None) -> list[HostStatus]:
        """What each host is now; changes nothing."""
        return self._ordered([row for part, names in self._shared_out(hosts) for row in part.status(names)])

    def power(self, host: str, state: Power) -> HostStatus:
        """Cut or give the power of one host. Off is hard; its disk is kept."""
        return self._part(host).power(host, state)

    def snapshot(self, host: str, name: str) -> None:
        """Keep a virtual machine as it is now."""
        self._machine(host).snapshot(host, name)

    def restore(self, host: str, name: str) -> HostStatus:
        """Bring a virtual machine back to a snapshot."""
        return self._machine(host).restore(host, name)

    def values(self, host: str) -> live.Values:
        return self._part(host).values(host)

    def set_values(self, host: str, **values: object) -> live.Values:
        return self._part(host).set_values(host, **values)

    def attach(self, host: str, argv: Sequence[str], *, tty: bool) -> int:
        """Run a program as root in a running host; return its exit code."""
        part = self._part(host)
        if isinstance(part, EmulatedFleet):
            return part.attach(host, argv, tty=tty)
        # The guest's agent has no terminal to give: what the program said comes when it ended.
        done = part.exec(host, argv)
        sys.stdout.write(done.stdout)
        sys.stderr.write(done.stderr)
        return done.returncode

    def _parts(self) -> list[EmulatedFleet | VirtualFleet]:
        machines = [self._machines] if self._machines.hosts else []
        return [*([self._containers] if self._containers else []), *machines]

    def _shared_out(self, hosts: Iterable[str] | None) -> list[tuple[EmulatedFleet | VirtualFleet, list[str]]]:
        wanted = self.hosts if hosts is None else list(hosts)
        for name in wanted:
            self._part(name)
        shares = [(part, [name for name in wanted if name in part.hosts]) for part in self._parts()]
        return [(part, names) for part, names in shares if names]

    def _part(self, host: str) -> EmulatedFleet | VirtualFleet:
        for part in self._parts():
            if host in part.hosts:
                return part
        raise UsageError(
            f"no emulated host {host!r} in this fleet",
            where=str(self._inventory),
            next_step=f"one of: {', '.join(self.hosts)}",
        )

    def _machine(self, host: str) -> VirtualFleet:
        part = self._part(host)
        if not isinstance(part, VirtualFleet):
            raise RefusedError(
                "only a virtual machine has snapshots",
                where=host,
                next_step=f"hedgerow emulate up -i {self._inventory} --recreate replaces a container",
            )
        return part

    def _ordered(self, rows: list[HostStatus]) -> list[HostStatus]:
        return sorted(rows, key=lambda row: self.hosts.index(row.host))


def remove_all(*, purge_images: bool = False) -> list[str]:
    """``down`` for every fleet of this checkout, whatever its inventory says or whether it still has one."""
    folder = paths.var_dir() / "emulator"
    removed = [name for fleet in sorted(folder.glob("*")) for name in remove_machines(fleet)]
    removed += remove_all_containers(purge_images=purge_images)
    return removed + (purge_cards() if purge_images else [])
