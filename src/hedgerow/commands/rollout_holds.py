"""``hedgerow rollout hold|release``: leave a host out of rollouts for a while, and take it in again."""

from __future__ import annotations

from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path

import click

from hedgerow import inventory as inventories
from hedgerow.commands.inventory import inventory_option
from hedgerow.errors import UsageError
from hedgerow.inventory.model import Inventory
from hedgerow.output import out
from hedgerow.rollout import holds, lease, store
from hedgerow.rollout.events import State
from hedgerow.rollout.plan import HOLD_LABEL


class Moment(click.ParamType[datetime]):
    """A time with its offset, as RFC 3339 has it."""

    name = "RFC3339"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """``value`` as an aware datetime."""
        if isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is no time; write it like 2026-12-24T18:00:00+01:00", param, ctx)
        if moment.tzinfo is None:
            self.fail(f"{value!r} has no offset; write it like {value}Z or {value}+01:00", param, ctx)
        return moment


@click.command()
@click.argument("host")
@inventory_option
@click.option("--reason", required=True, help="Why; shown in every plan that leaves the host out.")
@click.option("--until", type=Moment(), help="When that ends by itself; without it when the host is released.")
def hold(*, host: str, path: Path, reason: str, until: datetime | None) -> None:
    """Leave HOST out of rollouts.

    A rollout that runs does not start it either; where its turn has begun, it comes to its end.
    """
    found = inventories.load(path)
    _require_known(found, host, path)
    now = datetime.now(UTC)
    if until is not None and until <= now:
        raise UsageError(
            f"--until {until.isoformat()} is over", where=host, next_step="name a time to come, or leave --until out"
        )
    rollouts = store.folder(found.fleet)
    entry = holds.hold(rollouts, host, reason, by=lease.whoami(), now=now, until=until)
    end = f"until {entry.until}" if entry.until is not None else f"until: hedgerow rollout release {host}"
    _say(f"{host}: rollouts leave it out, {end}")
    if store.ids(rollouts):
        _tell_of_turn(*store.read(rollouts), host, running=lease.read(rollouts) is not None)


@click.command()
@click.argument("host")
@inventory_option
@click.option("--reason", default="", help="Why; recorded.")
def release(*, host: str, path: Path, reason: str) -> None:
    """Take HOST in again: end its hold and its quarantine."""
    found = inventories.load(path)
    label = next((each.vars.get("labels", {}).get(HOLD_LABEL) for each in found.pis if each.name == host), None)
    ended = holds.release(store.folder(found.fleet), host, by=lease.whoami(), now=datetime.now(UTC), reason=reason)
    if ended is None and label is None:
        _require_known(found, host, path)
        raise UsageError(f"{host} is not held", where=found.fleet, next_step="who is: hedgerow rollout status")
    if ended is not None:
        what = [f"hold ({ended.hold.reason})"] if ended.hold is not None else []
        what += [f"quarantine ({ended.quarantine.reason})"] if ended.quarantine is not None else []
        _say(f"{host}: released from its {' and its '.join(what)}")
    if label is not None:
        raise UsageError(
            f"the inventory holds {host}: {label}",
            where=f"label {HOLD_LABEL} of {host}",
            next_step="take the label out of its host_vars",
        )
    _say("next: the same hedgerow rollout start again reaches it")


def _tell_of_turn(rollout_id: str, state: State, host: str, *, running: bool) -> None:
    if host not in state.turns:
        return
    if running:
        _say(f"  {rollout_id} has it in its turn, which comes to its end")
    else:
        _say(f"  {rollout_id} was cut off in its turn, and does not go on without it")
        _say(f"  next: hedgerow rollout release {host}, then hedgerow rollout resume")


def _require_known(found: Inventory, host: str, path: Path) -> None:
    names = [each.name for each in found.pis]
    if host not in names:
        near = get_close_matches(host, names, n=3)
        raise UsageError(
            f"the inventory has no host {host}",
            where=str(path),
            next_step=f"perhaps {', '.join(near)}" if near else "look at it: ansible-inventory --graph pis",
        )


def _say(text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)
