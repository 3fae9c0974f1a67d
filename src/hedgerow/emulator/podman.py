"""One podman of our own: its storage, its configuration and its mounts are apart from the user's.

Invariants:

- Every podman command runs inside a private mount namespace. Overlay mounts,
  network namespaces and, where the machine has no pure cgroup version 2 tree,
  the cgroup2 mount that crun needs exist in there only.
- Podman's own folder for its database is left where ``--root`` puts it: the clean-up that conmon runs at a container's
  end knows that flag only, and without it a rebooted guest would not come back.
- The namespace is held by a file below ``/run``; the folder is named after the
  state folder, so two checkouts never meet. After a reboot it is made anew
  (``boot_id``).
- One whose processes were all killed is as stale as one of before a reboot: podman would believe that its
  containers run.
- Whoever uses podman holds ``session``; the namespace is taken down only when
  nobody else does and no container of any fleet is left.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hedgerow import atomic
from hedgerow.emulator import bridge, remains
from hedgerow.emulator import machine as machines
from hedgerow.emulator.machine import CgroupMode, Machine
from hedgerow.errors import MachineError

# systemd wants a few inotify instances for each container; the kernel's default of 128 ends at about 15 hosts.
INOTIFY_INSTANCES = 8192
COMMAND_TIMEOUT_S = 300
# Podman's own default for root; a machine with a lower hard limit gets its own.
NOFILE_LIMIT = 1048576

_CONTAINERS_CONF = """\
# Written by `hedgerow emulate`; do not edit.
[containers]
# The machine's hard limits: crun may lower a limit without CAP_SYS_RESOURCE, never raise one.
default_ulimits = ["nofile={nofile}:{nofile}", "nproc={nproc}:{nproc}"]
pids_limit = 0
# Guests see the fleet's names, not this machine's.
base_hosts_file = "none"
# A guest logs to its own journal; its console is kept small.
log_size_max = 1048576

[engine]
runtime = "crun"
# There need not be a systemd outside.
cgroup_manager = "cgroupfs"
events_logger = "file"
# The default keeps locks in one segment of /dev/shm for every podman of root: ours would be mixed with the user's.
lock_type = "file"
volume_path = "{storage}/volumes"
tmp_dir = "{run}/libpod"

