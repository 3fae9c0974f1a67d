"""Read an inventory through ``ansible-inventory --list`` and give it types.

Values arrive unrendered: Jinja stays Jinja, vaulted values stay encrypted, and secrets do not arrive (``secrecy``).
That is why a value with two readers is literal (``check`` enforces it).
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from hedgerow import paths
from hedgerow.errors import MachineError, UsageError
from hedgerow.inventory import secrecy
from hedgerow.inventory.model import FleetRelease, Host, Inventory

_TIMEOUT_S = 120  # a dynamic inventory may ask a cloud or an asset database

_UNLOCK = "name the file with the vault's password: export ANSIBLE_VAULT_PASSWORD_FILE=FILE (docs/secrets.md)"

# Struct field → inventory key, where they differ.
_HOST_KEYS = {"address": "ansible_host", "serial": "pi_serial"}
_HOST_FIELDS = ("address", "site", "serial", "hat", "cooling", "storage", "labels", "emulated")


def load(path: Path, *, limit: str | None = None) -> Inventory:
    """Return the inventory at ``path`` (a folder, a file, or anything Ansible accepts as one).

    ``limit`` is an Ansible host pattern (``site_orchard:!gateways``). A second call in one process is answered
    from memory until a file of the inventory changes.

    Raises:
        UsageError: the inventory is missing, unreadable, empty, or lacks a value that Hedgerow needs.
        MachineError: ``ansible-inventory`` is not installed beside this Python.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(
            "the inventory does not exist", where=str(path), next_step="hedgerow inventory show -i inventory/emulated"
        )
    return _load(path.resolve(), limit, _fingerprint(path))


@functools.lru_cache(maxsize=16)
def _load(path: Path, limit: str | None, _fingerprint: tuple[tuple[str, int, int], ...]) -> Inventory:
    return _typed(path, limit, list_hosts(path, limit=limit))


def _fingerprint(path: Path) -> tuple[tuple[str, int, int], ...]:
    files = [path] if path.is_file() else sorted(entry for entry in path.rglob("*") if entry.is_file())
    return tuple((str(file), stat.st_mtime_ns, stat.st_size) for file in files for stat in [file.stat()])


def list_hosts(path: Path, *, limit: str | None = None) -> dict[str, Any]:
    """Return the document of ``ansible-inventory --list``, with the values of secrets hidden.

    Raises:
        UsageError: Ansible cannot read it.
        MachineError: ``ansible-inventory`` is not installed beside this Python.
    """
    program = Path(sys.executable).with_name("ansible-inventory")
    if not program.is_file():
        raise MachineError(
            "ansible-inventory is not installed", where=str(program), next_step="make demo installs the controller"
        )
    command = [str(program), "-i", str(path), "--list"]
    if limit is not None:
        command += ["--limit", limit]
    # A file that does not parse must be an error here, not a warning and an empty answer; the checkout's own
    # ansible.cfg applies from whatever folder the operator types.
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(paths.repository_root() / "ansible.cfg"),
        "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_FORCE_COLOR": "0",
        # No command here needs what SOPS encrypts, so none asks for the key. The name is community.sops' own.
        "SOPS_ANSIBLE_AWX_DISABLE_VARS_PLUGIN_TEMPORARILY": "true",
    }
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,  # Ansible refuses the one that its own workers have
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UsageError(
            f"ansible-inventory gave no answer within {_TIMEOUT_S} s",
            where=str(path),
            next_step=f"run it by hand: {' '.join(command)}",
        ) from error
    if done.returncode != 0:
        gist = _gist(done.stderr)
        locked = "no vault secrets" in gist or "Decryption failed" in gist
        raise UsageError(
            f"ansible cannot read the inventory: {gist}",
            where=str(path),
            next_step=_UNLOCK if locked else f"hedgerow inventory check -i {path}",
        )
    document: dict[str, Any] = json.loads(done.stdout)
    return secrecy.hide(document)


def _gist(stderr: str) -> str:
    """Return Ansible's own error without colour, banners and warnings."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", stderr).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("[ERROR]", "ERROR!"))]
    return (errors or lines or ["no message"])[0].removeprefix("[ERROR]:").removeprefix("ERROR!").strip()


def _typed(path: Path, limit: str | None, document: dict[str, Any]) -> Inventory:
    check = f"hedgerow inventory check -i {path}"
    host_vars: dict[str, dict[str, Any]] = document.get("_meta", {}).get("hostvars", {})
    groups = group_members(document)
    names = [name for name in groups.get("all", ()) if name != "localhost"]
    if not names:
        raise UsageError(
            "the inventory has no host" if limit is None else f"no host matches --limit {limit}",
            where=str(path),
            next_step="copy inventory/example and edit it" if limit is None else f"hedgerow inventory show -i {path}",
        )
    hosts = {name: _host(name, host_vars.get(name, {}), groups, path, check) for name in names}
    common = _common([host.vars for host in hosts.values()])
    for key in ("fleet", "admin_user", "fleet_release"):
        if key not in common:
            raise UsageError(
                f"{key} is not set, or not the same on every host",
                where=f"{path}: group_vars/all",
                next_step=check,
            )
    if "registry_stage" not in common and any("registry_stage" in host.vars for host in hosts.values()):
        raise UsageError(
            "registry_stage is not the same on every host: a fleet's devices belong to one stage",
            where=f"{path}: group_vars/all",
            next_step=check,
        )
    try:
        release = msgspec.convert(common["fleet_release"], FleetRelease)
    except msgspec.ValidationError as error:
        raise UsageError(f"fleet_release is wrong: {error}", where=str(path), next_step=check) from error
    return Inventory(fleet=str(common["fleet"]), path=path, hosts=hosts, groups=groups, release=release, vars=common)


def group_members(document: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return group → hosts with those of its children, in the inventory's order."""

    def members(group: str, seen: frozenset[str]) -> list[str]:
        entry = document.get(group, {})
        found: list[str] = list(entry.get("hosts", []))
        for child in entry.get("children", []):
            if child not in seen:
                found += members(child, seen | {child})
        return list(dict.fromkeys(found))

    names = [name for name in document if name != "_meta"]
    groups = {name: tuple(members(name, frozenset({name}))) for name in names}
    # `all` lists its children only; a host without variables is missing from hostvars.
    groups["all"] = tuple(dict.fromkeys([*groups.get("all", ()), *document.get("_meta", {}).get("hostvars", {})]))
    return groups


def _host(name: str, variables: dict[str, Any], groups: dict[str, tuple[str, ...]], path: Path, check: str) -> Host:
    member_of = tuple(sorted(group for group, hosts in groups.items() if name in hosts and group != "all"))
    fields = {field: variables[key] for field in _HOST_FIELDS if (key := _HOST_KEYS.get(field, field)) in variables}
    try:
        return msgspec.convert(fields | {"name": name, "groups": member_of, "vars": variables}, Host)
    except msgspec.ValidationError as error:
        text = str(error)
        for field, key in _HOST_KEYS.items():
            text = text.replace(f"`{field}`", f"`{key}`").replace(f"$.{field}", key)
        raise UsageError(f"host {name}: {text}", where=str(path), next_step=check) from error


def _common(all_vars: list[dict[str, Any]]) -> dict[str, Any]:
    first, *others = all_vars
    return {key: value for key, value in first.items() if all(other.get(key, ...) == value for other in others)}
