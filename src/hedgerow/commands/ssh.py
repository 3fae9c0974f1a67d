"""``hedgerow ssh``: init, show, list, log, known-hosts, config; signing and trust are in the files beside."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import click
import msgspec

from hedgerow import atomic, paths
from hedgerow import inventory as inventories
from hedgerow.commands import ssh_sign, ssh_trust
from hedgerow.commands.inventory import inventory_option
from hedgerow.errors import ExitCode
from hedgerow.identity.profiles import check_client_name
from hedgerow.identity.ssh import client_config, client_key, events, known_hosts, publickey, store
from hedgerow.identity.ssh.authority import SshAuthority
from hedgerow.identity.ssh.roles import ASKED, SshRole
from hedgerow.inventory import Inventory
from hedgerow.output import json_option, out, print_json, print_table
from hedgerow.rollout import lease

token_option = click.option(
    "--token",
    "tokens",
    multiple=True,
    metavar="KIND=LIBRARY:LABEL",
    help="The key of the user or host CA is on a PKCS#11 token: user=/usr/lib/softhsm/libsofthsm2.so:ssh-user-ca.",
)


@click.group()
def ssh() -> None:
    """SSH by certificates: short ones for operators, one for each host.

    \b
    HEDGEROW_SSH_CA_PASSPHRASE_FILE names the file with the passphrase of its
    keys (else HEDGEROW_CA_PASSPHRASE_FILE), HEDGEROW_SSH_CA_PIN_FILE a token's PIN.
    """  # noqa: D301 - click's mark for a paragraph as it stands


@ssh.command()
@inventory_option
@token_option
@json_option
def init(*, path: Path, tokens: tuple[str, ...], as_json: bool) -> None:
    """Make the fleet's SSH authority: a user CA and a host CA; does nothing if there is one.

    This controller trusts the host CA from then on. Hosts know of it when role ssh_access is on (docs/ssh.md).
    """
    found = inventories.load(path)
    opened, changed = SshAuthority.init(
        paths.fleet_dir(found.fleet),
        found.fleet,
        by=lease.whoami(),
        now=_now(),
        tokens=ssh_trust.parse_tokens(tokens),
    )
    trust_hosts(opened, found)
    if as_json:
        print_json({"changed": changed, **_describe(opened)})
    else:
        done = "made" if changed else "there already is"
        out.print(f"{done} the SSH authority of fleet {found.fleet}: {opened.folder}", soft_wrap=True)


@ssh.command()
@inventory_option
@json_option
def show(*, path: Path, as_json: bool) -> None:
    """Show the CA keys: which sign, which are trusted, where they are."""
    facts = _describe(_open(path))
    if as_json:
        print_json(facts)
        return
    print_table(
        f"SSH authority of fleet {facts['fleet']}",
        ("key", "state", "since (UTC)", "fingerprint", "where"),
        [(key["name"], key["state"], key["since"][:16], key["fingerprint"], key["where"]) for key in facts["keys"]],
    )
    out.print(f"key in the safe: {facts['break_glass'] or 'none'}", highlight=False)


@ssh.command("list")
@inventory_option
@click.option("--all", "everything", is_flag=True, help="Those that have ended or were revoked, too.")
@json_option
def list_(*, path: Path, everything: bool, as_json: bool) -> None:
    """List certificates that count, from the log, newest last."""
    opened, now = _open(path), _now()
    written = store.lines(opened.log)
    gone = {serial for serials in store.revoked_serials(written).values() for serial in serials}
    gone_keys = set(store.revoked_keys(written))
    signed = [
        (line, "revoked" if line.serial in gone or line.key in gone_keys else _ended(line, now))
        for line in written
        if isinstance(line, events.Signed)
    ]
    chosen = [(line, state) for line, state in signed if everything or state is None]
    if as_json:
        print_json([{**msgspec.to_builtins(line), "state": state or "counts"} for line, state in chosen])
        return
    print_table(
        None,
        ("for", "role", "principals", "until (UTC)", "serial", "signed by"),
        [
            (
                line.who,
                line.role or "host",
                ", ".join(line.principals),
                state or line.valid_before[:16].replace("T", " "),
                line.serial,
                line.by,
            )
            for line, state in chosen
        ],
    )


@ssh.command("log")
@inventory_option
@json_option
def log_(*, path: Path, as_json: bool) -> int:
    """Verify the log of what was signed, revoked and rotated: nothing changed or cut off. Exit code 1 if it was."""
    verdict = _open(path).log.verify()
    if as_json:
        print_json(
            {
                "holds": verdict.holds,
                "entries": verdict.entries,
                "head": str(verdict.head),
                "problems": [str(problem) for problem in verdict.problems],
            }
        )
    else:
        for problem in verdict.problems:
            out.print(str(problem), markup=False, highlight=False, soft_wrap=True)
        holds = "holds" if verdict.holds else "does not hold"
        out.print(f"{verdict.entries} entries, head {verdict.head}: the log {holds}", highlight=False, soft_wrap=True)
    return int(ExitCode.OK if verdict.holds else ExitCode.FAILED)


@ssh.command("known-hosts")
@inventory_option
@json_option
def known_hosts_(*, path: Path, as_json: bool) -> None:
    """Have this controller believe hosts by certificate, beside the keys that first contact pinned.

    ``init`` and ``rotate`` do this, too; run it after hosts were added to the inventory.
    """
    found = inventories.load(path)
    changed = trust_hosts(_open(path), found)
    if as_json:
        print_json({"changed": changed, "file": found.host_authorities})
    else:
        done = "written" if changed else "as it should be"
        out.print(f"{found.host_authorities}: {done}", highlight=False, soft_wrap=True)


@ssh.command()
@inventory_option
@click.option("--role", type=click.Choice([role.value for role in ASKED]), required=True, help="Whom to log in as.")
@click.option("--name", help="The operator whose files on this controller are named; else --key.")
@click.option("--key", type=click.Path(path_type=Path), help="The operator's key; its certificates lie beside it.")
@click.option("--bastion", is_flag=True, help="Go to each Pi through the gateway of its site (ProxyJump).")
@click.option(
    "-o",
    "--out",
    "target",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the configuration and what it names (default: the operator's on this controller).",
)
@json_option
def config(
    *, path: Path, role: str, name: str | None, key: Path | None, bastion: bool, target: Path | None, as_json: bool
) -> None:
    """Write an ssh_config for the fleet: ssh -F FILE HOST.

    Hosts are believed by certificate alone; nothing is learned on first use.
    """
    found = inventories.load(path)
    opened = _open(path)
    if (name is None) == (key is None):
        raise click.UsageError("name the operator (--name) or the key (--key)")
    if name is not None:
        check_client_name(name)
        own = client_key.folder(opened.fleet_dir, name)
    else:
        own = Path(str(key)).expanduser().resolve().parent
    folder = (target or own).resolve()
    files = client_key.Files(own)
    private = files.key if key is None else key.expanduser().resolve()
    known, revoked = folder / "known_hosts", folder / "revoked.krl"
    named = client_config.Files(
        private,
        private.with_name(f"{private.name}-cert.pub"),
        private.with_name(f"{private.name}-jump-cert.pub"),
        known,
        revoked,
    )
    text = client_config.render(found, SshRole(role), named, bastion=bastion)
    lines = known_hosts.lines(found, opened.trusted("host"))
    known_hosts.write(known, lines)
    atomic.write_bytes(revoked, (opened.trust / store.KRL).read_bytes())
    atomic.write_text(folder / "config", text)
    if as_json:
        print_json({"config": folder / "config", "known_hosts": known, "revoked": revoked})
    else:
        out.print(f"ssh -F {folder / 'config'} {next(iter(found.hosts))}", highlight=False, soft_wrap=True)


def trust_hosts(opened: SshAuthority, found: Inventory) -> bool:
    """Keep the host CA's keys beside the fleet's known_hosts; whether anything changed."""
    return known_hosts.write(found.host_authorities, known_hosts.lines(found, opened.trusted("host")))


def _open(path: Path) -> SshAuthority:
    return SshAuthority.open(paths.fleet_dir(inventories.load(path).fleet), by=lease.whoami())


def _describe(opened: SshAuthority) -> dict[str, Any]:
    safe = store.break_glass(opened.folder).strip()
    return {
        "fleet": opened.fleet,
        "folder": str(opened.folder),
        "keys": [
            {
                "name": key.name,
                "kind": key.kind,
                "state": key.state,
                "since": key.since,
                "fingerprint": publickey.fingerprint(key.public),
                "where": f"token: {key.module}" if key.module else "file",
            }
            for key in opened.state.keys
        ],
        "break_glass": publickey.fingerprint(safe) if safe else None,
    }


def _ended(line: events.Signed, now: dt.datetime) -> str | None:
    return "ended" if events.moment(line.valid_before) <= now else None


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


for _command in (*ssh_sign.COMMANDS, *ssh_trust.COMMANDS):
    ssh.add_command(_command)
