"""An emulated fleet: hosts of an inventory, each a container at its address that presents a Raspberry Pi 5.

Invariants:

- A killed ``up`` or ``down`` is resumed by running it again.
- A container carries the hash of everything it was made from; one that differs is told of, and only ``recreate``
  replaces it, because its disk would be lost.
- ``down`` goes by the fleet's label, so it also removes hosts that the inventory no longer has.
"""

from __future__ import annotations

import concurrent.futures
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hedgerow import paths
from hedgerow.emulator import checks, network
from hedgerow.emulator import values as live
from hedgerow.emulator.first_key import ensure_first_contact_key
from hedgerow.emulator.host import FLEET_LABEL, HOST_LABEL, EmulatedHost, UnitsFailedError, inputs_of, is_running
from hedgerow.emulator.image import Images
from hedgerow.emulator.podman import INOTIFY_INSTANCES, Podman
from hedgerow.errors import DeviceError, HedgerowError, PartialError, UsageError
from hedgerow.inventory import Inventory

# Boots at once; more would only make each slower.
_PARALLEL = 8

Power = Literal["on", "off", "cycle"]


@dataclass(frozen=True, slots=True)
class HostStatus:
    """One row of ``hedgerow emulate status``.

    ``state``: absent, off, or what systemd says (starting, running, degraded, …). ``outdated``: made from other
    inputs than are wanted now. ``changed``: this call created or started it.
    """

    host: str
    address: str
    hat: str
    state: str
    outdated: bool = False
    ssh: bool = False
    changed: bool = False


