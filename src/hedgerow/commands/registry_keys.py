"""``hedgerow registry``: init --stage, add-key, delegate, rotate, revoke, renew."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import click

from hedgerow import atomic
from hedgerow import inventory as inventories
from hedgerow.commands.inventory import inventory_option
from hedgerow.commands.registry_stages import (
    Command,
    look_options,
    note_option,
    open_stage,
    passphrase_option,
    passphrases,
    stage_option,
    stage_options,
    tell,
)
from hedgerow.errors import UsageError
from hedgerow.output import json_option, out, print_json
from hedgerow.registry import trust_names as names
from hedgerow.registry.authority import changing, keys, log, releasing, settings
from hedgerow.registry.authority.changing import RoleKeys
from hedgerow.registry.authority.roles import ONLINE, ROOT, TARGETS
from hedgerow.registry.authority.session import Session
from hedgerow.registry.authority.settings import Settings

_ONLINE_PASSPHRASE = "online.passphrase"  # noqa: S105 - a file's name
_threshold_option = click.option(
    "--threshold", type=click.IntRange(1), default=1, show_default=True, help="How many of the keys must sign."
)


def init_options(command: Command) -> Command:
    """What ``init --stage`` takes beside what ``init`` takes."""
    for option in (
        click.option("--stage", help="Found a stage (dev, stage, production …) with builders and approvers apart."),
        click.option("--root", "roots", multiple=True, metavar="KEY[=OWNER]", help="A key of root. Repeatable."),
        click.option(
            "--root-threshold", type=click.IntRange(1), default=1, show_default=True, help="How many of them must sign."
        ),
        click.option("--store", help="Where the registry lies (default: a folder of the stage); s3://… as well."),
        passphrase_option,
    ):
        command = option(command)
    return command


def init_stage(
    fleet: str,
    stage: str,
    *,
    roots: tuple[str, ...],
    root_threshold: int,
    store: str | None,
    passphrase_files: tuple[str, ...],
    as_json: bool,
) -> int:
    """Make a stage's keys and first metadata; keys that ``add-key`` has named already are taken as they are."""
    folder = settings.folder(fleet, stage)
    chosen = dict(_owned(text) for text in roots or (ROOT,))
    found = _settings(folder, fleet, stage, store)
    secret = passphrases(passphrase_files)
    for name, owner in (chosen | {TARGETS: log.operator()}).items():
        if name not in found.keys:
            found = settings.add_key(found, name, keys.generate(folder, name, owner, secret.of(name)))
    for name in ONLINE:
        if name not in found.keys:
            found = settings.add_key(found, name, _online_key(folder, name))
    settings.save(folder, found)
    session = Session.open(folder, passphrases=secret)
    top = {role: RoleKeys((role,)) for role in (TARGETS, *ONLINE)}
    done = changing.found(session, {**top, ROOT: RoleKeys(tuple(chosen), root_threshold)})
    return tell(done, session, as_json=as_json)


def refresh_stage(path: Path, stage: str, *, passphrase_files: tuple[str, ...], as_json: bool) -> int:
    """Renew what a stage's online roles sign."""
    session = open_stage(path, stage, passphrase_files=passphrase_files)
    return tell(releasing.refresh(session), session, as_json=as_json, concerns=())


