"""``hedgerow audit``: show, verify, head, collect, export, note."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from hedgerow import audit as auditing
from hedgerow import inventory as inventories
from hedgerow import paths
from hedgerow.audit import sealing
from hedgerow.audit.events import Noted, NoteKind
from hedgerow.audit.log import timestamp
from hedgerow.audit.rows import Row, rows, some
from hedgerow.chainlog import ChainError, Head
from hedgerow.commands.inventory import inventory_option
from hedgerow.errors import ExitCode, UsageError
from hedgerow.output import err, json_option, out, print_json, print_table
from hedgerow.rollout import lease

remote_option = click.option("--remote", is_flag=True, help="Ask registries behind an address (S3) as well.")


@click.group()
def audit() -> None:
    """Who did what when: playbook runs, approvals, signings, activations, in one tamper-evident log."""


@audit.command()
@inventory_option
@click.option("--last", type=click.IntRange(1), default=50, show_default=True, help="How many lines, newest last.")
@click.option("--grep", "wanted", help="Only lines that say this of who, what or whom; letters' case does not count.")
@json_option
def show(*, path: Path, last: int, wanted: str | None, as_json: bool) -> None:
    """Show what was done, after collecting what is new."""
    folder = _fleet_dir(path)
    _collect(folder)
    found = [row for entry in auditing.of_fleet(folder).entries() for row in rows(entry.number, entry.value)]
    found = [row for row in found if wanted is None or wanted.lower() in _text(row)][-last:]
    if as_json:
        print_json([row._asdict() for row in found])
        return
    table = [(row.entry, row.at[:19].replace("T", " "), row.by or None, row.what, some(row.about)) for row in found]
    print_table(None, ("entry", "when (UTC)", "who", "what", "about"), table)


@audit.command()
@inventory_option
@click.option(
    "--head", "published", multiple=True, metavar="NUMBER:SHA256", help="A head that you kept elsewhere. Repeatable."
)
@remote_option
@json_option
def verify(*, path: Path, published: tuple[str, ...], remote: bool, as_json: bool) -> int:
    """Check every line of the log, its anchor, and each log that it has sealed.

    Exit code 1: something was changed, cut off or taken away; the list says what. Only a head that was kept elsewhere
    (hedgerow audit head) shows a log that somebody with access to this machine has written anew.
    """
    folder = _fleet_dir(path)
    log = auditing.of_fleet(folder)
    verdict = log.verify(*(_head(text) for text in published))
    problems = [f"{log.path}:{each.line}: {each.what}" for each in verdict.problems]
    recorded = []
    if not problems:
        problems += [
            f"{each.source}: {each.what} since it was sealed" for each in auditing.unsealed(folder, remote=remote)
        ]
        recorded = [f"{each.at[:19]} {each.source}: {each.what}" for each in sealing.disturbed(folder)]
    code = ExitCode.FAILED if problems else ExitCode.OK
    if as_json:
        print_json({**msgspec.to_builtins(verdict), "head": str(verdict.head), "problems": problems,
                    "recorded": recorded, "holds": not problems})  # fmt: skip
        return int(code)
    for text in problems:
        _say(text)
    for text in recorded:
        _say(f"recorded before: {text}")
    _say(
        f"{verdict.entries} entries, {'the chain holds' if not problems else f'{len(problems)} problems'}"
        + (f"; {verdict.torn} torn lines (never done)" if verdict.torn else "")
        + (f"; {verdict.unfinished_bytes} bytes unfinished at the end" if verdict.unfinished_bytes else "")
    )
    _say(f"head {verdict.head}")
    return int(code)


@audit.command()
@inventory_option
@json_option
def head(*, path: Path, as_json: bool) -> None:
    """Print the log's end, NUMBER:SHA256, to keep where nobody of this machine can write.

    Collects first. Later: hedgerow audit verify --head NUMBER:SHA256
    """
    folder = _fleet_dir(path)
    _collect(folder)
    found = auditing.of_fleet(folder).check().head
    if as_json:
        print_json({"entries": found.entries, "sha256": found.sha256, "head": str(found)})
    else:
        click.echo(str(found))


@audit.command()
@inventory_option
@remote_option
@json_option
def collect(*, path: Path, remote: bool, as_json: bool) -> None:
    """Bring what other logs say into the audit log. Signing commands and playbook runs do it by themselves."""
    found = sealing.collect(_fleet_dir(path), by=lease.whoami(), remote=remote)
    if as_json:
        print_json({"changed": bool(found), "events": msgspec.to_builtins(found)})
    else:
        _say(f"{len(found)} logs had news" if found else "nothing new")


@audit.command()
@inventory_option
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The copy.")
@json_option
def export(*, path: Path, output: Path, as_json: bool) -> None:
    """Copy the log byte for byte, after checking it; for an archive, or a system that keeps logs.

    The copy's last line has the hash that `hedgerow audit head` printed; sha256sum checks each line (docs/audit.md).
    """
    from hedgerow import atomic

    folder = _fleet_dir(path)
    _collect(folder)
    log = auditing.of_fleet(folder)
    found = log.check().head
    data = log.path.read_bytes() if log.path.exists() else b""
    atomic.write_bytes(output, data[: data.rfind(b"\n") + 1], mode=0o600)
    if as_json:
        print_json({"written_to": output, "head": str(found)})
    else:
        _say(f"{found.entries} entries: {output}")


@audit.command()
@click.argument("text")
@click.option(
    "--kind", type=click.Choice(["note", "break-glass"]), default="note", show_default=True, help="What it is about."
)
@inventory_option
@json_option
def note(*, text: str, kind: NoteKind, path: Path, as_json: bool) -> None:
    """Write TEXT down in your name: why a seal was broken, what was done by hand."""
    if not text.strip():
        raise UsageError("a note says something", next_step='hedgerow audit note "TEXT"')
    found = auditing.record(_fleet_dir(path), Noted(at=timestamp(), by=lease.whoami(), kind=kind, text=text))
    if as_json:
        print_json({"changed": True, "head": str(found)})
    else:
        _say(f"noted as entry {found.entries}")


def _fleet_dir(path: Path) -> Path:
    return paths.fleet_dir(inventories.load(path).fleet)


def _collect(folder: Path) -> None:
    """Collect; a log that cannot be written to is still shown."""
    try:
        sealing.collect(folder, by=lease.whoami())
    except ChainError:
        raise
    except Exception as error:  # noqa: BLE001 - reading goes on, whatever keeps from writing
        err.print(f"not collected: {error}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def _head(text: str) -> Head:
    try:
        return Head.parse(text)
    except ValueError as error:
        raise UsageError(str(error), where="--head", next_step="hedgerow audit head prints one") from error


def _text(row: Row) -> str:
    return f"{row.by} {row.what} {' '.join(row.about)}".lower()


def _say(text: Any) -> None:
    out.print(str(text), markup=False, highlight=False, soft_wrap=True)
