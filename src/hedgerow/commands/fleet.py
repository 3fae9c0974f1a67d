"""``hedgerow fleet``: a table of all Pis, and a question to each."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from hedgerow import inventory as inventories
from hedgerow.commands.inventory import inventory_option
from hedgerow.errors import ExitCode, UsageError
from hedgerow.fleet import access
from hedgerow.fleet import ask as asking
from hedgerow.fleet import table as tables
from hedgerow.fleet.endpoint import Endpoint
from hedgerow.identity.profiles import Profile
from hedgerow.inventory.model import Inventory
from hedgerow.output import err, json_option, out, print_json, print_table

limit_option = click.option("-l", "--limit", help="Only hosts of this Ansible pattern, for example pi-orchard-1.")


@click.group()
def fleet() -> None:
    """Tables and questions over the whole fleet."""


@fleet.command()
@inventory_option
@limit_option
@json_option
def table(*, path: Path, limit: str | None, as_json: bool) -> int:
    """Show every Pi: what it serves, how fast, how warm, how well.

    Speeds are what each server measured in its last window; a dash means that
    it had nothing to measure. Exit code 1: a host is not ok, or not reachable.
    """
    found = inventories.load(path, limit=limit)
    rows = tables.collect(_endpoints(found), access.context(found.fleet, Profile.MONITOR))
    if as_json:
        print_json([msgspec.to_builtins(row) for row in rows])
    else:
        now = datetime.now(UTC)
        print_table(f"fleet {found.fleet}", tables.COLUMNS, [tables.cells(row, now) for row in rows])
    return int(ExitCode.OK if all(row.ok for row in rows) else ExitCode.FAILED)


@fleet.command()
@click.argument("question")
@inventory_option
@limit_option
@click.option("--max-tokens", type=click.IntRange(1, 4096), default=64, show_default=True, help="Longest answer.")
@json_option
def ask(*, question: str, path: Path, limit: str | None, max_tokens: int, as_json: bool) -> int:
    """Ask every Pi a QUESTION and print the answers as they come, host by host.

    Each connection is mutual TLS with a certificate of profile client. Exit
    code 1: a host gave no answer.
    """
    found = inventories.load(path, limit=limit)
    context = access.context(found.fleet, Profile.CLIENT)
    answers = []
    for endpoint in _endpoints(found):
        # One after the other: streams that run into each other cannot be read, and hosts share nothing to wait for.
        if not as_json:
            out.print(f"[bold]{endpoint.host}[/bold] ", end="", highlight=False)
        answer = asking.ask(
            endpoint,
            context,
            model=str(found.vars.get("serving_model", "")),
            question=question,
            max_tokens=max_tokens,
            on_text=_silent if as_json else _spoken,
        )
        answers.append(answer)
        if not as_json:
            _remark(answer)
    if as_json:
        print_json([msgspec.to_builtins(answer) for answer in answers])
    return int(ExitCode.OK if all(answer.ok for answer in answers) else ExitCode.FAILED)


def _endpoints(found: Inventory) -> list[Endpoint]:
    if not found.pis:
        raise UsageError("no host of the group pis is meant", where=str(found.path), next_step="leave --limit out")
    return [access.endpoint(host.name, host.address, site=host.site, fleet=found.fleet) for host in found.pis]


def _spoken(text: str) -> None:
    click.echo(text, nl=False)


def _silent(_text: str) -> None:
    """With ``--json`` the answers are printed together, at the end."""


def _remark(answer: asking.Answer) -> None:
    click.echo()
    if answer.problem is not None:
        err.print(f"  [red]{answer.host}: {answer.problem}[/red]", highlight=False)
        return
    speed = "" if answer.tokens_per_s is None else f", {answer.tokens_per_s:.1f} tokens/s"
    out.print(f"  [dim]{answer.tokens} tokens, the first after {answer.ttft_ms:.0f} ms{speed}[/dim]", highlight=False)
