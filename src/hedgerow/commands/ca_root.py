"""``hedgerow ca root`` and ``hedgerow ca issuing``: the two tiers of a fleet's CA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from hedgerow import atomic
from hedgerow.commands.ca_options import Fleet, fleet_of, fleet_options, key_options, place
from hedgerow.commands.inventory import inventory_option
from hedgerow.errors import UsageError
from hedgerow.identity import certificates
from hedgerow.identity.authority import build, generations, issuing, keys, making
from hedgerow.identity.authority.admission import Admission
from hedgerow.identity.authority.leaf import read_first
from hedgerow.identity.authority.root import RootCA
from hedgerow.output import json_option, out, print_json, print_table
from hedgerow.passphrases import Passphrases
from hedgerow.rollout import lease

next_option = click.option(
    "--next", "of_next", is_flag=True, help="Below the next root, which hedgerow ca rotate begin made."
)


@click.group()
def root() -> None:
    """The root of a CA with two tiers, whose key is offline."""


@root.command("init")
@key_options
@click.option("--days", type=click.IntRange(1), default=build.ROOT_DAYS, show_default=True, help="Life of the root.")
@fleet_options
def root_init(
    *,
    fleet: Fleet,
    secrets: Passphrases,
    uri: str | None,
    module: str | None,
    days: int,
    as_json: bool,
) -> None:
    """Make the root of a fleet that has no CA yet; does nothing if there is one.

    A fleet with a CA of a single tier moves over by: hedgerow ca rotate begin --two-tier.
    """
    _, changed = RootCA.init(fleet.directory, fleet.name, secrets, place=place(uri, module), days=days)
    facts = {"changed": changed, **_root_facts(fleet.ca, generations.active(fleet.ca).number)}
    if as_json:
        print_json(facts)
    else:
        out.print(f"{'made' if changed else 'there already is'} the root of fleet {fleet.name}", highlight=False)
        out.print(f"  its key: {facts['key']}", highlight=False, soft_wrap=True)
        out.print("  next: hedgerow ca issuing add fleet, then take the key away", highlight=False)


@root.command("show")
@inventory_option
@json_option
def root_show(*, path: Path, as_json: bool) -> None:
    """Show the roots that peers trust: fingerprint, where the key is, how long they live."""
    folder = fleet_of(path).ca
    rows = [_root_facts(folder, each.number) | {"state": each.state} for each in generations.trusted(folder)]
    if as_json:
        print_json(rows)
        return
    print_table(
        None,
        ("generation", "state", "tiers", "until (UTC)", "key", "SHA-256"),
        [
            (row["generation"], row["state"], row["tiers"], row["not_after"][:16], _key_cell(row), row["sha256"])
            for row in rows
        ],
    )


@click.group("issuing")
def issuing_group() -> None:
    """Issuing CAs: the fleet's, and those of sites."""


@issuing_group.command("add")
@click.argument("name")
@key_options
@click.option(
    "--days", type=click.IntRange(1), default=build.ISSUING_DAYS, show_default=True, help="Life of the issuing CA."
)
@click.option("--replace", is_flag=True, help="Make another one that signs from now on; the old one's lists stay.")
@click.option(
    "--unencrypted", is_flag=True, help="Keep its key without a passphrase, where the disk itself is protected."
)
@next_option
@fleet_options
def issuing_add(
    *,
    name: str,
    fleet: Fleet,
    secrets: Passphrases,
    uri: str | None,
    module: str | None,
    days: int,
    replace: bool,
    unencrypted: bool,
    of_next: bool,
    as_json: bool,
) -> None:
    """Make the issuing CA NAME, its key on this machine.

    NAME is a site of the inventory, or "fleet" for all sites, people and programs. Needs the root's key. Does nothing
    if there is one.
    """
    _require_site(name, fleet)
    opened = RootCA.open(fleet.directory, secrets, number=_number(fleet, of_next=of_next))
    made = making.add(
        opened,
        name,
        None if unencrypted else secrets,
        by=lease.whoami(),
        place=place(uri, module),
        days=days,
        replace=replace,
    )
    _tell(made, name, as_json=as_json)


@issuing_group.command("sign")
@click.argument("request", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True))
@click.option("--site", "name", required=True, help="The site that it may certify machines of.")
@click.option(
    "--days", type=click.IntRange(1), default=build.ISSUING_DAYS, show_default=True, help="Life of the issuing CA."
)
@click.option("-o", "--out", "target", type=click.Path(path_type=Path), help="Write the certificate here, too.")
@next_option
@fleet_options
def issuing_sign(
    *,
    request: Path,
    name: str,
    fleet: Fleet,
    secrets: Passphrases,
    days: int,
    target: Path | None,
    of_next: bool,
    as_json: bool,
) -> None:
    """Certify an issuing CA whose key was made elsewhere: on the site's gateway. Of REQUEST only its key is taken."""
    _require_site(name, fleet)
    with click.open_file(str(request), encoding="utf-8") as file:
        text = file.read()
    opened = RootCA.open(fleet.directory, secrets, number=_number(fleet, of_next=of_next))
    made = making.sign_request(opened, text, name, by=lease.whoami(), where=str(request), days=days)
    if target is not None:
        atomic.write_text(target, certificates.pem(made.certificate))
    _tell(made, name, as_json=as_json)


