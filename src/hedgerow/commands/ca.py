"""``hedgerow ca``: init, issue, sign, revoke, readmit, list, show; tiers, lists and rotation are modules beside it."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Any

import click
import msgspec

from hedgerow import atomic, paths
from hedgerow import inventory as inventories
from hedgerow.commands import ca_holders, ca_root, ca_upkeep
from hedgerow.commands.inventory import inventory_option
from hedgerow.errors import RefusedError, UsageError
from hedgerow.identity import ca as authority
from hedgerow.identity import certificates, issued, revocations
from hedgerow.identity.authority import generations, keys, opening
from hedgerow.identity.authority.admission import Admission
from hedgerow.identity.profiles import CLIENT_PROFILES, DeviceNames, Profile
from hedgerow.output import json_option, out, print_json, print_table
from hedgerow.rollout import lease

days_option = click.option("--days", type=int, help="Life in days, at most 90; the profile's default if left out.")


@click.group()
def ca() -> None:
    """The fleet's certificate authority.

    \b
    Set HEDGEROW_CA_PASSPHRASE_FILE to keep its key encrypted at rest;
    name the same file whenever the CA is used.
    """  # noqa: D301 - click's mark for a paragraph as it stands


ca.add_command(ca_holders.holders)
ca.add_command(ca_holders.settle)
ca.add_command(ca_root.root)
ca.add_command(ca_root.issuing_group)
ca.add_command(ca_upkeep.crl)
ca.add_command(ca_upkeep.log)
ca.add_command(ca_upkeep.rotate)


@ca.command()
@inventory_option
@json_option
def init(*, path: Path, as_json: bool) -> None:
    """Make the CA of the inventory's fleet; does nothing if there is one."""
    fleet = inventories.load(path).fleet
    opened, changed = authority.FleetCA.init(paths.fleet_dir(fleet), fleet)
    if as_json:
        print_json({"changed": changed, **_describe(opened.certificate, opened.folder)})
    else:
        out.print(
            f"{'made' if changed else 'there already is'} the CA of fleet {fleet}: {opened.folder}", soft_wrap=True
        )


@ca.command()
@inventory_option
@json_option
def show(*, path: Path, as_json: bool) -> None:
    """Show the CA: fingerprint, what it may name, how long it lives."""
    folder = paths.fleet_dir(inventories.load(path).fleet)
    facts = _describe(authority.read_certificate(folder), folder / "ca")
    if as_json:
        print_json(facts)
    else:
        print_table(None, ("", f"CA of fleet {facts['fleet']}"), [(key, _cell(value)) for key, value in facts.items()])


@ca.command()
@inventory_option
@click.option(
    "--profile",
    type=click.Choice([profile.value for profile in CLIENT_PROFILES]),
    required=True,
    help="What the holder may do: docs/contracts.md, Certificate profiles.",
)
@click.option("--name", required=True, help="Person, job or application; letters, digits, - and _.")
@days_option
@click.option("--force", is_flag=True, help="Issue even if the present certificate has life left.")
@json_option
def issue(*, path: Path, profile: str, name: str, days: int | None, force: bool, as_json: bool) -> None:
    """Make key and certificate of a client, here; renewed when less than a third of its life is left."""
    opened = opening.for_clients(_fleet_dir(path))
    opened.by = lease.whoami()
    files = opened.issue_client(Profile(profile), name, days=days, force=force)
    if as_json:
        print_json(
            {
                "changed": files.changed,
                "reason": files.reason,
                "key": files.key,
                "certificate": files.certificate,
                "ca": opened.folder / "ca.crt",
                "not_after": files.expires.isoformat(),
            }
        )
    else:
        done = f"issued, because {files.reason}" if files.changed else "still good"
        out.print(f"{name} ({profile}): {done}; until {files.expires:%Y-%m-%d %H:%M} UTC", highlight=False)
        out.print(f"  {files.certificate}\n  {files.key}", highlight=False, soft_wrap=True)


@ca.command()
@click.argument("csr", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True))
@inventory_option
@days_option
@click.option("-o", "--out", "target", type=click.Path(path_type=Path), help="Write it here instead of to stdout.")
@json_option
def sign(*, csr: Path, path: Path, days: int | None, target: Path | None, as_json: bool) -> None:
    """Sign the request of a device, whose CN is a serial of the inventory.

    Names and profile come from the inventory; the request's own are ignored. playbooks/site.yml does this for every
    host; this command is for a device that a person carries the request from.
    """
    with click.open_file(str(csr), encoding="utf-8") as file:
        text = file.read()
    serial = authority.request_serial(authority.parse_csr(text, where=str(csr)))
    found = inventories.load(path)
    hosts = [host for host in found.hosts.values() if host.serial == serial]
    if len(hosts) != 1:
        raise RefusedError(
            f"serial {serial!r} is {'not' if not hosts else 'more than once'} in the inventory",
            where=str(path),
            next_step="add the device, then: hedgerow inventory check"
            if not hosts
            else f"give each its own pi_serial: {', '.join(host.name for host in hosts)}",
        )
    host = hosts[0]
    names = DeviceNames(fleet=found.fleet, site=host.site, host=host.name, serial=host.serial)
    profile = Profile.GATEWAY if host.is_gateway else Profile.DEVICE
    opened = opening.for_site(_fleet_dir(path), host.site)
    opened.by = lease.whoami()
    certificate = opened.sign_csr(text, profile, names, days=days, reason="hedgerow ca sign")
    if target is not None:
        atomic.write_text(target, certificate)
    if as_json:
        print_json(
            {"changed": True, "host": host.name, "profile": profile, "certificate": certificate, "written_to": target}
        )
    elif target is None:
        click.echo(certificate, nl=False)
    else:
        out.print(f"{host.name} ({profile.value}): {target}", highlight=False, soft_wrap=True)


