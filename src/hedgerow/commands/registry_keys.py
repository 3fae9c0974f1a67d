"""``hedgerow registry``: init, refresh, add-key, delegate, rotate, revoke, renew, discard."""

from __future__ import annotations

from pathlib import Path

import click

from hedgerow.commands.inventory import inventory_option
from hedgerow.commands.registry_stages import (
    look_options,
    named_stage,
    note_option,
    passphrase_option,
    passphrases,
    stage_option,
    stage_options,
    tell,
)
from hedgerow.output import json_option, out, print_json
from hedgerow.registry import trust_names as names
from hedgerow.registry.authority import changing, founding, keys, log, releasing, settings
from hedgerow.registry.authority.changing import RoleKeys
from hedgerow.registry.authority.roles import ROOT, TARGETS
from hedgerow.registry.authority.session import Session

_threshold_option = click.option(
    "--threshold", type=click.IntRange(1), default=1, show_default=True, help="How many of the keys must sign."
)


@click.command()
@click.option("--root", "roots", multiple=True, metavar="KEY[=OWNER]", help="A key of root. Repeatable.")
@click.option(
    "--root-threshold", type=click.IntRange(1), default=1, show_default=True, help="How many of them must sign."
)
@click.option("--store", help="Where the registry lies (default: a folder of the stage); s3://… as well.")
@click.option("--unattended", is_flag=True, help="Keep the passphrases of keys made here in a file beside them (0600).")
@inventory_option
@stage_option
@passphrase_option
@json_option
def init(
    *,
    path: Path,
    stage: str | None,
    roots: tuple[str, ...],
    root_threshold: int,
    store: str | None,
    unattended: bool,
    passphrase_files: tuple[str, ...],
    as_json: bool,
) -> int:
    """Found a stage: its keys and its first metadata; does nothing where they are there.

    \b
    Examples:
      hedgerow registry init
      hedgerow registry init --stage production --root ann --root ben --root-threshold 2

    Without --root, every key is made here, a builder's and an approver's for all kinds of bundles among them. With it,
    root's keys are those (add-key has named them already, or they are made here), and delegate says who else may sign.
    """  # noqa: D301 - click's mark for a paragraph as it stands
    fleet, name = named_stage(path, stage)
    session, done = founding.found(
        settings.folder(fleet, name),
        fleet,
        name,
        passphrases=passphrases(passphrase_files),
        roots=dict(_owned(text) for text in roots),
        root_threshold=root_threshold,
        store=store,
        unattended=unattended,
    )
    if done.written and not roots and not as_json:
        out.print(f"its keys sign releases; keep a copy offline: {session.directory}", soft_wrap=True, highlight=False)
    return tell(done, session, as_json=as_json)


@click.command()
@stage_options
def refresh(*, session: Session, as_json: bool) -> int:
    """Sign anew what expires soon. Run it daily: devices refuse metadata that has expired."""
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
    stage: str | None,
    passphrase_files: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make the key NAME, or name one that a token holds. It may sign nothing before a role gets it."""
    fleet, called = named_stage(path, stage)
    folder = settings.folder(fleet, called)
    before = founding.described(folder, fleet, called)
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


def _owned(text: str) -> tuple[str, str]:
    name, _, owner = text.partition("=")
    return name, owner or log.operator()
