"""Trust at first contact: which SSH host key belongs to a host, and the key that this controller logs in with.

The rules, in order (``decide`` is pure):

- A key that was told out of band decides. What a host shows must be that key; whatever was pinned before gives way
  to it (a rebuilt host is told anew).
- Without one, a pinned key decides: a host that shows another is refused.
- With neither, a host is refused unless the operator accepts new keys for this run; the fingerprint is shown.

Told out of band means: an emulated host's console (``var/emulator/<fleet>/<host>/``), or for a real one
``ssh_host_key_sha256`` in the inventory, read from the board's own screen or serial console.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import hashlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from hedgerow import atomic, paths
from hedgerow.errors import MachineError, NetworkError, RefusedError, UsageError
from hedgerow.inventory import Host, Inventory

KEY_TYPE = "ssh-ed25519"
SCAN_TIMEOUT_S = 5


@dataclass(frozen=True)
class HostKey:
    """A public host key; ``blob`` is base64 as in ``known_hosts``."""

    blob: str

    @classmethod
    def parse(cls, text: str) -> HostKey | None:
        """Find the ed25519 key in a line of a ``.pub`` file, of ``known_hosts`` or of ``ssh-keyscan``."""
        words = text.split()
        if KEY_TYPE not in words[:-1]:
            return None
        blob = words[words.index(KEY_TYPE) + 1]
        try:
            base64.b64decode(blob, validate=True)
        except binascii.Error:
            return None
        return cls(blob)

    @property
    def fingerprint(self) -> str:
        """The fingerprint as ``ssh-keygen -lf`` prints it."""
        digest = hashlib.sha256(base64.b64decode(self.blob)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


@dataclass(frozen=True)
class Told:
    """A fingerprint that came another way than through the network, and which way."""

    fingerprint: str
    source: str


class Verdict(Enum):
    """What to do with ``known_hosts``."""

    KEEP = "pinned already"
    PIN = "pinned"
    REPLACE = "pinned anew"


def decide(host: str, seen: HostKey, told: Told | None, pinned: HostKey | None, *, accept_new: bool) -> Verdict:
    """Apply the rules above to what ``host`` shows.

    Raises:
        RefusedError: the key is not the expected one, or nobody said which key to expect.
    """
    if told is not None:
        if seen.fingerprint != told.fingerprint:
            raise RefusedError(
                f"{host} shows host key {seen.fingerprint}, but its key is {told.fingerprint}",
                where=told.source,
                next_step="find out who answers at that address; correct the inventory only if the host was rebuilt",
            )
        if pinned == seen:
            return Verdict.KEEP
        return Verdict.PIN if pinned is None else Verdict.REPLACE
    if pinned is not None:
        if pinned != seen:
            raise RefusedError(
                f"{host} shows host key {seen.fingerprint}, but {pinned.fingerprint} is pinned",
                where="known_hosts",
                next_step="if the host was rebuilt, set ssh_host_key_sha256 to what its own console shows",
            )
        return Verdict.KEEP
    if not accept_new:
        raise RefusedError(
            f"nobody said which host key {host} has; it shows {seen.fingerprint}",
            where=f"inventory: ssh_host_key_sha256 of {host}",
            next_step="compare with the host's console and set it there, or add --data accept_new_host_keys=true",
        )
    return Verdict.PIN


def pin(inventory: Inventory, host: Host, *, accept_new: bool = False) -> tuple[Verdict, HostKey]:
    """Ask ``host`` for its key, judge it, and keep it in the fleet's ``known_hosts``.

    Raises:
        NetworkError: nothing answers at the address.
        RefusedError: see ``decide``.
    """
    seen = scan(host.address, host.port)
    known = KnownHosts(inventory.known_hosts)
    told = told_out_of_band(inventory, host)
    verdict = decide(host.name, seen, told, known.get(host.address, host.port), accept_new=accept_new)
    if verdict is not Verdict.KEEP:
        known.put(host.address, host.port, seen)
    return verdict, seen


def told_out_of_band(inventory: Inventory, host: Host) -> Told | None:
    """Return the fingerprint that ``host`` is known to have, if anybody said."""
    fingerprint = host.vars.get("ssh_host_key_sha256")
    if fingerprint is not None:
        return Told(str(fingerprint), f"inventory: ssh_host_key_sha256 of {host.name}")
    if not host.emulated:
        return None
    file = paths.var_dir() / "emulator" / inventory.fleet / host.name / "ssh_host_ed25519_key.pub"
    key = HostKey.parse(file.read_text(encoding="utf-8")) if file.is_file() else None
    if key is None:
        raise UsageError(
            f"the emulated host {host.name} has told no host key yet",
            where=str(file),
            next_step=f"hedgerow emulate up -i {inventory.path}",
        )
    return Told(key.fingerprint, str(file))


def first_login(inventory: Inventory, host: Host) -> tuple[str, Path | None]:
    """Return the image's first user and the key to log in with; None leaves the key to the SSH agent."""
    user = str(host.vars.get("bootstrap_user", "pi"))
    key = host.vars.get("bootstrap_key")
    if key is not None:
        path = Path(str(key)).expanduser()
        return user, path if path.is_absolute() else paths.repository_root() / path
    if host.emulated:
        return user, paths.var_dir() / "emulator" / inventory.fleet / "first_contact_key"
    return user, None


