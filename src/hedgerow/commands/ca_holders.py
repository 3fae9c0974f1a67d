"""``hedgerow ca holders`` and ``settle``: which key each board was seen with, and what to do about two with one."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import click
import msgspec

from hedgerow import inventory as inventories
from hedgerow import paths
from hedgerow.commands.inventory import inventory_option
from hedgerow.errors import UsageError
from hedgerow.identity.holders import Holders, Seen
from hedgerow.output import json_option, out, print_json, print_table
from hedgerow.rollout import lease

_SERIAL = re.compile(r"[0-9a-f]{16}")


@click.command("holders")
@inventory_option
@json_option
def holders(*, path: Path, as_json: bool) -> None:
    """List which key each board was seen with, and what was refused because of it; newest last."""
    lines = _history(path).lines()
    if as_json:
        print_json([msgspec.to_builtins(line) for line in lines])
        return
    rows = []
    for line in lines:
        fields = msgspec.to_builtins(line)
        said = f"key {line.key_sha256[:16]}" if isinstance(line, Seen) else fields.get("what") or fields.get("reason")
        rows.append((line.time, line.host, line.serial, fields["event"], said or ""))
    print_table("Keys that boards were seen with", ("time", "host", "serial", "event", "what"), rows)


@click.command("settle")
@click.argument("holder")
@inventory_option
@click.option("--reason", required=True, help="What you found out; it stays in the history.")
@json_option
def settle(*, holder: str, path: Path, reason: str, as_json: bool) -> None:
    """Begin the history of HOLDER anew: a host of the inventory, or a board's serial.

    After two boards showed one serial, or a board another key of its own. Look at both first: whichever is visited next
    is taken for the right one.
    """
    fleet = inventories.load(path)
    host = fleet.hosts.get(holder)
    if host is None and _SERIAL.fullmatch(holder) is None:
        raise UsageError(
            f"no board of this fleet is called {holder}",
            where=str(path),
            next_step="name a host, or a board's serial (16 hex digits): hedgerow ca holders",
        )
    serial = holder if host is None else host.serial
    known = [each.name for each in fleet.hosts.values() if each.serial == serial]
    _history(path).settle(
        known[0] if known else holder, serial, reason=reason, by=lease.whoami(), now=dt.datetime.now(dt.UTC)
    )
    if as_json:
        print_json({"changed": True, "serial": serial})
    else:
        out.print(f"{serial}: what was seen before counts no more", highlight=False)


def _history(path: Path) -> Holders:
    folder = paths.fleet_dir(inventories.load(path).fleet) / "ca"
    if not folder.is_dir():
        raise UsageError("the fleet has no CA yet", where=str(folder), next_step="hedgerow ca init -i INVENTORY")
    return Holders(folder)
