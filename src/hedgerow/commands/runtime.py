"""``hedgerow runtime``: the wheelhouse that devices install."""

from __future__ import annotations

import platform
from pathlib import Path

import click
import msgspec

from hedgerow import output
from hedgerow.paths import repository_root
from hedgerow.runtime import wheelhouse
from hedgerow.runtime.target import GLIBC_MINOR, OLDEST_GLIBC_MINOR, Target


@click.group()
def runtime() -> None:
    """Build the wheelhouse that devices install."""


@runtime.command()
@click.option(
    "-i",
    "--inventory",
    type=click.Path(exists=True, path_type=Path),
    help="Build what the hosts of this inventory need (default: inventory/emulated, unless --arch is given).",
)
@click.option("--python", type=click.Choice(list(GLIBC_MINOR)), help="The device's Python.")
@click.option(
    "--arch", type=click.Choice(list(OLDEST_GLIBC_MINOR)), help="The device's architecture; real boards: aarch64."
)
@output.json_option
def build(inventory: Path | None, python: str | None, arch: str | None, *, as_json: bool) -> None:
    """Download, verify and pack all wheels of the device lock, and Hedgerow's own.

    Cached by content: an unchanged tree builds nothing. `playbooks/site.yml`
    builds what it lacks by itself; this shows it beforehand.
    """
    targets = _targets(inventory, python, arch)
    built = []
    for target in targets:
        if not as_json:
            output.step(f"runtime {wheelhouse.describe(target)[0]} for {target.name}")
        built.append(wheelhouse.build(target))
    if as_json:
        output.print_json(
            {
                "changed": any(fresh for _, fresh in built),
                "wheelhouses": [msgspec.to_builtins(house) | {"built": fresh} for house, fresh in built],
            }
        )
        return
    output.print_table(
        None,
        ["version", "python", "architecture", "wheels", "MiB", ""],
        [_row(house, fresh=fresh) for house, fresh in built],
    )


def _row(house: wheelhouse.Wheelhouse, *, fresh: bool) -> list[object]:
    size = f"{house.size / 2**20:.1f}"
    return [house.version, house.python, house.architecture, house.wheels, size, "built" if fresh else "cached"]


def _targets(inventory: Path | None, python: str | None, arch: str | None) -> list[Target]:
    """What was asked for; else what the inventory's Pis run. Containers share this machine's architecture."""
    if python is not None and arch is not None:
        return [Target(python, arch)]
    from hedgerow.inventory import load

    fleet = load(inventory or repository_root() / "inventory" / "emulated")
    hosts = [host for host in fleet.hosts.values() if "pis" in host.groups]
    return [
        Target(python or fleet.release.runtime.python, architecture)
        for architecture in sorted(
            {arch or host.architecture or platform.machine() for host in hosts} or {arch or "aarch64"}
        )
    ]
