"""``hedgerow rollout status|watch``: how far a rollout has come, once or as it goes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hedgerow import inventory as inventories
from hedgerow.commands.inventory import inventory_option
from hedgerow.inventory.model import Inventory
from hedgerow.output import json_option, out, print_json
from hedgerow.rollout import holds, lease, report, store
from hedgerow.rollout.events import GOOD, Event, State
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.plan import HOLD_LABEL

REFRESH_S = 0.5
SHOWN = 24
"""Rows of the live table: those that are in their turn or in trouble come first."""


@click.command()
@inventory_option
@json_option
def status(*, path: Path, as_json: bool) -> None:
    """Say who is rolling out, how far the newest rollout has come, what it waits for, and who is held."""
    found = inventories.load(path)
    rollouts = store.folder(found.fleet)
    holder = lease.read(rollouts)
    held = holds.standing(holds.read(rollouts), datetime.now(UTC))
    if not store.ids(rollouts):
        if as_json:
            print_json({"id": None, "phase": None, "lease": None, "kept_out": msgspec.to_builtins(held)})
        else:
            _say("this fleet had no rollout yet\n  next: hedgerow rollout start NAME@VERSION")
            _say_held(found, held)
        return
    rollout_id, state = store.read(rollouts)
    if as_json:
        holding = None if holder is None else msgspec.to_builtins(holder)
        print_json(report.document(rollout_id, state) | {"lease": holding, "kept_out": msgspec.to_builtins(held)})
        return
    running = "nobody is rolling out" if holder is None else f"{holder.by} is rolling out (process {holder.pid})"
    for line in [f"{rollout_id}: {running}", *report.summary(state, running=holder is not None)]:
        _say(line)
    _say_held(found, held)


@click.command()
@inventory_option
@click.option("--from-start", is_flag=True, help="Print what has happened so far as well (where there is no terminal).")
def watch(*, path: Path, from_start: bool) -> None:
    """Follow the newest rollout until it ends: a live table on a terminal, a line an event elsewhere."""
    rollouts = store.folder(inventories.load(path).fleet)
    rollout_id, _ = store.read(rollouts)
    journal = Journal(rollouts / rollout_id)
    if out.is_terminal:
        with Live(console=out, refresh_per_second=4) as live:
            for _ in _follow(journal, rollouts):
                live.update(_picture(rollout_id, journal.read()))
    else:
        for number, events in enumerate(_follow(journal, rollouts)):
            for event in events if number or from_start else []:
                _say(f"{event.at} {report.line(event)}")
    for line in report.summary(journal.read()):
        _say(line)


def _follow(journal: Journal, rollouts: Path) -> Iterator[list[Event]]:
    """New events again and again, until nobody rolls out; the first list is everything so far."""
    while True:
        # Who holds the lease is asked first: what the last holder wrote is then in the next reading.
        holder = lease.read(rollouts)
        yield journal.advance()
        if holder is None or holder.rollout != journal.folder.name:
            return
        time.sleep(REFRESH_S)


def _picture(rollout_id: str, state: State) -> Group:
    counts = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in sorted(state.count().items()))
    head = f"{rollout_id}  wave {state.wave} of {len(state.plan.waves)}  {counts}"
    note = state.stopped or (state.waiting[1] if state.waiting is not None else "")
    table = Table(header_style="bold")
    for column in ("wave", "host", "state", "before", "why"):
        table.add_column(column, overflow="fold")
    rows = [(number, name, state.hosts[name]) for number, wave in enumerate(state.plan.waves, start=1) for name in wave]
    rows.sort(key=lambda row: (row[1] not in state.turns, row[2].outcome is None or row[2].outcome in GOOD))
    for number, name, host in rows[:SHOWN]:
        table.add_row(str(number), name, report.outcome(host), host.before or "-", host.reason)
    more = f"and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return Group(Text(head), Text(note, style="bold yellow"), table, Text(more))


def _say_held(found: Inventory, held: Mapping[str, holds.Standing]) -> None:
    labels = {each.name: each.vars.get("labels", {}).get(HOLD_LABEL) for each in found.pis}
    for line in holds.lines(held, {host: label for host, label in labels.items() if label is not None}):
        _say(line)


def _say(text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)
