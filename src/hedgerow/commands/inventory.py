"""``hedgerow inventory``: check and show."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from hedgerow import inventory as inventories
from hedgerow.errors import ExitCode
from hedgerow.output import err, json_option, out, print_json, print_table

inventory_option = click.option(
    "-i",
    "--inventory",
    "path",
    type=click.Path(path_type=Path),
    default=Path("inventory/emulated"),
    show_default=True,
    help="The inventory: a folder or a file, as Ansible takes it.",
)


@click.group()
def inventory() -> None:
    """Check and show an inventory."""


@inventory.command()
@inventory_option
@json_option
def check(*, path: Path, as_json: bool) -> int:
    """Say everything that is wrong with an inventory, with file and line.

    No host is touched. Exit code 0: nothing wrong; 2: see the list.
    """
    problems = inventories.check(path)
    if as_json:
        print_json({"inventory": str(path), "problems": [msgspec.to_builtins(problem) for problem in problems]})
    elif problems:
        for problem in problems:
            out.print(str(problem), markup=False, highlight=False, soft_wrap=True)
        err.print(f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in {path}", style="red")
    else:
        found = inventories.load(path)
        out.print(f"{path}: fleet {found.fleet}, {len(found.hosts)} hosts, nothing wrong", highlight=False)
    return int(ExitCode.USAGE if problems else ExitCode.OK)


@inventory.command()
@inventory_option
@click.option("-l", "--limit", help="Only hosts of this Ansible pattern, for example site_orchard:!gateways.")
@json_option
def show(*, path: Path, limit: str | None, as_json: bool) -> None:
    """Show the hosts of an inventory, and the release that they are locked to."""
    found = inventories.load(path, limit=limit)
    if as_json:
        print_json(
            {
                "fleet": found.fleet,
                "release": msgspec.to_builtins(found.release),
                "groups": found.groups,
                "hosts": [msgspec.to_builtins(host) for host in found.hosts.values()],
            }
        )
        return
    columns = ("host", "site", "part", "address", "serial", "HAT", "cooling", "storage", "labels")
    rows = [
        (
            host.name,
            host.site,
            "gateway" if host.is_gateway else "pi",
            host.address,
            host.serial,
            host.hat,
            host.cooling,
            host.storage,
            " ".join(f"{name}={value}" for name, value in host.labels.items()),
        )
        for host in found.hosts.values()
    ]
    print_table(f"fleet {found.fleet}, release {found.release.name}", columns, rows)