def scan(address: str, port: int) -> HostKey:
    """Ask the SSH server at ``address`` for its ed25519 host key."""
    command = ["ssh-keyscan", "-t", "ed25519", "-T", str(SCAN_TIMEOUT_S), "-p", str(port), address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SCAN_TIMEOUT_S * 3, check=False)
    except FileNotFoundError as error:
        raise MachineError("ssh-keyscan is missing", next_step="apt-get install openssh-client") from error
    except subprocess.TimeoutExpired:
        key = None
    else:
        keys = [HostKey.parse(line) for line in done.stdout.splitlines() if not line.startswith("#")]
        key = next((candidate for candidate in keys if candidate is not None), None)
    if key is None:
        raise NetworkError(
            "no SSH server with an ed25519 host key answers",
            where=f"{address} port {port}",
            next_step="is the host switched on, and is ansible_host right?",
        )
    return key


class KnownHosts:
    """The fleet's pinned host keys, in OpenSSH's format; one key a host."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, address: str, port: int) -> HostKey | None:
        for line in self._lines():
            if line.split()[:1] == [_pattern(address, port)]:
                return HostKey.parse(line)
        return None

    def put(self, address: str, port: int, key: HostKey) -> None:
        """Pin ``key``, in place of what was pinned for the address."""
        pattern = _pattern(address, port)
        make_private_folder(self.path.parent)
        with _alone(self.path.parent):
            lines = [line for line in self._lines() if line.split()[:1] != [pattern]]
            text = "".join(f"{line}\n" for line in [*lines, f"{pattern} {KEY_TYPE} {key.blob}"])
            atomic.write_text(self.path, text, mode=0o644)

    def forget(self, address: str, port: int) -> bool:
        """Unpin the address; whether a key was pinned."""
        pattern = _pattern(address, port)
        make_private_folder(self.path.parent)
        with _alone(self.path.parent):
            lines = self._lines()
            kept = [line for line in lines if line.split()[:1] != [pattern]]
            if kept != lines:
                atomic.write_text(self.path, "".join(f"{line}\n" for line in kept), mode=0o644)
        return kept != lines

    def _lines(self) -> list[str]:
        return self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []


def _pattern(address: str, port: int) -> str:
    return address if port == 22 else f"[{address}]:{port}"  # noqa: PLR2004 - SSH's own port


def ensure_admin_key(inventory: Inventory) -> str:
    """Return the admin user's public key; make the pair on this controller if there is none (private key 0600)."""
    private = inventory.ssh_key
    public = private.with_name(private.name + ".pub")
    make_private_folder(private.parent)
    with _alone(private.parent):
        if private.exists():
            key = load_ssh_private_key(private.read_bytes(), password=None)
        else:
            key = Ed25519PrivateKey.generate()
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
            atomic.write_bytes(private, pem, mode=0o600)
        line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        line = f"{line} {inventory.admin_user}@{inventory.fleet}"
        if not public.exists() or public.read_text(encoding="utf-8").strip() != line:
            atomic.write_text(public, line + "\n")
    return line


def make_private_folder(path: Path) -> None:
    """Make ``path``, for the operator alone."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep two controllers' processes apart between reading and writing.

    Nothing inside may wait for a program or the network: pyinfra's hosts share one thread.
    """
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
