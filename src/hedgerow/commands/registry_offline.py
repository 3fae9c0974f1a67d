"""``hedgerow registry``: request, sign, import; log and ceremony."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from hedgerow import atomic
from hedgerow.commands.registry_stages import (
    look_options,
    passphrase_option,
    passphrases,
    stage_options,
    sure,
    tell_waiting,
)
from hedgerow.errors import ExitCode, PublisherError
from hedgerow.output import err, json_option, out, print_json, print_table
from hedgerow.registry.authority import audit, log, offline, status
from hedgerow.registry.authority.session import Session

_file = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("role")
@click.option("--output", type=_file, required=True, help="The file that travels to the key.")
@look_options
def request(*, session: Session, role: str, output: Path, as_json: bool) -> None:
    """Write what waits to be signed in ROLE into a file, for keys that are elsewhere."""
    asked = offline.request(session, role)
    atomic.write_bytes(output, offline.encode(asked))
    if as_json:
        print_json({"changed": True, "file": output, "keys": [place.name for place in asked.keys]})
    else:
        names = ", ".join(f"{place.name} ({place.owner})" for place in asked.keys)
        out.print(f"{output}: carry it to one of {names}; there: hedgerow registry sign {output} --key NAME")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--key", "name", required=True, help="The key's name, as the request has it.")
@click.option("--uri", help="Where the key is on this machine: pem:/media/key.pem, hsm:2?label=TOKEN …")
@click.option("--pkcs11-module", metavar="FILE", help="The token's library.")
@click.option("--yes", is_flag=True, help="Sign what is shown without asking.")
@passphrase_option
@json_option
def sign(
    *,
    file: Path,
    name: str,
    uri: str | None,
    pkcs11_module: str | None,
    yes: bool,
    passphrase_files: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show what the request FILE asks for, and sign it with a key of this machine. Needs no network and no registry."""
    asked = offline.read(file)
    shown = offline.show(asked, name)
    for line in (*shown.lines, f"sha256 of what is signed: {shown.fingerprint}"):
        err.print(line, highlight=False, markup=False, soft_wrap=True)
    sure(f"sign this with {name}?", yes=yes)
    signed = offline.sign(asked, name, passphrases=passphrases(passphrase_files), uri=uri, module=pkcs11_module)
    if signed != asked:
        atomic.write_bytes(file, offline.encode(signed))
    if as_json:
        print_json({"changed": signed != asked, "role": asked.role, "sha256": shown.fingerprint, "shown": shown.lines})
    else:
        out.print(f"{file} is signed by {name}; carry it back: hedgerow registry import {file} --stage {asked.stage}")


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@stage_options
def import_(*, session: Session, file: Path, as_json: bool) -> int:
    """Take the signatures that came back in FILE. What then has enough is published by `release`."""
    signed = offline.read(file)
    lacking = tuple(each for each in offline.accept(session, signed) if each.missing)
    if as_json:
        print_json({"role": signed.role, "waiting": msgspec.to_builtins(lacking)})
    else:
        if not lacking:
            stage = session.settings.stage
            out.print(f"{signed.role} has its signatures; next: hedgerow registry release --stage {stage}")
        tell_waiting(lacking, session)
    return int(ExitCode.PARTIAL if lacking else ExitCode.OK)


@click.command("log")
@click.option("--verify", is_flag=True, help="Hold every entry against the metadata and signatures of its time.")
@look_options
def log_(*, session: Session, verify: bool, as_json: bool) -> int:
    """Show what was released when, and who built and approved it. The chain of entries is always checked."""
    found = audit.verify(session) if verify else audit.Audit(tuple(audit.read(session)), ())
    if as_json:
        print_json(
            {
                "entries": msgspec.to_builtins(found.entries),
                "verified": verify,
                "wrong": [{"entry": number, "what": what} for number, what in found.wrong],
            }
        )
    else:
        columns = ("entry", "at", "what", "subject", "detail", "built by", "approved by", "note")
        print_table(f"log of stage {session.settings.stage}", columns, map(log.as_row, found.entries))
        for number, what in found.wrong:
            err.print(f"entry {number or '-'}: {what}", highlight=False, markup=False, soft_wrap=True)
        if verify and not found.wrong:
            out.print(f"{len(found.entries)} entries, each as it was signed")
    return int(PublisherError.exit_code) if found.wrong else 0


@click.command()
@look_options
def ceremony(*, session: Session, as_json: bool) -> None:
    """Show roles, keys, ends, and what waits for whose signature; then the releases."""
    found = status.status(session)
    if as_json:
        print_json(
            {
                "roles": msgspec.to_builtins(found.roles),
                "releases": [
                    {"bundle": each.reference, "kind": each.kind, "sha256": each.sha256, "from": each.origin or None}
                    for each in found.releases
                ],
            }
        )
        return
    rows = [
        (
            each.role,
            each.version,
            None if each.expires is None else f"{each.expires:%Y-%m-%d}",
            f"{each.threshold} of {len(each.keys)}",
            ", ".join(each.keys),
            None if each.waiting is None else f"{each.waiting}: {each.missing} signature(s) missing",
        )
        for each in found.roles
    ]
    print_table(
        f"stage {session.settings.stage} of fleet {session.settings.fleet}",
        ("role", "version", "ends", "threshold", "keys", "next version waits"),
        rows,
    )
    print_table(
        "releases",
        ("bundle", "kind", "manifest", "promoted from"),
        [(each.reference, each.kind, each.sha256[:12], each.origin or None) for each in found.releases],
    )