reason_option = click.option("--reason", required=True, help="Why; it stays in the ledger.")


@ca.command()
@click.argument("holder")
@inventory_option
@reason_option
@json_option
def revoke(*, holder: str, path: Path, reason: str, as_json: bool) -> None:
    """Give HOLDER no certificate any more: a host of the inventory, a board's serial, or a client's name.

    What it has is revoked; it is refused at enrolment until: hedgerow ca readmit HOLDER. Needs no key. Peers learn of
    it by the revocation list: hedgerow ca crl.
    """
    opened = opening.admission(_fleet_dir(path))
    kind, name = _holder(holder, path, opened)
    line, changed = opened.revoke(kind, name, reason=reason, by=lease.whoami())
    if as_json:
        print_json({"changed": changed, **msgspec.to_builtins(line)})
    else:
        done = "revoked" if changed else f"was revoked on {line.time[:10]}"
        out.print(f"{name} ({kind}): {done}; {len(line.certificates)} certificates end with it", highlight=False)


@ca.command()
@click.argument("holder")
@inventory_option
@reason_option
@json_option
def readmit(*, holder: str, path: Path, reason: str, as_json: bool) -> None:
    """Let HOLDER have a certificate again, for another key. What was revoked stays revoked."""
    opened = opening.admission(_fleet_dir(path))
    kind, name = _holder(holder, path, opened)
    changed = opened.readmit(kind, name, reason=reason, by=lease.whoami())
    if as_json:
        print_json({"changed": changed, "kind": kind, "holder": name})
    else:
        out.print(f"{name} ({kind}): {'admitted again' if changed else 'nothing stood against it'}", highlight=False)


def _holder(holder: str, path: Path, opened: Admission) -> tuple[revocations.Kind, str]:
    """Kind and name of whom the operator means; a host's name stands for the board that the inventory gives it."""
    host = inventories.load(path).hosts.get(holder)
    if host is not None:
        return "board", host.serial
    entries = {(entry.name, entry.profile) for entry in issued.read_fleet(opened.folder)}
    if re.fullmatch(r"[0-9a-f]{16}", holder):
        return "board", holder
    if any(name == holder and profile in {one.value for one in CLIENT_PROFILES} for name, profile in entries):
        return "client", holder
    raise UsageError(
        f"nobody of this fleet is called {holder}",
        where=str(opened.folder / issued.FILE),
        next_step="name a host, a board's serial (16 hex digits) or a client: hedgerow ca list",
    )


@ca.command("list")
@inventory_option
@click.option("--all", "everything", is_flag=True, help="Every certificate ever issued, not only each holder's latest.")
@json_option
def list_(*, path: Path, everything: bool, as_json: bool) -> None:
    """List what the CA issued: from its log, newest last."""
    fleet = inventories.load(path).fleet
    folder = paths.fleet_dir(fleet)
    authority.read_certificate(folder)
    entries = list(issued.read_fleet(folder / "ca"))
    if not everything:
        entries = list({(entry.profile, entry.name): entry for entry in entries}.values())
    lines = revocations.read(folder / "ca")
    gone = set(revocations.certificates(lines))
    if as_json:
        print_json([{**msgspec.to_builtins(entry), "revoked": entry.serial_number in gone} for entry in entries])
        return
    print_table(
        None,
        ("name", "profile", "host", "issued (UTC)", "until (UTC)", "because"),
        [
            (
                entry.name,
                entry.profile,
                ", ".join(entry.dns).removesuffix(f".{fleet}") or None,
                _minutes(entry.time),
                "revoked" if entry.serial_number in gone else _remaining(entry),
                entry.reason,
            )
            for entry in entries
        ],
    )


def _fleet_dir(path: Path) -> Path:
    return paths.fleet_dir(inventories.load(path).fleet)


def _describe(certificate: Any, folder: Path) -> dict[str, Any]:
    number = generations.active(folder).number
    home = generations.home(folder, number)
    if keys.reference(home) is None:
        raise UsageError(
            "the CA's key is not here, and nothing says where it is",
            where=str(home / keys.KEY),
            next_step="restore it from your backup",
        )
    return {
        "fleet": authority.fleet_of(certificate),
        "certificate": str(folder / "ca.crt"),
        "sha256": certificates.fingerprint(certificate),
        "not_after": certificate.not_valid_after_utc.isoformat(),
        "may_name": certificates.permitted(certificate),
        "key_encrypted": keys.is_encrypted(home),
    }


def _cell(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def _remaining(entry: issued.Issued) -> str:
    left = dt.datetime.fromisoformat(entry.not_after) - dt.datetime.now(dt.UTC)
    return f"{_minutes(entry.not_after)} ({'expired' if left.total_seconds() < 0 else f'{left.days} d left'})"


def _minutes(moment: str) -> str:
    return moment[:16].replace("T", " ")
