"""Lines that let a client trust whatever host shows a certificate of the fleet's host CA.

A ``@cert-authority`` line names all that a host is called: its names in the fleet as one pattern, its addresses one by
one. The certificate's own principals say which of them a host may use: a host cannot pass for another one.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hedgerow import atomic
from hedgerow.identity.ssh.generations import CaKey
from hedgerow.inventory import Host, Inventory

MARK = "@cert-authority"


def lines(inventory: Inventory, keys: Iterable[CaKey]) -> list[str]:
    """One line for each trusted key of the host CA."""
    names = [f"*.{inventory.fleet}"]
    for host in inventory.hosts.values():
        names += [_at_port(host.name, host), _at_port(host.address, host)]
        if host.port != 22:  # noqa: PLR2004 - SSH's own port
            names.append(_at_port(alias(host, inventory.fleet), host))
    patterns = ",".join(dict.fromkeys(names))
    return [f"{MARK} {patterns} {key.public} {key.name}@{inventory.fleet}" for key in keys]


def write(path: Path, wanted: Iterable[str]) -> bool:
    """Have exactly these lines in ``path``; whether anything changed."""
    text = "".join(f"{line}\n" for line in wanted)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    atomic.write_text(path, text)
    return True


def alias(host: Host, fleet: str) -> str:
    """The name that a host is verified by, whatever address it has (``HostKeyAlias``)."""
    return f"{host.name}.{host.site}.{fleet}"


def _at_port(name: str, host: Host) -> str:
    return name if host.port == 22 else f"[{name}]:{host.port}"  # noqa: PLR2004 - SSH's own port
