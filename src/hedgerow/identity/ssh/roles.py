"""What an SSH role is: its account on a host, its principals, what its certificate allows. Pure.

Both sides read this one table: the authority when it signs, a host's files when they say whom they let in. Invariants:

- A principal is ``<role>@<site>``, or ``<role>@<host>.<site>`` for one host alone. A site's name has no dot, so neither
  can be taken for the other.
- A forced command stands in the certificate *and* in the host's list of principals, byte for byte: sshd refuses a login
  whose two differ, and one of them missing still forces it.
- No role gets ``permit-agent-forwarding``, ``permit-X11-forwarding`` or ``permit-user-rc``.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from hedgerow.errors import RefusedError

VIEWER_COMMAND = "/usr/bin/python3 -I /usr/local/lib/hedgerow/ssh_viewer.py"
# Never run: who comes to jump asks for a forwarded connection and no program.
JUMP_COMMAND = "/usr/sbin/nologin"
BREAK_GLASS_ACCOUNT = "hedgerow-breakglass"

MINIMUM = dt.timedelta(minutes=1)
MAXIMUM = dt.timedelta(hours=24)


class SshRole(StrEnum):
    """What somebody may do on a host; ``JUMP`` is to pass through a gateway and nothing else."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"
    JUMP = "jump"


@dataclass(frozen=True)
class Rule:
    """One row. ``account`` None is the inventory's ``admin_user``. ``life`` is what a certificate has unless asked."""

    account: str | None
    command: str | None
    extensions: tuple[str, ...]
    life: dt.timedelta


RULES: Mapping[SshRole, Rule] = {
    SshRole.VIEWER: Rule("hedgerow-viewer", VIEWER_COMMAND, ("permit-pty",), dt.timedelta(hours=8)),
    SshRole.OPERATOR: Rule("hedgerow-operator", None, ("permit-pty",), dt.timedelta(hours=8)),
    SshRole.ADMIN: Rule(None, None, ("permit-pty",), dt.timedelta(hours=1)),
    SshRole.JUMP: Rule("hedgerow-jump", JUMP_COMMAND, ("permit-port-forwarding",), dt.timedelta(hours=8)),
}

# What a person asks for; who has one of them at a site may pass its gateways, too.
ASKED = (SshRole.VIEWER, SshRole.OPERATOR, SshRole.ADMIN)


def account(role: SshRole, admin_user: str) -> str:
    """The user that the role logs in as."""
    return RULES[role].account or admin_user


def principal(role: SshRole, site: str, host: str | None = None) -> str:
    """What stands in a certificate and in a host's list."""
    return f"{role.value}@{site}" if host is None else f"{role.value}@{host}.{site}"


def principals_of_host(role: SshRole, site: str, host: str) -> tuple[str, str]:
    """Whom a host lets in as ``role``: those of its whole site, and those for it alone."""
    return principal(role, site), principal(role, site, host)


def options(role: SshRole, source: Iterable[str] = ()) -> list[str]:
    """The ``-O`` options of ``ssh-keygen -s``: nothing but what the role has."""
    rule = RULES[role]
    found = ["clear", *rule.extensions]
    if rule.command is not None:
        found.append(f"force-command={rule.command}")
    addresses = ",".join(source)
    return [*found, f"source-address={addresses}"] if addresses else found


def life(role: SshRole, asked: dt.timedelta | None) -> dt.timedelta:
    """How long a certificate of ``role`` lives.

    Raises:
        RefusedError: it would live shorter than a minute or longer than a day.
    """
    found = RULES[role].life if asked is None else asked
    if not MINIMUM <= found <= MAXIMUM:
        raise RefusedError(
            f"an SSH certificate lives 1 minute to 24 hours, not {found}",
            where=f"role {role.value}",
            next_step=f"leave --for out for the default ({hours(RULES[role].life)}), and sign again when it has ended",
        )
    return found


def hours(life: dt.timedelta) -> str:
    """``8h``, ``30m``: as ``--for`` takes it."""
    minutes = round(life.total_seconds() / 60)
    return f"{minutes // 60}h" if minutes % 60 == 0 else f"{minutes}m"