[network]
network_backend = "netavark"
network_config_dir = "{storage}/networks"
"""

_STORAGE_CONF = """\
# Written by `hedgerow emulate`; do not edit.
[storage]
driver = "overlay"
graphroot = "{storage}/storage"
runroot = "{run}/storage"
"""

# Inside the new namespace. These keep state below /run, whatever is configured: netavark and aardvark-dns in
# "containers", crun in "crun", podman in "netns". Shared with the user's podman, both would serve the same names.
_OWN_RUN = ("containers", "crun", "netns")
# In an environment's folder: the storage that it belongs to.
_STORAGE_PATH = "storage_path"
# Replace the machine's version 1 tree by a pure version 2 one.
_PURE_CGROUP2 = "umount -R -l /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup"


def containers_conf(machine: Machine, storage: Path, run: Path) -> str:
    """The configuration of our podman for this machine."""
    nofile = NOFILE_LIMIT if machine.nofile_hard < 0 else min(NOFILE_LIMIT, machine.nofile_hard)
    # Podman lowers its own limit of processes to pid_max first, so crun cannot go beyond that either.
    nproc = machine.pid_max if machine.nproc_hard < 0 else min(machine.pid_max, machine.nproc_hard)
    return _CONTAINERS_CONF.format(nofile=nofile, nproc=nproc, storage=storage, run=run)


class Podman:
    """Runs podman commands in the private environment below ``storage`` (``var/cache/podman``)."""

    def __init__(self, storage: Path) -> None:
        self.storage = storage
        # Sockets of conmon live in here: their paths may not exceed 108 bytes, so no path of the checkout.
        self.run_dir = Path("/run") / f"hedgerow-{hashlib.sha256(str(storage).encode()).hexdigest()[:8]}"
        self._namespace = self.run_dir / "mnt"

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Hold the environment while podman is in use; made when missing, mended when stale."""
        self.storage.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            with self._lock("setup", fcntl.LOCK_EX):
                held.enter_context(self._lock("use", fcntl.LOCK_SH))
                self._ensure()
            yield

    def run(
        self, *args: str | Path, check: bool = True, timeout: float | None = COMMAND_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run ``podman *args`` quietly; a failure raises MachineError with podman's own last words.

        Podman is let finish whatever it began: one killed inside `start` leaves an address that nobody can take
        again. So it gets a session of its own, out of reach of Ctrl-C, and outlives a killed ``hedgerow``.
        """
        command = self.command(*args)
        pipe = subprocess.PIPE
        with subprocess.Popen(
            command, env=self.environment(), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True,
            errors="replace", start_new_session=True,
        ) as process:  # fmt: skip
            try:
                stdout, stderr = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired as error:
                process.kill()
                raise MachineError(
                    f"podman {args[0]} did not finish within {timeout} s", where=" ".join(map(str, args))
                ) from error
            except KeyboardInterrupt:
                process.wait()
                raise
        if check and process.returncode != 0:
            raise MachineError(
                f"podman {args[0]} failed: {_last_words(stderr)}",
                where=" ".join(map(str, args)),
                next_step="hedgerow emulate check",
            )
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def call(self, *args: str | Path) -> int:
        """Run ``podman *args`` on this process's own terminal and return its exit code."""
        return subprocess.run(self.command(*args), env=self.environment(), check=False).returncode

    def json(self, *args: str | Path) -> Any:
        """Run a podman command that prints JSON."""
        return json.loads(self.run(*args).stdout or "null")

    def command(self, *args: str | Path) -> list[str]:
        return ["nsenter", f"--mount={self._namespace}", "--wdns=/", "podman", *map(str, args)]

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "CONTAINERS_CONF": str(self.storage / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.storage / "storage.conf"),
            # podman cp and import unpack here; /tmp may be a small tmpfs.
            "TMPDIR": str(self.storage / "tmp"),
        }

    def exists(self) -> bool:
        """True while the namespace of this boot stands."""
        return self._is_current() and _is_mount(self._namespace)

    def remove_network(self, name: str) -> bool:
        """Remove a network and its bridge; False if there is none of that name."""
        shown = self.run("network", "inspect", name, check=False)
        if shown.returncode != 0:
            return False
        # The bridge first: once the network is forgotten nobody knows whose it was.
        bridge.remove_of(json.loads(shown.stdout)[0])
        self.run("network", "rm", "--force", name)
        return True

    def remove_half_made(self, name: str) -> None:
        """Remove what a killed ``podman create`` left of a container: a disk that podman's database does not know."""
        known = self.run("container", "exists", name, check=False).returncode == 0
        if not known and self.run("container", "exists", "--external", name, check=False).returncode == 0:
            self.run("rm", "--force", name)

    def release(self, *, purge: bool = False) -> bool:
        """Take the environment's mounts down if no container is left and nobody else uses it; say whether.

        With ``purge`` the storage, images and all, goes with them.
        """
        with self._lock("setup", fcntl.LOCK_EX):
            try:
                with self._lock("use", fcntl.LOCK_EX | fcntl.LOCK_NB):
                    if self.exists():
                        if self.run("ps", "--all", "--quiet").stdout.strip():
                            return False
                        for half in self.json("ps", "--all", "--external", "--format=json") or []:
                            self.remove_half_made(half["Names"][0])
                    self._dismantle()
                    if purge:
                        shutil.rmtree(self.storage)
            except BlockingIOError:
                return False
        return True

    def clear_deserted(self) -> list[str]:
        """Take down what killed fleets of other checkouts left on this machine; return their storages."""
        cleared = []
        for folder in sorted(self.run_dir.parent.glob("hedgerow-*")):
            marker = folder / _STORAGE_PATH
            if folder != self.run_dir and marker.is_file():
                other = Podman(Path(marker.read_text(encoding="utf-8")))
                if other.run_dir == folder and other._clear_if_deserted():
                    cleared.append(str(other.storage))
        return cleared

    def _clear_if_deserted(self) -> bool:
        with contextlib.ExitStack() as held:
            if self.storage.is_dir():
                try:
                    held.enter_context(self._lock("setup", fcntl.LOCK_EX | fcntl.LOCK_NB))
                except BlockingIOError:
                    return False
            deserted = remains.is_deserted(self.storage, self.run_dir)
            if deserted:
                self._dismantle()
        return deserted

    def _ensure(self) -> None:
        if self.exists() and not remains.is_deserted(self.storage, self.run_dir):
            # Its settings stay as they were made: podman's database refuses to be read with others.
            return
        machine = machines.detect()
        (self.storage / "tmp").mkdir(exist_ok=True)
        atomic.write_text(self.storage / "containers.conf", containers_conf(machine, self.storage, self.run_dir))
        atomic.write_text(self.storage / "storage.conf", _STORAGE_CONF.format(storage=self.storage, run=self.run_dir))
        self._dismantle()
        self.run_dir.mkdir(mode=0o700)
        (self.run_dir / "boot_id").write_text(_boot_id(), encoding="ascii")
        (self.run_dir / _STORAGE_PATH).write_text(str(self.storage), encoding="utf-8")
        # A namespace can be held by a file only below a mount that does not propagate: mount_namespaces(7).
        _machine("mount", "--bind", self.run_dir, self.run_dir)
        _machine("mount", "--make-private", self.run_dir)
        self._namespace.touch()
        inside = []
        for name in _OWN_RUN:
            (self.run_dir / name).mkdir()
            inside.append(f"mkdir -p /run/{name} && mount --bind {self.run_dir}/{name} /run/{name}")
        if machine.cgroup is not CgroupMode.V2:
            inside.append(_PURE_CGROUP2)
        # slave: what is mounted on the machine later is seen inside, nothing goes the other way.
        _machine("unshare", f"--mount={self._namespace}", "--propagation", "slave", "sh", "-c", " && ".join(inside))

    def _dismantle(self) -> None:
        for pid in remains.to_end(self.storage, self.run_dir):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for point in (self._namespace, self.run_dir):
            while _is_mount(point):
                _machine("umount", "--lazy", point)
        # After the mounts: they hold the network namespaces, and those the ports of the bridge.
        for file in (self.storage / "networks").glob("*.json"):
            network = json.loads(file.read_text(encoding="utf-8"))
            bridge.await_no_ports(str(network["network_interface"]))
            bridge.remove_of(network)
        shutil.rmtree(self.run_dir, ignore_errors=True)

    def _is_current(self) -> bool:
        try:
            return (self.run_dir / "boot_id").read_text(encoding="ascii") == _boot_id()
        except FileNotFoundError:
            return False

    @contextlib.contextmanager
    def _lock(self, name: str, operation: int) -> Iterator[None]:
        self.storage.mkdir(parents=True, exist_ok=True)
        with (self.storage / f"{name}.lock").open("w") as file:
            fcntl.flock(file, operation)
            yield


def _machine(*args: str | Path) -> None:
    """Run a program that changes the machine; raise with its own words if it fails."""
    done = subprocess.run([*map(str, args)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MachineError(
            f"{args[0]} failed: {_last_words(done.stderr)}",
            where=" ".join(map(str, args)),
            next_step="hedgerow emulate check",
        )


def _is_mount(point: Path) -> bool:
    mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    return any(line.split()[4] == str(point) for line in mountinfo.splitlines())


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _last_words(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return " / ".join(lines[-3:]) if lines else "no message"
