"""The virtual machines of an inventory: hosts that have ``emulated: true`` and ``virtual_machine: true``.

The same operations as ``hedgerow.emulator.fleet`` has for containers, with the same results; a fleet may have both.

- A machine carries the hash of what it was made from; one that differs is told of, and only ``recreate`` replaces it.
- They boot one after the other: software emulation takes all the cores there are.
"""

from __future__ import annotations

import contextlib
import ipaddress
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from hedgerow import paths
from hedgerow.emulator import values as live
from hedgerow.emulator.first_key import ensure_first_contact_key
from hedgerow.emulator.fleet import HostStatus, Power
from hedgerow.emulator.host import UnitsFailedError
from hedgerow.emulator.vm import checks, supervisor
from hedgerow.emulator.vm.host import BOOTED, VirtualHost
from hedgerow.emulator.vm.image import Cards
from hedgerow.errors import DeviceError, HedgerowError, PartialError, UsageError
from hedgerow.inventory import Host, Inventory

Say = Callable[[str], None]

_LOOPBACK = ipaddress.IPv4Network("127.0.0.0/8")
# A card that has been converged, and its snapshots.
NEEDED_MB = 3000


class VirtualFleet:
    """The virtual machines of ``inventory``, perhaps none; ``say`` gets one line for each step of long work."""

    def __init__(self, inventory: Inventory, *, say: Say = lambda _: None) -> None:
        self.name = inventory.fleet
        self.folder = paths.var_dir() / "emulator" / self.name
        self._say = say
        self._inventory = inventory.path
        self.hosts = {
            name: VirtualHost(self.name, host, self.folder / name)
            for name, host in inventory.hosts.items()
            if host.virtual_machine
        }

    @property
    def first_contact_key(self) -> Path:
        return self.folder / "first_contact_key"

    def build_images(self) -> tuple[bool, list[str]]:
        """Make the card of the hosts; return whether it was missing, and its path."""
        checks.require()
        cards = self._cards()
        return cards.ensure(_cards_in_use()), [str(cards.card.disk)]

    def up(self, hosts: Iterable[str] | None = None, *, recreate: bool = False) -> list[HostStatus]:
        """Boot ``hosts`` (default: all) and return when each runs and answers SSH.

        Raises:
            MachineError: this machine lacks a program, space or a port.
            PartialError: some hosts did not come up; the others run.
        """
        wanted = self._chosen(hosts)
        checks.require()
        for host in wanted:
            _check_address(host.host)
        cards = self._cards()
        cards.ensure(_cards_in_use())
        ensure_first_contact_key(self.folder, self.name)
        checks.require_space(self.folder, NEEDED_MB)
        results: list[HostStatus] = []
        failures: dict[str, str] = {}
        for host in wanted:
            try:
                results.append(self._bring_up(host, cards, recreate=recreate))
            except HedgerowError as error:
                if len(wanted) == 1:
                    raise
                failures[host.host.name] = error.what
        if failures:
            lines = "\n    ".join(f"{name}: {what}" for name, what in sorted(failures.items()))
            raise PartialError(
                f"{len(failures)} of {len(wanted)} virtual machines did not come up:\n    {lines}",
                where=f"fleet {self.name}",
                next_step="run the same command again; hosts that run are left alone",
            )
        return results

    def down(self, *, purge_images: bool = False) -> list[str]:
        """Remove every virtual machine of this fleet, also those that the inventory no longer has."""
        removed = remove(self.folder)
        return removed + (purge_cards() if purge_images else [])

    def status(self, hosts: Iterable[str] | None = None) -> list[HostStatus]:
        cards = self._cards()
        return [self._status(host, cards) for host in self._chosen(hosts)]

    def power(self, host: str, state: Power) -> HostStatus:
        """Cut or give the power of one host. Off is hard; its disk is kept."""
        target = self._existing(host)
        if state in {"off", "cycle"}:
            target.power_off()
        if state in {"on", "cycle"}:
            if target.state().power == "off":
                target.power_on()
            target.await_boot()
        return self._status(target, self._cards())

    def snapshot(self, host: str, name: str) -> None:
        """Keep a running machine as it is now."""
        self._running(host).snapshot(name)

    def restore(self, host: str, name: str = BOOTED) -> HostStatus:
        """Bring a machine back to a snapshot, in seconds."""
        target = self._existing(host)
        target.restore(name)
        return self._status(target, self._cards())

    def values(self, host: str) -> live.Values:
        return self._existing(host).board.read()

    def set_values(self, host: str, **values: object) -> live.Values:
        """Change live values; what the device tree holds (power supply, HAT EEPROM) is seen from the next boot on."""
        target = self._existing(host)
        texts = {key: "none" if value is None else str(value) for key, value in values.items()}
        new = live.changed(target.board.read(), texts, host=host)
        target.board.write(new)
        if target.state().power == "on":
            target.load_board()
        return new

    def exec(self, host: str, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a program as root in a running host, through no network of the guest."""
        return self._running(host).run(argv)

    def _bring_up(self, host: VirtualHost, cards: Cards, *, recreate: bool) -> HostStatus:
        name = host.host.name
        spec = host.spec()
        digest = host.digest(cards.digest)
        outdated = spec is not None and spec.inputs != digest
        if outdated and recreate:
            self._say(f"{name}: replacing the virtual machine")
            host.remove()
            spec, outdated = None, False
        if outdated:
            self._say(f"{name}: was made from other inputs; --recreate replaces it (its disk is lost)")
        if host.state().power != "off" and spec is not None:
            return self._left_alone(host, outdated=outdated)
        if spec is None:
            host.create(cards.card, digest, self._public_key())
        self._say(f"{name}: booting its own kernel in software emulation (half a minute to a minute)")
        host.power_on()
        host.await_boot()
        if BOOTED not in host.snapshots():
            host.snapshot(BOOTED)
        return self._row(host, "running", outdated=outdated, ssh=True, changed=True)

    def _left_alone(self, host: VirtualHost, *, outdated: bool) -> HostStatus:
        try:
            host.await_boot()
        except UnitsFailedError as error:
            self._say(f"{host.host.name}: {error.what}")
            return self._row(host, "degraded", outdated=outdated, ssh=True)
        return self._row(host, "running", outdated=outdated, ssh=True)

    def _status(self, host: VirtualHost, cards: Cards) -> HostStatus:
        spec = host.spec()
        if spec is None:
            return self._row(host, "absent")
        outdated = spec.inputs != host.digest(cards.digest)
        state = host.state()
        if state.power != "on":
            return self._row(host, state.power, outdated=outdated)
        if host.is_out_of_space():
            return self._row(host, "stopped: no space on this machine", outdated=outdated)
        return self._row(host, host.systemd_state(), outdated=outdated, ssh=host.ssh_answers())

    @staticmethod
    def _row(host: VirtualHost, state: str, **more: bool) -> HostStatus:
        return HostStatus(host.host.name, host.host.address, host.host.hat, state, **more)

    def _public_key(self) -> str:
        return self.first_contact_key.with_suffix(".pub").read_text(encoding="ascii")

    def _cards(self) -> Cards:
        return Cards(paths.cache_dir() / "vm", self._say)

    def _chosen(self, hosts: Iterable[str] | None) -> list[VirtualHost]:
        return list(self.hosts.values()) if hosts is None else [self.hosts[name] for name in hosts]

    def _existing(self, name: str) -> VirtualHost:
        host = self.hosts[name]
        if host.spec() is None:
            raise UsageError(
                "the host was never booted", where=name, next_step=f"hedgerow emulate up -i {self._inventory}"
            )
        return host

    def _running(self, name: str) -> VirtualHost:
        host = self._existing(name)
        if host.state().power != "on":
            raise DeviceError(
                f"the host is switched off: {host.state().why}",
                where=name,
                next_step=f"hedgerow emulate power -i {self._inventory} {name} on",
            )
        return host


def remove(folder: Path) -> list[str]:
    """Cut the power of every virtual machine below a fleet's ``folder`` and remove it; return what went."""
    removed = []
    for file in sorted(folder.glob(f"*/{supervisor.SPEC}")):
        supervisor.end(file.parent)
        spec = supervisor.read_spec(file.parent)
        if spec is not None:
            shutil.rmtree(spec.sockets, ignore_errors=True)
            with contextlib.suppress(OSError):  # other machines have theirs in there
                Path(spec.sockets).parent.rmdir()
        shutil.rmtree(file.parent)
        removed.append(str(file.parent))
    return removed


def _cards_in_use() -> set[Path]:
    """Folders of the cards that machines of any fleet stand on."""
    specs = (
        supervisor.read_spec(file.parent) for file in (paths.var_dir() / "emulator").glob(f"*/*/{supervisor.SPEC}")
    )
    return {Path(spec.kernel).parent for spec in specs if spec is not None}


def purge_cards() -> list[str]:
    """Remove the cached cards, unless a machine of another fleet stands on one; return what went."""
    cards = paths.cache_dir() / "vm"
    used = sorted((paths.var_dir() / "emulator").glob(f"*/*/{supervisor.SPEC}"))
    if used:
        raise PartialError(
            "the cards are in use by another fleet and stay; this fleet is gone",
            where=str(used[0].parent),
            next_step="hedgerow emulate down --all --purge-images removes every fleet and the images",
        )
    if not cards.exists():
        return []
    shutil.rmtree(cards)
    return [str(cards)]


def _check_address(host: Host) -> None:
    try:
        inside = ipaddress.IPv4Address(host.address) in _LOOPBACK
    except ValueError:
        inside = False
    if not inside:
        raise UsageError(
            f"{host.address} is no address that a virtual machine can have",
            where=f"{host.name}, ansible_host",
            next_step="choose one inside 127.0.0.0/8 that is its own, for example 127.77.0.21",
        )
