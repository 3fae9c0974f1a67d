"""May this host leave, and what is left to do by hand? Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from hedgerow.errors import RefusedError, UsageError
from hedgerow.inventory import Host, Inventory
from hedgerow.inventory.files import Files


def judge(inventory: Inventory, name: str, typed: str, *, rollout: str | None) -> Host:
    """The host that may leave.

    ``typed`` is what the operator typed to confirm; ``rollout`` the id of one that runs now, if any.

    Raises:
        UsageError: no such host, or another one was typed.
        RefusedError: the fleet would break.
    """
    host = inventory.hosts.get(name)
    if host is None:
        raise UsageError(
            f"no host {name}", where=str(inventory.path), next_step=f"one of: {', '.join(inventory.hosts)}"
        )
    if typed != name:
        raise UsageError(
            f"{name} was meant, {typed or 'nothing'} was typed",
            where="-e decommission=…",
            next_step=f"type its name, the whole of it: -e decommission={name}",
        )
    if rollout is not None:
        raise RefusedError(
            f"rollout {rollout} is running",
            where="rule: no host leaves under a rollout",
            next_step="wait for its end: hedgerow rollout report",
        )
    dependents = depending_on(inventory, host)
    if dependents:
        raise RefusedError(
            f"{name} serves the registry to {', '.join(dependents)}",
            where="registry_url in the inventory; rule: no gateway leaves before the hosts that fetch from it",
            next_step="give them another registry_url and converge them, or decommission them first; for another board "
            "in its place: playbooks/replace_board.yml",
        )
    return host


def depending_on(inventory: Inventory, host: Host) -> list[str]:
    """Names of other hosts that fetch from ``host``."""
    if not host.is_gateway:
        return []
    names = {host.address, host.name, f"{host.name}.{host.site}.{inventory.fleet}"}
    return [
        other.name
        for other in inventory.hosts.values()
        if other.name != host.name and urlsplit(str(other.vars.get("registry_url", ""))).hostname in names
    ]


def inventory_lines(files: Files, host: str) -> list[str]:
    """Where the inventory names ``host``: files with lines, and files that are its own."""
    places = [f"{file}:{line}" if line else str(file) for file, line in files.named(host)]
    own = [
        f"{document.file} (the whole file)"
        for document in files.documents
        if _is_own(document.kind, document.name, host)
    ]
    return [*places, *own]


def _is_own(kind: str, name: str | None, host: str) -> bool:
    return kind == "host_vars" and name == host


def report(
    host: Host, *, wiped: bool, left: Sequence[str], certificates_until: str | None, lines: Iterable[str]
) -> list[str]:
    """What an operator reads at the end: what is done, what is not, what comes next."""
    said = [f"{host.name} (board {host.serial}) is decommissioned: it gets no certificate any more."]
    if wiped:
        said.append("Its key, trust, models and this controller's access are gone from it.")
    if left:
        said.append("Not done:")
        said += [f"  - {text}" for text in left]
    if not wiped:
        said.append(
            "When it turns up, run the same command again while it is in the inventory, or write its card anew."
        )
    if certificates_until is not None:
        said.append(f"There is no revocation list yet: peers take its certificate until {certificates_until}.")
    said.append("Remove from the inventory:")
    said += [f"  - {line}" for line in lines]
    said.append(
        "Then: hedgerow inventory check; ansible-playbook playbooks/site.yml, so that firewalls forget its address."
    )
    return said


def relative(path: Path, root: Path) -> Path:
    """``path`` as an operator in ``root`` would type it."""
    return path.relative_to(root) if path.is_relative_to(root) else path
