"""An emulated fleet: containers at the addresses of an inventory, each a Raspberry Pi 5 with systemd and sshd.

Invariants:

- What exists is asked of podman, never remembered here: a killed ``up`` or ``down`` is resumed by running it again.
- A container carries the hash of everything it was made from; one that differs is told of, and only ``recreate``
  replaces it, because its disk would be lost.
- ``down`` goes by the fleet's label, so it also removes hosts that the inventory no longer has.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import ipaddress
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from hedgerow import paths
from hedgerow.emulator import values as live
from hedgerow.emulator.board import REVISIONS, Board
from hedgerow.emulator.hardware_root import HardwareRoot
from hedgerow.emulator.image import Images
from hedgerow.emulator.podman import INOTIFY_INSTANCES, Podman
from hedgerow.errors import DeviceError, HedgerowError, MachineError, PartialError, UsageError
from hedgerow.inventory import Host, Inventory

BOOT_TIMEOUT_S = 120  # a boot takes 1-3 s; a busy machine with many hosts may need much longer
POWER_OFF_TIMEOUT_S = 15
POLL_S = 0.1
# Raised whenever the way containers are made changes.
_CONTAINER_VERSION = 1

Power = Literal["on", "off", "cycle"]


@dataclass(frozen=True, slots=True)
class HostStatus:
    """One row of ``hedgerow emulate status``.

    ``state``: absent, off, starting, running, degraded. ``outdated``: made from other inputs than are wanted now.
    """

    host: str
    address: str
    hat: str
    state: str
    outdated: bool
    ssh: bool
    changed: bool = False


class EmulatedFleet:
    """The emulated hosts of ``inventory``; ``say`` gets one line for each step of long work."""

    def __init__(self, inventory: Inventory, *, say: Callable[[str], None] = lambda _: None) -> None:
        self.fleet = inventory.fleet
        self.hosts = {name: host for name, host in inventory.hosts.items() if host.emulated}
        if not self.hosts:
            raise UsageError(
                "the inventory has no emulated host",
                where=str(inventory.path),
                next_step="set emulated: true for the hosts that this machine shall run",
            )
        self.network = _network(inventory)
        self.folder = paths.var_dir() / "emulator" / self.fleet
        self.podman = Podman(paths.cache_dir() / "podman")
        self._say = say
        self._inventory_path = inventory.path

    @property
    def first_contact_key(self) -> Path:
        """Private key of the first user (``pi``), as an imager would have put its public half on the card."""
        return self.folder / "first_contact_key"

    def container(self, host: str) -> str:
        return f"hedgerow-{self.fleet}-{host}"

    def images(self) -> Images:
        return Images(paths.cache_dir() / "images", self.podman, self._say)

    def up(self, hosts: Iterable[str] | None = None, *, recreate: bool = False) -> list[HostStatus]:
        """Boot ``hosts`` (default: all) and return when each runs and answers SSH.

        Raises:
            PartialError: some hosts did not come up; the others run. The message has a line for each.
        """
        wanted = self._chosen(hosts)
        self._check_addresses(wanted)
        _raise_inotify_limit(self._say)
        with self.podman.session():
            images = self.images()
            images.ensure({host.hat for host in wanted})
            self._ensure_key()
            self._ensure_network()
            existing = self._containers()
            results: list[HostStatus] = []
            failures: list[str] = []
            with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
                futures = {
                    pool.submit(self._bring_up, host, images, existing.get(host.name), recreate): host
                    for host in wanted
                }
                for future in concurrent.futures.as_completed(futures):
                    try:
                        results.append(future.result())
                    except HedgerowError as error:
                        failures.append(f"{futures[future].name}: {error.what}")
        if failures:
            raise PartialError(
                f"{len(failures)} of {len(wanted)} hosts did not come up:\n    " + "\n    ".join(sorted(failures)),
                where=f"fleet {self.fleet}",
                next_step="run the same command again; hosts that run are left alone",
            )
        order = list(self.hosts)
        return sorted(results, key=lambda status: order.index(status.host))

    def down(self, *, purge_images: bool = False) -> list[str]:
        """Remove every container, the network and the state of this fleet; return what was removed."""
        removed: list[str] = []
        with self.podman.session():
            names = [entry["Names"][0] for entry in self._containers().values()]
            if names:
                self.podman.run("rm", "--force", "--time=0", *names)
                removed += names
            if self.podman.run("network", "exists", self._network_name, check=False).returncode == 0:
                self.podman.run("network", "rm", "--force", self._network_name)
                removed.append(self._network_name)
            if purge_images:
                removed += self.images().purge()
        if self.folder.exists():
            shutil.rmtree(self.folder)
            removed.append(str(self.folder))
        self.podman.release()
        return removed

    def status(self, hosts: Iterable[str] | None = None) -> list[HostStatus]:
        """What each host is now; changes nothing."""
        wanted = self._chosen(hosts)
        if not self.podman.exists():
            return [HostStatus(host.name, host.address, host.hat, "absent", False, False) for host in wanted]
        with self.podman.session():
            images = self.images()
            existing = self._containers()
            with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
                return list(pool.map(lambda host: self._status(host, images, existing.get(host.name)), wanted))

    def power(self, host: str, state: Power) -> HostStatus:
        """Cut or give the power of one host. Off is hard (nothing is flushed by the guest); its disk is kept."""
        target = self._one(host)
        with self.podman.session():
            entry = self._existing(host)
            if state in {"off", "cycle"} and _is_running(entry):
                self.podman.run("kill", "--signal=KILL", self.container(host))
                self._await_off(host)
            if state in {"on", "cycle"}:
                self._start(target)
                self._await_boot(target)
            return self._status(target, self.images(), self._containers().get(host))

    def values(self, host: str) -> live.Values:
        """The live values of ``host``'s board."""
        root = self._root(self._one(host))
        if not root.exists():
            raise self._not_up(host)
        return root.read()

    def set_values(self, host: str, **values: object) -> live.Values:
        """Change live values (keys: ``hedgerow.emulator.values.KEYS``) and return all of them."""
        root = self._root(self._one(host))
        if not root.exists():
            raise self._not_up(host)
        new = live.changed(
            root.read(),
            {key: "none" if value is None else str(value) for key, value in values.items()},
            host=host,
        )
        root.write(new)
        if any(live.KEYS[key].hat for key in values):
            with self.podman.session():
                if _is_running(self._existing(host)):
                    self.podman.run("exec", self.container(host), "/usr/lib/emulated-pi/sync-devices")
        return new

    def exec(self, host: str, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a program as root in a running host; its exit code is in the result."""
        with self.podman.session():
            self._require_running(host)
            return self.podman.run("exec", self.container(host), *argv, check=False)

    def attach(self, host: str, argv: Sequence[str], *, tty: bool) -> int:
        """``exec`` on this process's own terminal; return the exit code."""
        with self.podman.session():
            self._require_running(host)
            options = ["--interactive", *(["--tty"] if tty else [])]
            return self.podman.call("exec", *options, self.container(host), *argv)

    # ── one host ────────────────────────────────────────────────────────────

    def _bring_up(self, host: Host, images: Images, entry: dict[str, Any] | None, recreate: bool) -> HostStatus:
        digest = self._digest(host, images)
        changed = False
        if entry is not None and recreate and entry["Labels"].get("hedgerow.inputs") != digest:
            self._say(f"{host.name}: replacing the container, its inputs changed")
            self.podman.run("rm", "--force", "--time=0", self.container(host.name))
            entry = None
        if entry is not None and not self._root(host).exists():
            # Its state folder was deleted under it: the bind mount leads nowhere.
            self.podman.run("rm", "--force", "--time=0", self.container(host.name))
            entry = None
        if entry is None:
            self._create(host, images, digest)
            changed = True
        if not _is_running(entry):
            self._start(host)
            changed = True
        self._await_boot(host)
        outdated = entry is not None and entry["Labels"].get("hedgerow.inputs") != digest
        if outdated:
            self._say(f"{host.name}: runs, but was made from other inputs; --recreate replaces it (its disk is lost)")
        return HostStatus(host.name, host.address, host.hat, "running", outdated, True, changed)

    def _create(self, host: Host, images: Images, digest: str) -> None:
        root = self._root(host)
        root.create(
            live.defaults(host.hat, host.cooling),
            self.first_contact_key.with_suffix(".pub").read_text(encoding="ascii"),
        )
        self.podman.run(
            "create",
            f"--name={self.container(host.name)}",
            f"--hostname={host.name}",
            f"--network={self._network_name}",
            f"--ip={host.address}",
            f"--network-alias={host.name}",
            # The name in its certificate (docs/contracts.md, certificate profiles).
            f"--network-alias={host.name}.{host.site}.{self.fleet}",
            f"--label=hedgerow.fleet={self.fleet}",
            f"--label=hedgerow.host={host.name}",
            f"--label=hedgerow.inputs={digest}",
            f"--volume={root.path}:/hardware",
            "--privileged",
            "--systemd=always",
            "--restart=on-failure",
            images.tag(host.hat),
        )

    def _start(self, host: Host) -> None:
        root = self._root(host)
        root.write(live.after_power_on(root.read()))
        self.podman.run("start", self.container(host.name))

    def _await_off(self, host: str) -> None:
        """Wait until podman has seen the end. Not `podman wait`: it sits out 20 s where PID 1 reaps late."""
        deadline = time.monotonic() + POWER_OFF_TIMEOUT_S
        while _is_running(self._containers().get(host)):
            if time.monotonic() > deadline:
                raise MachineError(f"still runs {POWER_OFF_TIMEOUT_S} s after it was killed", where=host)
            time.sleep(POLL_S)

    def _await_boot(self, host: Host) -> None:
        """Wait for sshd and for systemd's own verdict on the boot."""
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        state = "starting"
        while time.monotonic() < deadline:
            if _ssh_answers(host.address, host.port):
                state = self._systemd_state(host.name, wait=True)
                if state == "running":
                    self._keep_host_key(host)
                    return
                if state == "degraded":
                    raise DeviceError(
                        f"booted, but these units failed: {self._failed_units(host.name)}",
                        where=host.name,
                        next_step=f"hedgerow emulate exec -i {self._inventory_path} {host.name} -- systemctl --failed",
                    )
            time.sleep(POLL_S)
        raise DeviceError(
            f"did not boot within {BOOT_TIMEOUT_S} s; systemd says {state}",
            where=host.name,
            next_step=f"hedgerow emulate exec -i {self._inventory_path} {host.name} -- journalctl --boot",
        )

    def _keep_host_key(self, host: Host) -> None:
        """Copy what the guest told on its "console" to where bootstrap looks: out of band, before any SSH."""
        root = self._root(host)
        told = root.path / "console/ssh_host_ed25519_key.pub"
        (root.folder / "ssh_host_ed25519_key.pub").write_bytes(told.read_bytes())

    def _systemd_state(self, host: str, *, wait: bool) -> str:
        command = ["systemctl", "is-system-running", *(["--wait"] if wait else [])]
        done = self.podman.run("exec", self.container(host), *command, check=False)
        return done.stdout.strip() or "starting"

    def _failed_units(self, host: str) -> str:
        listing = self.podman.run(
            "exec", self.container(host), "systemctl", "list-units", "--failed", "--plain", "--no-legend"
        ).stdout
        return ", ".join(line.split()[0] for line in listing.splitlines() if line.strip())

    def _status(self, host: Host, images: Images, entry: dict[str, Any] | None) -> HostStatus:
        if entry is None:
            return HostStatus(host.name, host.address, host.hat, "absent", False, False)
        outdated = entry["Labels"].get("hedgerow.inputs") != self._digest(host, images)
        if not _is_running(entry):
            return HostStatus(host.name, host.address, host.hat, "off", outdated, False)
        state = self._systemd_state(host.name, wait=False)
        return HostStatus(host.name, host.address, host.hat, state, outdated, _ssh_answers(host.address, host.port))

    def _root(self, host: Host) -> HardwareRoot:
        return HardwareRoot(self.folder / host.name, _board(host))

    def _digest(self, host: Host, images: Images) -> str:
        inputs = {
            "version": _CONTAINER_VERSION,
            "image": images.tag(host.hat),
            "address": host.address,
            "network": str(self.network),
            "site": host.site,
            "board": asdict(_board(host)),
        }
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]

    # ── the fleet ───────────────────────────────────────────────────────────

    @property
    def _network_name(self) -> str:
        return f"hedgerow-{self.fleet}"

    def _containers(self) -> dict[str, dict[str, Any]]:
        """Containers of this fleet by host name, as podman tells them."""
        listing = self.podman.json("ps", "--all", f"--filter=label=hedgerow.fleet={self.fleet}", "--format=json")
        return {entry["Labels"]["hedgerow.host"]: entry for entry in listing or []}

    def _ensure_network(self) -> None:
        subnet = str(self.network)
        shown = self.podman.run("network", "inspect", self._network_name, check=False)
        if shown.returncode == 0:
            present = json.loads(shown.stdout)[0]["subnets"][0]["subnet"]
            if present != subnet:
                raise UsageError(
                    f"the fleet's network is {present} now, the inventory says {subnet}",
                    where=self._network_name,
                    next_step=f"hedgerow emulate down -i {self._inventory_path}, then up",
                )
            return
        _refuse_taken_network(self.network)
        # The bridge's own name is left to podman: version 4.3 cannot be told one.
        self.podman.run("network", "create", f"--subnet={subnet}", self._network_name)

    def _ensure_key(self) -> None:
        if self.first_contact_key.is_file() and self.first_contact_key.with_suffix(".pub").is_file():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.first_contact_key.unlink(missing_ok=True)
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"first contact, fleet {self.fleet}",
             "-f", str(self.first_contact_key)],
            check=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def _check_addresses(self, hosts: Iterable[Host]) -> None:
        for host in hosts:
            try:
                address = ipaddress.ip_address(host.address)
            except ValueError:
                address = None
            if address is None or address not in self.network or address in {self.network[0], self.network[1]}:
                raise UsageError(
                    f"{host.address} is no address that an emulated host can have",
                    where=f"{host.name}, ansible_host",
                    next_step=f"give it an address inside {self.network}, from {self.network[2]} on",
                )

    def _chosen(self, hosts: Iterable[str] | None) -> list[Host]:
        return list(self.hosts.values()) if hosts is None else [self._one(name) for name in hosts]

    def _one(self, name: str) -> Host:
        try:
            return self.hosts[name]
        except KeyError:
            raise UsageError(
                f"no emulated host {name!r} in this fleet", where=str(self._inventory_path),
                next_step=f"one of: {', '.join(self.hosts)}",
            ) from None  # fmt: skip

    def _existing(self, host: str) -> dict[str, Any]:
        entry = self._containers().get(host)
        if entry is None:
            raise self._not_up(host)
        return entry

    def _require_running(self, host: str) -> None:
        self._one(host)
        if not _is_running(self._existing(host)):
            raise DeviceError(
                "the host is switched off", where=host,
                next_step=f"hedgerow emulate power -i {self._inventory_path} {host} on",
            )  # fmt: skip

    def _not_up(self, host: str) -> UsageError:
        return UsageError(
            "the host was never booted", where=host, next_step=f"hedgerow emulate up -i {self._inventory_path}"
        )


