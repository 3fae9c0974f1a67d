"""Look at a Pi that is to be adopted, without changing anything on it: one login, three questions.

On the controller its host key is pinned, by the rules of first contact (``hedgerow.first_contact``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hedgerow import first_contact, paths, remote_script, ssh
from hedgerow.errors import DeviceError, NetworkError
from hedgerow.inventory import Host, Inventory
from hedgerow.lifecycle import adoption, placed
from hedgerow.lifecycle.adoption import Finding
from hedgerow.ssh import Login

TIMEOUT_S = 60.0
# As root if the login may; else as it is, and the survey says what it could not see.
_PYTHONS = ("sudo -n /usr/bin/python3", "/usr/bin/python3")


def look(inventory: Inventory, host: Host, *, accept_new: bool = False) -> list[Finding]:
    """What adopting ``host`` would change.

    Raises:
        NetworkError: nobody can log in, neither the admin user nor the image's first one.
        RefusedError: nobody said which host key it has, or it shows another.
        DeviceError: its answer makes no sense.
    """
    first_contact.pin(inventory, host, accept_new=accept_new)
    wanted = placed.paths(paths.repository_root() / "roles")
    refusals = []
    for login in _logins(inventory, host):
        try:
            hardware, state, survey = _ask(inventory, host, login, wanted)
        except NetworkError as error:
            refusals.append(f"{login.user}: {error.what}")
            continue
        return adoption.findings(inventory, host, {"hardware": hardware, "state": state}, survey)
    raise NetworkError(
        f"nobody can log in to {host.name}",
        where="; ".join(refusals),
        next_step="set bootstrap_user and bootstrap_key of the host, or load the key into your SSH agent",
    )


def _logins(inventory: Inventory, host: Host) -> Iterator[Login]:
    if inventory.ssh_key.is_file():
        yield Login(inventory.admin_user, inventory.ssh_key)
    yield Login(*first_contact.first_login(inventory, host))


def _ask(inventory: Inventory, host: Host, login: Login, wanted: list[str]) -> list[Any]:
    def execute(cmd: str, *, in_data: bytes) -> dict[str, Any]:
        done = ssh.run(inventory, host, cmd, stdin=in_data, timeout_s=TIMEOUT_S, login=login)
        return {"rc": done.returncode, "stdout": done.stdout, "stderr": done.stderr}

    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("hedgerow.device.hardware", "read", {}),
        ("hedgerow.device.state", "read", {}),
        ("hedgerow.lifecycle.survey", "read", {"paths": wanted}),
    ]
    for python in _PYTHONS[:-1]:
        try:
            return remote_script.run_all(execute, calls, host=host.name, python=python)
        except DeviceError as error:
            if "sudo" not in str(error):
                raise
    return remote_script.run_all(execute, calls, host=host.name, python=_PYTHONS[-1])
