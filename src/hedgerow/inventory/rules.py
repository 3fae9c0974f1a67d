"""Rules over the whole inventory, as Ansible merges it; no IO.

- Every host has all that a host must have.
- No two hosts share a serial or an address.
- A host is in exactly one group ``site_<name>``, and its ``site`` says the same.
- A host is a Pi that serves, or a gateway: exactly one of ``pis`` and ``gateways``.
- Every site has a gateway.
- A vars file belongs to a group or host that exists.
- Ansible logs in as the admin user that ``deploy/bootstrap.py`` makes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hedgerow.inventory import source
from hedgerow.inventory.files import Files
from hedgerow.inventory.problem import Problem, choices, did_you_mean, scalar, shown
from hedgerow.inventory.schema import MISPLACED, UNKNOWN, Schema
from hedgerow.inventory.secrecy import OWN

_IMPLICIT = ("ansible_local",)  # added by ansible-inventory itself
_OWN_NAME = f"begin the names of your own variables with {OWN}"


def problems(path: Path, listing: dict[str, Any], found: Files, schema: Schema) -> Iterator[Problem]:
    """Yield what is wrong with the merged inventory ``listing`` (``source.list_hosts``)."""
    groups = source.group_members(listing)
    merged: dict[str, dict[str, Any]] = listing.get("_meta", {}).get("hostvars", {})
    hosts = {
        name: {key: value for key, value in merged.get(name, {}).items() if key not in _IMPLICIT}
        for name in groups["all"]
        if name != "localhost"
    }
    if not hosts:
        yield Problem(shown(path), "has no host", hint="copy inventory/example and edit it")
        return
    whole = _Whole(path, hosts, groups, found)
    yield from _missing(whole, schema)
    yield from _dynamic(whole, schema)
    yield from _used_twice(whole, "pi_serial", "serial")
    yield from _used_twice(whole, "ansible_host", "address")
    yield from _sites(whole)
    yield from _parts(whole)
    yield from _gateways(whole)
    yield from _login(whole)
    yield from _orphans(whole)


@dataclass(frozen=True)
class _Whole:
    path: Path
    hosts: dict[str, dict[str, Any]]
    groups: dict[str, tuple[str, ...]]
    found: Files

    def problem(
        self, host: str, what: str, *, key: str, allowed: str, value: Any = None, hint: str | None = None
    ) -> Problem:
        """A problem at the line where ``host`` sets ``key``, or else where the host is."""
        file, line = self.place(host, key)
        return Problem(file, what, line=line, key=key, value=scalar(value), allowed=allowed, hint=hint)

    def place(self, host: str, key: str) -> tuple[str, int | None]:
        for definition in self.found.definitions():
            if definition.key == key and definition.scope == f"host:{host}":
                return shown(definition.file), definition.line
        file, line = self.found.host_lines().get(host, (self.path, None))
        return shown(file), line


def _missing(whole: _Whole, schema: Schema) -> Iterator[Problem]:
    for key in schema.required:
        without = [host for host, variables in whole.hosts.items() if key not in variables]
        allowed = schema.allowed(key) or "a value"
        home = schema.home(key)
        if len(without) == len(whole.hosts) and home == "group_vars/all":
            yield Problem(shown(whole.path), f"is missing in {home}", key=key, allowed=allowed)
            continue
        for host in without:
            yield whole.problem(host, f"is missing on host {host}", key=key, allowed=allowed)


def _dynamic(whole: _Whole, schema: Schema) -> Iterator[Problem]:
    """Judge what comes from scripts, plugins and INI files; what stands in YAML was judged with its line."""
    written = {definition.key for definition in whole.found.definitions()}
    sealed = bool(whole.found.sealed)
    for host, variables in whole.hosts.items():
        rest = {key: value for key, value in variables.items() if key not in written}
        for problem in schema.host_problems(host, rest):
            # A vault's values are not repeated, whatever their names.
            about_key = problem.what in (UNKNOWN, MISPLACED)
            what = problem.what if about_key or not sealed else "does not have the right form"
            yield whole.problem(
                host,
                f"{what} (host {host})",
                key=problem.key or host,
                value=None if sealed else problem.value,
                allowed=problem.allowed or "",
                hint=problem.hint or (_OWN_NAME if sealed and problem.what == UNKNOWN else None),
            )


def _used_twice(whole: _Whole, key: str, noun: str) -> Iterator[Problem]:
    users: dict[tuple[str, Any], list[str]] = defaultdict(list)
    for host, variables in whole.hosts.items():
        if key in variables:
            # Two hosts behind one address with a port each are two hosts.
            port = variables.get("ansible_port", 22) if key == "ansible_host" else None
            users[str(variables[key]).lower(), port].append(host)
    for (value, _), (first, *others) in users.items():
        for other in others:
            file, line = whole.place(first, key)
            yield whole.problem(
                other,
                f"{first} and {other} have the same {noun} {value}",
                key=key,
                value=value,
                allowed=f"one {noun} for each host; {first} has this one in {file}" + (f":{line}" if line else ""),
            )


def _sites(whole: _Whole) -> Iterator[Problem]:
    site_groups = [name for name in whole.groups if name.startswith("site_")]
    names = [group.removeprefix("site_") for group in site_groups]
    for host, variables in whole.hosts.items():
        mine = [name for name in site_groups if host in whole.groups[name]]
        site = variables.get("site")
        if len(mine) != 1:
            said = "no group site_<name>" if not mine else "several sites: " + ", ".join(mine)
            there = f"; there are {', '.join(site_groups)}" if site_groups else ""
            yield whole.problem(
                host, f"host {host} is in {said}", key="site", value=site, allowed=f"exactly one site group{there}"
            )
        elif site is not None and f"site_{site}" != mine[0]:
            yield whole.problem(
                host,
                f"host {host} says site {site} but is in group {mine[0]}",
                key="site",
                value=site,
                allowed=mine[0].removeprefix("site_"),
                hint=did_you_mean(site, names),
            )


def _parts(whole: _Whole) -> Iterator[Problem]:
    for host in whole.hosts:
        parts = [name for name in ("pis", "gateways") if host in whole.groups.get(name, ())]
        if len(parts) != 1:
            said = "both pis and gateways" if parts else "neither pis nor gateways"
            yield whole.problem(host, f"host {host} is in {said}", key=host, allowed="one of pis, gateways")


def _gateways(whole: _Whole) -> Iterator[Problem]:
    gateways = set(whole.groups.get("gateways", ()))
    for group, members in whole.groups.items():
        if group.startswith("site_") and members and not gateways.intersection(members):
            site = group.removeprefix("site_")
            allowed = f"at least one host that is in gateways and in {group}"
            yield Problem(shown(whole.path), f"site {site} has no gateway", key=group, allowed=allowed)


def _login(whole: _Whole) -> Iterator[Problem]:
    wrong = [
        (host, variables["ansible_user"], variables["admin_user"])
        for host, variables in whole.hosts.items()
        if {"ansible_user", "admin_user"} <= variables.keys() and variables["ansible_user"] != variables["admin_user"]
    ]
    for host, user, admin in wrong:
        what = f"{user} is not the admin user (host {host})"
        yield whole.problem(host, what, key="ansible_user", value=user, allowed=str(admin))


def _orphans(whole: _Whole) -> Iterator[Problem]:
    """Yield vars files of groups and hosts that do not exist: Ansible passes them over without a word."""
    for document in whole.found.documents:
        is_host = document.kind == "host_vars"
        noun, known = ("host", list(whole.hosts)) if is_host else ("group", [*whole.groups, "ungrouped"])
        if document.name is not None and document.name not in known:
            yield Problem(
                shown(document.file),
                f"there is no {noun} {document.name}, so nobody reads this file",
                key=document.name,
                allowed=choices(known, f"the name of a {noun}"),
                hint=did_you_mean(document.name, known),
            )