class EmulatedFleet:
    """The emulated hosts of ``inventory``; ``say`` gets one line for each step of long work."""

    def __init__(self, inventory: Inventory, *, say: Callable[[str], None] = lambda _: None) -> None:
        self.name = inventory.fleet
        self.folder = paths.var_dir() / "emulator" / self.name
        self.podman = Podman(paths.cache_dir() / "podman")
        self._say = say
        self._inventory = inventory.path
        self._network = network.of_inventory(inventory)
        self.hosts = {
            name: EmulatedHost(self.podman, self.name, host, self.folder / name)
            for name, host in inventory.hosts.items()
            if host.emulated and not host.virtual_machine
        }
        if not self.hosts:
            raise UsageError(
                "the inventory has no emulated host that is a container",
                where=str(inventory.path),
                next_step="set emulated: true for the hosts that this machine shall run",
            )

    @property
    def first_contact_key(self) -> Path:
        """Private key of the first user (``pi``); an imager would have put its public half on the card."""
        return self.folder / "first_contact_key"

    def build_images(self) -> tuple[bool, list[str]]:
        """Make the image of the hosts; return whether it was missing, and its name."""
        checks.require()
        with self.podman.session():
            images = self._images()
            return images.ensure(), [images.tag]

    def up(self, hosts: Iterable[str] | None = None, *, recreate: bool = False) -> list[HostStatus]:
        """Boot ``hosts`` (default: all) and return when each runs and answers SSH.

        Raises:
            MachineError: this machine lacks a program or a right; nothing was started.
            PartialError: some hosts did not come up; the others run. The message has a line for each.
        """
        wanted = self._chosen(hosts)
        checks.require()
        network.check_addresses(self._network, [host.host for host in wanted])
        _raise_inotify_limit(self._say)
        results: dict[str, HostStatus] = {}
        failures: dict[str, str] = {}
        with self.podman.session():
            images = self._images()
            images.ensure()
            ensure_first_contact_key(self.folder, self.name)
            existing = _containers(self.podman, self.name)
            network.ensure(
                self.podman,
                _network_name(self.name),
                self._network,
                inventory=self._inventory,
                in_use=any(is_running(entry) for entry in existing.values()),
            )
            with concurrent.futures.ThreadPoolExecutor(max_workers=_PARALLEL) as pool:
                futures = {
                    pool.submit(
                        self._bring_up, host, images, existing.get(host.host.name), recreate=recreate
                    ): host.host.name
                    for host in wanted
                }
                for future in concurrent.futures.as_completed(futures):
                    name = futures[future]
                    try:
                        results[name] = future.result()
                    except HedgerowError as error:
                        failures[name] = error.what
        if failures:
            lines = "\n    ".join(f"{name}: {what}" for name, what in sorted(failures.items()))
            raise PartialError(
                f"{len(failures)} of {len(wanted)} hosts did not come up:\n    {lines}",
                where=f"fleet {self.name}",
                next_step="run the same command again; hosts that run are left alone",
            )
        return [results[host.host.name] for host in wanted]

    def down(self, *, purge_images: bool = False) -> list[str]:
        """Remove every container, the network and the state of this fleet; return what was removed.

        With ``purge_images`` also the cached images, unless another fleet runs on them.
        """
        checks.require()
        with self.podman.session():
            removed = _remove(self.podman, self.name)
        return removed + _release(self.podman, purge_images=purge_images)

    def status(self, hosts: Iterable[str] | None = None) -> list[HostStatus]:
        """What each host is now; changes nothing."""
        wanted = self._chosen(hosts)
        if not self.podman.exists():
            return [self._row(host, "absent") for host in wanted]
        with self.podman.session():
            images = self._images()
            existing = _containers(self.podman, self.name)
            with concurrent.futures.ThreadPoolExecutor(max_workers=_PARALLEL) as pool:
                return list(pool.map(lambda host: self._status(host, images, existing.get(host.host.name)), wanted))

    def power(self, host: str, state: Power) -> HostStatus:
        """Cut or give the power of one host. Off is hard (nothing is flushed by the guest); its disk is kept."""
        target = self._one(host)
        with self.podman.session():
            entry = self._existing(target)
            if state in {"off", "cycle"} and is_running(entry):
                target.power_off()
            if state in {"on", "cycle"}:
                if not is_running(target.entry()):
                    target.power_on()
                target.await_boot()
            return self._status(target, self._images(), target.entry())

    def values(self, host: str) -> live.Values:
        """The live values of ``host``'s board."""
        target = self._one(host)
        if not target.board.exists():
            raise self._never_booted(host)
        return target.board.read()

    def set_values(self, host: str, **values: object) -> live.Values:
        """Change live values (keys: ``hedgerow.emulator.values.KEYS``) and return all of them."""
        target = self._one(host)
        texts = {key: "none" if value is None else str(value) for key, value in values.items()}
        new = live.changed(self.values(host), texts, host=host)
        target.board.write(new)
        if any(live.KEYS[key].hat for key in values):
            with self.podman.session():
                if is_running(target.entry()):
                    target.sync_devices()
        return new

    def exec(self, host: str, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a program as root in a running host; its exit code is in the result."""
        target = self._one(host)
        with self.podman.session():
            self._require_running(target)
            return self.podman.run("exec", target.name, *argv, check=False)

    def attach(self, host: str, argv: Sequence[str], *, tty: bool) -> int:
        """``exec`` on this process's own terminal; return the exit code."""
        target = self._one(host)
        with self.podman.session():
            self._require_running(target)
            options = ["--interactive", *(["--tty"] if tty else [])]
            return self.podman.call("exec", *options, target.name, *argv)

    def _images(self) -> Images:
        return Images(paths.cache_dir() / "images", self.podman, self._say)

    def _bring_up(
        self, host: EmulatedHost, images: Images, entry: Mapping[str, Any] | None, *, recreate: bool
    ) -> HostStatus:
        name = host.host.name
        digest = host.digest(images.tag, str(self._network))
        outdated = entry is not None and inputs_of(entry) != digest
        if entry is not None and ((outdated and recreate) or not host.board.exists()):
            # Without its state folder the bind mount leads nowhere: nothing of such a host can be kept.
            self._say(f"{name}: replacing the container")
            host.remove()
            entry, outdated = None, False
        if is_running(entry):
            return self._left_alone(host, outdated=outdated)
        if entry is None:
            key = self.first_contact_key.with_suffix(".pub").read_text(encoding="ascii")
            host.create(images.tag, _network_name(self.name), digest, key)
        host.power_on()
        host.await_boot()
        if outdated:
            self._tell_outdated(host)
        return self._row(host, "running", outdated=outdated, ssh=True, changed=True)

    def _left_alone(self, host: EmulatedHost, *, outdated: bool) -> HostStatus:
        """A host that runs already: a unit that failed since its boot is its own affair, and told."""
        if outdated:
            self._tell_outdated(host)
        try:
            host.await_boot()
        except UnitsFailedError as error:
            self._say(f"{host.host.name}: {error.what}")
            return self._row(host, "degraded", outdated=outdated, ssh=True)
        return self._row(host, "running", outdated=outdated, ssh=True)

    def _tell_outdated(self, host: EmulatedHost) -> None:
        self._say(f"{host.host.name}: was made from other inputs; --recreate replaces it (its disk is lost)")

    def _status(self, host: EmulatedHost, images: Images, entry: Mapping[str, Any] | None) -> HostStatus:
        if entry is None:
            return self._row(host, "absent")
        outdated = inputs_of(entry) != host.digest(images.tag, str(self._network))
        if not is_running(entry):
            return self._row(host, "off", outdated=outdated)
        return self._row(host, host.systemd_state(wait=False), outdated=outdated, ssh=host.ssh_answers())

    @staticmethod
    def _row(host: EmulatedHost, state: str, **more: bool) -> HostStatus:
        return HostStatus(host.host.name, host.host.address, host.host.hat, state, **more)

    def _chosen(self, hosts: Iterable[str] | None) -> list[EmulatedHost]:
        return list(self.hosts.values()) if hosts is None else [self._one(name) for name in hosts]

    def _one(self, name: str) -> EmulatedHost:
        try:
            return self.hosts[name]
        except KeyError:
            raise UsageError(
                f"no emulated host {name!r} in this fleet",
                where=str(self._inventory),
                next_step=f"one of: {', '.join(self.hosts)}",
            ) from None

    def _existing(self, host: EmulatedHost) -> Mapping[str, Any]:
        entry = host.entry()
        if entry is None:
            raise self._never_booted(host.host.name)
        return entry

    def _require_running(self, host: EmulatedHost) -> None:
        if not is_running(self._existing(host)):
            raise DeviceError(
                "the host is switched off",
                where=host.host.name,
                next_step=f"hedgerow emulate power -i {self._inventory} {host.host.name} on",
            )

    def _never_booted(self, host: str) -> UsageError:
        return UsageError(
            "the host was never booted", where=host, next_step=f"hedgerow emulate up -i {self._inventory}"
        )


def remove_all(*, purge_images: bool = False) -> list[str]:
    """``down`` for every fleet of this checkout, whatever its inventory says or whether it still has one."""
    podman = Podman(paths.cache_dir() / "podman")
    folder = paths.var_dir() / "emulator"
    fleets = {entry.name for entry in folder.glob("*") if entry.is_dir()}
    if podman.storage.is_dir():
        checks.require()
        with podman.session():
            listing = podman.json("ps", "--all", f"--filter=label={FLEET_LABEL}", "--format=json") or []
            fleets |= {entry["Labels"][FLEET_LABEL] for entry in listing}
            removed = [name for fleet in sorted(fleets) for name in _remove(podman, fleet)]
        return removed + _release(podman, purge_images=purge_images)
    for fleet in fleets:
        shutil.rmtree(folder / fleet)
    return [str(folder / fleet) for fleet in sorted(fleets)]


def _network_name(fleet: str) -> str:
    return f"hedgerow-{fleet}"


def _containers(podman: Podman, fleet: str) -> dict[str, Mapping[str, Any]]:
    """Containers of ``fleet`` by host name, as podman tells them."""
    listing = podman.json("ps", "--all", f"--filter=label={FLEET_LABEL}={fleet}", "--format=json")
    return {entry["Labels"][HOST_LABEL]: entry for entry in listing or []}


def _remove(podman: Podman, fleet: str) -> list[str]:
    """Remove containers, network and state folder of ``fleet``; return what went."""
    removed: list[str] = []
    names = [entry["Names"][0] for entry in _containers(podman, fleet).values()]
    if names:
        podman.run("rm", "--force", "--time=0", *names)
        removed += names
    if podman.remove_network(_network_name(fleet)):
        removed.append(_network_name(fleet))
    folder = paths.var_dir() / "emulator" / fleet
    if folder.exists():
        shutil.rmtree(folder)
        removed.append(str(folder))
    return removed


def _release(podman: Podman, *, purge_images: bool) -> list[str]:
    """Let go of the podman environment if no other fleet needs it; return what went."""
    released = podman.release(purge=purge_images)
    if not purge_images:
        return []
    if not released:
        raise PartialError(
            "the images are in use by another fleet and stay; this fleet is gone",
            where=str(podman.storage),
            next_step="hedgerow emulate down --all --purge-images removes every fleet and the images",
        )
    return [str(podman.storage), *Images.purge_archives(paths.cache_dir() / "images")]


def _raise_inotify_limit(say: Callable[[str], None]) -> None:
    path = Path("/proc/sys/fs/inotify/max_user_instances")
    if int(path.read_text(encoding="ascii")) < INOTIFY_INSTANCES:
        path.write_text(str(INOTIFY_INSTANCES), encoding="ascii")
        say(f"raised fs.inotify.max_user_instances to {INOTIFY_INSTANCES}: many systemds need more than the default")
