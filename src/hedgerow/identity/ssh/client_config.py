"""An operator's ssh_config for the fleet: which key, which user, through which gateway, and whom to believe. Pure.

Hosts are verified by certificate alone (``HostKeyAlgorithms`` has no plain keys), under the name that they have in the
fleet, so that neither another address nor a jump changes what is believed, and nothing is learned on first use.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hedgerow.errors import UsageError
from hedgerow.identity.ssh import known_hosts, roles
from hedgerow.identity.ssh.roles import SshRole
from hedgerow.inventory import Host, Inventory

_CERTIFICATES = "ssh-ed25519-cert-v01@openssh.com,ecdsa-sha2-nistp256-cert-v01@openssh.com"


@dataclass(frozen=True)
class Files:
    """Where the operator has what the configuration names."""

    key: Path
    certificate: Path
    jump_certificate: Path
    known_hosts: Path
    revoked: Path


def render(inventory: Inventory, role: SshRole, files: Files, *, bastion: bool) -> str:
    """The file; ``bastion`` sends each connection to a Pi through the gateway of its site.

    Raises:
        UsageError: a site has no gateway to go through, or a path cannot stand in the file.
    """
    for path in (files.key, files.certificate, files.jump_certificate, files.known_hosts, files.revoked):
        if '"' in str(path) or "\n" in str(path):
            raise UsageError("this path cannot stand in an ssh_config", where=repr(str(path)))
    gateways = {host.site: host for host in reversed(inventory.gateways)}
    text = f"# Written by `hedgerow ssh config` for fleet {inventory.fleet}, role {role.value}.\n"
    user = roles.account(role, inventory.admin_user)
    if bastion:
        for site, gateway in gateways.items():
            text += _host([jump_name(site)], gateway, inventory.fleet) + _identity(
                roles.account(SshRole.JUMP, inventory.admin_user), files.key, files.jump_certificate
            )
    for host in inventory.hosts.values():
        names = [host.name, known_hosts.alias(host, inventory.fleet)]
        text += _host(names, host, inventory.fleet) + _identity(user, files.key, files.certificate)
        if bastion and not host.is_gateway:
            if host.site not in gateways:
                raise UsageError(
                    f"site {host.site} has no gateway to go through",
                    where=str(inventory.path),
                    next_step="leave --bastion out, or add a gateway to the site",
                )
            text += f"  ProxyJump {jump_name(host.site)}\n"
    every = [jump_name(site) for site in gateways] if bastion else []
    every += [
        name for host in inventory.hosts.values() for name in (host.name, known_hosts.alias(host, inventory.fleet))
    ]
    common = {
        "UserKnownHostsFile": f'"{files.known_hosts}"',
        "GlobalKnownHostsFile": "/dev/null",
        "RevokedHostKeys": f'"{files.revoked}"',
        "StrictHostKeyChecking": "yes",
        "HostKeyAlgorithms": _CERTIFICATES,
        "UpdateHostKeys": "no",
        "IdentitiesOnly": "yes",
        "PreferredAuthentications": "publickey",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "3",
    }
    return text + f"Host {' '.join(every)}\n" + "".join(f"  {name} {value}\n" for name, value in common.items())


def jump_name(site: str) -> str:
    """What the way through a site's gateway is called."""
    return f"jump-{site}"


def _host(names: list[str], host: Host, fleet: str) -> str:
    return (
        f"Host {' '.join(names)}\n  HostName {host.address}\n  Port {host.port}\n"
        f"  HostKeyAlias {known_hosts.alias(host, fleet)}\n"
    )


def _identity(user: str, key: Path, certificate: Path) -> str:
    return f'  User {user}\n  IdentityFile "{key}"\n  CertificateFile "{certificate}"\n'