@click.command("add-key")
@click.argument("name")
@click.option("--owner", default=log.operator, show_default="you", help="Who answers for it.")
@click.option("--uri", metavar="hsm:ID?label=TOKEN", help="A key on a PKCS#11 token (default: make one in a file).")
@click.option("--pkcs11-module", metavar="FILE", help="The token's library; kept in authority.yml.")
@inventory_option
@stage_option
@passphrase_option
@json_option
def add_key(
    *,
    name: str,
    owner: str,
    uri: str | None,
    pkcs11_module: str | None,
    path: Path,
    stage: str,
    passphrase_files: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make the key NAME, or name one that a token holds. It may sign nothing before a role gets it."""
    fleet = inventories.load(path).fleet
    folder = settings.folder(fleet, stage)
    before = _settings(folder, fleet, stage, None)
    module = pkcs11_module or before.pkcs11_module
    secret = passphrases(passphrase_files)
    if uri is None:
        entry = keys.generate(folder, name, owner, secret.of(name))
    else:
        entry = keys.from_token(uri, owner, lambda: secret.of(name), pkcs11_module=module)
    after = settings.add_key(before, name, entry)
    if module != before.pkcs11_module:
        after = settings.with_module(after, module)
    if after != before:
        settings.save(folder, after)
    entry = after.keys[name]
    if as_json:
        print_json({"changed": after != before, "name": name, "keyid": entry.keyid, "uri": entry.uri})
    else:
        out.print(f"{name}: {entry.keyid[:12]}, owned by {entry.owner}, {entry.uri}", soft_wrap=True)


@click.command()
@click.argument("purpose", type=click.Choice(list(names.PURPOSES)))
@click.argument("kind", type=click.Choice(list(names.KINDS)))
@click.option("--bundle", help="For this bundle alone (default: every bundle of the kind).")
@click.option("--by", "wanted", multiple=True, required=True, metavar="KEY", help="Who may. Repeatable.")
@_threshold_option
@stage_options
def delegate(
    *,
    session: Session,
    purpose: names.Purpose,
    kind: str,
    bundle: str | None,
    wanted: tuple[str, ...],
    threshold: int,
    as_json: bool,
) -> int:
    """Let keys build or approve a KIND of bundles, or one bundle. A release needs both, and no key may do both."""
    role = names.role(purpose, kind, bundle)
    done = changing.delegate(session, role, RoleKeys(wanted, threshold))
    return tell(done, session, as_json=as_json, concerns=(ROOT, TARGETS, role))


@click.command()
@click.argument("role")
@click.option("--to", "wanted", multiple=True, required=True, metavar="KEY", help="The role's keys from now on.")
@_threshold_option
@note_option
@stage_options
def rotate(*, session: Session, role: str, wanted: tuple[str, ...], threshold: int, note: str, as_json: bool) -> int:
    """Give ROLE (root, targets, snapshot, timestamp, build-KIND, approve-KIND-BUNDLE …) other keys."""
    done = changing.rotate(session, role, RoleKeys(wanted, threshold), note=note)
    return tell(done, session, as_json=as_json, concerns=(ROOT, TARGETS, role))


@click.command()
@click.argument("key")
@click.option("--replace-with", "replacement", metavar="KEY", help="Give its roles this key instead.")
@click.option("--wait", is_flag=True, help="Publish only when every role concerned is signed by the keys that remain.")
@note_option
@stage_options
def revoke(*, session: Session, key: str, replacement: str | None, wait: bool, note: str, as_json: bool) -> int:
    """Take KEY out of every role, now. What it alone had signed is no longer accepted."""
    done = changing.revoke(session, key, replacement=replacement, note=note, at_once=not wait)
    return tell(done, session, as_json=as_json)


@click.command()
@click.argument("roles", nargs=-1, required=True)
@stage_options
def renew(*, session: Session, roles: tuple[str, ...], as_json: bool) -> int:
    """Sign ROLES anew before they end: root and targets in their yearly ceremony, delegations that were long silent."""
    return tell(changing.renew(session, roles), session, as_json=as_json, concerns=roles)


@click.command()
@click.argument("role")
@look_options
def discard(*, session: Session, role: str, as_json: bool) -> None:
    """Drop the next version of ROLE that waits for signatures; what is published stays."""
    changed = changing.discard(session, role)
    if as_json:
        print_json({"changed": changed, "role": role})
    else:
        out.print(f"dropped what waited in {role}" if changed else f"nothing waits in {role}")


def _settings(folder: Path, fleet: str, stage: str, store: str | None) -> Settings:
    if (folder / settings.FILE_NAME).exists():
        found = settings.load(folder)
        if store is not None and store != found.store:
            raise UsageError(f"this stage's registry lies in {found.store}", where=str(folder / settings.FILE_NAME))
        return found
    return settings.new(fleet, stage, store)


def _owned(text: str) -> tuple[str, str]:
    name, _, owner = text.partition("=")
    return name, owner or log.operator()


def _online_key(folder: Path, name: str) -> Any:
    """A key that signs unattended: its passphrase lies beside ``keys/``, a copy of which alone is worth nothing."""
    file = folder / _ONLINE_PASSPHRASE
    if not file.exists():
        atomic.write_text(file, secrets.token_urlsafe(32) + "\n", mode=0o600)
    return keys.generate_online(folder, name, keys.read_passphrase(file), _ONLINE_PASSPHRASE)
