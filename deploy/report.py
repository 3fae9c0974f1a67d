"""Turn what ``sweep.py`` heard into rows, and rows into one table or JSON document."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec

from hedgerow import explain
from hedgerow.inventory import FleetRelease, Host
from hedgerow.output import print_json, print_table


class Row(msgspec.Struct, frozen=True):
    """One host. ``problem`` says why it could not be asked; ``differs`` where it is not what the inventory says."""

    host: str
    site: str
    address: str
    board: str | None = None
    serial: str | None = None
    hat: str | None = None
    kernel: str | None = None
    temperature_c: float | None = None
    throttled: tuple[str, ...] = ()
    uptime_s: int | None = None
    models: dict[str, str] = {}
    differs: tuple[str, ...] = ()
    problem: str | None = None


def record(host: Host, release: FleetRelease, hardware: dict[str, Any], serving: dict[str, Any]) -> Row:
    """Return the row of a host that answered."""
    return Row(
        host=host.name,
        site=host.site,
        address=host.address,
        board=hardware["board"]["model"],
        serial=hardware["board"]["serial"],
        hat=hardware["hat"]["kind"],
        kernel=hardware["kernel"]["release"],
        temperature_c=hardware["thermal"]["soc_c"],
        throttled=tuple(explain.trouble(hardware)),
        uptime_s=serving["uptime_s"],
        models=serving["models"],
        differs=tuple(explain.board_differences(host, release, hardware)),
    )


def unreachable(host: Host, problem: str) -> Row:
    """Return the row of a host that could not be asked."""
    return Row(host=host.name, site=host.site, address=host.address, problem=problem)


def show(fleet: str, rows: list[Row], *, as_json: bool) -> None:
    """Print ``rows`` on standard output, in the inventory's order."""
    if as_json:
        print_json({"fleet": fleet, "hosts": [msgspec.to_builtins(row) for row in rows]})
        return
    answered = sum(row.problem is None for row in rows)
    columns = ("host", "board", "serial", "HAT", "kernel", "°C", "throttled", "up", "models", "remarks")
    print_table(f"fleet {fleet}: {answered} of {len(rows)} hosts answered", columns, map(_cells, rows))


def _cells(row: Row) -> tuple[Any, ...]:
    if row.problem is not None:
        return (row.host, *[None] * 8, row.problem)
    # The name of every board begins alike; the table needs the width.
    board = (row.board or "unknown").removeprefix("Raspberry ").replace(" Model B", "")
    return (
        row.host,
        board,
        row.serial,
        row.hat,
        row.kernel,
        row.temperature_c,
        ", ".join(row.throttled) or "no",
        None if row.uptime_s is None else timedelta(seconds=row.uptime_s),
        "\n".join(f"{name} {version}" for name, version in row.models.items()) or None,
        "\n".join(row.differs) or None,
    )
