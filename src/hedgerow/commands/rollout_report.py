"""``hedgerow rollout report``: what a rollout did on every host, as a table, JSON, a page, or signed evidence."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from securesystemslib.signer import Key

from hedgerow import atomic
from hedgerow import inventory as inventories
from hedgerow.commands.inventory import inventory_option
from hedgerow.errors import ExitCode
from hedgerow.output import json_option, out, print_json, print_table
from hedgerow.rollout import evidence, evidence_seal, html, report, store
from hedgerow.rollout.journal import Journal

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(name="report")
@click.argument("rollout_id", metavar="ID", required=False)
@inventory_option
@click.option("--html", "page", type=_FILE, help="Write one self-contained page there.")
@click.option("--evidence", "archive", type=_FILE, help="Write everything, signed, into this tar.")
@click.option("--verify", type=_FILE, help="Say whether this archive of evidence is as it was signed.")
@click.option("--key", type=_FILE, help="Public key to verify with; without it the fleet's own.")
@json_option
def show_report(
    *,
    rollout_id: str | None,
    path: Path,
    page: Path | None,
    archive: Path | None,
    verify: Path | None,
    key: Path | None,
    as_json: bool,
) -> int:
    """Show what a rollout (the newest, or ID) did on every host, and why.

    --verify: exit code 1 where the archive was changed, 3 where its signature is not the key's.
    """
    if verify is not None:
        trusted = evidence_seal.read_key(key) if key else evidence_seal.public_key(inventories.load(path).fleet)
        return _verify(verify, trusted, as_json=as_json)
    rollouts = store.folder(inventories.load(path).fleet)
    rollout_id, state = store.read(rollouts, rollout_id)
    folder = rollouts / rollout_id
    if page is not None:
        atomic.write_text(page, html.render(rollout_id, Journal(folder).events()))
    if archive is not None:
        evidence.collect(folder, archive)
    if as_json:
        print_json(report.document(rollout_id, state))
        return ExitCode.OK
    for written in (page, archive):
        if written is not None:
            out.print(f"wrote {written}", markup=False, highlight=False, soft_wrap=True)
    if page is None and archive is None:
        title = (
            f"{state.plan.release.bundle}: {state.phase} (rollout {rollout_id}, by {state.by}, since {state.opened_at})"
        )
        print_table(title, report.COLUMNS, report.rows(state))
    return ExitCode.OK


def _verify(archive: Path, key: Key, *, as_json: bool) -> int:
    statement, problems = evidence.verify(archive, key)
    told, bundle = statement["predicate"], statement["subject"][0]
    if as_json:
        found = {"rollout": told["rollout"], "phase": told["phase"], "bundle": bundle, "key": key.keyid}
        print_json(found | {"entries": len(told["entries"]), "problems": msgspec.to_builtins(problems)})
    elif problems:
        print_table(
            f"{archive} is not as it was signed", ("entry", "it"), [(each.where, each.what) for each in problems]
        )
    else:
        text = f"{told['rollout']} ({bundle['name']}, {told['phase']}): {len(told['entries'])} entries as signed"
        out.print(f"{text} by key {key.keyid[:16]}", markup=False, highlight=False, soft_wrap=True)
    return ExitCode.FAILED if problems else ExitCode.OK
