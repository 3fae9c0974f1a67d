"""Run one program on a host as the admin user, with the fleet's key and pinned host keys, in bounded time."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from hedgerow.errors import MachineError, NetworkError, UsageError
from hedgerow.inventory import Host, Inventory

CONNECT_TIMEOUT_S = 5
_SSH_FAILED = 255  # ssh(1), EXIT STATUS: ssh's own error, not the remote program's


@dataclass(frozen=True)
class Login:
    """Who logs in where the admin user is not there yet; without ``key`` the SSH agent has it."""

    user: str
    key: Path | None


def command(inventory: Inventory, host: Host, login: Login | None = None) -> list[str]:
    """Return the ``ssh`` command line up to and including the host.

    The operator's own ssh configuration still applies (a jump host, say), but cannot loosen what stands here: ssh
    takes the first value of an option, and the command line comes first.
    """
    login = login or Login(inventory.admin_user, inventory.ssh_key)
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": str(CONNECT_TIMEOUT_S),
        "GlobalKnownHostsFile": "/dev/null",
        "IdentitiesOnly": "no" if login.key is None else "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": " ".join(str(file) for file in _believed(inventory)),
    }
    flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    identity = [] if login.key is None else ["-i", str(login.key)]
    return ["ssh", *flags, *identity, "-p", str(host.port), f"{login.user}@{host.address}"]


def run(
    inventory: Inventory,
    host: Host,
    remote_command: str,
    *,
    stdin: bytes = b"",
    timeout_s: float,
    login: Login | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``remote_command`` (a shell line) on ``host``, as the admin user unless ``login`` says otherwise.

    Its exit code is in the result.

    Raises:
        NetworkError: no login within the time, for whatever reason; ssh's own words are in the message.
        UsageError: the fleet had no first contact yet.
    """
    place = f"{host.name} ({host.address})"
    if login is None and not (inventory.ssh_key.is_file() and any(file.is_file() for file in _believed(inventory))):
        raise UsageError(
            f"fleet {inventory.fleet} has no first contact yet",
            where=str(inventory.ssh_key.parent),
            next_step=f"pyinfra -y @first-contact/{inventory.path} deploy/bootstrap.py",
        )
    try:
        done = subprocess.run(
            [*command(inventory, host, login), remote_command],
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise MachineError("ssh is missing", next_step="apt-get install openssh-client") from error
    except subprocess.TimeoutExpired as error:
        raise NetworkError(f"no answer within {timeout_s:.0f} s", where=place) from error
    stdout, stderr = (stream.decode("utf-8", "replace") for stream in (done.stdout, done.stderr))
    if done.returncode == _SSH_FAILED:
        raise NetworkError(" ".join(stderr.split()) or "ssh failed", where=place)
    return subprocess.CompletedProcess(done.args, done.returncode, stdout, stderr)


def _believed(inventory: Inventory) -> list[Path]:
    """Where host keys are believed from: what first contact pinned, and the fleet's host CA if it has one."""
    authorities = inventory.host_authorities
    return [inventory.known_hosts, *([authorities] if authorities.is_file() else [])]
