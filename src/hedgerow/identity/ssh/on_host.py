"""The files of a host that say whom it lets in, and as whom. Pure; role ``ssh_access`` places them.

``/etc/ssh/hedgerow/principals/<account>`` (``AuthorizedPrincipalsFile``) and ``…/keys/<account>``
(``AuthorizedKeysFile``) belong to root: an account that could write a list of its own would outlive its certificate.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hedgerow.errors import UsageError
from hedgerow.identity.ssh import addresses, publickey, roles
from hedgerow.identity.ssh.roles import RULES, SshRole

HEADER = "# Written by Hedgerow (role ssh_access); changes here are overwritten.\n"
OPERATOR_ACCOUNT = RULES[SshRole.OPERATOR].account
# What sudoers reads as its own; a command of an operator needs none of it.
_PLAIN = re.compile(r"/[A-Za-z0-9/._@+-]+( [A-Za-z0-9/._@+:=-]+)*")


def principals(role: SshRole, site: str, host: str, forward_to: Iterable[tuple[str, int]] = ()) -> str:
    """The list of an account: ``restrict`` and what the role needs, then whom it lets in.

    ``forward_to`` is where a gateway's jump account may connect to (address, port): nothing else.
    """
    rule = RULES[role]
    options = ["restrict", *(name.removeprefix("permit-") for name in rule.extensions)]
    if role is SshRole.JUMP:
        targets = [f'permitopen="{_target(address, port)}"' for address, port in forward_to]
        # Without a permitopen, forwarding is open to everywhere.
        options += targets or ["no-port-forwarding"]
    if rule.command is not None:
        options.append(f'command="{rule.command}"')
    lines = (f"{','.join(options)} {principal}\n" for principal in roles.principals_of_host(role, site, host))
    return HEADER + "".join(lines)


def keys(lines: Iterable[str], *, source: Sequence[str] = ()) -> str:
    """A list of long-lived keys (the controller's, the one in the safe); none is an empty list."""
    options = f'from="{",".join(addresses.networks(source))}" ' if source else ""
    found = [publickey.parse(line, where="a key that a host lets in") for line in lines if line.strip()]
    return HEADER + "".join(f"{options}{line}\n" for line in found)


def sudoers(commands: Iterable[Mapping[str, Any]]) -> str:
    """What operators may run as root: each command with exactly these arguments, and why.

    Raises:
        UsageError: a command is no absolute path with plain arguments, or nobody said why.
    """
    text = HEADER + f"Defaults:{OPERATOR_ACCOUNT} use_pty, !setenv\n"
    for entry in commands:
        command, reason = str(entry.get("command", "")), " ".join(str(entry.get("reason", "")).split())
        if not _PLAIN.fullmatch(command) or "/../" in command or not reason:
            raise UsageError(
                f"operators cannot be given {command!r} as root",
                where="ssh_access_operator_commands",
                next_step="an absolute path and plain arguments (no wildcard, no quote), and a reason",
            )
        program, _, arguments = command.partition(" ")
        # A program without arguments stands for any arguments in sudoers; "" means none.
        escaped = re.sub(r"([,:=\\])", r"\\\1", arguments) or '""'
        text += f"# {reason}\n{OPERATOR_ACCOUNT} ALL=(root:root) NOPASSWD: {program} {escaped}\n"
    return text


def targets(hostvars: Mapping[str, Any], names: Iterable[str]) -> list[tuple[str, int]]:
    """Address and port of sshd on each of ``names``, from Ansible's variables, in one order whatever theirs is."""
    return sorted((str(hostvars[name]["ansible_host"]), int(hostvars[name].get("ansible_port", 22))) for name in names)


def _target(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