@issuing_group.command("list")
@inventory_option
@json_option
def issuing_list(*, path: Path, as_json: bool) -> None:
    """List the issuing CAs of every root that peers trust: in use, replaced, and with keys elsewhere."""
    folder = fleet_of(path).ca
    gone = Admission(folder).revoked_certificates()
    rows: list[dict[str, Any]] = []
    for each in generations.trusted(folder):
        home = generations.home(folder, each.number)
        used = set(making.in_use(home).values())
        for below in making.all_homes(home):
            certificate = read_first(below / issuing.CERTIFICATE)
            if certificate is not None:
                revoked = f"{certificate.serial_number:x}" in gone
                rows.append(
                    {
                        "name": issuing.name_of(certificate),
                        "generation": each.number,
                        "key_id": build.authority_key(certificate),
                        "state": "revoked" if revoked else "in use" if below.resolve() in used else "replaced",
                        "key_here": keys.is_here(below),
                        "not_after": certificate.not_valid_after_utc.isoformat(),
                        "may_name": certificates.permitted(certificate),
                        "certificate": str(below / issuing.CERTIFICATE),
                    }
                )
    if as_json:
        print_json(rows)
        return
    print_table(
        None,
        ("name", "generation", "state", "key", "until (UTC)", "may name"),
        [
            (
                row["name"],
                row["generation"],
                row["state"],
                "here" if row["key_here"] else "elsewhere",
                row["not_after"][:16].replace("T", " "),
                ", ".join(row["may_name"]),
            )
            for row in rows
        ],
    )


@issuing_group.command("revoke")
@click.argument("name")
@click.option("--reason", required=True, help="Why; it stays in the ledger.")
@next_option
@inventory_option
@json_option
def issuing_revoke(*, name: str, reason: str, of_next: bool, path: Path, as_json: bool) -> None:
    """Revoke the issuing CA NAME that is in use, and with it every certificate that it signed.

    Counts once the root has signed its list: hedgerow ca crl, with the root's key at hand.
    """
    fleet = fleet_of(path)
    home = generations.home(fleet.ca, _number(fleet, of_next=of_next))
    certificate = read_first(home / issuing.FOLDER / name / issuing.CERTIFICATE)
    if certificate is None:
        raise UsageError(
            f"there is no issuing CA {name}",
            where=str(home / issuing.FOLDER),
            next_step="hedgerow ca issuing list",
        )
    line, changed = Admission(fleet.ca).revoke(
        "authority", build.authority_key(certificate), reason=reason, by=lease.whoami()
    )
    if as_json:
        print_json({"changed": changed, **msgspec.to_builtins(line)})
    else:
        out.print(
            f"issuing CA {name}: {'revoked' if changed else f'was revoked on {line.time[:10]}'}; "
            "next: hedgerow ca crl, with the root's key",
            highlight=False,
        )


def _require_site(name: str, fleet: Fleet) -> None:
    """A name that no host has would be certified for years and used by nobody."""
    if name != issuing.FLEET and name not in fleet.sites:
        raise UsageError(
            f"fleet {fleet.name} has no site {name}",
            where=f"the inventory's sites: {', '.join(sorted(fleet.sites)) or 'none'}",
            next_step=f"name one of them, or {issuing.FLEET} for all",
        )


def _number(fleet: Fleet, *, of_next: bool) -> int:
    if not of_next:
        return generations.active(fleet.ca).number
    waiting = [each.number for each in generations.read(fleet.ca) if each.state == "next"]
    if not waiting:
        raise UsageError("there is no next root", where=str(fleet.ca), next_step="hedgerow ca rotate begin --two-tier")
    return waiting[0]


def _tell(made: making.Made, name: str, *, as_json: bool) -> None:
    facts = {
        "changed": made.changed,
        "reason": made.reason,
        "name": name,
        "key_id": build.authority_key(made.certificate),
        "certificate": str(made.home / issuing.CERTIFICATE),
        "not_after": made.certificate.not_valid_after_utc.isoformat(),
        "may_name": certificates.permitted(made.certificate),
    }
    if as_json:
        print_json(facts)
        return
    done = f"signed, because {made.reason}" if made.changed else "still good"
    until = made.certificate.not_valid_after_utc
    out.print(f"issuing CA {name}: {done}; until {until:%Y-%m-%d}", highlight=False)
    out.print(f"  {facts['certificate']}", highlight=False, soft_wrap=True)


def _root_facts(folder: Path, number: int) -> dict[str, Any]:
    certificate = generations.certificate(folder, number)
    home = generations.home(folder, number)
    found = keys.reference(home)
    return {
        "generation": number,
        "tiers": 2 if build.is_root(certificate) else 1,
        "certificate": str(generations.certificate_path(folder, number)),
        "sha256": certificates.fingerprint(certificate),
        "not_after": certificate.not_valid_after_utc.isoformat(),
        "may_name": certificates.permitted(certificate),
        "key": None if found is None else found.uri,
        "key_here": keys.is_here(home),
    }


def _key_cell(row: dict[str, Any]) -> str:
    return f"{row['key'] or 'gone'} ({'here' if row['key_here'] else 'away'})"
