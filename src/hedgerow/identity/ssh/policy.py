"""Which operator may have which role where: ``ssh_access_operators`` of the inventory. Pure.

::

    ssh_access_operators:
      jane-doe: {roles: [viewer, operator], sites: [upper, lower]}
      sam:      {roles: [viewer, operator, admin], sites: all}

The value has to be literal (no Jinja), for the whole fleet. Who is not listed gets no certificate.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Literal

import msgspec

from hedgerow.errors import RefusedError, UsageError
from hedgerow.identity.ssh import roles
from hedgerow.identity.ssh.addresses import networks
from hedgerow.identity.ssh.proof import Asked
from hedgerow.identity.ssh.roles import ASKED, SshRole
from hedgerow.inventory import Host, Inventory

VARIABLE = "ssh_access_operators"


class Allowed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of the table."""

    roles: tuple[str, ...]
    sites: tuple[str, ...] | Literal["all"]


@dataclass(frozen=True)
class Grant:
    """What an operator gets: principals of the role, and of the gateways on the way; the life."""

    role: SshRole
    principals: tuple[str, ...]
    jump: tuple[str, ...]
    life: dt.timedelta
    source: tuple[str, ...]
    sites: tuple[str, ...]


def operators(inventory: Inventory) -> dict[str, Allowed]:
    """The table.

    Raises:
        UsageError: it is not as it should be.
    """
    try:
        found = msgspec.convert(inventory.vars.get(VARIABLE) or {}, dict[str, Allowed])
    except msgspec.ValidationError as error:
        raise _wrong(str(error)) from error
    for name, line in found.items():
        for role in line.roles:
            if role not in {one.value for one in ASKED}:
                raise _wrong(f"{name} has the unknown role {role}")
        for site in () if line.sites == "all" else line.sites:
            _require_site(site, inventory)
    return found


def grant(name: str, asked: Asked, inventory: Inventory) -> Grant:
    """Judge what ``name`` asks for.

    Raises:
        RefusedError: the table does not give it.
        UsageError: site, host, address or role do not exist.
    """
    try:
        role = SshRole(asked.role)
    except ValueError as error:
        raise UsageError(f"there is no role {asked.role}", next_step="viewer, operator or admin") from error
    for site in asked.sites:
        _require_site(site, inventory)
    hosts = [_host(host, inventory) for host in asked.hosts]
    if not asked.sites and not hosts:
        raise UsageError("nothing was named to log in to", next_step="--site SITE, --all-sites or --hosts HOST")
    touched = tuple(dict.fromkeys([*asked.sites, *(host.site for host in hosts)]))
    allowed = operators(inventory).get(name)
    if role not in ASKED or allowed is None or role.value not in allowed.roles:
        raise _refused(f"{name} may not have the role {role.value}", inventory)
    beyond = [] if allowed.sites == "all" else [site for site in touched if site not in allowed.sites]
    if beyond:
        raise _refused(f"{name} may not log in at {', '.join(beyond)}", inventory)
    principals = [roles.principal(role, site) for site in asked.sites]
    principals += [roles.principal(role, host.site, host.name) for host in hosts if host.site not in asked.sites]
    return Grant(
        role,
        tuple(dict.fromkeys(principals)),
        tuple(roles.principal(SshRole.JUMP, site) for site in touched),
        roles.life(role, None if asked.seconds is None else dt.timedelta(seconds=asked.seconds)),
        tuple(networks(asked.source)),
        touched,
    )


def _require_site(site: str, inventory: Inventory) -> None:
    if site not in inventory.sites:
        raise UsageError(
            f"there is no site {site}", where=str(inventory.path), next_step=f"one of {', '.join(inventory.sites)}"
        )


def _host(name: str, inventory: Inventory) -> Host:
    found = inventory.hosts.get(name)
    if found is None:
        raise UsageError(
            f"there is no host {name}", where=str(inventory.path), next_step="hedgerow inventory show lists them"
        )
    return found


def _wrong(why: str) -> UsageError:
    return UsageError(
        f"{VARIABLE} is not as it should be: {why}",
        where="inventory, group_vars/all",
        next_step="NAME: {roles: [viewer, operator, admin], sites: [SITE, …] or all}",
    )


def _refused(what: str, inventory: Inventory) -> RefusedError:
    return RefusedError(
        what,
        where=f"rule: {VARIABLE} of {inventory.path} says who may have which role where",
        next_step=f"whoever answers for the fleet adds it to {VARIABLE}",
    )