def _board(host: Host) -> Board:
    memory = int(host.vars.get("board_memory_mb", 8192))
    if memory not in REVISIONS:
        raise UsageError(
            f"no Raspberry Pi 5 has {memory} MB", where=f"{host.name}, board_memory_mb",
            next_step=f"one of: {', '.join(map(str, REVISIONS))}",
        )  # fmt: skip
    return Board(serial=host.serial, hat=host.hat, cooling=host.cooling, memory_mb=memory)


def _network(inventory: Inventory) -> ipaddress.IPv4Network:
    text = inventory.vars.get("emulator_network")
    try:
        return ipaddress.IPv4Network(str(text))
    except ValueError as error:
        raise UsageError(
            f"emulator_network is {text!r}, not a network", where=str(inventory.path),
            next_step="write emulator_network: 10.77.0.0/24 in group_vars/all/emulator.yml",
        ) from error  # fmt: skip


def _refuse_taken_network(network: ipaddress.IPv4Network) -> None:
    """Routes of this machine that overlap would swallow the fleet's traffic, or the fleet theirs."""
    listing = subprocess.run(["ip", "-json", "-4", "route"], capture_output=True, text=True, check=True).stdout
    for route in json.loads(listing):
        if route["dst"] == "default":
            continue
        taken = ipaddress.IPv4Network(route["dst"], strict=False)
        if taken.overlaps(network):
            raise MachineError(
                f"{network} overlaps {taken}, which this machine reaches through {route.get('dev')}",
                where="emulator_network",
                next_step="choose another emulator_network (and ansible_host addresses) for this fleet",
            )


def _raise_inotify_limit(say: Callable[[str], None]) -> None:
    path = Path("/proc/sys/fs/inotify/max_user_instances")
    if int(path.read_text(encoding="ascii")) < INOTIFY_INSTANCES:
        path.write_text(str(INOTIFY_INSTANCES), encoding="ascii")
        say(f"raised fs.inotify.max_user_instances to {INOTIFY_INSTANCES}: many systemds need more than the default")


def _is_running(entry: dict[str, Any] | None) -> bool:
    return entry is not None and entry["State"] == "running"


def _ssh_answers(address: str, port: int) -> bool:
    """True if an SSH server says its version there."""
    try:
        with socket.create_connection((address, port), timeout=2) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
